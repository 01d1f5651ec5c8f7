"""The command that runs a grid, with processes that do at once what the real ones would."""

import dataclasses
import json
import os
import signal
import sys

import grid_runs
import pandas as pd
import pytest
from conftest import REPOSITORY

from ladnn_tf import evaluate, experiments, grid, grid_cost, runs, train
from ladnn_tf.config import TrainConfig
from ladnn_tf.grid import State
from ladnn_tf.labels import TASKS

RECIPE = TrainConfig(weights="none", image_size=32, epochs=3)


@pytest.fixture
def datasets(phantom_manifest):
    return grid.read_datasets([f"d0={phantom_manifest}"])


@pytest.fixture
def wanted(datasets):
    return grid.wanted_runs(RECIPE, "tiny", datasets, ["vgg16", "resnet18"], ["baseline", "ladnn"], [0, 1])


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def processes():
    return grid_runs.Processes()


def run(wanted, folder, datasets, processes, write=lambda: None):
    return experiments.run_grid(wanted, folder, datasets, processes, write)


def states(wanted, folder):
    return [status.state for status in grid.find_runs(wanted, folder)[0]]


def test_a_grid_trains_and_evaluates_what_is_missing_and_nothing_else(wanted, folder, datasets, processes):
    done, trained, killed = wanted[4:7]
    grid_runs.complete(folder / "by hand", done.settings)
    grid_runs.finish(folder / trained.name, trained.settings)
    grid_runs.begin(folder / killed.name, killed.settings, epoch=2)
    kept = grid_runs.contents(folder / "by hand")
    tables = []
    assert run(wanted, folder, datasets, processes, lambda: tables.append(states(wanted, folder))) == []
    assert set(states(wanted, folder)) == {State.DONE}
    assert grid_runs.contents(folder / "by hand") == kept
    # ResNet-18 is the cheaper one; baseline and LA-DNN of a seed come one after the other.
    line = [
        ("evaluate", "tiny_d0_resnet18_ladnn_seed0"),
        ("train", "tiny_d0_resnet18_baseline_seed1"),
        ("evaluate", "tiny_d0_resnet18_baseline_seed1"),
        ("train", "tiny_d0_resnet18_ladnn_seed1"),
        ("evaluate", "tiny_d0_resnet18_ladnn_seed1"),
    ]
    assert processes.calls[:5] == line
    assert processes.calls[5:] == [
        (command, f"tiny_d0_vgg16_{task}_seed{seed}")
        for seed in (0, 1)
        for task in ("baseline", "ladnn")
        for command in ("train", "evaluate")
    ]
    assert [table.count(State.DONE) for table in tables] == [4, 8]
    assert {grid_runs.looks(each.folder) for each in grid.find_runs(wanted, folder)[0]} == {1}
    processes.calls.clear()
    assert run(wanted, folder, datasets, processes) == []
    assert processes.calls == []


def test_a_failing_run_does_not_stop_the_others(wanted, folder, datasets, processes):
    first, second = wanted[4], wanted[5]
    processes.broken = {first.name: "error: no room\nbye", second.name: "Traceback\nKeyError: 1"}
    failures = run(wanted[4:], folder, datasets, processes)
    assert failures == [
        f"{folder / first.name}: no room (log: {folder / first.name}.log)",
        f"{folder / second.name}: KeyError: 1 (log: {folder / second.name}.log)",
    ]
    assert states(wanted[4:], folder) == [State.MISSING, State.MISSING, State.DONE, State.DONE]
    assert not (folder / first.name).exists()


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_grid_that_is_stopped_goes_on_where_it_was(wanted, folder, datasets, processes, command):
    """Stopped in the middle of the third training, after its second epoch, or in its evaluation."""

    def stopped(arguments, log):
        if "seed1" in arguments[3] and arguments[2] == f"ladnn_tf.{command}":
            path = folder / arguments[3].removeprefix("--run=")
            if command == "train":
                grid_runs.begin(path, runs.unfinished_config(path), epoch=2)
            raise KeyboardInterrupt
        return processes(arguments, log)

    with pytest.raises(KeyboardInterrupt):
        run(wanted, folder, datasets, stopped)
    kept = grid_runs.contents(folder)
    found = states(wanted, folder)
    assert found.count(State.DONE) == 2
    assert found.count(State.UNFINISHED if command == "train" else State.EVALUATE) == 1
    processes.calls.clear()
    assert run(wanted, folder, datasets, processes) == []
    assert set(states(wanted, folder)) == {State.DONE}
    assert processes.calls[0] == (command, "tiny_d0_resnet18_baseline_seed1")
    finished = {path: data for path, data in kept.items() if "_seed0" in str(path)}
    assert len(finished) > 8
    assert finished.items() <= grid_runs.contents(folder).items()


