"""The model card: what a reader, a server or an edge box must know of a model, as JSON beside it."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from ladnn_tf.files import file_sha256, write_atomically
from ladnn_tf.labels import COVID, LESIONS, TASKS

FORMAT = 2
NOTICE = "For research use only. Not a medical device; not for diagnosis or for decisions about patients."


@dataclasses.dataclass(frozen=True)
class Card:
    """What belongs to one model file.

    Attributes:
        name: of the run.
        task: `ladnn` or `baseline`.
        backbone: a key of `BACKBONES`.
        weights: the initial weights as they were asked for; a file by its name and SHA-256.
        normalisation: `{"mean": [R, G, B], "std": [R, G, B]}`, in grey levels, done inside the model.
        image_size: side of the network's input, in pixels.
        temperature: the logit of COVID-19 is divided by it before the sigmoid; fitted on validation.
        threshold: COVID-19 is called at this calibrated probability or above.
        threshold_rule: how the threshold was chosen.
        manifest: `{"file": name, "sha256": hex}` of the data it was trained on.
        model_sha256: of the model file beside the card.
        weights_sha256: of the weights alone, in order, which does not change with the date in the file.
        best_epoch: number of the epoch that was kept, from 1.
        metrics: split -> number of images, patients and positives, and the metrics of the diagnosis with their
            intervals; everything else is in metrics.json.
        versions: of Python and of the packages that trained it.
        revision: the git revision of the code, or empty.
        labels: of the outputs, in order.
        format: of this card.
        notice: what the model must not be used for.
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

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(_other_format(self.format))
        if self.task not in TASKS:
            raise ValueError(f"task should be one of {', '.join(TASKS)}. Received: {self.task!r}")
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


def _other_format(found: Any) -> str:
    return (
        f"card format {found} is not read by this version, which reads {FORMAT}; the run was made by another "
        "version of ladnn_tf: use that version, or train it anew"
    )


def write_card(card: Card, path: str | Path) -> None:
    """Writes a card as JSON, atomically."""
    text = json.dumps(dataclasses.asdict(card), indent=2, allow_nan=False) + "\n"
    write_atomically(Path(path), text.encode())


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
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        if fields["format"] != FORMAT:
            raise ValueError(_other_format(fields["format"]))
        card = Card(**{**fields, "labels": tuple(fields["labels"])})
    except FileNotFoundError as error:
        raise ValueError(f"there is no model card {path}; give the folder of a finished run") from error
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a model card of this version: {error}") from error
    found = file_sha256(model)
    if found != card.model_sha256:
        raise ValueError(
            f"{path} belongs to another model: it expects SHA-256 {card.model_sha256[:12]}..., {model} has "
            f"{found[:12]}...; copy both files together from their run"
        )
    return card
