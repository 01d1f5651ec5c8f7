"""A person's answer from a series of slices: which are looked at, what each is said to show, and what follows."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ladnn_tf import person
from ladnn_tf.answer import Answer
from ladnn_tf.card import Card
from ladnn_tf.data import lungs, shown
from ladnn_tf.data.volume import Volume
from ladnn_tf.series_answer import SLICES, SeriesAnswer, SliceAnswer, reasons

COUNT = 15
"""Equidistant slices of a series (Song et al. 2021, section 2.1)."""

SUSPICIOUS = 3
"""Slices that are shown, the most suspicious ones (Song et al. 2021, Figure 3)."""

_BATCH = 16  # slices at a time, so that a long series needs no more memory than a short one


class Predictor(Protocol):
    """What answers slices: `EdgePredictor`, `RunPredictor`, or a client of a server.

    Attributes:
        card: of the model.
        card_sha256: of the card's JSON.
    """

    card: Card
    card_sha256: str

    def predict(self, images: list[np.ndarray]) -> list[Answer]:
        """Answers whole slices, `(H, W, 3)` uint8, one answer each, in order."""


@dataclasses.dataclass(frozen=True, eq=False)
class Look:
    """What a model is shown of a series.

    Attributes:
        name, report, count, spacing_mm, calibrated, choice, lungs_checked: as in `SeriesAnswer`.
        slices: the chosen ones, in order, without answers; those that are left out have their reason.
        images: `(H, W, 3)` uint8, the same slices whole, of which a predictor takes what its model is shown.
    """

    name: str
    slices: tuple[SliceAnswer, ...]
    images: tuple[np.ndarray, ...]
    report: tuple[str, ...]
    count: int
    spacing_mm: tuple[float, float, float]
    calibrated: bool
    choice: str
    lungs_checked: bool


def choose_slices(count: int, how: str) -> list[int]:
    """The slices of a series that are looked at.

    Args:
        count: slices of the series.
        how: `equidistant`, which is floor(i * count / 15) for i = 0 to 14 (all of a shorter series), or `all`.

    Returns:
        Indices from 0, in order.

    Raises:
        ValueError: for another `how`.
    """
    if how not in SLICES:
        raise ValueError(f"slices should be one of {', '.join(SLICES)}. Received: {how!r}")
    if how == "all" or count <= COUNT:
        return list(range(count))
    return [number * count // COUNT for number in range(COUNT)]


def answer_series(
    volume: Volume, predictor: Predictor, *, slices: str = "equidistant", check_lungs: bool = True
) -> SeriesAnswer:
    """Answers a series: chosen slices one by one, then the person by the rule of the model's card.

    Args:
        volume: the series.
        predictor: of the model.
        slices: one of `SLICES`.
        check_lungs: whether slices without enough lung are left out.

    Returns:
        The answer. Where no slice could be answered, its `covid` is None and its `reason` says why.

    Raises:
        ValueError: for another `slices`.
    """
    return answer_look(look(volume, predictor.card, slices=slices, check_lungs=check_lungs), predictor)


def look(volume: Volume, card: Card, *, slices: str = "equidistant", check_lungs: bool = True) -> Look:
    """Chooses slices of a series and makes the pictures that a model is shown of them.

    It is `answer_series` up to the model, for which the volume, hundreds of megabytes, is no longer needed.

    Args:
        volume: the series.
        card: of the model.
        slices, check_lungs: as in `answer_series`.

    Raises:
        ValueError: for another `slices`.
    """
    prepare = shown.preparation(card.lungs)
    found, images = [], []
    for index in choose_slices(len(volume.hu), slices):
        image = _one_channel(volume.pixels(index, card.window.level, card.window.width))
        pixels, reason = prepare(image)
        if check_lungs and card.lungs == "whole":
            reason = lungs.find_lungs(volume.hu[index], volume.spacing_mm[1:]).reason
        images.append(image)
        pixels = image if pixels is image else _one_channel(pixels)
        found.append(SliceAnswer(index, volume.files[index], None, reason, pixels))
    return Look(
        name=volume.name,
        slices=tuple(found),
        images=tuple(images),
        report=tuple(volume.report),
        count=len(volume.hu),
        spacing_mm=volume.spacing_mm,
        calibrated=volume.calibrated,
        choice=slices,
        lungs_checked=check_lungs or card.lungs != "whole",
    )


def answer_look(seen: Look, predictor: Predictor) -> SeriesAnswer:
    """Answers a series whose slices were chosen by `look`, with the card of the same model.

    Returns:
        As `answer_series`.
    """
    answers = _answer_slices(seen, predictor)
    rule = predictor.card.person
    aggregation = rule.aggregation if rule else "mean"
    threshold = rule.threshold if rule else predictor.card.threshold
    places = [place for place, each in enumerate(answers) if each.answer]
    probabilities = np.array([answers[place].answer.covid for place in places])
    covid = person.aggregate(probabilities, aggregation) if places else None
    low, high = (person.slice_interval(probabilities, aggregation) if places else None) or (None, None)
    return SeriesAnswer(
        name=seen.name,
        card=predictor.card,
        card_sha256=predictor.card_sha256,
        covid=covid,
        low=low,
        high=high,
        positive=covid >= threshold if places else None,
        aggregation=aggregation,
        threshold=threshold,
        classes=_class_means([answers[place].answer for place in places]),
        slices=answers,
        suspicious=tuple(sorted(places, key=lambda place: -answers[place].answer.covid)[:SUSPICIOUS]),
        report=seen.report,
        reason="" if places else _no_answer(answers),
        count=seen.count,
        spacing_mm=seen.spacing_mm,
        calibrated=seen.calibrated,
        choice=seen.choice,
        lungs_checked=seen.lungs_checked,
    )


def _answer_slices(seen: Look, predictor: Predictor) -> tuple[SliceAnswer, ...]:
    """The slices with the model's answers to those that are not left out."""
    found = list(seen.slices)
    asked = [place for place, each in enumerate(found) if not each.reason]
    for start in range(0, len(asked), _BATCH):
        places = asked[start : start + _BATCH]
        answers = predictor.predict([seen.images[place] for place in places])
        for place, answer in zip(places, answers, strict=True):
            reason = _why_left_out(answer)
            found[place] = dataclasses.replace(
                found[place],
                answer=None if reason else answer,
                reason=reason,
                failed=bool(reason) and not answer.abstained,
            )
    return tuple(found)


def _one_channel(pixels: np.ndarray) -> np.ndarray:
    """Grey pixels `(H, W, 3)` in the memory of one channel: of a long series hundreds of megabytes less."""
    grey = np.ascontiguousarray(pixels[..., 0])
    return np.broadcast_to(grey[..., None], (*grey.shape, 3))


def _why_left_out(answer: Answer) -> str:
    if answer.abstained:
        return f"not taken for a chest-CT slice: {answer.reason}"
    if answer.covid is None:
        return f"no answer: {answer.error}"
    return ""


def _class_means(answers: Sequence[Answer]) -> dict[str, float]:
    names = answers[0].classes if answers else ()
    return {name: float(np.mean([answer.classes[name] for answer in answers])) for name in names}


def _no_answer(slices: Sequence[SliceAnswer]) -> str:
    if not slices:
        return "the series has no slices"
    counted = "; ".join(f"{number} of them {reason}" for number, reason in reasons(slices))
    every = "the only slice" if len(slices) == 1 else f"all {len(slices)} slices that were looked at"
    return f"{every} had to be left out: {counted}"
