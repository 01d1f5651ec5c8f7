"""What a reader sees of an answer: sentences in the reader's language, and pictures.

Nothing here decides anything: the call and the threshold are the answer's, the figures are the card's.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping

import numpy as np

from ladnn_tf.answer import Answer
from ladnn_tf.card import Card
from ladnn_tf.edge_files import printable
from ladnn_tf.edge_overlay import strongest
from ladnn_tf.labels import COVID, LESIONS
from serving.page import percent, pictures, validation
from serving.page.calls import call_fields, model_fields, threshold_percent
from serving.page.reasons import reason_in
from serving.page.words import Words

STATES = ("answered", "abstained", "error")
"""Whether an image has an answer, has none as it is no chest-CT slice, or has none for another reason."""

_NAME_CHARACTERS = 160  # of a file's name, longer ones lose their middle


@dataclasses.dataclass(frozen=True)
class LabelView:
    """One lesion or class of an answer.

    Attributes:
        label: one of `labels.LESIONS` or `labels.CLASSES`.
        name: in the reader's language.
        probability: in [0, 1], not calibrated.
        percent: the same in per cent.
    """

    label: str
    name: str
    probability: float
    percent: str


@dataclasses.dataclass(frozen=True)
class HeatView:
    """One map of an answer.

    Attributes:
        label: `covid` or one of `labels.LESIONS`.
        name: in the reader's language.
        uri: `pictures.heat_uri` of the map.
        text: what the map shows, in words, for readers who do not see it.
    """

    label: str
    name: str
    uri: str
    text: str


@dataclasses.dataclass(frozen=True)
class ResultView:
    """One image with its answer, ready to be shown; all texts are in the reader's language.

    Attributes:
        file: `shown_name` of the image.
        state: one of `STATES`.
        sentence: the probability, the threshold and the call; where there is no answer, that there is none.
        threshold: of the call.
        threshold_percent: the same in per cent, with the digits of `percent`.
        model_version, card_sha256: of the model that answered.
        unfit: whether the model failed its comparison with its run, or never had one.
        of_phantoms: whether it was trained on drawn slices alone.
        caveats: the card's, a sentence each; those that are not known stay English.
        notice: what the model must not be used for.
        picture: `pictures.slice_uri` of the slice, or of its lungs where the network was shown these alone; empty
            if it could not be read.
        reason: why there is no answer, else empty.
        reason_language: of `reason`, which may be English on a Chinese page.
        covid: calibrated probability of COVID-19, in [0, 1]; None where there is no answer, as is `positive`, and
            all that follows is empty.
        positive: the call.
        percent: `covid` in per cent, on the same side of the threshold as `covid`.
        digits: behind the point of `percent`.
        shown: that the network, and so the picture, was shown the lungs alone; empty where it was the whole slice.
        bin_sentence: how often validation images with such a score were COVID-19, or that nobody knows.
        lesions: in the order of `labels.LESIONS`; empty for a baseline, and where they mean nothing.
        lesion_caveat: how the lesions must be read, or why there are none.
        lesions_valid: whether the lesions mean anything beside this call; None where that is not known.
        classes: in the order of `labels.CLASSES`; empty for models without classes.
        boxes: whether boxes are drawn in the picture; None for models without boxes.
        heat: the maps, COVID-19 first; that one alone where there are no lesions.
        scale: `pictures.scale_uri`, the colours of the maps from the lowest to the highest; empty without maps.
        cells: height and width of a map, in words.
    """

    file: str
    state: str
    sentence: str
    threshold: float
    threshold_percent: str
    model_version: str
    card_sha256: str
    unfit: bool
    of_phantoms: bool
    caveats: list[str]
    notice: str
    picture: str = ""
    reason: str = ""
    reason_language: str = ""
    covid: float | None = None
    positive: bool | None = None
    percent: str = ""
    digits: int = 0
    shown: str = ""
    bin_sentence: str = ""
    lesions: list[LabelView] = dataclasses.field(default_factory=list)
    lesion_caveat: str = ""
    lesions_valid: bool | None = None
    classes: list[LabelView] = dataclasses.field(default_factory=list)
    boxes: bool | None = None
    heat: list[HeatView] = dataclasses.field(default_factory=list)
    scale: str = ""
    cells: str = ""


def view_of(file: str, answer: Answer, pixels: np.ndarray | None, words: Words) -> ResultView:
    """An answer as it is shown.

    Args:
        file: the image's name as it was sent, which may hold anything.
        answer: of the image; for a file that never reached the predictor one with its `error`.
        pixels: `(H, W, 3)` uint8 RGB, what `Predictor.answer` gives with the answer, of which maps and boxes are
            shares; None for no pictures.
        words: of the reader's language.
    """
    reason, reason_language = reason_in(words, answer.reason or answer.error)
    common = {
        **model_fields(answer.card, answer.card_sha256, words),
        "file": shown_name(file),
        "threshold": answer.threshold,
        "threshold_percent": threshold_percent(answer.covid, answer.threshold, words),
        "picture": "" if pixels is None else pictures.slice_uri(pixels),
        "reason": reason,
        "reason_language": reason_language,
    }
    if answer.covid is None:
        state = "abstained" if answer.abstained else "error"
        return ResultView(state=state, sentence=words(f"view.{state}"), **common)
    valid = _lesions_valid(answer)
    view = ResultView(
        **call_fields(answer.covid, answer.positive, answer.threshold, words, "view"),
        shown=words("view.lungs_alone") if answer.card.lungs == "extracted" else "",
        bin_sentence=validation.bin_sentence(answer.card, answer.covid, words),
        lesions=[
            LabelView(label, words(f"lesion.{label}"), value, percent.probability(value, words))
            for label, value in answer.lesions.items()
            if valid is not False
        ],
        lesion_caveat=_lesion_caveat(answer, words),
        lesions_valid=valid,
        classes=class_views(answer.classes, words),
        boxes=None if answer.boxes is None else bool(answer.positive),
        **common,
    )
    if view.boxes and pixels is not None:
        boxes = strongest(answer, float(answer.scores.max(initial=0.0)))
        view = dataclasses.replace(view, picture=pictures.boxed_uri(pixels, *boxes))
    if answer.maps is None:
        return view
    rows, columns = answer.maps.shape[:2]
    return dataclasses.replace(
        view,
        heat=_heat(answer.maps[..., :1] if valid is False else answer.maps, words),
        scale=pictures.scale_uri(),
        cells=words("view.cells", rows=rows, columns=columns),
    )


def shown_name(file: str) -> str:
    """A file's name that is safe to show: no control characters, no way up or to a root, not too long.

    Folders stay, as the files of a zip or a folder are often called `001.png` in every one of them.
    """
    parts = [part for part in re.split(r"[/\\]", file) if part not in ("", ".", "..")]
    name = printable("/".join(parts)).strip() or "?"
    if len(name) <= _NAME_CHARACTERS:
        return name
    end = _NAME_CHARACTERS // 2
    return f"{name[: _NAME_CHARACTERS - end - 1]}…{name[-end:]}"


def class_views(classes: Mapping[str, float], words: Words) -> list[LabelView]:
    """The classes' probabilities as they are shown."""
    return [
        LabelView(label, words(f"class.{label}"), value, percent.probability(value, words))
        for label, value in classes.items()
    ]


