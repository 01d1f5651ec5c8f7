"""Answers slices on a small box, without TensorFlow: `python -m ladnn_tf.edge MODEL FILE... [--out=DIR]`.

`--watch=DIR` in place of files answers every image that appears in a folder, `--series=PATH` answers a person by a
CT series. MODEL is a `.tflite` of `python -m export.tflite`. What is needed: `pip install '.[edge]'` in the
project's folder, that is ai-edge-litert, NumPy and Pillow; for series `'.[edge,dicom]'`.

    from ladnn_tf.edge import EdgePredictor

    predictor = EdgePredictor("int8.tflite")
    for result in predictor.predict([Path("slice.png").read_bytes()]):
        print(result.covid, result.positive, result.lesions, result.abstained, result.reason, result.error)

The fields of a JSON record are listed by --help (`FIELDS`).

With --out the answers are files too (`edge_files.py`), and what was answered there is not answered again: by
the same model, card and check for files given by name, by any model for a watched folder (`edge_watch.py`).
"""

import argparse
import contextlib
import functools
import io
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ladnn_tf.answer import Answer
from ladnn_tf.edge_files import (
    ResultsFolder,
    json_line,
    list_files,
    make_folder,
    printable,
    read_image_file,
)
from ladnn_tf.edge_output import answer, table_footer, table_header, table_row, unread_record
from ladnn_tf.edge_predictor import EdgePredictor
from ladnn_tf.edge_watch import StopSignal, Watcher, watch

__all__ = ["Answer", "EdgePredictor", "main"]

DEBUG_VARIABLE = "LADNN_TF_DEBUG"
"""As in `command.py`, which needs absl: set to 1 in the environment, errors keep their traceback."""

FIELDS = """\
The fields of a record (--format=jsonl, and the .json files in --out):
  file             as it was given; in a watched folder its name there
  covid            probability of COVID-19, calibrated; null where there is no answer
  positive         whether covid is at least threshold; null where there is no answer
  threshold        of the call, from the model's card
  lesions          probability of each lesion, not calibrated; empty for a baseline and where there is no answer
  abstained        true: no answer, as this is no chest-CT slice; reason says why. This is no error
  reason, error    why it abstained; why there is no answer otherwise; else empty
  model_version, card_sha256, unfit, notice    of the model that answered
  checked          whether it might have abstained (--check)
  answered_at      UTC, ISO 8601
  sha256, size, mtime_ns    of the file; sha256 null if it was not read
  overlay          the picture's name in --out, or null
  maps             with --maps: raw attention maps [h][w][C], COVID-19 first, then the lesions
  classes          of a model with classes: probability of each, not calibrated

The record of a series (--series) has the person's answer under the same names, its interval as low and high, its
slices by `number` (from 1), and as `cautions` what must be known beside the call; docs/series.md has all fields.
With --out all are in series.json, with a picture of each; it must not hold answers about other paths.

Exit status: 0, all answered, `"covid": null` with `"abstained": true` included, also of a series whose slices were
all left out; 1, an error, or a file or series without an answer because of one (not there, empty, damaged, without
any CT slice), or a file whose answer was not stored (not when watching); 2, an error in the command line."""

INSTALL_SERIES = (
    "pip install '.[edge,dicom]' in the project's folder; the offline bundle answers single slices only"
)

