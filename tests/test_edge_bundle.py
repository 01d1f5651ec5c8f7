"""The bundle for a box without internet: what is in it, what is refused, and how its scripts behave.

No test downloads or installs: wheels are empty but for their metadata, and install.sh meets a Python that only
notes what it is asked to do.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_tflite
from conftest import REPOSITORY
from PIL import Image

from export import edge_bundle, edge_bundle_pip
from export.edge_bundle_pictures import COVID, NOISE, OTHER, draw_phantoms, make_self_test
from export.edge_bundle_wheels import Pin, Target, collect, needed_glibc, requirement_lines
from ladnn_tf.answer import Answer
from ladnn_tf.card import Export, card_json
from ladnn_tf.edge_predictor import EdgePredictor
from ladnn_tf.tflite_file import card_beside, read_card

TEMPLATES = REPOSITORY / "export" / "bundle"
TARGETS = [Target(python, machine) for machine in ("x86_64", "aarch64") for python in ("3.11", "3.12")]
TOOLS = ["cat", "chmod", "cp", "cut", "dirname", "grep", "ls", "mkdir", "readlink", "rm", "rmdir", "sed"]
TOOLS += ["sha256sum", "tr"]


def fake_wheel(folder, name, version, requires=(), tag="py3-none-any"):
    path = Path(folder) / f"{name}-{version}-{tag}.whl"
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {x}" for x in requires)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(f"{name}-{version}.dist-info/METADATA"), "\n".join(lines) + "\n\n")
    return path


def build_wheel(folder):
    requires = ["numpy>=1.26", 'ai-edge-litert>=2.1; extra == "edge"', 'tensorflow; extra == "train"']
    return fake_wheel(folder, "ladnn_tf", "0.1.0", requires)


def registry(target, requirements, folder, *, without=()):
    """NumPy is older on Python 3.11, and only there LiteRT needs enum_old."""
    assert requirements == ["numpy>=1.26", "ai-edge-litert>=2.1"]
    digits, machine = target.python.replace(".", ""), target.machine
    tag = f"cp{digits}-cp{digits}-manylinux"
    fake_wheel(folder, "numpy", "1.26" if digits == "311" else "2.0", (), f"{tag}2014_{machine}")
    needs = ["numpy", "Tq.dm>1", 'enum-old; python_version < "3.12"', 'colorama; sys_platform == "win32"']
    fake_wheel(folder, "ai_edge_litert", "2.3", needs, f"{tag}_2_27_{machine}.manylinux_2_28_{machine}")
    for name in {"tq_dm", "enum_old", "unrelated"} - set(without):
        fake_wheel(folder, name, "1.5")


@functools.cache
def first_pair():
    return draw_phantoms(0)


def same_pair(seed):
    return first_pair()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    path = tiny_tflite.write_model(folder / "int 8.tflite", name="a run/7")
    card_beside(path).write_bytes(card_json(read_card(path)[0]))
    return path


def make(model, out, **changes):
    settings = {"download": registry, "build_wheel": build_wheel, "draw": same_pair}
    return edge_bundle.build(model, out, TARGETS, **{**settings, **changes})


@pytest.fixture(scope="module")
def archive(model, tmp_path_factory):
    return make(model, tmp_path_factory.mktemp("dist")).path


@pytest.fixture(scope="module")
def unpacked(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("on a stick")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return folder / archive.stem


def script(name):
    spec = importlib.util.spec_from_file_location(f"bundle_{name}", TEMPLATES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# What is in the archive


def test_the_archive_holds_every_file_and_its_checksum(archive, unpacked, model):
    assert archive.name.startswith("ladnn-edge-a_run_7-float32-")
    files = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    sums = dict(reversed(line.split("  ")) for line in (unpacked / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == files - {"SHA256SUMS"}
    assert sums == {name: sha256(unpacked / name) for name in sums}
    assert {f"self_test/{name}" for name in (COVID, OTHER, NOISE, "expected.json")} <= files
    assert (unpacked / "model/ladnn.tflite").read_bytes() == model.read_bytes()
    assert read_card(unpacked / "model/ladnn.tflite")  # the one beside it is the same
    assert (unpacked / "bundle.conf").read_text().splitlines()[1:] == [
        'MACHINES="aarch64 x86_64"',
        'PYTHONS="3.12 3.11"',
        'GLIBC="2.27"',
    ]
    assert "$" not in (unpacked / "README.txt").read_text().replace("$HOME", "")
    assert (
        "a series (--series) needs the extra dicom, which it does not hold"
        in (unpacked / "README.txt").read_text()
    )
    assert Path(f"{archive}.sha256").read_text() == f"{sha256(archive)}  {archive.name}\n"


def test_the_same_inputs_give_the_same_bytes(archive, model, tmp_path):
    assert make(model, tmp_path).path.read_bytes() == archive.read_bytes()
    with tarfile.open(archive) as opened:
        members = opened.getmembers()
    assert [m.name for m in members[:-1]] == sorted(m.name for m in members[:-1])
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(315532800, 0, 0, "root", "root")}
    executable = {m.name.split("/")[1] for m in members if m.mode == 0o755}
    assert executable == {"install.sh", "ladnn-edge"}
    assert {m.mode for m in members} == {0o755, 0o644}


def test_each_needed_wheel_is_there_once(unpacked):
    """Of each machine and Python NumPy and LiteRT, the pure ones once, what nobody needs not at all."""
    names = sorted(path.name.split("-")[0] for path in (unpacked / "wheels").iterdir())
    assert names == ["ai_edge_litert"] * 4 + ["enum_old", "ladnn_tf"] + ["numpy"] * 4 + ["tq_dm"]


def test_requirements_name_versions_conditions_and_the_hash_of_every_wheel(unpacked):
    text = (unpacked / "requirements.txt").read_text().replace(" \\\n   ", "")
    lines = {line.split(" --hash")[0]: line.count("--hash") for line in text.splitlines()}
    where = '(python_version == "{}" and platform_machine == "{}")'
    old = " ; " + " or ".join(where.format("3.11", machine) for machine in ("aarch64", "x86_64"))
    assert lines == {
        "ai-edge-litert==2.3": 4,
        f"enum-old==1.5{old}": 1,
        "ladnn-tf[edge]==0.1.0": 1,
        f"numpy==1.26{old}": 2,
        f"numpy==2.0{old.replace('3.11', '3.12')}": 2,
        "tq-dm==1.5": 1,
    }
    hashes = {word.removeprefix("--hash=sha256:") for word in text.split() if word.startswith("--hash")}
    assert hashes == {sha256(path) for path in (unpacked / "wheels").iterdir()}


def test_a_requirement_of_all_targets_has_no_condition(tmp_path):
    wheel = fake_wheel(tmp_path, "a", "1")
    pins = [Pin("a==1", dict.fromkeys(TARGETS, wheel.name))]
    assert requirement_lines(pins, TARGETS, tmp_path) == f"a==1 \\\n    --hash=sha256:{sha256(wheel)}\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a-1-py3-none-any.whl"], (2, 0)),
        (["a-1-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl"], (2, 27)),
        (["a-1-cp310-abi3-manylinux2014_aarch64.whl", "b-1-py3-none-manylinux1_x86_64.whl"], (2, 17)),
    ],
)
def test_glibc_is_the_oldest_on_which_all_wheels_run(files, expected):
    assert needed_glibc(files) == expected


# What is refused


def rewritten(model, folder, **export):
    """A copy of the model with another export in its card."""
    card = read_card(model)[0]
    changed = dataclasses.replace(card.export, **export)
    path = tiny_tflite.write_model(folder / "other.tflite", export=changed)
    card_beside(path).write_bytes(card_json(read_card(path)[0]))
    return path


@pytest.mark.parametrize(
    ("export", "words"),
    [
        ({"fitness": "unmeasured"}, "never compared"),
        ({"fitness": "unfit", "reasons": ("AUC fell by 0.2",)}, "unfit, so it is not bundled: AUC fell by 0.2"),
    ],
)
def test_models_not_known_to_be_fit_are_not_bundled(model, tmp_path, export, words):
    with pytest.raises(ValueError, match=words):
        make(rewritten(model, tmp_path, **export), tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


def test_a_model_without_the_card_beside_it_is_not_bundled(tmp_path):
    path = tiny_tflite.write_model(tmp_path / "alone.tflite", export=Export("int8", "0" * 64, "fit"))
    with pytest.raises(ValueError, match=r"alone\.card\.json is missing"):
        make(path, tmp_path / "dist")


def test_what_a_target_lacks_is_named(tmp_path):
    download = functools.partial(registry, without={"enum_old"})
    own = build_wheel(tmp_path)
    assert collect(own, [Target("3.12", "x86_64")], download, tmp_path)
    with pytest.raises(ValueError, match=r"ai-edge-litert needs enum-old on aarch64, Python 3\.11"):
        collect(own, [Target("3.12", "x86_64"), Target("3.11", "aarch64")], download, tmp_path)


def test_a_wheel_of_a_version_that_does_not_fit_is_as_good_as_none(tmp_path):
    own = fake_wheel(tmp_path, "ladnn_tf", "0.1.0", ["tq-dm>=2"])

    def download(target, requirements, folder):
        fake_wheel(folder, "tq_dm", "1.5")

    with pytest.raises(ValueError, match=r"ladnn-tf needs tq-dm>=2"):
        collect(own, TARGETS, download, tmp_path)


def test_a_broken_wheel_is_named(tmp_path):
    def download(target, requirements, folder):
        (folder / "numpy-1-py3-none-any.whl").write_bytes(b"half")

    with pytest.raises(ValueError, match=r"numpy-1-py3-none-any\.whl is no whole wheel"):
        collect(build_wheel(tmp_path), TARGETS, download, tmp_path)


@pytest.mark.parametrize("flag", ["--python=3.10", "--machines=riscv64", "--python="])
def test_machines_and_pythons_without_support_are_named(flag, model, tmp_path):
    with pytest.raises(ValueError, match=flag.split("=")[0]):
        edge_bundle.main(["edge_bundle", f"--model={model}", f"--out={tmp_path}", flag])


# pip


class Pip:
    """Notes how pip is called, and answers with the given (exit status, output, names of wheels)."""

    def __init__(self, *answers):
        self.answers, self.calls = list(answers), []

    def __call__(self, arguments):
        self.calls.append(list(arguments))
        status, output, wheels = self.answers.pop(0)
        for argument in arguments:
            if argument.startswith(("--dest=", "--wheel-dir=")):
                for name in wheels:
                    (Path(argument.split("=", 1)[1]) / name).write_bytes(b"wheel")
        return subprocess.CompletedProcess(arguments, status, "", output)


def download(pip, folder, cache=None):
    edge_bundle_pip.download(
        Target("3.12", "aarch64"), ["numpy"], folder, constraints=Path("lock"), cache=cache, run=pip
    )


def test_pip_is_asked_for_the_wheels_of_another_machine(tmp_path):
    pip = Pip((0, "", ()))
    download(pip, tmp_path)
    (call,) = pip.calls
    wanted = {"--only-binary=:all:", "--implementation=cp", "--python-version=3.12", "--abi=cp312", "numpy"}
    assert wanted | {"--platform=manylinux_2_27_aarch64", "--constraint=lock", f"--dest={tmp_path}"} <= set(call)
    assert not [argument for argument in call if "x86_64" in argument or "2_29" in argument]


def test_kept_wheels_need_no_registry_and_new_ones_are_kept(tmp_path):
    cache, folder = tmp_path / "cache", tmp_path / "new"
    cache.mkdir()
    folder.mkdir()
    complete = Pip((0, "", ()))
    download(complete, folder, cache)
    assert "--no-index" in complete.calls[0]
    assert len(complete.calls) == 1
    lacking = Pip((1, "ERROR: No matching distribution", ()), (0, "", ["a-1-py3-none-any.whl"]))
    download(lacking, folder, cache)
    assert "--no-index" not in lacking.calls[1]
    assert f"--find-links={cache}" in lacking.calls[1]
    assert [path.name for path in cache.iterdir()] == ["a-1-py3-none-any.whl"]


NONE_FOUND = "ERROR: Could not find a version that satisfies the requirement numpy>=9 (from versions: 1.0)\n"


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (NONE_FOUND, r"no wheel of numpy>=9 for aarch64, Python 3\.12"),
        (
            f"WARNING: Retrying (Retry(total=1)) after connection broken\n{NONE_FOUND}",
            "no package registry.*--wheels",
        ),
        ("ERROR: the disk\n  is full\nsee above\n", "aarch64, Python 3.12: the disk$"),
        ("", "pip ended with 1"),
    ],
)
def test_what_pip_could_not_do_is_one_line(output, words, tmp_path):
    with pytest.raises(ValueError, match=words) as error:
        download(Pip((1, output, ())), tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((1, "ERROR: no setuptools\n", ()), r"\(no setuptools\).*pip install 'setuptools>=77'"),
        ((0, "", ["ladnn_tf-0.1.0-cp311-cp311-linux_x86_64.whl"]), "not pure"),
    ],
)
def test_the_projects_wheel_must_be_built_and_pure(answer, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        edge_bundle_pip.build_project_wheel(REPOSITORY, tmp_path, Pip(answer))


def test_the_projects_wheel_is_built_from_the_sources_alone(tmp_path):
    """From a copy: not in the checkout, whose build/ may hold what was deleted long ago."""
    checkout = tmp_path / "checkout"
    for name in (
        "ladnn_tf/a.py",
        "ladnn_tf/__pycache__/a.pyc",
        "build/old.py",
        "setup.py",
        "pyproject.toml",
        "LICENSE",
    ):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch(0o600)
    seen = {}

    def pip(arguments):
        source = Path(arguments[-1])
        for path in source.rglob("*"):
            seen[path.relative_to(source).as_posix()] = path.stat().st_mode & 0o777
        return Pip((0, "", ["ladnn_tf-0.1.0-py3-none-any.whl"]))(arguments)

    assert edge_bundle_pip.build_project_wheel(checkout, tmp_path, pip).is_file()
    files = dict.fromkeys(["ladnn_tf/a.py", "setup.py", "pyproject.toml", "LICENSE"], 0o644)
    assert seen == {"ladnn_tf": 0o755, **files}


# The self-test


class Answering:
    """A predictor that knows one pair of pictures after the other, and refuses noise unless told otherwise."""

    card = SimpleNamespace(version="v")

    def __init__(self, pairs, refuses_noise=True):
        self.answers = [value for pair in pairs for value in pair] + [None if refuses_noise else 0.5]

    def predict(self, images):
        return [self.result(self.answers.pop(0)) for _ in images]

    @staticmethod
    def result(covid):
        if covid is None:
            return Answer(tiny_tflite.card_of(b""), "", abstained=True, reason="too dark")
        maps = np.zeros((2, 3, 1), np.float32)
        return Answer(tiny_tflite.card_of(b""), "", covid, covid >= 0.5, {}, maps=maps)


def test_of_the_answered_pairs_that_with_the_largest_difference_is_taken():
    pairs = [(0.1, 0.2), (0.9, None), (0.7, 0.3), (0.3, 0.2), (None, None), (0.5, 0.5)]
    pictures, expected = make_self_test(Answering(pairs), 0.02, same_pair)
    assert list(pictures) == [COVID, OTHER, NOISE]
    assert all(Image.open(io.BytesIO(picture)).size == (256, 256) for picture in pictures.values())
    assert expected["tolerance"] == 0.02
    assert expected["pictures"] == {
        COVID: {"abstained": False, "covid": 0.7, "lesions": {}, "maps_shape": [2, 3, 1]},
        OTHER: {"abstained": False, "covid": 0.3, "lesions": {}, "maps_shape": [2, 3, 1]},
        NOISE: {"abstained": True},
    }


def test_no_self_test_without_answers_to_slices_and_refusal_of_noise():
    with pytest.raises(ValueError, match=r"no pair.*too dark"):
        make_self_test(Answering([(0.5, None)] * 6), 0.02, same_pair)
    with pytest.raises(ValueError, match="noise gets an answer"):
        make_self_test(Answering([(0.5, 0.4)] * 6, refuses_noise=False), 0.02, same_pair)


def test_the_bundles_own_self_test_passes_with_the_real_command(unpacked, capsys):
    assert script("self_test").main(unpacked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == [COVID, OTHER, NOISE]
    assert lines[3].startswith("self-test passed: a run/7-float32-")


EXPECTED = {"abstained": False, "covid": 0.6, "lesions": {"GGO": 0.2}, "maps_shape": [1, 2, 1]}
GOOD = {
    "error": "",
    "abstained": False,
    "covid": 0.59,
    "positive": True,
    "threshold": 0.5,
    "lesions": {"GGO": 0.21},
    "maps": [[[0.0], [1.0]]],
    "overlay": "o.jpg",
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"covid": 0.57}, "covid is 0.5700 instead of 0.6000"),
        ({"covid": float("nan"), "positive": False}, "covid is nan"),
        ({"lesions": {"GGO": 0.23}}, "GGO is 0.2300"),
        ({"lesions": {}}, "answers for covid instead of covid, GGO"),
        ({"positive": False}, "threshold"),
        ({"abstained": True, "reason": "dark"}, "refused: dark"),
        ({"error": "no memory"}, "no memory"),
        ({"maps": [[[0.0]]]}, "maps are"),
        ({"maps": [[[0.0], [float("inf")]]]}, "no number"),
        ({"overlay": None}, "overlay"),
        ({"overlay": "empty.jpg"}, "overlay"),
        ({"overlay": "missing.jpg"}, "overlay"),
    ],
)
def test_the_self_test_finds_what_differs(change, words, tmp_path):
    (tmp_path / "o.jpg").write_bytes(b"jpeg")
    (tmp_path / "empty.jpg").touch()
    found = script("self_test").problems({**GOOD, **change}, EXPECTED, 0.02, tmp_path)
    if words is None:
        assert found == []
    else:
        assert len(found) == 1
        assert words in found[0]


def test_the_self_test_wants_noise_refused(tmp_path):
    problems = script("self_test").problems
    assert problems({**GOOD, "abstained": True}, {"abstained": True}, 0.02, tmp_path) == []
    assert "should have been refused" in problems(GOOD, {"abstained": True}, 0.02, tmp_path)[0]
    assert problems(None, EXPECTED, 0.02, tmp_path) == ["there is no answer"]


def test_the_self_test_says_by_its_status_what_it_found(unpacked, capsys):
    main = script("self_test").main
    assert main(unpacked, answer=lambda *arguments: {}) == 1
    assert "there is no answer" in capsys.readouterr().out

    def broken(*arguments):
        raise ImportError("numpy needs a newer processor")

    assert main(unpacked, answer=broken) == 1
    assert capsys.readouterr().err == "self-test failed: ImportError: numpy needs a newer processor\n"


def test_a_model_that_cannot_be_loaded_fails_the_self_test(unpacked, tmp_path, capsys):
    shutil.copytree(unpacked, tmp_path / "b")
    (tmp_path / "b/model/ladnn.tflite").write_bytes(b"half a model")
    assert script("self_test").main(tmp_path / "b") == 1
    assert "is not a TFLite model with a card inside" in capsys.readouterr().err


# The scripts on the box


@pytest.mark.parametrize("name", ["install.sh", "ladnn-edge"])
def test_scripts_are_posix_shell(name):
    subprocess.run(["sh", "-n", TEMPLATES / name], check=True)
    text = (TEMPLATES / name).read_text()
    assert text.startswith("#!/bin/sh\n")
    assert not [word for word in ("[[", "local ", "source ", "function ", "<<<", "pipefail") if word in text]


def test_this_python_can_be_used_and_others_are_told_apart(monkeypatch):
    module = script("check_python")
    current = ".".join(map(str, sys.version_info[:2]))
    assert module.problem(["3.7", current], [2, 0]) == ""
    assert module.problem(["3.7", "2.6"], [2, 0]) == f"is Python {current}"
    assert "; the wheels need 99.1" in module.problem([current], [99, 1])
    monkeypatch.setattr(module.platform, "libc_ver", lambda: ("", ""))
    assert "does not run on glibc" in module.problem([current], [2, 0])
    monkeypatch.setattr(module.struct, "calcsize", lambda form: 4)
    assert "32-bit" in module.problem([current], [2, 0])


# Makes a folder for "a virtual environment" with itself in it, and notes what pip gets.
PYTHON = """#!/bin/sh
case "$*" in
*check_python.py*) echo "${STUB_PROBLEM:-}" ;;
*"-m venv"*) for last; do :; done; mkdir -p "$last/bin"; cp "$0" "$last/bin/python" ;;
*self_test.py*) echo "self-test of $2"; exit ${STUB_TEST:-0} ;;
*pip*) echo "$PWD $*"; exit ${STUB_PIP:-0} ;;
esac
"""


class Box:
    """A machine on which install.sh runs: its programs, its home, a copy of the bundle."""

    def __init__(self, folder, bundle, machine="x86_64", python="python3"):
        self.home, self.programs = folder / "home", folder / "bin"
        self.bundle = folder / "a bundle"
        shutil.copytree(bundle, self.bundle)
        self.home.mkdir()
        self.programs.mkdir()
        for tool in TOOLS:
            (self.programs / tool).symlink_to(shutil.which(tool))
        self.program("uname", f'#!/bin/sh\n[ "$1" = -s ] && echo Linux || echo {machine}\n')
        if python:
            self.program(python, PYTHON)

    def program(self, name, text):
        path = self.programs / name
        path.write_text(text)
        path.chmod(0o755)

    def install(self, *arguments, **environment):
        return subprocess.run(
            [shutil.which("sh"), self.bundle / "install.sh", *arguments],
            env={"PATH": str(self.programs), "HOME": str(self.home), **environment},
            cwd=self.home.parent,
            capture_output=True,
            text=True,
            check=False,
        )

    def refusal(self, *arguments, **environment):
        """The one line that is said, where nothing is installed."""
        before = sorted(self.home.rglob("*"))
        result = self.install(*arguments, **environment)
        assert result.returncode == 1
        assert sorted(self.home.rglob("*")) == before
        (line,) = result.stderr.splitlines()
        return line


def test_install_makes_an_environment_from_the_hashed_wheels_alone(tmp_path, unpacked):
    box = Box(tmp_path, unpacked)
    for path in box.bundle.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    result = box.install('home/in & out "100%"')
    assert result.returncode == 0, result.stderr
    folder = box.home / 'in & out "100%"'
    pip = next(line for line in result.stdout.splitlines() if " pip " in line)
    assert pip.startswith(f"{box.bundle} -I -m pip --isolated")
    options = "--no-index --find-links wheels --only-binary :all: --require-hashes -r requirements.txt"
    assert pip.endswith(options)
    assert f"self-test of {folder}/self_test.py" in result.stdout
    assert {path.name for path in folder.iterdir()} == {
        "README.txt", "ladnn-edge", "ladnn-edge.service", "model", "self_test", "self_test.py", "venv",
    }  # fmt: skip
    unit = (folder / "ladnn-edge.service").read_text()
    quoted = str(folder).replace('"', '\\"').replace("%", "%%")
    assert f'ExecStart=/bin/sh "{quoted}/ladnn-edge" --watch=' in unit
    assert os.access(folder / "ladnn-edge", os.X_OK)
    assert (folder / "model/ladnn.tflite").stat().st_mode & 0o200  # not read-only, as on the stick
    (folder / "venv/bin/python").write_text('#!/bin/sh\nfor x; do echo "$x"; done\n')
    (tmp_path / "link").symlink_to(folder / "ladnn-edge")
    asked = subprocess.run([tmp_path / "link", "a b.png"], capture_output=True, text=True, check=True)
    assert asked.stdout.splitlines() == ["-I", "-m", "ladnn_tf.edge", f"{folder}/model/ladnn.tflite", "a b.png"]


def test_install_has_a_default_folder_and_a_preferred_python(tmp_path, unpacked):
    box = Box(tmp_path, unpacked, "aarch64", "python3.12")
    box.program("python3", "#!/bin/sh\nexit 127\n")
    result = box.install()
    assert f"into {box.home}/ladnn-edge with python3.12 (aarch64)" in result.stdout
    assert "exists and is not an empty folder" in box.refusal()


def test_install_refuses_a_machine_without_wheels(tmp_path, unpacked):
    assert (
        "this machine is armv7l, and the bundle is for aarch64 x86_64"
        in Box(tmp_path, unpacked, "armv7l").refusal()
    )


def test_install_refuses_pythons_that_cannot_be_used(tmp_path, unpacked):
    box = Box(tmp_path, unpacked, python=None)
    assert "no Python of version 3.12 3.11 that can be used; install one" in box.refusal()
    assert "there is no such program" in box.refusal(PYTHON="/no/python")
    box.program("python3.11", PYTHON)
    assert "; python3.11 is Python 3.9;" in box.refusal(STUB_PROBLEM="is Python 3.9")
    assert "PYTHON=python3.11 cannot be used; python3.11 is" in box.refusal(
        PYTHON="python3.11", STUB_PROBLEM="is x"
    )
    assert box.install(PYTHON="python3.11").returncode == 0


@pytest.mark.parametrize("name", ["model/ladnn.tflite", "wheels/tq_dm-1.5-py3-none-any.whl", "bundle.conf"])
def test_install_refuses_a_damaged_bundle(tmp_path, unpacked, name):
    box = Box(tmp_path, unpacked)
    content = bytearray((box.bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (box.bundle / name).write_bytes(content)
    assert f"damaged or missing: {name} -- copy" in box.refusal()
    (box.bundle / name).unlink()
    assert f"damaged or missing: {name} -- copy" in box.refusal()


def test_install_refuses_a_bundle_without_checksums(tmp_path, unpacked):
    box = Box(tmp_path, unpacked)
    (box.bundle / "SHA256SUMS").write_text("")
    assert "damaged or missing: SHA256SUMS -- copy" in box.refusal()
    (box.bundle / "SHA256SUMS").unlink()
    assert "unpack the whole archive" in box.refusal()


def test_what_fails_leaves_nothing_behind(tmp_path, unpacked):
    box = Box(tmp_path, unpacked)
    assert "the wheels were not installed" in box.refusal(STUB_PIP="1")
    assert "the self-test failed" in box.refusal(STUB_TEST="1")
    (box.home / "empty").mkdir()
    assert "the self-test failed" in box.refusal(str(box.home / "empty"), STUB_TEST="1")


def test_install_says_how_it_is_called(tmp_path, unpacked):
    box = Box(tmp_path, unpacked)
    assert "usage" in box.refusal("--help")
    assert "needs quotes" in box.refusal("a", "b")
    assert "HOME is not set" in box.refusal(HOME="")


def test_expected_answers_are_those_of_the_model(unpacked):
    expected = json.loads((unpacked / "self_test/expected.json").read_text())
    predictor = EdgePredictor(unpacked / "model/ladnn.tflite")
    picture = (unpacked / "self_test" / COVID).read_bytes()
    assert expected["pictures"][COVID]["covid"] == predictor.predict([picture])[0].covid


def test_install_refuses_a_folder_that_no_environment_takes(tmp_path, unpacked):
    box = Box(tmp_path, unpacked)
    assert "has a colon in it" in box.refusal(f"{box.home}/a:b/")
    assert "the root folder" in box.refusal("//")
    assert f"into {box.home}/x with" in box.install(f"{box.home}/x//").stdout
