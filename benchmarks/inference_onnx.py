"""PyTorch's network as an ONNX file, on ONNX Runtime."""

from collections.abc import Callable

import numpy as np
import onnxruntime


def load(model: str, threads: int) -> Callable[[np.ndarray], object]:
    """Loads an ONNX file of `inference_torch_export.py`.

    Args:
        model: its path.
        threads: of the CPU.

    Returns:
        From images `(B, S, S, 3)` uint8 to probabilities `(B, 6)`.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1  # operators one after the other, as by default
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (name,) = (tensor.name for tensor in session.get_inputs())
    return lambda images: session.run(None, {name: images})[0]
