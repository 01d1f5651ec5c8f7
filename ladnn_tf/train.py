"""Trains a model: `python -m ladnn_tf.train --flagfile=configs/covid_ct_densenet169.flags`.

`--model` and `--task` say which: LA-DNN, its baseline, DRENet or a plain trunk.

The recipe of `configs/base.flags` is that of the authors' public code; what the paper leaves open is in
BUILD_NOTES.md. The test split is not read here.
"""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import pandas as pd
import tensorflow as tf
from absl import flags

from ladnn_tf import calibration, checkpoint, command, config, metrics, origin, person, report, report_text, runs
from ladnn_tf.card import Card, Window, write_card
from ladnn_tf.data import lung_images, pipeline
from ladnn_tf.data.manifest import read_manifest, select_split
from ladnn_tf.devices import synchronise_batch_norm, training_strategy
from ladnn_tf.files import file_sha256, write_atomically
from ladnn_tf.fit import fit
from ladnn_tf.fused_batch_norm import with_fused_batch_norm
from ladnn_tf.labels import COVID
from ladnn_tf.models.drenet import trained_outputs
from ladnn_tf.models.ladnn import float32_copy, logits_model
from ladnn_tf.validation import Split, Validation

USAGE = "python -m ladnn_tf.train --flagfile=configs/covid_ct_densenet169.flags [--run=runs/NAME] [--resume]"


def _load_splits(manifest: pd.DataFrame, settings: config.TrainConfig) -> dict[str, Split]:
    frames = {
        name: pipeline.select_classes(select_split(manifest, name), settings.class_names)
        for name in ("train", "validation")
    }
    for name, frame in frames.items():
        _check_classes(frame, settings, name)
    if settings.verify_images:
        pipeline.verify_images(pd.concat(frames.values()))
    splits = {}
    for name, frame in frames.items():
        # The background is filled in training only (Song et al. 2021, Figure 1).
        shown = "extracted" if settings.lungs == "filled" and name != "train" else settings.lungs
        options = {"cache": settings.cache, "seed": settings.seed}
        kept, images = lung_images.load_split(frame, settings.image_size, shown, **options)
        _check_classes(kept, settings, name)  # slices without lungs are gone
        splits[name] = Split(kept, images, pipeline.targets(kept, settings.lesion_targets, settings.class_names))
    return splits


def _check_classes(frame: pd.DataFrame, settings: config.TrainConfig, split: str) -> None:
    if frame[COVID].nunique() < 2:
        raise ValueError(f"{settings.manifest}: the {split} split has one class only; make another split")
    missing = sorted(set(settings.class_names) - set(pipeline.diagnoses(frame)))
    if missing:
        raise ValueError(
            f"{settings.manifest}: the {split} split has no image with the diagnosis {missing[0]}; fill the "
            "column `diagnosis`, make another split, or give other --classes"
        )


