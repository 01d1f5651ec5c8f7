"""The graph of the SavedModel: encoded bytes or pixels in, probabilities and what the network looked at out.

Every image is judged by its first bytes before anything is decoded: what `preprocess.decode` refuses is refused
here too, and a header that promises a billion pixels costs no memory. What only the decoder finds, such as a
wrong checksum in the middle of a PNG, is TensorFlow's own InvalidArgument error, without the image's place.
"""

from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from ladnn_tf.data import pipeline
from ladnn_tf.data.preprocess import LFS_POINTER, MAX_PIXELS, PNG_END, PNG_SIGNATURE
from ladnn_tf.labels import COVID
from ladnn_tf.models.attention import attention_model
from ladnn_tf.models.ladnn import float32_copy, logits_model

BYTES, EXPLAIN, PIXELS, CARD = "serving_default", "explain", "pixels", "card"
SIGNATURES = (BYTES, EXPLAIN, PIXELS, CARD)

_ANSWERED = (COVID, "classes", "boxes", "scores")  # of a model with classes; what DRENet learns beside is not

_JPEG_SIGNATURE = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"  # ITU-T T.81, table B.1: end of image; within the scan a byte of 255 is followed by 0
_HEADER = 33  # bytes of a PNG up to the end of its first chunk; no whole PNG or JPEG is as short
_CMYK = 4  # channels

# A gRPC error travels in a header of 8 KB, in which the reasons of a large batch would not fit.
_MOST_NAMED = 8

# An operation's own error says its name and little else.
_DAMAGED = "damaged_image_copy_it_again_from_its_source"

# Each holds up to MAX_PIXELS in RGB, as uint8 and as float32: 15 bytes a pixel.
_DECODED_AT_ONCE = 4


def servable(model: keras.Model, temperature: float, card: Path) -> tuple[tf.Module, dict[str, Callable]]:
    """Makes what `tf.saved_model.save` takes: an object that holds the variables, and the signatures.

    With B images in a request, 1 or more, the signatures are:

    - `serving_default`: `image_bytes` (B,) string, PNG or JPEG files, to `covid` (B,), calibrated, and `lesions`
      (B, 5), both float32 in [0, 1]; a baseline has no lesions. A model with classes has `classes` (B, C) instead,
      their softmax, not calibrated, in the order of the card. One image that cannot be read fails all B, by an
      InvalidArgument error that names each such image's place and the reason;
    - `explain`: the same and `maps` (B, h, w, C) float32, not negative, not normalised: C is 6 (COVID-19, then
      `labels.LESIONS`), or 1 of a baseline. A DRENet has `boxes` (B, K, 4) instead, top, left, bottom, right as
      shares of the image's sides, and `scores` (B, K) in [0, 1]; a plain trunk has nothing more;
    - `pixels`: `images` (B, H, W, 3) uint8 RGB, of one size in a request, to what `serving_default` gives;
    - `card`: `query` (B,) string, whatever it says, to `card` (B,) string, the JSON of the model's card, which is
      read when it is asked for from the SavedModel's folder `assets`. So clients judge by the card of the model
      that answers them.

    Args:
        model: from `ladnn.build_model` or `drenet.py`, or loaded from a run, of any precision; its copy in float32
            is used.
        temperature: the logit of COVID-19 is divided by it before the sigmoid.
        card: a file, of whose name and content a copy goes into `assets`.

    Returns:
        The object, and the concrete functions by the names of `SIGNATURES`.
    """
    network = answering_model(model)
    size = network.input_shape[1]

    # A function of its own is stored once, however many signatures call it.
    @tf.function(input_signature=[tf.TensorSpec((None, size, size, 3), tf.uint8)])
    def answers(pixels):
        # TensorFlow's convolutions answer an empty batch with an error about shapes.
        some = tf.debugging.Assert(tf.shape(pixels)[0] > 0, ["the request holds no image; send at least one"])
        with tf.control_dependencies([some]):
            pixels = tf.cast(pixels, tf.float32)
        return answered(network, temperature, pixels)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")])
    def of_bytes(image_bytes):
        return answers(read_images(image_bytes, size))[0]

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")])
    def explain(image_bytes):
        probabilities, explanation = answers(read_images(image_bytes, size))
        return probabilities | explanation

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")])
    def of_pixels(images):
        images = tf.ensure_shape(images, (None, None, None, 3))  # else one channel is taken, and made into three
        return answers(pipeline.resize(images, size))[0]

    asset = tf.saved_model.Asset(str(card))

    # Each output of a signature needs the batch first, and an input to have it from.
    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="query")])
    def of_card(query):
        return {CARD: tf.repeat(tf.io.read_file(asset.asset_path)[None], tf.shape(query)[0])}

    holder = tf.Module()
    holder.values = [variable.value for variable in network.variables]
    holder.card = asset
    functions = {BYTES: of_bytes, EXPLAIN: explain, PIXELS: of_pixels, CARD: of_card}
    return holder, {name: function.get_concrete_function() for name, function in functions.items()}


