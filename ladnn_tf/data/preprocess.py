"""The image contract in Pillow and NumPy: encoded bytes in, `(S, S, 3)` uint8 pixels out.

The contract, which `data/pipeline.py` writes a second time in TensorFlow and a test holds together:

1. decode PNG or JPEG to RGB; palette and grey are expanded, alpha is dropped, 16-bit samples are divided by
   257 and rounded; a file to be shown turned or mirrored (EXIF orientation other than 1) is refused, as TensorFlow
   would show it as it is stored;
2. resize to S x S, antialiased bilinear, per channel, in float;
3. round half to even, clip, uint8.

Everything else (scaling, mean, channel order) happens inside the model. The graph of a SavedModel does not look at
the EXIF orientation: it answers such a file as it is stored.
"""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

MAX_PIXELS = 50_000_000
"""Larger pictures are refused: a chest-CT slice has 512 x 512 pixels, a decompression bomb has billions."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND\xaeB`\x82"
"""The last chunk of every PNG: empty, and so with a fixed checksum (PNG specification, third edition, 11.2.5)."""

LFS_POINTER = b"version https://git-lfs"
"""How the text begins that Git leaves where a large file was not fetched."""

DAMAGED = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
)
"""What Pillow and other parsers let through from damaged files."""

_READABLE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "I")


class ImageError(ValueError):
    """An image that cannot be read, with what is wrong with it and what to do."""


def decode(encoded: bytes) -> np.ndarray:
    """Decodes a PNG or JPEG file.

    Args:
        encoded: the bytes of the file.

    Returns:
        `(H, W, 3)` uint8 RGB in [0, 255].

    Raises:
        ImageError: if the bytes are empty, damaged or truncated, a Git LFS pointer, neither PNG nor JPEG, CMYK,
            colour with 16 bits per sample, to be shown turned, or hold more than `MAX_PIXELS` pixels.
    """
    if not encoded:
        raise ImageError("the file is empty; copy it again from its source")
    if encoded.startswith(LFS_POINTER):
        raise ImageError("this is a Git LFS pointer, not an image; run `git lfs pull` where it came from")
    # PNG specification (third edition), 11.2.1: byte 24 is the bit depth, byte 25 the colour type, 0 is grey.
    if encoded.startswith(PNG_SIGNATURE) and encoded[24:25] == b"\x10" and encoded[25:26] != b"\x00":
        raise ImageError("a 16-bit PNG that is not plain grey; save it as 8-bit, or as 16-bit grey")
    try:
        with warnings.catch_warnings():
            # A header that only hints at a bomb is judged by MAX_PIXELS below, with a message of our own.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG"))
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError(
                f"{width} x {height} pixels are more than the {MAX_PIXELS:,} that are read; "
                "a chest-CT slice has about 512 x 512"
            )
        if image.format == "PNG":
            # Pillow reads on past a wrong checksum or a missing end; libpng, and so TensorFlow, does not.
            image.verify()
            if PNG_END not in encoded:
                raise ImageError("damaged or truncated image (no end); copy it again from its source")
            image = Image.open(io.BytesIO(encoded), formats=("PNG",))
        image.load()
        _check_orientation(image)
        return _to_rgb(image)
    except Image.DecompressionBombError as error:
        raise ImageError(f"far too many pixels for a chest-CT slice ({error})") from error
    except UnidentifiedImageError as error:
        raise ImageError("neither PNG nor JPEG; convert it") from error
    except DAMAGED as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"damaged or truncated image ({error}); copy it again from its source") from error


def _check_orientation(image: Image.Image) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged metadata: nobody can turn the picture by them
        try:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        except DAMAGED:
            return
    if orientation in range(2, 9):  # the tag has no other meanings; 1 is upright
        raise ImageError(
            f"the file says that it is to be shown turned (EXIF orientation {orientation}); save it upright, "
            "without that mark"
        )


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode not in _READABLE_MODES:
        raise ImageError(f"colour mode {image.mode} is not read; save the slice as grey or RGB")
    if image.mode.startswith("I"):
        grey = np.rint(np.asarray(image).astype(np.float32) / 257.0)
        return np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8)
    if image.mode in ("P", "PA", "LA"):
        image = image.convert("RGBA")  # a transparent palette entry keeps its colour; alpha goes below
    if image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGB")
    return np.ascontiguousarray(np.asarray(image)[..., :3])


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resizes to a square, antialiased bilinear in float, then rounds half to even.

    Args:
        pixels: `(H, W, 3)` uint8 RGB. The aspect ratio is not kept, as in the original code.
        size: the side S in pixels.

    Returns:
        `(S, S, 3)` uint8 RGB in [0, 255].
    """
    # Mode "F" per channel: Pillow's own 8-bit bilinear rounds twice and differs from tf.image.resize by one
    # level on a fifth of the pixels. Pillow makes the floats, as NumPy's would be in memory a second time.
    channels = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(pixels[..., channel]))
            .convert("F")
            .resize((size, size), Image.Resampling.BILINEAR)
        )
        for channel in range(3)
    ]
    return np.clip(np.rint(np.stack(channels, axis=-1)), 0, 255).astype(np.uint8)


def read_pixels(path: str | Path) -> np.ndarray:
    """Reads and decodes one file.

    Args:
        path: a PNG or JPEG file.

    Returns:
        `(H, W, 3)` uint8 RGB in [0, 255].

    Raises:
        ImageError: as `decode`, the message beginning with the file's name.
    """
    try:
        encoded = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return decode(encoded)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def read_image(path: str | Path, size: int) -> np.ndarray:
    """Reads one file by the whole contract.

    Args:
        path: a PNG or JPEG file.
        size: the side S in pixels.

    Returns:
        `(S, S, 3)` uint8 RGB in [0, 255].

    Raises:
        ImageError: as `read_pixels`.
    """
    return resize(read_pixels(path), size)


def encode_png(pixels: np.ndarray, compress_level: int = 6) -> bytes:
    """Encodes pixels as a PNG file, from which `decode` gives them back.

    Args:
        pixels: `(H, W)` grey or `(H, W, 3)` RGB, uint8.
        compress_level: from 0, fast, to 9, small.

    Returns:
        The bytes of the file.
    """
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", compress_level=compress_level)
    return content.getvalue()
