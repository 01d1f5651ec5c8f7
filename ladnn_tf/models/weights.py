"""Initial weights of every kind, and the normalisation that belongs to them.

A trunk that was trained on pixels in one range and order is silently wrong on any other, so a source of weights
always comes with its `Normalisation`, and `models/ladnn.py` builds the model with that one.
"""

import dataclasses
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from ladnn_tf.models.backbones import BACKBONES, NORMALISATION_LAYER


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """What is done to RGB pixels in [0, 255] before the first convolution: (pixel - mean) / std per channel.

    Attributes:
        mean: of R, G and B, in grey levels.
        std: of R, G and B, in grey levels.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


TORCH = Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""Mean and standard deviation of ImageNet, as torchvision's weights and Keras' DenseNet have it. Keras'
EfficientNet comes to the same: its layer divides by the square root of std, its extra Rescaling once more."""

CAFFE = Normalisation((123.68, 116.779, 103.939), (1.0, 1.0, 1.0))
"""Keras' VGG-16 and ResNet-50: mean taken off, not scaled. They were trained on BGR; the channels of their first
kernel are turned round when they are loaded, which is the same and leaves the graph in RGB."""

_IMAGENET_NORMALISATION = {
    "vgg16": CAFFE,
    "resnet50": CAFFE,
    "densenet121": TORCH,
    "densenet169": TORCH,
    "efficientnet_b0": TORCH,
    "efficientnet_b1": TORCH,
}
_OFFLINE = (
    "on a machine without internet give --weights=FILE (a .npz or a .keras file that was made elsewhere) "
    "or --weights=none"
)


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """A source of weights: its normalisation, and a function that loads them into a trunk."""

    normalisation: Normalisation
    load: Callable[[keras.Model], None]


def initial_weights(backbone: str, weights: str) -> InitialWeights:
    """Opens a source of weights.

    Args:
        backbone: a key of `BACKBONES`.
        weights: `none`, `imagenet` (Keras Applications, a download), `noisy-student` (EfficientNet only, the
            package efficientnet, a download), or the path of a `.npz` (read without pickle) or `.keras` file
            (read in safe mode).

    Returns:
        The normalisation, and a function that fills a trunk built by `build_backbone`.

    Raises:
        ValueError: if the source does not exist for this backbone, cannot be read or downloaded.
    """
    if weights == "none":
        return InitialWeights(TORCH, _keep)
    if weights == "imagenet":
        return _imagenet(backbone)
    if weights == "noisy-student":
        return _noisy_student(backbone)
    path = Path(weights)
    if path.suffix not in (".npz", ".keras"):
        raise ValueError(
            "weights should be none, imagenet, noisy-student or the path of a .npz or .keras file. "
            f"Received: {weights!r}"
        )
    if not path.is_file():
        raise ValueError(f"there is no weights file {weights!r} (looked for from {Path.cwd()})")
    return _npz(path) if path.suffix == ".npz" else _keras_file(path)


def _keep(_trunk: keras.Model) -> None:
    """Leaves the random weights as they are."""


def normalisation_of(model: keras.Model) -> Normalisation:
    """The normalisation that a model of this project does inside."""
    rescaling = model.get_layer(NORMALISATION_LAYER)
    std = 1.0 / np.asarray(rescaling.scale)
    mean = -np.asarray(rescaling.offset) * std
    return Normalisation(tuple(map(float, mean.round(6))), tuple(map(float, std.round(6))))


def _weighted_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers with weights that initial weights fill; EfficientNet's own normalisation is not one."""
    return [layer for layer in model.layers if layer.weights and not isinstance(layer, keras.layers.Normalization)]


def _assign(layer: keras.layers.Layer, values: dict[str, np.ndarray], source: str) -> None:
    for variable in layer.weights:
        if variable.name not in values:
            raise ValueError(
                f"{source} has no {layer.name}/{variable.name}, which the backbone needs with shape "
                f"{tuple(variable.shape)}; it was probably made for another backbone"
            )
        value = values[variable.name]
        if tuple(value.shape) != tuple(variable.shape):
            raise ValueError(
                f"{source}: {layer.name}/{variable.name} has shape {tuple(value.shape)}, the backbone needs "
                f"{tuple(variable.shape)}; it was probably made for another backbone"
            )
    for variable in layer.weights:
        variable.assign(np.asarray(values[variable.name], np.float32))


def _copy(trunk: keras.Model, values: dict[str, dict[str, np.ndarray]], source: str) -> None:
    """Fills a trunk from {layer: {variable: array}}; every layer must be there and none left over."""
    layers = _weighted_layers(trunk)
    unknown = sorted(set(values) - {layer.name for layer in layers})
    if unknown:
        raise ValueError(
            f"{source} holds weights of layers that the backbone has not: {', '.join(unknown[:5])}"
            f"{' ...' if len(unknown) > 5 else ''}; it was probably made for another backbone"
        )
    for layer in layers:
        _assign(layer, values.get(layer.name, {}), source)


