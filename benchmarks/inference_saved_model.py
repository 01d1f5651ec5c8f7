"""A SavedModel, loaded by TensorFlow without this project's code and asked for pixels' probabilities."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf


def load(model: str, threads: int) -> Callable[[np.ndarray], object]:
    """Loads a version of `python -m export.saved_model`.

    Args:
        model: its folder.
        threads: of the CPU.

    Returns:
        From images `(B, S, S, 3)` uint8 to probabilities; its signature for pixels gives no maps.
    """
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    loaded = tf.saved_model.load(model)  # its signatures live as long as it does

    def answer(images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = loaded.signatures["pixels"](images=tf.constant(images))
        return {name: output.numpy() for name, output in outputs.items()}

    return answer
