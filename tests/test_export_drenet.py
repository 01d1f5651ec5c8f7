"""Exports of models with classes: SavedModel, TFLite and their gate, against the run's own Keras model."""

import dataclasses
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from parity_fakes import FakeArtefact, evidence, export_card, outputs, sample

pytest.importorskip("tensorflow_serving.apis")

from export import parity, parity_columns, parity_regions, parity_report, saved_model, signatures, tflite
from export.artefacts import TFLiteArtefact, saved_model_card
from export.parity_compare import compare
from export.parity_evidence import load_evidence
from export.tflite_convert import convert, formats_of
from ladnn_tf import origin, runs
from ladnn_tf.data import pipeline
from ladnn_tf.data.manifest import read_manifest, select_split
from ladnn_tf.edge_predictor import EdgePredictor
from ladnn_tf.tflite_file import read_model, with_card

CLASSES = ("covid19", "normal")
TEMPERATURE = 2.5


@pytest.fixture(scope="module")
def run(tiny_drenet_run, tmp_path_factory):
    """A copy of the run, in which looks may be counted, with a temperature that changes answers."""
    folder = tmp_path_factory.mktemp("run") / "tiny_drenet"
    shutil.copytree(tiny_drenet_run, folder)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "temperature": TEMPERATURE}))
    return runs.load_run(folder)


@pytest.fixture(scope="module")
def frame(run):
    return pipeline.select_classes(select_split(read_manifest(run.config.manifest), "test"), CLASSES)


@pytest.fixture(scope="module")
def expected(run, frame):
    """What the Keras model itself says of the test split, the probability of COVID-19 calibrated by hand."""
    said = run.model.predict(pipeline.load_images(frame, 64).astype(np.float32), verbose=0)
    logit = np.log(said["covid"][:, 0]) - np.log1p(-said["covid"][:, 0])
    return {**said, "covid": 1 / (1 + np.exp(-logit / TEMPERATURE))}


