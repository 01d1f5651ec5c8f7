"""A person's answer from a series: slices, lungs, aggregation, what is left out, and the answer in words."""

import json
import math

import numpy as np
import pytest
import series_fakes
from conftest import REPOSITORY
from series_fakes import LUNG, NO_LUNG, Predictor

from ladnn_tf import person, series, series_answer, series_text
from ladnn_tf.card import NOTICE, PersonRule, Window
from ladnn_tf.data.phantom_anatomy import sample_patient
from ladnn_tf.data.phantom_slice import draw_slice


@pytest.fixture
def lungs_by_hand(monkeypatch):
    monkeypatch.setattr(series.lungs, "find_lungs", series_fakes.find_lungs)


def rule(aggregation="mean", threshold=0.45):
    return PersonRule(aggregation, threshold, "by hand", patients=24, positives=11)


def answer(predictor, values, **options):
    return series.answer_series(series_fakes.volume(values), predictor, **options)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, []),
        (1, [0]),
        (15, list(range(15))),
        (16, list(range(15))),
        (31, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28]),
        (40, [0, 2, 5, 8, 10, 13, 16, 18, 21, 24, 26, 29, 32, 34, 37]),
    ],
)
def test_equidistant_slices(count, expected):
    assert series.choose_slices(count, "equidistant") == expected


def test_all_slices():
    assert series.choose_slices(300, "all") == list(range(300))
    with pytest.raises(ValueError, match=r"equidistant, all\. Received: 'some'"):
        series.choose_slices(3, "some")


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [("mean", 0.4), ("noisy_or", 1 - 0.8 * 0.4 * 0.3 * 0.9), ("top_k_mean", 0.5)],
)
@pytest.mark.usefixtures("lungs_by_hand")
def test_the_card_s_rule_makes_the_answer(aggregation, expected):
    slices = [0.2, 0.6, 0.7, 0.1]
    found = answer(Predictor(slices, person=rule(aggregation)), [LUNG] * 4)
    assert found.covid == pytest.approx(expected)
    assert (found.positive, found.aggregation, found.threshold) == (expected >= 0.45, aggregation, 0.45)
    assert (found.low, found.high) == person.slice_interval(np.array(slices), aggregation)
    assert found.suspicious == (2, 1, 0)
    assert [each.answer.covid for each in found.answered] == slices
    assert (found.reason, found.count, found.classes) == ("", 4, {})


@pytest.mark.usefixtures("lungs_by_hand")
def test_the_call_is_made_at_the_threshold_or_above():
    assert answer(Predictor([0.5], person=rule(threshold=0.5)), [LUNG]).positive
    assert not answer(Predictor([0.5], person=rule(threshold=0.51)), [LUNG]).positive


@pytest.mark.usefixtures("lungs_by_hand")
def test_a_card_without_a_rule_for_persons_is_the_mean_at_the_slices_threshold():
    found = answer(Predictor([0.2, 0.6, 0.7], threshold=0.55), [LUNG] * 3)
    assert found.covid == pytest.approx(0.5)
    assert (found.positive, found.aggregation, found.threshold) == (False, "mean", 0.55)
    assert "chosen for single slices, as this model's card has no rule for persons" in series_text.rule(found)


@pytest.mark.usefixtures("lungs_by_hand")
def test_a_slice_without_lungs_is_left_out_and_not_shown_to_the_model():
    predictor = Predictor([0.2, 0.6])
    found = answer(predictor, [LUNG, NO_LUNG, LUNG])
    assert [each.reason for each in found.slices] == ["", "no lungs", ""]
    assert [each.index for each in found.answered] == [0, 2]
    assert found.slices[1].answer is None
    assert found.covid == pytest.approx(0.4)
    assert found.suspicious == (2, 0)
    assert [len(batch) for batch in predictor.batches] == [2]


