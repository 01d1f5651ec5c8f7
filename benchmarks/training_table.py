"""From the timings of `benchmarks.training` to its table."""

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.contenders import COUNTERPARTS, MODES, Contender

Timings = Mapping[str, Mapping[str, Sequence[float]]]
"""Seconds per image by contender and mode, one for each round."""


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest of the rounds' ratios: what slows a whole round down cancels."""
    return spread([a / b for a, b in zip(numerators, denominators, strict=True)])


def summarise(timings: Timings, contenders: Mapping[str, Contender]) -> dict:
    """Works out what the table shows.

    Args:
        timings: of every contender, every mode of it.
        contenders: the same names.

    Returns:
        `seconds_per_image` (contender, mode), `both_to_model` (our contenders), and `to_torch`: for each precision
        of PyTorch the fastest contender's name (`reference`) and the ratio of each of ours to it (`ratios`), all
        with median, lowest and highest.
    """
    ours = [name for name in timings if not contenders[name].is_torch]
    summary = {
        "seconds_per_image": {
            name: {mode: spread(values) for mode, values in modes.items()} for name, modes in timings.items()
        },
        "both_to_model": {name: ratio(timings[name]["both"], timings[name]["model"]) for name in ours},
        "to_torch": {},
    }
    for precision in ("float32", "bfloat16"):
        theirs = [n for n in timings if contenders[n].is_torch and contenders[n].precision == precision]
        if theirs:
            reference = min(theirs, key=lambda name: statistics.median(timings[name]["model"]))
            ratios = {name: ratio(timings[name]["model"], timings[reference]["model"]) for name in ours}
            summary["to_torch"][precision] = {"reference": reference, "ratios": ratios}
    return summary


def format_summary(summary: dict, peak_memory: Mapping[str, float], backbone: str) -> str:
    """The tables as text.

    Args:
        summary: from `summarise`.
        peak_memory: bytes by contender.
        backbone: the network.

    Returns:
        Speeds and memory; below them our time against PyTorch's, or why there is none.
    """
    per_image = summary["seconds_per_image"]
    rows = [
        [
            name,
            *(f"{1 / modes[mode]['median']:.1f}" if mode in modes else "" for mode in MODES),
            _with_spread(modes["model"], "{:.1f}", 1000),
            _with_spread(summary["both_to_model"].get(name), "{:.3f}"),
            f"{peak_memory[name] / 2**30:.2f}",
        ]
        for name, modes in per_image.items()
    ]
    title = ["images per second", *MODES, "model, ms per image", "both / model", "peak GiB"]
    text = columns([title, *rows])
    references = summary["to_torch"]
    if not references:
        reason = "left out by --notorch" if backbone in COUNTERPARTS else f"MONAI has no {backbone}"
        return f"{text}\n\nPyTorch: {reason}"
    title = ["our time / PyTorch's, model", *(each["reference"] for each in references.values())]
    ours = list(summary["both_to_model"])
    rows = [[n, *(_with_spread(each["ratios"][n], "{:.2f}") for each in references.values())] for n in ours]
    return f"{text}\n\n{columns([title, *rows])}"


def _with_spread(values: dict | None, number: str, factor: float = 1.0) -> str:
    if values is None:
        return ""
    median, low, high = (number.format(factor * values[key]) for key in ("median", "lowest", "highest"))
    return f"{median} ({low} to {high})"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text, the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells))
        for cells in (zip(row, widths, strict=True) for row in rows)
    )
    return "\n".join(line.rstrip() for line in lines)
