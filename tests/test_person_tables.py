import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from ladnn_tf import intervals, person_tables, person_tables_text, published_drenet
from ladnn_tf.calibration import calibrated_probabilities
from ladnn_tf.card import Card, PersonRule, write_card
from ladnn_tf.config import TrainConfig
from ladnn_tf.files import file_sha256
from ladnn_tf.labels import CLASSES, LESIONS
from ladnn_tf.person_comparison import check_cards
from ladnn_tf.person_comparison import person_tables as work_out

TWO = ("covid19", "bacterial")
TITLES = {"a": "a (drenet, resnet18)", "b": "b (trunk, resnet18)"}


def card(name="a", classes=TWO, task="drenet", **changes):
    fields = {
        "name": name,
        "task": task,
        "backbone": "resnet18",
        "weights": "none",
        "normalisation": {"mean": [0.0] * 3, "std": [1.0] * 3},
        "image_size": 64,
        "temperature": 1.0,
        "threshold": 0.35,
        "threshold_rule": "by hand",
        "manifest": {"file": "cohort.csv", "sha256": "1" * 64},
        "model_sha256": "2" * 64,
        "weights_sha256": "3" * 64,
        "best_epoch": 1,
        "metrics": {},
        "versions": {},
        "revision": "",
        "classes": classes,
    }
    return Card(**fields | changes)


def predictions(persons=30, slices=3, seed=0, classes=TWO, better=1.0):
    generator = np.random.default_rng(seed)
    kind = np.repeat(np.arange(persons) % len(classes), slices)
    scores = generator.normal(size=(len(kind), len(classes))) + better * np.eye(len(classes))[kind]
    scores += np.repeat(generator.normal(size=(persons, len(classes))), slices, axis=0)
    softmax = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    table = pd.DataFrame({"image": [f"{row}.png" for row in range(len(kind))]})
    table["patient"] = [f"p{row // slices:02d}" for row in range(len(kind))]
    table["source"], table["diagnosis"] = "phantom", np.array(classes)[kind]
    table["sex"], table["age"], table["covid"] = "", np.nan, (kind == 0).astype(int)
    table = table.assign(**dict.fromkeys(LESIONS, np.nan))
    table["covid_logit"] = np.log(softmax[:, 0]) - np.log(1 - softmax[:, 0])
    table["covid_probability"] = calibrated_probabilities(table["covid_logit"], 1.0)
    for column, name in enumerate(classes):
        table[f"{name}_probability"] = softmax[:, column]
    return table


def test_table_1_by_hand():
    """Means over two slices: 0.8 and 0.45 of COVID-19, 0.6 and 0.2 of the others."""
    table = pd.DataFrame(
        {
            "patient": ["a", "a", "b", "b", "c", "c", "d", "d"],
            "diagnosis": ["covid19"] * 4 + ["bacterial"] * 4,
            "covid": [1] * 4 + [0] * 4,
            "covid_probability": [0.9, 0.7, 0.6, 0.3, 0.8, 0.4, 0.3, 0.1],
        }
    )
    table = table.assign(covid19_probability=table["covid_probability"])
    table = table.assign(bacterial_probability=1 - table["covid_probability"])
    rule = PersonRule("noisy_or", 0.7, "noisy-or, by hand", 12, 6)
    found = work_out({"a": card(person=rule)}, {"a": table}, "test", resamples=100)
    assert found.patients == {"covid19": 2, "bacterial": 2}
    paper, own = (block.rows["a"] for block in found.blocks)
    # At 0.5: a is found, b is not, c is a false positive, d is right.
    values = {name: interval.value for name, interval in paper.items()}
    assert values == pytest.approx(
        {"auc": 3 / 4, "recall": 1 / 2, "precision": 1 / 2, "specificity": 1 / 2, "f1": 1 / 2, "accuracy": 1 / 2}
    )
    # Noisy-or: 0.97 and 0.72 against 0.88 and 0.37; at 0.7 both are found, and c is called, too.
    values = {name: interval.value for name, interval in own.items()}
    assert values == pytest.approx(
        {"auc": 3 / 4, "recall": 1, "precision": 2 / 3, "specificity": 1 / 2, "f1": 4 / 5, "accuracy": 3 / 4}
    )
    assert tuple(values) == published_drenet.METRICS["two"]
    assert (own["recall"].low, own["recall"].high) == intervals.wilson_interval(2, 2)
    assert found.blocks[1].rules == {"a": "0.7000: noisy-or, by hand"}
    assert found.blocks[0].differences == {}


def test_a_run_without_a_rule_is_cut_at_its_slices_threshold():
    table = predictions()
    found = work_out({"a": card()}, {"a": table}, "test", resamples=50).blocks[1]
    mean = table.groupby("patient")["covid_probability"].mean()
    truth = table.groupby("patient")["covid"].max()
    assert found.rows["a"]["recall"].value == pytest.approx(reference.recall_score(truth, mean >= 0.35))
    assert "no rule for persons was chosen" in found.rules["a"]


