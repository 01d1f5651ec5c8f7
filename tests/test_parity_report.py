"""The gate's report, and how real TFLite results and SavedModels become arrays."""

import dataclasses
import json
import shlex

import numpy as np
import pytest
import tensorflow as tf
import tiny_tflite
from parity_fakes import FakeArtefact, evidence, export_card, outputs, run_card, sample

from export import artefacts, parity_columns, parity_report
from export.parity_compare import compare
from export.parity_tolerances import Tolerances
from ladnn_tf.answer import Answer
from ladnn_tf.card import Export, write_card
from ladnn_tf.data.preprocess import encode_png
from ladnn_tf.labels import LESIONS
from ladnn_tf.tflite_file import with_card

COVID = np.repeat([0.9, 0.8, 0.2, 0.1], 25)
LABELS = np.repeat([1, 0], 50)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(parity_columns, "RESAMPLES", 50)


def compared(form, covid=COVID, images=None, tolerances=None, **options):
    images = images or sample(LABELS, outputs(COVID))
    answers = outputs(covid)
    artefact = FakeArtefact(answers, answers, form=form, card=export_card(form.encode(), form), **options)
    return compare(evidence(images), artefact, tolerances)


def write(folder, comparisons, images=None):
    for each in comparisons:
        if each.fitness == "fit":
            model = each.measured["format"].encode()
            (folder / each.name).write_bytes(with_card(model, each.card))
    return parity_report.write_report(
        folder, "parity", comparisons, evidence(images or sample(LABELS, outputs(COVID)))
    )


def test_the_report_names_data_command_and_verdicts(tmp_path):
    comparisons = [compared("int8", np.repeat([0.8, 0.2, 0.9, 0.1], 25)), compared("float32", COVID - 0.0004)]
    document, markdown = write(tmp_path, comparisons)
    content = json.loads(document.read_text())
    assert content["run"]["model_sha256"] == "a" * 64
    assert (content["data"]["images"], content["data"]["positives"], content["data"]["split"]) == (100, 50, "test")
    assert content["command"] == f"python -m export.parity --run=runs/fake --split=test --tflite={tmp_path}"
    float32, int8 = content["artefacts"]
    assert (float32["fitness"], float32["in_place"]) == ("fit", True)
    assert (int8["fitness"], int8["in_place"]) == ("unfit", False)
    assert int8["measured"]["tolerances"]["agreement"] == 0.98
    assert "tensorflow" in " ".join(int8["measured"]["versions"])

    text = markdown.read_text()
    assert "100 images (50 with COVID-19, 100 patients), all of the test split of x.csv" in text
    assert content["command"] in text
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("|")}
    assert "| 1.50 | same pixels | 4.0e-04, 6.7e-05 | 4.0e-04, 4.0e-04 |" in lines["float32.tflite"]
    assert "| 100/100 | 1.0000 -> 1.0000 | +0.0000 | +0.0000 |" in lines["float32.tflite"]
    assert lines["float32.tflite"].endswith("| fit |")
    # Positives 0.8 and 0.2, negatives 0.9 and 0.1: two of four pairs are right.
    assert "| 50/100 | 1.0000 -> 0.5000 | +0.5000 [" in lines["int8.tflite"]
    assert lines["int8.tflite"].endswith("| unfit, not kept |")
    assert "int8.tflite: same pixels: 50 of 100 decisions differ, at most 2 may" in text
    assert "2 of 100 decisions may differ" in text
    assert "benchmarks.inference" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_what_was_not_measured_this_time_stays_while_it_lies_there(tmp_path):
    write(tmp_path, [compared("float32"), compared("float16"), compared("dynamic")])
    (tmp_path / "float16.tflite").unlink()
    changed = export_card(b"another dynamic", "dynamic")
    (tmp_path / "dynamic.tflite").write_bytes(with_card(b"another dynamic", changed))
    other = sample(LABELS, outputs(COVID), patients=["p", "p", *map(str, range(98))])
    document, markdown = write(tmp_path, [compared("int8", images=other)], other)
    rows = json.loads(document.read_text())["artefacts"]
    assert [row["name"] for row in rows] == ["float32.tflite", "int8.tflite"]
    text = markdown.read_text()
    assert "float32.tflite was measured earlier, on 100 images (50 with COVID-19, 100 patients)" in text
    assert "int8.tflite was measured earlier" not in text
    assert text.count("Allowed: ") == 1

    stricter = compared("float32", COVID - 0.0004, tolerances=Tolerances(float32=5e-4))
    document, markdown = write(tmp_path, [stricter])
    text = markdown.read_text()
    assert "Allowed for float32.tflite: probabilities may differ by 0.0005 (" in text
    assert "Allowed for int8.tflite: probabilities may differ by 0.001 (" in text
    rows = json.loads(document.read_text())["artefacts"]
    assert [row["name"] for row in rows] == ["float32.tflite", "int8.tflite"]
    assert rows[0]["measured"]["same_pixels"]["covid_difference"]["largest"] == pytest.approx(0.0004)


