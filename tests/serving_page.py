"""A diagnosis page for tests: without a model, on Starlette's test client."""

import asyncio
import contextlib
import io
import json
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tiny_tflite
from PIL import Image
from starlette.testclient import TestClient

from ladnn_tf.answer import Answer
from ladnn_tf.data.phantom_slice import example_png
from serving.page.app import create_app
from serving.page.settings import Settings

JSON = {"Accept": "application/json"}
OPERATOR = "Hospital of the tests, tests@hospital.example"
TOKEN = "correct-horse-battery-staple"
MODEL = b"model one"
SHA256 = "c" * 64


def png(grey: int = 100, size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    """A picture of one grey."""
    content = io.BytesIO()
    Image.new("L", size, grey).save(content, kind)
    return content.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return content.getvalue()


class FakePredictor:
    """Answers with the mean grey divided by 255, and abstains from pictures that are black throughout.

    Attributes:
        asked: how often.
        free: while it is not set, answers wait.
        begun: set once an answer was asked for.
        error, not_ready, no_card: raised in place of an answer, of the readiness check, of the card.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.free = threading.Event()
        self.free.set()
        self.begun = threading.Event()
        self.error: Exception | None = None
        self.not_ready: Exception | None = None
        self.no_card: Exception | None = None
        self.current = tiny_tflite.card_of(MODEL, lesion_targets="all"), SHA256

    def card(self):
        if self.no_card:
            raise self.no_card
        return self.current

    def answer(self, encoded: bytes, pixels: np.ndarray) -> tuple[Answer, np.ndarray]:
        return self._answer(pixels), pixels

    def _answer(self, pixels: np.ndarray) -> Answer:
        self.asked += 1
        self.begun.set()
        if not self.free.wait(30):
            raise TimeoutError("nobody set the predictor free")
        if self.error:
            raise self.error
        covid = float(pixels.mean()) / 255.0
        if not covid:
            return Answer(*self.current, abstained=True, reason="it is black")
        maps = np.zeros((2, 2, 6), np.float32)
        maps[0, 0] = 1.0
        lesions = {"GGO": 0.5, "Csld": 0.25, "CrPa": 0.125, "AirBr": 0.0625, "InSepThi": 0.03125}
        return Answer(*self.current, covid=covid, positive=covid >= 0.5, lesions=lesions, maps=maps)

    def predict(self, images: Sequence[np.ndarray]) -> list[Answer]:
        return [self._answer(pixels) for pixels in images]

    def ready(self) -> None:
        self.asked += 1
        if self.not_ready:
            raise self.not_ready

    def close(self) -> None:
        pass


class Page:
    """A page with its fake predictor and its audit log."""

    def __init__(self, predictor: FakePredictor, client: TestClient, audit: Path) -> None:
        self.predictor = predictor
        self.client = client
        self._audit = audit

    @property
    def app(self):
        return self.client.app

    def audit(self, event: str | None = None) -> list[dict]:
        """The lines of the audit log, of one event if it is given."""
        lines = [json.loads(line) for line in self._audit.read_text().splitlines()]
        return [line for line in lines if event in (None, line["event"])]

    def upload(self, *files: tuple[str, bytes], headers: dict[str, str] | None = None):
        """Uploads files for a diagnosis and asks for JSON."""
        parts = [("files", file) for file in files]
        return self.client.post("/diagnose", files=parts, headers=JSON | (headers or {}))

    def results(self, *files: tuple[str, bytes]) -> list[dict]:
        """The results of an upload that is answered."""
        response = self.upload(*files)
        assert response.status_code == 200, response.text
        return response.json()["results"]

    def metric(self, line: str) -> float:
        """The value of a line of /metrics."""
        found = [row for row in self.client.get("/metrics").text.splitlines() if row.startswith(f"{line} ")]
        return float(found[0].split()[-1])


@contextlib.contextmanager
def running_page(
    folder: Path,
    *,
    peer: str = "127.0.0.1",
    base_url: str = "http://localhost",
    collection=None,
    predictor=None,
    **settings,
):
    """A page with these settings, asked from the address `peer`."""
    audit = folder / "audit.jsonl"
    predictor = predictor or FakePredictor()
    settings = {"rate_limit": 0, "audit_log": audit, "stop_seconds": 5.0, "operator": OPERATOR} | settings
    app = create_app(Settings(**settings), predictor, collection)
    with TestClient(app, base_url, client=(peer, 50000), follow_redirects=False) as client:
        try:
            yield Page(predictor, client, audit)
        finally:
            if isinstance(predictor, FakePredictor):
                predictor.free.set()


def example() -> bytes:
    """A phantom slice, as a PNG file."""
    return example_png()


async def ask(app, path, body, headers, leave: asyncio.Event | None = None):
    """One request straight to the application; the client goes away when `leave` is set."""
    sent = []
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if messages:
            return messages.pop()
        await (leave or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
        "headers": [(b"host", b"localhost"), *headers],
    }
    await app(scope, receive, send)
    return sent


def form(*contents: bytes):
    """A form with these files, as its body and its headers."""
    parts = b"".join(
        b'--cut\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + content + b"\r\n"
        for content in contents
    )
    return parts + b"--cut--\r\n", [(b"content-type", b"multipart/form-data; boundary=cut")]
