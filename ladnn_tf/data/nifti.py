"""NIfTI files as volumes: the stored array turned by its affine, slice by slice into one float32 array."""

import contextlib
import gzip
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ladnn_tf.data.series_sources import MAX_FILE_BYTES, file_source, inflated_limit
from ladnn_tf.data.volume import AIR, SeriesError, Volume, check_size, needs_dicom, value_report

try:
    import nibabel
    from nibabel import orientations
    from nibabel.spatialimages import HeaderDataError
except ImportError as error:
    raise needs_dicom(error) from error

MAX_OBLIQUE = 25.0
"""Degrees between an axis of the array and the nearest one of the patient; beyond, it is refused."""

GZIP_SIGNATURE = b"\x1f\x8b"
_SIZES = {348: (nibabel.Nifti1Header, b"n+1\0"), 540: (nibabel.Nifti2Header, b"n+2\0")}
_MAX_OFFSET = 2**20  # of the array: extensions of the header lie before it
_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_DAMAGED = (
    HeaderDataError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
)


def is_nifti(head: bytes) -> bool:
    """Whether the first 352 bytes of a file, unzipped, are those of NIfTI-1 or NIfTI-2 in one file."""
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


@contextlib.contextmanager
def open_nifti(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Opens a file, through gzip if it is zipped; nothing more is unzipped than is read.

    Yields:
        The file, and how many bytes may be read of it.

    Raises:
        SeriesError: if it is too large.
        OSError: if it cannot be read.
    """
    with file_source(path).open() as file:
        zipped = file.read(2) == GZIP_SIGNATURE
        file.seek(0)
        if zipped:
            with gzip.GzipFile(fileobj=file, mode="rb") as unzipped:
                yield unzipped, inflated_limit(path.stat().st_size, 2 * MAX_FILE_BYTES)
        else:
            yield file, path.stat().st_size


def read_nifti(path: Path) -> Volume:
    """Reads one volume in HU.

    Raises:
        SeriesError: if it is damaged, too large, oblique, or not of one plain three-dimensional array; the message
            names the field.
        OSError: if it cannot be read.
    """
    name = path.name
    try:
        with open_nifti(path) as (file, limit):
            return _read(name, file, limit)
    except SeriesError:
        raise
    except gzip.BadGzipFile as error:
        raise SeriesError(f"{name}: damaged gzip ({error}); copy it again from its source") from error
    except OSError as error:
        if error.errno:
            raise
        raise SeriesError(f"{name}: cannot be read ({error})") from error
    except _DAMAGED as error:
        raise SeriesError(f"{name}: a damaged NIfTI file ({error}); copy it again from its source") from error


def _read(name: str, file: BinaryIO, limit: int) -> Volume:
    header, at = _header(name, file)
    shape, dtype = _shape(name, header), header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise SeriesError(f"{name}: datatype {dtype} is not of plain numbers; save it as int16 or float32")
    check_size(name, (shape[2], shape[1], shape[0]))
    offset = int(header.get_data_offset())
    if not at <= offset <= _MAX_OFFSET:
        raise SeriesError(f"{name}: vox_offset is {offset}, not from {at} to {_MAX_OFFSET:,}")
    needed = math.prod(shape) * dtype.itemsize
    if needed > limit:
        raise SeriesError(
            f"{name}: dim and datatype need {needed:,} bytes; the file has, or may unzip to, {limit:,}: it is cut "
            "off, or no CT"
        )
    slope, intercept = _scale(name, header)
    report: list[str] = []
    turn, spacing = _turn(name, header, report)
    file.read(offset - at)
    hu = np.empty([shape[int(axis)] for axis in np.argsort(turn[:, 0])][::-1], np.float32)
    # The same memory seen with the axes and directions of the file.
    stored = hu.transpose(2, 1, 0)[tuple(slice(None, None, -1 if flip < 0 else 1) for flip in _flips(turn))]
    stored = stored.transpose([int(axis) for axis in turn[:, 0]])
    size, lost = shape[0] * shape[1] * dtype.itemsize, 0
    for index in range(shape[2]):
        content = file.read(size)
        if len(content) < size:
            raise SeriesError(f"{name}: cut off: slice {index + 1} of {shape[2]} is not whole; copy it again")
        plane = np.frombuffer(content, dtype).reshape(shape[1], shape[0]).T
        with np.errstate(over="ignore", invalid="ignore"):
            plane = (plane * slope + intercept).astype(np.float32)
        wrong = ~np.isfinite(plane)
        if wrong.any():
            lost += int(wrong.sum())
            plane[wrong] = AIR
        stored[:, :, index] = plane
    if lost:
        report.append(f"{lost / hu.size:.2%} of the voxels are no finite numbers and became air, -1000 HU")
    if len(hu) == 1:
        report.append("there is one slice only")
    report += value_report(hu)
    files = tuple(f"{name} slice {index + 1}" for index in range(len(hu)))
    return Volume(name, hu, spacing, tuple(f"{line}." for line in report), files)


def _header(name: str, file: BinaryIO) -> tuple[nibabel.Nifti1Header, int]:
    """The header, and how many bytes were read for it."""
    head = file.read(348)
    for order in ("little", "big"):
        size = int.from_bytes(head[:4], order)
        if size in _SIZES:
            kind, magic = _SIZES[size]
            head += file.read(size - len(head))
            if len(head) == size and is_nifti(head) and magic in (head[344:348], head[4:8]):
                # nibabel's own check would mend silently, or write to stderr.
                return kind(head, "<" if order == "little" else ">", check=False), size
    raise SeriesError(f"{name}: sizeof_hdr and magic are not those of a NIfTI file; copy it again from its source")


def _shape(name: str, header: nibabel.Nifti1Header) -> tuple[int, int, int]:
    dimensions = [int(length) for length in header["dim"]]
    axes = dimensions[0]
    if not 3 <= axes <= 7 or any(length != 1 for length in dimensions[4 : axes + 1]):
        raise SeriesError(f"{name}: dim is {dimensions}; one three-dimensional volume is read")
    shape = tuple(dimensions[1:4])
    if min(shape) < 1:
        raise SeriesError(f"{name}: dim is {dimensions}, with an axis that is empty")
    return shape


def _scale(name: str, header: nibabel.Nifti1Header) -> tuple[float, float]:
    """Slope and intercept; a slope of 0 or, as nibabel writes it, NaN says that values are stored as they are."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise SeriesError(f"{name}: scl_slope {slope} or scl_inter {intercept} is not a number that scales")
    return slope, intercept


def _turn(
    name: str, header: nibabel.Nifti1Header, report: list[str]
) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Axis of the patient (0 left, 1 back, 2 head) and direction of each axis of the array; and z, y, x mm."""
    if header["sform_code"] <= 0 and header["qform_code"] <= 0:
        report.append("sform_code and qform_code are 0: no orientation is stored; taken as left, front, head")
    with np.errstate(all="ignore"):
        affine = np.asarray(header.get_best_affine(), float)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or (steps <= 0).any():
        raise SeriesError(f"{name}: the affine (sform, qform or pixdim) is not of finite numbers over 0")
    unit = header.get_xyzt_units()[0]
    lengths = steps * _MILLIMETRES[unit]
    if not ((lengths >= 1e-3) & (lengths <= 100)).all():
        raise SeriesError(f"{name}: voxels of {lengths} mm (pixdim, sform and xyzt_units); 0.001 to 100 are read")
    cosines = affine[:3, :3] / steps
    angles = np.degrees(np.arccos(np.clip(np.abs(cosines).max(axis=0), 0, 1)))
    nearest = orientations.io_orientation(affine)
    if angles.max() > MAX_OBLIQUE or np.isnan(nearest).any():
        raise SeriesError(
            f"{name}: the axes are {angles.max():.0f} degrees from the patient's (sform or qform); up to "
            f"{MAX_OBLIQUE:.0f} are read; resample it"
        )
    if angles.max() > 1:
        report.append(f"the axes are {angles.max():.1f} degrees from the patient's; they are kept as they are")
    # NIfTI's axes go to the right, the front and the head.
    turn = orientations.ornt_transform(nearest, orientations.axcodes2ornt(("L", "P", "S")))
    # Stored as float32: the sixth decimal is noise.
    spacing = {int(axis): round(float(length), 6) for axis, length in zip(turn[:, 0], lengths, strict=True)}
    return turn, (spacing[2], spacing[1], spacing[0])


def _flips(turn: np.ndarray) -> list[float]:
    """The direction of x, y and z."""
    return [float(turn[list(turn[:, 0]).index(axis), 1]) for axis in range(3)]
