"""What the page keeps: its audit log, contributions, and nothing else."""

import hmac
import json
import os
import sys

import pytest
from serving_page import JSON, OPERATOR, SHA256, TOKEN, example, png, running_page, zipped

from serving.collection.consent import consent
from serving.collection.store import Collection
from serving.page import diagnose
from serving.page.audit_log import AuditLog, AuditLogError

LIGHT, BLACK = png(204), png(0)  # 0.8, abstained


@pytest.fixture
def page(tmp_path):
    with running_page(tmp_path) as made:
        yield made


@pytest.fixture
def guarded(tmp_path):
    """A page with a login by token."""
    with running_page(tmp_path, token=TOKEN) as made:
        yield made


def test_nothing_is_written_while_an_upload_is_answered(page):
    """Starlette's own form parser would write files of more than 1 MB to a temporary one."""
    written = []
    watching = True

    def hook(event, arguments):
        if watching and event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                written.append(path)

    sys.addaudithook(hook)
    noise = os.urandom(3 * 2**20)
    results = page.results(
        ("large.png", b"\x89PNG\r\n\x1a\n" + noise), ("z.zip", zipped({"a.png": LIGHT, "b": noise}))
    )
    watching = False
    assert [result["state"] for result in results] == ["error", "answered", "error"]
    assert [path for path in written if "audit" not in str(path)] == []


def test_the_audit_log_has_neither_names_nor_pictures(tmp_path):
    with running_page(tmp_path, audit_key=b"k" * 32) as page:
        page.results(
            ("Mueller_Anna_1960.png", LIGHT), ("Mueller.zip", zipped({"Anna/1.png": BLACK, "2.txt": b"x"}))
        )
        text = (tmp_path / "audit.jsonl").read_text()
        first, second, third = page.audit("image")
    assert "Mueller" not in text
    assert "Anna" not in text
    assert first["image_hmac_sha256"] == hmac.new(b"k" * 32, LIGHT, "sha256").hexdigest()
    assert (first["image"], first["images"], first["bytes"]) == (1, 3, len(LIGHT))
    assert (first["state"], first["call"], first["outcome"]) == ("answered", "positive", "given")
    assert (second["state"], second["call"], second["reason"]) == ("abstained", None, None)
    assert (third["state"], third["reason"], third["bytes"]) == ("error", "kind_unknown", 1)
    assert third["image_hmac_sha256"] == hmac.new(b"k" * 32, b"x", "sha256").hexdigest()
    assert all(line["address"] == "127.0.0.1" and line["card_sha256"] == SHA256 for line in (first, second, third))
    assert {line["request"] for line in (first, second, third)} == {page.audit("request")[0]["request"]}


def test_nothing_is_answered_that_cannot_be_noted(page, monkeypatch):
    def fail(self, records):
        raise AuditLogError("the disk is full")

    monkeypatch.setattr(AuditLog, "write", fail)
    response = page.upload(("a.png", LIGHT))
    assert (response.status_code, response.json()["error"]["code"]) == (500, "not_audited")
    assert "0.8" not in response.text
    assert page.client.get("/").status_code == 200  # what gives no answer needs no line
    monkeypatch.undo()
    assert page.results(("a.png", LIGHT))


def test_a_refusal_that_cannot_be_noted_is_a_failure_too(page, monkeypatch):
    """The lines of the images could be written by themselves, that of the request could not."""

    def fail_at_requests(self, records):
        if any(record["event"] == "request" for record in records):
            raise AuditLogError("the disk is full")

    monkeypatch.setattr(AuditLog, "write", fail_at_requests)
    assert page.upload(("a.png", LIGHT)).json()["error"]["code"] == "not_audited"
    assert page.client.post("/diagnose", headers=JSON).json()["error"]["code"] == "not_audited"


def test_refused_files_have_size_hash_and_reason(tmp_path):
    """Of what was received, also where it is not kept; a zip file that is not unpacked is one file."""
    key = b"k" * 32
    large, bomb = b"x" * (2**20 + 5), zipped({"a.png": b"\0" * 2**21, "b.png": LIGHT})
    files = {
        "kind_dicom": b"\x08\x00\x05\x00CS",
        "empty": b"",
        "file_too_large": large,
        "zip_bomb": zipped({f"{number}.png": b"\0" * 2**20 for number in range(3)}),
        "unreadable": LIGHT[:60],
    }
    sizes = {"max_image_mb": 1, "max_request_mb": 4, "max_unpacked_mb": 2, "upload_memory_mb": 12}
    with running_page(tmp_path, audit_key=key, **sizes) as page:
        page.results(*[(f"{number}.png", content) for number, content in enumerate(files.values())])
        lines = page.audit("image")
        page.results(("b.zip", bomb))
        member, good = page.audit("image")[len(lines) :]
    for line, (code, content) in zip(lines, files.items(), strict=True):
        expected = hmac.new(key, content, "sha256").hexdigest() if content else None
        assert (line["reason"], line["bytes"], line["image_hmac_sha256"]) == (code, len(content), expected), code
        assert (line["state"], line["outcome"]) == ("error", "given")
    assert (member["reason"], member["bytes"], member["image_hmac_sha256"]) == ("file_too_large", 0, None)
    assert (good["reason"], good["bytes"]) == (None, len(LIGHT))


