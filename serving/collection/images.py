"""An uploaded picture as the data collection stores it: pixels alone, the chosen corners black."""

import dataclasses
import functools
import hashlib
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from ladnn_tf.data import preprocess
from ladnn_tf.data.preprocess import PNG_SIGNATURE, encode_png
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

_BIT_DEPTH = 24  # the place in a PNG file (PNG specification, 11.2.1)


class HiddenError(ValueError):
    """A file holds what viewers do not show, so that nobody can have looked at it; the message says what to do.

    Attributes:
        kind: `transparent` or `animated`.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


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


def prepare(
    encoded: bytes,
    erasure: Erasure = NOTHING,
    decode: Callable[[bytes], np.ndarray] = preprocess.decode,
) -> PreparedImage:
    """Erases the corners of a picture and encodes it anew.

    Args:
        encoded: a PNG or JPEG file.
        erasure: what to erase.
        decode: gives the file's (H, W, 3) uint8 RGB pixels, or raises.

    Raises:
        HiddenError: if any of the picture is transparent, or it is animated.
        ImageError: as `decode`.
    """
    pixels = decode(encoded)
    if encoded.startswith(PNG_SIGNATURE):
        _check_shown(encoded)
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


def _check_shown(png: bytes) -> None:
    """Checks that viewers show what `decode` gives of a PNG file: not what lies behind it, and no other frame."""
    image = Image.open(io.BytesIO(png), formats=("PNG",))
    if image.is_animated:  # of which the first picture need not be shown at all (APNG specification, 1.0)
        raise HiddenError("animated", "it is animated: another picture may be shown; save it as a single one")
    image.load()
    if _is_transparent(image, png[_BIT_DEPTH]):
        raise HiddenError(
            "transparent", "something may lie under its transparent parts; save it without transparency"
        )


def _is_transparent(image: Image.Image, bit_depth: int) -> bool:
    transparent = image.info.get("transparency")
    if image.mode == "P" and transparent is not None:
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA"):
        return image.getchannel("A").getextrema()[0] < 255
    if transparent is None:
        return False
    # One grey or colour is transparent, in as many bits as the file has (PNG specification, 11.3.1.1); Pillow has
    # spread fewer than 8 bits over 0 to 255.
    most = 2**bit_depth - 1
    colour = np.bitwise_and(transparent, most) * (255 // most if most < 255 else 1)
    if image.mode == "RGB":
        return bool((np.asarray(image) == colour).all(axis=-1).any())
    return bool((np.asarray(image.convert("L") if image.mode == "1" else image) == colour).any())
