"""A contract double of TensorFlow Serving, not the server itself.

    python -m serving.double --model_base_path=models/ladnn

It answers the same gRPC calls and REST routes as `tensorflow_model_server`, over `tf.saved_model.load`, where
there is no Docker: for tests, and to try the clients and the page. What it must have in common with the real
server is in `tests/test_serving_contract.py`, which `scripts/check_real_serving.sh` runs against a real one. No
real one was at hand when this was written: the rules are those of its C++ sources.

It has: Predict, GetModelMetadata, GetModelStatus and HandleReloadConfigRequest over gRPC; `:predict`, status and
metadata over REST, with rows, columns and base64; versions, version policies and labels of a `models.config`; new
versions and a changed configuration while it runs; the codes, and what matters of the words, of the errors.

It does not imitate:

- batching, and so what it does to requests above max_batch_size, to requests that are filled up to an allowed
  size (the words about bad images then have another total), to images of several clients in one batch (they share
  one error), to outputs without a batch (they are refused), and to the empty batch (it may end the real server);
  nor UNAVAILABLE and RESOURCE_EXHAUSTED of a full queue;
- warm-up (the first request of each kind is slow), time-outs and limits of threads;
- TLS, gRPC over a Unix socket, compression and chunked requests of HTTP, CORS, Prometheus' metrics, request logs;
- Classify, Regress, MultiInference (they are UNIMPLEMENTED), `tf.Example`, TFLite models, other platforms,
  base paths in a cloud;
- loading again and again: where the real server tries a damaged version six times in five minutes, and waits
  without end for a base path or a first version, the double says so at once (at the start it then ends);
- speed and memory of the real server. What was measured with the double says nothing of those.

Its flags are the real server's, but it listens on loopback unless `--host` says otherwise, takes a relative
`--model_base_path`, calls the model `ladnn` unless told otherwise, and takes any free port for port 0.
"""

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf
from absl import flags, logging

from ladnn_tf import command
from ladnn_tf.edge_watch import StopSignal
from serving.double.config import ModelServerConfig, config_of, read_config
from serving.double.grpc_server import GrpcServer
from serving.double.model import Models
from serving.double.rest import RestServer
from serving.double.service import Service

USAGE = (
    "python -m serving.double --model_base_path=DIR|--model_config_file=FILE [--model_name=ladnn] "
    "[--rest_api_port=8501] [--port=8500] [--host=127.0.0.1]"
)

_TICK = 0.05  # seconds; the HTTP server looks as often whether it is to stop
_HOUR = 3600.0  # seconds between looks at nothing; a signal ends the sleep