@pytest.fixture(scope="module")
def edge_folder(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("edge")
    assert tflite.main(["tflite", f"--run={run.folder}", f"--out={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def versions(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "drenet"
    assert saved_model.main(["saved_model", f"--run={run.folder}", f"--out={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def encoded(frame):
    return [Path(path).read_bytes() for path in frame["path"]]


def test_every_signature_answers_as_the_keras_model(versions, frame, encoded, expected):
    loaded = tf.saved_model.load(str(versions / "1"))
    answers = {
        "serving_default": loaded.signatures["serving_default"](image_bytes=tf.constant(encoded)),
        "explain": loaded.signatures["explain"](image_bytes=tf.constant(encoded)),
        "pixels": loaded.signatures["pixels"](images=tf.constant(pipeline.load_images(frame, 64))),
    }
    names = {name: sorted(said) for name, said in answers.items()}
    of_all = ["classes", "covid"]
    assert names == {
        "serving_default": of_all, "explain": ["boxes", *of_all, "scores"], "pixels": of_all
    }  # fmt: skip
    for said in answers.values():
        np.testing.assert_allclose(said["covid"], expected["covid"], atol=1e-5)
        np.testing.assert_allclose(said["classes"], expected["classes"], atol=1e-5)
    np.testing.assert_allclose(answers["explain"]["boxes"], expected["boxes"], atol=1e-6)
    np.testing.assert_allclose(answers["explain"]["scores"], expected["scores"], atol=1e-5)
    assert answers["explain"]["boxes"].shape == (len(frame), 3, 4)
    found = loaded.signatures["card"](query=tf.constant([b""]))["card"].numpy()[0]
    assert json.loads(found)["classes"] == list(CLASSES)
    assert saved_model_card(versions / "1").export.fitness == "fit"
    described = saved_model.describe(versions / "1")[1]
    assert described.endswith(
        "-> boxes float32 [B, 3, 4], classes float32 [B, 2], covid float32 [B], scores float32 [B, 3]"
    )


def test_a_plain_trunk_explains_nothing(run, tmp_path):
    """It need not be trained: a network of random weights has answers of its own."""
    keras.utils.set_random_seed(1)
    model = origin.initial_model(dataclasses.replace(run.config, model="trunk", image_size=32))
    card = dataclasses.replace(run.card, task="trunk", image_size=32, temperature=1.0)
    trunk = dataclasses.replace(run, card=card)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    network = signatures.answering_model(model)
    probabilities, explanation = signatures.answered(network, 1.0, tf.cast(images, tf.float32))
    expected = model.predict(images.astype(np.float32), verbose=0)
    assert np.ptp(expected["covid"]) > 1e-3
    assert explanation == {}
    np.testing.assert_allclose(probabilities["covid"], expected["covid"][:, 0], atol=1e-5)
    np.testing.assert_allclose(probabilities["classes"], expected["classes"], atol=1e-5)
    path = tmp_path / "float32.tflite"
    converted = convert(model, 1.0, ["float32"], np.empty(0))["float32"]
    path.write_bytes(with_card(converted, tflite.card_for(trunk, "float32", converted)))
    answer = EdgePredictor(path, allow_unfit=True).ask(images[0])
    assert list(answer.classes) == list(CLASSES)
    assert list(answer.classes.values()) == pytest.approx(expected["classes"][0].tolist(), abs=1e-5)
    assert (answer.boxes, answer.scores, answer.maps, answer.lesions) == (None, None, None, {})


@pytest.mark.parametrize(("form", "bound"), [("float32", 1e-5), ("float16", 1e-3)])
def test_a_tflite_file_answers_as_the_keras_model(edge_folder, encoded, expected, form, bound):
    predictor = EdgePredictor(edge_folder / f"{form}.tflite", check=False)
    assert (predictor.card.task, predictor.card.export.fitness) == ("drenet", "fit")
    answers = predictor.predict(encoded)
    np.testing.assert_allclose([a.covid for a in answers], expected["covid"], atol=bound)
    np.testing.assert_allclose([list(a.classes.values()) for a in answers], expected["classes"], atol=bound)
    np.testing.assert_allclose([a.boxes for a in answers], expected["boxes"], atol=parity_regions.SAME_BOX)
    np.testing.assert_allclose([a.scores for a in answers], expected["scores"], atol=bound)


def test_tflite_needs_built_in_operators_alone(edge_folder):
    content = read_model(edge_folder / "float32.tflite")
    names = {op["op_name"] for op in Interpreter(model_content=content)._get_ops_details()}
    assert "TOPK_V2" in names
    assert not {name for name in names if name.startswith("Flex") or name.islower()}
    outputs = Interpreter(model_content=content).get_signature_runner("serving_default").get_output_details()
    assert {name: list(detail["shape"]) for name, detail in outputs.items()} == {
        "boxes": [1, 3, 4], "classes": [1, 2], "covid": [1], "scores": [1, 3]
    }  # fmt: skip


def test_the_report_shows_boxes_in_the_place_of_maps(edge_folder, frame):
    rows = json.loads((edge_folder / "parity.json").read_text())["artefacts"]
    assert [row["fitness"] for row in rows] == ["fit", "fit"]
    boxes = rows[0]["measured"]["encoded_bytes"]["boxes"]
    assert boxes == {"same": len(frame), "images": len(frame), "other_decisions": 0, "other_difference": 0.0}
    assert rows[0]["measured"]["classes"] == list(CLASSES)
    text = (edge_folder / "parity.md").read_text()
    assert "maps" not in text
    assert f"| {len(frame)}/{len(frame)} |" in text
    assert f"98 % of the images need the same boxes (0 of {len(frame)} images may have others)" in text


def test_models_with_classes_are_not_quantised(run, tmp_path):
    assert formats_of("efficientnet_b0", CLASSES) == ("float32", "float16")
    argv = ["tflite", f"--run={run.folder}", f"--out={tmp_path}"]
    with pytest.raises(
        ValueError, match=r"a drenet is not exported in int8: .*some of float32, float16$"
    ) as caught:
        tflite.main([*argv, "--formats=float32,int8"])
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"float32, float16 for tiny\. Received: 'int4'"):
        tflite.main([*argv, "--formats=int4"])


@pytest.fixture(scope="module")
def lungs_run(run, tmp_path_factory):
    """The same run, its settings and its card saying that it was shown the lungs alone."""
    folder = tmp_path_factory.mktemp("lungs") / "lungs"
    shutil.copytree(run.folder, folder)
    settings = folder / "config.flags"
    settings.write_text(settings.read_text().replace("--lungs=whole", "--lungs=extracted"))
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "lungs": "extracted"}))
    return runs.load_run(folder)


def test_a_graph_that_would_have_to_find_lungs_is_refused_before_any_work(lungs_run, tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "load_evidence", lambda *_: pytest.fail("the evidence was read"))
    out = tmp_path / "models"
    with pytest.raises(ValueError, match=r"shown the lungs alone, and a SavedModel cannot look for them: export"):
        saved_model.main(["saved_model", f"--run={lungs_run.folder}", f"--out={out}"])
    assert not out.exists()


def test_a_model_of_lungs_is_compared_on_lungs(lungs_run, edge_folder, frame, tmp_path):
    """The gate's two columns must agree: what the run saw, and what the edge predictor makes of the file."""
    given = load_evidence(lungs_run)
    left = given.sample.data["images"]
    assert 0 < left <= len(frame)
    model = read_model(edge_folder / "float32.tflite")
    path = tmp_path / "float32.tflite"
    path.write_bytes(with_card(model, tflite.card_for(lungs_run, "float32", model)))
    comparison = compare(given, TFLiteArtefact(path))
    assert comparison.reasons == ()
    assert comparison.measured["encoded_bytes"]["boxes"]["same"] == left
    whole = pipeline.load_images(frame, 64)
    difference = np.abs(whole[:left].astype(int) - given.sample.pixels).mean()
    assert difference > 5  # lungs alone, cropped, are another picture


# The gate's rules, on numbers worked out by hand. 100 images, 50 with COVID-19, each with two boxes.

LABELS = np.repeat([1, 0], 50)
COVID = np.repeat([0.9, 0.1], 50)
BOXES = np.array([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0]])
OTHER = [0.25, 0.25, 0.75, 0.75]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(parity_columns, "RESAMPLES", 50)


