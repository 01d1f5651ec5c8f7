"""The worker of our own contenders: the training of `ladnn_tf`, its pipeline, or both."""

import dataclasses
import json
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from benchmarks.worker import serve
from ladnn_tf import config
from ladnn_tf.data import pipeline
from ladnn_tf.fit import augmentation, compile_model
from ladnn_tf.fused_batch_norm import with_fused_batch_norm
from ladnn_tf.labels import LESIONS
from ladnn_tf.models.ladnn import build_model, logits_model

BASE_FLAGS = Path(__file__).resolve().parent.parent / "configs" / "base.flags"
_BATCHES = 16  # in memory, as random images
_ENDLESS = 10**9  # epochs
_PIPELINE_FACTOR = 10  # batches for each step: without training it is fast, and a few batches lie ready


class TensorFlowTraining:
    """One compiled training step, on a constant batch or on what the pipeline gives.

    Attributes:
        trainable_parameters: of the network with both heads.
        constant: one batch of the pipeline, again and again.
        dataset: the pipeline of a training, with the augmentation of `configs/base.flags`.
    """

    def __init__(
        self,
        *,
        backbone: str,
        image_size: int,
        batch_size: int,
        precision: str,
        fused_batch_norm: bool = True,
        xla: bool = False,
    ):
        """Builds, compiles and warms up.

        Args:
            backbone: a key of `BACKBONES`.
            image_size: the side in pixels.
            batch_size: images per step.
            precision: `float32` or `bfloat16`.
            fused_batch_norm: whether batch norm is TensorFlow's fused operation or Keras' layer.
            xla: whether the step is compiled by XLA.

        Raises:
            ValueError: if the settings do not fit.
        """
        settings = dataclasses.replace(
            _base_settings(),
            backbone=backbone,
            image_size=image_size,
            batch_size=batch_size,
            precision="float32" if precision == "float32" else f"mixed_{precision}",
            xla=xla,
        )
        self.dataset = random_dataset(settings)
        # Unlike `from_tensors`, it has the specification of the pipeline: one compiled step is for both.
        self.constant = self.dataset.take(1).cache().repeat()
        keras.utils.set_random_seed(settings.seed)
        model = logits_model(build_model(backbone, image_size=image_size, precision=settings.precision))
        self._model = with_fused_batch_norm(model) if fused_batch_norm else model
        compile_model(self._model, settings, settings.learning_rate)
        self.trainable_parameters = sum(int(np.prod(v.shape)) for v in self._model.trainable_variables)
        for mode in ("model", "both", "pipeline"):
            self.measure(mode, steps=2)

    def measure(self, mode: str, steps: int) -> float:
        """Times some steps, after one that is not counted, with which the pipeline starts.

        Args:
            mode: `model` (training on the constant batch), `both` (on the pipeline) or `pipeline` (no training).
            steps: number of batches.

        Returns:
            Seconds, to the end of the last step: tf.data may then take seconds to put an iterator away, which a
            training does once.
        """
        if mode == "pipeline":
            batches = _PIPELINE_FACTOR * steps
            ends = [time.perf_counter() for _ in self.dataset.take(1 + batches)]
            return (ends[-1] - ends[0]) / _PIPELINE_FACTOR
        clock = _StepClock()
        self._model.fit(
            self.constant if mode == "model" else self.dataset,
            steps_per_epoch=1 + steps,
            callbacks=[clock],
            shuffle=False,
            verbose=0,
        )
        return clock.ends[-1] - clock.ends[0]


class _StepClock(keras.callbacks.Callback):
    """Notes when each step ended; on a processor a step is done when it returns."""

    def on_train_begin(self, logs=None):  # noqa: ARG002 Keras' signature
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):  # noqa: ARG002
        self.ends.append(time.perf_counter())


def _base_settings() -> config.TrainConfig:
    flag_values = flags.FlagValues()
    config.define_flags(flag_values)
    flag_values(["training", f"--flagfile={BASE_FLAGS}"])
    return config.from_flags(flag_values)


def random_dataset(settings: config.TrainConfig) -> tf.data.Dataset:
    """The training pipeline on random uint8 images in memory; half the lesions are unknown."""
    rng = np.random.default_rng(settings.seed)
    number, size = _BATCHES * settings.batch_size, settings.image_size
    labels = {
        "covid": rng.integers(0, 2, (number, 1)),
        "lesions": rng.choice([0.0, 1.0, pipeline.UNKNOWN], (number, len(LESIONS)), p=[0.25, 0.25, 0.5]),
    }
    return pipeline.training_dataset(
        rng.integers(0, 256, (number, size, size, 3), dtype=np.uint8),
        {head: array.astype(np.float32) for head, array in labels.items()},
        batch_size=settings.batch_size,
        seed=settings.seed,
        augmentation=augmentation(settings),
        first_epoch=0,
        epochs=_ENDLESS,
    )


def main(argv: list[str]) -> None:
    """The worker."""
    job = json.loads(argv[1])
    threads = job.pop("threads")
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    serve(TensorFlowTraining, job)


if __name__ == "__main__":
    main(sys.argv)
