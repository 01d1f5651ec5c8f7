"""Folders and zips: bounded, and nothing leads out of them."""

import os
import struct
import zipfile
import zlib

import pytest
from dicom_series import SPACING, volume

from benchmarks.series_mutations import hostile
from ladnn_tf.data.dicom_writer import write_series
from ladnn_tf.data.series_sources import (
    file_source,
    folder_sources,
    inflate,
    inflated_limit,
    zip_sources,
)
from ladnn_tf.data.volume import printable
from ladnn_tf.data.volumes import SeriesError, read_series


def test_a_folder_is_searched_wholly_without_clutter(tmp_path):
    for name in ("b/2", "a/c/1", "0", ".DS_Store", "__MACOSX/x"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert [source.name for source in folder_sources(tmp_path)] == ["0", "a/c/1", "b/2"]


def test_a_fifo_is_no_file(tmp_path):
    write_series(volume((2, 8, 8)), SPACING, tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (series,) = read_series(tmp_path)
    assert len(series.hu) == 2
    assert series.report == ("left out: pipe: not a file.",)


def test_reading_asks_for_no_more_than_is_there(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    with file_source(tmp_path / "a").open() as file:
        file.read(1)
        assert file.read(2**62) == b"2345"  # would be a MemoryError
        assert file.read() == b""


def test_members_that_are_not_read_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("inner.ZIP", b"")
        archive.writestr("bz", b"x" * 100, zipfile.ZIP_BZIP2)
        archive.writestr("line\nbreak", b"x")
        archive.writestr("folder/", b"")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.rindex(b"PK\x01\x02", 0, content.rindex(b"folder/") - 46) + 8] |= 1  # encrypted
    (tmp_path / "a.zip").write_bytes(content)
    with zip_sources(tmp_path / "a.zip") as (sources, left_out):
        assert sources == []
        assert left_out == {
            "a zip within a zip is not read": ["inner.ZIP"],
            "members of a zip that are neither stored nor deflated are not read": ["bz"],
            "encrypted members of a zip are not read; unzip them first": ["line?break"],
        }


def test_a_member_that_lies_about_its_size_is_left_out(tmp_path):
    files = write_series(volume((2, 32, 32)), SPACING, tmp_path / "files")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    at = content.index(b"PK\x01\x02")
    (size,) = struct.unpack_from("<I", content, at + 24)
    struct.pack_into("<I", content, at + 24, size - 100)
    (tmp_path / "a.zip").write_bytes(content)
    (series,) = read_series(tmp_path / "a.zip")
    assert len(series.hu) == 1
    assert "a damaged member of the zip" in series.report[-1]


def test_a_cut_zip_and_a_zip_of_nothing(tmp_path):
    files = write_series(volume((2, 32, 32)), SPACING, tmp_path / "files")
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(files[0], "1")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(SeriesError, match=r"a\.zip: a damaged zip"):
        read_series(path)
    with zipfile.ZipFile(path, "w"):
        pass
    with pytest.raises(SeriesError, match=r"a\.zip: no CT slice can be read\. There is no file\."):
        read_series(path)


def test_inflating_is_bounded():
    assert inflated_limit(1000, 10**12) == 64 * 2**20
    assert inflated_limit(10**9, 10**12) == 200 * 10**9
    assert inflated_limit(10**9, 10**6) == 10**6
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = packer.compress(b"\0" * (65 * 2**20)) + packer.flush()
    with pytest.raises(ValueError, match="inflates to more than 67,108,864 bytes"):
        inflate(bomb)
    with pytest.raises(ValueError, match="cut off"):
        inflate(bomb[:50])
    with pytest.raises(ValueError, match="damaged deflate stream"):
        inflate(b"\xff" * 20)


def test_names_fit_into_a_line():
    assert printable("a\nb\x1b[31m") == "a?b?[31m"
    assert len(printable("n" * 5000)) <= 120
    assert printable("n" * 120) == "n" * 120


def test_mutations_can_be_repeated():
    assert hostile(5, 6) == hostile(5, 6)
    assert hostile(5, 6) != hostile(5, 7)