def said(covid=COVID, **changes):
    covid = np.array(covid)
    fields = {
        "lesions": None,
        "maps": None,
        "classes": np.stack([covid, 1 - covid], axis=1),
        "boxes": np.tile(BOXES, (len(covid), 1, 1)),
        "scores": np.tile([0.9, 0.6, 0.4], (len(covid), 1)),
    }
    return dataclasses.replace(outputs(covid), **{**fields, **changes})


def moved(images, place, *, score=None, follows=None, covid=None, classes=None):
    """Answers in which some images have another box at a place, perhaps with another score and what follows."""
    found = said()
    found.boxes[images, place] = OTHER
    if score is not None:
        found.scores[images, place] = score
    if follows is not None:
        found.scores[images, place + 1 :] = follows
    if covid is not None:
        found.covid[images] = covid
    if classes is not None:
        found.classes[images] = classes
    return found


def compared(pixels, encoded=None, form="float32", reference=None):
    reference = said() if reference is None else reference
    card = export_card(form=form, task="drenet", classes=CLASSES)
    artefact = FakeArtefact(pixels, pixels if encoded is None else encoded, form=form, card=card)
    given = evidence(sample(LABELS, reference))
    given = dataclasses.replace(given, card=dataclasses.replace(given.card, task="drenet", classes=CLASSES))
    return compare(given, artefact)


def test_a_tie_that_flips_passes_and_is_reported():
    comparison = compared(moved([7], 1, score=0.6005, follows=0.1, covid=0.6))
    assert comparison.reasons == ()
    column = comparison.measured["same_pixels"]
    assert column["boxes"] == {
        "same": 99, "images": 100, "other_decisions": 0, "other_difference": pytest.approx(0.3)
    }  # fmt: skip
    assert column["probability_difference"] == column["covid_difference"] == {"largest": 0.0, "mean": 0.0}
    # 99 images with three scores that count and one with two, of which one differs.
    assert column["score_difference"] == pytest.approx({"largest": 0.0005, "mean": 0.0005 / 299})
    assert "map_difference" not in column
    text = parity_report.format_table([comparison])
    assert "99/100 (3.0e-01)" in text
    assert "maps" not in text


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (moved([1, 2, 3], 0), "3 of 100 images have other boxes than the run's own model, at most 2 may"),
        (moved([1], 2, score=0.3), "scores of boxes differ by up to 0.1, allowed are 0.001"),
        (moved([1], 0, covid=0.4), "1 of the 1 images with other boxes are decided otherwise"),
        (moved([1, 2], 0, classes=[0.4, 0.6]), "2 of the 2 images with other boxes are decided otherwise"),
        (said(scores=said().scores - 0.002), "scores of boxes differ by up to 0.002, allowed are 0.001"),
        (said(classes=said().classes[:, ::-1]), "probabilities differ by up to 0.8, allowed are 0.001"),
        (said(COVID - 0.002), "probabilities differ by up to 0.002, allowed are 0.001"),
        (said(boxes=None), "it has no boxes"),
        (said(scores=said().scores + 0.2), "its scores are no probabilities: from 0.6 to 1.1"),
        (said(boxes=said().boxes[:, :2]), "its boxes have the shape (100, 2, 4), expected (100, 3, 4)"),
        (said(maps=np.zeros((100, 1, 2, 1))), "it has maps, which the run's model has not"),
    ],
)
def test_what_is_wrong_with_boxes_and_classes_makes_unfit(pixels, words):
    comparison = compared(pixels)
    assert comparison.fitness == "unfit"
    assert comparison.reasons[0].startswith(f"same pixels: {words}")


