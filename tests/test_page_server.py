"""The page behind its real server: what clients do to connections, and the command with its signals."""

import contextlib
import http.client
import io
import json
import logging
import re
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import tiny_tflite
import uvicorn
from absl import flags
from conftest import REPOSITORY
from PIL import Image
from serving_page import JSON, TOKEN, FakePredictor, png

from serving import webapp
from serving.page import gate
from serving.page.app import create_app
from serving.page.audit_log import AuditLogError
from serving.page.server import PageProtocol, config_of
from serving.page.settings import Settings

MEGABYTE = 2**20


class Live:
    """A page on a port of loopback."""

    def __init__(self, port, predictor):
        self.port, self.predictor = port, predictor

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def post(self, body, **headers):
        """POSTs a body to /diagnose; returns the response and its JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", "/diagnose", body, JSON | {"Content-Type": FORM} | headers)
            response = connection.getresponse()
            return response, json.loads(response.read())

    def is_alive(self):
        response, content = self.post(form(png()))
        return (response.status, content["results"][0]["state"]) == (200, "answered")


POST = b"POST /diagnose HTTP/1.1\r\nHost: localhost\r\n"
FORM = "multipart/form-data; boundary=cut"


def form(content: bytes) -> bytes:
    about = b'--cut\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    return about + content + b"\r\n--cut--\r\n"


@contextlib.contextmanager
def live_page(folder, *, send_buffer=0, **settings):
    predictor = FakePredictor()
    made = Settings(**{"rate_limit": 0, "audit_log": folder / "audit.jsonl", "stop_seconds": 5.0} | settings)
    server = uvicorn.Server(config_of(create_app(made, predictor, None), made))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        if send_buffer:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield Live(listening.getsockname()[1], predictor)
        finally:
            predictor.free.set()
            server.should_exit = True
            thread.join(60)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with live_page(tmp_path_factory.mktemp("page"), max_request_mb=2, max_image_mb=1) as made:
        yield made


def test_an_upload(page):
    response, content = page.post(form(png()))
    assert response.status == 200
    assert content["results"][0]["state"] == "answered"
    assert response.getheader("server") is None


@pytest.mark.parametrize("size", [2 * MEGABYTE, 3 * MEGABYTE, 5 * MEGABYTE])
def test_too_large_an_upload_is_refused_by_its_length_and_the_client_reads_it(page, size):
    response, content = page.post(form(b"x" * size))
    assert (response.status, content["error"]["code"]) == (413, "request_too_large")
    assert "2 MB" in content["error"]["message"]
    assert page.is_alive()


def test_too_large_an_upload_without_a_length(page):
    pieces = iter([form(b"x" * 3 * MEGABYTE)])
    response, content = page.post(pieces)  # http.client sends it in chunks
    assert (response.status, content["error"]["code"]) == (413, "request_too_large")
    assert page.is_alive()


def test_an_endless_upload_is_cut_off(page):
    with page.connect() as connection:
        connection.sendall(
            POST + b"Transfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary=cut\r\n\r\n"
        )
        chunk = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            connection.sendall(chunk * 1000)
    assert page.is_alive()


def test_a_client_that_asks_first_need_not_send(page):
    with page.connect() as connection:
        connection.sendall(POST + b"Content-Length: 99000000\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    assert page.is_alive()


@pytest.mark.parametrize("cut", [10, 100, -3])
def test_a_client_that_goes_away_while_it_sends(page, cut):
    body = form(png())
    with page.connect() as connection:
        head = f"POST /diagnose HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\nContent-Length: {len(body)}"
        connection.sendall(head.encode() + b"\r\n\r\n" + body[:cut])
    assert page.is_alive()


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n\0\1\2 nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000,
        POST + b"Content-Length: -5\r\n\r\n",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_broken_http(page, sent):
    with page.connect() as connection:
        connection.sendall(sent)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert page.is_alive()


def test_a_slow_upload_is_given_up(tmp_path):
    with live_page(tmp_path, upload_timeout=0.05) as page:
        with page.connect() as connection:
            connection.sendall(
                POST + b"Content-Length: 1000\r\nAccept: application/json\r\n"
                b"Content-Type: multipart/form-data; boundary=cut\r\n\r\n--cut\r\n"
            )
            answer = connection.makefile("rb").read()  # to the end: the connection is closed
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"too_slow"' in answer


def test_a_connection_that_says_nothing_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(PageProtocol, "header_seconds", 0.05)
    with live_page(tmp_path) as page:
        for beginning in (b"", b"GET / HTTP/1.1\r\nHost: loc"):
            with page.connect() as connection, contextlib.suppress(ConnectionResetError):
                connection.sendall(beginning)
                assert connection.recv(100) == b""
        assert page.is_alive()


def test_uploads_share_the_memory(tmp_path):
    """6 MB for all, 3 MB for a client: while one of its 2 MB is answered, there is no room for another one."""
    limits = {"max_request_mb": 2, "max_image_mb": 1, "max_unpacked_mb": 1, "upload_memory_mb": 6}
    with live_page(tmp_path, **limits) as page:
        page.predictor.free.clear()
        body = form(png()) + b" " * MEGABYTE  # what follows the end is no part of the form
        first = threading.Thread(target=page.post, args=(body + b" " * (MEGABYTE - 1000),))
        first.start()
        assert page.predictor.begun.wait(60)
        response, content = page.post(body + b" " * 1000)
        assert (response.status, content["error"]["code"]) == (503, "busy_client")
        assert response.getheader("retry-after") == "2"
        page.predictor.free.set()
        first.join(60)
        assert page.is_alive()


def test_silent_uploads_that_announce_much_take_nothing_from_others(tmp_path):
    """Eight announce 64 MiB each, all the memory there is, and send nothing."""
    with live_page(tmp_path) as page, contextlib.ExitStack() as silent:
        for _ in range(8):
            connection = silent.enter_context(page.connect())
            connection.sendall(POST + f"Content-Type: {FORM}\r\nContent-Length: {64 * MEGABYTE}\r\n\r\n".encode())
        assert page.is_alive()


def test_chunks_are_counted_as_they_come(tmp_path):
    """6 MB for all, 3 MB for a client: two uploads without a length, each of nearly 2 MB, are too much for it."""
    limits = {"max_request_mb": 2, "max_image_mb": 1, "max_unpacked_mb": 1, "upload_memory_mb": 6}
    with live_page(tmp_path, **limits) as page:
        page.predictor.free.clear()
        body = form(png()) + b" " * (2 * MEGABYTE - 2000)
        first = threading.Thread(target=page.post, args=(iter([body]),))
        first.start()
        assert page.predictor.begun.wait(60)
        response, content = page.post(iter([body]))
        assert (response.status, content["error"]["code"]) == (503, "busy_client")
        page.predictor.free.set()
        first.join(60)
        assert page.is_alive()


@pytest.mark.parametrize("path", [b"/diagnose", b"/login"])
def test_a_length_beside_chunks_is_refused(page, path):
    """The length would hide how much comes; and a proxy may believe it."""
    with page.connect() as connection:
        connection.sendall(
            b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nContent-Length: 6\r\n"
            b"Transfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary=cut\r\n\r\n"
            b"1\r\nx\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        answer = connection.makefile("rb").read()  # to the end: nothing else is answered on this connection
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"two_lengths"' in answer
    assert b"connection: close" in answer.lower()
    assert b"alive" not in answer
    assert page.is_alive()


@pytest.mark.parametrize("path", ["/", "/login", "/healthz", "/readyz"])
def test_head_is_get_without_the_body(page, path):
    answers = []
    for method in ("GET", "HEAD"):
        connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path)
            response = connection.getresponse()
            answers.append((response.status, response.getheader("content-length"), response.read()))
    assert answers[0][:2] == answers[1][:2]
    assert answers[1][2] == b""
    assert page.is_alive()


@pytest.mark.parametrize(
    ("headers", "status"),
    [(b"Host: localhost\r\n", b"401"), (b"Host: evil\r\n", b"400"), (b"Host: localhost\r\nA: b\r\n" * 2, b"400")],
)
def test_a_strangers_body_is_not_waited_for(tmp_path, monkeypatch, headers, status):
    """The 120 seconds for an upload are for those who may send one."""
    monkeypatch.setattr(gate, "_STRANGER_SECONDS", 0.05)
    with live_page(tmp_path, token=TOKEN) as page, page.connect() as connection:
        connection.settimeout(30)
        connection.sendall(b"POST /diagnose HTTP/1.1\r\n" + headers + b"Content-Length: 1000\r\n\r\n")
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 " + status)


def test_the_connection_of_a_client_that_takes_nothing_ends(tmp_path, monkeypatch):
    """Closed in the usual way, it would stay until the client has taken what was sent, which is never."""
    lost = threading.Event()
    connection_lost = PageProtocol.connection_lost
    monkeypatch.setattr(
        PageProtocol, "connection_lost", lambda self, error: connection_lost(self, error) or lost.set()
    )
    noise = np.random.default_rng(1).integers(0, 256, (512, 512), np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "PNG")
    body = form(content.getvalue())
    with live_page(tmp_path, upload_timeout=1.0, send_buffer=4096) as page, page.connect() as connection:
        connection.sendall(POST + f"Content-Type: {FORM}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        assert lost.wait(60)


def test_uploads_at_a_time_are_limited(tmp_path):
    with live_page(tmp_path, max_uploads=1) as page:
        page.predictor.free.clear()
        first = threading.Thread(target=page.post, args=(form(png()),))
        first.start()
        assert page.predictor.begun.wait(60)
        assert page.post(form(png()))[0].status == 503
        page.predictor.free.set()
        first.join(60)
        assert page.is_alive()


@contextlib.contextmanager
def command(*arguments):
    """The command in a process of its own; gives the process and its port. TensorFlow in it is status 99."""
    code = (
        "import sys; from serving import webapp; status = webapp.main(['webapp', *sys.argv[1:]]);"
        "sys.exit(99 if 'tensorflow' in sys.modules else status)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--port=0", *arguments],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
                yield process, int(found[1])
                break
        else:
            pytest.fail("".join(said))
    finally:
        process.kill()
        process.communicate()


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def test_the_command_lives_without_its_model_server_and_ends_by_sigterm(tmp_path):
    """And imports no TensorFlow, with a client of TensorFlow Serving and a data collection."""
    with socket.socket() as nobody:  # bound, and not listening
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        data = (f"--data={tmp_path / 'data'}", "--operator=Tests, tests@hospital.example")
        with command(f"--serving_url={url}", *data) as (process, port):
            assert get(port, "/healthz") == (200, b"alive\n")
            assert get(port, "/contribute")[0] == 200
            status, content = get(port, "/readyz")
            assert (status, json.loads(content)["reason"]) == (503, "the model server cannot be reached")
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


def test_the_command_answers_with_a_model_of_its_own(tmp_path):
    """A white picture has a COVID-19 probability of sigmoid(4 - 2) by this model; TensorFlow is not imported."""
    model = tiny_tflite.write_model(tmp_path / "float32.tflite")
    arguments = (f"--model={model}", "--nocheck", f"--audit_log={tmp_path / 'audit.jsonl'}")
    with command(*arguments) as (process, port):
        _, content = Live(port, None).post(form(png(255)))
        (result,) = content["results"]
        assert result["covid"] == pytest.approx(0.880797, abs=1e-6)
        assert result["model_version"].startswith("tiny-float32-")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["image", "request"]


def run(*arguments):
    return webapp.main(["webapp", *arguments])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give either --model"),
        (("--model=a.tflite", "--serving_url=http://b"), "give either --model"),
        (("--model=a.tflite", "--database=sqlite://"), "--database needs --data"),
        (("--model=a.tflite", "--tls_key=key.pem"), "go together"),
        (("--model=a.tflite", "--data=data"), "--data needs --operator='NAME, CONTACT'"),
        (("--model=a.tflite", "--data=data", "--operator= "), "--data needs --operator"),
        (("--model=a.tflite", "--port=http"), "--port"),
    ],
)
def test_wrong_flags(arguments, says, capsys):
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--host=0.0.0.0",), "--host=0.0.0.0 can be reached from other machines"),
        (("--workers=0",), "--workers should be"),
        (("--allowed_host=page.hospital",), "--allowed_host=page.hospital needs a login"),
        (("--trusted_proxy=10.0.0.1",), "--trusted_proxy needs a login"),
        (("--operator=one\ntwo",), "--operator should be one line"),
        (("--trusted_proxy=10.0.0.0/33",), "--trusted_proxy should be"),
        (("--token_file=none",), "--token_file=none cannot be read"),
        (("--audit_key_file=none",), "--audit_key_file=none cannot be read"),
        ((), "none.tflite"),
    ],
)
def test_wrong_values(arguments, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        run("--model=none.tflite", *arguments)


def test_an_audit_log_that_cannot_be_written_is_an_error_at_once(tmp_path):
    with pytest.raises(AuditLogError, match="cannot be written"):
        run("--serving_url=http://127.0.0.1:1", f"--audit_log={tmp_path / 'none' / 'audit.jsonl'}")


def test_flags_become_settings(tmp_path):
    token = tmp_path / "token"
    token.write_text(TOKEN)
    values = flags.FlagValues()
    webapp.define_flags(values)
    given = [f"--token_file={token}", "--host=0.0.0.0", "--trusted_proxy=10.0.0.1", "--trusted_proxy=10.1.0.0/16",
             "--allowed_host=page.hospital", "--queue=70", "--upload_timeout=5", "--operator=Who"]  # fmt: skip
    values(["webapp", *given])
    settings = webapp.settings_from(values)
    assert (settings.token, settings.host, settings.queue, settings.upload_timeout) == (TOKEN, "0.0.0.0", 70, 5.0)
    assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.1/32", "10.1.0.0/16"]
    assert settings.allowed_hosts == ("page.hospital",)
    assert settings.operator == "Who"
    defaults = flags.FlagValues()
    webapp.define_flags(defaults)
    defaults(["webapp"])
    assert webapp.settings_from(defaults) == Settings()


def test_the_http_client_logs_warnings_alone():
    """At INFO it logs each request to the model server."""
    webapp.set_up_logging()
    for name in ("httpx", "httpcore"):
        assert logging.getLogger(name).level == logging.WARNING


def test_help_names_every_setting(capsys):
    with pytest.raises(SystemExit), contextlib.redirect_stdout(io.StringIO()) as shown:
        run("--help")
    for name in ("--queue", "--max_pixels", "--trusted_proxy", "--audit_log", "--upload_memory_mb"):
        assert name in shown.getvalue()
