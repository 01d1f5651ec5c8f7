"""Packs all that a box without internet needs into one archive.

    python -m export.edge_bundle --model=models/edge/int8.tflite

The archive, `dist/ladnn-edge-VERSION.tar`, holds wheels for each machine and Python, the model with its card, an
install script, a self-test and how to use them (`export/bundle/README.txt`). The same inputs give the same bytes;
what pip chooses where requirements.lock gives no version is an input too, and `--wheels=DIR` keeps it.
"""

import dataclasses
import functools
import io
import json
import re
import shutil
import string
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from export.edge_bundle_pictures import draw_phantoms, make_self_test
from export.edge_bundle_pip import EPOCH, build_project_wheel, download
from export.edge_bundle_wheels import (
    MACHINES,
    Download,
    Target,
    collect,
    needed_glibc,
    requirement_lines,
)
from ladnn_tf import command
from ladnn_tf.card import Card
from ladnn_tf.edge_predictor import EdgePredictor
from ladnn_tf.files import atomic_file, file_sha256, write_atomically
from ladnn_tf.tflite_file import card_beside, read_card

USAGE = "python -m export.edge_bundle --model=models/edge/int8.tflite [--out=dist] [--wheels=DIR]"
CHECKOUT = Path(__file__).resolve().parent.parent
MODEL = "model/ladnn.tflite"

_TEMPLATES = Path(__file__).resolve().parent / "bundle"
_SCRIPTS = ("install.sh", "ladnn-edge", "ladnn-edge.service", "check_python.py", "self_test.py")
_EXECUTABLE = ("install.sh", "ladnn-edge")
_PYTHONS = ("3.11", "3.12", "3.13")
_MB = 1e6


@dataclasses.dataclass(frozen=True)
class Bundle:
    """An archive that was written.

    Attributes:
        path: of it; its SHA-256 is in a file beside it.
        sizes: of its parts, in bytes.
    """

    path: Path
    sizes: dict[str, int]


def build(
    model: Path,
    out: Path,
    targets: Sequence[Target],
    *,
    download: Download,
    build_wheel: Callable[[Path], Path],
    load: Callable[[Path], EdgePredictor] = EdgePredictor,
    draw: Callable[[int], dict[str, bytes]] = draw_phantoms,
    tolerance: float = 0.02,
) -> Bundle:
    """Writes a bundle.

    Args:
        model: a fit `.tflite` of `python -m export.tflite`, its card beside it.
        out: folder of the archive.
        targets: the kinds of boxes it is for.
        download: gets wheels.
        build_wheel: builds this project's wheel into a folder.
        load: makes the predictor of a `.tflite`.
        draw: draws the self-test's slices.
        tolerance: how far a probability of the self-test may be off on another machine.

    Returns:
        The archive.

    Raises:
        ValueError: if the model is not fit for use or is shown the lungs alone, or wheels are missing.
        OSError: if the archive cannot be written.
    """
    card = _fit_card(model)
    name = "ladnn-edge-" + re.sub(r"[^A-Za-z0-9._-]", "_", card.version)
    pictures, expected = make_self_test(load(model), tolerance, draw)
    with tempfile.TemporaryDirectory(prefix="ladnn-edge-") as staged:
        folder = Path(staged)
        for part in ("wheels", "model", "self_test"):
            (folder / part).mkdir()
        pins = collect(build_wheel(folder / "wheels"), targets, download, folder / "wheels")
        (folder / "requirements.txt").write_text(requirement_lines(pins, targets, folder / "wheels"), "utf-8")
        shutil.copyfile(model, folder / MODEL)
        shutil.copyfile(card_beside(model), card_beside(folder / MODEL))
        for file, picture in pictures.items():
            (folder / "self_test" / file).write_bytes(picture)
        (folder / "self_test" / "expected.json").write_text(json.dumps(expected, indent=2) + "\n", "utf-8")
        for script in _SCRIPTS:
            shutil.copyfile(_TEMPLATES / script, folder / script)
        installed = {
            target: sum(
                (folder / "wheels" / pin.files[target]).stat().st_size for pin in pins if target in pin.files
            )
            for target in targets
        }
        glibc = ".".join(map(str, needed_glibc(file for pin in pins for file in pin.files.values())))
        (folder / "bundle.conf").write_text(_settings(name, targets, glibc), "utf-8")
        (folder / "README.txt").write_text(_readme(name, card, folder, installed, glibc, tolerance), "utf-8")
        files = _list_files(folder)
        sums = "".join(f"{file_sha256(folder / file)}  {file}\n" for file in files)
        (folder / "SHA256SUMS").write_text(sums, "utf-8")
        path = out / f"{name}.tar"
        _write_archive(folder, [*files, "SHA256SUMS"], name, path)
        sizes = {
            part: sum((folder / file).stat().st_size for file in files if file.startswith(f"{part}/"))
            for part in ("wheels", "model", "self_test")
        }
    write_atomically(Path(f"{path}.sha256"), f"{file_sha256(path)}  {path.name}\n".encode())
    return Bundle(path, sizes)


