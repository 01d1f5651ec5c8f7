"""The gate's rules, each on a fake artefact with numbers worked out by hand; its evidence; its command."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from absl import flags
from parity_fakes import FakeArtefact, evidence, export_card, outputs, run_card, sample

from export import parity, parity_columns
from export.parity_compare import check_source, compare
from export.parity_evidence import load_evidence, select_evenly
from export.parity_tolerances import Tolerances
from ladnn_tf import runs
from ladnn_tf.card import PersonRule, Window
from ladnn_tf.data.manifest import read_manifest, write_manifest
from ladnn_tf.tflite_file import card_beside, read_card, with_card


def ranked(pairs_wrong: int = 0) -> np.ndarray:
    """Probabilities of ten positives, then ten negatives, of which so many of the 100 pairs are in wrong order.

    One positive is below the threshold, beside the highest negatives, so that the order changes and no decision.
    Each stands there five times: 50 images of each class, and the same hundredths of the AUC.
    """
    positives = np.linspace(0.6, 0.9, 10)
    negatives = np.linspace(0.05, 0.4, 10)
    positives[0] = 0.45
    negatives[10 - pairs_wrong :] = 0.46
    return np.repeat(np.concatenate([positives, negatives]), 5)


LABELS = np.repeat([1, 0], 50)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(parity_columns, "RESAMPLES", 50)


def verdict(reference, pixels, encoded=None, form="float32", labels=None, **options):
    labels = LABELS[: len(reference.covid)] if labels is None else labels
    artefact = FakeArtefact(pixels, pixels if encoded is None else encoded, form=form, **options)
    return compare(evidence(sample(labels, reference)), artefact)


def test_differences_are_those_of_the_probabilities_and_of_covid_alone():
    pixels = outputs([0.2005, 0.8])
    pixels.lesions[1, 3] += 0.0009
    comparison = verdict(outputs([0.2, 0.8]), pixels, outputs([0.2, 0.799]), labels=[0, 1])
    column = comparison.measured["same_pixels"]
    assert column["probability_difference"] == pytest.approx({"largest": 0.0009, "mean": 0.0014 / 12})
    assert column["covid_difference"] == pytest.approx({"largest": 0.0005, "mean": 0.00025})
    assert comparison.measured["encoded_bytes"]["covid_difference"]["largest"] == pytest.approx(0.001)
    assert comparison.fitness == "fit"
    assert comparison.reasons == ()


def test_maps_are_compared_relative_to_their_label_s_largest_value_over_all_images():
    reference, other = outputs([0.2, 0.8], maps=0.0), outputs([0.2, 0.8], maps=0.0)
    reference.maps[1, 0, 0, 0] = 10.0
    reference.maps[0, 0, 0, 1] = 0.1
    reference.maps[0, 0, 0, 2] = 1e-7  # no attention: compared as it is
    other.maps[...] = reference.maps
    other.maps[0, 0, 1, 0] = 0.02  # 0.002 of 10
    other.maps[1, 0, 0, 1] = 0.001  # 0.01 of 0.1
    other.maps[0, 0, 0, 2] = 0.0
    column = verdict(reference, other, labels=[0, 1]).measured["same_pixels"]["map_difference"]
    assert column["largest"] == pytest.approx(0.01, rel=1e-3)
    assert column["mean"] == pytest.approx((0.002 + 0.01) / 24, rel=1e-3)
    other.maps[0, 0, 0, 5] = 0.5  # where the reference has none at all
    column = verdict(reference, other, labels=[0, 1]).measured["same_pixels"]["map_difference"]
    assert column["largest"] == pytest.approx(0.5)


@pytest.mark.parametrize("what", ["covid", "lesions"])
@pytest.mark.parametrize(
    ("form", "column", "difference", "fitness"),
    [
        ("float32", "pixels", 0.0009, "fit"),
        ("float32", "pixels", 0.0011, "unfit"),
        ("float32", "encoded", 0.0029, "fit"),
        ("float32", "encoded", 0.0031, "unfit"),
        ("saved_model", "pixels", 0.0011, "unfit"),
        ("saved_model", "encoded", 0.0029, "fit"),
        ("float16", "pixels", 0.0049, "fit"),
        ("float16", "pixels", 0.0051, "unfit"),
        ("float16", "encoded", 0.0069, "fit"),
        ("float16", "encoded", 0.0071, "unfit"),
    ],
)
def test_floating_point_formats_are_judged_by_their_largest_difference(what, form, column, difference, fitness):
    same, off = outputs([0.2, 0.8]), outputs([0.2, 0.8])
    getattr(off, what).flat[0] += difference
    given = {"pixels": same, "encoded": same} | {column: off}
    comparison = verdict(same, **given, form=form, labels=[0, 1])
    assert comparison.fitness == fitness
    if fitness == "unfit":
        (reason,) = comparison.reasons
        assert reason.startswith("same pixels" if column == "pixels" else "encoded bytes")
        assert "probabilities" in reason


@pytest.mark.parametrize("form", ["saved_model", "float32", "float16"])
@pytest.mark.parametrize(("column", "title"), [("pixels", "same pixels"), ("encoded", "encoded bytes")])
def test_maps_of_floating_point_formats_have_a_tolerance_of_their_own(form, column, title):
    reference = outputs([0.2, 0.8], maps=4.0)
    for difference, reasons in (
        (0.019, ()),
        (0.021, (f"{title}: maps (relative) differ by up to 0.021, allowed are 0.02",)),
    ):
        off = outputs([0.2, 0.8], maps=4.0)
        off.maps.flat[0] += 4 * difference
        given = {"pixels": reference, "encoded": reference} | {column: off}
        assert verdict(reference, **given, form=form, labels=[0, 1]).reasons == reasons


@pytest.mark.parametrize("form", ["dynamic", "int8", "int8_mixed"])
def test_quantised_formats_are_judged_by_order_and_decisions(form):
    reference = outputs(ranked())
    moved = outputs(ranked() * 0.9 + 0.05, lesions=0.13, maps=1.04)
    assert verdict(reference, moved, form=form).fitness == "fit"
    assert verdict(reference, moved, form="float16").fitness == "unfit"


@pytest.mark.parametrize(("column", "title"), [("pixels", "same pixels"), ("encoded", "encoded bytes")])
def test_lesions_and_maps_of_quantised_formats_may_differ_by_their_mean(column, title):
    reference = outputs(ranked())  # lesions 0.1, maps 1; COVID-19 is one of six probabilities
    for changes, reasons in (
        ({"lesions": 0.159, "maps": 1.049}, ()),
        ({"lesions": 0.163}, (f"{title}: probabilities differ by 0.0525 on average, allowed are 0.05",)),
        ({"maps": 0.948}, (f"{title}: maps (relative) differ by 0.052 on average, allowed are 0.05",)),
    ):
        given = {"pixels": reference, "encoded": reference} | {column: outputs(ranked(), **changes)}
        assert verdict(reference, **given, form="int8").reasons == reasons


@pytest.mark.parametrize(("number", "fitness"), [(25, "fit"), (24, "unfit")])
def test_fifty_decisions_are_needed(number, fitness):
    labels = np.repeat([1, 0], number)
    answers = outputs(labels * 0.8 + 0.1)
    comparison = verdict(answers, answers, form="int8", labels=labels)
    assert comparison.fitness == fitness
    few = ("48 images are too few to judge 98 % agreement; give at least 50",)
    assert comparison.reasons == (() if fitness == "fit" else few)


@pytest.mark.parametrize(("positives", "judged_on"), [(20, "images"), (19, "phantoms"), (41, "phantoms")])
def test_the_auc_of_images_counts_from_twenty_of_each_class_on(positives, judged_on):
    labels = (np.arange(60) < positives).astype(int)
    answers, phantoms = outputs(labels * 0.8 + 0.1), outputs(ranked())
    drawn = sample(LABELS, phantoms, phantoms={"patients": 8, "size": 64, "seed": 1})
    artefact = FakeArtefact(answers, answers, phantoms, phantoms, form="int8")
    comparison = compare(evidence(sample(labels, answers), drawn), artefact)
    assert comparison.measured["auc_judged_on"] == judged_on
    assert comparison.fitness == "fit"


@pytest.mark.parametrize("column", ["pixels", "encoded"])
def test_two_percent_of_the_decisions_may_differ(column):
    labels = np.repeat([1, 0], 25)
    reference = outputs(np.repeat([0.9, 0.1], 25))
    for differing, fitness in ((1, "fit"), (2, "unfit")):
        covid = reference.covid.copy()
        covid[:differing] = 0.49  # still above all negatives
        given = {"pixels": reference, "encoded": reference} | {column: outputs(covid)}
        comparison = verdict(reference, **given, form="int8", labels=labels)
        name = {"pixels": "same_pixels", "encoded": "encoded_bytes"}[column]
        assert comparison.measured[name]["agreement"] == {"agreeing": 50 - differing, "images": 50}
        assert comparison.measured[name]["sensitivity"]["difference"] == pytest.approx(differing / 25)
        assert comparison.fitness == fitness
        assert all("2 of 50 decisions differ, at most 1 may" in reason for reason in comparison.reasons)


def test_how_many_may_differ():
    assert [Tolerances().may_differ(images) for images in (49, 50, 203)] == [0, 1, 4]
    assert [Tolerances(agreement=0.9).may_differ(images) for images in (10, 203)] == [1, 20]


def test_a_probability_at_the_threshold_is_positive_on_both_sides():
    comparison = verdict(outputs([0.5, 0.1]), outputs([0.5 - 1e-9, 0.1]), labels=[1, 0])
    assert comparison.measured["same_pixels"]["agreement"]["agreeing"] == 1
    comparison = verdict(outputs([0.5, 0.1]), outputs([0.5, 0.1]), labels=[1, 0])
    assert comparison.measured["same_pixels"]["agreement"]["agreeing"] == 2


@pytest.mark.parametrize("column", ["pixels", "encoded"])
@pytest.mark.parametrize(("wrong", "fitness"), [(1, "fit"), (2, "unfit")])
def test_a_hundredth_of_auc_may_be_lost(column, wrong, fitness):
    reference = outputs(ranked())
    given = {"pixels": reference, "encoded": reference} | {column: outputs(ranked(wrong))}
    comparison = verdict(reference, **given, form="int8")
    name = {"pixels": "same_pixels", "encoded": "encoded_bytes"}[column]
    assert comparison.measured[name]["auc"]["a"] == 1.0
    assert comparison.measured[name]["auc"]["difference"] == pytest.approx(wrong / 100)
    assert comparison.measured[name]["agreement"]["agreeing"] == 100
    assert comparison.measured["auc_judged_on"] == "images"
    assert comparison.fitness == fitness
    assert comparison.reasons == (
        ()
        if fitness == "fit"
        else (f"{name.replace('_', ' ')}: AUC 1.0000 falls to 0.9800, a loss of 0.0200; allowed are 0.01",)
    )


def test_the_loss_has_an_interval_over_patients():
    reference, worse = outputs(ranked()), outputs(ranked(5))
    found = verdict(reference, worse, form="int8").measured["same_pixels"]["auc"]
    assert found["difference"] == pytest.approx(0.05)
    assert 0 <= found["low"] < found["difference"] < found["high"]
    assert verdict(reference, reference, form="int8").measured["same_pixels"]["auc"]["low"] is None


def test_a_better_auc_is_no_loss():
    comparison = verdict(outputs(ranked(5)), outputs(ranked()), form="int8")
    assert comparison.measured["same_pixels"]["auc"]["difference"] == pytest.approx(-0.05)
    assert comparison.fitness == "fit"


def poor() -> np.ndarray:
    """AUC 0.7: three of the ten positives are below all negatives."""
    covid = np.concatenate([[0.01, 0.02, 0.03], np.linspace(0.6, 0.9, 7), np.linspace(0.1, 0.4, 10)])
    return np.repeat(covid, 5)


def worse_than_poor() -> np.ndarray:
    """AUC 0.68, with the same decision for 99 of 100."""
    covid = poor()
    covid[15] = 0.04
    return covid


@pytest.mark.parametrize(("wrong", "fitness"), [(1, "fit"), (2, "unfit")])
@pytest.mark.parametrize("column", ["pixels", "encoded"])
def test_where_the_auc_is_low_the_loss_is_judged_on_phantoms(wrong, fitness, column):
    reference = outputs(ranked())
    given = {"phantom_pixels": reference, "phantom_encoded": reference}
    given[f"phantom_{column}"] = outputs(ranked(wrong))
    images = sample(LABELS, outputs(poor()))
    drawn = sample(LABELS, reference, phantoms={"patients": 8, "size": 64, "seed": 1})
    off = outputs(worse_than_poor())
    artefact = FakeArtefact(off, off, form="int8", **given)
    comparison = compare(evidence(images, drawn), artefact)
    found = comparison.measured["same_pixels"]["auc"]
    assert found["difference"] == pytest.approx(0.02)  # does not count, its interval reaches below 0.01
    assert found["low"] is None or found["low"] < 0.01
    assert comparison.measured["auc_judged_on"] == "phantoms"
    assert comparison.measured["phantoms"]["data"]["phantoms"]["seed"] == 1
    name = {"pixels": "same_pixels", "encoded": "encoded_bytes"}[column]
    assert comparison.measured["phantoms"][name]["auc"]["difference"] == pytest.approx(wrong / 100)
    assert comparison.fitness == fitness
    assert all(reason.startswith(f"phantoms, {name.replace('_', ' ')}: AUC") for reason in comparison.reasons)
    json.dumps(comparison.measured, allow_nan=False)


def test_a_wreck_on_the_images_is_unfit_though_phantoms_show_no_loss():
    good, images, off = outputs(ranked()), outputs(poor()), poor()
    off[15:30] = 0.04  # 15 more of 50 positives below all negatives: AUC 0.4
    wreck = outputs(off)
    drawn = sample(LABELS, good, phantoms={"patients": 8, "size": 64, "seed": 1})
    artefact = FakeArtefact(images, wreck, good, good, form="int8")
    comparison = compare(evidence(sample(LABELS, images), drawn), artefact, Tolerances(agreement=0.5, mean=1))
    low = comparison.measured["encoded_bytes"]["auc"]["low"]
    assert 0.01 < low < 0.3
    assert comparison.reasons == (
        f"encoded bytes: AUC 0.7000 falls to 0.4000 on the images, a loss of at least {low:.4f} by its interval; "
        "allowed are 0.01",
    )


@pytest.mark.parametrize(("fallen", "fitness"), [(0, "fit"), (1, "unfit")])
def test_where_no_auc_is_high_the_run_s_own_decisions_are_the_labels(fallen, fitness):
    low, off = outputs(poor()), poor()
    off[15 : 15 + fallen] = 0.04  # of 35 that the run calls COVID-19 one falls below 50 of 65: loss 50 / (35 * 65)
    drawn = sample(LABELS, low, phantoms={"patients": 8, "size": 64, "seed": 1})
    artefact = FakeArtefact(low, outputs(off), low, low, form="int8")
    comparison = compare(evidence(sample(LABELS, low), drawn), artefact)
    assert comparison.measured["auc_judged_on"] == "own decisions"
    assert comparison.measured["same_pixels"]["own_decisions"]["b"] == 1.0
    found = comparison.measured["encoded_bytes"]["own_decisions"]
    assert (found["a"], found["difference"]) == (1.0, pytest.approx(fallen * 50 / (35 * 65)))
    assert comparison.fitness == fitness
    assert all(
        reason.startswith(
            "encoded bytes: the AUC by which its probabilities tell the run's own decisions is 0.9780"
        )
        for reason in comparison.reasons
    )


@pytest.mark.parametrize(("positive", "judged_on"), [(10, "own decisions"), (9, "nothing"), (91, "nothing")])
def test_both_decisions_must_occur_ten_times(positive, judged_on):
    covid = np.where(np.arange(100) < positive, 0.8, 0.2)
    low = outputs(np.random.default_rng(1).permutation(covid))
    drawn = sample(LABELS, low, phantoms={"patients": 8, "size": 64, "seed": 1})
    artefact = FakeArtefact(low, low, low, low, form="int8")
    comparison = compare(evidence(sample(LABELS, low), drawn), artefact)
    assert comparison.measured["auc_judged_on"] == judged_on
    assert comparison.fitness == ("fit" if judged_on == "own decisions" else "unfit")


@pytest.mark.parametrize("labels", [LABELS, np.ones(100, int)])
def test_a_loss_that_cannot_be_judged_makes_unfit(labels):
    low = outputs(poor() / 2)
    drawn = sample(LABELS, low, phantoms={"patients": 8, "size": 64, "seed": 1})
    artefact = FakeArtefact(low, low, low, low, form="int8")
    comparison = compare(evidence(sample(labels, low), drawn), artefact)
    assert comparison.fitness == "unfit"
    assert comparison.measured["auc_judged_on"] == "nothing"
    (reason,) = comparison.reasons
    assert "cannot be judged" in reason
    assert (
        "is 0.700 (50 with COVID-19, 50 without) on the images"
        if labels is LABELS
        else "is undefined (one class only)"
    ) in reason
    json.dumps(comparison.measured, allow_nan=False)


def test_the_auc_of_images_counts_from_three_quarters_on():
    covid = poor()
    covid[10:15], covid[5:10] = 0.65, 0.25  # AUC 0.8 and five pairs: 0.85
    images = outputs(covid)
    assert verdict(images, images, form="int8").measured["auc_judged_on"] == "images"
    covid[10:15] = 0.01  # 0.75
    assert sample(LABELS, outputs(covid)).auc == pytest.approx(0.75)
    assert verdict(outputs(covid), outputs(covid), form="int8").measured["auc_judged_on"] == "images"


def test_floating_point_formats_need_no_phantoms():
    low = outputs(poor())
    comparison = verdict(low, low, form="float32")
    assert comparison.fitness == "fit"
    assert comparison.measured["phantoms"] is None


HALVES = np.repeat([0.2, 0.8], 25)
GOOD = outputs(HALVES)
BROKEN = {
    "its covid are not finite for 25 of 50 images": outputs(np.where(HALVES < 0.5, np.nan, HALVES)),
    "its lesions are not finite for 50 of 50": outputs(HALVES, lesions=np.inf),
    "its maps are not finite for 50 of 50": outputs(HALVES, maps=-np.inf),
    "its covid are no probabilities: from 0.3 to 1.2": outputs(HALVES * 1.5),
    "its lesions are no probabilities: from -0.5": outputs(HALVES, lesions=-0.5),
    "it has no lesions": dataclasses.replace(GOOD, lesions=None),
    "it has no maps": dataclasses.replace(GOOD, maps=None),
    "its maps have the shape (50, 2, 1, 6), expected (50, 1, 2, 6)": dataclasses.replace(
        GOOD, maps=np.ones((50, 2, 1, 6))
    ),
    "its lesions have the shape (50, 4)": dataclasses.replace(GOOD, lesions=np.full((50, 4), 0.1)),
    "image 1 was refused": outputs(HALVES, problems=("image 1 was refused",)),
    "the file was refused": outputs(HALVES * np.nan, np.nan, problems=("the file was refused",)),
}


@pytest.mark.parametrize("form", ["float32", "int8"])
@pytest.mark.parametrize("reason", BROKEN)
def test_outputs_that_cannot_be_compared_make_unfit(reason, form):
    good = GOOD
    for given in ({"pixels": BROKEN[reason], "encoded": good}, {"pixels": good, "encoded": BROKEN[reason]}):
        comparison = verdict(good, **given, form=form, labels=np.repeat([0, 1], 25))
        assert comparison.fitness == "unfit"
        (found,) = comparison.reasons
        assert reason in found
        broken = "same_pixels" if given["encoded"] is good else "encoded_bytes"
        assert comparison.measured[broken] is None
        assert comparison.measured["latency_ms"] is None
        json.dumps(comparison.measured, allow_nan=False)


def test_broken_answers_to_phantoms_make_unfit():
    low, good = outputs(poor()), outputs(ranked())
    broken = dataclasses.replace(good, covid=np.full(100, np.nan))
    drawn = sample(LABELS, good, phantoms={"patients": 8, "size": 64, "seed": 1})
    artefact = FakeArtefact(low, low, good, broken, form="int8")
    comparison = compare(evidence(sample(LABELS, low), drawn), artefact)
    assert comparison.reasons == ("phantoms, encoded bytes: its covid are not finite for 100 of 100 images",)


def test_a_baseline_has_no_lesions():
    def baseline(covid):
        return dataclasses.replace(outputs(covid), lesions=None)

    reference = baseline([0.2, 0.8])
    comparison = verdict(reference, baseline([0.2, 0.8004]), labels=[0, 1])
    assert comparison.fitness == "fit"
    column = comparison.measured["same_pixels"]
    assert column["probability_difference"] == column["covid_difference"]
    (pixels, _) = verdict(reference, outputs([0.2, 0.8]), labels=[0, 1]).reasons
    assert pixels == "same pixels: it has lesions, which the run's model has not"


def test_files_are_timed_one_at_a_time():
    reference = outputs(np.linspace(0.1, 0.9, 30))
    artefact = FakeArtefact(reference, reference)
    comparison = compare(evidence(sample(np.arange(30) // 15, reference)), artefact)
    assert artefact.answered == 1 + 20
    assert comparison.measured["latency_images"] == 20
    assert comparison.measured["latency_ms"] > 0


def test_an_unknown_format_is_an_error():
    with pytest.raises(ValueError, match=r"format should be one of float32, saved_model, .*Received: 'int4'"):
        verdict(outputs([0.2, 0.8]), outputs([0.2, 0.8]), form="int4", labels=[0, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_sha256": "b" * 64}, "model bbbbbbbbbbbb.*, not of the run fake, model aaaaaaaaaaaa"),
        ({"threshold": 0.4}, "had threshold 0.4, its card now says 0.5"),
        ({"temperature": 2.0}, "had temperature 2.0"),
        ({"image_size": 64}, "had image_size 64"),
        (
            {"person": PersonRule("mean", 0.25, "by hand", 9, 4)},
            "had person rule aggregation mean, threshold 0.25, .*, its card now says none; export it again",
        ),
        ({"window": Window(-500.0, 1200.0)}, "had window level -500.0, width 1200.0, .* says level -600.0, width"),
        ({"lungs": "extracted"}, "had lungs extracted, its card now says whole; export it again"),
        (
            {"task": "trunk", "classes": ("covid19", "normal")},
            "had classes covid19, normal, its card now says none; export it again",
        ),
    ],
)
def test_an_export_of_another_run_is_an_error(changes, message):
    with pytest.raises(ValueError, match=message):
        check_source(run_card(), export_card(**changes), "int8.tflite")
    answers = outputs([0.2, 0.8])
    with pytest.raises(ValueError, match=message):
        compare(evidence(sample([0, 1], answers)), FakeArtefact(answers, answers, card=export_card(**changes)))


def test_a_person_rule_that_came_later_is_said():
    """`evaluate` may write one into the card of an older run; its exports would answer for no person."""
    rule = PersonRule("noisy_or", 0.75, "by hand", 9, 4)
    with pytest.raises(ValueError, match="had person rule none, its card now says aggregation noisy_or") as caught:
        check_source(run_card(person=rule), export_card(), "int8.tflite")
    assert "\n" not in str(caught.value)
    check_source(run_card(person=rule), export_card(person=rule), "int8.tflite")


@pytest.mark.parametrize("form", ["dynamic", "int8", "int8_mixed"])
def test_a_quantised_model_with_classes_is_refused(form):
    changes = {"task": "trunk", "classes": ("covid19", "normal")}
    answers = dataclasses.replace(outputs(ranked()), lesions=None, maps=None)
    artefact = FakeArtefact(answers, answers, form=form, card=export_card(form=form, **changes))
    given = dataclasses.replace(evidence(sample(LABELS, answers)), card=run_card(**changes))
    with pytest.raises(ValueError, match=f"a trunk in {form}, and quantised models with classes are not judged"):
        compare(given, artefact)
    check_source(run_card(**changes), export_card(form="float16", **changes), "float16.tflite")


def test_a_quantised_model_may_have_no_maps():
    answers = dataclasses.replace(outputs(ranked()), maps=None)
    assert verdict(answers, answers, form="int8").reasons == ()


def test_tolerances_come_from_flags():
    flag_values = flags.FlagValues()
    parity.define_flags(flag_values)
    flag_values(["parity"])
    assert parity.tolerances_from(flag_values) == Tolerances(0.001, 0.005, 0.002, 0.01, 0.98, 0.02, 0.05)
    assert (flag_values.split, flag_values.images, flag_values.keep_failed) == ("test", 0, False)
    names = ("float32", "float16", "encoded", "auc_loss", "agreement", "maps", "mean")
    flag_values(["parity", *(f"--tolerance_{name}=0.{n}" for n, name in enumerate(names, start=1))])
    assert parity.tolerances_from(flag_values) == Tolerances(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    for name in names:
        flag_values([*["parity"], f"--tolerance_{name}=nan"])
        with pytest.raises(ValueError, match=f"--tolerance_{name} should be a finite number, 0 or more.*: nan"):
            parity.tolerances_from(flag_values)
        flag_values([*["parity"], f"--tolerance_{name}=0.5"])
    for value in (-1e-9, float("inf")):
        with pytest.raises(ValueError, match="--tolerance_maps should be"):
            Tolerances(maps=value)


def test_a_comparison_is_a_look():
    looks, answers = [], outputs(ranked())
    given = evidence(sample(LABELS, answers), seen=lambda: looks.append(1))
    with pytest.raises(ValueError, match="int4"):
        compare(given, FakeArtefact(answers, answers, form="int4"))
    assert looks == []
    compare(given, FakeArtefact(answers, answers))
    assert looks == [1]


# The evidence.


def test_images_are_taken_evenly_from_each_class():
    frame = pd.DataFrame({"image": [f"{n:02}" for n in range(12)], "covid": [0] * 9 + [1] * 3})
    frame = frame.sample(frac=1, random_state=1)
    taken = select_evenly(frame, 4)
    assert sorted(taken["image"]) == ["00", "04", "08", "09"]  # three of nine, one of three
    assert list(taken.index) == sorted(taken.index)
    assert len(select_evenly(frame, 0)) == len(select_evenly(frame, 12)) == len(select_evenly(frame, 99)) == 12
    assert select_evenly(frame, 2)["covid"].sum() == 1
    assert [len(select_evenly(frame, n)) for n in range(2, 12)] == list(range(2, 12))
    with pytest.raises(ValueError, match="--images=1 leaves out a class"):
        select_evenly(frame, 1)


def test_images_of_a_model_with_classes_are_taken_from_each_diagnosis():
    """Of COVID-19 four, normal six, bacterial two, normal eight; the empty diagnosis is COVID-19's."""
    diagnoses = ["covid19"] * 3 + [""] + ["normal"] * 6 + ["bacterial"] * 2 + ["normal"] * 8
    frame = pd.DataFrame({"image": [f"{n:02}" for n in range(20)], "diagnosis": diagnoses})
    frame["covid"] = (frame.index < 4).astype(int)
    classes = ("covid19", "bacterial", "normal")
    taken = select_evenly(frame, 10, classes)
    # Bacterial: 10 * 2 / 20 is one. COVID-19: 9 * 4 / 18 is two, the first and the last. Normal: seven.
    assert taken["image"].tolist() == ["00", "03", "04", "06", "08", "10", "12", "15", "17", "19"]
    assert select_evenly(frame, 3, classes)["image"].tolist() == ["00", "04", "10"]
    assert select_evenly(frame, 3)["image"].tolist() == ["00", "04", "19"]  # COVID-19 or not: none is bacterial
    assert [len(select_evenly(frame, n, classes)) for n in range(3, 20)] == list(range(3, 20))
    with pytest.raises(ValueError, match="--images=2 leaves out a class; give at least 3, or 0"):
        select_evenly(frame, 2, classes)


