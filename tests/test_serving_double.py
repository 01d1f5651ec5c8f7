"""What is the double's own: how versions come and go, the configuration, the command, its end; and the script."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest
import tensorflow as tf

pytest.importorskip("tensorflow_serving.apis")

from conftest import REPOSITORY
from deployment import CONFIG, SERVER, flags_of
from serving_contract import Rest, served, spec_of
from serving_models import add_version, odd_folder, slice_png, version_folders, write_config
from tensorflow_serving.apis import classification_pb2, model_management_pb2, prediction_service_pb2_grpc

from serving.double import model as double_model
from serving.double.config import config_of, read_config
from serving.double.model import Models, State
from serving.double.server import USAGE, Double, main
from serving.double.service import Service

SCRIPT = REPOSITORY / "scripts" / "check_real_serving.sh"
SECONDS = 60.0  # to wait for what must come


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return odd_folder(tmp_path_factory.mktemp("odd") / "odd")


@pytest.fixture
def base(odd, tmp_path):
    """A base path of its own, with the versions 1 and 2, all of the model of odd signatures."""
    folder = tmp_path / "odd"
    for version in (1, 2):
        put(odd, folder, version)
    return folder


def put(odd, base, version):
    shutil.copytree(odd / "7", base / str(version))


def models_of(base, policy="all {}", **labels):
    """The text of a configuration with one model, called ladnn so that it may have labels."""
    return read_config(
        write_config(base.with_name("models.config"), {"ladnn": base}, policy=policy, labels=labels)
    )


def states(models, name="ladnn"):
    return [(number, State.Name(state.state)) for number, state in models.states(name).items()]


def found(models, version=None, label=""):
    return models.find(spec_of("ladnn", "", version, label)).number


@pytest.mark.parametrize(
    ("policy", "served_versions"),
    [
        ("", [10]),
        ("latest {}", [10]),
        ("latest { num_versions: 2 }", [10, 2]),
        ("specific { versions: 1 versions: 2 versions: 4 }", [2, 1]),
        ("all {}", [10, 2, 1]),
    ],
)
def test_a_policy_chooses_versions_by_their_numbers(base, odd, policy, served_versions):
    put(odd, base, 10)
    for name in (".11", "x12", "13.old", "parity_14"):
        (base / name).mkdir()
    models = Models()
    models.reload(models_of(base, policy))
    assert states(models) == [(version, "AVAILABLE") for version in served_versions]
    assert found(models) == served_versions[0]


def test_a_new_version_takes_over_when_it_is_loaded_and_the_old_one_takes_back(base, odd, monkeypatch):
    models = Models()
    models.reload(models_of(base, ""))
    seen = []

    def load(*arguments):
        seen.append((found(models), states(models)))
        return real(*arguments)

    real = double_model.load_version
    monkeypatch.setattr(double_model, "load_version", load)
    put(odd, base, 3)
    models.poll()
    assert seen == [(2, [(3, "LOADING"), (2, "AVAILABLE")])]
    assert states(models) == [(3, "AVAILABLE"), (2, "END")]
    assert found(models) == 3
    with pytest.raises(tf.errors.NotFoundError, match=r"Specific\(ladnn, 2\)"):
        found(models, 2)
    shutil.rmtree(base / "3")
    models.poll()
    assert states(models) == [(3, "END"), (2, "AVAILABLE")]
    assert found(models) == 2
    models.poll()
    assert len(seen) == 2


def test_versions_that_wait_are_at_the_start(base, odd, monkeypatch):
    models, seen = Models(), []

    def load(*arguments):
        seen.append(states(models))
        return real(*arguments)

    real = double_model.load_version
    monkeypatch.setattr(double_model, "load_version", load)
    models.reload(models_of(base))
    assert seen == [[(2, "LOADING"), (1, "START")], [(2, "AVAILABLE"), (1, "LOADING")]]


def test_a_damaged_version_leaves_the_old_one_and_is_tried_again_when_it_has_been_away(base, odd):
    models = Models()
    models.reload(models_of(base, ""))
    put(odd, base, 3)
    (base / "3" / "saved_model.pb").write_bytes(b"\xff" * 100)
    models.poll()
    assert states(models) == [(3, "END"), (2, "AVAILABLE")]
    state = models.states("ladnn")[3]
    assert state.code == tf.errors.UNKNOWN
    assert "DecodeError" in state.message or "parsing" in state.message
    shutil.copy(odd / "7" / "saved_model.pb", base / "3")  # mended in its place, which nothing shows
    models.poll()
    assert states(models) == [(3, "END"), (2, "AVAILABLE")]
    shutil.rmtree(base / "3")
    models.poll()
    put(odd, base, 3)
    models.poll()
    assert states(models) == [(3, "AVAILABLE"), (2, "END")]


def test_without_its_base_path_a_model_stays_and_without_versions_it_goes(base):
    models = Models()
    models.reload(models_of(base))
    base.rename(base.with_name("away"))
    models.poll()
    assert states(models) == [(2, "AVAILABLE"), (1, "AVAILABLE")]
    base.mkdir()
    models.poll()
    assert states(models) == [(2, "END"), (1, "END")]
    with pytest.raises(tf.errors.NotFoundError, match=r"Latest\(ladnn\)"):
        found(models)


def test_labels_need_the_flag_at_the_start_and_available_versions_later(base):
    with pytest.raises(ValueError, match="label to version 1 of model ladnn, which is not currently available"):
        Double(write_config(base.with_name("models.config"), {"ladnn": base}, labels={"stable": 1})).__enter__()
    models = Models(allow_unavailable_labels=True)
    models.reload(models_of(base, "specific { versions: 1 }", stable=1, later=2))
    assert found(models, label="stable") == 1
    with pytest.raises(tf.errors.NotFoundError, match=r"Specific\(ladnn, 2\)"):
        found(models, label="later")
    with pytest.raises(tf.errors.FailedPreconditionError, match="label to version 2"):
        models.reload(models_of(base, stable=2))  # to load a version and to move a label to it takes two steps
    models.poll()
    assert states(models) == [(1, "AVAILABLE")]
    models.reload(models_of(base, stable=1))
    models.poll()
    models.reload(models_of(base, stable=2))
    assert found(models, label="stable") == 2


def test_without_the_flag_only_available_versions_get_labels(base):
    models = Models()
    models.reload(models_of(base))
    with pytest.raises(tf.errors.FailedPreconditionError):
        models.reload(models_of(base, fresh=3))
    models.reload(models_of(base, fresh=1))
    assert found(models, label="fresh") == 1


def test_a_configuration_adds_models_and_takes_them_away(base, odd):
    models = Models()
    models.reload(config_of({"ladnn": base, "other": odd}))
    assert states(models, "other") == [(7, "AVAILABLE")]
    models.reload(config_of({"ladnn": base, "third": odd}))
    assert states(models, "other") == [(7, "END")]
    assert states(models, "third") == [(7, "AVAILABLE")]
    models.reload(config_of({"ladnn": base, "other": odd}))
    assert states(models, "other") == [(7, "AVAILABLE")]


def test_a_new_model_without_a_version_is_an_error_and_is_loaded_once_it_has_one(base, odd, tmp_path):
    models = Models()
    models.reload(config_of({"ladnn": base}))
    late = tmp_path / "late"
    with pytest.raises(tf.errors.UnknownError, match="Could not find base path"):
        models.reload(config_of({"ladnn": base, "late": late}))
    late.mkdir()
    models.reload(config_of({"ladnn": base}))
    with pytest.raises(tf.errors.UnknownError, match=r"1 model.*late: its base path has no version"):
        models.reload(config_of({"ladnn": base, "late": late}))
    put(odd, late, 1)
    models.poll()
    assert states(models, "late") == [(1, "AVAILABLE")]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('{name: "a" base_path: "models" model_platform: "tensorflow"}', tf.errors.OpError, "absolute path"),
        ('{name: "a" base_path: "/models"}', tf.errors.OpError, "unsupported platform ''"),
        (
            '{name: "a" base_path: "/" model_platform: "tensorflow"} config {name: "a"}',
            tf.errors.OpError,
            "a multiple times",
        ),
        ('{name: "a" labels: 3}', ValueError, 'models.config is not the text form of .*"labels"'),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path, text, error, words):
    file = tmp_path / "models.config"
    file.write_text(f"model_config_list {{ config {text} }}")
    with pytest.raises(error, match=words):
        Models().reload(read_config(file))
    file.write_text("")
    with pytest.raises(ValueError, match=r"models\.config has no model_config_list"):
        read_config(file)


def test_the_configuration_is_read_again_and_a_broken_one_changes_nothing(base, tmp_path):
    file = tmp_path / "double.config"
    write_config(file, {"ladnn": base}, labels={"stable": 1})
    with Double(file, allow_version_labels_for_unavailable_models=True) as double:
        assert found(double.models, label="stable") == 1
        for broken in ("model_config_list {", file.read_text().replace("value: 1", "value: 9")):
            file.write_text(broken)
            double.read_config_again()
            assert found(double.models, label="stable") == 1
        file.unlink()
        double.read_config_again()
        write_config(file, {"ladnn": base}, labels={"stable": 2})
        double.read_config_again()
        assert found(double.models, label="stable") == 2


def test_both_are_looked_at_again_and_again(base, tmp_path, monkeypatch):
    file = write_config(tmp_path / "double.config", {"ladnn": base})
    looks = {name: threading.Event() for name in ("poll", "read")}
    counts = dict.fromkeys(looks, 0)

    def look(name):
        counts[name] += 1
        if counts[name] == 2:
            looks[name].set()

    double = Double(file, file_system_poll_wait_seconds=0.01, model_config_file_poll_wait_seconds=0.01)
    monkeypatch.setattr(double.models, "poll", lambda: look("poll"))
    monkeypatch.setattr(double, "read_config_again", lambda: look("read"))
    with double:
        assert looks["poll"].wait(SECONDS)
        assert looks["read"].wait(SECONDS)


def test_a_model_that_cannot_be_served_at_the_start_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=f"cannot start: Could not find base path {tmp_path / 'gone'}"):
        Double({"ladnn": tmp_path / "gone"}).__enter__()
    (tmp_path / "1").mkdir()
    with pytest.raises(
        ValueError, match=r"1 model\(s\) did not become available: \{ladnn: version 1: .*saved_model"
    ):
        Double({"ladnn": tmp_path}).__enter__()


def test_a_port_that_is_taken_is_an_error(odd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for ports in ({"rest_port": port}, {"grpc_port": port}):
            with pytest.raises(OSError, match=f"port {port} of 127.0.0.1 cannot be listened on"):
                Double({"odd": odd}, **ports).__enter__()


@pytest.fixture(scope="module")
def double(odd):
    with Double({"odd": odd}) as double:
        yield double


def test_what_it_does_not_have_is_unimplemented(double):
    with grpc.insecure_channel(double.grpc_address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError, check=lambda e: e.code() is grpc.StatusCode.UNIMPLEMENTED):
            stub.Classify(classification_pb2.ClassificationRequest())
    response = httpx.post(f"{double.rest_url}/v1/models/odd:regress", json={"examples": []})
    assert response.status_code == 501
    assert "double" in response.json()["error"]


def test_a_configuration_by_grpc_must_have_a_list(double):
    with pytest.raises(tf.errors.InvalidArgumentError, match="should have a model_config_list"):
        Service(double.models).reload(model_management_pb2.ReloadConfigRequest())


def test_many_clients_at_once_are_answered(double):
    body = {"signature_name": "echo", "instances": [[1.0]]}

    def ask(_):
        return httpx.post(f"{double.rest_url}/v1/models/odd:predict", json=body, timeout=SECONDS).json()

    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(ask, range(64))) == [{"predictions": [[1.0]]}] * 64


def test_a_body_without_a_length_is_refused_and_the_connection_closed(double):
    response = httpx.post(f"{double.rest_url}/v1/models/odd:predict", content=iter([b"{}"]))
    assert (response.status_code, response.headers["Connection"]) == (411, "close")


def test_an_error_of_the_graph_has_the_graph_s_own_words(double):
    body = {"signature_name": "sum", "inputs": {"a": [1, 2], "b": [1, 2, 3]}}
    error = httpx.post(f"{double.rest_url}/v1/models/odd:predict", json=body).json()["error"]
    assert error.startswith("Incompatible shapes: [2] vs. [3]")
    assert "[Op:" not in error


def test_brackets_without_end_are_a_bad_request(double):
    response = httpx.post(f"{double.rest_url}/v1/models/odd:predict", content="[" * 200_000)
    assert response.status_code == 400
    assert response.json()["error"].startswith("JSON Parse error")


def test_the_end_lets_a_request_be_answered_and_waits_for_no_idle_client(odd, monkeypatch):
    asked, release = threading.Event(), threading.Event()

    def status(self, request):
        asked.set()
        release.wait(SECONDS)
        return real(self, request)

    real = Service.status
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2))
        double = stack.enter_context(Double({"odd": odd}))
        port = int(double.rest_url.rpartition(":")[2])
        idle = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        stub = stack.enter_context(httpx.Client(base_url=double.rest_url, timeout=SECONDS))
        assert stub.get("/v1/models/odd").status_code == 200  # and the connection stays open
        monkeypatch.setattr(Service, "status", status)
        answer = pool.submit(stub.get, "/v1/models/odd")
        assert asked.wait(SECONDS)
        ended = pool.submit(double.__exit__)
        release.set()
        assert answer.result(SECONDS).status_code == 200
        ended.result(SECONDS)
        assert idle.recv(1) == b""
    with pytest.raises(httpx.ConnectError):
        httpx.get(double.rest_url)


def test_the_command_serves_until_a_signal(odd):
    arguments = [f"--model_base_path={odd}", "--model_name=odd", "--port=0", "--rest_api_port=0"]
    options = {"cwd": REPOSITORY, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-m", "serving.double", *arguments], **options) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("a double of TensorFlow Serving, not the server itself")
            rest_url = line.split("REST ")[1].split(",")[0]
            status = httpx.get(f"{rest_url}/v1/models/odd", timeout=SECONDS).json()["model_version_status"]
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert [entry["state"] for entry in status] == ["AVAILABLE"]


def test_the_command_says_what_it_needs(capsys, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, check=lambda error: error.code == 2):
        main(["double"])
    assert "give --model_base_path=DIR or --model_config_file=FILE" in capsys.readouterr().err
    with pytest.raises(SystemExit, check=lambda error: error.code == 0):
        main(["double", "--help"])
    assert USAGE in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"Could not find base path {tmp_path}/models/ladnn for servable ladnn"):
        main(["double", "--model_base_path=models/ladnn"])
    with pytest.raises(FileNotFoundError):
        main(["double", "--model_config_file=models.config"])


# --- scripts/check_real_serving.sh; the binary is a stand-in for the real one, which is no package ---


@pytest.fixture
def binary(tmp_path):
    """An executable called tensorflow_model_server that is the double.

    It keeps its arguments in a file beside it, and drops those that the double does not know.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    file = folder / "tensorflow_model_server"
    file.write_text(
        f"""#!/bin/sh
printf '%s\\n' "$@" > "{folder}/arguments"
for argument in "$@"; do
    shift
    case $argument in
        --port=*|--rest_api_port=*|--model_config_file*=*|--allow_version_labels*=*) set -- "$@" "$argument" ;;
    esac
done
cd "{REPOSITORY}" && exec "{sys.executable}" -m serving.double "$@"
"""
    )
    file.chmod(0o755)
    return file


