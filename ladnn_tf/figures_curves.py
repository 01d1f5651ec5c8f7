"""ROC, precision-recall and reliability curves of runs, drawn."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ladnn_tf import curves, metrics, runs
from ladnn_tf.calibration import calibrated_probabilities
from ladnn_tf.drawing import COLOURS, new_figure
from ladnn_tf.figures_runs import Line, sample
from ladnn_tf.intervals import Interval
from ladnn_tf.labels import COVID

MOST_LINES = len(COLOURS)
MOST_BANDS = 2
"""With more lines the bands would cover each other; the intervals in the legend remain."""

_DASHES = {"ladnn": "-", "drenet": "-", "baseline": (0, (5, 2)), "trunk": (0, (5, 2))}
_MARKERS = "osD^vPX"
_GREY = "0.55"
_HISTOGRAM_BINS = np.arange(21) / 20


def roc_figure(
    drawn: Sequence[Line],
    loaded: Mapping[str, runs.Run],
    tables: Mapping[str, pd.DataFrame],
    split: str,
    *,
    resamples: int,
    seed: int,
) -> Figure:
    """Draws ROC curves with pointwise bands, AUC and operating points (Liu et al. 2020, Figure 4a and c).

    Args:
        drawn: the lines.
        loaded: runs by name.
        tables: their predictions of the same images, in the same order.
        split: of the predictions.
        resamples: of the patients.
        seed: of the resamples.

    Raises:
        ValueError: if there are more lines than `MOST_LINES`, or a class is missing.
    """
    figure, axes = _axes_of_curves(drawn, tables, split, resamples)
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", label="chance")
    options = {"resamples": resamples, "seed": seed}
    for number, line in enumerate(drawn):
        labels, predictions, patients = _values(line, tables)
        auc = curves.mean_metrics(labels, predictions, patients, **options)["auc"]
        band = curves.roc_band(labels, predictions, patients, **options)
        each = [curves.roc_curve(labels, probabilities) for probabilities in predictions]
        paths = [(curve.x, curve.y) for curve in each]
        _draw_line(axes, number, line, paths, band, f"AUC {_interval(auc)}", banded=len(drawn) <= MOST_BANDS)
        decided = _decisions(line, loaded, labels, predictions)
        at = 1 - decided["specificity"], decided["sensitivity"]
        _draw_operating_points(axes, number, line, at, _decided(line, loaded, decided, "specificity"))
    axes.set_xlabel("false positive rate (1 - specificity)")
    axes.set_ylabel("sensitivity")
    figure.legend(loc="outside lower center", fontsize=8)
    return figure


def precision_recall_figure(
    drawn: Sequence[Line],
    loaded: Mapping[str, runs.Run],
    tables: Mapping[str, pd.DataFrame],
    split: str,
    *,
    resamples: int,
    seed: int,
) -> Figure:
    """Draws precision-recall curves as steps, with pointwise bands, average precision and operating points.

    Args and Raises as `roc_figure` (Liu et al. 2020, Figure 4b and d).
    """
    figure, axes = _axes_of_curves(drawn, tables, split, resamples)
    prevalence = _values(drawn[0], tables)[0].mean()
    axes.axhline(prevalence, color=_GREY, linestyle=":", label=f"chance (prevalence {prevalence:.2f})")
    options = {"resamples": resamples, "seed": seed}
    for number, line in enumerate(drawn):
        labels, predictions, patients = _values(line, tables)
        average = curves.mean_metrics(labels, predictions, patients, **options)["average_precision"]
        band = curves.precision_recall_band(labels, predictions, patients, **options)
        each = [curves.precision_recall_curve(labels, probabilities) for probabilities in predictions]
        text = f"average precision {_interval(average)}"
        steps = [_steps(curve.x, curve.y) for curve in each]
        banded = len(drawn) <= MOST_BANDS
        _draw_line(axes, number, line, steps, _step_band(band), text, banded=banded)
        decided = _decisions(line, loaded, labels, predictions)
        at = decided["sensitivity"], decided["precision"]
        _draw_operating_points(axes, number, line, at, _decided(line, loaded, decided, "precision"))
    axes.set_xlabel("recall (sensitivity)")
    axes.set_ylabel("precision (positive predictive value)")
    figure.legend(loc="outside lower center", fontsize=8)
    return figure


def reliability_figure(
    name: str, run: runs.Run, table: pd.DataFrame, split: str, *, resamples: int, seed: int
) -> Figure:
    """Draws how often images are positive where the model says how probable, before and after the temperature.

    Args:
        name: of the run.
        run: whose temperature was used.
        table: its predictions.
        split: of the predictions.
        resamples: of the patients.
        seed: of the resamples.
    """
    figure = new_figure(6.5, 7.5)
    axes, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", label="perfectly calibrated")
    labels, after, patients = table[COVID], table["covid_probability"], table["patient"]
    before = calibrated_probabilities(table["covid_logit"], 1.0)
    temperature = run.card.temperature
    for number, (probabilities, title) in enumerate(
        ((before, "before temperature scaling"), (after, f"after it (temperature {temperature:.2f})"))
    ):
        options = {"resamples": resamples, "seed": seed}
        found = curves.reliability(labels, probabilities, patients, **options)
        values = curves.mean_metrics(labels, [probabilities], patients, **options)
        text = f"{title}: Brier score {_interval(values['brier'])}, ECE {values['ece'].value:.3f}"
        # The uncalibrated ones are drawn second in the colours' order: blue is the model as it is used.
        style = {"color": COLOURS[1 - number], "linestyle": ("--", "-")[number]}
        axes.vlines(found.probability, found.low, found.high, color=style["color"], linewidth=1.2, alpha=0.6)
        axes.plot(found.probability, found.share, marker="so"[number], markersize=5, label=text, **style)
        below.hist(probabilities, bins=_HISTOGRAM_BINS, histtype="step", linewidth=1.5, **style)
    axes.set_ylabel("share of images with COVID-19")
    axes.set(ylim=(-0.02, 1.02), xlim=(-0.02, 1.02))
    below.set_xlabel("predicted probability of COVID-19")
    below.set_ylabel("images")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", fontsize=8)
    figure.suptitle(
        f"{name}: reliability\n{sample(table, split)}\n"
        f"{len(found.images)} bins of {found.images.min()} to {found.images.max()} images; bars: 95 % intervals, "
        "bootstrap over patients (Wilson at 0 and 1).\n"
        f"ECE: expected calibration error, {metrics.CALIBRATION_BINS} bins of equal width",
        fontsize=9,
    )
    return figure


def _axes_of_curves(
    drawn: Sequence[Line], tables: Mapping[str, pd.DataFrame], split: str, resamples: int
) -> tuple[Figure, Axes]:
    if len(drawn) > MOST_LINES:
        raise ValueError(
            f"one figure holds at most {MOST_LINES} curves that can be told apart, got {len(drawn)}; give fewer "
            "--run (runs that differ in their seed alone share a curve)"
        )
    figure = new_figure(6.5, 6.5 + 0.32 * len(drawn))
    axes = figure.subplots()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    bands = "95 % bands: pointwise" if len(drawn) <= MOST_BANDS else "in brackets: 95 % intervals"
    axes.set_title(
        f"{sample(tables[drawn[0].names[0]], split)}\n{bands}, bootstrap over patients ({resamples} resamples)",
        fontsize=9,
    )
    return figure, axes


def _values(line: Line, tables: Mapping[str, pd.DataFrame]) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Returns labels, the probabilities of each of the line's runs, and patients."""
    first = tables[line.names[0]]
    predictions = [tables[name]["covid_probability"].to_numpy() for name in line.names]
    return first[COVID].to_numpy(), predictions, first["patient"].to_numpy()


