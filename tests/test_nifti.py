"""NIfTI: scales, units, and everything about a header that is refused by name."""

import gzip
import struct

import nibabel
import numpy as np
import pytest
from dicom_series import SPACING, volume

from benchmarks.series_files import write_nifti
from ladnn_tf.data.volumes import SeriesError, read_series


@pytest.fixture
def hu():
    return volume((3, 4, 5))


@pytest.fixture
def path(tmp_path, hu):
    return write_nifti(hu, SPACING, tmp_path / "a.nii")


def put(path, at, kind, *values):
    """Writes values into the header."""
    content = bytearray(path.read_bytes())
    struct.pack_into(f"<{kind}", content, at, *values)
    path.write_bytes(content)


def test_slope_and_intercept(path, hu):
    put(path, 112, "ff", 2.0, -500.0)
    assert np.array_equal(read_series(path)[0].hu, hu * 2 - 500)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_versions_and_byte_orders(tmp_path, hu, kind, order):
    affine = np.diag([-0.8, -0.7, 5.0, 1.0])
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.dtype(np.int16).newbyteorder(order))
    kind(hu.transpose(2, 1, 0).astype(np.int16), affine, header).to_filename(tmp_path / "b.nii")
    (series,) = read_series(tmp_path / "b.nii")
    assert np.array_equal(series.hu, hu)
    assert series.spacing_mm == SPACING


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_number_types(tmp_path, dtype):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    image = nibabel.Nifti1Image(values.transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]))
    image.to_filename(tmp_path / "b.nii")
    assert np.array_equal(read_series(tmp_path / "b.nii")[0].hu, values)


def test_units_are_turned_to_millimetres(path):
    put(path, 123, "B", 3)  # xyzt_units: micrometres
    put(path, 280, "ffff", -800, 0, 0, 0)
    put(path, 296, "ffff", 0, -700, 0, 0)
    put(path, 312, "ffff", 0, 0, 5000, 0)
    assert read_series(path)[0].spacing_mm == SPACING


def test_what_is_no_number_becomes_air(tmp_path):
    values = np.zeros((2, 2, 5), np.float32)
    values[0, 0, 0] = np.nan
    nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0])).to_filename(tmp_path / "b.nii")
    (series,) = read_series(tmp_path / "b.nii")
    assert series.hu[0, 0, 0] == -1000
    assert np.count_nonzero(series.hu) == 1
    assert series.report == ("5.00% of the voxels are no finite numbers and became air, -1000 HU.",)


def test_tilted_axes_are_kept_and_oblique_ones_refused(tmp_path, hu):
    def rotated(degrees):
        angle = np.radians(degrees)
        affine = np.diag([-0.8, -0.7, 5.0, 1.0])
        turn = np.eye(4)
        turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        image = nibabel.Nifti1Image(hu.transpose(2, 1, 0).astype(np.int16), turn @ affine)
        image.to_filename(tmp_path / "b.nii")
        return tmp_path / "b.nii"

    (series,) = read_series(rotated(20))
    assert np.array_equal(series.hu, hu)
    assert series.report == ("the axes are 20.0 degrees from the patient's; they are kept as they are.",)
    with pytest.raises(SeriesError, match=r"b\.nii: the axes are 30 degrees from the patient's"):
        read_series(rotated(30))


def test_no_orientation_is_reported(path):
    put(path, 252, "hh", 0, 0)
    assert "sform_code and qform_code are 0" in read_series(path)[0].report[0]


@pytest.mark.parametrize(
    ("at", "kind", "values", "message"),
    [
        (0, "i", (347,), "sizeof_hdr and magic"),
        (40, "h", (2,), r"dim is \[2, 5, 4, 3"),
        (40, "hhhhh", (4, 5, 4, 3, 2), "one three-dimensional volume is read"),
        (42, "h", (0,), "with an axis that is empty"),
        (42, "h", (6,), r"dim and datatype need 144 bytes; the file has, or may unzip to|cut off"),
        (42, "hhh", (4097, 4097, 1), "slices of 4097 x 4097"),
        (42, "hhh", (1, 1, 4001), "4,001 slices"),
        (70, "h", (128,), "datatype .* is not of plain numbers"),
        (70, "h", (9999,), "a damaged NIfTI file"),
        (108, "f", (100.0,), "vox_offset is 100"),
        (108, "f", (float("nan"),), "a damaged NIfTI file"),
        (112, "f", (float("inf"),), "scl_slope inf or scl_inter"),
        (280, "f", (float("nan"),), "the affine .* is not of finite numbers"),
        (280, "ffff", (0.0, 0.0, 0.0, 0.0), "the affine .* is not of finite numbers over 0"),
        (280, "f", (1e6,), "0.001 to 100 are read"),
    ],
)
def test_damaged_headers_are_refused(path, at, kind, values, message):
    put(path, at, kind, *values)
    with pytest.raises(SeriesError, match=f"a.nii: .*({message})"):
        read_series(path)


def test_cut_off_and_zipped_bombs(tmp_path, path):
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(SeriesError, match=r"a\.nii: cut off: slice 3 of 3 is not whole"):
        read_series(path)
    zipped = tmp_path / "b.nii.gz"
    zipped.write_bytes(gzip.compress(content)[:-20])
    with pytest.raises(SeriesError, match=r"b\.nii\.gz: "):
        read_series(zipped)
    head = bytearray(content[:352])
    struct.pack_into("<hhh", head, 42, 1024, 1024, 200)
    zipped.write_bytes(gzip.compress(bytes(head) + b"\0" * 10**6))
    with pytest.raises(SeriesError, match=r"need 419,430,400 bytes; the file has, or may unzip to, 67,108,864"):
        read_series(zipped)
