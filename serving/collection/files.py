"""The data collection's folder: the images, named by their content, the key, and what is being changed.

    collection.key        of the patients' hashes; without it contributions of one patient are not joined any more
    collection.sqlite     the records, where no other database is given (`tables.py`)
    images/ab/ab12....png named by the SHA-256 of the file
    pending/ID            the images that an unfinished change of contribution ID is about, a line each

A change writes its note in `pending/` first and deletes it last. Whoever opens the folder after a kill asks the
database which of the noted images still belong to a record, and deletes the others: no image without a record
stays, and no image is deleted because a database was restored from an older copy.
"""

import hmac
import logging
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from ladnn_tf.files import lock_alone, sync_folder, write_atomically

KEY_FILE = "collection.key"

_LOCK = ".ladnn_collection.lock"
_HALF_KEY = f".{KEY_FILE}."  # of `files.atomic_file`, after a kill
_IGNORED = {_LOCK, "lost+found"}  # the latter is in every new ext4 volume
_KEY_BYTES = 32
_SHA256 = re.compile(r"[0-9a-f]{64}")

logger = logging.getLogger("ladnn_tf.serving")


class CollectionFolder:
    """A data folder, used by one process at a time.

    Args:
        folder: made where it is not there, readable by its owner alone.

    Raises:
        ValueError: if another process uses it, it is a folder of something else, or its key is damaged or missing.
        OSError: if it cannot be made or written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check_own()
        (self.folder / _LOCK).touch(mode=0o600)
        self._lock = (self.folder / _LOCK).open("ab")
        try:
            self._take_lock()
            self._make_private()
            self.key = self._read_or_make_key()
            for part in ("images", "pending"):
                _make_folder(self.folder / part)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets another process use the folder."""
        self._lock.close()

    def _check_own(self) -> None:
        names = {path.name for path in self.folder.iterdir() if not path.name.startswith(_HALF_KEY)} - _IGNORED
        if names and not names & {KEY_FILE, "images"}:
            raise ValueError(
                f"{self.folder} holds other files ({min(names)}); give the data collection a folder of its own"
            )

    def _take_lock(self) -> None:
        refusal = (
            f"the data collection in {self.folder} is used by another process, probably the page; end that one"
            " first, or do it there (the page itself takes withdrawals)"
        )
        lock_alone(self._lock, self.folder, refusal, logger)

    def _make_private(self) -> None:
        if os.name == "nt" or not self.folder.stat().st_mode & 0o077:
            return
        try:
            self.folder.chmod(0o700)
        except PermissionError:  # another user's, as a container's volume can be
            logger.warning("%s can be read by other users; let it belong to the user of this process", self.folder)

    def _read_or_make_key(self) -> bytes:
        for left_over in self.folder.glob(f"{_HALF_KEY}*"):
            left_over.unlink()
        try:
            return read_key(self.folder)
        except FileNotFoundError:
            if (self.folder / "images").exists():  # which is made after the key
                raise
        path = self.folder / KEY_FILE
        write_atomically(path, secrets.token_hex(_KEY_BYTES).encode())
        path.chmod(0o600)
        return read_key(self.folder)

    def has_images(self) -> bool:
        """Whether there is any image."""
        return any(self.folder.glob("images/*/*.png"))

    def write_image(self, sha256: str, content: bytes) -> None:
        """Writes an image's file, in one step and on the disk.

        Raises:
            OSError: if it cannot be written.
        """
        path = image_path(self.folder, sha256)
        _make_folder(path.parent)
        write_atomically(path, content)
        path.chmod(0o600)

    def note(self, contribution: str, images: Sequence[str]) -> None:
        """Notes that a change of a contribution's images begins.

        Args:
            contribution: its id.
            images: their SHA-256.

        Raises:
            OSError: if it cannot be written.
        """
        path = self.folder / "pending" / contribution
        write_atomically(path, "".join(f"{sha256}\n" for sha256 in images).encode())
        path.chmod(0o600)

    def noted(self) -> dict[str, list[str]]:
        """The changes that were begun and not ended: contribution -> SHA-256 of its images.

        Raises:
            ValueError: if a note is damaged.
            OSError: if one cannot be read.
        """
        notes = {}
        for path in sorted((self.folder / "pending").iterdir()):
            if path.name.startswith("."):  # half written when the process was killed: nothing was changed yet
                path.unlink()
                continue
            images = path.read_text("ascii").split()
            if not all(map(_SHA256.fullmatch, images)):
                raise ValueError(f"{path} is damaged; it should list the SHA-256 of images, a line each")
            notes[path.name] = images
        return notes

    def end(self, contribution: str, unused: Sequence[str], images: Sequence[str]) -> None:
        """Ends a change.

        Args:
            contribution: its id.
            unused: which of the images to delete.
            images: SHA-256 of all the images it was about; what a kill left half written of them goes, too.

        Raises:
            OSError: if a file cannot be deleted; the change then stays noted.
        """
        for sha256 in images:
            path = image_path(self.folder, sha256)
            if sha256 in unused:
                path.unlink(missing_ok=True)
            for left_over in path.parent.glob(f".{path.name}.*"):
                left_over.unlink()
            if path.parent.is_dir():
                sync_folder(path.parent)
        (self.folder / "pending" / contribution).unlink(missing_ok=True)


def existing_folder(folder: str | Path) -> Path:
    """A data folder that is there already, for the commands, which should not make one where a name is mistyped.

    Raises:
        ValueError: if it is none.
    """
    folder = Path(folder).absolute()
    if not (folder / KEY_FILE).is_file():
        raise ValueError(f"{folder} is no folder of the data collection: there is no {KEY_FILE} in it")
    return folder


def image_path(folder: Path, sha256: str) -> Path:
    """Where an image lies in a data folder."""
    return folder / "images" / sha256[:2] / f"{sha256}.png"


def read_key(folder: Path) -> bytes:
    """The key of a data folder.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is damaged.
    """
    path = folder / KEY_FILE
    try:
        key = bytes.fromhex(path.read_text("ascii"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; copy it back from the backup of this data folder") from error
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise ValueError(f"{path} is damaged; copy it back from the backup of this data folder")
    return key


def keyed_hash(key: bytes, text: str) -> str:
    """HMAC-SHA256 of a text, as 64 hexadecimal digits."""
    return hmac.digest(key, text.encode(), "sha256").hex()


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(mode=0o700)
        sync_folder(folder.parent)