def answering_model(model: keras.Model) -> keras.Model:
    """The network that is exported, and that the gate compares exports with.

    Args:
        model: of a run, of any precision.

    Returns:
        A copy in float32 from images `(B, S, S, 3)` in [0, 255] to logits and what explains them: that of
        `attention_model`; of a model with classes `covid` (B, 1), `classes` (B, C) and, of DRENet, `boxes` and
        `scores`.
    """
    copy = float32_copy(model)
    if "classes" not in copy.output:
        return attention_model(copy)
    outputs = logits_model(copy).output
    return keras.Model(copy.input, {name: outputs[name] for name in _ANSWERED if name in outputs})


def answered(
    network: keras.Model, temperature: float, pixels: tf.Tensor
) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """What every exported model answers, whatever its format.

    Args:
        network: from `answering_model`.
        temperature: the logit of COVID-19 is divided by it before the sigmoid.
        pixels: `(B, S, S, 3)` float32 RGB in [0, 255].

    Returns:
        Probabilities, `covid` (B,), calibrated, and `lesions` (B, 5) or `classes` (B, C) of models that have them;
        and what explains them: `maps` (B, h, w, C), or `boxes` (B, K, 4) and `scores` (B, K), or nothing.
    """
    outputs = network(pixels, training=False)
    probabilities = {COVID: tf.sigmoid(outputs[COVID][:, 0] / temperature)}
    if "lesions" in outputs:
        probabilities["lesions"] = tf.sigmoid(outputs["lesions"])
    if "classes" in outputs:
        probabilities["classes"] = tf.nn.softmax(outputs["classes"])
    explanation = {name: outputs[name] for name in ("boxes", "scores") if name in outputs}
    if "attention" in outputs:
        explanation["maps"] = outputs["attention"]
    return probabilities, explanation


def read_images(image_bytes: tf.Tensor, size: int) -> tf.Tensor:
    """Reads PNG and JPEG files by the image contract (`data/preprocess.py`), in the graph.

    Args:
        image_bytes: (B,) string, the bytes of the files.
        size: the side S in pixels.

    Returns:
        `(B, S, S, 3)` uint8 RGB in [0, 255].

    Raises:
        tf.errors.InvalidArgumentError: when it runs, if one of them cannot be read.
    """
    reasons = tf.map_fn(refusal, image_bytes, parallel_iterations=_DECODED_AT_ONCE)
    refused = tf.where(reasons != "")[:, 0]
    with tf.control_dependencies([tf.debugging.Assert(tf.size(refused) == 0, [_message(reasons, refused)])]):
        readable = tf.identity(image_bytes)

    def read(encoded):
        with tf.name_scope(_DAMAGED):
            return pipeline.resize(pipeline.decode(encoded), size)

    return tf.map_fn(
        read,
        readable,
        fn_output_signature=tf.TensorSpec((size, size, 3), tf.uint8),
        parallel_iterations=_DECODED_AT_ONCE,
    )


def _message(reasons: tf.Tensor, refused: tf.Tensor) -> tf.Tensor:
    named = refused[:_MOST_NAMED]
    lines = tf.strings.join(["image_bytes[", tf.strings.as_string(named), "]: ", tf.gather(reasons, named)])
    more = tf.strings.join(["; and ", tf.strings.as_string(tf.size(refused) - tf.size(named)), " more"])
    return tf.strings.join(
        [
            tf.strings.as_string(tf.size(refused)),
            " of ",
            tf.strings.as_string(tf.size(reasons)),
            " images cannot be read, and none of the request is answered: ",
            tf.strings.reduce_join(lines, separator="; "),
            tf.where(tf.size(refused) > tf.size(named), more, ""),
        ]
    )


