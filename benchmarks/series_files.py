"""Small series of every kind that is read, as bytes: what the benchmark of hostile files damages."""

import gc
import gzip
import io
import shutil
import subprocess
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    LegacyConvertedEnhancedCTImageStorage,
    RLELossless,
    generate_uid,
)

from ladnn_tf.data.dicom_writer import set_pixels, write_series

SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
)
"""What write_series writes; JPEG lossless and baseline come from dcmcjpeg."""

DCMCJPEG = {"JPEG lossless SV1": "+e1", "JPEG lossless": "+el", "JPEG baseline": "+eb"}
"""Name of a syntax -> the option of dcmtk's dcmcjpeg."""

_OF_FRAMES = (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleIntercept",
    "RescaleSlope", "RescaleType", "InstanceNumber", "KVP", "PixelData",
)  # fmt: skip


def example_hu(shape: tuple[int, int, int] = (4, 32, 40), seed: int = 0) -> np.ndarray:
    """(z, y, x) float32 whole HU from -1000 to 600: smooth, so that every codec has something to do."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(0, 3, length) for length in shape), indexing="ij")
    smooth = np.sin(x + z) * np.cos(y) * 700 - 200
    return np.rint(smooth + rng.normal(0, 30, shape)).astype(np.float32)


def compress(paths: Sequence[Path], option: str) -> bool:
    """Compresses DICOM files in place with dcmtk's dcmcjpeg, keeping UIDs; False if there is none."""
    program = shutil.which("dcmcjpeg")
    if not program:
        return False
    for path in paths:
        subprocess.run([program, "+un", option, path, path], check=True, capture_output=True)
    return True


def write_multiframe(
    hu: np.ndarray,
    spacing_mm: tuple[float, float, float],
    path: Path,
    transfer_syntax: str = ExplicitVRLittleEndian,
    order: Sequence[int] | None = None,
) -> Path:
    """Writes a volume as one file, a Legacy Converted Enhanced CT (PS3.3 A.70).

    Args:
        hu, spacing_mm, transfer_syntax: as write_series.
        path: of the file.
        order: which slice each frame holds; from feet to head if None.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = write_series(hu, spacing_mm, folder)
        slices = [dcmread(files[index]) for index in order or range(len(files))]
    # A plain data set, which may be written in another byte order than it was read.
    dataset = Dataset(slices[0])
    dataset.file_meta = slices[0].file_meta
    frames = []
    for each in slices:
        position, transformation = Dataset(), Dataset()
        position.ImagePositionPatient = each.ImagePositionPatient
        transformation.RescaleIntercept, transformation.RescaleSlope = each.RescaleIntercept, each.RescaleSlope
        transformation.RescaleType = "HU"
        content, unassigned, frame = Dataset(), Dataset(), Dataset()
        content.FrameAcquisitionNumber, unassigned.InstanceNumber = 1, each.InstanceNumber
        frame.FrameContentSequence = Items([content])
        frame.PlanePositionSequence = Items([position])
        frame.PixelValueTransformationSequence = Items([transformation])
        frame.UnassignedPerFrameConvertedAttributesSequence = Items([unassigned])
        frames.append(frame)
    measures, orientation, kind, shared = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = dataset.PixelSpacing, dataset.SliceThickness
    orientation.ImageOrientationPatient = dataset.ImageOrientationPatient
    kind.FrameType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    kind.PixelPresentation, kind.VolumetricProperties = "MONOCHROME", "VOLUME"
    kind.VolumeBasedCalculationTechnique = "NONE"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([orientation])
    shared.CTImageFrameTypeSequence = Items([kind])
    stored = np.stack([each.pixel_array for each in slices])
    for keyword in _OF_FRAMES:
        delattr(dataset, keyword)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = LegacyConvertedEnhancedCTImageStorage
    dataset.ImageType = kind.FrameType
    for keyword in ("PixelPresentation", "VolumetricProperties", "VolumeBasedCalculationTechnique"):
        setattr(dataset, keyword, kind[keyword].value)
    dataset.InstanceNumber, dataset.ContentDate, dataset.ContentTime = 1, "20000101", "000000"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.AcquisitionContextSequence = Items([])
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    dataset.NumberOfFrames = len(slices)
    dataset.SharedFunctionalGroupsSequence = Items([shared])
    dataset.PerFrameFunctionalGroupsSequence = Items(frames)
    set_pixels(dataset, stored)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_dicomdir(files: Sequence[Path], folder: Path) -> Path:
    """Copies DICOM files into a folder with a DICOMDIR, under the names that PS3.10 allows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about empty dates of a phantom's study
        file_set = FileSet()
        file_set.UID = generate_uid(entropy_srcs=["ladnn_tf", "file set"])
        for file in files:
            dataset = dcmread(file)
            # Types 1 and 2 of the study's record (PS3.3 F.5.2)
            dataset.StudyDate, dataset.StudyTime = "20000101", "000000"
            file_set.add(dataset)
        file_set.write(folder)
        # It leaves its temporary folder to the garbage collector, with a warning.
        del file_set
        gc.collect()
    return folder / "DICOMDIR"


def write_nifti(hu: np.ndarray, spacing_mm: tuple[float, float, float], path: Path, axes: str = "LPS") -> Path:
    """Writes a volume as int16 NIfTI.

    Args:
        hu, spacing_mm: as write_series.
        path: ends with .nii or .nii.gz.
        axes: towards what the three axes of the stored array go, as in nibabel: `RAS`, `SPL` ...
    """
    affine = np.diag([-spacing_mm[2], -spacing_mm[1], spacing_mm[0], 1.0])
    image = nibabel.Nifti1Image(hu.transpose(2, 1, 0).astype(np.int16), affine)
    ornt = nibabel.orientations
    turn = ornt.ornt_transform(ornt.axcodes2ornt("LPS"), ornt.axcodes2ornt(axes))
    image = image.as_reoriented(turn)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    return path


def zipped(members: Mapping[str, bytes]) -> bytes:
    """A deflated zip."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(zipfile.ZipInfo(name), member, zipfile.ZIP_DEFLATED)
    return content.getvalue()


def good_files() -> dict[str, bytes]:
    """Name of a kind -> a small valid file; kinds that only dcmcjpeg writes are missing where it is."""
    hu, spacing = example_hu(), (5.0, 0.7, 0.8)
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for syntax in SYNTAXES:
            files = write_series(hu[:1], spacing, folder / syntax.keyword, transfer_syntax=syntax)
            found[syntax.keyword] = files[0].read_bytes()
        for name, option in DCMCJPEG.items():
            files = write_series(hu[:1], spacing, folder / name)
            if compress(files, option):
                found[name] = files[0].read_bytes()
        for syntax in (ExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless):
            path = write_multiframe(hu, spacing, folder / f"{syntax.keyword}-frames.dcm", syntax)
            found[f"{syntax.keyword}, frames"] = path.read_bytes()
        files = write_series(hu, spacing, folder / "plain")
        found["DICOMDIR"] = write_dicomdir(files, folder / "media").read_bytes()
        found["zip"] = zipped({file.name: file.read_bytes() for file in files})
        found["NIfTI"] = write_nifti(hu, spacing, folder / "a.nii").read_bytes()
        found["NIfTI, gzip"] = gzip.compress(found["NIfTI"], 6, mtime=0)
    for kind in ("PNG", "JPEG"):
        content = io.BytesIO()
        Image.fromarray(np.clip((hu[0] + 1000) / 3, 0, 255).astype(np.uint8)).save(content, kind)
        found[kind] = content.getvalue()
    return found
