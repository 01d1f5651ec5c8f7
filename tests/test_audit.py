"""The shortcut audit: the measures by hand, the words, and the command on the phantoms."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from ladnn_tf import audit, audit_text, runs, shortcuts
from ladnn_tf.data import preprocess
from ladnn_tf.data.alterations import ALTERATIONS, common_resolution
from ladnn_tf.data.manifest import read_manifest, select_split
from ladnn_tf.data.pipeline import load_images
from ladnn_tf.intervals import Interval

OPTIONS = {"resamples": 200, "seed": 0, "level": 0.95}


def table(covid, probability, source="covid_ct/a", patient=None):
    n = len(covid)
    patient = [str(i) for i in range(n)] if patient is None else patient
    return pd.DataFrame({"patient": patient, "source": source, "covid": covid, "probability": probability})


# The measures


def test_altered_against_unchanged_by_hand():
    """Pairs (positive, negative) in order: 4 of 4 before, 3 of 4 after; half of the excess over 0.5 is left."""
    before = table([1, 1, 0, 0], [0.9, 0.8, 0.3, 0.2])
    found = shortcuts.altered_against_unchanged(before, np.array([0.9, 0.4, 0.5, 0.2]), OPTIONS)
    assert found["auc"]["value"] == 0.75
    assert found["difference"]["difference"] == -0.25
    assert found["excess_left"] == 0.5
    assert (found["images"], found["left_out"]) == (4, 0)


def test_images_that_could_not_be_altered_are_left_out_on_both_sides():
    """The third positive, ranked last before, would make the unchanged AUC 4/6."""
    before = table([1, 1, 0, 0, 1], [0.9, 0.8, 0.3, 0.2, 0.1])
    found = shortcuts.altered_against_unchanged(before, np.array([0.9, 0.4, 0.5, 0.2, np.nan]), OPTIONS)
    assert (found["images"], found["left_out"]) == (4, 1)
    assert found["difference"]["b"] == 1.0
    nothing = shortcuts.altered_against_unchanged(before, np.full(5, np.nan), OPTIONS)
    assert nothing["auc"]["value"] is None
    assert nothing["difference"]["difference"] is None
    assert nothing["against_chance"] == shortcuts.UNJUDGED
    one_class = shortcuts.altered_against_unchanged(before, np.array([0.9, 0.4, np.nan, np.nan, 0.2]), OPTIONS)
    assert one_class["auc"]["value"] is None
    assert one_class["excess_left"] is None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.51, 0.9, shortcuts.SHOWN),
        (0.5, 0.9, shortcuts.NOT_SHOWN),
        (0.3, 0.5, shortcuts.NOT_SHOWN),
        (0.3, 0.49, shortcuts.REVERSED),
    ],
)
def test_against_chance(low, high, expected):
    assert shortcuts.against_chance(Interval(0.7, low, high), table([1, 0], [0.9, 0.1])) == expected


@pytest.mark.parametrize(("patients", "shown"), [(6, False), (8, True)])
def test_a_perfect_order_is_judged_by_counting_patients(patients, shown):
    """3 and 3 patients: 1/20 is above 2.5 %; 4 and 4: 1/70 is below. Five images each change nothing."""
    covid = np.repeat([1, 0], 5 * patients // 2)
    names = np.repeat([str(i) for i in range(patients)], 5)
    right = table(covid, covid * 0.8 + 0.1, patient=names)
    auc = shortcuts.auc_interval(right, OPTIONS)
    assert auc.value == 1.0
    assert shortcuts.against_chance(auc, right) == (shortcuts.SHOWN if shown else shortcuts.UNJUDGED)
    wrong = right.assign(probability=1 - right["probability"])
    reversed_auc = shortcuts.auc_interval(wrong, OPTIONS)
    expected = shortcuts.REVERSED if shown else shortcuts.UNJUDGED
    assert shortcuts.against_chance(reversed_auc, wrong) == expected


def test_by_source_sets_each_against_all_of_the_other_class():
    covid = [1] * 5 + [1] * 2 + [0] * 5 + [0]
    sources = ["covid_ct/a/x"] * 5 + ["covid_ct/b"] * 2 + ["covid_ct/medpix"] * 5 + [""]
    probability = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.35, 0.1, 0.4, 0.3, 0.2, 0.2, 0.2, 0.65])
    found = shortcuts.by_source(table(covid, probability, sources), OPTIONS)
    assert [(row["source"], row["covid"], row["images"]) for row in found] == [
        ("covid_ct/a", 1, 5),
        ("other", 1, 2),
        ("covid_ct/medpix", 0, 5),
        ("not given", 0, 1),
    ]
    # a against six negatives: 28 of 30 pairs (0.6 and 0.5 lie below 0.65); b: 4 + 0 of 12; medpix: 25 + 4 of 35.
    assert [row["auc"]["value"] for row in found[:3]] == pytest.approx([28 / 30, 4 / 12, 29 / 35])
    assert found[0]["mean_probability"] == pytest.approx(0.7)
    assert found[3]["auc"]["value"] == pytest.approx(3 / 7)


def test_sources_with_both_classes_are_counted():
    sources = ["covid_ct/a", "covid_ct/a/1", "covid_ct/b", "covid_ct/b", "", ""]
    frame = table([1, 0, 1, 1, 1, 0], [0.5] * 6, sources)
    assert shortcuts.count_sources(frame) == {"all": 2, "with_both_classes": 1}


def write_images(folder, specifications):
    """Writes pictures from (width, height, mode, suffix, covid) and returns manifest-like rows."""
    rows = []
    for number, (width, height, mode, suffix, covid) in enumerate(specifications):
        path = folder / f"{number}.{suffix}"
        Image.new(mode, (width, height)).save(path)
        rows.append({"row": number + 2, "path": str(path), "patient": str(number), "covid": covid})
    return pd.DataFrame(rows)


def test_the_form_of_the_file_alone_can_tell_the_classes_apart(tmp_path):
    positives = [(200 + i, 150, "RGBA", "png", 1) for i in range(8)]
    negatives = [(200 + i, 150, "L", "jpg", 0) for i in range(8)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    training = write_images(tmp_path / "a", positives + negatives)
    test = write_images(tmp_path / "b", positives[:5] + negatives[:5])
    found = shortcuts.form_of_files(training, test, OPTIONS)
    assert found["auc"]["value"] == 1.0
    assert found["against_chance"] == shortcuts.SHOWN
    assert found["formats"] == {
        "JPEG, grey": {"positives": 0, "negatives": 13},
        "PNG, alpha": {"positives": 13, "negatives": 0},
    }
    with pytest.raises(ValueError, match="both classes"):
        shortcuts.form_of_files(training[training["covid"] == 1], test, OPTIONS)


@pytest.mark.parametrize("changed", ["width", "shape"])
def test_size_and_shape_are_read(tmp_path, changed):
    if changed == "width":
        positives = [(300 + i, 300 + i, "L", "png", 1) for i in range(8)]
        negatives = [(150 + i, 150 + i, "L", "png", 0) for i in range(8)]
    else:  # a little wider, at any size
        positives = [(int(1.15 * 60 * 1.5**i), int(60 * 1.5**i), "L", "png", 1) for i in range(8)]
        negatives = [(int(60 * 1.5**i), int(60 * 1.5**i), "L", "png", 0) for i in range(8)]
    training = write_images(tmp_path, positives + negatives)
    assert shortcuts.form_of_files(training, training, OPTIONS)["auc"]["value"] == 1.0


def test_equal_forms_tell_nothing(tmp_path):
    frame = write_images(tmp_path, [(100, 80, "RGB", "png", i % 2) for i in range(12)])
    found = shortcuts.form_of_files(frame, frame, OPTIONS)
    assert found["auc"]["value"] == 0.5
    assert found["against_chance"] != shortcuts.SHOWN


def test_a_file_that_is_no_picture_is_named(tmp_path):
    frame = write_images(tmp_path, [(100, 80, "RGB", "png", i % 2) for i in range(4)])
    (tmp_path / "2.png").write_text("nothing")
    with pytest.raises(ValueError, match=r"row 4: .*2\.png cannot be read"):
        shortcuts.form_of_files(frame, frame, OPTIONS)


# The words


def result(lungs, border=(0.5, 0.4, 0.6), corners=(-0.1, -0.2, -0.05), left_out=0):
    """An audit of one run with given AUCs [low, high] and change without the corners."""
    frame = table([1, 0], [0.9, 0.1])

    def row(auc, change=(0.0, -0.1, 0.1)):
        interval = Interval(*auc, method="bootstrap")
        return {
            "images": 100,
            "left_out": left_out,
            "auc": dataclasses.asdict(interval),
            "against_chance": shortcuts.against_chance(interval, frame),
            "difference": dict(zip(("difference", "low", "high"), change, strict=True)),
            "excess_left": 0.6,
        }

    run = {"name": "mine", "task": "ladnn", "backbone": "resnet18", "weights": "none", "model_sha256": "ab"}
    unchanged = Interval(0.9, 0.85, 0.95)
    run["unchanged"] = {"auc": dataclasses.asdict(unchanged), "against_chance": shortcuts.SHOWN}
    run["alterations"] = {
        "lungs erased": row(lungs),
        "only the border": row(border),
        "corners erased": row(border, corners),
        "common resolution": row(border),
    }
    run["sources"] = [{"images": 100, "source": "a", "covid": 1, "patients": 9, "mean_probability": 0.5}]
    run["sources"][0]["auc"] = run["unchanged"]["auc"]
    return {
        "split": "test",
        "manifest": {"file": "m.csv", "sha256": "c" * 64},
        **{"images": 100, "patients": 50, "positives": 40},
        **OPTIONS,
        "sources": {"all": 7, "with_both_classes": 0},
        "runs": [run],
        "form_of_files": {"not_done": "no training split"},
        "source_runs": [],
    }


def test_a_shortcut_is_said_in_words():
    text = audit_text.format_audit(result((0.78, 0.7, 0.85)))
    assert "With the lungs erased the AUC is 0.780 [0.700, 0.850]: chance (0.5) is outside the interval" in text
    assert "60% of the AUC above 0.5 is left" in text
    assert "It reads the source of the image" in text
    assert "With only the border left the AUC is 0.500 [0.400, 0.600]: chance (0.5) is inside" in text
    assert "the network uses what is in the corners" in text
    assert "Sources in this split: 7; with images of both classes: 0." in text


def test_no_shortcut_is_not_said_to_be_its_absence():
    text = audit_text.format_audit(result((0.6, 0.45, 0.75), corners=(-0.1, -0.2, 0.01)))
    assert "It reads the source" not in text
    assert "A shortcut is not shown here; nor is it ruled out, as the interval reaches up to 0.750" in text
    assert "With the corners erased the AUC changes by -0.100 [-0.200, +0.010], which is within chance" in text


@pytest.mark.parametrize(
    ("auc", "words"),
    [
        ((0.3, 0.2, 0.4), "the network puts them in the wrong order"),
        ((0.8, None, None), "without an interval: nothing is concluded"),
        ((None, None, None), "no AUC can be given"),
    ],
)
def test_the_other_cases_conclude_nothing(auc, words):
    text = audit_text.format_audit(result(auc))
    assert words in text
    assert "It reads the source" not in text


def test_what_was_left_out_is_said():
    assert "In 3 images no lungs were found" in audit_text.format_audit(result((0.6, 0.5, 0.7), left_out=3))


def test_the_mean_is_of_runs_that_differ_by_seed_only():
    found = result((0.7, 0.6, 0.8))
    second = json.loads(json.dumps(found["runs"][0])) | {"name": "second"}
    second["alterations"]["lungs erased"]["auc"]["value"] = 0.8
    third = json.loads(json.dumps(second)) | {"name": "third", "task": "baseline"}
    found["runs"] += [second, third]
    text = audit_text.format_audit(found)
    (title,) = (line for line in text.splitlines() if line.startswith("### Mean"))
    assert "resnet18 ladnn, 2 runs" in title
    rows = text.split(title)[1].splitlines()
    row = next(line for line in rows if line.startswith("| lungs erased"))
    assert [cell.strip() for cell in row.split("|")[2:5]] == ["0.700", "0.800", "0.750"]


# The command


@pytest.fixture
def run_copy(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run")


def audit_main(*arguments):
    return audit.main(["audit", "--resamples=100", "--split=validation", *map(str, arguments)])


def test_it_writes_the_report_and_counts_the_look(run_copy, tiny_baseline_run, tmp_path, capsys):
    baseline = shutil.copytree(tiny_baseline_run, tmp_path / "baseline")
    arguments = [f"--run={run_copy}", f"--run={baseline}", f"--source_run={baseline}"]
    assert audit_main(*arguments) == 0
    printed = capsys.readouterr().out
    out = run_copy / "audit_validation"
    assert sorted(path.name for path in out.iterdir()) == sorted(audit.FILES)
    assert (out / "audit.md").read_text() in printed
    found = json.loads((out / "audit.json").read_text())
    assert [run["name"] for run in found["runs"]] == ["tiny", "tiny_baseline"]
    assert runs.read_metrics(run_copy, found["runs"][0]["model_sha256"])["looks"] == {"validation": 1}
    with Image.open(out / "audit.png") as image:
        assert image.width > image.height

    run = runs.load_run(run_copy)
    frame = select_split(read_manifest(run.config.manifest), "validation")
    stored = runs.read_predictions(run_copy, "validation")
    first = found["runs"][0]
    expected = roc_auc_score(stored["covid"], stored["covid_probability"])
    assert first["unchanged"]["auc"]["value"] == pytest.approx(expected, abs=1e-9)
    model = runs.logits_model(run.model)
    views = audit.altered_views(frame, 32)
    aucs = {
        name: roc_auc_score(frame["covid"], runs.predict_logits(model, images)["covid"][:, 0])
        for name, (images, _) in views.items()
    }
    assert len(set(aucs.values())) > 2
    for name, row in first["alterations"].items():
        assert row["auc"]["value"] == pytest.approx(aucs[name], abs=1e-9), name
    corners = first["alterations"]["corners erased"]
    assert corners["images"] == len(frame)
    assert found["source_runs"][0]["images"] == len(frame)
    training = select_split(read_manifest(run.config.manifest), "train")
    assert found["form_of_files"]["training_images"] == len(training)


def test_the_views_are_the_altered_images(phantom_manifest):
    frame = select_split(read_manifest(phantom_manifest), "validation")
    views = audit.altered_views(frame, 32)
    assert (views["unchanged"][0] == load_images(frame, 32)).all()
    assert all(possible.all() for _, possible in views.values())
    for name, function in ALTERATIONS.items():
        assert (views[name][0] == np.stack([function(image) for image in views["unchanged"][0]])).all()
    originals = [preprocess.decode(Path(path).read_bytes()) for path in frame["path"]]
    expected = np.stack([common_resolution(original, 32) for original in originals])
    assert (views["common resolution"][0] == expected).all()


def test_an_image_without_lungs_is_left_out_of_what_needs_them(phantom_manifest, tmp_path):
    frame = select_split(read_manifest(phantom_manifest), "validation")
    Image.new("L", (64, 64)).save(tmp_path / "black.png")
    frame.loc[1, "path"] = str(tmp_path / "black.png")
    views = audit.altered_views(frame, 32)
    assert np.flatnonzero(~views["lungs erased"][1]).tolist() == [1]
    assert views["corners erased"][1].all()


def test_it_refuses_what_would_mix_or_overwrite(run_copy, tiny_baseline_run, tmp_path):
    with pytest.raises(ValueError, match="is a run; give a folder"):
        audit_main(f"--run={run_copy}", f"--out={tiny_baseline_run}")
    with pytest.raises(ValueError, match="given twice"):
        audit_main(f"--run={run_copy}", f"--run={run_copy}")
    with pytest.raises(ValueError, match=r"no config\.flags"):
        audit_main(f"--run={tmp_path}")
    out = tmp_path / "audit"
    out.mkdir()
    (out / "audit.json").write_text('{"runs": [{"model_sha256": "other"}]}')
    with pytest.raises(ValueError, match="audit of other runs"):
        audit_main(f"--run={run_copy}", f"--out={out}")
    (out / "audit.json").write_text("[]")
    with pytest.raises(ValueError, match="no audit of this version"):
        audit_main(f"--run={run_copy}", f"--out={out}")
    assert [path.name for path in out.iterdir()] == ["audit.json"]


def test_other_data_needs_a_folder_of_its_own_and_counts_no_look(run_copy, phantom_manifest, tmp_path):
    lines = phantom_manifest.read_text().splitlines(keepends=True)
    other = phantom_manifest.parent / "audited.csv"
    other.write_text("".join(line for line in lines if ",train," not in line))
    arguments = [f"--run={run_copy}", f"--manifest={other}"]
    with pytest.raises(ValueError, match=r"not the data .*give --out=FOLDER"):
        audit_main(*arguments)
    assert audit_main(*arguments, f"--out={tmp_path / 'elsewhere'}") == 0
    found = json.loads((tmp_path / "elsewhere" / "audit.json").read_text())
    assert "no training images" in found["form_of_files"]["not_done"]
    assert found["manifest"]["file"] == "audited.csv"
    assert json.loads((run_copy / "metrics.json").read_text())["looks"] == {}


def test_one_class_alone_has_no_auc(run_copy, phantom_manifest, tmp_path):
    lines = phantom_manifest.read_text().splitlines(keepends=True)
    other = phantom_manifest.parent / "positives.csv"
    other.write_text("".join([lines[0], *(line for line in lines if "CT_COVID" in line)]))
    with pytest.raises(ValueError, match="an AUC needs both classes"):
        audit_main(f"--run={run_copy}", f"--manifest={other}", f"--out={tmp_path / 'out'}")


def test_a_source_run_must_not_share_papers_between_its_splits(run_copy, phantom_manifest, tmp_path):
    """The phantoms count as an archive; renamed to one paper they are in every split."""
    shared = phantom_manifest.parent / "shared_paper.csv"
    shared.write_text(phantom_manifest.read_text().replace("covid_ct/phantom,", "covid_ct/paper,"))
    run = runs.load_run(run_copy)
    card = dataclasses.replace(
        run.card, manifest={"file": "x", "sha256": runs.read_manifest(shared).attrs["sha256"]}
    )
    source_run = dataclasses.replace(run, config=dataclasses.replace(run.config, manifest=str(shared)), card=card)
    with pytest.raises(ValueError, match=r"1 source papers .* such as paper, are in several splits"):
        audit.audit([run], "validation", manifest=phantom_manifest, source_runs=[source_run])
    with pytest.raises(ValueError, match=r"not the data that .* was trained on"):
        audit.audit(
            [run],
            "validation",
            manifest=phantom_manifest,
            source_runs=[dataclasses.replace(source_run, card=run.card)],
        )
