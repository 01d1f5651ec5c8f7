"""The whole training on the tiny trunk and phantoms: what a run folder holds, and the options of the recipe."""

import dataclasses
import json
import math
import shutil

import keras
import numpy as np
import pandas as pd
import pytest
from tiny_backbone import TINY_WITHOUT_DROPOUT

from ladnn_tf import losses, origin, runs, train
from ladnn_tf.config import read_config
from ladnn_tf.files import file_sha256
from ladnn_tf.models.backbones import BACKBONES
from ladnn_tf.models.ladnn import build_model, logits_model
from ladnn_tf.validation import Split, Validation

FILES = {"config.flags", "model.keras", "card.json", "history.csv", "predictions_validation.csv", "metrics.json"}


def test_a_run_folder_holds_what_the_design_says(tiny_run, tiny_settings):
    assert {path.name for path in tiny_run.iterdir()} == FILES | {"tensorboard"}
    assert any((tiny_run / "tensorboard").rglob("events*"))
    assert read_config(tiny_run / "config.flags") == tiny_settings
    card = json.loads((tiny_run / "card.json").read_text())
    assert card["labels"] == ["covid", "GGO", "Csld", "CrPa", "AirBr", "InSepThi"]
    assert card["manifest"]["sha256"] == file_sha256(tiny_settings.manifest)
    assert card["threshold_rule"] == "the highest with a sensitivity of at least 0.95 on validation"
    assert "Not a medical device" in card["notice"]
    history = pd.read_csv(tiny_run / "history.csv")
    assert len(history) == 3
    assert history["val_covid_loss"].idxmin() + 1 == card["best_epoch"]


def test_the_saved_model_is_the_best_epoch_and_the_card_s_threshold_reaches_its_target(tiny_run):
    run = runs.load_run(tiny_run)
    table = runs.read_predictions(tiny_run, "validation")
    history = pd.read_csv(tiny_run / "history.csv")
    labels = {"covid": table[["covid"]].to_numpy(np.float32)}
    logits = {"covid": table[["covid_logit"]].to_numpy(np.float32)}
    loss = float(np.mean(losses.per_image_loss(labels, logits)))
    assert loss == pytest.approx(history["val_covid_loss"].min(), rel=1e-4)
    called = table["covid_probability"] >= run.card.threshold
    assert called[table["covid"] == 1].mean() >= 0.95


def test_training_lowers_the_loss(tiny_run):
    loss = pd.read_csv(tiny_run / "history.csv")["loss"]
    assert loss.iloc[-1] < loss.iloc[0]


