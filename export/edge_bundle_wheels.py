"""The wheels of an edge bundle: this project's own, and what its `edge` extra needs on each machine and Python.

What is needed is read from the wheels' own metadata. pip chooses the versions, for another machine than this one;
as it evaluates the conditions in the metadata (`; python_version >= "3.13"`) for this one, they are evaluated anew
here for the machine in question, and a wheel that is missing there is an error.
"""

import dataclasses
import email.parser
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from ladnn_tf.files import file_sha256

EXTRA = "edge"
MACHINES = ("x86_64", "aarch64")

NEWEST_GLIBC = 28  # wheels that need a newer one than 2.28 (Debian 10, RHEL 8) are not taken
_OLD_TAGS = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}  # PEP 600


@dataclasses.dataclass(frozen=True, order=True)
class Target:
    """A kind of box.

    Attributes:
        python: version, such as `3.11`.
        machine: as `uname -m` says it, of `MACHINES`.
    """

    python: str
    machine: str

    def __str__(self) -> str:
        return f"{self.machine}, Python {self.python}"

    @property
    def platforms(self) -> list[str]:
        """The platform tags whose wheels it takes, the newest glibc first."""
        tags = [f"manylinux_2_{minor}_{self.machine}" for minor in range(NEWEST_GLIBC, 16, -1)]
        return [*tags, f"manylinux2014_{self.machine}"]  # pip adds the still older names of its own accord

    @property
    def environment(self) -> dict[str, str]:
        """What conditions in metadata are evaluated with (PEP 508)."""
        return {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


Download = Callable[[Target, Sequence[str], Path], None]
"""Puts wheels for a target, of requirements and all they need, into a folder."""


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A wheel file.

    Attributes:
        path: of the file.
        name: of the distribution, canonical.
        version: of it.
        requires: what it needs.
    """

    path: Path
    name: str
    version: str
    requires: tuple[Requirement, ...]


@dataclasses.dataclass
class Pin:
    """A distribution in the one version that some targets take.

    Attributes:
        requirement: `name==version`.
        files: the name of its wheel for each target that takes it.
    """

    requirement: str
    files: dict[Target, str] = dataclasses.field(default_factory=dict)


def read_wheel(path: Path) -> Wheel:
    """Reads what a wheel is and needs.

    Raises:
        ValueError: if it is no whole wheel.
    """
    try:
        name, version, _, _ = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as archive:
            (metadata,) = (x for x in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", x))
            headers = email.parser.HeaderParser().parsestr(archive.read(metadata).decode("utf-8"))
        requires = tuple(map(Requirement, headers.get_all("Requires-Dist", ())))
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path.name} is no whole wheel ({error}); delete it where it came from, and have it anew"
        ) from error
    return Wheel(path, name, str(version), requires)


def collect(project: Path, targets: Iterable[Target], download: Download, folder: Path) -> list[Pin]:
    """Gathers all that the project's `edge` extra needs on each target.

    Args:
        project: this project's wheel, in `folder` already.
        targets: the kinds of boxes.
        download: gets wheels; see `Download`.
        folder: where the wheels go, each once.

    Returns:
        What is to be installed, in the order of the names.

    Raises:
        ValueError: naming what a target lacks.
    """
    own = read_wheel(project)
    pins: dict[str, Pin] = {}
    for target in targets:
        wanted = [_without_marker(x) for x in _needs(own, {EXTRA}, target)]
        with tempfile.TemporaryDirectory() as downloaded:
            download(target, wanted, Path(downloaded))
            wheels = {wheel.name: wheel for wheel in map(read_wheel, sorted(Path(downloaded).glob("*.whl")))}
            for wheel in _closure(own, wheels, target):
                # With its extra: pip then checks on the box that nothing of that is missing.
                extra = f"[{EXTRA}]" if wheel is own else ""
                requirement = f"{wheel.name}{extra}=={wheel.version}"
                pins.setdefault(requirement, Pin(requirement)).files[target] = wheel.path.name
                if wheel is not own:
                    shutil.copyfile(wheel.path, folder / wheel.path.name)
    return [pins[requirement] for requirement in sorted(pins)]


def _needs(wheel: Wheel, extras: set[str], target: Target) -> list[Requirement]:
    environments = [target.environment | {"extra": extra} for extra in ("", *sorted(extras))]
    return [x for x in wheel.requires if x.marker is None or any(map(x.marker.evaluate, environments))]


def _without_marker(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def _closure(own: Wheel, wheels: dict[str, Wheel], target: Target) -> list[Wheel]:
    """The project's wheel and all that it needs on a target, each once."""
    found, seen, waiting = {own.name: own}, set(), [(own, frozenset({EXTRA}))]
    while waiting:
        wheel, extras = waiting.pop()
        seen.add((wheel.name, extras))
        for requirement in _needs(wheel, set(extras), target):
            name = canonicalize_name(requirement.name)
            if name not in wheels or not requirement.specifier.contains(wheels[name].version, prereleases=True):
                raise ValueError(
                    f"{wheel.name} needs {_without_marker(requirement)} on {target}, and no such wheel was "
                    "downloaded: run this with that Python, or put the wheel into --wheels=DIR"
                )
            found[name] = wheels[name]
            step = (wheels[name], frozenset(requirement.extras))
            if (name, step[1]) not in seen:
                waiting.append(step)
    return list(found.values())


def requirement_lines(pins: Sequence[Pin], targets: Sequence[Target], folder: Path) -> str:
    """The text of a requirements file with the hash of every wheel, for `pip install --require-hashes`.

    Args:
        pins: from `collect`.
        targets: all of the bundle.
        folder: of the wheels.

    Returns:
        One requirement per pin; one that not all targets take has a condition.
    """
    lines = []
    for pin in pins:
        marker = ""
        if pin.files.keys() != set(targets):
            one = '(python_version == "{0.python}" and platform_machine == "{0.machine}")'
            marker = " ; " + " or ".join(map(one.format, sorted(pin.files)))
        hashes = [f"--hash=sha256:{file_sha256(folder / file)}" for file in sorted(set(pin.files.values()))]
        lines.append(" \\\n    ".join([pin.requirement + marker, *hashes]))
    return "\n".join(lines) + "\n"


def needed_glibc(files: Iterable[str]) -> tuple[int, int]:
    """The oldest glibc on which all of these wheels run.

    Args:
        files: names of wheels.

    Returns:
        Its version; (2, 0) if all are pure.
    """
    needed = (2, 0)
    for file in files:
        *_, tags = parse_wheel_filename(file)
        versions = [version for tag in tags if (version := _glibc(tag.platform))]
        needed = max(needed, min(versions, default=needed))
    return needed


def _glibc(platform: str) -> tuple[int, int] | None:
    if found := re.match(r"manylinux_(\d+)_(\d+)_", platform):
        return int(found[1]), int(found[2])
    return _OLD_TAGS.get(platform.split("_")[0])
