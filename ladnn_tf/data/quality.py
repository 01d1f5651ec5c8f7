"""Whether a picture may be a chest-CT slice: checks of grey and shape, without a network, in NumPy and Pillow.

A model answers whatever it is shown, a photograph too. `refusal` says why a picture gets no answer. It is meant
for what lands in a folder by mistake, and for nothing more: a picture that passes *may* be a chest-CT slice. The
checks, in their order, within a frame of one grey if there is one:

1. it has at least 32 pixels a side;
2. it is grey, but for marks and a slight tint;
3. it has contrast, neighbouring parts are neither unrelated (noise, text) nor all but equal (a gradient);
4. its grey values part into dark and bright;
5. inside a bright body, found by flooding the dark from the four corners, lie dark regions;
6. between them, in the middle, lies something bright;
7. a body with air all around is not taller than wide, as a head is;
8. where the body is dark and bright resembles the average chest, in an 8 x 8 grid over the body's box. An
   inverted slice has the opposite pattern.

Its limits, measured on the training and validation slices of COVID-CT, every third where they were changed: it
refuses 1 % of the slices as they are, 2 % with a black frame of 5 to 50 % of the picture a side, and 5 % with 5 %
cut off a side (9 % of another 125). Slices upside down pass (97 to 99 %), slices on their side often (34 to 40 %),
and chest radiographs and slices through the neck or the belly can pass.

The bounds were chosen on the 543 training and validation slices of COVID-CT (said "slices" below); its test
slices took no part. A bound lies where few or none of those slices are lost.
"""

import numpy as np
from PIL import Image

from ladnn_tf.data.preprocess import resize

_FEWEST_PIXELS = 32  # a side; a smaller picture holds less than the checks look at
_SIDE = 64  # of the square the work is done on: coarse enough to be fast, fine enough to part two lungs
_STRIP = 2**20  # pixels that are shrunk at a time, so that a large picture is not copied whole

_CLEARLY_COLOURED = 40  # largest difference of the channels; a screen photographed in yellow light is mostly below
_MOST_COLOURED = 0.1  # of the picture; at most 0.069 in the slices (arrows, boxes)
_LEAST_CONTRAST = 15.0  # standard deviation of the grey values; at least 25.3 in the slices; 0.7 of it when dimmed
_TWELVE_BITS = 16  # 4095 / 257, rounded
_UNSCALED = "; if this is a 16-bit file with 12-bit values, rescale it to the full range"
_LEAST_RELATED = 0.83  # correlation of neighbours; at least 0.868 in the slices; noise has at most 0.76
_MOST_RELATED = 0.945  # the same on half the square; at most 0.929 in the slices; most gradients have over 0.96
_LEAST_PARTED = 0.65  # share of the variance between dark and bright; at least 0.657 in the slices
_PLAIN = 16  # grey values that a line of a frame spans at most, after JPEG
_DARK_FRAME = 64  # grey value; a darker frame may be air
_SMALLEST_BOX = 16  # pixels of the square; smaller boxes are letters and marks
_LEAST_AIR = 0.035  # of the body; 99 % of the slices have 0.05 or more
_DARKEST_MIDDLE = 0.45  # dark share of the middle sixth; at most 0.445 in the slices, up to 0.95 in drawn heads
_MIDDLE = (0.42, 0.58)
_NARROWEST = 0.9  # width by height of a body with air around it; at least 1.05 in the slices
_LEAST_ALIKE = 0.26  # mean correlation with the two tables below; 99 % of the slices have about as much
_INVERTED = -0.2  # correlation with `_GREY`; at least 0.049 in the slices

# The left half of two tables, over the box around the body; the right half is its mirror image. Both are means
# over the slices: how often a cell is dark inside the body, in hundredths, and how bright it is, in tenths of
# the box's standard deviation from its mean.
_DARK = (
    (1, 9, 20, 15),
    (8, 38, 56, 31),
    (21, 63, 62, 19),
    (30, 72, 63, 20),
    (29, 72, 71, 36),
    (19, 61, 76, 35),
    (7, 33, 50, 16),
    (2, 9, 12, 3),
)
_GREY = (
    (-15, -2, 4, 7),
    (-6, -1, -4, 4),
    (0, -6, -4, 9),
    (2, -8, -4, 8),
    (4, -7, -6, 4),
    (5, -4, -8, 5),
    (1, 2, -1, 10),
    (-9, 1, 7, 11),
)


