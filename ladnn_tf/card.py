"""The model card: what a reader, a server or an edge box must know of a model, as JSON beside it."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from ladnn_tf.files import file_sha256, write_atomically
from ladnn_tf.labels import CLASSES, COVID, LESION_TARGETS, LESIONS, MODELS, PHANTOM_DATA, TASKS

FORMAT = 2
FITNESS = ("fit", "unfit", "unmeasured")
"""Whether an exported model was close enough to the one it was made of; see `export/parity.py`."""

LUNGS = ("whole", "extracted")
"""What of a slice a model was trained on, and is shown: all of it, or the lungs alone, cropped, on black."""

NOTICE = "For research use only. Not a medical device; not for diagnosis or for decisions about patients."

_UNFIT = "UNFIT MODEL: it did not pass the comparison with the model it was made of, or never had one."
_OF_PHANTOMS = "PHANTOM MODEL: it was trained on drawn slices; what it says of a patient means nothing."
_LESIONS_OF_POSITIVES = (
    "The lesions were learnt on COVID-19 images alone: where the call is negative, ignore them."
)


@dataclasses.dataclass(frozen=True)
class Export:
    """How an exported model differs from the run's own.

    Attributes:
        format: `saved_model`, or of a TFLite file `float32`, `float16`, `dynamic`, `int8` or `int8_mixed`.
        source_sha256: of the `model.keras` that it was made of.
        fitness: one of `FITNESS`.
        reasons: why it is unfit, a sentence each.
        measured: the figures of the comparison with the run's own model, as in the report beside it.
    """

    format: str
    source_sha256: str
    fitness: str = "unmeasured"
    reasons: tuple[str, ...] = ()
    measured: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.fitness not in FITNESS:
            raise ValueError(f"fitness should be one of {', '.join(FITNESS)}. Received: {self.fitness!r}")


@dataclasses.dataclass(frozen=True)
class ScoreBin:
    """How often validation images with such a score were COVID-19.

    Attributes:
        low, high: calibrated probabilities; the bin holds [low, high), the last one [low, high].
        images: of validation in the bin.
        positives: those of them that are COVID-19.
        interval: Wilson's 95 % interval of the share of positives; None where there are no images.
    """

    low: float
    high: float
    images: int
    positives: int
    interval: tuple[float, float] | None

    def __post_init__(self) -> None:
        if not (0.0 <= self.low < self.high <= 1.0 and 0 <= self.positives <= self.images):
            raise ValueError(
                "a score bin should have 0 <= low < high <= 1 and 0 <= positives <= images. Received: "
                f"{self.low} to {self.high}, {self.positives} of {self.images}"
            )
        if (self.interval is None) != (self.images == 0):
            raise ValueError("a score bin should have an interval if, and only if, it has images")


@dataclasses.dataclass(frozen=True)
class Window:
    """How Hounsfield units become grey levels: `level` is the middle grey, `width` reaches from black to white."""

    level: float = -600.0
    width: float = 1500.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.level) and math.isfinite(self.width) and self.width > 0):
            raise ValueError(
                f"a window should have a finite level and a width above 0 HU. Received: {self.level}, {self.width}"
            )


@dataclasses.dataclass(frozen=True)
class PersonRule:
    """How the answers for a person's slices become the person's, chosen on validation.

    Attributes:
        aggregation: one of `person.AGGREGATIONS`.
        threshold: a person is called positive at this aggregated probability or above.
        rule: how both were chosen, in words.
        patients: persons of validation.
        positives: those of them who have COVID-19.
        slices: images that a person of validation has, the lower median; 0 where that is not known (cards of older
            runs). Of many more, or of far fewer, the same threshold means something else.
    """

    aggregation: str
    threshold: float
    rule: str
    patients: int
    positives: int
    slices: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"a person's threshold should be a probability. Received: {self.threshold}")
        if not isinstance(self.slices, int) or self.slices < 0:
            raise ValueError(f"a person's slices should be a number, 0 or more. Received: {self.slices!r}")


@dataclasses.dataclass(frozen=True)
class Card:
    """What belongs to one model file.

    Attributes:
        name: of the run.
        task: `ladnn` or `baseline`; of models with a softmax `trunk` or `drenet`.
        backbone: a key of `BACKBONES`.
        weights: the initial weights as they were asked for; a file by its name and SHA-256.
        normalisation: `{"mean": [R, G, B], "std": [R, G, B]}`, in grey levels, done inside the model.
        image_size: side of the network's input, in pixels.
        temperature: the logit of COVID-19 is divided by it before the sigmoid; fitted on validation.
        threshold: COVID-19 is called at this calibrated probability or above.
        threshold_rule: how the threshold was chosen.
        manifest: `{"file": name, "sha256": hex}` of the data it was trained on.
        model_sha256: of the model file beside the card; of a TFLite file without the card that is appended to it,
            of a SavedModel over its files but for card and warm-up records (`files.folder_sha256`).
        weights_sha256: of the weights alone, in order, which does not change with the date in the file.
        best_epoch: number of the epoch that was kept, from 1.
        metrics: split -> number of images, patients and positives, and the metrics of the diagnosis with their
            intervals; everything else is in metrics.json.
        versions: of Python and of the packages that trained it.
        revision: the git revision of the code, or empty.
        labels: of the outputs, in order.
        format: of this card.
        notice: what the model must not be used for.
        export: of an exported model; None for a run's own.
        lesion_targets: what the lesions were learnt on: `positives` alone, `all`, or empty where that is not known
            (cards of older runs) and for the baseline.
        sources: the datasets of the images that it was trained on, `PHANTOM_DATA` for drawn ones; empty where that
            is not known (cards of older runs, manifests without sources).
        score_bins: what validation had at each score, from 0 to 1 without gaps; empty on cards of older runs.
        classes: of the softmax, of `labels.CLASSES` and in their order; empty where there is none.
        window: in which a series in Hounsfield units is shown to the model.
        lungs: one of `LUNGS`.
        person: how slices become a person's answer; None where validation could not tell (older runs, or fewer
            than two persons with or without COVID-19).
    """

    name: str
    task: str
    backbone: str
    weights: str
    normalisation: dict[str, list[float]]
    image_size: int
    temperature: float
    threshold: float
    threshold_rule: str
    manifest: dict[str, str]
    model_sha256: str
    weights_sha256: str
    best_epoch: int
    metrics: dict[str, dict[str, Any]]
    versions: dict[str, str]
    revision: str
    labels: tuple[str, ...] = (COVID, *LESIONS)
    format: int = FORMAT
    notice: str = NOTICE
    export: Export | None = None
    lesion_targets: str = ""
    score_bins: tuple[ScoreBin, ...] = ()
    sources: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    window: Window = Window()
    lungs: str = "whole"
    person: PersonRule | None = None

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(_other_format(self.format))
        known = (*TASKS, *MODELS[1:])
        if self.task not in known:
            raise ValueError(f"task should be one of {', '.join(known)}. Received: {self.task!r}")
        if self.task in TASKS and self.classes:
            raise ValueError(f"a model of task {self.task} has no classes. Received: {self.classes}")
        if self.task not in TASKS:
            check_classes(self.classes)
        if self.lungs not in LUNGS:
            raise ValueError(f"lungs should be one of {', '.join(LUNGS)}. Received: {self.lungs!r}")
        if self.labels != (COVID, *LESIONS):
            raise ValueError(
                f"labels should be {', '.join((COVID, *LESIONS))}, in this order. Received: {self.labels}"
            )
        if not isinstance(self.image_size, int) or self.image_size < 1:
            raise ValueError(f"image_size should be a number of pixels. Received: {self.image_size!r}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature should be above 0. Received: {self.temperature}")
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"threshold should be a probability. Received: {self.threshold}")
        if self.lesion_targets not in ("", *LESION_TARGETS):
            raise ValueError(
                f"lesion_targets should be empty or one of {', '.join(LESION_TARGETS)}. Received: "
                f"{self.lesion_targets!r}"
            )
        edges = [0.0, *(found.high for found in self.score_bins)]
        if self.score_bins and ([found.low for found in self.score_bins] != edges[:-1] or edges[-1] != 1.0):
            raise ValueError("score_bins should reach from 0 to 1 without gaps, in order")

    @property
    def unfit(self) -> bool:
        """Whether it is an exported model that failed its comparison with its run, or never had one."""
        return self.export is not None and self.export.fitness != "fit"

    @property
    def of_phantoms(self) -> bool:
        """Whether it was trained on drawn slices alone."""
        return self.sources == (PHANTOM_DATA,)

    @property
    def caveats(self) -> tuple[str, ...]:
        """What a reader of the answers must know beyond the notice, a sentence each."""
        found = [_UNFIT] if self.unfit else []
        if self.of_phantoms:
            found.append(_OF_PHANTOMS)
        if self.lesion_targets == "positives":
            found.append(_LESIONS_OF_POSITIVES)
        return tuple(found)

    def score_bin(self, probability: float) -> ScoreBin | None:
        """The bin of a calibrated probability in [0, 1]; None where the card has none."""
        return next((found for found in reversed(self.score_bins) if probability >= found.low), None)

    @property
    def version(self) -> str:
        """Names the model that gave an answer: the run, the format and the beginning of the model's SHA-256."""
        form = self.export.format if self.export else "keras"
        return f"{self.name}-{form}-{self.model_sha256[:12]}"