def test_the_validation_loss_counts_images_not_batches(tiny_settings, tiny_backbone, tmp_path):
    """33 images in batches of 32: the mean of batch means would count the last image as much as the others."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (33, 32, 32, 3)).astype(np.uint8)
    labels = {"covid": np.zeros((33, 1), np.float32), "lesions": np.full((33, 5), -1, np.float32)}
    labels["covid"][-1] = 1
    validation = Validation(Split(pd.DataFrame(), images, labels), tiny_settings, tmp_path, began={})
    model = logits_model(build_model(tiny_backbone, image_size=32))
    model.get_layer("covid_logits").bias.assign([3.0])
    model.get_layer("covid_logits").kernel.assign(np.zeros((16, 1)))
    model.compile(optimizer="adam")
    model.stop_training = False
    validation.set_model(model)
    logs = {}
    validation.on_epoch_end(0, logs)
    expected = (32 * math.log(1 + math.exp(3)) + math.log(1 + math.exp(-3))) / 33
    assert logs["val_covid_loss"] == pytest.approx(expected, rel=1e-5)
    assert logs["val_loss"] == pytest.approx(5 * expected / 6, rel=1e-5)
    assert logs["val_auc"] == 0.5


def test_the_same_seed_gives_the_same_run(tiny_run, tiny_settings, tmp_path):
    train.train(tiny_settings, tmp_path / "again")
    first, second = (runs.read_predictions(folder, "validation") for folder in (tiny_run, tmp_path / "again"))
    np.testing.assert_allclose(second["covid_logit"], first["covid_logit"], atol=1e-4)


def test_a_run_repeats_itself_from_its_own_flagfile(tiny_run, tmp_path, capsys):
    arguments = ["train", f"--flagfile={tiny_run / 'config.flags'}", "--epochs=1", f"--run={tmp_path / 'r'}"]
    assert train.main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"run folder: {tmp_path / 'r'}" in printed
    assert "COVID-19: " in printed


def test_every_option_of_the_recipe_at_once(tiny_settings, tmp_path):
    settings = dataclasses.replace(
        tiny_settings,
        epochs=4,
        frozen_epochs=1,
        warmup_epochs=1.0,
        cosine_decay=True,
        ema_decay=0.5,
        early_stopping_patience=1,
        decoupled_decay=True,
        select_by="auc",
        precision="mixed_float16",
        lesion_targets="all",
        shear_degrees=5.0,
        brightness=0.1,
        contrast=0.1,
        deterministic=False,
        cache=str(tmp_path / "cache"),
    )
    folder = tmp_path / "run"
    train.train(settings, folder)
    history = pd.read_csv(folder / "history.csv")
    assert history["epoch"].tolist() == list(range(1, len(history) + 1))
    assert history["val_auc"].idxmax() + 1 == runs.load_run(folder).card.best_epoch
    assert history["learning_rate"].iloc[0] == pytest.approx(1e-3)
    model = runs.load_run(folder).model
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


class FrozenTrunk(keras.callbacks.Callback):
    """Remembers the trunk's first kernel after each epoch."""

    def __init__(self):
        super().__init__()
        self.kernels = []

    def on_epoch_end(self, epoch, logs=None):
        self.kernels.append(np.array(self.model.get_layer("conv1").kernel))


def test_frozen_epochs_move_the_heads_alone(tiny_settings, tmp_path, monkeypatch):
    seen = FrozenTrunk()
    monkeypatch.setattr(keras.callbacks, "TerminateOnNaN", lambda: seen)
    settings = dataclasses.replace(tiny_settings, frozen_epochs=2, epochs=1)
    keras.utils.set_random_seed(settings.seed)
    start = np.array(build_model("tiny", image_size=32).get_layer("conv1").kernel)
    train.train(settings, tmp_path / "run")
    assert (seen.kernels[0] == start).all()
    assert (seen.kernels[1] == start).all()
    assert (seen.kernels[2] != start).any()


def test_the_moving_average_is_what_is_validated_and_kept(tiny_settings, tmp_path):
    """Keras starts the average after the first step, which in Adam moves a weight by the learning rate; an
    average that hardly moves then stays there."""
    keras.utils.set_random_seed(tiny_settings.seed)
    start = np.array(build_model("tiny", image_size=32).get_layer("conv1").kernel)
    train.train(dataclasses.replace(tiny_settings, ema_decay=0.9999), tmp_path / "run")
    kernel = np.array(runs.load_run(tmp_path / "run").model.get_layer("conv1").kernel)
    assert np.abs(kernel - start).mean() == pytest.approx(tiny_settings.learning_rate, rel=0.02)


