"""The table's figures and its text."""

import csv
import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED
from sklearn.metrics import roc_auc_score

from ladnn_tf import delong, published_table2, report, table2, table2_text

OPTIONS = {"resamples": 200, "seed": 1}
TITLES = {"resnet18": "ResNet-18", "vgg16": "VGG-16", "densenet169": "DenseNet-169", "tiny": "tiny"}


def predictions(seed, shift=1.0, images=60, patients=25):
    """A table of predictions; the images, labels and patients are always the same."""
    generator = np.random.default_rng(99)
    labels = generator.integers(0, 2, images)
    patient = generator.integers(0, patients, images)
    logits = shift * (labels - 0.5) + np.random.default_rng(seed).normal(size=images)
    frame = pd.DataFrame({"image": [f"{i}.png" for i in range(images)], "patient": patient, "covid": labels})
    return frame.assign(covid_logit=logits, covid_probability=1 / (1 + np.exp(-logits)))


def small(probabilities):
    """Four patients with one image each: two with COVID-19, two without."""
    images = {"image": list("abcd"), "patient": list("abcd"), "covid": [1, 1, 0, 0]}
    return pd.DataFrame({**images, "covid_probability": probabilities})


@pytest.fixture(scope="module")
def grid():
    """Both networks, three seeds; LA-DNN is better."""
    return {
        ("d0", "resnet18", "baseline"): {seed: predictions(seed) for seed in range(3)},
        ("d0", "resnet18", "ladnn"): {seed: predictions(seed + 10, shift=2.5) for seed in range(3)},
    }


def rows_of(predictions, datasets=("d0",), backbones=("resnet18",), **options):
    rows = table2.table_rows(predictions, datasets, backbones, **OPTIONS | options)
    return {(row.metric, row.dataset, row.backbone): row for row in rows}


def test_the_paper_s_figures():
    path = SHARED / "facts" / "table2.csv"
    if not path.is_file():
        pytest.skip("../shared is not on this machine")
    names = {"EfficientNet-b0": "efficientnet_b0", "EfficientNet-b1": "efficientnet_b1"}
    with path.open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 28
    for line in lines:
        backbone = names.get(line["backbone"], line["backbone"].lower().replace("-", ""))
        for dataset in ("d0", "d0d1"):
            for task in ("baseline", "ladnn"):
                found = published_table2.published(line["metric"], backbone, dataset, task)
                assert found == float(line[f"{dataset}_{task}"]), line


def test_some_of_the_paper_s_figures_and_none_of_others():
    """As the paper prints them."""
    assert published_table2.published("auc", "densenet169", "d0", "ladnn") == 91.2
    assert published_table2.published("sensitivity", "vgg16", "d0d1", "ladnn") == 88.8
    assert published_table2.published("auc", "tiny", "d0", "ladnn") is None
    assert published_table2.published("auc", "vgg16", "d0_source", "ladnn") is None


def test_means_by_hand():
    """Seed 0 finds both positives and calls one of the negatives: sensitivity 1, accuracy 3/4, F1 4/5, AUC 3/4.
    Seed 1 finds one and calls none: sensitivity 1/2, accuracy 3/4, F1 2/3, AUC 1/2."""
    seeds = {0: small([0.9, 0.5, 0.6, 0.1]), 1: small([0.8, 0.1, 0.2, 0.3])}
    rows = rows_of({("d0", "resnet18", "ladnn"): seeds})
    for metric, mean, sd in (
        ("sensitivity", 75, 100 * np.sqrt(0.125)),
        ("auc", 62.5, 100 * np.sqrt(0.03125)),
        ("f1", 100 * (4 / 5 + 2 / 3) / 2, 100 * (4 / 5 - 2 / 3) / np.sqrt(2)),
        ("accuracy", 75, 0),
    ):
        row = rows[metric, "d0", "resnet18"]
        assert (row.ladnn.seeds, row.ladnn.mean, row.ladnn.sd) == (2, pytest.approx(mean), pytest.approx(sd))
        assert (row.images, row.patients, row.positives) == (4, 4, 2)
        assert row.baseline is None
        assert row.difference is None


def test_one_seed_is_what_evaluate_says():
    table = predictions(0).assign(source="", sex="", age=np.nan, **dict.fromkeys(report.LESIONS, np.nan))
    rows = rows_of({("d0", "resnet18", "baseline"): {4: table}})
    options = {"threshold": 0.3, "temperature": 1.0, "threshold_rule": "", **OPTIONS}
    expected = report.evaluate_predictions(table, **options)["covid"]
    for metric in published_table2.METRICS:
        interval = expected["auc"] if metric == "auc" else expected["at_0.5"][metric]
        value = rows[metric, "d0", "resnet18"].baseline
        limits = [100 * interval[name] for name in ("value", "low", "high")]
        assert [value.mean, value.low, value.high] == pytest.approx(limits)
        assert value.sd is None


