"""What the model server sends, read: its card, the places of bad images in its errors, and its answers."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ladnn_tf.answer import Answer
from ladnn_tf.card import Card, parse_card
from ladnn_tf.labels import COVID, LESIONS, TASKS
from serving.clients.errors import ModelRefused, ServerFailed

_EXPORT = "export it again by python -m export.saved_model"

# The words of the graph (`export/signatures.py`). What TensorFlow adds behind them begins after the bracket.
_COUNT = re.compile(r"\b\d+ of (\d+) images cannot be read")
_PLACE = re.compile(
    r"image_bytes\[(\d+)\]: (.+?)(?=; image_bytes\[\d+\]: |; and \d+ more\b|\](?:\s|$)|$)", re.DOTALL
)

_CUT = (
    "...TRUNCATED"  # the end of a gRPC message of more than 1024 characters, by the server's grpc_status_util.cc
)


@dataclasses.dataclass(frozen=True)
class Served:
    """One version of a model, with the card that it answers by.

    Attributes:
        version: the server's number.
        card: of this version.
        card_sha256: of the card's JSON, 64 hexadecimal digits.
    """

    version: int
    card: Card
    card_sha256: str

    def answer(self, **fields: Any) -> Answer:
        """An answer of this version, with the other fields of `Answer` as given."""
        return Answer(self.card, self.card_sha256, **fields)


def read_card(version: int, outputs: Mapping[str, np.ndarray], *, allow_unfit: bool) -> Served:
    """Reads what the signature `card` answered to one query.

    Args:
        version: that was asked.
        outputs: `card`: (1,) bytes.
        allow_unfit: whether a model that its card calls unfit or unmeasured may answer.

    Returns:
        The version with its card.

    Raises:
        ModelRefused: if this is no card of an exported model, that of an unfit one, or of one that is shown the
            lungs alone.
    """
    found = outputs.get("card", np.empty(0))
    if found.shape != (1,) or not isinstance(found[0], bytes):
        raise ModelRefused(f"version {version} answers the signature 'card' with something else; {_EXPORT}")
    try:
        card = parse_card(found[0], f"the card that version {version} answers with")
    except ValueError as error:
        raise ModelRefused(f"{error}; {_EXPORT}") from error
    if card.export is None:
        raise ModelRefused(f"the card of version {version} is that of a run, not of an exported model; {_EXPORT}")
    if card.unfit and not allow_unfit:
        raise ModelRefused(f"{complaint(card, version)}. Allow it only to study it (allow_unfit)")
    if card.lungs != "whole":
        raise ModelRefused(
            f"version {version} ({card.version}) is shown the lungs alone by its card, and neither the server nor "
            "its clients look for them: answer by the TFLite file of python -m export.tflite, or train a run with "
            "--lungs=whole"
        )
    return Served(version, card, hashlib.sha256(found[0]).hexdigest())


def without_card(version: int, words: str) -> ModelRefused:
    """The error about a model that has no signature `card`.

    Args:
        version: of the model.
        words: the server's, from `transport.quoted`.
    """
    return ModelRefused(
        f"version {version} has no signature 'card', and without its card nobody knows its labels and its "
        f"threshold{words}: if it is an older export, {_EXPORT}; if it is another model, give the name of the "
        "right one (--model)"
    )


def complaint(card: Card, version: int) -> str:
    """Why an unfit model is unfit, in words."""
    if card.export is not None and card.export.fitness == "unmeasured":
        return (
            f"version {version} ({card.version}) was never compared with the run that it was made of, so nobody "
            f"knows whether it is fit; {_EXPORT}"
        )
    reasons = "; ".join(card.export.reasons if card.export else ()) or "its card gives no reason"
    return f"version {version} ({card.version}) is unfit by its own card: {reasons}"


def bad_places(words: str, count: int) -> dict[int, str]:
    """Reads which images of a request an InvalidArgument error blames.

    A server that batches puts the images of several requests together, and all of them get one error, with places
    in the batch. So the places count only if the batch had as many images as the request.

    A server that fills batches up to its allowed sizes names another total, 1 of 4 for a request of 3. The places
    of such a request are lost, and the client halves it; parts that have an allowed size keep theirs.

    Args:
        words: the server's, such as `1 of 2 images cannot be read, ...: image_bytes[1]: the file is empty; ...`.
        count: of the request's images.

    Returns:
        Place in the request -> reason; empty if the error names none, or means those of another batch.
    """
    found = _COUNT.search(words)
    if not found or int(found[1]) != count:
        return {}
    named = _PLACE.findall(words)
    if words.endswith(_CUT) and len(named) > 1:
        named.pop()  # it is named again, and whole, when the rest is sent
    places = {int(place): " ".join(reason.split()) for place, reason in named}
    return {place: reason for place, reason in places.items() if place < count}


def read_answers(served: Served, outputs: Mapping[str, np.ndarray], count: int, *, explain: bool) -> list[Answer]:
    """Reads what `serving_default` or `explain` answered.

    Args:
        served: the version that was asked.
        outputs: `covid` (B,); `lesions` (B, 5) or `classes` (B, C) if the card is that of a model with lesions or
            classes; of `explain` `maps` (B, h, w, C), or of a DRENet `boxes` (B, K, 4) and `scores` (B, K); all
            float32.
        count: of the request's images, B.
        explain: whether it was `explain`.

    Returns:
        An answer for each image; one whose numbers are not finite or no probabilities has an error instead.

    Raises:
        ServerFailed: if an output is missing, or has another shape or type.
    """
    names = _shares(served.card)
    shapes = {COVID: (count,)} | {name: (count, len(labels)) for name, labels in names.items()}
    if explain:
        shapes |= _explanation(served.card, count)
    arrays = {name: _output(outputs, name, shape, served) for name, shape in shapes.items()}
    if "boxes" in arrays and arrays["boxes"].shape[1] != arrays["scores"].shape[1]:
        raise ServerFailed(
            f"version {served.version} answers with {arrays['boxes'].shape[1]} boxes and "
            f"{arrays['scores'].shape[1]} scores for an image. None of these numbers is used; {_EXPORT}"
        )
    return [
        _answer(served, {name: values[place] for name, values in arrays.items()}, names) for place in range(count)
    ]


def _shares(card: Card) -> dict[str, tuple[str, ...]]:
    """The outputs that are probabilities beside that of COVID-19, and the labels of each."""
    if card.classes:
        return {"classes": card.classes}
    return {"lesions": LESIONS} if card.task == "ladnn" else {}


def _explanation(card: Card, count: int) -> dict[str, tuple[int | None, ...]]:
    """The shapes of the outputs that `explain` has more; None for a side that the card does not tell."""
    if card.task in TASKS:
        return {"maps": (count, None, None, 1 + sum(map(len, _shares(card).values())))}
    return {"boxes": (count, None, 4), "scores": (count, None)} if card.task == "drenet" else {}


def _answer(served: Served, said: Mapping[str, np.ndarray], names: Mapping[str, tuple[str, ...]]) -> Answer:
    """The answer for one image.

    Args:
        served: the version that was asked.
        said: what it said of the image.
        names: from `_shares`.
    """
    if not all(np.isfinite(values).all() for values in said.values()):
        return served.answer(error="the model gives no finite numbers for this image")
    probabilities = np.concatenate([np.ravel(said[name]) for name in (COVID, *names, "scores") if name in said])
    if probabilities.min() < 0.0 or probabilities.max() > 1.0:
        return served.answer(error="the model gives numbers for this image that are no probabilities")
    covid = float(said[COVID])
    shares = {name: dict(zip(labels, said[name].tolist(), strict=True)) for name, labels in names.items()}
    rest = {name: values for name, values in said.items() if name != COVID and name not in names}
    return served.answer(covid=covid, positive=covid >= served.card.threshold, **shares, **rest)


def _output(
    outputs: Mapping[str, np.ndarray], name: str, expected: tuple[int | None, ...], served: Served
) -> np.ndarray:
    found = outputs.get(name)
    if found is None:
        raise ServerFailed(f"version {served.version} answers without {name}, which its card promises; {_EXPORT}")
    fits = len(found.shape) == len(expected) and all(
        side == wanted or (wanted is None and side > 0) for side, wanted in zip(found.shape, expected, strict=True)
    )
    if not fits or found.dtype.kind != "f":
        shape = ", ".join("n" if side is None else str(side) for side in expected)
        raise ServerFailed(
            f"version {served.version} answers with {name} {found.shape} {found.dtype}; expected ({shape}) "
            f"float32. None of these numbers is used; {_EXPORT}"
        )
    return found.astype(np.float32, copy=False)