_WIDEST_FILE = 60  # characters of the table's first column


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ladnn_tf.edge",
        description="Answers chest-CT slices with a TFLite model, without TensorFlow. Research use only.",
        epilog=FIELDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="the .tflite file, its card inside")
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        default=[],  # which argparse does not take for required
        help="PNG or JPEG files, or folders of them (not the folders in them)",
    )
    parser.add_argument(
        "--watch",
        metavar="DIR",
        type=Path,
        help="answer every PNG or JPEG file that appears in this folder; no series",
    )
    parser.add_argument(
        "--series",
        metavar="PATH",
        action="append",
        default=[],
        help="answer a person by a CT series: a folder of DICOM files, a DICOMDIR, a zip, NIfTI, or a folder of "
        "pictures; may be repeated. It needs more than the offline bundle has",
    )
    parser.add_argument(
        "--slices", choices=("equidistant", "all"), default="equidistant", help="of a series (15 %(default)s)"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="write each answer to this folder, too")
    parser.add_argument(
        "--interval", type=_seconds, default=1.0, help="seconds between looks at --watch (%(default)s)"
    )
    parser.add_argument(
        "--settle",
        type=_seconds,
        default=30.0,
        help="seconds that an unreadable file in --watch gets to be copied wholly (%(default)s)",
    )
    parser.add_argument("--format", choices=("table", "jsonl"), default="table", help="of stdout (%(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: LiteRT's)")
    on_off = argparse.BooleanOptionalAction
    parser.add_argument("--overlays", action=on_off, default=True, help="with --out: pictures of the maps (on)")
    parser.add_argument(
        "--lungs", action=on_off, default=True, help="leave out a series' slices without lungs (on)"
    )
    parser.add_argument("--check", action=on_off, default=True, help="refuse what is no chest-CT slice (on)")
    parser.add_argument("--maps", action=on_off, default=False, help="with the maps in the JSON (off)")
    parser.add_argument("--allow_unfit", action=on_off, default=False, help="answer with an unfit model too (off)")
    arguments = parser.parse_intermixed_args(argv[1:])
    if [bool(arguments.files), bool(arguments.watch), bool(arguments.series)].count(True) != 1:
        parser.error("give either files or --watch=DIR or --series=PATH")
    if arguments.watch and not arguments.out:
        parser.error("--watch needs --out=DIR, where it is kept what was answered")
    sources = [arguments.watch] if arguments.watch else [Path(file) for file in arguments.files]
    sources = [source if source.is_dir() or arguments.watch else source.parent for source in sources]
    if arguments.out and any(arguments.out.resolve() == source.resolve() for source in sources):
        parser.error(f"--out={arguments.out} is the images' folder, where overlays would be images; give another")
    return arguments


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"should be a number of seconds, 0 or more. Received: {text}")
    return value


def _answer_file(
    file: str, predictor: EdgePredictor, results: ResultsFolder | None, *, overlay: bool, maps: bool
) -> tuple[dict[str, Any], bool]:
    """The record of one file, from the folder of answers if it is there, else by the model; whether it is kept."""
    try:
        image = read_image_file(Path(file), file)
    except OSError as error:
        return unread_record(file, error, predictor), True
    if results is None:
        return answer(predictor, image, overlay=False, maps=maps)[0], True
    record = results.find(image)
    if record is None or not _is_same_question(record, predictor, overlay=overlay, maps=maps):
        record, picture = answer(predictor, image, overlay=overlay, maps=maps)
        try:
            results.store(record, picture)
        except OSError as error:
            print(
                f"error: the answer to {printable(file)} was not stored in {results.folder} ({error.strerror}); "
                "once there is room, call again",
                file=sys.stderr,
            )
            return record | {"overlay": None}, False
    return record, True


def _is_same_question(record: dict[str, Any], predictor: EdgePredictor, *, overlay: bool, maps: bool) -> bool:
    """Whether an answer of an earlier call is what would be answered now."""
    same = record.get("card_sha256") == predictor.card_sha256 and record.get("checked") == predictor.check
    if record.get("abstained"):
        return same
    return (
        same and not record.get("error") and bool(record.get("overlay")) >= overlay and ("maps" in record) == maps
    )


def _printer(form: str, predictor: EdgePredictor, width: int) -> Callable[[dict[str, Any]], None]:
    if form == "table":
        print(table_header(predictor.card, width), flush=True)

    def report(record: dict[str, Any]) -> None:
        print(table_row(record, width) if form == "table" else json_line(record), flush=True)

    return report


