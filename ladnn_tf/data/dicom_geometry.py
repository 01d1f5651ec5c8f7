"""Where slices lie: which belong together, in which order, how far apart, and how they are to be turned.

Positions and orientations are those of the Image Plane module (PS3.3 C.7.6.2): x to the patient's left, y to the
back, z to the head (LPH, also called LPS).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ladnn_tf.data.dicom_frames import Frame
from ladnn_tf.data.volume import counted

MAX_OBLIQUE = 25.0
"""Degrees between a slice's normal and the patient's long axis; beyond, a slice is not axial."""

SAME_POSITION = 0.01
"""mm along the normal within which two slices lie at one position: files hold 0.1 mm to 0.001 mm."""

_SAME_COSINE = 0.01  # by which direction cosines of slices of one volume may differ: 0.6 degrees
_SAME_SPACING = 0.002  # mm, likewise of pixels: over 512 pixels, a millimetre
_GAP = 1.5  # of the usual distance: from there on, slices are missing
_MIXED = 0.02  # of the usual distance: distances that differ by more are reported
_MANY_GAPS = 3, 0.1  # that agree, or this share of the steps: another spacing and no missing slices
_MAX_DECIMALS = 6  # of a position in mm; beyond, it is noise
_TURNED = 1.0  # degrees from the patient's axes that are reported


@dataclass(frozen=True)
class Turn:
    """How a slice is turned so that y goes to the back and x to the patient's left.

    Attributes:
        transposed: rows and columns change places, before the flips.
        flip_y, flip_x: whether the rows, the columns are reversed.
        oblique: degrees between the normal and the patient's long axis.
        rotated: degrees by which the turned slice is still rotated in its plane.
    """

    transposed: bool
    flip_y: bool
    flip_x: bool
    oblique: float
    rotated: float

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Turns (y, x) pixels; a view."""
        pixels = pixels.T if self.transposed else pixels
        return pixels[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


def turn_of(orientation: Sequence[float]) -> Turn:
    """How a slice of an orientation is turned.

    Args:
        orientation: six direction cosines: along a row, along a column (C.7.6.2.1.1).

    Raises:
        ValueError: if they are not two perpendicular unit vectors.
    """
    along_row, along_column = np.asarray(orientation, float).reshape(2, 3)
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column)
    if not np.allclose(lengths, 1, atol=0.02) or abs(along_row @ along_column) > 0.02:
        raise ValueError("ImageOrientationPatient (0020,0037) is not two perpendicular unit vectors")
    upward = float(np.clip(abs(np.cross(along_row, along_column)[2]), 0, 1))
    transposed = abs(along_row[0]) < abs(along_column[0])
    x, y = (along_column, along_row) if transposed else (along_row, along_column)
    rotated = math.degrees(math.atan2(abs(x[1]), abs(x[0])))
    return Turn(bool(transposed), bool(y[1] < 0), bool(x[0] < 0), math.degrees(math.acos(upward)), rotated)


def normal_of(orientation: Sequence[float]) -> np.ndarray:
    """(3,) the normal that points to the head."""
    along_row, along_column = np.asarray(orientation, float).reshape(2, 3)
    normal = np.cross(along_row, along_column)
    return normal if normal[2] >= 0 else -normal


def alike(first: Frame, other: Frame) -> bool:
    """Whether slices of one series have the orientation and the pixel spacing that those of one volume have."""
    return all(
        abs(one - another) <= most
        for ones, others, most in (
            (first.orientation, other.orientation, _SAME_COSINE),
            (first.spacing, other.spacing, _SAME_SPACING),
        )
        for one, another in zip(ones, others, strict=True)
    )


def heights(frames: Sequence[Frame]) -> np.ndarray:
    """(n,) float: the positions along the first slice's normal, mm, increasing to the head."""
    return np.array([frame.position for frame in frames]) @ normal_of(frames[0].orientation)


def in_order(frames: Sequence[Frame]) -> list[Frame]:
    """From feet to head; at one position, by acquisition and instance number."""
    along = heights(frames)
    first = sorted(range(len(frames)), key=lambda index: along[index])
    levels, level, last = {}, 0, None
    for index in first:
        if last is not None and along[index] - last > SAME_POSITION:
            level += 1
        levels[index], last = level, along[index]
    return [frames[index] for index in sorted(first, key=lambda index: (levels[index], frames[index].order))]


