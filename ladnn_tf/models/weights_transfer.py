"""Filling a trunk from stored weights: everything is compared first, then everything is assigned, or nothing."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from ladnn_tf.models.weights_files import StoredLayer, StoredWeights

_KINDS = {"Conv2D": "conv2d", "DepthwiseConv2D": "depthwise_conv2d", "BatchNormalization": "batch_normalization"}
Pair = tuple[keras.Variable, np.ndarray]


def weighted_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers with weights that initial weights fill; EfficientNet's own normalisation is not one."""
    return [layer for layer in model.layers if layer.weights and not isinstance(layer, keras.layers.Normalization)]


def transfer(
    trunk: keras.Model,
    stored: StoredWeights,
    source: str,
    *,
    sizes: Mapping[str, int],
    strict: bool = False,
    bgr: bool = False,
) -> None:
    """Fills a trunk.

    Args:
        trunk: from `build_backbone`.
        stored: the weights, heads and classifier left out.
        source: the file or publisher, for messages.
        sizes: how many numbers each backbone has, to guess what a misfit was made for.
        strict: match by the names of layers and variables alone, as files of this project do. Otherwise layers
            are matched by name if all names agree, else in order, as automatic names differ from build to build.
        bgr: the first kernel was trained on BGR; its channels are turned round.

    Raises:
        ValueError: if a layer is missing, left over, of another shape or not finite; the trunk is as it was then.
    """
    try:
        pairs = _pairs(trunk, stored, strict)
    except _Misfit as misfit:
        raise ValueError(f"{source}: {misfit}; {_cause(trunk, stored, sizes)}") from None
    values = [_values(variable, array, source) for variable, array in pairs]
    if bgr:
        values[0] = values[0][:, :, ::-1, :]
    for (variable, _), value in zip(pairs, values, strict=True):
        variable.assign(value)


class _Misfit(Exception):  # noqa: N818, never leaves this file
    """Stored weights do not fit the trunk."""


def _pairs(trunk: keras.Model, stored: StoredWeights, strict: bool) -> list[Pair]:
    layers = weighted_layers(trunk)
    matched = _match(layers, stored.layers, strict)
    pairs: list[Pair] = []
    for layer in layers:
        pairs += _layer_pairs(layer, matched.get(layer.name), strict)
    used = {id(found) for found in matched.values()}
    left_over = [layer.name for layer in stored.layers if id(layer) not in used]
    if left_over:
        raise _Misfit(
            f"it holds weights of layers that the backbone has not: {', '.join(left_over[:5])}"
            f"{' ...' if len(left_over) > 5 else ''}{_counts(layers, stored.layers)}"
        )
    return pairs


def _counts(layers: Sequence[keras.layers.Layer], stored: Sequence[StoredLayer]) -> str:
    return f" (it has {len(stored)} layers with weights, the backbone {len(layers)})"


def _match(
    layers: Sequence[keras.layers.Layer], stored: Sequence[StoredLayer], strict: bool
) -> dict[str, StoredLayer]:
    """The stored layer of each of the trunk's layers, by the latter's name."""
    # The files that Keras publishes for DenseNet say conv1/conv, Keras 3 says conv1_conv.
    by_name = {layer.name.replace("/", "_"): layer for layer in stored}
    names = [layer.name for layer in layers]
    if strict or (len(by_name) == len(stored) and set(by_name) == set(names)):
        return {name: by_name[name] for name in names if name in by_name}
    if all(layer.kind for layer in stored):
        matched = {}
        for kind in {layer.kind for layer in stored}:
            ours = [layer.name for layer in layers if _KINDS.get(type(layer).__name__) == kind]
            matched |= dict(zip(ours, (layer for layer in stored if layer.kind == kind), strict=False))
        return matched
    return dict(zip(names, stored, strict=False))


def _layer_pairs(layer: keras.layers.Layer, found: StoredLayer | None, strict: bool) -> list[Pair]:
    variables, arrays = layer.weights, found.arrays if found else {}
    names = [variable.name for variable in variables]
    if not strict and len(arrays) == len(names) and set(names).isdisjoint(arrays):
        arrays = dict(zip(names, arrays.values(), strict=True))  # none of our names: their order must do
    pairs = []
    for variable in variables:
        wanted = f"{layer.name}/{variable.name}"
        called = "" if found is None or found.name == layer.name else f" (there {found.name})"
        if variable.name not in arrays:
            raise _Misfit(f"it has no {wanted}{called}, which the backbone needs with shape {variable.shape}")
        if arrays[variable.name].shape != tuple(variable.shape):
            raise _Misfit(
                f"{wanted}{called} has shape {arrays[variable.name].shape}, the backbone needs {variable.shape}"
            )
        pairs.append((variable, arrays[variable.name]))
    unknown = sorted(set(arrays).difference(names))
    if unknown:
        raise _Misfit(f"{layer.name} holds {', '.join(unknown)}, which the backbone has not")
    return pairs


def _values(variable: keras.Variable, array: np.ndarray, source: str) -> np.ndarray:
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"{source}: {variable.path} should hold floating-point numbers. Received: dtype {array.dtype}"
        )
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(
            f"{source}: {variable.path} holds numbers that are not finite in float32; the training that made it "
            "diverged, or the file is damaged"
        )
    return values


def _cause(trunk: keras.Model, stored: StoredWeights, sizes: Mapping[str, int]) -> str:
    numbers = sum(array.size for layer in stored.layers for array in layer.arrays.values())
    needed = sum(int(np.prod(variable.shape)) for layer in weighted_layers(trunk) for variable in layer.weights)
    if numbers == needed:
        return (
            f"it has as many numbers as the backbone ({numbers:,}): its layers have other names or another order"
        )
    owners = [name for name, size in sizes.items() if size == numbers]
    if owners:
        return f"its {numbers:,} numbers are those of {' or '.join(owners)}"
    return (
        f"it was probably made for another backbone or input: it has {numbers:,} numbers, the backbone {needed:,}"
    )
