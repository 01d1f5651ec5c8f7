"""What is written is valid DICOM, by other people's programs, and says nothing of the order in its names."""

import shutil
import subprocess

import numpy as np
import pytest
from dicom_series import SPACING, volume
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEG2000Lossless

from benchmarks.series_files import SYNTAXES, write_multiframe
from ladnn_tf.data.dicom_writer import write_series


def program(name):
    """The path of a program of dcmtk or dicom3tools; the test is skipped where there is none."""
    path = shutil.which(name)
    if not path:
        pytest.skip(f"there is no {name} on the PATH (Debian's packages dcmtk and dicom3tools)")
    return path


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
def test_dcmdump_and_dciodvfy_accept_it(tmp_path, syntax):
    file = write_series(volume((2, 32, 40)), SPACING, tmp_path, transfer_syntax=syntax)[1]
    result = subprocess.run([program("dcmdump"), file], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    assert "PHANTOM^CT" in result.stdout
    if syntax == DeflatedExplicitVRLittleEndian:  # dciodvfy does not read it
        subprocess.run([program("dcmconv"), "+te", file, file], check=True)
    result = subprocess.run([program("dciodvfy"), file], capture_output=True, text=True, check=False)
    assert "CTImage" in result.stderr
    assert not [line for line in result.stderr.splitlines() if "Error" in line]
    assert result.returncode == 0


def test_dcmdump_and_dciodvfy_accept_frames(tmp_path):
    file = write_multiframe(volume((2, 32, 40)), SPACING, tmp_path / "frames.dcm")
    result = subprocess.run([program("dcmdump"), file], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    result = subprocess.run([program("dciodvfy"), file], capture_output=True, text=True, check=False)
    assert "LegacyConvertedEnhancedCTImage" in result.stderr
    assert not [line for line in result.stderr.splitlines() if "Error" in line]
    assert result.returncode == 0


def test_names_tell_nothing_of_the_order(tmp_path):
    files = write_series(volume(), SPACING, tmp_path)
    heights = [float(dcmread(file).ImagePositionPatient[2]) for file in files]
    assert heights == [5.0 * index for index in range(12)]
    assert files != sorted(files)
    assert files != sorted(files, reverse=True)


def test_the_same_arguments_give_the_same_files(tmp_path):
    hu = volume((2, 8, 8))
    first = {file.name: file.read_bytes() for file in write_series(hu, SPACING, tmp_path / "a", seed=3)}
    again = {file.name: file.read_bytes() for file in write_series(hu, SPACING, tmp_path / "b", seed=3)}
    other = {file.name for file in write_series(hu, SPACING, tmp_path / "c", seed=4)}
    assert first == again
    assert not other & set(first)


def test_series_of_one_seed_share_study_and_frame_of_reference(tmp_path):
    hu = volume((1, 8, 8))
    (soft,) = write_series(hu, SPACING, tmp_path, description="soft")
    (lung,) = write_series(hu, SPACING, tmp_path, description="lung")
    soft, lung = dcmread(soft), dcmread(lung)
    assert soft.StudyInstanceUID == lung.StudyInstanceUID
    assert soft.FrameOfReferenceUID == lung.FrameOfReferenceUID
    assert soft.SeriesInstanceUID != lung.SeriesInstanceUID
    assert soft.PatientComments == "this is no person"


def test_fractions_are_rounded_and_16_bits_kept(tmp_path):
    hu = np.array([[[-1024.4, 0.6], [31743.0, -33792.0 + 2048]]])
    (file,) = write_series(hu, SPACING, tmp_path)
    # Stored is HU + 1024, in 16 bits with a sign.
    assert dcmread(file).pixel_array.tolist() == [[0, 1025], [32767, -30720]]


@pytest.mark.parametrize(
    ("hu", "spacing", "syntax", "message"),
    [
        (np.zeros((2, 2)), SPACING, ExplicitVRLittleEndian, "axes z, y, x"),
        (np.zeros((0, 2, 2)), SPACING, ExplicitVRLittleEndian, "none of them empty"),
        (np.full((1, 2, 2), 31744.0), SPACING, ExplicitVRLittleEndian, "do not fit into 16 bits"),
        (np.full((1, 2, 2), np.nan), SPACING, ExplicitVRLittleEndian, "do not fit into 16 bits"),
        (np.zeros((1, 2, 2)), (1, 0, 1), ExplicitVRLittleEndian, "three positive lengths"),
        (np.zeros((1, 2, 2)), (1, 1), ExplicitVRLittleEndian, "three positive lengths"),
        (np.zeros((1, 2, 2)), (1, np.nan, 1), ExplicitVRLittleEndian, "three positive lengths"),
        (np.zeros((1, 31, 40)), SPACING, JPEG2000Lossless, "from 32 rows and columns on"),
        (np.zeros((1, 2, 2)), SPACING, "1.2.840.10008.1.2.4.50", "no encoder for JPEG Baseline"),
    ],
)
def test_what_cannot_be_written(tmp_path, hu, spacing, syntax, message):
    with pytest.raises(ValueError, match=message):
        write_series(hu, spacing, tmp_path, transfer_syntax=syntax)
