"""The gate's judgement: whether an exported model is close enough to the run's own to be shipped."""

import dataclasses
import statistics
import time
from typing import Any

from export import parity_columns, parity_regions
from export.artefacts import Artefact
from export.parity_auc import auc_lost
from export.parity_columns import COLUMNS
from export.parity_evidence import Evidence, Sample
from export.parity_tolerances import QUANTISED, Tolerances
from ladnn_tf import runs
from ladnn_tf.card import Card

MINIMUM_IMAGES = 50
"""Decisions without which 98 % agreement says nothing: of fewer not one may differ, whatever the model."""

TIMED_IMAGES = 20

_OF_RUN = {
    "threshold": "threshold",
    "temperature": "temperature",
    "image_size": "image_size",
    "person": "person rule",
    "window": "window",
    "lungs": "lungs",
    "classes": "classes",
}
"""What an export takes from the card of its run, as `Card` and a message name it."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The gate's answer about one artefact.

    Attributes:
        name: of the artefact.
        card: of the artefact, as it was before.
        fitness: `fit` or `unfit`.
        reasons: why it is unfit, a sentence each.
        measured: the figures, as JSON can hold them.
    """

    name: str
    card: Card
    fitness: str
    reasons: tuple[str, ...]
    measured: dict[str, Any]


def compare(evidence: Evidence, artefact: Artefact, tolerances: Tolerances | None = None) -> Comparison:
    """Compares an artefact with the run's own model and judges it.

    Differences and agreement are always of the evidence's images; of fewer than `MINIMUM_IMAGES` a quantised
    artefact is unfit. What it loses of the AUC is judged by `parity_auc`. A look at the run's own data is counted
    once there is an answer.

    Args:
        evidence: of the run that the artefact was made of.
        artefact: the exported model.
        tolerances: None for the defaults.

    Returns:
        Fitness, reasons and figures: per column of `COLUMNS` those of `parity_columns.measure`, `null` where the
        outputs cannot be compared; `phantoms` the same without differences, if they were needed; `auc_judged_on`
        `images`, `phantoms`, `own decisions`, `nothing` or, where it is not judged, an empty string; `latency_ms`,
        the median of `latency_images` files given one at a time. Of a model with classes also `classes`, their
        names; of a DRENet too `same_boxes`, the least share of images with the same boxes.

    Raises:
        ValueError: as `check_source`, or if the format is unknown.
    """
    tolerances = tolerances or Tolerances()
    check_source(evidence.card, artefact.card, artefact.name)
    limit = tolerances.difference(artefact.format)
    thresholds = evidence.card.threshold, artefact.card.threshold
    reasons = []
    has_boxes = evidence.sample.reference.boxes is not None
    columns = parity_columns.ask(evidence.sample, artefact, thresholds, reasons, parity_columns.measure)
    measured = {
        "format": artefact.format,
        "size_bytes": artefact.size,
        "data": evidence.sample.data,
        "tolerances": dataclasses.asdict(tolerances),
        **columns,
        "phantoms": None,
        "auc_judged_on": "",
        "latency_ms": None,
        "latency_images": min(TIMED_IMAGES, len(evidence.sample.encoded)),
        "versions": runs.versions(),
    }
    measured |= {"classes": list(evidence.card.classes)} if evidence.card.classes else {}
    measured |= {"same_boxes": parity_regions.SAME_BOXES} if has_boxes else {}
    images = len(evidence.sample.labels)
    if limit is None and images < MINIMUM_IMAGES:
        reasons.append(
            f"{images} images are too few to judge {100 * tolerances.agreement:g} % agreement; give at least "
            f"{MINIMUM_IMAGES}"
        )
    compared = {name: column for name, column in columns.items() if column is not None}
    for name, column in compared.items():
        if limit is None:
            reasons += _too_few_agree(name, column, tolerances)
            reasons += _too_different_on_average(name, column, tolerances)
        else:
            reasons += _too_different(name, column, limit, tolerances)
    if limit is None and compared:
        reasons += auc_lost(evidence, artefact, thresholds, tolerances, measured)
    if len(compared) == len(COLUMNS):
        measured["latency_ms"] = _latency_ms(artefact, evidence.sample)
    evidence.seen()
    fitness = "unfit" if reasons else "fit"
    return Comparison(artefact.name, artefact.card, fitness, tuple(reasons), measured)


