"""Overlays of the edge command: where the network looked, drawn with Pillow and NumPy alone."""

import io
import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ladnn_tf.answer import Answer
from ladnn_tf.labels import LESION_NAMES, LESIONS

# cividis (Nunez et al. 2018), the colour map of the project's figures, which colour-blind readers see as others
# do: at these levels of 0 to 255, within 3 grey levels of matplotlib's table between them.
_LEVELS = (0, 21, 23, 28, 34, 52, 147, 179, 205, 232, 251, 255)
_COLOURS = (
    (0, 34, 78), (0, 49, 112), (1, 50, 113), (18, 53, 112), (30, 58, 111), (54, 70, 108),
    (143, 138, 120), (174, 163, 113), (201, 185, 101), (231, 209, 80), (253, 227, 52), (254, 232, 56),
)  # fmt: skip
_TABLE = np.stack(
    [np.interp(np.arange(256), _LEVELS, channel) for channel in zip(*_COLOURS, strict=True)], axis=-1
).astype(np.float32)

_SIDE = 320  # pixels of one picture
_GAP = 8
_TITLE = 26
_LINE = 18
_FONT_SIZE = 14
_OPACITY = 0.65  # of the hottest place
_NAME_CHARACTERS = 60
_NOTE_CHARACTERS = 80  # fit below the two pictures of a baseline
_QUALITY = 88
_INK = (20, 20, 20)
_WARNING = (160, 0, 0)


def heat_colours(heat: np.ndarray) -> np.ndarray:
    """The colours of a map: `(H, W)` in [0, 1] to `(H, W, 3)` float32, RGB in [0, 255]."""
    return _TABLE[np.rint(heat * 255.0).astype(np.uint8)]


def blend(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lays a map over a slice, the more opaque the hotter.

    Args:
        pixels: `(H, W, 3)` uint8 RGB.
        heat: `(h, w)` float, a raw map. It is stretched to [0, 1] from its lowest to its highest value (a map
            without differences to 0) and enlarged bilinearly.

    Returns:
        `(H, W, 3)` uint8 RGB.
    """
    span = float(heat.max() - heat.min())
    stretched = ((heat - heat.min()) / (span or 1.0)).astype(np.float32)
    height, width = pixels.shape[:2]
    large = np.asarray(Image.fromarray(stretched).resize((width, height), Image.Resampling.BILINEAR))
    opacity = _OPACITY * large[..., None]
    return np.rint(pixels * (1.0 - opacity) + heat_colours(large) * opacity).astype(np.uint8)


def draw(pixels: np.ndarray, result: Answer, name: str, notice: str) -> Image.Image:
    """Draws a slice, the map of COVID-19 over it and that of the most probable lesion, where there are lesions.

    Args:
        pixels: `(S, S, 3)` uint8 RGB, the slice as the network saw it.
        result: of the slice, with maps.
        name: of the image's file.
        notice: what the model must not be used for.

    Returns:
        An RGB picture.
    """
    slice_ = np.asarray(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    panels = [("slice as the network sees it", slice_)]
    panels.append((f"COVID-19 {result.covid:.3f}", blend(slice_, result.maps[..., 0])))
    if result.lesions:
        lesion = max(result.lesions, key=result.lesions.get)
        title = f"{LESION_NAMES[lesion]} {result.lesions[lesion]:.3f}"
        panels.append((title, blend(slice_, result.maps[..., 1 + LESIONS.index(lesion)])))
    notes = _notes(result, name, notice)
    width = _GAP + len(panels) * (_SIDE + _GAP)
    picture = Image.new("RGB", (width, _TITLE + _SIDE + 2 * _GAP + _LINE * (len(notes) + 1)), "white")
    canvas = ImageDraw.Draw(picture)
    canvas.font = ImageFont.load_default(_FONT_SIZE)
    for number, (title, panel) in enumerate(panels):
        left = _GAP + number * (_SIDE + _GAP)
        canvas.text((left, 4), title, _INK)
        picture.paste(Image.fromarray(panel), (left, _TITLE))
    top = _TITLE + _SIDE + _GAP
    for note, colour in notes:
        canvas.text((_GAP, top), note, colour)
        top += _LINE
    _draw_scale(picture, canvas, top + 2)
    return picture


def overlay_jpeg(pixels: np.ndarray, result: Answer, name: str, notice: str) -> bytes:
    """`draw` as the bytes of a JPEG file."""
    content = io.BytesIO()
    draw(pixels, result, name, notice).save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()


def _notes(result: Answer, name: str, notice: str) -> list[tuple[str, tuple[int, int, int]]]:
    call = "positive" if result.positive else "negative"
    notes = [(f"{_plain(name)}: called COVID-19 {call} (positive from {result.threshold:.3f})", _INK)]
    if result.lesions:
        notes.append((", ".join(f"{name} {value:.2f}" for name, value in result.lesions.items()), _INK))
    notes.append((f"by {_plain(result.model_version)}", _INK))
    for caveat in result.card.caveats:
        notes += [(line, _WARNING) for line in textwrap.wrap(caveat, _NOTE_CHARACTERS)]
    return notes + [(line, _INK) for line in textwrap.wrap(notice, _NOTE_CHARACTERS)]


def _draw_scale(picture: Image.Image, canvas: ImageDraw.ImageDraw, top: int) -> None:
    ramp = np.repeat(np.linspace(0.0, 1.0, 120)[None], 10, axis=0)
    picture.paste(Image.fromarray(np.rint(heat_colours(ramp)).astype(np.uint8)), (_GAP, top))
    text = "where the network looked (lowest to highest of each map), not where a lesion is"
    canvas.text((_GAP + 128, top - 4), text, _INK)


def _plain(text: str) -> str:
    """A name with a question mark for what the font lacks, and not too long."""
    text = "".join(c if c.isprintable() else "?" for c in text.encode("latin-1", "replace").decode("latin-1"))
    return text if len(text) <= _NAME_CHARACTERS else f"{text[: _NAME_CHARACTERS - 3]}..."
