"""The report of the shortcut audit: `audit.json` in words and tables (Markdown)."""

import operator
from collections.abc import Sequence

from ladnn_tf import shortcuts
from ladnn_tf.data.sources import OTHER_SOURCES

_ERASED = {
    "lungs erased": (
        "With the lungs erased",
        "the network tells COVID-19 from other slices without seeing a lung. It reads the source of the image",
    ),
    "only the border": (
        "With only the border left",
        "the network tells COVID-19 from other slices by a frame of the image. It reads the source of the image",
    ),
}
_CHANGED = {
    "corners erased": ("With the corners erased", "what is in the corners, such as burned-in text"),
    "common resolution": (
        "At one common resolution",
        "the resolution of the image, or detail that is lost with it",
    ),
}
_LUNGS_REMAIN = (
    "Of the lungs it can still see their outline, and in some slices consolidations that the mask leaves out."
)
_NOTES = (
    "An altered image is unlike those of the training: an AUC near 0.5 on it does not prove that the network needs"
    " the lungs in an intact image.",
    "The lungs are found without a network and erased generously, with parts of mediastinum and diaphragm. Their"
    " outline remains, and consolidations at the back of both lungs can remain in a few slices.",
    "The intervals speak of this network and other patients from the same sources; they are not corrected for"
    " the number of comparisons.",
)


def format_audit(found: dict) -> str:
    """Returns the report of `audit.audit`'s result."""
    parts = [
        f"# Shortcut audit, {found['split']} split",
        f"{found['images']} images of {found['patients']} patients, {found['positives']} positive, of "
        f"{found['manifest']['file']} (SHA-256 {found['manifest']['sha256'][:12]}). [low, high] is the "
        f"{found['level']:.0%} percentile interval of a bootstrap over patients ({found['resamples']} resamples, "
        f"seed {found['seed']}). n/a is undefined; [n/a] has no interval, as no resample differs.",
        "## In words",
        *(_in_words(run) for run in found["runs"]),
        _form_in_words(found["form_of_files"]),
        *(_source_run_in_words(run) for run in found["source_runs"]),
        "What this does not say:\n\n" + "\n".join(f"- {note}" for note in _NOTES),
        "## AUC on altered images",
        "The difference is altered minus unchanged, on the same images. What is left is the share of the AUC above"
        " 0.5.",
        *(_altered_table(run) for run in found["runs"]),
        *_means(found["runs"], "Mean AUC"),
        "## By source",
        f"Sources in this split: {found['sources']['all']}; with images of both classes: "
        f"{found['sources']['with_both_classes']}. The AUC of a source is that of its images against all of the "
        f"other class. Sources of fewer than {shortcuts.SMALLEST_SOURCE} images are pooled as "
        f"{OTHER_SOURCES!r}.",
        *(_source_table(run) for run in found["runs"]),
        "## The form of the file alone",
        *_form_table(found["form_of_files"]),
        "## Trained and tested on different source papers",
        *_source_run_tables(found["source_runs"]),
    ]
    return "\n\n".join(parts) + "\n"


def _in_words(run: dict) -> str:
    sentences = [f"**{run['name']}** has an AUC of {_cell(run['unchanged']['auc'])} on the unchanged images."]
    if run["unchanged"]["against_chance"] != shortcuts.SHOWN:
        sentences.append("That is not shown to be better than chance, so that there is little to audit.")
    for name, (lead, meaning) in _ERASED.items():
        sentences.append(_erased_in_words(run["alterations"][name], lead, meaning))
    if any(run["alterations"][name]["against_chance"] == shortcuts.SHOWN for name in _ERASED):
        sentences.append(_LUNGS_REMAIN)
    for name, (lead, thing) in _CHANGED.items():
        sentences.append(_changed_in_words(run["alterations"][name], lead, thing))
    left_out = run["alterations"]["lungs erased"]["left_out"]
    if left_out:
        sentences.append(
            f"In {_images(left_out)} no lungs were found; they are left out where the lungs must be known."
        )
    return " ".join(sentences)


def _erased_in_words(row: dict, lead: str, meaning: str) -> str:
    auc = row["auc"]
    if auc["value"] is None:
        return f"{lead} no AUC can be given: of the images that could be altered a class is missing."
    said = f"{lead} the AUC is {_cell(auc)}"
    if row["against_chance"] == shortcuts.UNJUDGED:
        return f"{said}, without an interval: nothing is concluded."
    if row["against_chance"] == shortcuts.NOT_SHOWN:
        return (
            f"{said}: chance (0.5) is inside the interval. A shortcut is not shown here; nor is it ruled out, as "
            f"the interval reaches up to {auc['high']:.3f}."
        )
    if row["against_chance"] == shortcuts.REVERSED:
        return (
            f"{said}: the interval is below 0.5. The classes still differ, but the network puts them in the wrong "
            "order, as can happen with images unlike those of the training; a shortcut is neither shown nor ruled "
            "out."
        )
    left = "" if row["excess_left"] is None else f" ({row['excess_left']:.0%} of the AUC above 0.5 is left)"
    return f"{said}: chance (0.5) is outside the interval{left}; {meaning}."


