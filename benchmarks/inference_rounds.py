"""Rounds: in each, every contender is started anew, takes its turns beside the others, and is ended."""

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

from absl import logging

from benchmarks.inference_contenders import Contender
from benchmarks.inference_processes import Process
from benchmarks.worker import WorkerEndedError

CALLS_IN_TURN = 10
"""Then another contender has its turn, so that what else the machine does hits all alike."""

StartProcess = Callable[[str, Contender], Process]


@dataclasses.dataclass
class Measurements:
    """What was measured of one contender: lists have an item for each round; what is not measured has none.

    Attributes:
        latencies: seconds of each call of one image, by round.
        images_per_second: with as many images in a call as the contender takes.
        peak_memory: bytes, before more than one image is given.
        import_seconds: of the runtime.
        cold_start: seconds from the start of the process to the first answer.
        cores: processor time by the time of the clock, of the calls of one image.
        failure: why it has no measurements, or empty.
    """

    latencies: list[list[float]] = dataclasses.field(default_factory=list)
    images_per_second: list[float] = dataclasses.field(default_factory=list)
    peak_memory: list[float] = dataclasses.field(default_factory=list)
    import_seconds: list[float] = dataclasses.field(default_factory=list)
    cold_start: list[float] = dataclasses.field(default_factory=list)
    cores: list[float] = dataclasses.field(default_factory=list)
    failure: str = ""


def turns(calls: int) -> list[int]:
    """The calls of each turn: 25 calls are turns of 10, 10 and 5."""
    whole, rest = divmod(calls, CALLS_IN_TURN)
    return [CALLS_IN_TURN] * whole + [rest] * (rest > 0)


def measure(
    contenders: Mapping[str, Contender], start: StartProcess, *, rounds: int, calls: int
) -> dict[str, Measurements]:
    """Measures all contenders in rounds.

    Args:
        contenders: by name.
        start: starts a contender and returns after its first answer.
        rounds: number of rounds; every second one goes through the contenders backwards.
        calls: of each contender in each round, in turns of `CALLS_IN_TURN`.

    Returns:
        By name. A contender that fails is left out from then on; it has a `failure`.
    """
    measured = {name: Measurements() for name in contenders}
    for number in range(rounds):
        order = [name for name in contenders if not measured[name].failure][:: -1 if number % 2 else 1]
        _measure_round({name: contenders[name] for name in order}, measured, start, calls)
        logging.info("round %d of %d", number + 1, rounds)
    return measured


def _measure_round(
    contenders: Mapping[str, Contender], measured: Mapping[str, Measurements], start: StartProcess, calls: int
) -> None:
    processes: dict[str, Process] = {}

    @contextlib.contextmanager
    def failures_of(name: str):
        try:
            yield
        except (WorkerEndedError, ValueError) as error:
            measured[name].failure = getattr(error, "reason", "") or str(error)
            logging.warning("%s: %s", name, measured[name].failure)
            if name in processes:
                processes.pop(name).close()

    try:
        for name, contender in contenders.items():
            logging.info("starting %s", name)
            with failures_of(name):
                processes[name] = start(name, contender)
                _note_start(measured[name], processes[name])
        answers: dict[str, list[dict]] = {name: [] for name in contenders}
        asked = [name for name, contender in contenders.items() if not contender.is_command]
        for number, size in enumerate(turns(calls)):
            for name in asked[:: -1 if number % 2 else 1]:
                with failures_of(name):
                    if name in processes:
                        answers[name].append(processes[name].ask(calls=size, batch=1))
        for name in [name for name in asked if name in processes]:
            _note_turns(measured[name], answers[name])
        for name in [name for name in asked if contenders[name].batch and name in processes]:
            with failures_of(name):
                batch = contenders[name].batch
                seconds = processes[name].ask(calls=max(2, calls // batch), batch=batch)["seconds"]
                measured[name].images_per_second.append(batch * len(seconds) / sum(seconds))
    finally:
        for process in processes.values():
            process.close()


def _note_start(measurements: Measurements, process: Process) -> None:
    measurements.cold_start.append(process.cold_start)
    measurements.peak_memory.append(process.ready["peak_memory"])
    if "import_seconds" in process.ready:
        measurements.import_seconds.append(process.ready["import_seconds"])


def _note_turns(measurements: Measurements, answers: Sequence[dict]) -> None:
    measurements.latencies.append([seconds for answer in answers for seconds in answer["seconds"]])
    measurements.cores.append(statistics.median(answer["cores"] for answer in answers))
    measurements.peak_memory[-1] = answers[-1]["peak_memory"]
