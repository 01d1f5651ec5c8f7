"""A folder of PNG or JPEG slices as a volume: pseudo-HU, in the natural order of the names."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from ladnn_tf.data.preprocess import ImageError, decode
from ladnn_tf.data.series_sources import Source, reason_of
from ladnn_tf.data.volume import MAX_SLICES, MAX_VOXELS, SeriesError, Volume, counted, left_out_report

PICTURES = (".png", ".jpg", ".jpeg")
"""Suffixes, in lower case."""

_MAX_BYTES = 64 * 2**20  # of one picture
_NUMBER = re.compile(r"([0-9]+)")


def natural_key(name: str) -> tuple:
    """Sorts numbers within names as whole numbers: slice_2 before slice_10, IM-1.2 before IM-1.10.

    That is the order of decimals as well where all names have as many of them (26.0, 28.0); where they have not,
    a point parts two numbers, as in a UID or in series.image.
    """
    stem = next((name[: -len(suffix)] for suffix in PICTURES if name.lower().endswith(suffix)), name)
    parts: list[str | tuple[int, str]] = [part.casefold() for part in _NUMBER.split(stem)]
    for index in range(1, len(parts), 2):
        digits = parts[index].lstrip("0")
        # Of two numbers without leading zeros the longer one is larger, however many digits they have.
        parts[index] = (len(digits), digits)
    return tuple(parts), name


def read_pictures(name: str, sources: Sequence[Source], left_out: Mapping[str, Sequence[str]]) -> Volume:
    """Reads display pictures of one series.

    Args:
        name: of the folder.
        sources: the pictures, in any order.
        left_out: what was left out before: reason -> names.

    Returns:
        The volume, not calibrated. Which end is the head, and the spacing, are unknown.

    Raises:
        SeriesError: if none can be read, or if there are too many.
        OSError: if a file cannot be read at all.
    """
    left_out = {reason: list(names) for reason, names in left_out.items()}
    # Grey bytes of all pictures are a quarter of their HU, and show which size most have.
    greys, coloured, total = [], [], 0
    for source in sorted(sources, key=lambda source: natural_key(source.path)):
        try:
            pixels = decode(_content(source))
        except (ImageError, SeriesError, OSError) as error:
            left_out.setdefault(reason_of(error, source.name), []).append(source.name)
            continue
        if (pixels != pixels[..., :1]).any():
            coloured.append(source.name)
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
        greys.append((source, np.ascontiguousarray(pixels[..., 0])))
        total += greys[-1][1].size
        if total > MAX_VOXELS or len(greys) > MAX_SLICES:
            raise SeriesError(
                f"{name}: over {MAX_SLICES:,} pictures or {MAX_VOXELS:,} pixels; give the slices of one series"
            )
    if not greys:
        raise SeriesError(f"{name}: no picture can be read. {' '.join(left_out_report(left_out))}")
    (rows, columns), count = Counter(grey.shape for _, grey in greys).most_common(1)[0]
    hu = np.empty((count, rows, columns), np.float32)
    files = []
    for source, grey in greys:
        if grey.shape != (rows, columns):
            left_out.setdefault(f"not of {rows} x {columns} pixels, as most are", []).append(source.name)
            continue
        hu[len(files)] = grey * np.float32(3) - 1000
        files.append(source.name)
    report = left_out_report(left_out)
    if coloured:
        are, were = ("is", "was") if len(coloured) == 1 else ("are", "were")
        report.append(
            f"{counted(len(coloured), 'picture')} {are} coloured and {were} made grey: {', '.join(coloured[:3])}."
        )
    if len(files) == 1:
        report.append("there is one slice only.")
    return Volume(name, hu, (math.nan,) * 3, tuple(report), tuple(files), calibrated=False)


def _content(source: Source) -> bytes:
    with source.open() as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise SeriesError(f"more than {_MAX_BYTES:,} bytes")
    return content
