"""What a model says of one image, whoever asked it: the edge predictor, or a client of TensorFlow Serving."""

import dataclasses

import numpy as np

from ladnn_tf.card import Card


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """The answer for one image.

    Attributes:
        card: of the model that answered.
        card_sha256: of the card's JSON, 64 hexadecimal digits.
        covid: calibrated probability of COVID-19, in [0, 1]; None where there is no answer.
        positive: whether `covid` reaches the threshold; None where there is no answer.
        lesions: probability of each lesion, in [0, 1], not calibrated; empty where there is no answer, and for
            models without lesions.
        classes: probability of each class of the card, in [0, 1], not calibrated, their sum 1; empty where there
            is no answer, and for models without classes.
        maps: `(h, w, C)` float32 raw attention maps, in the order COVID-19, then `labels.LESIONS` (C = 6; of the
            baseline COVID-19 alone, C = 1); None where there is no answer, none were asked for, or the model has
            none.
        boxes: `(K, 4)` float32, where a DRENet looked closer: top, left, bottom, right as shares of the image's
            sides, up to half a box outside of [0, 1]; None for other models and where there is no answer.
        scores: `(K,)` float32, its confidence in each box, in [0, 1], the highest first; None as `boxes`.
        abstained: whether there is no answer because this is no chest-CT slice.
        reason: why it abstained, or empty.
        error: why the image could not be answered, or empty.
    """

    card: Card
    card_sha256: str
    covid: float | None = None
    positive: bool | None = None
    lesions: dict[str, float] = dataclasses.field(default_factory=dict)
    classes: dict[str, float] = dataclasses.field(default_factory=dict)
    maps: np.ndarray | None = None
    boxes: np.ndarray | None = None
    scores: np.ndarray | None = None
    abstained: bool = False
    reason: str = ""
    error: str = ""

    @property
    def model_version(self) -> str:
        """`Card.version` of the model that answered."""
        return self.card.version

    @property
    def threshold(self) -> float:
        """COVID-19 is called at this probability or above."""
        return self.card.threshold

    @property
    def unfit(self) -> bool:
        """Whether the model failed its comparison with the run that it was made of, or never had one."""
        return self.card.unfit
