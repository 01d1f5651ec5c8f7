"""The worker that writes MONAI's network as a PyTorch and as an ONNX file, in a process without TensorFlow."""

import importlib.util
import json
import sys
from pathlib import Path

import torch

from benchmarks.inference_torch import PixelsToProbabilities
from benchmarks.torch_training import build_network
from benchmarks.worker import answer_requests


def write_network(folder: str, backbone: str) -> None:
    """Writes `network.pt`: the backbone's name and random weights.

    Args:
        folder: to write to.
        backbone: one of `contenders.COUNTERPARTS`.
    """
    torch.manual_seed(0)
    weights = build_network(backbone).state_dict()
    torch.save({"backbone": backbone, "weights": weights}, Path(folder) / "network.pt")


def write_onnx(folder: str, image_size: int) -> None:
    """Writes `network.onnx`, the network of `network.pt` from pixels to probabilities, for any number of images.

    Args:
        folder: of both files.
        image_size: the side in pixels.

    Raises:
        ValueError: if onnx or onnxscript is not installed.
    """
    missing = [package for package in ("onnx", "onnxscript") if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(f"{' and '.join(missing)} not installed")
    saved = torch.load(Path(folder) / "network.pt", weights_only=True)
    network = build_network(saved["backbone"])
    network.load_state_dict(saved["weights"])
    torch.onnx.export(
        PixelsToProbabilities(network).eval(),
        (torch.zeros((2, image_size, image_size, 3), dtype=torch.uint8),),
        Path(folder) / "network.onnx",
        dynamo=True,
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        external_data=False,
        verbose=False,
    )


def main(argv: list[str]) -> None:
    """The worker."""
    job = json.loads(argv[1])

    def start() -> tuple[dict, object]:
        if job["onnx"]:
            write_onnx(job["folder"], job["image_size"])
        else:
            write_network(job["folder"], job["backbone"])
        return {}, dict

    answer_requests(start)


if __name__ == "__main__":
    main(sys.argv)
