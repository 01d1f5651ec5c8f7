"""What happens on validation after each epoch of a training."""

import dataclasses
import math
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from absl import logging
from sklearn.metrics import roc_auc_score

from ladnn_tf import config, losses, runs
from ladnn_tf.labels import COVID


@dataclasses.dataclass(frozen=True)
class Split:
    """One split, decoded: manifest rows, `(N, S, S, 3)` uint8 images and the labels that the loss takes."""

    frame: pd.DataFrame
    images: np.ndarray
    labels: dict[str, np.ndarray]


class Validation(keras.callbacks.Callback):
    """Predicts the validation split after each epoch, keeps the best one's weights and writes `history.csv`.

    The validation loss is the mean over images of the loss without weight decay. (A mean of batch means, as in
    the original code, lets a small last batch weigh as much as a full one.) With a moving average of the
    weights, it is the average that is validated and kept, with the batch-norm statistics as they are.

    Attributes:
        best_epoch: number of the best epoch so far, from 1; 0 before the first.
        best_weights: its weights, as `Model.get_weights` gives them.
    """

    def __init__(self, split: Split, settings: config.TrainConfig, history: Path) -> None:
        super().__init__()
        self._split = split
        self._settings = settings
        self._history = history
        self._rows: list[dict[str, float]] = []
        self._best = -math.inf
        self.best_epoch = 0
        self.best_weights: list[np.ndarray] = []

    @property
    def monitor(self) -> tuple[str, str]:
        """Name and direction (`min` or `max`) of the value that decides, for early stopping."""
        return f"val_{self._settings.select_by}", "max" if self._settings.select_by == "auc" else "min"

    def on_epoch_end(self, epoch, logs=None):
        average = keras.callbacks.SwapEMAWeights() if self._settings.ema_decay else None
        if average:
            average.set_model(self.model)
            average.on_test_begin()
        logs = logs if logs is not None else {}
        logs.update(self._evaluate())
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        name, direction = self.monitor
        score = logs[name] if direction == "max" else -logs[name]
        if math.isfinite(score) and score > self._best:
            self._best, self.best_epoch = score, epoch + 1
            self.best_weights = self.model.get_weights()
        if average:
            average.on_test_end()
        if not math.isfinite(logs.get("loss", 0.0)):
            logging.error("the training loss is not finite in epoch %d: training stops there", epoch + 1)
        self._rows.append({"epoch": epoch + 1, **logs})
        pd.DataFrame(self._rows).to_csv(self._history, index=False)

    def _evaluate(self) -> dict[str, float]:
        labels = self._split.labels
        logits = runs.predict_logits(self.model, self._split.images)
        per_image = losses.per_image_loss(labels, logits, self._settings.covid_weight)
        covid = losses.covid_loss(labels[COVID], logits[COVID])
        return {
            "val_loss": float(np.mean(per_image)),
            "val_covid_loss": float(np.mean(covid)),
            "val_auc": _auc(labels[COVID][:, 0], logits[COVID][:, 0]),
        }


def _auc(labels: np.ndarray, scores: np.ndarray) -> float:
    if labels.min() == labels.max() or not np.isfinite(scores).all():
        return math.nan
    return float(roc_auc_score(labels, scores))