def test_without_the_check_nobody_looks_for_lungs(monkeypatch):
    monkeypatch.setattr(series.lungs, "find_lungs", None)
    found = answer(Predictor([0.2, 0.6]), [NO_LUNG, LUNG], check_lungs=False)
    assert found.covid == pytest.approx(0.4)
    assert not found.lungs_checked


@pytest.mark.usefixtures("lungs_by_hand")
def test_what_the_predictor_refuses_is_left_out():
    refused = {"abstained": True, "reason": "too smooth"}
    found = answer(Predictor([0.9, refused, {"error": "no finite number"}, 0.1]), [LUNG] * 4)
    assert found.covid == pytest.approx(0.5)
    assert [each.reason for each in found.slices] == [
        "",
        "not taken for a chest-CT slice: too smooth",
        "no answer: no finite number",
        "",
    ]
    assert found.suspicious == (0, 3)


@pytest.mark.usefixtures("lungs_by_hand")
def test_all_refused_is_no_answer_with_counts_by_reason():
    predictor = Predictor([{"abstained": True, "reason": "too smooth"}], person=rule())
    found = answer(predictor, [NO_LUNG, LUNG, NO_LUNG])
    assert (found.covid, found.low, found.high, found.positive) == (None, None, None, None)
    assert (found.suspicious, found.answered, found.classes) == ((), (), {})
    assert found.reason == (
        "all 3 slices that were looked at had to be left out: 2 of them no lungs; 1 of them not taken for a "
        "chest-CT slice: too smooth"
    )
    text = series_text.format_series("scan", found)
    assert f"no answer: {found.reason[:40]}" in text
    assert "COVID-19:" not in text
    record = json.loads(json.dumps(series_text.series_record("scan", found), allow_nan=False))
    assert (record["covid"], record["positive"], record["reason"]) == (None, None, found.reason)
    assert (found.failed, record["error"], record["abstained"]) == (False, "", True)


@pytest.mark.usefixtures("lungs_by_hand")
def test_where_the_model_failed_at_a_slice_and_none_is_answered_that_is_an_error():
    answers = [{"abstained": True, "reason": "too smooth"}, {"error": "no finite number"}]
    found = answer(Predictor(answers), [LUNG, NO_LUNG, LUNG])
    assert [each.failed for each in found.slices] == [False, False, True]
    assert found.failed
    record = series_text.series_record("scan", found)
    assert (record["covid"], record["reason"]) == (None, "")
    assert record["error"].startswith("all 3 slices that were looked at had to be left out: ")
    assert record["abstained"] is False
    assert "1 of them no answer: no finite number" in record["error"]
    part = answer(Predictor([0.5, {"error": "no finite number"}]), [LUNG] * 2)
    assert (part.failed, series_text.series_record("scan", part)["error"]) == (False, "")


def test_no_slices_at_all():
    found = answer(Predictor([]), [])
    assert (found.covid, found.reason) == (None, "the series has no slices")


@pytest.mark.usefixtures("lungs_by_hand")
def test_one_slice_has_no_interval():
    found = answer(Predictor([0.3]), [LUNG])
    assert (found.covid, found.low, found.high, found.suspicious) == (0.3, None, None, (0,))
    assert series_text.probability(found) == "0.300 (no interval: one slice), mean over the slices"
    assert "the only slice had to be left out: 1 of them no lungs" in answer(Predictor([]), [NO_LUNG]).reason


@pytest.mark.usefixtures("lungs_by_hand")
def test_classes_are_means_over_the_answered_slices():
    answers = [series_fakes.drenet(covid, [[0, 0, 1, 1]], [0.5]) for covid in (0.2, 0.6)]
    predictor = Predictor(answers, task="drenet", classes=series_fakes.CLASSES)
    found = answer(predictor, [LUNG, NO_LUNG, LUNG])
    assert found.classes == pytest.approx({"covid19": 0.4, "bacterial": 0.3, "normal": 0.3})
    words = "COVID-19 0.400, bacterial pneumonia 0.300, healthy 0.300 (means over the slices, not calibrated)"
    assert words in series_text.format_series("scan", found)


