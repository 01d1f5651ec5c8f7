"""The gate's judgement: whether an exported model is close enough to the run's own to be shipped."""

import dataclasses
import math
import statistics
import time
from typing import Any

from export import parity_columns
from export.artefacts import Artefact
from export.parity_evidence import Evidence, Sample
from ladnn_tf import runs
from ladnn_tf.card import Card

MINIMUM_AUC = 0.75
"""Below it a model can lose little: the loss of AUC is then looked for on phantoms."""

COLUMNS = {"same_pixels": "same pixels", "encoded_bytes": "encoded bytes"}
"""What an artefact is given: the pixels that the run's own model saw, or the file, to decode and resize itself."""

QUANTISED = ("dynamic", "int8", "int8_mixed")
TIMED_IMAGES = 20
_ROUNDING = 1e-9  # 0.8 - 0.79 is 0.010000000000000009


@dataclasses.dataclass(frozen=True)
class Tolerances:
    """How far an artefact may be from the run's own model.

    Attributes:
        float32: largest difference of a probability, and of a map relative to its label's largest value, of
            `float32` and `saved_model` on the same pixels.
        float16: the same of `float16`.
        encoded: what may come on top from encoded bytes.
        auc_loss: largest loss of AUC of the quantised formats, `QUANTISED`.
        agreement: least share of equal decisions of the same.
    """

    float32: float = 1e-3
    float16: float = 5e-3
    encoded: float = 2e-3
    auc_loss: float = 0.01
    agreement: float = 0.98

    def difference(self, export_format: str) -> float | None:
        """The largest difference on the same pixels; None for a format that is judged by its decisions.

        Raises:
            ValueError: for an unknown format.
        """
        allowed = {"float32": self.float32, "saved_model": self.float32, "float16": self.float16}
        allowed |= dict.fromkeys(QUANTISED)
        if export_format not in allowed:
            raise ValueError(f"the format should be one of {', '.join(allowed)}. Received: {export_format!r}")
        return allowed[export_format]

    def may_differ(self, images: int) -> int:
        """How many of so many decisions may differ: of 203, at 98 %, four."""
        return math.floor(images * (1 - self.agreement) + _ROUNDING)


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

    Differences and agreement are always of the evidence's images. The loss of AUC counts on them if the run's own
    model reaches `MINIMUM_AUC` there; else on phantoms; if it does not reach it there either, the loss cannot be
    judged, and a quantised artefact is unfit.

    Args:
        evidence: of the run that the artefact was made of.
        artefact: the exported model.
        tolerances: None for the defaults.

    Returns:
        Fitness, reasons and figures: per column of `COLUMNS` those of `parity_columns.measure`, `null` where the
        outputs cannot be compared; `phantoms` the same without differences, if they were needed; `auc_judged_on`
        `images`, `phantoms`, `nothing` or, where it is not judged, an empty string; `latency_ms`, the median of
        `latency_images` files given one at a time.

    Raises:
        ValueError: if the artefact was not made of the run, or its format is unknown.
    """
    tolerances = tolerances or Tolerances()
    check_source(evidence.card, artefact.card, artefact.name)
    limit = tolerances.difference(artefact.format)
    thresholds = evidence.card.threshold, artefact.card.threshold
    reasons = []
    columns = _columns(evidence.sample, artefact, thresholds, reasons, parity_columns.measure)
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
    for name, column in columns.items():
        if column is None:
            continue
        if limit is None:
            reasons += _too_few_agree(COLUMNS[name], column, tolerances)
        else:
            allowed = limit + (tolerances.encoded if name == "encoded_bytes" else 0.0)
            reasons += _too_different(COLUMNS[name], column, allowed)
    if limit is None:
        reasons += _auc_lost(evidence, artefact, thresholds, tolerances, measured)
    if not any(column is None for column in columns.values()):
        measured["latency_ms"] = _latency_ms(artefact, evidence.sample)
    fitness = "unfit" if reasons else "fit"
    return Comparison(artefact.name, artefact.card, fitness, tuple(reasons), measured)


def check_source(source: Card, card: Card, name: str) -> None:
    """Checks that an exported model was made of a run as it is now.

    Args:
        source: the run's card.
        card: the exported model's.
        name: of the exported model, for the message.

    Raises:
        ValueError: if it was made of another model, or of another threshold, temperature or image size.
    """
    made_of = card.export.source_sha256 if card.export else card.model_sha256
    if made_of != source.model_sha256:
        raise ValueError(
            f"{name} was made of {card.name}, model {made_of[:12]}..., not of the run {source.name}, model "
            f"{source.model_sha256[:12]}...; give --run the run that it was made of, or export it again"
        )
    for field in ("threshold", "temperature", "image_size"):
        exported, now = getattr(card, field), getattr(source, field)
        if exported != now:
            raise ValueError(
                f"{name} was made when the run {source.name} had {field} {exported}, its card now says {now}; "
                "export it again"
            )


def _columns(
    sample: Sample, artefact: Artefact, thresholds: tuple[float, float], reasons: list[str], measure
) -> dict:
    """A dict or None by column; why it is None goes to the reasons."""
    answers = {
        "same_pixels": lambda: artefact.from_pixels(sample.pixels),
        "encoded_bytes": lambda: artefact.from_bytes(sample.encoded),
    }
    columns = {}
    for name, title in COLUMNS.items():
        outputs = answers[name]()
        found = parity_columns.problems(outputs, sample.reference)
        where = "phantoms, " if "phantoms" in sample.data else ""
        reasons += [f"{where}{title}: {problem}" for problem in found]
        columns[name] = None if found else measure(sample, outputs, thresholds)
    return columns


def _too_different(title: str, column: dict, allowed: float) -> list[str]:
    reasons = []
    for key, what in (("probability_difference", "probabilities"), ("map_difference", "maps (relative)")):
        largest = column[key]["largest"]
        if largest > allowed:
            reasons.append(f"{title}: {what} differ by up to {largest:.3g}, allowed are {allowed:.3g}")
    return reasons


def _too_few_agree(title: str, column: dict, tolerances: Tolerances) -> list[str]:
    agreeing, images = column["agreement"]["agreeing"], column["agreement"]["images"]
    differing, allowed = images - agreeing, tolerances.may_differ(images)
    if differing <= allowed:
        return []
    return [
        f"{title}: {differing} of {images} decisions differ, at most {allowed} may "
        f"({100 * tolerances.agreement:g} % agreement)"
    ]


def _auc_lost(
    evidence: Evidence, artefact: Artefact, thresholds: tuple[float, float], tolerances: Tolerances, measured: dict
) -> list[str]:
    """The reasons that the loss of AUC gives; phantoms and what was judged on go into `measured`."""
    reasons = []
    columns, where = {name: measured[name] for name in COLUMNS}, ""
    measured["auc_judged_on"] = "images"
    if not _shows_loss(evidence.sample):
        columns = _columns(evidence.phantoms, artefact, thresholds, reasons, parity_columns.losses)
        measured["phantoms"] = {"data": evidence.phantoms.data, **columns}
        measured["auc_judged_on"], where = "phantoms", "phantoms, "
        if not _shows_loss(evidence.phantoms):
            measured["auc_judged_on"] = "nothing"
            found = [_auc_text(sample.auc) for sample in (evidence.sample, evidence.phantoms)]
            return [
                *reasons,
                f"the loss of AUC cannot be judged: the run's own AUC is {found[0]} on the images and {found[1]} "
                f"on phantoms, {MINIMUM_AUC} is needed on either",
            ]
    for name, column in columns.items():
        if column is not None and column["auc"]["difference"] > tolerances.auc_loss + _ROUNDING:
            reasons.append(
                f"{where}{COLUMNS[name]}: AUC {column['auc']['a']:.4f} falls to {column['auc']['b']:.4f}, a loss "
                f"of {column['auc']['difference']:.4f}; allowed are {tolerances.auc_loss:g}"
            )
    return reasons


def _shows_loss(sample: Sample) -> bool:
    return sample.auc is not None and sample.auc >= MINIMUM_AUC


def _auc_text(auc: float | None) -> str:
    return "undefined (one class only)" if auc is None else f"{auc:.3f}"


def _latency_ms(artefact: Artefact, sample: Sample) -> float:
    artefact.answer(sample.encoded[0])  # the first call sets up memory
    seconds = []
    for encoded in sample.encoded[:TIMED_IMAGES]:
        start = time.perf_counter()
        artefact.answer(encoded)
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)
