"""What the model server sends, read: its card, the places of bad images in its errors, and its answers."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ladnn_tf.answer import Answer
from ladnn_tf.card import Card, parse_card
from ladnn_tf.labels import COVID, LESIONS
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
        ModelRefused: if this is no card of an exported model, or that of an unfit one.
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
        outputs: `covid` (B,); `lesions` (B, 5) if the card is that of a model with lesions; `maps` (B, h, w, C) of
            `explain`; all float32.
        count: of the request's images, B.
        explain: whether it was `explain`.

    Returns:
        An answer for each image; one whose numbers are not finite or no probabilities has an error instead.

    Raises:
        ServerFailed: if an output is missing, or has another shape or type.
    """
    has_lesions = served.card.task == "ladnn"
    covid = _output(outputs, COVID, (count,), served)
    lesions = _output(outputs, "lesions", (count, len(LESIONS)), served) if has_lesions else None
    labels = 1 + len(LESIONS) if has_lesions else 1
    maps = _output(outputs, "maps", (count, None, None, labels), served) if explain else None
    return [
        _answer(
            served,
            float(covid[place]),
            None if lesions is None else lesions[place],
            None if maps is None else maps[place],
        )
        for place in range(count)
    ]


def _answer(served: Served, covid: float, lesions: np.ndarray | None, maps: np.ndarray | None) -> Answer:
    probabilities = np.append(lesions if lesions is not None else (), covid)
    if not np.isfinite(probabilities).all() or not (maps is None or np.isfinite(maps).all()):
        return served.answer(error="the model gives no finite numbers for this image")
    if probabilities.min() < 0.0 or probabilities.max() > 1.0:
        return served.answer(error="the model gives numbers for this image that are no probabilities")
    return served.answer(
        covid=covid,
        positive=covid >= served.card.threshold,
        lesions={} if lesions is None else dict(zip(LESIONS, lesions.tolist(), strict=True)),
        maps=maps,
    )


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
