"""What the contract tests ask: the double, or a real TensorFlow Serving where the environment says so.

- SERVING_BINARY: a `tensorflow_model_server` to start, with the flags and files of the deployment, so that what is
  deployed is what is asked, but with ports of its own and the models of `serving_models.py`.
- SERVING_REST_URL, SERVING_GRPC_ADDRESS, SERVING_MODEL: a server that runs, and the folder of the versions that it
  serves, whose name is the model's. SERVING_LABELS, `stable=1,canary=2`, names its labels. Tests that need another
  model, or change the server, are then skipped.

`scripts/check_real_serving.sh` sets them. The requests are made with httpx and the stubs themselves, not with the
project's clients.
"""

import base64
import contextlib
import dataclasses
import functools
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tensorflow as tf
from deployment import CONFIG, SERVER
from serving_models import odd_folder, version_folders, write_config
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.double.server import Double

LABELS = {"stable": 1, "canary": 2}
POLICY = "all {}"
ODD = "odd"

DEPLOYED = {name: value.replace("/config/", f"{CONFIG}/") for name, value in SERVER["compose"].items()}
"""The flags that the deployment gives its server; the files they name are those of this checkout."""

_SECONDS = 120.0  # for an answer
_TRIES, _PAUSE = 1200, 0.1  # looks at a server of another process, and the seconds between them


