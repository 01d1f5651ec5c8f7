"""Trains a grid of runs and writes Table 2: `python -m ladnn_tf.experiments --flagfile=configs/table2.flags`.

Each training and each evaluation is a process of its own. What is done is not done again, what was interrupted
goes on from its last epoch: all state lies in the run folders.
"""

import contextlib
import functools
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import flags, logging

from ladnn_tf import command, grid, grid_cost, grid_text, runs, table2, table2_text
from ladnn_tf.files import write_atomically
from ladnn_tf.grid import Dataset, State, Status, Wanted
from ladnn_tf.labels import TASKS
from ladnn_tf.models.backbones import BACKBONES

USAGE = "python -m ladnn_tf.experiments --flagfile=configs/table2.flags [--weights=FILE] [--dry_run]"

_GRACE_SECONDS = 30.0

Launch = Callable[[Sequence[str], Path], int]
"""Runs a command to its end, its output appended to a file, and returns its exit status."""


def launch(arguments: Sequence[str], log: Path) -> int:
    """Runs a command in a process of its own, which does not outlive an interruption of this one.

    Args:
        arguments: the program and its arguments.
        log: file to which the command and its output are appended.

    Returns:
        The exit status; minus the number of the signal that ended it.
    """
    with log.open("ab") as file:
        file.write(f"$ {shlex.join(arguments)}\n".encode())
        file.flush()
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def complete(wanted: Wanted, folder: Path, launch: Launch) -> None:
    """Brings one run to its end, however far it is: trains it or goes on, and evaluates its test split once.

    Args:
        wanted: the run.
        folder: that holds the run folders.
        launch: starts the processes.

    Raises:
        ValueError: if it is blocked, being trained by another process, or one of its processes failed.
        OSError: if the folder cannot be written.
    """
    status = _look(wanted, folder)
    if status.state == State.MISSING:
        grid.claim(status)
    if status.state in (State.MISSING, State.UNFINISHED):
        try:
            _start(["ladnn_tf.train", f"--run={status.folder}", "--resume"], status.folder, launch)
        finally:
            grid.release(status.folder)
        status = _look(wanted, folder)
    if status.state == State.EVALUATE:
        arguments = [f"--run={status.folder}", f"--split={grid.SPLIT}", f"--manifest={wanted.settings.manifest}"]
        with runs.training_lock(status.folder):  # two grids would look at the test split twice
            _start(["ladnn_tf.evaluate", *arguments], status.folder, launch)
        status = _look(wanted, folder)
    if status.state != State.DONE:
        raise ValueError(status.reason or f"it is {status.state}")


def _look(wanted: Wanted, folder: Path) -> Status:
    (status,), _ = grid.find_runs([wanted], folder)
    return status


def _start(module: Sequence[str], folder: Path, launch: Launch) -> None:
    log = folder.with_name(f"{folder.name}.log")
    exit_status = launch([sys.executable, "-m", *module], log)
    if exit_status:
        raise ValueError(f"{_last_words(log, exit_status)} (log: {log})")


def _last_words(log: Path, exit_status: int) -> str:
    """What a failed process said at the end."""
    if exit_status < 0:
        return f"{signal.Signals(-exit_status).name} ended its process"
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = [line for line in text.rpartition("\n$ ")[2].splitlines()[1:] if line.strip()]  # below the command
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"exit status {exit_status}"])[-1].removeprefix("error: ")


def in_order(statuses: Sequence[Status], rates: grid_cost.Rates) -> list[list[Status]]:
    """The runs that are not done, those of a backbone and data set together, the cheapest such line first.

    A grid that is killed so leaves whole lines of the table.
    """
    lines: dict[tuple[str, str], list[Status]] = {}
    for status in statuses:
        if status.state != State.DONE:
            key = status.wanted.dataset.name, status.wanted.settings.backbone
            lines.setdefault(key, []).append(status)
    return sorted(lines.values(), key=lambda line: sum(grid_cost.minutes(each, rates) or 0.0 for each in line))


def run_grid(
    wanted: Sequence[Wanted],
    folder: Path,
    datasets: Sequence[Dataset],
    launch: Launch,
    write: Callable[[], object],
) -> list[str]:
    """Brings all runs of a grid to their end; one that fails does not stop the others.

    Args:
        wanted: the runs.
        folder: that holds the run folders.
        datasets: of the runs.
        launch: starts the processes.
        write: writes the table; called after each of its lines.

    Returns:
        A message for each run that is not done.
    """
    statuses, _ = grid.find_runs(wanted, folder)
    lines = in_order(statuses, grid_cost.measured_rates(folder, datasets))
    left = [status for line in lines for status in line]
    number, failures = len(left), []
    for line in lines:
        for status in line:
            name, began = status.folder, time.monotonic()
            logging.info("%d of %d: %s", number - len(left) + 1, number, name)
            try:
                complete(status.wanted, folder, launch)
                outcome = "done"
            except (ValueError, OSError) as error:
                failures.append(f"{name}: {error}")
                outcome = f"failed: {error}"
            left.pop(0)
            took = grid_text.duration((time.monotonic() - began) / 60)
            needed = grid_text.estimate(left, grid_cost.measured_rates(folder, datasets))
            logging.info("%s %s after %s; left: %s", name, outcome, took, needed)
        try:
            write()
        except (ValueError, OSError) as error:  # the trainings matter more; `main` writes it once more at the end
            logging.error("the table could not be written: %s", error)
    return failures


