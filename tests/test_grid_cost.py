"""What a grid costs, and how it is told."""

from pathlib import Path

import grid_runs
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from ladnn_tf import grid_cost, grid_text
from ladnn_tf.config import TrainConfig
from ladnn_tf.grid import Dataset, State, Status, Wanted

DATASET = Dataset("d0", "data.csv", "0" * 64, {"train": 400, "validation": 400, "test": 240})


def status(state, *, epoch=0, **settings):
    settings = TrainConfig(**{"manifest": "data.csv", "backbone": "vgg16", "epochs": 10} | settings)
    return Status(Wanted("run", DATASET, settings, ""), state, Path("runs/run"), epoch)


def train(folder, seconds, *, begun=1000.0, **settings):
    """A run whose epochs end at these seconds after its beginning."""
    settings = TrainConfig(**{"manifest": "data.csv", "backbone": "vgg16"} | settings)
    grid_runs.begin(folder, settings)
    events = folder / "tensorboard" / "train" / f"events.out.tfevents.{begun:.0f}"
    events.parent.mkdir(parents=True, exist_ok=True)
    with events.open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=begun, file_version="brain.Event:2").SerializeToString())
        for epoch, after in enumerate(seconds):
            for tag in ("epoch_covid_loss", "epoch_loss"):
                summary = Summary(value=[Summary.Value(tag=tag, simple_value=1.0)])
                writer.write(Event(wall_time=begun + after, step=epoch, summary=summary).SerializeToString())
        writer.flush()


def test_epochs_are_timed_by_the_events(tmp_path):
    train(tmp_path, [30, 40, 50])
    train(tmp_path, [20, 30], begun=9000.0)
    assert grid_cost.epoch_times(tmp_path) == [1030, 1040, 1050, 9020, 9030]
    with next(tmp_path.glob("tensorboard/train/events.*1000")).open("r+b") as file:
        file.truncate(file.seek(0, 2) - 5)
    assert grid_cost.epoch_times(tmp_path) == [1030, 1040, 9020, 9030]
    assert grid_cost.epoch_times(tmp_path / "absent") == []


def test_the_last_run_of_a_kind_counts_without_its_pauses(tmp_path):
    """Ten seconds for 400 images and 400 predictions at a quarter: 10000 / 500 = 20 ms."""
    train(tmp_path / "a", [30, 130, 230])
    train(tmp_path / "b", [30, 40, 50, 9000, 9010], begun=2000.0)
    train(tmp_path / "small", [30, 31], image_size=64)
    train(tmp_path / "half", [30, 35], precision="mixed_bfloat16")
    train(tmp_path / "one epoch", [30], backbone="resnet18")
    train(tmp_path / "other data", [30, 40], backbone="resnet50", manifest="other.csv")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.flags").write_text("--seed=0\n")
    assert grid_cost.measured_rates(tmp_path, [DATASET]) == {
        ("vgg16", 224, "float32"): pytest.approx(20),
        ("vgg16", 64, "float32"): pytest.approx(2),
        ("vgg16", 224, "mixed_bfloat16"): pytest.approx(10),
    }


def test_minutes_by_hand():
    rates = {("vgg16", 224, "float32"): 60.0}
    # An epoch is 400 + 400 / 4 images of 60 ms: half a minute. The test: 240 / 4 images, 0.06 minutes, and half.
    assert grid_cost.minutes(status(State.EVALUATE), rates) == pytest.approx(0.56)
    assert grid_cost.minutes(status(State.MISSING), rates) == pytest.approx(1 + 10 * 0.5 + 0.56)
    assert grid_cost.minutes(status(State.UNFINISHED, epoch=8), rates) == pytest.approx(1 + 2 * 0.5 + 0.56)
    assert grid_cost.minutes(status(State.MISSING, frozen_epochs=2), rates) == pytest.approx(1 + 12 * 0.5 + 0.56)
    for state in (State.DONE, State.BUSY, State.BLOCKED):
        assert grid_cost.minutes(status(state), rates) == 0


def test_kinds_that_never_ran_are_told_roughly():
    """66 ms for ResNet-18 at 224 pixels; a quarter of that at 112; twice if VGG-16 took twice its 495."""

    def per_epoch(rates, **settings):
        settings = {"backbone": "resnet18"} | settings
        ten, twenty = (
            grid_cost.minutes(status(State.MISSING, epochs=epochs, **settings), rates) for epochs in (10, 20)
        )
        return (twenty - ten) / 10

    assert per_epoch({}) == pytest.approx(500 * 66 / 60_000)
    assert per_epoch({}, image_size=112) == pytest.approx(500 * 66 / 4 / 60_000)
    assert per_epoch({("vgg16", 224, "float32"): 990.0}) == pytest.approx(500 * 132 / 60_000)
    assert grid_cost.minutes(status(State.MISSING, backbone="unheard"), {}) is None


def test_the_plan_says_states_costs_and_the_total():
    rates = {("vgg16", 224, "float32"): 60.0}
    statuses = [
        status(State.DONE),
        status(State.UNFINISHED, epoch=8),
        status(State.MISSING, epochs=400),
        status(State.MISSING, backbone="resnet18"),
        status(State.MISSING, backbone="unheard"),
        Status(status(State.BLOCKED).wanted, State.BLOCKED, Path("runs/run"), reason="it is taken"),
    ]
    text = grid_text.format_plan(statuses, ["passed over: runs/old"], rates)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    # ResNet-18: 66 x 60 / 495 = 8 ms.
    assert lines == [
        "run state minutes",
        "runs/run done 0.0",
        "runs/run unfinished, 8 of 10 epochs done 2.6",
        "runs/run to train 201.6",
        "runs/run to train 2.2 (rough)",
        "runs/run to train unknown",
        "runs/run blocked 0.0",
        "",
        "1 of 6 runs are done; the others need about 3.4 hours, and 1 runs whose time is unknown",
        "blocked: it is taken",
        "passed over: runs/old",
    ]
    assert grid_text.format_plan(statuses[:1], [], rates).endswith("1 of 1 runs are done")
