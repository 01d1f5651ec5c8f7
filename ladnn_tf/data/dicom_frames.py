"""The headers of CT slices in DICOM files: what is read, what is left out and why.

Read are CT Image Storage (PS3.3 A.3), one slice a file, and Enhanced CT (A.38) with its functional groups, also as
Legacy Converted Enhanced CT (A.70). Left out are all other kinds of objects; localizers (ImageType value 3,
C.8.2.1.1); and derived images (ImageType value 1, C.7.6.1.1.2: reformations, projections, mixtures), unless all
that was derived is a lossy compression. Names, identifiers and dates of the patient are never read.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ladnn_tf.data import dicom_elements as elements
from ladnn_tf.data.dicom_codecs import CodecError, check_syntax
from ladnn_tf.data.dicom_elements import DAMAGED, ElementError
from ladnn_tf.data.dicom_header import PIXEL_ELEMENTS, LeftOutError, Pixels, open_dicom, read_pixels_header
from ladnn_tf.data.series_sources import Source
from ladnn_tf.data.volume import SeriesError, needs_dicom

try:
    from pydicom import uid
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataset import Dataset
    from pydicom.filereader import read_partial
except ImportError as error:
    raise needs_dicom(error) from error

_SINGLE = (uid.CTImageStorage,)
_ENHANCED = (uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage)
_LOSSY_COMPRESSION = "113040"  # DCM code of a derivation (PS3.16 CID 7203)

_KEYWORDS = [
    "SOPClassUID", "ImageType", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "AcquisitionNumber",
    "InstanceNumber", "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness", "GantryDetectorTilt", "RescaleSlope", "RescaleIntercept", "RescaleType", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "LossyImageCompression",
    "DerivationCodeSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_TAGS = [tag_for_keyword(keyword) for keyword in _KEYWORDS]


@dataclass(frozen=True)
class Frame:
    """The header of one slice.

    Attributes:
        pixels: of its file.
        index: in its file.
        series: SeriesInstanceUID.
        number, description: of the series.
        order: acquisition and instance number, which decide between slices at one position.
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
    series: str
    number: str
    description: str
    order: tuple[float, float, int]
    frame_of_reference: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float
    slope: float
    intercept: float
    notes: tuple[str, ...]


