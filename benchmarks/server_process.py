"""A server in a process of its own on loopback, for the benchmarks that ask it things."""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.worker import CHECKOUT

HOST = "127.0.0.1"
_STARTS_WITHIN = 180.0  # seconds; TensorFlow on a busy machine
_ENDS_WITHIN = 60.0
_TAIL = 2000  # characters


class ServerEndedError(ChildProcessError):
    """A server that ended, or was never ready, with the end of what it wrote."""


class Server:
    """A server that is running.

    Attributes:
        process: its process.
        name: for messages.
    """

    def __init__(self, name: str, process: subprocess.Popen, log: Path):
        self.name, self.process, self._log = name, process, log

    @property
    def resident_memory(self) -> int:
        """Physical memory of the process, in bytes.

        Raises:
            ServerEndedError: if it has ended.
        """
        self.check()
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        words = next(line.split() for line in status.splitlines() if line.startswith("VmRSS:"))
        return 1024 * int(words[1])

    @property
    def threads(self) -> int:
        """Threads of the process."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def check(self) -> None:
        """Raises `ServerEndedError` if it has ended."""
        if self.process.poll() is not None:
            raise ServerEndedError(f"{self.name} ended with status {self.process.returncode}:\n{self.log()}")

    def log(self) -> str:
        """The end of what it wrote to stdout and stderr."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-_TAIL:]


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def running(
    name: str,
    module: str,
    arguments: Sequence[str],
    is_ready: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Starts `python -m MODULE ARGUMENTS`, waits until it is ready, and ends it by SIGTERM.

    Args:
        name: for messages.
        module: of the checkout.
        arguments: its flags.
        is_ready: tells whether it answers.
        environment: variables that it gets beside this process' own.

    Yields:
        The server.

    Raises:
        ServerEndedError: if it ends before it is ready, is not ready in time, or does not end when it is told to.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=CHECKOUT,
                env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        server = Server(name, process, log)
        try:
            _wait(server, is_ready)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(_ENDS_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise ServerEndedError(f"{name} did not end when it was told to:\n{server.log()}") from None


def _wait(server: Server, is_ready: Callable[[], bool]) -> None:
    end = time.monotonic() + _STARTS_WITHIN
    while not is_ready():
        server.check()
        if time.monotonic() > end:
            raise ServerEndedError(f"{server.name} was not ready in {_STARTS_WITHIN:g} s:\n{server.log()}")
        time.sleep(0.1)


def status_of(port: int, path: str) -> int:
    """The HTTP status of a GET on loopback; 0 where nobody answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()
