"""Figures of made-up runs: what the artists hold, what is said of bad input, and the same bytes twice."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from ladnn_tf import (
    curves,
    figures,
    figures_curves,
    figures_lesions,
    figures_manifest,
    figures_runs,
    figures_training,
)
from ladnn_tf.calibration import calibrated_probabilities
from ladnn_tf.card import Card, write_card
from ladnn_tf.config import TrainConfig
from ladnn_tf.data.manifest import read_manifest
from ladnn_tf.drawing import COLOURS
from ladnn_tf.files import file_sha256
from ladnn_tf.labels import LESION_NAMES, LESIONS, SPLITS

TEMPERATURE = 2.0
OPTIONS = {"resamples": 100, "seed": 0}


def predictions(seed, *, lesions=True):
    """60 images of 30 patients; the images and labels are the same for every seed."""
    generator = np.random.default_rng(seed)
    covid = (np.arange(60) % 4 < 2).astype(int)
    table = pd.DataFrame({"image": [f"{row}.png" for row in range(60)], "covid": covid})
    table["patient"] = [f"patient {row // 2}" for row in range(60)]
    table["covid_logit"] = 2 * covid - 1 + 1.5 * generator.normal(size=60)
    table["covid_probability"] = calibrated_probabilities(table["covid_logit"], TEMPERATURE)
    for number, lesion in enumerate(LESIONS if lesions else ()):
        table[f"{lesion}_logit"] = generator.normal(size=60) + number * covid
        table[f"{lesion}_probability"] = calibrated_probabilities(table[f"{lesion}_logit"], 1.0)
    return table


def history(task):
    table = pd.DataFrame({"epoch": [1, 2, 3], "loss": [3.0, 2.0, 1.5]})
    if task == "ladnn":
        table = table.assign(covid_loss=[0.7, 0.5, 0.4], lesions_loss=[1.0, 0.8, 0.7])
    return table.assign(
        val_loss=[0.8, 0.6, 0.7],
        val_covid_loss=[0.7, 0.5, 0.6],
        val_auc=[0.6, 0.8, 0.7],
        learning_rate=[1e-4, 2e-4, 1e-4],
    )


def write_run(folder, *, task="ladnn", seed=0, weights="none", data="0", **settings):
    """A folder as training and evaluation leave it, but for the model, which no figure reads."""
    folder.mkdir(parents=True)
    config = TrainConfig(backbone="resnet18", task=task, seed=seed, image_size=32, **settings)
    (folder / "config.flags").write_text(config.to_flags())
    (folder / "model.keras").write_text(f"not opened, of {folder}")
    card = Card(
        name=folder.name,
        task=task,
        backbone="resnet18",
        weights=weights,
        normalisation={"mean": [0.0] * 3, "std": [1.0] * 3},
        image_size=32,
        temperature=TEMPERATURE,
        threshold=0.4,
        threshold_rule="by hand",
        manifest={"file": "data.csv", "sha256": data},
        model_sha256=file_sha256(folder / "model.keras"),
        weights_sha256="0",
        best_epoch=2,
        metrics={"validation": {"images": 20, "patients": 10, "positives": 9}},
        versions={},
        revision="",
    )
    write_card(card, folder / "card.json")
    predictions(seed, lesions=task == "ladnn").to_csv(folder / "predictions_test.csv", index=False)
    history(task).to_csv(folder / "history.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two seeds of an LA-DNN and a baseline. Tests read them; none writes into them."""
    root = tmp_path_factory.mktemp("runs")
    return [
        write_run(root / "ladnn_seed0"),
        write_run(root / "ladnn_seed1", seed=1),
        write_run(root / "baseline", task="baseline", seed=2),
    ]


@pytest.fixture(scope="module")
def loaded(folders):
    return figures_runs.load_runs(folders)


@pytest.fixture
def folder(tmp_path):
    """A run that a test may damage."""
    return write_run(tmp_path / "run")


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines}


def draw(function, loaded, *, group_seeds):
    drawn = figures_runs.lines(loaded, group_seeds=group_seeds)
    return function(drawn, loaded, figures_runs.read_tables(loaded, "test"), "test", **OPTIONS)