def test_a_saved_model_is_named_by_its_version(tmp_path):
    unfit = compared("saved_model", COVID - 0.1, name="7")
    text = parity_report.format_table([unfit])
    assert "\nsaved_model 7  " in text
    assert "unfit: saved_model 7: same pixels: probabilities differ by up to 0.1, allowed are 0.001" in text
    document, markdown = parity_report.write_report(
        tmp_path, "parity_7", [unfit], evidence(sample(LABELS, outputs(COVID)))
    )
    assert document.name == "parity_7.json"
    assert json.loads(document.read_text())["command"] == ""
    assert "Nothing of it was kept." in markdown.read_text()


def test_the_command_measures_what_lies_there_as_it_was_measured(tmp_path, monkeypatch):
    given = evidence(sample(LABELS, outputs(COVID)))
    monkeypatch.setattr(parity_report, "in_place", lambda *_: True)
    folder = tmp_path / "an edge"
    folder.mkdir()

    def command(*comparisons):
        document, _ = parity_report.write_report(folder, "parity", comparisons, given)
        (folder / "parity.md").unlink()
        content = json.loads(document.read_text())["command"]
        document.unlink()
        start = "python -m export.parity --run=runs/fake --split=test "
        assert content.startswith(start)
        return shlex.split(content.removeprefix(start))

    assert command(compared("saved_model", name="7")) == [f"--saved_model={folder}/7"]
    for name in ("float32.tflite", "int8.tflite"):
        (folder / name).write_bytes(b"")
    both = compared("float32"), compared("int8")
    assert command(*both) == [f"--tflite={folder}"]
    (folder / "other.tflite").write_bytes(b"")
    assert command(*both) == [f"--tflite={folder}/float32.tflite,{folder}/int8.tflite"]
    loose = compared("float32", COVID - 0.1, tolerances=Tolerances(float32=0.05, maps=0.5))
    assert command(loose) == [
        f"--tflite={folder}/float32.tflite", "--tolerance_float32=0.05", "--tolerance_maps=0.5", "--keep_failed",
    ]  # fmt: skip


def test_an_older_file_in_the_place_of_a_refused_one_stays_in_the_report(tmp_path):
    write(tmp_path, [compared("int8")])
    card = export_card(b"new", "int8")
    refused = dataclasses.replace(compared("int8", COVID[::-1]), card=card)
    for _ in range(2):  # it stays, once
        document, markdown = write(tmp_path, [refused])
        rows = json.loads(document.read_text())["artefacts"]
        assert [(row["fitness"], row["older"], row["in_place"]) for row in rows] == [
            ("unfit", False, False),
            ("fit", True, True),
        ]
    text = markdown.read_text()
    assert "| int8.tflite (older) | 1.50 |" in text
    assert "int8.tflite (older) was measured earlier" in text
    document, _ = write(tmp_path, [compared("float32")])
    rows = json.loads(document.read_text())["artefacts"]
    assert [(row["name"], row["older"]) for row in rows] == [("float32.tflite", False), ("int8.tflite", False)]


def test_rows_that_were_judged_by_other_rules_are_left_out(tmp_path):
    document, _ = write(tmp_path, [compared("float32")])
    content = json.loads(document.read_text())
    del content["artefacts"][0]["measured"]["tolerances"]["maps"]
    document.write_text(json.dumps(content))
    document, _ = write(tmp_path, [compared("int8")])
    assert [row["name"] for row in json.loads(document.read_text())["artefacts"]] == ["int8.tflite"]


def test_a_damaged_report_is_an_error(tmp_path):
    (tmp_path / "parity.json").write_text("{}")
    with pytest.raises(ValueError, match=r"parity\.json is no report of the gate"):
        write(tmp_path, [compared("float32")])


