"""Puts a measured artefact in its place with its card, or refuses to: nothing ships unmeasured.

An artefact that is refused does not take its place, and the same model, should it lie there already, is removed.
An older artefact under the name goes too, unless its own card calls it fit: then it stays, with a warning, and its
card says what it was made of. One that cannot be read stays as well; its readers refuse it.
"""

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path

from absl import logging

from export.artefacts import artefact_card, card_path, saved_model_sha256
from export.parity_compare import Comparison
from ladnn_tf.card import Card, card_json, check_model
from ladnn_tf.files import write_atomically
from ladnn_tf.tflite_file import card_beside, read_model, with_card

_REFUSED = ".refused"


def final_card(card: Card, comparison: Comparison) -> Card:
    """The card with what the gate found.

    Raises:
        ValueError: if the card is a run's, not an exported model's, or the comparison is of another model.
    """
    if card.export is None or card.model_sha256 != comparison.card.model_sha256:
        raise ValueError(f"the comparison is of {comparison.card.version}, not of the model {card.version}")
    found = {name: getattr(comparison, name) for name in ("fitness", "reasons", "measured")}
    return dataclasses.replace(card, export=dataclasses.replace(card.export, **found))


def place_tflite(model: bytes, card: Card, comparison: Comparison, path: Path, keep_failed: bool) -> bool:
    """Writes a TFLite file with its card inside and beside it, or refuses to (see the module's description).

    The old card beside goes first: a kill in between leaves a file without a card beside it, which is read, never
    two that contradict each other.

    Args:
        model: a TFLite model without a card.
        card: of this model.
        comparison: of this model.
        path: the file to write.
        keep_failed: writes an unfit one too.

    Returns:
        Whether it was written.

    Raises:
        ValueError: if card, model and comparison do not belong together.
        OSError: if a file cannot be written.
    """
    card = final_card(card, comparison)
    content = with_card(model, card)
    if comparison.fitness != "fit" and not keep_failed:
        _refuse(path, card)
        return False
    card_beside(path).unlink(missing_ok=True)
    write_atomically(path, content)
    write_atomically(card_beside(path), card_json(card))
    return True


def place_saved_model(staged: Path, card: Card, comparison: Comparison, target: Path, keep_failed: bool) -> bool:
    """Writes the card into a staged SavedModel and renames it to its version, or deletes it.

    Everybody may read what was placed.

    Args:
        staged: the finished SavedModel, on the file system of `target`.
        card: of this model.
        comparison: of this model.
        target: the version's folder; it must not exist.
        keep_failed: places an unfit one too.

    Returns:
        Whether it was placed.

    Raises:
        ValueError: if card, model and comparison do not belong together.
        OSError: if `target` exists or cannot be written.
    """
    card = final_card(card, comparison)
    check_model(card, saved_model_sha256(staged), "the card", staged)
    if comparison.fitness != "fit" and not keep_failed:
        shutil.rmtree(staged)
        return False
    if target.exists():
        raise FileExistsError(f"{target} was made by another export meanwhile; export again for the next version")
    write_atomically(card_path(staged), card_json(card))
    for path in (staged, *staged.rglob("*")):
        # A server is somebody else, whatever the umask of who exports; a temporary folder is its owner's alone.
        path.chmod(0o755 if path.is_dir() else 0o644)
        if path.is_file():
            with path.open("rb") as opened:
                os.fsync(opened.fileno())  # a power cut after the rename would else leave a version of empty files
    staged.rename(target)
    return True


def place_again(path: Path, comparison: Comparison, keep_failed: bool) -> bool:
    """Writes the new findings into the card of an artefact that lies in its place, or removes it.

    Args:
        path: a TFLite file, or a SavedModel's version folder.
        comparison: of this artefact.
        keep_failed: keeps an unfit one.

    Returns:
        Whether it is still there.

    Raises:
        ValueError: if the artefact is not the one that was compared.
        OSError: if a file cannot be written.
    """
    card = artefact_card(path)
    if not path.is_dir():
        return place_tflite(read_model(path), card, comparison, path, keep_failed)
    final = final_card(card, comparison)
    if comparison.fitness != "fit" and not keep_failed:
        _refuse(path, final)
        return False
    write_atomically(card_path(path), card_json(final))
    return True


def _refuse(path: Path, card: Card) -> None:
    """Removes what lies in the place of a refused model, but for an older one that is fit."""
    if not path.exists():
        return
    try:
        old = artefact_card(path)
    except ValueError as error:
        logging.warning(
            "%s was refused; what lies in its place was left there, unreadable: %s", card.version, error
        )
        return
    if old.model_sha256 != card.model_sha256 and old.export.fitness == "fit":
        logging.warning(
            "%s was refused; the older %s is still there, made of the model %s..., not of %s...",
            card.version, path, old.export.source_sha256[:12], card.export.source_sha256[:12],
        )  # fmt: skip
        return
    _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        for leftover in path.parent.glob(f".*{_REFUSED}"):  # of a removal that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        # A server that looks at the folders sees the version whole or not at all.
        hidden = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_REFUSED, dir=path.parent))
        path.rename(hidden)
        shutil.rmtree(hidden)
    else:
        path.unlink()
        card_beside(path).unlink(missing_ok=True)
