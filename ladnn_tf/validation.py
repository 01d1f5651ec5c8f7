"""What happens after each epoch of a training: validation, best epoch, early stopping, history and checkpoint."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from absl import logging
from sklearn.metrics import roc_auc_score

from ladnn_tf import config, losses, runs
from ladnn_tf.checkpoint import FILE, Checkpoint, Progress, write_checkpoint
from ladnn_tf.files import write_atomically
from ladnn_tf.labels import COVID


@dataclasses.dataclass(frozen=True)
class Split:
    """One split, decoded: manifest rows, `(N, S, S, 3)` uint8 images and the labels that the loss takes."""

    frame: pd.DataFrame
    images: np.ndarray
    labels: dict[str, np.ndarray]


class Validation(keras.callbacks.Callback):
    """Predicts the validation split after each epoch, keeps the best one's weights, and writes the run's state.

    The validation loss is the mean over images of the loss without weight decay. (A mean of batch means, as in
    the original code, lets a small last batch weigh as much as a full one.) With a moving average of the
    weights, it is the average that is validated and kept, with the batch-norm statistics as they are.

    `history.csv` and `checkpoint.npz` in the run's folder are replaced after each epoch.

    Attributes:
        best_epoch: number of the best epoch so far, from 1; 0 before the first.
        best_weights: its weights, as `Model.get_weights` gives them.
    """

    def __init__(
        self,
        split: Split,
        settings: config.TrainConfig,
        folder: Path,
        began: dict[str, Any],
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Begins, or goes on from a checkpoint.

        Args:
            split: the validation split.
            settings: of the training.
            folder: of the run.
            began: with what, as `origin.describe` has it; stored in every checkpoint.
            checkpoint: of the same training; None for its beginning.
        """
        super().__init__()
        self._split = split
        self._settings = settings
        self._folder = folder
        self._began = began
        self._rows = list(checkpoint.progress.history) if checkpoint else []
        self.best_epoch = checkpoint.progress.best_epoch if checkpoint else 0
        self.best_weights: list[np.ndarray] = checkpoint.best_weights if checkpoint else []
        if checkpoint:  # the checkpoint is written first: a kill between the two left the history behind
            self._write_history()

    def set_model(self, model):
        super().set_model(model)
        # Made outside the strategy's scope it predicts on one device: few images cannot be divided among many.
        one_device = model.distribute_strategy.num_replicas_in_sync == 1
        self._predictor = model if one_device else keras.Model(model.input, model.output)

    def on_epoch_end(self, epoch, logs=None):
        logs = logs if logs is not None else {}
        with _averaged_weights(self.model) if self._settings.ema_decay else contextlib.nullcontext():
            logs.update(self._evaluate())
            logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            self._rows.append({"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}})
            if self._is_best():
                self.best_epoch = epoch + 1
                self.best_weights = self.model.get_weights()
        self._stop_if_done(epoch, logs)
        self._write(epoch)

    def _score(self, row: dict[str, float]) -> float:
        score = row[f"val_{self._settings.select_by}"]
        return score if self._settings.select_by == "auc" else -score

    def _is_best(self) -> bool:
        score = self._score(self._rows[-1])
        best = self._score(self._rows[self.best_epoch - 1]) if self.best_epoch else -math.inf
        return math.isfinite(score) and score > best

    def _stop_if_done(self, epoch: int, logs: dict[str, float]) -> None:
        if not math.isfinite(logs.get("loss", 0.0)):
            logging.error("the training loss is not finite in epoch %d: training stops there", epoch + 1)
            self.model.stop_training = True
        patience, frozen = self._settings.early_stopping_patience, self._settings.frozen_epochs
        if patience and epoch >= frozen and epoch + 1 - max(self.best_epoch, frozen) >= patience:
            logging.info("no better epoch than %d for %d epochs: training stops", self.best_epoch, patience)
            self.model.stop_training = True

    def _write(self, epoch: int) -> None:
        progress = Progress(
            epoch=epoch + 1,
            stopped=bool(self.model.stop_training),
            history=self._rows,
            best_epoch=self.best_epoch,
            origin=self._began,
        )
        try:
            write_checkpoint(self._folder / FILE, self.model, progress, self.best_weights)
            self._write_history()
        except OSError as error:
            message = runs.not_stored(f"epoch {epoch + 1}", self._folder, error)
            raise OSError(error.errno, message, error.filename) from error

    def _write_history(self) -> None:
        write_atomically(self._folder / "history.csv", pd.DataFrame(self._rows).to_csv(index=False).encode())

    def _evaluate(self) -> dict[str, float]:
        labels = self._split.labels
        logits = runs.predict_logits(self._predictor, self._split.images)
        per_image = losses.per_image_loss(labels, logits, self._settings.covid_weight)
        found = logits[COVID] if COVID in logits else losses.covid_against_rest(logits["classes"])
        found = keras.ops.convert_to_numpy(found)
        of_classes = {}
        if "classes" in logits:
            of_classes["val_class_loss"] = float(np.mean(losses.class_loss(labels["classes"], logits["classes"])))
        return {
            **of_classes,
            "val_loss": float(np.mean(per_image)),
            "val_covid_loss": float(np.mean(losses.covid_loss(labels[COVID], found))),
            "val_auc": _auc(labels[COVID][:, 0], found[:, 0]),
        }


@contextlib.contextmanager
def _averaged_weights(model: keras.Model) -> Iterator[None]:
    # Keras' SwapEMAWeights swaps by adding and subtracting, which rounds: each validation would then change
    # the weights that are being trained.
    variables = model.trainable_variables
    trained = [keras.ops.convert_to_numpy(variable) for variable in variables]
    model.optimizer.finalize_variable_values(variables)
    try:
        yield
    finally:
        for variable, value in zip(variables, trained, strict=True):
            variable.assign(value)


def _auc(labels: np.ndarray, scores: np.ndarray) -> float:
    if labels.min() == labels.max() or not np.isfinite(scores).all():
        return math.nan
    return float(roc_auc_score(labels, scores))
