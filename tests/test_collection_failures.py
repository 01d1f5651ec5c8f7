"""The data collection when the disk is full, the database goes away or the process is killed."""

import contextlib
import errno
import hashlib
import os
import resource
import sqlite3
import subprocess
import sys

import collection_process
import pytest
import sqlalchemy as sa
from conftest import REPOSITORY
from contributions import KEPT, contribution, contributions, files, image, image_files, query

from serving.collection.contribution import CollectionError, UncertainError
from serving.collection.store import Collection


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def collection(folder):
    with Collection(folder) as opened:
        yield opened


# Failures


@contextlib.contextmanager
def files_of_at_most(size):
    """As a full disk: a file that would grow beyond `size` bytes is not written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_without_room_for_an_image_stores_nothing(collection, folder):
    assert len(image(2).png) > 4096
    with (
        files_of_at_most(4096),
        pytest.raises(CollectionError, match=r"nothing of the contribution was stored.*large"),
    ):
        collection.add(contribution(2))
    assert files(folder) == KEPT
    assert (collection.count(), contributions(folder)) == (0, [])
    collection.add(contribution(2))
    assert collection.count() == 1


def test_a_disk_without_room_for_the_record_stores_nothing(collection, folder):
    collection.add(contribution(1))
    room = max(path.stat().st_size for path in folder.glob("collection.sqlite-wal"))
    with files_of_at_most(room), pytest.raises(CollectionError, match="nothing of the contribution was stored"):
        collection.add(contribution(2))
    assert files(folder) == sorted(KEPT + image_files(1))
    collection.add(contribution(2))
    assert collection.count() == 2


def test_a_locked_database_stores_nothing_and_withdraws_nothing(folder):
    with (
        Collection(folder, f"sqlite:///{folder / 'collection.sqlite'}?timeout=0") as collection,
        contextlib.closing(sqlite3.connect(folder / "collection.sqlite")) as other,
    ):
        receipt = collection.add(contribution(1))
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CollectionError, match="nothing of the contribution was stored: database is locked"):
            collection.add(contribution(2))
        with pytest.raises(CollectionError, match="withdrawal failed; try it again: database is locked"):
            collection.withdraw(receipt.text)
        assert collection.count() == 1
        assert [name for name in files(folder) if name.startswith("images")] == image_files(1)
        other.rollback()
        assert collection.withdraw(receipt.text).images == 1
    assert files(folder) == KEPT


def break_commit(collection, *, before):
    """Makes the next commit fail, before or after the database has done it."""
    engine = collection._engine
    dialect = engine.dialect

    def commit(connection):
        dialect.do_commit = original
        if not before:
            original(connection)
        raise sa.exc.OperationalError("COMMIT", None, OSError(errno.ECONNRESET, "connection lost"))

    original, dialect.do_commit = dialect.do_commit, commit


@pytest.mark.parametrize("before", [True, False])
def test_a_connection_lost_in_the_commit_leaves_nothing(collection, folder, before):
    break_commit(collection, before=before)
    with pytest.raises(CollectionError, match=r"nothing of the contribution was stored: .*connection lost"):
        collection.add(contribution(1))
    assert contributions(folder) == []
    assert files(folder) == KEPT


def test_a_database_that_stays_away_after_a_commit_names_the_contribution(collection, folder, monkeypatch):
    break_commit(collection, before=False)

    def delete(*_):
        raise sa.exc.OperationalError("DELETE", None, OSError("no route to host"))

    with monkeypatch.context() as patch:
        patch.setattr("serving.collection.store.records.delete", delete)
        with pytest.raises(UncertainError, match="cannot be told") as raised:
            collection.add(contribution(1))
    identity = contributions(folder)[0]["id"]
    assert f"--id={identity}" in str(raised.value)
    assert collection.withdraw_by_id(identity).images == 1
    assert files(folder) == KEPT


def test_files_that_cannot_be_cleared_away_are_at_the_next_start(folder, monkeypatch, caplog):
    with Collection(folder) as collection:
        receipt = collection.add(contribution(1))
        with monkeypatch.context() as patch:
            patch.setattr(
                "serving.collection.store.records.unused",
                lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")),
            )
            assert collection.withdraw(receipt.text).images == 1
        assert "cleared away at the next start (Input/output error)" in caplog.text
        assert set(image_files(1)) < set(files(folder))
    Collection(folder).close()
    assert files(folder) == KEPT


@pytest.mark.parametrize("before", [True, False])
def test_a_withdrawal_whose_connection_is_lost_can_be_done_again(collection, folder, before):
    receipt = collection.add(contribution(1))
    break_commit(collection, before=before)
    with pytest.raises(CollectionError, match=r"try it again: .*connection lost"):
        collection.withdraw(receipt.text)
    assert files(folder) == (sorted(KEPT + image_files(1)) if before else KEPT)
    assert collection.withdraw(receipt.text).images == int(before)
    assert files(folder) == KEPT


# Kills


def test_half_written_files_are_cleared_away(folder):
    with Collection(folder) as collection:
        collection.add(contribution(1))
    (folder / ".collection.key.abcd_123").write_bytes(b"half")
    name = image(2).sha256
    half = folder / "images" / name[:2]
    half.mkdir()
    (half / f".{name}.png.abcd_123").write_bytes(b"half")
    (half / f".{name}.png.efgh_456").write_bytes(b"half")
    (folder / "pending" / ("0" * 16)).write_text(f"{name}\n{image(1).sha256}\n")
    (folder / "pending" / f".{'1' * 16}.abcd_123").write_text(name[:9])
    Collection(folder).close()
    assert files(folder) == sorted(KEPT + image_files(1))


def test_a_damaged_note_is_said(folder):
    Collection(folder).close()
    (folder / "pending" / ("0" * 16)).write_text("../../thesis\n")
    with pytest.raises(ValueError, match="is damaged"):
        Collection(folder)


def test_a_kill_before_the_key_is_whole_is_no_folder_of_something_else(folder):
    folder.mkdir()
    (folder / ".collection.key.abcd_123").write_bytes(b"half")
    Collection(folder).close()
    assert files(folder) == KEPT


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folders that killed processes left."""
    folder = tmp_path_factory.mktemp("killed")
    script = REPOSITORY / "tests" / "collection_process.py"
    done = subprocess.run(
        [sys.executable, script, folder],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == len(collection_process.KILLS)
    return folder


@pytest.mark.parametrize("kill", collection_process.KILLS, ids=lambda kill: collection_process.name(*kill))
def test_a_kill_leaves_whole_contributions_and_no_other_file(killed, kill):
    change, step, _ = kill
    folder = killed / collection_process.name(*kill)
    done = step == "settle"
    with Collection(folder) as collection:
        if change == "add":
            assert collection.count() == 1 + done
            expected = image_files(0, 1, 2, 3) if done else image_files(0, 1)
        else:
            assert collection.count() == 1 - done
            expected = [] if done else image_files(0, 1)
        assert files(folder) == sorted(KEPT + expected)
        rows = query(
            folder,
            "SELECT number, position, covid FROM ladnn_images JOIN ladnn_contributions ON"
            " number = contribution WHERE withdrawn IS NULL ORDER BY number, position",
        )
        whole = [] if change == "withdraw" and done else [(1, 0, 1), (1, 1, 1)]
        whole += [(2, position, 0) for position in range(3)] if change == "add" and done else []
        assert [tuple(row.values()) for row in rows] == whole
        for name in expected:
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == (folder / name).stem
        collection.add(contribution(5))  # and it goes on