def run_script(tmp_path, *arguments, **variables):
    """Runs the script with an interpreter that only says what it is asked to do."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "python $*"\nenv | grep ^SERVING_ | sort\n')
    python.chmod(0o755)
    path = f"{variables.pop('bin', tmp_path)}:/usr/bin:/bin"
    environment = {"PATH": path, "PYTHON": str(python), **variables}
    return subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_the_script_says_that_there_is_no_server(tmp_path):
    result = run_script(tmp_path)
    assert result.returncode == 2
    assert "no tensorflow_model_server on the PATH" in result.stderr
    assert result.stdout == ""


def test_the_script_takes_the_binary_on_the_path(tmp_path, binary):
    result = run_script(tmp_path, "-x", bin=str(binary.parent))
    assert result.stdout.splitlines() == [
        f"asking {binary}",
        "python -m pytest tests/test_serving_contract.py -x",
        f"SERVING_BINARY={binary}",
    ]


def test_the_script_takes_a_server_that_runs(tmp_path, binary):
    addresses = {"SERVING_REST_URL": "http://h:1", "SERVING_GRPC_ADDRESS": "h:2"}
    result = run_script(tmp_path, bin=str(binary.parent), SERVING_MODEL=str(tmp_path), **addresses)
    assert "SERVING_BINARY" not in result.stdout
    assert f"SERVING_MODEL={tmp_path}" in result.stdout.splitlines()
    result = run_script(tmp_path, **addresses)
    assert (result.returncode, result.stdout) == (2, "")
    assert "SERVING_MODEL is not set" in result.stderr


def test_the_contract_tests_start_a_binary_as_the_deployment_does(tiny_run, tmp_path, binary, monkeypatch):
    monkeypatch.setenv("SERVING_BINARY", str(binary))
    with served(lambda: tiny_run, tmp_path / "models") as server:
        transport = Rest(server)
        assert transport.states("ladnn") == [(2, "AVAILABLE"), (1, "AVAILABLE")]
        assert transport.metadata("ladnn", label="canary")[0] == 2
        assert transport.states("odd") == [(7, "AVAILABLE")]
        transport.close()
        assert server.batching
    given = flags_of(binary.with_name("arguments").read_text().splitlines())
    deployed = SERVER["compose"]
    assert set(given) == set(deployed)
    assert given["model_config_file"] == str(server.config)
    for name in set(deployed) - {"port", "rest_api_port", "model_config_file"}:
        if name.endswith("_file"):  # the deployment's own, in the checkout
            assert Path(given[name]) == CONFIG / Path(deployed[name]).name
            assert Path(given[name]).is_file()
        else:
            assert given[name] == deployed[name]


def test_the_contract_tests_ask_a_server_that_runs(tiny_run, tmp_path, monkeypatch):
    base = version_folders(tiny_run, tmp_path / "lungs")
    with Double({"lungs": base}) as double:
        monkeypatch.setenv("SERVING_REST_URL", double.rest_url + "/")
        monkeypatch.setenv("SERVING_GRPC_ADDRESS", double.grpc_address)
        monkeypatch.setenv("SERVING_MODEL", os.path.relpath(base))
        monkeypatch.setenv("SERVING_LABELS", "stable=2")
        with served(pytest.fail, tmp_path) as server:
            assert (server.model, server.folders, server.labels) == ("lungs", {2: base / "2"}, {"stable": 2})
            assert (server.config, server.rest_url) == (None, double.rest_url)
            assert server.batching  # for all that is known


def test_a_version_is_added_to_a_running_double(tiny_run, tmp_path):
    base = tmp_path / "ladnn"
    base.mkdir()
    add_version(tiny_run, base, 1)
    image = {"image_bytes": [slice_png()]}
    with contextlib.ExitStack() as stack:
        double = stack.enter_context(Double({"ladnn": base}, file_system_poll_wait_seconds=0))
        rest = stack.enter_context(contextlib.closing(Rest(double)))
        first = rest.predict("ladnn", "", image)["covid"]
        add_version(tiny_run, base, 2)
        assert rest.predict("ladnn", "", image)["covid"] == first
        double.models.poll()
        assert rest.predict("ladnn", "", image)["covid"] != first
