"""The lines of series for the audit log: which files, how many slices, which call, which model."""

from collections.abc import Callable, Sequence
from typing import Any

from serving.page.intake import Item, SentSeries
from serving.page.series_answering import SeriesResult


def series_lines(
    sent: Sequence[SentSeries],
    results: Sequence[Sequence[SeriesResult]],
    hash_of: Callable[[bytes], str],
    not_begun: str,
    model: dict[str, str | None],
) -> list[dict[str, Any]]:
    """A line for each series.

    Args:
        sent: the files with series, of an upload.
        results: of each of them; empty of one whose turn did not come, or which failed.
        hash_of: makes the keyed hash of bytes.
        not_begun: the state of such a one.
        model: version and card hash of the model that answered last, for such a one.
    """
    lines = []
    for files, found in zip(sent, results, strict=True):
        if not found:
            lines.append(_about(files.files, hash_of) | {"state": not_begun, "reason": None} | model)
        for result in found:
            of_it = [files.files[place] for place in result.files]
            lines.append(_about(of_it, hash_of) | _answer(result))
    return [{"series": place, "of_series": len(lines)} | line for place, line in enumerate(lines, 1)]


def _about(files: Sequence[Item], hash_of: Callable[[bytes], str]) -> dict[str, Any]:
    hashes = "".join(sorted(file.image_hash for file in files))
    return {
        "files": len(files),
        "files_hmac_sha256": hash_of(hashes.encode("ascii")),
        "bytes": sum(file.size for file in files),
    }


def _answer(result: SeriesResult) -> dict[str, Any]:
    view = result.view
    return {
        "slices": view.slices,
        "slices_answered": view.slices_answered,
        "state": view.state,
        "call": None if view.positive is None else ("positive" if view.positive else "negative"),
        "reason": result.code or None,
        "model_version": result.card.version,
        "card_sha256": result.card_sha256,
        "seconds": round(result.seconds, 4),
    }
