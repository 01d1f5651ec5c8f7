"""The page in a process of its own on loopback, with a tiny model and a data collection."""

import contextlib
from pathlib import Path

import tiny_tflite
from contributions import OPERATOR

from benchmarks.server_process import HOST, free_port, running, status_of


@contextlib.contextmanager
def collecting_page(data: Path, **card):
    """Starts the page and yields its URL.

    Args:
        data: the collection's folder.
        card: fields of the model's card.
    """
    model = tiny_tflite.write_model(data.parent / "tiny.tflite", **card)
    port = free_port()
    arguments = [f"--model={model}", f"--port={port}", f"--data={data}", f"--operator={OPERATOR}"]
    with running("the page", "serving.webapp", arguments, lambda: status_of(port, "/readyz") == 200):
        yield f"http://{HOST}:{port}"
