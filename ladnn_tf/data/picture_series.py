"""A folder of PNG or JPEG slices as a volume: pseudo-HU, in the natural order of the names."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ladnn_tf.data.preprocess import ImageError, decode
from ladnn_tf.data.series_sources import Source, reason_of
from ladnn_tf.data.volume import MAX_SLICES, MAX_VOXELS, SeriesError, Volume, left_out_report

PICTURES = (".png", ".jpg", ".jpeg")
"""Suffixes, in lower case."""

_MAX_BYTES = 64 * 2**20  # of one picture
_NUMBER = re.compile(r"(\d+(?:\.\d+)*)")


def natural_key(name: str) -> tuple:
    """Sorts numbers within names as numbers: slice_2 before slice_10, 109054_26.0 before 109054_28.0.

    A run with more than one point is a row of whole numbers, as in a UID or a version.
    """
    name = Path(name).stem if Path(name).suffix.lower() in PICTURES else name
    parts = _NUMBER.split(name)
    for index in range(1, len(parts), 2):
        run = parts[index]
        parts[index] = (float(run),) if run.count(".") < 2 else tuple(map(float, run.split(".")))
    parts[::2] = [part.casefold() for part in parts[::2]]
    return tuple(parts)


def read_pictures(name: str, sources: Sequence[Source]) -> Volume:
    """Reads display pictures of one series.

    Args:
        name: of the folder.
        sources: the pictures, in any order.

    Returns:
        The volume, not calibrated. Which end is the head, and the spacing, are unknown.

    Raises:
        SeriesError: if none can be read, or if there are too many.
        OSError: if a file cannot be read at all.
    """
    sources = sorted(sources, key=lambda source: (natural_key(source.name), source.name))
    left_out: dict[str, list[str]] = {}
    # Grey bytes of all pictures are a quarter of their HU, and show which size most have.
    greys, coloured, total = {}, [], 0
    for source in sources:
        try:
            pixels = decode(_content(source))
        except (ImageError, SeriesError, OSError) as error:
            left_out.setdefault(reason_of(error, source.name), []).append(source.name)
            continue
        if (pixels != pixels[..., :1]).any():
            coloured.append(source.name)
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
        greys[source.name] = np.ascontiguousarray(pixels[..., 0])
        total += greys[source.name].size
        if total > MAX_VOXELS or len(greys) > MAX_SLICES:
            raise SeriesError(
                f"{name}: over {MAX_SLICES:,} pictures or {MAX_VOXELS:,} pixels; give the slices of one series"
            )
    if not greys:
        raise SeriesError(f"{name}: no picture can be read. {' '.join(left_out_report(left_out))}")
    (rows, columns), count = Counter(grey.shape for grey in greys.values()).most_common(1)[0]
    hu = np.empty((count, rows, columns), np.float32)
    files = []
    for file, grey in greys.items():
        if grey.shape != (rows, columns):
            left_out.setdefault(f"not of {rows} x {columns} pixels, as most are", []).append(file)
            continue
        hu[len(files)] = grey * np.float32(3) - 1000
        files.append(file)
    report = left_out_report(left_out)
    if coloured:
        report.append(f"{len(coloured)} pictures are coloured and were made grey: {', '.join(coloured[:3])}.")
    if len(files) == 1:
        report.append("there is one slice only.")
    return Volume(name, hu, (math.nan,) * 3, tuple(report), tuple(files), calibrated=False)


def _content(source: Source) -> bytes:
    with source.open() as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise SeriesError(f"more than {_MAX_BYTES:,} bytes")
    return content
