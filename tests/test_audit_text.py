"""The shortcut audit in words: what is claimed, and what is not."""

import dataclasses
import json

import pytest
from test_shortcuts import OPTIONS, table

from ladnn_tf import audit_text, shortcuts
from ladnn_tf.intervals import Interval


def result(lungs, border=(0.5, 0.4, 0.6), corners=(-0.1, -0.2, -0.05), left_out=0):
    """An audit of one run with given AUCs [low, high] and change without the corners."""
    frame = table([1] * 5 + [0] * 5, [0.5] * 10)

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
    run |= {"image_size": 128, "settings_sha256": "s", "manifest": {"file": "m.csv", "sha256": "c" * 64}}
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
        "sources": {"all": 7, "with_both_classes": 0, "images_without": 0},
        "runs": [run],
        "form_of_files": {"not_done": "no training split"},
        "source_runs": [],
    }


def test_a_shortcut_is_said_in_words():
    text = audit_text.format_audit(result((0.78, 0.7, 0.85)))
    assert "With the lungs erased the AUC is 0.780 [0.700, 0.850]: chance (0.5) is outside the interval" in text
    assert "60% of the AUC above 0.5 is left" in text
    assert (
        "the network still tells COVID-19 from other slices. It reads the source of the image, or what remains of "
        "the lungs: their outline, and in some slices a few consolidations." in text
    )
    assert "**mine**: lungs erased: better than chance; border alone: not shown to be better than chance." in text
    assert "little to audit" not in text
    assert "With only the border left the AUC is 0.500 [0.400, 0.600]: chance (0.5) is inside" in text
    assert "the network uses what is in the corners" in text
    assert "Sources in this split: 7; with images of both classes: 0; 0 images without a source." in text


@pytest.mark.parametrize(
    "sources",
    [
        {"all": 7, "with_both_classes": 1, "images_without": 0},
        {"all": 7, "with_both_classes": 0, "images_without": 1},
        {"all": 1, "with_both_classes": 0, "images_without": 0},
        {"all": 0, "with_both_classes": 0, "images_without": 9},
    ],
)
def test_the_source_is_not_blamed_where_sources_do_not_tell_the_classes_apart(sources):
    text = audit_text.format_audit(result((0.78, 0.7, 0.85), border=(0.7, 0.6, 0.8)) | {"sources": sources})
    assert "It reads the source" not in text
    assert text.count("It uses something outside the lungs, or ") == 2


def test_what_misled_the_network_is_said():
    text = audit_text.format_audit(result((0.6, 0.5, 0.7), corners=(0.1, 0.05, 0.2)))
    assert "+0.100 [+0.050, +0.200]: what was taken away misled the network." in text


def test_an_auc_that_is_not_better_than_chance_leaves_little_to_audit():
    found = result((0.78, 0.7, 0.85))
    found["runs"][0]["unchanged"]["against_chance"] = shortcuts.NOT_SHOWN
    text = audit_text.format_audit(found)
    assert "not shown to be better than chance (chance is inside the interval), so that there is little" in text


def test_too_few_patients_are_said_to_be_the_reason():
    found = result((0.78, 0.7, 0.85))
    for row in found["runs"][0]["alterations"].values():
        row["against_chance"] = shortcuts.TOO_FEW
    text = audit_text.format_audit(found)
    assert "lungs erased: not judged (fewer than 5 patients of a class)" in text
    assert (
        "With the lungs erased the AUC is 0.780 [0.700, 0.850], of fewer than 5 patients of a class: noth" in text
    )
    assert "changes by -0.100 [-0.200, -0.050], of fewer than 5 patients of a class: nothing is concluded" in text
    assert "the network uses" not in text


