"""How many requests a second the page and the double of TensorFlow Serving answer, and how long each waits.

    python -m benchmarks.serving_load --tflite=models/edge/int8.tflite --models=models/ladnn

Each server runs in a process of its own on loopback. Clients, threads of this process with a connection each, send
one image after the other, without a pause, for `--seconds` at 1, 8 and 64 clients, in `--rounds` rounds that take
turns; servers and clients share the machine's cores. Last, the page with a short queue is asked for more than the
queue holds: what is refused must be refused by 503 at once, and a request after that must be answered again.
"""

import base64
import collections
import contextlib
import dataclasses
import http.client
import itertools
import json
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks.server_process import HOST, Server, free_port, running, status_of
from benchmarks.training import machine
from ladnn_tf import command
from ladnn_tf.data.phantom_slice import example_png

USAGE = "python -m benchmarks.serving_load [--tflite=FILE] [--models=FOLDER] [--clients=1,8,64] [--seconds=10]"
_TIMEOUT = 120.0  # seconds
_PACKAGES = ("tensorflow", "tensorflow-cpu", "ai-edge-litert", "fastapi", "uvicorn", "grpcio")
_FULL_QUEUE = ("--queue=8", "--max_images=8", "--workers=1")
_CROWD, _IMAGES = 16, 8  # clients at once, and images of each, against a queue of 8

Ask = Callable[[], int]
"""Sends one request and returns its HTTP status."""


@dataclasses.dataclass(frozen=True)
class Load:
    """What some clients saw in some seconds.

    Attributes:
        seconds: from the first request to the last answer.
        waits: seconds of each request that was answered by 200, in order.
        statuses: status -> number of requests; 0 stands for a connection that broke.
    """

    seconds: float
    waits: tuple[float, ...]
    statuses: dict[int, int]


def load(connect: Callable[[], contextlib.AbstractContextManager[Ask]], clients: int, seconds: float) -> Load:
    """Lets clients ask without a pause.

    Args:
        connect: makes a client's connection.
        clients: how many at once.
        seconds: after which no new request is begun.

    Returns:
        What they saw.
    """
    waits: list[list[float]] = [[] for _ in range(clients)]
    statuses: collections.Counter[int] = collections.Counter()
    begin = threading.Barrier(clients + 1)
    counting = threading.Lock()

    def client(number: int) -> None:
        seen: collections.Counter[int] = collections.Counter()
        with connect() as ask:
            begin.wait()
            end = time.monotonic() + seconds
            while (started := time.monotonic()) < end:
                status = ask()
                seen[status] += 1
                if status == http.HTTPStatus.OK:
                    waits[number].append(time.monotonic() - started)
        with counting:
            statuses.update(seen)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    begin.wait()
    started = time.monotonic()
    for thread in threads:
        thread.join()
    return Load(time.monotonic() - started, tuple(sorted(itertools.chain(*waits))), dict(statuses))


@contextlib.contextmanager
def http_client(port: int, path: str, body: bytes, headers: dict[str, str]) -> Iterator[Ask]:
    """A connection that sends the same POST again and again; it is opened anew where the server closed it."""
    connection = http.client.HTTPConnection(HOST, port, timeout=_TIMEOUT)

    def ask() -> int:
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return 0
        return response.status

    try:
        yield ask
    finally:
        connection.close()


@contextlib.contextmanager
def grpc_client(port: int, image: bytes) -> Iterator[Ask]:
    """A gRPC channel of its own that asks for one image; statuses are those that REST would have."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest(inputs={"image_bytes": tf.make_tensor_proto([image])})
    request.model_spec.name = "ladnn"
    options = [("grpc.use_local_subchannel_pool", 1)]  # else all channels of a process share one connection
    with grpc.insecure_channel(f"{HOST}:{port}", options) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

        def ask() -> int:
            try:
                stub.Predict(request, timeout=_TIMEOUT)
            except grpc.RpcError as error:
                return 503 if error.code() is grpc.StatusCode.UNAVAILABLE else 500
            return 200

        yield ask


def upload(images: Sequence[bytes]) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a POST to the page that asks for JSON."""
    return multipart([("files", f"{number}.png", image) for number, image in enumerate(images)])


def multipart(files: Sequence[tuple[str, str, bytes]], **fields: str) -> tuple[bytes, dict[str, str]]:
    """A form as its body and headers that ask for JSON.

    Args:
        files: field, file name and content of each file; names go in as they are.
        fields: the other fields.
    """
    boundary = uuid.uuid4().hex
    parts = [(f'name="{name}"', value.encode()) for name, value in fields.items()]
    parts += [(f'name="{field}"; filename="{name}"', content) for field, name, content in files]
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {about}\r\n\r\n".encode() + content + b"\r\n"
        for about, content in parts
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Accept": "application/json"}
    return body + f"--{boundary}--\r\n".encode(), headers


def page_arguments(tflite: Path, port: int) -> list[str]:
    """The flags of a page on loopback whose clients are not slowed down on purpose."""
    return [f"--model={tflite}", f"--port={port}", "--rate_limit=0", "--allow_unfit"]


def page_client(port: int, images: Sequence[bytes]) -> contextlib.AbstractContextManager[Ask]:
    """A client that uploads the same images again and again."""
    return http_client(port, "/diagnose", *upload(images))


@contextlib.contextmanager
def _page(tflite: Path, *more: str) -> Iterator[tuple[Server, int]]:
    port = free_port()
    arguments = [*page_arguments(tflite, port), *more]
    with running("the page", "serving.webapp", arguments, lambda: status_of(port, "/readyz") == 200) as server:
        yield server, port


