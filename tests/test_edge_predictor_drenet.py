"""The edge predictor of models with classes: answers worked out by hand, contracts, slices cut to their lungs."""

import importlib.util
import io
import sys

import numpy as np
import pytest
import tiny_tflite
from conftest import REPOSITORY
from PIL import Image

import ladnn_tf.data
from export.edge_bundle import _fit_card
from export.edge_bundle_pictures import make_self_test
from ladnn_tf.card import card_json
from ladnn_tf.data import preprocess, quality, shown
from ladnn_tf.data.phantom_slice import example_png
from ladnn_tf.edge_overlay import draw
from ladnn_tf.edge_predictor import EdgePredictor
from ladnn_tf.tflite_file import card_beside, read_card

CLASSES = ("covid19", "bacterial", "normal")
RED = np.full((64, 64, 3), (255, 0, 0), np.uint8)
OF_DRENET = {"task": "drenet", "classes": CLASSES}


def write(path, model=None, **changes):
    model = tiny_tflite.class_model_bytes() if model is None else model
    return tiny_tflite.write_model(path, model, **{**OF_DRENET, **changes})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("edge") / "float32.tflite")


@pytest.fixture(scope="module")
def lungs_path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("lungs") / "float32.tflite", lungs="extracted")


def test_answers_worked_out_by_hand(path):
    answer, seen = EdgePredictor(path, check=False).answer(RED)
    # Red alone: class logits 2, 0, 0.
    total = np.exp(2) + 2
    assert list(answer.classes) == list(CLASSES)
    assert list(answer.classes.values()) == pytest.approx([np.exp(2) / total, 1 / total, 1 / total], abs=1e-6)
    assert answer.covid == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-6)
    np.testing.assert_allclose(answer.boxes, [[0.0, 0.25, 0.5, 0.75], [0.5, 0.5, 1.25, 1.25]])
    np.testing.assert_allclose(answer.scores, [0.75, 0.25])
    assert (answer.lesions, answer.maps, answer.positive) == ({}, None, True)
    assert seen.shape == (32, 32, 3)


def test_a_plain_trunk_has_classes_and_no_boxes(tmp_path):
    model = tiny_tflite.class_model_bytes(regions=0)
    predictor = EdgePredictor(write(tmp_path / "m.tflite", model, task="trunk"), check=False)
    answer = predictor.predict([RED])[0]
    assert list(answer.classes) == list(CLASSES)
    assert (answer.boxes, answer.scores, answer.maps) == (None, None, None)


def test_a_bundle_tests_itself_with_classes(path, tmp_path):
    spec = importlib.util.spec_from_file_location("self_test", REPOSITORY / "export" / "bundle" / "self_test.py")
    self_test = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(self_test)
    pictures, expected = make_self_test(EdgePredictor(path), 0.02)
    for name, content in pictures.items():
        (tmp_path / name).write_bytes(content)
    out = tmp_path / "out"
    records = self_test.answers(path, [tmp_path / name for name in pictures], out)
    wanted = expected["pictures"]["phantom-covid.png"]
    assert list(wanted["classes"]) == list(CLASSES)
    for name, each in expected["pictures"].items():
        assert self_test.problems(records[name], each, 0.02, out) == []
    other = {**wanted, "classes": {**wanted["classes"], "normal": wanted["classes"]["normal"] + 0.1}}
    assert self_test.problems(records["phantom-covid.png"], other, 0.02, out)[0].startswith("normal is ")


def test_a_model_of_lungs_is_not_bundled(lungs_path, path, tmp_path):
    for model in (lungs_path, path):
        card_beside(model).write_bytes(card_json(read_card(model)[0]))
    assert _fit_card(path).task == "drenet"
    with pytest.raises(ValueError, match=r"needs scikit-image, which bundles do not hold; bundle a model of"):
        _fit_card(lungs_path)


def test_its_boxes_are_drawn_into_the_slice(path):
    answer, seen = EdgePredictor(path, check=False).answer(RED)
    picture = np.asarray(draw(seen, answer, "a.png", "for research"))
    orange = (np.abs(picture.astype(int) - (230, 159, 0)) < 8).all(axis=2)
    assert orange.sum() > 500  # the outline of one box of 160 x 160 pixels, its score alone above 0.8 of the best


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        ({"regions": 0}, {}, r"expected .*boxes \(1, k, 4\) float32, classes .*scores \(1, k\) float32, found"),
        ({}, {"task": "trunk"}, r"found .*boxes \(1, k, 4\) float32, classes"),
        ({"classes": 2}, {}, r"expected .*classes \(1, 3\) float32.*found .*classes \(1, 2\) float32"),
        ({"scores": 3}, {}, r"expected .*scores \(1, k\) float32, found .*scores \(1, 3\) float32"),
        ({}, {"task": "ladnn", "classes": ()}, r"expected .*lesions \(1, 5\).*found .*boxes"),
        ({}, {"classes": CLASSES[:2]}, r"expected .*classes \(1, 2\) .*found .*classes \(1, 3\)"),
    ],
)  # fmt: skip
def test_a_model_that_is_not_what_its_card_says_is_refused(tmp_path, model, changes, words):
    path = write(tmp_path / "m.tflite", tiny_tflite.class_model_bytes(**model), **changes)
    with pytest.raises(ValueError, match=words):
        EdgePredictor(path)


def test_a_slice_is_cut_to_its_lungs_where_the_card_says_so(lungs_path):
    pixels = preprocess.decode(example_png())
    answer, seen = EdgePredictor(lungs_path).answer(pixels)
    cut, reason = shown.prepared(pixels, "extracted")
    assert reason == ""
    assert cut.shape[0] < pixels.shape[0]
    assert (cut == 0).all(axis=2).mean() > 0.1  # black between the lungs and around them
    np.testing.assert_array_equal(seen, preprocess.resize(cut, 32))
    assert answer.covid == pytest.approx(1 / (1 + np.exp(2 - 4 * seen[..., 0].mean() / 255)), abs=1e-6)


@pytest.mark.parametrize("check", [True, False])
def test_a_slice_without_lungs_is_no_answer_with_its_reason(lungs_path, check, monkeypatch):
    monkeypatch.setattr(quality, "refusal", lambda _: "")
    body = np.full((128, 128, 3), 150, np.uint8)
    body[:20] = body[-20:] = body[:, :20] = body[:, -20:] = 0
    content = io.BytesIO()
    Image.fromarray(body).save(content, "PNG")
    answer, seen = EdgePredictor(lungs_path, check=check).answer(content.getvalue())
    assert (answer.abstained, answer.covid, answer.error, seen) == (True, None, "", None)
    assert "lungs" in answer.reason or "body" in answer.reason


def test_the_whole_slice_is_checked_before_lungs_are_looked_for(lungs_path, monkeypatch):
    monkeypatch.setattr(quality, "refusal", lambda pixels: f"{pixels.shape[0]} rows")
    assert EdgePredictor(lungs_path).predict([RED])[0].reason == "64 rows"


def test_without_scikit_image_it_says_what_to_install(lungs_path, path, monkeypatch):
    for name in ("lungs", "lung_regions"):
        monkeypatch.delitem(sys.modules, f"ladnn_tf.data.{name}", raising=False)
        monkeypatch.delattr(ladnn_tf.data, name, raising=False)
    for name in [name for name in sys.modules if name == "skimage" or name.startswith("skimage.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(
        ImportError, match=r"shown the lungs alone.*pip install '\.\[edge,dicom\]' in the project's folder"
    ):
        EdgePredictor(lungs_path)
    assert EdgePredictor(path, check=False).predict([RED])[0].positive  # this one needs none
