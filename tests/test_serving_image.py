"""The image of the page: what is copied and installed is what the page needs, and TensorFlow is not."""

import importlib.metadata
import json
import re
import runpy
import subprocess
import sys
import tomllib

import pytest
from absl import flags
from conftest import REPOSITORY
from deployment import COMPOSE, PAGE, SERVING, pod
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from serving import webapp
from serving.page.predictors import RemotePredictor

DOCKERFILE = (SERVING / "Dockerfile").read_text(encoding="utf-8")


def test_the_image_of_the_page():
    lines = DOCKERFILE.splitlines()
    assert f"USER {COMPOSE['services']['page']['user']}" in lines
    assert 'ENTRYPOINT ["python", "-m", "serving.webapp"]' in lines
    assert f"EXPOSE {PAGE['compose']['port']}" in lines
    assert f"127.0.0.1:{PAGE['compose']['port']}/healthz" in DOCKERFILE


def test_what_builds_the_package_is_pinned_too():
    first, second = re.findall(r"/opt/venv/bin/pip install .*?(?= \\\n|\n)", DOCKERFILE)
    assert "--constraint requirements.lock setuptools" in first
    assert "--constraint requirements.lock --no-build-isolation '.[serving,dicom]'" in second
    needed = Requirement(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["build-system"]["requires"][0])
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    assert re.search(r"^setuptools==(.*)$", lock, re.MULTILINE)[1] in needed.specifier


def test_the_page_s_user_can_read_what_was_copied_from_a_strict_checkout(tmp_path):
    _, last = DOCKERFILE.split("AS packages", 1)[1].split("\nFROM ")
    copied, command, user = last.index("COPY serving serving"), last.index("RUN chmod"), last.index("USER ")
    assert copied < command < user
    assert len(re.findall("^COPY (?!--from)", last, re.MULTILINE)) == 1
    inner = tmp_path / "serving" / "page"
    inner.mkdir(mode=0o700, parents=True)
    inner.parent.chmod(0o700)
    (inner / "app.py").touch(mode=0o600)
    subprocess.run(["sh", "-c", re.search("^RUN (chmod .*)$", last, re.MULTILINE)[1]], cwd=tmp_path, check=True)
    found = [inner.parent, *inner.parent.rglob("*")]
    assert [path.stat().st_mode & 0o777 for path in found] == [0o755, 0o755, 0o644]


def test_the_build_context_holds_what_is_copied_and_nothing_else():
    copies = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if re.match(r"COPY (?!--from)", line)]
    copied = [name for names in copies for name in names]
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert sorted(rule[1:] for rule in rules if rule.startswith("!")) == sorted(copied)
    assert all((REPOSITORY / name).exists() for name in copied)


# What the page's image installs


def extras(monkeypatch):
    captured = {}
    with monkeypatch.context() as patch:
        patch.setattr("setuptools.setup", lambda **arguments: captured.update(arguments))
        runpy.run_path(str(REPOSITORY / "setup.py"))
    return captured["install_requires"], captured["extras_require"]


def installed_with(requirements):
    found, waiting = set(), [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        needed = [Requirement(text) for text in importlib.metadata.requires(name) or ()]
        new = {(name, ""), *((name, extra) for extra in requirement.extras)} - found
        waiting += [(other, extra) for _, extra in new for other in needed]
        found |= new
    return {name for name, _ in found}


def test_everything_in_the_image_is_pinned_and_tensorflow_is_not_in_it(monkeypatch):
    base, extra = extras(monkeypatch)
    packages = installed_with([*base, *extra["serving"]])
    assert {"fastapi", "starlette", "httpx", "sqlalchemy", "numpy"} <= packages
    assert not {"tensorflow", "tensorflow-cpu", "keras", "tensorflow-serving-api"} & packages
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    pinned = {canonicalize_name(line.split("==")[0]) for line in lock.splitlines() if "==" in line}
    assert packages <= pinned


IN_THE_IMAGE = """
import importlib.abc, json, sys

absent = set(json.loads(sys.argv[1]))

class Image(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)

sys.meta_path.insert(0, Image())
"""


def test_the_page_imports_nothing_that_it_needs_and_its_image_has_not(monkeypatch):
    base, extra = extras(monkeypatch)
    packages = installed_with([*base, *extra["serving"]]) | {"ladnn-tf"}
    absent = [
        module
        for module, names in importlib.metadata.packages_distributions().items()
        if not packages & {canonicalize_name(name) for name in names}
    ]
    assert {"tensorflow", "pandas"} <= set(absent)

    def run(modules):
        command = [sys.executable, "-c", f"{IN_THE_IMAGE}\nimport {modules}", json.dumps(absent)]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    result = run("serving.webapp, serving.clients.rest")
    assert result.returncode == 0, result.stderr
    assert "pandas is not in the image" in run("serving.webapp, pandas").stderr


@pytest.mark.parametrize("where", PAGE)
def test_the_page_takes_the_flags_that_it_is_given(where, tmp_path):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    given = {**PAGE[where], "token_file": str(token)}
    flag_values = flags.FlagValues()
    webapp.define_flags(flag_values)
    assert flag_values(["webapp", *(f"--{name}={value}" for name, value in given.items())]) == ["webapp"]
    settings = webapp.settings_from(flag_values)
    assert settings.has_login
    grace = {
        "compose": COMPOSE["services"]["page"]["stop_grace_period"].removesuffix("s"),
        "kubernetes": pod("ladnn-page")["terminationGracePeriodSeconds"],
    }
    assert settings.stop_seconds + 10 < int(grace[where])  # else requests are cut off
    assert (settings.host, str(settings.port)) == ("0.0.0.0", given["port"])
    assert [str(network.network_address) for network in settings.trusted_proxies] == (
        [given["trusted_proxy"]] if where == "compose" else []
    )
    with webapp.open_predictor(flag_values) as predictor:
        assert isinstance(predictor, RemotePredictor)
