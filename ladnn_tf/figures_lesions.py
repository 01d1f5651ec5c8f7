"""The pair plot of the five lesion outputs, COVID-19 against other (Liu et al. 2020, Figure 6)."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.special import logit

from ladnn_tf import curves, runs
from ladnn_tf.drawing import COLOURS, new_figure
from ladnn_tf.figures_runs import sample
from ladnn_tf.labels import COVID, LESION_NAMES, LESIONS

CLASSES = {1: ("COVID-19", COLOURS[1], "^"), 0: ("other", COLOURS[0], "o")}
_TICKS = (0.001, 0.5, 0.999)
_BINS = 20
_CAVEAT = (
    "The lesions were learnt on COVID-19 images alone. On the other images these outputs were never trained: "
    "a high one does not mean that the lesion is there."
)
_SCALE = "Axes: the model's probability of the lesion, spaced by its logit."
_HEIGHTS = "Diagonal: shares of each class's images, all on the scale of the first."
_AUC = "AUC [95 % interval over patients]: of that one output for COVID-19 against other."


def lesion_pairs_figure(
    name: str, run: runs.Run, table: pd.DataFrame, split: str, *, resamples: int, seed: int
) -> Figure:
    """Draws each lesion's outputs (diagonal) and each pair's (below it), by class.

    The axes are spaced by the logits, which spread where most probabilities would lie on top of each other near 0
    and 1, and are labelled with the probabilities. Above each diagonal panel stands how well that lesion's output
    alone tells COVID-19 from other (AUC).

    Args:
        name: of the run.
        run: an LA-DNN.
        table: its predictions, with the lesions'.
        split: of the predictions.
        resamples: of the patients, for the intervals.
        seed: of the resamples.
    """
    figure = new_figure(9, 9)
    grid = figure.subplots(len(LESIONS), len(LESIONS))
    logits = table[[f"{lesion}_logit" for lesion in LESIONS]].to_numpy(np.float64)
    margin = 0.03 * (logits.max() - logits.min()) or 1.0
    limits = logits.min() - margin, logits.max() + margin
    covid = table[COVID].to_numpy()
    for row, lesion in enumerate(LESIONS):
        _draw_distribution(grid[row, row], logits[:, row], covid, limits)
        if len(set(covid)) == 2:
            auc = curves.mean_metrics(
                covid, [table[f"{lesion}_probability"]], table["patient"], resamples=resamples, seed=seed
            )["auc"]
            limits_of_auc = "n/a" if auc.low is None else f"{auc.low:.2f}, {auc.high:.2f}"
            grid[row, row].set_title(f"AUC {auc.value:.2f} [{limits_of_auc}]", fontsize=8)
        for column in range(row):
            _draw_pair(grid[row, column], logits[:, column], logits[:, row], covid, limits)
        for column in range(row + 1, len(LESIONS)):
            grid[row, column].remove()
    _label_axes(grid, limits)
    handles = [
        Line2D(
            [],
            [],
            color=colour,
            marker=marker,
            linestyle="none",
            label=f"{title}: {(covid == value).sum()} images",
        )
        for value, (title, colour, marker) in CLASSES.items()
    ]
    figure.legend(handles=handles, loc="upper right", bbox_to_anchor=(0.98, 0.9))
    notes = [_SCALE, _HEIGHTS, _AUC] + [_CAVEAT] * (run.config.lesion_targets == "positives")
    text = "\n\n".join(textwrap.fill(note, 46) for note in notes)
    figure.text(0.98, 0.8, text, ha="right", va="top", fontsize=9)
    figure.suptitle(f"{name}: lesion outputs\n{sample(table, split)}", fontsize=10)
    return figure


def _draw_distribution(axes: Axes, values: np.ndarray, covid: np.ndarray, limits: tuple[float, float]) -> None:
    edges = np.linspace(*limits, _BINS + 1)
    for value, (_, colour, _) in CLASSES.items():
        chosen = values[covid == value]
        shares = np.histogram(chosen, edges)[0] / max(1, len(chosen))
        axes.stairs(shares, edges, color=colour, fill=True, alpha=0.25)
        axes.stairs(shares, edges, color=colour, linestyle="-" if value else "--")


def _draw_pair(axes: Axes, x: np.ndarray, y: np.ndarray, covid: np.ndarray, limits: tuple[float, float]) -> None:
    for value, (_, colour, marker) in reversed(CLASSES.items()):
        chosen = covid == value
        axes.scatter(x[chosen], y[chosen], s=9, color=colour, marker=marker, alpha=0.5, linewidths=0)
    axes.set_ylim(limits)


def _label_axes(grid: np.ndarray, limits: tuple[float, float]) -> None:
    """Names the lesions along the left and the lower edge; the diagonal's heights have one scale."""
    highest = max(axes.get_ylim()[1] for axes in grid.diagonal())
    ticks = [tick for tick in _TICKS if limits[0] <= logit(tick) <= limits[1]]
    names = [textwrap.fill(LESION_NAMES[lesion], 16) for lesion in LESIONS]
    last = len(LESIONS) - 1
    for row in range(len(LESIONS)):
        for column in range(row + 1):
            axes = grid[row, column]
            axes.set_xlim(limits)
            axes.set_xticks(logit(ticks), [f"{100 * tick:g} %" for tick in ticks] if row == last else [])
            if column < row:
                axes.set_yticks(logit(ticks), [f"{100 * tick:g} %" for tick in ticks] if column == 0 else [])
            else:
                axes.set_ylim(0, highest)
                axes.tick_params(labelleft=column == 0)
            axes.tick_params(labelsize=7)
        grid[last, row].set_xlabel(names[row], fontsize=9)
        grid[row, 0].set_ylabel(names[row] if row else "share of the\nclass's images", fontsize=9)