def read_frames(source: Source) -> list[Frame]:
    """Reads the headers of a file's slices.

    Raises:
        LeftOutError: if it is not read; the message says why, with the tag.
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
            _check_kind(dataset)
            syntax = uid.DeflatedExplicitVRLittleEndian if inflated else _syntax(dataset)
            check_syntax(syntax)
            pixels = read_pixels_header(dataset, source, syntax, found, length)
            return list(_frames(dataset, pixels))
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


def _check_kind(dataset: Dataset) -> None:
    kind = uid.UID(elements.text(dataset, "SOPClassUID"))
    if not kind:
        kind = uid.UID(str(dataset.file_meta.get("MediaStorageSOPClassUID") or ""))
        if kind != uid.MediaStorageDirectoryStorage:
            raise LeftOutError("SOPClassUID (0008,0016) is missing")
    if kind not in (*_SINGLE, *_ENHANCED):
        raise LeftOutError(f"{kind.name if kind.name != kind else 'an unknown kind of object'} is no CT image")


def _check_type(image_type: list[str], dataset: Dataset) -> None:
    """ImageType, or FrameType of Enhanced CT (C.8.15.2.1.1), which has the same values."""
    if "LOCALIZER" in image_type[2:]:
        raise LeftOutError("a localizer (ImageType (0008,0008) value 3)")
    if image_type[:1] in (["DERIVED"], ["MIXED"]) and not _is_lossy_copy(image_type, dataset):
        raise LeftOutError(f"a derived image (ImageType (0008,0008) {'/'.join(image_type)[:60]})")


def _is_lossy_copy(image_type: list[str], dataset: Dataset) -> bool:
    """Whether a derived image is an original but for its lossy compression (C.7.6.1.1.5)."""
    codes = [elements.text(code, "CodeValue") for code in elements.items(dataset, "DerivationCodeSequence")]
    return (
        elements.text(dataset, "LossyImageCompression") == "01"
        and image_type[2:3] == ["AXIAL"]
        and not image_type[3:]
        and set(codes) <= {_LOSSY_COMPRESSION}
    )


def _frames(dataset: Dataset, pixels: Pixels) -> Iterator[Frame]:
    shared = elements.items(dataset, "SharedFunctionalGroupsSequence")[:1]
    frames = elements.items(dataset, "PerFrameFunctionalGroupsSequence")
    enhanced = elements.text(dataset, "SOPClassUID") in _ENHANCED
    if enhanced and len(frames) != pixels.frames:
        raise LeftOutError(
            f"PerFrameFunctionalGroupsSequence (5200,9230) has {len(frames)} items "
            f"for {pixels.frames} frames: without positions, slices cannot be put in order"
        )
    if not enhanced and pixels.frames != 1:
        raise LeftOutError(
            f"NumberOfFrames (0028,0008) is {pixels.frames}, but CT Image Storage has one frame (PS3.3 A.3) "
            "and no positions for more"
        )
    series = elements.text(dataset, "SeriesInstanceUID")
    if not series:
        raise LeftOutError("SeriesInstanceUID (0020,000E) is missing")
    for index in range(pixels.frames):

        def group(keyword: str, index: int = index) -> Dataset:
            if not enhanced:
                return dataset
            for level in (frames[index], *shared):
                if found := elements.items(level, keyword):
                    return found[0]
            return Dataset()

        image_type = elements.texts(group("CTImageFrameTypeSequence"), "FrameType" if enhanced else "ImageType")
        _check_type(image_type, dataset)
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
        yield Frame(
            pixels=pixels,
            index=index,
            series=series,
            number=_optional_text(dataset, "SeriesNumber"),
            description=_optional_text(dataset, "SeriesDescription"),
            order=(_order(dataset, "AcquisitionNumber"), _order(dataset, "InstanceNumber"), index),
            frame_of_reference=elements.text(dataset, "FrameOfReferenceUID"),
            position=position,
            orientation=orientation,
            spacing=spacing,
            thickness=_thickness(measures),
            slope=slope,
            intercept=elements.number(transformation, "RescaleIntercept"),
            notes=tuple(_notes(dataset, image_type, transformation, details)),
        )


def _optional_text(dataset: Dataset, keyword: str) -> str:
    """Text that only names a series: damaged is as good as missing."""
    try:
        found = elements.value(dataset, keyword)
    except ElementError:
        return ""
    return "" if found is None else "".join(sign for sign in str(found) if sign.isprintable())[:64].strip()


def _order(dataset: Dataset, keyword: str) -> float:
    try:
        return elements.number(dataset, keyword, math.inf)
    except ElementError:
        return math.inf


def _thickness(measures: Dataset) -> float:
    try:
        return elements.number(measures, "SliceThickness", math.nan)
    except ElementError:
        return math.nan


def _notes(dataset: Dataset, image_type: list[str], transformation: Dataset, details: Dataset) -> Iterator[str]:
    kind = elements.text(transformation, "RescaleType").upper()
    if kind == "US":
        yield "RescaleType (0028,1054) is US, unspecified; taken as HU"
    elif kind not in ("", "HU"):
        raise LeftOutError(f"RescaleType (0028,1054) is {kind[:16]}, not HU")
    if not image_type:
        yield "ImageType (0008,0008) is missing; taken as an original axial image"
    if elements.text(dataset, "PhotometricInterpretation") == "MONOCHROME1":
        # C.7.6.3.1.2 inverts at the end of the display, after the values were rescaled (C.11.1): HU stay.
        yield "PhotometricInterpretation (0028,0004) is MONOCHROME1: shown inverted elsewhere; HU are the same"
    if elements.text(dataset, "LossyImageCompression") == "01":
        yield "LossyImageCompression (0028,2110) is 01: the slices were compressed with loss"
    try:
        tilt = elements.number(details, "GantryDetectorTilt", 0.0)
    except ElementError:
        tilt = 0.0
    if abs(tilt) >= 0.05:
        yield f"GantryDetectorTilt (0018,1120) is {tilt:.1f} degrees"
