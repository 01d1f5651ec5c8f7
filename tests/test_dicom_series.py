"""What is irregular about a DICOM series is read as the standard says, and said; what cannot be read is named."""

import sys

import numpy as np
import pytest
from dicom_series import AIL, SPACING, another, edit, volume
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage, JPEGLSLossless, SecondaryCaptureImageStorage

from ladnn_tf.data.dicom_geometry import turn_of
from ladnn_tf.data.dicom_writer import write_series
from ladnn_tf.data.volume import check_size, value_report
from ladnn_tf.data.volumes import SeriesError, read_series

SMALL = (4, 6, 8)


@pytest.fixture
def hu():
    return volume(SMALL)


@pytest.fixture
def files(tmp_path, hu):
    return write_series(hu, SPACING, tmp_path)


def read_one(folder):
    (series,) = read_series(folder)
    return series


def test_several_series_are_separated_and_put_in_order(tmp_path, hu):
    for number, name in ((10, "LUNG"), (2, "SOFT")):
        for file in write_series(hu + number, SPACING, tmp_path, description=name):
            edit(file, SeriesNumber=number)
    soft, lung = read_series(tmp_path)
    assert (soft.name, lung.name) == ("series 2", "series 10")
    assert np.array_equal(soft.hu, hu + 2)
    assert np.array_equal(lung.hu, hu + 10)


def test_order_is_by_position_and_not_by_instance_number(tmp_path, files, hu):
    for number, file in zip((7, 1, 9, 3), files, strict=True):
        edit(file, InstanceNumber=number)
    assert np.array_equal(read_one(tmp_path).hu, hu)


def test_each_slice_has_its_own_slope_and_intercept(tmp_path, files, hu):
    edit(files[1], RescaleSlope="2", RescaleIntercept="-2000")
    series = read_one(tmp_path)
    # Stored is HU + 1024.
    assert np.array_equal(series.hu[1], (hu[1] + 1024) * 2 - 2000)
    assert np.array_equal(series.hu[[0, 2, 3]], hu[[0, 2, 3]])
    assert any(
        "RescaleSlope (0028,1053) or RescaleIntercept (0028,1052) differs" in line for line in series.report
    )


@pytest.mark.parametrize(
    ("stored", "high_bit", "signed", "raw", "value"),
    [
        (16, 15, 0, 0xFFFF, 65535),
        (16, 15, 1, 0xFFFF, -1),
        (12, 11, 0, 0xF801, 0x801),  # bits above the stored ones are no part of the pixel
        (12, 11, 1, 0x0801, 0x801 - 0x1000),
        (12, 11, 1, 0xF7FF, 0x7FF),
        (12, 15, 0, 0x801F, 0x801),  # the stored bits lie at the top
        (12, 15, 1, 0x801F, 0x801 - 0x1000),
    ],
)
def test_bits_and_signs(tmp_path, files, stored, high_bit, signed, raw, value):
    pixels = np.full((6, 8), raw, np.uint16)
    edit(files[0], BitsStored=stored, HighBit=high_bit, PixelRepresentation=signed, pixels=pixels)
    assert (read_one(files[0]).hu == value - 1024).all()


@pytest.mark.parametrize("signed", [0, 1])
def test_padding_becomes_air(tmp_path, files, hu, signed):
    """The range holds both ends; -2000 is 63536 in 16 bits without a sign."""
    values = np.array([-2000, -1990, -1980, -1979, 0, 1000]) if signed else np.array([0, 5, 10, 11, 1000, 2000])
    pixels = np.resize(values, (6, 8)).astype(np.int16 if signed else np.uint16)
    edit(files[0], PixelRepresentation=signed, pixels=pixels)
    dataset = dcmread(files[0])
    vr = "SS" if signed else "US"
    dataset.add_new("PixelPaddingValue", vr, int(values[0]))
    dataset.add_new("PixelPaddingRangeLimit", vr, int(values[2]))
    dataset.save_as(files[0])
    series = read_one(files[0])
    assert series.hu.ravel()[:6].tolist() == [-1000] * 3 + [value - 1024 for value in values[3:]]
    assert series.report[1] == (
        "PixelPaddingValue (0028,0120): 50.0% of the pixels, in 1 slice, hold no measurement and became air, "
        "-1000 HU."
    )


