"""Which slices are read: originals and their lossy copies, in single files and frame by frame."""

import numpy as np
import pytest
from dicom_series import SPACING, another, edit, volume
from pydicom import dcmread
from pydicom.dataset import Dataset

from benchmarks.series_files import write_multiframe
from ladnn_tf.data.dicom_writer import write_series
from ladnn_tf.data.volumes import SeriesError, read_series

SMALL = (4, 6, 8)
LOSSY = ("113040", "DCM")
SIEMENS = ["DERIVED", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]


@pytest.fixture
def hu():
    return volume(SMALL)


def codes(*found):
    """Items of DerivationCodeSequence."""
    items = []
    for value, scheme in found:
        items.append(Dataset())
        items[-1].CodeValue, items[-1].CodingSchemeDesignator, items[-1].CodeMeaning = value, scheme, "such"
    return items


@pytest.mark.parametrize(
    ("image_type", "derivations", "read"),
    [
        (["DERIVED", "PRIMARY", "AXIAL"], [LOSSY], True),
        (SIEMENS, [LOSSY], True),
        (["DERIVED", "PRIMARY", "VOLUME", "NONE"], [LOSSY], True),
        (SIEMENS, [], False),  # nothing says that the compression was all
        (SIEMENS, [LOSSY, ("113072", "DCM")], False),  # multiplanar reformatting
        (SIEMENS, [("113040", "99SITE")], False),
        (["DERIVED", "SECONDARY", "AXIAL"], [LOSSY], False),
        (["DERIVED", "PRIMARY", "OTHER"], [LOSSY], False),
    ],
)
def test_a_derived_image_is_read_if_its_codes_say_that_it_is_a_lossy_copy(
    tmp_path, hu, image_type, derivations, read
):
    for file in write_series(hu, SPACING, tmp_path):
        edit(file, ImageType=image_type, LossyImageCompression="01", DerivationCodeSequence=codes(*derivations))
    if read:
        assert np.array_equal(read_series(tmp_path)[0].hu, hu)
        return
    with pytest.raises(SeriesError, match=rf"a derived image \(ImageType \(0008,0008\) {'/'.join(image_type)}\)"):
        read_series(tmp_path)


def test_a_secondary_image_is_left_out_and_reported(tmp_path, hu):
    files = write_series(hu, SPACING, tmp_path)
    another(files[1], tmp_path / "capture", ImageType=["ORIGINAL", "SECONDARY", "AXIAL"])
    (series,) = read_series(tmp_path)
    assert np.array_equal(series.hu, hu)
    assert series.report == (
        "left out: capture: a secondary image (ImageType (0008,0008) ORIGINAL/SECONDARY/AXIAL).",
    )


def frames(folder, hu, change):
    """A multi-frame file after a change of its data set."""
    path = write_multiframe(hu, SPACING, folder / "frames.dcm")
    dataset = dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return path


def set_type(frame, values):
    item = Dataset()
    item.FrameType = values
    frame.CTImageFrameTypeSequence = [item]


def no_frame_types(dataset):
    del dataset.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence


REFORMATION = ["DERIVED", "PRIMARY", "VOLUME", "MPR"]


@pytest.mark.parametrize("with_frame_types", [True, False])
def test_the_type_of_the_whole_file_counts_as_well(tmp_path, hu, with_frame_types):
    def change(dataset):
        dataset.ImageType = REFORMATION
        if not with_frame_types:
            no_frame_types(dataset)

    with pytest.raises(SeriesError, match=r"frames\.dcm: a derived image \(ImageType \(0008,0008\) DERIVED"):
        read_series(frames(tmp_path, hu, change))


def test_an_original_file_needs_no_frame_types(tmp_path, hu):
    (series,) = read_series(frames(tmp_path, hu, no_frame_types))
    assert np.array_equal(series.hu, hu)
    assert series.report == ()


def test_a_frame_type_is_called_one(tmp_path, hu):
    def change(dataset):
        set_type(dataset.SharedFunctionalGroupsSequence[0], REFORMATION)

    with pytest.raises(SeriesError, match=r"a derived image \(FrameType \(0008,9007\) DERIVED/PRIMARY/VOLUME/MPR"):
        read_series(frames(tmp_path, hu, change))


def test_a_lossy_copy_of_frames_may_have_its_codes_in_its_groups(tmp_path, hu):
    def change(dataset):
        shared = dataset.SharedFunctionalGroupsSequence[0]
        dataset.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
        set_type(shared, dataset.ImageType)
        dataset.LossyImageCompression = "01"
        derivation = Dataset()
        derivation.DerivationCodeSequence = codes(LOSSY)
        shared.DerivationImageSequence = [derivation]

    (series,) = read_series(frames(tmp_path, hu, change))
    assert np.array_equal(series.hu, hu)
    assert "LossyImageCompression (0028,2110) is 01" in series.report[0]


def test_bad_frames_are_left_out_and_the_others_read(tmp_path, hu):
    def change(dataset):
        each = dataset.PerFrameFunctionalGroupsSequence
        dataset.ImageType = ["MIXED", "PRIMARY", "VOLUME", "MIXED"]
        set_type(each[0], ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"])
        del each[3].PlanePositionSequence

    (series,) = read_series(frames(tmp_path, hu, change))
    assert np.array_equal(series.hu, hu[1:3])
    assert series.files == ("frames.dcm frame 2", "frames.dcm frame 3")
    assert series.report == (
        "left out: frames.dcm frame 1: a localizer (FrameType (0008,9007) value 3).",
        "left out: frames.dcm frame 4: ImagePositionPatient (0020,0032) is missing.",
    )


def test_frames_that_are_all_bad_are_named(tmp_path, hu):
    def change(dataset):
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            del frame.PlanePositionSequence

    with pytest.raises(SeriesError, match=r"frames\.dcm: ImagePositionPatient \(0020,0032\) is missing\."):
        read_series(frames(tmp_path, hu, change))

    def change_one(dataset):
        change(dataset)
        set_type(dataset.PerFrameFunctionalGroupsSequence[1], REFORMATION)

    with pytest.raises(SeriesError) as refused:
        read_series(frames(tmp_path, hu, change_one))
    assert "frames.dcm frame 1, frames.dcm frame 3, frames.dcm frame 4: ImagePosition" in str(refused.value)
    assert "frames.dcm frame 2: a derived image (FrameType (0008,9007) DERIVED" in str(refused.value)
