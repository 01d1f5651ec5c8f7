"""A training that is interrupted goes on as if it had not been."""

import dataclasses
import errno
import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY

from ladnn_tf import checkpoint, runs, train, validation

PROCESS = REPOSITORY / "tests" / "training_process.py"


def start(*arguments):
    """A training in another process, as `training_process.py` takes it."""
    command = [sys.executable, str(PROCESS), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)


def wait(process, status):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == status, errors


@pytest.fixture(scope="module")
def demanding(tiny_settings):
    """Every part of a training that has a state."""
    return dataclasses.replace(
        tiny_settings,
        epochs=9,
        frozen_epochs=2,
        warmup_epochs=1.0,
        cosine_decay=True,
        ema_decay=0.7,
        early_stopping_patience=3,
        learning_rate=0.05,
        precision="mixed_float16",
        deterministic=True,
    )


def test_killed_and_resumed_ends_bit_identical(demanding, tmp_path):
    """Dropout, moving average, cosine decay, loss scaling, a frozen phase and early stopping; SIGKILL in the
    middle of an epoch: in the frozen phase, right after it, and later."""
    settings = tmp_path / "config.flags"
    settings.write_text(demanding.to_flags())
    whole = start(tmp_path / "whole" / "run", settings)
    wait(start(tmp_path / "killed" / "run", settings, 1), -signal.SIGKILL)
    for epoch in (2, 4):
        wait(start(tmp_path / "killed" / "run", "resume", epoch), -signal.SIGKILL)
        saved = checkpoint.read_checkpoint(tmp_path / "killed" / "run" / checkpoint.FILE)
        assert saved.progress.epoch == epoch
    wait(start(tmp_path / "killed" / "run", "resume"), 0)
    wait(whole, 0)

    first, second = (runs.load_run(tmp_path / name / "run") for name in ("whole", "killed"))
    for name in ("history.csv", "predictions_validation.csv", "config.flags"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes(), name
    assert dataclasses.replace(first.card, model_sha256="") == dataclasses.replace(second.card, model_sha256="")
    epochs = len(pd.read_csv(first.folder / "history.csv"))
    assert 5 < epochs < 11  # it did stop early, and after all kills
    assert not (second.folder / checkpoint.FILE).exists()


class InterruptError(Exception):
    """What stops a training in these tests, in the process itself."""


def interrupted(settings, folder, epochs, monkeypatch, error):
    """A training that fails when it is to store its state for the last time of `epochs`."""
    written = []

    def savez(file, **arrays):
        written.append(1)
        if len(written) == epochs:
            file.write(b"half of it")
            raise error
        real(file, **arrays)

    real = np.savez
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.np, "savez", savez)
        with pytest.raises(type(error)) as caught:
            train.train(settings, folder)
    return str(caught.value)