def test_the_hashes_are_comparable_over_restarts_where_there_is_a_token(tmp_path):
    def hash_of(name, **settings):
        folder = tmp_path / name
        folder.mkdir()
        with running_page(folder, **settings) as page:
            page.upload(("a.png", LIGHT), headers={"Authorization": f"Bearer {settings.get('token')}"})
            return page.audit("image")[0]["image_hmac_sha256"]

    assert hash_of("first", token=TOKEN) == hash_of("second", token=TOKEN)
    assert hash_of("third", token=f"{TOKEN}2") != hash_of("fourth", token=TOKEN)
    keyed = hmac.new(b"k" * 32, LIGHT, "sha256").hexdigest()
    assert hash_of("fifth", token=TOKEN, audit_key=b"k" * 32) == keyed
    assert hash_of("sixth") != hash_of("seventh")
    assert hash_of("eighth", token=TOKEN) != hmac.new(TOKEN.encode(), LIGHT, "sha256").hexdigest()


def test_an_answer_that_cannot_be_rendered_was_not_given(page, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(diagnose, "notice", lambda *_: 1 / 0)
        assert page.upload(("a.png", LIGHT), ("b", b"x")).status_code == 500
    first, second = page.audit("image")
    assert (first["state"], first["outcome"]) == ("answered", "failed")
    assert (second["state"], second["outcome"], second["reason"]) == ("error", "failed", "kind_unknown")
    assert [line["status"] for line in page.audit("request")] == [500]


def test_an_upload_has_its_lines_in_one_write(page, monkeypatch):
    writes = []
    write = AuditLog.write
    monkeypatch.setattr(
        AuditLog, "write", lambda self, records: writes.append(len(records)) or write(self, records)
    )
    page.results(("a.png", LIGHT), ("b.png", BLACK))
    assert writes == [3]
    assert [line["event"] for line in page.audit()] == ["image", "image", "request"]


def test_strangers_leave_no_lines(guarded):
    """They could fill the disk."""
    guarded.upload(("a.png", LIGHT))
    assert guarded.audit() == []
    guarded.client.post("/login", data={"token": "wrong"})
    assert [line["event"] for line in guarded.audit()] == ["login"]  # of which there are ten a minute


@pytest.fixture
def collecting(tmp_path):
    """A page with a data collection."""
    with Collection(tmp_path / "data") as collection, running_page(tmp_path, collection=collection) as made:
        yield made, collection


def contribute(page, **fields):
    agreed = {"agree": "yes", "consent": consent("en", OPERATOR).sha256, "is_chest_ct": "yes"}
    return page.client.post("/contribute", data=agreed | fields, files=[("files", ("Anna.png", example()))])


def test_contributions_are_a_choice_of_their_own(collecting, tmp_path):
    page, collection = collecting
    assert 'href="/contribute"' in page.client.get("/").text
    assert "Contribute" in page.client.get("/contribute").text
    page.results(("a.png", LIGHT))
    assert collection.count() == 0
    assert contribute(page, agree="no").status_code == 422
    assert collection.count() == 0
    assert contribute(page).status_code == 200
    assert collection.count() == 1
    (line,) = page.audit("contribution")
    assert (line["images"], line["user"], line["address"], line["card_sha256"]) == (1, "", "127.0.0.1", SHA256)
    assert "Anna" not in json.dumps(page.audit())


def test_a_contribution_that_cannot_be_noted_is_not_kept(collecting, monkeypatch):
    page, collection = collecting

    def fail(self, records):
        raise AuditLogError("the disk is full")

    monkeypatch.setattr(AuditLog, "write", fail)
    assert contribute(page).status_code == 500
    assert collection.count() == 0


def test_a_contribution_is_not_kept_if_the_line_of_its_request_alone_cannot_be_written(collecting, monkeypatch):
    """Its contributor would have no receipt, and could never withdraw it."""
    page, collection = collecting
    write = AuditLog.write

    def fail_at_requests(self, records):
        if any(record["event"] == "request" for record in records):
            raise AuditLogError("the disk is full")
        write(self, records)

    monkeypatch.setattr(AuditLog, "write", fail_at_requests)
    response = contribute(page)
    assert response.status_code == 500
    assert collection.count() == 0
    assert page.audit("contribution") == []
    monkeypatch.undo()
    assert contribute(page).status_code == 200
    contributed, request = page.audit()
    assert (contributed["event"], request["event"], request["status"]) == ("contribution", "request", 200)
    assert contributed["request"] == request["request"]