def texts(figure):
    """Every text of a figure: titles, labels, legends, notes."""
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def run_main(*arguments):
    return figures.main(["figures", *arguments])


def test_roc_of_single_runs_holds_their_curves_intervals_and_operating_points(loaded):
    figure = draw(figures_curves.roc_figure, loaded, group_seeds=False)
    (axes,) = figure.axes
    lines = lines_of(axes)
    assert lines["chance"].get_xydata().tolist() == [[0, 0], [1, 1]]
    table = predictions(1)
    x, y, _ = reference.roc_curve(table["covid"], table["covid_probability"], drop_intermediate=False)
    auc = reference.roc_auc_score(table["covid"], table["covid_probability"])
    (label,) = [label for label in lines if label.startswith(f"LA-DNN, resnet18 (ladnn_seed1): AUC {auc:.3f} [")]
    np.testing.assert_allclose(lines[label].get_xydata(), np.stack([x, y], axis=1))
    called = table["covid_probability"] >= 0.4
    sensitivity, specificity = called[table["covid"] == 1].mean(), (~called)[table["covid"] == 0].mean()
    text = f"at its threshold 0.400: sensitivity {100 * sensitivity:.0f} %, specificity {100 * specificity:.0f} %"
    markers = [line for line in axes.lines if line.get_label() == text]
    assert [1 - specificity, sensitivity] in [line.get_xydata()[0].tolist() for line in markers]
    assert "Test split: 60 images of 30 patients, 30 with COVID-19" in texts(figure)
    assert len(axes.collections) == 0  # three lines, no bands


def test_ladnn_and_baseline_differ_in_colour_dash_and_marker(loaded):
    figure = draw(figures_curves.roc_figure, loaded, group_seeds=True)
    (axes,) = figure.axes
    thick = [line for line in axes.lines if line.get_linewidth() == 2]
    assert [line.get_color() for line in thick] == list(COLOURS[:2])
    assert thick[0].get_linestyle() == "-" != thick[1].get_linestyle()
    points = [line for line in axes.lines if line.get_linestyle() == "None"]
    assert points[0].get_marker() != points[1].get_marker()
    assert points[0].get_markerfacecolor() != points[1].get_markerfacecolor() == "white"


def test_seeds_share_a_mean_curve_with_thin_lines_and_a_band(loaded):
    figure = draw(figures_curves.roc_figure, loaded, group_seeds=True)
    (axes,) = figure.axes
    tables = [predictions(seed) for seed in (0, 1)]
    labels, models = tables[0]["covid"], [table["covid_probability"] for table in tables]
    mean = np.mean([reference.roc_auc_score(labels, model) for model in models])
    (line,) = [
        x for x in axes.lines if x.get_label().startswith(f"LA-DNN, resnet18, 2 seeds: mean AUC {mean:.3f}")
    ]
    band = curves.roc_band(labels, models, tables[0]["patient"], **OPTIONS)
    assert line.get_xydata()[0].tolist() == [0, 0]
    np.testing.assert_allclose(line.get_xydata()[1:], np.stack([band.x, band.y], axis=1))
    thin = [line for line in axes.lines if line.get_linewidth() < 1]
    for line, model in zip(thin, models, strict=True):
        x, y, _ = reference.roc_curve(labels, model, drop_intermediate=False)
        np.testing.assert_allclose(line.get_xydata(), np.stack([x, y], axis=1))
    assert len(axes.collections) == 2
    (path,) = axes.collections[0].get_paths()
    assert {tuple(row) for row in np.stack([band.x, band.low], axis=1)} <= {tuple(row) for row in path.vertices}
    assert {tuple(row) for row in np.stack([band.x, band.high], axis=1)} <= {tuple(row) for row in path.vertices}
    points = [line for line in axes.lines if "each seed's threshold" in line.get_label()]
    assert [len(line.get_xdata()) for line in points] == [2]


