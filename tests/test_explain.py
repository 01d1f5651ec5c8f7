"""Panels of files, thresholds of lesions, and the measurement on a split with masks."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.contour import QuadContourSet
from PIL import Image

from ladnn_tf import explain, explain_panel, runs
from ladnn_tf.data.manifest import read_manifest
from ladnn_tf.labels import COVID, LESIONS
from ladnn_tf.models.attention import attention_model
from ladnn_tf.models.ladnn import logits_model


@pytest.fixture
def files(phantom_manifest):
    frame = read_manifest(phantom_manifest)
    return frame[frame["split"] == "validation"]["path"].tolist()


def with_validation(run, tmp_path, table):
    """The run with other validation predictions."""
    folder = tmp_path / "run"
    folder.mkdir()
    runs.write_predictions(folder, "validation", table)
    return dataclasses.replace(run, folder=folder)


def validation_table(probabilities, labels):
    """GGO as given, of the other lesions one image of each kind."""
    n = len(labels)
    table = pd.DataFrame({"image": [f"{i}.png" for i in range(n)], COVID: [1] * n})
    for lesion in LESIONS:
        table[lesion] = [1.0, 0.0] + [np.nan] * (n - 2)
        table[f"{lesion}_probability"] = np.linspace(0.1, 0.9, n)
    table["GGO"], table["GGO_probability"] = labels, probabilities
    return table


def test_lesion_thresholds_by_hand(tiny_run, tmp_path):
    """0.35 has the sensitivity 6/6 and the specificity 4/5, 0.55 4/6 and 5/5."""
    probabilities = [0.1, 0.2, 0.25, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    labels = [0, 0, 0, 0, 1, 1, 0, 1, 1, 1, 1, np.nan]
    run = with_validation(runs.load_run(tiny_run), tmp_path, validation_table(probabilities, labels))
    expected = dict.fromkeys(LESIONS, 0.5) | {"GGO": 0.35}
    assert explain.lesion_thresholds(run) == pytest.approx(expected)


def test_of_equally_good_thresholds_the_highest(tiny_run, tmp_path):
    """0.35 and 0.55 both have 1.8: 5/5 and 4/5, 4/5 and 5/5."""
    probabilities = [0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    table = validation_table(probabilities, [0, 0, 0, 0, 1, 0, 1, 1, 1, 1])
    run = with_validation(runs.load_run(tiny_run), tmp_path, table)
    assert explain.lesion_thresholds(run)["GGO"] == pytest.approx(0.55)


def test_negatives_count_where_they_were_learnt_as_free_of_lesions(tiny_run, tmp_path):
    """Only with the negatives are there five without GGO."""
    table = validation_table([0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.1, 0.1, 0.1, 0.1, 0.1], [1.0] * 5 + [np.nan] * 6)
    table[COVID] = [1] * 5 + [0] * 6
    run = with_validation(runs.load_run(tiny_run), tmp_path, table)
    assert explain.lesion_thresholds(run)["GGO"] == 0.5
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, lesion_targets="all"))
    assert explain.lesion_thresholds(run)["GGO"] == pytest.approx((0.5 + 0.45) / 2)


def test_the_baseline_has_no_lesion_thresholds(tiny_baseline_run):
    assert explain.lesion_thresholds(runs.load_run(tiny_baseline_run)) == {}


def test_explanations_hold_probabilities_calls_and_maps(tiny_run, files):
    run = runs.load_run(tiny_run)
    thresholds = dict.fromkeys(LESIONS, 0.0) | {"CrPa": 1.0}
    table = runs.read_predictions(tiny_run, "validation")
    for threshold, positive in ((0.0, True), (1.0, False)):
        card = dataclasses.replace(run.card, threshold=threshold)
        answers = explain.explain(dataclasses.replace(run, card=card), files, thresholds=thresholds)
        covid = [answer.probabilities[COVID] for answer in answers]
        np.testing.assert_allclose(covid, table["covid_probability"], atol=2e-3)
        ggo = [answer.probabilities["GGO"] for answer in answers]
        np.testing.assert_allclose(ggo, table["GGO_probability"], atol=2e-3)
        assert {answer.positive for answer in answers} == {positive}
        # The tiny run learnt the lesions on positives alone: nothing is said of them where the call is negative.
        assert {answer.found for answer in answers} == {("GGO", "Csld", "AirBr", "InSepThi") if positive else ()}
        assert all(("negative" in answer.caveat) != positive for answer in answers)


def test_maps_are_those_of_the_method(tiny_run, files):
    run = runs.load_run(tiny_run)
    by_method = {}
    for method in ("gradcam++", "cam"):
        (answer,) = explain.explain(run, files[:1], method=method, thresholds={})
        with Image.open(files[0]) as image:
            assert image.size == (64, 64)
        assert set(answer.maps) == {COVID, *LESIONS}
        assert answer.maps["GGO"].shape == (4, 4)
        by_method[method] = answer.maps["GGO"]
    assert not np.allclose(by_method["gradcam++"], by_method["cam"])


def test_a_number_that_is_not_finite_is_an_error_of_that_file(tiny_run, files):
    run = runs.load_run(tiny_run)
    model = attention_model(run.model)
    weights = model.get_layer("attention").get_weights()[0]
    model.get_layer("attention").set_weights([weights * np.nan])
    answers = explain._explain_batch(model, run, files[:1], {})
    assert "no finite number" in str(answers[0])
    assert logits_model(run.model)  # the run's own weights are untouched
    assert np.isfinite(np.concatenate([w.ravel() for w in run.model.get_weights()])).all()


def make_explanation(**changes):
    probabilities = {COVID: 0.8, **dict.fromkeys(LESIONS, 0.2), "CrPa": 0.7}
    maps = {label: np.eye(2) for label in probabilities}
    thresholds = dict.fromkeys(probabilities, 0.5)
    base = explain_panel.Explanation(
        "net",
        "slice.png",
        probabilities,
        True,
        thresholds,
        ("CrPa",),
        maps,
    )
    return dataclasses.replace(base, **changes)


def texts(figure):
    return " | ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_enlarged_by_hand():
    enlarged = explain_panel.enlarged(np.array([[2.0, 4.0]]), 1, 4)
    np.testing.assert_allclose(enlarged, [[0, 0.25, 0.75, 1]])


def test_the_panel_has_a_row_for_covid_and_each_lesion_found(tmp_path):
    pixels = np.zeros((30, 40, 3), np.uint8)
    file = Path("slice.png")
    found = explain_panel.draw(pixels, make_explanation(file=file))
    pictures = [axes for axes in found.axes if axes.images]
    assert len(pictures) == 6
    said = texts(found)
    for expected in ("crazy paving", "CrPa 0.70 (from 0.50)", "COVID-19 0.80", "COVID-19 positive", "slice.png"):
        assert expected in said
    assert "No lesion found" not in said
    without = explain_panel.draw(pixels, make_explanation(file=file, found=()))
    assert "No lesion found" in texts(without)
    assert len([axes for axes in without.axes if axes.images]) == 3
    caveat = explain_panel.draw(pixels, make_explanation(file=file, found=(), caveat="Lesions are not shown."))
    assert "Lesions are not shown." in texts(caveat)
    assert "No lesion found" not in texts(caveat)


def test_the_baseline_stands_beside_it_with_covid_alone():
    pixels = np.zeros((30, 40, 3), np.uint8)
    mine = make_explanation(file=Path("slice.png"))
    other = dataclasses.replace(
        mine, run="base", probabilities={COVID: 0.1}, positive=False, maps={COVID: np.zeros((2, 2))}, found=()
    )
    figure = explain_panel.draw(pixels, mine, other)
    said = texts(figure)
    assert "base\nhas no lesion output" in said
    assert "nothing speaks for it" in said
    assert "base: called COVID-19 negative." in said
    assert len([axes for axes in figure.axes if axes.images]) == 5 + 3


def test_outlines_of_masks_are_drawn_in_their_rows():
    pixels = np.zeros((30, 40, 3), np.uint8)
    mask = np.zeros((15, 20), bool)
    mask[5:10, 5:10] = True
    figure = explain_panel.draw(pixels, make_explanation(file=Path("s.png")), masks={"GGO": mask})
    outlined = [axes.get_title() for axes in figure.axes if axes.findobj(QuadContourSet)]
    assert outlined == ["slice, outlined"]
    (contour,) = figure.findobj(QuadContourSet)
    box = contour.get_paths()[0].get_extents()
    np.testing.assert_allclose([box.x0, box.x1, box.y0, box.y1], [9.5, 19.5, 9.5, 19.5], atol=1.01)


def test_command_writes_panels_and_names_bad_files(tiny_run, tiny_baseline_run, files, tmp_path, capsys):
    (tmp_path / "junk.png").write_bytes(b"junk")
    twin = tmp_path / "other" / files[0].rsplit("/", 1)[1]
    twin.parent.mkdir()
    shutil.copy(files[0], twin)
    arguments = [f"--run={tiny_run}", f"--compare_run={tiny_baseline_run}", f"--out={tmp_path / 'out'}"]
    assert explain.main(["explain", *arguments, files[0], str(tmp_path / "junk.png"), str(twin)]) == 1
    printed = capsys.readouterr().out
    assert printed.count("written: ") == 2
    assert "junk.png: neither PNG nor JPEG" in printed
    stem = twin.stem
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{stem}-2.png", f"{stem}.png"]
    with Image.open(tmp_path / "out" / f"{stem}.png") as panel:
        assert panel.size[0] > 1000


def test_command_measures_a_split(tiny_run, tiny_baseline_run, phantoms, tmp_path, capsys):
    arguments = [f"--run={tiny_run}", f"--compare_run={tiny_baseline_run}", f"--masks={phantoms / 'masks'}"]
    arguments += ["--split=train", f"--out={tmp_path}", "--resamples=100"]
    looks = runs.read_metrics(tiny_run, runs.load_run(tiny_run).card.model_sha256)["looks"].get("train", 0)
    assert explain.main(["explain", *arguments]) == 0
    printed = capsys.readouterr().out
    for expected in (
        "tiny, map of the lesion",
        "tiny, map of covid",
        "tiny_baseline, map of covid",
        "random lung",
    ):
        assert expected in printed
    summary = json.loads((tmp_path / "localisation_train.json").read_text())
    pairs = pd.read_csv(tmp_path / "localisation_train.csv")
    everything = summary["lesions"]["all"]
    masks = sum(len(list((phantoms / "masks" / lesion).glob("*.png"))) for lesion in LESIONS)
    assert 0 < everything["pairs"] < masks
    own = pairs[pairs["source"] == "tiny, map of the lesion"]
    assert everything["sources"]["tiny, map of the lesion"]["hit"]["value"] == pytest.approx(own["hit"].mean())
    assert summary["method"] == "gradcam++"
    assert runs.read_metrics(tiny_run, runs.load_run(tiny_run).card.model_sha256)["looks"]["train"] == looks + 1


def test_bad_command_lines(tiny_run, capsys):
    with pytest.raises(SystemExit) as stopped:
        explain.main(["explain", f"--run={tiny_run}"])
    assert stopped.value.code == 2
    assert "give image files to explain, or --masks" in capsys.readouterr().err
    with pytest.raises(ValueError, match="both named tiny"):
        explain.main(["explain", f"--run={tiny_run}", f"--compare_run={tiny_run}", "x.png"])
    with pytest.raises(ValueError, match="no folder of masks"):
        explain.main(["explain", f"--run={tiny_run}", "--masks=absent"])
