"""The watched folder: every image answered once, whatever happens in between."""

import errno
import functools
import io
import json
import os
import select
import signal
import subprocess
import sys

import numpy as np
import pytest
import tiny_tflite
from conftest import REPOSITORY
from PIL import Image

from ladnn_tf import edge, edge_files, edge_watch
from ladnn_tf.edge_output import answer
from ladnn_tf.edge_predictor import EdgePredictor


def encoded(red, kind="PNG"):
    noise = np.random.default_rng(red).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    noise[..., 0] = red
    content = io.BytesIO()
    Image.fromarray(noise).save(content, kind)
    return content.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_tflite.write_model(tmp_path_factory.mktemp("edge") / "float32.tflite")


@pytest.fixture(scope="module")
def predictor(model):
    return EdgePredictor(model, check=False)


class Box:
    """A watched folder, a folder of answers, and a clock that stands still."""

    def __init__(self, folder, predictor):
        self.scans, self.out = folder / "scans", folder / "out"
        self.scans.mkdir()
        self.now = 0.0
        self.reported = []
        self.predictor = predictor
        self.results = None
        self.start()

    def start(self, predictor=None, **options):
        """As after the end of the process before, however it came."""
        self.stop()
        self.results = edge_files.ResultsFolder(self.out)
        self.watcher = edge_watch.Watcher(
            self.scans,
            self.results,
            functools.partial(answer, predictor or self.predictor, overlay=True, maps=False),
            self.reported.append,
            settle=30.0,
            clock=lambda: self.now,
            **options,
        )

    def stop(self):
        if self.results:
            self.results.__exit__()

    def put(self, name, content):
        (self.scans / name).write_bytes(content)

    def look(self, times=1):
        """The files answered in so many looks."""
        before = len(self.reported)
        numbers = [self.watcher.look() for _ in range(times)]
        files = [record["file"] for record in self.reported[before:]]
        assert sum(numbers) == len(files)
        return files

    def records(self):
        return [json.loads(path.read_text()) for path in sorted(self.out.glob("*.json"))]


@pytest.fixture
def box(tmp_path, predictor):
    box = Box(tmp_path, predictor)
    yield box
    box.stop()


def forbid_reading(monkeypatch):
    def read(path, file):
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(edge_watch, "read_image_file", read)


def test_an_image_is_answered_at_the_second_look_and_once(box):
    box.put("a.png", encoded(255))
    box.put("b.JPEG", encoded(0, "JPEG"))
    assert [box.look() for _ in range(4)] == [[], ["a.png", "b.JPEG"], [], []]
    first, second = box.records()
    assert (first["file"], first["positive"], second["file"], second["positive"]) == (
        "a.png",
        True,
        "b.JPEG",
        False,
    )
    assert len(list(box.out.glob("*.overlay.jpg"))) == 2


def test_what_was_answered_is_not_even_read_after_a_restart(box, monkeypatch):
    box.put("a.png", encoded(255))
    assert box.look(2) == ["a.png"]
    box.start()
    with monkeypatch.context() as patch:
        forbid_reading(patch)
        assert box.look(3) == []
    box.put("b.png", encoded(1))
    assert box.look(2) == ["b.png"]


def test_another_model_answers_only_what_is_new(box, tmp_path):
    box.put("a.png", encoded(255))
    assert box.look(2) == ["a.png"]
    other = tiny_tflite.write_model(tmp_path / "other.tflite", threshold=0.25)
    box.start(EdgePredictor(other, check=False))
    box.put("b.png", encoded(1))
    assert box.look(3) == ["b.png"]
    assert [record["threshold"] for record in box.records()] == [0.5, 0.25]


def test_the_same_content_touched_is_answered_already(box, monkeypatch):
    box.put("a.png", encoded(255))
    assert box.look(2) == ["a.png"]
    os.utime(box.scans / "a.png", (5, 5))
    assert box.look(2) == []
    forbid_reading(monkeypatch)
    assert box.look(2) == []


def test_another_content_under_the_same_name_is_answered_beside_it(box):
    for red in (255, 0, 255):
        box.put("a.png", encoded(red))
        os.utime(box.scans / "a.png", (red, red))
        box.look(3)
    assert sorted(record["positive"] for record in box.records()) == [False, True]
    assert [record["file"] for record in box.reported] == ["a.png", "a.png"]


def test_a_copy_under_another_name_is_another_image(box):
    box.put("a.png", encoded(255))
    box.put("b.png", encoded(255))
    assert box.look(3) == ["a.png", "b.png"]


