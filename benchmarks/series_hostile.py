"""What 10,000 damaged files do to read_series: is each read, or refused with an error that names a file or a tag?

    python -m benchmarks.series_hostile [--files=10000] [--seed=0]

The files are those of benchmarks.series_mutations: truncated, with bytes, elements, lengths, types and code
streams damaged in every transfer syntax, bombs of zip, gzip and deflate, and what is no series at all. Each is
read in a process with limits of time and memory. A process that dies, hangs or takes more memory, and any
exception other than SeriesError and OSError, is a fault; then the exit status is 1 and the file is kept.
`--only=NUMBER` repeats one. The decoders write about damaged code streams to stderr.
Linux only: the memory is the kernel's count.
"""

import collections
import dataclasses
import multiprocessing
import multiprocessing.connection
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from benchmarks import series_mutations
from ladnn_tf import command
from ladnn_tf.data.volumes import SeriesError, read_series

USAGE = "python -m benchmarks.series_hostile [--files=10000] [--seed=0] [--only=NUMBER]"
ANSWERS = ("read", "read with a report", "refused")
FAULTS = ("names nothing", "other exception", "crash", "hang", "memory")
_PROCESSES = 2
_MEMORY = 3 * 2**30  # bytes of address space; what is resident is limited by _RESIDENT
_RESIDENT = 1.2  # GB, at most, ever
_TAG = re.compile(r"\([0-9A-F]{4},[0-9A-F]{4}\)")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What reading one input did.

    Attributes:
        number: of the input.
        kind, damage: of the input.
        what: one of `ANSWERS` or `FAULTS`.
        words: the error's message, or empty.
        seconds: that the reading took.
        resident: the largest memory of the process meanwhile, GB.
    """

    number: int
    kind: str
    damage: str
    what: str
    words: str
    seconds: float = 0.0
    resident: float = 0.0


def judge(path: Path) -> tuple[str, str]:
    """Reads one input; returns one of `ANSWERS` or `FAULTS`, and the error's words."""
    try:
        volumes = read_series(path)
    except (SeriesError, OSError) as error:
        words = str(error)
        named = _TAG.search(words) or path.name in words or "hostile" in words
        return ("refused" if named and "\n" not in words else "names nothing"), words
    except MemoryError as error:
        return "memory", repr(error)
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return "other exception", repr(error)
    return ("read with a report" if any(volume.report for volume in volumes) else "read"), ""


def _forget_peak() -> None:
    """Lets the kernel count the largest memory anew (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak() -> float:
    """The largest memory since then, GB."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(found.group(1)) * 1024 / 1e9


def run_one(seed: int, number: int) -> Verdict:
    """Makes and reads one input in this process."""
    case = series_mutations.hostile(seed, number)
    with tempfile.TemporaryDirectory() as folder:
        path = series_mutations.write(case, Path(folder))
        _forget_peak()
        start = time.monotonic()
        what, words = judge(path)
        seconds = time.monotonic() - start
    resident = _peak()
    if resident > _RESIDENT and what in ANSWERS:
        what, words = "memory", f"{resident:.2f} GB were resident"
    return Verdict(number, case.kind, case.damage, what, words, seconds, resident)


def _work(connection: multiprocessing.connection.Connection, seed: int) -> None:
    series_mutations.seeds()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send(None)
    while (number := connection.recv()) is not None:
        connection.send(run_one(seed, number))


