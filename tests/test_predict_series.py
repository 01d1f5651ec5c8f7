"""The command that answers a person by a series with a run."""

import json

import numpy as np
import pandas as pd
import pytest
import series_fakes
from PIL import Image
from series_fakes import LUNG, NO_LUNG, Predictor, drenet, volume

from ladnn_tf import predict, runs, series, series_command
from ladnn_tf.data.manifest import read_manifest
from ladnn_tf.data.phantom_anatomy import sample_patient
from ladnn_tf.data.phantom_slice import draw_slice


@pytest.fixture(autouse=True)
def _lungs_by_hand(monkeypatch):
    monkeypatch.setattr(series.lungs, "find_lungs", series_fakes.find_lungs)


@pytest.fixture
def scan(phantom_manifest, tmp_path):
    """A folder of five pictures."""
    frame = read_manifest(phantom_manifest)
    folder = tmp_path / "patient 7"
    folder.mkdir()
    for number, path in enumerate(frame[frame["split"] == "validation"]["path"][:5]):
        Image.open(path).save(folder / f"slice{number}.png")
    return folder


def command(run, *arguments):
    return predict.main(["predict", f"--run={run}", "--nocheck", *map(str, arguments)])


def test_a_folder_of_pictures_is_answered(tiny_run, scan, tmp_path, capsys):
    out = tmp_path / "out"
    outputs = [f"--out={out}", f"--json={tmp_path / 'a.json'}", f"--csv={tmp_path / 'a.csv'}"]
    assert command(tiny_run, f"--series={scan}", "--nolungs", *outputs) == 0
    text = capsys.readouterr().out
    run = runs.load_run(tiny_run)
    slices = predict.predict(run, [scan / f"slice{number}.png" for number in range(5)], check=False)
    mean = np.mean([each.covid for each in slices])

    document = json.loads((out / "series.json").read_text())
    (record,) = document["series"]
    assert record["covid"] == pytest.approx(mean, abs=1e-4)
    assert [each["covid"] for each in record["slices"]] == pytest.approx([each.covid for each in slices], abs=1e-4)
    assert (record["path"], record["slices_answered"], record["lungs_checked"]) == (str(scan), 5, False)
    assert document["model"]["sha256"] == run.card.model_sha256
    assert [caveat.split(":")[0] for caveat in document["caveats"]] == ["PHANTOM MODEL"]  # none about lesions
    assert "PHANTOM MODEL" in text
    assert "lesions" not in text
    assert record["panel"] == "patient_7.png"
    with Image.open(out / record["panel"]) as picture:
        assert picture.height > 2 * 384  # slices, and below them their maps
    assert sorted(path.name for path in out.iterdir()) == ["patient_7.png", "series.json"]
    assert json.loads((tmp_path / "a.json").read_text())["series"][0]["covid"] == record["covid"]

    row = pd.read_csv(tmp_path / "a.csv").iloc[0]
    assert (row["path"], row["slices_answered"], row["aggregation"]) == (str(scan), 5, record["aggregation"])
    assert row["covid"] == pytest.approx(mean, abs=1e-4)
    for part in (f"{mean:.3f} (", "read: 5 slices; display pictures", "Not a medical device"):
        assert part in text


def test_one_bad_path_does_not_keep_the_others_from_their_answers(tiny_run, scan, tmp_path, capsys):
    (tmp_path / "junk.dcm").write_bytes(b"junk")
    paths = [tmp_path / "none", scan, tmp_path / "junk.dcm"]
    arguments = [f"--series={path}" for path in paths]
    assert command(tiny_run, *arguments, "--nolungs", f"--csv={tmp_path / 'a.csv'}") == 1
    text = capsys.readouterr().out
    assert text.count("no answer: ") == 2
    assert "COVID-19: " in text
    table = pd.read_csv(tmp_path / "a.csv")
    assert table["path"].tolist() == list(map(str, paths))
    assert table["covid"].notna().tolist() == [False, True, False]
    assert table["error"].notna().tolist() == [True, False, True]