class Refused(Exception):  # noqa: N818  it is an answer
    """An error as the transport has it: `code` is an HTTP status or the name of a gRPC code."""

    def __init__(self, code: int | str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclasses.dataclass(frozen=True)
class Served:
    """A server, and what it serves.

    Attributes:
        rest_url, grpc_address: where it listens.
        model: name of the model with the signatures of the project.
        folders: of that model's versions, by number; all are available.
        labels: of that model, label -> version.
        config: its `models.config`, or None where the server is somebody's, who wants it left as it is.
        batching: whether it computes several requests together; True where that is not known.
    """

    rest_url: str
    grpc_address: str
    model: str
    folders: Mapping[int, Path]
    labels: Mapping[str, int]
    config: Path | None
    batching: bool

    @property
    def newest(self) -> int:
        return max(self.folders)

    def reference(self, version: int | None = None) -> Mapping[str, Any]:
        """The signatures of a version, called in this process."""
        return _loaded(self.folders[version or self.newest]).signatures


@functools.cache
def _loaded(folder: Path):
    return tf.saved_model.load(str(folder))


@contextlib.contextmanager
def served(run: Callable[[], Path], folder: Path) -> Iterator[Served]:
    """The server that the environment names, or the double.

    Args:
        run: gives the folder of `tiny_run`, where one is needed.
        folder: an empty one, for models and logs.
    """
    if os.environ.get("SERVING_REST_URL"):
        yield _running()
        return
    base = version_folders(run(), folder / "ladnn")
    models = {"ladnn": base, ODD: odd_folder(folder / ODD)}
    config = write_config(folder / "models.config", models, policy=POLICY, labels=LABELS)
    folders = {int(path.name): path for path in base.iterdir()}
    with _started(config) as (rest_url, grpc_address):
        batching = bool(os.environ.get("SERVING_BINARY")) and DEPLOYED["enable_batching"] == "true"
        yield Served(rest_url, grpc_address, "ladnn", folders, LABELS, config, batching)


def _running() -> Served:
    try:
        address, base = os.environ["SERVING_GRPC_ADDRESS"], Path(os.environ["SERVING_MODEL"]).resolve()
    except KeyError as error:
        pytest.fail(f"SERVING_REST_URL is set, and {error} is not")
    pairs = (pair.split("=") for pair in os.environ.get("SERVING_LABELS", "").split(",") if pair)
    labels = {label: int(version) for label, version in pairs}
    rest_url = os.environ["SERVING_REST_URL"].rstrip("/")
    status = httpx.get(f"{rest_url}/v1/models/{base.name}").raise_for_status().json()
    states = {int(entry["version"]): entry["state"] for entry in status["model_version_status"]}
    folders = {version: base / str(version) for version, state in states.items() if state == "AVAILABLE"}
    return Served(rest_url, address, base.name, folders, labels, config=None, batching=True)


@contextlib.contextmanager
def _started(config: Path) -> Iterator[tuple[str, str]]:
    binary = os.environ.get("SERVING_BINARY")
    if not binary:
        with Double(config, allow_version_labels_for_unavailable_models=True) as double:
            yield double.rest_url, double.grpc_address
        return
    rest_port, grpc_port = _free_ports(2)
    own = {"rest_api_port": rest_port, "port": grpc_port, "model_config_file": config}
    command = [binary, *(f"--{name}={value}" for name, value in (DEPLOYED | own).items())]
    log = config.with_name("server.log")
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            _await(process, f"http://127.0.0.1:{rest_port}", log)
            yield f"http://127.0.0.1:{rest_port}", f"127.0.0.1:{grpc_port}"
        finally:
            process.terminate()


def _await(process: subprocess.Popen, rest_url: str, log: Path) -> None:
    """Waits for every version: a real server answers as soon as it has one of each model."""
    for _ in range(_TRIES):
        with contextlib.suppress(httpx.TransportError):
            if all(_is_available(rest_url, *expected) for expected in (("ladnn", 2), (ODD, 1))):
                return
        if process.poll() is not None:
            break
        time.sleep(_PAUSE)
    said = log.read_text(errors="replace")[-4000:]
    pytest.fail(f"{process.args} serves no models (exit status {process.poll()}); it said: {said}")


def _is_available(rest_url: str, model: str, versions: int) -> bool:
    states = httpx.get(f"{rest_url}/v1/models/{model}").json().get("model_version_status", [])
    return sum(entry["state"] == "AVAILABLE" for entry in states) == versions


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [opened.getsockname()[1] for opened in sockets]


def path_of(model: str, version: int | None = None, label: str = "") -> str:
    """The REST path of a model."""
    specified = f"/versions/{version}" if version is not None else f"/labels/{label}" if label else ""
    return f"/v1/models/{model}{specified}"


def encoded(values: Any) -> Any:
    """JSON of an input: bytes as base64, arrays as lists."""
    if isinstance(values, bytes):
        return {"b64": base64.b64encode(values).decode()}
    return [encoded(value) for value in values] if isinstance(values, list) else np.asarray(values).tolist()


class Rest:
    """Raw REST requests."""

    def __init__(self, server: Served) -> None:
        self.client = httpx.Client(base_url=server.rest_url, timeout=_SECONDS)

    def close(self) -> None:
        self.client.close()

    def send(self, method: str, path: str, **options: Any) -> Any:
        response = self.client.request(method, path, **options)
        document = response.json()
        if response.status_code != 200:
            assert list(document) == ["error"]
            raise Refused(response.status_code, document["error"])
        assert response.headers["Content-Type"] == "application/json"
        return document

    def predict(self, model, signature, inputs, version=None, label="") -> dict[str, np.ndarray]:
        body = {"signature_name": signature, "inputs": {name: encoded(value) for name, value in inputs.items()}}
        outputs = self.send("POST", f"{path_of(model, version, label)}:predict", json=body)["outputs"]
        if not isinstance(outputs, dict) or set(outputs) == {"b64"}:  # a single output has no name
            return {"": np.asarray(outputs)}
        return {name: np.asarray(value) for name, value in outputs.items()}

    def metadata(self, model, version=None, label="") -> tuple[int, set[str]]:
        document = self.send("GET", f"{path_of(model, version, label)}/metadata")
        assert document["model_spec"]["name"] == model
        signatures = document["metadata"]["signature_def"]["signature_def"]
        return int(document["model_spec"]["version"]), set(signatures)

    def states(self, model, version=None, label="") -> list[tuple[int, str]]:
        document = self.send("GET", path_of(model, version, label))
        for entry in document["model_version_status"]:
            if entry["state"] == "AVAILABLE":
                assert entry["status"] == {"error_code": "OK", "error_message": ""}
        return [(int(entry["version"]), entry["state"]) for entry in document["model_version_status"]]


class Grpc:
    """Raw gRPC calls."""

    def __init__(self, server: Served) -> None:
        self.channel = grpc.insecure_channel(server.grpc_address)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.service = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def close(self) -> None:
        self.channel.close()

    def call(self, method, request) -> Any:
        try:
            return method(request, timeout=_SECONDS)
        except grpc.RpcError as error:
            raise Refused(error.code().name, error.details()) from error

    def predict(self, model, signature, inputs, version=None, label="") -> dict[str, np.ndarray]:
        request = predict_pb2.PredictRequest(model_spec=spec_of(model, signature, version, label))
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        response = self.call(self.prediction.Predict, request)
        return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}

    def metadata(self, model, version=None, label="") -> tuple[int, set[str]]:
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec_of(model, "", version, label), metadata_field=["signature_def"]
        )
        response = self.call(self.prediction.GetModelMetadata, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        assert response.metadata["signature_def"].Unpack(signatures)
        assert response.model_spec.name == model
        return response.model_spec.version.value, set(signatures.signature_def)

    def states(self, model, version=None, label="") -> list[tuple[int, str]]:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec_of(model, "", version, label))
        response = self.call(self.service.GetModelStatus, request)
        names = get_model_status_pb2.ModelVersionStatus.State.Name
        return [(entry.version, names(entry.state)) for entry in response.model_version_status]


def spec_of(model: str, signature: str = "", version: int | None = None, label: str = "") -> model_pb2.ModelSpec:
    """The `ModelSpec` of a request."""
    spec = model_pb2.ModelSpec(name=model, signature_name=signature)
    if version is not None:
        spec.version.value = version
    if label:
        spec.version_label = label
    return spec
