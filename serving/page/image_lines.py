"""The lines of images for the audit log: how large, which call or why none, which model."""

from collections.abc import Sequence
from typing import Any

from serving.page.image_answering import ImageResult
from serving.page.intake import Item

NOT_BEGUN = "not_begun"
"""What became of an image or a series whose turn did not come, in metrics and audit log, beside `view.STATES`."""

_ERROR = "error"  # of `view.STATES`


def image_lines(
    items: Sequence[Item], results: Sequence[ImageResult | None], model: dict[str, str | None]
) -> list[dict[str, Any]]:
    """A line for each image.

    Args:
        items: the images of an upload.
        results: of each of them; None of one whose turn did not come.
        model: version and card hash of the model that answered last, for such a one.
    """
    return [
        {"image": place, "images": len(items)} | _about(item, result) | (_answer(result) if result else model)
        for place, (item, result) in enumerate(zip(items, results, strict=True), 1)
    ]


def _about(item: Item, result: ImageResult | None) -> dict[str, Any]:
    not_there = _ERROR if item.error else NOT_BEGUN
    return {
        "image_hmac_sha256": item.image_hash or None,
        "bytes": item.size,
        "state": result.view.state if result else not_there,
        "reason": item.code or (result.code if result else "") or None,
    }


def _answer(result: ImageResult) -> dict[str, Any]:
    view = result.view
    return {
        "call": None if view.positive is None else ("positive" if view.positive else "negative"),
        "model_version": view.model_version,
        "card_sha256": view.card_sha256,
        "seconds": round(result.seconds, 4),
    }
