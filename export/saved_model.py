"""Writes a run's model as a SavedModel: `python -m export.saved_model --run=runs/NAME --out=models/ladnn`.

The folder `--out` is what TensorFlow Serving is given as a model's base path: each export is its next integer
version. A version is made in a hidden folder inside, which a server ignores, is compared there with the run's own
model on real images (`export/parity.py`) and is then renamed, so that a server sees it whole or not at all.
"""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from absl import flags, logging
from tensorflow.core.protobuf import saved_model_pb2

from export import parity, parity_report, placing, warmup
from export.artefacts import EXTRAS, SavedModelArtefact, card_path, saved_model_sha256
from export.signatures import SIGNATURES, servable
from ladnn_tf import command, runs
from ladnn_tf.card import Card, Export, write_card

try:
    import fcntl
except ImportError:
    fcntl = None

USAGE = """python -m export.saved_model --run=runs/NAME --out=models/ladnn [--manifest=FILE] [--keep_failed]

Writes OUT/<next integer>/ with the signatures serving_default (image_bytes: PNG or JPEG files), explain (the same,
with attention maps or boxes), pixels (images: uint8 RGB) and card (the card's JSON), warm-up requests, and
OUT/parity_<integer>.md and .json, which compare it with the run's own model. Exit status: 0 if it was written and
is fit; 3 if it is unfit, and not written, or with --keep_failed written with a card that says so; 1 after an
error, 2 after one in the flags."""

_STAGING = ".staging-"
_REPORTS = f"{parity_report.version_stem('*')}.json"


def check_whole(card: Card) -> None:
    """Checks that a run's model is shown whole slices.

    Raises:
        ValueError: if it is shown the lungs alone.
    """
    if card.lungs != "whole":
        raise ValueError(
            f"the model of {card.name} is shown the lungs alone, and a SavedModel cannot look for them: export it "
            "by python -m export.tflite, or train a run with --lungs=whole"
        )


def stage(run: runs.Run, folder: Path) -> Card:
    """Writes a SavedModel with its warm-up requests and its card, not measured yet.

    Args:
        run: the run.
        folder: to write to; it does not exist.

    Returns:
        The card.

    Raises:
        ValueError: as `check_whole`.
        OSError: if a file cannot be written.
    """
    check_whole(run.card)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)  # TensorFlow lists every variable's number, for each signature
    try:
        with tempfile.TemporaryDirectory() as temporary:
            run_card = Path(temporary) / card_path(folder).name
            write_card(run.card, run_card)  # its place in the SavedModel is taken by the card of the SavedModel
            holder, signatures = servable(run.model, run.card.temperature, run_card)
            tf.saved_model.save(holder, str(folder), signatures=signatures)
    except tf.errors.OpError as error:  # TensorFlow's own error for a full disk, say
        raise OSError(f"{folder} cannot be written: {error.message}") from error
    finally:
        logging.set_verbosity(verbosity)
    extras = folder / EXTRAS
    extras.mkdir()
    warmup.write_requests(extras / warmup.FILE, run.card.image_size)
    made = Export(format="saved_model", source_sha256=run.card.model_sha256)
    card = dataclasses.replace(run.card, model_sha256=saved_model_sha256(folder), export=made)
    write_card(card, card_path(folder))
    return card


def export(
    run: runs.Run, out: Path, evidence: parity.Evidence, tolerances: parity.Tolerances, *, keep_failed: bool
) -> tuple[parity.Comparison, bool]:
    """Makes the next version, compares it with the run's own model, puts it in its place and writes the report.

    Args:
        run: the run.
        out: folder of the versions.
        evidence: what is compared on.
        tolerances: what may differ.
        keep_failed: whether an unfit one is put in its place too.

    Returns:
        The comparison, whose name is the version, and whether the version was put in its place.

    Raises:
        ValueError: if `out` is a SavedModel itself; as `check_whole`.
        OSError: if a file cannot be written.
    """
    if (out / "saved_model.pb").is_file():
        raise ValueError(
            f"--out={out} is one version of a SavedModel; give the folder of all versions, {out.parent}"
        )
    with staging(out) as hidden:
        staged = hidden / str(next_version(out))
        card = stage(run, staged)
        logging.info("comparing the SavedModel with %s", run.folder)
        comparison = parity.compare(evidence, SavedModelArtefact(staged), tolerances)
        comparison, placed = _place(staged, card, comparison, out, keep_failed)
    parity_report.write_report(out, parity_report.version_stem(comparison.name), [comparison], evidence)
    return comparison, placed


