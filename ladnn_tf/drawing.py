"""What the project's figures share: a figure without a window, colours that everyone can tell apart, saving."""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ladnn_tf.files import write_atomically

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito (2008): told apart with every common kind of colour blindness; the first two are for pairs."""

HEAT = "cividis"
"""Colour map of attention: dark blue to yellow, evenly brighter, the same for colour-blind readers and in grey
(Nunez et al. 2018)."""

FORMATS = ("png", "pdf")
_DPI = 150


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches with the project's layout; no global state, no window."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, stem: str | Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Writes a figure, each file in one step and without a date, so that the same figure is the same bytes.

    Args:
        figure: from `new_figure`.
        stem: the path without its suffix; folders above it are made.
        formats: of `FORMATS`.

    Returns:
        The files written.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    files = []
    for suffix in formats:
        content = io.BytesIO()
        dates = {"CreationDate": None} if suffix == "pdf" else {}
        figure.savefig(content, format=suffix, metadata=dates)
        file = Path(f"{stem}.{suffix}")
        write_atomically(file, content.getvalue())
        files.append(file)
    return files