def test_a_file_that_still_grows_is_waited_for(box):
    content = encoded(255)
    for length in (0, 50, 500):
        box.put("a.png", content[:length])
        assert box.look() == []
    box.put("a.png", content)
    assert [box.look() for _ in range(2)] == [[], ["a.png"]]
    assert [record["error"] for record in box.records()] == [""]


@pytest.mark.parametrize(
    "half",
    [
        encoded(255)[:-30],
        b"",
        b"\0" * len(encoded(255)),  # made in its full size, filled later
        encoded(255, "JPEG")[:-200] + b"\0" * 200,  # which Pillow takes for a picture
    ],
    ids=["truncated", "empty", "zeros", "half-jpeg"],
)
def test_a_file_that_cannot_be_read_yet_is_given_time(box, half, monkeypatch):
    box.put("a.png", half)
    assert box.look(2) == []
    box.now = 29.9
    with monkeypatch.context() as patch:
        forbid_reading(patch)  # nothing has changed
        assert box.look(2) == []
    box.put("a.png", encoded(255) + b" " * 9)
    assert box.look(2) == ["a.png"]
    assert [(record["error"], record["positive"]) for record in box.records()] == [("", True)]


def test_a_file_that_stays_unreadable_gets_an_error_and_may_still_be_mended(box):
    box.put("a.png", encoded(255)[:-30])
    assert box.look(2) == []
    box.now = 30.0
    assert box.look(2) == ["a.png"]
    assert "truncated" in box.records()[0]["error"]
    box.start()
    assert box.look(3) == []
    box.put("a.png", encoded(255))
    assert box.look(2) == ["a.png"]
    assert sorted(bool(record["error"]) for record in box.records()) == [False, True]


def test_zeros_behind_the_end_of_a_jpeg_need_no_time(box):
    box.put("a.jpg", encoded(255, "JPEG") + b"\0" * 100)  # as some scanners fill their blocks
    assert box.look(2) == ["a.jpg"]
    assert box.records()[0]["error"] == ""


def test_a_jpeg_with_something_behind_its_end_is_answered_when_it_has_settled(box):
    box.put("a.jpg", encoded(255, "JPEG") + b"maker's note")
    assert box.look(2) == []
    box.now = 30.0
    assert box.look() == ["a.jpg"]
    assert box.records()[0]["error"] == ""


@pytest.mark.parametrize(
    "change", [lambda path: path.write_bytes(encoded(255) + b"more"), lambda path: os.utime(path, (7, 7))]
)
def test_a_file_that_changes_while_it_is_read_is_not_answered_yet(box, monkeypatch, change):
    box.put("a.png", encoded(255))
    box.look()
    read = edge_files.read_image_file

    def read_and_change(path, file):
        content = read(path, file).content
        change(path)
        status = path.stat()
        return edge_files.ImageFile(file, content, status.st_size, status.st_mtime_ns)

    with monkeypatch.context() as patch:
        patch.setattr(edge_watch, "read_image_file", read_and_change)
        assert box.look() == []
        assert box.records() == []
    assert box.look(2) == ["a.png"]


def test_what_is_no_image_file_is_passed_over(box):
    for name in (".a.png", "a.png.part", "b.png.tmp", "c.jpg.crdownload", "d.dcm", "png"):
        box.put(name, encoded(1))
    (box.scans / "folder.png").mkdir()
    os.mkfifo(box.scans / "pipe.png")
    (box.scans / "nowhere.png").symlink_to("gone.png")
    assert box.look(3) == []


def test_a_file_that_cannot_be_opened_is_named_once_and_the_others_are_answered(box, caplog):
    (box.scans / "a.png").symlink_to("a.png")
    box.put("b.png", encoded(1))
    assert box.look(4) == ["b.png"]
    assert caplog.text.count("a.png cannot be read (Too many levels") == 1


def test_a_folder_that_goes_away_and_comes_back(box, caplog):
    box.put("a.png", encoded(1))
    box.look()
    moved = box.scans.rename(box.scans.with_name("moved"))
    assert box.look(3) == []
    assert caplog.text.count("scans cannot be read (No such file") == 1
    moved.rename(box.scans)
    assert box.look(2) == ["a.png"]
    assert caplog.text.count("scans can be read again") == 1


