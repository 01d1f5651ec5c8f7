"""What the runs of a grid cost, from what others took, or roughly from a table."""

import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from ladnn_tf.config import TrainConfig, read_config
from ladnn_tf.grid import SPLIT, Dataset, State, Status

MILLISECONDS = {
    "vgg16": 495.0,
    "resnet18": 66.0,
    "resnet50": 126.0,
    "densenet121": 123.0,
    "densenet169": 146.0,
    "efficientnet_b0": 59.0,
    "efficientnet_b1": 106.0,
}
"""Training, per image at 224 pixels, float32, two cores of an Intel Xeon with AMX (README.md, "Speed"). ResNet-18
is scaled from 21.5 at 128 pixels, DenseNet-121 and EfficientNet-b1 from their siblings by their operations."""

_SIDE = 224
_PREDICTION = 0.25  # of the time that training takes on an image
_START_MINUTES = 1.0  # TensorFlow, data and the tracing of the first step
_EVALUATION_START_MINUTES = 0.5

Rates = dict[tuple[str, int, str], float]
"""Milliseconds of training per image by backbone, image size and precision."""


def epoch_times(folder: Path) -> list[float]:
    """When the epochs of a run ended, from its TensorBoard events.

    Returns:
        Seconds since 1970, in order; empty where there are no events.
    """
    ends = [
        event.wall_time
        for path in folder.glob("tensorboard/train/events.*")
        for event in EventFileLoader(str(path)).Load()
        if any(value.tag == "epoch_loss" for value in event.summary.value)
    ]
    return sorted(ends)


def measured_rates(folder: Path, datasets: Sequence[Dataset]) -> Rates:
    """What the runs in a folder took, whatever became of them; of each kind the last one counts.

    The median of its epochs is taken, so that a pause does not count, such as between a kill and the resumed
    training.

    Args:
        folder: that holds the run folders.
        datasets: whose sizes are known; runs on other manifests do not count.
    """
    images = {Path(dataset.manifest).resolve(): _images_per_epoch(dataset) for dataset in datasets}
    found: dict[tuple[str, int, str], tuple[float, float]] = {}
    for path in folder.glob("*/config.flags"):
        try:
            settings = read_config(path)
        except (ValueError, OSError):
            continue  # `find_runs` names it
        per_epoch = images.get(Path(settings.manifest).resolve())
        ends = epoch_times(path.parent) if per_epoch else []
        if len(ends) > 1:
            seconds = statistics.median(after - before for before, after in pairwise(ends))
            ended = (ends[-1], 1000 * seconds / per_epoch)
            found[_kind(settings)] = max(ended, found.get(_kind(settings), ended))
    return {kind: rate for kind, (_, rate) in found.items()}


def minutes(status: Status, rates: Rates) -> float | None:
    """The minutes that a run still needs.

    A kind that is not in the rates is taken from `MILLISECONDS`, by the number of pixels, and corrected by how the
    other kinds compare with their figures there. This is rough: another precision can make it twice as much.

    Args:
        status: of the run.
        rates: from `measured_rates`.

    Returns:
        0 for a run with which nothing is to be done; `None` for a backbone of which nothing is known.
    """
    if status.state not in (State.EVALUATE, State.UNFINISHED, State.MISSING):
        return 0.0
    settings, dataset = status.wanted.settings, status.wanted.dataset
    kind = _kind(settings)
    rate = rates[kind] if kind in rates else _rough(kind)
    if rate is None:
        return None
    if kind not in rates:
        rate *= _correction(rates)
    per_image = rate / 60_000
    needed = _EVALUATION_START_MINUTES + _PREDICTION * per_image * dataset.images[SPLIT]
    if status.state != State.EVALUATE:
        epochs = settings.frozen_epochs + settings.epochs - status.epoch
        needed += _START_MINUTES + epochs * per_image * _images_per_epoch(dataset)
    return needed


def _rough(kind: tuple[str, int, str]) -> float | None:
    backbone, image_size, _ = kind
    at_224 = MILLISECONDS.get(backbone)
    return None if at_224 is None else at_224 * (image_size / _SIDE) ** 2


def _correction(rates: Rates) -> float:
    shares = [rate / rough for kind, rate in rates.items() if (rough := _rough(kind))]
    return statistics.median(shares) if shares else 1.0


def is_measured(status: Status, rates: Rates) -> bool:
    """Whether `minutes` rests on runs of the same kind."""
    return _kind(status.wanted.settings) in rates


def _kind(settings: TrainConfig) -> tuple[str, int, str]:
    return settings.backbone, settings.image_size, settings.precision


def _images_per_epoch(dataset: Dataset) -> float:
    """Images of an epoch, those of validation by what a prediction costs."""
    return dataset.images["train"] + _PREDICTION * dataset.images["validation"]
