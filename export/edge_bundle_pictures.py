"""The pictures that an edge bundle tests itself with, and the answers that they get where it is made."""

from collections.abc import Callable

import numpy as np

from ladnn_tf.answer import Answer
from ladnn_tf.data.phantom_anatomy import sample_patient
from ladnn_tf.data.phantom_slice import draw_slice
from ladnn_tf.data.preprocess import encode_png
from ladnn_tf.edge_predictor import EdgePredictor

COVID, OTHER, NOISE = "phantom-covid.png", "phantom-other.png", "noise.png"

_FINDINGS = {COVID: ("GGO", "Csld"), OTHER: ("nodule",)}
_SIZE = 256  # pixels; no backbone's own size by default, so that the box resizes too
_LEVEL = 0.5  # of the lungs, from the aortic arch to the diaphragm
_PAIRS = 6


def draw_phantoms(seed: int) -> dict[str, bytes]:
    """Draws a slice with the signs of COVID-19, and one of somebody else without.

    Args:
        seed: of everything.

    Returns:
        File name -> PNG, 256 x 256 pixels, grey.
    """
    drawn = {}
    for number, (name, findings) in enumerate(_FINDINGS.items()):
        body, scanner = (np.random.default_rng([seed, number, stream]) for stream in (0, 1))
        patient = sample_patient(body, scanner)
        image = draw_slice(patient, findings, level=_LEVEL, seed=[seed, number, 2], size=_SIZE).image
        drawn[name] = encode_png(image)
    return drawn


def make_self_test(
    predictor: EdgePredictor, tolerance: float, draw: Callable[[int], dict[str, bytes]] = draw_phantoms
) -> tuple[dict[str, bytes], dict]:
    """Draws the pictures and answers them.

    Of six pairs of slices, always the same six, that one is taken whose answers differ most: a box that answers
    every picture alike should not pass.

    Args:
        predictor: of the bundle's model.
        tolerance: how far a probability may be off on another machine.
        draw: as `draw_phantoms`.

    Returns:
        File name -> PNG; and what `bundle/self_test.py` reads as JSON: `version`, `tolerance`, and for each of
        `pictures` either `{"abstained": true}` or `covid`, `lesions` and `maps_shape`; of a model with classes
        also `classes`.

    Raises:
        ValueError: if none of the pairs is answered, or noise is.
    """
    pairs = [draw(seed) for seed in range(_PAIRS)]
    answered = [(pair, predictor.predict([pair[COVID], pair[OTHER]])) for pair in pairs]
    complete = [
        (pair, results) for pair, results in answered if all(result.covid is not None for result in results)
    ]
    if not complete:
        result = next(result for result in answered[0][1] if result.covid is None)
        raise ValueError(
            f"the model answers no pair of the test's slices ({result.error or result.reason}): no bundle made"
        )
    pair, results = max(complete, key=lambda one: _difference(*one[1]))
    noise = encode_png(np.random.default_rng(0).integers(0, 256, (_SIZE, _SIZE), np.uint8))
    (refused,) = predictor.predict([noise])
    if not refused.abstained:
        raise ValueError("noise gets an answer instead of being refused (data/quality.py): no bundle made")
    answers = {name: _expected(result) for name, result in zip(pair, results, strict=True)}
    answers[NOISE] = {"abstained": True}
    expected = {"version": predictor.card.version, "tolerance": tolerance, "pictures": answers}
    return {**pair, NOISE: noise}, expected


def _difference(one: Answer, other: Answer) -> float:
    """The largest difference of two answers' probabilities."""
    shares, others = one.lesions | one.classes, other.lesions | other.classes
    return max([abs(one.covid - other.covid), *(abs(shares[name] - others[name]) for name in shares)])


def _expected(result: Answer) -> dict:
    return {
        "abstained": False,
        "covid": result.covid,
        "lesions": result.lesions,
        "maps_shape": [] if result.maps is None else list(result.maps.shape),
        **({"classes": result.classes} if result.classes else {}),
    }