class _Worker:
    """One process that reads inputs, and is started anew when one ends it."""

    def __init__(self, seed: int, limit: float):
        self._context = multiprocessing.get_context("spawn")
        self._seed, self._limit = seed, limit
        self._start()

    def _start(self) -> None:
        self.connection, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_work, args=(theirs, self._seed), daemon=True)
        self._process.start()
        theirs.close()
        self._number, self._until = None, time.monotonic() + 300
        self.ready = False

    def give(self, number: int) -> None:
        """Starts one input."""
        self.connection.send(number)
        self._number, self._until, self.ready = number, time.monotonic() + self._limit, False

    def poll(self) -> Verdict | None:
        """The verdict about the input, once it is there; None before. Then the worker is ready for the next."""
        fault = ""
        try:
            if self.connection.poll(0):
                verdict = self.connection.recv()
                self.ready = True
                return verdict
            if time.monotonic() > self._until:
                fault = "hang"
        except (EOFError, OSError):
            fault = "crash"
        if not fault:
            return None
        number = self._number
        self._process.kill()
        self._process.join()
        words = f"over {self._limit:.0f} s" if fault == "hang" else f"exit status {self._process.exitcode}"
        if number is None:
            raise RuntimeError(f"a worker did not start: {words}")
        self._start()
        case = series_mutations.hostile(self._seed, number)
        return Verdict(number, case.kind, case.damage, fault, words, self._limit * (fault == "hang"))

    def stop(self) -> None:
        """Ends the process."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self.connection.close()


def storm(seed: int, count: int, limit: float) -> Iterator[Verdict]:
    """Reads inputs 0 to count - 1, each within a limit of seconds; the verdicts come as they are ready."""
    workers = [_Worker(seed, limit) for _ in range(_PROCESSES)]
    given = done = 0
    try:
        while done < count:
            for worker in workers:
                if not worker.ready:
                    verdict = worker.poll()
                    if verdict is not None:
                        done += 1
                        yield verdict
                if worker.ready and given < count:
                    worker.give(given)
                    given += 1
            busy = [worker.connection for worker in workers if not worker.ready]
            multiprocessing.connection.wait(busy, 0.2)
    finally:
        for worker in workers:
            worker.stop()


def format_table(verdicts: Sequence[Verdict]) -> str:
    """A row for each damage and for each kind of file."""
    lines = []
    for title in ("damage", "kind"):
        counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for verdict in verdicts:
            counts[getattr(verdict, title)][verdict.what] += 1
        lines += [
            f"| {title} | files | {' | '.join((*ANSWERS, *FAULTS))} |",
            f"|---|{'---:|' * (len(ANSWERS) + len(FAULTS) + 1)}",
        ]
        for name, row in sorted(counts.items()):
            lines.append(
                f"| {name} | {row.total()} | {' | '.join(str(row[what]) for what in (*ANSWERS, *FAULTS))} |"
            )
        lines.append("")
    total = collections.Counter(verdict.what for verdict in verdicts)
    lines.append(", ".join(f"{total[what]} {what}" for what in (*ANSWERS, *FAULTS)))
    return "\n".join(lines)


def keep(verdict: Verdict, seed: int, folder: Path) -> Path:
    """Writes the input of a fault where it can be looked at."""
    place = folder / f"{seed}-{verdict.number}"
    place.mkdir(parents=True, exist_ok=True)
    return series_mutations.write(series_mutations.hostile(seed, verdict.number), place)


def _only(seed: int, number: int, folder: Path) -> int:
    verdict = run_one(seed, number)
    print(f"{verdict.kind}, {verdict.damage}: {verdict.what}: {verdict.words}")
    print(f"kept: {keep(verdict, seed, folder)}")
    return int(verdict.what in FAULTS)


def main(argv: list[str]) -> int:
    """The command; the exit status is 1 if there was a fault."""
    flag_values = flags.FlagValues()
    flags.DEFINE_integer("files", 10_000, "how many", 1, flag_values=flag_values)
    flags.DEFINE_integer("seed", 0, "of the damages", 0, flag_values=flag_values)
    flags.DEFINE_integer(
        "only", None, "read this one here, without limits, and keep it", 0, flag_values=flag_values
    )
    flags.DEFINE_float("seconds", 60.0, "for one file", 1.0, flag_values=flag_values)
    flags.DEFINE_string("keep", "build/series_hostile", "folder for the files of faults", flag_values=flag_values)
    command.parse(flag_values, argv, USAGE)
    seed, folder = flag_values.seed, Path(flag_values.keep)
    if flag_values.only is not None:
        return _only(seed, flag_values.only, folder)
    verdicts = []
    for verdict in storm(seed, flag_values.files, flag_values.seconds):
        verdicts.append(verdict)
        if verdict.what in FAULTS:
            kept = keep(verdict, seed, folder)
            print(
                f"FAULT {verdict.number}: {verdict.kind}, {verdict.damage}: {verdict.what}: {verdict.words[:300]}"
            )
            print(f"      {kept}", flush=True)
        if len(verdicts) % 500 == 0:
            print(f"{len(verdicts)} of {flag_values.files}", file=sys.stderr, flush=True)
    print(format_table(verdicts))
    slowest = max(verdicts, key=lambda verdict: verdict.seconds)
    print(f"slowest: {slowest.seconds:.1f} s ({slowest.kind}, {slowest.damage}, number {slowest.number})")
    print(f"largest memory of a process: {max(verdict.resident for verdict in verdicts):.2f} GB")
    return int(any(verdict.what in FAULTS for verdict in verdicts))


if __name__ == "__main__":
    command.run(main)
