"""The body section of a chest-CT slice and the lungs in it, at one threshold: morphology for `lungs.py`.

Lengths and areas are in pixels of the paper's slices (512 x 512, about 0.7 mm); `scale` is how many pixels of the
grid are as long as one of those.
"""

import dataclasses
import math

import numpy as np
from scipy import ndimage
from skimage.morphology import convex_hull_image, disk
from skimage.segmentation import watershed

_EROSION = 2  # radius, as the paper's; here of an opening
_CLOSING = 10  # radius, as the paper's
_SMALLEST_LUNG = 3000  # area, as the paper's
_SMALLEST_PIECE = 300  # area of what is added to a lung that dense parts divide
_SMALLEST_HOLLOW = 60  # area; smaller ones make no difference
_FURTHEST_PIECE = 25  # from its lung
_TABLE = 6  # radius; thinner bright things are the table, clothes and letters, not the body
_PART = 0.01  # of the largest part of the body
_SHALLOW = 0.06  # of the body's side: hollows at the armpits and the back are no deeper below the hull
_DEEP = 0.25  # of the body's side: a lung that the round field of view cuts open is deeper than any hollow
_TOUCHING = 0.025  # of the body's side: a longer contact with the air around makes a region a part of that air
_AIRWAY = 0.08  # of the body's side: air that stays nearer to the middle is the trachea or a bronchus
_OUTWARD = 0.5  # cosine between a concavity's mouth and the way out of the body
_INWARD = -0.3  # cosine between the same and the way from the other lung; the heart's hollow faces inward
_HALF = 0.25  # of two joined lungs, the smaller one at least


@dataclasses.dataclass(frozen=True, eq=False)
class Regions:
    """What a threshold finds.

    Attributes:
        body: `(H, W)` bool, the body section with its lungs, without table and air around; or None.
        lungs: `(H, W)` bool each, at most two; with the dense parts that they enclose.
    """

    body: np.ndarray | None
    lungs: tuple[np.ndarray, ...]


def body_hull(tissue: np.ndarray, scale: float) -> np.ndarray | None:
    """Returns the convex hull of the body, `(H, W)` bool, or None where no tissue is.

    A slice cropped closely shows the chest wall in several parts, which then all reach the border. A part that
    does not is an arm or the table.
    """
    parts, count = ndimage.label(opened(tissue, _TABLE * scale))
    if not count:
        return None
    sizes = np.bincount(parts.ravel())[1:]
    border = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    at_border = np.isin(np.arange(1, count + 1), border)
    largest = int(np.argmax(sizes))
    kept = at_border & at_border[largest] & (sizes >= _PART * sizes[largest])
    kept[largest] = True
    return convex_hull_image(np.isin(parts, 1 + np.flatnonzero(kept)))


def find_regions(dark: np.ndarray, dim: np.ndarray, gas: np.ndarray, scale: float) -> Regions:
    """Finds the body and its lungs.

    Args:
        dark: `(H, W)` bool, what is as dark as air or aerated lung.
        dim: `(H, W)` bool, holds `dark`; what next to a lung is its opacity or its rim.
        gas: `(H, W)` bool, what is too dark to be lung; a region that is mostly so is gas.
        scale: how many pixels of the grid are as long as one of the paper's.

    Returns:
        The regions.
    """
    hull = body_hull(~dim, scale)
    if hull is None:
        return Regions(None, ())
    pieces, areas, outside = _pieces(dark, hull, scale)
    body = hull & ~outside[pieces]
    side = math.sqrt(hull.sum())
    centre = np.array(ndimage.center_of_mass(body)) if body.any() else np.zeros(2)
    usable = ~outside & (areas >= _SMALLEST_PIECE * scale**2)
    if gas.any():
        usable &= np.bincount(pieces[gas], minlength=len(areas)) < 0.5 * areas
    usable[0] = False
    lungs = _main_lungs(pieces, areas, usable, centre, scale)
    ways = _ways_out(lungs, centre)
    lungs = _with_further_pieces(lungs, pieces, usable, centre, ways, _AIRWAY * side, _FURTHEST_PIECE * scale)
    rim = dim & ~dark & body
    completed = [_completed(lung, rim, centre, way, scale) for lung, way in zip(lungs, ways, strict=True)]
    return Regions(body, tuple(lung & body for lung in completed))


def opened(region: np.ndarray, radius: float) -> np.ndarray:
    """Removes what is thinner than twice the radius; the region goes on beyond the border."""
    radius = round(radius)
    if not radius:
        return region
    padded = np.pad(region, radius + 1, mode="edge")
    inner = slice(radius + 1, -radius - 1)
    return ndimage.binary_opening(padded, disk(radius))[inner, inner]


