"""The processes of the contenders: workers, and the edge command as it is shipped."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from benchmarks.inference_contenders import Contender
from benchmarks.worker import CHECKOUT, Worker, WorkerEndedError

_WORKER = "benchmarks.inference_worker"
_TAIL_LINES = 25


class Process(Protocol):
    """A contender that has given its first answer.

    Attributes:
        ready: `peak_memory` in bytes, and of a worker `import_seconds` of its runtime.
        cold_start: seconds from the start of the process to its first answer.
    """

    ready: dict
    cold_start: float

    def ask(self, *, calls: int, batch: int) -> dict:
        """As `inference_worker.measure`; a command is not asked."""

    def close(self) -> None:
        """Ends it."""


class InferenceWorker(Worker):
    """A contender's worker.

    Args:
        name: of the contender.
        contender: what it runs.
        threads: of the CPU.

    Raises:
        ValueError, WorkerEndedError: as `Worker`.
    """

    def __init__(self, name: str, contender: Contender, threads: int):
        job = {
            "module": contender.module,
            "model": contender.model,
            "slices": contender.slices,
            "options": dict(contender.options),
            "threads": threads,
        }
        started = time.perf_counter()
        super().__init__(name, _WORKER, job, environment(threads))
        self.cold_start = time.perf_counter() - started


class EdgeCommand:
    """The edge command, run on one slice to its end.

    Args:
        name: of the contender.
        contender: a command.
        threads: of the CPU.

    Raises:
        WorkerEndedError: if it gives no answer.
    """

    def __init__(self, name: str, contender: Contender, threads: int):
        file = min(Path(contender.slices).iterdir())
        command = [sys.executable, "-m", contender.module, contender.model, str(file)]
        command += ["--format=jsonl", f"--threads={threads}", "--allow_unfit"]
        with tempfile.TemporaryFile() as stderr:
            started = time.perf_counter()
            process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env={**os.environ, **environment(threads)},
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
            with process.stdout:
                line = process.stdout.readline()
                self.cold_start = time.perf_counter() - started
                process.stdout.read()
            status, memory = _wait(process)
            if status or not line:
                stderr.seek(0)
                lines = stderr.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
                raise WorkerEndedError(name, status, lines)
        self.ready = {"peak_memory": memory}

    def close(self) -> None:
        """Nothing: it has ended."""


def _wait(process: subprocess.Popen) -> tuple[int, int]:
    """The exit status and the peak memory in bytes.

    Linux lets a process begin with what its parent held when it started it; the parent is the benchmark, which
    imports no runtime and holds less than any contender.
    """
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def start(name: str, contender: Contender, threads: int) -> Process:
    """Starts a contender and waits for its first answer.

    Raises:
        ValueError, WorkerEndedError: if there is none.
    """
    return (EdgeCommand if contender.is_command else InferenceWorker)(name, contender, threads)


def environment(threads: int) -> Mapping[str, str]:
    """What every process gets: the number of threads for the libraries below the runtimes, and no GPU."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
             "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")  # fmt: skip
    return {**dict.fromkeys(names, str(threads)), "CUDA_VISIBLE_DEVICES": ""}