def write_tables(
    wanted: Sequence[Wanted], folder: Path, out: Path, *, resamples: int = 2000, seed: int = 0
) -> tuple[str, list[Path]]:
    """Writes `table2.csv` and `table2.md` from the runs that are done; nothing where there is none.

    Args:
        wanted: the runs of the grid.
        folder: that holds the run folders.
        out: folder for both files.
        resamples: bootstrap resamples of the patients.
        seed: of the resamples.

    Returns:
        The Markdown and the paths of what was written.

    Raises:
        ValueError: if runs on one data set were tested on other images.
        OSError: if the files cannot be written.
    """
    predictions: dict[tuple[str, str, str], table2.BySeed] = {}
    for status in grid.find_runs(wanted, folder)[0]:
        if status.predictions is not None:
            settings = status.wanted.settings
            key = status.wanted.dataset.name, settings.backbone, settings.task
            predictions.setdefault(key, {})[settings.seed] = status.predictions
    datasets = list(dict.fromkeys(each.dataset.name for each in wanted))
    backbones = list(dict.fromkeys(each.settings.backbone for each in wanted))
    seeds = len({each.settings.seed for each in wanted})
    options = {"resamples": resamples, "seed": seed}
    rows = table2.table_rows(predictions, datasets, backbones, **options)
    titles = {backbone: BACKBONES[backbone].title for backbone in backbones}
    markdown = table2_text.to_markdown(rows, titles, seeds, **options)
    if not predictions:  # a table of other runs that lies there is worth more than an empty one
        return markdown, []
    files = {out / "table2.csv": table2_text.to_csv(rows, seeds), out / "table2.md": markdown}
    for path, text in files.items():
        write_atomically(path, text.encode())
    return markdown, list(files)


@contextlib.contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM then ends the child and the loop as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _define_flags(flag_values: flags.FlagValues) -> None:
    fv = {"flag_values": flag_values}
    flags.DEFINE_string(
        "recipe", "configs/base.flags", "flagfile of ladnn_tf.train with the settings that all runs share", **fv
    )
    flags.DEFINE_list("backbones", list(BACKBONES), "backbones", **fv)
    flags.DEFINE_list("tasks", list(reversed(TASKS)), "baseline, ladnn or both", **fv)
    flags.DEFINE_list("datasets", ["d0=data/covid_ct.csv"], "NAME=MANIFEST.csv; the paper has d0 and d0d1", **fv)
    flags.DEFINE_list("seeds", ["0", "1", "2"], "seeds of the trainings", **fv)
    flags.DEFINE_string(
        "weights", None, "initial weights instead of the recipe's; {backbone} in it stands for the backbone", **fv
    )
    flags.DEFINE_string("runs", "runs", "folder of the run folders", **fv)
    flags.DEFINE_string("out", None, "folder for table2.csv and table2.md (default: RUNS/table2_RECIPE)", **fv)
    flags.DEFINE_boolean("dry_run", False, "only list the runs, how far they are and what they would cost", **fv)
    flags.DEFINE_integer("nice", 0, "lowers the priority of all processes (Unix)", 0, 19, **fv)
    flags.DEFINE_integer("resamples", 2000, "bootstrap resamples over patients", 100, **fv)
    flags.DEFINE_integer("resamples_seed", 0, "of the resamples", 0, **fv)


def main(argv: list[str]) -> int:
    """The command."""
    flag_values = flags.FlagValues()
    _define_flags(flag_values)
    command.parse(flag_values, argv, USAGE)
    if not all(seed.isdecimal() for seed in flag_values.seeds):
        command.usage_error(f"--seeds should be numbers such as 0,1,2, got {','.join(flag_values.seeds)}", USAGE)
    folder = Path(flag_values.runs)
    recipe = Path(flag_values.recipe).stem
    out = Path(flag_values.out) if flag_values.out else folder / f"table2_{recipe}"
    datasets = grid.read_datasets(flag_values.datasets)
    wanted = grid.wanted_runs(
        grid.read_recipe(flag_values.recipe),
        recipe,
        datasets,
        flag_values.backbones,
        flag_values.tasks,
        [int(seed) for seed in flag_values.seeds],
        flag_values.weights,
    )
    print(grid_text.format_plan(*grid.find_runs(wanted, folder), grid_cost.measured_rates(folder, datasets)))
    if flag_values.dry_run:
        return 0
    if flag_values.nice and hasattr(os, "nice"):
        os.nice(flag_values.nice)
    options = {"resamples": flag_values.resamples, "seed": flag_values.resamples_seed}
    write = functools.partial(write_tables, wanted, folder, out, **options)
    try:
        with _termination_as_interrupt():
            failures = run_grid(wanted, folder, datasets, launch, write)
    except KeyboardInterrupt:
        print("\nstopped; what is done is kept, and the same command goes on", file=sys.stderr)
        return 130
    markdown, written = write()
    print(f"\n{markdown}\nwritten: {', '.join(map(str, written)) or 'nothing'}")
    if failures:
        print("\nnot done:", *failures, sep="\n  ", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    command.run(main)
