"""An uploaded picture as the data collection stores it: pixels alone, the chosen corners black."""

import dataclasses
import functools
import hashlib

import numpy as np

from ladnn_tf.data.preprocess import encode_png
from ladnn_tf.data.quality import refusal

CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")
"""The corners that can be erased."""

PERCENT = range(5, 31)
"""How much of the width and of the height an erased corner may take, in per cent."""


@dataclasses.dataclass(frozen=True)
class Erasure:
    """What to erase of each picture.

    Attributes:
        corners: of `CORNERS`; none if nothing is to be erased.
        percent: of the width and of the height, in `PERCENT`.

    Raises:
        ValueError: if a corner or the size is not allowed.
    """

    corners: tuple[str, ...] = ()
    percent: int = 15

    def __post_init__(self) -> None:
        strays = [corner for corner in self.corners if corner not in CORNERS]
        if strays:
            raise ValueError(f"corners should be of {', '.join(CORNERS)}. Received: {strays[0]!r}")
        if self.percent not in PERCENT:
            raise ValueError(
                f"the size of a corner should be from {PERCENT[0]} to {PERCENT[-1]} % of the side."
                f" Received: {self.percent!r}"
            )


NOTHING = Erasure()


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedImage:
    """A picture as it is stored.

    Attributes:
        png: the file: grey where the three channels are equal, else RGB; no metadata.
        pixels_sha256: of width, height and RGB pixels, whatever the file's encoder.
        width, height: in pixels.
        erasure: what was erased.
        refusal: why it is not taken for a chest-CT slice, before anything was erased; else empty.
    """

    png: bytes = dataclasses.field(repr=False)
    pixels_sha256: str
    width: int
    height: int
    erasure: Erasure
    refusal: str

    @functools.cached_property
    def sha256(self) -> str:
        """Of the file, as 64 hexadecimal digits."""
        return hashlib.sha256(self.png).hexdigest()


def prepare(pixels: np.ndarray, erasure: Erasure = NOTHING) -> PreparedImage:
    """Erases the corners of a picture and encodes it.

    Args:
        pixels: (H, W, 3) uint8 RGB, of `ladnn_tf.data.preprocess.decode`.
        erasure: what to erase.
    """
    reason = refusal(pixels)
    pixels = erase(pixels, erasure)
    height, width = pixels.shape[:2]
    is_grey = bool((pixels[..., :1] == pixels).all())
    digest = hashlib.sha256(f"{width} x {height} RGB\n".encode())
    digest.update(np.ascontiguousarray(pixels))
    png = encode_png(pixels[..., 0] if is_grey else pixels)
    return PreparedImage(png, digest.hexdigest(), width, height, erasure, reason)


def erase(pixels: np.ndarray, erasure: Erasure) -> np.ndarray:
    """Makes corners black.

    A corner is `percent` of the width by `percent` of the height, each rounded up to whole pixels; the page's
    preview (`static/contribute.js`) rounds the same way.

    Args:
        pixels: (H, W, 3) uint8; it is not changed.
        erasure: what to erase.

    Returns:
        (H, W, 3) uint8.
    """
    erased = pixels.copy()
    # Rounded up in whole numbers, as floating point could take 3.0000000004 for 4.
    height, width = (-(-length * erasure.percent // 100) for length in pixels.shape[:2])
    for corner in erasure.corners:
        vertical, horizontal = corner.split("_")
        rows = slice(None, height) if vertical == "top" else slice(-height, None)
        columns = slice(None, width) if horizontal == "left" else slice(-width, None)
        erased[rows, columns] = 0
    return erased