@pytest.fixture
def own_run(tiny_run, tmp_path):
    """A copy of the tiny run, whose looks may be counted."""
    return runs.load_run(shutil.copytree(tiny_run, tmp_path / "tiny"))


def test_evidence_is_what_the_run_says_and_counts_a_look(own_run, tmp_path, phantom_manifest):
    before = runs.read_metrics(own_run.folder, own_run.card.model_sha256)["looks"]
    found = load_evidence(own_run, split="validation", phantom_patients=6, phantom_size=32)
    assert runs.read_metrics(own_run.folder, own_run.card.model_sha256)["looks"] == before
    found.seen()
    found.seen()  # the next artefact, of the same answers
    looks = runs.read_metrics(own_run.folder, own_run.card.model_sha256)["looks"]
    assert looks["validation"] == before.get("validation", 0) + 1

    table = runs.read_predictions(own_run.folder, "validation")
    np.testing.assert_allclose(found.sample.reference.covid, table["covid_probability"], atol=1e-5)
    np.testing.assert_allclose(found.sample.reference.lesions[:, 2], table["CrPa_probability"], atol=1e-5)
    assert found.sample.reference.maps.shape == (len(table), 4, 4, 6)
    assert found.sample.pixels.shape == (len(table), 32, 32, 3)
    assert found.sample.labels.tolist() == table["covid"].tolist()
    assert found.sample.patients.tolist() == table["patient"].tolist()
    frame = read_manifest(phantom_manifest)
    first = frame[frame["split"] == "validation"]["path"].iloc[0]
    with open(first, "rb") as file:
        assert found.sample.encoded[0] == file.read()
    assert found.sample.data["manifest"]["file"] == "phantoms.csv"
    assert found.sample.data["own_data"]
    assert found.flags == f"--run={own_run.folder} --split=validation"

    phantoms = found.phantoms
    assert phantoms.data["phantoms"] == {"patients": 6, "size": 32, "seed": 20260}
    assert 0 < phantoms.labels.sum() < len(phantoms.labels)
    assert phantoms.reference.covid.shape == phantoms.labels.shape
    assert found.phantoms is phantoms

    other = tmp_path / "an other.csv"
    write_manifest(frame[frame["split"] == "test"].assign(report=""), other)
    found = load_evidence(own_run, str(other), "test", 5)
    found.seen()
    assert runs.read_metrics(own_run.folder, own_run.card.model_sha256)["looks"] == looks
    assert not found.sample.data["own_data"]
    assert found.sample.data["images"] == 5 < found.sample.data["images_in_split"]
    assert found.flags.endswith(f" '--manifest={other}' --split=test --images=5")


