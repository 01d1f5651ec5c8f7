"""REST and gRPC, each against answers that are written out by hand: what goes over the wire, what comes of it."""

import base64
import contextlib
import datetime
import email.utils
import gzip
import json
import shutil
import socket
import ssl
import subprocess
import threading
import types

import numpy as np
import pytest

pytest.importorskip("httpx")
pytest.importorskip("tensorflow_serving.apis")

import grpc
import httpx
from tensorflow import make_tensor_proto
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from serving import client as command
from serving.clients.errors import (
    InvalidRequest,
    NotFound,
    Overloaded,
    ServerFailed,
    ServingError,
    TimedOut,
    Unavailable,
)
from serving.clients.grpc_transport import GrpcTransport
from serving.clients.rest import ANSWER_BYTES, RestTransport
from serving.clients.retry import Retry

URL = "http://user:secret@serving.local:8501/prefix/"
ADDRESS = "http://serving.local:8501/prefix"


def rest(handler, **options):
    return RestTransport(URL, client=httpx.Client(transport=httpx.MockTransport(handler)), **options)


def answering(status=200, document=None, text=None, headers=None):
    content = json.dumps(document) if text is None else text
    return lambda request: httpx.Response(status, content=content, headers=headers)


def test_rest_sends_encoded_bytes_in_columns_to_the_pinned_version():
    sent = []

    def handler(request):
        sent.append(request)
        return httpx.Response(200, json={"outputs": {"covid": [0.25, 0.1], "lesions": [[0.0] * 5] * 2}})

    outputs = rest(handler).predict("serving_default", {"image_bytes": [b"\x89PNG", b""]}, 3, "stable")
    assert outputs["covid"].tolist() == np.array([0.25, 0.1], np.float32).tolist()
    assert (outputs["covid"].dtype, outputs["lesions"].shape) == (np.float32, (2, 5))
    assert (sent[0].method, sent[0].url.path) == ("POST", "/prefix/v1/models/ladnn/versions/3:predict")
    assert json.loads(sent[0].content) == {
        "signature_name": "serving_default",
        "inputs": {"image_bytes": [{"b64": base64.b64encode(b"\x89PNG").decode()}, {"b64": ""}]},
    }
    assert sent[0].headers["Authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("version", "label", "path"),
    [(2, "", "/versions/2"), (None, "stable", "/labels/stable"), (None, "a/b", "/labels/a%2Fb"), (None, "", "")],
)
def test_rest_asks_by_version_or_label_or_for_the_newest(version, label, path):
    paths = []

    def handler(request):
        paths.append(request.url.raw_path.decode())
        return httpx.Response(200, json={"outputs": [0.5]})

    rest(handler, model="a:b").predict("serving_default", {"image_bytes": [b"x"]}, version, label)
    assert paths == [f"/prefix/v1/models/a%3Ab{path}:predict"]


@pytest.mark.parametrize(
    ("signature", "outputs", "name", "expected"),
    [
        ("card", ['{"a": 1}'], "card", [b'{"a": 1}']),
        ("card", [{"b64": "eyJhIjogMX0="}], "card", [b'{"a": 1}']),
        ("serving_default", [0.25, 0.5], "covid", [0.25, 0.5]),
    ],
)
def test_rest_gives_an_only_output_its_name_back(signature, outputs, name, expected):
    found = rest(answering(document={"outputs": outputs})).predict(signature, {"query": [b""]}, 1, "")
    assert {key: values.tolist() for key, values in found.items()} == {name: expected}


def test_rest_reads_numbers_that_are_not_finite():
    found = rest(answering(text='{"outputs": [NaN, -Infinity, 1]}')).predict("serving_default", {}, 1, "")
    np.testing.assert_array_equal(found["covid"], [np.nan, -np.inf, 1.0])