def check_classes(classes: tuple[str, ...]) -> None:
    """Checks the classes of a softmax.

    Raises:
        ValueError: if they are not COVID-19 and at least one other of `labels.CLASSES`, in their order.
    """
    ordered = tuple(name for name in CLASSES if name in classes)
    if classes != ordered or len(classes) < 2 or classes[0] != CLASSES[0]:
        raise ValueError(
            f"classes should be {CLASSES[0]} and at least one of {', '.join(CLASSES[1:])}, in this order. "
            f"Received: {', '.join(classes) or 'none'}"
        )


def _other_format(found: Any) -> str:
    return (
        f"card format {found} is not read by this version, which reads {FORMAT}; the run was made by another "
        "version of ladnn_tf: use that version, or train it anew"
    )


def card_json(card: Card) -> bytes:
    """A card as JSON, UTF-8."""
    return (json.dumps(dataclasses.asdict(card), indent=2, allow_nan=False) + "\n").encode()


def write_card(card: Card, path: str | Path) -> None:
    """Writes a card as JSON, atomically."""
    write_atomically(Path(path), card_json(card))


def parse_card(content: bytes, name: str) -> Card:
    """Reads a card from JSON.

    Args:
        content: from `card_json`.
        name: where it came from, for messages.

    Returns:
        The card.

    Raises:
        ValueError: if it is damaged or of another format.
    """
    try:
        fields = json.loads(content.decode("utf-8"))
        if fields["format"] != FORMAT:
            raise ValueError(_other_format(fields["format"]))
        fields["labels"] = tuple(fields["labels"])
        if fields.get("export") is not None:
            reasons = tuple(fields["export"].get("reasons", ()))
            fields["export"] = Export(**{**fields["export"], "reasons": reasons})
        fields["sources"] = tuple(fields.get("sources", ()))
        fields["score_bins"] = tuple(map(_score_bin, fields.get("score_bins", ())))
        fields["classes"] = tuple(fields.get("classes", ()))
        fields["window"] = Window(**fields.get("window", {}))
        fields["person"] = PersonRule(**fields["person"]) if fields.get("person") else None
        return Card(**fields)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{name} is not a model card of this version: {error}") from error


def _score_bin(fields: dict[str, Any]) -> ScoreBin:
    interval = fields["interval"]
    return ScoreBin(**{**fields, "interval": None if interval is None else tuple(interval)})


def read_card(path: str | Path, model: str | Path) -> Card:
    """Reads a card and checks that it belongs to a model file.

    Args:
        path: the card's JSON file.
        model: the model file that the card speaks of.

    Returns:
        The card.

    Raises:
        ValueError: if the card is missing, damaged, of another format, or of another model file.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"there is no model card {path}; give the folder of a finished run") from error
    card = parse_card(content, str(path))
    check_model(card, file_sha256(model), path, model)
    return card


def check_model(card: Card, found: str, path: str | Path, model: str | Path) -> None:
    """Checks that a card belongs to a model.

    Args:
        card: the card.
        found: SHA-256 of the model.
        path, model: of card and model, for the message.

    Raises:
        ValueError: if the card expects another model.
    """
    if found != card.model_sha256:
        raise ValueError(
            f"{path} belongs to another model: it expects SHA-256 {card.model_sha256[:12]}..., {model} has "
            f"{found[:12]}...; copy both files together from where they were made"
        )
