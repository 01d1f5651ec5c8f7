"""From a finished model to TFLite, in every precision.

The graph takes raw pixels and answers with calibrated probabilities and attention maps; normalisation and
temperature are inside. The heads (pooling, dense layers, sigmoids, maps) stay in float in the quantised files too:
they cost next to nothing, and a probability in 256 steps would have ties that the network has not.
"""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe_manager
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.utils import qsv_utils

from ladnn_tf.labels import COVID
from ladnn_tf.models.attention import attention_model
from ladnn_tf.models.ladnn import float32_copy

FORMATS = ("float32", "float16", "dynamic", "int8", "int8_mixed")
"""Of a TFLite file: `dynamic` has weights in int8 and activations in float outside the products, `int8` computes
in int8 but for the heads, `int8_mixed` leaves squeeze-excite in float too."""

SIGNATURE = "serving_default"
_HEADS = (r"features_\d", r"logits_\d", "StatefulPartitionedCall", "truediv", "strided_slice")
_SQUEEZE_EXCITE = "_se_"
_BITS = 8
_THREADS = 2


def formats_of(backbone: str) -> tuple[str, ...]:
    """The formats that a backbone is exported in: EfficientNet alone has squeeze-excite to leave in float."""
    return FORMATS if backbone.startswith("efficientnet") else FORMATS[:-1]


def write_graph(model: keras.Model, temperature: float, folder: str | Path) -> None:
    """Writes the graph that is converted as a SavedModel, for one image at a time.

    Args:
        model: of a run.
        temperature: of the diagnosis.
        folder: to write.
    """
    network = attention_model(float32_copy(model))
    size = network.input.shape[1]

    def serve(images):
        answers = network(tf.cast(images, tf.float32), training=False)
        outputs = {COVID: tf.sigmoid(answers[COVID][:, 0] / temperature), "maps": answers["attention"]}
        return outputs if "lesions" not in answers else {**outputs, "lesions": tf.sigmoid(answers["lesions"])}

    # An ExportArchive: tf.saved_model.save of a Keras 3 model leaves variables that the converter does
    # not freeze. Kernels are then transposed for each image, batch norm is not folded, nothing is quantised.
    archive = keras.export.ExportArchive()
    archive.track(network)
    archive.add_endpoint(SIGNATURE, serve, [tf.TensorSpec((1, size, size, 3), tf.uint8, name="images")])
    archive.write_out(str(folder), verbose=False)


def convert(
    model: keras.Model, temperature: float, formats: Sequence[str], images: np.ndarray
) -> dict[str, bytes]:
    """Converts a model.

    Args:
        model: of a run.
        temperature: of the diagnosis.
        formats: of `FORMATS`.
        images: `(N, S, S, 3)` uint8, training images; int8 takes the ranges of its activations from them.

    Returns:
        TFLite models, without cards, by format.
    """
    converted = {}
    with tempfile.TemporaryDirectory() as folder:
        write_graph(model, temperature, folder)
        float32 = _from_saved_model(folder, "float32")
        for form in formats:
            if form == "float32":
                converted[form] = float32
            elif form.startswith("int8"):
                kept = (*_HEADS, _SQUEEZE_EXCITE) if form == "int8_mixed" else _HEADS
                converted[form] = _quantised(float32, images, kept)
            else:
                converted[form] = _from_saved_model(folder, form)
    return converted


def _from_saved_model(folder: str, form: str) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    if form != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if form == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def _quantised(float32: bytes, images: np.ndarray, kept: Sequence[str]) -> bytes:
    """Quantises weights and activations of all operations but those whose output has a name among `kept`."""
    quantize = quantizer.Quantizer(float32)
    every = qtyping.TFLOperationName.ALL_SUPPORTED
    quantize.add_static_config(regex=".*", operation_name=every, activation_num_bits=_BITS, weight_num_bits=_BITS)
    for name in kept:
        quantize.update_quantization_recipe(
            regex=name, operation_name=every, algorithm_key=AlgorithmName.NO_QUANTIZE
        )
    recipe = recipe_manager.RecipeManager()
    recipe.load_quantization_recipe(quantize.get_quantization_recipe())
    with _quietly():
        # The quantizer's own way averages the ranges over the images, which cuts off the strongest activations.
        ranges = calibrator.Calibrator(float32, _THREADS, qsv_update_func=qsv_utils.min_max_update)
        ranges.calibrate({SIGNATURE: [{"images": image[None]} for image in images]}, recipe)
        return bytes(quantize.quantize(ranges.get_model_qsvs()).quantized_model)


@contextlib.contextmanager
def _quietly():
    """Keeps progress bars, debugging hints and sizes of the quantizer from the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.filterwarnings("ignore", "(?s).*experimental_preserve_all_tensors", UserWarning)
            yield
    finally:
        logging.disable(level)