def test_precision_recall_is_drawn_in_steps_down_to_the_prevalence(loaded):
    figure = draw(figures_curves.precision_recall_figure, loaded, group_seeds=False)
    (axes,) = figure.axes
    lines = lines_of(axes)
    assert set(lines["chance (prevalence 0.50)"].get_ydata()) == {0.5}
    table = predictions(0)
    average = reference.average_precision_score(table["covid"], table["covid_probability"])
    (label,) = [
        x for x in lines if x.startswith(f"LA-DNN, resnet18 (ladnn_seed0): average precision {average:.3f}")
    ]
    x, y = lines[label].get_data()
    assert ((np.diff(x) == 0) | (np.diff(y) == 0)).all()
    assert np.trapezoid(y, x) == pytest.approx(average)
    assert (x[0], x[-1], y[-1]) == (0, 1, 0.5)


def test_more_lines_than_colours_are_refused(loaded):
    many = [figures_runs.Line(str(number), "ladnn", ("ladnn_seed0",)) for number in range(8)]
    tables = figures_runs.read_tables(loaded, "test")
    with pytest.raises(ValueError, match="at most 7 curves that can be told apart, got 8"):
        figures_curves.roc_figure(many, loaded, tables, "test", **OPTIONS)


def test_labels_tell_experiments_of_one_kind_apart(folders, tmp_path):
    other = write_run(tmp_path / "longer", epochs=99)
    drawn = figures_runs.lines(figures_runs.load_runs([*folders, other]), group_seeds=True)
    assert [line.label for line in drawn] == [
        "LA-DNN, resnet18, 2 seeds (ladnn_seed0 ...)",
        "baseline, resnet18",
        "LA-DNN, resnet18 (longer)",
    ]
    assert drawn[0].names == ("ladnn_seed0", "ladnn_seed1")


def test_runs_of_other_data_or_weights_are_no_seeds_of_one_experiment(folders, tmp_path):
    write_run(tmp_path / "data", seed=2, data="1")
    write_run(tmp_path / "weights", seed=3, weights="resnet18.npz (SHA-256 1)")
    drawn = figures_runs.lines(
        figures_runs.load_runs([folders[0], tmp_path / "data", tmp_path / "weights"]), group_seeds=True
    )
    assert [line.names for line in drawn] == [("ladnn_seed0",), ("data",), ("weights",)]


def test_a_seed_is_counted_once_and_a_copy_is_refused(folders, tmp_path):
    write_run(tmp_path / "seed0 again")
    again = figures_runs.load_runs([folders[0], tmp_path / "seed0 again"])
    (line,) = figures_runs.lines(again, group_seeds=True)
    assert line.label == "LA-DNN, resnet18, 2 runs of 1 seed"
    more = figures_runs.load_runs([*folders[:2], tmp_path / "seed0 again"])
    assert figures_runs.lines(more, group_seeds=True)[0].label == "LA-DNN, resnet18, 3 runs of 2 seeds"
    copy = shutil.copytree(folders[0], tmp_path / "copy")
    for group_seeds in (True, False):
        with pytest.raises(ValueError, match="ladnn_seed0 and copy hold the same model"):
            figures_runs.lines(figures_runs.load_runs([folders[0], copy]), group_seeds=group_seeds)


def test_folders_of_the_same_name_are_named_with_those_above(folders, tmp_path):
    for group in ("a", "b"):
        write_run(tmp_path / group / "seed0")
    assert list(figures_runs.load_runs([tmp_path / "a/seed0", tmp_path / "b/seed0"])) == ["a_seed0", "b_seed0"]
    with pytest.raises(ValueError, match="given twice"):
        figures_runs.load_runs([folders[0], folders[1], f"{folders[1]}/../ladnn_seed0"])


