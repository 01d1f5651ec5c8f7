"""One CT volume in Hounsfield units, and the window that makes a picture of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

AIR = -1000.0
"""HU."""

PLAUSIBLE = (-1200.0, 4095.0)
"""HU of a body in air, with the noise of air and with metal; what lies outside is reported."""

MAX_SLICES = 4000
"""Of a series: a whole body in steps of 0.5 mm."""

MAX_FRAME_PIXELS = 4096 * 4096
"""Of a slice: scanners have 512 x 512, some 2048 x 2048."""

MAX_VOXELS = 2**28
"""Of a series: 1,024 slices of 512 x 512, 1 GiB as float32."""


class SeriesError(ValueError):
    """A series that cannot be read; the message names the file and, where it is one, the tag."""


def needs_dicom(error: ImportError) -> ImportError:
    """The error to raise where a package of the extra `dicom` is missing."""
    package = (error.name or str(error)).split(".")[0]
    return ImportError(f"{package} is not installed: pip install '.[dicom]' in the project's folder")


@dataclass(frozen=True, eq=False)
class Volume:
    """Slices of one series, all of one size and orientation.

    Attributes:
        name: what to call it in messages: `series 2`, `study 1 of 2, series 2, part 1 of 2`, or the file's or
            folder's name.
        hu: (z, y, x) float32 Hounsfield units; z from feet to head along the normal, y to the back, x to the
            patient's left.
        spacing_mm: between slices (the mean, gaps aside), rows and columns; NaN where unknown (pictures).
        report: what was irregular, a sentence each.
        files: the file of each slice, in order.
        calibrated: False if it comes from display pictures: `hu` is then grey * 3 - 1000, which spans about the
            values of a lung window but measures nothing.
    """

    name: str
    hu: np.ndarray
    spacing_mm: tuple[float, float, float]
    report: tuple[str, ...]
    files: tuple[str, ...]
    calibrated: bool = True

    def pixels(self, index: int, level: float = -600.0, width: float = 1500.0) -> np.ndarray:
        """The picture of a slice.

        Args:
            index: of the slice, from the feet.
            level: centre of the window, HU; not used for pictures, which keep their own grey levels.
            width: of the window, HU; likewise.

        Returns:
            (y, x, 3) uint8, all three channels the same.
        """
        if self.calibrated:
            grey = display(self.hu[index], level, width)
        else:
            grey = np.rint((self.hu[index] + 1000) / 3).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)


def display(hu: np.ndarray, level: float, width: float) -> np.ndarray:
    """Grey levels of a window.

    Args:
        hu: Hounsfield units, of any shape.
        level: centre of the window, HU.
        width: of the window, HU, over 0.

    Returns:
        uint8 of the same shape: 0 up to level - width / 2, 255 from level + width / 2, linear between them and
        rounded half to even (DICOM PS3.3 C.11.2.1.3.2, LINEAR_EXACT).

    Raises:
        ValueError: if the width is not over 0.
    """
    if not width > 0:
        raise ValueError(f"a window's width must be over 0 HU, got {width}")
    return np.rint(np.clip((hu - level) / width + 0.5, 0, 1) * 255).astype(np.uint8)


def check_size(name: str, shape: tuple[int, int, int]) -> None:
    """Refuses a volume that is too large, before any of it is read.

    Raises:
        SeriesError: if it has more than `MAX_SLICES`, `MAX_FRAME_PIXELS` in a slice, or `MAX_VOXELS`.
    """
    slices, rows, columns = shape
    if slices > MAX_SLICES:
        raise SeriesError(f"{name}: a series of {slices:,} slices; no more than {MAX_SLICES:,} are read")
    if rows * columns > MAX_FRAME_PIXELS:
        raise SeriesError(
            f"{name}: slices of {rows} x {columns}; no more than {MAX_FRAME_PIXELS:,} pixels are read"
        )
    if slices * rows * columns > MAX_VOXELS:
        size = f"{slices:,} slices of {rows} x {columns}"
        raise SeriesError(f"{name}: a series of {size}; no more than {MAX_VOXELS:,} voxels are read")


def value_report(hu: np.ndarray) -> list[str]:
    """What share of the values is no CT number to be expected; slice by slice, to copy nothing large."""
    lowest, highest = PLAUSIBLE
    outside, least, most = 0, np.inf, -np.inf
    for pixels in hu:
        outside += int(np.count_nonzero((pixels < lowest) | (pixels > highest)))
        least, most = min(least, float(pixels.min())), max(most, float(pixels.max()))
    if not outside:
        return []
    return [
        f"{outside / hu.size:.2%} of the pixels lie outside {lowest:.0f} to {highest:.0f} HU "
        f"(from {least:.6g} to {most:.6g})"
    ]


def left_out_report(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """A sentence for each reason, with the first names."""
    report = []
    for reason, names in left_out.items():
        rest = len(names) - 3
        listed = ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")
        report.append(f"left out: {listed}: {reason}.")
    return report


def counted(count: int, noun: str) -> str:
    """`1 slice`, `2 slices`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def printable(name: str, longest: int = 120) -> str:
    """A name as it may stand in a message of one line: no control characters, not endless."""
    name = "".join(sign if sign.isprintable() else "?" for sign in name)
    half = longest // 2
    return name if len(name) <= longest else f"{name[: half - 2]}...{name[-half + 1 :]}"
