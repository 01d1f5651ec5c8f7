"""The text that `evaluate` prints: the numbers of `report.py` as aligned tables."""

import textwrap
from collections.abc import Sequence

from ladnn_tf import metrics
from ladnn_tf.labels import CLASS_NAMES, LESION_NAMES
from ladnn_tf.metrics_classes import CLASS_METRICS, MACRO

_TITLES = {
    "auc": "AUC",
    "average_precision": "average precision",
    "brier": "Brier score",
    "ece": f"calibration error ({metrics.CALIBRATION_BINS} bins)",
    "brier_uncalibrated": "Brier score, uncalibrated",
    "ece_uncalibrated": "calibration error, uncalibrated",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision (PPV)",
    "npv": "NPV",
    "f1": "F1",
    "accuracy": "accuracy",
    "ppv_at_prevalence": "PPV at prevalence {:.3g} %",
    "npv_at_prevalence": "NPV at prevalence {:.3g} %",
    "recall": "recall",
}
_AS_PERCENT = {
    *("sensitivity", "specificity", "precision", "npv", "f1", "accuracy"),
    *("ppv_at_prevalence", "npv_at_prevalence", "recall"),
}
_LONGEST_NAME = 44  # some sources are a paper's whole title
_LONGEST_LIST = 5
_LINE = 115
_COUNTS = ("images", "patients", "positives")


def format_report(report: dict) -> str:
    """Returns the text of `evaluate_predictions`' result, as aligned tables with intervals in brackets."""
    covid = report["covid"]
    points = [covid["at_0.5"], covid["at_threshold"]]
    probability_rows = [(_title(name), _cell(name, covid[name])) for name in _TITLES if name in covid]
    decision_rows = [
        (_title(name, report["prevalence"]), *(_cell(name, point[name]) for point in points))
        for name in _TITLES
        if name in points[0]
    ]
    parts = [
        _heading("COVID-19", report),
        f"Temperature {report['temperature']:.3f}, fitted on validation.",
        aligned([("", f"value [{report['level']:.0%} interval]"), *probability_rows]),
        aligned(
            [
                ("positive from a probability of", *(f"{point['threshold']:.4f}" for point in points)),
                ("", *(f"({point['rule']})" for point in points)),
                *decision_rows,
            ]
        ),
        *(_format_confusion(point) for point in points),
    ]
    parts += _format_persons(report)
    if report["classes"]:
        parts += _format_classes(report["classes"])
    if report["lesions"]:
        named = {f"{LESION_NAMES[lesion]} ({lesion})": row for lesion, row in report["lesions"].items()}
        parts.append("Lesions, over the images whose label of the lesion is known")
        parts.append(_format_groups("lesion", named, ("auc", "average_precision")))
    for name, subgroups in report["subgroups"].items():
        unknown = f"; unknown for {subgroups['unknown']} images" if subgroups["unknown"] else ""
        parts.append(f"COVID-19 by {name}, threshold {points[1]['threshold']:.4f}{unknown}")
        parts.append(_format_groups(name, subgroups["groups"], ("auc", "sensitivity", "specificity")))
    return _with_notes(parts, report)


def format_comparison(comparison: dict, names: tuple[str, str]) -> str:
    """Returns the text of `compare`'s result as a table; `names` are the two runs'."""
    thresholds = (f"{threshold:.4f}" for threshold in comparison["thresholds"])
    rows = [("", *names, "difference", "p"), ("threshold", *thresholds)]
    for name, row in comparison["metrics"].items():
        p = "n/a" if row["p"] is None else f"{row['p']:.4f}"
        change = _cell(name, row | {"value": row["difference"]}, sign="+")
        rows.append((_title(name), _number(name, row["a"]), _number(name, row["b"]), change, p))
    meaning = f"The difference is {names[0]} minus {names[1]}. p is two-sided, of each line by itself."
    title = f"{names[0]} against {names[1]}"
    return _with_notes([_heading(title, comparison), aligned(rows), meaning], comparison)


def _heading(title: str, counts: dict) -> str:
    line = f"{title}: {counts['images']} images of {counts['patients']} patients, {counts['positives']} positive"
    return f"{line}\n{'=' * len(line)}"


def _title(name: str, prevalence: float | None = None) -> str:
    return _TITLES[name].format(prevalence and 100 * prevalence)


def _number(name: str, value: float | None, sign: str = "") -> str:
    if value is None:
        return "n/a"
    if name not in _AS_PERCENT:
        return f"{value:{sign}.3f}"
    return f"{100 * value:{sign}.1f} {'points' if sign else '%'}"


def _cell(name: str, interval: dict, sign: str = "") -> str:
    """Returns `85.7 % [78.1, 92.0]` or `0.912 [0.861, 0.951]`, marked as `_with_notes` explains."""
    number = _number(name, interval["value"], sign)
    if interval["value"] is None:
        return number
    if interval["low"] is None:
        return f"{number} [n/a]"
    limits = ", ".join(_number(name, interval[limit], sign).split()[0] for limit in ("low", "high"))
    wilson = "*" if interval.get("method") == "wilson" else ""
    return f"{number} [{limits}]{wilson}{'+' if interval['undefined_resamples'] and not wilson else ''}"


