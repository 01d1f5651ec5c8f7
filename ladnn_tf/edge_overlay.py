"""Overlays of the edge command: where the network looked, drawn with Pillow and NumPy alone."""

import io
import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ladnn_tf.answer import Answer
from ladnn_tf.labels import CLASS_NAMES, LESION_NAMES, LESIONS

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

BOX_SHARE = 0.8
"""A box is drawn if its score is more than this share of the highest one (Song et al. 2021, Figure 3: "normalized
predicted scores above 0.8")."""

OUTLINE = (230, 159, 0)
"""Orange of Okabe and Ito (2008), which stands out from grey for every reader."""

MAP_NOTE = "where the network looked (lowest to highest of each map), not where a lesion is"
BOXES_NOTE = "boxes: where the network looked closer, not where a lesion is"

_SIDE = 320  # pixels of one picture
_GAP = 8
_TITLE = 26
_LINE = 18
_FONT_SIZE = 14
_LABEL = 15  # pixels that a box' label is high
_OPACITY = 0.65  # of the hottest place
_NAME_CHARACTERS = 60
_FEWEST_PANELS = 2  # whose width the notes get
_NOTE_CHARACTERS = 80  # fit below so many
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


def strongest(result: Answer, highest: float) -> tuple[np.ndarray, np.ndarray]:
    """The boxes of a slice that are worth showing: their score is more than `BOX_SHARE` of the highest one.

    Where a slice is called negative it is for the caller to show none: the best region of a healthy slice is no
    finding.

    Args:
        result: of the slice; it need not have boxes.
        highest: score of all boxes that it is compared with, those of the same series or of this slice alone.

    Returns:
        `(n, 4)` float32 boxes and `(n,)` float32 scores as shares of the highest, the highest first.
    """
    if result.boxes is None or highest <= 0.0:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    shares = result.scores / highest
    return result.boxes[shares > BOX_SHARE], shares[shares > BOX_SHARE]


def outline(picture: Image.Image, boxes: np.ndarray, shares: np.ndarray) -> None:
    """Draws boxes and their shares of the highest score into the picture of a slice.

    Args:
        picture: RGB, of the whole slice.
        boxes: `(n, 4)`: top, left, bottom, right as shares of its sides. What lies outside is drawn at the border.
        shares: `(n,)`, of the highest score.
    """
    canvas = ImageDraw.Draw(picture)
    canvas.font = ImageFont.load_default(_FONT_SIZE - 2)
    width, height = picture.size
    for box, share in zip(boxes, shares, strict=True):
        top, left, bottom, right = (
            np.rint(np.clip(box, 0.0, 1.0) * (height, width, height, width)).astype(int).tolist()
        )
        corners = (left, top, max(right - 1, left), max(bottom - 1, top))
        canvas.rectangle(corners, outline=(0, 0, 0), width=4)  # a rim that parts it from bright tissue
        inner = (corners[0] + 1, corners[1] + 1, max(corners[2] - 1, left + 1), max(corners[3] - 1, top + 1))
        canvas.rectangle(inner, outline=OUTLINE, width=2)
        # Above the box; of a box at the upper border below it.
        place = (left + 2, top - _LABEL if top >= _LABEL else bottom + 1)
        canvas.rectangle(canvas.textbbox(place, f"{share:.2f}"), fill=(0, 0, 0))
        canvas.text(place, f"{share:.2f}", OUTLINE)


def draw(pixels: np.ndarray, result: Answer, name: str, notice: str) -> Image.Image:
    """Draws a slice, and beside it where the network looked.

    That is the map of COVID-19 over the slice and that of the most probable lesion, where there are lesions; of a
    model with boxes the strongest ones, if the slice is called positive. A model with neither has the slice alone.

    Args:
        pixels: `(S, S, 3)` uint8 RGB, the slice as the network saw it.
        result: of the slice, with an answer.
        name: of the image's file.
        notice: what the model must not be used for.

    Returns:
        An RGB picture.
    """
    slice_ = np.asarray(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    panels = [("slice as the network sees it", slice_)]
    if result.maps is not None:
        panels.append((f"COVID-19 {result.covid:.3f}", blend(slice_, result.maps[..., 0])))
    elif result.boxes is not None and result.positive:
        panels.append((f"COVID-19 {result.covid:.3f}", _outlined(slice_, result)))
    if result.lesions and result.maps is not None:
        lesion = max(result.lesions, key=result.lesions.get)
        title = f"{LESION_NAMES[lesion]} {result.lesions[lesion]:.3f}"
        panels.append((title, blend(slice_, result.maps[..., 1 + LESIONS.index(lesion)])))
    notes = _notes(result, name, notice)
    width = _GAP + max(len(panels), _FEWEST_PANELS) * (_SIDE + _GAP)
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
    if result.maps is not None:
        draw_scale(picture, (_GAP, top + 2))
    elif result.boxes is not None:
        canvas.text((_GAP, top), BOXES_NOTE if result.positive else "no boxes, as the call is negative", _INK)
    return picture


def overlay_jpeg(pixels: np.ndarray, result: Answer, name: str, notice: str) -> bytes:
    """`draw` as the bytes of a JPEG file."""
    content = io.BytesIO()
    draw(pixels, result, name, notice).save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()


def draw_scale(picture: Image.Image, place: tuple[int, int]) -> None:
    """Draws the colours of a map from lowest to highest, and what they say, 18 pixels high.

    Args:
        picture: RGB; it is changed.
        place: left and top of the colours, pixels.
    """
    left, top = place
    ramp = np.repeat(np.linspace(0.0, 1.0, 120)[None], 10, axis=0)
    picture.paste(Image.fromarray(np.rint(heat_colours(ramp)).astype(np.uint8)), place)
    canvas = ImageDraw.Draw(picture)
    canvas.text((left + 128, top - 4), MAP_NOTE, _INK, font=ImageFont.load_default(_FONT_SIZE))


def plain(text: str, characters: int = _NAME_CHARACTERS) -> str:
    """A name with a question mark for what the font lacks, and not too long."""
    text = "".join(c if c.isprintable() else "?" for c in text.encode("latin-1", "replace").decode("latin-1"))
    return text if len(text) <= characters else f"{text[: characters - 3]}..."


def _outlined(slice_: np.ndarray, result: Answer) -> np.ndarray:
    picture = Image.fromarray(slice_)
    outline(picture, *strongest(result, float(result.scores.max(initial=0.0))))
    return np.asarray(picture)


def _notes(result: Answer, name: str, notice: str) -> list[tuple[str, tuple[int, int, int]]]:
    call = "positive" if result.positive else "negative"
    said = [f"{plain(name)}: called COVID-19 {call} (positive from {result.threshold:.3f})"]
    shares = result.lesions or {CLASS_NAMES[name]: value for name, value in result.classes.items()}
    if shares:
        said.append(", ".join(f"{name} {value:.2f}" for name, value in shares.items()))
    said.append(f"by {plain(result.model_version)}")
    notes = [(text, _INK) for text in said]
    for caveat in result.card.caveats:
        notes += [(line, _WARNING) for line in textwrap.wrap(caveat, _NOTE_CHARACTERS)]
    return notes + [(line, _INK) for line in textwrap.wrap(notice, _NOTE_CHARACTERS)]