def check_source(source: Card, card: Card, name: str) -> None:
    """Checks that an exported model was made of a run as it is now.

    Args:
        source: the run's card.
        card: the exported model's.
        name: of the exported model, for the message.

    Raises:
        ValueError: if it was made of another model, or the run's card has another threshold, temperature, image
            size, person rule, window, lungs or classes since; or if it is a quantised model with classes.
    """
    made_of = card.export.source_sha256 if card.export else card.model_sha256
    if made_of != source.model_sha256:
        raise ValueError(
            f"{name} was made of {card.name}, model {made_of[:12]}..., not of the run {source.name}, model "
            f"{source.model_sha256[:12]}...; give --run the run that it was made of, or export it again"
        )
    for field, title in _OF_RUN.items():
        exported, now = getattr(card, field), getattr(source, field)
        if exported != now:
            raise ValueError(
                f"{name} was made when the run {source.name} had {title} {_text(exported)}, its card now says "
                f"{_text(now)}; export it again"
            )
    if source.classes and card.export and card.export.format in QUANTISED:
        raise ValueError(
            f"{name} is a {source.task} in {card.export.format}, and quantised models with classes are not "
            "judged; export it again, in float32 or float16"
        )


def _text(value: Any) -> str:
    """A field of a card in words."""
    if dataclasses.is_dataclass(value):
        return ", ".join(f"{name} {setting}" for name, setting in dataclasses.asdict(value).items())
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return "none" if value is None else str(value)


def _too_different(name: str, column: dict, limit: float, tolerances: Tolerances) -> list[str]:
    """Against a format that is not quantised: the largest differences, and other boxes."""
    limit += tolerances.encoded * (name == "encoded_bytes")
    allowed = {
        "probability_difference": ("probabilities", limit),
        "map_difference": ("maps (relative)", tolerances.maps),
    }
    reasons = [
        f"{COLUMNS[name]}: {what} differ by up to {column[key]['largest']:.3g}, allowed are {most:.3g}"
        for key, (what, most) in allowed.items()
        if key in column and column[key]["largest"] > most
    ]
    if "boxes" in column:
        reasons += [f"{COLUMNS[name]}: {reason}" for reason in parity_regions.too_different(column, limit)]
    return reasons


def _too_different_on_average(name: str, column: dict, tolerances: Tolerances) -> list[str]:
    """Against a quantised format: the mean differences."""
    return [
        f"{COLUMNS[name]}: {what} differ by {column[key]['mean']:.3g} on average, allowed are "
        f"{tolerances.mean:.3g}"
        for key, what in (("probability_difference", "probabilities"), ("map_difference", "maps (relative)"))
        if key in column and column[key]["mean"] > tolerances.mean
    ]


def _too_few_agree(name: str, column: dict, tolerances: Tolerances) -> list[str]:
    agreeing, images = column["agreement"]["agreeing"], column["agreement"]["images"]
    differing, allowed = images - agreeing, tolerances.may_differ(images)
    if differing <= allowed:
        return []
    return [
        f"{COLUMNS[name]}: {differing} of {images} decisions differ, at most {allowed} may "
        f"({100 * tolerances.agreement:g} % agreement)"
    ]


def _latency_ms(artefact: Artefact, sample: Sample) -> float:
    artefact.answer(sample.encoded[0])  # the first call sets up memory
    seconds = []
    for encoded in sample.encoded[:TIMED_IMAGES]:
        start = time.perf_counter()
        artefact.answer(encoded)
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)