def test_no_answer_is_no_error(tiny_run, scan, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(series_command, "read_series", lambda path: [volume([NO_LUNG] * 20)])
    out = tmp_path / "out"
    assert command(tiny_run, f"--series={scan}", f"--out={out}", f"--csv={tmp_path / 'a.csv'}") == 0
    text = capsys.readouterr().out
    assert "no answer: all 15 slices that were looked at had to be left out: 15 of them no lungs" in text
    (record,) = json.loads((out / "series.json").read_text())["series"]
    assert (record["covid"], record["panel"], record["error"], record["abstained"]) == (None, None, "", True)
    assert [path.name for path in out.iterdir()] == ["series.json"]
    row = pd.read_csv(tmp_path / "a.csv").iloc[0]
    assert row["reason"].startswith("all 15 slices")
    assert row["abstained"]


def test_all_series_of_a_path_and_all_slices(tiny_run, tmp_path, monkeypatch, capsys):
    def read(path):
        return [volume([LUNG] * 17, size=40, name="series 2"), volume([LUNG], size=40, name="Series 2")]

    monkeypatch.setattr(series_command, "read_series", read)
    out = tmp_path / "out"
    assert command(tiny_run, "--series=scans/7", "--slices=all", f"--out={out}") == 0
    assert "answered: 17 of 17 slices" in capsys.readouterr().out
    records = json.loads((out / "series.json").read_text())["series"]
    assert [record["panel"] for record in records] == ["7_series_2.png", "7_Series_2-2.png"]
    assert [record["slices_chosen"] for record in records] == ["all", "all"]


def test_the_real_thing_from_dicom(tiny_run, tmp_path, monkeypatch, capsys):
    """Drawn slices as DICOM files, read, their lungs found, answered."""
    from ladnn_tf.data import lungs
    from ladnn_tf.data.dicom_writer import write_series

    monkeypatch.undo()
    assert series.lungs.find_lungs is lungs.find_lungs
    patient = sample_patient(np.random.default_rng(1), np.random.default_rng(2))
    chest = [draw_slice(patient, (), level=level, seed=3, size=256).hu for level in (0.4, 0.5)]
    hu = np.stack([np.full_like(chest[0], 40.0), *chest]).astype(np.float32)
    write_series(hu, (5.0, 1.4, 1.4), tmp_path / "scan")
    assert command(tiny_run, f"--series={tmp_path / 'scan'}") == 0
    text = capsys.readouterr().out
    assert "read: 3 slices, 5 mm apart, pixels of 1.4 x 1.4 mm" in text
    assert "answered: 2 of 3 slices" in text
    assert "window: level -600 HU, width 1500 HU" in text


@pytest.mark.parametrize(
    "arguments", [["--series=a", "b.png"], [], ["--out=x", "b.png"], ["--series=a", "--slices=some"]]
)
def test_what_the_command_line_does_not_allow(tiny_run, arguments):
    with pytest.raises(SystemExit) as caught:
        command(tiny_run, *arguments)
    assert caught.value.code == 2


def test_answers_are_not_written_among_the_slices(tiny_run, scan):
    for out in (scan, scan / "deep" / "out"):
        with pytest.raises(ValueError, match="lies in the folder of the series"):
            command(tiny_run, f"--series={scan}", f"--out={out}")
    assert sorted(path.name for path in scan.iterdir()) == [f"slice{number}.png" for number in range(5)]


def test_answers_about_another_person_are_not_replaced(scan, tmp_path):
    content = json.dumps({"series": [{"path": str(scan)}, {"path": "scans/8"}, {}, "x"]})
    (tmp_path / "series.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"series\.json has the answer about scans/8, which this command does not"
    ):
        command(tmp_path / "no_run", f"--series={scan}", f"--out={tmp_path}")
    assert (tmp_path / "series.json").read_text() == content


def test_a_file_is_no_folder_for_answers(scan, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"--out=.*file is a file; give a folder"):
        command(tmp_path / "no_run", f"--series={scan}", f"--out={tmp_path / 'file'}")


def test_the_help_has_exit_statuses_and_fields(capsys):
    with pytest.raises(SystemExit):
        predict.main(["predict", "--help"])
    text = capsys.readouterr().out
    assert "Exit status: 0, all answered or refused" in text
    assert "docs/series.md" in text


def test_a_model_with_classes_in_the_csv(tmp_path, monkeypatch):
    monkeypatch.setattr(series_command, "read_series", lambda path: [volume([LUNG] * 2)])
    answers = [drenet(covid, [[0.0, 0.0, 0.5, 0.5]], [0.5]) for covid in (0.2, 0.6)]
    predictor = Predictor(answers, task="drenet", classes=series_fakes.CLASSES)
    options = {"slices": "equidistant", "check_lungs": True, "out": None, "report": lambda *_: None}
    records = series_command.answer_all(["scan"], predictor, **options)
    predict.write_series_csv(records, tmp_path / "a.csv")
    row = pd.read_csv(tmp_path / "a.csv").iloc[0]
    assert row["covid"] == pytest.approx(0.4)
    assert row["cautions"] == (
        "The answer rests on few slices: 2 answered of 2 that were looked at. The call is negative, but the most "
        "probable class is COVID-19."
    )
    assert [row[name] for name in series_fakes.CLASSES] == pytest.approx([0.4, 0.3, 0.3])


def test_not_enough_memory_is_an_error_of_that_path(monkeypatch):
    def read(path):
        if path == "large":
            raise MemoryError
        return [volume([LUNG])]

    monkeypatch.setattr(series_command, "read_series", read)
    options = {"slices": "all", "check_lungs": True, "out": None, "report": lambda *_: None}
    large, small = series_command.answer_all(["large", "small"], Predictor([0.5]), **options)
    assert large["error"] == "not enough memory to read it"
    assert (small["error"], small["covid"]) == ("", 0.5)


OPTIONS = {"slices": "all", "check_lungs": True}


class Failing(Predictor):
    """Fails at its second series, by the given error."""

    def __init__(self, error):
        super().__init__([0.5] * 5)
        self.error = error

    def predict(self, images):
        if len(self.batches) == 1:
            self.batches.append(images)
            raise self.error
        return super().predict(images)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "not enough memory to answer it"),
        (ValueError("a\n b"), "the program failed at this series (ValueError: a b)"),
        (
            OSError(5, "Input/output error"),
            "the program failed at this series (OSError: [Errno 5] Input/output error)",
        ),
        (RuntimeError(), "the program failed at this series (RuntimeError)"),
    ],
)
def test_one_series_that_cannot_be_answered_does_not_keep_the_others_from_their_answers(monkeypatch, error, words):
    def read(path):
        return [volume([LUNG], name=f"series {number}") for number in (1, 2, 3)]

    monkeypatch.setattr(series_command, "read_series", read)
    said = []
    records = series_command.answer_all(
        ["a", "b"], Failing(error), **OPTIONS, out=None, report=lambda _, text: said.append(text)
    )
    assert [record["error"] for record in records] == ["", words, "", "", "", ""]
    assert [record["covid"] for record in records] == [0.5, None, 0.5, 0.5, 0.5, 0.5]
    assert (records[1]["path"], records[1]["name"]) == ("a", "series 2")
    assert said[1] == f"a, series 2\n  no answer: {words}"