def _format_confusion(point: dict, who: str = "") -> str:
    cells = point["confusion"]
    return aligned(
        [
            (f"{who}at {point['threshold']:.4f}", "predicted COVID-19", "predicted other"),
            ("COVID-19", str(cells["tp"]), str(cells["fn"])),
            ("other", str(cells["fp"]), str(cells["tn"])),
        ]
    )


def _format_persons(report: dict) -> list[str]:
    """Returns the slices' figures and the persons' side by side."""
    slices, section = report["covid"], report["persons"]
    persons, names = section["covid"], section["both_labels"]
    count, positive = section["patients"], section["positives"]
    sentences = [
        f"Persons: {count} patients, {positive} positive, as at least one of their images is; "
        f"{section['single_image']} with a single image"
    ]
    if names:
        listed = ", ".join(names[:_LONGEST_LIST]) + (", ..." if len(names) > _LONGEST_LIST else "")
        sentences.append(f"{len(names)} have images of both labels, and count as positive: {listed}")
    points = [group[point] for point in ("at_0.5", "at_threshold") for group in (slices, persons)]
    sentences += [f"Persons at {point['threshold']:.4f}: {point['rule']}" for point in (points[1], points[3])]
    probability_rows = [
        (_title(name), _cell(name, slices[name]), _cell(name, persons[name]))
        for name in metrics.PROBABILITY_METRICS
    ]
    difference = section["auc_difference"]
    if difference["low"] is not None:
        change = _cell("auc", difference | {"value": difference["difference"]}, sign="+")
        probability_rows.insert(1, ("AUC, persons minus slices", "", f"{change} p {difference['p']:.4f}"))
    decision_rows = [
        (_title(name, report["prevalence"]), *(_cell(name, point[name]) for point in points))
        for name in _TITLES
        if name in points[0]
    ]
    at = [
        f"{who} at {point['threshold']:.4f}" for who, point in zip(("slices", "persons") * 2, points, strict=True)
    ]
    return [
        "\n".join(textwrap.fill(f"{sentence}.", _LINE) for sentence in sentences),
        aligned([("", "slices", "persons"), *probability_rows]),
        aligned([("", *at), *decision_rows]),
        *(_format_confusion(persons[point], "persons ") for point in ("at_0.5", "at_threshold")),
    ]


def _format_classes(section: dict) -> list[str]:
    """Returns the metrics of the classes, of slices and of persons, and both confusion matrices."""
    titles = {name: CLASS_NAMES[name] for name in section["names"]}
    left_out = f"; {section['left_out']} of another diagnosis, or of none, left out" if section["left_out"] else ""
    heading = f"Classes, by the highest probability: {section['images']} images of {section['patients']} patients"
    kinds = {kind: section[kind] for kind in ("slices", "persons") if section[kind]}
    if not kinds:
        return [heading + left_out]
    rows = [("", *kinds), ("accuracy", *(_cell("accuracy", kind["accuracy"]) for kind in kinds.values()))]
    for group, title in {MACRO: "mean over classes", **titles}.items():
        rows += [
            (f"{title}: {_title(name)}", *(_cell(name, kind[group][name]) for kind in kinds.values()))
            for name in CLASS_METRICS
        ]
    matrices = [
        aligned(
            [
                (kind, *(f"predicted {title}" for title in titles.values())),
                *((title, *map(str, row)) for title, row in zip(titles.values(), found["confusion"], strict=True)),
            ]
        )
        for kind, found in kinds.items()
    ]
    return [heading + left_out, aligned(rows), *matrices]


def _format_groups(kind: str, groups: dict[str, dict], metric_names: Sequence[str]) -> str:
    rows = [(kind, *_COUNTS, *(_title(metric) for metric in metric_names))]
    for group, row in groups.items():
        counts = (str(row[count]) for count in _COUNTS)
        name = group if len(group) <= _LONGEST_NAME else group[: _LONGEST_NAME - 3] + "..."
        rows.append((name, *counts, *(_cell(metric, row[metric]) for metric in metric_names)))
    return aligned(rows)


def _with_notes(parts: Sequence[str], report: dict) -> str:
    text = "\n\n".join(parts)
    notes = [
        f"[low, high]: {report['level']:.0%} percentile interval, bootstrap over patients "
        f"({report['resamples']} resamples, seed {report['seed']})."
    ]
    if "]*" in text:
        notes.append("* Wilson interval with the patients as trials: no resample differs from 0 or 100 %.")
    if "]+" in text:
        notes.append("+ Undefined in some resamples, which are left out.")
    if _TITLES["ece"] in text:
        notes.append("The calibration error is higher in resamples: its interval may lie above its value.")
    if "n/a" in text:
        notes.append("n/a: undefined, as a class or every predicted one is missing; [n/a]: no resample differs.")
    return text + "\n\n" + "\n".join(notes) + "\n"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows of text as aligned columns; a row may be shorter than the others."""
    columns = max(map(len, rows))
    filled = [(*row, *[""] * (columns - len(row))) for row in rows]
    widths = [max(map(len, column)) for column in zip(*filled, strict=True)]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in filled
    )
