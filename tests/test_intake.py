"""What is taken of an upload: zip files, kinds of files, sizes, names."""

import gzip
import io
import random
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from serving_page import png, zipped

from ladnn_tf.data.picture_series import natural_key
from ladnn_tf.data.preprocess import PNG_SIGNATURE, ImageError
from serving.page import file_kinds, unzip
from serving.page.errors import PageError
from serving.page.form_data import SentFile
from serving.page.intake import decode_within, items_of, parted
from serving.page.reasons import reason_in
from serving.page.settings import Settings
from serving.page.words import words_of

ZEROS = b"\0" * 2**20


def items(*files, language="en", **settings):
    """The items of files, each a name and its content."""
    return items_of([SentFile("files", *file) for file in files], Settings(**settings), language)


def names_and_errors(found):
    return [(item.name, item.error) for item in found]


def header(width, height):
    """A PNG file that promises so many pixels and has none."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    about = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return PNG_SIGNATURE + chunk(b"IHDR", about) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_images_pass_as_they_are():
    first, second = items(("a.png", png()), ("b.txt", png(kind="JPEG")))
    assert (first.name, first.content, first.error) == ("a.png", png(), "")
    assert (second.name, second.error) == ("b.txt", "")  # the content counts, not the name


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"hello", "neither PNG, JPEG, DICOM, NIfTI nor zip"),
        (b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100", "a DICOM file without its mark"),
        (b"\0" * 344 + b"ni1\0", "a NIfTI header without its voxels"),
        (gzip.compress(b"\0" * 400, mtime=0), "a gzip archive"),
        (b"GIF89a", "a GIF file"),
        (b"BM123", "a BMP file"),
        (b"II*\0rest", "a TIFF file"),
        (b"MM\0*rest", "a TIFF file"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "a WebP file"),
        (b"\0\0\0\x18ftypheic", "a HEIC / AVIF file"),
        (b"%PDF-1.7", "a PDF file"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"Rar!\x1a\x07", "a RAR archive"),
    ],
)
def test_other_files_are_told_what_they_are(content, says):
    (item,) = items(("slice.png", content))
    assert item.error.startswith(says)
    assert not item.content
    assert reason_in(words_of("zh"), item.error)[1] == "zh"


DICOM = b"\0" * 128 + b"DICM" + b"\0" * 50
NIFTI = b"\0" * 344 + b"n+1\0" + b"\0" * 50


def test_series_are_parted_from_images():
    second_kind = b"\0" * 4 + b"n+2\0" + b"\0" * 500
    sent = (
        ("2.dcm", DICOM), ("b10.png", png(1)), ("v.nii", NIFTI), ("b9.png", png(2)), ("1", DICOM),
        ("w.gz", gzip.compress(second_kind)), ("no.txt", b"text"),
    )  # fmt: skip
    single, series = parted(items(*sent), as_series=False)
    assert [item.name for item in single] == ["b10.png", "b9.png"]
    kinds = [(each.kind, [file.name for file in each.files]) for each in series]
    assert kinds == [("DICOM", ["2.dcm", "1"]), ("NIfTI", ["v.nii"]), ("NIfTI", ["w.gz"])]
    assert [each.contents for each in series[:2]] == [[DICOM, DICOM], [NIFTI]]
    single, series = parted(items(*sent), as_series=True)
    assert (single, [each.passed_over for each in series]) == ([], [1, 0, 0, 0])
    assert [file.name for file in series[1].files] == ["b9.png", "b10.png"]
    assert series[1].contents == [png(2), png(1)]


def test_pictures_have_the_same_order_as_in_a_folder():
    names = ["a/IM-1.9.png", "a/IM-1.10.png", "b/26.0.png", "b/28.0.png", f"c{'1' * 5000}"]
    _, (series,) = parted(items(*[(name, png()) for name in reversed(names)]), as_series=True)
    assert [file.name for file in series.files] == names
    assert names == sorted(names, key=natural_key)


def test_other_files_in_a_zip_with_dicom_are_passed_over_and_counted():
    archive = zipped({"a": DICOM, "viewer.exe": b"MZ", "in.zip": zipped({"x": b""}), "b.png": png()})
    single, (series,) = parted(items(("cd.zip", archive), max_images=1, queue=1), as_series=False)
    assert [item.name for item in single] == ["b.png"]
    assert series.passed_over == 2


def test_dicom_files_have_a_limit_of_their_own():
    found = items(*[(str(number), DICOM) for number in range(5)], max_images=1, max_slices=5)
    assert len(found) == 5
    for files in (
        [(str(number), DICOM) for number in range(6)],
        [("z.zip", zipped(dict.fromkeys("abcdef", DICOM)))],
    ):
        with pytest.raises(PageError) as caught:
            items(*files, max_images=1, max_slices=5)
        assert (caught.value.status, caught.value.key, caught.value.values["count"]) == (413, "too_many_dicom", 6)
    with pytest.raises(PageError) as caught:
        items(("z.zip", zipped(dict.fromkeys("abcdefg", DICOM))), max_images=1, max_slices=5)
    assert caught.value.key == "too_many_files"  # before it is unpacked


def test_a_zip_file_is_unpacked_in_its_order():
    content = zipped({"b/2.png": png(2), "a.jpg": png(1, kind="JPEG")})
    assert names_and_errors(items(("scans.zip", content))) == [("b/2.png", ""), ("a.jpg", "")]
    with_prefix = items(("scans.zip", content), ("c.png", png()))
    assert [item.name for item in with_prefix] == ["scans.zip/b/2.png", "scans.zip/a.jpg", "c.png"]
    assert with_prefix[0].content == png(2)


def test_folders_and_what_systems_leave_are_passed_over():
    content = zipped(
        {
            "folder/": b"",
            "folder/a.png": png(),
            "__MACOSX/folder/._a.png": b"x",
            "folder/._a.png": b"x",
            "folder/.DS_Store": b"x",
            "Thumbs.db": b"x",
        }
    )
    assert names_and_errors(items(("z.zip", content))) == [("folder/a.png", "")]


def test_a_name_that_comes_twice_is_numbered():
    found = items(("a.png", png(1)), ("b.png", png(2)), ("a.png", png(3)), ("a.png", b""))
    assert [item.name for item in found] == ["a.png", "b.png", "a.png (2)", "a.png (3)"]
    assert found[2].content == png(3)
    assert found[3].error


def test_a_bad_member_does_not_spoil_the_others():
    found = items(("z.zip", zipped({"a.png": png(), "notes.txt": b"text", "in.zip": zipped({"b.png": png()})})))
    assert [bool(item.error) for item in found] == [False, True, True]
    assert "a zip file inside a zip file" in found[2].error


def test_a_damaged_member_does_not_spoil_the_others():
    content = bytearray(zipped({"a.png": png(), "b.png": png(7)}, zipfile.ZIP_STORED))
    content[content.index(png()) + 50] ^= 0xFF
    first, second = items(("z.zip", bytes(content)))
    assert first.error.startswith("damaged inside its zip file (Bad CRC-32")
    assert (second.error, second.content) == ("", png(7))


@pytest.mark.parametrize("cut", [4, 30, 60, -1, -22, -40])
def test_a_cut_zip_is_one_error(cut):
    (item,) = items(("z.zip", zipped({"a.png": png()})[:cut]))
    assert item.name == "z.zip"
    assert item.error.startswith("a damaged or truncated zip file")


def test_an_empty_zip_is_an_error():
    (item,) = items(("z.zip", zipped({"folder/": b""})))
    assert item.error == "there is no file in this zip file"
    (item,) = items(("z.zip", zipped({})))
    assert item.error == "there is no file in this zip file"


def test_an_encrypted_member_is_an_error():
    content = bytearray(zipped({"a.png": png(), "b.png": png()}))
    content[6] |= 1  # the flags in the member's own header, and in the table at the end
    content[content.index(b"PK\x01\x02") + 8] |= 1
    first, second = items(("z.zip", bytes(content)))
    assert first.error.startswith("protected by a password")
    assert not second.error


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_need_much_memory_are_refused(method):
    (item,) = items(("z.zip", zipped({"a.png": png()}, method)))
    assert item.error.startswith("packed in a way that is not unpacked here")


def test_a_zip_bomb_is_not_unpacked_and_spoils_nothing(monkeypatch):
    """Three files of 1 MB, of which 2 MB may be unpacked."""
    bomb = zipped({f"{number}.png": ZEROS for number in range(3)})
    read = []
    monkeypatch.setattr(unzip.Archive, "_read", lambda self, member, most: read.append(member) or png())
    found = items(("bomb.zip", bomb), ("good.zip", zipped({"a.png": png()})), max_unpacked_mb=2)
    assert names_and_errors(found) == [
        (
            "bomb.zip",
            "the zip files of this upload hold more than 2 MB; upload them in several parts or, if this is one "
            "series, ask whoever runs this page to allow more",
        ),
        ("good.zip/a.png", ""),
    ]
    assert len(read) == 1


def test_several_zip_files_share_what_may_be_unpacked():
    two = zipped({f"{number}.png": ZEROS for number in range(2)})
    found = items(("a.zip", two), ("b.zip", two), max_unpacked_mb=3)
    assert [item.name for item in found] == ["a.zip/0.png", "a.zip/1.png", "b.zip"]


@pytest.mark.parametrize("claimed", [0, 10, 2**20])
def test_a_zip_header_that_lies_about_the_size_gives_a_damaged_file(claimed):
    """A member of 4 MB that claims to be small is not unpacked beyond its claim."""
    content = bytearray(zipped({"a.png": ZEROS * 4}))
    for place in (22, content.index(b"PK\x01\x02") + 24):
        content[place : place + 4] = struct.pack("<I", claimed)
    (item,) = items(("z.zip", bytes(content)), max_unpacked_mb=2)
    assert item.error.startswith("damaged inside its zip file" if claimed else "the file is empty")


def test_a_large_member_is_not_unpacked():
    first, second = items(("z.zip", zipped({"a.png": ZEROS + b"1", "b.png": png()})), max_image_mb=1)
    assert first.error.startswith("the file has more than 1 MB")
    assert not second.error
    archive = unzip.Archive(zipped({"a.png": b"12345"}))
    assert list(archive.unpack(5)) == [("a.png", b"12345")]
    ((_, refused),) = archive.unpack(4)
    assert isinstance(refused, unzip.ZipError)
    assert (archive.unpacked_bytes(5), archive.unpacked_bytes(4)) == (5, 0)


def test_a_zip_file_that_lists_millions_is_not_read(monkeypatch):
    monkeypatch.setattr(unzip, "_MOST_DIRECTORY_BYTES", 500)
    (item,) = items(("z.zip", zipped({f"{number}.png": b"" for number in range(20)})))
    assert item.error == "this zip file lists far too many files"


def test_too_many_files_are_refused_by_the_name_of_the_file():
    many = zipped({f"{number}.png": png() for number in range(3)})
    with pytest.raises(PageError) as caught:
        items(("a.png", png()), ("many.zip", many), max_images=3)
    assert (caught.value.status, caught.value.key) == (413, "too_many_images")
    assert caught.value.values == {"file": "many.zip", "count": 4, "most": 3}


def test_room_is_reserved_before_a_zip_file_is_unpacked():
    sizes = []
    sent = [SentFile("files", "a.zip", zipped({"a.png": ZEROS, "b.png": b"123"}))]
    items_of(sent, Settings(), reserve=sizes.append)
    assert sizes == [2**20 + 3]


def test_too_large_files_are_errors():
    assert items_of([SentFile("files", "a.png", b"", too_large=True)], Settings())[0].error.startswith(
        "the file has more than 16 MB"
    )
    (item,) = items(("a.png", PNG_SIGNATURE + ZEROS), max_image_mb=1)
    assert item.error.startswith("the file has more than 1 MB")


@pytest.mark.parametrize(
    ("raw", "language", "expected"),
    [
        ("肺部.png".encode(), "en", "肺部.png"),
        ("肺部.png".encode("gb18030"), "zh", "肺部.png"),
        ("é.png".encode("cp437"), "en", "é.png"),
    ],
)
def test_names_without_a_mark_of_their_encoding(raw, language, expected):
    """Python marks names as UTF-8 that are not ASCII, so the name is put in afterwards."""
    stand_in = b"x" * len(raw)
    content = zipped({stand_in.decode(): png()}).replace(stand_in, raw)
    (item,) = items(("z.zip", content), language=language)
    assert item.name == expected


def test_names_that_lead_out_stay_names():
    """They are shown (`view.shown_name` takes out what leads out), and nothing is ever written by them."""
    found = items(("z.zip", zipped({"../../etc/a.png": png(), "/etc/b.png": png(), "c:\\d.png": png()})))
    assert [item.error for item in found] == [""] * 3


def test_pixels_are_counted_before_they_are_decoded():
    assert decode_within(png(size=(40, 30)), 1200).shape == (30, 40, 3)
    with pytest.raises(ImageError, match="40 x 30 pixels are more than the 1,199 that are read"):
        decode_within(png(size=(40, 30)), 1199)
    with pytest.raises(ImageError, match="40 x 30 pixels are more"):
        decode_within(png(size=(40, 30), kind="JPEG"), 1199)
    with pytest.raises(ImageError, match="30000 x 30000 pixels are more than the 16,777,216"):
        decode_within(header(30_000, 30_000), Settings().max_pixels)


def test_damaged_images_are_image_errors():
    """A thousand pictures with one byte changed or cut off: an array or an ImageError, never another error."""
    draw = random.Random(5)
    noise = np.random.default_rng(5).integers(0, 256, (30, 40, 3), np.uint8)
    pictures = []
    for kind in ("PNG", "JPEG"):
        content = io.BytesIO()
        Image.fromarray(noise).save(content, kind)
        pictures.append(content.getvalue())
    errors = 0
    for turn in range(1000):
        picture = bytearray(pictures[turn % 2])
        if turn % 4 < 2:
            picture[draw.randrange(min(300, len(picture)))] = draw.randrange(256)
        else:
            del picture[draw.randrange(8, len(picture)) :]
        try:
            assert decode_within(bytes(picture), 10_000).dtype == np.uint8
        except ImageError:
            errors += 1
    assert errors > 500


def test_every_reason_is_there_in_chinese():
    texts = words_of("en").texts
    for key in (key for key in texts if key.startswith(("reason.zip", "reason.kind", "reason.file"))):
        reason = words_of("en")(key, kind="GIF", most=2, detail="why")
        assert reason_in(words_of("zh"), reason) == (words_of("zh")(key, kind="GIF", most=2, detail="why"), "zh")


def test_a_zip_is_told_by_its_first_bytes():
    assert file_kinds.is_zip(zipped({"a": b""})[:8])
    assert file_kinds.is_zip(zipped({})[:8])
    assert not file_kinds.is_zip(png()[:8])
