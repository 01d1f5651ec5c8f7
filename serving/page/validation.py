"""What a card says of validation, in words: on which data it was, and how often the answers were right there."""

import decimal
import re

from ladnn_tf.card import Card
from ladnn_tf.edge_files import printable
from serving.page import percent
from serving.page.words import Words

_RULE = re.compile(r"the highest with a sensitivity of at least (\d+(?:\.\d+)?) on validation")
_LIKE_THE_RUN = ("float32", "saved_model")  # formats whose figures are the run's own


def data(card: Card, words: Words) -> str:
    """Names the data that a model was trained and validated on; phantoms are said to be drawn."""
    if card.sources:
        return words("list.join").join(
            words(key) if (key := f"data.{source}") in words else printable(source) for source in card.sources
        )
    manifest = card.manifest.get("file")
    return words("data.manifest", file=printable(manifest)) if manifest else words("data.unknown")


def bin_sentence(card: Card, covid: float, words: Words) -> str:
    """How often validation images with such a score were COVID-19, or that nobody knows.

    Args:
        card: of the model that answered.
        covid: the calibrated probability, in [0, 1].
        words: of the reader's language.
    """
    found = card.score_bin(covid)
    if found is None:
        return words("view.bin_unknown")
    values = {"data": data(card, words), "scores": percent.span(found.low, found.high, words)}
    if found.interval is None:
        return words("view.bin_empty", **values)
    images = sum(each.images for each in card.score_bins)
    positives = sum(each.positives for each in card.score_bins)
    shares = words(
        "view.bin_one" if found.positives == 1 else "view.bin_many",
        **values,
        positives=found.positives,
        images=found.images,
        share=percent.share(found.positives / found.images, words),
        interval=percent.interval(*found.interval, words),
    )
    rarer = words("view.bin_prevalence", share=percent.share(positives / images, words))
    return words("sentence.join").join((shares, rarer))


def operating_point(card: Card, threshold: str, words: Words) -> str:
    """How the threshold was chosen, on which images, and what it did on them.

    Args:
        card: of the model.
        threshold: the card's, in per cent.
        words: of the reader's language.
    """
    rule = _RULE.fullmatch(card.threshold_rule)
    if rule:
        sensitivity = percent.exactly(decimal.Decimal(rule[1]), words)
        sentences = [words("view.point_rule", threshold=threshold, sensitivity=sensitivity)]
    else:
        sentences = [words("view.point", threshold=threshold, rule=card.threshold_rule)]
    sentences.append(words("view.data", data=data(card, words)))
    sentences += _figures(card, words)
    if card.export is not None and card.export.format not in _LIKE_THE_RUN:
        key = "view.converted_unfit" if card.unfit else "view.converted"
        sentences.append(words(key, format=card.export.format))
    return words("sentence.join").join(sentences)


def _figures(card: Card, words: Words) -> list[str]:
    """What the card says of validation at the threshold; nothing where it says nothing or of another one."""
    validation = card.metrics.get("validation")
    try:
        point = validation["covid"]["at_threshold"]
        if abs(point["threshold"] - card.threshold) > 1e-9:
            return []
        figures = {
            name: words(
                "view.figure",
                value=percent.share(point[name]["value"], words),
                interval=percent.interval(point[name]["low"], point[name]["high"], words),
            )
            for name in ("sensitivity", "specificity")
        }
        counts = {name: int(validation[name]) for name in ("images", "patients", "positives")}
    except (LookupError, TypeError, ValueError):
        return []
    return [words("view.on_validation", **figures), words("view.prevalence", **counts)]
