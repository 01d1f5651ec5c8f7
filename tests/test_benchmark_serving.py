"""The benchmarks of page and double: what they send, how they count, and what they call wrong."""

import contextlib
import dataclasses
import email.parser
import email.policy
import io
import zipfile

import pytest

from benchmarks import server_process, serving_hostile, serving_load
from benchmarks.serving_load import Load
from ladnn_tf.data.preprocess import ImageError, decode


def test_load_counts_every_request_and_the_waits_of_those_answered():
    asked = []

    @contextlib.contextmanager
    def connect():
        def ask():
            asked.append(1)
            return 503 if len(asked) % 2 else 200

        yield ask

    seen = serving_load.load(connect, clients=3, seconds=0.02)
    assert sum(seen.statuses.values()) == len(asked) > 0
    assert set(seen.statuses) <= {200, 503}
    assert len(seen.waits) == seen.statuses.get(200, 0)
    assert list(seen.waits) == sorted(seen.waits)


def test_rows_are_medians_over_the_rounds():
    loads = [
        Load(2.0, (0.1, 0.2, 0.3), {200: 3}),  # 1.5 a second
        Load(1.0, (0.4, 0.5, 0.6), {200: 3, 503: 1}),  # 3
        Load(1.0, (0.2,), {200: 1, 0: 2}),  # 1
    ]
    row = serving_load.format_rows({("page", 8): loads}).splitlines()[2]
    assert row == "| page | 8 | 1.5 | 200 | 290 | 298 | 2 x broken, 1 x 503 |"


def test_a_form_is_read_as_it_was_meant():
    content = b"\x89PNG\r\n--no boundary\r\n"
    body, headers = serving_load.multipart([("files", "../a b.png", content)], consent="yes")
    assert headers["Accept"] == "application/json"
    text = b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body
    field, file = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(text).iter_parts()
    assert (field.get_param("name", header="content-disposition"), field.get_content()) == ("consent", "yes")
    assert file.get_param("filename", header="content-disposition") == "../a b.png"
    assert file.get_payload(decode=True) == content


def images_of(content):
    """The readable images of a file, of those in a zip too."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [archive.read(info) for info in archive.infolist() if info.file_size < 10**6]
    except zipfile.BadZipFile:
        members = [content]
    found = 0
    for member in members:
        with contextlib.suppress(ImageError):
            decode(member)
            found += 1
    return found


def test_the_good_images_among_the_uploads_are_as_many_as_is_said():
    kinds = serving_hostile.hostile_uploads(bomb=2**24)
    for name, (files, good) in kinds.items():
        assert sum(images_of(content) for _, content in files) == good, name
    assert sum(good == 0 for _, good in kinds.values()) >= 10


@pytest.mark.parametrize(
    ("status", "body", "good", "wrong"),
    [
        (200, b'{"results": [{"covid": 0.5}, {"covid": null}]}', 1, ""),
        (200, b'{"results": [{"covid": 0.5}, {"covid": null}]}', 0, "1 answers, but 0 images are good"),
        (200, b'{"results": [{"covid": null}]}', 1, "0 answers, but 1 images are good"),
        (413, b"", 0, ""),
        (413, b"", 1, "status 413, but 1 images are good"),
        (500, b"", 0, "status 500"),
        (0, b"reset", 0, "the connection broke: reset"),
    ],
)
def test_an_answer_is_judged_by_the_good_images(status, body, good, wrong):
    assert serving_hostile.judge(status, body, good) == wrong


def test_a_file_that_is_new_or_changed_is_seen(tmp_path):
    (tmp_path / "old").write_text("1")
    before = serving_hostile.watched({"here": tmp_path})
    (tmp_path / "old").write_text("22")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "new").write_text("")
    after = serving_hostile.watched({"here": tmp_path})
    assert {path.name for path, state in after.items() if before.get(path) != state} == {"old", "new"}


FLAT = [100, 120, 120, 120, 120, 120, 120, 125]
FINE = serving_hostile.Outcome({("a contribution", 200): 2, ("a", 413): 1}, {}, FLAT, True, [], 2)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"memory": [*FLAT[:-1], 140_000_000]}, "the memory grew from 0 to 140 MB"),
        ({"changed": ["/tmp/evil.png"]}, "/tmp/evil.png is new or changed"),
        ({"ready": False}, "the page is not ready any more"),
        ({"contributions": 1}, "2 contributions got a receipt, 1 are stored"),
        ({"wrong": {"a": "status 500"}}, "a: status 500"),
    ],
)
def test_what_went_wrong_is_said(changes, fault):
    assert FINE.faults == []
    assert dataclasses.replace(FINE, **changes).faults == [fault]


def test_a_server_that_ends_is_an_error_with_its_last_words():
    with (
        pytest.raises(server_process.ServerEndedError, match=r"(?s)the json tool ended with status 2.*no-such"),
        server_process.running("the json tool", "json.tool", ["--no-such"], lambda: False),
    ):
        pass


def test_nobody_answers_on_a_free_port():
    assert server_process.status_of(server_process.free_port(), "/") == 0
