"""The report of the shortcut audit: `audit.json` in words and tables (Markdown)."""

from collections.abc import Sequence

from ladnn_tf import shortcuts
from ladnn_tf.data.alterations import COMMON_SIZE
from ladnn_tf.data.sources import OTHER_SOURCES

_ERASED = {
    "lungs erased": (
        "With the lungs erased",
        "the network still tells COVID-19 from other slices",
        "or what remains of the lungs: their outline, and in some slices a few consolidations",
    ),
    "only the border": (
        "With only the border left",
        "the network tells COVID-19 from other slices by a frame of the image, with the lungs in it filled",
        "or the outline of the lungs where it reaches into the frame",
    ),
}
_VERDICTS = {
    shortcuts.SHOWN: "better than chance",
    shortcuts.NOT_SHOWN: "not shown to be better than chance",
    shortcuts.REVERSED: "worse than chance",
    shortcuts.UNJUDGED: "not judged",
    shortcuts.TOO_FEW: f"not judged ({shortcuts.TOO_FEW})",
}
_CHANGED = {
    "corners erased": ("With the corners erased", "what is in the corners, such as burned-in text"),
    "common resolution": (
        "At one common resolution",
        "the resolution of the image, or detail that is lost with it",
    ),
}
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
        *(_in_words(run, _outside(found["sources"])) for run in found["runs"]),
        _form_in_words(found["form_of_files"]),
        *(_source_run_in_words(run, found["manifest"]) for run in found["source_runs"]),
        "What this does not say:\n\n" + "\n".join(f"- {note}" for note in _NOTES),
        "## AUC on altered images",
        "The difference is altered minus unchanged, on the same images. What is left is the share of the AUC above"
        " 0.5.",
        *(_altered_table(run) for run in found["runs"]),
        *_means(found["runs"], "Mean AUC"),
        "## By source",
        f"Sources in this split: {found['sources']['all']}; with images of both classes: "
        f"{found['sources']['with_both_classes']}; {_images(found['sources']['images_without'])} without a "
        "source. The AUC of a source is that of its images against all of the "
        f"other class. Sources of fewer than {shortcuts.SMALLEST_SOURCE} images are pooled as "
        f"{OTHER_SOURCES!r}.",
        *(_source_table(run) for run in found["runs"]),
        "## The form of the file alone",
        *_form_table(found["form_of_files"]),
        "## Trained on a split by source paper",
        *_source_run_tables(found["source_runs"]),
    ]
    return "\n\n".join(parts) + "\n"


def _outside(sources: dict[str, int]) -> str:
    """Returns what a network uses that needs no lungs, as far as the data allow to say it."""
    if sources["all"] > 1 and not sources["with_both_classes"] and not sources["images_without"]:
        return "It reads the source of the image"
    return "It uses something outside the lungs"


def _in_words(run: dict, outside: str) -> str:
    alterations = run["alterations"]
    short = {name: _VERDICTS[alterations[name]["against_chance"]] for name in _ERASED}
    sentences = [
        f"**{run['name']}**: lungs erased: {short['lungs erased']}; border alone: {short['only the border']}.",
        f"The AUC is {_cell(run['unchanged']['auc'])} on the unchanged images.",
    ]
    verdict = run["unchanged"]["against_chance"]
    if verdict != shortcuts.SHOWN:
        sentences.append(
            f"That is not shown to be better than chance ({verdict}), so that there is little to audit."
        )
    for name, (lead, meaning, rest) in _ERASED.items():
        sentences.append(_erased_in_words(alterations[name], lead, f"{meaning}. {outside}, {rest}"))
    for name, (lead, thing) in _CHANGED.items():
        if name in alterations:
            sentences.append(_changed_in_words(alterations[name], lead, thing))
    if "common resolution" not in alterations:
        sentences.append(
            f"One common resolution tells nothing here, and is left out: the network's input ({run['image_size']} "
            f"pixels) is not larger than it ({COMMON_SIZE})."
        )
    left_out = alterations["lungs erased"]["left_out"]
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
    if row["against_chance"] == shortcuts.TOO_FEW:
        return f"{said}, of {shortcuts.TOO_FEW}: nothing is concluded."
    if row["against_chance"] == shortcuts.UNJUDGED:
        return f"{said}, without an interval: nothing is concluded."
    if row["against_chance"] == shortcuts.NOT_SHOWN:
        return (
            f"{said}: chance (0.5) is inside the interval. A shortcut is not shown here; nor is it ruled out, as "
            f"the interval reaches up to {auc['high']:.3f}."
        )
    if row["against_chance"] == shortcuts.REVERSED:
        below = "the interval is below 0.5" if auc["low"] is not None else "every pair is in the wrong order"
        return (
            f"{said}: {below}. The classes still differ, but the network puts them in the wrong "
            "order, as can happen with images unlike those of the training; a shortcut is neither shown nor ruled "
            "out."
        )
    outside = "chance (0.5) is outside the interval" if auc["low"] is not None else "every pair is in order"
    left = "" if row["excess_left"] is None else f" ({row['excess_left']:.0%} of the AUC above 0.5 is left)"
    return f"{said}: {outside}{left}; {meaning}."