def test_rest_finds_versions_and_states():
    documents = {
        "/prefix/v1/models/ladnn/metadata": {"model_spec": {"name": "ladnn", "version": "12"}, "metadata": {}},
        "/prefix/v1/models/ladnn/labels/stable/metadata": {"model_spec": {"version": "7"}},
        "/prefix/v1/models/ladnn": {
            "model_version_status": [
                {"version": "7", "state": "AVAILABLE", "status": {"error_code": "OK"}},
                {"version": "12", "state": "LOADING"},
            ]
        },
    }
    transport = rest(lambda request: httpx.Response(200, json=documents[request.url.path]))
    assert (transport.served_version(""), transport.served_version("stable")) == (12, 7)
    assert transport.states() == {7: "AVAILABLE", 12: "LOADING"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, ServerFailed),
        (404, NotFound),
        (408, TimedOut),
        (413, ServerFailed),
        (429, Overloaded),
        (500, ServerFailed),
        (502, ServerFailed),
        (503, Unavailable),
        (504, TimedOut),
        (301, ServerFailed),
        (204, ServerFailed),
    ],
)
def test_rest_errors_have_their_kind_and_the_server_s_words(status, kind):
    with pytest.raises(ServingError) as caught:
        rest(answering(status, {"error": "a [b]\n\tc"})).predict("card", {"query": [b""]}, 1, "")
    assert type(caught.value) is kind
    assert caught.value.words == "a [b]\n\tc"
    said = f"{ADDRESS} answers {status} {httpx.codes.get_reason_phrase(status)} (a [b] c)"
    if kind is Overloaded:
        said = f"{ADDRESS} is overloaded (a [b] c); ask it again later, and with fewer requests at a time"
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("body", "words"),
    [("<html>nginx</html>", ""), ("busy\n", " (busy)"), ("x" * 700, f" ({'x' * 600}...)"), ("", "")],
)
def test_rest_errors_of_other_servers_are_shown_as_far_as_they_are_words(body, words):
    with pytest.raises(ServerFailed) as caught:
        rest(answering(502, text=body)).states()
    assert str(caught.value) == f"{ADDRESS} answers 502 Bad Gateway{words}"


def in_a_minute():
    return email.utils.format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60))


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7.0, 7.0),
        pytest.param(in_a_minute(), 0.0, 60.0, id="a minute from now"),  # else each process has another name
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0, 0.0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0.0, 0.0),
        ("soon", None, None),
        ("-1", None, None),
        (None, None, None),
    ],
)
def test_rest_reads_when_a_busy_server_wants_to_be_asked_again(header, low, high):
    headers = {"Retry-After": header} if header else {}
    with pytest.raises(Unavailable) as caught:
        rest(answering(503, {"error": "full"}, headers=headers)).states()
    found = caught.value.retry_after
    assert found is None if low is None else low <= found <= high


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (httpx.ConnectTimeout("x"), TimedOut, "no connection within 2 s"),
        (httpx.ReadTimeout("x"), TimedOut, "no whole answer within 9 s"),
        (httpx.WriteTimeout("x"), TimedOut, "no whole answer within 9 s"),
        (httpx.PoolTimeout("x"), TimedOut, "no whole answer within 9 s"),
        (
            httpx.ConnectError("[Errno 111] Connection refused"),
            Unavailable,
            "reached ([Errno 111] Connection refused)",
        ),
        (httpx.ReadError(""), Unavailable, "cannot be reached (ReadError)"),
        (
            httpx.RemoteProtocolError("illegal status line"),
            ServerFailed,
            "is this its REST port, and does it want",
        ),
        (httpx.UnsupportedProtocol("x"), ServerFailed, "does not speak HTTP as expected (x)"),
        (httpx.DecodingError("no gzip"), ServerFailed, "does not answer as TensorFlow Serving does (no gzip)"),
    ],
)
def test_rest_tells_what_is_worth_trying_again(failure, kind, words):
    asked = []

    def handler(request):
        asked.append(request.extensions["timeout"])
        raise failure

    with pytest.raises(kind) as caught:
        rest(handler, timeout=9.0, connect_timeout=2.0).states()
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)
    assert str(caught.value).startswith(ADDRESS)
    assert asked == [{"connect": 2.0, "read": 9.0, "write": 9.0, "pool": 9.0}]


def test_rest_ends_an_answer_that_comes_too_slowly():
    now = [0.0]

    class Drops(httpx.SyncByteStream):
        def __iter__(self):
            for _ in range(10):
                now[0] += 1.0
                yield b" "

    transport = rest(lambda request: httpx.Response(200, stream=Drops()), timeout=5.0, clock=lambda: now[0])
    with pytest.raises(TimedOut, match="no whole answer within 5 s"):
        transport.states()
    assert now == [6.0]


