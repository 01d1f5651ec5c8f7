"""From the measurements of `benchmarks.inference` to its table."""

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.inference_contenders import MATRIX_PRODUCT, REFERENCE, Contender
from benchmarks.inference_matmul import FLOPS
from benchmarks.inference_rounds import Measurements
from benchmarks.training_table import columns, ratio

TITLE = ("contender", "MB", "ms, median", "ms, p95", "ratio", "images/s", "peak MB", "import s", "cold start s",
         "share of peak")  # fmt: skip
_MEGA = 1e6
_GIGA = 1e9
_CELLS = (
    ("bytes", "{:.1f}", 1 / _MEGA),
    ("median", "{:.2f}", 1000.0),
    ("p95", "{:.2f}", 1000.0),
    ("ratio", "{:.2f}", 1.0),
    ("images_per_second", "{:.1f}", 1.0),
    ("peak_memory", "{:.0f}", 1 / _MEGA),
    ("import_seconds", "{:.2f}", 1.0),
    ("cold_start", "{:.2f}", 1.0),
    ("share", "{:.0%}", 1.0),
)


def percentile_95(seconds: Sequence[float]) -> float:
    """The 95th percentile, between the two calls around it in proportion."""
    return statistics.quantiles(seconds, n=20, method="inclusive")[-1]


def summarise(
    measured: Mapping[str, Measurements],
    contenders: Mapping[str, Contender],
    absent: Mapping[str, str],
    multiply_adds: int,
) -> dict:
    """Works out what the table shows: medians over the rounds.

    Args:
        measured: of every contender, the matrix product among them.
        contenders: the same names.
        absent: reasons by the names of what could not be measured at all.
        multiply_adds: of the network, for one image.

    Returns:
        `peak`, floating-point operations in a second of the fastest matrix product of a round, or None, and then
        why in `no_peak`; and `rows` by name, each either with `failure` or with what was measured of `bytes`,
        `median` and `p95` of the latency in seconds, `ratio` to `REFERENCE`, `images_per_second`, `peak_memory` in
        bytes, `import_seconds`, `cold_start` in seconds, `share` of the peak, and `cores`. Ratio and share are
        medians of those within a round: what slows a whole round down cancels.
    """
    product = measured[MATRIX_PRODUCT]
    peaks = [] if product.failure else [FLOPS / min(seconds) for seconds in product.latencies]
    reference = measured.get(REFERENCE, Measurements(failure="not measured"))
    medians = {name: [statistics.median(x) for x in found.latencies] for name, found in measured.items()}
    rows = {}
    for name, found in measured.items():
        if name == MATRIX_PRODUCT:
            continue
        if found.failure:
            rows[name] = {"failure": found.failure}
            continue
        row = {"bytes": contenders[name].size}
        for key in ("images_per_second", "peak_memory", "import_seconds", "cold_start", "cores"):
            if values := getattr(found, key):
                row[key] = statistics.median(values)
        if found.latencies:
            row["median"] = statistics.median(medians[name])
            row["p95"] = statistics.median(percentile_95(seconds) for seconds in found.latencies)
        if found.latencies and contenders[name].has_same_work:
            if not reference.failure:
                row["ratio"] = ratio(medians[name], medians[REFERENCE])["median"]
            if peaks:
                reached = [2 * multiply_adds / seconds for seconds in medians[name]]
                row["share"] = ratio(reached, peaks)["median"]
        rows[name] = row
    rows.update({name: {"failure": reason} for name, reason in absent.items()})
    return {"peak": statistics.median(peaks) if peaks else None, "no_peak": product.failure, "rows": rows}


def table_rows(summary: dict) -> list[list[str]]:
    """The cells of the table, title first; what was not measured is a dash, and a row without measurements too."""
    rows = [list(TITLE)]
    for name, row in summary["rows"].items():
        cells = [form.format(factor * row[key]) if key in row else "-" for key, form, factor in _CELLS]
        rows.append([name, *cells])
    return rows


def failures(summary: dict) -> list[str]:
    """Why rows are empty, a line each."""
    return [f"{name}: {row['failure']}" for name, row in summary["rows"].items() if "failure" in row]


def format_text(summary: dict) -> str:
    """The table for a terminal."""
    return columns(table_rows(summary))


def format_markdown(summary: dict) -> str:
    """The table in Markdown."""
    title, *rows = table_rows(summary)
    lines = [title, ["---", *["---:"] * (len(title) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def explanations(
    summary: dict, *, image_size: int, multiply_adds: int, threads: int, batch: int, rounds: int, calls: int
) -> list[str]:
    """What the columns mean, a paragraph each, without the machine.

    Args:
        summary: from `summarise`.
        image_size: side of the network's input, in pixels.
        multiply_adds: of the network, for one image.
        threads: of each process.
        batch: images in a call where throughput is measured.
        rounds: number of rounds.
        calls: in each.
    """
    peak = summary["peak"]
    lines = [
        f"Timed: a decoded slice of {image_size} x {image_size} uint8 pixels to probabilities; Keras and TFLite "
        "give attention maps, too. Decoding and resizing are the same for all and left out. The edge predictor "
        "and its command begin with an encoded PNG, which they decode, check and resize: no ratio, no share.",
        f"Each contender is a process of {threads} thread{'s' * (threads > 1)}, started anew in each round (of "
        f"{rounds}), in which all take turns, {calls} calls each. Values are medians over the rounds; the ratio "
        f"is that of the latency to {REFERENCE}; it and the share are medians of those within a round.",
        f"images/s: {batch} images in a call for Keras, SavedModel, PyTorch and ONNX Runtime, one for the others. "
        "peak MB: most physical memory while single images are answered. import s: of the runtime, with the "
        "Python code that builds the network (Keras, PyTorch). cold start s: from the start of the process to its "
        "first answer; the files are in the system's cache.",
    ]
    if peak:
        lines.append(
            f"share of peak: 2 x {multiply_adds / _MEGA:,.0f} million multiply-adds of the network's convolutions "
            f"and dense layers, divided by the latency and by {peak / _GIGA:.1f} GFLOP/s, which NumPy reached in "
            "this run in products of float32 matrices with as many threads. int8 is held against this float32 "
            "peak, too, and may exceed it."
        )
    else:
        lines.append(f"share of peak: not measured, as the matrix product {summary['no_peak']}.")
    many = {name: row["cores"] for name, row in summary["rows"].items() if row.get("cores", 0) > 1.1 * threads}
    lines += [f"{name} used {cores:.1f} cores although it was told {threads}." for name, cores in many.items()]
    return [*lines, *failures(summary)]
