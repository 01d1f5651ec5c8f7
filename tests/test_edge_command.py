"""The edge command: its table and JSON lines, the folder of answers, overlays."""

import datetime
import errno
import io
import json
import os
import re
import sys

import matplotlib
import numpy as np
import pytest
import tiny_tflite
from PIL import Image

from ladnn_tf import edge, edge_files, edge_overlay
from ladnn_tf.answer import Answer
from ladnn_tf.card import NOTICE, Export
from ladnn_tf.data import quality
from ladnn_tf.edge_predictor import EdgePredictor


def png(red, green=0, kind="PNG"):
    content = io.BytesIO()
    Image.new("RGB", (16, 16), (red, green, 0)).save(content, kind)
    return content.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_tflite.write_model(tmp_path_factory.mktemp("edge") / "float32.tflite")


@pytest.fixture
def scans(tmp_path):
    """Two slices and what is none."""
    folder = tmp_path / "scans"
    (folder / "more").mkdir(parents=True)
    for name, content in {
        "b.JPG": png(200, kind="JPEG"),
        "a.png": png(255),
        "notes.txt": b"",
        ".a.png": b"",
        "c.png.part": b"",
        "more/d.png": png(9),
    }.items():
        (folder / name).write_bytes(content)
    return folder


def command(model, *arguments):
    return edge.main(["edge", str(model), "--no-check", *map(str, arguments)])


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def records(folder):
    return {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_a_folder_as_json_lines(model, scans, capsys):
    assert command(model, scans, scans / "a.png", "--format=jsonl") == 0
    first, second = lines(capsys)  # a.png was named twice; the folder in the folder is not searched
    assert [first["file"], second["file"]] == [str(scans / "a.png"), str(scans / "b.JPG")]
    assert first["covid"] == pytest.approx(0.880797, abs=1e-6)
    assert first["positive"] is True
    assert list(first["lesions"]) == ["GGO", "Csld", "CrPa", "AirBr", "InSepThi"]
    assert (first["abstained"], first["reason"], first["error"], first["unfit"]) == (False, "", "", False)
    assert first["sha256"] == edge_files.read_image_file(scans / "a.png", "").sha256
    assert first["model_version"].startswith("tiny-float32-")
    assert first["notice"] == NOTICE
    assert datetime.datetime.fromisoformat(first["answered_at"]).utcoffset() == datetime.timedelta(0)
    assert "maps" not in first


def test_maps_are_nested_lists(model, scans, capsys):
    assert command(model, scans / "b.JPG", "--format=jsonl", "--maps") == 0
    maps = np.array(lines(capsys)[0]["maps"])
    assert maps.shape == (4, 4, 6)
    assert maps[0, 0, 0] == pytest.approx(200 / 255, abs=5e-3)
    assert maps[0, 0, 0] == round(maps[0, 0, 0], 4)


def test_errors_are_rows_of_the_table_and_the_rest_go_on(model, scans, capsys):
    (scans / "cut.png").write_bytes(png(1)[:-10])
    assert command(model, scans / "none.png", scans / "cut.png", scans / "a.png") == 1
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split() == ["file", "COVID-19", "call", "GGO", "Csld", "CrPa", "AirBr", "InSepThi"]
    assert "none.png" in rows[1]
    assert "no answer: cannot be read (No such file or directory)" in rows[1]
    assert "no answer: damaged or truncated" in rows[2]
    assert rows[3].split()[1:] == ["0.881", "positive", "0.269", "0.119", "0.047", "0.018", "0.007"]
    assert rows[5] == "positive: COVID-19 at 0.500 or above (by hand)."
    assert rows[-1] == NOTICE


def test_a_picture_that_is_no_slice_is_no_error(model, scans, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(quality, "refusal", lambda pixels: "it is red")
    assert edge.main(["edge", str(model), str(scans / "a.png"), f"--out={tmp_path / 'out'}"]) == 0
    assert "no answer, not a chest-CT slice: it is red" in capsys.readouterr().out
    (record,) = records(tmp_path / "out").values()
    assert (record["abstained"], record["reason"], record["covid"], record["overlay"]) == (
        True,
        "it is red",
        None,
        None,
    )
    assert not list((tmp_path / "out").glob("*.jpg"))


def test_answers_as_files(model, scans, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    (scans / "cut.png").write_bytes(b"")
    assert command(model, scans, f"--out={out}", "--format=jsonl") == 1
    printed = lines(capsys)
    assert b"".join(sorted(path.read_bytes() for path in out.glob("*.json"))).count(b"\n") == 3
    written = records(out)
    assert sorted(record["file"] for record in written.values()) == [record["file"] for record in printed]
    for name, record in written.items():
        assert record in printed
        if record["error"]:
            assert record["overlay"] is None
        else:
            assert record["overlay"] == name.replace(".json", ".overlay.jpg")
            with Image.open(out / record["overlay"]) as picture:
                assert picture.format == "JPEG"
    assert len(list(out.glob("*.jpg"))) == 2
    assert not [path for path in out.glob(".*") if path.name != ".ladnn_edge.lock"]


def test_without_overlays(model, scans, tmp_path):
    assert command(model, scans, f"--out={tmp_path / 'out'}", "--no-overlays") == 0
    assert len(records(tmp_path / "out")) == 2
    assert not list((tmp_path / "out").glob("*.jpg"))


def test_names_of_different_images_do_not_collide(model, tmp_path):
    contents = {"x/a.png": png(1), "y/a.png": png(1), "z/a.png": png(2), "x/a.jpg": png(1)}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for _ in range(2):
        assert command(model, *(tmp_path / name for name in contents), f"--out={tmp_path / 'out'}") == 0
    written = records(tmp_path / "out")
    assert sorted(record["file"] for record in written.values()) == sorted(str(tmp_path / n) for n in contents)
    assert len({name.lower() for name in written}) == 4


@pytest.mark.parametrize(
    "name", [b"new\nline.png", b"\xff.png", b"\xc3\xa4" * 120 + b".png", b"\x1b[2J.png", b".a.png"]
)
def test_names_of_any_kind(model, tmp_path, name, capsys):
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        file.write(png(255))
    file = os.fsdecode(path)
    for form in ("table", "jsonl"):
        assert command(model, file, f"--out={tmp_path / 'out'}", f"--format={form}") == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert json.loads(printed.splitlines()[-1])["file"] == file
    ((written, record),) = records(tmp_path / "out").items()
    assert record["file"] == file
    assert not written.startswith(".")  # a shell's *.json would miss it


class Calls:
    """Counts the images that reach the network."""

    def __init__(self, monkeypatch):
        self.number = 0
        answer = EdgePredictor.answer

        def counted(predictor, image):
            self.number += 1
            return answer(predictor, image)

        monkeypatch.setattr(EdgePredictor, "answer", counted)

    def during(self, *arguments):
        before = self.number
        command(*arguments)
        return self.number - before


def test_what_was_answered_is_not_answered_again_by_the_same_question(model, scans, tmp_path, monkeypatch, capsys):
    calls, out = Calls(monkeypatch), f"--out={tmp_path / 'out'}"
    assert calls.during(model, scans, out, "--no-overlays") == 2
    capsys.readouterr()
    assert calls.during(model, scans, out, "--no-overlays", "--format=jsonl") == 0
    assert [record["covid"] > 0.5 for record in lines(capsys)] == [True, True]
    assert calls.during(model, scans, out) == 2  # overlays were not asked for before
    assert calls.during(model, scans, out) == 0
    assert calls.during(model, scans, out, "--maps") == 2
    assert calls.during(model, scans, out, "--maps", "--check") == 2
    other = tiny_tflite.write_model(tmp_path / "other.tflite", threshold=0.25)
    assert calls.during(other, scans, out, "--maps", "--check") == 2
    assert {record["threshold"] for record in records(tmp_path / "out").values()} == {0.25}
    (scans / "a.png").write_bytes(png(254))
    assert calls.during(other, scans, out, "--maps", "--check") == 1
    assert len(records(tmp_path / "out")) == 3  # the old content's answer is kept


def test_errors_and_deleted_answers_are_answered_again(model, scans, tmp_path, monkeypatch):
    calls, out = Calls(monkeypatch), tmp_path / "out"
    (scans / "cut.png").write_bytes(b"")
    assert calls.during(model, scans, f"--out={out}") == 3
    next(out.glob("a.png.*.json")).unlink()
    assert calls.during(model, scans, f"--out={out}") == 2
    assert len(records(out)) == 3


def test_an_answer_without_overlay_takes_the_old_one_away(model, scans, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert command(model, scans / "a.png", f"--out={out}") == 0
    assert len(list(out.glob("*.jpg"))) == 1
    monkeypatch.setattr(quality, "refusal", lambda pixels: "it is red")
    assert edge.main(["edge", str(model), str(scans / "a.png"), f"--out={out}"]) == 0
    assert not list(out.glob("*.jpg"))


def test_a_file_that_cannot_be_read_leaves_no_answer(model, tmp_path):
    assert command(model, tmp_path / "none.png", f"--out={tmp_path / 'out'}") == 1
    assert records(tmp_path / "out") == {}


def test_a_file_far_too_large_is_not_read(tmp_path, model, monkeypatch, capsys):
    monkeypatch.setattr(edge_files, "MAX_FILE_BYTES", 50)
    (tmp_path / "a.png").write_bytes(png(255))
    assert command(model, tmp_path / "a.png") == 1
    assert "not read: more than 50 bytes are no slice" in capsys.readouterr().out


def test_a_full_disk_names_what_was_not_stored_and_all_answers_are_printed(
    model, scans, tmp_path, monkeypatch, capsys
):
    write = edge_files.write_atomically

    def full(path, content):
        if path.name.startswith("a.png"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(edge_files, "write_atomically", full)
    out = tmp_path / "out"
    assert command(model, scans, f"--out={out}", "--format=jsonl") == 1
    printed = capsys.readouterr()
    answers = [json.loads(line) for line in printed.out.splitlines()]
    assert [record["error"] for record in answers] == ["", ""]
    assert [record["overlay"] is None for record in answers] == [True, False]
    assert [record["file"] for record in records(out).values()] == [str(scans / "b.JPG")]
    errors = [line for line in printed.err.splitlines() if line.startswith("error:")]
    assert errors == [
        f"error: the answer to {scans / 'a.png'} was not stored in {out} (No space left on device); "
        "once there is room, call again"
    ]


class FailingAt:
    """A predictor's `answer` that fails at one content."""

    def __init__(self, monkeypatch, content, error):
        real = EdgePredictor.answer

        def answer(predictor, image):
            if image == content:
                raise error
            return real(predictor, image)

        monkeypatch.setattr(EdgePredictor, "answer", answer)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "MemoryError"),
        (IndexError("list index\nout of range"), "IndexError: list index out of range"),
    ],
)
def test_a_failure_of_the_program_is_an_error_of_one_image(model, scans, monkeypatch, capsys, error, words):
    FailingAt(monkeypatch, (scans / "a.png").read_bytes(), error)
    assert command(model, scans, "--format=jsonl") == 1
    first, second = lines(capsys)
    assert (first["error"], first["covid"]) == (f"the program failed at this image ({words})", None)
    assert second["error"] == ""


def test_a_failing_overlay_is_an_error_of_one_image(model, scans, tmp_path, monkeypatch, capsys):
    def draw(*arguments):
        raise OSError("no font")

    monkeypatch.setattr(edge_overlay, "overlay_jpeg", draw)
    assert command(model, scans / "a.png", f"--out={tmp_path / 'out'}", "--format=jsonl") == 1
    assert lines(capsys)[0]["error"] == "the program failed at this image (OSError: no font)"


def test_the_same_file_by_several_paths_is_answered_once(model, scans, monkeypatch, capsys):
    monkeypatch.chdir(scans)
    (scans / "link.png").symlink_to("a.png")  # a name of its own
    names = ["./a.png", scans / "a.png", "more/../a.png", "a.png", "link.png", "b.JPG"]
    assert command(model, *names, "--format=jsonl") == 0
    assert [record["file"] for record in lines(capsys)] == ["./a.png", "link.png", "b.JPG"]


def test_overlays_of_an_earlier_call_are_no_images(model, scans, capsys):
    (scans / "a.png.0a1b2c3d.overlay.jpg").write_bytes(png(1, kind="JPEG"))
    (scans / "A.PNG.0A1B2C3D.OVERLAY.JPG").write_bytes(png(1, kind="JPEG"))
    assert command(model, scans, "--format=jsonl") == 0
    assert [record["file"] for record in lines(capsys)] == [str(scans / "a.png"), str(scans / "b.JPG")]


def test_what_is_passed_over_is_said(model, scans, capsys):
    assert command(model, scans) == 0
    assert capsys.readouterr().err == (
        f"1 file in {scans} is neither .png nor .jpg and is passed over (first: notes.txt)\n"
    )
    (scans / "a\x1b.dcm").write_bytes(b"")
    assert command(model, scans) == 0
    assert capsys.readouterr().err == (
        f"2 files in {scans} are neither .png nor .jpg and are passed over (first: a\\x1b.dcm)\n"
    )


def test_a_link_to_nowhere_is_a_row(model, scans, capsys):
    (scans / "nowhere.png").symlink_to("gone.png")
    assert command(model, scans, "--format=jsonl") == 1
    assert lines(capsys)[-1]["error"] == "cannot be read (No such file or directory)"


def test_a_terminal_that_lacks_a_name_s_letters_gets_their_codes(model, tmp_path, monkeypatch):
    (tmp_path / "\u80ba.png").write_bytes(png(255))
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert edge.run(["edge", str(model), str(tmp_path / "\u80ba.png"), "--no-check"]) == 0
    stdout.flush()
    assert b"/\\u80ba.png" in stdout.buffer.getvalue()


def test_the_help_lists_every_field_of_a_record(model, scans, capsys):
    assert command(model, scans / "a.png", "--format=jsonl", "--maps") == 0
    (record,) = lines(capsys)
    for field in record:
        assert re.search(rf"^  (\w+, )*{field}\b", edge.FIELDS, re.MULTILINE), field
    with pytest.raises(SystemExit):
        edge.main(["edge", "--help"])
    assert edge.FIELDS in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give either files or --watch"),
        (["a.png", "--watch=."], "give either files or --watch"),
        (["--watch=."], "--watch needs --out"),
        (["--watch=.", "--out=./"], "is the images' folder"),
        ([".", "--out=."], "is the images' folder"),
        (["a.png", "--out=."], "is the images' folder"),
        (["x.png", "in/a.png", "--out=./in"], "is the images' folder"),
        (["--watch=.", "--out=x", "--interval=-1"], "number of seconds, 0 or more. Received: -1"),
        (["--watch=.", "--out=x", "--settle=soon"], "number of seconds, 0 or more. Received: soon"),
        (["a.png", "--format=csv"], "invalid choice"),
    ],
)
def test_errors_in_the_command_line(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        edge.main(["edge", "m.tflite", *arguments])
    assert caught.value.code == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_folders_without_images_or_not_there_are_named(model, tmp_path):
    with pytest.raises(ValueError, match=r"holds no \.png, \.jpg or \.jpeg"):
        command(model, tmp_path)
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere to watch"):
        command(model, f"--watch={tmp_path / 'nowhere'}", f"--out={tmp_path / 'out'}")


def test_an_unfit_model_is_one_line_and_its_answers_say_so(tmp_path, scans, capsys):
    unfit = tiny_tflite.write_model(tmp_path / "m.tflite", export=Export("int8", "0" * 64, "unfit", ("bad",)))
    arguments = ["edge", str(unfit), str(scans / "a.png"), "--no-check"]
    assert edge.run(arguments) == 1
    assert capsys.readouterr().err == (
        f"error: {unfit} is unfit by its own card: bad. Allow it only to study it (allow_unfit)\n"
    )
    assert edge.run([*arguments, "--allow_unfit", "--format=jsonl"]) == 0
    assert lines(capsys)[0]["unfit"] is True
    assert edge.run([*arguments, "--allow_unfit"]) == 0
    printed = capsys.readouterr()
    assert "UNFIT MODEL" in printed.out
    assert f"warning: {unfit} is unfit by its own card: bad" in printed.err


def test_an_interrupt_is_no_traceback(model, scans, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(EdgePredictor, "answer", interrupt)
    assert edge.run(["edge", str(model), str(scans)]) == 130


def test_two_commands_do_not_share_a_folder_of_answers(model, scans, tmp_path):
    with (
        edge_files.ResultsFolder(tmp_path / "out"),
        pytest.raises(ValueError, match=r"used by another python -m ladnn_tf\.edge"),
    ):
        command(model, scans, f"--out={tmp_path / 'out'}")
    assert command(model, scans, f"--out={tmp_path / 'out'}") == 0


def test_what_a_kill_left_is_deleted_and_what_is_no_answer_is_passed_over(tmp_path, caplog):
    (tmp_path / ".a.png.0a1b2c3d.json.x1y2z3_4").write_bytes(b"{")
    (tmp_path / ".a.png.0a1b2c3d.overlay.jpg.x1y2z3_4").write_bytes(b"")
    (tmp_path / ".profile").write_bytes(b"mine")
    for name, content in {
        "other.json": "[1, 2]",
        "list.json": '{"file": [], "sha256": "", "size": 1, "mtime_ns": 1}',
    }.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "folder.json").mkdir()
    with edge_files.ResultsFolder(tmp_path) as results:
        assert results.count == 0
    assert caplog.text.count("is no answer of python -m ladnn_tf.edge") == 2
    left = {".ladnn_edge.lock", ".profile", "folder.json", "list.json", "other.json"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_heat_has_the_colours_of_the_other_figures():
    levels = np.linspace(0.0, 1.0, 256)[None]
    expected = 255.0 * matplotlib.colormaps["cividis"](levels)[..., :3]
    assert np.abs(edge_overlay.heat_colours(levels) - expected).max() <= 3.0


def test_a_map_is_laid_over_the_slice_the_more_the_hotter():
    pixels = np.full((2, 2, 3), 100, np.uint8)
    cold, hot = [100, 100, 100], [200, 186, 71]  # 0.35 * 100 + 0.65 * (254, 232, 56)
    heat = np.array([[3.0, 7.0], [7.0, 3.0]], np.float32)
    assert edge_overlay.blend(pixels, heat).tolist() == [[cold, hot], [hot, cold]]
    assert (edge_overlay.blend(pixels, np.full((7, 7), 5.0, np.float32)) == pixels).all()


def overlay_of(lesions, unfit=False):
    maps = np.zeros((2, 2, 1 + len(lesions)), np.float32)
    maps[0, 0, 0] = 1.0
    if lesions:
        maps[1, 1, 2] = 1.0  # of Csld
    card = tiny_tflite.card_of(b"", export=Export("float32", "0" * 64, "unfit" if unfit else "fit"))
    result = Answer(card, "", covid=0.7, positive=True, lesions=lesions, maps=maps)
    picture = edge_overlay.draw(np.full((32, 32, 3), 100, np.uint8), result, "\u4e2d\n.png", NOTICE)
    return np.asarray(picture).astype(int)


def test_an_overlay_shows_the_map_of_covid_and_of_the_most_probable_lesion():
    lesions = dict(zip(["GGO", "Csld", "CrPa", "AirBr", "InSepThi"], [0.2, 0.9, 0.1, 0.0, 0.3], strict=True))
    three = overlay_of(lesions)
    assert three.shape[1] == 8 + 3 * 328
    top, bottom = 26 + 10, 26 + 310
    for column, (left, right) in enumerate([(100, 100), (200, 100), (100, 200)]):
        assert three[top, 8 + 328 * column + 10, 0] == pytest.approx(left, abs=1)
        assert three[bottom, 8 + 328 * column + 310, 0] == pytest.approx(right, abs=1)
    two = overlay_of({})
    assert two.shape[1] == 8 + 2 * 328
    assert overlay_of({}, unfit=True).shape[0] == two.shape[0] + 2 * 18  # two lines more