@pytest.mark.parametrize(("verdict", "shown"), [(shortcuts.SHOWN, True), (shortcuts.NOT_SHOWN, False)])
def test_the_form_of_the_files_is_blamed_only_where_it_is_shown(verdict, shown):
    form = {
        "auc": dataclasses.asdict(Interval(0.6, 0.55, 0.7) if shown else Interval(0.6, 0.4, 0.7)),
        "against_chance": verdict,
        "training_images": 10,
        "images": 10,
        "formats": {},
    }
    text = audit_text.format_audit(result((0.78, 0.7, 0.85)) | {"form_of_files": form})
    assert ("The data themselves tell the classes apart" in text) == shown
    assert ("is not shown here (chance is inside the interval)" in text) == (not shown)


def test_one_resolution_is_left_out_for_a_small_input():
    found = result((0.78, 0.7, 0.85))
    assert "tells nothing here" not in audit_text.format_audit(found)
    del found["runs"][0]["alterations"]["common resolution"]
    found["runs"][0]["image_size"] = 96
    text = audit_text.format_audit(found)
    assert "the network's input (96 pixels) is not larger than it (96)" in text
    assert "At one common resolution" not in text


def origin(covid, papers=0, trained=0, archives=(), other=0, without=0):
    return {
        "covid": covid,
        "images": papers + trained + other + without,
        "from_papers": papers,
        "from_trained_archives": trained,
        "trained_archives": list(archives),
        "from_other_archives": other,
        "without_source": without,
    }


def source_result(origins, sha256="d" * 64):
    run = result((0.7, 0.6, 0.8))["runs"][0] | {"name": "grouped", "model_sha256": "cd", "origins": origins}
    run |= {"manifest": {"file": "source.csv", "sha256": sha256}, "patients": 60, "positives": 62}
    return run | {"images": sum(row["images"] for row in origins)}


def test_a_source_run_is_said_to_share_its_archives_with_the_training():
    origins = [origin(1, papers=60, other=2), origin(0, trained=99, archives=("crawled", "medpix"))]
    found = result((0.7, 0.6, 0.8)) | {"source_runs": [source_result(origins)]}
    text = audit_text.format_audit(found)
    assert "**grouped**, trained on a split by source paper, has an AUC of 0.900 [0.850, 0.950] on 161 im" in text
    assert (
        "Positives: 60 from papers of which no image was trained on; 2 from archives of which no image was "
        "trained on. Negatives: all 99 from crawled and medpix, of which other images were trained on, so that "
        "their look stays a shortcut." in text
    )
    assert "This is another training on other images: set beside" in text
    assert "## Trained on a split by source paper" in text
    assert "not seen is not shown" not in text
    row = next(line for line in text.splitlines() if line.startswith("| grouped"))
    assert [cell.strip() for cell in row.split("|")[2:8]] == ["source.csv", "161", "60", "62", "60", "0"]


def test_a_source_run_of_the_same_data_is_not_said_to_have_others():
    origins = [origin(1, papers=9), origin(0, papers=3, without=1)]
    grouped = source_result(origins, "c" * 64)
    grouped["unchanged"] = grouped["unchanged"] | {"against_chance": shortcuts.NOT_SHOWN}
    text = audit_text.format_audit(result((0.7, 0.6, 0.8)) | {"source_runs": [grouped]})
    assert "This is another training: set beside" in text
    assert "1 without a source, so that they may be from anywhere" in text
    assert "better than chance on papers it has not seen is not shown (chance is inside the interval)." in text


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
    third = json.loads(json.dumps(second)) | {"name": "third", "settings_sha256": "t"}
    found["runs"] += [second, third]
    text = audit_text.format_audit(found)
    (title,) = (line for line in text.splitlines() if line.startswith("### Mean"))
    assert "resnet18 ladnn, 128 pixels, m.csv, 2 runs" in title
    rows = text.split(title)[1].splitlines()
    row = next(line for line in rows if line.startswith("| lungs erased"))
    assert [cell.strip() for cell in row.split("|")[2:5]] == ["0.700", "0.800", "0.750"]