@pytest.fixture
def listener():
    """A server that sends `said` to whoever sends something, through TLS if it has a `context`, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with contextlib.suppress(OSError):  # at the end the socket is closed
                while True:
                    connection, _ = server.accept()
                    with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
                        opened.enter_context(connection)
                        if listener.context:
                            connection = listener.context.wrap_socket(connection, server_side=True)
                            opened.enter_context(connection)
                        connection.recv(65536)
                        connection.sendall(listener.said)
                        connection.shutdown(socket.SHUT_RDWR)

        listener = types.SimpleNamespace(said=b"", context=None, port=server.getsockname()[1])
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    ("scheme", "said", "kind", "words"),
    [
        (
            "https",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            ServerFailed,
            "is this a port of http:// instead of https://?",
        ),
        ("http", b"\x15\x03\x03\x00\x02\x02\x32", ServerFailed, "does it want https:// instead of http://?"),
        ("http", b"", Unavailable, "cannot be reached (Server disconnected"),
        ("http", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", Unavailable, "cannot be reached (peer closed"),
        ("https", b"", Unavailable, "cannot be reached ("),
    ],
)
def test_rest_tells_a_wrong_protocol_from_a_connection_that_broke(listener, scheme, said, kind, words):
    listener.said = said
    transport = RestTransport(f"{scheme}://127.0.0.1:{listener.port}")
    with contextlib.closing(transport), pytest.raises(ServingError) as caught:
        transport.states()
    assert type(caught.value) is kind
    assert words in str(caught.value)


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.1 that nobody else signed, and its key, in one file."""
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("the program openssl, which makes a certificate, is not on this machine")
    file = tmp_path / "server.pem"
    command_line = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test"
    outputs = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", file, "-out", tmp_path / "certificate.pem"]
    subprocess.run([*command_line.split(), *outputs], check=True, capture_output=True)
    file.write_text(file.read_text() + (tmp_path / "certificate.pem").read_text())
    return file


def test_rest_refuses_a_certificate_that_it_does_not_know_and_takes_it_when_it_is_given(listener, certificate):
    listener.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listener.context.load_cert_chain(certificate)
    document = b'{"model_version_status": []}'
    listener.said = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(document), document)
    url = f"https://127.0.0.1:{listener.port}"
    with contextlib.closing(RestTransport(url)) as transport, pytest.raises(ServingError) as caught:
        transport.states()
    assert type(caught.value) is ServerFailed
    assert f"{url}: the server's certificate is not accepted (" in str(caught.value)
    assert "--ca_file" in str(caught.value)
    with contextlib.closing(RestTransport(url, ca_file=certificate)) as transport:
        assert transport.states() == {}


def test_rest_tells_a_name_that_nobody_has_and_a_port_where_nobody_listens():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        for address in (f"127.0.0.1:{bound.getsockname()[1]}", "serving.invalid:8501"):
            transport = RestTransport(f"http://{address}")
            with contextlib.closing(transport), pytest.raises(Unavailable, match=f"{address} cannot be reached"):
                transport.states()


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_no_proxy_of_the_environment_gets_the_images(scheme, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as proxy, socket.create_server(("127.0.0.1", 0)) as server:
        proxy.setblocking(False)
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
            for variable in (name, name.upper()):
                monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for variable in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
            monkeypatch.delenv(variable, raising=False)
        with (
            command.connect(f"{scheme}://127.0.0.1:{server.getsockname()[1]}", timeout=0.2) as client,
            pytest.raises(TimedOut),
        ):
            client.card()
        with pytest.raises(BlockingIOError):
            proxy.accept()
        server.settimeout(10.0)
        server.accept()[0].close()


@pytest.mark.parametrize("compressed", [False, True])
def test_rest_bounds_an_answer_also_when_it_is_decompressed(compressed):
    whole = bytes(ANSWER_BYTES + 1)
    content, headers = (gzip.compress(whole, 1), {"Content-Encoding": "gzip"}) if compressed else (whole, {})

    class Parts(httpx.SyncByteStream):
        sent = 0

        def __iter__(self):
            for start in range(0, len(content), 16384):
                Parts.sent += 1
                yield content[start : start + 16384]
            yield from [b"more"] * 100

    transport = rest(lambda request: httpx.Response(200, stream=Parts(), headers=headers))
    with pytest.raises(ServerFailed, match=r"does not answer as .* \(more than 67,108,864 bytes\)"):
        transport.states()
    assert Parts.sent <= len(content) // 16384 + 1


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("no JSON", "Expecting value"),
        ("[]", "no 'model_spec' in its answer"),
        ('{"model_spec": {}}', "no 'version' in its answer"),
        ('{"model_spec": {"version": null}}', "int()"),
    ],
)
def test_rest_recognises_what_is_no_tensorflow_serving(document, words):
    with pytest.raises(ServerFailed) as caught:
        rest(answering(text=document)).served_version("")
    assert f"{ADDRESS} does not answer as TensorFlow Serving does (" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("outputs", [[[0.1], [0.2, 0.3]], {"covid": "x"}, [{"b64": "?"}], [{"a": 1}]])
