"""The table of the gate's report: what is said of each artefact, in a line for each column of the gate."""

from collections.abc import Sequence

from export.parity_columns import COLUMNS

RIGHT = ("MB", "ms")
"""Titles of the columns whose numbers stand below each other."""

_NONE = "n/a"
_MAPS = "maps: largest, mean"
_BOXES = ("same boxes (others' largest)", "scores: largest, mean")
_DIFFERENCES = {
    "probabilities: largest, mean": "probability_difference",
    "COVID-19: largest, mean": "covid_difference",
    _MAPS: "map_difference",
    _BOXES[1]: "score_difference",
}
_FIGURES = (
    "probabilities: largest, mean", "COVID-19: largest, mean", _MAPS, *_BOXES, "equal decisions", "AUC",
    "loss of AUC", "loss of sensitivity",
)  # fmt: skip


def titles(rows: Sequence[dict]) -> list[str]:
    """The titles of a table: maps unless none of its models has any, boxes if one of them has.

    Args:
        rows: of a report.
    """
    left_out = set()
    if rows and all(row["measured"].get("classes") for row in rows):
        left_out.add(_MAPS)
    if not any("same_boxes" in row["measured"] for row in rows):
        left_out.update(_BOXES)
    figures = [title for title in _FIGURES if title not in left_out]
    return ["artefact", "MB", "given", *figures, "ms", "verdict"]


def artefact_title(row: dict) -> str:
    """The name of a row's artefact."""
    name = f"saved_model {row['name']}" if row["measured"]["format"] == "saved_model" else row["name"]
    return f"{name} (older)" if row["older"] else name


def lines(row: dict, heads: Sequence[str]) -> list[list[str]]:
    """The lines of one artefact: one for each column of the gate, and two of the phantoms if there are any.

    Args:
        row: of a report.
        heads: from `titles`.
    """
    measured = row["measured"]
    found = [{"given": title, **_figures(measured[name])} for name, title in COLUMNS.items()]
    if measured["phantoms"]:
        found += [
            {"given": f"phantoms, {title}", **_figures(measured["phantoms"][name])}
            for name, title in COLUMNS.items()
        ]
    latency = measured["latency_ms"]
    kept = "" if row.get("in_place", True) or row["fitness"] == "fit" else ", not kept"
    found[0] |= {
        "artefact": artefact_title(row),
        "MB": f"{measured['size_bytes'] / 1e6:.2f}",
        "ms": _NONE if latency is None else f"{latency:.1f}",
        "verdict": row["fitness"] + kept,
    }
    return [[line.get(head, "") for head in heads] for line in found]


def _figures(column: dict | None) -> dict[str, str]:
    if column is None:
        return dict.fromkeys(_FIGURES, _NONE)
    figures = {
        title: f"{column[key]['largest']:.1e}, {column[key]['mean']:.1e}"
        for title, key in _DIFFERENCES.items()
        if key in column
    }
    if boxes := column.get("boxes"):
        others = f" ({boxes['other_difference']:.1e})" if boxes["same"] < boxes["images"] else ""
        figures[_BOXES[0]] = f"{boxes['same']}/{boxes['images']}{others}"
    if agreement := column.get("agreement"):
        figures["equal decisions"] = f"{agreement['agreeing']}/{agreement['images']}"
    auc = column["auc"]
    figures["AUC"] = f"{auc['a']:.4f} -> {auc['b']:.4f}" if auc["difference"] is not None else _NONE
    return figures | {"loss of AUC": _loss(auc), "loss of sensitivity": _loss(column["sensitivity"])}


def _loss(paired: dict) -> str:
    if paired["difference"] is None:
        return _NONE
    interval = "" if paired["low"] is None else f" [{paired['low']:+.4f}, {paired['high']:+.4f}]"
    return f"{paired['difference']:+.4f}{interval}"