def _steps(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the corners of a step function whose height `y[k]` holds from `x[k - 1]`, or 0, up to `x[k]`."""
    return np.repeat(np.concatenate([[0.0], x]), 2)[1:-1], np.repeat(y, 2)


def _step_band(band: curves.Band) -> curves.Band:
    x, y = _steps(band.x, band.y)
    return dataclasses.replace(band, x=x, y=y, low=np.repeat(band.low, 2), high=np.repeat(band.high, 2))


def _draw_line(
    axes: Axes,
    number: int,
    line: Line,
    paths: Sequence[tuple[np.ndarray, np.ndarray]],
    band: curves.Band,
    text: str,
    *,
    banded: bool,
) -> None:
    """Draws a single run's own curve, or the mean of several over thin lines of each."""
    style = {"color": COLOURS[number], "linestyle": _DASHES[line.task]}
    if banded:
        axes.fill_between(band.x, band.low, band.high, color=style["color"], alpha=0.15, linewidth=0)
    for x, y in paths if len(paths) > 1 else []:
        axes.plot(x, y, linewidth=0.6, alpha=0.6, **style)
    x, y = paths[0] if len(paths) == 1 else (np.append(paths[0][0][0], band.x), np.append(paths[0][1][0], band.y))
    mean = "mean " if len(paths) > 1 else ""
    axes.plot(x, y, linewidth=2, label=f"{line.label}: {mean}{text}", **style)


def _decisions(
    line: Line, loaded: Mapping[str, runs.Run], labels: np.ndarray, predictions: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the metrics of each run of a line at its card's threshold, (runs,) each."""
    ones = np.ones((1, len(labels)))
    found = [
        metrics.threshold_metrics(labels, probabilities, loaded[name].card.threshold, ones)
        for name, probabilities in zip(line.names, predictions, strict=True)
    ]
    return {metric: np.concatenate([values[metric] for values in found]) for metric in found[0]}


def _decided(line: Line, loaded: Mapping[str, runs.Run], decided: Mapping[str, np.ndarray], other: str) -> str:
    parts = ", ".join(f"{metric} {_percent(decided[metric].mean())}" for metric in ("sensitivity", other))
    if len(line.names) > 1:
        return f"at each seed's threshold, on average: {parts}"
    return f"at its threshold {loaded[line.names[0]].card.threshold:.3f}: {parts}"


def _draw_operating_points(
    axes: Axes, number: int, line: Line, at: tuple[np.ndarray, np.ndarray], text: str
) -> None:
    filled = COLOURS[number] if _DASHES[line.task] == "-" else "white"
    axes.plot(
        *at,
        color=COLOURS[number],
        marker=_MARKERS[number],
        markerfacecolor=filled,
        markersize=7,
        linestyle="none",
        label=text,
        zorder=3,
    )


def _percent(share: float) -> str:
    return "n/a" if np.isnan(share) else f"{100 * share:.0f} %"


def _interval(interval: Interval) -> str:
    limits = "n/a" if interval.low is None else f"{interval.low:.3f}, {interval.high:.3f}"
    return f"{interval.value:.3f} [{limits}]"
