"""The regions of DRENet: anchors, non-maximum suppression, crops and the second view, each as a Keras layer.

Everything has static shapes and is made of sums, products and comparisons, so that it trains on any of Keras'
backends and becomes TensorFlow and TFLite graphs of built-in operators. Source: Song et al. 2021 (DRENet), section
2.2.2, and Yang et al. 2018 (Learning to Navigate), which it builds on.
"""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

OVERLAP = 0.1
"""Regions that overlap a better one by more than this intersection over union are suppressed."""

_SUPPRESSED = -1e9


def anchors(image_size: int, grids: Sequence[int], sides: Sequence[float]) -> np.ndarray:
    """The boxes that are proposed from: at every cell of every grid a square about the cell's centre.

    For example an image of 448 pixels, a grid of 14 and a side of 48: the first box reaches from -8 to 40.

    Args:
        image_size: side S of the image, pixels.
        grids: cells per side of each feature map.
        sides: of each feature map's squares, pixels.

    Returns:
        `(A, 4)` float32: top, left, bottom, right in pixels, row after row, grid after grid. A pixel's centre lies
        half a pixel from its edges; boxes may reach outside of the image.
    """
    boxes = []
    for grid, side in zip(grids, sides, strict=True):
        centres = (np.arange(grid) + 0.5) * image_size / grid
        y, x = np.meshgrid(centres, centres, indexing="ij")
        boxes.append(np.stack([y - side / 2, x - side / 2, y + side / 2, x + side / 2], axis=-1).reshape(-1, 4))
    return np.concatenate(boxes).astype(np.float32)


