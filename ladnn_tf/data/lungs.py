"""Where the lungs are in a chest-CT slice, in HU or in a display picture; how slices are extracted and filled.

The recipe is that of the public code of DRENet (Song et al. 2021): HU, or for a picture pseudo-HU of
grey * 3 - 1000; below -600 is air; the two largest regions of air over 3000 pixels of 512 x 512; an erosion with a
disk of 2 pixels, a closing with one of 10, holes filled; crop to the box, zero outside. What differs, and why:

- Lengths and areas are the paper's at 512 x 512 pixels of 0.7 mm; they follow the pixel size, or, where that is
  unknown, the picture's longer side. The work is done on a grid of 256.
- A picture's window is unknown. Its threshold is Otsu's within the body, then -600, Otsu's of the picture and
  Otsu's of its dark part, until one gives two lungs and a plausible share. -600 first covered fewer opacities (on
  phantoms 66 % of their area in the median, against 82 %). In HU it is -600 alone; what lies between -600 and
  -400 next to a lung is its opacity or its rim, and part of it.
- The border is not cleared, as that takes the lungs of a cropped slice. Air outside the body's hull, and what
  opens to it, is outside. Table, clothes, letters and a frame are no body.
- The eroded rim is given back (an opening), as opacities lie there. Trachea and bronchi stay out unless they are
  joined to a lung; gas in HU is what is mostly below -960. In a picture gas under the diaphragm can pass for
  lung.
- Two lungs that are joined in front are parted at their neck. The second lung lies across the body from the
  first; pieces that an opacity has cut off are given to the nearest lung.
- A hollow of a lung's outline that opens towards the chest wall is an opacity and belongs to the lung; one that
  opens to the heart does not. A consolidation that takes the whole back of a lung stays out.
- Where a round field of view cuts lungs open, what bulges beyond the hull of the tissue left is lost: of a drawn
  body cut so that 7 % of its lungs are missing, the Dice coefficient was 0.85.
- The share is of the body section, not of the picture. One lung only is no reason to leave a slice out, as long
  as its share suffices: the other may be white or removed.

Bounds were chosen on phantoms and on the 425 training slices of COVID-CT: 423 are kept, 420 of them with two
lungs. Of all 746 slices 741 are kept, 734 with two; of 120 of them chosen at random, 110 outlines were right by
eye, 7 doubtful (part of a consolidation outside, a bit of mediastinum inside) and 3 wrong (a slice through the
bowel, windows for soft tissue). The code's own recipe found two regions in 514 of the 746. On 60 phantoms of
512 x 512 pixels the Dice coefficient with the drawn lungs was 0.98 in the median and 0.89 at worst, in HU and in
pictures.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import disk

from ladnn_tf.data.lung_regions import Regions, body_hull, find_regions

_SIDE = 256  # pixels of the longer side of the grid that the work is done on
_FEWEST_PIXELS = 32  # a side; as data.quality has it
_PAPER_SIDE = 512
_PAPER_MM = 0.7  # a pixel of 512 in a usual field of view of 360 mm
_SMALLEST_MM, _LARGEST_MM = 50.0, 2000.0
_AIR = -600.0  # HU, the paper's
_OPACITY = -400.0  # HU; ground glass is below, fat and muscle are far above
_GAS = -960.0  # HU; lungs are above, but for bullae
_RANGE = (-1100.0, 1000.0)  # HU; padding is far below, metal above
_BRIGHTEST_PICTURE = 255 * 3 - 1000.0  # pseudo-HU; a slice in HU has tissue, which is above
_LEAST_CONTRAST = 48.0  # pseudo-HU, 16 grey levels, between the picture's brightest and darkest parts
_LEAST_SHARE = 0.10
_MOST_SHARE = 0.75
_SMALLEST_BODY = 0.2  # of a picture; bright organs alone are smaller
_SMALLEST_BODY_HU = 0.04  # of a slice in HU; a newborn in a field of view of 500 mm
_PLAIN = 48.0  # pseudo-HU, 16 grey levels, that a line of a frame spans at most, after JPEG
_WHITE = 225 * 3 - 1000.0  # pseudo-HU
_WHITE_SHARE = 0.9  # of a line of a white frame
_FRAME = 0.08  # of the side; a wider white margin may be the chest wall
_RIM = 2 / 512  # of the longer side
_COPIES = 64  # in the filling, at most


@dataclasses.dataclass(frozen=True, eq=False)
class Lungs:
    """The lungs of a slice.

    Attributes:
        mask: `(H, W)` bool.
        share: the lungs' share of the body section, in [0, 1].
        regions: 0, 1 or 2.
        reason: why the slice is left out, without a full stop; empty if it is kept.
    """

    mask: np.ndarray
    share: float
    regions: int
    reason: str


def pseudo_hu(pixels: np.ndarray) -> np.ndarray:
    """Takes the grey levels of a display picture for HU, as DRENet's code does: grey * 3 - 1000.

    Args:
        pixels: `(H, W, 3)` uint8.

    Returns:
        `(H, W)` float32, -1000 to -235.

    Raises:
        ValueError: if `pixels` has another shape or type.
    """
    _check_pixels(pixels)
    return pixels.mean(axis=2, dtype=np.float32) * 3 - 1000


def find_lungs(hu: np.ndarray, pixel_mm: tuple[float, float] = (math.nan, math.nan)) -> Lungs:
    """Finds the lungs of an axial slice, and says whether they are enough.

    A slice of which nothing is above -235 is taken for a picture in pseudo-HU, whose window is unknown.

    Args:
        hu: `(H, W)` float, HU or pseudo-HU, finite.
        pixel_mm: height and width of a pixel in mm; NaN where unknown. Not believed where the slice would then
            be smaller than 5 cm or larger than 2 m.

    Returns:
        The lungs. Whatever the slice shows, there is an answer: one without lungs has its reason.

    Raises:
        ValueError: if `hu` has another shape or no pixels.
    """
    hu = np.asarray(hu)
    if hu.ndim != 2 or not hu.size:
        raise ValueError(f"hu should be (H, W) and not empty. Received: shape {hu.shape}")
    height, width = hu.shape
    if min(height, width) < _FEWEST_PIXELS:
        return _left_out(
            hu.shape, f"{width} x {height} pixels; at least {_FEWEST_PIXELS} x {_FEWEST_PIXELS} are needed"
        )
    grid, scale = _grid(hu, pixel_mm)
    found = _in_picture(grid) if grid.max() <= _BRIGHTEST_PICTURE else _in_hu(grid, scale)
    mask = Image.fromarray(found.mask.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return dataclasses.replace(found, mask=np.asarray(mask) >= 0.5)


def extracted(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Crops a slice to the box of its lungs and makes everything else zero.

    Args:
        pixels: `(H, W, 3)` uint8.
        mask: `(H, W)` bool, the lungs.

    Returns:
        `(h, w, 3)` uint8, the size of the mask's box.

    Raises:
        ValueError: if the shapes or types are others, or the mask is empty.
    """
    box = _box(pixels, mask)
    return pixels[box] * mask[box][..., None]


