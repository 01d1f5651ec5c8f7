"""How long a person's answer takes, and how much memory: from a folder of DICOM files, by the commands themselves.

    python -m benchmarks.series --model=models/edge/int8.tflite --run=runs/NAME

Each command is started as a new process, as a user starts it, so that the time holds Python, its libraries, the
model, the reading of all files, the lungs and the answer. The memory is the most that the process held.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags, logging

from benchmarks.training import machine
from benchmarks.worker import CHECKOUT, WorkerEndedError
from ladnn_tf import command
from ladnn_tf.data.dicom_writer import write_series
from ladnn_tf.data.phantom_volume import phantom_volume
from ladnn_tf.series import SLICES

USAGE = (
    "python -m benchmarks.series [--model=FILE.tflite] [--run=RUN] [--path=FOLDER] [--slices=300] [--repeats=3]"
)
_DRAWN = 60  # slices; a longer series repeats each of them, as drawing takes longer than reading
_SIDE = 512
_TAIL_LINES = 25


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One start of a command.

    Attributes:
        seconds: from the start of the process to its end.
        peak: the most physical memory that it held, bytes.
        said: the line in which it says how many slices it answered.
    """

    seconds: float
    peak: int
    said: str


def write_folder(folder: Path, slices: int, size: int = _SIDE) -> None:
    """Writes a phantom's series as DICOM files.

    Args:
        folder: to make.
        slices: how many.
        size: their side, pixels.
    """
    repeats = -(-slices // _DRAWN)
    hu, (z, y, x), _ = phantom_volume(slices=-(-slices // repeats), size=size)
    write_series(np.repeat(hu, repeats, axis=0)[:slices], (z / repeats, y, x), folder)


def commands(model: str | None, run: str | None, path: str) -> dict[tuple[str, str], list[str]]:
    """The command lines that are measured, by name and choice of slices."""
    found = {}
    for choice in SLICES:
        options = [f"--series={path}", f"--slices={choice}"]
        if model:
            found["edge", choice] = ["-m", "ladnn_tf.edge", model, *options, "--allow_unfit"]
        if run:
            found["predict", choice] = ["-m", "ladnn_tf.predict", f"--run={run}", *options]
    return found


def measure(name: str, arguments: Sequence[str]) -> Measurement:
    """Starts Python with these arguments and waits for its end.

    Args:
        name: of the command, for messages.
        arguments: of Python.

    Raises:
        WorkerEndedError: if it ends with another status than 0.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=CHECKOUT, env=environment, stdout=output, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        if process.returncode:
            raise WorkerEndedError(name, process.returncode, errors.read().splitlines()[-_TAIL_LINES:])
        output.seek(0)
        said = [line.strip() for line in output if "answered:" in line or "no answer" in line]
    # Linux lets a program begin with what its parent held; this process holds little (the writing is another's).
    unit = 1 if sys.platform == "darwin" else 1024
    return Measurement(seconds, usage.ru_maxrss * unit, said[0] if said else "")


def format_report(measured: dict[tuple[str, str], list[Measurement]]) -> str:
    """The table: of each command the median of its seconds and the most memory, in MB (millions of bytes)."""
    lines = [f"{'command':9}{'slices':13}{'seconds':>8}{'from':>7}{'to':>7}{'MB at most':>12}  what it said"]
    for (name, choice), found in measured.items():
        seconds = [each.seconds for each in found]
        lines.append(
            f"{name:9}{choice:13}{statistics.median(seconds):8.1f}{min(seconds):7.1f}{max(seconds):7.1f}"
            f"{max(each.peak for each in found) / 1e6:12.0f}  {found[0].said}"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """The command."""
    flag_values = flags.FlagValues()
    fv = {"flag_values": flag_values}
    flags.DEFINE_string("model", None, "a .tflite file, for the edge command", **fv)
    flags.DEFINE_string("run", None, "folder of a run, for the predict command", **fv)
    flags.DEFINE_string("path", None, "a series to answer; one is drawn and written where none is given", **fv)
    flags.DEFINE_integer("slices", 300, "of the series that is written", 1, **fv)
    flags.DEFINE_integer("repeats", 3, "starts of each command", 1, **fv)
    command.parse(flag_values, argv, USAGE)
    if not (flag_values.model or flag_values.run):
        command.usage_error("give --model=FILE.tflite, --run=RUN, or both", USAGE)
    with tempfile.TemporaryDirectory() as scratch:
        path = flag_values.path or f"{scratch}/series"
        if not flag_values.path:
            logging.info("drawing and writing %d slices", flag_values.slices)
            spawn = multiprocessing.get_context("spawn")
            with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
                pool.submit(write_folder, Path(path), flag_values.slices).result()
        measured: dict[tuple[str, str], list[Measurement]] = {}
        for repeat in range(flag_values.repeats):
            for key, arguments in commands(flag_values.model, flag_values.run, path).items():
                logging.info("start %d of %d: %s, %s", repeat + 1, flag_values.repeats, *key)
                measured.setdefault(key, []).append(measure(" ".join(key), arguments))
    found = machine()
    series = flag_values.path or f"{flag_values.slices} drawn slices of {_SIDE} x {_SIDE}"
    print(f"{series}: from the start of the process to the answer, median of {flag_values.repeats}")
    print(f"{found['processor']}, {found['cores']} cores")
    print(format_report(measured))
    return 0


if __name__ == "__main__":
    command.run(main)
