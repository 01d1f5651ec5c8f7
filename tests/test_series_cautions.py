"""What must be known of a person's answer beside its call: in text, record and picture, and on the page."""

# ruff: noqa: RUF001 (Chinese has its own punctuation)

import numpy as np
import pytest
import series_fakes
from page_views import card, shown_series
from series_fakes import CLASSES, LUNG, NO_LUNG, Predictor

from ladnn_tf import series, series_panel, series_text
from ladnn_tf.card import PersonRule
from ladnn_tf.series_cautions import cautions
from serving.page.reasons import reason_in
from serving.page.words import words_of

FEW = "The answer rests on few slices: {} answered of {} that were looked at."
OTHER_NUMBER = "The threshold was chosen on persons with about {} each; here {} answered."


@pytest.fixture(autouse=True)
def _lungs_by_hand(monkeypatch):
    monkeypatch.setattr(series.lungs, "find_lungs", series_fakes.find_lungs)


def answered(answers, left_out=0, chosen=0, how="all", **changes):
    """A person's answer from slices, of which others are left out; `chosen`: images per person of validation."""
    rule = PersonRule("mean", 0.5, "by hand", patients=24, positives=11, slices=chosen)
    predictor = Predictor(answers, **({"person": rule} | changes))
    scan = series_fakes.volume([LUNG] * len(answers) + [NO_LUNG] * left_out)
    return series.answer_series(scan, predictor, slices=how)


def of_classes(*shares):
    return {"covid": shares[0], "classes": dict(zip(CLASSES, shares, strict=True))}


@pytest.mark.parametrize(
    ("count", "left_out", "few"),
    [(4, 0, True), (5, 0, False), (5, 10, False), (5, 11, True), (1, 0, True), (4, 8, True)],
)
def test_fewer_than_five_slices_or_than_a_third_are_few(count, left_out, few):
    expected = (FEW.format(count, count + left_out),) if few else ()
    assert cautions(answered([0.7] * count, left_out)) == expected


@pytest.mark.parametrize(
    ("count", "chosen", "images", "slices"),
    [
        (15, 2, "2 images", "15 slices were"),
        (15, 7, "7 images", "15 slices were"),
        (15, 8, "", ""),
        (15, 30, "", ""),
        (15, 31, "31 images", "15 slices were"),
        (15, 0, "", ""),
        (5, 1, "1 image", "5 slices were"),
    ],
)
def test_another_number_of_slices_than_the_threshold_was_chosen_on(count, chosen, images, slices):
    expected = (OTHER_NUMBER.format(images, slices),) if images else ()
    assert cautions(answered([0.7] * count, chosen=chosen)) == expected


def test_a_card_without_a_rule_for_persons_has_no_such_number():
    assert cautions(answered([0.7] * 15, person=None)) == ()


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        ((0.6, 0.3, 0.1), ""),
        ((0.2, 0.3, 0.5), ""),
        ((0.3, 0.4, 0.3), "The call is positive, but the most probable class is bacterial pneumonia."),
        ((0.3, 0.3, 0.4), "The call is positive, but the most probable class is healthy."),
        ((0.4, 0.4, 0.2), ""),  # of equal ones the first
    ],
)
def test_a_most_probable_class_that_contradicts_the_call(shares, sentence):
    rule = PersonRule("mean", 0.25, "by hand", 24, 11)
    found = answered([of_classes(*shares)] * 5, task="trunk", classes=CLASSES, person=rule)
    assert found.positive == (shares[0] >= 0.25)
    assert cautions(found) == ((sentence,) if sentence else ())


def test_a_negative_call_beside_covid_19():
    rule = PersonRule("mean", 0.7, "by hand", 24, 11)
    found = answered([of_classes(0.6, 0.3, 0.1)] * 5, task="trunk", classes=CLASSES, person=rule)
    assert cautions(found) == ("The call is negative, but the most probable class is COVID-19.",)


def test_without_an_answer_there_is_none():
    assert cautions(answered([], left_out=3, chosen=9)) == ()


def test_text_record_and_picture_have_all_of_them():
    rule = PersonRule("mean", 0.25, "by hand", 24, 11, slices=1)
    slices = [of_classes(0.3, 0.6, 0.1)] * 3
    found = answered(slices, left_out=7, task="trunk", classes=CLASSES, person=rule)
    expected = [
        FEW.format(3, 10),
        OTHER_NUMBER.format("1 image", "3 slices were"),
        "The call is positive, but the most probable class is bacterial pneumonia.",
    ]
    lines = series_text.format_series("scan", found).splitlines()
    call = next(place for place, line in enumerate(lines) if line.startswith("  COVID-19: "))
    assert lines[call + 1 : call + 5] == [
        *(f"    {sentence}" for sentence in expected),
        "  most probable class: bacterial pneumonia",
    ]
    record = series_text.series_record("scan", found)
    assert (record["cautions"], record["most_probable_class"]) == (expected, "bacterial")
    assert record["validation_slices"] == 1
    notes = series_panel._notes(found)
    assert notes[:3] == [(sentence, series_panel._WARNING) for sentence in expected]
    assert "Most probable class: bacterial pneumonia. Classes: " in " ".join(text for text, _ in notes)


