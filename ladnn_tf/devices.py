"""Which devices a training runs on."""

from collections.abc import Sequence

import keras
import tensorflow as tf
from absl import logging


def training_strategy(devices: Sequence[str] | None = None) -> tf.distribute.Strategy:
    """One device, or all GPUs in step with each other; GPU memory is taken as it is needed.

    Args:
        devices: names such as `("GPU:0", "GPU:1")`; None for every GPU that is visible (CUDA_VISIBLE_DEVICES).

    Returns:
        A `MirroredStrategy` for two devices or more (each batch is divided among them), otherwise TensorFlow's
        own for one device.
    """
    grow_gpu_memory()
    if devices is None:
        devices = [device.name for device in tf.config.list_logical_devices("GPU")]
    if len(devices) < 2:
        return tf.distribute.get_strategy()
    logging.info("training on %s", ", ".join(devices))
    return tf.distribute.MirroredStrategy(list(devices))


def grow_gpu_memory() -> None:
    """Lets GPU memory be taken as it is needed; by default the first use takes all of it."""
    for gpu in tf.config.list_physical_devices("GPU"):
        if not tf.config.experimental.get_memory_growth(gpu):
            try:
                tf.config.experimental.set_memory_growth(gpu, True)
            except RuntimeError as error:  # another part of the process has used the GPU already
                logging.warning("%s keeps its memory as it is: %s", gpu.name, error)


def synchronise_batch_norm(model: keras.Model, synchronised: bool) -> None:
    """Makes batch norm take its statistics over all devices' images, as one device would, or each over its own.

    Args:
        model: changed in place; the setting is saved with it.
        synchronised: whether over all.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = synchronised
