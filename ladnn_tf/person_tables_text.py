"""The person tables as Markdown and as plain text: the numbers of `person_comparison.py`, the paper's below."""

from collections.abc import Mapping, Sequence

from ladnn_tf.intervals import Interval, PairedDifference
from ladnn_tf.labels import CLASS_NAMES
from ladnn_tf.person_comparison import Block, Tables
from ladnn_tf.published_drenet import METRICS, published
from ladnn_tf.report_text import aligned

_TITLES = {
    "auc": "AUC",
    "recall": "recall",
    "precision": "precision",
    "specificity": "specificity",
    "f1": "F1",
    "accuracy": "accuracy",
}
_UNDEFINED = "n/a"


def to_markdown(tables: Tables, titles: Mapping[str, str]) -> str:
    """The tables in Markdown.

    Args:
        tables: from `person_comparison.person_tables`.
        titles: of the runs, by their names.
    """
    parts = [f"# {_heading(tables)}", _sample(tables)]
    for block in tables.blocks:
        parts += [f"## {block.title}", *map(_markdown, _rows(tables, block, titles))]
        if block.rules:
            parts.append("\n".join(f"- {titles[run]}: {rule}." for run, rule in block.rules.items()))
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in _notes(tables))]) + "\n"


def to_text(tables: Tables, titles: Mapping[str, str]) -> str:
    """The same as aligned text."""
    heading = _heading(tables)
    parts = [f"{heading}\n{'=' * len(heading)}", _sample(tables)]
    for block in tables.blocks:
        parts += [block.title, *map(aligned, _rows(tables, block, titles))]
        if block.rules:
            parts.append("\n".join(f"{titles[run]}: {rule}." for run, rule in block.rules.items()))
    return "\n\n".join([*parts, "\n".join(_notes(tables))]) + "\n"


def _heading(tables: Tables) -> str:
    if len(tables.classes) > 2:
        return f"Table 2: {', '.join(CLASS_NAMES[name] for name in tables.classes)}, by person"
    other = CLASS_NAMES[tables.classes[1]] if tables.classes else "anything else"
    return f"Table 1: COVID-19 against {other}, by person"


def _sample(tables: Tables) -> str:
    listed = ", ".join(f"{count} {CLASS_NAMES.get(name, name)}" for name, count in tables.patients.items())
    return f"{tables.split.capitalize()} split: {sum(tables.patients.values())} patients ({listed})."


def _rows(tables: Tables, block: Block, titles: Mapping[str, str]) -> list[list[list[str]]]:
    """Returns the cells of the table and, of several runs, of the differences; the first row is the heading."""
    columns = METRICS["three" if len(tables.classes) > 2 else "two"]
    values = [["", *(_TITLES[name] for name in columns)]]
    values += [[titles[run], *(_cell(row[name]) for name in columns)] for run, row in block.rows.items()]
    values += [
        [f"paper: {model}", *(f"{row[name]:.2f}" for name in columns)]
        for model, row in published(tables.classes).items()
    ]
    if not block.differences:
        return [values]
    first, *_ = block.rows
    differences = [["", *(f"{first} minus {run}" for run in block.differences)]]
    differences += [
        [_TITLES[name], *(_difference(row[name]) for row in block.differences.values())] for name in columns
    ]
    return [values, differences]


def _cell(interval: Interval) -> str:
    if interval.value is None:
        return _UNDEFINED
    if interval.low is None:
        return f"{interval.value:.2f} [{_UNDEFINED}]"
    mark = "*" if interval.method == "wilson" else "+" if interval.undefined_resamples else ""
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]{mark}"


def _difference(found: PairedDifference) -> str:
    if found.difference is None:
        return _UNDEFINED
    if found.low is None:
        return f"{found.difference:+.3f} [{_UNDEFINED}]"
    p = "p <0.001" if found.p < 0.001 else f"p {found.p:.3f}"
    return f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}] {p}"


def _notes(tables: Tables) -> list[str]:
    notes = [
        f"[low, high]: 95 % percentile interval, bootstrap over persons ({tables.resamples} resamples, seed "
        f"{tables.seed}); for a difference the same persons are drawn for both runs.",
        "p: two-sided, paired bootstrap, of its cell alone.",
        "Marked *: Wilson interval, as no resample differs from 0 or 1. Marked +: undefined in some resamples, "
        "which are left out. n/a: undefined; [n/a]: no resample differs.",
        "F1 is the harmonic mean of precision and recall.",
    ]
    if len(tables.classes) < 3:
        notes.append("The probabilities of COVID-19 are calibrated on validation before they are averaged.")
    if published(tables.classes):
        notes.append(
            "Paper: Song et al., other patients (for all splits together 88 with COVID-19, 100 with bacterial "
            "pneumonia, 86 healthy), without intervals; its F1 is (precision + recall) / 2."
        )
    else:
        notes.append("The paper has no table of these classes.")
    if tables.phantoms:
        notes.append("The slices are drawn (phantoms): nothing here says anything of patients.")
    return notes


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(rows[0])
    lines = "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))
    return lines.replace("]*", "]\\*")  # two of them in a line would else be emphasis
