"""The headers of CT slices in DICOM files, of one slice or, with functional groups, of many (PS3.3 C.7.6.16).

What is read and what is left out is decided in `dicom_kinds`. Names and dates of the patient and free text, which
may hold them, are never read; who the patient is, is only compared, by a digest.
"""

import hashlib
import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ladnn_tf.data import dicom_elements as elements
from ladnn_tf.data.dicom_codecs import CodecError, check_syntax
from ladnn_tf.data.dicom_elements import DAMAGED, ElementError
from ladnn_tf.data.dicom_header import PIXEL_ELEMENTS, LeftOutError, Pixels, open_dicom, read_pixels_header
from ladnn_tf.data.dicom_kinds import ENHANCED, check_class, check_types, image_types
from ladnn_tf.data.series_sources import Source, reason_of
from ladnn_tf.data.volume import SeriesError, counted, needs_dicom

try:
    from pydicom import uid
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataset import Dataset
    from pydicom.filereader import read_partial
except ImportError as error:
    raise needs_dicom(error) from error

_KEY = secrets.token_bytes(16)  # digests can be compared within this process, and say nothing outside it
_KEYWORDS = [
    "SOPClassUID", "ImageType", "PatientID", "IssuerOfPatientID", "StudyInstanceUID", "SeriesInstanceUID",
    "SeriesNumber", "AcquisitionNumber", "InstanceNumber", "FrameOfReferenceUID", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "GantryDetectorTilt", "RescaleSlope",
    "RescaleIntercept", "RescaleType", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows",
    "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "LossyImageCompression", "DerivationCodeSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_TAGS = [tag_for_keyword(keyword) for keyword in _KEYWORDS]


LeftOut = dict[str, list[str]]
"""Why files or frames were left out: reason -> their names."""


@dataclass(frozen=True)
class Frame:
    """The header of one slice.

    Attributes:
        pixels: of its file.
        index: in its file.
        patient: digests of PatientID and of its issuer, each empty if it is missing.
        study: digest of StudyInstanceUID; empty if it is missing.
        series: SeriesInstanceUID.
        number: of the series; None if it has none.
        order: acquisition and instance number, infinite if missing, and index, which decide between slices at one
            position.
        frame_of_reference: FrameOfReferenceUID; positions of different ones cannot be compared.
        position: centre of the first pixel, mm (L, P, H).
        orientation: direction cosines of the rows and of the columns.
        spacing: between rows and between columns, mm.
        thickness: of the slice, mm; NaN if unknown.
        slope, intercept: from stored values to HU.
        notes: what is irregular about it.
    """

    pixels: Pixels
    index: int
    patient: tuple[bytes, bytes]
    study: bytes
    series: str
    number: int | None
    order: tuple[float, float, int]
    frame_of_reference: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float
    slope: float
    intercept: float
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """For messages: the file, and the number of the frame where it has several."""
        return _name(self.pixels, self.index)


def _name(pixels: Pixels, index: int) -> str:
    return pixels.source.name if pixels.frames == 1 else f"{pixels.source.name} frame {index + 1}"


def read_frames(source: Source, left_out: LeftOut | None = None) -> list[Frame]:
    """Reads the headers of a file's slices.

    Args:
        source: the file.
        left_out: where the frames that are not read are entered, if the file has others or for several reasons.

    Raises:
        LeftOutError: if the file is not read; the message says why, with the tag.
        SeriesError: as the source.
        OSError: likewise.
    """
    try:
        file, length, inflated = open_dicom(source)
        with file:
            found = []

            def at_pixels(tag: int, vr: str | None, size: int) -> bool:
                if tag in PIXEL_ELEMENTS:
                    found.append((PIXEL_ELEMENTS[tag], file.tell(), size))
                del vr
                return tag in PIXEL_ELEMENTS

            dataset = read_partial(file, at_pixels, specific_tags=_TAGS)
            check_class(dataset)
            syntax = uid.DeflatedExplicitVRLittleEndian if inflated else _syntax(dataset)
            check_syntax(syntax)
            pixels = read_pixels_header(dataset, source, syntax, found, length)
            return _frames(dataset, pixels, {} if left_out is None else left_out)
    except (LeftOutError, SeriesError):
        raise
    except (ElementError, CodecError) as error:
        raise LeftOutError(str(error)) from error
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise LeftOutError(f"a damaged DICOM header ({type(error).__name__} while it was parsed)") from error


def _syntax(dataset: Dataset) -> uid.UID:
    name = dataset.file_meta.get("TransferSyntaxUID")
    if not isinstance(name, str) or not name:
        raise LeftOutError(f"{elements.element_name('TransferSyntaxUID')} is missing")
    return uid.UID(name)


def _frames(dataset: Dataset, pixels: Pixels, left_out: LeftOut) -> list[Frame]:
    shared = elements.items(dataset, "SharedFunctionalGroupsSequence")[:1]
    each = elements.items(dataset, "PerFrameFunctionalGroupsSequence")
    enhanced = elements.text(dataset, "SOPClassUID") in ENHANCED
    if enhanced and len(each) != pixels.frames:
        raise LeftOutError(
            f"PerFrameFunctionalGroupsSequence (5200,9230) has {counted(len(each), 'item')} for "
            f"{counted(pixels.frames, 'frame')}: without positions, slices cannot be put in order"
        )
    if not enhanced and pixels.frames != 1:
        raise LeftOutError(
            f"NumberOfFrames (0028,0008) is {pixels.frames}, but CT Image Storage has one frame (PS3.3 A.3) "
            "and no positions for more"
        )
    if not elements.text(dataset, "SeriesInstanceUID"):
        raise LeftOutError("SeriesInstanceUID (0020,000E) is missing")
    patient = _digest(dataset, "PatientID"), _digest(dataset, "IssuerOfPatientID")
    frames, refused = [], {}
    for index in range(pixels.frames):
        levels = (each[index], *shared) if enhanced else None
        try:
            frames.append(_frame(dataset, levels, pixels, index, patient))
        except (LeftOutError, ElementError) as error:
            refused.setdefault(reason_of(error, pixels.source.name), []).append(_name(pixels, index))
    if not frames and len(refused) == 1:
        raise LeftOutError(*refused)
    for reason, names in refused.items():
        left_out.setdefault(reason, []).extend(names)
    return frames


def _frame(
    dataset: Dataset, levels: Sequence[Dataset] | None, pixels: Pixels, index: int, patient: tuple[bytes, bytes]
) -> Frame:
    """One frame.

    Args:
        dataset: the header.
        levels: the items with functional groups, of which the first that has one counts; None: there are none, and
            all is in the header itself.
        pixels, index, patient: see Frame.

    Raises:
        LeftOutError, ElementError: if it is not read.
    """

    def groups(keyword: str) -> list[Dataset]:
        if levels is None:
            return [dataset]
        return next((found for level in levels if (found := elements.items(level, keyword))), [])

    def group(keyword: str) -> Dataset:
        return next(iter(groups(keyword)), Dataset())

    types = image_types(dataset, group("CTImageFrameTypeSequence"))
    check_types(types, dataset, groups("DerivationImageSequence"))
    transformation, details = group("PixelValueTransformationSequence"), group("CTAcquisitionDetailsSequence")
    slope = elements.number(transformation, "RescaleSlope")
    if slope == 0:
        raise LeftOutError("RescaleSlope (0028,1053) is 0")
    measures = group("PixelMeasuresSequence")
    spacing = elements.numbers(measures, "PixelSpacing", 2)
    if not all(1e-3 <= step <= 100 for step in spacing):
        raise LeftOutError("PixelSpacing (0028,0030) is not two lengths from 0.001 to 100 mm")
    orientation = elements.numbers(group("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    position = elements.numbers(group("PlanePositionSequence"), "ImagePositionPatient", 3)
    acquisition = _optional(group("FrameContentSequence"), "FrameAcquisitionNumber", math.inf)
    if math.isinf(acquisition):
        acquisition = _optional(dataset, "AcquisitionNumber", math.inf)
    return Frame(
        pixels=pixels,
        index=index,
        patient=patient,
        study=_digest(dataset, "StudyInstanceUID"),
        series=elements.text(dataset, "SeriesInstanceUID"),
        number=_series_number(dataset),
        order=(acquisition, _optional(dataset, "InstanceNumber", math.inf), index),
        frame_of_reference=elements.text(dataset, "FrameOfReferenceUID"),
        position=position,
        orientation=orientation,
        spacing=spacing,
        thickness=_optional(measures, "SliceThickness", math.nan),
        slope=slope,
        intercept=elements.number(transformation, "RescaleIntercept"),
        notes=tuple(_notes(dataset, types, transformation, details)),
    )


def _digest(dataset: Dataset, keyword: str) -> bytes:
    """Of an identifier, to be compared only; damaged is as good as missing."""
    try:
        found = elements.value(dataset, keyword)
    except ElementError:
        found = None
    identifier = "" if found is None else str(found).strip(" \0")
    if not identifier:
        return b""
    return hashlib.blake2b(identifier.encode(errors="replace"), digest_size=16, key=_KEY).digest()


def _series_number(dataset: Dataset) -> int | None:
    """A number and nothing else, as it goes into names; damaged is as good as missing."""
    try:
        found = elements.value(dataset, "SeriesNumber")
        return None if found is None else elements.integer(dataset, "SeriesNumber")
    except ElementError:
        return None


def _optional(dataset: Dataset, keyword: str, default: float) -> float:
    """A number without which a slice can be read; damaged is as good as missing."""
    try:
        return elements.number(dataset, keyword, default)
    except ElementError:
        return default


def _notes(
    dataset: Dataset, types: dict[str, list[str]], transformation: Dataset, details: Dataset
) -> Iterator[str]:
    kind = elements.text(transformation, "RescaleType").upper()
    if kind == "US":
        yield "RescaleType (0028,1054) is US, unspecified; taken as HU"
    elif kind not in ("", "HU"):
        raise LeftOutError(f"RescaleType (0028,1054) is {kind[:16]}, not HU")
    if not types:
        yield "ImageType (0008,0008) is missing; taken as an original axial image"
    if elements.text(dataset, "PhotometricInterpretation") == "MONOCHROME1":
        # C.7.6.3.1.2 inverts at the end of the display, after the values were rescaled (C.11.1): HU stay.
        yield "PhotometricInterpretation (0028,0004) is MONOCHROME1: shown inverted elsewhere; HU are the same"
    if elements.text(dataset, "LossyImageCompression") == "01":
        yield "LossyImageCompression (0028,2110) is 01: the slices were compressed with loss"
    tilt = _optional(details, "GantryDetectorTilt", 0.0)
    if abs(tilt) >= 0.05:
        yield f"GantryDetectorTilt (0018,1120) is {tilt:.1f} degrees"