def _finish(
    model: keras.Model,
    split: Split,
    settings: config.TrainConfig,
    began: dict[str, Any],
    best_epoch: int,
    folder: Path,
) -> str:
    """Writes model, validation predictions, metrics and card; returns the evaluation as text."""
    with tempfile.TemporaryDirectory() as temporary:
        model.save(Path(temporary) / "model.keras")
        write_atomically(folder / "model.keras", (Path(temporary) / "model.keras").read_bytes())
    (folder / "metrics.json").unlink(missing_ok=True)  # of a first try to finish the same run

    logits = runs.predict_logits(logits_model(model), split.images)
    labels = split.frame[COVID].to_numpy()
    temperature = calibration.fit_temperature(labels, logits[COVID][:, 0])
    table = runs.predictions_table(split.frame, logits, temperature, settings.class_names)
    threshold = metrics.choose_threshold(labels, table[f"{COVID}_probability"], settings.target_sensitivity)
    rule = runs.threshold_rule(settings.target_sensitivity)
    of_persons = person.choose_rule(
        split.frame["patient"], labels, table[f"{COVID}_probability"], settings.target_sensitivity
    )
    evaluation = report.evaluate_predictions(
        table, threshold=threshold, temperature=temperature, threshold_rule=rule, person=of_persons
    )
    runs.write_predictions(folder, "validation", table)
    model_sha256 = file_sha256(folder / "model.keras")
    runs.write_metrics(folder, "validation", evaluation, model_sha256)
    card = Card(
        name=folder.name,
        task=settings.kind,
        backbone=settings.backbone,
        weights=began["weights"],
        normalisation=began["normalisation"],
        image_size=settings.image_size,
        temperature=temperature,
        threshold=threshold,
        threshold_rule=rule,
        manifest={"file": Path(settings.manifest).name, "sha256": began["manifest_sha256"]},
        model_sha256=model_sha256,
        weights_sha256=origin.arrays_sha256(model.get_weights()),
        best_epoch=best_epoch,
        metrics={"validation": runs.card_metrics(evaluation)},
        versions=runs.versions(),
        revision=runs.git_revision(),
        lesion_targets=settings.lesion_targets if settings.kind == "ladnn" else "",
        sources=tuple(began.get("sources", ())),  # none in a checkpoint of before cards had them
        score_bins=calibration.score_bins(labels, table[f"{COVID}_probability"]),
        classes=settings.class_names,
        window=Window(settings.window_level, settings.window_width),
        lungs=settings.shown_lungs,
        person=of_persons,
    )
    write_card(card, folder / "card.json")
    return report_text.format_report(evaluation)


def train(
    settings: config.TrainConfig,
    folder: str | Path,
    *,
    overwrite: bool = False,
    devices: Sequence[str] | None = None,
) -> str:
    """Trains one model and writes its run folder.

    Args:
        settings: what to train.
        folder: of the run; it must be empty or not exist.
        overwrite: whether a run that lies there is replaced.
        devices: as in `training_strategy`.

    Returns:
        The evaluation on validation, as text.

    Raises:
        ValueError: if manifest, images, weights or settings do not fit; the run folder is as it was then.
            Also if the training diverged from its first epoch on.
        OSError: if the run folder cannot be written; the last state that could be stored is kept.
    """
    folder = runs.check_new_folder(folder, overwrite=overwrite)
    if folder.exists():
        origin.check_outside(folder, settings)
    return _train(settings, folder, None, devices, new=True)


def resume(folder: str | Path, *, devices: Sequence[str] | None = None) -> str:
    """Goes on with a training that was interrupted, from the end of its last whole epoch.

    With `deterministic`, on the same machine and versions, weights, predictions and history end as those of a
    training that was never interrupted, to the bit. A training that was interrupted in its first epoch begins
    anew.

    Args:
        folder: of the run.
        devices: as in `training_strategy`.

    Returns:
        The evaluation on validation, as text.

    Raises:
        ValueError: if there is no unfinished run, its state cannot be read, another process trains it, or data or
            settings changed.
        OSError: if the run folder cannot be written; the last state that could be stored is kept.
    """
    folder = Path(folder)
    settings = runs.unfinished_config(folder)
    with runs.training_lock(folder):
        for part in folder.glob(f".{checkpoint.FILE}.*"):  # left by a kill in the middle of a write
            part.unlink()
        saved = None
        if (folder / checkpoint.FILE).is_file():
            saved = checkpoint.read_checkpoint(folder / checkpoint.FILE)
        elif (folder / "history.csv").is_file():
            raise ValueError(
                f"{folder} has finished epochs, but no {checkpoint.FILE} to go on from; bring it here, or start "
                "anew by --overwrite"
            )
        return _train(settings, folder, saved, devices, new=False)