def _pieces(dark, hull, scale) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the labelled pieces of air in the hull, their areas, and which belong to the air around the body.

    Not what touches the border is cleared, as that would take a lung of a cropped slice, but what opens to the
    outside of the hull or lies in a hollow of the body, just below the hull.
    """
    pieces, count = ndimage.label(opened(dark & hull, _EROSION * scale))
    areas = np.bincount(pieces.ravel(), minlength=count + 1)
    side = math.sqrt(hull.sum())
    margin = math.ceil(_SHALLOW * side) + 1
    inner = slice(margin, -margin)
    depth = ndimage.distance_transform_edt(np.pad(hull, margin, mode="edge"))[inner, inner]
    deepest = ndimage.maximum(depth, pieces, np.arange(count + 1))
    around = ndimage.binary_dilation(dark & ~hull, iterations=2)
    contact = np.bincount(pieces[around], minlength=count + 1) / 2
    deepest = np.asarray(deepest)
    mouth = (contact > _TOUCHING * side) & (areas < contact**2) & (deepest < _DEEP * side)
    outside = (deepest < _SHALLOW * side) | mouth
    outside[0] = False
    return pieces, areas, outside


def _main_lungs(pieces, areas, usable, centre, scale) -> list[np.ndarray]:
    """Returns the largest region, or its halves where both lungs are joined, and the one across from it."""
    large = np.flatnonzero(usable & (areas >= _SMALLEST_LUNG * scale**2))
    if not large.size:
        return []
    large = large[np.argsort(-areas[large], kind="stable")]
    first, others = large[0], large[1:]
    middles = ndimage.center_of_mass(pieces > 0, pieces, large)
    ways = {i: np.array(middle) - centre for i, middle in zip(large, middles, strict=True)}
    weights = [areas[i] * -_cosine(ways[first], ways[i]) for i in others]
    best = max(weights, default=0.0)
    if best < _HALF * areas[first]:
        halves = _halves(pieces == first, centre)
        if halves:
            return halves
    if best <= 0:
        return [pieces == first]
    return [pieces == first, pieces == others[int(np.argmax(weights))]]


def _halves(lung: np.ndarray, centre: np.ndarray) -> list[np.ndarray]:
    """Parts a region at its neck into two lungs on two sides of the centre; empty where it has no such neck."""
    depth = ndimage.distance_transform_edt(lung)
    for radius in range(1, int(depth.max())):
        parts, count = ndimage.label(depth > radius)
        if count < 2:
            continue
        sizes = np.bincount(parts.ravel())[1:]
        one, two = np.argsort(-sizes, kind="stable")[:2] + 1
        ways = [np.array(way) - centre for way in ndimage.center_of_mass(parts > 0, parts, (one, two))]
        if sizes[two - 1] >= _HALF * sizes.sum() and _cosine(*ways) < 0:
            markers = np.where(parts == one, 1, np.where(parts == two, 2, 0))
            halves = watershed(-depth, markers, mask=lung)
            return [halves == 1, halves == 2]
    return []


def _ways_out(lungs, centre) -> list[np.ndarray]:
    """Returns for each lung the direction from the other one, or from the body's centre; of length 1."""
    middles = [np.array(ndimage.center_of_mass(lung)) for lung in lungs]
    ways = [own - centre for own in middles]
    if len(middles) == 2:
        ways = [middles[0] - middles[1], middles[1] - middles[0]]
    return [way / max(np.hypot(*way), 1e-6) for way in ways]


def _with_further_pieces(lungs, pieces, usable, centre, ways, airway, furthest) -> list[np.ndarray]:
    """Adds to each lung what a dense part has cut off from it, but neither trachea nor bronchi."""
    usable = usable.copy()
    for lung in lungs:
        usable[np.unique(pieces[lung])] = False
    further = np.flatnonzero(usable)
    if not lungs or not further.size:
        return lungs
    rows, columns = np.indices(pieces.shape, sparse=True)
    from_middle = np.abs((rows - centre[0]) * ways[0][0] + (columns - centre[1]) * ways[0][1])
    lateral = np.asarray(ndimage.maximum(from_middle, pieces, further)) > airway
    gaps = np.array([ndimage.minimum(ndimage.distance_transform_edt(~lung), pieces, further) for lung in lungs])
    near = lateral & (gaps.min(axis=0) <= furthest)
    nearest = gaps.argmin(axis=0)
    return [lung | np.isin(pieces, further[near & (nearest == number)]) for number, lung in enumerate(lungs)]


def _completed(lung, rim, centre, way_out, scale) -> np.ndarray:
    """Adds what is dense: the rim, what a closing and the filling of holes add, and hollows that open outward."""
    lung = opened(ndimage.binary_propagation(lung, mask=lung | rim), _EROSION * scale) | lung
    radius = max(1, round(_CLOSING * scale))
    box = ndimage.find_objects(lung.astype(np.uint8))[0]
    closed = ndimage.binary_closing(np.pad(lung[box], radius + 1), disk(radius))
    closed = ndimage.binary_fill_holes(closed)
    centre = centre - [span.start - radius - 1 for span in box]
    hull = convex_hull_image(closed)
    mouth = hull & ~ndimage.binary_erosion(hull)
    hollows, _ = ndimage.label(hull & ~closed)
    for hollow, span in enumerate(ndimage.find_objects(hollows), start=1):
        inside = hollows[span] == hollow
        opening = inside & mouth[span]
        if inside.sum() < _SMALLEST_HOLLOW * scale**2 or not opening.any():
            continue
        start = np.array([part.start for part in span])
        middle = np.array(ndimage.center_of_mass(opening))
        facing = middle - ndimage.center_of_mass(inside)
        if _cosine(facing, middle + start - centre) > _OUTWARD and _cosine(facing, way_out) > _INWARD:
            closed[span] |= inside
    result = np.zeros(lung.shape, bool)
    result[box] = closed[radius + 1 : -radius - 1, radius + 1 : -radius - 1]
    return result


def _cosine(one: np.ndarray, two: np.ndarray) -> float:
    return float(one @ two / max(np.hypot(*one) * np.hypot(*two), 1e-6))
