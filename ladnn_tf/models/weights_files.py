"""Readers of weights files. They read arrays and names only, run no code, and say clearly what a bad file is."""

import dataclasses
import re
import zipfile
import zlib
from pathlib import Path

import h5py
import keras
import numpy as np

SUFFIXES = (".npz", ".keras", ".h5")
_HDF5_MAGIC, _ZIP_MAGIC = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
_MOST_NUMBERS = 200_000_000
"""In one file without its dense layers, far above the 23.6 million of ResNet-50: a guard against a small file
that declares a huge array."""


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
    """

    layers: tuple[StoredLayer, ...]
    names: frozenset[str]
    dense_widths: tuple[int, ...] = ()
    pixel_statistics: tuple[np.ndarray, np.ndarray] | None = None
    rescalings: int = 0


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
        ValueError: if it is damaged, unsafe or no functional model.
    """
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read as a Keras file in safe mode ({_one_line(error)}); it was probably not "
            "downloaded or copied wholly, or holds layers of its own"
        ) from error
    if not isinstance(model, keras.Model) or not model.layers:
        raise ValueError(f"{path} holds a {type(model).__name__} without layers, not a model")
    return model


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def of_model(model: keras.Model) -> StoredWeights:
    """The same view of a model in memory, with the variables' own names."""
    stored = [
        StoredLayer(layer.name, "", {variable.name: np.asarray(variable) for variable in layer.weights})
        for layer in model.layers
        if not isinstance(layer, keras.layers.Normalization)
    ]
    return _sorted_out(stored, frozenset(layer.name for layer in model.layers))


def read_hdf5(path: Path) -> StoredWeights:
    """Reads an HDF5 file of weights.

    Two layouts are known: that of Keras 3 (`.weights.h5`, one group `layers`), and the older one in which Keras
    Applications and the package efficientnet publish (attributes `layer_names` and `weight_names`), also within a
    whole model saved to `.h5` (group `model_weights`).

    Raises:
        ValueError: if it is damaged, of neither layout, or links to other files.
    """
    try:
        with h5py.File(path, "r") as file:
            _refuse_links(file, path)
            groups = [
                file.get(name, file) for name in ("model_weights", "layers", "_layer_checkpoint_dependencies")
            ]
            if _names(groups[0], "layer_names"):
                return _older_layout(groups[0])
            layers = next((group for group in groups[1:] if group is not file), None)
            if layers is not None:
                return _keras_3_layout(layers)
            top = ", ".join(list(file)[:5]) or "nothing"
    except _RefusedError:
        raise
    # What h5py raises on damaged files depends on the byte.
    except (OSError, KeyError, IndexError, RuntimeError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as an HDF5 file of weights ({_one_line(error)}); it was probably not "
            "downloaded or copied wholly"
        ) from error
    raise ValueError(f"{path} is an HDF5 file, but not one of Keras weights: at its top it holds {top}")


class _RefusedError(ValueError):
    """The file may be whole, but is not to be read."""


def _refuse_links(file: h5py.File, path: Path) -> None:
    """A link can name a file elsewhere on this machine; an array can declare more numbers than a disk holds."""
    seen, waiting, numbers = set(), [file], 0
    while waiting:
        group = waiting.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise _RefusedError(
                    f"{path}: {group.name}/{name} is a link, which could name another file; not read"
                )
            member = group[name]
            address = h5py.h5o.get_info(member.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(member, h5py.Group):
                waiting.append(member)
            elif not isinstance(member, h5py.Dataset):
                continue
            elif member.external or member.is_virtual:
                raise _RefusedError(f"{path}: {member.name} lies in another file, which is not read")
            elif member.ndim != 2:
                numbers += member.size or 0
    if numbers > _MOST_NUMBERS:
        raise _RefusedError(
            f"{path} declares {numbers:,} numbers, far more than any of the backbones has; not read"
        )


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """An attribute of names, which Keras splits into `<attribute>0`, `<attribute>1`, ... when it is long."""
    if attribute in group.attrs:
        stored = list(group.attrs[attribute])
    else:
        stored, part = [], 0
        while f"{attribute}{part}" in group.attrs:
            stored += list(group.attrs[f"{attribute}{part}"])
            part += 1
    return [name.decode() if isinstance(name, bytes) else str(name) for name in stored]


def _older_layout(group: h5py.Group) -> StoredWeights:
    names = _names(group, "layer_names")
    stored = []
    for name in names:
        members = _names(group[name], "weight_names")
        # "conv1/bn/gamma:0" is gamma. Files of the first Keras have block1_conv1_W_1:0: no name that we know.
        variables = [member.rsplit("/", 1)[-1].split(":")[0] for member in members]
        if len(set(variables)) < len(variables):
            variables = [str(place) for place in range(len(members))]
        arrays = {key: _array(group[name][member]) for key, member in zip(variables, members, strict=True)}
        stored.append(StoredLayer(name, "", arrays))
    return _sorted_out(stored, frozenset(names))


def _keras_3_layout(group: h5py.Group) -> StoredWeights:
    stored, names = [], set()
    for key in sorted(group, key=_class_and_count):
        if "vars" not in group[key]:  # a layer without weights, in files of older versions
            continue
        variables = group[key]["vars"]
        name = str(variables.attrs.get("name", key))
        names.add(name)
        arrays = {place: _array(variables[place]) for place in sorted(variables, key=int)}
        stored.append(StoredLayer(name, _class_and_count(key)[0], arrays))
    return _sorted_out(stored, frozenset(names))


def _class_and_count(key: str) -> tuple[str, int]:
    """`batch_normalization_12` is the thirteenth of its class: ("batch_normalization", 12)."""
    found = re.fullmatch(r"(.*?)(?:_(\d+))?", key)
    return found[1], int(found[2] or 0)


def _array(dataset: h5py.Dataset) -> np.ndarray:
    # The numbers of a dense layer are never used, and those of VGG-16 are half a gigabyte.
    return np.broadcast_to(np.float32(0), dataset.shape) if dataset.ndim == 2 else np.asarray(dataset)


def _sorted_out(stored: list[StoredLayer], names: frozenset[str]) -> StoredWeights:
    """Takes the layers of the trunk out of all that were stored."""
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
    return StoredWeights(tuple(trunk), names, tuple(widths), statistics, rescalings)
