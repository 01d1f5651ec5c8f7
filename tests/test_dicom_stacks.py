"""What makes a volume of its own: study, patient, orientation, acquisition; and what it is called."""

import numpy as np
import pytest
from dicom_series import SPACING, another, edit, volume
from pydicom import dcmread

from ladnn_tf.data import dicom_series, dicom_stacks
from ladnn_tf.data.dicom_writer import write_series
from ladnn_tf.data.volumes import SeriesError, read_series

SMALL = (4, 6, 8)
OVERLAP = "2 acquisitions (AcquisitionNumber (0020,0012)) of the series overlap; they were read as 2 volumes."
FOLLOW = "the slices are of 2 acquisitions (AcquisitionNumber (0020,0012)), one after the other."


@pytest.fixture
def hu():
    return volume(SMALL)


def write_studies(folder, hu, **second):
    """Two studies in one folder; elements of the second one changed."""
    write_series(hu, SPACING, folder / "a")
    for file in write_series(hu + 1, SPACING, folder / "b", seed=1):
        edit(file, **second)
    return read_series(folder)


def test_studies_and_patients_are_told_apart_and_never_named(tmp_path, hu):
    first, second = write_studies(tmp_path, hu)
    assert (first.name, second.name) == ("study 1 of 2, series 1", "study 2 of 2, series 1")
    assert np.array_equal(first.hu, hu)
    assert np.array_equal(second.hu, hu + 1)
    assert first.files[0].startswith("a/")
    warnings = ("the files are of 2 studies.", "the files are of 2 patients.")
    assert first.report == second.report == warnings
    assert "PHANTOM" not in " ".join((first.name, *first.report))


def test_two_studies_of_one_patient(tmp_path, hu):
    first, second = write_studies(tmp_path, hu, PatientID="PHANTOM-0 ")  # padded (PS3.5 6.2)
    assert first.report == second.report == ("the files are of 2 studies.",)


@pytest.mark.parametrize(
    ("issuers", "patients"), [(("A", "B"), 2), (("A", "A"), 1), (("A", ""), 1), (("", ""), 1)]
)
def test_an_identifier_is_its_issuers(tmp_path, hu, issuers, patients):
    for seed, issuer in enumerate(issuers):
        for file in write_series(hu, SPACING, tmp_path / str(seed), seed=seed):
            edit(file, PatientID="SECRET", IssuerOfPatientID=issuer)
    report = read_series(tmp_path)[0].report
    assert ("the files are of 2 patients." in report) == (patients == 2)


def test_two_patients_with_the_same_uids_are_not_mixed(tmp_path, hu):
    """As broken anonymisation makes them."""
    write_series(hu, SPACING, tmp_path / "a")
    for file in write_series(hu + 1, SPACING, tmp_path / "b"):
        edit(file, PatientID="other")
    first, second = read_series(tmp_path)
    assert np.array_equal(first.hu, hu)
    assert np.array_equal(second.hu, hu + 1)
    assert "the files are of 2 patients." in first.report


def test_missing_identifiers_are_no_second_study(tmp_path, hu):
    for file in write_series(hu, SPACING, tmp_path):
        edit(file, remove=["PatientID", "StudyInstanceUID"])
    (series,) = read_series(tmp_path)
    assert (series.name, series.report) == ("series 1", ())


@pytest.mark.parametrize("number", ["", None])
def test_a_series_without_a_number(tmp_path, hu, number):
    for file in write_series(hu, SPACING, tmp_path):
        edit(file, SeriesNumber=number)
    assert read_series(tmp_path)[0].name == "series without a number"


def test_hairs_of_difference_make_no_second_volume(tmp_path):
    """On both sides of where a rounded value would change."""
    hu = volume((8, 6, 8))
    for index, file in enumerate(write_series(hu, SPACING, tmp_path)):
        hair = 0.0001 * (-1) ** index
        spacing = f"{0.7005 + hair / 10:.6f}"
        sine, cosine = f"{0.005 + hair:.6f}", f"{np.sqrt(1 - (0.005 + hair) ** 2):.6f}"
        edit(file, PixelSpacing=[spacing] * 2, ImageOrientationPatient=[cosine, sine, 0, f"-{sine}", cosine, 0])
    (series,) = read_series(tmp_path)
    assert np.array_equal(series.hu, hu)
    assert series.report == ()


