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
    assert series.name == "series 1 (phantom)"
    gap, again, localizer = series.report
    between = f"{files[GAP - 1].name} and {files[GAP].name}"
    assert gap == f"a gap of 10 mm, where 5 mm are usual, between {between}: about 1 missing."
    assert again == "1 slices lie where another one lies, with the same pixels, and were left out: 0.dcm."
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
    with pytest.raises(SeriesError, match=r"no DICOM file and no picture among 1 files \(notes\.txt\)"):
        read_series(tmp_path)
    with pytest.raises(SeriesError, match=r"notes\.txt: not a series; give"):
        read_series(tmp_path / "notes.txt")


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
    assert f"ImportError: {package} is not installed: pip install 'ladnn_tf[dicom]'" in result.stderr
