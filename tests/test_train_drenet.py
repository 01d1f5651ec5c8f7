"""Training DRENet and its plain trunk on the tiny trunk and phantoms: the run, its recipe, going on."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY

from ladnn_tf import config, losses, origin, runs, train
from ladnn_tf.card import Window
from ladnn_tf.data.manifest import read_manifest, select_split
from ladnn_tf.fit import compile_model, learning_rate_schedule
from ladnn_tf.models.drenet import trained_outputs

COLUMNS = ["covid_logit", "covid_probability", "covid19_probability", "normal_probability"]


def settings_of(folder):
    return config.read_config(folder / "config.flags")


def write_manifest(path, source, change):
    """A copy of a manifest whose rows `change` has changed."""
    frame = pd.read_csv(source, dtype=str, keep_default_na=False)
    frame["image"] = [str(source.parent / image) for image in frame["image"]]
    change(frame).to_csv(path, index=False)
    return str(path)


@pytest.mark.parametrize("kind", ["drenet", "trunk"])
def test_the_card_says_what_it_is(kind, request):
    run = runs.load_run(request.getfixturevalue(f"tiny_{kind}_run"))
    assert run.card.task == kind
    assert run.card.classes == ("covid19", "normal")
    assert run.card.window == Window(-600.0, 1500.0)
    assert run.card.lungs == "whole"
    assert run.card.lesion_targets == ""
    assert sorted(run.model.output) == sorted(
        ["covid", "classes"] + ["image", "regions", "boxes", "scores"] * (kind == "drenet")
    )
    assert {layer.compute_dtype for layer in run.model.layers} == {"float32"}


@pytest.mark.parametrize("kind", ["drenet", "trunk"])
def test_predictions_have_a_column_for_each_class(kind, request):
    folder = request.getfixturevalue(f"tiny_{kind}_run")
    table = runs.read_predictions(folder, "validation")
    assert table.columns[-4:].tolist() == COLUMNS
    np.testing.assert_allclose(table["covid19_probability"] + table["normal_probability"], 1.0)
    # The logit of COVID-19 is that of its softmax; its probability is calibrated by the card's temperature.
    np.testing.assert_allclose(1 / (1 + np.exp(-table["covid_logit"])), table["covid19_probability"], rtol=1e-4)
    temperature = runs.load_run(folder).card.temperature
    np.testing.assert_allclose(
        1 / (1 + np.exp(-table["covid_logit"] / temperature)), table["covid_probability"], rtol=1e-4
    )
    assert set(table["diagnosis"]) == {"covid19", "normal"}


def test_history_has_every_loss_and_its_best_epoch_is_the_saved_one(tiny_drenet_run):
    history = pd.read_csv(tiny_drenet_run / "history.csv")
    assert {"classes_loss", "image_loss", "regions_loss", "val_loss", "val_covid_loss", "val_auc"} <= set(history)
    run = runs.load_run(tiny_drenet_run)
    table = runs.read_predictions(tiny_drenet_run, "validation")
    labels, logits = (table[[name]].to_numpy(np.float32) for name in ("covid", "covid_logit"))
    found = float(np.mean(losses.covid_loss(labels, logits)))
    assert found == pytest.approx(history["val_covid_loss"][run.card.best_epoch - 1], rel=1e-4)


def test_the_validation_loss_is_drenet_s_whole_loss(tiny_drenet_run):
    """Of one epoch, so that the saved weights are those that were validated."""
    run = runs.load_run(tiny_drenet_run)
    settings = run.config
    split = train._load_splits(read_manifest(settings.manifest), settings)["validation"]
    logits = runs.predict_logits(trained_outputs(run.model), split.images)
    expected = float(np.mean(losses.per_image_loss(split.labels, logits)))
    assert pd.read_csv(tiny_drenet_run / "history.csv")["val_loss"][0] == pytest.approx(expected, rel=1e-4)


def test_evaluating_a_split_repeats_the_predictions(tiny_drenet_run, diagnosed_manifest):
    run = runs.load_run(tiny_drenet_run)
    table = runs.predict_split(run, diagnosed_manifest, "validation")
    before = runs.read_predictions(tiny_drenet_run, "validation")
    np.testing.assert_allclose(table["covid_logit"], before["covid_logit"], atol=1e-4)


def test_the_steps_are_tenths_after_whole_epochs():
    """Seven steps an epoch: Keras takes the new rate one step after the boundaries 7 and 21."""
    settings = config.TrainConfig(optimizer="sgd", learning_rate=1.0, step_decay="1,3", epochs=5)
    schedule = learning_rate_schedule(settings, 7)
    found = [float(schedule(step)) for step in (0, 7, 8, 21, 22, 34)]
    np.testing.assert_allclose(found, [1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)


def test_sgd_s_first_step_is_the_gradient_times_the_rate():
    inputs = keras.Input((1,))
    model = keras.Model(inputs, {"classes": keras.layers.Dense(2, use_bias=False)(inputs)})
    model.layers[-1].kernel.assign(np.zeros((1, 2)))
    compile_model(model, config.TrainConfig(optimizer="sgd", momentum=0.5, weight_decay=0.0), 0.1)
    kernels = []
    for _ in range(2):
        model.train_on_batch(np.ones((1, 1), np.float32), {"classes": np.array([[1, 0]], np.float32)})
        kernels.append(np.array(model.layers[-1].kernel)[0, 0])
    # Of equal logits the gradient is -1/2; the second step adds half of the first one to -(1 - p).
    second = 1 / (1 + np.exp(2 * 0.05))
    np.testing.assert_allclose(kernels, [0.05, 0.05 + 0.5 * 0.05 + 0.1 * second], rtol=1e-4)


GO_ON = """
import shutil, sys
from pathlib import Path