def test_reliability_is_drawn_before_and_after_the_temperature(loaded):
    table = predictions(0)
    figure = figures_curves.reliability_figure("ladnn_seed0", loaded["ladnn_seed0"], table, "test", **OPTIONS)
    axes, below = figure.axes
    before = calibrated_probabilities(table["covid_logit"], 1.0)
    for text, probabilities in (("before", before), ("after it (temperature 2.00)", table["covid_probability"])):
        (line,) = [line for line in axes.lines if line.get_label().startswith(text)]
        found = curves.reliability(table["covid"], probabilities, table["patient"], **OPTIONS)
        np.testing.assert_allclose(line.get_xydata(), np.stack([found.probability, found.share], axis=1))
        brier = reference.brier_score_loss(table["covid"], probabilities)
        assert f"Brier score {brier:.3f} [" in line.get_label()
        assert "ECE" in line.get_label()
    limits = [segment[:, 1].tolist() for segment in axes.collections[1].get_segments()]
    np.testing.assert_allclose(limits, np.stack([found.low, found.high], axis=1))
    assert sum(np.histogram(before, np.arange(21) / 20)[0]) == 60
    assert below.get_ylabel() == "images"
    assert "6 bins of 10 to 10 images" in texts(figure)


@pytest.mark.parametrize("name", ["ladnn_seed0", "baseline"])
def test_training_curves_show_the_history_and_the_best_epoch(loaded, name):
    run = loaded[name]
    figure = figures_training.training_figure(name, run, figures_runs.read_history(run.folder))
    lines = [lines_of(axes) for axes in figure.axes]
    assert lines[2]["diagnosis, validation"].get_xydata().tolist() == [[1, 0.6], [2, 0.8], [3, 0.7]]
    assert lines[1]["training, with weight decay"].get_ydata().tolist() == [3, 2, 1.5]
    assert ("lesions, training" in lines[0]) == ("diagnosis, training" in lines[0]) == (name != "baseline")
    assert all(set(panel["best epoch: 2"].get_xdata()) == {2} for panel in lines)
    assert "20 images of 10 patients, 9 with COVID-19; best epoch by covid_loss" in texts(figure)


def test_training_loss_without_decay_in_it_is_not_said_to_have_it(tmp_path):
    run = figures_runs.load_runs([write_run(tmp_path / "run", decoupled_decay=True)])["run"]
    figure = figures_training.training_figure("run", run, history("ladnn"))
    assert "training" in lines_of(figure.axes[1])
    with pytest.raises(ValueError, match=r"best epoch of card\.json is 2, but history\.csv has 1 epochs"):
        figures_training.training_figure("run", run, history("ladnn")[:1])


def test_pair_plot_holds_each_pair_of_logits_by_class(loaded):
    table = predictions(0)
    figure = figures_lesions.lesion_pairs_figure("ladnn_seed0", loaded["ladnn_seed0"], table, "test", **OPTIONS)
    assert len(figure.axes) == 15
    covid = table["covid"] == 1
    pair = figure.axes[6 + 2]  # the rows below the diagonal's: 1, 2, 3, 4 panels; this is the fourth row's third
    other, positive = (collection.get_offsets() for collection in pair.collections)
    expected = table[["CrPa_logit", "AirBr_logit"]].to_numpy()
    np.testing.assert_allclose(positive, expected[covid])
    np.testing.assert_allclose(other, expected[~covid])
    labels = [text.get_text() for text in figure.axes[-1].get_xticklabels()]
    assert figure.axes[-1].get_xticks()[labels.index("50 %")] == 0
    auc = reference.roc_auc_score(table["covid"], table["InSepThi_logit"])
    assert figure.axes[-1].get_title().startswith(f"AUC {auc:.2f} [")
    heights = figure.axes[-1].patches
    for patch, chosen in ((heights[0], covid), (heights[2], ~covid)):
        shares, edges, _ = patch.get_data()
        np.testing.assert_allclose(shares, np.histogram(table.loc[chosen, "InSepThi_logit"], edges)[0] / 30)
    words = texts(figure).replace("\n", " ")
    assert all(name in words for name in LESION_NAMES.values())
    assert "COVID-19: 30 images" in words
    assert "learnt on COVID-19 images alone" in words


def test_pair_plot_of_lesions_learnt_on_all_images_has_no_caveat(tmp_path):
    run = figures_runs.load_runs([write_run(tmp_path / "run", lesion_targets="all")])["run"]
    figure = figures_lesions.lesion_pairs_figure("run", run, predictions(0), "test", **OPTIONS)
    assert "COVID-19 images alone" not in texts(figure).replace("\n", " ")


