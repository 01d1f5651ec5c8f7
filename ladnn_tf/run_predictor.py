"""A run as a predictor: its Keras model behind the same answers as the edge box gives."""

import functools
from collections.abc import Iterable, Mapping

import keras
import numpy as np
from scipy.special import softmax

from ladnn_tf import runs
from ladnn_tf.answer import Answer
from ladnn_tf.calibration import calibrated_probabilities
from ladnn_tf.card import Card
from ladnn_tf.data import preprocess, shown
from ladnn_tf.files import file_sha256
from ladnn_tf.labels import COVID, LESIONS, TASKS
from ladnn_tf.models.attention import attention_model
from ladnn_tf.models.ladnn import logits_model

_BATCH = 8  # images per step; more are hardly faster on a CPU, and a VGG-16 needs 40 MB for each
_VIEWED_BATCH = 4  # of a DRENet, which has four views of each image in memory too


class RunPredictor:
    """A finished run, ready to answer; its model is read at the first answer.

    Args:
        run: the model and its card.
        check: whether to abstain from what is no chest-CT slice (`data/quality.py`). A model that is shown the
            lungs alone abstains from a slice without lungs in any case.
        maps: whether LA-DNN and baseline answer with their attention maps.
        batch_size: images per step, the most that are in memory together; of a DRENet at most 4.

    Attributes:
        card: the run's card.
        card_sha256: of its JSON file.
        check: as given.

    Raises:
        ValueError: if the card's file cannot be read.
    """

    def __init__(self, run: runs.Run, *, check: bool = True, maps: bool = True, batch_size: int = _BATCH) -> None:
        self.card: Card = run.card
        self.card_sha256 = file_sha256(run.folder / "card.json")
        self.check = check
        self._run = run
        self._maps = maps
        self._batch_size = min(batch_size, _VIEWED_BATCH) if run.card.task == "drenet" else batch_size

    @functools.cached_property
    def _model(self) -> keras.Model:
        if self._maps and self.card.task in TASKS:
            return attention_model(self._run.model)
        return logits_model(self._run.model)

    def predict(self, images: Iterable[bytes | np.ndarray]) -> list[Answer]:
        """Answers images; what is wrong with one does not keep the others from their answers.

        Args:
            images: encoded PNG or JPEG files, or RGB pixels `(H, W, 3)` uint8 of any size, in any mixture: whole
                slices, also for a model that is shown the lungs alone. Each is resized before the next is taken,
                so that a generator holds one at a time.

        Returns:
            One answer per image, in order. An unreadable file has an `error`, what is no chest CT a `reason`.
            Boxes are shares of what the model is shown.
        """
        answers: list[Answer | None] = []
        prepared = {}
        for image in images:
            answer, pixels = self._prepare(image)
            if pixels is not None:
                prepared[len(answers)] = pixels
            answers.append(answer)
        if prepared:
            outputs = runs.predict_logits(self._model, np.stack(list(prepared.values())), self._batch_size)
            for row, place in enumerate(prepared):
                answers[place] = self._read({name: values[row] for name, values in outputs.items()})
        return answers

    def _prepare(self, image: bytes | np.ndarray) -> tuple[Answer | None, np.ndarray | None]:
        """The answer to an image that the model is not asked about, or its resized pixels."""
        try:
            pixels = image if isinstance(image, np.ndarray) else preprocess.decode(bytes(image))
        except preprocess.ImageError as error:
            return self._answer(error=str(error)), None
        pixels, reason = shown.prepared(pixels, self.card.lungs, check=self.check)
        if reason:
            return self._answer(abstained=True, reason=reason), None
        return None, preprocess.resize(pixels, self.card.image_size)

    def _read(self, outputs: Mapping[str, np.ndarray]) -> Answer:
        """The answer to one image from the model's outputs for it."""
        if not all(np.isfinite(values).all() for values in outputs.values()):
            return self._answer(error="the model gives no finite number for this image")
        covid = float(calibrated_probabilities(outputs[COVID], self.card.temperature)[0])
        fields = {"covid": covid, "positive": covid >= self.card.threshold, "maps": outputs.get("attention")}
        if "lesions" in outputs:
            values = calibrated_probabilities(outputs["lesions"], 1.0).tolist()
            fields["lesions"] = dict(zip(LESIONS, values, strict=True))
        if "classes" in outputs:
            values = softmax(outputs["classes"].astype(np.float64)).tolist()
            fields["classes"] = dict(zip(self.card.classes, values, strict=True))
        return self._answer(**fields, boxes=outputs.get("boxes"), scores=outputs.get("scores"))

    def _answer(self, **fields) -> Answer:
        return Answer(self.card, self.card_sha256, **fields)
