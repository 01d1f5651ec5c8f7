"""The double's gRPC interface: PredictionService and ModelService of TensorFlow Serving."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving.double.service import Service

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_LONGEST_MESSAGE = 1024  # `grpc_status_util.cc`
_THREADS = 16
_GRACE = 10.0  # seconds for answers that are being made when the server ends

_OPTIONS = (
    ("grpc.max_receive_message_length", 2**31 - 1),  # as the real server; the clients' own limit stays 4 MB
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # else two processes share a port, and each gets some of the requests
)

Request, Response = TypeVar("Request"), TypeVar("Response")


def _answer(call: Callable[[Request], Response], request: Request, context: grpc.ServicerContext) -> Response:
    try:
        return call(request)
    except tf.errors.OpError as error:
        message = error.message
        if len(message) > _LONGEST_MESSAGE:
            message = f"{message[:_LONGEST_MESSAGE]}...TRUNCATED"
        context.abort(_CODES[error.error_code], message)


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, service: Service) -> None:
        self._service = service

    def Predict(self, request, context):  # noqa: N802  the names are those of the .proto
        return _answer(self._service.predict, request, context)

    def GetModelMetadata(self, request, context):  # noqa: N802
        return _answer(self._service.metadata, request, context)

    def _refuse(self, request: Any, context: grpc.ServicerContext) -> NoReturn:  # noqa: ARG002
        message = "this is a double of TensorFlow Serving, which has Predict and GetModelMetadata only"
        context.abort(grpc.StatusCode.UNIMPLEMENTED, message)

    Classify = Regress = MultiInference = _refuse


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, service: Service) -> None:
        self._service = service

    def GetModelStatus(self, request, context):  # noqa: N802
        return _answer(self._service.status, request, context)

    def HandleReloadConfigRequest(self, request, context):  # noqa: N802
        return _answer(self._service.reload, request, context)


class GrpcServer:
    """The gRPC server; it answers as soon as it is made.

    Args:
        service: what answers.
        host: name or address to listen on.
        port: to listen on; 0 takes a free one.

    Attributes:
        port: that it listens on.

    Raises:
        OSError: if the port cannot be had.
    """

    def __init__(self, service: Service, host: str, port: int) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="double-grpc")
        self._server = grpc.server(self._threads, options=_OPTIONS)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _PredictionService(service), self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(_ModelService(service), self._server)
        try:
            self.port = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:
            raise OSError(f"port {port} of {host} cannot be listened on: {error}") from error
        self._server.start()

    def stop(self) -> None:
        """Ends: takes no call more, and lets those that came be answered."""
        self._server.stop(_GRACE).wait()
        self._threads.shutdown()
