"""What a training begins with, and what it must find again when it is resumed."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from absl import logging

from ladnn_tf import config, runs
from ladnn_tf.checkpoint import Checkpoint
from ladnn_tf.data.sources import datasets
from ladnn_tf.files import file_sha256
from ladnn_tf.models.drenet import Regions, build_drenet, build_trunk
from ladnn_tf.models.ladnn import build_model, heads
from ladnn_tf.models.weights import NORMALISATIONS, Normalisation, normalisation_of
from ladnn_tf.validation import Split

_FREE_TO_CHANGE = {"manifest", "cache", "weights", "init_run"}
"""Settings that a resumed training may have otherwise: data may have moved (its hash is compared), and the initial
weights are not needed again."""


def initial_model(settings: config.TrainConfig, saved: Checkpoint | None = None) -> keras.Model:
    """The model before its first step.

    Args:
        settings: of the training: `init_run`, or else `weights`.
        saved: of a resumed training: the model is then built as it was, but random, and no initial weights are
            read.

    Returns:
        As `build_model`.

    Raises:
        ValueError: if weights or run do not fit.
    """
    if saved:
        stored = saved.progress.origin["normalisation"]
        return _build(settings, "none", Normalisation(tuple(stored["mean"]), tuple(stored["std"])))
    asked = NORMALISATIONS.get(settings.normalisation)
    if not settings.init_run:
        return _build(settings, settings.weights, asked)
    run = runs.load_run(settings.init_run)
    if run.card.backbone != settings.backbone:
        raise ValueError(
            f"--init_run={settings.init_run} is a {run.card.backbone}, --backbone={settings.backbone} is asked for"
        )
    if settings.model != "ladnn" or run.card.classes:
        return _same_again(settings, run)
    model = _build(settings, str(run.folder / "model.keras"), asked)
    for head in heads(settings.task):
        if head in heads(run.card.task):
            name = f"{head}_logits"
            model.get_layer(name).set_weights(run.model.get_layer(name).get_weights())
        else:
            logging.info("%s has no head %s: it begins with random weights", settings.init_run, head)
    return model


def _build(settings: config.TrainConfig, weights: str, normalisation: Normalisation | None) -> keras.Model:
    options = {
        "image_size": settings.image_size,
        "weights": weights,
        "normalisation": normalisation,
        "batch_norm_momentum": settings.batch_norm_momentum,
        "precision": settings.precision,
    }
    if settings.model == "ladnn":
        return build_model(settings.backbone, task=settings.task, **options)
    classes = len(settings.class_names)
    if settings.model == "trunk":
        return build_trunk(settings.backbone, classes=classes, **options)
    regions = Regions(settings.anchor_sides, settings.regions, settings.view_size, settings.region_temperature)
    return build_drenet(settings.backbone, classes=classes, regions=regions, **options)


def _same_again(settings: config.TrainConfig, run: runs.Run) -> keras.Model:
    """A model with classes that begins with all weights of a run."""
    begun = (run.card.task, run.card.classes)
    model = _build(settings, "none", normalisation_of(run.model))
    shapes = [[weight.shape for weight in each.get_weights()] for each in (model, run.model)]
    before = run.config
    same_regions = (before.anchor_sides, before.view_size) == (settings.anchor_sides, settings.view_size)
    same = begun == (settings.kind, settings.class_names) and (settings.model != "drenet" or same_regions)
    if not same or shapes[0] != shapes[1]:
        theirs, ours = (", ".join(each) or "no classes" for each in (run.card.classes, settings.class_names))
        raise ValueError(
            f"--init_run={settings.init_run} is a {run.card.task} of {theirs}, and a {settings.kind} of {ours} is "
            "asked for; a run goes on as its own kind, with the same classes and regions"
        )
    model.set_weights(run.model.get_weights())
    return model


def _describe_weights(settings: config.TrainConfig) -> str:
    path, name = Path(settings.weights), Path(settings.weights).name
    if settings.init_run:
        path, name = Path(settings.init_run) / "model.keras", f"run {Path(settings.init_run).name}"
    # At a resume the file may be gone; what counts then is what the training began with.
    return f"{name} (SHA-256 {file_sha256(path)})" if path.is_file() else name


def arrays_sha256(arrays: Sequence[np.ndarray]) -> str:
    """The SHA-256 of the bytes of arrays, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def describe(
    settings: config.TrainConfig,
    manifest: pd.DataFrame,
    splits: dict[str, Split],
    model: keras.Model,
    devices: int,
) -> dict[str, Any]:
    """What a training begins with, for the checkpoint and the card.

    Args:
        settings: of the training.
        manifest: of the data.
        splits: read from it.
        model: before its first step.
        devices: their number.

    Returns:
        `settings`, `data_sha256` (of images and labels), `manifest_sha256`, `sources` (datasets of the training
        images), `weights`, `normalisation`, `devices` and `versions`, ready for JSON.
    """
    data = [array for split in splits.values() for array in (split.images, *split.labels.values())]
    return {
        "settings": dataclasses.asdict(settings),
        "data_sha256": arrays_sha256(data),
        "manifest_sha256": manifest.attrs["sha256"],
        "sources": datasets(splits["train"].frame),
        "weights": _describe_weights(settings),
        "normalisation": dataclasses.asdict(normalisation_of(model)),
        "devices": devices,
        "versions": runs.versions(),
    }


def check(folder: Path, stored: dict[str, Any], found: dict[str, Any]) -> None:
    """Compares what a training began with and what it finds when it is resumed.

    Args:
        folder: of the run.
        stored: from `describe`, when it began.
        found: from `describe`, now.

    Raises:
        ValueError: if settings that matter, images or labels differ. Other versions or devices are a warning.
    """
    # Settings that were added since have defaults that do what was done before.
    added = {
        field.name: field.default for field in dataclasses.fields(config.TrainConfig) if field.metadata["optional"]
    }
    began, now = {**added, **stored["settings"]}, found["settings"]
    changed = [name for name in now if name not in _FREE_TO_CHANGE and began.get(name) != now[name]]
    if changed:
        name = changed[0]
        raise ValueError(
            f"{folder / 'config.flags'} says --{name}={now[name]}, but the training began with {began.get(name)}; "
            "restore the file, or start another run"
        )
    if stored["data_sha256"] != found["data_sha256"]:
        raise ValueError(
            f"the images or labels of {now['manifest']} are not those that this training began with; restore "
            "them, or start another run (--init_run takes the weights of a finished one)"
        )
    for what in ("versions", "devices"):
        if stored[what] != found[what]:
            logging.warning(
                "%s differ from those the training began with: it will not be bit-identical (%s, now %s)",
                what,
                stored[what],
                found[what],
            )


def check_outside(folder: Path, settings: config.TrainConfig) -> None:
    """What a training reads must not lie in the folder that it replaces.

    Raises:
        ValueError: naming the setting.
    """
    for name in sorted(_FREE_TO_CHANGE):
        value = getattr(settings, name)
        if value and Path(value).resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"--{name}={value} lies in {folder}, which --overwrite would delete; give another --run"
            )
