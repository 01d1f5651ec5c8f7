"""Series of every kind and transfer syntax are read exactly, and what is irregular is said."""

import gzip
import itertools
import subprocess
import sys
import threading
import warnings
import zipfile

import numpy as np
import pytest
from dicom_series import AGAIN, GAP, SPACING, edit, irregular_series, volume
from PIL import Image
from pydicom import dcmread
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEG2000TransferSyntaxes,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from benchmarks.series_files import (
    DCMCJPEG,
    SYNTAXES,
    compress,
    write_dicomdir,
    write_multiframe,
    write_nifti,
)
from ladnn_tf.data.dicom_writer import write_series
from ladnn_tf.data.volumes import SeriesError, Volume, display, read_series

LOSSLESS = [syntax for syntax in SYNTAXES if syntax not in (JPEGLSNearLossless, JPEG2000TransferSyntaxes[1])]


def check_irregular(found, expected, files):
    """What was read of irregular_series()."""
    (series,) = found
    assert series.hu.dtype == np.float32
    assert np.array_equal(series.hu, expected)
    assert series.files == tuple(file.name for file in files)
    assert series.spacing_mm == SPACING
    assert series.name == "series 1"
    gap, again, localizer = series.report
    between = f"{files[GAP - 1].name} and {files[GAP].name}"
    assert gap == f"a gap of 10 mm, where 5 mm are usual, between {between}: about 1 missing."
    assert again == "1 slice lies where another one lies, with the same pixels, and was left out: 0.dcm."
    assert localizer == "left out: zz: a localizer (ImageType (0008,0008) value 3)."
    assert files[AGAIN].name in series.files


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_a_shuffled_series_with_gap_duplicate_and_localizer(tmp_path, syntax):
    expected, files = irregular_series(tmp_path, syntax)
    assert sorted(files) != files
    check_irregular(read_series(tmp_path), expected, files)


@pytest.mark.parametrize("name", ["JPEG lossless SV1", "JPEG lossless"])
def test_jpeg_lossless(tmp_path, name):
    def with_dcmcjpeg(files):
        if not compress(files, DCMCJPEG[name]):
            pytest.skip("there is no dcmcjpeg on the PATH (Debian's package dcmtk)")

    expected, files = irregular_series(tmp_path, ExplicitVRLittleEndian, with_dcmcjpeg)
    check_irregular(read_series(tmp_path), expected, files)


def test_near_lossless_is_read_and_reported(tmp_path):
    hu = volume()
    write_series(hu, SPACING, tmp_path, transfer_syntax=JPEGLSNearLossless)
    (series,) = read_series(tmp_path)
    assert 0 < np.abs(series.hu - hu).max() <= 2  # what the writer allows
    assert series.report == (
        "LossyImageCompression (0028,2110) is 01: the slices were compressed with loss (12 of 12 slices).",
    )


def test_lossy_jpeg_2000_is_read_and_reported(tmp_path):
    hu = volume()
    write_series(hu, SPACING, tmp_path, transfer_syntax=JPEG2000TransferSyntaxes[1])
    (series,) = read_series(tmp_path)
    assert 0 < np.abs(series.hu - hu).mean() < 40
    assert "LossyImageCompression (0028,2110) is 01" in series.report[0]


def test_a_lossy_copy_in_baseline_jpeg_is_read_though_it_is_derived(tmp_path):
    hu = np.clip(volume(), -1024, -1024 + 255)
    files = write_series(hu, SPACING, tmp_path)
    for file, pixels in zip(files, hu, strict=True):
        stored = (pixels + 1024).astype(np.uint8)
        edit(file, BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0, pixels=stored)
    if not compress(files, DCMCJPEG["JPEG baseline"]):
        pytest.skip("there is no dcmcjpeg on the PATH (Debian's package dcmtk)")
    (series,) = read_series(tmp_path)
    assert 0 < np.abs(series.hu - hu).mean() < 10
    assert "LossyImageCompression (0028,2110) is 01" in series.report[0]


