"""Writes CT volumes as DICOM series (CT Image Storage, PS3.3 A.3) in any transfer syntax that can be encoded here.

For phantoms, tests and benchmarks: the attributes of patient and study say that this is no person.
"""

import hashlib
from pathlib import Path

import numpy as np

from ladnn_tf.data.volume import needs_dicom

try:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_encoder
    from pydicom.uid import (
        UID,
        CTImageStorage,
        ExplicitVRBigEndian,
        ExplicitVRLittleEndian,
        JPEG2000Lossless,
        JPEG2000TransferSyntaxes,
        JPEGLSNearLossless,
        generate_uid,
    )
except ImportError as error:
    raise needs_dicom(error) from error

INTERCEPT = -1024
"""HU of the stored value 0, as most scanners have it; the slope is 1."""

_NEAR_LOSSLESS_ERROR = 2  # stored values, at most
_JPEG_2000_SIDE = 32  # for the encoder's six resolutions
_LOSSY_RATIO = 10  # of JPEG 2000


def write_series(
    hu: np.ndarray,
    spacing_mm: tuple[float, float, float],
    folder: str | Path,
    *,
    description: str = "phantom",
    transfer_syntax: str = ExplicitVRLittleEndian,
    seed: int = 0,
) -> list[Path]:
    """Writes one file per slice.

    Args:
        hu: (z, y, x), z from feet to head, y to the back, x to the patient's left; rounded to whole HU.
        spacing_mm: between slices, rows and columns.
        folder: where to write; made if it is missing. Files of the same names are overwritten.
        description: the series' description; with the seed, it decides UIDs and file names.
        transfer_syntax: its UID: uncompressed, deflated, RLE, JPEG-LS or JPEG 2000.
        seed: series of one seed belong to one study; the same arguments give the same files.

    Returns:
        The files from feet to head. Their names tell nothing of the order.

    Raises:
        ValueError: if the volume has not three axes, HU do not fit into 16 bits, a spacing is not positive, or
            there is no encoder for the transfer syntax (that of JPEG 2000 needs 32 rows and columns).
    """
    stored = _stored(hu)
    if len(spacing_mm) != 3 or not all(np.isfinite(step) and step > 0 for step in spacing_mm):
        raise ValueError(f"spacing_mm must be three positive lengths (z, y, x), got {spacing_mm!r}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, pixels in enumerate(stored):
        dataset = _slice(stored.shape, index, spacing_mm, description, UID(transfer_syntax), seed)
        set_pixels(dataset, pixels)
        # The digest of a UID: neither sorted by position nor by instance number.
        name = hashlib.sha256(dataset.SOPInstanceUID.encode()).hexdigest()[:12]
        path = folder / f"{name}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _stored(hu: np.ndarray) -> np.ndarray:
    """(z, y, x) int16 stored values."""
    hu = np.asarray(hu)
    if hu.ndim != 3 or 0 in hu.shape:
        raise ValueError(f"a volume has the axes z, y, x, none of them empty; got the shape {hu.shape}")
    limits = np.iinfo(np.int16)
    lowest, highest = hu.min(), hu.max()
    # Written so that NaN, which compares as false, is refused too.
    if not (lowest - INTERCEPT >= limits.min and highest - INTERCEPT <= limits.max):
        raise ValueError(f"HU from {lowest} to {highest} do not fit into 16 bits with intercept {INTERCEPT}")
    return np.rint(hu - np.float32(INTERCEPT)).astype(np.int16)


def _slice(
    shape: tuple[int, int, int],
    index: int,
    spacing_mm: tuple[float, float, float],
    description: str,
    transfer_syntax: UID,
    seed: int,
) -> Dataset:
    """One slice without its pixels: the attributes of type 1 and 2 of the CT Image IOD (PS3.3 A.3.3)."""

    def uid(*about: object) -> str:
        return generate_uid(entropy_srcs=["ladnn_tf", str(seed), *map(str, about)])

    series = (description, transfer_syntax)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = uid("instance", *series, index)
    # SOP Common (C.12.1)
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    # Patient (C.7.1.1), General Study (C.7.2.1)
    dataset.PatientName = "PHANTOM^CT"
    dataset.PatientID = f"PHANTOM-{seed}"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = ""
    dataset.PatientComments = "this is no person"
    dataset.StudyInstanceUID = uid("study")
    dataset.StudyDate = ""
    dataset.StudyTime = ""
    dataset.ReferringPhysicianName = ""
    dataset.StudyID = "1"
    dataset.AccessionNumber = ""
    # General Series (C.7.3.1), Frame of Reference (C.7.4.1), General Equipment (C.7.5.1)
    dataset.Modality = "CT"
    dataset.SeriesInstanceUID = uid("series", *series)
    dataset.SeriesNumber = 1
    dataset.SeriesDescription = description
    dataset.BodyPartExamined = "CHEST"
    dataset.PatientPosition = "HFS"
    dataset.FrameOfReferenceUID = uid("frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.Manufacturer = "ladnn_tf"
    # General Image (C.7.6.1), General Acquisition (C.7.10.1)
    dataset.InstanceNumber = index + 1
    dataset.AcquisitionNumber = 1
    # Image Plane (C.7.6.2): x to the patient's left, y to the back, and so the normal to the head
    step, rows, columns = (float(length) for length in spacing_mm)
    dataset.PixelSpacing = [_decimal(rows), _decimal(columns)]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [
        _decimal(-columns * (shape[2] - 1) / 2),
        _decimal(-rows * (shape[1] - 1) / 2),
        _decimal(step * index),
    ]
    dataset.SliceThickness = _decimal(step)
    # CT Image (C.8.2.1)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.RescaleIntercept = INTERCEPT
    dataset.RescaleSlope = 1
    dataset.RescaleType = "HU"
    dataset.KVP = 120
    # Image Pixel (C.7.6.3)
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = shape[1:]
    dataset.BitsAllocated = 16
    dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    return dataset


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters (PS3.5 6.2, DS)."""
    return f"{value:.9g}"


def set_pixels(dataset: Dataset, pixels: np.ndarray) -> None:
    """Stores pixels in a data set as its transfer syntax has them.

    Args:
        dataset: with the attributes of the Image Pixel module and a transfer syntax; PixelData is set, and what
            lossy compression asks for (C.7.6.1.1.5).
        pixels: (y, x) stored values, or (frames, y, x), of the data set's bits and sign.

    Raises:
        ValueError: if there is no encoder for the transfer syntax.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    frames = pixels.reshape(-1, *pixels.shape[-2:])
    if not syntax.is_compressed or syntax.is_deflated:
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        content = frames.astype(frames.dtype.newbyteorder(order)).tobytes()
        dataset.PixelData = content + b"\0" * (len(content) % 2)
        # Explicit VR: OW where a pixel has more than 8 bits (PS3.5 A.2)
        dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"
        return
    encoded = [_encode(frame, dataset, syntax) for frame in frames]
    dataset.PixelData = encapsulate(encoded)
    dataset["PixelData"].VR = "OB"
    if syntax in (JPEGLSNearLossless, JPEG2000TransferSyntaxes[1]):
        dataset.LossyImageCompression = "01"
        dataset.LossyImageCompressionRatio = f"{frames.nbytes / sum(map(len, encoded)):.4g}"
        near = syntax == JPEGLSNearLossless
        dataset.LossyImageCompressionMethod = "ISO_14495_1" if near else "ISO_15444_1"


def _encode(frame: np.ndarray, dataset: Dataset, syntax: UID) -> bytes:
    if syntax in JPEG2000TransferSyntaxes:
        # pydicom's own encoder needs the package pylibjpeg around this one.
        import openjpeg

        if min(frame.shape) < _JPEG_2000_SIDE:
            raise ValueError(f"JPEG 2000 is written from {_JPEG_2000_SIDE} rows and columns on, got {frame.shape}")
        ratio = [] if syntax == JPEG2000Lossless else [_LOSSY_RATIO]
        return openjpeg.encode(
            np.ascontiguousarray(frame),
            bits_stored=dataset.BitsStored,
            photometric_interpretation=2,
            compression_ratios=ratio,
        )
    try:
        encoder = get_encoder(syntax)
    except NotImplementedError as error:
        raise ValueError(f"there is no encoder for {syntax.name} ({syntax})") from error
    options = {"jls_error": _NEAR_LOSSLESS_ERROR} if syntax == JPEGLSNearLossless else {}
    return encoder.encode(
        np.ascontiguousarray(frame),
        rows=dataset.Rows,
        columns=dataset.Columns,
        samples_per_pixel=1,
        photometric_interpretation=dataset.PhotometricInterpretation,
        bits_allocated=dataset.BitsAllocated,
        bits_stored=dataset.BitsStored,
        pixel_representation=dataset.PixelRepresentation,
        number_of_frames=1,
        **options,
    )
