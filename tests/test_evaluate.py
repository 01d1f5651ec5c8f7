"""The command that evaluates a run."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score

from ladnn_tf import evaluate, person, runs
from ladnn_tf.card import PersonRule, write_card


@pytest.fixture
def run_copy(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run")


def test_it_prints_and_writes_the_test_split(run_copy, capsys):
    arguments = [f"--run={run_copy}", "--split=test", "--prevalence=0.05", "--resamples=200"]
    assert evaluate.main(["evaluate", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "PPV at prevalence 5 %" in printed
    assert "crazy paving (CrPa)" in printed
    table = runs.read_predictions(run_copy, "test")
    written = json.loads((run_copy / "metrics.json").read_text())
    assert set(written) == {"model_sha256", "looks", "validation", "test"}
    assert written["looks"] == {"test": 1}
    auc = written["test"]["covid"]["auc"]["value"]
    assert auc == pytest.approx(roc_auc_score(table["covid"], table["covid_probability"]), abs=1e-12)
    assert f"{auc:.3f} [" in printed
    card = runs.load_run(run_copy).card
    assert card.metrics["test"]["covid"]["auc"]["value"] == auc
    assert set(card.metrics) == {"validation", "test"}


def test_another_target_sensitivity_moves_the_threshold_but_not_the_card(run_copy):
    run = runs.load_run(run_copy)
    threshold, rule = evaluate.operating_point(run, 0.5)
    assert threshold > run.card.threshold
    assert "0.5 on validation" in rule
    assert evaluate.operating_point(run, None) == (run.card.threshold, run.card.threshold_rule)


def test_persons_are_evaluated_by_the_card_s_rule(run_copy, capsys):
    card = runs.load_run(run_copy).card
    rule = PersonRule("top_k_mean", 0.3, "highest three, by hand", patients=12, positives=6)
    write_card(dataclasses.replace(card, person=rule), run_copy / "card.json")
    assert evaluate.main(["evaluate", f"--run={run_copy}", "--split=test", "--resamples=100"]) == 0
    assert "Persons at 0.3000: highest three, by hand." in capsys.readouterr().out
    written = json.loads((run_copy / "metrics.json").read_text())["test"]["persons"]
    table = runs.read_predictions(run_copy, "test")
    _, labels, values = person.by_person(
        table["patient"], table["covid"], table["covid_probability"], "top_k_mean"
    )
    assert (written["patients"], written["positives"]) == (len(labels), labels.sum())
    assert written["covid"]["auc"]["value"] == pytest.approx(roc_auc_score(labels, values), abs=1e-12)
    assert written["covid"]["at_threshold"]["confusion"]["tp"] == np.sum((values >= 0.3) & (labels == 1))


def test_a_card_without_a_rule_for_persons_takes_the_mean_and_says_so(run_copy, capsys):
    card = dataclasses.replace(runs.load_run(run_copy).card, person=None)
    write_card(card, run_copy / "card.json")
    assert evaluate.main(["evaluate", f"--run={run_copy}", "--split=test", "--resamples=100"]) == 0
    printed = capsys.readouterr().out
    assert f"Persons at {card.threshold:.4f}: no rule for persons was chosen" in printed
    assert printed.splitlines()[-1].endswith("metrics.json, " + str(run_copy / "card.json"))
    written = json.loads((run_copy / "metrics.json").read_text())["test"]["persons"]
    assert (written["aggregation"], written["chosen"]) == ("mean", False)
    assert written["covid"]["at_threshold"]["threshold"] == card.threshold


def test_the_card_is_named_where_it_was_written(run_copy, tmp_path, capsys):
    """A card without a rule for persons gets one from validation."""
    write_card(dataclasses.replace(runs.load_run(run_copy).card, person=None), run_copy / "card.json")

    def last_line(*arguments):
        before = (run_copy / "card.json").read_bytes()
        arguments = [f"--run={run_copy}", "--split=validation", "--resamples=100", *arguments]
        assert evaluate.main(["evaluate", *arguments]) == 0
        line = capsys.readouterr().out.splitlines()[-1]
        assert ("card.json" in line) == ((run_copy / "card.json").read_bytes() != before)
        return line

    assert last_line(f"--out={tmp_path / 'out'}").endswith("metrics.json")
    assert last_line("--target_sensitivity=0.5").endswith("metrics.json")
    assert last_line().endswith(f"{run_copy / 'card.json'} (now with a rule for persons)")
    assert runs.load_run(run_copy).card.person


def test_a_run_with_classes_is_evaluated_by_class(tiny_trunk_run, tmp_path, capsys):
    folder = shutil.copytree(tiny_trunk_run, tmp_path / "trunk")
    assert evaluate.main(["evaluate", f"--run={folder}", "--split=test", "--resamples=100"]) == 0
    assert "Classes, by the highest probability: " in capsys.readouterr().out
    table = runs.read_predictions(folder, "test")
    written = json.loads((folder / "metrics.json").read_text())["test"]["classes"]
    names = written["names"]
    assert tuple(names) == runs.load_run(folder).card.classes
    called = table[[f"{name}_probability" for name in names]].to_numpy().argmax(axis=1)
    expected = confusion_matrix(table["diagnosis"], np.array(names)[called], labels=names)
    assert written["slices"]["confusion"] == expected.tolist()
    assert sum(map(sum, written["persons"]["confusion"])) == table["patient"].nunique()


def test_another_target_sensitivity_chooses_the_rule_for_persons_anew(run_copy):
    run = runs.load_run(run_copy)
    table = runs.read_predictions(run_copy, "validation")
    arguments = table["patient"], table["covid"], table["covid_probability"]
    found = evaluate.person_rule(run, 0.5)
    assert found == person.choose_rule(*arguments, 0.5)
    assert found.threshold > person.choose_rule(*arguments, 1.0).threshold
    assert evaluate.person_rule(run, None) == run.card.person


def test_an_override_is_kept_apart_from_the_card_s_own_figures(run_copy):
    before = (run_copy / "card.json").read_bytes()
    arguments = [f"--run={run_copy}", "--split=test", "--resamples=100"]
    assert evaluate.main(["evaluate", *arguments, "--target_sensitivity=0.5"]) == 0
    assert (run_copy / "card.json").read_bytes() == before
    written = json.loads((run_copy / "metrics.json").read_text())
    assert set(written) == {"model_sha256", "looks", "validation", "test, target sensitivity 0.5"}
    assert written["looks"] == {"test": 1}


def test_the_folder_of_another_run_is_not_written_into(run_copy, tiny_baseline_run, tmp_path):
    other = shutil.copytree(tiny_baseline_run, tmp_path / "other")
    with pytest.raises(ValueError, match="is another run"):
        evaluate.main(["evaluate", f"--run={run_copy}", f"--out={other}", "--split=validation"])


def test_what_cannot_work_is_said_before_the_prediction(run_copy, tiny_baseline_run):
    with pytest.raises(SystemExit):
        evaluate.main(["evaluate", f"--run={run_copy}", "--prevalence=1"])
    with pytest.raises(ValueError, match=r"no .*predictions_test\.csv"):
        evaluate.main(["evaluate", f"--run={run_copy}", f"--compare_run={tiny_baseline_run}"])
    assert not (run_copy / "predictions_test.csv").exists()


def test_other_data_needs_a_folder_of_its_own(run_copy, phantom_manifest, tmp_path):
    text = phantom_manifest.read_text().splitlines(keepends=True)
    other = phantom_manifest.parent / "other.csv"
    other.write_text("".join(line for line in text if "phantom-nodule" not in line))
    arguments = [f"--run={run_copy}", f"--manifest={other}", "--resamples=100"]
    with pytest.raises(ValueError, match=r"not the data .*give --out=FOLDER"):
        evaluate.main(["evaluate", *arguments])
    before = (run_copy / "card.json").read_bytes()
    assert evaluate.main(["evaluate", *arguments, f"--out={tmp_path / 'elsewhere'}"]) == 0
    assert (run_copy / "card.json").read_bytes() == before
    assert (tmp_path / "elsewhere" / "predictions_test.csv").is_file()
    assert not (run_copy / "predictions_test.csv").exists()


def test_before_and_after_on_a_site_s_data(run_copy, tiny_baseline_run, phantom_manifest, tmp_path, capsys):
    """The run before has never seen the site's data: it predicts them now, and its folder stays as it is."""
    lines = phantom_manifest.read_text().splitlines(keepends=True)
    site = phantom_manifest.parent / "site.csv"
    site.write_text("".join(line for line in lines if "phantom-nodule" not in line))
    before = sorted(path.name for path in tiny_baseline_run.rglob("*"))
    arguments = [f"--run={run_copy}", f"--compare_run={tiny_baseline_run}", f"--manifest={site}"]
    out = tmp_path / "site"
    assert evaluate.main(["evaluate", *arguments, "--resamples=100", f"--out={out}"]) == 0
    row = next(
        line
        for line in capsys.readouterr().out.split("against tiny_baseline")[1].splitlines()
        if line.startswith("AUC")
    )
    theirs = runs.predict_split(runs.load_run(tiny_baseline_run), site, "test")
    assert row.split()[2] == f"{roc_auc_score(theirs['covid'], theirs['covid_probability']):.3f}"
    assert sorted(path.name for path in tiny_baseline_run.rglob("*")) == before


