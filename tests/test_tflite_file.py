"""A card inside a TFLite file: found again, and every mix-up refused."""

import dataclasses
import hashlib
import io
import zipfile

import pytest
from tiny_tflite import card_of

from ladnn_tf.card import Card, Export, card_json, parse_card
from ladnn_tf.tflite_file import card_beside, read_card, with_card

MODEL = b"\x1c\x00\x00\x00TFL3" + bytes(range(256)) * 8


EXPORT = Export("int8", "2" * 64, "unfit", ("too far off",), {"size": 12})


def card(**changes) -> Card:
    return card_of(MODEL, **{"name": "a run", "export": EXPORT, **changes})


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "int8.tflite"
    path.write_bytes(with_card(MODEL, card()))
    return path


def test_card_is_found_again_behind_the_unchanged_model(written):
    found, sha256 = read_card(written)
    assert found == card()
    assert sha256 == hashlib.sha256(card_json(card())).hexdigest()
    assert written.read_bytes().startswith(MODEL)
    with zipfile.ZipFile(written) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["card.json"]


def test_same_card_gives_the_same_bytes():
    assert with_card(MODEL, card()) == with_card(MODEL, card())


def test_version_names_run_format_and_model():
    digits = hashlib.sha256(MODEL).hexdigest()[:12]
    assert card().version == f"a run-int8-{digits}"
    assert card(export=None).version == f"a run-keras-{digits}"


def test_card_of_another_model_is_not_appended():
    with pytest.raises(ValueError, match="the card belongs to another model: it expects SHA-256"):
        with_card(MODEL + b"x", card())


def test_changed_model_is_refused(written):
    content = bytearray(written.read_bytes())
    content[100] ^= 1
    written.write_bytes(content)
    with pytest.raises(ValueError, match=r"card\.json in .*int8\.tflite belongs to another model"):
        read_card(written)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (MODEL, "was not copied wholly, or was not made by python -m export.tflite"),
        (with_card(MODEL, card())[:-30], "was not copied wholly"),
        (b"", "was not copied wholly"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "it is a Git LFS pointer; run `git lfs pull`",
        ),
    ],
)
def test_file_without_a_card_is_refused(tmp_path, content, reason):
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_card(path)


def test_zip_without_a_card_is_refused(tmp_path):
    content = io.BytesIO(MODEL)
    content.seek(0, 2)
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr("labels.txt", "covid")
    path = tmp_path / "model.tflite"
    path.write_bytes(content.getvalue())
    with pytest.raises(ValueError, match="not a TFLite model with a card inside"):
        read_card(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_compressed_card_is_refused_unread(tmp_path, compression):
    """Damaged, it would be an error of zlib, lzma or bz2."""
    path = tmp_path / "model.tflite"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("card.json", card_json(card()), compression)
    content = bytearray(path.read_bytes())
    content[60:80] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"not a TFLite model with a card inside \(card\.json is compressed\)"):
        read_card(path)


def test_a_card_that_ends_too_early_is_refused(written):
    content = bytearray(written.read_bytes())
    size = len(card_json(card())) + 10**6  # in the central directory: compressed, then uncompressed
    start = content.rindex(b"PK\x01\x02") + 20
    content[start : start + 8] = size.to_bytes(4, "little") * 2
    written.write_bytes(content)
    with pytest.raises(ValueError, match="not a TFLite model with a card inside"):
        read_card(written)


def test_missing_file_and_card_of_a_run_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no\.tflite cannot be read \(No such file"):
        read_card(tmp_path / "no.tflite")
    path = tmp_path / "run.tflite"
    path.write_bytes(with_card(MODEL, card(export=None)))
    with pytest.raises(ValueError, match="is the card of a run, not of an exported model"):
        read_card(path)


def test_card_beside_must_be_the_one_inside(written):
    beside = card_beside(written)
    assert beside.name == "int8.card.json"
    beside.write_bytes(card_json(card()))
    assert read_card(written)[0] == card()
    beside.write_bytes(card_json(dataclasses.replace(card(), threshold=0.9)))
    with pytest.raises(ValueError, match="files of two exports lie side by side"):
        read_card(written)


def test_damaged_card_is_named():
    with pytest.raises(ValueError, match="here is not a model card of this version"):
        parse_card(b"[1, 2]", "here")
    with pytest.raises(ValueError, match=r"fitness should be one of fit, unfit, unmeasured\. Received: 'good'"):
        parse_card(card_json(card()).replace(b'"unfit"', b'"good"'), "here")