def test_monochrome1_leaves_the_hu_as_they_are(tmp_path, files, hu):
    for file in files:
        edit(file, PhotometricInterpretation="MONOCHROME1")
    series = read_one(tmp_path)
    assert np.array_equal(series.hu, hu)
    assert "MONOCHROME1: shown inverted elsewhere; HU are the same (4 of 4 slices)" in series.report[0]


ORIENTATIONS = {
    "prone": ([-1, 0, 0, 0, -1, 0], lambda slices: slices[:, ::-1, ::-1]),
    "mirrored": ([-1, 0, 0, 0, 1, 0], lambda slices: slices[:, :, ::-1]),
    "normal to the feet": ([1, 0, 0, 0, -1, 0], lambda slices: slices[:, ::-1]),
    "columns first": ([0, 1, 0, 1, 0, 0], lambda slices: slices.transpose(0, 2, 1)),
    "turned": ([0, 1, 0, -1, 0, 0], lambda slices: slices.transpose(0, 2, 1)[:, :, ::-1]),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_slices_are_turned(tmp_path, files, hu, name):
    cosines, turned = ORIENTATIONS[name]
    for file in files:
        edit(file, ImageOrientationPatient=cosines)
    series = read_one(tmp_path)
    assert np.array_equal(series.hu, turned(hu))
    assert series.hu.flags.c_contiguous
    transposed = name in ("columns first", "turned")
    assert series.spacing_mm == ((5.0, 0.8, 0.7) if transposed else SPACING)
    assert series.report[0].startswith("turned by ImageOrientationPatient (0020,0037)")


def test_a_tilted_slice_is_kept_and_an_oblique_one_left_out(tmp_path, files, hu):
    def cosines(degrees):
        angle = np.radians(degrees)
        return [1, 0, 0, 0, round(float(np.cos(angle)), 6), round(float(np.sin(angle)), 6)]

    for file in files:
        edit(file, ImageOrientationPatient=cosines(20), GantryDetectorTilt=20)
    series = read_one(tmp_path)
    assert np.array_equal(series.hu, hu)
    # 15 mm along the table; sin(20 degrees) of it lie in the slices' plane.
    assert any("sideways by 5.13 mm" in line for line in series.report)
    assert any("tilted by 20.0 degrees from axial" in line for line in series.report)
    assert any("GantryDetectorTilt (0018,1120) is 20.0 degrees (4 of 4 slices)" in line for line in series.report)
    assert series.spacing_mm[0] == pytest.approx(5 * np.cos(np.radians(20)), abs=1e-4)
    for file in files:
        edit(file, ImageOrientationPatient=cosines(26))
    with pytest.raises(SeriesError, match=r"not axial: ImageOrientationPatient \(0020,0037\) is over 25 degrees"):
        read_series(tmp_path)


def test_turns_worked_out_by_hand():
    turn = turn_of([-1, 0, 0, 0, -1, 0])
    assert (turn.transposed, turn.flip_y, turn.flip_x, turn.oblique, turn.rotated) == (False, True, True, 0, 0)
    assert turn_of([0.6, 0.8, 0, -0.8, 0.6, 0]).transposed
    assert turn_of([0.8, 0.6, 0, -0.6, 0.8, 0]).rotated == pytest.approx(36.87, abs=0.01)
    assert turn_of(AIL).oblique == 90
    for wrong in ([1, 0, 0, 1, 0, 0], [2, 0, 0, 0, 1, 0], [0] * 6):
        with pytest.raises(ValueError, match=r"ImageOrientationPatient \(0020,0037\) is not two perpendicular"):
            turn_of(wrong)


def test_a_duplicate_with_other_pixels_is_told_from_one_with_the_same(tmp_path, files, hu):
    pixels = np.zeros((6, 8), np.int16)
    another(files[1], tmp_path / "other", InstanceNumber=50, pixels=pixels)
    another(files[2], tmp_path / "same", InstanceNumber=51)
    series = read_one(tmp_path)
    assert np.array_equal(series.hu, hu)
    assert series.report[:2] == (
        "1 slice lies where another one lies, with the same pixels, and was left out: same.",
        "1 slice lies where another one lies, with other pixels, and was left out: other.",
    )


def test_mixed_distances_and_thicknesses_are_reported(tmp_path, files):
    x, y, _ = dcmread(files[3]).ImagePositionPatient
    edit(files[3], ImagePositionPatient=[x, y, 16], SliceThickness=2)
    report = read_one(tmp_path).report
    assert report[0] == "SliceThickness (0018,0050) is mixed: 2, 5 mm."
    assert report[1] == "the distance between slices is mixed: 5 to 6 mm."


def test_slices_of_another_size_are_another_volume(tmp_path, files, hu):
    edit(files[3], Rows=3, pixels=np.zeros((3, 8), np.int16))
    large, small = read_series(tmp_path)
    assert (large.name, small.name) == ("series 1, part 1 of 2", "series 1, part 2 of 2")
    assert np.array_equal(large.hu, hu[:3])
    assert small.hu.shape == (1, 3, 8)
    assert any("it was read as 2 volumes" in line for line in large.report)


LEFT_OUT = {
    "a report": ({"SOPClassUID": ComprehensiveSRStorage}, "Comprehensive SR Storage is no CT image"),
    "a screenshot": (
        {"SOPClassUID": SecondaryCaptureImageStorage},
        "Secondary Capture Image Storage is no CT image",
    ),
    "derived": (
        {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
        r"a derived image \(ImageType \(0008,0008\) DERIVED/",
    ),
    "no HU": ({"RescaleType": "MGML"}, r"RescaleType \(0028,1054\) is MGML, not HU"),
    "colour": ({"SamplesPerPixel": 3}, r"SamplesPerPixel \(0028,0002\) is not 1"),
    "palette": (
        {"PhotometricInterpretation": "PALETTE COLOR"},
        r"PhotometricInterpretation \(0028,0004\) is neither",
    ),
    "bits": ({"BitsStored": 17}, r"BitsStored \(0028,0101\) 17"),
    "sign": ({"PixelRepresentation": 2}, r"PixelRepresentation \(0028,0103\) is 2"),
    "rows": ({"Rows": 0}, r"Rows \(0028,0010\) x Columns \(0028,0011\) is 0 x 8"),
    "huge": ({"Rows": 65535, "Columns": 65535}, r"is 65535 x 65535; 1 to 16,777,216 are read"),
    "more rows than pixels": ({"Rows": 7}, r"PixelData \(7FE0,0010\) has 96 bytes of 112: the file is cut off"),
    "frames": (
        {"NumberOfFrames": 2, "Rows": 3},
        r"NumberOfFrames \(0028,0008\) is 2, but CT Image Storage has one",
    ),
    "slope": ({"RescaleSlope": 0}, r"RescaleSlope \(0028,1053\) is 0"),
    "spacing": ({"PixelSpacing": [0, 1]}, r"PixelSpacing \(0028,0030\) is not two lengths"),
    "orientation": (
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
        r"ImageOrientationPatient \(0020,0037\) is not",
    ),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_one_such_file_is_left_out_and_a_series_of_them_refused(tmp_path, files, hu, name):
    values, message = LEFT_OUT[name]
    edit(files[3], **values)
    series = read_one(tmp_path)
    assert np.array_equal(series.hu, hu[:3])
    with pytest.raises(SeriesError, match=message) as refused:
        read_series(files[3])
    assert f"{files[3].name}: no CT slice can be read. left out: {files[3].name}: " in str(refused.value)
    assert series.report[-1] == f"left out: {str(refused.value).split('left out: ')[1]}"


@pytest.mark.parametrize(
    ("keyword", "tag"),
    [
        ("RescaleSlope", "0028,1053"),
        ("RescaleIntercept", "0028,1052"),
        ("PixelSpacing", "0028,0030"),
        ("ImagePositionPatient", "0020,0032"),
        ("ImageOrientationPatient", "0020,0037"),
        ("SeriesInstanceUID", "0020,000E"),
        ("SOPClassUID", "0008,0016"),
        ("Rows", "0028,0010"),
        ("BitsAllocated", "0028,0100"),
        ("PixelRepresentation", "0028,0103"),
        ("PixelData", "7FE0,0010"),
    ],
)
def test_a_missing_element_is_named(files, keyword, tag):
    edit(files[0], remove=[keyword])
    with pytest.raises(SeriesError, match=rf"{keyword} \({tag}\) is missing"):
        read_series(files[0])


def test_many_files_are_left_out_in_one_line(tmp_path, files):
    for file in files:
        edit(file, ImageType=["DERIVED", "PRIMARY", "AXIAL"])
    with pytest.raises(
        SeriesError, match=r" and 1 more: a derived image \(ImageType \(0008,0008\) DERIVED/PRIMARY"
    ):
        read_series(tmp_path)


def test_damaged_files_among_good_ones(tmp_path, files, hu):
    files[3].write_bytes(files[3].read_bytes()[:-10])
    (tmp_path / "a.txt").write_text("no slice", encoding="utf-8")
    series = read_one(tmp_path)
    assert np.array_equal(series.hu, hu[:3])
    cut_off = "PixelData (7FE0,0010) has 86 bytes of 96: the file is cut off"
    assert "left out: a.txt: not a DICOM file: no DICM at byte 128 (PS3.10 7.1)." in series.report
    assert f"left out: {files[3].name}: {cut_off}." in series.report


def test_a_damaged_code_stream_makes_a_gap(tmp_path):
    hu = volume((4, 48, 64))
    files = write_series(hu, SPACING, tmp_path, transfer_syntax=JPEGLSLossless)
    content = bytearray(files[1].read_bytes())
    at = content.index(b"\xff\xf7")  # the frame header: one row more
    content[at + 6] += 1
    files[1].write_bytes(content)
    series = read_one(tmp_path)
    assert np.array_equal(series.hu, hu[[0, 2, 3]])
    assert series.report[0].startswith("a gap of 10 mm")
    assert series.report[-1] == (
        f"left out: {files[1].name}: a frame of PixelData (7FE0,0010) has 49 x 64 pixels of 1 sample, but Rows "
        "and Columns say 48 x 64."
    )


def test_a_missing_decoder_names_syntax_and_extra(tmp_path, monkeypatch):
    write_series(volume(SMALL), SPACING, tmp_path, transfer_syntax=JPEGLSLossless)
    monkeypatch.setitem(sys.modules, "gdcm", None)
    with pytest.raises(
        SeriesError,
        match=r"JPEG-LS Lossless Image Compression .*pip install '\.\[dicom\]' in the project's folder",
    ):
        read_series(tmp_path)


def test_a_syntax_without_a_decoder_is_named(files):
    syntax, mpeg2 = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.100\0"
    content = files[0].read_bytes().replace(b"UI\x14\0" + syntax, b"UI\x18\0" + mpeg2)
    files[0].write_bytes(content)
    with pytest.raises(SeriesError, match=r"TransferSyntaxUID \(0002,0010\) MPEG2 .* has no decoder here"):
        read_series(files[0])


def test_nothing_about_the_patient_is_passed_on(tmp_path, files):
    secret = {
        "PatientName": "SECRET^NAME",
        "PatientID": "SECRET-1",
        "PatientBirthDate": "19400203",
        "StudyDate": "20200304",
        "AccessionNumber": "SECRET-2",
        "InstitutionName": "SECRET",
        "SeriesDescription": "SECRET 1940",
        "ProtocolName": "SECRET",
        "IssuerOfPatientID": "SECRET-3",
        "StudyInstanceUID": "1.2.1940.2020",
    }
    for file in files:
        edit(file, **secret, PhotometricInterpretation="MONOCHROME1")
    another(files[0], tmp_path / "derived", ImageType=["DERIVED", "PRIMARY"])
    series = read_one(tmp_path)
    words = " ".join((series.name, *series.report, *series.files))
    assert not [value for value in ("SECRET", "1940", "2020") if value in words]


def test_an_enhanced_file_without_positions_is_refused(files):
    edit(files[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1", PerFrameFunctionalGroupsSequence=[])
    with pytest.raises(
        SeriesError, match=r"PerFrameFunctionalGroupsSequence \(5200,9230\) has 0 items for 1 frame"
    ):
        read_series(files[0])
    edit(files[0], PerFrameFunctionalGroupsSequence=[Dataset()])
    with pytest.raises(SeriesError, match=r"\(0028,105[23]\) is missing"):
        read_series(files[0])


def test_sizes_are_bounded():
    check_size("a", (1024, 512, 512))
    for shape, message in (
        ((4001, 1, 1), "a: a series of 4,001 slices; no more than 4,000"),
        ((1, 4097, 4096), "a: slices of 4097 x 4096; no more than 16,777,216 pixels"),
        ((1025, 512, 512), "a: a series of 1,025 slices of 512 x 512; no more than 268,435,456 voxels"),
    ):
        with pytest.raises(SeriesError, match=message):
            check_size("a", shape)


def test_implausible_values_are_reported():
    hu = np.zeros((2, 2, 5), np.float32)
    assert value_report(hu) == []
    hu[0, 0, 0], hu[1, 1, 1] = -2000, 5000
    assert value_report(hu) == ["10.00% of the pixels lie outside -1200 to 4095 HU (from -2000 to 5000)"]