def overlaps(boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of all pairs: `(A, 4)` boxes to `(A, A)` float32 in [0, 1]."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1)
    return (shared / (area[:, None] + area[None] - shared)).astype(np.float32)


def interpolation(start, stop, out: int, size: int):
    """The rows that read `out` values, evenly from `start` to `stop`, out of `size` pixels, linearly.

    A row has a weight for each pixel; where it reads outside of the image it is empty, so that the image goes on
    as zeros.

    Args:
        start, stop: `(B, K)` float32, the index of the first and of the last pixel that is read.
        out: number of values, at least 2.
        size: of the image, pixels.

    Returns:
        `(B, K, out, size)` float32.
    """
    step = np.arange(out, dtype=np.float32) / (out - 1)
    places = start[..., None] + (stop - start)[..., None] * step
    return ops.relu(1.0 - ops.abs(places[..., None] - np.arange(size, dtype=np.float32)))


def shrinking(out: int, size: int) -> np.ndarray:
    """The rows that shrink `size` pixels to `out`, bilinear and antialiased: `(out, size)` float32, sums 1."""
    scale = max(size / out, 1.0)
    centres = (np.arange(out) + 0.5) * size / out
    weights = np.clip(1.0 - np.abs(centres[:, None] - (np.arange(size) + 0.5)) / scale, 0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@keras.saving.register_keras_serializable(package="ladnn_tf")
class StopGradient(keras.layers.Layer):
    """Its input, through which no gradient flows back."""

    def call(self, inputs):
        return ops.stop_gradient(inputs)


@keras.saving.register_keras_serializable(package="ladnn_tf")
class SelectRegions(keras.layers.Layer):
    """Greedy non-maximum suppression of a fixed set of anchors: scores `(B, A)` to the best K boxes.

    Each round takes the anchor with the highest score and suppresses those that overlap it by more than
    `OVERLAP`. That is `tf.image.non_max_suppression`, as long as K anchors are left; where fewer are, the first
    anchor is taken again.

    In training each round can draw its anchor instead, by the softmax of the scores over a temperature (of what
    is left; by the Gumbel-max trick). An anchor that is never looked at is never ranked, however good it is.

    Args:
        image_size: side S of the image, pixels.
        grids, sides: as `anchors` takes them.
        regions: K.
        temperature: of the softmax that training draws by; 0 for the best anchors in training, too.
    """

    def __init__(
        self,
        image_size: int,
        grids: Sequence[int],
        sides: Sequence[float],
        regions: int,
        temperature: float = 0.0,
        **kwargs,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.image_size = image_size
        self.grids = list(grids)
        self.sides = list(sides)
        self.regions = regions
        self.temperature = temperature
        if temperature:
            self.seed_generator = keras.random.SeedGenerator()
        self._anchors = anchors(image_size, grids, sides)
        self._near = (overlaps(self._anchors) > OVERLAP).astype(np.float32)

    def call(self, scores, training=False):
        """Scores `(B, A)` to boxes `(B, K, 4)` float32, in pixels, best first, and their scores `(B, K)`."""
        places = np.arange(len(self._anchors), dtype=np.int32)
        left, taken = ops.stop_gradient(scores), []
        if training and self.temperature:
            left = left + self.temperature * self._gumbel(ops.shape(scores))
        for _ in range(self.regions):
            best = ops.cast(ops.top_k(left, 1)[1], "int32")
            chosen = ops.cast(ops.equal(best, places), "float32")
            taken.append(chosen)
            left = ops.where(ops.matmul(chosen, self._near) > 0.5, _SUPPRESSED, left)
        chosen = ops.stack(taken, axis=1)
        return ops.matmul(chosen, self._anchors), ops.sum(chosen * scores[:, None], axis=-1)

    def _gumbel(self, shape):
        uniform = keras.random.uniform(shape, 1e-7, 1.0, dtype="float32", seed=self.seed_generator)
        return -ops.log(-ops.log(uniform))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.regions, 4), (input_shape[0], self.regions)

    def get_config(self):
        names = ("image_size", "grids", "sides", "regions", "temperature")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="ladnn_tf")
class Views(keras.layers.Layer):
    """What is looked at a second time: the K regions, enlarged, and the image with all but the regions blackened.

    A region is read by linear interpolation from its first pixel to its last, as `tf.image.crop_and_resize` does
    on an image that goes on as zeros. In the second view each region is multiplied by its confidence (where
    regions overlap, by the higher one), what lies in none is zero, and the whole is shrunk to the regions' size:
    one pass of the trunk sees them all. No gradient flows from here to boxes and confidences.

    Args:
        image_size: side S of the images, pixels, which a pipeline's tensors do not always know.
        view_size: side of every view, pixels.
    """

    def __init__(self, image_size: int, view_size: int, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.image_size = image_size
        self.view_size = view_size

    def call(self, images, boxes, confidences):
        """Images `(B, S, S, 3)`, boxes `(B, K, 4)` in pixels, confidences `(B, K)` to `(B (K + 1), v, v, 3)`."""
        boxes, confidences = ops.stop_gradient(boxes), ops.stop_gradient(confidences)
        size, regions, out = self.image_size, boxes.shape[1], self.view_size
        top, left, bottom, right = (boxes[..., side] for side in range(4))
        rows = interpolation(top, bottom - 1.0, out, size)
        columns = interpolation(left, right - 1.0, out, size)
        flat = ops.reshape(images, (-1, size, size * 3))
        crops = ops.reshape(ops.matmul(ops.reshape(rows, (-1, regions * out, size)), flat), (-1, out, size, 3))
        crops = ops.reshape(ops.transpose(crops, (0, 2, 1, 3)), (-1, size, out * 3))
        crops = ops.matmul(ops.reshape(columns, (-1, out, size)), crops)
        crops = ops.transpose(ops.reshape(crops, (-1, out, out, 3)), (0, 2, 1, 3))
        second = self._second(images, boxes, confidences)
        together = ops.concatenate([ops.reshape(crops, (-1, regions, out, out, 3)), second[:, None]], axis=1)
        return ops.reshape(together, (-1, out, out, 3))

    def _second(self, images, boxes, confidences):
        size = self.image_size
        places = np.arange(size, dtype=np.float32) + 0.5
        inside = [
            ops.cast((places > boxes[..., first, None]) & (places < boxes[..., first + 2, None]), "float32")
            for first in (0, 1)
        ]
        each = (confidences[..., None] * inside[0])[..., None] * inside[1][..., None, :]
        view = images * ops.max(each, axis=1)[..., None]
        rows = shrinking(self.view_size, size)
        view = ops.reshape(
            ops.matmul(rows, ops.reshape(view, (-1, size, size * 3))), (-1, self.view_size, size, 3)
        )
        view = ops.reshape(ops.transpose(view, (0, 2, 1, 3)), (-1, size, self.view_size * 3))
        view = ops.reshape(ops.matmul(rows, view), (-1, self.view_size, self.view_size, 3))
        return ops.transpose(view, (0, 2, 1, 3))

    def compute_output_shape(self, images_shape, boxes_shape, confidences_shape):  # noqa: ARG002
        batch = None if images_shape[0] is None else images_shape[0] * (boxes_shape[1] + 1)
        return (batch, self.view_size, self.view_size, images_shape[-1])

    def get_config(self):
        return {**super().get_config(), "image_size": self.image_size, "view_size": self.view_size}


@keras.saving.register_keras_serializable(package="ladnn_tf")
class PerImage(keras.layers.Layer):
    """Puts the views of an image together again: `(B n, F)` to `(B, n, F)`.

    Args:
        views: n.
    """

    def __init__(self, views: int, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.views = views

    def call(self, features):
        return ops.reshape(features, (-1, self.views, features.shape[-1]))

    def compute_output_shape(self, input_shape):
        return (None, self.views, input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "views": self.views}


@keras.saving.register_keras_serializable(package="ladnn_tf")
class Shares(keras.layers.Layer):
    """Boxes in pixels as shares of the image's side, `(B, K, 4)` float32.

    Args:
        image_size: side S, pixels.
    """

    def __init__(self, image_size: int, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.image_size = image_size

    def call(self, boxes):
        return boxes / self.image_size

    def get_config(self):
        return {**super().get_config(), "image_size": self.image_size}