def _changed_in_words(row: dict, lead: str, thing: str) -> str:
    change = row["difference"]
    if change["difference"] is None or change["low"] is None:
        return f"{lead} no interval of the change can be given."
    said = f"{lead} the AUC changes by {_cell(change, 'difference', sign='+')}"
    if row["against_chance"] == shortcuts.TOO_FEW:
        return f"{said}, of {shortcuts.TOO_FEW}: nothing is concluded."
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
            f"{said} The data themselves tell the classes apart by the form of their files. The network sees "
            "nothing of the form but its traces, such as blur and compression."
        )
    return f"{said} That the form tells the classes apart is not shown here ({form['against_chance']})."


def _source_run_in_words(run: dict, audited: dict[str, str]) -> str:
    other = " on other images" if run["manifest"]["sha256"] != audited["sha256"] else ""
    origins = " ".join(_origin_in_words(row) for row in run["origins"])
    said = (
        f"**{run['name']}**, trained on a split by source paper, has an AUC of {_cell(run['unchanged']['auc'])} "
        f"on {_images(run['images'])}. {origins} This is another training{other}: set "
        "beside the AUC above it is an indication, not a test."
    )
    verdict = run["unchanged"]["against_chance"]
    if verdict == shortcuts.SHOWN:
        return said
    return f"{said} That it is better than chance on papers it has not seen is not shown ({verdict})."


def _origin_in_words(row: dict) -> str:
    """Returns where the images of one class come from, `audit_sources.origins`."""
    archives = " and ".join(row["trained_archives"])
    parts = [
        (row["from_papers"], "from papers of which no image was trained on"),
        (
            row["from_trained_archives"],
            f"from {archives}, of which other images were trained on, so that their look stays a shortcut",
        ),
        (row["from_other_archives"], "from archives of which no image was trained on"),
        (row["without_source"], "without a source, so that they may be from anywhere"),
    ]
    everything = "all " if row["images"] in (count for count, _ in parts) else ""
    said = "; ".join(f"{everything}{count} {where}" for count, where in parts if count)
    return f"{'Positives' if row['covid'] else 'Negatives'}: {said}."


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
    rows = [("run", "manifest", "images", "patients", "positives", "of papers", "negatives of papers", "AUC")]
    for run in source_runs:
        numbers = [str(run[count]) for count in ("images", "patients", "positives")]
        numbers += [str(row["from_papers"]) for row in run["origins"]]
        rows.append((run["name"], run["manifest"]["file"], *numbers, _cell(run["unchanged"]["auc"])))
    return [_table(rows), *_means(source_runs, "Mean AUC of the source-grouped runs")]


def _means(found: Sequence[dict], title: str) -> Sequence[str]:
    """Returns a table for each set of runs that differ by no more than their seed."""
    tables = []
    groups: dict[str, list[dict]] = {}
    for run in found:
        groups.setdefault(run["settings_sha256"], []).append(run)
    for group in groups.values():
        if len(group) < 2:
            continue
        rows = [("images are", *(run["name"] for run in group), "mean")]
        rows.append(_mean_row("unchanged", [run["unchanged"]["auc"]["value"] for run in group]))
        for name in group[0].get("alterations", ()):
            rows.append(_mean_row(name, [run["alterations"][name]["auc"]["value"] for run in group]))
        tables.append(f"### {title}, {_kind(group[0])}, {len(group)} runs\n\n{_table(rows)}")
    return tables


def _kind(run: dict) -> str:
    return f"{run['backbone']} {run['task']}, {run['image_size']} pixels, {run['manifest']['file']}"


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
