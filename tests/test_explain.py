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

from ladnn_tf import drawing, explain, explain_panel, runs
from ladnn_tf.data.manifest import read_manifest
from ladnn_tf.labels import COVID, LESIONS
from ladnn_tf.models.attention import attention_model
from ladnn_tf.models.ladnn import logits_model


@pytest.fixture
def files(phantom_manifest):
    frame = read_manifest(phantom_manifest)
    return frame[frame["split"] == "validation"]["path"].tolist()


def test_explanations_hold_probabilities_calls_and_maps(tiny_run, files, monkeypatch):
    run = runs.load_run(tiny_run)
    thresholds = dict.fromkeys(LESIONS, 0.0) | {"CrPa": 1.0}
    monkeypatch.setattr(explain, "lesion_thresholds", lambda run: (thresholds, ("AirBr",)))
    table = runs.read_predictions(tiny_run, "validation")
    for threshold, positive in ((0.0, True), (1.0, False)):
        card = dataclasses.replace(run.card, threshold=threshold)
        answers = explain.explain(dataclasses.replace(run, card=card), files)
        covid = [answer.probabilities[COVID] for answer in answers]
        np.testing.assert_allclose(covid, table["covid_probability"], atol=2e-3)
        ggo = [answer.probabilities["GGO"] for answer in answers]
        np.testing.assert_allclose(ggo, table["GGO_probability"], atol=2e-3)
        assert {answer.positive for answer in answers} == {positive}
        assert answers[0].thresholds == {COVID: threshold, **thresholds}
        assert answers[0].not_chosen == ("AirBr",)
        # The tiny run learnt the lesions on positives alone: nothing is said of them where the call is negative.
        assert {answer.found for answer in answers} == {("GGO", "Csld", "AirBr", "InSepThi") if positive else ()}
        assert all(("negative" in answer.caveat) != positive for answer in answers)


def test_maps_are_those_of_the_method(tiny_run, files):
    run = runs.load_run(tiny_run)
    by_method = {}
    for method in ("gradcam++", "cam"):
        (answer,) = explain.explain(run, files[:1], method=method)
        with Image.open(files[0]) as image:
            assert image.size == (64, 64)
        assert set(answer.maps) == {COVID, *LESIONS}
        assert answer.maps["GGO"].shape == (4, 4)
        by_method[method] = answer.maps[COVID]
    assert not np.allclose(by_method["gradcam++"], by_method["cam"])


def test_a_number_that_is_not_finite_is_an_error_of_that_file(tiny_run, files):
    run = runs.load_run(tiny_run)
    model = attention_model(run.model)
    weights = model.get_layer("attention").get_weights()[0]
    model.get_layer("attention").set_weights([weights * np.nan])
    answers = explain._explain_batch(model, run, files[:1], {}, ())
    assert "no finite number" in str(answers[0])
    assert logits_model(run.model)  # the run's own weights are untouched
    assert np.isfinite(np.concatenate([w.ravel() for w in run.model.get_weights()])).all()


def make_explanation(**changes):
    probabilities = {COVID: 0.8, **dict.fromkeys(LESIONS, 0.2), "CrPa": 0.7}
    maps = {label: np.eye(2) for label in probabilities}
    thresholds = dict.fromkeys(probabilities, 0.5)
    base = explain_panel.Explanation(
        run="net",
        file=Path("patient 7/slice.png"),
        probabilities=probabilities,
        positive=True,
        thresholds=thresholds,
        not_chosen=(),
        found=("CrPa",),
        maps=maps,
    )
    return dataclasses.replace(base, **changes)


def texts(figure):
    return " | ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_enlarged_by_hand():
    enlarged = explain_panel.enlarged(np.array([[2.0, 4.0]]), 1, 4)
    np.testing.assert_allclose(enlarged, [[0, 0.25, 0.75, 1]])