@contextlib.contextmanager
def _double(models: Path) -> Iterator[tuple[Server, int, int]]:
    rest, grpc = free_port(), free_port()
    arguments = [f"--model_base_path={models}", f"--rest_api_port={rest}", f"--port={grpc}"]

    def is_ready() -> bool:
        return status_of(rest, "/v1/models/ladnn/metadata") == 200

    with running("the double", "serving.double", arguments, is_ready) as server:
        yield server, rest, grpc


def full_queue(tflite: Path, image: bytes) -> tuple[Load, int]:
    """Asks a page with a short queue for more than it holds.

    Returns:
        What the crowd saw, and the status of one request after it.
    """
    with _page(tflite, *_FULL_QUEUE) as (_, port):
        seen = load(lambda: page_client(port, [image] * _IMAGES), _CROWD, 5.0)
        with page_client(port, [image]) as ask:
            return seen, ask()


def format_rows(rows: dict[tuple[str, int], list[Load]]) -> str:
    """The table: medians over the rounds of requests a second and of percentiles of the waits, in Markdown."""
    lines = [
        "| server | clients | requests/s | p50 ms | p95 ms | p99 ms | not answered |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (name, clients), loads in rows.items():
        rate = statistics.median(len(seen.waits) / seen.seconds for seen in loads)
        waits = [np.percentile(seen.waits or [np.nan], [50, 95, 99]) * 1e3 for seen in loads]
        p50, p95, p99 = np.median(waits, axis=0)
        others: collections.Counter[int] = collections.Counter()
        for seen in loads:
            others.update({status: count for status, count in seen.statuses.items() if status != 200})
        failed = ", ".join(f"{count} x {status or 'broken'}" for status, count in sorted(others.items())) or "0"
        lines.append(f"| {name} | {clients} | {rate:.1f} | {p50:.0f} | {p95:.0f} | {p99:.0f} | {failed} |")
    return "\n".join(lines)


def measure(
    tflite: Path | None, models: Path | None, image: bytes, clients: Sequence[int], seconds: float, rounds: int
) -> dict[tuple[str, int], list[Load]]:
    """Runs all servers at once, of which one at a time is asked.

    Returns:
        (server, clients) -> what was seen in each round.
    """
    connects: dict[str, Callable[[], contextlib.AbstractContextManager[Ask]]] = {}
    rows: dict[tuple[str, int], list[Load]] = {}
    with contextlib.ExitStack() as servers:
        if tflite:
            _, port = servers.enter_context(_page(tflite))
            connects["page"] = lambda: page_client(port, [image])
        if models:
            _, rest, grpc = servers.enter_context(_double(models))
            body = json.dumps({"inputs": {"image_bytes": [{"b64": base64.b64encode(image).decode()}]}}).encode()
            connects["double, REST"] = lambda: http_client(rest, "/v1/models/ladnn:predict", body, {})
            connects["double, gRPC"] = lambda: grpc_client(grpc, image)
        for connect in connects.values():
            load(connect, 2, min(2.0, seconds))  # warm-up
        for _ in range(rounds):
            for name, connect in connects.items():
                for number in clients:
                    rows.setdefault((name, number), []).append(load(connect, number, seconds))
    return dict(sorted(rows.items(), key=lambda row: (list(connects).index(row[0][0]), row[0][1])))


def main(argv: list[str]) -> int:
    """The command; the exit status is 1 if the page did not recover from a full queue."""
    flag_values = flags.FlagValues()
    fv = {"flag_values": flag_values}
    flags.DEFINE_string("tflite", None, "TFLite file of the page", **fv)
    flags.DEFINE_string("models", None, "folder of a SavedModel's versions, for the double", **fv)
    flags.DEFINE_string("image", None, "PNG or JPEG file to send; a phantom of 320 pixels by default", **fv)
    flags.DEFINE_list("clients", ["1", "8", "64"], "numbers of clients at once", **fv)
    flags.DEFINE_float("seconds", 10.0, "that each number of clients asks for", 0.1, **fv)
    flags.DEFINE_integer("rounds", 3, "number of rounds", 1, **fv)
    command.parse(flag_values, argv, USAGE)
    if not (flag_values.tflite or flag_values.models):
        command.usage_error("give --tflite, --models or both", USAGE)
    if not all(number.isdecimal() and int(number) for number in flag_values.clients):
        command.usage_error(f"--clients should be numbers from 1. Received: {flag_values.clients}", USAGE)
    tflite, models = (path and Path(path).absolute() for path in (flag_values.tflite, flag_values.models))
    image = Path(flag_values.image).read_bytes() if flag_values.image else example_png()
    clients = [int(number) for number in flag_values.clients]
    rows = measure(tflite, models, image, clients, flag_values.seconds, flag_values.rounds)
    print(format_rows(rows))
    found = machine(_PACKAGES)
    print(f"\n{len(image):,} bytes an image; medians of {flag_values.rounds} rounds of {flag_values.seconds:g} s")
    print(f"{found['processor']}, {found['cores']} cores: {' '.join(found['features'])}")
    print(", ".join(f"{name} {version}" for name, version in found["versions"].items()))
    return _report_full_queue(tflite, image) if tflite else 0


def _report_full_queue(tflite: Path, image: bytes) -> int:
    seen, after = full_queue(tflite, image)
    statuses = ", ".join(f"{count} x {status or 'broken'}" for status, count in sorted(seen.statuses.items()))
    print(f"\nfull queue ({' '.join(_FULL_QUEUE)}), {_CROWD} clients with {_IMAGES} images each: {statuses}")
    print(f"one request after that: {after}")
    return int(after != 200 or 503 not in seen.statuses)


if __name__ == "__main__":
    command.run(main)
