"""The measures of the shortcut audit, by hand."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ladnn_tf import shortcuts
from ladnn_tf.intervals import Interval

OPTIONS = {"resamples": 200, "seed": 0, "level": 0.95}


def table(covid, probability, source="covid_ct/a", patient=None):
    n = len(covid)
    patient = [str(i) for i in range(n)] if patient is None else patient
    return pd.DataFrame({"patient": patient, "source": source, "covid": covid, "probability": probability})


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
    assert nothing["against_chance"] == shortcuts.TOO_FEW
    one_class = shortcuts.altered_against_unchanged(before, np.array([0.9, 0.4, np.nan, np.nan, 0.2]), OPTIONS)
    assert one_class["auc"]["value"] is None
    assert one_class["excess_left"] is None


@pytest.mark.parametrize("before", [[0.2, 0.3, 0.8, 0.9], [0.5, 0.5, 0.5, 0.5]])
def test_no_share_is_left_of_an_unchanged_auc_that_is_not_above_one_half(before):
    """Altered: 3 of 4 pairs; unchanged: 0 of 4 (a share of -0.5), or all tied (a division by nothing)."""
    found = shortcuts.altered_against_unchanged(
        table([1, 1, 0, 0], before), np.array([0.9, 0.4, 0.5, 0.2]), OPTIONS
    )
    assert found["auc"]["value"] == 0.75
    assert found["excess_left"] is None


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
    assert shortcuts.against_chance(Interval(0.7, low, high), table([1] * 5 + [0] * 5, [0.5] * 10)) == expected


@pytest.mark.parametrize("few", [0, 1])
def test_there_is_no_verdict_on_fewer_than_five_patients_of_a_class(few):
    """Twelve images of a class, but of four patients, against twelve patients of the other."""
    frame = table(
        [few] * 12 + [1 - few] * 12, [0.5] * 24, patient=[f"a{i % 4}" for i in range(12)] + [*map(str, range(12))]
    )
    for auc in (Interval(0.9, 0.8, 0.95), Interval(0.1, 0.05, 0.2), Interval(1.0), Interval(0.0)):
        assert shortcuts.against_chance(auc, frame) == shortcuts.TOO_FEW
    fifth = frame.assign(patient=[f"a{i % 5}" for i in range(12)] + [*map(str, range(12))])
    assert shortcuts.against_chance(Interval(0.9, 0.8, 0.95), fifth) == shortcuts.SHOWN
    assert shortcuts.against_chance(Interval(0.5), fifth) == shortcuts.UNJUDGED


@pytest.mark.parametrize(("patients", "shown"), [(8, False), (10, True)])
def test_a_perfect_order_is_judged_by_counting_patients(patients, shown):
    """4 and 4 patients are too few, 5 and 5 are not. Five images each change nothing."""
    covid = np.repeat([1, 0], 5 * patients // 2)
    names = np.repeat([str(i) for i in range(patients)], 5)
    right = table(covid, covid * 0.8 + 0.1, patient=names)
    auc = shortcuts.auc_interval(right, OPTIONS)
    assert auc.value == 1.0
    assert shortcuts.against_chance(auc, right) == (shortcuts.SHOWN if shown else shortcuts.TOO_FEW)
    wrong = right.assign(probability=1 - right["probability"])
    reversed_auc = shortcuts.auc_interval(wrong, OPTIONS)
    expected = shortcuts.REVERSED if shown else shortcuts.TOO_FEW
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
    assert shortcuts.count_sources(frame) == {"all": 2, "with_both_classes": 1, "images_without": 2}


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
