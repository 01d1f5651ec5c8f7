"""This project's own file of a trunk's weights: a `.npz` of plain arrays, with the normalisation they expect.

One array for each variable, named `<layer>/<variable>`; `normalisation/mean` and `normalisation/std` (R, G, B, in
grey levels), optional; and the strings `backbone` and `source`, optional.
"""

from pathlib import Path

import keras
import numpy as np

from ladnn_tf.files import atomic_file, read_arrays
from ladnn_tf.models import weights_files
from ladnn_tf.models.normalisation import Normalisation
from ladnn_tf.models.weights_files import StoredLayer, StoredWeights


def save_npz(path: Path, trunk: keras.Model, normalisation: Normalisation, *, backbone: str, source: str) -> int:
    """Writes a trunk's weights as a `.npz` that `weights.initial_weights` reads back bit for bit.

    Args:
        path: the file, ending in `.npz`.
        trunk: from `build_backbone`, or a whole model of `build_model`, whose heads are left out.
        normalisation: what the trunk expects.
        backbone: its key in `BACKBONES`.
        source: where the weights come from, in words.

    Returns:
        The number of parameters written.

    Raises:
        ValueError: if `path` does not end in `.npz`.
        OSError: if it cannot be written.
    """
    if path.suffix != ".npz":
        raise ValueError(f"the file of weights should end in .npz. Received: {str(path)!r}")
    arrays = {
        f"{layer.name}/{variable}": array
        for layer in weights_files.of_model(trunk).layers
        for variable, array in layer.arrays.items()
    }
    about = {
        "normalisation/mean": np.array(normalisation.mean),
        "normalisation/std": np.array(normalisation.std),
        "backbone": np.array(backbone),
        "source": np.array(source),
    }
    with atomic_file(path) as file:
        np.savez(file, **arrays, **about)
    return sum(array.size for array in arrays.values())


def read_npz(path: Path, backbone: str) -> tuple[StoredWeights, Normalisation | None]:
    """Reads a `.npz` without pickle.

    Args:
        path: the file.
        backbone: which weights are wanted.

    Returns:
        The weights and the normalisation they expect, None if the file does not say.

    Raises:
        ValueError: if it is damaged, holds a pickle, or was made for another backbone.
    """
    arrays = read_arrays(path)
    made_for = str(arrays.pop("backbone", backbone))
    arrays.pop("source", None)
    if made_for != backbone:
        raise ValueError(f"{path} holds weights of {made_for}, not of {backbone}")
    normalisation = _normalisation(
        path, arrays.pop("normalisation/mean", None), arrays.pop("normalisation/std", None)
    )
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        # stage1/block1/conv1/kernel is the variable `kernel` of the layer `stage1_block1_conv1`.
        layer, _, variable = name.rpartition("/")
        layers.setdefault(layer.replace("/", "_"), {})[variable] = array
    stored = tuple(StoredLayer(name, "", variables) for name, variables in layers.items())
    return StoredWeights(stored, frozenset(layers)), normalisation


def _normalisation(path: Path, mean: np.ndarray | None, std: np.ndarray | None) -> Normalisation | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise ValueError(f"{path} should hold both normalisation/mean and normalisation/std, or neither")
    numbers = all(array.shape == (3,) and np.issubdtype(array.dtype, np.number) for array in (mean, std))
    if not numbers or not np.isfinite([mean, std]).all() or not (std > 0).all():
        raise ValueError(
            f"{path}: normalisation/mean and normalisation/std should be three numbers each (R, G, B), "
            f"the second above 0. Received: {mean.tolist()} and {std.tolist()}"
        )
    return Normalisation(tuple(map(float, mean)), tuple(map(float, std)))