def test_what_another_process_trains_or_evaluates_is_left_to_it(wanted, folder, datasets, processes):
    busy, evaluated = wanted[0], wanted[1]
    grid_runs.begin(folder / busy.name, busy.settings, epoch=1)
    grid_runs.finish(folder / evaluated.name, evaluated.settings)
    with runs.training_lock(folder / busy.name), runs.training_lock(folder / evaluated.name):
        failures = run(wanted[:3], folder, datasets, processes)
    assert [failure.partition(": ")[2] for failure in failures] == [
        "it is being trained by another process",
        f"{folder / evaluated.name} is being trained by another process",
    ]
    assert {name for _, name in processes.calls} == {wanted[2].name}
    assert states(wanted[:3], folder) == [State.UNFINISHED, State.EVALUATE, State.DONE]


def test_what_another_process_finished_meanwhile_is_not_touched(wanted, folder, datasets, processes):
    def other_is_faster(arguments, log):
        if not (folder / wanted[1].name).exists():
            grid_runs.complete(folder / wanted[1].name, wanted[1].settings)
        return processes(arguments, log)

    assert run(wanted[:2], folder, datasets, other_is_faster) == []
    assert {name for _, name in processes.calls} == {wanted[0].name}
    assert grid_runs.looks(folder / wanted[1].name) == 1


def test_a_name_that_is_taken_is_an_error_and_stays(wanted, folder, datasets, processes):
    grid_runs.complete(folder / wanted[0].name, dataclasses.replace(wanted[0].settings, learning_rate=1.0))
    (folder / wanted[1].name).mkdir()
    (folder / wanted[1].name / "thesis.txt").write_text("mine")
    (folder / wanted[2].name).mkdir()
    kept = grid_runs.contents(folder)
    failures = run(wanted[:3], folder, datasets, processes)
    assert len(failures) == 2
    assert all("holds something else than this run" in failure for failure in failures)
    assert kept.items() <= grid_runs.contents(folder).items()
    assert states(wanted[:3], folder) == [State.BLOCKED, State.BLOCKED, State.DONE]


def test_a_run_that_does_not_end_as_it_should_is_named(wanted, folder, datasets):
    assert run(wanted[:1], folder, datasets, lambda arguments, log: 0) == [
        f"{folder / wanted[0].name}: it is to train"
    ]
    assert run(wanted[:1], folder, datasets, lambda arguments, log: -signal.SIGKILL) == [
        f"{folder / wanted[0].name}: SIGKILL ended its process (log: {folder / wanted[0].name}.log)"
    ]

    def silent(arguments, log):
        log.write_text("$ python -m ladnn_tf.train\n")
        return 3

    assert ": exit status 3 (log" in run(wanted[:1], folder, datasets, silent)[0]


def test_a_table_that_cannot_be_written_does_not_stop_the_trainings(wanted, folder, datasets, processes):
    def full():
        raise OSError("no room")

    assert run(wanted[3:5], folder, datasets, processes, full) == []
    assert states(wanted[3:5], folder) == [State.DONE, State.DONE]