def test_the_panel_has_a_row_for_covid_and_each_lesion_found(tmp_path):
    pixels = np.zeros((30, 40, 3), np.uint8)
    found = explain_panel.draw(pixels, make_explanation())
    pictures = [axes for axes in found.axes if axes.images]
    assert len(pictures) == 6
    said = texts(found)
    for expected in (
        "crazy paving",
        "CrPa 0.70 (from 0.50)",
        "COVID-19 0.80",
        "COVID-19 positive",
        "patient 7/slice",
    ):
        assert expected in said
    assert "No lesion found" not in said
    without = explain_panel.draw(pixels, make_explanation(found=()))
    assert "No lesion found" in texts(without)
    assert len([axes for axes in without.axes if axes.images]) == 3
    caveat = explain_panel.draw(pixels, make_explanation(found=(), caveat="Lesions are not shown."))
    assert "Lesions are not shown." in texts(caveat)
    assert "No lesion found" not in texts(caveat)
    assert "Found from 0.5" not in texts(without)
    default = explain_panel.draw(pixels, make_explanation(not_chosen=("AirBr", "InSepThi")))
    assert "no threshold: air bronchogram, interlobular septal thickening." in texts(default)


def test_a_number_near_the_threshold_has_the_digits_that_tell_the_side():
    """0.398 and 0.4016 would both be 0.40."""
    near = {COVID: 0.398, **dict.fromkeys(LESIONS, 0.2)}
    explanation = make_explanation(
        probabilities=near, thresholds=dict.fromkeys(near, 0.4016), positive=False, found=()
    )
    assert "COVID-19 0.398 (from 0.402)" in texts(explain_panel.draw(np.zeros((9, 9, 3), np.uint8), explanation))


def test_names_that_look_like_formulas_or_lack_letters_are_drawn_as_they_are(tmp_path):
    named = make_explanation(file=Path("a/$x_{$ \u80ba.png"), run="$net{")
    figure = explain_panel.draw(np.zeros((9, 9, 3), np.uint8), named)
    assert "a/$x_{$ ?.png" in texts(figure)
    drawing.save(figure, tmp_path / "panel", ["png"])


def test_another_run_that_calls_it_negative_shows_no_lesions():
    pixels = np.zeros((9, 9, 3), np.uint8)
    other = make_explanation(run="other", positive=False, caveat="Lesions are not shown.")
    figure = explain_panel.draw(pixels, make_explanation(), other)
    assert "its lesions are not shown" in texts(figure)
    assert len([axes for axes in figure.axes if axes.images]) == 5 + 3


def test_the_baseline_stands_beside_it_with_covid_alone():
    pixels = np.zeros((30, 40, 3), np.uint8)
    mine = make_explanation()
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
    figure = explain_panel.draw(pixels, make_explanation(), masks={"GGO": mask})
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
    assert "junk.png: neither PNG nor JPEG" in printed
    panels = [tmp_path / "out" / f"{folder}_{twin.stem}.png" for folder in ("CT_NonCOVID", "other")]
    assert sorted((tmp_path / "out").iterdir()) == panels
    for file, panel in zip((files[0], twin), panels, strict=True):
        assert f"{file}: {panel}" in printed
        with Image.open(panel) as picture:
            assert picture.size[0] > 1000


def test_panels_of_equal_names_keep_their_numbers_whatever_can_be_read():
    paths = explain.panel_paths(["x/p/1.png", "y/p/1.png", "y/p/1.jpg", "q/1.2.png"], Path("out"))
    assert [path.name for path in paths] == ["p_1.png", "p_1-2.png", "p_1-3.png", "q_1_2.png"]


