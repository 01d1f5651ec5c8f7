"""From a finished model to TFLite, in every precision.

The graph takes raw pixels and answers with calibrated probabilities and attention maps, or classes and boxes;
normalisation and temperature are inside. The heads (pooling, dense layers, sigmoids, maps) stay in float in the
quantised files too: they cost next to nothing, and a probability in 256 steps would have ties that the network
has not. Their biases take back what quantising the trunk adds to the logits on average (bias correction, after
Nagel et al. 2019, section 4.2, here for the last layer alone).
"""

import contextlib
import dataclasses
import functools
import io
import logging as standard_logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe_manager
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.utils import qsv_utils
from scipy.special import logit

from export.signatures import answered, answering_model
from ladnn_tf.labels import COVID

FORMATS = ("float32", "float16", "dynamic", "int8", "int8_mixed")
"""Of a TFLite file: `dynamic` has weights in int8 and activations in float outside the products, `int8` computes
in int8 but for the heads, `int8_mixed` leaves squeeze-excite in float too, and the first blocks where it must."""

OF_CLASSES = FORMATS[:2]
"""Formats of a model with classes. DRENet looks again at the best of many regions: in 256 steps their scores have
ties that the network has not, and it looks elsewhere. The plain trunk has the same, to be set beside it."""

SIGNATURE = "serving_default"
_HEADS = (r"features_\d", r"logits_\d", "StatefulPartitionedCall", "truediv", "strided_slice")
_START = ("_se_", "normalise_pixels", "stem_", "block1")
# What `int8_mixed` leaves in float beside the heads, from the fastest to the most exact. The first blocks have the
# widest ranges: of EfficientNet-b0 on COVID-CT more than half of the error arises in them (BUILD_NOTES.md).
_MIXTURES = (("_se_",), _START, (*_START, "block2"), (*_START, "block2", "block3", "block4"))
_ENOUGH = 0.98  # of the validation images' decisions: the next mixture is not tried
_BITS = 8
_THREADS = 2
_LEAST_PROBABILITY = 1e-6  # beyond it a logit is not read back from a probability


@dataclasses.dataclass(frozen=True, eq=False)
class Decisions:
    """Images by which `int8_mixed` chooses what it leaves in float.

    Attributes:
        images: `(N, S, S, 3)` uint8 RGB in [0, 255]: of the validation split, never of the test split.
        threshold: COVID-19 is called at this calibrated probability or above.
    """

    images: np.ndarray
    threshold: float


def formats_of(backbone: str, classes: Sequence[str] = ()) -> tuple[str, ...]:
    """The formats that a model is exported in: EfficientNet alone has squeeze-excite to leave in float.

    Args:
        backbone: a key of `BACKBONES`.
        classes: of the model's card; not empty for one with a softmax, which is not quantised.
    """
    if classes:
        return OF_CLASSES
    return FORMATS if backbone.startswith("efficientnet") else FORMATS[:-1]


def convert(
    model: keras.Model,
    temperature: float,
    formats: Sequence[str],
    images: np.ndarray,
    decisions: Decisions | None = None,
) -> dict[str, bytes]:
    """Converts a model.

    Args:
        model: of a run.
        temperature: of the diagnosis.
        formats: of `FORMATS`.
        images: `(N, S, S, 3)` uint8, training images; int8 takes from them the ranges of its activations and what
            it adds to the logits on average.
        decisions: for `int8_mixed`; without them it leaves squeeze-excite alone in float.

    Returns:
        TFLite models, without cards, by format.

    Raises:
        OSError: if the temporary folder is full.
    """
    converted = {}
    with tempfile.TemporaryDirectory() as folder:
        graph = _Graph(answering_model(model), temperature, folder)
        for form in formats:
            if form == "int8":
                converted[form] = _quantised(graph, images, [()], None)
            elif form == "int8_mixed":
                mixtures = _MIXTURES if decisions else _MIXTURES[:1]
                converted[form] = _quantised(graph, images, mixtures, decisions)
            else:
                converted[form] = graph.float32 if form == "float32" else graph.convert(form)
    return converted