def test_the_likeliest_class_is_a_decision_of_all_images():
    """Three images in whose softmax bacterial and normal change places within the tolerance."""
    classes = np.tile([0.0, 0.5004, 0.4996], (100, 1))
    reference, other = said(classes=classes), said(classes=classes.copy())
    other.classes[[4, 60, 61]] = [0.0, 0.4997, 0.5003]
    other.covid[60] = 0.5
    reference.covid[60] = 0.4995  # counts once, though both of its decisions are others
    comparison = compared(other, reference=reference)
    assert comparison.reasons == ()
    column = comparison.measured["same_pixels"]
    assert column["agreement"] == {"agreeing": 97, "images": 100}
    assert (column["boxes"]["same"], column["boxes"]["other_decisions"]) == (100, 0)


def test_tolerances_follow_the_format_and_the_bytes():
    scores = said(scores=said().scores - 0.004)
    assert compared(scores, form="float16").reasons == ()
    found = compared(said(), said(scores=said().scores - 0.0029), form="saved_model")
    assert found.reasons == ()
    found = compared(said(), said(scores=said().scores - 0.0031), form="saved_model")
    assert found.reasons == ("encoded bytes: scores of boxes differ by up to 0.0031, allowed are 0.003",)
    half_a_pixel = said(boxes=said().boxes + 0.0009)
    assert compared(half_a_pixel).reasons == ()


def test_a_trunk_has_no_boxes_to_compare():
    fields = {"boxes": None, "scores": None}
    comparison = compared(said(**fields), reference=said(**fields))
    assert comparison.reasons == ()
    assert "boxes" not in comparison.measured["same_pixels"]
    text = parity_report.format_table([comparison])
    assert "boxes" not in text
    assert "maps" not in text


def test_beside_an_la_dnn_the_table_has_maps_and_boxes():
    reference = outputs(COVID)
    other = compare(evidence(sample(LABELS, reference)), FakeArtefact(reference, reference))
    both = parity_report.format_table([other, compared(said(), form="float16")])
    header = both.splitlines()[0]
    assert "maps: largest, mean" in header
    assert "same boxes" in header
    assert both.count("Allowed for ") == 2


def test_a_server_s_answers_are_those_of_the_model(versions, encoded, expected):
    pytest.importorskip("httpx")
    from serving.client import connect
    from serving.clients.output import record_of
    from serving.double.server import Double

    with Double({"drenet": versions}) as double, connect(double.rest_url, model="drenet", check=False) as client:
        explained = client.predict(encoded[:3], explain=True)
        plain = client.predict(encoded[:1])[0]
    np.testing.assert_allclose([a.covid for a in explained], expected["covid"][:3], atol=1e-5)
    np.testing.assert_allclose([list(a.classes.values()) for a in explained], expected["classes"][:3], atol=1e-5)
    np.testing.assert_allclose([a.boxes for a in explained], expected["boxes"][:3], atol=1e-6)
    np.testing.assert_allclose([a.scores for a in explained], expected["scores"][:3], atol=1e-5)
    assert (plain.boxes, plain.scores, plain.maps) == (None, None, None)
    assert record_of("a.png", plain)["classes"] == plain.classes