def test_a_full_disk_keeps_the_last_good_state_and_says_how_to_go_on(tiny_settings, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    full = OSError(errno.ENOSPC, "No space left on device")
    message = interrupted(tiny_settings, folder, 3, monkeypatch, full)
    assert "epoch 3 could not be stored (No space left on device); the last state that could be written" in message
    assert f"--run={folder} --resume" in message
    assert str(folder / checkpoint.FILE) in message
    assert checkpoint.read_checkpoint(folder / checkpoint.FILE).progress.epoch == 2
    assert [path.name for path in folder.glob(".*")] == []
    train.resume(folder)
    assert pd.read_csv(folder / "history.csv")["epoch"].tolist() == [1, 2, 3]
    assert runs.load_run(folder).card.task == "ladnn"


def test_a_training_interrupted_in_its_first_epoch_begins_anew(tiny_settings, tmp_path, monkeypatch):
    settings = dataclasses.replace(tiny_settings, epochs=1)
    interrupted(settings, tmp_path / "run", 1, monkeypatch, InterruptError())
    (tmp_path / "run" / f".{checkpoint.FILE}.abc").write_bytes(b"left by a kill")
    train.resume(tmp_path / "run")
    assert runs.load_run(tmp_path / "run").card.best_epoch == 1
    assert [path.name for path in (tmp_path / "run").glob(".*")] == []


@pytest.fixture(scope="module")
def unfinished(tiny_settings, tmp_path_factory):
    """A run that was interrupted in its second epoch. Tests copy it."""
    folder = tmp_path_factory.mktemp("runs") / "unfinished"
    with pytest.MonkeyPatch.context() as patch:
        interrupted(tiny_settings, folder, 2, patch, InterruptError())
    return folder


def test_an_unfinished_run_is_no_run_to_evaluate(unfinished):
    with pytest.raises(
        ValueError, match=r"no model\.keras.*finish it by python -m ladnn_tf\.train --run=.* --res"
    ):
        runs.load_run(unfinished)


def test_the_command_resumes_with_the_settings_it_began_with(unfinished, tmp_path, capsys):
    folder = shutil.copytree(unfinished, tmp_path / "run")
    with pytest.raises(ValueError, match=r"began with --epochs=3 .*for --epochs=7 start another run"):
        train.main(["train", f"--run={folder}", "--resume", "--epochs=7"])
    arguments = ["train", f"--flagfile={folder / 'config.flags'}", f"--run={folder}", "--resume"]
    assert train.main(arguments) == 0
    assert f"run folder: {folder}" in capsys.readouterr().out
    with pytest.raises(ValueError, match="is finished; there is nothing to resume"):
        train.main(arguments)


@pytest.mark.parametrize("arguments", [["--resume"], ["--resume", "--run=x", "--overwrite"]])
def test_resume_needs_a_run_and_replaces_nothing(arguments, capsys):
    with pytest.raises(SystemExit):
        train.main(["train", *arguments])
    assert "--resume needs --run=FOLDER" in capsys.readouterr().err


def test_there_must_be_a_run(tmp_path):
    with pytest.raises(ValueError, match="there is no run to resume"):
        train.resume(tmp_path / "nowhere")


def test_other_labels_than_it_began_with_are_refused(unfinished, phantom_manifest, tmp_path):
    folder = shutil.copytree(unfinished, tmp_path / "run")
    frame = pd.read_csv(phantom_manifest, dtype=str, keep_default_na=False)
    frame["image"] = [str(phantom_manifest.parent / image) for image in frame["image"]]
    frame.loc[frame.index[frame["split"] == "train"][0], "GGO"] = ""
    frame.to_csv(tmp_path / "m.csv", index=False)
    flagfile = folder / "config.flags"
    flagfile.write_text(flagfile.read_text().replace(str(phantom_manifest), str(tmp_path / "m.csv")))
    with pytest.raises(ValueError, match="not those that this training began with"):
        train.resume(folder)


def rewrite(folder, change):
    """Changes what a checkpoint says of its progress."""
    path = folder / checkpoint.FILE
    with np.load(path) as file:
        arrays = dict(file)
    fields = json.loads(str(arrays["progress"]))
    change(fields, arrays)
    np.savez(path, **{**arrays, "progress": np.array(json.dumps(fields))})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:5000]), "is no checkpoint: .*cannot be read as a .npz"),
        (lambda p: p.write_bytes(b""), "is no checkpoint: .*cannot be read as a .npz"),
        (lambda p: rewrite(p.parent, lambda f, a: f.update(format=99)), "written by another version"),
        (lambda p: rewrite(p.parent, lambda f, a: a.pop("model/00003")), r"variables of the model.*first.*bn\d/"),
    ],
    ids=["truncated", "empty", "version", "variables"],
)
def test_a_damaged_checkpoint_is_named(unfinished, tmp_path, damage, message):
    folder = shutil.copytree(unfinished, tmp_path / "run")
    damage(folder / checkpoint.FILE)
    with pytest.raises(ValueError, match=message):
        train.resume(folder)


def test_a_training_that_had_stopped_is_only_finished(unfinished, tmp_path):
    folder = shutil.copytree(unfinished, tmp_path / "run")
    rewrite(folder, lambda fields, arrays: fields.update(stopped=True))
    train.resume(folder)
    assert len(pd.read_csv(folder / "history.csv")) == 1