class Double:
    """A double of TensorFlow Serving in this process; a context manager.

        with Double({"ladnn": Path("models/ladnn")}) as double:
            httpx.get(f"{double.rest_url}/v1/models/ladnn")

    Args:
        models: name -> base path, of which the highest version is served; or a `models.config`.
        rest_port: of REST; 0 takes a free one.
        grpc_port: of gRPC; 0 takes a free one.
        host: name or address to listen on.
        allow_version_labels_for_unavailable_models: as the real server's flag; a configuration with labels cannot
            be started without it.
        file_system_poll_wait_seconds: between looks into the base paths; 0 looks at the start alone.
        model_config_file_poll_wait_seconds: between looks at the `models.config`; 0 reads it at the start alone.

    Attributes:
        rest_url: `http://127.0.0.1:PORT`.
        grpc_address: `127.0.0.1:PORT`.
        models: what is loaded.

    Raises:
        ValueError: on entering, if the configuration is wrong or a model cannot be loaded.
        OSError: on entering, if a file cannot be read or a port cannot be had.
    """

    rest_url: str
    grpc_address: str

    def __init__(
        self,
        models: Mapping[str, Path] | Path,
        *,
        rest_port: int = 0,
        grpc_port: int = 0,
        host: str = "127.0.0.1",
        allow_version_labels_for_unavailable_models: bool = False,
        file_system_poll_wait_seconds: float = 1.0,
        model_config_file_poll_wait_seconds: float = 0.0,
    ) -> None:
        self.models = Models(allow_unavailable_labels=allow_version_labels_for_unavailable_models)
        self._source = models
        self._rest_port, self._grpc_port, self._host = rest_port, grpc_port, host
        self._poll_wait = file_system_poll_wait_seconds
        self._config_wait = model_config_file_poll_wait_seconds
        self._ended = threading.Event()
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> "Double":
        with contextlib.ExitStack() as cleanup:
            try:
                self.models.reload(self._config())
            except tf.errors.OpError as error:
                raise ValueError(f"the double cannot start: {error.message}") from error
            service = Service(self.models)
            shown = f"[{self._host}]" if ":" in self._host else self._host
            grpc_server = GrpcServer(service, self._host, self._grpc_port)
            cleanup.callback(grpc_server.stop)
            self.grpc_address = f"{shown}:{grpc_server.port}"
            rest_server = self._rest_server(service)
            self._run(cleanup, rest_server.serve_forever, _TICK)
            cleanup.callback(rest_server.stop)
            self.rest_url = f"http://{shown}:{rest_server.server_port}"
            if self._poll_wait > 0:
                self._run(cleanup, self._every, self._poll_wait, self.models.poll)
            if self._config_wait > 0 and not isinstance(self._source, Mapping):
                self._run(cleanup, self._every, self._config_wait, self.read_config_again)
            cleanup.callback(self._ended.set)
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._cleanup.close()

    def read_config_again(self) -> None:
        """Takes the `models.config` as it is now; an error is logged, and what was before stays."""
        try:
            self.models.reload(self._config())
        except (ValueError, OSError) as error:
            logging.error("the configuration cannot be read again: %s", error)
        except tf.errors.OpError as error:
            logging.error("the configuration is not taken: %s", error.message)

    def _config(self) -> ModelServerConfig:
        if isinstance(self._source, Mapping):
            return config_of(self._source)
        return read_config(Path(self._source))

    def _rest_server(self, service: Service) -> RestServer:
        try:
            return RestServer(service, self._host, self._rest_port)
        except OSError as error:
            raise OSError(f"port {self._rest_port} of {self._host} cannot be listened on: {error}") from error

    def _run(self, cleanup: contextlib.ExitStack, target, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name=f"double-{target.__name__}", daemon=True)
        thread.start()
        cleanup.callback(thread.join)

    def _every(self, seconds: float, look) -> None:
        while not self._ended.wait(seconds):
            look()


def main(argv: list[str]) -> int:
    """The command; it ends by SIGINT or SIGTERM."""
    values = flags.FlagValues()
    flags.DEFINE_string("model_base_path", None, "folder of a model's versions", flag_values=values)
    flags.DEFINE_string("model_name", "ladnn", "name of that model", flag_values=values)
    flags.DEFINE_string(
        "model_config_file", None, "models.config to serve, instead of the two flags above", flag_values=values
    )
    for name, default, what in (
        ("model_config_file_poll_wait_seconds", 0.0, "seconds between looks at --model_config_file; 0: none"),
        ("file_system_poll_wait_seconds", 1.0, "seconds between looks for new versions; 0: none"),
    ):
        flags.DEFINE_float(name, default, what, lower_bound=0.0, flag_values=values)
    flags.DEFINE_boolean(
        "allow_version_labels_for_unavailable_models",
        False,
        "let a new label name a version that is not loaded yet; labels need it at the start",
        flag_values=values,
    )
    for name, default, what in (("rest_api_port", 8501, "REST"), ("port", 8500, "gRPC")):
        help_text = f"port of {what}; 0: any that is free"
        flags.DEFINE_integer(name, default, help_text, lower_bound=0, upper_bound=65535, flag_values=values)
    flags.DEFINE_string("host", "127.0.0.1", "name or address to listen on", flag_values=values)
    command.parse(values, argv, USAGE)
    if not (values.model_base_path or values.model_config_file):
        command.usage_error("give --model_base_path=DIR or --model_config_file=FILE", USAGE)
    double = Double(
        Path(values.model_config_file or "")
        if values.model_config_file
        else {values.model_name: values.model_base_path},
        rest_port=values.rest_api_port,
        grpc_port=values.port,
        host=values.host,
        allow_version_labels_for_unavailable_models=values.allow_version_labels_for_unavailable_models,
        file_system_poll_wait_seconds=values.file_system_poll_wait_seconds,
        model_config_file_poll_wait_seconds=values.model_config_file_poll_wait_seconds,
    )
    with StopSignal() as stop, double:
        print(
            "a double of TensorFlow Serving, not the server itself, for tests and trials: "
            f"REST {double.rest_url}, gRPC {double.grpc_address}; end it by SIGINT or SIGTERM",
            flush=True,
        )
        while not stop.requested:
            stop.sleep(_HOUR)
    return 0
