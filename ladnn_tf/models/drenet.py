"""DRENet (Song et al. 2021): regions that are looked at a second time; and its plain trunk, to be set beside it.

An image goes through the trunk. From the last feature map two or three convolutions give every anchor a score
(`regions.py`); the best K regions, enlarged, and a second view of the image go through the same convolutions once
more; and a perceptron answers from all features together.

Departures from paper and public code are in BUILD_NOTES.md ("DRENet").
"""

import dataclasses
import math

import keras
from keras import layers

from ladnn_tf.labels import COVID
from ladnn_tf.losses import covid_against_rest
from ladnn_tf.models.ladnn import (
    BATCH_NORM_MOMENTUM,
    PROPOSALS,
    VIEWS,
    dtype_policy,
    logits_model,
    normalised_trunk,
)
from ladnn_tf.models.regions import PerImage, SelectRegions, Shares, StopGradient, Views
from ladnn_tf.models.weights import Normalisation

ANCHORS = (48.0, 96.0, 192.0)
"""Sides of the anchors on the feature map and on those of half and a quarter of its size, pixels."""

SMALLEST_VIEW = 32
"""Side of the regions as the trunk sees them, pixels: its last feature map then has one cell."""

REGIONS = 3
"""K, the number of regions (section 2.3)."""

HIDDEN = 512
"""Width of the perceptron's first layer. The paper does not give it."""

_PROPOSAL_CHANNELS = 128


@dataclasses.dataclass(frozen=True)
class Regions:
    """Where DRENet looks a second time.

    Attributes:
        anchors: side of the squares on each scale, pixels; one to three, the paper has two.
        count: K.
        view_size: side to which a region is enlarged, pixels; 0 for half of the image's side, as in the paper.
        temperature: at which training draws regions (`SelectRegions`); 0 for the best ones, as in the paper.
    """

    anchors: tuple[float, ...] = ANCHORS[:2]
    count: int = REGIONS
    view_size: int = 0
    temperature: float = 0.0

    def __post_init__(self) -> None:
        finite = all(2 <= side < math.inf for side in self.anchors)
        if not 1 <= len(self.anchors) <= len(ANCHORS) or not finite:
            raise ValueError(
                f"anchors should be one to {len(ANCHORS)} sides of at least 2 pixels. Received: {self.anchors}"
            )
        if self.count < 1:
            raise ValueError(f"the number of regions should be at least 1. Received: {self.count}")
        if self.view_size and self.view_size < SMALLEST_VIEW:
            raise ValueError(
                f"view_size should be at least {SMALLEST_VIEW} pixels, or 0. Received: {self.view_size}"
            )
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"the temperature should be 0 or more. Received: {self.temperature}")


@keras.saving.register_keras_serializable(package="ladnn_tf")
class CovidLogit(keras.layers.Layer):
    """The logit of COVID-19 against all other classes: `(B, C)` class logits, COVID-19 first, to `(B, 1)`.

    Its sigmoid is the softmax' first probability.
    """

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})

    def call(self, logits):
        return covid_against_rest(logits)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 1)


def build_drenet(
    backbone: str = "resnet50",
    *,
    classes: int = 2,
    image_size: int = 448,
    regions: Regions = Regions(),
    weights: str = "none",
    normalisation: Normalisation | None = None,
    batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
    precision: str = "float32",
) -> keras.Model:
    """Builds DRENet by the functional API.

    The proposals read the feature map through a stopped gradient: their ranking loss alone trains them. Proposals,
    pooled features, perceptron and logits are float32 whatever the precision. Logits are the outputs of layers
    named after the heads: `covid_logits`, `classes_logits`, `image_logits`, `regions_logits`.

    Args:
        backbone: a key of `BACKBONES`.
        classes: C, COVID-19 first.
        image_size: the side S in pixels.
        regions: where it looks a second time.
        weights, normalisation, batch_norm_momentum, precision: as `ladnn.build_model`.

    Returns:
        A model from images `(B, S, S, 3)` in [0, 255] (RGB, uint8 or float32) to float32 probabilities `covid`
        `(B, 1)` and `classes` `(B, C)`, of everything together, `image` `(B, C)`, of the image's own features, and
        `regions` `(B, K, C)`, of each region's; `boxes` `(B, K, 4)`, top, left, bottom, right as shares of the
        image's side; and `scores` `(B, K)` in [0, 1], the best first.

    Raises:
        ValueError: as `ladnn.build_model`, and if the feature map cannot be halved as often as anchors ask.
    """
    view_size = regions.view_size or image_size // 2
    with dtype_policy(precision):
        images, normalised, trunk = normalised_trunk(
            backbone, image_size, weights, normalisation, batch_norm_momentum
        )
        if view_size < SMALLEST_VIEW:
            raise ValueError(
                f"regions are enlarged to {SMALLEST_VIEW} pixels at least; half of {image_size} are {view_size}: "
                "give --view_size, or a larger --image_size"
            )
        pooled = layers.GlobalAveragePooling2D(dtype="float32", name="features")(trunk.output)
        boxes, scores = _proposals(trunk.output, image_size, regions)
        confidences = layers.Activation("sigmoid", dtype="float32", name="scores")(scores)
        views = Views(image_size, view_size, name="views")(normalised, boxes, confidences)
        seen = _again(keras.Model(normalised, trunk.output), views)
        seen = layers.GlobalAveragePooling2D(dtype="float32", name="view_features")(seen)
        seen = PerImage(regions.count + 1, name="views_per_image")(seen)
        of_image = layers.Dense(classes, dtype="float32", name="image_logits")(pooled)
        in_regions = layers.Cropping1D((0, 1), dtype="float32", name="regions_per_image")(seen)
        of_regions = layers.Dense(classes, dtype="float32", name="regions_logits")(in_regions)
        every = layers.Flatten(dtype="float32", name="views_flat")(seen)
        every = layers.Concatenate(dtype="float32", name="all_features")([pooled, every])
        hidden = layers.Dense(HIDDEN, "relu", dtype="float32", name="perceptron")(every)
        outputs = _class_outputs(hidden, classes)
        outputs["image"] = layers.Activation("softmax", dtype="float32", name="image")(of_image)
        outputs["regions"] = layers.Activation("softmax", dtype="float32", name="regions")(of_regions)
        outputs["boxes"] = Shares(image_size, name="boxes")(boxes)
        outputs["scores"] = confidences
    return keras.Model(images, outputs, name=f"drenet_{backbone}")


