"""Writing and recognising files."""

import errno
import hashlib
from pathlib import Path

import pytest

from ladnn_tf import files


def test_sha256_of_a_published_example(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-4, example of one block
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.file_sha256(tmp_path / "abc") == expected


def test_a_file_is_replaced_whole_and_folders_are_made(tmp_path):
    path = tmp_path / "new" / "file.json"
    files.write_atomically(path, b"one")
    files.write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    path.write_bytes(b"old")

    def full_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match=r"No space left on device.*file\.json"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_is_hashed_as_sha256sum_prints_it(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two").write_bytes(b"")
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "card").write_bytes(b"not counted")
    of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    lines = f"{of_abc}  a\n{of_nothing}  b/two\n"
    assert files.folder_sha256(tmp_path, without=("extra",)) == hashlib.sha256(lines.encode()).hexdigest()
    assert files.folder_sha256(tmp_path) != files.folder_sha256(tmp_path, without=("extra",))


def test_only_the_beginning_of_a_file_is_hashed(tmp_path):
    (tmp_path / "file").write_bytes(b"abcdef")
    assert files.file_sha256(tmp_path / "file", 3).startswith("ba7816bf")