def test_a_zip_a_dicomdir_and_one_file_of_frames_hold_the_same(tmp_path):
    hu = volume()
    files = write_series(hu, SPACING, tmp_path / "files")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, f"../{file.name}")
        archive.writestr("__MACOSX/._x", "clutter")
        archive.writestr("inner.zip", "PK")
    directory = write_dicomdir(files, tmp_path / "media")
    (directory.parent / "readme.txt").write_text("nothing", encoding="utf-8")
    order = [3, 1, 2, 0, *range(4, 12)]
    frames = write_multiframe(hu, SPACING, tmp_path / "frames.dcm", order=order)
    reports = {
        tmp_path / "a.zip": ("left out: inner.zip: a zip within a zip is not read.",),
        directory: (),
        directory.parent: ("left out: readme.txt: not named by the DICOMDIR.",),
        frames: (),
    }
    for path, report in reports.items():
        (series,) = read_series(path)
        assert np.array_equal(series.hu, hu), path
        assert series.spacing_mm == SPACING
        assert series.report == report
        assert series.calibrated
    assert read_series(frames)[0].files[0] == "frames.dcm frame 4"
    assert not list(tmp_path.parent.glob("*.dcm"))  # what the zip's names lead to


@pytest.mark.parametrize("syntax", [*LOSSLESS[:4], RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_frames_in_every_syntax(tmp_path, syntax):
    hu = volume((5, 48, 64))
    (series,) = read_series(write_multiframe(hu, SPACING, tmp_path / "frames", syntax, [4, 2, 0, 1, 3]))
    assert np.array_equal(series.hu, hu)
    assert series.report == ()


@pytest.mark.parametrize("signs", list(itertools.product("LR", "PA", "SI")), ids="".join)
def test_nifti_of_every_orientation_gives_the_same_hu_and_spacing(tmp_path, signs):
    hu = volume((5, 6, 7))
    for order in itertools.permutations(range(3)):
        axes = "".join(signs[axis] for axis in order)
        (series,) = read_series(write_nifti(hu, SPACING, tmp_path / f"{axes}.nii", axes))
        assert np.array_equal(series.hu, hu), axes
        assert series.spacing_mm == SPACING
        assert series.report == ()


def test_nifti_and_dicom_agree_and_gzip_is_read(tmp_path):
    hu = volume()
    write_series(hu, SPACING, tmp_path / "dicom")
    (dicom,) = read_series(tmp_path / "dicom")
    (nifti,) = read_series(write_nifti(hu, SPACING, tmp_path / "a.nii.gz", "RAS"))
    assert np.array_equal(dicom.hu, nifti.hu)
    assert dicom.spacing_mm == nifti.spacing_mm
    (tmp_path / "noname").write_bytes(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    assert np.array_equal(read_series(tmp_path / "noname")[0].hu, hu)


def test_one_slice(tmp_path):
    (file,) = write_series(volume((1, 48, 64)), SPACING, tmp_path)
    for path in (file, tmp_path):
        (series,) = read_series(path)
        assert series.hu.shape == (1, 48, 64)
        assert series.spacing_mm == SPACING  # the thickness
        assert series.report == ("there is one slice only.",)


def test_nothing_to_read(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"nowhere does not exist; give a folder, a zip or a file of DICOM"
    ):
        read_series(tmp_path / "nowhere")
    with pytest.raises(SeriesError, match=f"{tmp_path.name}: the folder is empty; give"):
        read_series(tmp_path)
    (tmp_path / "notes.txt").write_text("no series", encoding="utf-8")
    with pytest.raises(SeriesError, match=r"no DICOM file and no picture among 1 file \(notes\.txt\)"):
        read_series(tmp_path)
    with pytest.raises(SeriesError, match=r"notes\.txt: not a series; give"):
        read_series(tmp_path / "notes.txt")


def test_what_is_there_but_not_read_is_named(tmp_path):
    def refusal(path=tmp_path):
        with pytest.raises(SeriesError) as refused:
            read_series(path)
        return str(refused.value)

    below = tmp_path / "person" / "one"
    below.mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(below / "1.png")
    name = tmp_path.name
    assert refusal() == (
        f"{name}: its pictures lie in folders below it; give the folder of one series ({name}/person/one)"
    )
    assert refusal(below / "1.png") == "1.png: one picture is no series; give the folder of all slices"
    write_nifti(volume((2, 6, 8)), SPACING, tmp_path / "a.nii.gz")
    assert refusal() == f"{name}: a.nii.gz: a NIfTI or zip file is given by itself, not by its folder"
    (file,) = write_series(volume((1, 6, 8)), SPACING, tmp_path / "dicom")
    bare = "DICOM without DICM at byte 128 (PS3.10 7.1); export it again, or rewrite it with dcmtk's dcmconv"
    content = file.read_bytes()
    implicit = b"\x08\0\x05\0\x0a\0\0\0ISO_IR 100"
    for start in (content[132:], implicit):
        file.write_bytes(start)
        assert refusal() == f"{name}: dicom/{file.name}: {bare}"
        assert refusal(file) == f"{file.name}: {bare}"
    (tmp_path / "dicom" / "good").write_bytes(content)
    assert f"left out: dicom/{file.name}: {bare}." in read_series(tmp_path)[0].report


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "1.png",
            "a zip of pictures, and only DICOM is read from a zip; unpack it, and give the folder of one series",
        ),
        ("a.NII.gz", "a zip of NIfTI, and only DICOM is read from a zip; unpack it, and give the file"),
    ],
)
def test_a_zip_of_something_else_is_to_be_unpacked(tmp_path, name, words):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"x")
        archive.writestr("readme.txt", b"x")
    with pytest.raises(SeriesError) as refused:
        read_series(path)
    assert str(refused.value) == f"a.zip: {words}"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("damaged", bytes(128) + b"DICM")
    with pytest.raises(SeriesError, match=r"a\.zip: no CT slice can be read\."):
        read_series(path)


