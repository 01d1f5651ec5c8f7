"""Workers: one process for each contender, which measures when it is told to.

A worker builds, compiles and warms up, and says so. It then takes one line of JSON from its standard input for
each measurement, `{"mode": "model", "steps": 5}`, and answers with one line, `{"seconds": 11.9, "peak_memory":
5200000000}`. Between measurements it waits, so that contenders do not disturb each other.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from benchmarks.contenders import Contender

_CHECKOUT = Path(__file__).resolve().parent.parent
_TAIL_LINES = 25


class Training(Protocol):
    """What a worker measures: a network, compiled and warmed up."""

    trainable_parameters: int

    def measure(self, mode: str, steps: int) -> float:
        """Seconds that `steps` steps take; `mode` is one of `contenders.MODES`."""


class WorkerProcess:
    """The parent's end of a worker.

    Attributes:
        trainable_parameters: of its network.
    """

    def __init__(self, name: str, contender: Contender, arguments: dict):
        """Starts the process and waits until it is warm.

        Args:
            name: of the contender, for messages.
            contender: what it runs.
            arguments: of the training, beside the contender's own.

        Raises:
            ValueError: if the arguments do not fit, in the worker's words.
            ChildProcessError: if it ends, with the end of its stderr.
        """
        self._name = name
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 closed with the worker
        job = {**arguments, "precision": contender.precision, **contender.options}
        self._process = subprocess.Popen(
            [sys.executable, "-m", contender.module, json.dumps(job)],
            cwd=_CHECKOUT,
            env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, **contender.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        try:
            self.trainable_parameters = self._answer()["trainable_parameters"]
        except BaseException:
            self.close()
            raise

    def measure(self, mode: str, steps: int) -> dict:
        """Asks for one measurement.

        Args:
            mode: one of the contender's modes.
            steps: number of steps.

        Returns:
            `seconds` of all steps, `peak_memory` of the process so far in bytes.

        Raises:
            ChildProcessError: if the worker ends, with the end of its stderr.
        """
        try:
            self._process.stdin.write(json.dumps({"mode": mode, "steps": steps}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            try:
                stream.close()
            except BrokenPipeError:
                continue  # a request that the process did not live to read

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            self._fail()
        answer = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer

    def _fail(self) -> None:
        status = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
        raise ChildProcessError(
            f"the worker of {self._name} ended with status {status} (-9 may mean that memory ran out: give fewer "
            "--variants). The end of what it wrote to stderr:\n" + "\n".join(lines)
        )


def peak_memory() -> int:
    """The most physical memory that this process has held, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def serve(make_training: Callable[..., Training], job: dict) -> None:
    """The worker's end: makes the training, then measures it for each line of standard input.

    Args:
        make_training: called with the items of `job`.
        job: what to train.
    """
    # What libraries print is not an answer: standard output becomes standard error.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

        def answer(message: dict) -> None:
            print(json.dumps(message), file=answers, flush=True)

        try:
            training = make_training(**job)
        except ValueError as error:
            answer({"error": str(error)})
            return
        answer({"trainable_parameters": training.trainable_parameters})
        for line in sys.stdin:
            seconds = training.measure(**json.loads(line))
            answer({"seconds": seconds, "peak_memory": peak_memory()})
