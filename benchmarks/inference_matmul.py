"""NumPy's product of two square matrices in float32: what a core can do at most."""

from collections.abc import Callable

import numpy as np

SIDE = 1024
"""Of the matrices."""

FLOPS = 2 * SIDE**3
"""Of one product: a multiplication and an addition for each term."""


def load(model: str, threads: int) -> Callable[[object], np.ndarray]:
    """Makes the matrices.

    Args:
        model: there is none.
        threads: set by the environment, which the linear algebra library reads when it is loaded.

    Returns:
        The product, whatever it is given.
    """
    del model, threads
    first, second = np.random.default_rng(0).normal(size=(2, SIDE, SIDE)).astype(np.float32)
    product = np.empty((SIDE, SIDE), np.float32)
    return lambda _: np.matmul(first, second, out=product)