def test_parts_of_a_series_are_bounded(tmp_path, hu, monkeypatch):
    monkeypatch.setattr(dicom_stacks, "MAX_PARTS", 2)
    for index, file in enumerate(write_series(hu, SPACING, tmp_path)):
        edit(file, PixelSpacing=[1 + 0.1 * index] * 2)
    volumes = read_series(tmp_path)
    assert [len(series.hu) for series in volumes] == [1, 1]
    assert "its series has slices of more than 2 orientations or pixel spacings." in volumes[0].report[-1]


def second_acquisition(folder, files, hu, by):
    """Copies with the next AcquisitionNumber, moved by so many mm; HU of 0."""
    pixels = np.full(hu.shape[1:], 1024, np.int16)
    for index, file in enumerate(files):
        x, y, z = dcmread(file).ImagePositionPatient
        values = {"AcquisitionNumber": 2, "InstanceNumber": 100 + index, "ImagePositionPatient": [x, y, z + by]}
        another(file, folder / f"second{index}", pixels=pixels, **values)


@pytest.mark.parametrize("by", [0, 1, 14.9])
def test_acquisitions_that_overlap_are_volumes_of_their_own(tmp_path, hu, by):
    files = write_series(hu, SPACING, tmp_path)
    second_acquisition(tmp_path, files, hu, by)
    first, second = read_series(tmp_path)
    assert (first.name, second.name) == ("series 1, acquisition 1 of 2", "series 1, acquisition 2 of 2")
    assert np.array_equal(first.hu, hu)
    assert not second.hu.any()
    assert second.hu.shape == hu.shape
    assert first.report == second.report == (OVERLAP,)


def test_acquisitions_that_follow_one_another_are_one_volume(tmp_path, hu):
    files = write_series(hu, SPACING, tmp_path)
    second_acquisition(tmp_path, files, hu, 20)
    (series,) = read_series(tmp_path)
    assert series.name == "series 1"
    assert np.array_equal(series.hu[:4], hu)
    assert series.hu.shape == (8, 6, 8)
    assert series.report == (FOLLOW,)


def test_two_phases_of_two_acquisitions_each(tmp_path, hu):
    """1 and 2 lie one above the other, and 3 and 4 in the same places."""
    for number in range(4):
        values = hu + 10 * number
        for index, file in enumerate(write_series(values, SPACING, tmp_path / str(number), description="one")):
            position = [0, 0, 5 * index + 20 * (number % 2)]
            edit(file, AcquisitionNumber=number + 1, ImagePositionPatient=position)
    first, second = read_series(tmp_path)
    assert np.array_equal(first.hu, np.concatenate([hu, hu + 10]))
    assert np.array_equal(second.hu, np.concatenate([hu + 20, hu + 30]))
    assert first.report == (OVERLAP.replace("2", "4", 1), FOLLOW)


def test_an_acquisition_for_each_slice_is_one_volume(tmp_path, hu):
    """As old scanners number them; a slice that was repeated is a duplicate."""
    files = write_series(hu, SPACING, tmp_path)
    for index, file in enumerate(files):
        edit(file, AcquisitionNumber=index + 1)
    another(files[2], tmp_path / "again", AcquisitionNumber=9)
    (series,) = read_series(tmp_path)
    assert np.array_equal(series.hu, hu)
    assert series.report[0].endswith("with the same pixels, and was left out: again.")
    assert "of 5 acquisitions" in series.report[1]


def test_series_that_are_too_many_together_are_listed_by_number(tmp_path, hu, monkeypatch):
    monkeypatch.setattr(dicom_series, "MAX_ALL_VOXELS", 300)
    for number, slices in ((2, 4), (5, 3)):
        for file in write_series(hu[:slices], SPACING, tmp_path / str(number), description=str(number)):
            edit(file, SeriesNumber=number)
    with pytest.raises(SeriesError) as refused:
        read_series(tmp_path)
    message = str(refused.value)
    assert message.startswith(
        f"{tmp_path.name}: 2 series have 336 voxels together, more than the 300 that are read at once; "
        "give each as a folder or zip of its own (series 2: 4 slices, such as 2/"
    )
    assert "; series 5: 3 slices, such as 5/" in message