def _place(
    staged: Path, card: Card, comparison: parity.Comparison, out: Path, keep_failed: bool
) -> tuple[parity.Comparison, bool]:
    """Under the next version that is free; another export may take one at any moment."""
    while True:
        target = out / str(next_version(out))
        comparison = dataclasses.replace(comparison, name=target.name)
        try:
            return comparison, placing.place_saved_model(staged, card, comparison, target, keep_failed)
        except OSError:
            if not os.path.lexists(target):  # else it was there before the check, or appeared before the rename
                raise
            logging.info("%s was taken by another export; trying the next version", target)


def next_version(out: Path) -> int:
    """One more than the highest integer that names anything in a folder, or a report in it; 1 for an empty one.

    The number of a version that was refused or removed is not used again: its report lies there.
    """
    names = {path.stem.removeprefix(parity_report.version_stem("")) for path in out.glob(_REPORTS)}
    names |= {path.name for path in out.iterdir()}
    return 1 + max((int(name) for name in names if name.isdecimal()), default=0)


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A hidden folder in which a version is made; it goes at the end, those of killed exports at the beginning.

    Args:
        out: folder of the versions; it is made.

    Yields:
        An empty folder on the file system of `out`, whose name no server takes for a version.

    Raises:
        OSError: if it cannot be made.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out, wait=True):  # no other export looks for leftovers between making the folder and locking it
        for leftover in out.glob(f"{_STAGING}*"):
            with _locked(leftover, wait=False) as abandoned:
                if abandoned:
                    logging.info("removing %s, which a killed export left", leftover)
                    shutil.rmtree(leftover, ignore_errors=True)
        hidden = Path(tempfile.mkdtemp(prefix=_STAGING, dir=out))
        lock = contextlib.ExitStack()
        lock.enter_context(_locked(hidden, wait=False))
    with lock:
        try:
            yield hidden
        finally:
            shutil.rmtree(hidden, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Whether this process alone holds a folder's lock, which the end of the process, however it comes, frees.

    Where there are no such locks (Windows, some network file systems) it is never held: leftovers then stay.
    """
    if fcntl is None:
        yield False
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # its export has just ended
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(handle)


def describe(folder: Path) -> list[str]:
    """The signatures of a SavedModel as its file has them, a line each, B being the number of images.

    Args:
        folder: of a version.

    Returns:
        Lines such as `pixels: images uint8 [B, ?, ?, 3] -> covid float32 [B]`.
    """
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    definitions = saved.meta_graphs[0].signature_def
    return [f"{name}: {_tensors(definitions[name].inputs)} -> {_tensors(definitions[name].outputs)}"
            for name in SIGNATURES]  # fmt: skip


def _tensors(tensors) -> str:
    texts = []
    for name in sorted(tensors):
        sizes = [dimension.size for dimension in tensors[name].tensor_shape.dim]
        shape = ", ".join(["B", *("?" if size < 0 else str(size) for size in sizes[1:])])
        texts.append(f"{name} {tf.as_dtype(tensors[name].dtype).name} [{shape}]")
    return ", ".join(texts)


def main(argv: list[str]) -> int:
    """The command; the exit status is `parity.UNFIT` if the model is not fit."""
    flag_values = flags.FlagValues()
    flags.DEFINE_string("run", None, "folder of the run", required=True, flag_values=flag_values)
    flags.DEFINE_string("out", None, "folder of the versions", required=True, flag_values=flag_values)
    parity.define_flags(flag_values)
    command.parse(flag_values, argv, USAGE)
    run, out = runs.load_run(flag_values.run), Path(flag_values.out)
    check_whole(run.card)  # before the evidence is read, and before the look is counted
    tolerances = parity.tolerances_from(flag_values)
    evidence = parity.load_evidence(run, flag_values.manifest, flag_values.split, flag_values.images)
    comparison, placed = export(run, out, evidence, tolerances, keep_failed=flag_values.keep_failed)
    print(parity_report.format_table([comparison]))
    target = out / comparison.name
    if placed:
        megabytes = comparison.measured["size_bytes"] / 1e6
        print(f"\nwritten: {target} ({comparison.fitness}, {megabytes:.1f} MB with warm-up requests and card)")
        print("\n".join(f"  {line}" for line in describe(target)))
    else:
        print(f"\nnot written: {target} ({comparison.fitness}; --keep_failed writes it all the same)")
    report = out / parity_report.version_stem(comparison.name)
    print(f"report: {report}.md {report}.json")
    return 0 if comparison.fitness == "fit" else parity.UNFIT


if __name__ == "__main__":
    command.run(main)
