"""The edge predictor: its answers, the models and images it refuses, and what it imports."""

import hashlib
import io
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import tiny_tflite
from PIL import Image

from ladnn_tf import edge, tflite_file
from ladnn_tf.card import Export
from ladnn_tf.data import preprocess, quality
from ladnn_tf.labels import LESIONS


def sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))


def colour(red, green, blue, size=64):
    return np.full((size, size, 3), (red, green, blue), np.uint8)


def png(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


RED, GREEN = colour(255, 0, 0), colour(0, 255, 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The path of a fit model. Tests read it."""
    return tiny_tflite.write_model(tmp_path_factory.mktemp("edge") / "float32.tflite")


@pytest.fixture(scope="module")
def predictor(model):
    return edge.EdgePredictor(model, check=False)


def test_answers_worked_out_by_hand(predictor, model):
    red, green = predictor.predict([RED, png(GREEN)])
    assert red.covid == pytest.approx(sigmoid(4 - 2), abs=1e-6)  # 0.8808
    assert green.covid == pytest.approx(sigmoid(0 - 2), abs=1e-6)  # 0.1192
    assert (red.positive, green.positive) == (True, False)
    assert list(green.lesions) == list(LESIONS)
    assert list(green.lesions.values()) == pytest.approx([sigmoid(4 - n) for n in range(1, 6)], abs=1e-6)
    assert red.maps.shape == (4, 4, 6)
    assert red.maps[..., 0].min() == green.maps[..., 1:].min() == 1.0
    assert red.maps[..., 1:].max() == green.maps[..., 0].max() == 0.0
    assert (red.abstained, red.reason, red.error, red.unfit, red.threshold) == (False, "", "", False, 0.5)
    without_card = tiny_tflite.model_bytes()
    assert red.model_version == f"tiny-float32-{hashlib.sha256(without_card).hexdigest()[:12]}"
    assert red.card_sha256 == tflite_file.read_card(model)[1]


def test_bytes_go_through_the_image_contract(predictor, phantoms):
    path = sorted(phantoms.rglob("*.png"))[0]
    encoded = path.read_bytes()
    pixels = preprocess.read_image(path, tiny_tflite.SIZE)
    from_bytes, from_pixels, buffered = predictor.predict(
        [encoded, preprocess.decode(encoded), bytearray(encoded)]
    )
    expected = sigmoid(4 * pixels[..., 0].mean() / 255 - 2)
    assert from_bytes.covid == pytest.approx(expected, abs=1e-6)
    assert from_bytes.covid == from_pixels.covid == buffered.covid
    assert (predictor.answer(encoded)[1] == pixels).all()


def test_positive_is_at_the_threshold_or_above(tmp_path, predictor):
    covid = predictor.predict([RED])[0].covid
    for threshold, positive in ((covid, True), (np.nextafter(covid, 1.0), False)):
        path = tiny_tflite.write_model(tmp_path / "m.tflite", threshold=float(threshold))
        assert edge.EdgePredictor(path, check=False).predict([RED])[0].positive is positive


def test_a_baseline_has_no_lesions(tmp_path):
    path = tiny_tflite.write_model(tmp_path / "m.tflite", tiny_tflite.model_bytes(1), task="baseline")
    result = edge.EdgePredictor(path, check=False, threads=1).predict([RED])[0]
    assert result.lesions == {}
    assert result.maps.shape == (4, 4, 1)
    assert result.covid == pytest.approx(sigmoid(2), abs=1e-6)


def test_what_is_wrong_with_one_image_leaves_the_others_their_answers(predictor):
    whole = png(RED)
    bad = [b"", b"version https://git-lfs.github.com/spec/v1", whole[:-20], colour(0, 0, 0), b"GIF89a"]
    *failed, good = predictor.predict([*bad, whole])
    assert good.covid > 0.8
    for result, words in zip(failed, ["empty", "LFS", "truncated", "no finite numbers", "neither"], strict=True):
        assert words in result.error
        assert (result.covid, result.positive, result.lesions, result.maps) == (None, None, {}, None)
        assert not result.abstained


class Failing:
    def __call__(self, images):
        raise RuntimeError("node 3\nfailed to invoke")


def test_a_model_that_fails_at_an_image_is_an_error_of_this_image(model, monkeypatch):
    predictor = edge.EdgePredictor(model, check=False)
    monkeypatch.setattr(predictor, "_runner", Failing())
    assert predictor.predict([RED])[0].error == "the model failed at this image (node 3 failed to invoke)"


def test_the_network_has_one_image_at_a_time(model, monkeypatch):
    """An interpreter has one set of tensors, and threads share the predictor."""
    predictor = edge.EdgePredictor(model, check=False)
    runner, kept_out = predictor._runner, []

    def run(images):
        kept_out.append(not predictor._lock.acquire(blocking=False))  # as a second thread would
        if len(kept_out) == 1:
            raise RuntimeError
        return runner(images=images)

    monkeypatch.setattr(predictor, "_runner", run)
    failed, answered = predictor.predict([RED, RED])  # the lock is free again after a failure
    assert (failed.covid, answered.positive) == (None, True)
    assert kept_out == [True, True]


def test_images_may_come_from_a_generator(predictor):
    results = predictor.predict(image for image in (RED, png(GREEN)))
    assert [result.positive for result in results] == [True, False]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (RED[..., :1], r"images\[1\] .*\(64, 64, 1\) uint8"),
        (RED[None], r"images\[1\] .*\(1, 64, 64, 3\) uint8"),
        (RED.astype(np.float32), r"images\[1\] .*\(64, 64, 3\) float32"),
        (RED[:0], r"images\[1\] .*\(0, 64, 3\)"),
        ("slice.png", r"images\[1\] .*Received: str"),
    ],
)
def test_what_is_no_image_is_named(predictor, image, words):
    with pytest.raises(ValueError, match=words):
        predictor.predict([RED, image])


def test_a_single_image_is_no_list(predictor):
    with pytest.raises(ValueError, match=r"list of images\. Received: a single bytes"):
        predictor.predict(png(RED))


def test_it_abstains_from_what_is_no_slice_unless_told_not_to(model, monkeypatch):
    monkeypatch.setattr(quality, "refusal", lambda pixels: "red" if pixels[0, 0, 0] == 255 else "")
    red, green = edge.EdgePredictor(model).predict([png(RED), GREEN])
    assert (red.abstained, red.reason, red.error, red.covid, red.positive) == (True, "red", "", None, None)
    assert (green.abstained, green.reason) == (False, "")
    assert green.covid is not None
    assert edge.EdgePredictor(model, check=False).predict([RED])[0].covid is not None


@pytest.mark.parametrize(
    ("export", "words"),
    [
        (Export("int8", "0" * 64, "unfit", ("loses 0.2 AUC", "agrees in 80 %")), "loses 0.2 AUC; agrees in 80 %"),
        (Export("int8", "0" * 64), "never compared"),
    ],
)
def test_an_unfit_model_is_refused_unless_allowed(tmp_path, export, words):
    path = tiny_tflite.write_model(tmp_path / "m.tflite", export=export)
    with pytest.raises(ValueError, match=rf"{words}.*allow_unfit"):
        edge.EdgePredictor(path)
    allowed = edge.EdgePredictor(path, allow_unfit=True, check=False)
    assert words in allowed.complaint
    assert allowed.predict([RED, b""])[1].unfit


def damaged(path, damage):
    path.write_bytes(damage(path.read_bytes()))
    return path


def with_other_model(content):
    start = content.index(b"PK\x03\x04")
    return content[: start - 1] + bytes([content[start - 1] ^ 1]) + content[start:]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[: len(content) // 2], "not copied wholly"),
        (lambda content: b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (lambda content: tiny_tflite.model_bytes(), "not a TFLite model with a card"),
        (with_other_model, "belongs to another model"),
    ],
)
def test_a_damaged_model_is_refused(tmp_path, damage, words):
    path = damaged(tiny_tflite.write_model(tmp_path / "m.tflite"), damage)
    with pytest.raises(ValueError, match=words):
        edge.EdgePredictor(path)


def test_a_missing_model_and_a_wrong_number_of_threads_are_named(tmp_path, model):
    with pytest.raises(ValueError, match=r"none\.tflite cannot be read \(No such file"):
        edge.EdgePredictor(tmp_path / "none.tflite")
    with pytest.raises(ValueError, match=r"threads should be 1 or more\. Received: 0"):
        edge.EdgePredictor(model, threads=0)


def test_a_model_that_litert_cannot_load_is_one_line(tmp_path):
    path = tiny_tflite.write_model(tmp_path / "m.tflite", b"no flatbuffer at all" * 50)
    with pytest.raises(ValueError, match=r"LiteRT cannot load it .*newer ai-edge-litert") as caught:
        edge.EdgePredictor(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "maps", "changes", "words"),
    [
        (6, "maps", {"image_size": 64}, r"expected images \(1, 64, 64, 3\) .*found images \(1, 32, 32, 3\)"),
        (6, "maps", {"task": "baseline"}, r"found .*lesions \(1, 5\) float32, maps \(1, h, w, 6\)"),
        (1, "maps", {}, r"expected .*lesions .*found .*covid \(1\) float32, maps \(1, h, w, 1\)"),
        (6, "heat", {}, r"found .*heat \(1, 4, 4, 6\)"),
    ],
)
def test_a_model_that_is_not_what_its_card_says_is_refused(tmp_path, labels, maps, changes, words):
    path = tiny_tflite.write_model(tmp_path / "m.tflite", tiny_tflite.model_bytes(labels, maps), **changes)
    with pytest.raises(ValueError, match=words):
        edge.EdgePredictor(path)


def test_without_litert_it_says_what_to_install(model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[edge\]' in the project's folder"):
        edge.EdgePredictor(model)
    assert edge.run(["edge", str(model), "a.png"]) == 1
    assert capsys.readouterr().err.startswith("error: the edge predictor runs on ai-edge-litert")


def test_predicting_imports_nothing_heavy(model):
    code = (
        "import sys; import ladnn_tf.edge as edge; import numpy; "
        "p = edge.EdgePredictor(sys.argv[1], check=False); "
        "assert p.predict([numpy.full((9, 9, 3), 255, 'uint8')])[0].positive; "
        "heavy = {'absl', 'pandas', 'scipy', 'tensorflow', 'keras', 'matplotlib', 'sklearn', 'h5py'}; "
        "print(sorted(heavy & set(sys.modules)), 'ai_edge_litert' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(model)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout == "[] True\n", result.stderr


def test_a_reader_that_went_away_is_no_traceback(model, tmp_path):
    (tmp_path / "a.png").write_bytes(png(RED))
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "ladnn_tf.edge", str(model), str(tmp_path / "a.png"), "--no-check"]
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert result.returncode == 1
    assert "Error" not in result.stderr
    assert "error" not in result.stderr