def test_nothing_is_overwritten_unasked(tiny_run, tiny_settings, tmp_path):
    with pytest.raises(ValueError, match="exists; give another --run, or --overwrite"):
        train.train(tiny_settings, tiny_run)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not a run"):
        train.train(tiny_settings, tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_overwriting_waits_until_the_new_run_can_begin(tiny_run, tiny_settings, tmp_path):
    old = shutil.copytree(tiny_run, tmp_path / "old")
    for change in ({"manifest": "nowhere.csv"}, {"backbone": "resnet7"}, {"weights": "nowhere.npz"}):
        with pytest.raises((ValueError, OSError)):
            train.train(dataclasses.replace(tiny_settings, **change), old, overwrite=True)
        assert runs.load_run(old).card.name == "tiny"
    train.train(dataclasses.replace(tiny_settings, epochs=1), old, overwrite=True)
    assert runs.load_run(old).config.epochs == 1


def test_a_bad_image_stops_it_before_anything_is_written(tiny_settings, phantoms, phantom_manifest, tmp_path):
    frame = pd.read_csv(phantom_manifest, dtype=str, keep_default_na=False)
    frame["image"] = [str(phantom_manifest.parent / image) for image in frame["image"]]
    (tmp_path / "bad.png").write_bytes(b"")
    row = frame.index[frame["split"] == "validation"][3]
    frame.loc[row, "image"] = str(tmp_path / "bad.png")
    frame.to_csv(tmp_path / "m.csv", index=False)
    settings = dataclasses.replace(tiny_settings, manifest=str(tmp_path / "m.csv"))
    with pytest.raises(ValueError, match=rf"row {row + 2}: .*bad\.png: the file is empty"):
        train.train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_class_is_refused(tiny_settings, phantom_manifest, tmp_path):
    frame = pd.read_csv(phantom_manifest, dtype=str, keep_default_na=False)
    frame["image"] = [str(phantom_manifest.parent / image) for image in frame["image"]]
    frame[(frame["covid"] == "1") | (frame["split"] != "validation")].to_csv(tmp_path / "m.csv", index=False)
    settings = dataclasses.replace(tiny_settings, manifest=str(tmp_path / "m.csv"))
    with pytest.raises(ValueError, match="validation split has one class only"):
        train.train(settings, tmp_path / "run")


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_divergence_is_an_error_not_a_model(tiny_settings, tmp_path):
    settings = dataclasses.replace(tiny_settings, learning_rate=1e30, epochs=1)
    with pytest.raises(ValueError, match="no epoch had a finite validation score"):
        train.train(settings, tmp_path / "run")
    assert not (tmp_path / "run" / "model.keras").exists()


def test_a_wrong_flag_is_a_clear_error(capsys):
    with pytest.raises(SystemExit) as caught:
        train.main(["train", "--learning_rat=1"])
    assert caught.value.code == 2
    assert "learning_rate" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train.main(["train", "--flagfile=configs/nowhere.flags"])
    assert "root of the checkout" in capsys.readouterr().err


def weights(model):
    return {v.path: np.array(v) for v in model.variables if "seed" not in v.path}


def test_init_run_starts_from_all_weights_of_another_run(tiny_run, tiny_settings):
    source = weights(runs.load_run(tiny_run).model)
    settings = dataclasses.replace(tiny_settings, init_run=str(tiny_run), weights="imagenet", image_size=48)
    found = weights(origin.initial_model(settings))
    assert set(found) == set(source)
    for path, value in found.items():
        np.testing.assert_array_equal(value, source[path], err_msg=path)


def test_init_run_of_the_baseline_leaves_the_lesion_head_as_it_begins(tiny_baseline_run, tiny_settings):
    source = weights(runs.load_run(tiny_baseline_run).model)
    found = weights(origin.initial_model(dataclasses.replace(tiny_settings, init_run=str(tiny_baseline_run))))
    assert set(found) - set(source) == {"lesions_logits/kernel", "lesions_logits/bias"}
    for path, value in source.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)
    assert not found["lesions_logits/kernel"].any()
    assert (found["lesions_logits/bias"] == -2).all()


def test_init_run_is_in_the_card_and_must_be_of_the_same_backbone(tiny_run, tiny_settings, tmp_path):
    settings = dataclasses.replace(tiny_settings, init_run=str(tiny_run), epochs=1)
    train.train(settings, tmp_path / "site")
    model_sha256 = runs.load_run(tiny_run).card.model_sha256
    assert runs.load_run(tmp_path / "site").card.weights == f"run tiny (SHA-256 {model_sha256})"
    with pytest.raises(ValueError, match="normalisation"):
        train.train(dataclasses.replace(settings, normalisation="caffe"), tmp_path / "other")
    with pytest.raises(ValueError, match=r"is a tiny, --backbone=vgg16 is asked for"):
        train.train(dataclasses.replace(settings, backbone="vgg16"), tmp_path / "other")


def test_xla_trains_the_same(tiny_settings, tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES, "tiny", TINY_WITHOUT_DROPOUT)  # XLA draws other random numbers
    losses = []
    for xla in (True, False):
        folder = tmp_path / str(xla)
        train.train(dataclasses.replace(tiny_settings, xla=xla, epochs=1), folder)
        losses.append(pd.read_csv(folder / "history.csv")["val_loss"][0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
