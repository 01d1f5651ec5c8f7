"""The picture of an answered series: its most suspicious slices, and where the network looked in them."""

import io
import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ladnn_tf import series_text
from ladnn_tf.edge_overlay import BOX_SHARE, BOXES_NOTE, blend, draw_scale, outline, plain, strongest
from ladnn_tf.series import SUSPICIOUS
from ladnn_tf.series_answer import SeriesAnswer, SliceAnswer
from ladnn_tf.series_cautions import cautions, caveats

_SIDE = 384  # pixels of one picture
_GAP = 10
_FONT_SIZE = 15
_LINE = 20
_TITLE_SIZE = 20
_TITLE_LINE = 30
_WIDTH = _GAP + SUSPICIOUS * (_SIDE + _GAP)
_NOTE_CHARACTERS = 165  # fit below three pictures
_PLACE_CHARACTERS = 44  # fit above one
_NAME_CHARACTERS = 70  # of the series
_INK = (20, 20, 20)
_WARNING = (160, 0, 0)


def draw(answer: SeriesAnswer, path: str) -> Image.Image:
    """Draws the most suspicious slices side by side, as the model was shown them.

    Under each slice of a model with attention maps lies the same slice with its map of COVID-19. In the slices of
    a model with boxes the strongest boxes of the series are drawn (`edge_overlay.strongest`), but only if the
    person is called positive.

    Args:
        answer: of the series, with a probability.
        path: that the series was read from.

    Returns:
        An RGB picture.

    Raises:
        ValueError: if there is no answer.
    """
    if answer.covid is None:
        raise ValueError(f"{answer.name} has no answer that could be drawn: {answer.reason}")
    shown = [answer.slices[place] for place in answer.suspicious]
    rows = [[_with_boxes(each, answer) for each in shown]]
    has_maps = shown[0].answer.maps is not None
    if has_maps:
        rows.append([_fitted(blend(each.pixels, each.answer.maps[..., 0])) for each in shown])
    notes = _notes(answer)
    above = _GAP + 2 * _TITLE_LINE + 2 * _LINE
    pictures = len(rows) * (_SIDE + _GAP)
    height = above + pictures + has_maps * _LINE + len(notes) * _LINE + _GAP
    picture = Image.new("RGB", (_WIDTH, height), "white")
    canvas = ImageDraw.Draw(picture)
    title = _end(series_text.title(path, answer.name), _NAME_CHARACTERS)
    canvas.text((_GAP, _GAP), title, _INK, font=ImageFont.load_default(_TITLE_SIZE))
    said = f"COVID-19 {series_text.probability(answer)}: called {series_text.call(answer)}"
    canvas.text((_GAP, _GAP + _TITLE_LINE), said, _INK, font=ImageFont.load_default(_TITLE_SIZE))
    canvas.font = ImageFont.load_default(_FONT_SIZE)
    for column, each in enumerate(shown):
        left = _GAP + column * (_SIDE + _GAP)
        place = series_text.position(each, answer)
        canvas.text((left, above - 2 * _LINE), f"{each.answer.covid:.3f}  {place}", _INK)
        canvas.text((left, above - _LINE - 2), _end(each.file, _PLACE_CHARACTERS), _INK)
        for row, panels in enumerate(rows):
            picture.paste(panels[column], (left, above + row * (_SIDE + _GAP)))
    top = above + pictures
    if has_maps:
        draw_scale(picture, (_GAP, top + 4))
        top += _LINE
    for note, colour in notes:
        canvas.text((_GAP, top), note, colour)
        top += _LINE
    return picture


def panel_png(answer: SeriesAnswer, path: str) -> bytes:
    """`draw` as the bytes of a PNG file."""
    content = io.BytesIO()
    draw(answer, path).save(content, "PNG")
    return content.getvalue()


def _with_boxes(each: SliceAnswer, answer: SeriesAnswer) -> Image.Image:
    """A slice in a square of `_SIDE` pixels, its boxes drawn where they may be."""
    if not answer.positive:  # the best region of a healthy person is no finding
        return _fitted(each.pixels)
    return _fitted(each.pixels, *strongest(each.answer, _highest_score(answer)))


def _highest_score(answer: SeriesAnswer) -> float:
    scores = [each.answer.scores for each in answer.answered if each.answer.scores is not None]
    return float(max((values.max(initial=0.0) for values in scores), default=0.0))


def _fitted(pixels: np.ndarray, *boxes_and_shares: np.ndarray) -> Image.Image:
    """A slice in a black square of `_SIDE` pixels, its sides in proportion, with boxes if there are any."""
    height, width = pixels.shape[:2]
    scale = _SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    slice_ = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    if boxes_and_shares:
        outline(slice_, *boxes_and_shares)
    square = Image.new("RGB", (_SIDE, _SIDE), "black")
    square.paste(slice_, ((_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2))
    return square


def _notes(answer: SeriesAnswer) -> list[tuple[str, tuple[int, int, int]]]:
    best = [answer.slices[place] for place in answer.suspicious]
    count = "The most suspicious slice" if len(best) == 1 else f"The {len(best)} most suspicious slices"
    what = "the lungs as" if answer.card.lungs == "extracted" else "as"
    said = [
        f"{count} of {len(answer.answered)} answered, {what} the model was shown them; {_what_is_drawn(answer)}."
    ]
    if answer.classes:
        most = series_text.most_probable_class(answer)
        said.append(f"Most probable class: {most}. Classes: {series_text.classes(answer)}.")
    said.append(f"Person: {series_text.rule(answer)}.")
    said.append(f"By {plain(answer.card.version)}; window: {series_text.window(answer)}.")
    parts = [
        *((sentence, _WARNING) for sentence in cautions(answer)),
        *((sentence, _INK) for sentence in said),
        *((caveat, _WARNING) for caveat in caveats(answer.card)),
        (answer.card.notice, _INK),
    ]
    return [(line, colour) for text, colour in parts for line in textwrap.wrap(text, _NOTE_CHARACTERS)]


def _what_is_drawn(answer: SeriesAnswer) -> str:
    best = [answer.slices[place] for place in answer.suspicious]
    if best[0].answer.maps is not None:
        return "below each the same with the map of COVID-19"
    if best[0].answer.boxes is None:
        return "this model does not say where it looked"
    if not answer.positive:
        return "no boxes are drawn, as the person is called negative"
    if not any(len(strongest(each.answer, _highest_score(answer))[0]) for each in best):
        return "no boxes are drawn, as the highest scores of the series are in other slices"
    number = f"its score as a share of the highest of the series, drawn above {BOX_SHARE:g}"
    return f"{BOXES_NOTE}; the number at a box: {number}"


def _end(name: str, characters: int) -> str:
    """A name that the font can write, of a long one the end."""
    name = plain(name, len(name))
    return name if len(name) <= characters else f"...{name[3 - characters :]}"