@pytest.mark.usefixtures("lungs_by_hand")
def test_a_long_series_is_answered_in_parts_and_in_order():
    predictor = Predictor([number / 100 for number in range(40)])
    found = answer(predictor, [LUNG] * 40, slices="all")
    assert [len(batch) for batch in predictor.batches] == [16, 16, 8]
    assert [each.answer.covid for each in found.slices] == [number / 100 for number in range(40)]
    assert found.suspicious == (39, 38, 37)
    assert found.choice == "all"


@pytest.mark.usefixtures("lungs_by_hand")
def test_of_equal_slices_the_first_is_the_most_suspicious():
    assert answer(Predictor([0.5, 0.7, 0.5, 0.5, 0.5]), [LUNG] * 5).suspicious == (1, 0, 2)


@pytest.mark.usefixtures("lungs_by_hand")
def test_slices_are_shown_in_the_card_s_window():
    predictor = Predictor([0.1, 0.1], window=Window(level=-500.0, width=1000.0))
    found = answer(predictor, [-750.0, -1200.0])
    assert [np.unique(image).tolist() for image in predictor.batches[0]] == [[64], [0]]  # 255 / 4 = 63.75
    pixels = found.slices[0].pixels
    assert (pixels.shape, pixels.dtype, pixels.strides[-1]) == ((8, 8, 3), np.uint8, 0)
    assert series_text.window(found) == "level -500 HU, width 1000 HU"


@pytest.mark.usefixtures("lungs_by_hand")
def test_a_model_of_extracted_lungs_is_shown_the_lungs_alone():
    """The predictor itself extracts them from the whole slice; the picture of the answer has them alone, too."""
    predictor = Predictor([0.1], lungs="extracted")
    found = answer(predictor, [LUNG, NO_LUNG], check_lungs=False)
    assert [image.shape for image in predictor.batches[0]] == [(8, 8, 3)]
    assert found.slices[0].pixels.shape == (4, 4, 3)
    assert found.slices[1].reason == "no lungs"  # whatever is to be checked: it is shown nothing else
    assert found.lungs_checked
    assert "were not left out" not in series_text.format_series("scan", found)


def test_real_lungs_are_found_in_a_drawn_chest_and_none_in_tissue():
    patient = sample_patient(np.random.default_rng(1), np.random.default_rng(2))
    chest = draw_slice(patient, (), level=0.5, seed=3, size=256).hu
    hu = np.stack([chest, np.full_like(chest, 40.0)]).astype(np.float32)
    found = series.answer_series(series_fakes.volume([0, 0], hu=hu, spacing_mm=(5.0, 1.4, 1.4)), Predictor([0.3]))
    assert (found.slices[0].reason, found.slices[0].answer.covid) == ("", 0.3)
    assert found.slices[1].reason


def test_reasons_that_differ_in_numbers_are_one():
    texts = [
        "lungs are 4% of the body",
        "",
        "noise",
        "lungs are 3.5% of the body",
        "noise",
        "lungs are 4% of the body",
    ]
    slices = [series_answer.SliceAnswer(0, "", None, text, np.zeros((1, 1, 3), np.uint8)) for text in texts]
    assert series_answer.reasons(slices) == [(3, "such as: lungs are 4% of the body"), (2, "noise")]