@pytest.fixture
def frame():
    """Nine rows of a manifest; the comment is the number of lesions, or where a negative's bar is."""
    unknown = [np.nan] * 5
    rows = [
        ("train", 1, [1, 1, 0, 0, 0], "covid19", ""),  # 2
        ("test", 1, [1, 1, 1, 0, 0], "covid19", ""),  # 3
        ("train", 1, [1, 0, 0, 0, 0], "covid19", ""),  # 1
        ("train", 1, [0, 0, 0, 0, 0], "covid19", ""),  # 0
        ("validation", 1, [1, np.nan, 0, 0, 0], "covid19", ""),  # unknown, though one is there
        ("train", 1, unknown, "covid19", ""),  # unknown
        ("train", 0, [1, 1, 1, 1, 1], "viral", "covid_ct/medpix/17"),  # a negative's lesions do not count
        ("test", 0, unknown, "", "covid_ct/medpix/18"),
        ("test", 0, unknown, "", ""),
    ]
    table = pd.DataFrame(
        [(s, c, d, source) for s, c, _, d, source in rows], columns=["split", "covid", "diagnosis", "source"]
    )
    table[list(LESIONS)] = np.array([lesions for _, _, lesions, _, _ in rows], float)
    return table.assign(patient=[f"p{row // 2}" for row in range(9)])


def test_lesions_are_counted_and_unknown_ones_are_not_none(frame):
    counts = figures_manifest.lesion_counts(frame)
    assert counts.sum(axis=1).to_dict() == {"0": 1, "1": 1, "2": 1, "3": 1, "4": 0, "5": 0, "unknown": 2}
    assert counts.loc["unknown"].to_dict() == {"train": 1, "validation": 1, "test": 0}
    (axes,) = figures_manifest.lesion_counts_figure(frame).axes
    assert sum(bar.get_height() for bar in axes.patches) == 6
    assert [text.get_text() for text in axes.texts] == ["1", "1", "1", "1", "0", "0", "2"]
    assert axes.get_title() == "6 COVID-19 images of 3 patients"


def test_concordance_counts_images_with_both(frame):
    together = figures_manifest.concordance(frame)
    assert together[:3, :3].tolist() == [[4, 2, 1], [2, 2, 1], [1, 1, 1]]
    assert not together[3:].any()
    assert (together == together.T).all()
    (axes,) = figures_manifest.concordance_figure(frame).axes
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert (len(cells), cells[0, 0], cells[1, 0], cells[0, 1], cells[4, 4]) == (25, "4", "2", "2", "0")
    assert "5 COVID-19 images, lesions known," in axes.get_title()


def test_negatives_are_counted_by_diagnosis_then_by_source(frame):
    counts = figures_manifest.negatives(frame)
    expected = {"viral": 1, "not stated: covid_ct/medpix": 1, "not stated: no source": 1}
    assert counts.sum(axis=1).to_dict() == expected
    assert counts.index[0] == "viral"
    (axes,) = figures_manifest.negatives_figure(frame).axes
    assert {label.get_text() for label in axes.get_yticklabels()} == set(expected)
    assert sum(bar.get_width() for bar in axes.patches) == 3
    assert axes.get_title() == "3 COVID-19-negative images of 2 patients"


def test_small_sources_share_the_last_bar():
    sizes = [9, 8, 7, 6, 5, 4, 3, 2]
    sources = [f"d/{number}" for number, size in enumerate(sizes) for _ in range(size)]
    frame = pd.DataFrame({"covid": 0, "diagnosis": "", "split": "train", "source": sources})
    counts = figures_manifest.negatives(frame)
    assert counts["train"].tolist() == [9, 8, 7, 6, 5, 4, 5]
    assert counts.index[-1] == "not stated: 2 smaller sources"
    seven = figures_manifest.negatives(frame[frame["source"] != "d/7"])
    assert seven["train"].tolist() == sizes[:7]
    assert seven.index[-1] == "not stated: d/6"


@pytest.mark.parametrize("covid", [0, 1])
def test_manifests_of_one_class_can_be_drawn(frame, covid):
    assert len(figures_manifest.figure3(frame[frame["covid"] == covid]).axes) == 3


