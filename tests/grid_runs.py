"""Run folders as `train` and `evaluate` leave them, without a network: its file is a few bytes."""

import json
import types
from pathlib import Path

import numpy as np

from ladnn_tf import checkpoint, report, runs
from ladnn_tf.card import Card, write_card
from ladnn_tf.config import read_config
from ladnn_tf.data.manifest import read_manifest, select_split
from ladnn_tf.files import file_sha256


def weights_description(settings):
    path = Path(settings.weights)
    return f"{path.name} (SHA-256 {file_sha256(path)})" if path.is_file() else settings.weights


def begin(folder, settings, epoch=None):
    """A run that was killed: in its first epoch, or after some."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.flags").write_text(settings.to_flags())
    (folder / "tensorboard").mkdir(exist_ok=True)
    if epoch:
        origin = {"manifest_sha256": file_sha256(settings.manifest), "weights": weights_description(settings)}
        progress = checkpoint.Progress(epoch, False, [{"epoch": 1.0}] * epoch, 1, origin)
        model = types.SimpleNamespace(variables=[], optimizer=types.SimpleNamespace(variables=[]))
        checkpoint.write_checkpoint(folder / checkpoint.FILE, model, progress, [])


def finish(folder, settings):
    """A run that was trained."""
    begin(folder, settings)
    (folder / "model.keras").write_bytes(settings.to_flags().encode())
    card = Card(
        name=folder.name,
        task=settings.task,
        backbone=settings.backbone,
        weights=weights_description(settings),
        normalisation={"mean": [0.0] * 3, "std": [1.0] * 3},
        image_size=settings.image_size,
        temperature=2.0,
        threshold=0.4,
        threshold_rule="by hand",
        manifest={"file": Path(settings.manifest).name, "sha256": file_sha256(settings.manifest)},
        model_sha256=file_sha256(folder / "model.keras"),
        weights_sha256="0" * 64,
        best_epoch=1,
        metrics={},
        versions={},
        revision="",
    )
    write_card(card, folder / "card.json")
    (folder / checkpoint.FILE).unlink(missing_ok=True)


def evaluate(folder):
    """A trained run's test split with random predictions, better for LA-DNN."""
    run = runs.load_run(folder)
    runs.count_look(run, "test")
    frame = select_split(read_manifest(run.config.manifest), "test")
    generator = np.random.default_rng(run.config.seed + 100 * (run.config.task == "ladnn"))
    shift = 3.0 if run.config.task == "ladnn" else 1.0
    logits = (shift * (frame["covid"].to_numpy() - 0.5) + generator.normal(size=len(frame)))[:, None]
    table = runs.predictions_table(frame, {"covid": logits}, run.card.temperature)
    runs.write_predictions(folder, "test", table)
    figures = report.evaluate_predictions(table, threshold=0.4, temperature=2.0, threshold_rule="", resamples=1)
    runs.write_metrics(folder, "test", figures, run.card.model_sha256)


def complete(folder, settings):
    finish(folder, settings)
    evaluate(folder)


def looks(folder):
    return json.loads((folder / "metrics.json").read_text())["looks"]["test"]


def contents(folder):
    """Every file with its bytes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Processes:
    """In place of `experiments.launch`: does at once what the commands would do.

    Attributes:
        calls: `train` or `evaluate` and the run's folder, in order.
        broken: names of folders whose training fails.
    """

    def __init__(self):
        self.calls = []
        self.broken = {}

    def __call__(self, arguments, log):
        assert arguments[1] == "-m"
        command, folder = arguments[2].removeprefix("ladnn_tf."), Path(arguments[3].removeprefix("--run="))
        self.calls.append((command, folder.name))
        if folder.name in self.broken:
            log.write_text(f"$ an earlier try\nerror: forgotten\n$ python\nTraining\n{self.broken[folder.name]}\n")
            return 1
        if command == "train":
            assert arguments[4:] == ["--resume"]
            with runs.training_lock(folder):
                finish(folder, read_config(folder / "config.flags"))
        else:
            assert "--split=test" in arguments
            evaluate(folder)
        return 0
