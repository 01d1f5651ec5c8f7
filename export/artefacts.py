"""Exported models behind one face, so that the gate asks each of them as its users will."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from export.signatures import BYTES, EXPLAIN, PIXELS, SIGNATURES
from ladnn_tf.answer import Answer
from ladnn_tf.card import Card, check_model, parse_card
from ladnn_tf.data.preprocess import encode_png
from ladnn_tf.edge import EdgePredictor
from ladnn_tf.files import folder_sha256
from ladnn_tf.labels import COVID, LESIONS
from ladnn_tf.tflite_file import CARD_NAME, read_card

ASSETS, EXTRAS = "assets", "assets.extra"
"""The folders of a SavedModel that hold what is not model: card, which the graph reads, and warm-up records."""

_BATCH = 8
# One graph computes the same product in two signatures; only the order of its sums may differ.
_SAME_ANSWER = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class Outputs:
    """What a model says of N images; NaN where it gave no answer.

    Attributes:
        covid: `(N,)` float, calibrated probability of COVID-19.
        lesions: `(N, 5)` float, probabilities in the order of `labels.LESIONS`; None where there are none.
        maps: `(N, h, w, C)` float, raw attention maps; None where there are none.
        problems: what the model itself said was wrong, a sentence each.
        classes: `(N, C)` float, probabilities in the order of the card; None where there are none.
        boxes: `(N, K, 4)` float, as `answer.Answer` has them; None where there are none.
        scores: `(N, K)` float, theirs; None where there are none.
    """

    covid: np.ndarray
    lesions: np.ndarray | None
    maps: np.ndarray | None
    problems: tuple[str, ...] = ()
    classes: np.ndarray | None = None
    boxes: np.ndarray | None = None
    scores: np.ndarray | None = None


ARRAYS = ("covid", "lesions", "maps", "classes", "boxes", "scores")
"""The arrays of `Outputs`."""


class Artefact(Protocol):
    """An exported model, ready to answer.

    Attributes:
        name: of the file, or of the version folder.
        format: as `card.Export.format`.
        size: of all that is shipped, in bytes.
        card: checked against the model.
    """

    name: str
    format: str
    size: int
    card: Card

    def from_pixels(self, images: np.ndarray) -> Outputs:
        """Answers `(N, S, S, 3)` uint8 RGB in [0, 255], S the network's own size."""

    def from_bytes(self, encoded: Sequence[bytes]) -> Outputs:
        """Answers PNG or JPEG files, given by their bytes."""

    def answer(self, encoded: bytes) -> None:
        """Answers one file in the way that is used most, for the clock."""


class TFLiteArtefact:
    """A TFLite file, asked through the edge predictor that is shipped with it.

    One that the predictor does not take, say for want of an output, answers nothing and says why.

    Args:
        path: the file, with a card inside.

    Raises:
        ValueError: if the file or its card is damaged.
    """

    def __init__(self, path: str | Path):
        self.card = read_card(path)[0]
        self._predictor, self._refusal = None, ""
        try:
            # The gate decides about fitness, and its images are slices by their manifest: neither is asked here.
            self._predictor = EdgePredictor(path, allow_unfit=True, check=False)
        except ValueError as error:
            self._refusal = f"the edge predictor does not take it: {error}"
        self.format = self.card.export.format
        self.name = Path(path).name
        self.size = Path(path).stat().st_size

    def from_pixels(self, images: np.ndarray) -> Outputs:
        if self._predictor is None:
            return self._no_outputs(len(images))
        return edge_outputs([self._predictor.ask(image) for image in images])

    def from_bytes(self, encoded: Sequence[bytes]) -> Outputs:
        if self._predictor is None:
            return self._no_outputs(len(encoded))
        return edge_outputs(self._predictor.predict(list(encoded)))

    def _no_outputs(self, images: int) -> Outputs:
        return Outputs(np.full(images, np.nan), None, None, (self._refusal,))

    def answer(self, encoded: bytes) -> None:
        self._predictor.predict([encoded])


def edge_outputs(results: Sequence[Answer]) -> Outputs:
    """The edge predictor's answers as arrays.

    Args:
        results: one for each image.

    Returns:
        The arrays; an image without an answer is NaN, and the first one's reason is a problem.
    """
    silent = [n for n, result in enumerate(results) if result.covid is None]
    problems = ()
    if silent:
        first = results[silent[0]]
        reason = first.error or first.reason or "no reason was given"
        problems = (
            f"{len(silent)} of {len(results)} images got no answer, the first (number {silent[0]}): {reason}",
        )
    lesions = _labelled([result.lesions for result in results], LESIONS)
    classes = _labelled([result.classes for result in results], results[0].card.classes if results else ())
    maps, boxes, scores = (
        _stacked([getattr(result, name) for result in results]) for name in ("maps", "boxes", "scores")
    )
    covid = np.array([np.nan if result.covid is None else result.covid for result in results])
    return Outputs(covid, lesions, maps, problems, classes, boxes, scores)


