"""The gate's report, beside the artefacts: all figures as JSON, a table to read as Markdown."""

import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from export.artefacts import artefact_card
from export.parity_auc import MINIMUM_AUC, MINIMUM_OF_CLASS
from export.parity_columns import COLUMNS, LEVEL, RESAMPLES
from export.parity_compare import Comparison
from export.parity_evidence import Evidence
from export.parity_regions import SAME_BOXES, may_differ
from export.parity_table import RIGHT, artefact_title, lines, titles
from export.parity_tolerances import QUANTISED, Tolerances
from ladnn_tf.files import write_atomically
from ladnn_tf.tflite_file import SUFFIX

STEM = "parity"
"""The name of the two files about a folder's TFLite files."""

_RULES = dataclasses.asdict(Tolerances()).keys()
_ORDER = ("saved_model", "float32", "float16", *QUANTISED)


def version_stem(version: str) -> str:
    """The name of the two files about a version of a SavedModel."""
    return f"{STEM}_{version}"


def write_report(
    folder: Path, stem: str, comparisons: Sequence[Comparison], evidence: Evidence
) -> tuple[Path, Path]:
    """Writes `<stem>.json` and `<stem>.md`, after the artefacts were placed or refused.

    Artefacts of an older report that were not measured this time stay in it if they still lie in the folder,
    unchanged; one whose name a refused artefact has is marked as older.

    Args:
        folder: of the artefacts.
        stem: of the two files' names.
        comparisons: of artefacts that lie, or would have lain, in `folder` under their names.
        evidence: that they were measured on.

    Returns:
        The two files.

    Raises:
        ValueError: if an older report of that name is damaged.
        OSError: if a file cannot be written.
    """
    folder = Path(folder)
    document, markdown = folder / f"{stem}.json", folder / f"{stem}.md"
    rows = _rows(comparisons)
    measured = {row["name"]: row["model_sha256"] for row in rows}
    for row in _older(document):
        if measured.get(row["name"]) != row["model_sha256"] and in_place(folder, row):
            rows.append({**row, "older": row["name"] in measured})
    rows.sort(key=lambda row: (_ORDER.index(row["measured"]["format"]), row["name"], row["older"]))
    for row in rows:
        row["in_place"] = in_place(folder, row)
    command = _command(folder, evidence, [row for row in _rows(comparisons) if in_place(folder, row)])
    content = {
        "command": command,
        "run": {
            key: getattr(evidence.card, key)
            for key in ("name", "task", "backbone", "image_size", "threshold", "temperature", "model_sha256")
        },
        "data": evidence.sample.data,
        "artefacts": rows,
    }
    write_atomically(document, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    write_atomically(markdown, _markdown(evidence, rows, command).encode())
    return document, markdown


def in_place(folder: Path, row: dict) -> bool:
    """Whether the artefact of a report's row lies in a folder, unchanged.

    Args:
        folder: of the artefacts.
        row: has `name` and `model_sha256`.
    """
    path = folder / row["name"]
    if not path.exists():
        return False
    try:
        return artefact_card(path).model_sha256 == row["model_sha256"]
    except ValueError:  # damaged, or no longer what was measured
        return False


def format_table(comparisons: Sequence[Comparison]) -> str:
    """The comparisons as text: two lines for each artefact, then how to read them, then the reasons."""
    rows = _rows(comparisons)
    heads = titles(rows)
    cells = [heads, *(line for row in rows for line in lines(row, heads))]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
    pad = [str.rjust if title in RIGHT else str.ljust for title in heads]
    table = ["  ".join(f(c, w) for f, c, w in zip(pad, line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([*table, "", *_notes(rows), *_reasons(rows)])


def _rows(comparisons: Sequence[Comparison]) -> list[dict]:
    return [
        {
            "name": each.name,
            "run": each.card.name,
            "model_sha256": each.card.model_sha256,
            "source_sha256": each.card.export.source_sha256,
            "older": False,
            "fitness": each.fitness,
            "reasons": list(each.reasons),
            "measured": each.measured,
        }
        for each in comparisons
    ]


def _older(document: Path) -> list[dict]:
    """The rows of the report that is there."""
    if not document.is_file():
        return []
    try:
        rows = json.loads(document.read_text(encoding="utf-8"))["artefacts"]
        # Those that an older version judged, by other rules, would be misread.
        return [
            row for row in rows if row["measured"]["tolerances"].keys() == _RULES and lines(row, titles([row]))
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{document} is no report of the gate ({error!r}); move it away") from error


def _command(folder: Path, evidence: Evidence, rows: list[dict]) -> str:
    """The command that measures again what was measured and lies there, as strictly, and removes none of it for
    what is known already; empty if nothing lies there."""
    if not rows:
        return ""
    flags = [f"--saved_model={folder / row['name']}" for row in rows if not row["name"].endswith(SUFFIX)]
    names = [row["name"] for row in rows if row["name"].endswith(SUFFIX)]
    if set(names) == {path.name for path in folder.glob(f"*{SUFFIX}")} and names:
        flags.append(f"--tflite={folder}")
    elif names:
        flags.append("--tflite=" + ",".join(str(folder / name) for name in names))
    given, default = rows[0]["measured"]["tolerances"], dataclasses.asdict(Tolerances())
    flags += [f"--tolerance_{name}={value!r}" for name, value in given.items() if value != default[name]]
    flags += ["--keep_failed"] if any(row["fitness"] != "fit" for row in rows) else []
    return f"python -m export.parity {evidence.flags} {shlex.join(flags)}"


def _markdown(evidence: Evidence, rows: list[dict], command: str) -> str:
    card, heads = evidence.card, titles(rows)
    text = [
        f"# Parity of the exports of {card.name} ({card.backbone}, {card.image_size} px)",
        "",
        f"Measured on {data_text(evidence.sample.data)}. The reference is the run's own model (SHA-256 "
        f"{card.model_sha256[:12]}) in float32 arithmetic; COVID-19 is called at {card.threshold:.4g} or above.",
        "",
        f"To measure it again where it lies: `{command}`" if command else "Nothing of it was kept.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "|".join("---:" if title in RIGHT else "---" for title in heads) + "|",
        *("| " + " | ".join(line) + " |" for row in rows for line in lines(row, heads)),
        "",
    ]
    others = [
        f"{artefact_title(row)} was measured earlier, on {data_text(row['measured']['data'])}, as an export of "
        f"{row['run']} (SHA-256 {row['source_sha256'][:12]})."
        for row in rows
        if row["older"]
        or row["measured"]["data"] != evidence.sample.data
        or row["source_sha256"] != card.model_sha256
    ]
    return "\n".join(text + [f"- {note}" for note in (*_notes(rows), *others, *_reasons(rows))]) + "\n"


def data_text(data: dict) -> str:
    """Names a sample in words: how many images, of what, and of which file."""
    counts = f"{data['positives']} with COVID-19, {data['patients']} patients"
    if "phantoms" in data:
        drawn = data["phantoms"]
        return f"{data['images']} phantoms ({counts}; {drawn['size']} px, seed {drawn['seed']})"
    whole = data["images_in_split"]
    part = "all" if data["images"] == whole else f"evenly from the {whole}"
    manifest = data["manifest"]
    return (
        f"{data['images']} images ({counts}), {part} of the {data['split']} split of {manifest['file']} (SHA-256 "
        f"{manifest['sha256'][:12]}, {'' if data['own_data'] else 'not '}the run's own data)"
    )


def _notes(rows: list[dict]) -> list[str]:
    timed = max((row["measured"]["latency_images"] for row in rows), default=0)
    notes = [
        "Given: the pixels that the run's own model saw, or the file, for the artefact to decode and resize.",
        _differences(rows),
        f"A loss is the run's own value less the artefact's, with {100 * LEVEL:g} % intervals of a paired "
        f"bootstrap over patients ({RESAMPLES} resamples). The verdict is on the values, not the intervals.",
        f"ms: median of {timed} files, one at a time, on whatever machine this was and whatever else it did; a "
        "by-product: `python -m benchmarks.inference` measures speed.",
    ]
    groups = _distinct(map(_rules, rows))
    for rules in groups:
        notes.append(_allowed([row for row in rows if _rules(row) == rules], len(groups) > 1))
    notes += _distinct(filter(None, map(_judged, rows)))
    return notes


def _judged(row: dict) -> str:
    """On what else than the images the loss of AUC was judged, and why."""
    measured = row["measured"]
    if not measured["phantoms"]:
        return ""
    reason = (
        f"the run's own AUC is below {MINIMUM_AUC} or undefined, or a class has fewer than {MINIMUM_OF_CLASS} "
        "images, so that a loss would not show"
    )
    phantoms = data_text(measured["phantoms"]["data"])
    if measured["auc_judged_on"] == "phantoms":
        return f"On the images {reason}: the loss of AUC was judged on {phantoms}."
    if measured["auc_judged_on"] == "nothing":
        return f"On the images as on {phantoms} {reason}: the loss of AUC could not be judged."
    columns = [(title, measured[name]) for name, title in COLUMNS.items() if measured[name]]
    found = ", ".join(f"{title} {column['own_decisions']['b']:.4f}" for title, column in columns)
    return (
        f"On the images as on {phantoms} {reason}: the loss of AUC of {artefact_title(row)} was judged by the "
        "run's own decisions on the images, the AUC by which its probabilities tell them (of the run itself 1): "
        f"{found}."
    )


def _differences(rows: list[dict]) -> str:
    heads = " ".join(titles(rows))
    text = "Differences are absolute"
    if "maps" in heads:
        text += "; those of the maps are relative to the largest value of the label's map"
    if "boxes" in heads:
        text += (
            ". Where there are boxes, those of probabilities are of the images that have the same boxes, in the "
            "same order, as with the run's own model; in brackets is the largest of the other images. Scores "
            "count up to the first other box of an image: in a tie, which rounding decides, it has the same score"
        )
    return f"{text}."


def _rules(row: dict) -> tuple:
    """What a row was judged by: the tolerances, and the kind of its model."""
    measured = row["measured"]
    return measured["tolerances"], bool(measured.get("classes")), "same_boxes" in measured


def _allowed(rows: list[dict], named: bool) -> str:
    given, has_classes, has_boxes = _rules(rows[0])
    tolerances = Tolerances(**given)
    whose = f" for {', '.join(map(artefact_title, rows))}" if named else ""
    counts = _distinct(row["measured"]["data"]["images"] for row in rows)
    allowed = (
        f"Allowed{whose}: probabilities may differ by {tolerances.float32:g} (saved_model, float32) and "
        f"{tolerances.float16:g} (float16), by {tolerances.encoded:g} more from encoded bytes"
    )
    if has_boxes:
        images = ", ".join(f"{may_differ(number)} of {number} images" for number in counts)
        return (
            f"{allowed}, and scores by as much; {100 * SAME_BOXES:g} % of the images need the same boxes "
            f"({images} may have others), and the others the same decision: COVID-19 or not, and the likeliest "
            "class."
        )
    if has_classes:
        return f"{allowed}."
    decisions = ", ".join(f"{tolerances.may_differ(images)} of {images} decisions" for images in counts)
    return (
        f"{allowed}, and their maps by "
        f"{tolerances.maps:g}; {', '.join(QUANTISED)} may lose {tolerances.auc_loss:g} of AUC, need "
        f"{100 * tolerances.agreement:g} % equal decisions ({decisions} may differ), and their probabilities and "
        f"maps may differ by {tolerances.mean:g} on average."
    )


def _distinct(values) -> list:
    distinct = []
    for value in values:
        if value not in distinct:
            distinct.append(value)
    return distinct


def _reasons(rows: list[dict]) -> list[str]:
    return [f"unfit: {artefact_title(row)}: {reason}" for row in rows for reason in row["reasons"]]
