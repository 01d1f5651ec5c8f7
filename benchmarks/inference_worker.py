"""The worker of one contender: loads its model, answers a slice, then times as many calls as it is asked to.

It imports nothing but the standard library before the clock of the import starts, NumPy least of all, of which
every runtime needs its share.
"""

import importlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.worker import answer_requests, peak_memory

_WARM_UP = 2  # calls that are not counted: others had the caches, and a new size of batch may be compiled


def read_slices(path: str) -> Sequence:
    """The slices to answer: a `.npy` as array `(N, S, S, 3)` uint8, a folder as the bytes of its files."""
    if Path(path).is_dir():
        return [file.read_bytes() for file in sorted(Path(path).iterdir())]
    return importlib.import_module("numpy").load(path)


def measure(answer: Callable[[Sequence], object], slices: Sequence, calls: int, batch: int) -> dict:
    """Times calls.

    Args:
        answer: what is called.
        slices: N images, N a multiple of `batch`; they take turns.
        calls: how many are counted.
        batch: images in each.

    Returns:
        `seconds` of each call, `cores`, the processor time of all of them by the time of the clock, and
        `peak_memory` of the process so far, in bytes.
    """
    batches = [slices[start : start + batch] for start in range(0, len(slices), batch)]
    for number in range(_WARM_UP):
        answer(batches[number % len(batches)])
    ends, processor = [time.perf_counter()], time.process_time()
    for number in range(calls):
        answer(batches[number % len(batches)])
        ends.append(time.perf_counter())
    cores = (time.process_time() - processor) / (ends[-1] - ends[0])
    seconds = [end - begin for begin, end in itertools.pairwise(ends)]
    return {"seconds": seconds, "cores": cores, "peak_memory": peak_memory()}


def main(argv: list[str]) -> None:
    """The worker."""
    job = json.loads(argv[1])

    def start() -> tuple[dict, Callable[..., dict]]:
        started = time.perf_counter()
        runtime = importlib.import_module(job["module"])
        seconds = time.perf_counter() - started
        answer = runtime.load(job["model"], job["threads"], **job["options"])
        slices = read_slices(job["slices"])
        answer(slices[:1])
        ready = {"import_seconds": seconds, "peak_memory": peak_memory()}
        return ready, lambda calls, batch: measure(answer, slices, calls, batch)

    answer_requests(start)


if __name__ == "__main__":
    main(sys.argv)