def test_data_that_is_not_here_is_said(own_run, tmp_path):
    config = dataclasses.replace(own_run.config, manifest=str(tmp_path / "gone.csv"))
    with pytest.raises(ValueError, match=r"gone\.csv, the data of .*give --manifest=FILE"):
        load_evidence(dataclasses.replace(own_run, config=config))
    with pytest.raises(FileNotFoundError, match="neither"):
        load_evidence(own_run, str(tmp_path / "neither.csv"))


# The command, with files whose models are fakes.


@pytest.fixture
def edge_folder(own_run, tmp_path):
    folder = tmp_path / "edge"
    folder.mkdir()
    for form in ("float16", "int8"):
        card = dataclasses.replace(
            export_card(form.encode(), form, source_sha256=own_run.card.model_sha256),
            threshold=own_run.card.threshold,
            temperature=own_run.card.temperature,
            person=own_run.card.person,
        )
        (folder / f"{form}.tflite").write_bytes(with_card(form.encode(), card))
    return folder


@pytest.fixture
def fakes(own_run, monkeypatch):
    """Every TFLite file says what the run's own model says, but float16 is off by what the test puts here."""
    off = {"float16": 0.0}
    monkeypatch.setattr(parity, "load_evidence", lambda *_: evidence_of(own_run))

    def evidence_of(run):
        labels = np.repeat([0, 1], 25)
        strong = outputs(labels * 0.8 + 0.1)
        return dataclasses.replace(evidence(sample(labels, strong)), card=run.card)

    def artefact(path):
        card, _ = read_card(path)
        given = evidence_of(own_run).sample.reference
        given = dataclasses.replace(given, covid=given.covid + off.get(card.export.format, 0.0))
        return FakeArtefact(given, given, form=card.export.format, name=path.name, card=card)

    monkeypatch.setattr(parity, "TFLiteArtefact", artefact)
    return off


