"""The audit log: who asked what and when, which model answered; JSON lines, without images and without file names.

    {"time": "2026-01-31T12:00:00.123456+00:00", "event": "image", "request": "5f0c...", "user": "anna",
     "address": "10.0.0.7", "image": 1, "images": 3, "image_hmac_sha256": "9b1e...", "bytes": 181234,
     "state": "answered", "call": "positive", "reason": null, "outcome": "given", "model_version": "...",
     "card_sha256": "...", "seconds": 0.04}

    {"time": "...", "event": "series", "request": "5f0c...", "user": "anna", "address": "10.0.0.7", "series": 1,
     "of_series": 2, "files": 120, "files_hmac_sha256": "7c0d...", "bytes": 63111222, "slices": 120,
     "slices_answered": 13, "state": "answered", "call": "negative", "reason": null, "model_version": "...",
     "card_sha256": "...", "seconds": 2.8, "outcome": "given"}

An `image` line stands for each file of an upload that is answered by itself, a `series` line for each series or,
where none could be read, for the files that should hold one, a `request` line for each POST of somebody who is
logged in, a `login` line for each attempt; of those that fail there are ten a minute and address, then one of
`login_limit`.
File names hold patients' names, so there are none. A file is known by a keyed hash of the bytes that were
received: whoever has the file and the key can find its line, nobody else can tell what it shows. A file that was
refused has a `reason`, such as `kind_archive`. The hash of a series is that of its files' hashes, sorted and
joined, as text. The lines are written when the answer is made and before it is sent, and an answer whose lines
cannot be written is not sent.
"""

import hmac
import json
import os
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_SHORTEST_KEY = 16  # bytes
_PURPOSE = b"ladnn_tf page, audit log, image hashes, 1"


class AuditLogError(OSError):
    """The audit log cannot be written."""


class AuditLog:
    """Lines of JSON, appended to a file or to stderr; threads may share it.

    Args:
        path: of the file, which is made if it is not there, readable by its owner alone; None for stderr. A file
            that was renamed or deleted (by logrotate, say) is made anew.
        key: of the hashes of images; None for one of this process, by which they can be told apart and no more.

    Raises:
        AuditLogError: if the file cannot be written.
    """

    def __init__(self, path: str | Path | None = None, key: bytes | None = None) -> None:
        self._path = None if path is None else Path(path)
        self._key = os.urandom(32) if key is None else key
        self._lock = threading.Lock()
        self._handle: int | None = None
        self._torn = False
        self.write([])

    def __enter__(self) -> "AuditLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None

    def image_hash(self, content: bytes) -> str:
        """HMAC-SHA256 of an image's bytes, as 64 hexadecimal digits."""
        return hmac.digest(self._key, content, "sha256").hex()

    def new_hash(self) -> hmac.HMAC:
        """The same, of bytes that come bit by bit."""
        return hmac.new(self._key, digestmod="sha256")

    def write(self, records: Sequence[dict[str, Any]]) -> None:
        """Appends a line for each record, with the time in front, all of them in one step.

        Args:
            records: of plain values.

        Raises:
            AuditLogError: if they cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        lines = b"".join(
            json.dumps({"time": now} | record, allow_nan=False).encode() + b"\n" for record in records
        )
        try:
            with self._lock:
                self._append(lines)
        except (OSError, ValueError) as error:  # ValueError: stderr is closed
            raise AuditLogError(
                f"the audit log {self._path or 'on stderr'} cannot be written ({error})"
            ) from error

    def _append(self, lines: bytes) -> None:
        if self._path is None:
            sys.stderr.write(lines.decode("ascii"))
            sys.stderr.flush()
            return
        handle = self._opened()
        if not lines:
            return
        if self._torn:
            lines = b"\n" + lines  # a line that a full disk cut off must not spoil the next one
        self._torn = os.write(handle, lines) < len(lines)
        if self._torn:
            raise OSError("not all of it was taken; the disk is full")

    def _opened(self) -> int:
        if self._handle is not None:
            try:
                there, here = os.stat(self._path), os.fstat(self._handle)
                if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
                    return self._handle
            except FileNotFoundError:
                pass
            os.close(self._handle)
            self._handle = None
        self._handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        return self._handle


def key_of_token(token: str) -> bytes:
    """The key of the images' hashes that belongs to a token: the same after a restart, and in all replicas."""
    return hmac.digest(token.encode(), _PURPOSE, "sha256")


def read_key(path: str | Path) -> bytes:
    """Reads the key of the images' hashes: the bytes of a file, without white space around them.

    Raises:
        ValueError: if the file cannot be read or holds too little.
    """
    try:
        key = Path(path).read_bytes().strip()
    except OSError as error:
        raise ValueError(f"--audit_key_file={path} cannot be read ({error.strerror})") from error
    if len(key) < _SHORTEST_KEY:
        raise ValueError(
            f"--audit_key_file={path} should hold at least {_SHORTEST_KEY} bytes, as from `openssl rand -hex 32`. "
            f"Received: {len(key)}"
        )
    return key