def test_a_model_without_classes_has_no_most_probable_one():
    found = answered([0.7] * 5)
    assert "most probable class" not in series_text.format_series("scan", found)
    assert "ost probable class" not in " ".join(text for text, _ in series_panel._notes(found))
    record = series_text.series_record("scan", found)
    assert (record["cautions"], record["most_probable_class"], record["validation_slices"]) == ([], "", None)


@pytest.mark.parametrize(("aggregation", "said"), [("top_k_mean", True), ("mean", False)])
def test_an_interval_that_reaches_to_lower_values_only_says_why(aggregation, said):
    """The three highest are alike, so that no draw is above them."""
    slices = [0.9, 0.9, 0.9, 0.1, 0.2]
    found = answered(slices, person=PersonRule(aggregation, 0.5, "by hand", 24, 11))
    assert (found.high <= found.covid + 1e-9) == said
    assert ("The interval reaches to lower values only" in series_text.format_series("scan", found)) == said


def test_an_interval_around_the_value_says_nothing():
    rule = PersonRule("noisy_or", 0.5, "by hand", 24, 11)
    found = answered([0.3, 0.1, 0.2, 0.05, 0.1], person=rule)
    assert found.high > found.covid
    assert "lower values only" not in series_text.format_series("scan", found)
    means = answered([1e-5, 2e-5, 3e-5, 4e-5, 5e-5])  # 0.000 (0.000 to 0.000): of a mean it would not be true
    assert means.high > means.covid
    assert "lower values only" not in series_text.format_series("scan", means)


# On the page


@pytest.mark.parametrize(
    ("sentence", "chinese"),
    [
        (FEW.format(3, 15), "所查看的 15 层中仅 3 层"),
        (OTHER_NUMBER.format("2 images", "15 slices were"), "每名患者约有 2 幅图像的数据上选定的；此处有 15 层"),
        (OTHER_NUMBER.format("1 image", "15 slices were"), "每名患者约有 1 幅图像的数据上选定的；此处有 15 层"),
        (OTHER_NUMBER.format("9 images", "1 slice was"), "每名患者约有 9 幅图像的数据上选定的；此处仅有 1 层"),
        (
            "The call is negative, but the most probable class is COVID-19.",
            "判为阴性，但概率最高的类别是 COVID-19",
        ),
        ("The call is positive, but the most probable class is bacterial pneumonia.", "细菌性肺炎"),
        ("The call is positive, but the most probable class is healthy.", "判为阳性，但概率最高的类别是健康"),
    ],
)
def test_the_page_knows_every_caution(sentence, chinese):
    assert reason_in(words_of("en"), sentence) == (sentence, "en")
    text, language = reason_in(words_of("zh"), sentence)
    assert chinese in text
    assert language == "zh"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_says_them_with_the_call(language):
    words = words_of(language)
    rule = PersonRule("mean", 0.46, "by hand", 24, 9, slices=1)
    of = card(task="drenet", classes=("covid19", "bacterial"), lesion_targets="", person=rule)
    classes = {"covid19": 0.47, "bacterial": 0.53}
    result = shown_series([0.47, 0.48, 0.46], language, of=of, boxes=True, classes=classes)
    assert result.positive
    told = [
        words("series.most_probable", name=words("class.bacterial")),
        reason_in(words, FEW.format(3, 3))[0],
        reason_in(words, OTHER_NUMBER.format("1 image", "3 slices were"))[0],
        words("reason.caution_bacterial"),
    ]
    call, *rest = result.sentence.partition(told[0])
    assert words("sentence.join").join(told) == "".join(rest)
    assert call.strip()
    plain = shown_series([0.5] * 6, language).sentence
    assert not [sentence for sentence in told if sentence in plain]


def test_cautions_are_of_numbers_as_they_are():
    """The mean of classes that NumPy has, and no answer at all."""
    found = shown_series([0.9] * 5, classes={"covid19": np.float64(0.2), "bacterial": np.float64(0.8)})
    assert words_of("en")("reason.caution_bacterial") in found.sentence
    assert shown_series(["none", "none"]).sentence == words_of("en")("series.no_answer")