def test_what_lies_there_is_measured_again(own_run, edge_folder, fakes, capsys):
    command = ["parity", f"--run={own_run.folder}", f"--tflite={edge_folder}"]
    assert parity.main(command) == 0
    assert "float16.tflite" in capsys.readouterr().out
    for form in ("float16", "int8"):
        card, _ = read_card(edge_folder / f"{form}.tflite")
        assert card.export.fitness == "fit"
        assert card.export.measured["same_pixels"]["covid_difference"]["largest"] == 0
        assert card_beside(edge_folder / f"{form}.tflite").is_file()

    fakes["float16"] = 0.05
    assert parity.main([*command, "--keep_failed"]) == parity.UNFIT == 3
    assert "unfit" in capsys.readouterr().out
    card, _ = read_card(edge_folder / "float16.tflite")
    assert card.export.fitness == "unfit"
    assert "0.05" in card.export.reasons[0]

    assert parity.main(["parity", f"--run={own_run.folder}", f"--tflite={edge_folder / 'float16.tflite'}"]) == 3
    assert f"removed: {edge_folder / 'float16.tflite'}" in capsys.readouterr().out
    assert sorted(path.name for path in edge_folder.iterdir()) == [
        "int8.card.json", "int8.tflite", "parity.json", "parity.md",
    ]  # fmt: skip
    rows = json.loads((edge_folder / "parity.json").read_text())["artefacts"]
    assert [(row["name"], row["fitness"], row["in_place"]) for row in rows] == [
        ("float16.tflite", "unfit", False),
        ("int8.tflite", "fit", True),
    ]