def test_the_interval_is_of_the_mean_over_seeds(grid):
    """Drawn here image by image, the metrics by their definitions."""
    tables = list(grid["d0", "resnet18", "ladnn"].values())
    labels = tables[0]["covid"].to_numpy()
    scores = np.stack([table["covid_probability"] for table in tables])
    by_patient = [np.flatnonzero(tables[0]["patient"] == name) for name in tables[0]["patient"].unique()]
    generator, means = np.random.default_rng(5), []
    for _ in range(1500):
        drawn = np.concatenate([by_patient[i] for i in generator.integers(0, len(by_patient), len(by_patient))])
        positive, negative = scores[:, drawn[labels[drawn] == 1]], scores[:, drawn[labels[drawn] == 0]]
        auc = (positive[:, :, None] > negative[:, None, :]).mean(axis=(1, 2))
        found, false = (positive >= 0.5).sum(axis=1), (negative >= 0.5).sum(axis=1)
        f1 = 2 * found / (found + false + positive.shape[1])
        means.append((auc.mean(), f1.mean()))
    rows = rows_of(grid, resamples=1500)
    for metric, expected in zip(("auc", "f1"), np.quantile(means, [0.025, 0.975], axis=0).T, strict=True):
        value = rows[metric, "d0", "resnet18"].ladnn
        assert [value.low, value.high] == pytest.approx(100 * expected, abs=1.0)


def test_the_difference_is_paired_over_patients_and_seeds(grid):
    rows = rows_of(grid)
    row = rows["auc", "d0", "resnet18"]
    ours, theirs = (list(grid["d0", "resnet18", task].values()) for task in ("ladnn", "baseline"))
    labels, patients = ours[0]["covid"], ours[0]["patient"]
    scores = [table["covid_probability"] for table in (*ours, *theirs)]
    aucs = [roc_auc_score(labels, score) for score in scores]
    assert row.difference.mean == pytest.approx(100 * (np.mean(aucs[:3]) - np.mean(aucs[3:])))
    assert row.difference.low < row.difference.mean < row.difference.high
    expected = delong.auc_contrast(labels, scores, patients, np.repeat([1, -1], 3)).p
    assert row.difference.p_delong == pytest.approx(expected)
    assert row.difference.p < 0.05
    assert rows["f1", "d0", "resnet18"].difference.p_delong is None
    assert row.paper_difference == 5.2
    same = {("d0", "resnet18", task): grid["d0", "resnet18", "ladnn"] for task in ("baseline", "ladnn")}
    twin = rows_of(same)["auc", "d0", "resnet18"].difference
    assert (twin.mean, twin.low, twin.high, twin.p, twin.p_delong) == (0, None, None, None, None)


def test_the_difference_takes_the_seeds_that_both_have(grid):
    part = dict(grid)
    part["d0", "resnet18", "baseline"] = {seed: grid["d0", "resnet18", "baseline"][seed] for seed in (2, 1)}
    row = rows_of(part)["accuracy", "d0", "resnet18"]
    both = {key: {seed: tables[seed] for seed in (1, 2)} for key, tables in grid.items()}
    expected = rows_of(both)["accuracy", "d0", "resnet18"]
    assert (row.baseline.seeds, row.ladnn.seeds, row.difference.seeds) == (2, 3, 2)
    assert row.difference.mean == pytest.approx(expected.difference.mean)
    assert row.difference.mean != pytest.approx(row.ladnn.mean - row.baseline.mean, abs=1e-3)


