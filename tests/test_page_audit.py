"""What the page keeps: its audit log, contributions, and nothing else."""

import hmac
import json
import os
import sys

import pytest
from serving_page import JSON, SHA256, TOKEN, example, png, running_page, zipped

from serving.collection.consent import consent
from serving.collection.store import Collection
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
    assert (second["state"], second["call"]) == ("abstained", None)
    assert (third["state"], third["image_hmac_sha256"]) == ("error", None)
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
    """The lines of the images could be written, that of the request could not."""

    def fail_at_requests(self, records):
        if records[0]["event"] == "request":
            raise AuditLogError("the disk is full")

    monkeypatch.setattr(AuditLog, "write", fail_at_requests)
    assert page.upload(("a.png", LIGHT)).json()["error"]["code"] == "not_audited"
    assert page.client.post("/diagnose", headers=JSON).json()["error"]["code"] == "not_audited"


def test_strangers_leave_no_lines(guarded):
    """They could fill the disk."""
    guarded.upload(("a.png", LIGHT))
    guarded.client.get("/", headers={"Authorization": "Bearer wrong"})
    assert guarded.audit() == []
    guarded.client.post("/login", data={"token": "wrong"})
    assert [line["event"] for line in guarded.audit()] == ["login"]  # of which there are ten a minute


@pytest.fixture
def collecting(tmp_path):
    """A page with a data collection."""
    with Collection(tmp_path / "data") as collection, running_page(tmp_path, collection=collection) as made:
        yield made, collection


def contribute(page, **fields):
    agreed = {"agree": "yes", "consent": consent("en").sha256, "is_chest_ct": "yes"}
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