def filled(pixels: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As `extracted`, but the background is filled with copies of the lungs, each turned and shifted at random.

    The outline of the lungs is then no clue (DRENet, Figure 1). It is for training only: the paper's own
    difference between training and use. The rim of the lungs, half chest wall, is background too: its bright line
    would show the outline. What 64 copies leave empty takes the nearest pixel of the lungs.

    Args:
        pixels: `(H, W, 3)` uint8.
        mask: `(H, W)` bool, the lungs.
        rng: decides turns (by quarters) and shifts; the same state gives the same picture.

    Returns:
        `(h, w, 3)` uint8, the size of the mask's box; all of it pixels of the lungs.

    Raises:
        ValueError: as `extracted`.
    """
    box = _box(pixels, mask)
    lungs = _without_rim(mask)[box]
    height, width = lungs.shape
    own = np.where(lungs, np.arange(lungs.size, dtype=np.int32).reshape(lungs.shape), -1)
    source = own.copy()  # of each pixel, where its value comes from
    for _ in range(_COPIES):
        empty = source < 0
        if not empty.any():
            break
        turned = np.rot90(own, rng.integers(4))
        rows = (np.arange(height) + rng.integers(turned.shape[0])) % turned.shape[0]
        columns = (np.arange(width) + rng.integers(turned.shape[1])) % turned.shape[1]
        source[empty] = turned[np.ix_(rows, columns)][empty]
    if (source < 0).any():
        nearest = ndimage.distance_transform_edt(~lungs, return_distances=False, return_indices=True)
        source = np.where(source < 0, own[tuple(nearest)], source)
    return pixels[box].reshape(-1, 3)[source]


def _check_pixels(pixels: np.ndarray) -> None:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels should be (H, W, 3) uint8. Received: {pixels.shape} {pixels.dtype}")


def _box(pixels: np.ndarray, mask: np.ndarray) -> tuple[slice, slice]:
    _check_pixels(pixels)
    if mask.shape != pixels.shape[:2] or mask.dtype != bool:
        raise ValueError(f"mask should be {pixels.shape[:2]} bool, as pixels. Received: {mask.shape} {mask.dtype}")
    if not mask.any():
        raise ValueError("the mask is empty; leave the slice out, as its `Lungs.reason` says")
    return ndimage.find_objects(mask.view(np.uint8))[0]


def _without_rim(mask: np.ndarray) -> np.ndarray:
    """Erodes by 2 pixels of 512, as the paper's code; lungs too thin for that stay as they are."""
    inner = ndimage.binary_erosion(mask, disk(round(_RIM * max(mask.shape))), border_value=1)
    return inner if inner.any() else mask


def _left_out(shape: tuple[int, int], reason: str, regions: int = 0) -> Lungs:
    return Lungs(np.zeros(shape, bool), 0.0, regions, reason)


def _grid(hu: np.ndarray, pixel_mm: tuple[float, float]) -> tuple[np.ndarray, float]:
    """Returns the slice in square pixels, at most `_SIDE` a side, and how many of them are one of the paper's."""
    extent = np.array(pixel_mm, float) * hu.shape
    known = bool(extent.min() >= _SMALLEST_MM and extent.max() <= _LARGEST_MM)  # false for NaN
    sizes = np.array(pixel_mm if known else (1.0, 1.0))
    extent = sizes * hu.shape
    pixel = max(extent.max() / _SIDE, sizes.min())
    height, width = np.maximum(1, np.rint(extent / pixel)).astype(int).tolist()
    image = Image.fromarray(np.clip(hu, *_RANGE).astype(np.float32))
    grid = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return grid, float(_PAPER_MM / pixel) if known else max(grid.shape) / _PAPER_SIDE


def _in_hu(grid: np.ndarray, scale: float) -> Lungs:
    smooth = ndimage.gaussian_filter(grid, 2 * scale)
    regions = find_regions(smooth <= _AIR, smooth <= _OPACITY, grid < _GAS, scale)
    return _judged(regions, grid.shape, _SMALLEST_BODY_HU)


def _in_picture(grid: np.ndarray) -> Lungs:
    """Tries thresholds and frames in turn; takes the first result kept with two lungs, else the best."""
    best = None
    for box in _frames(grid):
        inside = grid[box]
        scale = max(inside.shape) / _PAPER_SIDE
        smooth = ndimage.gaussian_filter(inside, 2 * scale)
        if np.ptp(smooth) < _LEAST_CONTRAST:
            continue
        for threshold in _thresholds(smooth, scale):
            dark = smooth <= threshold
            found = _judged(find_regions(dark, dark, np.zeros_like(dark), scale), inside.shape, _SMALLEST_BODY)
            if best is None or _rank(found) > _rank(best):
                mask = np.zeros(grid.shape, bool)
                mask[box] = found.mask
                best = dataclasses.replace(found, mask=mask)
            if not best.reason and best.regions == 2:
                return best
    return best or _left_out(grid.shape, "no body was found: the picture has hardly any contrast")


def _thresholds(smooth: np.ndarray, scale: float) -> Iterator[float]:
    picture = threshold_otsu(smooth)
    body = body_hull(smooth > picture, scale)
    if body is not None and np.ptp(smooth[body]):
        yield threshold_otsu(smooth[body])
    yield _AIR
    yield picture
    # In a window for soft tissue Otsu's tells bright organs from everything else; fat is dark there.
    below = smooth[smooth <= picture]
    if np.ptp(below):
        yield threshold_otsu(below)


def _frames(grid: np.ndarray) -> list[tuple[slice, slice]]:
    """Returns what lies within a frame of plain lines, at first of narrow or dark ones only."""
    narrow, wide = [], []
    for lines in (grid, grid.T):
        length = len(lines)
        plain = (np.ptp(lines, axis=1) <= _PLAIN) | ((lines >= _WHITE).mean(axis=1) >= _WHITE_SHARE)
        first, last = int(np.argmin(plain)), length - int(np.argmin(plain[::-1]))
        if last - first < length // 4 or plain.all():
            first, last = 0, length
        wide.append(slice(first, last))
        bright = lines.mean(axis=1) > _AIR
        if first > _FRAME * length and bright[:first].any():
            first = 0
        if length - last > _FRAME * length and bright[last:].any():
            last = length
        narrow.append(slice(first, last))
    return [tuple(narrow)] if narrow == wide else [tuple(narrow), tuple(wide)]


def _judged(regions: Regions, shape: tuple[int, int], smallest_body: float) -> Lungs:
    body = 0.0 if regions.body is None else float(regions.body.mean())
    if body < smallest_body:
        least = f"at least {_percent(smallest_body)} are expected"
        return _left_out(shape, f"no body was found: tissue takes up {_percent(body)} of the slice; {least}")
    if not regions.lungs:
        return _left_out(shape, "no region in the body section is dark and large enough for a lung")
    mask = np.zeros(shape, bool)
    for lung in regions.lungs:
        mask |= lung
    share = float(mask.sum() / regions.body.sum())
    what = "lungs are" if len(regions.lungs) == 2 else "one lung only,"
    reason = ""
    if share < _LEAST_SHARE:
        reason = f"{what} {_percent(share)} of the body section; at least {_percent(_LEAST_SHARE)} are needed"
    elif share > _MOST_SHARE:
        reason = f"{what} {_percent(share)} of the body section; at most {_percent(_MOST_SHARE)} is plausible"
    return Lungs(mask, share, len(regions.lungs), reason)


def _percent(share: float) -> str:
    return f"{math.floor(1000 * share + 1e-6) / 10:g} %"


def _rank(lungs: Lungs) -> tuple[bool, int]:
    return not lungs.reason, lungs.regions
