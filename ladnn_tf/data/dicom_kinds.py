"""Which DICOM objects and which of their slices are read as CT: by SOP class, ImageType and derivation.

Read are CT Image Storage (PS3.3 A.3) and Enhanced CT (A.38), also as Legacy Converted Enhanced CT (A.70). Left out
are all other kinds of objects; localizers (ImageType value 3, C.8.2.1.1); secondary images (value 2, C.7.6.1.1.2);
and derived images (value 1: reformations, projections, mixtures), unless all that was derived, by its codes, is a
lossy compression.
"""

from collections.abc import Mapping, Sequence

from ladnn_tf.data import dicom_elements as elements
from ladnn_tf.data.dicom_header import LeftOutError
from ladnn_tf.data.volume import needs_dicom

try:
    from pydicom import uid
    from pydicom.dataset import Dataset
except ImportError as error:
    raise needs_dicom(error) from error

ENHANCED = (uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage)
"""Objects of many slices, with functional groups."""

_READ = (uid.CTImageStorage, *ENHANCED)
_LOSSY_COMPRESSION = ("113040", "DCM")  # a derivation (PS3.16 CID 7203)


def check_class(dataset: Dataset) -> None:
    """Checks the SOP class.

    Raises:
        LeftOutError: if it is not of a CT image.
        ElementError: if it is damaged.
    """
    kind = uid.UID(elements.text(dataset, "SOPClassUID"))
    if not kind:
        kind = uid.UID(str(dataset.file_meta.get("MediaStorageSOPClassUID") or ""))
        if kind != uid.MediaStorageDirectoryStorage:
            raise LeftOutError("SOPClassUID (0008,0016) is missing")
    if kind not in _READ:
        raise LeftOutError(f"{kind.name if kind.name != kind else 'an unknown kind of object'} is no CT image")


def image_types(dataset: Dataset, frame_type: Dataset) -> dict[str, list[str]]:
    """What a slice says that it is.

    Args:
        dataset: the header.
        frame_type: the frame's item of CTImageFrameTypeSequence; empty in CT Image Storage.

    Returns:
        ImageType and FrameType (C.8.15.2.1.1), which have the same values, as far as they are there.
    """
    types = {
        "ImageType": elements.texts(dataset, "ImageType"),
        "FrameType": elements.texts(frame_type, "FrameType"),
    }
    if types["FrameType"] and types["ImageType"][:1] == ["MIXED"]:
        del types["ImageType"]  # frames of several kinds: each has its own
    return {keyword: values for keyword, values in types.items() if values}


def check_types(types: Mapping[str, Sequence[str]], dataset: Dataset, derivations: Sequence[Dataset]) -> None:
    """Checks that a slice is neither localizer nor derived nor secondary.

    Args:
        types: of image_types().
        dataset: the header.
        derivations: the frame's items of DerivationImageSequence; none in CT Image Storage.

    Raises:
        LeftOutError: if it is.
        ElementError: if what says so is damaged.
    """
    for keyword, values in types.items():
        name, shown = elements.element_name(keyword), "/".join(values)[:60]
        if "LOCALIZER" in values[2:]:
            raise LeftOutError(f"a localizer ({name} value 3)")
        if values[0] in ("DERIVED", "MIXED") and not _is_lossy_copy(values, dataset, derivations):
            raise LeftOutError(f"a derived image ({name} {shown})")
        if values[1:2] == ["SECONDARY"]:
            raise LeftOutError(f"a secondary image ({name} {shown})")


def _is_lossy_copy(values: Sequence[str], dataset: Dataset, derivations: Sequence[Dataset]) -> bool:
    """Whether a derived image is an original but for its lossy compression (C.7.6.1.1.5)."""
    codes = {
        (elements.text(code, "CodeValue"), elements.text(code, "CodingSchemeDesignator"))
        for group in (dataset, *derivations)
        for code in elements.items(group, "DerivationCodeSequence")
    }
    return (
        codes == {_LOSSY_COMPRESSION}
        and elements.text(dataset, "LossyImageCompression") == "01"
        and values[1:2] == ["PRIMARY"]
        and values[2:3] in (["AXIAL"], ["VOLUME"])
    )