def test_figure_3_of_the_phantoms_holds_the_manifests_sums(phantom_manifest):
    rows = read_manifest(phantom_manifest)
    figure = figures_manifest.figure3(rows)
    first, second, third = figure.axes
    assert sum(bar.get_height() for bar in first.patches) == rows["covid"].sum()
    assert second.texts[0].get_text() == str(int((rows.loc[rows["covid"] == 1, "GGO"] == 1).sum()))
    assert sum(bar.get_width() for bar in third.patches) == (rows["covid"] == 0).sum()
    assert max(bar.get_y() + bar.get_height() for bar in first.patches) == max(
        int(t.get_text()) for t in first.texts
    )
    assert max(bar.get_x() + bar.get_width() for bar in third.patches) == max(
        int(t.get_text()) for t in third.texts
    )
    assert [axes.get_title()[:4] for axes in figure.axes] == ["(a) ", "(b) ", "(c) "]
    assert [text.get_text() for text in first.get_legend().get_texts()] == list(SPLITS)


@pytest.fixture
def given(folders, phantom_manifest):
    """The command's arguments for an LA-DNN, a baseline and a manifest."""
    return [f"--run={folder}" for folder in folders[1:]] + [f"--manifest={phantom_manifest}", "--resamples=100"]


def test_command_writes_all_figures(given, tmp_path, capsys):
    assert run_main(*given, f"--out={tmp_path}", "--formats=png") == 0
    expected = {"roc", "precision_recall", "lesion_counts", "concordance", "negatives", "figure3"}
    expected |= {f"{kind}_{name}" for kind in ("reliability", "training") for name in ("ladnn_seed1", "baseline")}
    expected.add("lesion_pairs_ladnn_seed1")
    assert {file.name for file in tmp_path.iterdir()} == {f"{name}.png" for name in expected}
    printed = capsys.readouterr().out
    assert "no lesion_pairs of baseline: a baseline has no lesion outputs" in printed
    assert f"written: {tmp_path / 'roc.png'}" in printed


def test_a_seed_gives_the_same_bytes_twice(given, tmp_path):
    for out, seed in (("one", 3), ("two", 3), ("other", 4)):
        assert run_main(*given, f"--out={tmp_path / out}", "--only=roc,negatives", f"--seed={seed}") == 0
    files = {out: {file.name: file.read_bytes() for file in (tmp_path / out).iterdir()} for out in ("one", "two")}
    assert set(files["one"]) == {"roc.png", "roc.pdf", "negatives.png", "negatives.pdf"}
    assert files["one"] == files["two"]
    assert (tmp_path / "other" / "roc.png").read_bytes() != files["one"]["roc.png"]


def test_only_and_formats_choose_and_the_manifest_needs_no_run(phantom_manifest, tmp_path):
    assert (
        run_main(f"--manifest={phantom_manifest}", f"--out={tmp_path}", "--only=negatives", "--formats=png") == 0
    )
    assert [file.name for file in tmp_path.iterdir()] == ["negatives.png"]


def test_training_curves_need_no_predictions(folder, tmp_path):
    (folder / "predictions_test.csv").unlink()
    assert run_main(f"--run={folder}", f"--out={tmp_path / 'out'}", "--only=training", "--formats=png") == 0
    with pytest.raises(ValueError, match=r"make it by python -m ladnn_tf\.evaluate --run=.* --split=test"):
        run_main(f"--run={folder}", f"--out={tmp_path / 'new'}", "--only=roc")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out=x"], "give --run=FOLDER, --manifest=FILE or both"),
        (["--out=x", "--run=a", "--only=roc,rocks"], "--only should be of roc, .* Received: 'rocks'"),
        (["--out=x", "--run=a", "--only=negatives"], "--only=negatives needs --manifest"),
        (["--out=x", "--manifest=a", "--only=roc"], "--only=roc needs --run"),
        (["--out=x", "--run=a", "--formats=svg"], "--formats should be of png, pdf. Received: 'svg'"),
        (["--out=x", "--run=a", "--formats="], "--formats should name at least one"),
        (["--run=a"], "out"),
    ],
)
def test_wrong_command_lines_are_usage_errors(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_main(*arguments)
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_lesion_pairs_of_baselines_alone_are_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="baseline learnt the diagnosis alone"):
        run_main(f"--run={folders[2]}", f"--out={tmp_path / 'out'}", "--only=lesion_pairs")
    assert not (tmp_path / "out").exists()


