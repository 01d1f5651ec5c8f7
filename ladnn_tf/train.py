"""Trains LA-DNN or its baseline: `python -m ladnn_tf.train --flagfile=configs/covid_ct_densenet169.flags`.

The recipe of `configs/base.flags` is that of the authors' public code; what the paper leaves open is in
BUILD_NOTES.md. The test split is not read here.
"""

import dataclasses
import math
import os
import time
from pathlib import Path

import keras
import pandas as pd
import tensorflow as tf
from absl import flags

from ladnn_tf import calibration, command, config, losses, metrics, report, report_text, runs
from ladnn_tf.card import Card, write_card
from ladnn_tf.data import pipeline
from ladnn_tf.data.manifest import read_manifest, select_split
from ladnn_tf.files import file_sha256
from ladnn_tf.labels import COVID
from ladnn_tf.models.ladnn import build_model, float32_copy, logits_model, trunk_layers
from ladnn_tf.models.weights import normalisation_of
from ladnn_tf.validation import Split, Validation

USAGE = "python -m ladnn_tf.train --flagfile=configs/covid_ct_densenet169.flags [--run=runs/NAME]"


def _load_splits(manifest: pd.DataFrame, settings: config.TrainConfig) -> dict[str, Split]:
    frames = {name: select_split(manifest, name) for name in ("train", "validation")}
    for name, frame in frames.items():
        if frame[COVID].nunique() < 2:
            raise ValueError(f"{settings.manifest}: the {name} split has one class only; make another split")
    if settings.verify_images:
        pipeline.verify_images(pd.concat(frames.values()))
    return {
        name: Split(
            frame,
            pipeline.load_images(frame, settings.image_size, settings.cache),
            pipeline.targets(frame, settings.lesion_targets),
        )
        for name, frame in frames.items()
    }


def _optimizer(settings: config.TrainConfig, learning_rate) -> keras.optimizers.Optimizer:
    # PyTorch's epsilon; Keras' own is 1e-7.
    options = {"learning_rate": learning_rate, "epsilon": 1e-8}
    if settings.ema_decay:
        options |= {"use_ema": True, "ema_momentum": settings.ema_decay}
    if settings.decoupled_decay:
        optimizer = keras.optimizers.AdamW(weight_decay=settings.weight_decay, **options)
    else:
        optimizer = keras.optimizers.Adam(**options)
    # compile() adds this by itself only if the model object's own policy is float16; here only its layers' is.
    if settings.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def learning_rate_schedule(settings: config.TrainConfig, steps_per_epoch: int):
    """Warm-up from 0, then constant or cosine decay to 0.

    Args:
        settings: `learning_rate`, `warmup_epochs`, `cosine_decay` and `epochs` count.
        steps_per_epoch: optimizer steps in an epoch.

    Returns:
        A number, or a Keras schedule of the optimizer's step.
    """
    if not settings.warmup_epochs and not settings.cosine_decay:
        return settings.learning_rate
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    steps = settings.epochs * steps_per_epoch
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else settings.learning_rate,
        decay_steps=max(1, steps - warmup),
        alpha=0.0 if settings.cosine_decay else 1.0,
        warmup_target=settings.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def _fit(
    model: keras.Model,
    split: Split,
    settings: config.TrainConfig,
    callbacks: list[keras.callbacks.Callback],
    learning_rate,
    first_epoch: int,
    epochs: int,
) -> None:
    """Compiles and trains from `first_epoch` to `epochs`, both counted from 0."""
    if not settings.decoupled_decay and settings.weight_decay:
        losses.add_l2_decay(model, settings.weight_decay)
    model.compile(
        optimizer=_optimizer(settings, learning_rate),
        loss=losses.head_losses(model.output),
        loss_weights=losses.head_weights(model.output, settings.covid_weight),
    )
    dataset = pipeline.training_dataset(
        split.images,
        {head: split.labels[head] for head in model.output},
        batch_size=settings.batch_size,
        seed=settings.seed,
        augmentation=pipeline.Augmentation(
            **{f.name: getattr(settings, f.name) for f in dataclasses.fields(pipeline.Augmentation)}
        ),
        first_epoch=first_epoch,
        epochs=epochs,
    )
    model.fit(
        dataset,
        steps_per_epoch=math.ceil(len(split.images) / settings.batch_size),
        initial_epoch=first_epoch,
        epochs=epochs,
        callbacks=callbacks,
        shuffle=False,  # done by the dataset
    )