def test_phantoms_and_outputs_without_numbers_are_in_the_table():
    half = sample(np.repeat([1, 0, 1, 0], 25), outputs(COVID))  # AUC 0.75: enough
    assert "phantoms" not in parity_report.format_table([compared("int8", images=half)])
    low = outputs(COVID[::-1])
    drawn = sample(LABELS, outputs(COVID), phantoms={"patients": 9, "size": 64, "seed": 1})
    good, broken = outputs(COVID), outputs([np.nan, *COVID[1:]])
    artefact = FakeArtefact(low, broken, good, good, form="int8")
    comparison = compare(evidence(sample(LABELS, low), drawn), artefact)
    text = parity_report.format_table([comparison])
    lines = text.splitlines()
    assert [" ".join(line.split()) for line in lines[2:5]] == [
        "encoded bytes n/a n/a n/a n/a n/a n/a n/a",
        "phantoms, same pixels 1.0000 -> 1.0000 +0.0000 +0.0000",
        "phantoms, encoded bytes 1.0000 -> 1.0000 +0.0000 +0.0000",
    ]
    assert "judged on 100 phantoms (50 with COVID-19, 100 patients; 64 px, seed 1)" in text
    assert "unfit: int8.tflite: encoded bytes: its covid are not finite for 1 of 100 images" in text


@pytest.mark.parametrize(
    ("positives", "said"),
    [
        (50, "by the run's own decisions on the images, the AUC by which its probabilities tell them (of the "
             "run itself 1): same pixels 1.0000, encoded bytes 1.0000."),
        (5, "the loss of AUC could not be judged."),
    ],
)  # fmt: skip
def test_what_else_the_loss_was_judged_on_is_said(positives, said):
    low = outputs(np.where(np.arange(100) < positives, 0.8, 0.2))
    drawn = sample(LABELS, outputs(COVID[::-1]), phantoms={"patients": 9, "size": 64, "seed": 1})
    artefact = FakeArtefact(low, low, drawn.reference, drawn.reference, form="int8")
    comparison = compare(evidence(sample(1 - LABELS, low), drawn), artefact)
    (line,) = [line for line in parity_report.format_table([comparison]).splitlines() if "100 phantoms (" in line]
    assert line.endswith(said)
    assert "was judged on" not in line


def edge_result(covid, **fields):
    lesions = dict.fromkeys(LESIONS, 0.25) | {"CrPa": 0.75}
    given = {"covid": covid, "lesions": lesions, "maps": np.ones((1, 2, 6)), "error": "", "reason": ""}
    return Answer(run_card(), "0" * 64, **(given | fields))


def test_edge_results_become_arrays():
    nothing = {"lesions": {}, "maps": None, "error": "no finite number"}
    found = artefacts.edge_outputs([edge_result(0.2), edge_result(None, **nothing), edge_result(None, **nothing)])
    np.testing.assert_array_equal(found.covid, [0.2, np.nan, np.nan])
    np.testing.assert_array_equal(found.lesions[0], [0.25, 0.25, 0.75, 0.25, 0.25])
    assert found.maps.shape == (3, 1, 2, 6)
    assert np.isnan(found.maps[1:]).all()
    assert np.isnan(found.lesions[1:]).all()
    assert found.problems == ("2 of 3 images got no answer, the first (number 1): no finite number",)
    assert artefacts.edge_outputs([edge_result(0.2)]).problems == ()
    baseline = artefacts.edge_outputs([edge_result(0.2, lesions={}, maps=None)])
    assert (baseline.lesions, baseline.maps) == (None, None)


def test_a_tflite_file_answers_through_the_edge_predictor(tmp_path, caplog):
    model = tiny_tflite.model_bytes()
    card = tiny_tflite.card_of(model, export=Export("int8", "a" * 64))
    path = tmp_path / "int8.tflite"
    path.write_bytes(with_card(model, card))
    artefact = artefacts.TFLiteArtefact(path)
    assert (artefact.name, artefact.format, artefact.size) == ("int8.tflite", "int8", path.stat().st_size)
    assert caplog.text == ""  # it is not measured yet: that is no news here

    images = np.zeros((2, 32, 32, 3), np.uint8)
    images[0, ..., 0], images[1, ..., 1] = 255, 255  # red and green: no slices, and yet answered
    found = artefact.from_pixels(images)
    np.testing.assert_allclose(found.covid, 1 / (1 + np.exp([-2.0, 2.0])), atol=1e-5)
    np.testing.assert_allclose(found.lesions[1], 1 / (1 + np.exp([-3, -2, -1, 0, 1])), atol=1e-5)
    np.testing.assert_allclose(found.maps[:, 0, 0], [[1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1]], atol=1e-6)
    encoded = [encode_png(image) for image in images]
    np.testing.assert_array_equal(artefact.from_bytes(encoded).lesions, found.lesions)
    artefact.answer(encoded[0])
    images[1] = 0
    assert "1 of 2 images got no answer, the first (number 1)" in artefact.from_pixels(images).problems[0]