def test_differences_are_the_first_run_minus_each_other_on_the_same_persons():
    cards = {"a": card(), "b": card("b", task="trunk"), "c": card("c", task="trunk")}
    tables = {"a": predictions(better=3), "b": predictions(seed=1), "c": predictions(better=3)}
    shuffled = tables["b"].sample(frac=1, random_state=0)
    found = work_out(cards, tables, "test", resamples=300)
    again = work_out(cards, tables | {"b": shuffled}, "test", resamples=300)
    for block, other in zip(found.blocks, again.blocks, strict=True):
        assert list(block.differences) == ["b", "c"]
        for name, difference in block.differences["b"].items():
            rows = block.rows
            assert difference.difference == pytest.approx(rows["a"][name].value - rows["b"][name].value)
            assert difference.difference == pytest.approx(other.differences["b"][name].difference)
        auc = block.differences["b"]["auc"]
        assert 0 < auc.low < auc.difference < auc.high
        assert auc.p < 0.05
        # The same answers: no difference in any resample, and so no interval of zero width.
        assert {(each.difference, each.low, each.p) for each in block.differences["c"].values()} == {
            (0, None, None)
        }


def test_table_2_beside_scikit_learn():
    cards = {"a": card(classes=CLASSES), "b": card("b", classes=CLASSES, task="trunk")}
    tables = {name: predictions(60, seed=seed, classes=CLASSES) for seed, name in enumerate("ab")}
    found = work_out(cards, tables, "test", resamples=300)
    assert found.patients == {"covid19": 20, "bacterial": 20, "normal": 20}
    (block,) = found.blocks
    for name, table in tables.items():
        persons = table.groupby("patient")
        truth = persons["diagnosis"].first()
        columns = [f"{each}_probability" for each in CLASSES]
        called = np.array(CLASSES)[persons[columns].mean().to_numpy().argmax(axis=1)]
        row = {metric: interval.value for metric, interval in block.rows[name].items()}
        assert tuple(row) == published_drenet.METRICS["three"]
        assert row["accuracy"] == pytest.approx(reference.accuracy_score(truth, called))
        for metric in ("recall", "precision", "f1"):
            score = getattr(reference, f"{metric}_score")
            assert row[metric] == pytest.approx(score(truth, called, average="macro")), metric
        others = [reference.recall_score(truth != each, called != each) for each in CLASSES]
        assert row["specificity"] == pytest.approx(np.mean(others))
        assert all(interval.low < interval.value < interval.high for interval in block.rows[name].values())
    assert block.differences["b"]["f1"].p <= 1


def test_only_the_accuracy_has_an_interval_where_all_persons_are_right():
    table = predictions(30, classes=CLASSES)
    for name in CLASSES:
        table[f"{name}_probability"] = (table["diagnosis"] == name).astype(float)
    found = work_out({"a": card(classes=CLASSES)}, {"a": table}, "test", resamples=50).blocks[0].rows["a"]
    assert {name: interval.value for name, interval in found.items()} == dict.fromkeys(found, 1.0)
    assert (found["accuracy"].low, found["accuracy"].high) == intervals.wilson_interval(30, 30)
    # A mean over classes is no share; above all no precision over the 30 persons.
    assert {found[name].low for name in found if name != "accuracy"} == {None}


def test_the_paper_s_numbers_stand_below_ours():
    tables = {"a": predictions(), "b": predictions(seed=1)}
    cards = {"a": card(sources=("phantoms",)), "b": card("b", task="trunk")}
    found = work_out(cards, tables, "validation", resamples=50)
    lines = person_tables_text.to_markdown(found, TITLES).splitlines()
    assert lines[0] == "# Table 1: COVID-19 against bacterial pneumonia, by person"
    assert "Validation split: 30 patients (15 COVID-19, 15 bacterial pneumonia)." in lines
    assert "|  | AUC | recall | precision | specificity | F1 | accuracy |" in lines
    assert lines.count("| paper: DRE-Net | 0.95 | 0.96 | 0.79 | 0.77 | 0.87 | 0.86 |") == 2
    assert "| paper: VGG16 | 0.91 | 0.89 | 0.80 | 0.80 | 0.84 | 0.84 |" in lines
    recall = found.blocks[0].rows["a"]["recall"]
    row = next(line for line in lines if line.startswith("| a (drenet, resnet18) |"))
    assert row.split(" | ")[2].startswith(f"{recall.value:.2f} [{recall.low:.2f}, {recall.high:.2f}]")
    assert "|  | a minus b |" in lines
    auc = found.blocks[0].differences["b"]["auc"]
    row = next(line for line in lines if line.startswith(f"| AUC | {auc.difference:+.3f} ["))
    assert row.endswith(f"p {auc.p:.3f} |")
    assert any("The slices are drawn (phantoms)" in line for line in lines)
    assert any("its F1 is (precision + recall) / 2" in line for line in lines)


