"""What must be known of one person's answer beside its call: few slices, another number of them, another class."""

import dataclasses

from ladnn_tf.card import Card
from ladnn_tf.labels import CLASS_NAMES, CLASSES
from ladnn_tf.series_answer import SeriesAnswer

FEW = 5
"""Fewer answered slices are few: one of them alone can move their mean by a quarter."""

FEW_PARTS = 3
"""Less than a third of the slices that were looked at are few, too: most of the series was left out."""

OTHER_NUMBER = 2
"""So many times as many slices as the threshold was chosen on, or as few, are another number. Noisy-or grows with
it: of slices of 0.05 each it is 0.10 for 2, 0.54 for 15 and 1.00 for 300."""


def cautions(answer: SeriesAnswer) -> tuple[str, ...]:
    """What a reader must know of this answer, a sentence each; the page knows them by their words.

    Args:
        answer: of the series.

    Returns:
        None of an answer that needs no caution, and where there is no answer.
    """
    if answer.covid is None:
        return ()
    found = [_few(answer), _other_number(answer), _contradiction(answer)]
    return tuple(sentence for sentence in found if sentence)


def caveats(card: Card) -> tuple[str, ...]:
    """The card's caveats but what it says of lesions, of which the answer for a series has none."""
    return dataclasses.replace(card, lesion_targets="").caveats


def _few(answer: SeriesAnswer) -> str:
    answered, looked = len(answer.answered), len(answer.slices)
    if answered >= FEW and FEW_PARTS * answered >= looked:
        return ""
    return f"The answer rests on few slices: {answered} answered of {looked} that were looked at."


def _other_number(answer: SeriesAnswer) -> str:
    answered, chosen = len(answer.answered), answer.card.person.slices if answer.card.person else 0
    if not chosen or (answered <= OTHER_NUMBER * chosen and chosen <= OTHER_NUMBER * answered):
        return ""
    images = "1 image" if chosen == 1 else f"{chosen} images"
    slices = "1 slice was" if answered == 1 else f"{answered} slices were"
    return f"The threshold was chosen on persons with about {images} each; here {slices} answered."


def _contradiction(answer: SeriesAnswer) -> str:
    best = answer.most_probable_class
    if not best or answer.positive == (best == CLASSES[0]):
        return ""
    call = "positive" if answer.positive else "negative"
    return f"The call is {call}, but the most probable class is {CLASS_NAMES[best]}."
