"""A contact sheet of phantoms: every finding, with and without its outline."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ladnn_tf.data.phantom_anatomy import sample_patient
from ladnn_tf.data.phantom_slice import Slice, draw_slice
from ladnn_tf.labels import LESION_NAMES, LESIONS

_ROWS = (
    ("GGO", ("GGO",)),
    ("Csld", ("Csld",)),
    ("CrPa", ("GGO", "CrPa")),
    ("AirBr", ("Csld", "AirBr")),
    ("InSepThi", ("InSepThi",)),
    ("normal", ()),
    ("nodule", ("nodule",)),
    ("emphysema", ("emphysema",)),
    ("motion artefact", ("motion",)),
)

# Okabe and Ito's colours, which colour-blind people tell apart.
_COLOURS = {
    "GGO": (86, 180, 233),
    "Csld": (230, 159, 0),
    "CrPa": (240, 228, 66),
    "AirBr": (213, 94, 0),
    "InSepThi": (0, 158, 115),
    "nodule": (204, 121, 167),
    "emphysema": (0, 114, 178),
    "effusion": (255, 255, 255),
}

_LABEL_WIDTH = 150


def write_contact_sheet(path: Path, *, seed: int = 0, size: int = 224, columns: int = 3) -> None:
    """Draws a row for each finding.

    Args:
        path: the PNG to write.
        seed: of the patients, who are not those of a dataset with that seed.
        size: side of a slice in pixels.
        columns: patients in a row; each slice stands beside a small copy with outlines.
    """
    small = size * 3 // 4
    wide = size + small + 10
    sheet = Image.new("RGB", (_LABEL_WIDTH + columns * wide, len(_ROWS) * (size + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (title, findings) in enumerate(_ROWS):
        top = row * (size + 4)
        draw.text((6, top + size // 2 - 20), _label(title), fill="black")
        for column in range(columns):
            patient = sample_patient(*np.random.default_rng([seed, 7, row, column]).spawn(2))
            level = (column + 0.5) / columns
            drawn = draw_slice(patient, findings, level=level, seed=[seed, 8, row, column], size=size)
            left = _LABEL_WIDTH + column * wide
            sheet.paste(Image.fromarray(drawn.image).convert("RGB"), (left, top))
            sheet.paste(outline_findings(drawn, small), (left + size + 2, top))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def outline_findings(drawn: Slice, size: int) -> Image.Image:
    """The slice in RGB, `size` pixels wide, with a coloured line around each lesion and each other finding."""
    pixels = np.array(Image.fromarray(drawn.image).resize((size, size), Image.Resampling.LANCZOS).convert("RGB"))
    for name, mask in {**drawn.lesions, **drawn.others}.items():
        inside = np.array(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))
        grown = inside.copy()
        for axis in (0, 1):
            for step in (-1, 1):
                grown |= np.roll(inside, step, axis)
        pixels[grown & ~inside] = _COLOURS[name]
    return Image.fromarray(pixels)


def _label(title: str) -> str:
    if title not in LESIONS:
        return f"{title}\n(not COVID-19)"
    words = LESION_NAMES[title].split()
    return f"{title}\n" + "\n".join(words)
