"""Artefacts in their place or not: what lies there after fit, unfit, kept and interrupted."""

import dataclasses
import json
import os

import pytest
from parity_fakes import export_card, outputs, run_card, sample

from export import artefacts, placing
from export.parity_compare import Comparison
from ladnn_tf.card import card_json, parse_card
from ladnn_tf.tflite_file import card_beside, read_card


def comparison_of(card, fitness="fit"):
    reasons = () if fitness == "fit" else ("maps differ",)
    return Comparison("x", card, fitness, reasons, {"latency_ms": 2.5})


def place(path, model=b"model", fitness="fit", keep_failed=False, **changes):
    card = export_card(model, "int8", **changes)
    return placing.place_tflite(model, card, comparison_of(card, fitness), path, keep_failed)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "int8.tflite"


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_fit_file_lies_there_with_the_findings_in_and_beside_it(path):
    assert place(path)
    assert names(path.parent) == ["int8.card.json", "int8.tflite"]
    card, _ = read_card(path)
    assert (card.export.fitness, card.export.reasons, card.export.measured) == ("fit", (), {"latency_ms": 2.5})
    assert card_beside(path).read_bytes() == card_json(card)
    assert path.read_bytes().startswith(b"model")


def test_an_unfit_file_is_not_written(path):
    assert not place(path, fitness="unfit")
    assert names(path.parent) == []


def test_an_unfit_file_that_is_kept_says_so(path):
    assert place(path, fitness="unfit", keep_failed=True)
    card, _ = read_card(path)
    assert (card.export.fitness, card.export.reasons) == ("unfit", ("maps differ",))


def test_a_new_file_replaces_the_old_one_and_its_card(path):
    assert place(path, b"old")
    assert place(path, b"new model")
    assert read_card(path)[0].model_sha256 == export_card(b"new model").model_sha256


def test_a_refusal_leaves_an_older_fit_file_and_says_so(path, caplog):
    assert place(path, b"old", source_sha256="b" * 64)
    before = path.read_bytes()
    assert not place(path, b"new", fitness="unfit")
    assert path.read_bytes() == before
    assert card_beside(path).is_file()
    assert "int8.tflite is still there, made of the model bbbbbbbbbbbb..., not of aaaaaaaaaaaa..." in caplog.text


def test_a_refusal_removes_an_older_unfit_file(path):
    assert place(path, b"old", fitness="unfit", keep_failed=True)
    assert not place(path, b"new", fitness="unfit")
    assert names(path.parent) == []


def test_a_refusal_removes_the_same_model_though_it_was_fit_before(path):
    assert place(path)
    assert not place(path, fitness="unfit")
    assert names(path.parent) == []


def test_a_refusal_leaves_what_it_cannot_read(path, caplog):
    path.write_bytes(b"something else")
    assert not place(path, fitness="unfit")
    assert path.read_bytes() == b"something else"
    assert "left there, unreadable" in caplog.text


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_kill_leaves_a_file_that_is_read(path, monkeypatch, writes):
    """After so many of the two writes: the old file, or the new one, never two that contradict each other."""
    assert place(path, b"old")
    real, done = placing.write_atomically, []

    def write(*arguments):
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(arguments)
        real(*arguments)

    monkeypatch.setattr(placing, "write_atomically", write)
    if writes < 2:
        with pytest.raises(KeyboardInterrupt):
            place(path, b"new")
    else:
        place(path, b"new")
    found = read_card(path)[0].model_sha256
    assert found == export_card(b"old" if writes == 0 else b"new").model_sha256


def test_what_does_not_belong_together_is_an_error(path):
    card, other = export_card(b"model"), export_card(b"other")
    with pytest.raises(ValueError, match="the comparison is of fake-float32-"):
        placing.place_tflite(b"model", card, comparison_of(other), path, False)
    with pytest.raises(ValueError, match="belongs to another model"):
        placing.place_tflite(b"other", card, comparison_of(card), path, False)
    with pytest.raises(ValueError, match="the comparison is of"):
        placing.final_card(run_card(), comparison_of(run_card()))
    assert names(path.parent) == []


@pytest.fixture
def staged(tmp_path):
    folder = tmp_path / ".staged"
    (folder / "variables").mkdir(parents=True)
    folder.chmod(0o700)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"weights")
    (folder / artefacts.EXTRAS).mkdir()
    (folder / artefacts.EXTRAS / "tf_serving_warmup_requests").write_bytes(b"warm")
    return folder


