"""Which runs a grid has, and how far each one is."""

import dataclasses
import json

import grid_runs
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY

from ladnn_tf import grid, runs
from ladnn_tf.config import TrainConfig
from ladnn_tf.grid import State

RECIPE = TrainConfig(weights="none", image_size=32, epochs=3)


@pytest.fixture
def manifest(phantom_manifest, tmp_path):
    """A manifest that a test may change."""
    path = phantom_manifest.parent / f"{tmp_path.name}.csv"
    path.write_bytes(phantom_manifest.read_bytes())
    yield path
    path.unlink()


@pytest.fixture
def one(manifest):
    """A grid of a single run."""
    return wanted(manifest)[0]


def wanted(manifest, tasks=("baseline",), seeds=(0,), **options):
    datasets = grid.read_datasets([f"d0={manifest}"])
    return grid.wanted_runs(RECIPE, "tiny", datasets, ["resnet18"], tasks, seeds, **options)


def status_of(one, folder):
    (status,), passed_over = grid.find_runs([one], folder)
    return status, passed_over


def test_a_grid_is_every_combination(phantom_manifest, tmp_path):
    for name in ("vgg16", "resnet18"):
        (tmp_path / f"{name}.npz").write_text(name)
    datasets = grid.read_datasets([f"d0={phantom_manifest}"])
    found = grid.wanted_runs(
        RECIPE,
        "tiny",
        datasets,
        ["vgg16", "resnet18"],
        ["baseline", "ladnn"],
        [0, 7],
        f"{tmp_path}/{{backbone}}.npz",
    )
    assert [each.name for each in found] == [
        f"tiny_d0_{backbone}_{task}_seed{seed}"
        for backbone in ("vgg16", "resnet18")
        for seed in (0, 7)
        for task in ("baseline", "ladnn")
    ]
    assert found[-1].settings == dataclasses.replace(
        RECIPE,
        backbone="resnet18",
        task="ladnn",
        seed=7,
        manifest=str(phantom_manifest),
        weights=str(tmp_path / "resnet18.npz"),
    )
    assert len({each.weights_sha256 for each in found}) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbones": ["resnet19"]}, "backbones should be a list of vgg16.*got .*resnet19"),
        ({"tasks": ["lesions"]}, "tasks should be a list of ladnn, baseline"),
        ({"seeds": [0, 1, 0]}, r"seeds should be a list, each once, got \[0, 1, 0\]"),
        ({"seeds": []}, "seeds"),
        ({"weights": "nowhere.npz"}, "nowhere.npz is no file, nor one of imagenet, noisy-student, none"),
    ],
)
def test_a_wrong_grid_is_named(phantom_manifest, change, message):
    lists = {"backbones": ["resnet18"], "tasks": ["ladnn"], "seeds": [0]} | change
    with pytest.raises(ValueError, match=message):
        grid.wanted_runs(RECIPE, "tiny", grid.read_datasets([f"d0={phantom_manifest}"]), **lists)


def test_datasets_have_a_name_and_a_content_of_their_own(phantom_manifest):
    (dataset,) = grid.read_datasets([f"d0={phantom_manifest}"])
    lines = phantom_manifest.read_text().splitlines()
    assert dataset.images["test"] == sum(",test," in line for line in lines)
    for items in ([str(phantom_manifest)], ["d0="], [f"a/b={phantom_manifest}"]):
        with pytest.raises(ValueError, match="should be NAME="):
            grid.read_datasets(items)
    with pytest.raises(ValueError, match="one name or one content"):
        grid.read_datasets([f"d0={phantom_manifest}", f"d0d1={phantom_manifest}"])
    with pytest.raises(FileNotFoundError, match=r"absent\.csv is no file"):
        grid.read_datasets(["d0=absent.csv"])