def test_the_order_of_images_does_not_matter_but_other_images_do(grid):
    shuffled = {key: dict(tables) for key, tables in grid.items()}
    table = shuffled["d0", "resnet18", "ladnn"][1]
    shuffled["d0", "resnet18", "ladnn"][1] = table.sample(frac=1, random_state=0)
    assert rows_of(shuffled) == rows_of(grid)
    for change, message in (
        (table.iloc[1:], "ladnn seed 1 was tested on other images"),
        (pd.concat([table, table.iloc[:1]]), "other images"),
        (table.assign(covid=1 - table["covid"]), r"another covid for image '0\.png'"),
        (table.assign(patient=table["patient"] // 2), "another patient"),
    ):
        shuffled["d0", "resnet18", "ladnn"][1] = change
        with pytest.raises(ValueError, match=message):
            rows_of(shuffled)


def test_what_is_undefined_is_none_and_does_not_crash():
    one_class = small([0.9, 0.5, 0.6, 0.1]).assign(covid=1)
    runs = {("d0", "tiny", task): {0: one_class, 1: one_class} for task in ("baseline", "ladnn")}
    rows = rows_of(runs, backbones=("tiny",))
    auc = rows["auc", "d0", "tiny"]
    assert (auc.ladnn.mean, auc.ladnn.sd, auc.difference.mean, auc.difference.p_delong) == (None,) * 4
    text = table2_text.to_markdown(list(rows.values()), TITLES, 2, **OPTIONS)
    assert "| AUC | n/a [n/a] | - | n/a [n/a] | - | n/a [n/a] | n/a | - |" in text
    one_patient = {key: {0: small([0.9, 0.5, 0.6, 0.1]).assign(patient="a")} for key in runs}
    row = rows_of(one_patient, backbones=("tiny",))["auc", "d0", "tiny"]
    assert (row.ladnn.mean, row.ladnn.low, row.difference.p, row.difference.p_delong) == (75, None, None, None)


def test_the_table_of_one_backbone(grid):
    rows = rows_of(grid)
    text = table2_text.to_markdown(list(rows.values()), TITLES, 4, **OPTIONS)
    lines = text.splitlines()
    assert lines[0] == "# Table 2: ResNet-18"
    assert "D0: 60 images of" in lines[2]
    row = rows["auc", "d0", "resnet18"]
    cells = next(line for line in lines if line.startswith("| AUC")).strip("| ").split(" | ")
    assert cells[1] == f"{row.baseline.mean:.1f} [{row.baseline.low:.1f}, {row.baseline.high:.1f}] (3 of 4 seeds)"
    assert (cells[2], cells[4], cells[7]) == ("83.0", "88.2", "+5.2")
    assert cells[5].startswith(f"{row.difference.mean:+.1f} [{row.difference.low:+.1f}, ")
    assert cells[6] == f"{row.difference.p:.3f} ({'<0.001' if row.difference.p_delong < 0.001 else '?'})"
    assert "200 resamples, seed 1" in text
    assert "without correction" in text


def test_the_table_of_several_backbones_has_the_paper_s_four_blocks(grid):
    rows = rows_of(grid, datasets=("d0", "d0d1", "mine"), backbones=("vgg16", "resnet18"))
    text = table2_text.to_markdown(list(rows.values()), TITLES, 3, **OPTIONS)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Table 2",
        "## Sensitivity",
        "## AUC",
        "## F1",
        "## Accuracy",
    ]
    block = text.split("## AUC\n\n")[1].splitlines()
    assert block[0].startswith("| backbone | D0 baseline | D0 LA-DNN | D0 difference | D0 p | D0+D1 baseline |")
    assert "| mine baseline |" in block[0]
    assert block[2] == (
        "| VGG-16 | - (paper 81.3) | - (paper 89.8) | - (paper +8.5) | - | "
        "- (paper 92.7) | - (paper 94.0) | - (paper +1.3) | - | - | - | - | - |"
    )
    assert block[3].startswith(f"| ResNet-18 | {rows['auc', 'd0', 'resnet18'].baseline.mean:.1f} [")
    assert {line.count("|") for line in block[:4]} == {14}


def test_a_grid_without_a_run_says_so():
    rows = list(rows_of({}).values())
    assert table2_text.to_markdown(rows, TITLES, 3, **OPTIONS) == "No run of this grid is finished yet.\n"
    assert len(pd.read_csv(io.StringIO(table2_text.to_csv(rows, 3)))) == 4


def test_the_csv_has_every_figure(grid):
    rows = rows_of(grid, backbones=("resnet18", "vgg16"))
    table = pd.read_csv(io.StringIO(table2_text.to_csv(list(rows.values()), 3)))
    assert len(table) == 8
    line = table.set_index(["metric", "backbone"]).loc["auc", "resnet18"]
    row = rows["auc", "d0", "resnet18"]
    assert line["ladnn_mean"] == pytest.approx(row.ladnn.mean, abs=1e-6)
    assert line["baseline_sd"] == pytest.approx(row.baseline.sd, abs=1e-6)
    assert line["difference_high"] == pytest.approx(row.difference.high, abs=1e-6)
    assert line["difference_p_delong"] == pytest.approx(row.difference.p_delong, abs=1e-6)
    assert (line["ladnn_seeds"], line["seeds_wanted"], line["difference_paper"]) == (3, 3, 5.2)
    assert np.isnan(line["threshold"])
    vgg = table.set_index(["metric", "backbone"]).loc["f1", "vgg16"]
    assert (vgg["baseline_paper"], vgg["threshold"], vgg["test_images"]) == (74.8, 0.5, 0)
    assert np.isnan(vgg["baseline_mean"])


def test_the_csv_keeps_small_p_values(grid):
    row = rows_of(grid)["auc", "d0", "resnet18"]
    tiny = dataclasses.replace(row, difference=dataclasses.replace(row.difference, p=1e-7, p_delong=2.5e-10))
    table = pd.read_csv(io.StringIO(table2_text.to_csv([tiny], 3)))
    assert (table["difference_p"][0], table["difference_p_delong"][0]) == (1e-7, 2.5e-10)


def test_one_patient_per_class_gives_no_interval_of_the_difference_and_no_p():
    """Whichever of the two patients are drawn, LA-DNN is right about all images and the baseline about none."""
    tables = {"ladnn": [0.9, 0.9, 0.1, 0.1], "baseline": [0.1, 0.1, 0.9, 0.9]}
    both = {
        ("d0", "tiny", task): {0: small(probabilities).assign(patient=list("aabb"))}
        for task, probabilities in tables.items()
    }
    rows = rows_of(both, backbones=("tiny",))
    difference = rows["accuracy", "d0", "tiny"].difference
    assert (difference.mean, difference.low, difference.high, difference.p) == (100, None, None, None)
    text = table2_text.to_markdown(list(rows.values()), TITLES, 1, **OPTIONS)
    assert "| Accuracy | 0.0 [n/a] | - | 100.0 [n/a] | - | +100.0 [n/a] | n/a | - |" in text
