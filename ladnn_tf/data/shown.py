"""What of a slice a model is shown, by its card: the whole slice, or the lungs alone. Every predictor asks here.

Lungs are looked for with scikit-image, which is imported for models that need it alone.
"""

from collections.abc import Callable

import numpy as np

from ladnn_tf.data import quality

INSTALL = "pip install '.[edge,dicom]' in the project's folder"


def preparation(lungs: str) -> Callable[[np.ndarray], tuple[np.ndarray, str]]:
    """How slices are prepared for a model, before they are resized; asked for once, before the first slice.

    Args:
        lungs: of the model's card, one of `card.LUNGS`.

    Returns:
        A function of a slice, `(H, W, 3)` uint8: what the model is shown of it, `(h, w, 3)` uint8, and why it is
        to be left out, without a full stop; an empty string if it is not.

    Raises:
        ImportError: if the model is shown the lungs alone and scikit-image is not installed.
    """
    if lungs == "whole":
        return lambda pixels: (pixels, "")
    try:
        from ladnn_tf.data import lungs as lung_fields
    except ImportError as error:
        raise ImportError(
            f"this model is shown the lungs alone, and scikit-image looks for them ({error}): {INSTALL}"
        ) from error

    def extract(pixels: np.ndarray) -> tuple[np.ndarray, str]:
        found = lung_fields.find_lungs(lung_fields.pseudo_hu(pixels))
        if found.reason:
            return pixels, found.reason
        return lung_fields.extracted(pixels, found.mask), ""

    return extract


def prepared(pixels: np.ndarray, lungs: str, *, check: bool = True) -> tuple[np.ndarray, str]:
    """Checks one whole slice and reduces it to what a model is shown of it.

    Args:
        pixels: `(H, W, 3)` uint8, the whole slice.
        lungs: of the model's card, one of `card.LUNGS`.
        check: whether what is no chest-CT slice is left out (`quality.refusal`). Without lungs a slice is left out
            in any case if the model is shown nothing else.

    Returns:
        `(h, w, 3)` uint8, and why the slice is to be left out, without a full stop; an empty string if it is not.

    Raises:
        ImportError: as `preparation`.
    """
    prepare = preparation(lungs)
    reason = quality.refusal(pixels) if check else ""
    return (pixels, reason) if reason else prepare(pixels)