def test_a_folder_that_cannot_be_made_stops_it_before_the_first_epoch(tiny_settings, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match=r"file/run|file"):
        train.train(tiny_settings, tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "not a folder"


def refuse(*_args, **_options):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("what", ["write_predictions", "write_card"])
def test_a_training_that_failed_at_its_very_end_is_finished_by_a_resume(
    what, tiny_settings, tmp_path, monkeypatch
):
    settings = dataclasses.replace(tiny_settings, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(train.runs if what == "write_predictions" else train, what, refuse)
        with pytest.raises(OSError, match=r"the trained model could not be stored \(No space left.* --resume"):
            train.train(settings, tmp_path / "run")
    train.resume(tmp_path / "run")
    run = runs.load_run(tmp_path / "run")
    assert runs.read_metrics(run.folder, run.card.model_sha256)["validation"]["images"] == 14


def test_the_history_of_the_last_epoch_is_not_lost(tiny_settings, tmp_path, monkeypatch):
    """A kill between the checkpoint and the history, which is written after it."""
    settings = dataclasses.replace(tiny_settings, epochs=2)
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(validation, "write_atomically", refuse)
        with pytest.raises(OSError, match="epoch 1 could not be stored"):
            train.train(settings, folder)
    rewrite(folder, lambda fields, arrays: fields.update(stopped=True))
    train.resume(folder)
    assert pd.read_csv(folder / "history.csv")["epoch"].tolist() == [1]


def test_a_lost_checkpoint_is_not_taken_for_a_beginning(unfinished, tmp_path):
    folder = shutil.copytree(unfinished, tmp_path / "run")
    (folder / checkpoint.FILE).unlink()
    with pytest.raises(ValueError, match=r"has finished epochs, but no checkpoint\.npz"):
        train.resume(folder)
    assert len(pd.read_csv(folder / "history.csv")) == 1


def test_edited_settings_are_refused_and_moved_data_is_not(unfinished, phantom_manifest, tmp_path):
    folder = shutil.copytree(unfinished, tmp_path / "run")
    flagfile = folder / "config.flags"
    began = flagfile.read_text()
    flagfile.write_text(began.replace("--learning_rate=0.003", "--learning_rate=0.5"))
    with pytest.raises(ValueError, match=r"says --learning_rate=0.5, but the training began with 0.003"):
        train.resume(folder)
    moved = phantom_manifest.parent / "moved.csv"
    shutil.copy(phantom_manifest, moved)
    flagfile.write_text(began.replace(str(phantom_manifest), str(moved)))
    train.resume(folder)
    assert runs.load_run(folder).card.best_epoch


def test_two_processes_cannot_train_in_one_folder(unfinished, tiny_settings, tmp_path):
    folder = shutil.copytree(unfinished, tmp_path / "run")
    with runs.training_lock(folder):
        for attempt in (lambda: train.resume(folder), lambda: train.train(tiny_settings, folder, overwrite=True)):
            with pytest.raises(ValueError, match="is being trained by another process"):
                attempt()
    assert (folder / checkpoint.FILE).is_file()


@pytest.mark.parametrize("name", ["init_run", "weights", "manifest"])
def test_what_it_starts_from_is_not_overwritten(name, tiny_run, tiny_settings, tmp_path):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    value = str(folder) if name == "init_run" else str(folder / "model.keras")
    with pytest.raises(ValueError, match=rf"--{name}=.* lies in .*which --overwrite would delete"):
        train.train(dataclasses.replace(tiny_settings, **{name: value}), folder, overwrite=True)
    assert runs.load_run(folder).card.name == "tiny"


def test_a_finished_run_s_left_over_checkpoint_goes(unfinished, tiny_run, tmp_path):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    shutil.copy(unfinished / checkpoint.FILE, folder)
    with pytest.raises(ValueError, match="is finished"):
        train.resume(folder)
    assert not (folder / checkpoint.FILE).exists()