def _lesions_valid(answer: Answer) -> bool | None:
    if not answer.lesions or not answer.card.lesion_targets:
        return None
    return bool(answer.positive) or answer.card.lesion_targets != "positives"


def _lesion_caveat(answer: Answer, words: Words) -> str:
    if not answer.lesions:
        return ""
    if not answer.card.lesion_targets:
        return words("view.lesions_unknown")
    return words("view.lesions_valid" if _lesions_valid(answer) else "view.lesions_hidden")


def _heat(maps: np.ndarray, words: Words) -> list[HeatView]:
    views = []
    for label, heat in zip((COVID, *LESIONS), np.moveaxis(maps, -1, 0), strict=False):  # or the first alone
        name = words(f"lesion.{label}")
        views.append(HeatView(label, name, pictures.heat_uri(heat), heat_text(heat, name, words)))
    return views


def heat_text(heat: np.ndarray, name: str, words: Words) -> str:
    """Where in the picture a map is highest; it says nothing of the patient's left and right."""
    if heat.max() <= heat.min():
        return words("view.heat_flat", name=name)
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    vertical = ("upper", "middle", "lower")[3 * int(row) // heat.shape[0]]
    horizontal = ("left", "centre", "right")[3 * int(column) // heat.shape[1]]
    return words("view.heat_highest", name=name, place=words(f"view.place.{vertical}_{horizontal}"))


def operating_point(card: Card, words: Words, results: Iterable[ResultView] = ()) -> str:
    """The threshold, how it was chosen, and what it did on validation, in words.

    Args:
        card: of the model that answered.
        words: of the reader's language.
        results: shown beside it; the threshold gets as many digits as their probabilities need.
    """
    digits = max((result.digits for result in results), default=0)
    return validation.operating_point(card, percent.share(card.threshold, words, digits), words)
