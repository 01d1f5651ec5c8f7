"""A contact sheet of a DRENet's boxes: slices with their lesions outlined, and which box hits one."""

import dataclasses
import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ladnn_tf.files import write_atomically

_SIDE = 288  # pixels of one slice
_GAP = 8
_LINE = 18
_FONT_SIZE = 13
_TITLE_SIZE = 17
_TITLE_LINE = 24
_COLUMNS = 6
_INK = (20, 20, 20)
_MISSED = (180, 60, 0)
_DASH = 6  # pixels of a line, and of a gap
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}

# Okabe and Ito (2008): of the best box, the second and the third; further ones have the last.
_BOXES = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167))
_LESION = (240, 228, 66)


@dataclasses.dataclass(frozen=True, eq=False)
class Tile:
    """One slice of the sheet.

    Attributes:
        title: what stands above it.
        pixels: `(H, W, 3)` uint8.
        lesion: `(h, w)` bool.
        boxes: `(K, 4)` shares of the slice's sides, best first.
        hits: `(K,)` bool.
    """

    title: str
    pixels: np.ndarray
    lesion: np.ndarray
    boxes: np.ndarray
    hits: np.ndarray


def check_file(file: str | Path) -> Path:
    """Returns the sheet's path.

    Raises:
        ValueError: if it is neither JPEG nor PNG by its suffix.
    """
    if Path(file).suffix.lower() not in _FORMATS:
        raise ValueError(f"--sheet should be a {', '.join(_FORMATS)} file. Received: {file}")
    return Path(file)


def write_sheet(file: Path, tiles: Sequence[Tile], title: Sequence[str]) -> None:
    """Draws and writes a sheet.

    Args:
        file: JPEG or PNG; folders above it are made.
        tiles: in order, row by row.
        title: lines above them.

    Raises:
        ValueError: as `check_file`.
        OSError: if the file cannot be written.
    """
    content = io.BytesIO()
    options = {"quality": 88} if _FORMATS[check_file(file).suffix.lower()] == "JPEG" else {}
    draw(tiles, title).save(content, _FORMATS[file.suffix.lower()], **options)
    write_atomically(file, content.getvalue())


def draw(tiles: Sequence[Tile], title: Sequence[str]) -> Image.Image:
    """Draws a sheet; see `write_sheet`."""
    rows = -(-len(tiles) // _COLUMNS)
    above = _GAP + _TITLE_LINE * (len(title) + 1) + _GAP
    tall = _LINE + _SIDE + _GAP
    sheet = Image.new("RGB", (_GAP + _COLUMNS * (_SIDE + _GAP), above + rows * tall), "white")
    canvas = ImageDraw.Draw(sheet)
    large = ImageFont.load_default(_TITLE_SIZE)
    for number, line in enumerate(title):
        canvas.text((_GAP, _GAP + number * _TITLE_LINE), line, _INK, font=large)
    _draw_key(canvas, (_GAP, _GAP + len(title) * _TITLE_LINE), max(len(tile.boxes) for tile in tiles))
    canvas.font = ImageFont.load_default(_FONT_SIZE)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, _COLUMNS)
        left, top = _GAP + column * (_SIDE + _GAP), above + row * tall
        canvas.text((left, top), tile.title, _INK if tile.hits.any() else _MISSED)
        sheet.paste(_draw_tile(tile), (left, top + _LINE))
    return sheet


def _draw_key(canvas: ImageDraw.ImageDraw, place: tuple[int, int], count: int) -> None:
    left, top = place
    font = ImageFont.load_default(_FONT_SIZE)
    middle = top + _LINE // 2
    for number in range(count):
        _line(canvas, (left, middle), (left + 34, middle), _colour(number), dashed=False)
        canvas.text((left + 40, top), f"{number + 1}", _INK, font=font)
        left += 70
    entries = (("solid: hits", _INK), ("dashed: misses", _INK), ("outline of the lesions", _LESION))
    for text, colour in entries:
        _line(canvas, (left, middle), (left + 34, middle), colour, dashed=text.startswith("dashed"))
        canvas.text((left + 40, top), text, _INK, font=font)
        left += 60 + int(canvas.textlength(text, font=font))


def _colour(number: int) -> tuple[int, int, int]:
    return _BOXES[min(number, len(_BOXES) - 1)]


def _draw_tile(tile: Tile) -> Image.Image:
    pixels = np.array(Image.fromarray(tile.pixels).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    lesion = np.array(Image.fromarray(tile.lesion).resize((_SIDE, _SIDE), Image.Resampling.NEAREST))
    inner = lesion.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            inner &= np.roll(lesion, step, axis)
    pixels[lesion & ~inner] = _LESION
    picture = Image.fromarray(pixels)
    canvas = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_FONT_SIZE)
    # The best one last, so that nothing covers it.
    for number in reversed(range(len(tile.boxes))):
        edges = np.rint(np.clip(tile.boxes[number], 0, 1) * (_SIDE - 1)).astype(int).tolist()
        top, left, bottom, right = edges
        colour, dashed = _colour(number), not tile.hits[number]
        corners = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
        for start, end in itertools.pairwise(corners):
            _line(canvas, start, end, colour, dashed=dashed)
        place = (left + 4, top + 2)
        canvas.rectangle(canvas.textbbox(place, f"{number + 1}", font=font), fill=(0, 0, 0))
        canvas.text(place, f"{number + 1}", colour, font=font)
    return picture


def _line(
    canvas: ImageDraw.ImageDraw,
    start: tuple[int, int],
    end: tuple[int, int],
    colour: tuple[int, int, int],
    *,
    dashed: bool,
) -> None:
    """A level or upright line, whole or dashed."""
    length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    step = 2 * _DASH if dashed else max(length, 1)
    for begin in range(0, max(length, 1), step):
        stop = min(begin + _DASH, length) if dashed else length
        places = [
            tuple(a + (b - a) * at // max(length, 1) for a, b in zip(start, end, strict=True))
            for at in (begin, stop)
        ]
        canvas.line(places, fill=colour, width=2)
