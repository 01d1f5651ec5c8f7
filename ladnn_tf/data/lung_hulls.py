"""Where the lungs are in a display image of a chest-CT slice: a generous mask, without a network.

The slices of COVID-CT are cut out of publications: the window is unknown, the surroundings are black, grey or
white, letters and arrows are burned in, and some slices are cropped so that the lungs touch the border. All that
holds is that air is darker than tissue. Opacities, though, are as bright as tissue, so that air alone would leave
out just what a reader looks for. The mask is therefore made of shapes: the convex hull of the air of each lung,
each mirrored upon the other.
"""

import itertools

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import convex_hull_image, disk

from ladnn_tf.data.preprocess import resize

_SIDE = 256  # of the square that the work is done on; every length below is in its pixels
_WHITE = 225
_WHITE_SHARE = 0.9  # of a line's pixels, in the white frame that some figures have
_FRAME = 20  # the widest such frame
_SMALLEST_BODY = 0.3  # of the square; bright organs alone are smaller
_LARGE_PART = 0.1  # of the largest part of the body; the table and letters are smaller
_CORNERS = tuple(itertools.product((slice(None, 12), slice(-12, None)), repeat=2))
_CORNER_TISSUE = 0.3
_SMALLEST_PIECE = 0.001  # of the body, as the next one
_SMALLEST_LUNGS = 0.02
_LEAST_DEPTH = 20  # below the convex hull of the body; the hollows at armpits and back are shallower
_MIDDLE = (0.38, 0.62)  # of the body's width: where the mediastinum is looked for
_AIRWAY = 0.08  # of the body's width: air that is nowhere further from the middle is the trachea or a bronchus
_WALL = 8  # thinner chest walls are not expected
_MARGIN = 3


class NoLungsError(ValueError):
    """A picture in which no plausible lung was found."""


def lung_mask(pixels: np.ndarray) -> np.ndarray:
    """Finds the lungs of a slice, generously: with opacities, and with what lies between lobes and at the hilum.

    Of the mediastinum and the diaphragm parts are covered too, of the chest wall a narrow rim. Consolidations at
    the outside of both lungs at once, mostly at the back, can stay uncovered.

    Args:
        pixels: `(H, W, 3)` uint8 RGB in [0, 255]: a slice, back at the bottom, in a window in which air is dark.

    Returns:
        `(H, W)` bool.

    Raises:
        NoLungsError: if there is no dark region inside a body that is large enough to be a lung.
    """
    grey = resize(pixels, _SIDE).mean(axis=2)
    box = _within_white_frame(grey)
    mask = np.zeros(grey.shape, bool)
    mask[box] = _mask_in_box(ndimage.gaussian_filter(grey[box], 1.0))
    height, width = pixels.shape[:2]
    rows = ((np.arange(height) + 0.5) * _SIDE / height).astype(int)
    columns = ((np.arange(width) + 0.5) * _SIDE / width).astype(int)
    return mask[np.ix_(rows, columns)]


def _within_white_frame(grey: np.ndarray) -> tuple[slice, slice]:
    """Returns the rows and columns inside the white lines near the border, if there are any."""
    spans = []
    for axis in (1, 0):
        white = np.flatnonzero((grey >= _WHITE).mean(axis=axis) >= _WHITE_SHARE)
        first = max((line + 1 for line in white if line < _FRAME), default=0)
        last = min((line for line in white if line >= _SIDE - _FRAME), default=_SIDE)
        spans.append(slice(first, last))
    return tuple(spans)


def _mask_in_box(grey: np.ndarray) -> np.ndarray:
    body, air = _body_and_air(grey)
    air = _air_of_lungs(air, body)
    middle = _midline(air, body)
    lungs = np.zeros_like(air)
    for side in (slice(0, middle), slice(middle, None)):
        lungs[:, side] = _hull(_without_airways(air, side, middle, body))[:, side]
    lungs |= _mirrored(lungs, middle) & (_depth(body) > _WALL)
    return ndimage.binary_dilation(lungs, disk(_MARGIN)) & body