def _labelled(said: Sequence[dict[str, float]], labels: Sequence[str]) -> np.ndarray | None:
    """`(N, labels)`, NaN where a label is missing; None where all are."""
    return np.array([[one.get(label, np.nan) for label in labels] for one in said]) if any(said) else None


def _stacked(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """One array of all, NaN where one is missing; None where all are."""
    shape = next((array.shape for array in arrays if array is not None), None)
    if shape is None:
        return None
    return np.stack([np.full(shape, np.nan) if array is None else array for array in arrays])


class SavedModelArtefact:
    """A SavedModel, asked through its signatures as a server asks it, in batches of at most 8.

    `serving_default` and `pixels` give the probabilities, `explain` maps or boxes; it takes bytes only, so that
    pixels are given to it as PNG, which loses nothing.

    Args:
        folder: the version's folder, with `assets/card.json`.
        name: for the report; the folder's own name by default.

    Raises:
        ValueError: if the card is missing, damaged or of another model, or a signature is missing.
    """

    def __init__(self, folder: str | Path, name: str = ""):
        folder = Path(folder)
        self.card = saved_model_card(folder)
        self.format = self.card.export.format
        self.name = name or folder.name
        self.size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        self._model = tf.saved_model.load(str(folder))  # its signatures live as long as it does
        missing = [name for name in SIGNATURES if name not in self._model.signatures]
        if missing:
            raise ValueError(f"{folder} has no signature {', '.join(missing)}; export the run again")

    def from_pixels(self, images: np.ndarray) -> Outputs:
        encoded = [encode_png(image, compress_level=1) for image in images]
        return self._outputs(PIXELS, "images", list(images), encoded)

    def from_bytes(self, encoded: Sequence[bytes]) -> Outputs:
        return self._outputs(BYTES, "image_bytes", list(encoded), list(encoded))

    def answer(self, encoded: bytes) -> None:
        self._call(BYTES, "image_bytes", [encoded])

    def _outputs(self, signature: str, argument: str, inputs: list[Any], encoded: list[bytes]) -> Outputs:
        try:
            said = self._call(signature, argument, inputs)
            explained = self._call(EXPLAIN, "image_bytes", encoded)
        except tf.errors.OpError as error:
            reason = (error.message or str(error)).splitlines()[0]
            return Outputs(np.full(len(inputs), np.nan), None, None, (f"it failed: {reason}",))
        if COVID not in said:
            return Outputs(np.full(len(inputs), np.nan), None, None, (f"{signature} has no output {COVID}",))
        problems = []
        for head in said:
            if head not in explained or not np.allclose(said[head], explained[head], 0, _SAME_ANSWER):
                problems.append(
                    f"the signatures {signature} and {EXPLAIN} give another {head} for the same images"
                )
        explanation = {name: explained.get(name) for name in ("maps", "boxes", "scores")}
        return Outputs(
            said[COVID],
            said.get("lesions"),
            problems=tuple(problems),
            classes=said.get("classes"),
            **explanation,
        )

    def _call(self, signature: str, argument: str, inputs: list[Any]) -> dict[str, np.ndarray]:
        call = self._model.signatures[signature]
        batches = [
            call(**{argument: tf.constant(np.stack(part) if argument == "images" else part)})
            for part in (inputs[start : start + _BATCH] for start in range(0, len(inputs), _BATCH))
        ]
        return {head: np.concatenate([batch[head].numpy() for batch in batches]) for head in batches[0]}


def card_path(folder: str | Path) -> Path:
    """Where the card of a SavedModel lies, in the folder of its version."""
    return Path(folder) / ASSETS / CARD_NAME


def saved_model_sha256(folder: str | Path) -> str:
    """The SHA-256 of a SavedModel without its card and its warm-up records, as its card has it."""
    return folder_sha256(folder, without=(ASSETS, EXTRAS))


def saved_model_card(folder: str | Path) -> Card:
    """Reads the card of a SavedModel and checks that it belongs to it.

    Args:
        folder: the version's folder.

    Returns:
        The card.

    Raises:
        ValueError: if the card is missing, damaged, no exported model's or another model's, or where an older
            ladnn_tf put it.
    """
    path = card_path(folder)
    if not path.is_file() and (Path(folder) / EXTRAS / CARD_NAME).is_file():
        raise ValueError(
            f"{folder} was made by an older version of ladnn_tf: its card is in {EXTRAS}, where the model cannot "
            "read it. Export the run again by python -m export.saved_model"
        )
    if not path.is_file():
        raise ValueError(f"there is no {path}; give the folder of a version by python -m export.saved_model")
    card = parse_card(path.read_bytes(), str(path))
    if card.export is None:
        raise ValueError(f"{path} is the card of a run, not of an exported model; export it again")
    check_model(card, saved_model_sha256(folder), path, folder)
    return card


def artefact_card(path: str | Path) -> Card:
    """The card of a TFLite file or of a SavedModel's version folder, checked against the model.

    Raises:
        ValueError: if there is no such artefact, or the card is not its own.
    """
    return saved_model_card(path) if Path(path).is_dir() else read_card(path)[0]