def test_a_panel_never_replaces_a_slice(tiny_run, files, tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    for name in ("s.png", "p_s.png"):
        shutil.copy(files[0], folder / name)
    before = (folder / "p_s.png").read_bytes()
    with pytest.raises(ValueError, match=r"the panel .*p_s\.png would replace a slice"):
        explain.main(["explain", f"--run={tiny_run}", f"--out={folder}", *map(str, sorted(folder.iterdir()))])
    assert (folder / "p_s.png").read_bytes() == before
    assert len(list(folder.iterdir())) == 2


def test_command_measures_a_split(tiny_run, tiny_baseline_run, phantoms, tmp_path, capsys):
    run, baseline = tmp_path / "tiny", tmp_path / "tiny_baseline"  # a look is counted in them
    shutil.copytree(tiny_run, run)
    shutil.copytree(tiny_baseline_run, baseline)
    arguments = [f"--run={run}", f"--compare_run={baseline}", f"--masks={phantoms / 'masks'}"]
    arguments += ["--split=train", f"--out={tmp_path}", "--resamples=100"]
    assert explain.main(["explain", *arguments]) == 0
    printed = capsys.readouterr().out
    for expected in (
        "tiny, map of the lesion",
        "tiny, map of covid",
        "tiny_baseline, map of covid",
        "random lung",
    ):
        assert expected in printed
    stem = "localisation_train_gradcam++_tiny_baseline"
    summary = json.loads((tmp_path / f"{stem}.json").read_text())
    pairs = pd.read_csv(tmp_path / f"{stem}.csv")
    card = runs.load_run(tiny_run).card
    assert summary["manifest"] == card.manifest
    assert summary["model_sha256"]["tiny"] == card.model_sha256
    everything = summary["lesions"]["all"]
    masks = sum(len(list((phantoms / "masks" / lesion).glob("*.png"))) for lesion in LESIONS)
    assert 0 < everything["pairs"] < masks
    own = pairs[pairs["source"] == "tiny, map of the lesion"]
    assert everything["sources"]["tiny, map of the lesion"]["hit"]["value"] == pytest.approx(own["hit"].mean())
    assert summary["method"] == "gradcam++"
    for folder in (run, baseline):
        assert json.loads((folder / "metrics.json").read_text())["looks"] == {"train": 1}


def test_bad_command_lines(tiny_run, capsys):
    with pytest.raises(SystemExit) as stopped:
        explain.main(["explain", f"--run={tiny_run}"])
    assert stopped.value.code == 2
    assert "give image files to explain, or --masks" in capsys.readouterr().err
    with pytest.raises(ValueError, match="both named tiny"):
        explain.main(["explain", f"--run={tiny_run}", f"--compare_run={tiny_run}", "x.png"])
    before = (tiny_run / "metrics.json").read_bytes()
    with pytest.raises(ValueError, match="no folder of masks"):
        explain.main(["explain", f"--run={tiny_run}", "--masks=absent"])
    assert (tiny_run / "metrics.json").read_bytes() == before  # no look is counted


def of_lungs(run, folder):
    """A copy of a run that is shown the lungs alone, with a name of its own."""
    shutil.copytree(run, folder)
    settings, card = folder / "config.flags", json.loads((folder / "card.json").read_text())
    settings.write_text(settings.read_text().replace("--lungs=whole", "--lungs=extracted"))
    (folder / "card.json").write_text(json.dumps({**card, "name": folder.name, "lungs": "extracted"}))
    return folder


@pytest.mark.parametrize("flag", ["run", "compare_run"])
@pytest.mark.parametrize("what", ["files", "split"])
def test_runs_of_lungs_are_refused_before_any_work(tiny_run, phantoms, files, tmp_path, monkeypatch, flag, what):
    cut = of_lungs(tiny_run, tmp_path / "cut")
    given = {"run": tiny_run, flag: cut}
    arguments = [f"--{name}={folder}" for name, folder in given.items()] + [f"--out={tmp_path / 'out'}"]
    arguments += files[:1] if what == "files" else [f"--masks={phantoms / 'masks'}"]
    monkeypatch.setattr(explain, "attention_model", lambda *_: pytest.fail("a model was asked"))
    with pytest.raises(ValueError, match=r"cut was trained on lungs that were cut out.*--lungs=whole$") as caught:
        explain.main(["explain", *arguments])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="cut out"):
        explain.explain(runs.load_run(cut), files[:1])


def test_other_data_need_a_folder_of_their_own(tiny_run, phantom_manifest, phantoms, tmp_path):
    other = phantom_manifest.with_name("other.csv")
    other.write_bytes(phantom_manifest.read_bytes() + b"\n")
    arguments = [f"--run={tiny_run}", f"--masks={phantoms / 'masks'}", f"--manifest={other}"]
    with pytest.raises(ValueError, match=r"other\.csv is not the data .*give --out"):
        explain.main(["explain", *arguments])
    assert explain.main(["explain", *arguments, f"--out={tmp_path}", "--resamples=100"]) == 0
