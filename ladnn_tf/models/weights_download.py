"""The publishers' own downloads. What they lack offline is one line that names the way round."""

from collections.abc import Callable
from typing import Any

import keras

from ladnn_tf.models.normalisation import Normalisation, from_affine
from ladnn_tf.models.weights_files import one_line

RESNET18_PRESET = "resnet_18_imagenet"
"""Of keras-hub; `from_preset` takes a folder in its place."""


def download(build: Callable[[], Any], source: str, fetched_by: str) -> Any:
    """Runs a publisher's downloading code.

    Args:
        build: it.
        source: what it downloads, for messages.
        fetched_by: the command that makes a file of it on another machine, for messages.

    Returns:
        What it returns.

    Raises:
        ValueError: if it raises anything.
    """
    try:
        return build()
    except Exception as error:  # the downloaders raise bare Exception
        raise ValueError(
            f"{source} could not be downloaded ({one_line(error)}); on a machine with internet run `{fetched_by}`,"
            " bring the file here and give --weights=FILE.npz, or start from --weights=none"
        ) from error


def keras_applications(build: Callable[..., keras.Model], source: str, fetched_by: str) -> keras.Model:
    """A model of Keras Applications without its classifier; arguments and errors as of `download`."""
    return download(lambda: build(include_top=False, weights="imagenet"), source, fetched_by)


def keras_hub_resnet18(source: str, fetched_by: str) -> tuple[keras.Model, Normalisation]:
    """ResNet-18 of keras-hub and what its image converter does; arguments and errors as of `download`."""
    try:
        import keras_hub
    except ImportError as error:
        install = "pip install '.[hub]' in the project's folder"
        raise ValueError(f"{source} need the package keras-hub: {install}") from error
    model, converter = download(
        lambda: (
            keras_hub.models.ResNetBackbone.from_preset(RESNET18_PRESET),
            keras_hub.layers.ResNetImageConverter.from_preset(RESNET18_PRESET),
        ),
        source,
        fetched_by,
    )
    return model, from_affine(converter.scale, converter.offset)


def noisy_student(backbone: str, source: str, fetched_by: str) -> keras.Model:
    """`efficientnet_b0` or `efficientnet_b1` of the package efficientnet; otherwise as `download`."""
    try:
        import efficientnet.tfkeras as efficientnet
    except ImportError as error:
        install = "pip install '.[train]' in the project's folder"
        raise ValueError(f"{source} need the package efficientnet: {install}") from error
    build = {"efficientnet_b0": efficientnet.EfficientNetB0, "efficientnet_b1": efficientnet.EfficientNetB1}
    return download(lambda: build[backbone](include_top=False, weights="noisy-student"), source, fetched_by)