def refusal(encoded: tf.Tensor) -> tf.Tensor:
    """Says why an image is not to be decoded, from what can be told without decoding it.

    Args:
        encoded: scalar string, the bytes of a file.

    Returns:
        Scalar string: the reason and what to do, as `preprocess.decode` has them; empty if there is none.

    Raises:
        tf.errors.InvalidArgumentError: when it runs, if a JPEG is damaged before its size is told.
    """
    header = tf.strings.substr(encoded, 0, _HEADER)
    png, jpeg, pointer = (_begins(header, x) for x in (PNG_SIGNATURE, _JPEG_SIGNATURE, LFS_POINTER))
    octets = tf.io.decode_raw(encoded, tf.uint8)
    length = tf.size(octets)
    ended = tf.where(png, _contains(octets, PNG_END), _contains(octets, _JPEG_END)) & (length > _HEADER)
    height, width, channels = tf.unstack(
        tf.cond(
            jpeg & ended,
            lambda: tf.image.extract_jpeg_shape(encoded, tf.int64, name=_DAMAGED),
            lambda: tf.where(png, _png_shape(octets), 1),
        )
    )
    # PNG specification (third edition), 11.2.1: byte 24 is the bit depth, byte 25 the colour type, 0 is grey.
    depth, colour = tf.unstack(_padded(octets)[24:26])
    size = tf.strings.join([tf.strings.as_string(width), " x ", tf.strings.as_string(height)])
    pixels = tf.cast(width, tf.float64) * tf.cast(height, tf.float64)  # a PNG may claim more than int64 holds
    too_many = tf.strings.join(
        [size, f" pixels are more than the {MAX_PIXELS:,} that are read; a chest-CT slice has about 512 x 512"]
    )
    checks = [
        (length == 0, "the file is empty; copy it again from its source"),
        (pointer, "this is a Git LFS pointer, not an image; run `git lfs pull` where it came from"),
        (~(png | jpeg), "neither PNG nor JPEG; convert it"),
        (png & (depth == 16) & (colour != 0), "a 16-bit PNG that is not plain grey; save it as 8-bit, or as "
         "16-bit grey"),
        (pixels > MAX_PIXELS, too_many),
        (jpeg & (channels == _CMYK), "colour mode CMYK is not read; save the slice as grey or RGB"),
        (~ended | (pixels == 0), "damaged or truncated image (no end); copy it again from its source"),
    ]  # fmt: skip
    reason = tf.constant("")
    for wrong, words in reversed(checks):
        reason = tf.where(wrong, words, reason)
    return reason


def _begins(text: tf.Tensor, beginning: bytes) -> tf.Tensor:
    return tf.strings.substr(text, 0, len(beginning)) == beginning


def _contains(octets: tf.Tensor, pattern: bytes) -> tf.Tensor:
    last = tf.size(octets) - len(pattern) + 1
    # Octet after octet, of the places that are left: the first leaves one in 256 of a large file.
    places = tf.where(octets[: tf.maximum(last, 0)] == pattern[0])[:, 0]
    for offset, octet in enumerate(pattern[1:], start=1):
        places = tf.boolean_mask(places, tf.gather(octets, places + offset) == octet)
    return tf.size(places) > 0


def _padded(octets: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.concat([octets[:_HEADER], tf.zeros((_HEADER,), tf.uint8)], 0)[:_HEADER], (_HEADER,))


def _png_shape(octets: tf.Tensor) -> tf.Tensor:
    """Height, width and a 0 for the channels, in the order of `extract_jpeg_shape`."""
    # PNG specification (third edition), 11.2.1: width and height, four bytes each, the highest first.
    numbers = tf.reshape(tf.cast(_padded(octets)[16:24], tf.int64), (2, 4))
    width, height = tf.unstack(tf.reduce_sum(numbers * [1 << 24, 1 << 16, 1 << 8, 1], axis=1))
    return tf.stack([height, width, tf.zeros((), tf.int64)])
