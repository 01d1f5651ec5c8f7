"""Ways of training the same network, to be timed beside each other."""

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence

MODES = ("pipeline", "model", "both")
"""What a round of our own contenders measures; PyTorch's measure `model` alone."""

# Of the networks that MONAI has. Keras' ResNet-50 has biases in its convolutions, which the others have not.
COUNTERPARTS = ("densenet121", "densenet169", "efficientnet_b0", "efficientnet_b1", "resnet18", "resnet50")
MORE_PARAMETERS_IN_KERAS = {"resnet50": 26_560}


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to train, measured in a process of its own.

    Attributes:
        module: that is run as the worker.
        precision: of the convolutions: `float32` or `bfloat16`.
        options: more arguments of the worker's training.
        environment: variables that its process gets beside its parent's.
    """

    module: str
    precision: str = "float32"
    options: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def is_torch(self) -> bool:
        """Whether it is PyTorch's."""
        return self.module == _TORCH

    @property
    def modes(self) -> tuple[str, ...]:
        """What is measured of it."""
        return ("model",) if self.is_torch else MODES


_OURS, _TORCH = "benchmarks.tensorflow_training", "benchmarks.torch_training"
# Float32 products may then be computed from factors rounded to bfloat16.
_IMPLICIT_BFLOAT16 = {"TF_SET_ONEDNN_FPMATH_MODE": "BF16", "ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}

VARIANTS = {
    "float32": Contender(_OURS),
    "bfloat16": Contender(_OURS, "bfloat16"),
    "float32_keras_batch_norm": Contender(_OURS, options={"fused_batch_norm": False}),
    "bfloat16_keras_batch_norm": Contender(_OURS, "bfloat16", {"fused_batch_norm": False}),
    "float32_xla": Contender(_OURS, options={"xla": True}),
    "float32_without_onednn": Contender(_OURS, environment={"TF_ENABLE_ONEDNN_OPTS": "0"}),
    "float32_implicit_bfloat16": Contender(_OURS, environment=_IMPLICIT_BFLOAT16),
}
"""Our own contenders by name; a name begins with the precision."""

TORCH_VARIANTS = {
    "torch_float32": Contender(_TORCH, options={"channels_last": False}),
    "torch_float32_channels_last": Contender(_TORCH, options={"channels_last": True}),
    "torch_bfloat16_channels_last": Contender(_TORCH, "bfloat16", {"channels_last": True}),
}
"""PyTorch's; of those with the same precision the fastest counts."""


def chosen_contenders(
    names: Sequence[str], torch_names: Sequence[str], backbone: str, *, torch: bool
) -> dict[str, Contender]:
    """The contenders of one run.

    Args:
        names: keys of `VARIANTS`.
        torch_names: keys of `TORCH_VARIANTS`.
        backbone: the network.
        torch: whether PyTorch is measured beside ours, where it has the network.

    Returns:
        Contenders by name, ours first.

    Raises:
        ValueError: for an unknown name, or if PyTorch or MONAI is not installed.
    """
    contenders = _select(names, VARIANTS, "variants")
    theirs = _select(torch_names, TORCH_VARIANTS, "torch_variants")
    if not torch or backbone not in COUNTERPARTS:
        return contenders
    missing = [package for package in ("torch", "monai") if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(
            f"PyTorch's side needs {' and '.join(missing)}: python -m pip install torch==2.13.0 monai (a build of "
            "torch for the processor alone is smaller), or leave PyTorch out by --notorch"
        )
    return contenders | theirs


def _select(names: Sequence[str], variants: Mapping[str, Contender], flag: str) -> dict[str, Contender]:
    if not names or any(name not in variants for name in names):
        raise ValueError(f"--{flag} should be some of {', '.join(variants)}. Received: {','.join(names)!r}")
    return {name: variants[name] for name in names}
