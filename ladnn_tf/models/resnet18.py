"""ResNet-18 (He et al. 2016), which Keras Applications does not have."""

import keras
from keras import layers

_STAGES = (64, 128, 256, 512)
_BLOCKS_PER_STAGE = 2


def _convolution(x, filters, kernel_size, strides, name):
    # Symmetric zeros and then "valid", as the published weights were trained with; "same" pads otherwise at
    # stride 2.
    if kernel_size > 1:
        x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
    return layers.Conv2D(filters, kernel_size, strides, use_bias=False, name=name)(x)


def _batch_norm(x, name):
    return layers.BatchNormalization(epsilon=1e-5, name=name)(x)


def _basic_block(x, filters, strides, name):
    shortcut = x
    if strides > 1:
        shortcut = _convolution(x, filters, 1, strides, f"{name}_shortcut_conv")
        shortcut = _batch_norm(shortcut, f"{name}_shortcut_bn")
    x = _convolution(x, filters, 3, strides, f"{name}_conv1")
    x = _batch_norm(x, f"{name}_bn1")
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = _convolution(x, filters, 3, 1, f"{name}_conv2")
    x = _batch_norm(x, f"{name}_bn2")
    x = layers.Add(name=f"{name}_add")([shortcut, x])
    return layers.ReLU(name=f"{name}_relu2")(x)


def ResNet18(*, include_top=False, weights=None, input_tensor, name="resnet18") -> keras.Model:  # noqa: N802
    """Builds ResNet-18 without its classifier, with the calling convention of Keras Applications.

    Source: He et al. 2016, Deep Residual Learning, Table 1: a 7x7/2 stem, 3x3/2 max pooling, four stages of two
    basic blocks with 64, 128, 256 and 512 filters. 11,176,512 trainable parameters and 9,600 batch-norm
    statistics.

    Args:
        include_top: only False; there is no classifier.
        weights: only None; `models/weights.py` loads weights.
        input_tensor: `(B, S, S, 3)` normalised pixels, a Keras tensor.
        name: the model's name.

    Returns:
        A model from the source of `input_tensor` to features `(B, ceil(S/32), ceil(S/32), 512)`.

    Raises:
        ValueError: if a classifier or weights are asked for.
    """
    if include_top or weights is not None:
        raise ValueError("ResNet18 has no classifier and no weights of its own: include_top=False, weights=None")
    x = _convolution(input_tensor, 64, 7, 2, "stem_conv")
    x = _batch_norm(x, "stem_bn")
    x = layers.ReLU(name="stem_relu")(x)
    # The input of this pooling is not negative, so that zeros are as good as the minus infinity of PyTorch.
    x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
    x = layers.MaxPooling2D(3, 2, name="stem_pool")(x)
    for stage, filters in enumerate(_STAGES, start=1):
        for block in range(1, _BLOCKS_PER_STAGE + 1):
            strides = 2 if block == 1 and stage > 1 else 1
            x = _basic_block(x, filters, strides, f"stage{stage}_block{block}")
    return keras.Model(keras.utils.get_source_inputs(input_tensor), x, name=name)