def test_out_that_is_a_file_is_an_error(folders, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        run_main(f"--run={folders[0]}", f"--out={tmp_path / 'file'}")
    assert (tmp_path / "file").read_text() == "kept"


def test_runs_on_different_images_are_refused(folders, folder):
    path = folder / "predictions_test.csv"
    table = pd.read_csv(path)
    loaded = figures_runs.load_runs([folders[0], folder])
    table.iloc[::-1].to_csv(path, index=False)  # another order is no difference
    tables = figures_runs.read_tables(loaded, "test")
    assert tables["run"]["image"].tolist() == tables["ladnn_seed0"]["image"].tolist()
    table[1:].to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"different images \(1 are in one of them alone, such as '0\.png'\)"):
        figures_runs.read_tables(loaded, "test")
    table.assign(covid=1 - table["covid"]).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"disagree about the covid of image '0\.png'"):
        figures_runs.read_tables(loaded, "test")
    table.assign(patient="one").to_csv(path, index=False)
    with pytest.raises(ValueError, match="disagree about the patient"):
        figures_runs.read_tables(loaded, "test")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda table: table.drop(columns="GGO_logit"), "lacks the columns GGO_logit"),
        (lambda table: pd.concat([table, table[:1]]), "lists '0.png' twice"),
        (lambda table: table.assign(covid=2), "label should be 0 or 1"),
        (lambda table: table.assign(covid_logit="x"), "could not convert"),
        (lambda table: table.assign(CrPa_logit=[*[0.0] * 59, np.inf]), "outputs of image '59.png'"),
        (lambda table: table.assign(CrPa_logit=[*[0.0] * 59, ""]), "could not convert string to float"),
        (lambda table: table.assign(covid_logit=3.0), "temperature of this run's card"),
    ],
)
def test_damaged_predictions_are_named_with_the_way_to_make_them(folder, damage, message):
    path = folder / "predictions_test.csv"
    damage(predictions(0)).to_csv(path, index=False)
    with pytest.raises(ValueError, match=message) as error:
        figures_runs.read_tables(figures_runs.load_runs([folder]), "test")
    assert str(path) in str(error.value)
    assert f"--run={folder} --split=test" in str(error.value)


@pytest.mark.parametrize("content", [b"", b'image,patient\n"a', b"\xff\xfe,\n", b"image\na,b,c\n\nd,e,f,g\n"])
def test_files_that_are_no_csv_are_named(folder, content):
    run = figures_runs.load_runs([folder])
    for name, read in (
        ("predictions_test.csv", lambda: figures_runs.read_tables(run, "test")),
        ("history.csv", lambda: figures_runs.read_history(folder)),
    ):
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="val_auc"), "lacks the columns val_auc"),
        (lambda table: table.assign(loss=["a", "b", "c"]), "column loss holds something other than numbers"),
        (lambda table: table[1:], "epochs should be 1, 2, 3"),
        (lambda table: table[:0], "history.csv is damaged"),
    ],
)
def test_damaged_histories_are_named(folder, change, message):
    change(history("ladnn")).to_csv(folder / "history.csv", index=False)
    with pytest.raises(ValueError, match=message):
        figures_runs.read_history(folder)
    (folder / "history.csv").unlink()
    with pytest.raises(ValueError, match=r"there is no .*history\.csv"):
        figures_runs.read_history(folder)


def test_damaged_cards_and_unfinished_runs_are_refused(folder, tmp_path):
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "threshold": 7}))
    with pytest.raises(ValueError, match="threshold should be a probability"):
        run_main(f"--run={folder}", f"--out={tmp_path / 'out'}")
    (folder / "card.json").unlink()
    with pytest.raises(ValueError, match="not a finished run"):
        run_main(f"--run={folder}", f"--out={tmp_path / 'out'}")