def test_a_preamble_may_begin_as_dicom_does(tmp_path):
    (file,) = write_series(volume((1, 6, 8)), SPACING, tmp_path)
    file.write_bytes(b"\x08\0\x05\0CS" + file.read_bytes()[6:])
    assert len(read_series(file)[0].hu) == 1


def test_records_that_are_not_in_use_are_skipped(tmp_path):
    hu = volume((3, 48, 64))
    directory = write_dicomdir(write_series(hu, SPACING, tmp_path / "files"), tmp_path / "media")
    dataset = dcmread(directory)
    records = [each for each in dataset.DirectoryRecordSequence if each.DirectoryRecordType == "IMAGE"]
    records[1].RecordInUseFlag = 0
    unused = "/".join(records[1].ReferencedFileID)
    dataset.save_as(directory)
    for path in (directory, directory.parent):
        (series,) = read_series(path)
        assert len(series.hu) == 2
        assert series.report[-1] == (
            f"left out: {unused}: RecordInUseFlag (0004,1410) of the DICOMDIR is 0: the record is not in use."
        )


def test_a_dicomdir_tells_files_apart_that_look_alike_in_messages(tmp_path):
    (file,) = write_series(volume((1, 48, 64)), SPACING, tmp_path / "files")
    directory = write_dicomdir([file], tmp_path / "media")
    (named,) = directory.parent.rglob("IM*")
    folders = named.parent.relative_to(directory.parent)
    # The same but for what a message leaves out of a long name.
    long = [directory.parent / f"{'A' * 70}{number}{'B' * 70}" for number in range(2)]
    for path in long:
        path.write_bytes(named.read_bytes())
    dataset = dcmread(directory)
    record = next(each for each in dataset.DirectoryRecordSequence if each.DirectoryRecordType == "IMAGE")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's: a name of over 16 characters (PS3.10 8.2)
        record.ReferencedFileID = long[0].name
        dataset.save_as(directory)
    (series,) = read_series(directory.parent)
    shown = f"{'A' * 58}...{'B' * 59}"
    assert series.files == (shown,)
    assert f"left out: {shown}, {folders / named.name}: not named by the DICOMDIR." in series.report


