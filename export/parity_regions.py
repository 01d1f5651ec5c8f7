"""The gate's measure of a DRENet's regions: whether the exported model looks again where the run's own does.

A region is the best of many, so where two scores are nearly the same, the last bit decides which is looked at,
and all that follows is of another region. Such a tie is no fault of the export. It is known by its score, which is
then nearly that of the run's own choice; there must be few of them, and they must not change a decision.
"""

import math

import numpy as np

from export.artefacts import Outputs
from export.parity_tolerances import ROUNDING

SAME_BOX = 1e-3
"""Shares of the image's side within which two boxes are one: half a pixel of 448. Anchors lie further apart."""

SAME_BOXES = 0.98
"""Least share of the images all of whose boxes are those of the run's own model, in the same order."""


def same_boxes(outputs: Outputs, reference: Outputs) -> np.ndarray:
    """The images all of whose boxes are the same.

    Args:
        outputs: of the artefact.
        reference: of the run's own model, on the same images.

    Returns:
        `(N,)` bool; all are where there are no boxes.
    """
    if reference.boxes is None:
        return np.ones(len(reference.covid), bool)
    return _same(outputs, reference).all(axis=1)


def score_differences(outputs: Outputs, reference: Outputs) -> np.ndarray:
    """How far scores differ that should be equal: of the same boxes, and of the first other box of an image.

    In a tie the box that was taken has the score of the one that was not. What was taken after it depends on it,
    and is left out. For example of three boxes, of which the second is another one, the first two count.

    Args:
        outputs: of the artefact, with boxes.
        reference: of the run's own model, on the same images.

    Returns:
        Absolute differences, in one row; at least one for each image.
    """
    same = _same(outputs, reference)
    before = np.cumprod(np.insert(same[:, :-1], 0, True, axis=1), axis=1).astype(bool)
    return np.abs(outputs.scores - reference.scores)[before]


def _same(outputs: Outputs, reference: Outputs) -> np.ndarray:
    return (np.abs(outputs.boxes - reference.boxes) <= SAME_BOX).all(axis=2)


def may_differ(images: int) -> int:
    """How many of so many images may have other boxes: of 203 four, of fewer than 50 none."""
    return math.floor(images * (1 - SAME_BOXES) + ROUNDING)


def too_different(column: dict, limit: float) -> list[str]:
    """Why the regions of an artefact are not those of the run's own model, a sentence each.

    Args:
        column: the figures of `parity_columns.measure` of a model with boxes.
        limit: largest difference of a score.
    """
    boxes, reasons = column["boxes"], []
    other, allowed = boxes["images"] - boxes["same"], may_differ(boxes["images"])
    if other > allowed:
        reasons.append(
            f"{other} of {boxes['images']} images have other boxes than the run's own model, at most {allowed} "
            f"may ({100 * SAME_BOXES:g} % with the same boxes)"
        )
    if boxes["other_decisions"]:
        reasons.append(f"{boxes['other_decisions']} of the {other} images with other boxes are decided otherwise")
    largest = column["score_difference"]["largest"]
    if largest > limit:
        reasons.append(f"scores of boxes differ by up to {largest:.3g}, allowed are {limit:.3g}")
    return reasons
