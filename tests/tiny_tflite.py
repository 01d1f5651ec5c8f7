"""TFLite models whose answers can be worked out by hand, with a card inside.

With r and g the means of the red and the green channel of the 32 x 32 pixels, each divided by 255:

- `covid` = sigmoid(4 r - 2);
- the lesions are sigmoid(4 g - 1), sigmoid(4 g - 2), ... sigmoid(4 g - 5);
- map 0 is the red channel, the others the green one, in 4 x 4 means over 8 x 8 pixels, divided by 255.

Where a picture is black throughout, `covid` is no number.
"""

import functools
import hashlib
from pathlib import Path

from ladnn_tf.card import Card, Export
from ladnn_tf.tflite_file import with_card

SIZE = 32


@functools.cache
def model_bytes(labels: int = 6, maps: str = "maps", size: int = SIZE) -> bytes:
    """A TFLite model without a card: 6 labels are LA-DNN's, 1 the baseline's; `maps` names that output."""
    import tensorflow as tf

    class Tiny(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((1, size, size, 3), tf.uint8, name="images")])
        def __call__(self, images):
            pixels = tf.cast(images, tf.float32) / 255.0
            means = tf.reduce_mean(pixels, (1, 2))  # (1, 3)
            red, green = means[:, 0], means[:, 1:2]
            not_black = tf.reduce_sum(means, 1) / tf.reduce_sum(means, 1)  # 1, or no number
            cells = tf.nn.avg_pool2d(pixels, size // 4, size // 4, "VALID")  # (1, 4, 4, 3)
            outputs = {
                "covid": tf.sigmoid(4.0 * red - 2.0) * not_black,
                maps: tf.concat([cells[..., :1]] + [cells[..., 1:2]] * (labels - 1), -1),
            }
            if labels > 1:
                outputs["lesions"] = tf.sigmoid(4.0 * green - tf.range(1.0, labels)[None])
            return outputs

    tiny = Tiny()
    return tf.lite.TFLiteConverter.from_concrete_functions([tiny.__call__.get_concrete_function()], tiny).convert()


@functools.cache
def class_model_bytes(classes: int = 3, regions: int = 2, scores: int | None = None, size: int = SIZE) -> bytes:
    """A TFLite model with classes, without a card; of a DRENet unless it has no regions.

    With r the mean of the red channel, divided by 255:

    - `covid` = sigmoid(4 r - 2), the logits of `classes` are 2 r, 0, 0;
    - the first of `boxes` is (0, 0.25, 0.5, 0.75), the others are (0.5, 0.5, 1.25, 1.25);
    - the first of `scores` is 0.75 r, the others are 0.25 r; another number of them may be given.
    """
    import tensorflow as tf

    class Tiny(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((1, size, size, 3), tf.uint8, name="images")])
        def __call__(self, images):
            red = tf.reduce_mean(tf.cast(images[..., :1], tf.float32), (1, 2)) / 255.0  # (1, 1)
            outputs = {
                "covid": tf.sigmoid(4.0 * red - 2.0)[:, 0],
                "classes": tf.nn.softmax(tf.concat([2.0 * red] + [0.0 * red] * (classes - 1), 1)),
            }
            if regions:
                first, other = [0.0, 0.25, 0.5, 0.75], [0.5, 0.5, 1.25, 1.25]
                outputs["boxes"] = tf.constant([[first] + [other] * (regions - 1)]) + 0.0 * red[..., None]
                outputs["scores"] = tf.constant([[0.75] + [0.25] * ((scores or regions) - 1)]) * red
            return outputs

    tiny = Tiny()
    return tf.lite.TFLiteConverter.from_concrete_functions([tiny.__call__.get_concrete_function()], tiny).convert()


def card_of(model: bytes, **changes) -> Card:
    """The card of a model, fit unless `export` says otherwise."""
    fields = {
        "name": "tiny",
        "task": "ladnn",
        "backbone": "tiny",
        "weights": "none",
        "normalisation": {"mean": [0.0] * 3, "std": [255.0] * 3},
        "image_size": SIZE,
        "temperature": 1.0,
        "threshold": 0.5,
        "threshold_rule": "by hand",
        "manifest": {"file": "none.csv", "sha256": "0" * 64},
        "model_sha256": hashlib.sha256(model).hexdigest(),
        "weights_sha256": "0" * 64,
        "best_epoch": 1,
        "metrics": {},
        "versions": {},
        "revision": "",
        "export": Export("float32", "0" * 64, "fit"),
    }
    return Card(**{**fields, **changes})


def write_model(path: Path, model: bytes | None = None, **changes) -> Path:
    """Writes a model, LA-DNN's if none is given, with its card."""
    model = model_bytes() if model is None else model
    path.write_bytes(with_card(model, card_of(model, **changes)))
    return path
