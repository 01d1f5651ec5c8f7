"""What is timed beside each other: one model, in every format, on every runtime that is installed."""

import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from benchmarks.contenders import COUNTERPARTS
from benchmarks.worker import Worker, WorkerEndedError

REFERENCE = "TFLite float32"
MATRIX_PRODUCT = "matrix product"
"""Measured as the contenders are, but no row of the table: the peak that they are held against."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to get answers, measured in a process of its own.

    Attributes:
        module: that loads the model and answers.
        model: path of the model's file or folder.
        slices: path of what is answered.
        batch: images in each call when throughput is measured; 0 if it is not.
        options: more arguments of the module's `load`.
        has_same_work: whether it does what the others do, so that ratios mean something.
        is_command: whether the module is a command, which is run on the slices and ends.
    """

    module: str
    model: str
    slices: str
    batch: int
    options: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    has_same_work: bool = True
    is_command: bool = False

    @property
    def size(self) -> int:
        """Of the model, in bytes."""
        path = Path(self.model)
        files = path.rglob("*") if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files if file.is_file())


def ours(prepared: dict, batch: int, *, edge: bool) -> dict[str, Contender]:
    """The contenders without PyTorch and its ONNX file.

    Args:
        prepared: from `inference_prepare.prepare`.
        batch: images in each call when throughput is measured, where a runtime takes more than one.
        edge: whether the shipped edge predictor is one, with each format in int8.

    Returns:
        By name; the matrix product comes first.
    """
    pixels, files, models = prepared["pixels"], prepared["files"], prepared["models"]
    contenders = {
        MATRIX_PRODUCT: Contender("benchmarks.inference_matmul", "", pixels, 0),
        "Keras": Contender("benchmarks.inference_keras", models["keras"], pixels, batch),
        "SavedModel": Contender("benchmarks.inference_saved_model", models["saved_model"], pixels, batch),
    }
    forms = [form for form in models if form not in ("keras", "saved_model")]
    for form in forms:
        contenders[f"TFLite {form}"] = Contender("benchmarks.inference_litert", models[form], pixels, 1)
    for form in [form for form in forms if edge and form.startswith("int8")]:
        predictor = Contender("benchmarks.inference_edge", models[form], files, 1, has_same_work=False)
        contenders[f"edge predictor {form}"] = predictor
        command = dataclasses.replace(predictor, module="ladnn_tf.edge", batch=0, is_command=True)
        contenders[f"edge command {form}"] = command
    return contenders


def theirs(
    folder: Path, prepared: dict, batch: int, environment: Mapping[str, str]
) -> tuple[dict[str, Contender], dict[str, str]]:
    """PyTorch and ONNX Runtime on MONAI's network of the same architecture, with random weights.

    Args:
        folder: where its files are written.
        prepared: from `inference_prepare.prepare`.
        batch: images in each call when throughput is measured.
        environment: of the process that writes them.

    Returns:
        Contenders by name, and reasons by the names of those that there are not.
    """
    torch = ("PyTorch", "PyTorch channels_last")
    onnx = "ONNX Runtime"
    backbone, pixels = prepared["backbone"], prepared["pixels"]
    if backbone not in COUNTERPARTS:
        return {}, dict.fromkeys((*torch, onnx), f"MONAI has no {backbone}")
    if missing := _missing("torch", "monai"):
        return {}, dict.fromkeys((*torch, onnx), f"{missing} not installed")
    module, job = "benchmarks.inference_torch_export", {"folder": str(folder), "onnx": False, "backbone": backbone}
    if reason := _failure("the network of MONAI", module, job, environment):
        return {}, dict.fromkeys((*torch, onnx), reason)
    contenders = {
        name: Contender(
            "benchmarks.inference_torch",
            str(folder / "network.pt"),
            pixels,
            batch,
            {"channels_last": name.endswith("channels_last")},
        )
        for name in torch
    }
    job = {"folder": str(folder), "onnx": True, "image_size": prepared["image_size"]}
    reason = f"{missing} not installed" if (missing := _missing("onnxruntime")) else ""
    reason = reason or _failure("the ONNX file", module, job, environment)
    if reason:
        return contenders, {onnx: reason}
    contenders[onnx] = Contender("benchmarks.inference_onnx", str(folder / "network.onnx"), pixels, batch)
    return contenders, {}


def _missing(*packages: str) -> str:
    return " and ".join(package for package in packages if importlib.util.find_spec(package) is None)


def _failure(name: str, module: str, job: dict, environment: Mapping[str, str]) -> str:
    """Runs a worker that only gets ready; why it could not, or empty."""
    try:
        Worker(name, module, job, environment).close()
    except ValueError as error:
        return str(error)
    except WorkerEndedError as error:
        return f"{name} could not be written: the worker {error.reason}"
    return ""
