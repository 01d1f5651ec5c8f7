"""Series and predictors whose answers are written down, so that a person's answer can be worked out by hand."""

import math

import numpy as np
import tiny_tflite

from ladnn_tf.answer import Answer
from ladnn_tf.data.lungs import Lungs
from ladnn_tf.data.volume import Volume

CLASSES = ("covid19", "bacterial", "normal")
LUNG, NO_LUNG = -700.0, 40.0
"""HU of a slice in which `find_lungs` finds lungs, and of one in which it does not."""


class Predictor:
    """Gives the answers that it was made with, one after the other.

    Args:
        answers: probabilities of COVID-19, or the fields of an `Answer`.
        changes: of the card.

    Attributes:
        batches: the images of each call.
    """

    def __init__(self, answers, **changes):
        self.card = tiny_tflite.card_of(b"", **changes)
        self.card_sha256 = "c" * 64
        self.batches = []
        self._answers = iter(answers)

    def predict(self, images):
        self.batches.append(images)
        return [self._answer(next(self._answers)) for _ in images]

    def _answer(self, fields):
        fields = fields if isinstance(fields, dict) else {"covid": fields}
        covid = fields.get("covid")
        positive = None if covid is None else covid >= self.card.threshold
        return Answer(self.card, self.card_sha256, **({"positive": positive} | fields))


def volume(values, *, size=8, **changes):
    """A series whose slices have one value in HU each."""
    hu = np.ones((len(values), size, size), np.float32) * np.array(values, np.float32)[:, None, None]
    fields = {
        "name": "series 2 (CHEST)",
        "hu": hu,
        "spacing_mm": (1.25, 0.7, 0.7),
        "report": (),
        "files": tuple(f"IM{number:03d}" for number in range(len(values))),
    }
    return Volume(**{**fields, **changes})


def pictures(count, **changes):
    """A series of display pictures, which has no spacing."""
    return volume([LUNG] * count, spacing_mm=(math.nan,) * 3, calibrated=False, **changes)


def find_lungs(hu, pixel_mm=(math.nan, math.nan)):
    """In place of `lungs.find_lungs`: the lungs are the upper left quarter of slices below -300 HU."""
    mask = np.zeros(hu.shape, bool)
    if hu.mean() < -300:
        mask[: hu.shape[0] // 2, : hu.shape[1] // 2] = True
        return Lungs(mask, 0.25, 1, "")
    return Lungs(mask, 0.0, 0, "no lungs")


def drenet(covid, boxes, scores):
    """The fields of an answer of DRENet."""
    classes = dict(zip(CLASSES, (covid, (1 - covid) / 2, (1 - covid) / 2), strict=True))
    return {
        "covid": covid,
        "classes": classes,
        "boxes": np.array(boxes, np.float32),
        "scores": np.array(scores, np.float32),
    }