def _fit_card(model: Path) -> Card:
    card, _ = read_card(model)
    if not card_beside(model).is_file():
        raise ValueError(f"{card_beside(model)} is missing; copy the model and its card from where they were made")
    if card.lungs != "whole":
        raise ValueError(
            f"{model} is shown the lungs alone and needs scikit-image, which bundles do not hold; bundle a model "
            "of whole slices, or install on the box by pip install '.[edge,dicom]' in the project's folder"
        )
    if card.export.fitness == "unmeasured":
        raise ValueError(
            f"{model} was never compared with the run it was made of, so it is not bundled; export it by "
            "python -m export.tflite, which compares"
        )
    if card.export.fitness != "fit":
        reasons = "; ".join(card.export.reasons) or "its card gives no reason"
        raise ValueError(
            f"{model} is {card.export.fitness}, so it is not bundled: {reasons}. Bundle another format"
        )
    return card


def _settings(name: str, targets: Sequence[Target], glibc: str) -> str:
    """What install.sh reads."""
    machines = " ".join(_machines(targets))
    pythons = " ".join(reversed(_pythons(targets)))
    return f'NAME="{name}"\nMACHINES="{machines}"\nPYTHONS="{pythons}"\nGLIBC="{glibc}"\n'


def _machines(targets: Sequence[Target]) -> list[str]:
    return sorted({target.machine for target in targets})


def _pythons(targets: Sequence[Target]) -> list[str]:
    return sorted({target.python for target in targets}, key=lambda python: int(python.split(".")[1]))


def _readme(
    name: str, card: Card, folder: Path, installed: dict[Target, int], glibc: str, tolerance: float
) -> str:
    model = folder / MODEL
    targets = list(installed)
    wheels = sum(path.stat().st_size for path in (folder / "wheels").iterdir())
    parts = []
    for machine in _machines(targets):
        sizes = [size for target, size in installed.items() if target.machine == machine]
        parts.append(f"{max(sizes) / _MB:.0f} MB on {machine}")
    return string.Template((_TEMPLATES / "README.txt").read_text("utf-8")).substitute(
        name=name,
        notice=card.notice,
        lesions=" and of five lesions" if card.task == "ladnn" else " and of each class" if card.classes else "",
        version=card.version,
        format=card.export.format,
        model_mb=f"{model.stat().st_size / _MB:.1f}",
        card=card_beside(model).name,
        machines=", ".join(_machines(targets)),
        pythons=", ".join(_pythons(targets)),
        glibc=glibc,
        wheels_mb=f"{wheels / _MB:.0f}",
        installs=", ".join(parts),
        tolerance=tolerance,
    )


def _list_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _write_archive(folder: Path, files: Sequence[str], name: str, path: Path) -> None:
    """Writes files into a tar in which nothing tells when and by whom it was made."""
    # No gzip: wheels are compressed already, and zlib's output differs between versions.
    with atomic_file(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for member in files:
            info = tarfile.TarInfo(f"{name}/{member}")
            content = (folder / member).read_bytes()
            info.size, info.mtime = len(content), EPOCH
            info.uname = info.gname = "root"
            info.mode = 0o755 if member in _EXECUTABLE else 0o644
            archive.addfile(info, io.BytesIO(content))


def _targets(pythons: Sequence[str], machines: Sequence[str]) -> list[Target]:
    for python in pythons:
        if python not in _PYTHONS:
            raise ValueError(f"--python should be of {','.join(_PYTHONS)}. Received: {python!r}")
    for machine in machines:
        if machine not in MACHINES:
            raise ValueError(f"--machines should be of {','.join(MACHINES)}. Received: {machine!r}")
    if not pythons or not machines:
        raise ValueError("--python and --machines should name at least one each")
    return [Target(python, machine) for machine in dict.fromkeys(machines) for python in dict.fromkeys(pythons)]


def main(argv: list[str]) -> int:
    """The command."""
    flag_values = flags.FlagValues()
    fv = {"flag_values": flag_values}
    flags.DEFINE_string("model", None, ".tflite file, its card beside it", required=True, **fv)
    flags.DEFINE_string("out", "dist", "folder of the archive", **fv)
    flags.DEFINE_list("python", ",".join(_PYTHONS), "versions of Python on the boxes", **fv)
    flags.DEFINE_list("machines", ",".join(MACHINES), "processors of the boxes, as uname -m says it", **fv)
    flags.DEFINE_string("wheels", None, "folder of wheels: taken from there, and kept there when downloaded", **fv)
    flags.DEFINE_float("tolerance", 0.02, "of the self-test's probabilities on another machine", 0, 1, **fv)
    command.parse(flag_values, argv, USAGE)
    targets = _targets(flag_values.python, flag_values.machines)
    cache = Path(flag_values.wheels) if flag_values.wheels else None
    if cache:
        cache.mkdir(parents=True, exist_ok=True)
    bundle = build(
        Path(flag_values.model),
        Path(flag_values.out),
        targets,
        download=functools.partial(download, constraints=CHECKOUT / "requirements.lock", cache=cache),
        build_wheel=functools.partial(build_project_wheel, CHECKOUT),
        tolerance=flag_values.tolerance,
    )
    for part, size in bundle.sizes.items():
        print(f"{part:<12}{size / _MB:>8.1f} MB")
    print(f"{'archive':<12}{bundle.path.stat().st_size / _MB:>8.1f} MB  {bundle.path}")
    print(f"for: {'; '.join(map(str, targets))}")
    print(f"on the box: tar xf {bundle.path.name} && sh {bundle.path.stem}/install.sh FOLDER")
    return 0


if __name__ == "__main__":
    command.run(main)