def slice_spacing(frames: Sequence[Frame]) -> float:
    """mm between slices in order, or a lone slice's thickness (NaN if unknown).

    It is the mean of the steps within half of their median, and so exact where positions are rounded.
    """
    if len(frames) == 1:
        return frames[0].thickness if frames[0].thickness > 0 else math.nan
    steps = np.sort(np.diff(heights(frames)))
    # Of an even number the lower one: between a step and a gap, the mean of both is neither.
    median = steps[(len(steps) - 1) // 2]
    return round(float(steps[np.abs(steps - median) <= 0.5 * median].mean()), _MAX_DECIMALS)


def _rounding(frames: Sequence[Frame]) -> float:
    """mm of the last decimal that the positions along the patient have; 0 if they have none."""
    decimals = max(len(f"{frame.position[2]:.{_MAX_DECIMALS}f}".rstrip("0").split(".")[1]) for frame in frames)
    return 10.0**-decimals if decimals else 0.0


def _other_spacing(steps: np.ndarray, among: int, tolerance: float) -> np.ndarray:
    """Which of the large steps, out of so many of all sizes, are no gaps, as too many of them agree."""
    within = np.maximum(_MIXED * steps, tolerance)
    agreeing = np.array([np.count_nonzero(np.abs(steps - step) <= within) for step in steps])
    least, share = _MANY_GAPS
    return (agreeing >= least) | ((agreeing > 1) & (agreeing > share * among))


def spacing_report(frames: Sequence[Frame], names: Sequence[str]) -> list[str]:
    """Gaps, mixed distances and thicknesses, and slices that move sideways, of slices in order.

    Args:
        frames: from feet to head, one at each position.
        names: of their files.
    """
    report = []
    thicknesses = sorted({round(frame.thickness, 3) for frame in frames if frame.thickness > 0})
    if len(thicknesses) > 1:
        values = ", ".join(f"{value:g}" for value in thicknesses[:5])
        report.append(f"SliceThickness (0018,0050) is mixed: {values}{', ...' * (len(thicknesses) > 5)} mm")
    if len(frames) == 1:
        return [*report, "there is one slice only"]
    steps, usual = np.diff(heights(frames)), slice_spacing(frames)
    # One unit of the last decimal, which is what rounding does to a step, and a hair for that of binary numbers.
    tolerance = max(2 * SAME_POSITION, 1.001 * _rounding(frames))
    large = steps > _GAP * usual
    large[large] = ~_other_spacing(steps[large], len(steps), tolerance)
    gaps = np.flatnonzero(large)
    for gap in gaps[:3]:
        missing = max(1, round(steps[gap] / usual) - 1)
        report.append(
            f"a gap of {steps[gap]:.4g} mm, where {usual:.4g} mm are usual, between {names[gap]} and "
            f"{names[gap + 1]}: about {missing} missing"
        )
    if len(gaps) > 3:
        report.append(counted(len(gaps) - 3, "more gap"))
    close = steps[~large]
    if np.ptp(close) > max(_MIXED * usual, tolerance):
        report.append(f"the distance between slices is mixed: {close.min():.4g} to {close.max():.4g} mm")
    positions = np.array([frame.position for frame in frames])
    travel = positions[-1] - positions[0]
    normal = normal_of(frames[0].orientation)
    sideways = float(np.linalg.norm(travel - (travel @ normal) * normal))
    if sideways > max(1.0, min(frames[0].spacing)):
        report.append(
            f"the slices move sideways by {sideways:.4g} mm from first to last, as with a tilted gantry; "
            "they are kept as they are"
        )
    return report


def turn_report(turn: Turn) -> list[str]:
    """What turning did, and what it could not."""
    report = []
    if turn.transposed or turn.flip_x or turn.flip_y:
        how = [
            "rows and columns exchanged" * turn.transposed,
            "flipped from front to back" * turn.flip_y,
            "flipped from left to right" * turn.flip_x,
        ]
        report.append(
            f"turned by ImageOrientationPatient (0020,0037), as of a prone patient or another way of storing: "
            f"{', '.join(filter(None, how))}"
        )
    if turn.oblique > _TURNED:
        report.append(f"the slices are tilted by {turn.oblique:.1f} degrees from axial; they are kept as they are")
    if turn.rotated > _TURNED:
        report.append(f"the slices are rotated by {turn.rotated:.1f} degrees in their plane; they are kept so")
    return report