class Disk:
    """A disk on which some files find no room."""

    def __init__(self, monkeypatch):
        self.full = lambda path: True
        write = edge_files.write_atomically

        def write_unless_full(path, content):
            if self.full(path):
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            write(path, content)

        monkeypatch.setattr(edge_files, "write_atomically", write_unless_full)


def test_a_full_disk_is_said_once_and_nothing_is_lost(box, monkeypatch, caplog):
    disk = Disk(monkeypatch)
    for name in ("a.png", "b.png"):
        box.put(name, encoded(1))
    assert box.look(5) == []
    assert caplog.text.count(f"answers cannot be written to {box.out} (No space left on device)") == 1
    assert box.records() == []
    disk.full = lambda path: False
    assert sorted(box.look(2)) == ["a.png", "b.png"]
    assert "are written to" in caplog.text
    disk.full = lambda path: True
    box.put("c.png", encoded(1))
    box.look(3)
    assert caplog.text.count("No space left") == 2


def test_an_answer_that_cannot_be_written_does_not_keep_the_others_waiting(box, monkeypatch):
    disk = Disk(monkeypatch)
    disk.full = lambda path: path.name.startswith("a.png")
    for name in ("a.png", "b.png", "c.png"):
        box.put(name, encoded(1))
    assert box.look(3) == ["b.png", "c.png"]
    disk.full = lambda path: False
    assert box.look() == ["a.png"]


def test_a_failure_of_the_program_at_one_image_is_its_answer(box, monkeypatch):
    content, real = encoded(255), EdgePredictor.answer

    def answer_others(predictor, image):
        if image == content:
            raise MemoryError
        return real(predictor, image)

    monkeypatch.setattr(EdgePredictor, "answer", answer_others)
    box.put("a.png", content)
    box.put("b.png", encoded(1))
    assert box.look(2) == ["b.png"]
    box.now = 30.0
    assert box.look() == ["a.png"]
    assert [record["error"] for record in box.records()] == ["the program failed at this image (MemoryError)", ""]
    box.start()
    assert box.look(3) == []


def test_a_file_without_memory_to_read_it_is_tried_again(box, monkeypatch, caplog):
    box.put("a.png", encoded(255))
    with monkeypatch.context() as patch:
        patch.setattr(edge_files.os, "fstat", Raising(MemoryError()))
        assert box.look(3) == []
    assert caplog.text.count("a.png cannot be read (Cannot allocate memory)") == 1
    assert box.look() == ["a.png"]


class Raising:
    def __init__(self, error):
        self.error = error

    def __call__(self, *arguments):
        raise self.error


def test_a_file_far_too_large_gets_an_error_and_is_never_read(box, monkeypatch):
    monkeypatch.setattr(edge_files, "MAX_FILE_BYTES", 20_000)
    for size in (20_001, 20_002):
        box.put("a.png", b"\0" * size)
        box.now += 30.0
        assert box.look(2) == []
        box.now += 30.0
        assert box.look(3) == ["a.png"]
    first, second = box.records()
    assert {first["size"], second["size"]} == {20_001, 20_002}
    assert first["error"] == "not read: more than 20,000 bytes are no slice"
    assert first["sha256"] is None
    box.start()
    forbid_reading(monkeypatch)
    assert box.look(3) == []


def test_a_file_far_too_large_is_not_taken_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(edge_files, "MAX_FILE_BYTES", 50)
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(2**40)  # of holes: only the size is there
    image = edge_files.read_image_file(path, "large.png")
    assert (image.content, image.size, image.sha256) == (b"", 2**40, None)


def test_what_is_passed_over_is_said_once(box, caplog):
    for name in ("a.png.part", "b.png.1f3a5b7c.json", "b.png.1f3a5b7c.overlay.jpg", ".hidden"):
        box.put(name, b"")
    box.look(2)
    assert caplog.text == ""
    for name in ("d.dcm", "e.tif"):
        box.put(name, b"")
        box.look(2)
    assert caplog.text.count("passed over") == 1
    assert f"1 file in {box.scans} is neither .png nor .jpg and is passed over (first: d.dcm)" in caplog.text


class KilledError(BaseException):
    """In place of a kill, which nothing can catch."""