def test_an_export_of_another_run_is_an_error_before_any_work(own_run, edge_folder, monkeypatch):
    strange = export_card(b"strange", "dynamic")
    (edge_folder / "dynamic.tflite").write_bytes(with_card(b"strange", strange))
    monkeypatch.setattr(parity, "load_evidence", None)
    with pytest.raises(ValueError, match=r"dynamic\.tflite was made of fake, model aaaaaaaaaaaa"):
        parity.main(["parity", f"--run={own_run.folder}", f"--tflite={edge_folder}"])
    assert (edge_folder / "dynamic.tflite").is_file()


def test_where_the_artefacts_are_found(tmp_path):
    for version in ("2", "10", ".11.partial", "notes", "12"):
        (tmp_path / version).mkdir()
    for version in ("2", "10", ".11.partial"):
        (tmp_path / version / "saved_model.pb").write_bytes(b"")
    (tmp_path / "13").write_bytes(b"")
    assert parity.newest_version(tmp_path).name == "10"
    assert parity.newest_version(tmp_path / "2").name == "2"
    with pytest.raises(ValueError, match="holds no SavedModel"):
        parity.newest_version(tmp_path / "notes")
    with pytest.raises(ValueError, match="there is no TFLite file"):
        parity.tflite_files([str(tmp_path)])
    with pytest.raises(ValueError, match="there is no TFLite file"):
        parity.tflite_files([str(tmp_path / "int8.tflite")])
    for name in ("b.tflite", "a.tflite", "a.card.json"):
        (tmp_path / name).write_bytes(b"")
    given = [str(tmp_path), str(tmp_path / "a.tflite")]
    assert [path.name for path in parity.tflite_files(given)] == ["a.tflite", "b.tflite"]


def test_reports_lie_beside_what_they_are_about(tmp_path):
    edge, models = tmp_path / "edge", tmp_path / "models"
    paths = [models / "3", edge / "a.tflite", edge / "b.tflite", models / "c.tflite"]
    assert parity.reports(paths) == [(models, "parity_3"), (edge, "parity"), (models, "parity")]


def test_nothing_to_measure_is_an_error_of_the_command_line(tiny_run):
    with pytest.raises(SystemExit) as caught:
        parity.main(["parity", f"--run={tiny_run}"])
    assert caught.value.code == 2