def _fit_all(
    model: keras.Model, split: Split, settings: config.TrainConfig, validation: Validation, folder: Path
) -> None:
    callbacks = [
        validation,
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.TensorBoard(str(folder / "tensorboard"), write_graph=False),
    ]
    if settings.frozen_epochs:
        frozen = [layer for layer in trunk_layers(model) if layer.trainable]
        for layer in frozen:
            layer.trainable = False
        rate = settings.frozen_learning_rate
        _fit(model, split, settings, callbacks, rate, 0, settings.frozen_epochs)
        for layer in frozen:
            layer.trainable = True
    if settings.early_stopping_patience:
        name, direction = validation.monitor
        callbacks.append(
            keras.callbacks.EarlyStopping(name, mode=direction, patience=settings.early_stopping_patience)
        )
    rate = learning_rate_schedule(settings, math.ceil(len(split.images) / settings.batch_size))
    last = settings.frozen_epochs + settings.epochs
    _fit(model, split, settings, callbacks, rate, settings.frozen_epochs, last)


def _finish(
    model: keras.Model,
    split: Split,
    settings: config.TrainConfig,
    manifest_sha256: str,
    best_epoch: int,
    folder: Path,
) -> str:
    """Writes model, validation predictions, metrics and card; returns the evaluation as text."""
    part = folder / "part.keras"
    model.save(part)
    os.replace(part, folder / "model.keras")

    logits = runs.predict_logits(logits_model(model), split.images)
    labels = split.frame[COVID].to_numpy()
    temperature = calibration.fit_temperature(labels, logits[COVID][:, 0])
    table = runs.predictions_table(split.frame, logits, temperature)
    threshold = metrics.choose_threshold(labels, table[f"{COVID}_probability"], settings.target_sensitivity)
    rule = runs.threshold_rule(settings.target_sensitivity)
    evaluation = report.evaluate_predictions(
        table, threshold=threshold, temperature=temperature, threshold_rule=rule
    )
    runs.write_predictions(folder, "validation", table)
    model_sha256 = file_sha256(folder / "model.keras")
    runs.write_metrics(folder, "validation", evaluation, model_sha256)
    card = Card(
        name=folder.name,
        task=settings.task,
        backbone=settings.backbone,
        weights=_describe_weights(settings.weights),
        normalisation=dataclasses.asdict(normalisation_of(model)),
        image_size=settings.image_size,
        temperature=temperature,
        threshold=threshold,
        threshold_rule=rule,
        manifest={"file": Path(settings.manifest).name, "sha256": manifest_sha256},
        model_sha256=model_sha256,
        best_epoch=best_epoch,
        metrics={"validation": runs.card_metrics(evaluation)},
        versions=runs.versions(),
        revision=runs.git_revision(),
    )
    write_card(card, folder / "card.json")
    return report_text.format_report(evaluation)


def _describe_weights(weights: str) -> str:
    path = Path(weights)
    return f"{path.name} (SHA-256 {file_sha256(path)})" if path.is_file() else weights


def train(settings: config.TrainConfig, folder: str | Path, *, overwrite: bool = False) -> str:
    """Trains one model and writes its run folder.

    Args:
        settings: what to train.
        folder: of the run; it must be empty or not exist.
        overwrite: whether a run that lies there is replaced.

    Returns:
        The evaluation on validation, as text.

    Raises:
        ValueError: if manifest, images, weights or settings do not fit; the run folder is as it was then.
            Also if the training diverged from its first epoch on.
    """
    folder = runs.check_new_folder(folder, overwrite=overwrite)
    manifest = read_manifest(settings.manifest)
    keras.utils.set_random_seed(settings.seed)
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
    model = build_model(
        settings.backbone,
        task=settings.task,
        image_size=settings.image_size,
        weights=settings.weights,
        batch_norm_momentum=settings.batch_norm_momentum,
        precision=settings.precision,
    )
    splits = _load_splits(manifest, settings)
    runs.create_folder(folder, settings)
    trained = logits_model(model)
    validation = Validation(splits["validation"], settings, folder / "history.csv")
    _fit_all(trained, splits["train"], settings, validation, folder)
    if not validation.best_epoch:
        raise ValueError(
            "no epoch had a finite validation score; lower --learning_rate, or take --precision=float32"
        )
    trained.set_weights(validation.best_weights)
    # Trained in mixed precision or not, what is kept computes in float32.
    final = float32_copy(model)
    sha256 = manifest.attrs["sha256"]
    return _finish(final, splits["validation"], settings, sha256, validation.best_epoch, folder)


def main(argv: list[str]) -> int:
    """The command."""
    flag_values = flags.FlagValues()
    config.define_flags(flag_values)
    flags.DEFINE_string(
        "run", None, "folder to make (default: runs/<backbone>_<task>_<time>)", flag_values=flag_values
    )
    flags.DEFINE_boolean("overwrite", False, "replace a run that lies in that folder", flag_values=flag_values)
    command.parse(flag_values, argv, USAGE)
    settings = config.from_flags(flag_values)
    folder = flag_values.run or f"runs/{settings.backbone}_{settings.task}_{time.strftime('%Y%m%d-%H%M%S')}"
    started = time.monotonic()
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