def test_rest_recognises_tensors_that_are_none(outputs):
    transport = rest(answering(document={"outputs": outputs}))
    with pytest.raises(ServerFailed, match="does not answer as TensorFlow Serving does"):
        transport.predict("serving_default", {}, 1, "")


@pytest.mark.parametrize("url", ["serving.local:8501", "ftp://serving.local", "http://h:port", "http://"])
def test_rest_takes_urls_of_http_alone(url):
    with pytest.raises(ValueError, match="URL"):
        RestTransport(url)


@pytest.mark.parametrize(
    "url", ["http://h:8501?a=b", "http://h:8501/#a", "http://user:secret@h:8501/?", "https://h#"]
)
def test_rest_takes_urls_without_query_and_fragment_alone(url):
    with pytest.raises(ValueError, match=r"should have no query \(\?\) and no fragment \(#\)") as caught:
        RestTransport(url)
    assert "secret" not in str(caught.value)


def test_a_transport_closes_what_it_made_and_nothing_else():
    given = httpx.Client(transport=httpx.MockTransport(answering(document={})))
    RestTransport(URL, client=given).close()
    assert not given.is_closed
    given.close()
    channel = Channel()
    GrpcTransport("serving.local:8500", channel=channel).close()
    assert not channel.closed
    for url in ("http://serving.local:8501", "grpc://serving.local:8500", "grpc://[::1]:8500"):
        command.connect(url).close()


class RpcError(grpc.RpcError):
    def __init__(self, code, details):
        self._code, self._details = code, details

    def code(self):
        return self._code

    def details(self):
        return self._details


class Channel(grpc.Channel):
    """Answers each method with a message, or raises an error, and keeps what it was asked."""

    def __init__(self, **answers):
        self.answers = answers
        self.asked = []
        self.closed = False

    def unary_unary(self, method, request_serializer=None, response_deserializer=None, **_):
        name = method.rpartition("/")[2]

        def call(request, timeout):
            # Through the wire's own form, as a server would read it.
            self.asked.append((method, type(request).FromString(request_serializer(request)), timeout))
            if isinstance(self.answers[name], Exception):
                raise self.answers[name]
            return response_deserializer(self.answers[name].SerializeToString())

        return call

    def close(self):
        self.closed = True

    def unary_stream(self, *_, **__):
        raise NotImplementedError

    stream_unary = stream_stream = subscribe = unsubscribe = unary_stream


def test_grpc_sends_encoded_bytes_to_the_pinned_version():
    answer = predict_pb2.PredictResponse()
    answer.outputs["covid"].CopyFrom(make_tensor_proto(np.array([0.25, 0.1], np.float32)))
    answer.outputs["card"].CopyFrom(make_tensor_proto([b"{}"]))
    answer.outputs["maps"].CopyFrom(make_tensor_proto(np.zeros((2, 1, 1, 6))))
    channel = Channel(Predict=answer)
    transport = GrpcTransport("serving.local:8500", timeout=9.0, channel=channel)
    outputs = transport.predict("explain", {"image_bytes": [b"\x89PNG", b"\xff\x00"]}, 3, "stable")
    assert outputs["covid"].tolist() == np.array([0.25, 0.1], np.float32).tolist()
    assert outputs["card"].tolist() == [b"{}"]
    assert (outputs["maps"].shape, outputs["maps"].dtype) == ((2, 1, 1, 6), np.float32)
    method, request, timeout = channel.asked[0]
    assert (method, timeout) == ("/tensorflow.serving.PredictionService/Predict", 9.0)
    spec = request.model_spec
    assert (spec.name, spec.signature_name, spec.version.value, spec.version_label) == ("ladnn", "explain", 3, "")
    assert list(request.inputs["image_bytes"].string_val) == [b"\x89PNG", b"\xff\x00"]
    assert [side.size for side in request.inputs["image_bytes"].tensor_shape.dim] == [2]


def test_grpc_tries_to_connect_again_before_the_client_s_own_attempts_end(monkeypatch):
    """Between its attempts gRPC answers UNAVAILABLE without looking whether the server is back."""
    given = {}
    monkeypatch.setattr(grpc, "insecure_channel", lambda _, options: given.update(options) or Channel())
    GrpcTransport("serving.local:8500").close()
    retry = Retry(draw=lambda: 0.0)  # the shortest pauses
    milliseconds = 1000.0 * sum(retry.pause(failures) for failures in range(1, retry.attempts))
    jitter = 1.2  # gRPC's, of its own pauses
    assert 2 * jitter * given["grpc.max_reconnect_backoff_ms"] < milliseconds
    assert given["grpc.initial_reconnect_backoff_ms"] <= given["grpc.max_reconnect_backoff_ms"]