def _body_and_air(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the convex hull of the body, and the air in it."""
    threshold = threshold_otsu(grey)
    body = _body(grey > threshold)
    if body.mean() >= _SMALLEST_BODY:
        return body, _opened(grey <= threshold_otsu(grey[body]), 1) & body
    # A window for soft tissue: heart, vessels and bones were told from everything else. Fat is dark there.
    threshold = threshold_otsu(grey[grey <= threshold])
    body = _body(grey > threshold)
    return body, _opened(grey <= threshold, 1) & body


def _body(tissue: np.ndarray) -> np.ndarray:
    parts, count = ndimage.label(_opened(tissue, 3))
    if not count:
        raise NoLungsError("there is no body in the picture: no large bright region")
    sizes = ndimage.sum_labels(tissue, parts, np.arange(1, count + 1))
    body = np.isin(parts, 1 + np.flatnonzero(sizes >= _LARGE_PART * sizes.max()))
    # In a cropped slice the chest wall reaches into the corners, and may be too thin elsewhere to be kept.
    thick = _opened(tissue, 2)
    for corner in _CORNERS:
        if thick[corner].mean() >= _CORNER_TISSUE:
            body[corner] |= thick[corner]
    return convex_hull_image(body)


def _air_of_lungs(air: np.ndarray, body: np.ndarray) -> np.ndarray:
    pieces, count = ndimage.label(air)
    index = np.arange(1, count + 1)
    sizes = ndimage.sum_labels(air, pieces, index)
    depths = ndimage.maximum(_depth(body), pieces, index)
    area = body.sum()
    outside = [label for corner in _CORNERS for label in np.unique(pieces[corner]) if label]
    kept = (sizes >= _SMALLEST_PIECE * area) & (depths >= _LEAST_DEPTH) & ~np.isin(index, outside)
    lungs = np.isin(pieces, index[kept])
    if lungs.sum() < _SMALLEST_LUNGS * area:
        raise NoLungsError(
            f"of the body {lungs.sum() / area:.1%} is air; lungs have {_SMALLEST_LUNGS:.0%} or more"
        )
    return lungs


def _midline(air: np.ndarray, body: np.ndarray) -> int:
    """Returns the column with least air among the middle ones."""
    columns = np.flatnonzero(body.any(axis=0))
    left, right = (int(columns[0] + share * np.ptp(columns)) for share in _MIDDLE)
    height = ndimage.gaussian_filter1d(air.sum(axis=0).astype(float), 4)[left:right]
    off_centre = np.abs(np.arange(left, right) - columns.mean())
    return left + int(np.argmin(height + 0.3 * off_centre))


def _without_airways(air: np.ndarray, side: slice, middle: int, body: np.ndarray) -> np.ndarray:
    one = np.zeros_like(air)
    one[:, side] = air[:, side]
    pieces, _ = ndimage.label(one)
    width = np.ptp(np.flatnonzero(body.any(axis=0)))
    far = np.abs(np.arange(air.shape[1]) - middle) > _AIRWAY * width
    return np.isin(pieces, np.unique(pieces[:, far])) & one


def _hull(region: np.ndarray) -> np.ndarray:
    return convex_hull_image(region) if region.any() else region


def _mirrored(region: np.ndarray, middle: int) -> np.ndarray:
    source = 2 * middle - 1 - np.arange(region.shape[1])
    inside = (source >= 0) & (source < region.shape[1])
    mirrored = np.zeros_like(region)
    mirrored[:, inside] = region[:, source[inside]]
    return mirrored


def _opened(region: np.ndarray, radius: int) -> np.ndarray:
    return ndimage.binary_opening(region, disk(radius))


def _depth(region: np.ndarray) -> np.ndarray:
    """Returns the distance of each pixel to what is not in the region, which goes on beyond the border."""
    beyond = 2 * _LEAST_DEPTH
    padded = np.pad(region, beyond, mode="edge")
    return ndimage.distance_transform_edt(padded)[beyond:-beyond, beyond:-beyond]