def refusal(pixels: np.ndarray) -> str:
    """Says why a picture is not taken for a chest-CT slice.

    Args:
        pixels: `(H, W, 3)` uint8 RGB in [0, 255], at least 1 x 1, in any window in which air is dark.

    Returns:
        The reason, in words, without a full stop; empty if the picture may be a chest-CT slice.

    Raises:
        ValueError: if `pixels` has another shape or type.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(f"expected (H, W, 3) uint8 pixels; received {pixels.shape} {pixels.dtype}")
    height, width = pixels.shape[:2]
    if min(height, width) < _FEWEST_PIXELS:
        return f"too small: {width} x {height} pixels; at least {_FEWEST_PIXELS} x {_FEWEST_PIXELS} can be judged"
    shrunk = _shrunk(pixels)
    inside, framed = _within_frame(shrunk)
    small = resize(inside, _SIDE).astype(np.float32)
    grey = small.mean(axis=-1)
    reason = _colour(small) or _statistics(grey)
    if reason:
        return reason
    width_by_height = width / height * (inside.shape[1] / shrunk.shape[1]) / (inside.shape[0] / shrunk.shape[0])
    return _anatomy(np.rint(grey), width_by_height, framed)


def _shrunk(pixels: np.ndarray) -> np.ndarray:
    """Averages whole blocks until a side has less than four times the square's pixels."""
    rows, columns = (max(1, length // (2 * _SIDE)) for length in pixels.shape[:2])
    if rows == columns == 1:
        return pixels
    lines = max(1, _STRIP // (rows * pixels.shape[1])) * rows
    strips = [
        np.asarray(Image.fromarray(pixels[start : start + lines]).reduce((columns, rows)))
        for start in range(0, len(pixels), lines)
    ]
    return np.concatenate(strips)


def _within_frame(shrunk: np.ndarray) -> tuple[np.ndarray, list[bool]]:
    """Returns the picture without the lines of one grey at its borders, and which sides had dark ones."""
    grey = shrunk.mean(axis=-1)
    spans, framed = [], []
    for axis in (1, 0):
        length = grey.shape[1 - axis]
        plain = np.ptp(grey, axis=axis) <= _PLAIN
        first, last = int(np.argmin(plain)), length - int(np.argmin(plain[::-1]))
        if last - first < length // 4 or plain.all():
            first, last = 0, length
        lines = grey.mean(axis=axis)
        framed += [first > 0 and lines[0] < _DARK_FRAME, last < length and lines[-1] < _DARK_FRAME]
        spans.append(slice(first, last))
    return shrunk[spans[0], spans[1]], framed


def _colour(small: np.ndarray) -> str:
    coloured = float((np.ptp(small, axis=-1) > _CLEARLY_COLOURED).mean())
    if coloured > _MOST_COLOURED:
        return f"in colour: {coloured:.0%} of the picture is clearly coloured, and a CT slice is grey"
    return ""


def _statistics(grey: np.ndarray) -> str:
    if grey.std() < _LEAST_CONTRAST:
        cause = _UNSCALED if 0 < grey.max() <= _TWELVE_BITS else ""
        return f"hardly any contrast: the grey values differ by {grey.std():.0f} of 255 on average{cause}"
    off = grey - grey.mean()
    if _neighbours(off) < _LEAST_RELATED:
        return "noise, text or thin lines: neighbouring parts of the picture have little to do with each other"
    off = off.reshape(_SIDE // 2, 2, _SIDE // 2, 2).mean(axis=(1, 3))
    if _neighbours(off) > _MOST_RELATED:
        return "too smooth: no more detail than in a gradient or a few plain shapes"
    _, parted = _split(grey)
    if parted < _LEAST_PARTED:
        return "the grey values do not part into dark and bright, as air and tissue do"
    return ""


def _neighbours(off: np.ndarray) -> float:
    """Returns the correlation of neighbouring values, given as differences from their mean."""
    return float(((off[:, 1:] * off[:, :-1]).mean() + (off[1:] * off[:-1]).mean()) / (2 * off.var()))


def _split(values: np.ndarray) -> tuple[int, float]:
    """Returns Otsu's threshold, and the share of the variance that lies between the two sides of it."""
    counts = np.bincount(values.astype(np.intp).ravel(), minlength=256).astype(float)
    levels = np.arange(256)
    below, moment = np.cumsum(counts), np.cumsum(counts * levels)
    total, mean = below[-1], moment[-1] / below[-1]
    both_sides = np.maximum(below * (total - below), 1.0)
    between = (mean * below - moment) ** 2 / both_sides  # 0 where a side is empty
    variance = float((counts * (levels - mean) ** 2).sum() / total)
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    # A gap in the histogram leaves many thresholds equal: the middle one is furthest from both sides.
    threshold = int((best[0] + best[-1]) // 2)
    return threshold, float(between.max()) / max(variance, 1e-9)


def _anatomy(grey: np.ndarray, width_by_height: float, framed: list[bool]) -> str:
    """Tries several thresholds, since the window is unknown, and gives the reason of the best one."""
    best, reason = -np.inf, "no body: nothing large and bright in the picture"
    for threshold in _thresholds(grey):
        dark = grey <= threshold
        body = ~_reached_from_corners(dark)
        box = _box(body)
        if box is None:
            continue
        air = _opened(dark & body)
        alike, objection = _judge(grey, air, body, box, width_by_height, framed)
        if not objection:
            return ""
        if alike > best:
            best, reason = alike, objection
    return reason


def _thresholds(grey: np.ndarray) -> list[int]:
    """Otsu's, then those of what lies below (bright organs in a soft-tissue window) and above (a black circle)."""
    first, _ = _split(grey)
    below, above = grey[grey <= first], grey[grey > first]
    if not below.size or not above.size:
        return []  # one value, once a frame is taken off
    second, _ = _split(below)
    darkest = below[below <= second]
    return [first, second, _split(above)[0]] + ([_split(darkest)[0]] if darkest.size else [])


def _reached_from_corners(dark: np.ndarray) -> np.ndarray:
    reached = np.zeros_like(dark)
    for rows in (slice(0, 2), slice(-2, None)):
        for columns in (slice(0, 2), slice(-2, None)):
            reached[rows, columns] = dark[rows, columns]
    count = -1
    while count != (count := int(reached.sum())):
        for _ in range(4):  # a look at the count is as dear as a step
            reached = _grown(reached) & dark
    return reached


def _box(body: np.ndarray) -> tuple[slice, slice] | None:
    spans = []
    for axis in (1, 0):
        lines = np.flatnonzero(body.mean(axis=axis) > 0.1)
        if len(lines) < _SMALLEST_BOX:
            return None
        spans.append(slice(int(lines[0]), int(lines[-1]) + 1))
    return spans[0], spans[1]


def _judge(grey, air, body, box, width_by_height: float, framed: list[bool]) -> tuple[float, str]:
    """Returns how alike to a chest the picture is, in [-1, 1], and what speaks against it."""
    dark, bright = air[box].astype(np.float32), grey[box]
    height, width = dark.shape
    brightness = _correlation(bright, _GREY)
    alike = (_correlation(dark, _DARK) + brightness) / 2
    middle = float(dark[:, int(_MIDDLE[0] * width) : int(_MIDDLE[1] * width) + 1].mean())
    away = (box[0].start > 0, box[0].stop < _SIDE, box[1].start > 0, box[1].stop < _SIDE)  # from the border
    sides_with_air = sum(frame or gap for frame, gap in zip(framed, away, strict=True))
    if brightness < _INVERTED:
        return alike, "dark and bright are the wrong way round for a chest: inverted, or something else"
    if air.sum() < _LEAST_AIR * body.sum():
        return alike, "no dark region inside a bright body that could be a lung"
    if middle > _DARKEST_MIDDLE:
        return alike, f"no lungs on two sides of something bright: {middle:.0%} of the middle is dark"
    if sides_with_air >= 3 and width * width_by_height < _NARROWEST * height:
        return alike, "the body is taller than wide, as a head is"
    if alike < _LEAST_ALIKE:
        return alike, f"dark and bright are not arranged as in a chest ({alike:.2f}; at least {_LEAST_ALIKE})"
    return alike, ""


def _correlation(values: np.ndarray, left_half: tuple) -> float:
    expected = np.array(left_half, np.float32)
    expected = np.hstack([expected, expected[:, ::-1]])
    found = np.asarray(Image.fromarray(values).resize(expected.shape[::-1], Image.Resampling.BILINEAR))
    expected, found = expected - expected.mean(), found - found.mean()
    return float((expected * found).mean() / max(expected.std() * found.std(), 1e-6))


def _grown(region: np.ndarray) -> np.ndarray:
    grown = region.copy()
    grown[1:] |= region[:-1]
    grown[:-1] |= region[1:]
    grown[:, 1:] |= region[:, :-1]
    grown[:, :-1] |= region[:, 1:]
    return grown


def _opened(region: np.ndarray) -> np.ndarray:
    """Without what is thinner than three pixels: letters, fissures, the rim of the table."""
    return _grown(~_grown(~region)) & region
