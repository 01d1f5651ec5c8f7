"""A run behind the answers of the edge box: LA-DNN, baseline, and models with classes."""

import dataclasses
import functools
import hashlib
import io

import numpy as np
import pytest
import series_fakes
import tiny_tflite
from PIL import Image

from ladnn_tf import run_predictor, runs
from ladnn_tf.card import write_card
from ladnn_tf.data import lungs, preprocess
from ladnn_tf.data.manifest import read_manifest
from ladnn_tf.labels import LESIONS
from ladnn_tf.run_predictor import RunPredictor

CLASSES = ("covid19", "bacterial", "normal")
FLAT = np.full((40, 40, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def files(phantom_manifest):
    frame = read_manifest(phantom_manifest)
    return frame[frame["split"] == "validation"]["path"].tolist()


@pytest.fixture
def slices(files):
    return [preprocess.read_pixels(file) for file in files[:3]]


@dataclasses.dataclass(frozen=True)
class ClassRun:
    """As `runs.Run`, of a network that was built and not trained."""

    folder: object
    card: object
    build: object

    @functools.cached_property
    def model(self):
        return self.build()


def class_run(tmp_path, task, build, **changes):
    card = tiny_tflite.card_of(b"", task=task, classes=CLASSES, image_size=64, export=None, **changes)
    write_card(card, tmp_path / "card.json")
    return ClassRun(tmp_path, card, build)


@pytest.fixture
def drenet_run(tmp_path, tiny_backbone):
    from ladnn_tf.models.drenet import Regions, build_drenet

    def build():
        return build_drenet(
            tiny_backbone, classes=3, image_size=64, regions=Regions(anchors=(16.0,), view_size=32)
        )

    return class_run(tmp_path, "drenet", build, temperature=2.0)


def test_the_answers_are_those_of_the_validation_predictions(tiny_run, files):
    run = runs.load_run(tiny_run)
    predictor = RunPredictor(run, check=False)
    answers = predictor.predict(preprocess.read_pixels(file) for file in files)
    table = runs.read_predictions(tiny_run, "validation")
    np.testing.assert_allclose([a.covid for a in answers], table["covid_probability"], atol=2e-3)
    np.testing.assert_allclose([a.lesions["CrPa"] for a in answers], table["CrPa_probability"], atol=2e-3)
    assert [a.positive for a in answers] == [a.covid >= run.card.threshold for a in answers]
    assert list(answers[0].lesions) == list(LESIONS)
    assert (answers[0].classes, answers[0].boxes, answers[0].scores) == ({}, None, None)


def test_the_card_is_the_run_s(tiny_run):
    predictor = RunPredictor(runs.load_run(tiny_run))
    assert predictor.card == runs.load_run(tiny_run).card
    assert predictor.card_sha256 == hashlib.sha256((tiny_run / "card.json").read_bytes()).hexdigest()


def test_maps_are_answered_where_they_are_wanted(tiny_run, slices):
    run = runs.load_run(tiny_run)
    maps = RunPredictor(run, check=False).predict(slices)[0].maps
    assert maps.ndim == 3
    assert maps.shape[-1] == 6
    assert (maps >= 0).all()
    assert RunPredictor(run, check=False, maps=False).predict(slices)[0].maps is None


def test_the_baseline_has_one_map_and_no_lesions(tiny_baseline_run, slices):
    answer = RunPredictor(runs.load_run(tiny_baseline_run), check=False).predict(slices)[0]
    assert answer.maps.shape[-1] == 1
    assert answer.lesions == {}


def test_what_is_wrong_with_one_image_is_its_own(tiny_run, slices):
    content = io.BytesIO()
    Image.fromarray(slices[0]).save(content, "PNG")
    predictor = RunPredictor(runs.load_run(tiny_run))
    pixels, junk, flat, encoded = predictor.predict([slices[0], b"junk", FLAT, content.getvalue()])
    assert pixels.covid == pytest.approx(encoded.covid, abs=1e-6)
    assert "neither PNG nor JPEG" in junk.error
    assert (junk.covid, junk.positive, junk.abstained) == (None, None, False)
    assert flat.abstained
    assert flat.reason.startswith("hardly any contrast")
    assert flat.covid is None
    assert predictor.predict([]) == []


def test_without_the_check_nothing_is_refused(tiny_run):
    assert RunPredictor(runs.load_run(tiny_run), check=False).predict([FLAT])[0].covid is not None


def test_a_model_of_extracted_lungs_is_shown_the_lungs_alone(tiny_run, slices, monkeypatch):
    monkeypatch.setattr(lungs, "find_lungs", series_fakes.find_lungs)
    run = runs.load_run(tiny_run)
    extracted = RunPredictor(
        dataclasses.replace(run, card=dataclasses.replace(run.card, lungs="extracted")), check=False
    )
    half = slices[0][: slices[0].shape[0] // 2, : slices[0].shape[1] // 2]
    bright = np.full((40, 40, 3), 250, np.uint8)  # -250 HU
    found, refused = extracted.predict([slices[0], bright])
    assert found.covid == pytest.approx(RunPredictor(run, check=False).predict([half])[0].covid, abs=1e-5)
    assert (refused.abstained, refused.covid, refused.reason) == (True, None, "no lungs")


def test_drenet_answers_with_classes_boxes_and_scores(drenet_run, slices):
    predictor = RunPredictor(drenet_run, check=False)
    answers = predictor.predict(slices * 2)  # more than a step
    assert [answer.covid for answer in answers[3:]] == pytest.approx([a.covid for a in answers[:3]], abs=1e-6)
    resized = np.stack([preprocess.resize(pixels, 64) for pixels in slices])
    outputs = {name: np.asarray(values) for name, values in drenet_run.model(resized).items()}
    for row, answer in enumerate(answers[:3]):
        assert list(answer.classes) == list(CLASSES)
        np.testing.assert_allclose(list(answer.classes.values()), outputs["classes"][row], atol=1e-5)
        share = outputs["classes"][row, 0]
        odds = np.sqrt(share / (1 - share))  # a temperature of 2 halves the logit
        assert answer.covid == pytest.approx(odds / (1 + odds), abs=1e-4)
        np.testing.assert_allclose(answer.boxes, outputs["boxes"][row], atol=1e-5)
        np.testing.assert_allclose(answer.scores, outputs["scores"][row], atol=1e-5)
        assert answer.boxes.shape == (3, 4)
        assert (np.diff(answer.scores) <= 0).all()
        assert (answer.maps, answer.lesions) == (None, {})


def test_a_plain_trunk_answers_with_classes_alone(tmp_path, tiny_backbone, slices):
    from ladnn_tf.models.drenet import build_trunk

    run = class_run(tmp_path, "trunk", lambda: build_trunk(tiny_backbone, classes=3, image_size=64))
    answer = RunPredictor(run, check=False).predict(slices)[0]
    assert answer.covid == pytest.approx(answer.classes["covid19"], abs=1e-5)
    assert sum(answer.classes.values()) == pytest.approx(1.0)
    assert (answer.boxes, answer.scores, answer.maps) == (None, None, None)


@pytest.mark.parametrize("bad", ["covid", "lesions"])
def test_a_number_that_is_none_is_no_answer(tiny_run, slices, monkeypatch, bad):
    broken = {"covid": np.zeros((1, 1)), "lesions": np.zeros((1, 5))}
    broken[bad][0, 0] = np.nan
    monkeypatch.setattr(run_predictor.runs, "predict_logits", lambda *_: broken)
    answer = RunPredictor(runs.load_run(tiny_run), check=False).predict(slices[:1])[0]
    assert (answer.covid, answer.error) == (None, "the model gives no finite number for this image")
