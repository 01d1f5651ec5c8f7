"""Answering series from the command line: what `predict` and `edge` do alike with `--series`."""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ladnn_tf import series_text
from ladnn_tf.data.volumes import read_series
from ladnn_tf.edge_files import SERIES_FILE, make_folder
from ladnn_tf.files import write_atomically
from ladnn_tf.series import Predictor, answer_look, look
from ladnn_tf.series_answer import SeriesAnswer

RESULTS_FILE = SERIES_FILE

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_NAME_CHARACTERS = 80


def check_out(out: Path, paths: Sequence[str]) -> None:
    """Checks the folder for answers before there are any, and makes it.

    Pictures of answers are not written among the slices, where the next call would read them, and the answers of
    an earlier call are not replaced by those about other series.

    Args:
        out: the folder for answers.
        paths: of the series.

    Raises:
        ValueError: if the folder is that of a series, or lies in it; if it cannot be made or written; if its
            `series.json` has an answer about a path that is not one of `paths`.
    """
    for path in paths:
        if Path(path).is_dir() and Path(path).resolve() in (out.resolve(), *out.resolve().parents):
            raise ValueError(f"--out={out} lies in the folder of the series {path}; give another folder")
    make_folder(out)
    places = {os.path.realpath(path) for path in paths}
    earlier = [path for record in _earlier(out) if isinstance(path := record.get("path"), str)]
    lost = [path for path in earlier if os.path.realpath(path) not in places]
    if lost:
        raise ValueError(
            f"{out / RESULTS_FILE} has the answer about {series_text.printable(lost[0])}, which this command does "
            "not answer and would delete; give another --out"
        )


def answer_all(
    paths: Sequence[str],
    predictor: Predictor,
    *,
    slices: str,
    check_lungs: bool,
    out: Path | None,
    panels: bool = True,
    report: Callable[[dict[str, Any], str], None],
) -> list[dict[str, Any]]:
    """Answers the series at each path; what is wrong with one path does not keep the others from their answers.

    What is answered is in `series.json` before the next series is read, so that it is there whatever happens then.

    Args:
        paths: of series, as `volumes.read_series` takes them.
        predictor: of the model.
        slices: one of `series.SLICES`.
        check_lungs: whether slices without enough lung are left out.
        out: folder for `series.json` and a picture of each answered series; None for neither. Those of an earlier
            call are replaced: pictures that its `series.json` names are deleted.
        panels: whether there are pictures.
        report: is called with the record of each series as soon as it is answered, and with the answer in words.

    Returns:
        The records, in order: `series_text.series_record`, or `failure_record` of what could not be read or
        answered.

    Raises:
        OSError: if an answer cannot be written.
    """
    records: list[dict[str, Any]] = []
    if out:
        _delete_panels(out)
        write_json(predictor, records, out / RESULTS_FILE)
    for path, name, answer in _answers(paths, predictor, slices, check_lungs):
        if isinstance(answer, str):
            record = series_text.failure_record(path, answer, predictor, name)
            words = series_text.format_failure(path, answer, name)
        else:
            panel = None
            if out and panels and answer.covid is not None:
                panel = _write_panel(path, answer, out, {each["panel"] for each in records if each["panel"]})
            record = series_text.series_record(path, answer, panel)
            words = series_text.format_series(path, answer)
            if panel:
                words += f"\n  picture: {series_text.printable(str(out / panel))}"
        records.append(record)
        if out:
            write_json(predictor, records, out / RESULTS_FILE)
        report(record, words)
    return records


def write_json(predictor: Predictor, records: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes all answers of a call, with what is needed to read them.

    Raises:
        OSError: if the file cannot be written.
    """
    text = json.dumps(series_text.document(predictor.card, records), indent=2, allow_nan=False)
    write_atomically(path, f"{text}\n".encode("ascii"))


def _delete_panels(out: Path) -> None:
    """Deletes the pictures in a folder that its `series.json` names; if that is something else, none."""
    for name in [name for record in _earlier(out) if isinstance(name := record.get("panel"), str)]:
        inside = Path(name).name == name and name.endswith(".png")
        if inside and (out / name).is_file():
            (out / name).unlink()


def _earlier(out: Path) -> list[dict[str, Any]]:
    """The records in a folder's `series.json`; none if that is something else."""
    try:
        records = json.loads((out / RESULTS_FILE).read_bytes())["series"]
        return [record for record in records if isinstance(record, dict)]
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return []


def _answers(
    paths: Sequence[str], predictor: Predictor, slices: str, check_lungs: bool
) -> Iterator[tuple[str, str, SeriesAnswer | str]]:
    """Each path, the name of each series in it, and its answer, or the reason why it has none."""
    for path in paths:
        try:
            volumes = read_series(path)
        except (ValueError, ImportError, MemoryError) as error:
            yield path, "", str(error) or "not enough memory to read it"
            continue
        except OSError as error:
            yield path, "", f"cannot be read ({error.strerror})" if error.strerror else str(error)
            continue
        while volumes:
            name = volumes[0].name
            try:
                # The volume is gone before the model is asked, and the model read.
                seen = look(volumes.pop(0), predictor.card, slices=slices, check_lungs=check_lungs)
                answer = answer_look(seen, predictor)
            except MemoryError:
                answer = "not enough memory to answer it"
            # Whatever it is (TensorFlow's own errors have no class in common with Python's), it would keep all
            # other series from their answers.
            except Exception as error:  # noqa: BLE001
                words = " ".join(str(error).split())
                answer = f"the program failed at this series ({type(error).__name__}{words and f': {words}'})"
            yield path, name, answer


def _write_panel(path: str, answer: SeriesAnswer, out: Path, taken: set[str]) -> str:
    from ladnn_tf.series_panel import panel_png  # fonts need time and memory that not everyone spends

    name = _panel_name(path, answer, taken)
    write_atomically(out / name, panel_png(answer, path))
    return name


def _panel_name(path: str, answer: SeriesAnswer, taken: set[str]) -> str:
    words = [Path(path).absolute().name]
    if answer.name not in words:
        words.append(answer.name)
    taken = {each.lower() for each in taken}  # some file systems take a.png and A.png for one
    stem = _UNSAFE.sub("_", "_".join(words)).strip("._")[:_NAME_CHARACTERS] or "series"
    name, number = f"{stem}.png", 1
    while name.lower() in taken:
        number += 1
        name = f"{stem}-{number}.png"
    return name
