"""The pictures of a result, as `data:` addresses that a page carries inside."""

import base64
import functools
import io

import numpy as np
from PIL import Image

from ladnn_tf.edge_overlay import heat_colours, outline

SLICE_SIDE = 512
"""The longest side of a shown slice in pixels: the size of a CT slice as a scanner makes it."""

HEAT_SIDE = 64
"""Pixels of a shown map a side. A map has about 4 to 14 cells a side; the browser enlarges this smoothly."""

_QUALITY = 90  # of the JPEG, which is for recognising a slice by, not for reading it
_LEVELS = 256


def slice_uri(pixels: np.ndarray) -> str:
    """A slice in its own proportions, at most `SLICE_SIDE` pixels a side, as the address of a JPEG picture.

    Args:
        pixels: `(H, W, 3)` uint8 RGB in [0, 255], as the file has them.
    """
    return _jpeg_uri(Image.fromarray(pixels))


def boxed_uri(pixels: np.ndarray, boxes: np.ndarray, shares: np.ndarray) -> str:
    """`slice_uri` of a slice with boxes in it.

    Args:
        pixels: `(H, W, 3)` uint8 RGB in [0, 255].
        boxes, shares: as `edge_overlay.outline` takes them.
    """
    picture = Image.fromarray(pixels)
    scale = SLICE_SIDE / max(picture.size)
    # Enlarged before they are drawn: their lines are as wide in every picture.
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BILINEAR)
    outline(picture, boxes, shares)
    return _jpeg_uri(picture)


def _jpeg_uri(picture: Image.Image) -> str:
    picture.thumbnail((SLICE_SIDE, SLICE_SIDE), Image.Resampling.LANCZOS)
    shown = np.asarray(picture)
    if (shown[..., :1] == shown).all():
        picture = picture.convert("L")
    content = io.BytesIO()
    # Without subsampling: a thin coloured arrow in a slice keeps its colour.
    picture.save(content, "JPEG", quality=_QUALITY, subsampling=0)
    return data_uri(content.getvalue(), "image/jpeg")


def heat_uri(heat: np.ndarray) -> str:
    """A map as the address of a PNG picture: its colour is `edge_overlay.heat_colours`, its opacity its heat.

    Laid over the slice it is what `edge_overlay.blend` draws: stretched from its lowest to its highest value, and
    shown at the opacity that the page gives it. A map without differences is transparent.

    Args:
        heat: `(h, w)` float, a raw map over the whole slice.
    """
    span = float(heat.max() - heat.min())
    stretched = ((heat - heat.min()) / (span or 1.0)).astype(np.float32)
    side = (HEAT_SIDE, HEAT_SIDE)
    large = np.asarray(Image.fromarray(stretched).resize(side, Image.Resampling.BILINEAR))
    levels = np.clip(np.rint(large * (_LEVELS - 1)), 0, _LEVELS - 1).astype(np.uint8)
    return _palette_png(levels, transparency=bytes(range(_LEVELS)))


@functools.cache
def scale_uri() -> str:
    """The colours of a map from lowest to highest, as the address of a PNG picture one pixel high."""
    return _palette_png(np.arange(_LEVELS, dtype=np.uint8)[None])


def _palette_png(levels: np.ndarray, **options: bytes) -> str:
    # A palette with alpha is the same picture as RGBA in a quarter of the bytes.
    picture = Image.fromarray(levels)
    colours = heat_colours(np.arange(_LEVELS, dtype=np.float32)[None] / (_LEVELS - 1))[0]
    picture.putpalette(np.rint(colours).astype(np.uint8).tobytes())
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True, **options)
    return data_uri(content.getvalue(), "image/png")


def data_uri(content: bytes, media_type: str) -> str:
    """Bytes as a `data:` address (RFC 2397)."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
