"""The worker of PyTorch's contenders: networks of MONAI, the same loss and optimizer."""

import json
import sys
import time

import torch
from monai.networks import nets
from monai.networks.nets.resnet import ResNetBottleneck
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.worker import serve

_LESIONS = 5
_OUTPUTS = 1 + _LESIONS
_COVID_WEIGHT, _LEARNING_RATE, _WEIGHT_DECAY = 5.0, 5e-5, 5e-4  # of configs/base.flags


def build_network(backbone: str) -> torch.nn.Module:
    """MONAI's network with one linear layer of six outputs, and random weights.

    Args:
        backbone: one of `contenders.COUNTERPARTS`.
    """
    family, variant = backbone.rstrip("0123456789"), backbone.split("_")[-1]
    options = {"spatial_dims": 2, "pretrained": False}
    if family == "densenet":
        network = getattr(nets, f"DenseNet{backbone.removeprefix(family)}")
        return network(in_channels=3, out_channels=_OUTPUTS, **options)
    if family == "resnet":
        network = getattr(nets, backbone)(
            n_input_channels=3, num_classes=_OUTPUTS, conv1_t_stride=2, bias_downsample=False, **options
        )
        for block in network.modules():
            # Keras' blocks have their stride in the first convolution (He et al. 2016), MONAI's in the second.
            if isinstance(block, ResNetBottleneck):
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
        return network
    network = nets.EfficientNetBN(f"efficientnet-{variant}", in_channels=3, num_classes=_OUTPUTS, **options)
    # PyTorch's own activation, of which the backward pass is no Python; and no dropout before the heads, as ours.
    network.set_swish(memory_efficient=False)
    network._dropout.p = 0.0
    return network


class TorchTraining:
    """One training step on a constant batch.

    Attributes:
        trainable_parameters: of the network.
    """

    def __init__(self, *, backbone: str, image_size: int, batch_size: int, precision: str, channels_last: bool):
        """Builds and warms up.

        Args:
            backbone: one of `contenders.COUNTERPARTS`.
            image_size: the side in pixels.
            batch_size: images per step.
            precision: `float32`, or `bfloat16` for automatic casting of what PyTorch holds safe.
            channels_last: memory format of network and images.
        """
        generator = torch.Generator().manual_seed(0)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        torch.manual_seed(0)
        self._network = build_network(backbone).train().to(memory_format=memory_format)
        self._optimizer = torch.optim.Adam(
            self._network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY
        )
        images = torch.randn((batch_size, 3, image_size, image_size), generator=generator)
        self._images = images.contiguous(memory_format=memory_format)
        self._covid = torch.randint(0, 2, (batch_size, 1), generator=generator).float()
        self._lesions = torch.randint(0, 2, (batch_size, _LESIONS), generator=generator).float()
        self._known = torch.randint(0, 2, (batch_size, _LESIONS), generator=generator).float()
        self._autocast = precision == "bfloat16"
        self.trainable_parameters = sum(p.numel() for p in self._network.parameters() if p.requires_grad)
        self.measure("model", steps=2)

    def measure(self, mode: str, steps: int) -> float:
        """Times some training steps.

        Args:
            mode: `model`; there is no other.
            steps: number of steps.

        Returns:
            Seconds.
        """
        if mode != "model":
            raise ValueError(f"mode should be 'model'. Received: {mode!r}")
        started = time.perf_counter()
        for _ in range(steps):
            self._step()
        return time.perf_counter() - started

    def _step(self) -> None:
        self._optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
            logits = self._network(self._images)
        logits = logits.float()
        covid = binary_cross_entropy_with_logits(logits[:, :1], self._covid, reduction="none")
        lesions = binary_cross_entropy_with_logits(logits[:, 1:], self._lesions, reduction="none")
        loss = (_COVID_WEIGHT * covid.sum(1) + (self._known * lesions).sum(1)) / _OUTPUTS
        loss.mean().backward()
        self._optimizer.step()


def main(argv: list[str]) -> None:
    """The worker."""
    job = json.loads(argv[1])
    torch.set_num_threads(job.pop("threads"))
    serve(TorchTraining, job)


if __name__ == "__main__":
    main(sys.argv)
