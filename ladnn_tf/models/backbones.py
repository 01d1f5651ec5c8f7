"""The seven backbones of the paper (section 2.2) as data."""

import dataclasses
from collections.abc import Callable

import keras

from ladnn_tf.models.resnet18 import ResNet18


@dataclasses.dataclass(frozen=True)
class Backbone:
    """One convolutional trunk.

    Attributes:
        title: the paper's name for it.
        build: `build(include_top=False, weights=None, input_tensor=x) -> keras.Model`.
        features: channels K of the last feature map, whose side is about image size / 32.
        trainable: number of trainable parameters without the classifier.
        statistics: number of the others (batch-norm statistics; for EfficientNet also the seven numbers of
            Keras' own normalisation layer).
        source: where the architecture is described.
    """

    title: str
    build: Callable[..., keras.Model]
    features: int
    trainable: int
    statistics: int
    source: str


_VGG = "Simonyan and Zisserman 2014, configuration D, convolutional part with its last pooling"
_RESNET = "He et al. 2016, Deep Residual Learning, Table 1"
_DENSENET = "Huang et al. 2017, Densely Connected Convolutional Networks, Table 1"
_EFFICIENTNET = "Tan and Le 2019, EfficientNet, Table 1"

BACKBONES = {
    "vgg16": Backbone("VGG-16", keras.applications.VGG16, 512, 14_714_688, 0, _VGG),
    "resnet18": Backbone("ResNet-18", ResNet18, 512, 11_176_512, 9_600, _RESNET),
    "resnet50": Backbone("ResNet-50", keras.applications.ResNet50, 2048, 23_534_592, 53_120, _RESNET),
    "densenet121": Backbone("DenseNet-121", keras.applications.DenseNet121, 1024, 6_953_856, 83_648, _DENSENET),
    "densenet169": Backbone("DenseNet-169", keras.applications.DenseNet169, 1664, 12_484_480, 158_400, _DENSENET),
    "efficientnet_b0": Backbone(
        "EfficientNet-b0", keras.applications.EfficientNetB0, 1280, 4_007_548, 42_023, _EFFICIENTNET
    ),
    "efficientnet_b1": Backbone(
        "EfficientNet-b1", keras.applications.EfficientNetB1, 1280, 6_513_184, 62_055, _EFFICIENTNET
    ),
}


def build_backbone(name: str, normalised: keras.KerasTensor, batch_norm_momentum: float) -> keras.Model:
    """Builds a trunk with random weights on normalised pixels.

    Args:
        name: a key of `BACKBONES`.
        normalised: `(B, S, S, 3)`, the output of the normalisation that belongs to the weights.
        batch_norm_momentum: share of the old moving statistics that a step keeps, in [0, 1).

    Returns:
        A model from the source of `normalised` to the last feature map `(B, h, w, K)`.
    """
    trunk = BACKBONES[name].build(include_top=False, weights=None, input_tensor=normalised)
    for layer in trunk.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = batch_norm_momentum
        # Keras' EfficientNet divides by 255 itself. Here the normalisation belongs to the weights and has
        # been done, so that this layer (and the Normalization after it, never adapted) must change nothing.
        elif isinstance(layer, keras.layers.Rescaling) and layer.name != NORMALISATION_LAYER:
            layer.scale, layer.offset = 1.0, 0.0
    return trunk


NORMALISATION_LAYER = "normalise_pixels"