def test_a_tflite_file_that_the_edge_predictor_does_not_take_is_unfit(tmp_path):
    model = tiny_tflite.model_bytes(maps="cards")
    path = tmp_path / "int8.tflite"
    path.write_bytes(with_card(model, tiny_tflite.card_of(model, export=Export("int8", "a" * 64))))
    artefact = artefacts.TFLiteArtefact(path)
    images = sample(LABELS, outputs(COVID))
    comparison = compare(dataclasses.replace(evidence(images), card=run_card(image_size=32)), artefact)
    assert comparison.fitness == "unfit"
    for title, reason in zip(("same pixels", "encoded bytes"), comparison.reasons, strict=True):
        assert reason.startswith(f"{title}: the edge predictor does not take it: {path}")
    path.write_bytes(b"no model")
    with pytest.raises(ValueError, match="not a TFLite model"):
        artefacts.TFLiteArtefact(path)


class Grey(tf.Module):
    """Says the mean grey of an image; `shift` makes `explain` contradict the others."""

    def __init__(self):
        super().__init__()
        self.shift = tf.Variable(0.0)

    def heads(self, images):
        grey = tf.reduce_mean(tf.cast(images, tf.float32), (1, 2, 3)) / 255.0
        return {"covid": grey, "lesions": tf.repeat(grey[:, None], 5, axis=1) / 2}

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def pixels(self, images):
        return self.heads(images)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def answer(self, image_bytes):
        return self.heads(self.decoded(image_bytes))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def explain(self, image_bytes):
        images = self.decoded(image_bytes)
        heads = self.heads(images)
        maps = tf.repeat(tf.cast(images[..., :1], tf.float32), 6, axis=3)
        return {**heads, "covid": heads["covid"] + self.shift, "maps": maps}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def card(self, query):
        return {"card": query}

    def decoded(self, image_bytes):
        spec = tf.TensorSpec([4, 4, 3], tf.uint8)
        return tf.map_fn(lambda encoded: tf.io.decode_png(encoded, 3), image_bytes, fn_output_signature=spec)


def save(folder, module, **signatures):
    tf.saved_model.save(module, str(folder), signatures)
    found = artefacts.saved_model_sha256(folder)
    card = dataclasses.replace(export_card(form="saved_model"), model_sha256=found)
    write_card(card, artefacts.card_path(folder))
    return folder


def test_a_saved_model_answers_by_its_signatures(tmp_path):
    module = Grey()
    answers = {"serving_default": module.answer, "explain": module.explain, "pixels": module.pixels}
    save(tmp_path / "3", module, **answers, card=module.card)
    artefact = artefacts.SavedModelArtefact(tmp_path / "3", "12")
    assert (artefact.name, artefact.format) == ("12", "saved_model")
    assert artefact.size == sum(path.stat().st_size for path in (tmp_path / "3").rglob("*") if path.is_file())
    images = np.repeat(np.arange(11, dtype=np.uint8) * 20, 48).reshape(11, 4, 4, 3)  # more than a batch
    found = artefact.from_pixels(images)
    np.testing.assert_allclose(found.covid, np.arange(11) * 20 / 255, rtol=1e-6)
    np.testing.assert_allclose(found.lesions[:, 4], np.arange(11) * 10 / 255, rtol=1e-6)
    np.testing.assert_array_equal(found.maps[:, 3, 3, 5], np.arange(11) * 20)
    assert found.problems == ()

    encoded = [encode_png(image) for image in images]
    np.testing.assert_array_equal(artefact.from_bytes(encoded).covid, found.covid)
    artefact.answer(encoded[0])
    broken = artefact.from_bytes([*encoded[:2], b"no image"])
    assert np.isnan(broken.covid).all()
    assert broken.problems[0].startswith("it failed: ")

    artefact._model.shift.assign(0.01)
    found = artefact.from_pixels(images[:2])
    assert found.problems == ("the signatures pixels and explain give another covid for the same images",)
    assert found.covid == pytest.approx([0.0, 20 / 255])


def test_a_saved_model_without_a_signature_is_an_error(tmp_path):
    module = Grey()
    save(tmp_path / "3", module, pixels=module.pixels)
    with pytest.raises(ValueError, match="3 has no signature serving_default, explain, card; export"):
        artefacts.SavedModelArtefact(tmp_path / "3")