def _watch(arguments: argparse.Namespace, predictor: EdgePredictor, results: ResultsFolder) -> None:
    print(
        f"watching {arguments.watch}; answers go to {arguments.out}, which holds {results.count}; "
        f"{predictor.card.version}; end it by SIGINT or SIGTERM",
        file=sys.stderr,
        flush=True,
    )
    with StopSignal() as stop:
        watcher = Watcher(
            arguments.watch,
            results,
            functools.partial(answer, predictor, overlay=arguments.overlays, maps=arguments.maps),
            _printer(arguments.format, predictor, _WIDEST_FILE // 2),
            settle=arguments.settle,
            stopped=lambda: stop.requested,
        )
        watch(watcher, stop, arguments.interval)


def main(argv: list[str]) -> int:
    """The command.

    Args:
        argv: as `sys.argv`.

    Returns:
        The exit status: 1 if any file has no answer because of an error, or its answer could not be stored; always
        0 after watching.
    """
    arguments = _parse(argv)
    if arguments.watch and not arguments.watch.is_dir():
        raise ValueError(f"there is no folder {arguments.watch} to watch")
    files = list_files(arguments.files, functools.partial(print, file=sys.stderr), takes_series=True)
    if arguments.series:
        _check_series(arguments)
    elif arguments.out:
        make_folder(arguments.out)
    predictor = EdgePredictor(
        arguments.model,
        allow_unfit=arguments.allow_unfit,
        threads=arguments.threads,
        check=arguments.check,
    )
    if predictor.unfit:
        print(f"warning: {predictor.complaint}. Its answers are marked unfit", file=sys.stderr)
    if arguments.series:
        return int(_answer_series(arguments, predictor))
    with ResultsFolder(arguments.out) if arguments.out else contextlib.nullcontext() as results:
        if arguments.watch:
            _watch(arguments, predictor, results)
            return 0
        return int(_answer_files(files, arguments, predictor, results))


def _answer_files(
    files: Sequence[str],
    arguments: argparse.Namespace,
    predictor: EdgePredictor,
    results: ResultsFolder | None,
) -> bool:
    """Answers files one by one; returns whether any has no answer because of an error, or none that was stored."""
    width = min(max(4, *(len(printable(file)) for file in files)), _WIDEST_FILE)
    report = _printer(arguments.format, predictor, width)
    failed = False
    for file in files:
        record, kept = _answer_file(file, predictor, results, overlay=arguments.overlays, maps=arguments.maps)
        report(record)
        failed |= bool(record["error"]) or not kept
    if arguments.format == "table":
        print(table_footer(predictor))
    return failed


def _check_series(arguments: argparse.Namespace) -> None:
    """What keeps series from being answered, told before the model is read."""
    try:
        from ladnn_tf import series_command  # what reads series is not in the extra `edge`
    except ImportError as error:
        raise ImportError(f"--series needs more than slices do ({error}): {INSTALL_SERIES}") from error
    if arguments.out:
        series_command.check_out(arguments.out, arguments.series)


def _answer_series(arguments: argparse.Namespace, predictor: EdgePredictor) -> bool:
    """Answers series one by one; returns whether any could not be read or answered because of an error."""
    from ladnn_tf import series_command, series_text

    as_table = arguments.format == "table"
    records = series_command.answer_all(
        arguments.series,
        predictor,
        slices=arguments.slices,
        check_lungs=arguments.lungs,
        out=arguments.out,
        panels=arguments.overlays,
        report=lambda record, words: print(f"{words}\n" if as_table else json_line(record), flush=True),
    )
    if as_table:
        print(series_text.format_notes(predictor.card, any(record["covid"] is not None for record in records)))
        if arguments.out:
            print(f"written: {arguments.out / series_command.RESULTS_FILE}")
    return any(record["error"] for record in records)


def run(argv: list[str]) -> int:
    """`main`, its errors as one line on stderr."""
    logging.basicConfig(format="%(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding does not have
    try:
        return main(argv)
    except BrokenPipeError:  # whoever read stdout (`head`) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python still flushes at its end
        return 1
    except KeyboardInterrupt:
        return 130  # as shells have it: 128 and the number of the signal
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get(DEBUG_VARIABLE) == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(run(sys.argv))