def test_tables_are_written_from_what_is_there(wanted, folder, tmp_path):
    for each in wanted[4:7]:
        grid_runs.complete(folder / each.name, each.settings)
    markdown, written = experiments.write_tables(wanted, folder, tmp_path / "out", resamples=100)
    assert written == [tmp_path / "out" / "table2.csv", tmp_path / "out" / "table2.md"]
    assert written[1].read_text() == markdown
    table = pd.read_csv(written[0]).set_index(["metric", "backbone"])
    assert table.loc[("auc", "resnet18"), ["baseline_seeds", "ladnn_seeds", "difference_seeds"]].tolist() == [
        2,
        1,
        1,
    ]
    assert table.loc[("auc", "vgg16"), "test_images"] == 0
    assert "(1 of 2 seeds)" in markdown
    figures = json.loads((folder / wanted[5].name / "metrics.json").read_text())["test"]["covid"]
    assert table.loc[("auc", "resnet18"), "ladnn_mean"] == pytest.approx(100 * figures["auc"]["value"], abs=1e-5)
    assert table.loc[("f1", "resnet18"), "ladnn_mean"] == pytest.approx(
        100 * figures["at_0.5"]["f1"]["value"], abs=1e-5
    )


@pytest.fixture
def arguments(phantom_manifest, folder, tmp_path):
    recipe = tmp_path / "tiny.flags"
    recipe.write_text("--weights=none\n--image_size=32\n--epochs=3\n")
    return [
        "experiments",
        f"--recipe={recipe}",
        "--backbones=resnet18",
        f"--datasets=d0={phantom_manifest}",
        "--seeds=0,1",
        f"--runs={folder}",
        "--resamples=100",
    ]