@pytest.mark.parametrize("suffix", [".overlay.jpg", ".json", "report"])
def test_a_kill_at_any_step_loses_and_repeats_nothing(box, monkeypatch, suffix):
    for name in ("a.png", "b.png"):
        box.put(name, encoded(1))
    disk = Disk(monkeypatch)

    def kill(target):
        if str(target).endswith(suffix):
            raise KilledError

    disk.full = kill
    monkeypatch.setattr(box.watcher, "_report", lambda record: kill("report"))
    with pytest.raises(KilledError):
        box.look(2)
    answered = len(box.records())
    assert answered == (suffix == "report")
    disk.full = lambda path: False
    box.start()
    assert box.look(3) == ["a.png", "b.png"][answered:]
    assert [record["file"] for record in box.records()] == ["a.png", "b.png"]


def test_it_ends_after_the_current_image(box):
    for name in ("a.png", "b.png", "c.png"):
        box.put(name, encoded(1))
    box.start(stopped=lambda: bool(box.reported))
    assert box.look(3) == ["a.png"]


def test_two_watchers_cannot_share_a_folder_of_answers(box):
    with pytest.raises(ValueError, match="used by another"):
        edge_files.ResultsFolder(box.out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_sleep_and_is_remembered(number, monkeypatch):
    before = signal.getsignal(number)
    real, woken = select.select, []
    monkeypatch.setattr(select, "select", lambda r, w, x, seconds: woken.append(real(r, w, x, 0.0)[0] != []))
    with edge_watch.StopSignal() as stop:
        stop.sleep(3600.0)
        assert not stop.requested
        os.kill(os.getpid(), number)
        stop.sleep(3600.0)
        assert stop.requested
        assert woken == [False, True]
        assert signal.getsignal(number) == signal.SIG_DFL  # a second one ends the process
    assert signal.getsignal(number) == before


def test_it_looks_until_it_is_told_to_stop():
    class Stop:
        requested = False
        sleeps: list[float] = []  # noqa: RUF012

        def sleep(self, seconds):
            self.sleeps.append(seconds)
            self.requested = len(self.sleeps) == 2

    class Looks:
        number = 0

        def look(self):
            self.number += 1

    stop, looks = Stop(), Looks()
    edge_watch.watch(looks, stop, 7.0)
    assert (looks.number, stop.sleeps) == (2, [7.0, 7.0])


def start_command(model, box):
    # With so small a pipe the command cannot run far ahead of what is read here.
    command = [sys.executable, "-m", "ladnn_tf.edge", str(model), "--watch", str(box.scans), "--out", str(box.out)]
    return subprocess.Popen(
        [*command, "--interval=0.01", "--format=jsonl", "--no-check"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=REPOSITORY,
        pipesize=4096,
    )


def test_killed_in_the_middle_and_started_again(model, box):
    names = [f"{number:02}.png" for number in range(30)]
    for number, name in enumerate(names):
        box.put(name, encoded(number))
    box.stop()
    with start_command(model, box) as process:
        for _ in range(7):
            json.loads(process.stdout.readline())
        process.kill()
        process.stdout.read()
    before = {path: path.read_bytes() for path in box.out.glob("*.json")}
    assert 7 <= len(before) < 30
    with start_command(model, box) as process:
        again = [json.loads(process.stdout.readline())["file"] for _ in range(30 - len(before))]
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == ""
        assert process.wait() == 0
    assert sorted(again + [json.loads(content)["file"] for content in before.values()]) == names
    assert {path: path.read_bytes() for path in before} == before
    assert [record["file"] for record in box.records()] == names
    assert all(record["covid"] is not None for record in box.records())
    suffixes = [path.name.split(".png.")[1].split(".", 1)[1] for path in box.out.iterdir() if path.name[0] != "."]
    assert sorted(suffixes) == ["json"] * 30 + ["overlay.jpg"] * 30
    assert [path.name for path in box.out.glob(".*")] == [".ladnn_edge.lock"]


def test_the_command_watches_and_says_so(model, box, monkeypatch, capsys):
    box.put("a.png", encoded(255))
    box.stop()
    monkeypatch.setattr(edge_watch.StopSignal, "sleep", lambda stop, seconds: None)
    real = edge_watch.Watcher.look

    def look(watcher):
        if real(watcher):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(edge_watch.Watcher, "look", look)
    watching = ["edge", str(model), f"--watch={box.scans}", f"--out={box.out}", "--no-check"]
    assert edge.main(watching) == 0
    captured = capsys.readouterr()
    assert "COVID-19" in captured.out.splitlines()[0]
    assert captured.out.splitlines()[1].split()[:3] == ["a.png", "0.881", "positive"]
    assert f"watching {box.scans}; answers go to {box.out}, which holds 0" in captured.err
