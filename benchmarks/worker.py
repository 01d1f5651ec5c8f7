"""Workers: one process for each contender, which measures when it is told to.

A worker builds, compiles and warms up, and says so. It then takes one line of JSON from its standard input for
each measurement, of training `{"mode": "model", "steps": 5}`, and answers with one line, `{"seconds": 11.9,
"peak_memory": 5200000000}`. Between measurements it waits, so that contenders do not disturb each other.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from benchmarks.contenders import Contender

CHECKOUT = Path(__file__).resolve().parent.parent
_TAIL_LINES = 25


class Training(Protocol):
    """What a worker measures: a network, compiled and warmed up."""

    trainable_parameters: int

    def measure(self, mode: str, steps: int) -> float:
        """Seconds that `steps` steps take; `mode` is one of `contenders.MODES`."""


class WorkerEndedError(ChildProcessError):
    """A worker that ended without an answer.

    Attributes:
        reason: in one line.
    """

    def __init__(self, name: str, status: int, lines: Sequence[str]):
        """The message.

        Args:
            name: of the contender.
            status: its exit status.
            lines: the end of what it wrote to stderr.
        """
        super().__init__(
            f"the worker of {name} ended with status {status} (-9 may mean that memory ran out: measure fewer "
            "contenders at a time). The end of what it wrote to stderr:\n" + "\n".join(lines)
        )
        self.reason = f"ended with status {status}" + (f": {lines[-1].strip()}" if lines else "")


class Worker:
    """The parent's end of a worker, which answers each request, a line of JSON, with another.

    Attributes:
        ready: its first answer, which comes unasked when it is ready.
    """

    def __init__(self, name: str, module: str, job: dict, environment: Mapping[str, str]):
        """Starts the process and waits until it is ready.

        Args:
            name: of the contender, for messages.
            module: that it runs, with `job` as JSON in its only argument.
            job: what it is to do.
            environment: variables that it gets beside this process' own.

        Raises:
            ValueError: if the job does not fit, in the worker's words.
            WorkerEndedError: if it ends, with the end of its stderr.
        """
        self._name = name
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(job)],
            cwd=CHECKOUT,
            env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        try:
            self.ready = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, **request) -> dict:
        """Sends a request and waits for its answer.

        Raises:
            ValueError: if it does not fit, in the worker's words.
            WorkerEndedError: if the worker ends, with the end of its stderr.
        """
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
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

    def _fail(self) -> NoReturn:
        status = self._process.wait()
        self._stderr.seek(0)
        raise WorkerEndedError(
            self._name, status, self._stderr.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
        )


class WorkerProcess(Worker):
    """The worker of a training.

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
            ValueError, WorkerEndedError: as `Worker`.
        """
        job = {**arguments, "precision": contender.precision, **contender.options}
        super().__init__(name, contender.module, job, contender.environment)
        self.trainable_parameters = self.ready["trainable_parameters"]

    def measure(self, mode: str, steps: int) -> dict:
        """Asks for one measurement.

        Args:
            mode: one of the contender's modes.
            steps: number of steps.

        Returns:
            `seconds` of all steps, `peak_memory` of the process so far in bytes.

        Raises:
            WorkerEndedError: if the worker ends, with the end of its stderr.
        """
        return self.ask(mode=mode, steps=steps)


def peak_memory() -> int:
    """The most physical memory that this process has held, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not `ru_maxrss`: Linux lets a new program begin with what its parent held when it started it.
        lines = (line.split() for line in status.read_text(encoding="utf-8").splitlines())
        return next(1024 * int(words[1]) for words in lines if words[:1] == ["VmHWM:"])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def answer_requests(start: Callable[[], tuple[dict, Callable[..., dict]]]) -> None:
    """The worker's end: gets ready, says so, and answers a request for each line of standard input.

    Args:
        start: makes the first answer, and the function that answers requests, called with their items. What it
            raises as ValueError is told to the parent.
    """
    # What libraries print is not an answer: standard output becomes standard error.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

        def answer(message: dict) -> None:
            print(json.dumps(message), file=answers, flush=True)

        try:
            ready, respond = start()
        except ValueError as error:
            answer({"error": str(error)})
            return
        answer(ready)
        for line in sys.stdin:
            answer(respond(**json.loads(line)))


def serve(make_training: Callable[..., Training], job: dict) -> None:
    """The end of a training's worker: makes the training, then measures it as often as it is asked to.

    Args:
        make_training: called with the items of `job`.
        job: what to train.
    """

    def start() -> tuple[dict, Callable[..., dict]]:
        training = make_training(**job)

        def measure(mode: str, steps: int) -> dict:
            seconds = training.measure(mode, steps)
            return {"seconds": seconds, "peak_memory": peak_memory()}

        return {"trainable_parameters": training.trainable_parameters}, measure

    answer_requests(start)