def build_trunk(
    backbone: str,
    *,
    classes: int = 2,
    image_size: int = 224,
    weights: str = "none",
    normalisation: Normalisation | None = None,
    batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
    precision: str = "float32",
) -> keras.Model:
    """Builds what DRENet is compared with: the trunk, global average pooling and one dense layer.

    Args:
        backbone, classes, image_size, weights, normalisation, batch_norm_momentum, precision: as `build_drenet`.

    Returns:
        A model from images `(B, S, S, 3)` in [0, 255] to the probabilities `covid` `(B, 1)` and `classes`
        `(B, C)`.

    Raises:
        ValueError: as `ladnn.build_model`.
    """
    with dtype_policy(precision):
        images, _, trunk = normalised_trunk(backbone, image_size, weights, normalisation, batch_norm_momentum)
        pooled = layers.GlobalAveragePooling2D(dtype="float32", name="features")(trunk.output)
        outputs = _class_outputs(pooled, classes)
    return keras.Model(images, outputs, name=f"trunk_{backbone}")


def _class_outputs(features, classes: int) -> dict:
    logits = layers.Dense(classes, dtype="float32", name="classes_logits")(features)
    covid = CovidLogit(name=f"{COVID}_logits")(logits)
    return {
        COVID: layers.Activation("sigmoid", dtype="float32", name=COVID)(covid),
        "classes": layers.Activation("softmax", dtype="float32", name="classes")(logits),
    }


def _proposals(features, image_size: int, regions: Regions):
    """Boxes `(B, K, 4)` in pixels and their raw scores `(B, K)`."""
    x = StopGradient(dtype="float32", name=f"{PROPOSALS}_stop")(features)
    grids, scores = [], []
    for number, _ in enumerate(regions.anchors, start=1):
        if number > 1 and grids[-1] < 2:
            raise ValueError(
                f"{len(regions.anchors)} anchors need a larger image: at {image_size} pixels the feature map of "
                f"scale {number - 1} has one cell"
            )
        strides = 1 if number == 1 else 2
        options = {"strides": strides, "padding": "same", "activation": "relu", "dtype": "float32"}
        x = layers.Conv2D(_PROPOSAL_CHANNELS, 3, name=f"{PROPOSALS}_{number}", **options)(x)
        grids.append(x.shape[1])
        score = layers.Conv2D(1, 1, dtype="float32", name=f"{PROPOSALS}_{number}_scores")(x)
        scores.append(layers.Flatten(dtype="float32", name=f"{PROPOSALS}_{number}_flat")(score))
    if len(scores) > 1:
        scores = [layers.Concatenate(dtype="float32", name=f"{PROPOSALS}_all")(scores)]
    select = SelectRegions(
        image_size, grids, regions.anchors, regions.count, regions.temperature, name="region_scores"
    )
    return select(scores[0])


def _again(trunk: keras.Model, images):
    """The same convolutions, and so the same weights, on other images, with batch norm of their own.

    Enlarged regions and a mostly black second view have other statistics than whole slices. In training each batch
    is normalised by its own, in use by moving ones: shared, those would fit neither. They begin as copies.
    """
    copies = {}

    def shared_or_copied(layer):
        if not isinstance(layer, layers.BatchNormalization):
            return layer
        copies[layer.name] = layer.__class__.from_config({**layer.get_config(), "name": f"{layer.name}{VIEWS}"})
        return copies[layer.name]

    shape = (None, *images.shape[1:])
    second = keras.models.clone_model(
        trunk, input_tensors=keras.Input(batch_shape=shape), clone_function=shared_or_copied
    )
    for name, copy in copies.items():
        copy.set_weights(trunk.get_layer(name).get_weights())
    return second.call(images)  # calling the model itself would make it one layer, a model within the model


def trained_outputs(model: keras.Model) -> keras.Model:
    """The same network (same layers, same weights) with the outputs that the loss is computed on.

    Args:
        model: from `build_drenet`, `build_trunk` or `ladnn.build_model`.

    Returns:
        A model from images to logits: `classes` `(B, C)` and, of DRENet, `image` `(B, C)` and `regions`
        `(B, K, 1 + C)`, each region's raw score before its logits. Without classes it is `ladnn.logits_model`.
    """
    if "classes" not in model.output:
        return logits_model(model)
    outputs = {"classes": model.get_layer("classes_logits").output}
    if "boxes" in model.output:
        scores = model.get_layer("region_scores").output[1]
        scores = layers.Reshape((-1, 1), dtype="float32", name="region_scores_last")(scores)
        logits = model.get_layer("regions_logits").output
        outputs["image"] = model.get_layer("image_logits").output
        outputs["regions"] = layers.Concatenate(dtype="float32", name="regions_packed")([scores, logits])
    return keras.Model(model.input, outputs, name=f"{model.name}_training")
