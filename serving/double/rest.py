"""The double's REST interface: the routes, the status codes and the error bodies of TensorFlow Serving.

GET  /v1/models/M[/versions/V|/labels/L][/metadata]
POST /v1/models/M[/versions/V|/labels/L]:predict
"""

import contextlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import tensorflow as tf
from absl import logging
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2, predict_pb2

from serving.double.json_tensors import parse, read_inputs, read_signature_name, write_outputs
from serving.double.service import SIGNATURE_DEF, Service, invalid

_SPECIFIED = r"(?:(?:/versions/(?P<version>[0-9]+))|(?:/labels/(?P<label>[^/:]+)))?"
_POST = re.compile(
    rf"/v1/models/(?P<model>[^/:]+){_SPECIFIED}:(?P<method>classify|regress|predict)", re.IGNORECASE
)
_GET = re.compile(rf"/v1/models(?:/(?P<model>[^/:]+))?{_SPECIFIED}(?:/(?P<metadata>metadata))?", re.IGNORECASE)
_API = re.compile(r"/v1/.*", re.IGNORECASE)

_HTTP = {
    tf.errors.CANCELLED: 499,
    tf.errors.INVALID_ARGUMENT: 400,
    tf.errors.DEADLINE_EXCEEDED: 504,
    tf.errors.NOT_FOUND: 404,
    tf.errors.ALREADY_EXISTS: 409,
    tf.errors.PERMISSION_DENIED: 403,
    tf.errors.RESOURCE_EXHAUSTED: 429,
    tf.errors.FAILED_PRECONDITION: 400,
    tf.errors.ABORTED: 409,
    tf.errors.OUT_OF_RANGE: 400,
    tf.errors.UNIMPLEMENTED: 501,
    tf.errors.UNAVAILABLE: 503,
    tf.errors.UNAUTHENTICATED: 401,
}
"""HTTP status of a gRPC code, after `http_server.cc`; 500 for the others."""

_LARGEST_VERSION = 2**63 - 1
_BACKLOG = 1024  # connections that wait to be accepted; a benchmark opens many at once


def answer(service: Service, method: str, path: str, body: bytes) -> bytes:
    """Answers one request of the API.

    Args:
        service: what answers it.
        method: GET or POST; others are malformed requests.
        path: with the query, if there is one, which is taken for a part of the path, as the real server does.
        body: of a POST.

    Returns:
        JSON.

    Raises:
        tf.errors.OpError: if there is no answer.
    """
    malformed = invalid(f"Malformed request: {method} {path}")
    route = {"GET": _GET, "POST": _POST}.get(method)
    match = route and route.fullmatch(path)
    if not match:
        raise malformed
    spec = _spec(match)
    if method == "POST":
        if match["method"] != "predict":
            message = f"this is a double of TensorFlow Serving, which has no {match['method']}"
            raise tf.errors.UnimplementedError(None, None, message)
        return _predict(service, spec, body)
    if not spec.name:
        raise invalid("Missing model name in request.")
    if match["metadata"]:
        return _metadata(service, spec)
    status = service.status(get_model_status_pb2.GetModelStatusRequest(model_spec=spec))
    return _json(json_format.MessageToDict(status, always_print_fields_with_no_presence=True))


def _spec(match: re.Match[str]) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=unquote(match["model"] or ""))
    if match["version"]:
        if int(match["version"]) > _LARGEST_VERSION:
            raise invalid(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = int(match["version"])
    if match["label"]:
        spec.version_label = unquote(match["label"])
    return spec


def _predict(service: Service, spec: model_pb2.ModelSpec, body: bytes) -> bytes:
    document = parse(body)
    spec.signature_name = read_signature_name(document)
    tensors, form = read_inputs(document, service.inputs(spec))
    request = predict_pb2.PredictRequest(model_spec=spec)
    for name, tensor in tensors.items():
        request.inputs[name].CopyFrom(tensor)
    return write_outputs(service.predict(request).outputs, form)


def _metadata(service: Service, spec: model_pb2.ModelSpec) -> bytes:
    request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=[SIGNATURE_DEF])
    response = service.metadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[SIGNATURE_DEF].Unpack(signatures)
    options = {"preserving_proto_field_name": True, "always_print_fields_with_no_presence": True}
    return _json(
        {
            "model_spec": json_format.MessageToDict(response.model_spec, **options),
            "metadata": {SIGNATURE_DEF: json_format.MessageToDict(signatures, **options)},
        }
    )


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "RestServer"

    def do_GET(self) -> None:
        body = self._read_body()
        if body is None:
            return
        if not _API.fullmatch(self.path):
            self._send(404, b"<html><head><title>404 Not Found</title></head></html>", "text/html")
            return
        try:
            self._send(200, answer(self.server.service, self.command, self.path, body))
        except tf.errors.OpError as error:
            self._send(_HTTP.get(error.error_code, 500), _json({"error": error.message}))

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815  the base class looks for these names

    def _read_body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not re.fullmatch("[0-9]{1,18}", length):
            self.close_connection = True  # where the next request begins is not known
            self._send(411, _json({"error": "the double wants a Content-Length"}))
            return None
        return self.rfile.read(int(length))

    def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        logging.vlog(1, format, *args)


class RestServer(ThreadingHTTPServer):
    """The HTTP server; `serve_forever` in a thread, then `stop`.

    Args:
        service: what answers.
        host: name or address to listen on.
        port: to listen on; 0 takes a free one (`server_port`).

    Raises:
        OSError: if the port cannot be had.
    """

    request_queue_size = _BACKLOG
    daemon_threads = False  # so that server_close waits for answers that are being made

    def __init__(self, service: Service, host: str, port: int) -> None:
        self.service = service
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__((host, port), _Handler)

    def stop(self) -> None:
        """Ends: takes no connection more, lets what was asked be answered, and closes the rest."""
        self.shutdown()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # its client has just gone
                    connection.shutdown(socket.SHUT_RD)  # an idle client would be waited for without end
        self.server_close()

    def process_request(self, request: socket.socket, client_address: Any) -> None:
        """Notes the connection and starts its thread."""
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:
        """Forgets the connection and closes it."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Says in the log what a connection ended by; mostly its client has gone."""
        logging.info("a connection of %s ended by an error", client_address, exc_info=True)
