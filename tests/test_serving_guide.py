"""What docs/serving.md tells people to do, done; and the health check, which it and the containers use."""

import http.server
import json
import re
import shlex
import shutil
import subprocess
import threading
from types import SimpleNamespace

import pytest
import yaml
from deployment import COMPOSE, CONFIG, GUIDE, PAGE, PROTOS, SERVER, SERVING, container, parse, the_model
from google.protobuf import text_format

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


def test_no_server_is_not_ready(server):
    result = run_probe(PROBES["ready"], "1")  # of TCPMUX, which nobody has
    assert result.returncode == 1
    assert "no answer from port 1" in result.stderr
    script = CONFIG / "available.sh"
    assert subprocess.run(["bash", script], capture_output=True, check=False).returncode == 2


# The guide


def blocks(language, containing):
    found = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    return [block for block in found if containing in block]


def run_guide(lines, folder):
    """Runs commands of the guide, of which there is each time one model with versions and labels to look at."""
    states = []
    for line in lines:
        subprocess.run(["bash", "-c", line], cwd=folder, check=True)
        model = the_model((folder / "serving" / "config" / "models.config").read_text(encoding="utf-8"))
        states.append((list(model.model_version_policy.specific.versions), dict(model.version_labels)))
    return states


def test_upgrade_and_roll_back_by_the_guides_commands(tmp_path):
    shutil.copytree(CONFIG, tmp_path / "serving" / "config")
    upgrade, later = blocks("", "sed -i")
    edits = [line for line in (upgrade + later).splitlines() if line.startswith("sed -i")]
    assert len([line for line in upgrade.splitlines() if line and not line.startswith("#")]) == 3
    assert [shlex.split(line)[-1] for line in edits] == ["serving/config/models.config"] * len(edits)
    before = (CONFIG / "models.config").read_text(encoding="utf-8").splitlines()
    assert run_guide(edits[:2], tmp_path) == [
        ([1, 2], {"stable": 2, "canary": 2}),
        ([1, 2], {"stable": 1, "canary": 2}),
    ]
    assert (tmp_path / "serving" / "config" / "models.config").read_text(encoding="utf-8").splitlines() == before
    run_guide(edits[:1], tmp_path)
    # A version is loaded by one edit and gets its label by the next; in between, labels stand for loaded versions.
    assert run_guide(edits[2:], tmp_path) == [
        ([3, 2], {"stable": 2, "canary": 2}),
        ([3, 2], {"stable": 2, "canary": 3}),
    ]


def test_the_guides_command_for_tls_makes_an_ssl_config(tmp_path):
    key = "-----BEGIN PRIVATE KEY-----\nbm90IGEga2V5\n-----END PRIVATE KEY-----\n"
    certificate = "-----BEGIN CERTIFICATE-----\nb25l\n-----END CERTIFICATE-----\n" * 2
    (tmp_path / "server.key").write_text(key)
    (tmp_path / "server.crt").write_text(certificate)
    (command,) = blocks("", "server_key:")
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    made = text_format.Parse((tmp_path / "ssl.config").read_text(), PROTOS["SSLConfig"]())
    assert (made.server_key, made.server_cert, made.client_verify) == (key, certificate, False)


def test_the_proxy_lets_through_what_the_page_takes():
    (proxy,) = blocks("", "proxy_pass")
    assert f"client_max_body_size {Settings().max_request_mb}m;" in proxy
    assert f"proxy_pass http://127.0.0.1:{PAGE['compose']['port']};" in proxy


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