def test_what_was_answered_is_on_the_disk_before_the_next_is_read(tmp_path, monkeypatch):
    found = []

    def read(path):
        found.append([record["path"] for record in json.loads((tmp_path / "series.json").read_bytes())["series"]])
        if path == "c":
            raise KeyboardInterrupt
        return [volume([LUNG])]

    monkeypatch.setattr(series_command, "read_series", read)
    with pytest.raises(KeyboardInterrupt):
        series_command.answer_all(
            ["a", "b", "c"], Predictor([0.5] * 2), **OPTIONS, out=tmp_path, panels=False, report=lambda *_: None
        )
    assert found == [[], ["a"], ["a", "b"]]


def test_pictures_of_an_earlier_call_are_deleted_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(
        series_command, "read_series", lambda path: [volume([LUNG if path == "scan" else NO_LUNG])]
    )
    out = tmp_path / "out"

    def answer(path):
        (record,) = series_command.answer_all([path], Predictor([0.5]), **OPTIONS, out=out, report=lambda *_: None)
        return record["panel"]

    assert answer("scan") == "scan_series_2_CHEST.png"
    (out / "other.png").write_bytes(b"")
    (tmp_path / "outside.png").write_bytes(b"")
    assert answer("belly") is None
    assert sorted(path.name for path in out.iterdir()) == ["other.png", "series.json"]
    named = [
        "../outside.png",
        str(tmp_path / "outside.png"),
        "kept.txt",
        "folder.png",
        "missing.png",
        None,
        "gone.png",
    ]
    (out / "series.json").write_text(json.dumps({"series": [{"panel": name} for name in named]}))
    for name in ("kept.txt", "gone.png"):
        (out / name).write_bytes(b"")
    (out / "folder.png").mkdir()
    answer("belly")
    assert sorted(path.name for path in out.iterdir()) == ["folder.png", "kept.txt", "other.png", "series.json"]
    assert (tmp_path / "outside.png").exists()


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"series": 3}', '{"series": ["a.png"]}', '{"other": 1}', "\udcff"]
)
def test_a_file_of_that_name_that_is_something_else_is_replaced(tmp_path, monkeypatch, content):
    monkeypatch.setattr(series_command, "read_series", lambda path: [volume([NO_LUNG])])
    (tmp_path / "series.json").write_text(content, errors="surrogateescape")
    (tmp_path / "a.png").write_bytes(b"")
    series_command.answer_all(["x"], Predictor([]), **OPTIONS, out=tmp_path, report=lambda *_: None)
    assert json.loads((tmp_path / "series.json").read_text())["series"][0]["path"] == "x"
    assert (tmp_path / "a.png").exists()


def test_a_model_that_failed_at_every_slice_is_an_error_of_the_command(tiny_run, monkeypatch, capsys):
    monkeypatch.setattr(series_command, "read_series", lambda path: [volume([LUNG] * 2)])
    monkeypatch.setattr(predict, "RunPredictor", lambda run, **_: Predictor([{"error": "no finite number"}] * 2))
    assert command(tiny_run, "--series=x") == 1
    assert "2 of them no answer: no finite number" in capsys.readouterr().out