@pytest.mark.parametrize(
    ("classes", "title", "published"),
    [
        (CLASSES, "Table 2: COVID-19, bacterial pneumonia, healthy, by person", True),
        (("covid19", "normal"), "Table 1: COVID-19 against healthy, by person", False),
        ((), "Table 1: COVID-19 against anything else, by person", False),
    ],
)
def test_other_classes_as_text(classes, title, published):
    table = predictions(30, classes=classes or TWO)
    task = "drenet" if classes else "ladnn"
    found = work_out({"a": card(classes=classes, task=task)}, {"a": table}, "test", resamples=50)
    text = person_tables_text.to_text(found, TITLES)
    assert text.splitlines()[0] == title
    assert ("paper: DRE-Net" in text) == published
    assert ("The paper has no table of these classes." in text) == (not published)
    assert "minus" not in text
    assert "|" not in text


def test_stars_are_escaped_in_markdown_alone():
    found = work_out({"a": card()}, {"a": predictions(better=20)}, "test", resamples=50)
    assert "]\\* |" in person_tables_text.to_markdown(found, TITLES)
    assert "\\" not in person_tables_text.to_text(found, TITLES)


def test_the_paper_s_table_2_is_read_row_by_row():
    found = published_drenet.published(CLASSES)
    assert found["DenseNet"] == {
        "recall": 0.88,
        "precision": 0.89,
        "specificity": 0.88,
        "f1": 0.88,
        "accuracy": 0.88,
    }
    assert set(found["DRE-Net"].values()) == {0.93}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"manifest": {"file": "other.csv", "sha256": "9" * 64}},
            "other data: cohort.csv .*111.* other.csv .*999",
        ),
        (
            {"classes": CLASSES},
            "a and b tell other classes apart: covid19, bacterial, and covid19, bacterial, normal",
        ),
        ({"classes": (), "task": "baseline"}, "covid19, bacterial, and COVID-19 from the rest"),
    ],
)
def test_runs_of_other_data_or_classes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check_cards({"a": card(), "b": card("b", **change)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda table: table.query("patient != 'p03'"),
            "a and b were evaluated on other persons: 1 are in .*'p03'",
        ),
        (lambda table: table.assign(covid=table["covid"].mask(table["patient"] == "p02", 0)), "person 'p02'"),
        (
            lambda table: table.assign(diagnosis=table["diagnosis"].mask(table["patient"] == "p04", "normal")),
            "a and b disagree about the label of person 'p04'",
        ),
        (lambda table: table.drop(columns="bacterial_probability"), "of b lack the columns bacterial_probability"),
    ],
)
def test_tables_of_other_persons_are_refused(change, message):
    table = predictions()
    with pytest.raises(ValueError, match=message):
        work_out({"a": card(), "b": card("b")}, {"a": table, "b": change(table)}, "test")


def finished_run(folder, model, seed, **changes):
    """A run's folder as `train` and `evaluate` leave it; its network is a few bytes."""
    folder.mkdir()
    settings = TrainConfig(model=model, classes=",".join(TWO), backbone="resnet18", image_size=64)
    (folder / "config.flags").write_text(settings.to_flags())
    (folder / "model.keras").write_bytes(folder.name.encode())
    made = card(folder.name, task=model, model_sha256=file_sha256(folder / "model.keras"), **changes)
    write_card(made, folder / "card.json")
    predictions(seed=seed).to_csv(folder / "predictions_test.csv", index=False)
    return folder


def test_the_command_prints_and_writes_the_tables(tmp_path, capsys):
    one, other = (finished_run(tmp_path / name, name, seed) for seed, name in enumerate(("drenet", "trunk")))
    out = tmp_path / "tables.md"
    arguments = [f"--run={one}", f"--run={other}", f"--out={out}", "--resamples=100"]
    assert person_tables.main(["person_tables", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "drenet (drenet, resnet18)" in printed
    assert "drenet minus trunk" in printed
    assert printed.endswith(f"written: {out}\n")
    expected = work_out(
        {"drenet": card(), "trunk": card(task="trunk")},
        {name: predictions(seed=seed) for seed, name in enumerate(("drenet", "trunk"))},
        "test",
        resamples=100,
    )
    titles = {name: f"{name} ({name}, resnet18)" for name in ("drenet", "trunk")}
    assert out.read_text() == person_tables_text.to_markdown(expected, titles)


def test_the_command_says_which_run_is_of_other_data(tmp_path):
    one = finished_run(tmp_path / "drenet", "drenet", 0)
    other = finished_run(tmp_path / "trunk", "trunk", 1, manifest={"file": "other.csv", "sha256": "9" * 64})
    with pytest.raises(ValueError, match="drenet and trunk were trained on other data"):
        person_tables.main(["person_tables", f"--run={one}", f"--run={other}"])
    (other / "card.json").unlink()
    with pytest.raises(ValueError, match="not a finished run"):
        person_tables.main(["person_tables", f"--run={one}", f"--run={other}"])
    (one / "predictions_test.csv").unlink()
    with pytest.raises(ValueError, match=r"no .*predictions_test\.csv"):
        person_tables.main(["person_tables", f"--run={one}"])
    with pytest.raises(SystemExit):
        person_tables.main(["person_tables"])