def test_a_recipe_is_a_flagfile_of_train(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert grid.read_recipe("configs/base.flags").learning_rate == 5e-5
    recipe = tmp_path / "recipe.flags"
    for text, message in (
        ("--epoch=3\n", "Unknown command line flag 'epoch'"),
        ("--init_run=runs/a\n", "begin from --weights"),
        ("epochs\n", "'epochs' is no flag"),
    ):
        recipe.write_text(text)
        with pytest.raises(ValueError, match=message):
            grid.read_recipe(recipe)
    with pytest.raises(ValueError, match=r"absent\.flags"):
        grid.read_recipe(tmp_path / "absent.flags")


def test_each_state_is_seen(one, tmp_path):
    folder = tmp_path / "runs"
    assert status_of(one, folder)[0] == grid.Status(one, State.MISSING, folder / one.name)
    grid_runs.begin(folder / one.name, one.settings)
    assert status_of(one, folder)[0] == grid.Status(one, State.UNFINISHED, folder / one.name)
    grid_runs.begin(folder / one.name, one.settings, epoch=2)
    assert status_of(one, folder)[0] == grid.Status(one, State.UNFINISHED, folder / one.name, epoch=2)
    with runs.training_lock(folder / one.name):
        assert status_of(one, folder)[0].state == State.BUSY
    grid_runs.finish(folder / one.name, one.settings)
    assert status_of(one, folder)[0].state == State.EVALUATE
    grid_runs.evaluate(folder / one.name)
    status, passed_over = status_of(one, folder)
    assert status.state == State.DONE
    assert len(status.predictions) == one.dataset.images["test"]
    assert not passed_over


def test_a_run_is_known_by_its_settings_not_by_its_name(manifest, tmp_path):
    first, second = wanted(manifest, seeds=(0, 1))
    grid_runs.begin(tmp_path / first.name, first.settings, epoch=1)
    grid_runs.complete(tmp_path / "trained by hand", first.settings)
    grid_runs.finish(tmp_path / "a second time", first.settings)
    grid_runs.complete(tmp_path / "other rate", dataclasses.replace(second.settings, learning_rate=1e-4))
    found, passed_over = grid.find_runs([first, second], tmp_path)
    assert [(each.state, each.folder.name) for each in found] == [
        (State.DONE, "trained by hand"),
        (State.MISSING, second.name),
    ]
    assert not passed_over


def test_a_run_of_a_manifest_that_was_changed_is_not_used(manifest, tmp_path):
    (before,) = wanted(manifest)
    grid_runs.complete(tmp_path / before.name, before.settings)
    grid_runs.begin(tmp_path / "killed", before.settings, epoch=1)
    manifest.write_text(manifest.read_text().rstrip("\n").rsplit("\n", 1)[0] + "\n")
    kept = grid_runs.contents(tmp_path)
    status, passed_over = status_of(wanted(manifest)[0], tmp_path)
    assert status.state == State.BLOCKED
    assert "holds something else than this run" in status.reason
    assert ["trained on data with SHA-256" in line for line in passed_over] == [True, True]
    assert before.dataset.sha256[:12] in passed_over[0]
    assert grid_runs.contents(tmp_path) == kept


def test_the_same_manifest_and_weights_elsewhere_are_the_same(manifest, tmp_path):
    weights = tmp_path / "weights.npz"
    weights.write_text("some")
    (one,) = wanted(manifest, weights=str(weights))
    for folder, make in (("done", grid_runs.complete), ("killed", grid_runs.begin)):
        make(tmp_path / folder / "run", one.settings)
    copy = manifest.with_name("copy.csv")
    copy.write_bytes(manifest.read_bytes())
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "weights.npz"
    moved.write_text("some")
    (same,) = wanted(copy, weights=str(moved))
    assert status_of(same, tmp_path / "done")[0].state == State.DONE
    assert status_of(same, tmp_path / "killed")[0].state == State.UNFINISHED
    moved.write_text("others")
    (other,) = wanted(copy, weights=str(moved))
    for folder in ("done", "killed"):
        status, (line,) = status_of(other, tmp_path / folder)
        assert status.state == State.MISSING
        assert "other weights" in line
    status, (line,) = status_of(wanted(copy, weights="imagenet")[0], tmp_path / "done")
    assert (status.state, "other weights" in line) == (State.MISSING, True)
    copy.unlink()


def change_progress(path, fields):
    """Gives a checkpoint other fields, as another version may write them: fewer, other contents, or none."""
    with np.load(path) as arrays:
        found = json.loads(str(arrays["progress"]))
    if fields is None:
        changed = 0
    elif "origin" in fields:
        changed = found | fields
    else:
        changed = fields | {"format": found["format"]}
    np.savez(path, progress=np.array(json.dumps(changed)))


def test_folders_that_cannot_be_read_are_named_and_left_alone(one, tmp_path):
    for name in ("no card of this version", "another model", "damaged"):
        grid_runs.complete(tmp_path / name, one.settings)
    card = json.loads((tmp_path / "no card of this version" / "card.json").read_text())
    (tmp_path / "no card of this version" / "card.json").write_text(json.dumps(card | {"format": 1}))
    (tmp_path / "another model" / "model.keras").write_text("foreign")
    (tmp_path / "damaged" / "card.json").unlink()
    (tmp_path / "damaged" / "checkpoint.npz").write_text("half")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.flags").write_text("--seed=0\n")
    (tmp_path / "no run").mkdir()
    (tmp_path / "a file").touch()
    grid_runs.complete(tmp_path / "without a model", one.settings)
    (tmp_path / "without a model" / "model.keras").unlink()
    grid_runs.complete(tmp_path / "without data", one.settings)
    (tmp_path / "without data" / "card.json").write_text(json.dumps(card | {"manifest": {}}))
    (tmp_path / "without data" / "model.keras").write_bytes(
        (tmp_path / "no card of this version" / "model.keras").read_bytes()
    )
    for name, fields in (("young", {"epoch": 1, "stopped": False}), ("younger", {"origin": {}}), ("zero", None)):
        grid_runs.begin(tmp_path / name, one.settings, epoch=1)
        change_progress(tmp_path / name / "checkpoint.npz", fields)
    kept = grid_runs.contents(tmp_path)
    status, passed_over = status_of(one, tmp_path)
    assert status.state == State.MISSING
    names = ("another model", "damaged", "no card of this version", "old", "without a model", "without data")
    names += ("young", "younger", "zero")
    parts = (
        "belongs to another model",
        "is no checkpoint",
        "card format 1",
        "is missing",
        "there is no model.keras",
        "its manifest should have",
        *["is no checkpoint of this version"] * 3,
    )
    for line, name, part in zip(passed_over, names, parts, strict=True):
        assert str(tmp_path / name) in line
        assert part in line
    assert grid_runs.contents(tmp_path) == kept


def test_predictions_that_do_not_belong_to_the_run_are_not_used(manifest, tmp_path):
    first, second = wanted(manifest, seeds=(0, 1))
    for each in (first, second):
        grid_runs.complete(tmp_path / each.name, each.settings)
    own, other = tmp_path / first.name, tmp_path / second.name
    kept = {name: (own / name).read_bytes() for name in ("predictions_test.csv", "metrics.json")}
    table = pd.read_csv(own / "predictions_test.csv")
    needed = ("image", "patient", "covid", "covid_probability")

    def without(column):
        return table.drop(columns=column).to_csv(index=False).encode()

    one_more = json.loads(kept["metrics.json"])
    images = one_more["test"]["images"]
    one_more["test"]["images"] += 1
    for name, content, message in (
        (
            "predictions_test.csv",
            (other / "predictions_test.csv").read_bytes(),
            "the AUC of predictions_test.csv is",
        ),
        ("predictions_test.csv", b"image,patient\n", "lacks the columns covid, covid_probability"),
        *(
            ("predictions_test.csv", without(column), f"lacks the columns {column})")
            for column in table
            if column in needed
        ),
        ("metrics.json", json.dumps(one_more).encode(), f"has {images} images, metrics.json {images + 1}"),
        ("predictions_test.csv", b"", "No columns"),
        ("metrics.json", (other / "metrics.json").read_bytes(), "figures of another model"),
        ("metrics.json", b'{"model_sha256": ', "Expecting value"),
        ("metrics.json", b"[]", "list"),
    ):
        (own / name).write_bytes(content)
        status, _ = status_of(first, tmp_path)
        assert (status.state, status.folder) == (State.BLOCKED, own)
        assert message in status.reason
        (own / name).write_bytes(kept[name])
    assert status_of(first, tmp_path)[0].state == State.DONE
    (own / "predictions_test.csv").unlink()
    assert status_of(first, tmp_path)[0].state == State.EVALUATE


def test_a_folder_is_claimed_whole_and_once(one, tmp_path):
    status, _ = status_of(one, tmp_path / "runs")
    grid.claim(status)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [one.name]
    assert status_of(one, tmp_path / "runs")[0].state == State.UNFINISHED
    kept = grid_runs.contents(tmp_path)
    with pytest.raises(ValueError, match="made by another process"):
        grid.claim(status)
    assert grid_runs.contents(tmp_path) == kept
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_run_that_never_began_leaves_nothing(one, tmp_path):
    grid.claim(status_of(one, tmp_path)[0])
    grid.release(tmp_path / one.name)
    assert not list(tmp_path.iterdir())
    grid_runs.begin(tmp_path / one.name, one.settings)
    grid.release(tmp_path / one.name)
    assert (tmp_path / one.name / "config.flags").is_file()
