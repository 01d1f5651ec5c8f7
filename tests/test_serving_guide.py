"""What docs/serving.md tells people to do, done; and the health check, which it and the containers use."""

import http.server
import json
import re
import shlex
import shutil
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from contributions import contribution
from deployment import (
    COMPOSE,
    CONFIG,
    GUIDE,
    KUBERNETES,
    PAGE,
    PROTOS,
    SERVER,
    SERVING,
    container,
    parse,
    the_model,
)
from google.protobuf import text_format

from serving.collection import export, withdraw
from serving.collection.store import Collection
from serving.page.settings import Settings

MODEL = "/v1/models/ladnn"
STABLE, VERSION = f"{MODEL}/labels/stable/metadata", f"{MODEL}/versions/1"
METADATA = {
    "model_spec": {"name": "ladnn", "signature_name": "", "version": "1"},
    "metadata": {"signature_def": {}},
}


def state(name, **status):
    status = {"error_code": "OK", "error_message": "", **status}
    return {"model_version_status": [{"version": "1", "state": name, "status": status}]}


@pytest.fixture
def server():
    """Answers each path with a status and a body; what it is not told is 404, as of the real server."""
    answers = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            code, body = answers.get(self.path, (404, {"error": f"Malformed request: GET {self.path}"}))
            content = json.dumps(body, indent=1).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield SimpleNamespace(answers=answers, port=str(found.server_port))
        found.shutdown()
        thread.join()


PROBES = {
    "compose": COMPOSE["services"]["serving"]["healthcheck"]["test"][1:],
    "start": container("ladnn-serving")["startupProbe"]["exec"]["command"],
    "ready": container("ladnn-serving")["readinessProbe"]["exec"]["command"],
}


def run_probe(probe, port):
    bash, script, given, *rest = probe
    assert given == SERVER["compose"]["rest_api_port"]
    script = script.replace("/config/", f"{CONFIG}/")
    return subprocess.run([bash, script, port, *rest], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_ready_means_available_not_200(server, probe):
    server.answers[STABLE] = 404, {"error": "Servable not found for request: Specific(ladnn, 1)"}
    server.answers[VERSION] = 200, state("AVAILABLE")
    result = run_probe(probe, server.port)
    assert (result.returncode, result.stdout) == (1, "")
    assert "label stable stands for no loaded version" in result.stderr
    assert "Servable not found for request: Specific(ladnn, 1)" in result.stderr
    server.answers[STABLE] = 200, METADATA
    server.answers[VERSION] = 200, state("LOADING", error_message='its "state": "AVAILABLE" is far')
    result = run_probe(probe, server.port)
    assert result.returncode == 1
    assert "version 1 is not AVAILABLE" in result.stderr
    server.answers[VERSION] = 200, state("AVAILABLE")
    assert run_probe(probe, server.port).returncode == 0


def test_another_version_that_is_available_does_not_help(server):
    server.answers[STABLE] = 200, METADATA
    server.answers[f"{MODEL}/versions/2"] = 200, state("AVAILABLE")
    assert run_probe(PROBES["ready"], server.port).returncode == 1
    server.answers[VERSION] = 200, state("END", error_code="UNKNOWN", error_message="no such file")
    result = run_probe(PROBES["ready"], server.port)
    assert result.returncode == 1
    assert "no such file" in result.stderr


def test_a_version_can_be_asked_for_by_its_number(server):
    server.answers[VERSION] = 200, state("AVAILABLE")
    probe = [*PROBES["ready"][:-1], "1"]
    assert run_probe(probe, server.port).returncode == 0
    assert run_probe([*PROBES["ready"][:-1], "2"], server.port).returncode == 1


def test_a_label_can_be_asked_to_stand_for_a_version(server):
    server.answers[STABLE] = 200, METADATA
    server.answers[VERSION] = 200, state("AVAILABLE")
    assert run_probe([*PROBES["ready"], "1"], server.port).returncode == 0
    result = run_probe([*PROBES["ready"], "2"], server.port)
    assert result.returncode == 1
    assert "ladnn: stable stands for version 1, not 2" in result.stderr


def test_no_server_is_not_ready(server):
    result = run_probe(PROBES["ready"], "1")  # of TCPMUX, which nobody has
    assert result.returncode == 1
    assert "no answer from port 1" in result.stderr
    script = CONFIG / "available.sh"
    assert subprocess.run(["bash", script], capture_output=True, check=False).returncode == 2


# The guide


def blocks(language, containing):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language and containing in block]


