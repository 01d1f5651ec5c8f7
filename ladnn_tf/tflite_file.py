"""TFLite files that carry their card: TFLite's own form of an associated file, a zip appended to the model.

Readers of TFLite ignore what follows the model, `unzip` ignores what goes before the zip. The same card lies
beside the file, for people; the one inside cannot be lost or exchanged.
"""

import hashlib
import io
import zipfile
from pathlib import Path

from ladnn_tf.card import Card, card_json, check_model, parse_card
from ladnn_tf.data.preprocess import LFS_POINTER
from ladnn_tf.files import file_sha256

SUFFIX = ".tflite"
CARD_NAME = "card.json"
_DATE = (1980, 1, 1, 0, 0, 0)  # the same card gives the same bytes


def with_card(model: bytes, card: Card) -> bytes:
    """Appends a card to a model.

    Args:
        model: a TFLite model without a card.
        card: of this model.

    Returns:
        The bytes of the file.

    Raises:
        ValueError: if the card belongs to another model.
    """
    check_model(card, hashlib.sha256(model).hexdigest(), "the card", "the model")
    content = io.BytesIO()
    content.write(model)
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr(zipfile.ZipInfo(CARD_NAME, _DATE), card_json(card))
    return content.getvalue()


def card_beside(path: str | Path) -> Path:
    """Where the card beside a TFLite file lies: `int8.tflite` has `int8.card.json`."""
    path = Path(path)
    return path.with_name(f"{path.name.removesuffix(SUFFIX)}.card.json")


def read_card(path: str | Path) -> tuple[Card, str]:
    """Reads the card of a TFLite file and checks that it belongs to the model in it.

    Args:
        path: the file.

    Returns:
        The card and the SHA-256 of its JSON, 64 hexadecimal digits.

    Raises:
        ValueError: if there is no such file, it is truncated or no model of this project, its card belongs to
            another model, or another card lies beside it.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(CARD_NAME).compress_type != zipfile.ZIP_STORED:  # `with_card` compresses nothing
                raise zipfile.BadZipFile(f"{CARD_NAME} is compressed")
            content = archive.read(CARD_NAME)
            length = _model_length(archive)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from error
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError, RuntimeError, NotImplementedError) as error:
        with path.open("rb") as file:
            pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
        cause = (
            "it is a Git LFS pointer; run `git lfs pull` where it came from"
            if pointer
            else "it was not copied wholly, or was not made by python -m export.tflite; copy it again"
        )
        raise ValueError(f"{path} is not a TFLite model with a card inside ({error}): {cause}") from error
    card = parse_card(content, f"{CARD_NAME} in {path}")
    if card.export is None:
        raise ValueError(f"{CARD_NAME} in {path} is the card of a run, not of an exported model; export it again")
    check_model(card, file_sha256(path, length), f"{CARD_NAME} in {path}", path)
    beside = card_beside(path)
    if beside.is_file() and beside.read_bytes() != content:
        raise ValueError(
            f"{beside} is not the card in {path}: files of two exports lie side by side; copy both again, or "
            f"delete {beside}"
        )
    return card, hashlib.sha256(content).hexdigest()


def read_model(path: str | Path) -> bytes:
    """The model of a TFLite file that `read_card` takes, without the card that follows it."""
    with zipfile.ZipFile(path) as archive:
        length = _model_length(archive)
    return Path(path).read_bytes()[:length]


def _model_length(archive: zipfile.ZipFile) -> int:
    return min(member.header_offset for member in archive.infolist())
