"""Table 2 as CSV and as Markdown: the rows of `table2.py`."""

import dataclasses
from collections.abc import Mapping, Sequence

import pandas as pd

from ladnn_tf.published_table2 import METRICS
from ladnn_tf.table2 import THRESHOLD, Difference, Row, Value

_TITLES = {"sensitivity": "Sensitivity", "auc": "AUC", "f1": "F1", "accuracy": "Accuracy"}
_DATASETS = {"d0": "D0", "d0d1": "D0+D1"}
_NONE = "-"
_UNDEFINED = "n/a"


def to_csv(rows: Sequence[Row], wanted_seeds: int) -> str:
    """A line for each metric, data set and backbone; figures in per cent, differences in percentage points.

    Args:
        rows: of the table.
        wanted_seeds: how many seeds the grid has.
    """
    lines = []
    for row in rows:
        line = {"metric": row.metric, "backbone": row.backbone, "dataset": row.dataset}
        line |= {"test_images": row.images, "test_patients": row.patients, "test_positives": row.positives}
        line |= {"threshold": None if row.metric == "auc" else THRESHOLD, "seeds_wanted": wanted_seeds}
        for name, kind in (("baseline", Value), ("ladnn", Value), ("difference", Difference)):
            cell = getattr(row, name)
            for field in dataclasses.fields(kind):
                line[f"{name}_{field.name}"] = getattr(cell, field.name) if cell else None
            line[f"{name}_paper"] = getattr(row, f"paper_{name}")
        lines.append(line)
    table = pd.DataFrame(lines)
    counts = {column: "Int64" for column in table if column.endswith("_seeds")}
    figures = [column for column in table if not column.endswith(("_p", "_p_delong"))]  # a p of 1e-9 is not 0
    return table.astype(counts).round(dict.fromkeys(figures, 6)).to_csv(index=False)


def to_markdown(
    rows: Sequence[Row], titles: Mapping[str, str], wanted_seeds: int, *, resamples: int, seed: int
) -> str:
    """The table for people: the paper's four blocks, or a single one for one backbone.

    Args:
        rows: of the table.
        titles: of the backbones, by their keys.
        wanted_seeds: how many seeds the grid has; a cell with fewer says so.
        resamples: of the bootstrap, for the note.
        seed: of the resamples, for the note.
    """
    backbones = list(dict.fromkeys(row.backbone for row in rows))
    datasets = list(dict.fromkeys(row.dataset for row in rows))
    tested = {row.dataset: row for row in rows if row.images}
    test = [
        f"{_title(name)}: {row.images} images of {row.patients} patients, {row.positives} positive."
        for name, row in tested.items()
    ]
    if not test:
        return "No run of this grid is finished yet.\n"
    heading = f"# Table 2: {titles[backbones[0]]}" if len(backbones) == 1 else "# Table 2"
    parts = [heading, "Test split. " + " ".join(test)]
    if len(backbones) == 1:
        parts.append(_one_backbone(rows, wanted_seeds, several_datasets=len(datasets) > 1))
    else:
        for metric in METRICS:
            block = [row for row in rows if row.metric == metric]
            parts += [f"## {_TITLES[metric]}", _block(block, titles, wanted_seeds)]
    parts.append(_notes(wanted_seeds, resamples, seed))
    return "\n\n".join(parts) + "\n"


def _one_backbone(rows: Sequence[Row], wanted: int, *, several_datasets: bool) -> str:
    paper = "in the paper"
    titles = ["metric", *(["data"] if several_datasets else [])]
    lines = [[*titles, "baseline", paper, "LA-DNN", paper, "difference", "p", paper]]
    for row in rows:
        lines.append(
            [
                _TITLES[row.metric],
                *([_title(row.dataset)] if several_datasets else []),
                _cell(row.baseline, wanted),
                _number(row.paper_baseline, missing=_NONE),
                _cell(row.ladnn, wanted),
                _number(row.paper_ladnn, missing=_NONE),
                _cell(row.difference, wanted, "+"),
                _p(row.difference),
                _number(row.paper_difference, "+", missing=_NONE),
            ]
        )
    return _markdown(lines)


def _block(rows: Sequence[Row], titles: Mapping[str, str], wanted: int) -> str:
    datasets = list(dict.fromkeys(row.dataset for row in rows))
    columns = [f"{_title(name)} {what}" for name in datasets for what in ("baseline", "LA-DNN", "difference", "p")]
    lines = [["backbone", *columns]]
    for backbone in dict.fromkeys(row.backbone for row in rows):
        line = [titles[backbone]]
        for row in (row for row in rows if row.backbone == backbone):
            line += [
                _cell(row.baseline, wanted) + _in_paper(row.paper_baseline),
                _cell(row.ladnn, wanted) + _in_paper(row.paper_ladnn),
                _cell(row.difference, wanted, "+") + _in_paper(row.paper_difference, "+"),
                _p(row.difference),
            ]
        lines.append(line)
    return _markdown(lines)


def _notes(wanted: int, resamples: int, seed: int) -> str:
    return f"""\
- Per cent, mean over {wanted} seed{"s" if wanted > 1 else ""} [95 % interval of this mean: percentile bootstrap
  over patients, the same for all seeds, {resamples} resamples, seed {seed}]. The interval does not say how much
  other seeds would differ; the standard deviation over seeds is in table2.csv.
- Sensitivity, F1 and accuracy at the threshold {THRESHOLD:g}, as in the authors' code; the AUC needs none.
- Difference: LA-DNN minus baseline in percentage points, paired over patients and seeds. p: two-sided, paired
  bootstrap over patients; for the AUC, in parentheses, DeLong's test with patients as clusters (Obuchowski 1997).
  Each p is of its line alone, without correction for the number of lines.
- Paper: Table 2 of Liu et al. 2020 (224 pixels, ImageNet weights), which gives no intervals.
- "{_NONE}": no run, or not in the paper. "{_UNDEFINED}": undefined, or no resample differs."""


def _title(dataset: str) -> str:
    return _DATASETS.get(dataset, dataset)


def _number(value: float | None, sign: str = "", *, missing: str = _UNDEFINED) -> str:
    return missing if value is None else f"{value:{sign}.1f}"


def _cell(cell: Value | Difference | None, wanted: int, sign: str = "") -> str:
    if cell is None:
        return _NONE
    limits = _UNDEFINED if cell.low is None else f"{cell.low:{sign}.1f}, {cell.high:{sign}.1f}"
    seeds = f" ({cell.seeds} of {wanted} seeds)" if cell.seeds < wanted else ""
    return f"{_number(cell.mean, sign)} [{limits}]{seeds}"


def _in_paper(figure: float | None, sign: str = "") -> str:
    return "" if figure is None else f" (paper {_number(figure, sign)})"


def _p(cell: Difference | None) -> str:
    if cell is None:
        return _NONE
    return _probability(cell.p) + ("" if cell.p_delong is None else f" ({_probability(cell.p_delong)})")


def _probability(p: float | None) -> str:
    if p is None:
        return _UNDEFINED
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(lines[0])
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
