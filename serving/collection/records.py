"""The data collection's records: what is asked of its database. The tables are in `tables.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa

from ladnn_tf.labels import COVID, LESIONS
from serving.collection.files import keyed_hash, read_key
from serving.collection.images import NOTHING, Erasure, PreparedImage
from serving.collection.tables import (
    COLLECTION,
    CONTRIBUTIONS,
    IMAGES,
    METADATA,
    SCHEMA,
    cause,
    database_url,
    open_engine,
)


def set_up(engine: sa.Engine, folder: Path, key: bytes, now: str, *, has_images: bool) -> None:
    """Makes the tables of a new database, and checks that the database belongs to the folder.

    Args:
        engine: of the database.
        folder: the data folder.
        key: its key.
        now: UTC.
        has_images: whether there are images in the folder; the database cannot be a new one then.

    Raises:
        ValueError: as `check_belongs`, or if the database is new and the folder has images.
        sqlalchemy.exc.SQLAlchemyError: if the database cannot be used.
    """
    with engine.begin() as connection:
        METADATA.create_all(connection)
        if connection.execute(sa.select(COLLECTION)).first() is None:
            if has_images:
                raise ValueError(
                    f"the database is empty, but {folder} holds images; give the database that belongs to it, or"
                    " copy that back from a backup"
                )
            row = {"id": 1, "schema_version": SCHEMA, "key_check": _key_check(key), "created": now}
            connection.execute(sa.insert(COLLECTION).values(row))
        check_belongs(connection, folder, key)


def check_belongs(connection: sa.Connection, folder: Path, key: bytes) -> None:
    """Checks that a database has this program's tables and belongs to a folder with this key.

    Raises:
        ValueError: if not.
        sqlalchemy.exc.SQLAlchemyError: if the database cannot be read, or is of something else.
    """
    row = connection.execute(sa.select(COLLECTION)).one()
    if row.schema_version != SCHEMA:
        raise ValueError(
            f"the data collection's database has version {row.schema_version} of the tables; this program knows"
            f" version {SCHEMA}"
        )
    if row.key_check != _key_check(key):
        raise ValueError(f"the database belongs to another data folder than {folder}: its key is another one")


def insert(connection: sa.Connection, row: Mapping[str, object], images: Sequence[PreparedImage]) -> None:
    """Makes the record of a contribution.

    Args:
        connection: in a transaction.
        row: of `CONTRIBUTIONS`, without its number.
        images: all different.
    """
    number = connection.execute(sa.insert(CONTRIBUTIONS).values(row)).inserted_primary_key[0]
    rows = [
        {
            "contribution": number,
            "position": position,
            "sha256": image.sha256,
            "pixels_sha256": image.pixels_sha256,
            "width": image.width,
            "height": image.height,
            "erased_corners": ",".join(image.erasure.corners),
            "erased_percent": image.erasure.percent if image.erasure.corners else 0,
            "refusal": image.refusal,
        }
        for position, image in enumerate(images)
    ]
    connection.execute(sa.insert(IMAGES), rows)


def find(connection: sa.Connection, which: sa.ColumnElement[bool]) -> tuple[sa.Row, list[str]] | None:
    """The one contribution of which something is true, and the SHA-256 of its images; None if there is none."""
    found = connection.execute(sa.select(CONTRIBUTIONS).where(which)).one_or_none()
    if found is None:
        return None
    images = sa.select(IMAGES.c.sha256).where(IMAGES.c.contribution == found.number)
    return found, list(connection.execute(images).scalars())


def forget(connection: sa.Connection, number: int, withdrawn: str) -> None:
    """Empties the record of a contribution: labels, patient, contributor and images."""
    connection.execute(sa.delete(IMAGES).where(IMAGES.c.contribution == number))
    emptied = dict.fromkeys((COVID, *LESIONS, "patient_hash")) | {"contributor": "", "withdrawn": withdrawn}
    connection.execute(sa.update(CONTRIBUTIONS).where(CONTRIBUTIONS.c.number == number).values(emptied))


def delete(connection: sa.Connection, contribution: str) -> None:
    """Deletes the record of a contribution, if there is one, as if it had never been."""
    number = sa.select(CONTRIBUTIONS.c.number).where(CONTRIBUTIONS.c.id == contribution).scalar_subquery()
    connection.execute(sa.delete(IMAGES).where(IMAGES.c.contribution == number))
    connection.execute(sa.delete(CONTRIBUTIONS).where(CONTRIBUTIONS.c.id == contribution))


def unused(connection: sa.Connection, images: Sequence[str]) -> list[str]:
    """Which of these images, by SHA-256, no contribution has."""
    # One at a time, as databases limit the values of one query.
    return [
        sha256
        for sha256 in images
        if not connection.execute(sa.select(sa.exists().where(IMAGES.c.sha256 == sha256))).scalar_one()
    ]


def count(connection: sa.Connection) -> int:
    """How many contributions there are, without those that were withdrawn."""
    query = sa.select(sa.func.count()).select_from(CONTRIBUTIONS).where(CONTRIBUTIONS.c.withdrawn.is_(None))
    return connection.execute(query).scalar_one()


def read_records(folder: Path, url: str | None = None) -> list[sa.Row]:
    """Reads the images of all contributions that were not withdrawn, the first contribution first.

    Args:
        folder: the data folder; it may be in use.
        url: of its database, unless that is in the folder.

    Returns:
        A row for each image of each contribution: the columns of both tables; the contribution's are `id`,
        `covid`, the lesions and `patient_hash`.

    Raises:
        ValueError: if the database does not belong to the folder or its address is unknown.
        OSError: if it cannot be read.
    """
    query = (
        sa.select(IMAGES, *(CONTRIBUTIONS.c[name] for name in ("id", COVID, *LESIONS, "patient_hash")))
        .join_from(IMAGES, CONTRIBUTIONS)
        .where(CONTRIBUTIONS.c.withdrawn.is_(None))
        .order_by(CONTRIBUTIONS.c.number, IMAGES.c.position)
    )
    engine = open_engine(database_url(folder, url), read_only=True)
    try:
        with engine.connect() as connection:
            check_belongs(connection, folder, read_key(folder))
            return list(connection.execute(query))
    except sa.exc.SQLAlchemyError as error:
        raise OSError(f"the data collection's database cannot be read: {cause(error)}") from error
    finally:
        engine.dispose()


def erasure_of(record: sa.Row) -> Erasure:
    """What was erased of the image of a record."""
    corners = tuple(record.erased_corners.split(",")) if record.erased_corners else ()
    return Erasure(corners, record.erased_percent) if corners else NOTHING


def _key_check(key: bytes) -> str:
    # Tells whether a key is the same, and nothing else about it.
    return keyed_hash(key, "ladnn_tf data collection")