import numpy as np
from tiny_backbone import TINY

from ladnn_tf import checkpoint, train, validation
from ladnn_tf.config import read_config
from ladnn_tf.models.backbones import BACKBONES

BACKBONES["tiny"] = TINY
whole, other = Path(sys.argv[1]), Path(sys.argv[2])

def write_checkpoint(path, model, progress, best_weights):
    checkpoint.write_checkpoint(path, model, progress, best_weights)
    kernels = {name: np.array(model.get_layer(name).kernel) for name in ("conv1", "proposals_1", "perceptron")}
    np.savez(whole.parent / f"epoch{progress.epoch}.npz", **kernels)
    if progress.epoch == 2:
        shutil.copytree(whole, other)

real, validation.write_checkpoint = validation.write_checkpoint, write_checkpoint
train.train(read_config(sys.argv[3]), whole)
validation.write_checkpoint = real
train.resume(other)
"""
"""Trains, keeping some weights of each epoch, and goes on from a copy of what there was after the second."""


def test_a_process_that_knows_runs_alone_can_load_it(tiny_drenet_run):
    code = "import sys; from ladnn_tf import runs; print(runs.load_run(sys.argv[1]).model.name)"
    command = [sys.executable, "-c", code, str(tiny_drenet_run)]
    result = subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPOSITORY)
    assert result.stdout == "drenet_tiny\n", result.stderr


def test_sgd_a_frozen_phase_and_going_on_bit_identical(tiny_drenet_run, tmp_path):
    """A frozen epoch and two others, by SGD with a step; in its own process, as determinism is for all of it."""
    settings = dataclasses.replace(
        settings_of(tiny_drenet_run),
        frozen_epochs=1,
        frozen_learning_rate=0.02,
        epochs=2,
        optimizer="sgd",
        learning_rate=0.01,
        step_decay="1",
        deterministic=True,
    )
    flagfile = tmp_path / "config.flags"
    flagfile.write_text(settings.to_flags())
    folders = [tmp_path / name / "run" for name in ("whole", "other")]
    arguments = [sys.executable, "-c", GO_ON, *map(str, (*folders, flagfile))]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    result = subprocess.run(arguments, check=False, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr

    first, second = map(runs.load_run, folders)
    for name in ("history.csv", "predictions_validation.csv", "config.flags"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes(), name
    assert first.card.weights_sha256 == second.card.weights_sha256
    rates = pd.read_csv(first.folder / "history.csv")["learning_rate"]
    np.testing.assert_allclose(rates, [0.02, 0.01, 0.001], rtol=1e-5)

    keras.utils.set_random_seed(settings.seed)
    begun = origin.initial_model(settings)
    epochs = [np.load(tmp_path / "whole" / f"epoch{number}.npz") for number in (1, 2)]
    np.testing.assert_array_equal(epochs[0]["conv1"], np.array(begun.get_layer("conv1").kernel))
    assert (epochs[1]["conv1"] != epochs[0]["conv1"]).any()
    for name in ("proposals_1", "perceptron"):
        assert (epochs[0][name] != np.array(begun.get_layer(name).kernel)).any(), name


def weights(model):
    return {v.path: np.array(v) for v in model.variables if "seed" not in v.path}


@pytest.mark.parametrize("kind", ["drenet", "trunk"])
def test_init_run_goes_on_with_all_weights(kind, request):
    folder = request.getfixturevalue(f"tiny_{kind}_run")
    settings = dataclasses.replace(settings_of(folder), init_run=str(folder), weights="imagenet")
    found, source = weights(origin.initial_model(settings)), weights(runs.load_run(folder).model)
    assert set(found) == set(source)
    for path, value in found.items():
        np.testing.assert_array_equal(value, source[path], err_msg=path)


def test_a_checkpoint_of_before_a_setting_was_added_is_resumed(tiny_run, tmp_path):
    settings = dataclasses.asdict(settings_of(tiny_run))
    same = {"data_sha256": "", "versions": {}, "devices": 1}
    older = {name: value for name, value in settings.items() if name not in ("model", "optimizer", "lungs")}
    origin.check(tmp_path, {"settings": older, **same}, {"settings": settings, **same})
    with pytest.raises(ValueError, match="--model=drenet, but the training began with ladnn"):
        origin.check(tmp_path, {"settings": older, **same}, {"settings": {**settings, "model": "drenet"}, **same})


def test_init_run_of_another_kind_is_refused(tiny_run, tiny_drenet_run, tiny_trunk_run):
    ladnn, drenet, trunk = (settings_of(folder) for folder in (tiny_run, tiny_drenet_run, tiny_trunk_run))
    tries = [
        (drenet, tiny_trunk_run, {}, r"is a trunk of covid19, normal, .* drenet of covid19, normal"),
        (trunk, tiny_drenet_run, {}, "is a drenet of covid19, normal, .* trunk of"),
        (ladnn, tiny_drenet_run, {}, "is a drenet of covid19, normal, .* ladnn of no classes"),
        (drenet, tiny_run, {}, "is a ladnn of no classes, .* drenet of"),
        (drenet, tiny_drenet_run, {"classes": "covid19,bacterial"}, "drenet of covid19, bacterial"),
        (drenet, tiny_drenet_run, {"regions": 2}, "the same .*regions"),
        (drenet, tiny_drenet_run, {"anchors": "16"}, "the same .*regions"),
        (drenet, tiny_drenet_run, {"anchors": "12,20"}, "the same .*regions"),
    ]
    for settings, folder, changes, message in tries:
        changed = dataclasses.replace(settings, init_run=str(folder), **changes)
        with pytest.raises(ValueError, match=message):
            origin.initial_model(changed)


def test_images_of_other_diagnoses_are_left_out(tiny_trunk_run, diagnosed_manifest, tmp_path):
    """A nodule and a viral pneumonia are in no class; neither training nor predictions see them."""

    def change(frame):
        for split in ("train", "validation"):
            healthy = frame.index[(frame["split"] == split) & (frame["covid"] == "0")]
            frame.loc[healthy[0], "diagnosis"] = "nodule"
            frame.loc[healthy[1], "diagnosis"] = "viral"
        return frame

    manifest = write_manifest(tmp_path / "m.csv", diagnosed_manifest, change)
    settings = dataclasses.replace(settings_of(tiny_trunk_run), manifest=manifest)
    everything = read_manifest(manifest)
    for split, found in train._load_splits(everything, settings).items():
        kept = select_split(everything, split)["diagnosis"].isin(["covid19", "normal"]).to_numpy()
        assert (~kept).sum() == 2
        assert found.frame["image"].tolist() == select_split(everything, split)["image"][kept].tolist()
        assert len(found.images) == len(found.labels["classes"]) == kept.sum()
    table = runs.predict_split(runs.load_run(tiny_trunk_run), manifest, "validation")
    assert table["image"].tolist() == found.frame["image"].tolist()


@pytest.mark.parametrize(
    ("label", "diagnosis", "message"),
    [
        ("1", "normal", "the diagnosis is normal, but covid is 1; mend one of them"),
        ("0", "covid19", "the diagnosis is covid19, but covid is 0; mend one of them"),
    ],
)
def test_a_contradiction_is_named_with_its_row(
    label, diagnosis, message, tiny_trunk_run, diagnosed_manifest, tmp_path
):
    def change(frame):
        row = frame.index[(frame["split"] == "train") & (frame["covid"] == label)][2]
        frame.loc[row, "diagnosis"] = diagnosis
        change.row = row + 2  # of the file, whose first row is the heading
        return frame

    manifest = write_manifest(tmp_path / "m.csv", diagnosed_manifest, change)
    settings = dataclasses.replace(settings_of(tiny_trunk_run), manifest=manifest)
    with pytest.raises(ValueError, match=message) as caught:
        train.train(settings, tmp_path / "run")
    assert f"m.csv, row {change.row}: " in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_missing_class_is_named(tiny_drenet_run, diagnosed_manifest, tmp_path):
    settings = dataclasses.replace(settings_of(tiny_drenet_run), classes="covid19,bacterial,normal")
    with pytest.raises(ValueError, match=r"diagnosed\.csv: the train split has no image with the diagnosis bact"):
        train.train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_run_s_name_says_the_model(tiny_drenet_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "train", lambda settings, folder, overwrite: Path(folder).mkdir(parents=True) or "")
    assert train.main(["train", f"--flagfile={tiny_drenet_run / 'config.flags'}"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("tiny_drenet_")
    assert f"run folder: runs/{folder.name}" in capsys.readouterr().out
