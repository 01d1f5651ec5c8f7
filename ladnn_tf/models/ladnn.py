"""LA-DNN: one trunk, twin sigmoid heads (Liu et al. 2020, Figure 2). The baseline is the same with one head."""

import contextlib
import functools
from collections.abc import Iterator

import keras
from keras import layers

from ladnn_tf.labels import COVID, LESIONS, TASKS
from ladnn_tf.models.backbones import BACKBONES, NORMALISATION_LAYER, build_backbone
from ladnn_tf.models.weights import Normalisation, initial_weights

BATCH_NORM_MOMENTUM = 0.9
"""Keras' own 0.99 needs hundreds of steps before the moving statistics mean anything; 425 images in batches of
32 make 14 steps an epoch."""

LESION_BIAS = -2.0
"""The bias that the lesions' head begins with, a probability of 0.12, as most lesions are rare (the prior of Lin
et al. 2017). Its kernel begins at zero: a random one outlives the training of a few hundred images almost
unchanged, and the attention maps, which are made of the kernel, would show it instead of what was learnt.
COVID-19's head begins at random values, without which the trunk would have no gradient at first."""

PROPOSALS = "proposals"
"""How the names begin of the layers by which DRENet finds its regions, which are no part of its trunk."""

VIEWS = "_views"
"""How the names end of the batch norm of DRENet's second pass, which begins with statistics of other pictures."""

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
_MIN_IMAGE_SIZE = 32
_LESION_START = {"kernel_initializer": "zeros", "bias_initializer": keras.initializers.Constant(LESION_BIAS)}


def heads(task: str) -> dict[str, int]:
    """Names and widths of the outputs: `{"covid": 1, "lesions": 5}`, the baseline's without the lesions."""
    if task not in TASKS:
        raise ValueError(f"task should be one of {', '.join(TASKS)}. Received: {task!r}")
    return {COVID: 1, "lesions": len(LESIONS)} if task == "ladnn" else {COVID: 1}


def build_model(
    backbone: str,
    *,
    task: str = "ladnn",
    image_size: int = 224,
    weights: str = "none",
    normalisation: Normalisation | None = None,
    batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
    precision: str = "float32",
) -> keras.Model:
    """Builds the network by the functional API, of Keras' own layers only.

    Per head: global average pooling of the last feature map, one dense layer `<head>_logits`, a sigmoid layer
    `<head>`; dense and sigmoid layers compute in float32 whatever the precision. The lesions' head begins with a
    kernel of zeros and `LESION_BIAS`. Source: Liu et al. 2020, sections 2.1 and 2.2.

    Args:
        backbone: a key of `BACKBONES`.
        task: `ladnn`, or `baseline` for the COVID head alone.
        image_size: the side S in pixels, at least 32.
        weights: as in `weights.initial_weights`; the normalisation of the pixels comes with them.
        normalisation: of the pixels, where the weights do not say; None takes that of the weights.
        batch_norm_momentum: share of the old moving statistics that a step keeps, in [0, 1).
        precision: `float32`, `mixed_float16` or `mixed_bfloat16`.

    Returns:
        A model from images `(B, S, S, 3)` in [0, 255] (RGB, uint8 or float32) to probabilities
        `{"covid": (B, 1), "lesions": (B, 5)}`, float32 in [0, 1], lesions in the order of `labels.LESIONS`.

    Raises:
        ValueError: for an unknown backbone, task or precision, a size below 32, or weights that do not fit
            or were trained with another normalisation.
    """
    widths = heads(task)
    with dtype_policy(precision):
        images, _, trunk = normalised_trunk(backbone, image_size, weights, normalisation, batch_norm_momentum)
        pooled = layers.GlobalAveragePooling2D(dtype="float32", name="features")(trunk.output)
        outputs = {}
        for head, width in widths.items():
            start = {} if head == COVID else _LESION_START
            logits = layers.Dense(width, dtype="float32", name=f"{head}_logits", **start)(pooled)
            outputs[head] = layers.Activation("sigmoid", dtype="float32", name=head)(logits)
    return keras.Model(images, outputs, name=f"{task}_{backbone}")


def normalised_trunk(
    backbone: str,
    image_size: int,
    weights: str,
    normalisation: Normalisation | None,
    batch_norm_momentum: float,
) -> tuple[keras.KerasTensor, keras.KerasTensor, keras.Model]:
    """What all networks of this project begin with; call it within `dtype_policy`.

    Args:
        backbone, image_size, weights, normalisation, batch_norm_momentum: as `build_model`.

    Returns:
        The images `(B, S, S, 3)` in [0, 255], the normalised images, and the trunk with its initial weights.

    Raises:
        ValueError: as `build_model`.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"backbone should be one of {', '.join(BACKBONES)}. Received: {backbone!r}")
    if image_size < _MIN_IMAGE_SIZE:
        raise ValueError(f"image_size should be at least {_MIN_IMAGE_SIZE} pixels. Received: {image_size}")
    source = initial_weights(backbone, weights, normalisation)
    images = keras.Input((image_size, image_size, 3), name="images")
    mean, std = source.normalisation.mean, source.normalisation.std
    normalised = layers.Rescaling(
        scale=[1.0 / s for s in std],
        offset=[-m / s for m, s in zip(mean, std, strict=True)],
        dtype="float32",
        name=NORMALISATION_LAYER,
    )(images)
    trunk = build_backbone(backbone, normalised, batch_norm_momentum)
    source.load(trunk)
    return images, normalised, trunk


def logits_model(model: keras.Model) -> keras.Model:
    """The same network (same layers, same weights) up to the logits.

    Args:
        model: from `build_model` or `drenet.py`, or loaded from a run.

    Returns:
        A model from images `(B, S, S, 3)` to logits `{"covid": (B, 1), "lesions": (B, 5)}`, float32; of a model
        with classes `covid`, `classes` `(B, C)` and what else it gives. Outputs without logits, as boxes, stay.
    """
    names = {layer.name for layer in model.layers}
    outputs = {
        head: model.get_layer(f"{head}_logits").output if f"{head}_logits" in names else tensor
        for head, tensor in model.output.items()
    }
    return keras.Model(model.input, outputs, name=f"{model.name}_logits")


def float32_copy(model: keras.Model) -> keras.Model:
    """A copy that computes in float32, whatever precision the model was trained in.

    Args:
        model: of this project.

    Returns:
        The same network with copies of the same weights.
    """

    @functools.cache  # a layer that stands at two places of the graph is one layer in the copy, too
    def in_float32(layer):
        return layer.__class__.from_config({**layer.get_config(), "dtype": "float32"})

    copy = keras.models.clone_model(model, clone_function=in_float32)
    copy.set_weights(model.get_weights())
    return copy


def trunk_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """All layers before the pooling that initial weights are for: what a frozen-backbone phase does not train."""
    names = [layer.name for layer in model.layers]
    before = model.layers[: names.index("features")]
    return [layer for layer in before if not (layer.name.startswith(PROPOSALS) or layer.name.endswith(VIEWS))]


@contextlib.contextmanager
def dtype_policy(precision: str) -> Iterator[None]:
    """Builds layers in a precision: Keras Applications takes no dtype, only the global policy.

    Raises:
        ValueError: if it is none of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision should be one of {', '.join(PRECISIONS)}. Received: {precision!r}")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
