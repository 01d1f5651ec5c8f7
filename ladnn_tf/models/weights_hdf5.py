"""Reader of weights in HDF5: arrays and names only, no code is run and no other file is opened."""

import json
import re
from pathlib import Path

import h5py
import numpy as np

from ladnn_tf.models.normalisation import Normalisation, from_affine
from ladnn_tf.models.weights_files import StoredLayer, StoredWeights, nested_message, one_line, sorted_out

_MOST_NUMBERS = 200_000_000
"""In one file without its dense layers, far above the 23.6 million of ResNet-50: a guard against a small file
that declares a huge array."""
_KERAS_HUB = re.compile(
    r"(VGG|ResNet|DenseNet|EfficientNet)Backbone|(vgg|res_net|dense_net|efficient_net)_backbone(_\d+)?"
)
"""Its classes, and the names that Keras gives their instances."""


def read_hdf5(path: Path) -> StoredWeights:
    """Reads an HDF5 file of weights.

    Two layouts are known: that of Keras 3 (`.weights.h5`, one group `layers`), and the older one in which Keras
    Applications and the package efficientnet publish (attributes `layer_names` and `weight_names`), also within a
    whole model saved to `.h5` (group `model_weights`).

    Raises:
        ValueError: if it is damaged, of neither layout, links to other files, or its backbone is nested.
    """
    try:
        with h5py.File(path, "r") as file:
            _refuse_links(file, path)
            groups = [
                file.get(name, file) for name in ("model_weights", "layers", "_layer_checkpoint_dependencies")
            ]
            model, names = _about_model(file)
            if _names(groups[0], "layer_names"):
                return _older_layout(groups[0], path, model, names)
            layers = next((group for group in groups[1:] if group is not file), None)
            if layers is not None:
                return _keras_3_layout(layers, path, model)
            top = ", ".join(list(file)[:5]) or "nothing"
    except _RefusedError:
        raise
    # What h5py raises on damaged files depends on the byte.
    except (OSError, KeyError, IndexError, RuntimeError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as an HDF5 file of weights ({one_line(error)}); it was probably not "
            "downloaded or copied wholly"
        ) from error
    raise ValueError(f"{path} is an HDF5 file, but not one of Keras weights: at its top it holds {top}")


def _about_model(file: h5py.File) -> tuple[str, frozenset[str]]:
    """What is stored of the model itself.

    Returns:
        The class of a whole model (`.h5`), the name of one whose weights these are (`.weights.h5`), else nothing;
        and the names of a whole model's layers, with the operators in between.
    """
    if "model_config" not in file.attrs:
        return (str(file["vars"].attrs.get("name", "")) if "vars" in file else ""), frozenset()
    described = json.loads(file.attrs["model_config"])
    config = described.get("config", {})
    layers = config.get("layers", []) if isinstance(config, dict) else config  # Keras 2's Sequential is a list
    return str(described.get("class_name", "")), frozenset(
        str(layer["config"].get("name", "")) for layer in layers
    )


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


def _older_layout(group: h5py.Group, path: Path, model: str, others: frozenset[str]) -> StoredWeights:
    names = _names(group, "layer_names")
    stored = []
    for name in names:
        members = _names(group[name], "weight_names")
        owners = {member.rpartition("/")[0] for member in members}
        if len(owners) > 1 and any(group[name][member].ndim == 4 for member in members):
            raise _nested(path, name)
        # "conv1/bn/gamma:0" is gamma. Files of the first Keras have block1_conv1_W_1:0: no name that we know.
        variables = [member.rsplit("/", 1)[-1].split(":")[0] for member in members]
        if len(set(variables)) < len(variables):
            variables = [str(place) for place in range(len(members))]
        arrays = {key: _array(group[name][member]) for key, member in zip(variables, members, strict=True)}
        stored.append(StoredLayer(name, "", arrays))
    return sorted_out(stored, others.union(names), keras_hub=_is_keras_hub(model))


def _keras_3_layout(group: h5py.Group, path: Path, model: str) -> StoredWeights:
    stored, names, named = [], set(), False
    for key in sorted(group, key=_class_and_count):
        about = group[key]["vars"].attrs if "vars" in group[key] else {}
        name = str(about.get("name", key))
        if "layers" in group[key] and _holds_kernels(group[key]["layers"]):
            raise _nested(path, name)
        if "vars" not in group[key]:  # a layer without weights, in files of older versions
            continue
        named = named or "name" in about
        names.add(name)
        variables = group[key]["vars"]
        arrays = {place: _array(variables[place]) for place in sorted(variables, key=int)}
        stored.append(StoredLayer(name, _class_and_count(key)[0], arrays))
    return sorted_out(stored, frozenset(names), named=named, keras_hub=_is_keras_hub(model))


def _is_keras_hub(model: str) -> bool:
    return _KERAS_HUB.fullmatch(model) is not None


def _holds_kernels(group: h5py.Group) -> bool:
    found = []
    group.visititems(lambda _, member: found.append(getattr(member, "ndim", 0) == 4))
    return any(found)


def _nested(path: Path, name: str) -> _RefusedError:
    return _RefusedError(f"{path}: {nested_message([name], 'where it is built: model')}")


def _class_and_count(key: str) -> tuple[str, int]:
    """`batch_normalization_12` is the thirteenth of its class: ("batch_normalization", 12)."""
    found = re.fullmatch(r"(.*?)(?:_(\d+))?", key)
    return found[1], int(found[2] or 0)


def _array(dataset: h5py.Dataset) -> np.ndarray:
    # The numbers of a dense layer are never used, and those of VGG-16 are half a gigabyte.
    return np.broadcast_to(np.float32(0), dataset.shape) if dataset.ndim == 2 else np.asarray(dataset)


def preset_normalisation(weights: Path) -> Normalisation | None:
    """What the image converter beside the weights of a keras-hub preset does; None if there is none.

    Raises:
        ValueError: if its file cannot be read.
    """
    path = weights.with_name("image_converter.json")
    if not weights.name.endswith(".weights.h5") or not path.is_file():
        return None
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))["config"]
        return from_affine(settings["scale"], settings["offset"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} should hold the scale and offset of keras-hub's image converter: {error}"
        ) from error