def saved_card(folder):
    return dataclasses.replace(export_card(form="saved_model"), model_sha256=artefacts.saved_model_sha256(folder))


def place_saved(staged, fitness="fit", keep_failed=False, target="3"):
    card = saved_card(staged)
    target = staged.parent / "models" / target
    target.parent.mkdir(exist_ok=True)
    placed = placing.place_saved_model(staged, card, comparison_of(card, fitness), target, keep_failed)
    return placed, target


@pytest.mark.parametrize(("fitness", "keep_failed"), [("fit", False), ("unfit", True)])
def test_a_saved_model_is_renamed_with_its_card(staged, fitness, keep_failed):
    placed, target = place_saved(staged, fitness, keep_failed)
    assert placed
    assert not staged.exists()
    assert artefacts.saved_model_card(target).export.fitness == fitness
    assert target.stat().st_mode & 0o777 == 0o755
    assert (target / artefacts.EXTRAS / "tf_serving_warmup_requests").is_file()


def test_a_server_can_read_what_was_placed_whatever_the_umask_was(staged):
    for path in staged.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    (staged / "variables" / "variables.index").chmod(0o640)
    before = os.umask(0o077)
    try:
        _, target = place_saved(staged)
    finally:
        os.umask(before)
    modes = {path.relative_to(target).as_posix(): path.stat().st_mode & 0o777 for path in target.rglob("*")}
    assert target.stat().st_mode & 0o777 == 0o755
    assert modes == {
        "assets": 0o755,
        "assets/card.json": 0o644,
        "assets.extra": 0o755,
        "assets.extra/tf_serving_warmup_requests": 0o644,
        "saved_model.pb": 0o644,
        "variables": 0o755,
        "variables/variables.index": 0o644,
    }


def test_an_unfit_saved_model_is_deleted(staged):
    placed, target = place_saved(staged, "unfit")
    assert not placed
    assert not staged.exists()
    assert names(target.parent) == []


def test_a_version_that_is_taken_is_an_error(staged):
    (staged.parent / "models" / "3").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="another export"):
        place_saved(staged)
    card = export_card(form="saved_model")
    with pytest.raises(ValueError, match="belongs to another model"):
        placing.place_saved_model(staged, card, comparison_of(card), staged.parent / "4", False)


def test_findings_replace_older_ones_in_place(path, staged):
    assert place(path)
    _, folder = place_saved(staged)
    for artefact in (path, folder):
        card = artefacts.artefact_card(artefact)
        assert placing.place_again(artefact, comparison_of(card, "unfit"), True)
        again = artefacts.artefact_card(artefact)
        assert again.model_sha256 == card.model_sha256
        assert again.export.reasons == ("maps differ",)
        assert not placing.place_again(artefact, comparison_of(again, "unfit"), False)
        assert not artefact.exists()
    assert names(folder.parent) == []
    assert not card_beside(path).exists()


def test_what_a_killed_removal_left_is_in_no_one_s_way(staged):
    _, folder = place_saved(staged)
    for leftover in (f".{folder.name}.refused", ".1.x.refused"):
        (folder.parent / leftover / "variables").mkdir(parents=True)
    card = artefacts.artefact_card(folder)
    assert not placing.place_again(folder, comparison_of(card, "unfit"), False)
    assert names(folder.parent) == []


def test_a_saved_model_s_card_is_checked(staged):
    with pytest.raises(ValueError, match=r"there is no .*card\.json"):
        artefacts.saved_model_card(staged)
    path = artefacts.card_path(staged)
    path.parent.mkdir()
    card = saved_card(staged)
    path.write_bytes(card_json(dataclasses.replace(card, export=None)))
    with pytest.raises(ValueError, match="the card of a run"):
        artefacts.saved_model_card(staged)
    path.write_bytes(card_json(card))
    assert artefacts.saved_model_card(staged) == card
    (staged / "saved_model.pb").write_bytes(b"other graph")
    with pytest.raises(ValueError, match="belongs to another model"):
        artefacts.saved_model_card(staged)


def test_the_card_survives_its_own_json(path):
    """A card with everything that the gate measures is read as it was written."""
    from parity_fakes import FakeArtefact, evidence

    from export.parity_compare import compare

    answers = outputs([0.1, 0.9])
    comparison = compare(evidence(sample([0, 1], answers)), FakeArtefact(answers, answers))
    card = placing.final_card(export_card(), comparison)
    assert parse_card(card_json(card), "x") == card
    assert json.loads(card_json(card))["export"]["measured"]["same_pixels"]["agreement"]["images"] == 2
