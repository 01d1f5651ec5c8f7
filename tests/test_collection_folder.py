"""The data collection's folder and database: whose they are, and what is refused."""

import contextlib
import os
import shutil
import sqlite3
import stat
import sys

import pytest
import sqlalchemy as sa
from contributions import KEPT, contribution, files, image_files
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.schema import CreateTable

from serving.collection.contribution import CollectionError
from serving.collection.store import Collection
from serving.collection.tables import CONTRIBUTIONS


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def collection(folder):
    with Collection(folder) as opened:
        yield opened


def test_the_database_is_safe_from_power_cuts_and_keeps_nothing_deleted(collection):
    with collection._engine.connect() as connection:
        values = {
            pragma: connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one()
            for pragma in ("foreign_keys", "journal_mode", "synchronous", "secure_delete", "temp_store")
        }
    # synchronous 2 is FULL, temp_store 2 is MEMORY
    assert values == {
        "foreign_keys": 1,
        "journal_mode": "wal",
        "synchronous": 2,
        "secure_delete": 1,
        "temp_store": 2,
    }


def test_the_folder_is_its_owner_s_alone(folder):
    before = os.umask(0)
    try:
        with Collection(folder) as collection:
            collection.add(contribution(1))
            modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
            directories = {path for path in modes if path.is_dir()}
    finally:
        os.umask(before)
    assert {modes[path] for path in directories} == {0o700}
    assert {mode for path, mode in modes.items() if path not in directories} == {0o600}
    assert any(path.name == "collection.sqlite-wal" for path in modes)


def test_an_empty_folder_that_others_can_read_is_closed_to_them(folder):
    folder.mkdir(mode=0o755)
    with Collection(folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_of_something_else_is_left_as_it_is(folder):
    folder.mkdir(mode=0o755)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"other files \(thesis\.txt\)"):
        Collection(folder)
    assert files(folder) == ["thesis.txt"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_folder_is_used_once_at_a_time(collection, folder):
    with pytest.raises(ValueError, match="used by another process"):
        Collection(folder)
    collection.close()
    Collection(folder).close()


def test_the_key_and_the_database_belong_together(folder, tmp_path):
    with Collection(folder) as collection:
        collection.add(contribution(1))
    key = folder / "collection.key"
    right = key.read_bytes()
    key.unlink()
    with pytest.raises(FileNotFoundError, match=r"collection\.key is missing; copy it back"):
        Collection(folder)
    for wrong, message in ((b"00" * 31, "damaged"), (b"x", "damaged"), (b"00" * 32, "another data folder")):
        key.write_bytes(wrong)
        with pytest.raises(ValueError, match=message):
            Collection(folder)
    key.write_bytes(right)
    (folder / "collection.sqlite").rename(tmp_path / "away")
    with pytest.raises(ValueError, match=r"the database is empty, but .* holds images"):
        Collection(folder)
    assert files(folder) == sorted(KEPT + image_files(1))
    with Collection(folder, f"sqlite:///{tmp_path / 'away'}") as collection:
        assert collection.count() == 1


def test_an_older_database_takes_no_image_away(folder, tmp_path):
    with Collection(folder) as collection:
        collection.add(contribution(1))
    shutil.copy(folder / "collection.sqlite", tmp_path / "backup")
    with Collection(folder) as collection:
        collection.add(contribution(2))
    shutil.copy(tmp_path / "backup", folder / "collection.sqlite")
    with Collection(folder) as collection:
        assert collection.count() == 1
    assert files(folder) == sorted(KEPT + image_files(1, 2))


@pytest.mark.parametrize(("dialect", "quoted"), [(postgresql, '"GGO"'), (mysql, "`GGO`"), (sqlite, '"GGO"')])
def test_the_tables_are_those_of_other_databases_too(dialect, quoted):
    statement = str(CreateTable(CONTRIBUTIONS).compile(dialect=dialect.dialect()))
    assert f"CHECK ({quoted} IN (0, 1))" in statement


@pytest.mark.parametrize("values", [{"GGO": 2}, {"covid": -1}])
def test_a_label_is_one_nought_or_unknown(collection, values):
    collection.add(contribution(1))
    with pytest.raises(sa.exc.IntegrityError), collection._engine.begin() as connection:
        connection.execute(sa.update(CONTRIBUTIONS).values(values))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "none that SQLAlchemy reads"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("nosuch://host/name", "does not know the kind of database 'nosuch'"),
    ],
)
def test_a_database_that_cannot_be_is_refused(folder, url, message):
    with pytest.raises(ValueError, match=message):
        Collection(folder, url)
    Collection(folder).close()  # the folder is free again


def test_a_driver_that_is_not_installed_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ValueError, match="needs the Python package 'psycopg'"):
        Collection(folder, "postgresql+psycopg://user:password@host/name")


def test_a_damaged_database_and_one_of_another_version_are_refused(folder):
    Collection(folder).close()
    with contextlib.closing(sqlite3.connect(folder / "collection.sqlite")) as connection, connection:
        connection.execute("UPDATE ladnn_collection SET schema_version = 2")
    with pytest.raises(ValueError, match="version 2 of the tables; this program knows version 1"):
        Collection(folder)
    (folder / "collection.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(CollectionError, match="not a database"):
        Collection(folder)
