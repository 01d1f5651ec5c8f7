"""A network with random weights: how fast it is does not depend on them."""

import keras
import numpy as np

from ladnn_tf.models.ladnn import build_model


def random_model(backbone: str, image_size: int) -> keras.Model:
    """Builds LA-DNN with random weights, the same ones each time.

    Args:
        backbone: a key of `BACKBONES`.
        image_size: the side in pixels.

    Returns:
        As `build_model`.

    Raises:
        ValueError: for an unknown backbone or a size below 32.
    """
    keras.utils.set_random_seed(0)
    model = build_model(backbone, image_size=image_size)
    kernel = model.get_layer("lesions_logits").kernel  # zeros, whose maps would be empty
    kernel.assign(np.random.default_rng(1).normal(0, 0.1, kernel.shape))
    return model