def test_two_runs_side_by_side(run_copy, tiny_baseline_run, tmp_path, capsys):
    baseline = shutil.copytree(tiny_baseline_run, tmp_path / "baseline")
    quick = ["--resamples=100", "--split=test"]
    assert evaluate.main(["evaluate", f"--run={baseline}", *quick]) == 0
    assert "Lesions, over" not in capsys.readouterr().out
    assert evaluate.main(["evaluate", f"--run={run_copy}", f"--compare_run={baseline}", *quick]) == 0
    printed = capsys.readouterr().out
    assert "tiny against tiny_baseline" in printed
    tables = [runs.read_predictions(folder, "test") for folder in (run_copy, baseline)]
    aucs = [roc_auc_score(t["covid"], t["covid_probability"]) for t in tables]
    row = next(line for line in printed.split("against tiny_baseline")[1].splitlines() if line.startswith("AUC"))
    assert row.split()[1:3] == [f"{auc:.3f}" for auc in aucs]
    assert np.isfinite(aucs).all()
    written = json.loads((run_copy / "metrics.json").read_text())["test, against tiny_baseline"]
    assert written["metrics"]["auc"]["difference"] == pytest.approx(aucs[0] - aucs[1], abs=1e-12)


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"not a finished run: there is no config\.flags"):
        evaluate.main(["evaluate", f"--run={tmp_path}"])
