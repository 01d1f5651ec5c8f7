"""The data collection: images with what a clinician stated about them, stored whole or not at all.

    collection = Collection("data/collection")
    images = (prepare(Path("slice.png").read_bytes()),)
    agreed = consent("en", "Radiology, St Anna, ct@st-anna.example")
    receipt = collection.add(Contribution(images, agreed, covid=True))
    collection.withdraw(receipt.text)

Only what is added here is ever stored; nothing that is uploaded for a diagnosis comes here. The images are files
named by their content (`files.py`), the records rows of a database (`records.py`). A contribution's files are on
the disk before the one transaction that makes its record, so that a kill, a full disk or a locked database at any
moment leaves a whole contribution or none.
"""

import logging
import secrets
import sqlite3
import threading
import unicodedata
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from ladnn_tf.labels import COVID, LESIONS
from serving.collection import records
from serving.collection.contribution import (
    CollectionError,
    Contribution,
    Receipt,
    UncertainError,
    UnknownContributionError,
    Withdrawal,
)
from serving.collection.files import CollectionFolder, keyed_hash
from serving.collection.receipts import new_receipt, receipt_sha256
from serving.collection.tables import CONTRIBUTIONS, cause, database_url, empty_log, open_engine

logger = logging.getLogger("ladnn_tf.serving")


def _no_step(_step: str) -> None:
    pass


