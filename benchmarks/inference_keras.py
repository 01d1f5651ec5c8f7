"""A run's own model in Keras, compiled into a graph."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from ladnn_tf.models.attention import attention_model


def load(model: str, threads: int) -> Callable[[np.ndarray], object]:
    """Loads the model of a run.

    Args:
        model: path of its `model.keras`.
        threads: of the CPU.

    Returns:
        From images `(B, S, S, 3)` uint8 to logits and attention maps, as Keras' `predict_on_batch` gives them.
    """
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return attention_model(keras.models.load_model(Path(model), compile=False, safe_mode=True)).predict_on_batch