def _train(
    settings: config.TrainConfig,
    folder: Path,
    saved: checkpoint.Checkpoint | None,
    devices: Sequence[str] | None,
    *,
    new: bool,
) -> str:
    manifest = read_manifest(settings.manifest)
    keras.utils.set_random_seed(settings.seed)
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
    strategy = training_strategy(devices)
    with strategy.scope():
        model = origin.initial_model(settings, saved)
        synchronise_batch_norm(model, strategy.num_replicas_in_sync > 1)
        trained = with_fused_batch_norm(trained_outputs(model))
    splits = _load_splits(manifest, settings)
    began = origin.describe(settings, manifest, splits, model, strategy.num_replicas_in_sync)
    if saved:
        origin.check(folder, saved.progress.origin, began)
        began = saved.progress.origin
    with contextlib.ExitStack() as stack:
        if new:
            runs.create_folder(folder, settings)
            stack.enter_context(runs.training_lock(folder))
        return _fit_and_finish(model, trained, splits, settings, folder, began, saved)


def _fit_and_finish(
    model: keras.Model,
    trained: keras.Model,
    splits: dict[str, Split],
    settings: config.TrainConfig,
    folder: Path,
    began: dict[str, Any],
    saved: checkpoint.Checkpoint | None,
) -> str:
    """Trains `trained`, which shares its weights with `model`, and writes what the run keeps."""
    validation = Validation(splits["validation"], settings, folder, began, saved)
    fit(trained, splits["train"], settings, validation, folder, saved)
    if not validation.best_epoch:
        raise ValueError(
            "no epoch had a finite validation score; lower --learning_rate, or take --precision=float32"
        )
    trained.set_weights(validation.best_weights)
    # However it was trained, what is kept computes in float32 on one device.
    synchronise_batch_norm(model, False)
    try:
        text = _finish(float32_copy(model), splits["validation"], settings, began, validation.best_epoch, folder)
    except OSError as error:
        raise OSError(error.errno, runs.not_stored("the trained model", folder, error), error.filename) from error
    (folder / checkpoint.FILE).unlink()
    return text


def _check_same_settings(flag_values: flags.FlagValues, folder: str) -> None:
    """Compares the flags that were given with those the run began with."""
    began = runs.unfinished_config(Path(folder))
    for field in dataclasses.fields(config.TrainConfig):
        flag = flag_values[field.name]
        if flag.present and flag.value != getattr(began, field.name):
            raise ValueError(
                f"{folder} began with --{field.name}={getattr(began, field.name)} and is resumed as it began; for "
                f"--{field.name}={flag.value} start another run"
            )


def main(argv: list[str]) -> int:
    """The command."""
    flag_values = flags.FlagValues()
    fv = {"flag_values": flag_values}
    config.define_flags(flag_values)
    flags.DEFINE_string("run", None, "folder to make (default: runs/<backbone>_<task or model>_<time>)", **fv)
    flags.DEFINE_boolean("overwrite", False, "replace a run that lies in that folder", **fv)
    flags.DEFINE_boolean("resume", False, "go on with the interrupted training of --run, with its settings", **fv)
    command.parse(flag_values, argv, USAGE)
    started = time.monotonic()
    if flag_values.resume:
        folder = flag_values.run
        if not folder or flag_values.overwrite:
            command.usage_error("--resume needs --run=FOLDER and excludes --overwrite", USAGE)
        _check_same_settings(flag_values, folder)
        text = resume(folder)
    else:
        settings = config.from_flags(flag_values)
        folder = flag_values.run or f"runs/{settings.backbone}_{settings.kind}_{time.strftime('%Y%m%d-%H%M%S')}"
        text = train(settings, folder, overwrite=flag_values.overwrite)
    print(text)
    print(f"\ntrained in {(time.monotonic() - started) / 60:.1f} minutes; the figures above are of validation")
    print(f"run folder: {folder}")
    for path in sorted(Path(folder).iterdir()):
        print(f"  {path.name}")
    print(f"next: python -m ladnn_tf.evaluate --run={folder} --split=test")
    return 0


if __name__ == "__main__":
    command.run(main)
