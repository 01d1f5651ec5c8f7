"""MONAI's network on PyTorch, as it comes: eagerly."""

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.torch_training import build_network

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # as `models/normalisation.py` has TORCH


class PixelsToProbabilities(torch.nn.Module):
    """A network from pixels to probabilities: images `(B, S, S, 3)` uint8 to `(B, 6)` float32.

    Args:
        network: images `(B, 3, S, S)` float32 to logits `(B, 6)`.
    """

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(_STD), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities."""
        normalised = (images.float() - self.mean) / self.std
        return torch.sigmoid(self.network(normalised.permute(0, 3, 1, 2)))


def load(model: str, threads: int, *, channels_last: bool) -> Callable[[np.ndarray], object]:
    """Loads a file of `inference_torch_export.py`.

    Args:
        model: its path.
        threads: of the CPU.
        channels_last: memory format of network and images.

    Returns:
        From images `(B, S, S, 3)` uint8 to probabilities `(B, 6)`.
    """
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(threads)
    saved = torch.load(model, weights_only=True)
    network = build_network(saved["backbone"])
    network.load_state_dict(saved["weights"])
    # `permute` leaves pixels as they lie, channels last; kernel or pixels decide a convolution's format.
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    whole = PixelsToProbabilities(network.to(memory_format=memory_format)).eval()
    if not channels_last:
        network.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))

    def answer(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return whole(torch.from_numpy(images)).numpy()

    return answer
