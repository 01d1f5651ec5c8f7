"""What is said of images and series alike: the call with its probability and threshold, and what the model is."""

from ladnn_tf.card import NOTICE, Card
from serving.page import percent
from serving.page.reasons import reason_in
from serving.page.words import Words


def call_fields(covid: float, positive: bool, threshold: float, words: Words, page: str, **said: str) -> dict:
    """The fields of a view that an answer has.

    Args:
        covid: calibrated probability of COVID-19, in [0, 1].
        positive: the call.
        threshold: of the call.
        words: of the reader's language.
        page: `view` or `series`, with which the keys of the sentences begin.
        said: what the sentences say besides.

    Returns:
        `state`, `sentence`, `covid`, `positive`, `percent` and `digits`, as of `view.ResultView`.
    """
    digits = percent.digits_apart(covid, threshold)
    limit = percent.share(threshold, words, digits)
    shown = (percent.share if covid == threshold else percent.probability)(covid, words, digits)
    if positive:
        call = "positive_at" if shown == limit else "positive_above"
    else:
        call = "negative_just_below" if shown == limit else "negative_below"
    return {
        "state": "answered",
        "sentence": words(f"{page}.{call}", probability=shown, threshold=limit, **said),
        "covid": covid,
        "positive": positive,
        "percent": shown,
        "digits": digits,
    }


def threshold_percent(covid: float | None, threshold: float, words: Words) -> str:
    """A threshold in per cent, with as many digits as the probability beside it needs; None if there is none."""
    return percent.share(threshold, words, 0 if covid is None else percent.digits_apart(covid, threshold))


def model_fields(card: Card, card_sha256: str, words: Words) -> dict[str, object]:
    """The fields of a view that are the model's, as of `view.ResultView`; what is not known stays English."""
    return {
        "model_version": card.version,
        "card_sha256": card_sha256,
        "unfit": card.unfit,
        "of_phantoms": card.of_phantoms,
        "caveats": [reason_in(words, caveat)[0] for caveat in card.caveats],
        "notice": notice(card, words),
    }


def notice(card: Card, words: Words) -> str:
    """What the model must not be used for: the card's own words, translated where they are the usual ones."""
    return words("notice") if card.notice == NOTICE else card.notice
