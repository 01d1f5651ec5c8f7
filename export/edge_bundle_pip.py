"""What pip does for an edge bundle: builds this project's wheel and downloads the others."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import logging

from export.edge_bundle_wheels import NEWEST_GLIBC, Target

EPOCH = 315532800
"""1980-01-01, the earliest date of a zip member, in seconds: the date of all that a bundle holds."""

_SOURCES = ("setup.py", "pyproject.toml", "LICENSE")
_NO_REGISTRY = re.compile(
    r"Retrying \(|Max retries exceeded|NewConnectionError|ConnectionError|ProxyError|SSLError|Timeout|"
    r"Failed to connect"
)
_NO_WHEEL = re.compile(r"Could not find a version that satisfies the requirement (\S+)")


def run_pip(arguments: Sequence[str]) -> subprocess.CompletedProcess:
    """Runs this Python's pip; stdout and stderr are captured as text."""
    environment = os.environ | {
        "SOURCE_DATE_EPOCH": str(EPOCH),
        "PIP_NO_INPUT": "1",
        "NO_COLOR": "1",
        "LC_ALL": "C",
    }
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries=2", *arguments],
        env=environment,
        umask=0o022,  # the modes of files are in a wheel
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def build_project_wheel(checkout: Path, folder: Path, run: Callable = run_pip) -> Path:
    """Builds this project's wheel from a copy of its sources; the same sources give the same bytes.

    Args:
        checkout: root of the checkout.
        folder: where the wheel goes.
        run: as `run_pip`.

    Returns:
        The wheel.

    Raises:
        ValueError: if it cannot be built, or holds compiled code.
    """
    with tempfile.TemporaryDirectory() as copied:
        # A copy: setuptools takes what an earlier build left in the checkout's build/ for a part of the package.
        copy = Path(copied) / "source"
        shutil.copytree(checkout / "ladnn_tf", copy / "ladnn_tf", ignore=shutil.ignore_patterns("__pycache__"))
        for name in _SOURCES:
            shutil.copyfile(checkout / name, copy / name)
        for path in copy.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        # Without isolation no other setuptools is downloaded, whose version would be in the wheel.
        options = ("--no-deps", "--no-build-isolation", "--check-build-dependencies", "--quiet")
        done = run(["wheel", *options, f"--wheel-dir={folder}", str(copy)])
    built = sorted(folder.glob("ladnn_tf-*.whl"))
    if done.returncode or len(built) != 1:
        raise ValueError(
            f"this project's wheel was not built ({_last_error(done)}); in {sys.executable}'s environment: pip "
            "install 'setuptools>=77'"
        )
    if not built[0].name.endswith("-py3-none-any.whl"):
        raise ValueError(
            f"{built[0].name} is not pure Python, so it fits one machine only; take out what is compiled"
        )
    return built[0]


def download(
    target: Target,
    requirements: Sequence[str],
    folder: Path,
    *,
    constraints: Path,
    cache: Path | None = None,
    run: Callable = run_pip,
) -> None:
    """Downloads wheels for a target by pip, from the registry that pip is set to.

    Args:
        target: the kind of box.
        requirements: what is wanted; what that needs comes too.
        folder: where the wheels go.
        constraints: a file of versions, as `pip --constraint` takes it.
        cache: a folder of wheels. If it holds all, no registry is asked; what was downloaded is added to it.
        run: as `run_pip`.

    Raises:
        ValueError: if there is no wheel of something, or no registry.
    """
    command = ["download", "--quiet", "--progress-bar=off", "--only-binary=:all:", "--implementation=cp"]
    command += [f"--python-version={target.python}", f"--abi=cp{target.python.replace('.', '')}"]
    command += [f"--platform={tag}" for tag in target.platforms]
    command += [f"--dest={folder}", f"--constraint={constraints}"]
    if cache:
        command.append(f"--find-links={cache}")
        if run([*command, "--no-index", *requirements]).returncode == 0:
            return
    logging.info("downloading wheels for %s", target)
    done = run([*command, *requirements])
    if done.returncode:
        raise ValueError(_complaint(done, target))
    if cache:
        for wheel in folder.glob("*.whl"):
            if not (cache / wheel.name).exists():
                shutil.copyfile(wheel, cache / wheel.name)


def _complaint(done: subprocess.CompletedProcess, target: Target) -> str:
    output = done.stdout + done.stderr
    if _NO_REGISTRY.search(output):
        return (
            f"the wheels for {target} cannot be downloaded: pip reaches no package registry. Run this where it "
            "does (or set PIP_INDEX_URL), or give --wheels=DIR, a folder that an earlier call filled"
        )
    if found := _NO_WHEEL.search(output):
        return (
            f"there is no wheel of {found[1]} for {target} (glibc 2.{NEWEST_GLIBC} or older): leave this machine "
            "or Python out (--machines, --python), or build that wheel and put it into --wheels=DIR"
        )
    return f"pip could not download the wheels for {target}: {_last_error(done)}"


def _last_error(done: subprocess.CompletedProcess) -> str:
    lines = [" ".join(line.split()) for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return [f"pip ended with {done.returncode}", *lines[-1:], *errors[:1]][-1]
