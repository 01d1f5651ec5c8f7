"""The tables of the data collection, and how its database is opened.

SQLite by default, with foreign keys, a write-ahead log and `synchronous=FULL`: what was committed is on the disk.
What is deleted is overwritten (`secure_delete`), as a withdrawal should leave nothing readable in the file.
"""

import os
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from ladnn_tf.labels import COVID, LESIONS

SCHEMA = 1
"""The version of these tables; a collection written with another one is refused."""

DATABASE_FILE = "collection.sqlite"
"""The SQLite file in the data folder, where no other database is given."""

_LOCKED_SECONDS = 5.0  # how long a locked SQLite file is waited for

METADATA = sa.MetaData()

COLLECTION = sa.Table(
    "ladnn_collection",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("key_check", sa.String(64), nullable=False),
    sa.Column("created", sa.String(20), nullable=False),
)
"""One row, which ties the database to the key of one data folder."""

CONTRIBUTIONS = sa.Table(
    "ladnn_contributions",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(16), nullable=False, unique=True),
    sa.Column("receipt_sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("created", sa.String(20), nullable=False),
    sa.Column("consent_version", sa.String(20), nullable=False),
    sa.Column("consent_sha256", sa.String(64), nullable=False),
    sa.Column("consent_language", sa.String(10), nullable=False),
    sa.Column("operator", sa.Text, nullable=False),
    sa.Column(COVID, sa.SmallInteger),
    *(sa.Column(lesion, sa.SmallInteger) for lesion in LESIONS),
    sa.Column("patient_hash", sa.String(64)),
    sa.Column("contributor", sa.Text, nullable=False),
    sa.Column("withdrawn", sa.String(20)),
    *(sa.CheckConstraint(sa.column(label).in_((0, 1)), f"ladnn_{label.lower()}") for label in (COVID, *LESIONS)),
)
"""A contribution: the images of one patient. Times are UTC, `2026-01-31T23:59:59Z`; labels 1, 0 or NULL, unknown.

`operator` is who ran the collection, as the consent text named them, whose SHA-256 is `consent_sha256`.

A withdrawn one keeps its row, so that its receipt still answers, without labels, patient, contributor and images.
"""

IMAGES = sa.Table(
    "ladnn_images",
    METADATA,
    sa.Column("contribution", sa.ForeignKey(CONTRIBUTIONS.c.number), primary_key=True, autoincrement=False),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sha256", sa.String(64), nullable=False, index=True),
    sa.Column("pixels_sha256", sa.String(64), nullable=False),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("erased_corners", sa.String(60), nullable=False),
    sa.Column("erased_percent", sa.SmallInteger, nullable=False),
    sa.Column("refusal", sa.Text, nullable=False),
)
"""An image of a contribution, from position 0. `sha256` is its file's, and its name in the folder.

`pixels_sha256` stays the same where another version of the PNG encoder writes another file; `erased_corners` are
names with commas between them, with `erased_percent` of the sides (0 if none); `refusal` is why
`ladnn_tf.data.quality` does not take it for a chest-CT slice, where the contributor said that it is one.
"""


def database_url(folder: Path, url: str | None) -> URL:
    """The address of a collection's database.

    Args:
        folder: the data folder.
        url: of another database than the SQLite file in the folder, as SQLAlchemy has it; None or empty for that.

    Raises:
        ValueError: if `url` is none, or names a database in memory.
    """
    if not url:
        return URL.create("sqlite", database=str(folder.absolute() / DATABASE_FILE))
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError as error:
        # The address may hold a password, so it is not repeated.
        raise ValueError(
            "the database's address is none that SQLAlchemy reads; expected one like"
            " postgresql+psycopg://user:password@host/name"
        ) from error
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ValueError(
            "a database in memory is lost at the end; give one in a file, or none for that in the folder"
        )
    return parsed


def open_engine(url: URL, *, read_only: bool = False) -> sa.Engine:
    """Opens a database; nothing is read or written yet.

    Args:
        url: of `database_url`. An SQLite file that is not there is made, readable by its owner alone.
        read_only: whether nothing is to be written; an SQLite file must then be there.

    Raises:
        ValueError: if SQLAlchemy or the database's driver does not know the address.
        OSError: if an SQLite file is not there or cannot be made.
    """
    is_sqlite = url.get_backend_name() == "sqlite"
    if is_sqlite:
        url = url.set(query={"timeout": str(_LOCKED_SECONDS), **url.query})
    try:
        engine = sa.create_engine(url, pool_pre_ping=not is_sqlite)
    except sa.exc.NoSuchModuleError as error:
        raise ValueError(f"SQLAlchemy does not know the kind of database {url.drivername!r}") from error
    except ModuleNotFoundError as error:
        raise ValueError(f"{url.drivername} needs the Python package {error.name!r}; install it") from error
    if is_sqlite:
        # SQLite gives its log and its index the rights of this file.
        os.close(os.open(url.database, os.O_RDWR if read_only else os.O_RDWR | os.O_CREAT, 0o600))
        _set_up_sqlite(engine, read_only)
    return engine


def _set_up_sqlite(engine: sa.Engine, read_only: bool) -> None:
    pragmas = ["foreign_keys=ON", "synchronous=FULL", "secure_delete=ON", "temp_store=MEMORY"]
    pragmas.append("query_only=ON" if read_only else "journal_mode=WAL")

    def connect(connection, _record) -> None:
        connection.isolation_level = None  # Python's sqlite3 would begin transactions late, and none for reading
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    sa.event.listen(engine, "connect", connect)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))


def empty_log(engine: sa.Engine) -> None:
    """Moves SQLite's write-ahead log, which may still hold what was deleted, into the file; else nothing.

    Raises:
        sqlite3.Error, sqlalchemy.exc.SQLAlchemyError: if it cannot be done.
    """
    if engine.dialect.name == "sqlite":
        connection = engine.raw_connection()
        try:
            connection.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.close()


def cause(error: BaseException) -> str:
    """What a database's or a file's error says, without the statement and its values."""
    if isinstance(error, sa.exc.DBAPIError):
        return str(error.orig)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
