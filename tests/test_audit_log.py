"""The audit log: lines, hashes, failures."""

import datetime
import hmac
import json
import os

import pytest

from serving.page import audit_log
from serving.page.audit_log import AuditLog, AuditLogError, key_of_token, read_key


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_are_lines_with_their_time(tmp_path):
    path = tmp_path / "audit.jsonl"
    with AuditLog(path) as log:
        log.write([{"event": "image", "user": "安娜"}, {"event": "request"}])
        log.write([{"event": "login"}])
    assert [line["event"] for line in lines(path)] == ["image", "request", "login"]
    assert lines(path)[0]["user"] == "安娜"
    assert datetime.datetime.fromisoformat(lines(path)[0]["time"]).utcoffset() == datetime.timedelta(0)
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_older_log_is_continued(tmp_path):
    path = tmp_path / "audit.jsonl"
    for event in ("first", "second"):
        with AuditLog(path) as log:
            log.write([{"event": event}])
    assert [line["event"] for line in lines(path)] == ["first", "second"]


def test_stderr(capsys):
    AuditLog().write([{"event": "image"}])
    assert json.loads(capsys.readouterr().err)["event"] == "image"


def test_hashes_of_images_are_keyed():
    assert AuditLog(key=b"k" * 32).image_hash(b"image") == hmac.new(b"k" * 32, b"image", "sha256").hexdigest()
    assert AuditLog().image_hash(b"image") != AuditLog().image_hash(b"image")
    log = AuditLog()
    running = log.new_hash()
    for part in (b"im", b"age"):
        running.update(part)
    assert running.hexdigest() == log.image_hash(b"image")


def test_a_token_has_a_key_that_does_not_give_it_away():
    assert key_of_token("token") == key_of_token("token") != key_of_token("token2")
    assert key_of_token("token") != b"token"
    assert len(key_of_token("token")) == 32


@pytest.mark.parametrize("where", ["missing/audit.jsonl", "."])
def test_a_log_that_cannot_be_written_is_an_error_at_once(tmp_path, where):
    with pytest.raises(AuditLogError, match="cannot be written"):
        AuditLog(tmp_path / where)


def test_a_log_that_fails_later_is_an_error_then(monkeypatch, tmp_path):
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.write([{"event": "first"}])
    write = os.write
    with monkeypatch.context() as patch:  # a full disk takes a part
        patch.setattr(audit_log.os, "write", lambda handle, content: write(handle, content[:10]))
        with pytest.raises(AuditLogError, match="full"):
            log.write([{"event": "second"}])
    log.write([{"event": "third"}])
    log.close()
    first, torn, third = path.read_text().splitlines()
    assert json.loads(first)["event"] == "first"
    assert torn == '{"time": "'
    assert json.loads(third)["event"] == "third"


def test_a_rotated_log_is_made_anew(tmp_path):
    path, old = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    with AuditLog(path) as log:
        log.write([{"event": "before"}])
        path.rename(old)
        log.write([{"event": "after"}])
        path.rename(tmp_path / "audit.jsonl.2")
        path.touch()  # as logrotate does
        log.write([{"event": "at last"}])
    assert [line["event"] for line in lines(old)] == ["before"]
    assert [line["event"] for line in lines(tmp_path / "audit.jsonl.2")] == ["after"]
    assert [line["event"] for line in lines(path)] == ["at last"]


def test_a_closed_stderr_is_an_error(monkeypatch, tmp_path):
    with (tmp_path / "closed").open("w") as closed:
        pass
    log = AuditLog()
    monkeypatch.setattr("sys.stderr", closed)
    with pytest.raises(AuditLogError, match="stderr"):
        log.write([{"event": "image"}])


def test_the_key_is_read_from_a_file(tmp_path):
    path = tmp_path / "key"
    path.write_text("0123456789abcdef\n")
    assert read_key(path) == b"0123456789abcdef"
    path.write_text("short")
    with pytest.raises(ValueError, match="at least 16 bytes"):
        read_key(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_key(tmp_path / "none")
