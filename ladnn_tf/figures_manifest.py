"""What a manifest holds: lesions per image, lesions that occur together, composition of the negatives.

The three panels are Figure 3 of Liu et al. (2020).
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ladnn_tf.drawing import COLOURS, HEAT, new_figure
from ladnn_tf.labels import COVID, DIAGNOSES, LESION_NAMES, LESIONS, SPLITS

NOT_STATED = "not stated"

MOST_SOURCES = 6
"""Sources of negatives without a diagnosis that get a bar of their own; the smaller ones share one."""

_SHADES = {"train": COLOURS[0], "validation": COLOURS[5], "test": "#D9E9F5"}
_EDGE = {"edgecolor": "black", "linewidth": 0.6}
_UNKNOWN = "unknown"
_LONGEST_NAME = 40


def lesion_counts(frame: pd.DataFrame) -> pd.DataFrame:
    """Counts the positive images by their number of lesions.

    Args:
        frame: rows of a manifest.

    Returns:
        Index 0 to 5 and `unknown` (an image of which any lesion is unknown), a column per split, int.
    """
    positives = frame[frame[COVID] == 1]
    number = positives[list(LESIONS)].sum(axis=1, skipna=False)
    names = number.map(lambda count: _UNKNOWN if np.isnan(count) else str(int(count)))
    return _by_split(names, positives["split"], [*map(str, range(len(LESIONS) + 1)), _UNKNOWN])


def concordance(frame: pd.DataFrame) -> np.ndarray:
    """Counts the positive images that have both of two lesions; on the diagonal, those that have the one.

    Args:
        frame: rows of a manifest.

    Returns:
        (5, 5) int, symmetric, in the order of `LESIONS`; unknown lesions count as not seen.
    """
    has = (frame.loc[frame[COVID] == 1, list(LESIONS)] == 1).to_numpy(np.int64)
    return has.T @ has


def negatives(frame: pd.DataFrame) -> pd.DataFrame:
    """Counts the negative images by diagnosis and, where none is stated, by source.

    Args:
        frame: rows of a manifest.

    Returns:
        Index: the diagnoses that occur, in the order of `DIAGNOSES`, then `not stated: <dataset>/<paper>`, the
        largest `MOST_SOURCES` of them, then the others as one; a column per split, int.
    """
    rows = frame[frame[COVID] == 0]
    unstated = rows["diagnosis"] == ""
    sources = rows["source"].map(lambda source: "/".join(source.split("/")[:2]) or "no source")
    sizes = sources[unstated].value_counts()
    largest = sizes.index if len(sizes) <= MOST_SOURCES + 1 else sizes.index[:MOST_SOURCES]
    others = f"{len(sizes) - len(largest)} smaller sources"
    named = sources.where(sources.isin(largest), others).radd(f"{NOT_STATED}: ")
    names = named.where(unstated, rows["diagnosis"])
    order = [*DIAGNOSES, *(f"{NOT_STATED}: {source}" for source in (*largest, others))]
    return _by_split(names, rows["split"], [name for name in order if (names == name).any()])


def lesion_counts_figure(frame: pd.DataFrame) -> Figure:
    """Draws `lesion_counts` (Figure 3a)."""
    figure = new_figure(6.5, 4.5)
    _draw_lesion_counts(figure.subplots(), frame)
    return figure


def concordance_figure(frame: pd.DataFrame) -> Figure:
    """Draws `concordance` (Figure 3b)."""
    figure = new_figure(6.5, 6)
    _draw_concordance(figure.subplots(), frame)
    return figure


def negatives_figure(frame: pd.DataFrame) -> Figure:
    """Draws `negatives` (Figure 3c)."""
    figure = new_figure(8, _height_of_negatives(frame))
    _draw_negatives(figure.subplots(), frame)
    return figure


def figure3(frame: pd.DataFrame) -> Figure:
    """Draws the three panels in one picture."""
    height = _height_of_negatives(frame)
    figure = new_figure(10, 5 + height)
    upper, lower = figure.subfigures(2, 1, height_ratios=(5, height))
    panels = (*upper.subplots(1, 2), lower.subplots())
    _draw_lesion_counts(panels[0], frame)
    _draw_concordance(panels[1], frame)
    _draw_negatives(panels[2], frame)
    for letter, panel in zip("abc", panels, strict=True):
        panel.set_title(f"({letter}) {panel.get_title()}", fontsize=10)
    return figure


def _by_split(names: pd.Series, splits: pd.Series, order: list[str]) -> pd.DataFrame:
    counts = {split: names[splits == split].value_counts() for split in SPLITS}
    return pd.DataFrame(counts).reindex(order).fillna(0).astype(np.int64)


def _size(rows: pd.DataFrame, what: str) -> str:
    return f"{len(rows)} {what} of {rows['patient'].nunique()} patients"


def _draw_lesion_counts(axes: Axes, frame: pd.DataFrame) -> None:
    counts = lesion_counts(frame)
    base = np.zeros(len(counts), np.int64)
    for split, shade in _SHADES.items():
        axes.bar(counts.index, counts[split], bottom=base, color=shade, label=split, **_EDGE)
        base += counts[split].to_numpy()
    for position, total in enumerate(base):
        axes.annotate(str(total), (position, total), (0, 2), textcoords="offset points", ha="center", fontsize=9)
    axes.margins(y=0.1)
    axes.set_xlabel("lesions in the image")
    axes.set_ylabel("images")
    axes.legend(fontsize=9)
    axes.set_title(_size(frame[frame[COVID] == 1], "COVID-19 images"), fontsize=10)


def _draw_concordance(axes: Axes, frame: pd.DataFrame) -> None:
    together = concordance(frame)
    axes.imshow(together, cmap=HEAT, vmin=0, vmax=max(1, together.max()))
    bright = together > together.max() / 2
    for row, column in np.ndindex(together.shape):
        colour = "black" if bright[row, column] else "white"
        axes.text(column, row, str(together[row, column]), ha="center", va="center", color=colour, fontsize=11)
    names = [LESION_NAMES[lesion].replace(" ", "\n", 1) for lesion in LESIONS]
    axes.set_xticks(range(len(LESIONS)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set_yticks(range(len(LESIONS)), names, fontsize=9)
    positives = frame[frame[COVID] == 1]
    known = positives[positives[list(LESIONS)].notna().any(axis=1)]
    axes.set_title(f"images with both lesions\n{_size(known, 'COVID-19 images, lesions known,')}", fontsize=10)


def _height_of_negatives(frame: pd.DataFrame) -> float:
    return 1.6 + 0.35 * max(1, len(negatives(frame)))


def _draw_negatives(axes: Axes, frame: pd.DataFrame) -> None:
    counts = negatives(frame)
    names = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..." for name in counts.index]
    positions = np.arange(len(counts))
    base = np.zeros(len(counts), np.int64)
    for split, shade in _SHADES.items():
        axes.barh(positions, counts[split], left=base, color=shade, label=split, **_EDGE)
        base += counts[split].to_numpy()
    for position, total in enumerate(base):
        axes.annotate(str(total), (total, position), (3, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(positions, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(1, base.max(initial=0)))
    axes.set_xlabel("images")
    axes.set_ylabel("diagnosis")
    axes.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_title(_size(frame[frame[COVID] == 0], "COVID-19-negative images"), fontsize=10)