@pytest.mark.usefixtures("lungs_by_hand")
def test_the_answer_in_words():
    predictor = Predictor([0.2, 0.7, 0.6], person=rule())
    scan = series_fakes.volume(
        [LUNG, NO_LUNG, LUNG, LUNG], report=("one duplicate was left out",), files=("a", "b", "c\x1b", "d")
    )
    found = series.answer_series(scan, predictor)
    low, high = person.slice_interval([0.2, 0.7, 0.6], "mean")
    assert series_text.format_series("scans/7", found).splitlines() == [
        "scans/7, series 2 (CHEST)",
        "  read: 4 slices, 1.25 mm apart, pixels of 0.7 x 0.7 mm",
        "    one duplicate was left out",
        "  answered: 3 of 4 slices that were looked at",
        "    left out 1, no lungs",
        f"  COVID-19: 0.500 ({low:.3f} to {high:.3f}), mean over the slices: positive",
        "    The answer rests on few slices: 3 answered of 4 that were looked at.",
        "  rule: positive from 0.450; chosen on 24 persons of validation, 11 of them with COVID-19: by hand",
        "  window: level -600 HU, width 1500 HU",
        "  most suspicious slices:",
        "    0.700  slice 3 of 4  c\\x1b",
        "    0.600  slice 4 of 4  d",
        "    0.200  slice 1 of 4  a",
    ]
    notes = series_text.format_notes(predictor.card, answered=True)
    assert "which slices were looked at" in notes
    assert notes.endswith(NOTICE)
    assert "slices" not in series_text.format_notes(predictor.card, answered=False)


@pytest.mark.usefixtures("lungs_by_hand")
def test_the_words_for_pictures_and_for_a_choice():
    found = series.answer_series(series_fakes.pictures(30, name="7"), Predictor([0.5] * 30), check_lungs=False)
    lines = series_text.format_series("scans/7", found).splitlines()
    assert lines[0] == "scans/7"
    assert lines[1] == "  read: 30 slices; display pictures, not in Hounsfield units"
    assert lines[2].startswith(
        "  answered: 15 of 15 slices that were looked at, equidistant among 30; slices without"
    )
    assert "  window: that of the display pictures" in lines
    assert "0.500 (no interval: all slices alike)" in lines[3]


@pytest.mark.usefixtures("lungs_by_hand")
def test_the_record_is_json_without_nan():
    answers = [series_fakes.drenet(0.25, [[-0.1, 0, 0.5, 0.5]], [0.875]), {"error": "broken"}]
    predictor = Predictor(answers, task="drenet", classes=series_fakes.CLASSES, person=rule(threshold=0.125))
    found = series.answer_series(series_fakes.pictures(2, files=("a", "\udcff")), predictor)
    record = series_text.series_record("scan", found, "scan.png")
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert (record["covid"], record["low"], record["positive"]) == (0.25, None, True)
    assert (record["aggregation"], record["threshold"], record["rule"]) == ("mean", 0.125, "by hand")
    assert (record["validation_patients"], record["validation_positives"]) == (24, 11)
    assert (record["spacing_mm"], record["window"], record["suspicious"]) == ([None] * 3, None, [1])
    assert (record["slices_answered"], record["slices_in_series"], record["panel"]) == (1, 2, "scan.png")
    first, second = record["slices"]
    assert first["boxes"] == [[-0.1, 0.0, 0.5, 0.5]]
    assert (first["scores"], first["classes"]["normal"], first["reason"]) == ([0.875], 0.375, "")
    assert second == {"number": 2, "file": "\udcff", "covid": None, "reason": "no answer: broken"}


def test_the_documentation_names_every_field():
    answers = [series_fakes.drenet(0.25, [[0, 0, 0.5, 0.5]], [0.875])]
    predictor = Predictor(answers, task="drenet", classes=series_fakes.CLASSES)
    record = series_text.series_record("scan", series.answer_series(series_fakes.pictures(1), predictor))
    text = (REPOSITORY / "docs" / "series.md").read_text(encoding="utf-8")
    fields = {*record, *record["slices"][0], *series_text.document(predictor.card, [])} - {"series"}
    assert [field for field in sorted(fields) if f"`{field}`" not in text] == []


def test_the_record_of_a_failure_has_the_same_beginnings():
    record = series_text.failure_record("scan", "cannot be read", Predictor([]))
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert (record["path"], record["error"], record["covid"], record["slices"]) == (
        "scan",
        "cannot be read",
        None,
        [],
    )
    complete = series_text.series_record("scan", answer(Predictor([]), []))
    assert set(record) <= set(complete)
    assert math.isfinite(complete["threshold"])