class ReloadingServer:
    """The rules of `server_core.cc` for the guide's edits; it has read each before the next is made.

    Attributes:
        versions: that are loaded, or will be as soon as they are there.
        labels: label -> version.
    """

    def __init__(self, config):
        self.config = config
        model = the_model(config.read_text(encoding="utf-8"))
        self.versions = list(model.model_version_policy.specific.versions)
        self.labels = dict(model.version_labels)

    def read(self):
        model = the_model(self.config.read_text(encoding="utf-8"))
        versions, labels = list(model.model_version_policy.specific.versions), dict(model.version_labels)
        moved = {label: version for label, version in labels.items() if self.labels[label] != version}
        assert set(moved.values()) <= set(self.versions), "a label in use moves to an AVAILABLE version only"
        assert set(labels.values()) <= set(versions), "a label stands for a version that is unloaded"
        assert len(versions) == len(set(versions)) == 2, "memory is for two versions"
        self.versions, self.labels = versions, labels

    def waits_for(self, name, expected=None):
        """What is asked of available.sh is so, or will be: versions load in the end."""
        if expected is None:
            assert int(name) in self.versions
        else:
            assert self.labels[name] == int(expected)


@pytest.fixture
def edits(tmp_path):
    """Runs edits of one of the guide's two blocks, with other versions in its variables."""
    shutil.copytree(CONFIG, tmp_path / "serving" / "config")
    server = ReloadingServer(tmp_path / "serving" / "config" / "models.config")

    def run(block, only=r"sed -i|until ", **versions):
        variables, *lines = [line for line in block.splitlines() if not line.startswith("#")]
        assert re.findall(r"(\w+)=\d", variables) == list(versions)
        variables = " ".join(f"{name}={version}" for name, version in versions.items())
        for line in (line for line in lines if re.match(only, line)):
            if line.startswith("until "):
                wait = re.fullmatch(
                    r"until (bash serving/config/available\.sh 8501 ladnn .*); do sleep 5; done", line
                )
                asked = subprocess.check_output(["bash", "-c", f"{variables}; echo {wait[1]}"], text=True)
                server.waits_for(*asked.split()[4:])
            else:
                assert shlex.split(line)[-1] == "serving/config/models.config"
                subprocess.run(["bash", "-c", f"{variables}; {line}"], cwd=tmp_path, check=True)
                server.read()
        return server.versions, server.labels

    return run


def test_upgrade_and_roll_back_again_and_again_by_the_guides_commands(edits):
    upgrade, later, *_ = blocks("", "serving/config/models.config")
    commands = [line for line in upgrade.splitlines() if not re.match("#|OLD=", line)]
    assert len(commands) == 3  # try, upgrade, roll back
    forward, back = map(re.escape, commands[1:])
    before = the_model().version_labels
    assert edits(upgrade, OLD=1, NEW=2) == ([1, 2], before)  # there and back
    assert edits(upgrade, forward, OLD=1, NEW=2) == ([1, 2], {"stable": 2, "canary": 2})
    assert edits(later, GONE=1, STABLE=2, NEW=3) == ([3, 2], {"stable": 2, "canary": 3})
    assert edits(upgrade, forward, OLD=2, NEW=3) == ([3, 2], {"stable": 3, "canary": 3})
    assert edits(upgrade, back, OLD=2, NEW=3) == ([3, 2], {"stable": 2, "canary": 3})
    # The version that was not good makes room for its successor.
    assert edits(later, GONE=3, STABLE=2, NEW=10) == ([10, 2], {"stable": 2, "canary": 10})
    assert edits(upgrade, forward, OLD=2, NEW=10) == ([10, 2], {"stable": 10, "canary": 10})


def test_the_commands_for_kubernetes_name_what_is_there():
    (upgrade,) = blocks("", "port-forward")
    forward, publish, wait = upgrade.splitlines()
    name, ports = re.fullmatch(r"kubectl port-forward deployment/(\S+) (\S+) &", forward).groups()
    assert ("Deployment", name) in KUBERNETES
    port = SERVER["kubernetes"]["rest_api_port"]
    assert ports == f"{port}:{port}"
    (first,) = blocks("", "kubectl create secret")
    assert publish in first.splitlines()
    assert wait.startswith(f"until bash serving/config/available.sh {port} ladnn stable $NEW;")


def test_the_guides_commands_let_the_containers_read_under_a_strict_umask(tmp_path):
    (start,) = blocks("", "export.saved_model")
    commands = [line for line in start.splitlines() if line.startswith("chmod ")]
    for file in ("models/ladnn/1/saved_model.pb", "models/secret.keras", "serving/config/models.config"):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    for folder in tmp_path.rglob("*/"):
        folder.chmod(0o700)
    subprocess.run(["sh", "-ec", "\n".join(commands)], cwd=tmp_path, check=True)
    mounted = [tmp_path / "models", *(tmp_path / "models" / "ladnn").rglob("*"), tmp_path / "models" / "ladnn"]
    mounted += [tmp_path / "serving" / "config", *(tmp_path / "serving" / "config").iterdir()]
    assert all(path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644) for path in mounted)
    assert (tmp_path / "models" / "secret.keras").stat().st_mode & 0o777 == 0o600


