"""Altered slices for the shortcut audit: what a network answers when a part of the image says nothing any more.

Each function of `ALTERATIONS` takes a slice as the network sees it, `(S, S, 3)` uint8 RGB after the image
contract, and returns a new one of the same shape. `common_resolution` begins with the original file's pixels.
"""

from collections.abc import Callable

import numpy as np

from ladnn_tf.data.lung_hulls import lung_mask
from ladnn_tf.data.preprocess import resize

BORDER_SHARE = 0.1
"""Width of the frame that `only_border` keeps, as a share of the side; 36 % of the pixels lie in it."""

CORNER_SHARE = 1 / 6
"""Side of the squares that `corners_erased` blackens, as a share of the image's side."""

COMMON_SIZE = 96
"""Side in pixels to which `common_resolution` shrinks. Of the 746 slices of COVID-CT 739 have it in both
directions; the others are enlarged and stay the more blurred."""

_GREY = 128  # the same in every image, so that the filling itself tells nothing


def lungs_erased(pixels: np.ndarray) -> np.ndarray:
    """Fills the lungs with the median colour of the brighter half of everything else, that is of tissue.

    The filling depends on nothing inside the lungs. What stays of them is the outline of the mask, which follows
    the outer shape of their air, and consolidations that the mask leaves out (`lung_hulls.lung_mask`).

    Raises:
        lung_hulls.NoLungsError: if there are no lungs to erase.
    """
    lungs = lung_mask(pixels)
    outside = pixels[~lungs]
    grey = outside.mean(axis=1)
    altered = pixels.copy()
    altered[lungs] = np.median(outside[grey >= grey.mean()], axis=0).astype(np.uint8)
    return altered


def only_lungs(pixels: np.ndarray) -> np.ndarray:
    """Fills everything but the lungs with grey: the counterpart of `lungs_erased`.

    Raises:
        lung_hulls.NoLungsError: if there are no lungs to keep.
    """
    return np.where(lung_mask(pixels)[..., None], pixels, np.uint8(_GREY))


def only_border(pixels: np.ndarray) -> np.ndarray:
    """Keeps a frame of `BORDER_SHARE` of the side, fills what is inside it with grey, and lungs in the frame too.

    Slices are often cropped so closely that the lungs reach into the frame.

    Raises:
        lung_hulls.NoLungsError: if no lungs are found, so that none can be kept out of the frame.
    """
    altered = np.where(lung_mask(pixels)[..., None], np.uint8(_GREY), pixels)
    width = round(BORDER_SHARE * len(pixels))
    altered[width:-width, width:-width] = _GREY
    return altered


def corners_erased(pixels: np.ndarray) -> np.ndarray:
    """Blackens the four corners, where letters and scanner text are burned in."""
    altered = pixels.copy()
    side = round(CORNER_SHARE * len(pixels))
    for rows in (slice(None, side), slice(-side, None)):
        for columns in (slice(None, side), slice(-side, None)):
            altered[rows, columns] = 0
    return altered


ALTERATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "lungs erased": lungs_erased,
    "only the lungs": only_lungs,
    "only the border": only_border,
    "corners erased": corners_erased,
}
"""Name in the report -> function."""


def common_resolution(original: np.ndarray, size: int) -> np.ndarray:
    """Shrinks a slice to `COMMON_SIZE` before it gets the network's size, so that all are equally blurred.

    Compression artefacts and fine print go with it. To a network whose input is not larger than `COMMON_SIZE`
    all images have one resolution anyway.

    Args:
        original: `(H, W, 3)` uint8 RGB, as `preprocess.decode` gives it.
        size: the side S of the network's input in pixels.

    Returns:
        `(S, S, 3)` uint8 RGB.
    """
    return resize(resize(original, COMMON_SIZE), size)