def _changed_in_words(row: dict, lead: str, thing: str) -> str:
    change = row["difference"]
    if change["difference"] is None or change["low"] is None:
        return f"{lead} no interval of the change can be given."
    said = f"{lead} the AUC changes by {_cell(change, 'difference', sign='+')}"
    if change["high"] < 0:
        return f"{said}: the network uses {thing}, or is disturbed by the change itself."
    if change["low"] > 0:
        return f"{said}: what was taken away misled the network."
    return f"{said}, which is within chance."


def _form_in_words(form: dict) -> str:
    if "not_done" in form:
        return f"**The form of the file alone** was not judged: {form['not_done']}."
    said = (
        "**The form of the file alone** (width, height, file format and colour mode, not a single pixel) gives a "
        f"logistic regression an AUC of {_cell(form['auc'])}."
    )
    if form["against_chance"] == shortcuts.SHOWN:
        return (
            f"{said} The data themselves tell the classes apart by where the images come from. The network sees "
            "nothing of the form but its traces, such as blur and compression."
        )
    return f"{said} That the form tells the classes apart is not shown here."


def _source_run_in_words(run: dict) -> str:
    said = (
        f"**{run['name']}**, trained and tested on different source papers, has an AUC of "
        f"{_cell(run['unchanged']['auc'])} on {run['images']} images. This is another training on other images: "
        "set beside the AUC above it is an indication, not a test."
    )
    if run["unchanged"]["against_chance"] == shortcuts.SHOWN:
        return said
    return f"{said} That it is better than chance on papers it has not seen is not shown."


def _altered_table(run: dict) -> str:
    rows = [
        ("images are", "images", "AUC", "difference", "left"),
        ("unchanged", str(_images_of(run)), _cell(run["unchanged"]["auc"]), "", ""),
    ]
    for name, row in run["alterations"].items():
        left = "n/a" if row["excess_left"] is None else f"{row['excess_left']:.0%}"
        change = _cell(row["difference"], "difference", sign="+")
        rows.append((name, str(row["images"]), _cell(row["auc"]), change, left))
    return f"### {run['name']}\n\n{_table(rows)}"


def _images_of(run: dict) -> int:
    return sum(row["images"] for row in run["sources"])


def _source_table(run: dict) -> str:
    rows = [("source", "class", "images", "patients", "mean probability", "AUC")]
    for row in run["sources"]:
        label = "COVID-19" if row["covid"] else "other"
        numbers = (str(row["images"]), str(row["patients"]), f"{row['mean_probability']:.3f}")
        rows.append((row["source"], label, *numbers, _cell(row["auc"])))
    return f"### {run['name']}\n\n{_table(rows)}"


def _form_table(form: dict) -> Sequence[str]:
    if "not_done" in form:
        return [f"Not judged: {form['not_done']}."]
    rows = [("file", "COVID-19", "other")]
    rows += [(name, str(row["positives"]), str(row["negatives"])) for name, row in form["formats"].items()]
    said = (
        f"Logistic regression fitted on {form['training_images']} training images, AUC on {form['images']}: "
        f"{_cell(form['auc'])}. The files of both splits:"
    )
    return [said, _table(rows)]


def _source_run_tables(source_runs: Sequence[dict]) -> Sequence[str]:
    if not source_runs:
        return [
            "No run was given. Make a manifest with `python -m ladnn_tf.data.manifest --split=source`, train on "
            "it, and give the run as `--source_run`."
        ]
    rows = [("run", "manifest", "images", "patients", "positives", "AUC")]
    for run in source_runs:
        numbers = (str(run[count]) for count in ("images", "patients", "positives"))
        rows.append((run["name"], run["manifest"]["file"], *numbers, _cell(run["unchanged"]["auc"])))
    return [_table(rows), *_means(source_runs, "Mean AUC of the source-grouped runs")]


def _means(found: Sequence[dict], title: str) -> Sequence[str]:
    """Returns a table for each set of runs that differ by no more than their seed or schedule."""
    tables = []
    kind = operator.itemgetter("backbone", "task", "weights")
    for names in sorted({kind(run) for run in found}):
        group = [run for run in found if kind(run) == names]
        if len(group) < 2:
            continue
        rows = [("images are", *(run["name"] for run in group), "mean")]
        rows.append(_mean_row("unchanged", [run["unchanged"]["auc"]["value"] for run in group]))
        for name in group[0].get("alterations", ()):
            rows.append(_mean_row(name, [run["alterations"][name]["auc"]["value"] for run in group]))
        tables.append(f"### {title}, {' '.join(names[:2])}, {len(group)} runs\n\n{_table(rows)}")
    return tables


def _mean_row(name: str, values: Sequence[float | None]) -> tuple[str, ...]:
    mean = None if None in values else sum(values) / len(values)
    return name, *("n/a" if value is None else f"{value:.3f}" for value in (*values, mean))


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


def _cell(interval: dict, key: str = "value", sign: str = "") -> str:
    if interval[key] is None:
        return "n/a"
    if interval["low"] is None:
        return f"{interval[key]:{sign}.3f} [n/a]"
    return f"{interval[key]:{sign}.3f} [{interval['low']:{sign}.3f}, {interval['high']:{sign}.3f}]"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table whose columns are aligned in plain text too; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])