def test_the_guides_command_for_tls_makes_an_ssl_config(tmp_path):
    key = "-----BEGIN PRIVATE KEY-----\nbm90IGEga2V5\n-----END PRIVATE KEY-----\n"
    certificate = "-----BEGIN CERTIFICATE-----\nb25l\n-----END CERTIFICATE-----\n" * 2
    (tmp_path / "server.key").write_text(key)
    (tmp_path / "server.crt").write_text(certificate)
    (command,) = blocks("", "server_key:")
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    made = text_format.Parse((tmp_path / "ssl.config").read_text(), PROTOS["SSLConfig"]())
    assert (made.server_key, made.server_cert, made.client_verify) == (key, certificate, False)
    assert (tmp_path / "ssl.config").stat().st_mode & 0o777 == 0o600


def test_the_proxy_lets_through_what_the_page_takes():
    (proxy,) = blocks("", "proxy_pass")
    assert f"client_max_body_size {Settings().max_request_mb}m;" in proxy
    assert f"proxy_pass http://127.0.0.1:{PAGE['compose']['port']};" in proxy


def test_the_proxy_writes_no_upload_and_no_answer_to_the_disk():
    (proxy,) = blocks("", "proxy_pass")
    directives = {line.strip() for line in proxy.splitlines()}
    # Without HTTP/1.1 nginx takes no notice of the second one where an upload is chunked.
    assert {"proxy_http_version 1.1;", "proxy_request_buffering off;", "proxy_max_temp_file_size 0;"} <= directives


def test_metrics_of_the_page_exist():
    defined = {
        name
        for file in SERVING.rglob("*.py")
        for name in re.findall(r'"(ladnn_page_\w+)"', file.read_text(encoding="utf-8"))
    }
    named = {re.sub("_total$", "", name) for name in re.findall(r"\bladnn_page_\w+", GUIDE)}
    assert len(named) >= 5
    assert named <= defined


def test_prometheus_is_told_where_the_figures_are():
    (scrape,) = (yaml.safe_load(block) for block in blocks("yaml", "scrape_configs"))
    jobs = {job["job_name"]: job for job in scrape["scrape_configs"]}
    assert jobs["ladnn-serving"]["metrics_path"] == parse("monitoring.config").prometheus_config.path
    published = {port.rpartition(":")[0] for service in COMPOSE["services"].values() for port in service["ports"]}
    targets = {target for job in jobs.values() for group in job["static_configs"] for target in group["targets"]}
    assert targets <= published
    (rules,) = (yaml.safe_load(block) for block in blocks("yaml", "alert:"))
    (group,) = rules["groups"]
    assert all(rule.keys() >= {"alert", "expr", "for", "annotations"} for rule in group["rules"])
    assert {job for rule in group["rules"] for job in re.findall(r'job="([\w-]+)"', rule["expr"])} <= jobs.keys()
    expressions = {rule["alert"]: rule["expr"] for rule in group["rules"]}
    counted = re.findall(r"ladnn_page_requests_total\{(.*?)\}", expressions["LadnnErrors"])
    assert len(counted) == 2
    assert all('route="/diagnose"' in labels for labels in counted)  # probes, which succeed, would hide failures
    assert expressions["LadnnNotReady"].endswith("== 0")


# Data collection


def test_what_the_guide_adds_for_a_data_collection(tmp_path):
    (snippet,) = (yaml.safe_load(block) for block in blocks("yaml", "target: /data"))
    (mount,) = snippet["volumes"]
    data = re.search(r"the flags `--data=(\S+)` and `--operator=", GUIDE)[1]
    assert Path(data).parent == Path(mount["target"])
    made = blocks("", "sudo install -d")[-1].split()
    assert made[-1] == mount["source"]
    user = COMPOSE["services"]["page"]["user"]
    assert (made[made.index("-o") + 1], made[made.index("-g") + 1]) == tuple(user.split(":"))
    assert f"--owner=10001 --group=10001 --mode=0700 {mount['target']}" in (SERVING / "Dockerfile").read_text()


def test_the_guides_commands_export_and_withdraw(tmp_path):
    (commands,) = blocks("", "serving.collection.export")
    page = [line.split()[-2:] for line in commands.splitlines() if line.startswith("docker ")]
    assert page == [["stop", "page"], ["start", "page"]]
    user, group = COMPOSE["services"]["page"]["user"].split(":")
    assert f'PAGE_USER="sudo setpriv --reuid={user} --regid={group} --clear-groups"' in commands.splitlines()[0]
    with Collection(tmp_path / "collection") as collection:
        receipt = collection.add(contribution(1, covid=True)).text
    commands = commands.replace("/srv/ladnn", str(tmp_path)).replace("=RECEIPT", f"={receipt}")
    lines = [shlex.split(line) for line in commands.splitlines() if line.startswith("$PAGE_USER ")]
    mains = {"serving.collection.export": export.main, "serving.collection.withdraw": withdraw.main}
    for _, python, option, module, *arguments in lines:
        assert (python, option) == (".venv/bin/python", "-m")
        assert mains.pop(module)([module, *arguments]) == 0
    assert not mains
    assert (tmp_path / "site.csv").is_file()
    assert not list((tmp_path / "collection" / "images").rglob("*.png"))
