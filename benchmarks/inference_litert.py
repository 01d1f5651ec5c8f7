"""A TFLite file on LiteRT, one image at a time."""

from collections.abc import Callable

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def load(model: str, threads: int) -> Callable[[np.ndarray], object]:
    """Loads a file of `python -m export.tflite`.

    Args:
        model: its path.
        threads: of the CPU.

    Returns:
        From images `(1, S, S, 3)` uint8 to probabilities and attention maps.
    """
    runner = Interpreter(model_path=model, num_threads=threads).get_signature_runner("serving_default")
    return lambda images: runner(images=images)
