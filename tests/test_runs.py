"""Run folders and model cards: what is read back, and what is refused."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from ladnn_tf import card, files, runs
from ladnn_tf.data.manifest import read_manifest


@pytest.fixture
def run_copy(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run")


def test_card_round_trip(run_copy):
    read = runs.load_run(run_copy).card
    card.write_card(read, run_copy / "again.json")
    assert card.read_card(run_copy / "again.json", run_copy / "model.keras") == read
    assert not list(run_copy.glob("*.part"))
    assert not list(run_copy.glob(".*"))


def test_the_card_of_an_older_run_gets_what_its_settings_know(run_copy):
    path = run_copy / "card.json"
    fields = json.loads(path.read_text())
    assert fields.pop("lesion_targets") == "positives"
    path.write_text(json.dumps(fields))
    assert runs.load_run(run_copy).card.lesion_targets == "positives"


def test_another_model_beside_the_card_is_refused(run_copy):
    with (run_copy / "model.keras").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="belongs to another model: it expects SHA-256"):
        runs.load_run(run_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "card format 99"),
        ({"task": "segmentation"}, "task should be one of"),
        ({"temperature": 0.0}, "temperature should be above 0"),
        ({"labels": ["covid", "Csld", "GGO", "CrPa", "AirBr", "InSepThi"]}, "labels should be covid, GGO"),
        ({"image_size": "96"}, "image_size should be a number of pixels"),
        ({"threshold": 1.5}, "threshold should be a probability"),
        ({"surprise": 1}, "not a model card of this version: .*surprise"),
    ],
)
def test_a_wrong_card_is_refused_with_its_reason(run_copy, change, message):
    path = run_copy / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        runs.load_run(run_copy)


@pytest.mark.parametrize(("field", "other"), [("task", "baseline"), ("backbone", "resnet18"), ("image_size", 224)])
def test_files_of_another_run_in_the_folder_are_refused(run_copy, field, other):
    config = (run_copy / "config.flags").read_text()
    own = getattr(runs.load_run(run_copy).config, field)
    (run_copy / "config.flags").write_text(config.replace(f"--{field}={own}\n", f"--{field}={other}\n"))
    message = f"{run_copy} holds files of two runs: its card.json has {field}={own}, .* --{field}={other};"
    with pytest.raises(ValueError, match=message):
        runs.load_run(run_copy)


@pytest.mark.parametrize("manifest", [{}, {"file": "a.csv"}, {"file": "a.csv", "sha256": None}, ["sha256"]])
def test_a_card_that_does_not_name_its_manifest_is_refused(run_copy, manifest):
    path = run_copy / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"manifest": manifest}))
    with pytest.raises(ValueError, match=r"card\.json is damaged: its manifest should have a file and a sha256"):
        runs.load_run(run_copy)


def test_a_damaged_card_and_a_missing_model_are_named(run_copy):
    (run_copy / "card.json").write_text('{"name": ')
    with pytest.raises(ValueError, match=r"card\.json is not a model card"):
        runs.load_run(run_copy)
    with pytest.raises(ValueError, match="there is no model card"):
        card.read_card(run_copy / "nowhere.json", run_copy / "model.keras")
    with pytest.raises(ValueError, match="cannot be read"):
        files.file_sha256(run_copy / "nowhere.keras")
    (run_copy / "model.keras").unlink()
    with pytest.raises(ValueError, match=r"not a finished run: there is no model\.keras"):
        runs.load_run(run_copy)


def test_predictions_round_trip_keeps_unknown_lesions_and_logits(tiny_run, tmp_path):
    table = runs.read_predictions(tiny_run, "validation")
    runs.write_predictions(tmp_path, "validation", table)
    again = runs.read_predictions(tmp_path, "validation")
    assert again.equals(table)
    assert table.loc[table["covid"] == 0, "GGO"].isna().all()
    assert set(table["sex"]) <= {"", "M", "F"}
    with pytest.raises(ValueError, match=r"no .*predictions_test\.csv; make it by"):
        runs.read_predictions(tmp_path, "test")


def test_probabilities_are_calibrated_for_the_diagnosis_alone(tiny_run):
    table = runs.read_predictions(tiny_run, "validation")
    temperature = runs.load_run(tiny_run).card.temperature
    expected = 1 / (1 + np.exp(-table["covid_logit"] / temperature))
    np.testing.assert_allclose(table["covid_probability"], expected, atol=1e-6)
    np.testing.assert_allclose(table["GGO_probability"], 1 / (1 + np.exp(-table["GGO_logit"])), atol=1e-6)


def test_predicting_a_split_again_gives_the_same(tiny_run, phantom_manifest):
    table = runs.predict_split(runs.load_run(tiny_run), phantom_manifest, "validation")
    before = runs.read_predictions(tiny_run, "validation")
    assert table["image"].tolist() == before["image"].tolist()
    np.testing.assert_allclose(table["covid_logit"], before["covid_logit"], atol=1e-4)


def test_the_predictions_rows_are_the_manifest_s(phantom_manifest):
    frame = read_manifest(phantom_manifest).iloc[:3]
    logits = {"covid": np.array([[0.0], [2.0], [-2.0]]), "lesions": np.zeros((3, 5))}
    table = runs.predictions_table(frame, logits, temperature=2.0)
    assert table["image"].tolist() == frame["image"].tolist()
    np.testing.assert_allclose(table["covid_probability"], [0.5, 0.7310586, 0.2689414], atol=1e-6)
    assert table["InSepThi_probability"].tolist() == [0.5] * 3
    baseline = runs.predictions_table(frame, {"covid": logits["covid"]}, temperature=1.0)
    assert "GGO_logit" not in baseline
    assert "GGO" in baseline


def test_looks_at_a_split_are_counted(run_copy):
    run = runs.load_run(run_copy)
    for _ in range(2):
        runs.count_look(run, "test")
    written = json.loads((run_copy / "metrics.json").read_text())
    assert written["looks"] == {"test": 2}
    assert "covid" in written["validation"]


def test_a_run_knows_its_own_data(run_copy, phantom_manifest, tmp_path):
    run = runs.load_run(run_copy)
    other = tmp_path / "other.csv"
    other.write_bytes(phantom_manifest.read_bytes() + b"\n")
    assert runs.is_own(run, phantom_manifest)
    assert not runs.is_own(run, other)
    with pytest.raises(ValueError, match="cannot be read"):
        runs.is_own(run, tmp_path / "no.csv")


def test_figures_of_two_models_are_not_mixed(tmp_path):
    runs.write_metrics(tmp_path, "test", {"auc": 0.5}, "aaaa")
    runs.write_metrics(tmp_path, "validation", {"auc": 0.6}, "aaaa")
    with pytest.raises(ValueError, match="figures of another model"):
        runs.write_metrics(tmp_path, "test", {"auc": 0.7}, "bbbb")
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert (written["test"], written["validation"]) == ({"auc": 0.5}, {"auc": 0.6})


def test_the_card_says_with_what_it_was_made(tiny_run):
    read = runs.load_run(tiny_run).card
    assert read.versions["keras"].startswith("3.")
    assert read.versions["python"].startswith("3.")
    assert read.normalisation["mean"] == pytest.approx([123.675, 116.28, 103.53], abs=1e-3)
    assert dataclasses.asdict(read)["metrics"]["validation"]["covid"]["auc"]["value"] is not None


def test_without_git_there_is_no_revision(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert runs.git_revision() == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("--xla=false\n", ""), r"--xla is missing; it was written by another version"),
        (lambda text: text + "--optimiser=sgd\n", r"Unknown command line flag 'optimiser'.*another version"),
        (lambda text: text + "sgd\n", r"'sgd' is no flag; it was written by another version"),
    ],
    ids=["missing", "unknown", "no flag"],
)
def test_a_run_of_another_version_is_named_as_such(run_copy, change, message):
    path = run_copy / "config.flags"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        runs.load_run(run_copy)


def test_an_old_card_is_named_as_such(run_copy):
    path = run_copy / "card.json"
    fields = json.loads(path.read_text())
    del fields["weights_sha256"]
    path.write_text(json.dumps({**fields, "format": 1}))
    with pytest.raises(
        ValueError, match="card format 1 is not read by this version, which reads 2; the run was made"
    ):
        runs.load_run(run_copy)