class Collection:
    """A data collection, used by one process at a time, by any number of its threads; a context manager.

    What a killed process left unfinished is cleared away first.

    Args:
        folder: the data folder; made where it is not there, readable by its owner alone.
        url: of another database than the SQLite file in the folder, as SQLAlchemy has it; a database belongs to
            one folder.
        on_step: called before each step of `add` and `withdraw` with its name (note, file, record, commit,
            settle); the tests end the process there.

    Raises:
        ValueError: if another process uses the folder, it is one of something else, it and the database do not
            belong together, or the database's address or driver is unknown.
        OSError: if the folder cannot be made or written, or the database cannot be used.
    """

    def __init__(
        self, folder: str | Path, url: str | None = None, *, on_step: Callable[[str], None] = _no_step
    ) -> None:
        self._step = on_step
        self._changing = threading.Lock()  # an image that one contribution gives up another may be adding
        self._files = CollectionFolder(folder)
        try:
            self._engine = open_engine(database_url(self._files.folder, url))
        except BaseException:
            self._files.close()
            raise
        try:
            has_images = self._files.has_images()
            records.set_up(self._engine, self._files.folder, self._files.key, _now(), has_images=has_images)
            for contribution, images in self._files.noted().items():
                self._settle(contribution, images)
        except BaseException as error:
            self.close()
            if isinstance(error, sa.exc.SQLAlchemyError):
                raise CollectionError(f"the data collection's database cannot be used: {cause(error)}") from error
            raise

    def __enter__(self) -> "Collection":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the work, that of other threads once it is done; another process may then use the folder."""
        with self._changing:
            self._engine.dispose()
            self._files.close()

    def add(self, contribution: Contribution) -> Receipt:
        """Stores a contribution, wholly and on the disk.

        Raises:
            CollectionError: if it cannot be stored; nothing of it is then.
            UncertainError: if the database was lost in the commit and after it.
        """
        identity, created = secrets.token_hex(8), _now()
        receipt = new_receipt()
        known = {"id": identity, "receipt_sha256": receipt_sha256(receipt), "created": created}
        row = self._row(contribution) | known
        images = {image.sha256: image for image in contribution.images}
        committing = False
        with self._changing:
            try:
                self._step("note")
                self._files.note(identity, list(images))
                for image in images.values():
                    self._step("file")
                    self._files.write_image(image.sha256, image.png)
                with self._engine.begin() as connection:
                    self._step("record")
                    records.insert(connection, row, list(images.values()))
                    self._step("commit")
                    committing = True
            except (sa.exc.SQLAlchemyError, OSError) as error:
                raise self._taken_back(identity, list(images), committing, cause(error)) from error
            self._step("settle")
            self._settle_or_later(identity, list(images))
        return Receipt(receipt, identity, len(images), created)

    def withdraw(self, receipt: str) -> Withdrawal:
        """Withdraws a contribution: deletes its labels and its images, but those another contribution has too.

        Args:
            receipt: the receipt's text; case, hyphens and spaces do not count.

        Raises:
            UnknownContributionError: if no contribution has it.
            CollectionError: if the collection fails; withdraw again.
        """
        return self._withdraw(CONTRIBUTIONS.c.receipt_sha256 == receipt_sha256(receipt), "receipt")

    def withdraw_by_id(self, contribution: str) -> Withdrawal:
        """Withdraws a contribution whose receipt is lost; for whoever runs the server, not for the page.

        Args:
            contribution: the id.

        Raises:
            UnknownContributionError: if there is none.
            CollectionError: if the collection fails; withdraw again.
        """
        return self._withdraw(CONTRIBUTIONS.c.id == contribution.strip().lower(), "id")

    def take_back(self, contribution: str) -> None:
        """Makes that a contribution has never been: for one whose contributor got no receipt.

        Args:
            contribution: the id.

        Raises:
            UnknownContributionError: if there is none.
            CollectionError: if the collection fails.
        """
        self._withdraw(CONTRIBUTIONS.c.id == contribution, "id", traceless=True)

    def count(self) -> int:
        """How many contributions there are, without those that were withdrawn.

        Raises:
            CollectionError: if the database cannot be read.
        """
        try:
            with self._engine.connect() as connection:
                return records.count(connection)
        except sa.exc.SQLAlchemyError as error:
            raise CollectionError(f"the contributions cannot be counted: {cause(error)}") from error

    def _row(self, contribution: Contribution) -> dict[str, object]:
        code = " ".join(unicodedata.normalize("NFKC", contribution.patient_code).casefold().split())
        return {
            "consent_version": contribution.consent.version,
            "consent_sha256": contribution.consent.sha256,
            "consent_language": contribution.consent.language,
            "operator": contribution.consent.operator,
            COVID: _label(contribution.covid),
            **{lesion: _label(contribution.lesions.get(lesion)) for lesion in LESIONS},
            "patient_hash": keyed_hash(self._files.key, f"patient {code}") if code else None,
            "contributor": contribution.contributor,
        }

    def _withdraw(self, which: sa.ColumnElement[bool], by: str, *, traceless: bool = False) -> Withdrawal:
        found, withdrawn = None, _now()
        with self._changing:
            try:
                with self._engine.connect() as connection:
                    found = records.find(connection, which)
                if found is None:
                    raise UnknownContributionError(f"no contribution has this {by}; copy it as it was shown")
                contribution, images = found
                if contribution.withdrawn:
                    return Withdrawal(contribution.id, 0, contribution.withdrawn)
                self._step("note")
                self._files.note(contribution.id, images)
                with self._engine.begin() as connection:
                    self._step("record")
                    if traceless:
                        records.delete(connection, contribution.id)
                    else:
                        records.forget(connection, contribution.number, withdrawn)
                    self._step("commit")
            except (sa.exc.SQLAlchemyError, OSError) as error:
                if found:  # the record may be changed all the same, if the connection broke in the commit
                    self._settle_or_later(contribution.id, images)
                raise CollectionError(f"the withdrawal failed; try it again: {cause(error)}") from error
            self._step("settle")
            self._settle_or_later(contribution.id, images)
            self._empty_log()
        return Withdrawal(contribution.id, len(images), withdrawn)

    def _settle(self, contribution: str, images: Sequence[str]) -> None:
        """Deletes those images of a change that no contribution has, and then the note of the change."""
        with self._engine.connect() as connection:
            unused = records.unused(connection, images)
        self._files.end(contribution, unused, images)

    def _settle_or_later(self, contribution: str, images: Sequence[str]) -> None:
        try:
            self._settle(contribution, images)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            logger.warning(
                "contribution %s: what it left is cleared away at the next start (%s)", contribution, cause(error)
            )

    def _taken_back(self, contribution: str, images: Sequence[str], committing: bool, why: str) -> CollectionError:
        if committing:  # a connection that breaks in this moment does not tell whether it was done
            try:
                with self._engine.begin() as connection:
                    records.delete(connection, contribution)
            except sa.exc.SQLAlchemyError:
                return UncertainError(
                    f"the database failed, and whether contribution {contribution} was stored cannot be told"
                    f" ({why}); once it works again, python -m serving.collection.withdraw --id={contribution}"
                    " takes it out"
                )
        self._settle_or_later(contribution, images)
        return CollectionError(f"nothing of the contribution was stored: {why}")

    def _empty_log(self) -> None:
        try:
            empty_log(self._engine)
        except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
            logger.warning("the database's log still holds what was withdrawn (%s)", cause(error))


def _label(value: bool | None) -> int | None:
    return None if value is None else int(value)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
