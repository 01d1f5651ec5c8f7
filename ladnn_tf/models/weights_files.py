"""Readers of weights files. They read arrays and names only, run no code, and say clearly what a bad file is."""

import dataclasses
import re
import zipfile
import zlib
from pathlib import Path

import keras
import numpy as np

SUFFIXES = (".npz", ".keras", ".h5")
_HDF5_MAGIC, _ZIP_MAGIC = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
_ON_PIXELS = re.compile(
    r"(rescaling|normalization|true_divide|divide|subtract|multiply|get_item|stack|flip|lambda)(_\d+)?|tf\..*"
)
"""Automatic names of what stands before a stem; within the backbones only EfficientNet has such layers."""


@dataclasses.dataclass(frozen=True)
class StoredLayer:
    """One layer's weights.

    Attributes:
        name: as it is stored; empty if the file holds no names.
        kind: its class in snake case (`conv2d`), as Keras 3 stores it; empty if the file does not say.
        arrays: by the variable's name or, where the file has none, by its place ("0", "1", ...); in Keras' order.
    """

    name: str
    kind: str
    arrays: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class StoredWeights:
    """What a file or a model in memory holds.

    Attributes:
        layers: those of the trunk, in the order of the file. Dense layers (a classifier, our heads) and
            EfficientNet's own Normalization are left out.
        names: of all layers, those without weights and the classifier too, as far as they are stored.
        dense_widths: of the dense layers left out.
        pixel_statistics: (mean, variance), each (3,), of EfficientNet's own Normalization; None without one.
        rescalings: number of Rescaling layers, 0 where layers without weights are not stored.
        named: whether the names of layers are stored; else `names` holds their classes, counted.
        keras_hub: whether it says to be a backbone of keras-hub.
    """

    layers: tuple[StoredLayer, ...]
    names: frozenset[str]
    dense_widths: tuple[int, ...] = ()
    pixel_statistics: tuple[np.ndarray, np.ndarray] | None = None
    rescalings: int = 0
    named: bool = True
    keras_hub: bool = False

    @property
    def layers_on_pixels(self) -> list[str]:
        """Names of layers that probably change pixels before the first convolution."""
        return sorted(name for name in self.names if _ON_PIXELS.fullmatch(name))


def check_file(path: Path) -> None:
    """Recognises what is no weights file at all.

    Raises:
        ValueError: if the suffix is unknown, there is no such file, it is empty, text (a web page, a Git LFS
            pointer) or of another format than its suffix says.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(
            "weights should be none, imagenet, noisy-student or the path of a .npz, .keras, .weights.h5 or .h5 "
            f"file. Received: {str(path)!r}"
        )
    if not path.is_file():
        raise ValueError(f"there is no weights file {str(path)!r} (looked for from {Path.cwd()})")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise ValueError(f"{path} is empty: it was probably not downloaded or copied wholly")
    text = head.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` where it came from"
        )
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        raise ValueError(
            f"{path} looks like a web page: the download was redirected or needs a login; download it again and "
            "look at its size"
        )
    is_hdf5, is_zip = head.startswith(_HDF5_MAGIC), head.startswith(_ZIP_MAGIC)
    if path.suffix == ".h5" and is_zip:
        raise ValueError(
            f"{path} is a zip archive, not an HDF5 file: its suffix should probably be .keras or .npz"
        )
    if path.suffix != ".h5" and is_hdf5:
        raise ValueError(f"{path} is an HDF5 file: its suffix should be .h5 or .weights.h5, not {path.suffix}")


def read_keras(path: Path) -> keras.Model:
    """Loads a .keras file in safe mode.

    Raises:
        ValueError: if it is damaged, unsafe, no functional model, or one around another that is the backbone.
    """
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read as a Keras file in safe mode ({one_line(error)}); it was probably not "
            "downloaded or copied wholly, or holds layers of its own"
        ) from error
    if not isinstance(model, keras.Model) or not model.layers:
        raise ValueError(f"{path} holds a {type(model).__name__} without layers, not a model")
    nested = [layer.name for layer in model.layers if isinstance(layer, keras.Model) and _has_kernels(layer)]
    if nested:
        raise ValueError(f"{path}: {nested_message(nested, 'keras.models.load_model(...)')}")
    return model


def nested_message(names: list[str], code: str) -> str:
    """What to do about a model around another one, which is the backbone; `code` gets at the latter."""
    return (
        f"the backbone is nested in it as layer {', '.join(map(repr, names))}; save it to a file of its own, "
        f"{code}.get_layer({names[0]!r}).save('FILE.keras'), and give that with the normalisation its pixels got "
        "(--normalisation)"
    )


def _has_kernels(layer: keras.layers.Layer) -> bool:
    return any(len(variable.shape) == 4 for variable in layer.weights)


def one_line(error: Exception) -> str:
    """Its message, shortened, for a message of our own."""
    return " ".join(str(error).split())[:300]


def of_model(model: keras.Model) -> StoredWeights:
    """The same view of a model in memory, with the variables' own names."""
    stored = [
        StoredLayer(layer.name, "", {variable.name: np.asarray(variable) for variable in layer.weights})
        for layer in model.layers
        if not isinstance(layer, keras.layers.Normalization)
    ]
    names = frozenset(layer.name for layer in model.layers)
    return sorted_out(stored, names, keras_hub=type(model).__module__.split(".")[0] == "keras_hub")


def sorted_out(
    stored: list[StoredLayer], names: frozenset[str], *, named: bool = True, keras_hub: bool = False
) -> StoredWeights:
    """Takes the layers of the trunk out of all that were stored; the other arguments as in `StoredWeights`."""
    trunk, widths, statistics = [], [], None
    for layer in stored:
        arrays = list(layer.arrays.values())
        if any(array.ndim == 2 for array in arrays):
            widths += [array.shape[1] for array in arrays if array.ndim == 2]
        elif layer.kind == "normalization" or (not layer.kind and layer.name.startswith("normalization")):
            statistics = (arrays[0].reshape(-1), arrays[1].reshape(-1)) if len(arrays) > 1 else None
        elif arrays:
            trunk.append(layer)
    rescalings = sum(name.startswith("rescaling") for name in names)
    return StoredWeights(tuple(trunk), names, tuple(widths), statistics, rescalings, named, keras_hub)