def test_a_damaged_dicomdir_gives_way_to_the_folder(tmp_path):
    hu = volume((3, 48, 64))
    write_series(hu, SPACING, tmp_path)
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"damaged")
    (series,) = read_series(tmp_path)
    assert np.array_equal(series.hu, hu)
    assert series.report[-1].startswith("left out: DICOMDIR: the DICOMDIR is of no use (")


def test_a_dicomdir_whose_files_are_gone(tmp_path):
    files = write_series(volume((3, 48, 64)), SPACING, tmp_path / "files")
    directory = write_dicomdir(files, tmp_path / "media")
    gone = sorted(path for path in (tmp_path / "media").rglob("IM*"))
    gone[1].unlink()
    (series,) = read_series(directory)
    assert len(series.hu) == 2
    assert f"{gone[1].name}: ReferencedFileID (0004,1500) of the DICOMDIR does not exist." in series.report[-1]


def test_warnings_of_pydicom_are_counted_and_no_others_are_kept(tmp_path):
    files = write_series(volume((2, 48, 64)), SPACING, tmp_path)
    for file in files:
        content = file.read_bytes()
        at = content.index(b"\x20\x00\x52\x00UI") + 8  # FrameOfReferenceUID (0020,0052)
        file.write_bytes(content[:at] + b"SECRET" + content[at + 6 :])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (series,) = read_series(tmp_path)
    assert len(series.hu) == 2
    assert series.report == ("2 warnings of pydicom about values that do not follow the standard.",)
    assert read_series(files[0])[0].report[-1] == (
        "1 warning of pydicom about a value that does not follow the standard."
    )


def test_series_are_read_in_threads(tmp_path):
    hu = volume((3, 48, 64))
    write_series(hu, SPACING, tmp_path)
    found = []
    threads = [threading.Thread(target=lambda: found.append(read_series(tmp_path)[0].hu)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(np.array_equal(each, hu) for each in found)


def test_the_window():
    # LINEAR_EXACT of level -600 and width 1500: from -1350 to 150 HU; -600 is 127.5, which rounds to even.
    hu = np.array([-2000.0, -1350.0, -600.0, -450.0, 150.0, 3000.0], np.float32)
    assert display(hu, -600, 1500).tolist() == [0, 0, 128, 153, 255, 255]
    with pytest.raises(ValueError, match="width must be over 0"):
        display(hu, -600, 0)


def test_pixels_of_a_volume():
    hu = np.array([[[-1000.0, -235.0]]], np.float32)
    series = Volume("a", hu, SPACING, (), ("a",))
    assert (
        series.pixels(0, level=-600, width=1500)[0, 1].tolist() == [190] * 3
    )  # (365 / 1500 + 0.5) * 255 = 189.55
    pictures = Volume("a", hu, SPACING, (), ("a",), calibrated=False)
    assert pictures.pixels(0, level=40, width=400).tolist() == [[[0] * 3, [255] * 3]]
    assert pictures.pixels(0).dtype == np.uint8


@pytest.mark.parametrize("package", ["pydicom", "nibabel"])
def test_a_missing_package_names_the_extra(tmp_path, package):
    write_series(volume((2, 48, 64)), SPACING, tmp_path / "dicom")
    write_nifti(volume((2, 48, 64)), SPACING, tmp_path / "a.nii")
    path = tmp_path / ("dicom" if package == "pydicom" else "a.nii")
    code = (
        f"import sys; sys.modules[{package!r}] = None; from ladnn_tf.data.volumes import read_series; "
        f"read_series({str(path)!r})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert (
        f"ImportError: {package} is not installed: pip install '.[dicom]' in the project's folder" in result.stderr
    )