def test_a_dry_run_changes_nothing(arguments, folder, capsys):
    assert experiments.main([*arguments, "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("to train") == 4
    assert "0 of 4 runs are done; the others need about" in printed
    assert not folder.exists()


def test_the_command_ends_with_the_table(arguments, folder, processes, monkeypatch, capsys):
    monkeypatch.setattr(experiments, "launch", processes)
    processes.broken = {"tiny_d0_resnet18_ladnn_seed1": "error: no room"}
    assert experiments.main(arguments) == 1
    captured = capsys.readouterr()
    assert "# Table 2: ResNet-18" in captured.out
    assert "(1 of 2 seeds)" in captured.out
    assert "ladnn_seed1: no room (log:" in captured.err
    processes.broken = {}
    assert experiments.main(arguments) == 0
    assert "of 2 seeds" not in capsys.readouterr().out
    assert len(pd.read_csv(folder / "table2_tiny" / "table2.csv")) == 4


def test_without_a_finished_run_an_older_table_stays(arguments, folder, processes, monkeypatch, capsys):
    monkeypatch.setattr(experiments, "launch", processes)
    processes.broken = {f"tiny_d0_resnet18_{task}_seed{seed}": "no" for task in TASKS for seed in (0, 1)}
    table = folder / "table2_tiny" / "table2.md"
    table.parent.mkdir(parents=True)
    table.write_text("of a grid with other seeds")
    assert experiments.main(arguments) == 1
    assert "No run of this grid is finished yet.\n\nwritten: nothing" in capsys.readouterr().out
    assert grid_runs.contents(table.parent) == {table: b"of a grid with other seeds"}


def test_a_termination_stops_the_grid_and_not_the_caller(arguments, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(experiments, "launch", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert experiments.main(arguments) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("flag", "status"), [("--seeds=0,x", 2), ("--nice=40", 2), ("--seed=0", 2), ("--flagfile=absent.flags", 2)]
)
def test_a_wrong_command_line_is_told(arguments, flag, status, capsys):
    with pytest.raises(SystemExit) as ended:
        experiments.main([*arguments, flag])
    assert ended.value.code == status
    assert "error: " in capsys.readouterr().err


def test_launch_keeps_the_output_and_the_status(tmp_path):
    log = tmp_path / "run.log"
    for number in (0, 3):
        code = f"import sys; print('to stdout'); print('error: {number}', file=sys.stderr); sys.exit({number})"
        assert experiments.launch([sys.executable, "-c", code], log) == number
    lines = log.read_text().splitlines()
    assert [line for line in lines if line.startswith("error")] == ["error: 0", "error: 3"]
    assert sum(line.startswith("$ ") for line in lines) == 2


@pytest.fixture
def interruptible():
    """Ctrl-C reaches this process, also where the tests were started in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_launch_leaves_no_process_behind_when_it_is_interrupted(interruptible, tmp_path):
    code = (
        "import os, signal; signal.alarm(60); print(os.getpid(), flush=True); "
        "os.kill(os.getppid(), signal.SIGINT); signal.pause()"
    )
    with pytest.raises(KeyboardInterrupt):
        experiments.launch([sys.executable, "-c", code], tmp_path / "run.log")
    child = int((tmp_path / "run.log").read_text().splitlines()[-1])
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@pytest.mark.parametrize("obeys", [True, False])
def test_launch_asks_a_process_to_end_and_then_kills_it(interruptible, tmp_path, monkeypatch, obeys):
    if not obeys:
        monkeypatch.setattr(experiments, "_GRACE_SECONDS", 0.01)
    code = (
        "import os, signal, sys; signal.alarm(60); "
        f"signal.signal(signal.SIGTERM, (lambda *_: sys.exit(print('asked'))) if {obeys} else signal.SIG_IGN); "
        "print(os.getpid(), flush=True); os.kill(os.getppid(), signal.SIGINT); signal.pause()"
    )
    with pytest.raises(KeyboardInterrupt):
        experiments.launch([sys.executable, "-c", code], tmp_path / "run.log")
    _, child, *said = (tmp_path / "run.log").read_text().splitlines()
    assert said == (["asked"] if obeys else [])
    with pytest.raises(ProcessLookupError):
        os.kill(int(child), 0)


def test_the_real_commands_are_called_as_they_want_it(tiny_settings, datasets, folder):
    """One run by the real `train` and `evaluate`, in this process."""
    recipe = dataclasses.replace(tiny_settings, epochs=1)
    (one,) = grid.wanted_runs(recipe, "tiny", datasets, ["tiny"], ["baseline"], [3])
    commands = {"ladnn_tf.train": train.main, "ladnn_tf.evaluate": evaluate.main}

    def here(arguments, log):
        assert arguments[:2] == [sys.executable, "-m"]
        return commands[arguments[2]](arguments[2:])

    assert run([one], folder, datasets, here) == []
    assert states([one], folder) == [State.DONE]
    assert grid_runs.looks(folder / one.name) == 1
    assert [path.name for path in folder.iterdir()] == [one.name]
    assert grid_cost.measured_rates(folder, datasets) == {}  # one epoch has no duration


@pytest.mark.parametrize("name", ["table2", "table2_resnet18_128"])
def test_the_flagfiles_are_read(name, phantom_manifest, folder, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(REPOSITORY)
    flagfile = f"--flagfile=configs/{name}.flags"
    assert (
        experiments.main(
            ["experiments", flagfile, f"--datasets=d0={phantom_manifest}", "--dry_run", f"--runs={folder}"]
        )
        == 0
    )
    assert f"0 of {42 if name == 'table2' else 6} runs" in capsys.readouterr().out


def test_the_recipe_of_the_small_grid_is_that_of_the_runs_by_hand(monkeypatch):
    """Their two flagfiles differ in the task alone."""
    monkeypatch.chdir(REPOSITORY)
    recipes = [grid.read_recipe(f"configs/resnet18_128_npz{task}.flags") for task in ("", "_baseline")]
    assert dataclasses.replace(recipes[0], task="baseline") == recipes[1]
    assert (
        "--recipe=configs/resnet18_128_npz.flags" in (REPOSITORY / "configs/table2_resnet18_128.flags").read_text()
    )