def _npz(path: Path) -> InitialWeights:
    try:
        with path.open("rb") as opened, np.lib.npyio.NpzFile(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    # NumPy lets the exceptions of its header parser through.
    except (OSError, EOFError, ValueError, TypeError, SyntaxError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as a .npz of plain arrays: {error}") from error
    mean, std = arrays.pop("normalisation/mean", None), arrays.pop("normalisation/std", None)
    normalisation = TORCH
    if mean is not None or std is not None:
        if mean is None or std is None:
            raise ValueError(f"{path} should hold both normalisation/mean and normalisation/std, or neither")
        if mean.shape != (3,) or std.shape != (3,) or not (np.isfinite(mean).all() and (std > 0).all()):
            raise ValueError(
                f"{path}: normalisation/mean and normalisation/std should be three numbers each (R, G, B), "
                f"the second above 0. Received: {mean.tolist()} and {std.tolist()}"
            )
        normalisation = Normalisation(tuple(map(float, mean)), tuple(map(float, std)))
    values: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        # stage1/block1/conv1/kernel is the variable `kernel` of the layer `stage1_block1_conv1`.
        layer, _, variable = name.rpartition("/")
        values.setdefault(layer.replace("/", "_"), {})[variable] = array
    return InitialWeights(normalisation, lambda trunk: _copy(trunk, values, str(path)))


def _keras_file(path: Path) -> InitialWeights:
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as a Keras file in safe mode: {error}") from error
    if NORMALISATION_LAYER not in {layer.name for layer in model.layers}:
        raise ValueError(
            f"{path} has no layer {NORMALISATION_LAYER!r}, so that the normalisation of its weights is unknown; "
            "give a model.keras of a run of this project"
        )
    values = {
        layer.name: {variable.name: np.asarray(variable) for variable in layer.weights}
        for layer in _weighted_layers(model)
        if not layer.name.endswith("_logits")
    }
    return InitialWeights(normalisation_of(model), lambda trunk: _copy(trunk, values, str(path)))


def _in_order(trunk: keras.Model, published: keras.Model, source: str) -> None:
    """Copies between two builds of one architecture, layer by layer, as automatic names differ."""
    ours, theirs = _weighted_layers(trunk), _weighted_layers(published)
    if len(ours) != len(theirs):
        raise ValueError(f"{source} has {len(theirs)} layers with weights, the backbone {len(ours)}")
    for layer, other in zip(ours, theirs, strict=True):
        _assign(layer, {variable.name: np.asarray(variable) for variable in other.weights}, source)


def _download(build: Callable[[], keras.Model], what: str) -> keras.Model:
    try:
        return build()
    except Exception as error:  # the downloaders raise bare Exception
        raise ValueError(f"{what} could not be downloaded ({error}); {_OFFLINE}") from error


def _imagenet(backbone: str) -> InitialWeights:
    if backbone not in _IMAGENET_NORMALISATION:
        raise ValueError(
            f"Keras Applications has no ImageNet weights for {backbone}; give --weights=FILE or --weights=none"
        )
    source = f"the ImageNet weights of {BACKBONES[backbone].title}"

    def load(trunk):
        build = BACKBONES[backbone].build
        published = _download(lambda: build(include_top=False, weights="imagenet"), source)
        _in_order(trunk, published, source)
        if _IMAGENET_NORMALISATION[backbone] == CAFFE:
            first = next(layer for layer in trunk.layers if isinstance(layer, keras.layers.Conv2D))
            first.kernel.assign(np.asarray(first.kernel)[:, :, ::-1, :])

    return InitialWeights(_IMAGENET_NORMALISATION[backbone], load)


def _noisy_student(backbone: str) -> InitialWeights:
    if not backbone.startswith("efficientnet"):
        raise ValueError(f"noisy-student weights exist for EfficientNet only, not for {backbone}")
    try:
        import efficientnet.tfkeras as efficientnet
    except ImportError as error:
        raise ValueError(
            "noisy-student weights need the package efficientnet: pip install 'ladnn_tf[train]'"
        ) from error
    build = {"efficientnet_b0": efficientnet.EfficientNetB0, "efficientnet_b1": efficientnet.EfficientNetB1}
    source = f"the noisy-student weights of {BACKBONES[backbone].title}"

    def load(trunk):
        published = _download(lambda: build[backbone](include_top=False, weights="noisy-student"), source)
        _in_order(trunk, published, source)

    return InitialWeights(TORCH, load)
