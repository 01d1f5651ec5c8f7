"""The command that answers image files."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ladnn_tf import predict, runs
from ladnn_tf.data.manifest import read_manifest


@pytest.fixture
def files(phantom_manifest):
    frame = read_manifest(phantom_manifest)
    return frame[frame["split"] == "validation"]["path"].tolist()


def test_files_get_what_the_validation_predictions_say(tiny_run, files):
    answers = predict.predict(runs.load_run(tiny_run), files)
    table = runs.read_predictions(tiny_run, "validation")
    np.testing.assert_allclose([a.covid for a in answers], table["covid_probability"], atol=2e-3)
    np.testing.assert_allclose([a.lesions["CrPa"] for a in answers], table["CrPa_probability"], atol=2e-3)


def test_the_call_is_made_at_the_card_s_threshold(tiny_run, files):
    run = runs.load_run(tiny_run)
    covid = sorted(answer.covid for answer in predict.predict(run, files))
    between = (covid[2] + covid[3]) / 2
    run = dataclasses.replace(run, card=dataclasses.replace(run.card, threshold=between))
    called = sorted((answer.covid, answer.positive) for answer in predict.predict(run, files))
    assert [positive for _, positive in called] == [False] * 3 + [True] * (len(files) - 3)


def test_dicom_is_to_be_given_as_a_series(tiny_run, tmp_path):
    (tmp_path / "scan").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "scan" / "IM1").write_bytes(bytes(128) + b"DICM")
    names = [str(tmp_path / name) for name in ("scan/IM1", "scan", "empty", "none.png")]
    answers = predict.predict(runs.load_run(tiny_run), names)
    hint = (
        "this is DICOM: give it by --series=PATH, as it is; a picture made of it would lose the Hounsfield units"
    )
    assert [answer.error for answer in answers] == [
        f"{names[0]}: {hint}",
        f"{names[1]}: {hint}",
        f"{names[2]}: cannot be read (Is a directory)",
        f"{names[3]}: cannot be read (No such file or directory)",
    ]


def test_a_bad_file_is_reported_and_the_others_are_answered(tiny_run, files, tmp_path, capsys):
    (tmp_path / "junk.png").write_bytes(b"junk")
    names = [files[0], str(tmp_path / "junk.png"), str(tmp_path / "missing.png"), files[1]]
    outputs = [f"--csv={tmp_path / 'out.csv'}", f"--json={tmp_path / 'out.json'}"]
    assert predict.main(["predict", f"--run={tiny_run}", *outputs, *names]) == 1
    printed = capsys.readouterr().out
    assert printed.count("no answer: ") == 2
    assert "neither PNG nor JPEG" in printed
    assert "Not a medical device" in printed
    assert "where the call is negative, ignore them" in printed

    table = pd.read_csv(tmp_path / "out.csv")
    assert table["file"].tolist() == names
    assert table["covid"].notna().tolist() == [True, False, False, True]
    document = json.loads((tmp_path / "out.json").read_text())
    assert [caveat.split(":")[0] for caveat in document["caveats"]] == [
        "PHANTOM MODEL",
        "The lesions were learnt on COVID-19 images alone",
    ]
    assert [p["covid"] is None for p in document["predictions"]] == [False, True, True, False]
    assert document["predictions"][0]["lesions"].keys() == {"GGO", "Csld", "CrPa", "AirBr", "InSepThi"}
    alone = predict.predict(runs.load_run(tiny_run), [files[1]])
    assert document["predictions"][3]["covid"] == pytest.approx(alone[0].covid, abs=1e-5)


@pytest.fixture
def blank(tmp_path):
    Image.new("RGB", (64, 64), (90, 90, 90)).save(tmp_path / "blank.png")
    return str(tmp_path / "blank.png")


def test_what_is_no_slice_gets_a_reason_and_the_others_their_answers(tiny_run, files, blank, tmp_path, capsys):
    names = [files[0], blank, files[1]]
    outputs = [f"--csv={tmp_path / 'out.csv'}", f"--json={tmp_path / 'out.json'}"]
    assert predict.main(["predict", f"--run={tiny_run}", *outputs, *names]) == 0
    assert "  no answer: not a chest-CT slice: hardly any contrast" in capsys.readouterr().out

    table = pd.read_csv(tmp_path / "out.csv")
    assert table["abstained"].tolist() == [False, True, False]
    assert table["reason"].fillna("").str.startswith("hardly any contrast").tolist() == [False, True, False]
    assert table["covid"].notna().tolist() == [True, False, True]
    assert table["error"].isna().all()
    answers = json.loads((tmp_path / "out.json").read_text())["predictions"]
    assert [a["abstained"] for a in answers] == [False, True, False]
    assert [a["error"] for a in answers] == ["", "", ""]
    assert answers[1]["covid"] is None
    assert answers[1]["positive"] is None
    assert answers[1]["lesions"] == {}
    alone = predict.predict(runs.load_run(tiny_run), [files[1]])
    assert answers[2]["covid"] == pytest.approx(alone[0].covid, abs=1e-5)


def test_without_the_check_everything_is_answered(tiny_run, blank, capsys):
    assert predict.main(["predict", f"--run={tiny_run}", "--nocheck", blank]) == 0
    assert "no answer" not in capsys.readouterr().out
    run = runs.load_run(tiny_run)
    assert predict.predict(run, [blank], check=False)[0].covid is not None
    assert predict.predict(run, [blank])[0].abstained


def test_an_error_is_no_abstention(tiny_run, blank, tmp_path):
    answer = predict.predict(runs.load_run(tiny_run), [tmp_path / "missing.png", blank])[0]
    assert not answer.abstained
    assert answer.reason == ""
    assert answer.error == f"{tmp_path / 'missing.png'}: cannot be read (No such file or directory)"
    assert predict.main(["predict", f"--run={tiny_run}", str(tmp_path / "missing.png"), blank]) == 1


def test_all_good_is_exit_status_0_and_all_bad_is_not_a_crash(tiny_run, files, tmp_path):
    assert predict.main(["predict", f"--run={tiny_run}", files[0]]) == 0
    assert predict.main(["predict", f"--run={tiny_run}", str(tmp_path / "none.png")]) == 1


def test_the_baseline_answers_without_lesions(tiny_baseline_run, files, capsys):
    assert predict.main(["predict", f"--run={tiny_baseline_run}", files[0]]) == 0
    printed = capsys.readouterr().out
    assert "GGO" not in printed
    assert "COVID-19" in printed


def test_more_files_than_a_batch_keep_their_order(tiny_run, files, monkeypatch):
    whole = predict.predict(runs.load_run(tiny_run), files[:5])
    monkeypatch.setattr(predict, "_BATCH", 2)
    parts = predict.predict(runs.load_run(tiny_run), files[:5])
    assert [p.file for p in parts] == files[:5]
    np.testing.assert_allclose([p.covid for p in parts], [p.covid for p in whole], atol=1e-5)


def test_names_of_any_kind(tiny_run, files, tmp_path, capsys):
    strange = [tmp_path / "\x1b[2J.png", tmp_path / "\udcff.png", tmp_path / "\x1b.none"]
    for path in strange[:2]:
        path.write_bytes(Path(files[0]).read_bytes())
    outputs = [f"--csv={tmp_path / 'out.csv'}", f"--json={tmp_path / 'out.json'}"]
    assert predict.main(["predict", f"--run={tiny_run}", "--nocheck", *outputs, *map(str, strange)]) == 1
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    printed.encode()  # the surrogates were replaced
    rows = printed.splitlines()[:3]
    assert len({row.index(" 0.") for row in rows[1:]}) == 1  # columns as wide as what is printed
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["file"].tolist() == [str(strange[0]), f"{tmp_path}/\\udcff.png", str(strange[2])]
    answers = json.loads((tmp_path / "out.json").read_text())["predictions"]
    assert [answer["file"] for answer in answers] == list(map(str, strange))


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_an_output_that_fails_leaves_the_old_one(tiny_run, files, tmp_path, monkeypatch, kind):
    old = tmp_path / f"out.{kind}"
    old.write_text("old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"No space left on device.*out\.{kind}"):
        predict.main(["predict", f"--run={tiny_run}", f"--{kind}={old}", files[0]])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(f"out.{kind}", "old")]


def test_no_files_is_an_error(tiny_run):
    with pytest.raises(SystemExit) as caught:
        predict.main(["predict", f"--run={tiny_run}"])
    assert caught.value.code == 2


def test_an_output_that_cannot_be_written_is_said_before_the_work(tiny_run, files, tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        predict.main(["predict", f"--run={tiny_run}", f"--csv={tmp_path}/nowhere/out.csv", files[0]])


def test_a_number_that_is_none_is_no_answer(tiny_run, files, monkeypatch):
    broken = {"covid": np.array([[np.nan]]), "lesions": np.zeros((1, 5))}
    monkeypatch.setattr(predict.runs, "predict_logits", lambda *_: broken)
    answer = predict.predict(runs.load_run(tiny_run), files[:1])[0]
    assert answer.covid is None
    assert "no finite number" in answer.error
