"""TensorFlow Serving's gRPC interface. Its messages bring TensorFlow along.

What it needs: `pip install '.[grpc]'` in the root of the checkout.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from serving.clients.errors import InvalidRequest, NotFound, ServerFailed, ServingError, TimedOut, Unavailable
from serving.clients.transport import CONNECT_TIMEOUT, TIMEOUT, overloaded, quoted, resolving

try:
    import grpc
    from tensorflow import make_ndarray, make_tensor_proto
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )
except ImportError as error:
    raise ImportError(
        f"gRPC needs grpcio, tensorflow-serving-api and tensorflow ({error}): pip install '.[grpc]' in the root "
        "of the checkout; over REST (http://HOST:8501) none of them is needed"
    ) from error

_Code = grpc.StatusCode
_ERRORS = {
    _Code.INVALID_ARGUMENT: InvalidRequest,
    _Code.FAILED_PRECONDITION: InvalidRequest,  # these two are 400 over REST, too
    _Code.OUT_OF_RANGE: InvalidRequest,
    _Code.NOT_FOUND: NotFound,
    _Code.DEADLINE_EXCEEDED: TimedOut,
    _Code.UNAVAILABLE: Unavailable,
}

_MESSAGE_BYTES = 2**31 - 1  # what tensorflow_model_server takes; gRPC's default for answers is 4 MiB
_METADATA = "signature_def"  # the only field that the server has; a request must name one


class GrpcTransport:
    """A model behind gRPC; see `transport.Transport`.

    Args:
        address: `HOST:PORT` of the server, or any other target of gRPC. All addresses that the name has are asked
            in turn, so that a name of several servers (a headless service of Kubernetes) spreads the requests.
        model: its name there.
        timeout: seconds for a request.
        connect_timeout: seconds for the connection; gRPC calls its end UNAVAILABLE.
        channel: to send through, in place of an own one; it stays open.
        secure: whether to use TLS.
        ca_file: certificates (PEM) to trust in place of the system's; it implies `secure`.

    Raises:
        ValueError: if `ca_file` cannot be read.
    """

    def __init__(
        self,
        address: str,
        model: str = "ladnn",
        *,
        timeout: float = TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        channel: grpc.Channel | None = None,
        secure: bool = False,
        ca_file: str | Path | None = None,
    ) -> None:
        self._address = address
        self._model = model
        self._timeout = timeout
        self._own = channel is None
        self._channel = channel or _channel(address, connect_timeout, secure or ca_file is not None, ca_file)
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def predict(
        self, signature: str, inputs: dict[str, list[bytes]], version: int | None, label: str
    ) -> dict[str, np.ndarray]:
        """As `Transport.predict`."""
        request = predict_pb2.PredictRequest(model_spec=self._spec(version, label, signature))
        for name, values in inputs.items():
            request.inputs[name].CopyFrom(make_tensor_proto(values, shape=[len(values)]))
        response = self._call(self._predictions.Predict, request)
        try:
            return {name: _array(tensor) for name, tensor in response.outputs.items()}
        except (TypeError, ValueError) as error:
            raise ServerFailed(f"{self._address} answers with a tensor that cannot be read ({error})") from error

    def served_version(self, label: str) -> int:
        """As `Transport.served_version`, from the model's metadata, for which the server resolves labels."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec(None, label), metadata_field=[_METADATA]
        )
        with resolving(self._address, self._model, label):
            response = self._call(self._predictions.GetModelMetadata, request)
        if not response.model_spec.HasField("version"):
            raise ServerFailed(f"{self._address} does not tell which version of {self._model} it serves")
        return response.model_spec.version.value

    def states(self) -> dict[int, str]:
        """As `Transport.states`."""
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=self._spec(None, ""))
        with resolving(self._address, self._model, ""):
            response = self._call(self._models.GetModelStatus, request)
        names = get_model_status_pb2.ModelVersionStatus.State
        return {status.version: names.Name(status.state) for status in response.model_version_status}

    def close(self) -> None:
        """As `Transport.close`; a channel that was given stays open."""
        if self._own:
            self._channel.close()

    def _spec(self, version: int | None, label: str, signature: str = "") -> model_pb2.ModelSpec:
        spec = model_pb2.ModelSpec(name=self._model, signature_name=signature)
        if version is not None:
            spec.version.value = version
        elif label:
            spec.version_label = label
        return spec

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise self._error(error) from error

    def _error(self, error: grpc.RpcError) -> ServingError:
        code, words = error.code(), error.details() or ""
        if code is _Code.UNAVAILABLE:
            return Unavailable(
                f"{self._address} cannot be reached or is busy{quoted(words)}; does TensorFlow Serving run there, "
                "and is this its gRPC port?",
                words,
            )
        if code is _Code.DEADLINE_EXCEEDED:
            return TimedOut(f"{self._address}: no whole answer within {self._timeout:g} s{quoted(words)}", words)
        if code is _Code.RESOURCE_EXHAUSTED:
            return overloaded(self._address, words)
        return _ERRORS.get(code, ServerFailed)(f"{self._address} answers {code.name}{quoted(words)}", words)


def _channel(address: str, connect_timeout: float, secure: bool, ca_file: str | Path | None) -> grpc.Channel:
    options = [
        ("grpc.max_send_message_length", _MESSAGE_BYTES),
        ("grpc.max_receive_message_length", _MESSAGE_BYTES),
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.enable_http_proxy", 0),  # http_proxy is for the web: patients' images go to the server itself
        # gRPC's name for the time that it gives an attempt to connect; its default is 20 seconds.
        ("grpc.min_reconnect_backoff_ms", round(1000 * connect_timeout)),
        # Between two attempts gRPC answers UNAVAILABLE without looking: by default from 1 second to 2 minutes,
        # which would outlast the client's own attempts (`Retry`), of which it must fall between two.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 250),
    ]
    if not secure:
        return grpc.insecure_channel(address, options)
    try:
        certificates = Path(ca_file).read_bytes() if ca_file else None
    except OSError as error:
        raise ValueError(f"{ca_file} cannot be read ({error.strerror})") from error
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(certificates), options)


def _array(tensor: Any) -> np.ndarray:
    array = make_ndarray(tensor)
    return array if array.dtype == object else array.astype(np.float32, copy=False)
