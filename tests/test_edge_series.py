"""The edge command that answers a person by a series, without TensorFlow."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import series_fakes
import tiny_tflite
from PIL import Image
from series_fakes import LUNG, NO_LUNG, volume

from ladnn_tf import edge, series, series_command
from ladnn_tf.card import PersonRule

RULE = PersonRule("noisy_or", 0.5, "by hand", patients=24, positives=11)
GREYS = (51, 153, 204)  # the tiny model answers sigmoid(4 grey / 255 - 2)
SLICES = [1 / (1 + math.exp(2 - 4 * grey / 255)) for grey in GREYS]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_tflite.write_model(tmp_path_factory.mktemp("edge") / "float32.tflite", person=RULE)


@pytest.fixture
def scan(tmp_path):
    """A folder of three pictures of one grey each."""
    folder = tmp_path / "patient7"
    folder.mkdir()
    for number, grey in enumerate(GREYS):
        Image.new("RGB", (40, 40), (grey,) * 3).save(folder / f"{number}.png")
    return folder


def command(model, *arguments):
    return edge.run(["edge", str(model), "--no-check", *map(str, arguments)])


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_person_s_answer_by_hand(model, scan, capsys):
    assert command(model, f"--series={scan}", "--no-lungs", "--format=jsonl") == 0
    (record,) = lines(capsys)
    assert [each["covid"] for each in record["slices"]] == pytest.approx(SLICES, abs=2e-5)
    assert record["covid"] == pytest.approx(1 - math.prod(1 - covid for covid in SLICES), abs=2e-5)
    assert (record["positive"], record["threshold"], record["suspicious"]) == (True, 0.5, [3, 2, 1])
    assert [each["number"] for each in record["slices"]] == [1, 2, 3]
    assert (record["path"], record["error"], record["panel"]) == (str(scan), "", None)
    assert record["model_version"].startswith("tiny-float32-")


def test_as_a_table_and_as_files(model, scan, tmp_path, capsys):
    out = tmp_path / "out"
    assert command(model, f"--series={scan}", "--no-lungs", f"--out={out}") == 0
    text = capsys.readouterr().out
    assert "noisy-or over the slices: positive" in text
    assert "chosen on 24 persons of validation, 11 of them with COVID-19: by hand" in text
    assert f"picture: {out / 'patient7.png'}" in text
    assert text.splitlines()[-2].startswith("For research use only")
    assert text.splitlines()[-1] == f"written: {out / 'series.json'}"
    document = json.loads((out / "series.json").read_text())
    assert document["series"][0]["panel"] == "patient7.png"
    with Image.open(out / "patient7.png") as picture:
        assert picture.format == "PNG"
    (out / "patient7.png").unlink()
    assert command(model, f"--series={scan}", "--no-lungs", f"--out={out}", "--no-overlays") == 0
    assert [path.name for path in out.iterdir()] == ["series.json"]


def test_errors_and_refusals(model, scan, tmp_path, monkeypatch, capsys):
    read = series_command.read_series
    monkeypatch.setattr(series.lungs, "find_lungs", series_fakes.find_lungs)
    monkeypatch.setattr(
        series_command, "read_series", lambda path: [volume([NO_LUNG] * 2)] if path == "belly" else read(path)
    )
    arguments = ["--series=belly", f"--series={tmp_path / 'none'}", f"--series={scan}", "--format=jsonl"]
    assert command(model, *arguments) == 1
    belly, none, answered = lines(capsys)
    assert (belly["covid"], belly["error"]) == (None, "")
    assert [record["abstained"] for record in (belly, none, answered)] == [True, False, False]
    assert belly["reason"].endswith("had to be left out: 2 of them no lungs")
    assert "none does not exist" in none["error"]
    assert answered["covid"] > 0.5
    assert command(model, "--series=belly") == 0
    assert "no answer: all 2 slices" in capsys.readouterr().out


def test_a_model_without_a_number_is_an_error_and_no_abstention(model, monkeypatch, capsys):
    """The tiny model has no number for black."""
    monkeypatch.setattr(series_command, "read_series", lambda path: [volume([-2000.0] * 3, size=40)])
    assert command(model, "--series=x", "--no-lungs", "--format=jsonl") == 1
    (record,) = lines(capsys)
    assert (record["covid"], record["reason"]) == (None, "")
    assert "3 of them no answer: the model gives no finite number" in record["error"]


def test_what_is_no_chest_is_refused_slice_by_slice(model, scan, capsys):
    assert edge.run(["edge", str(model), f"--series={scan}", "--no-lungs", "--format=jsonl"]) == 0
    (record,) = lines(capsys)
    assert record["covid"] is None
    assert record["slices"][0]["reason"].startswith("not taken for a chest-CT slice: hardly any contrast")


def test_the_window_of_the_card(tmp_path, monkeypatch, capsys):
    from ladnn_tf.card import Window

    model = tiny_tflite.write_model(tmp_path / "model.tflite", window=Window(level=0.0, width=510.0))
    monkeypatch.setattr(series_command, "read_series", lambda path: [volume([LUNG, -203.0], size=40)])
    assert command(model, "--series=x", "--no-lungs", "--format=jsonl") == 0
    found = [each["covid"] for each in lines(capsys)[0]["slices"]]
    assert found[0] is None  # black throughout, for which the tiny model has no number
    assert found[1] == pytest.approx(1 / (1 + math.exp(2 - 4 * 26 / 255)), abs=1e-6)  # (-203 + 255) / 2


@pytest.mark.parametrize("arguments", [["--series=a", "b.png"], ["--series=a", "--watch=b", "--out=c"]])
def test_what_the_command_line_does_not_allow(model, arguments):
    with pytest.raises(SystemExit) as caught:
        command(model, *arguments)
    assert caught.value.code == 2


def test_answers_are_not_written_among_the_slices(model, scan, capsys):
    assert command(model, f"--series={scan}", f"--out={scan}") == 1
    assert "lies in the folder of the series" in capsys.readouterr().err
    assert len(list(scan.iterdir())) == 3


def test_answers_about_another_person_are_not_replaced(model, scan, tmp_path, capsys):
    out = tmp_path / "out"
    (tmp_path / "other").mkdir()
    Image.new("RGB", (40, 40), (99,) * 3).save(tmp_path / "other" / "0.png")
    for paths in ([scan], [scan.parent / "." / f"{scan.name}/"], [tmp_path / "other", scan]):
        arguments = [f"--series={path}" for path in paths]
        assert command(model, *arguments, "--no-lungs", f"--out={out}") == 0
        assert len(json.loads((out / "series.json").read_bytes())["series"]) == len(paths)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert command("no_model.tflite", f"--series={scan}", "--no-lungs", f"--out={out}") == 1
    said = capsys.readouterr()
    assert said.err == (
        f"error: {out / 'series.json'} has the answer about {tmp_path / 'other'}, which this command does not "
        "answer and would delete; give another --out\n"
    )
    assert said.out == ""
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("file", "is a file; give a folder for the answers"),
        ("file/below", "cannot be made or written (Not a directory); give a folder that you may write to"),
    ],
)
@pytest.mark.parametrize("what", ["--series={}", "{}/0.png", "--watch={}"])
def test_a_folder_for_answers_that_cannot_be_made_is_named_before_the_work(
    scan, tmp_path, capsys, out, words, what
):
    (tmp_path / "file").write_bytes(b"")
    assert command("no_model.tflite", what.format(scan), f"--out={tmp_path / out}") == 1
    assert capsys.readouterr().err == f"error: --out={tmp_path / out} {words}\n"


def test_slices_are_answered_in_a_folder_with_the_answers_of_series(model, scan, tmp_path, caplog):
    out = f"--out={tmp_path / 'out'}"
    assert command(model, f"--series={scan}", "--no-lungs", out) == 0
    assert command(model, scan / "0.png", out) == 0
    assert caplog.text == ""


def test_dicom_that_is_given_as_pictures(model, tmp_path, capsys):
    from ladnn_tf.data.dicom_writer import write_series

    files = write_series(np.zeros((2, 16, 16), np.float32), (5.0, 1.0, 1.0), tmp_path / "cd" / "scan")
    hint = (
        "this is DICOM: give it by --series=PATH, as it is; a picture made of it would lose the Hounsfield units"
    )
    assert command(model, files[0], "--format=jsonl") == 1
    assert lines(capsys)[0]["error"] == hint
    for folder in (files[0].parent, tmp_path / "cd"):
        assert command(model, folder) == 1
        assert capsys.readouterr().err == f"error: {folder}: {hint}\n"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "DICOMDIR").write_bytes(b"")
    assert command(model, tmp_path / "empty") == 1
    assert hint in capsys.readouterr().err
    Image.new("L", (16, 16), 99).save(files[0].parent / "a.png")
    assert command(model, files[0].parent) == 0
    assert capsys.readouterr().err.endswith(
        f"passed over (first: {min(file.name for file in files)}); DICOM is among them, which --series=PATH "
        "answers\n"
    )


def test_without_a_model_only_the_model_is_missing(capsys):
    with pytest.raises(SystemExit):
        edge.run(["edge"])
    assert capsys.readouterr().err.splitlines()[-1].endswith("the following arguments are required: MODEL")


def python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_nothing_heavy_is_imported_on_the_way(model, tmp_path):
    from ladnn_tf.data.dicom_writer import write_series

    hu = np.random.default_rng(0).normal(-700, 200, (3, 64, 64)).astype(np.float32)
    write_series(hu, (5.0, 1.0, 1.0), tmp_path / "scan")
    code = (
        "import sys; from ladnn_tf import edge; status = edge.run(sys.argv); "
        "heavy = {'tensorflow', 'keras', 'pandas', 'absl', 'sklearn', 'matplotlib'} & set(sys.modules); "
        "sys.exit(f'imported: {heavy}' if heavy else status)"
    )
    options = [f"--series={tmp_path / 'scan'}", "--no-check", "--no-lungs", f"--out={tmp_path / 'out'}"]
    result = python(code, model, *options)
    assert result.returncode == 0, result.stderr
    assert "answered: 3 of 3 slices" in result.stdout
    assert len(list((tmp_path / "out").glob("scan_*.png"))) == 1


@pytest.mark.parametrize(
    ("missing", "extra"),
    [
        ("skimage", "'.[edge,dicom]' in the project's folder; the offline bundle answers single slices only"),
        ("pydicom", "'.[dicom]' in the project's folder"),
    ],
)
def test_a_missing_extra_is_one_line_that_names_it(model, tmp_path, missing, extra):
    from ladnn_tf.data.dicom_writer import write_series

    write_series(np.zeros((1, 16, 16), np.float32), (5.0, 1.0, 1.0), tmp_path / "scan")
    code = f"import sys; sys.modules[{missing!r}] = None; from ladnn_tf import edge; sys.exit(edge.run(sys.argv))"
    result = python(code, model, f"--series={tmp_path / 'scan'}")
    assert result.returncode == 1
    said = result.stderr if missing == "skimage" else result.stdout
    assert [line for line in said.splitlines() if extra in line and missing in line], said
    assert "Traceback" not in result.stderr


def test_slices_of_a_model_with_classes_in_table_and_record(scan, capsys):
    """Files, not a series: the same model answers them."""
    from ladnn_tf import edge_output
    from ladnn_tf.edge_files import read_image_file

    fields = series_fakes.drenet(0.75, [[0.1, 0.1, 0.5, 0.5]], [0.9])
    predictor = series_fakes.Predictor([fields], task="drenet", classes=series_fakes.CLASSES)
    predictor.check = True
    predictor.answer = lambda content: (predictor.predict([content])[0], np.zeros((32, 32, 3), np.uint8))
    image = read_image_file(scan / "0.png", "0.png")
    record, overlay = edge_output.answer(predictor, image, overlay=True, maps=True)
    assert record["classes"] == fields["classes"]
    assert "maps" not in record
    assert overlay.startswith(b"\xff\xd8")
    assert edge_output.table_header(predictor.card, 6).split()[-3:] == list(series_fakes.CLASSES)
    assert edge_output.table_row(record, 6).split() == ["0.png", "0.750", "positive", "0.750", "0.125", "0.125"]