class _Graph:
    """What is converted: raw pixels of one image to probabilities and what explains them.

    Args:
        network: from `answering_model`.
        temperature: of the diagnosis.
        folder: an empty one, which lives as long as this does.
    """

    def __init__(self, network: keras.Model, temperature: float, folder: str) -> None:
        self._network = network
        self._temperature = temperature
        self._folder = folder
        # Those whose biases take back what quantising adds; a model with classes is not quantised.
        heads = [] if "classes" in network.output else [head for head in network.output if head != "attention"]
        self._heads = [network.get_layer(f"{head}_logits") for head in heads]

    @functools.cached_property
    def float32(self) -> bytes:
        """What everything quantised is made of and compared with."""
        return self.convert("float32")

    def convert(self, form: str) -> bytes:
        """Converts to float32, float16 or dynamic."""
        converter = tf.lite.TFLiteConverter.from_saved_model(self._written)
        if form != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if form == "float16":
            converter.target_spec.supported_types = [tf.float16]
        return converter.convert()

    def shifted(self, shift: np.ndarray) -> bytes:
        """In float32, `shift` (labels,) added to the scaled logits."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder, self._shifted(shift):
            self._write(folder)
            return tf.lite.TFLiteConverter.from_saved_model(folder).convert()

    @functools.cached_property
    def _written(self) -> str:
        """The folder of the SavedModel, written once: a large graph takes longer to trace than to convert."""
        folder = tempfile.mkdtemp(dir=self._folder)
        self._write(folder)
        return folder

    def _write(self, folder: str) -> None:
        network, size = self._network, self._network.input.shape[1]

        def serve(images):
            probabilities, explanation = answered(network, self._temperature, tf.cast(images, tf.float32))
            return probabilities | explanation

        # An ExportArchive: tf.saved_model.save of a Keras 3 model leaves variables that the converter does not
        # freeze. Kernels are then transposed for each image, batch norm is not folded, nothing is quantised.
        archive = keras.export.ExportArchive()
        archive.track(network)
        archive.add_endpoint(SIGNATURE, serve, [tf.TensorSpec((1, size, size, 3), tf.uint8, name="images")])
        try:
            archive.write_out(folder, verbose=False)
        except tf.errors.OpError as error:  # TensorFlow's own error for a full disk, say
            raise OSError(f"{folder} cannot be written: {error.message}") from error

    @contextlib.contextmanager
    def _shifted(self, shift: np.ndarray) -> Iterator[None]:
        before = [layer.bias.numpy() for layer in self._heads]
        changes = np.split(shift, np.cumsum([len(bias) for bias in before])[:-1])
        for layer, change in zip(self._heads, changes, strict=True):
            scale = self._temperature if layer.name.startswith(COVID) else 1.0
            layer.bias.assign_add(change * scale)
        try:
            yield
        finally:
            for layer, bias in zip(self._heads, before, strict=True):
                layer.bias.assign(bias)


def _quantised(
    graph: _Graph, images: np.ndarray, mixtures: Sequence[Sequence[str]], decisions: Decisions | None
) -> bytes:
    """Quantises with the first mixture that decides as the float model does; the closest one if none does."""
    float32 = graph.float32
    ranges = _ranges(float32, images, mixtures[0])
    expected = _scaled_logits(float32, images)
    closest, most = b"", -1.0
    for number, mixture in enumerate(mixtures, start=1):
        added = _scaled_logits(_quantise(float32, ranges, mixture), images) - expected
        model = _quantise(graph.shifted(-added.mean(axis=0)), ranges, mixture)
        if decisions is None:
            return model
        equal = _equal_decisions(model, float32, decisions)
        logging.info("int8_mixed, mixture %d of %d: %.1f %% equal decisions on validation", number, len(mixtures),
                     100 * equal)  # fmt: skip
        if equal > most:
            closest, most = model, equal
        if equal >= _ENOUGH:
            break
    return closest


def _equal_decisions(model: bytes, float32: bytes, decisions: Decisions) -> float:
    called = [_answers(content, decisions.images)[COVID] >= decisions.threshold for content in (model, float32)]
    return float(np.mean(called[0] == called[1]))


def _scaled_logits(model: bytes, images: np.ndarray) -> np.ndarray:
    """`(N, labels)`: of COVID-19 divided by the temperature, of the lesions as they are."""
    answers = _answers(model, images)
    columns = [answers[COVID][:, None], *([answers["lesions"]] if "lesions" in answers else [])]
    probabilities = np.concatenate(columns, axis=1).astype(np.float64)
    return logit(np.clip(probabilities, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY))


def _answers(model: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    runner = Interpreter(model_content=model, num_threads=_THREADS).get_signature_runner(SIGNATURE)
    answers = [{name: values.copy() for name, values in runner(images=image[None]).items()} for image in images]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in (answers[0] if answers else ())}


def _quantizer(float32: bytes, mixture: Sequence[str]) -> quantizer.Quantizer:
    """To quantise all operations but the heads and those whose output has a name in the mixture."""
    quantize = quantizer.Quantizer(float32)
    every = qtyping.TFLOperationName.ALL_SUPPORTED
    quantize.add_static_config(regex=".*", operation_name=every, activation_num_bits=_BITS, weight_num_bits=_BITS)
    for name in (*_HEADS, *mixture):
        quantize.update_quantization_recipe(
            regex=name, operation_name=every, algorithm_key=AlgorithmName.NO_QUANTIZE
        )
    return quantize


def _ranges(float32: bytes, images: np.ndarray, mixture: Sequence[str]) -> dict:
    recipe = recipe_manager.RecipeManager()
    recipe.load_quantization_recipe(_quantizer(float32, mixture).get_quantization_recipe())
    with _quietly():
        # The quantizer's own way averages the ranges over the images, which cuts off the strongest activations.
        ranges = calibrator.Calibrator(float32, _THREADS, qsv_update_func=qsv_utils.min_max_update)
        ranges.calibrate({SIGNATURE: [{"images": image[None]} for image in images]}, recipe)
        return ranges.get_model_qsvs()


def _quantise(float32: bytes, ranges: dict, mixture: Sequence[str]) -> bytes:
    with _quietly():
        return bytes(_quantizer(float32, mixture).quantize(ranges).quantized_model)


@contextlib.contextmanager
def _quietly():
    """Keeps progress bars, debugging hints and sizes of the quantizer from the terminal."""
    level = standard_logging.root.manager.disable
    standard_logging.disable(standard_logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.filterwarnings("ignore", "(?s).*experimental_preserve_all_tensors", UserWarning)
            yield
    finally:
        standard_logging.disable(level)