def test_grpc_finds_versions_and_states():
    metadata = get_model_metadata_pb2.GetModelMetadataResponse()
    metadata.model_spec.version.value = 7
    status = get_model_status_pb2.GetModelStatusResponse()
    status.model_version_status.add(version=7, state=30)
    status.model_version_status.add(version=8, state=20)
    channel = Channel(GetModelMetadata=metadata, GetModelStatus=status)
    transport = GrpcTransport("serving.local:8500", "other", channel=channel)
    assert (transport.served_version("stable"), transport.states()) == (7, {7: "AVAILABLE", 8: "LOADING"})
    (_, asked, _), (method, status_asked, _) = channel.asked
    assert (asked.model_spec.name, asked.model_spec.version_label) == ("other", "stable")
    assert list(asked.metadata_field) == ["signature_def"]
    assert method == "/tensorflow.serving.ModelService/GetModelStatus"
    assert status_asked.model_spec.name == "other"
    metadata.ClearField("model_spec")
    with pytest.raises(ServerFailed, match="does not tell which version of other it serves"):
        transport.served_version("")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", InvalidRequest),
        ("FAILED_PRECONDITION", InvalidRequest),
        ("OUT_OF_RANGE", InvalidRequest),
        ("NOT_FOUND", NotFound),
        ("DEADLINE_EXCEEDED", TimedOut),
        ("UNAVAILABLE", Unavailable),
        ("RESOURCE_EXHAUSTED", Overloaded),
        ("INTERNAL", ServerFailed),
        ("UNKNOWN", ServerFailed),
        ("CANCELLED", ServerFailed),
        ("UNAUTHENTICATED", ServerFailed),
    ],
)
def test_grpc_errors_have_their_kind_and_the_server_s_words(code, kind):
    channel = Channel(Predict=RpcError(grpc.StatusCode[code], "a [b]\n\tc"))
    with pytest.raises(ServingError) as caught:
        GrpcTransport("serving.local:8500", channel=channel).predict("card", {"query": [b""]}, 1, "")
    assert type(caught.value) is kind
    assert caught.value.words == "a [b]\n\tc"
    assert str(caught.value).startswith("serving.local:8500")
    assert "(a [b] c)" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ("is overloaded" in str(caught.value)) == (kind is Overloaded)


def test_grpc_recognises_a_tensor_that_is_none():
    answer = predict_pb2.PredictResponse()
    answer.outputs["covid"].dtype = 1
    answer.outputs["covid"].tensor_shape.dim.add(size=3)
    answer.outputs["covid"].tensor_content = b"x"
    with pytest.raises(ServerFailed, match="answers with a tensor that cannot be read"):
        GrpcTransport("serving.local:8500", channel=Channel(Predict=answer)).predict("card", {}, 1, "")


def not_found(words):
    return [
        rest(answering(404, {"error": words})),
        GrpcTransport(ADDRESS, channel=Channel(GetModelMetadata=RpcError(grpc.StatusCode.NOT_FOUND, words))),
    ]


def test_what_is_not_there_is_said_in_plain_words_over_both():
    words = "Servable not found for request: Latest(ladnn)"
    for transport in not_found(words):
        with pytest.raises(NotFound) as caught:
            transport.served_version("")
        assert str(caught.value).startswith(
            f"{ADDRESS} serves no model 'ladnn' ({words}); it may still be loading"
        )
    unknown = "Unrecognized servable version label: none"
    status = grpc.StatusCode.INVALID_ARGUMENT
    for transport in (
        rest(answering(400, {"error": unknown})),
        GrpcTransport(ADDRESS, channel=Channel(GetModelMetadata=RpcError(status, unknown))),
    ):
        with pytest.raises(NotFound, match=rf"^{ADDRESS} has no label 'none' for the model 'ladnn' \({unknown}\)"):
            transport.served_version("none")
        with pytest.raises(InvalidRequest):
            transport.served_version("")


def test_grpc_certificates_must_be_readable(tmp_path):
    with pytest.raises(ValueError, match=r"none.pem cannot be read \(No such file or directory\)"):
        command.connect("grpcs://serving.local:8500", ca_file=tmp_path / "none.pem")
