"""The shortcut audit: `python -m ladnn_tf.audit --run=runs/NAME [--manifest=FILE] [--source_run=runs/OTHER]`.

A network may learn where a slice comes from instead of the disease. The audit asks runs for the same slices with
the lungs erased, with the border alone, without the corners and at one resolution; looks at them by source; fits
a classifier that sees no pixel; and sets beside them runs that were trained on a split by source paper.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from absl import flags, logging

from ladnn_tf import audit_text, command, drawing, runs, shortcuts
from ladnn_tf.audit_sheet import contact_sheet
from ladnn_tf.calibration import calibrated_probabilities
from ladnn_tf.data import pipeline, preprocess
from ladnn_tf.data.alterations import ALTERATIONS, common_resolution
from ladnn_tf.data.lungs import NoLungsError
from ladnn_tf.data.manifest import read_manifest, select_split
from ladnn_tf.data.splits import papers_in_several_splits
from ladnn_tf.files import file_sha256, write_atomically
from ladnn_tf.labels import COVID, SPLITS
from ladnn_tf.models.ladnn import logits_model

USAGE = "python -m ladnn_tf.audit --run=runs/NAME [--run=...] [--manifest=FILE] [--source_run=runs/OTHER]"
FILES = ("audit.json", "audit.md", "audit.png")
LEVEL = 0.95
UNCHANGED = "unchanged"
COMMON_RESOLUTION = "common resolution"

Views = dict[str, tuple[np.ndarray, np.ndarray]]
"""Alteration -> `(N, S, S, 3)` uint8 images and (N,) bool, whether each could be altered."""


def audit(
    audited: Sequence[runs.Run],
    split: str,
    *,
    manifest: str | Path,
    source_runs: Sequence[runs.Run] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[dict, Views]:
    """Audits runs on one split of a manifest; every run's own data that are looked at are counted as a look.

    Args:
        audited: at least one run.
        split: `train`, `validation` or `test`.
        manifest: the data.
        source_runs: runs that were trained on a split by source; each is evaluated on its own manifest.
        resamples: bootstrap resamples over patients.
        seed: of the resamples.

    Returns:
        What `audit.json` holds, and a positive and a negative slice of the split in every alteration.

    Raises:
        ValueError: if the data cannot be read, the split lacks a class, or a source run shares papers between
            its splits.
    """
    options = {"resamples": resamples, "seed": seed, "level": LEVEL}
    frame = _both_classes(read_manifest(manifest), split)
    source_frames = [_source_grouped(run, split) for run in source_runs]
    pipeline.verify_images(frame)
    results, views = [], {}
    for run in audited:
        size = run.card.image_size
        if size not in views:
            views[size] = altered_views(frame, size)
        results.append(_audit_run(run, frame, views[size], options))
        if file_sha256(manifest) == run.card.manifest["sha256"]:
            runs.count_look(run, split)
    found = {
        "split": split,
        "manifest": {"file": Path(manifest).name, "sha256": file_sha256(manifest)},
        **_counts(frame),
        **options,
        "sources": shortcuts.count_sources(frame),
        "runs": results,
        "form_of_files": _form_of_files(read_manifest(manifest), split, options),
        "source_runs": [
            _audit_source_run(run, rows, split, options)
            for run, rows in zip(source_runs, source_frames, strict=True)
        ],
    }
    return found, _one_of_each_class(frame, views[audited[0].card.image_size])


def altered_views(frame: pd.DataFrame, size: int) -> Views:
    """Loads the images of manifest rows, unchanged and in every alteration.

    Args:
        frame: manifest rows.
        size: the side S of the network's input in pixels.

    Returns:
        Each alteration's images; where it was not possible the image is black.
    """
    unchanged = pipeline.load_images(frame, size)
    views = {UNCHANGED: (unchanged, np.ones(len(frame), bool))}
    for name, function in ALTERATIONS.items():
        logging.info("altering %d images: %s", len(frame), name)
        views[name] = _altered(unchanged, function)
    originals = (preprocess.decode(Path(path).read_bytes()) for path in frame["path"])
    common = np.stack([common_resolution(original, size) for original in originals])
    return views | {COMMON_RESOLUTION: (common, np.ones(len(frame), bool))}


def write_audit(found: dict, examples: Views, out: Path) -> None:
    """Writes `FILES` into a folder, `audit.json` last."""
    write_atomically(out / "audit.md", audit_text.format_audit(found).encode())
    drawing.save(contact_sheet(examples, found["split"], found["images"]), out / "audit", formats=("png",))
    text = json.dumps(found, indent=1, allow_nan=False) + "\n"
    write_atomically(out / "audit.json", text.encode())


def check_out(out: Path, audited: Sequence[runs.Run]) -> None:
    """Checks that an audit of these runs may be written to a folder.

    Raises:
        ValueError: if it is a run, or holds an audit of other models.
    """
    if any((out / name).exists() for name in ("config.flags", "card.json")):
        raise ValueError(f"--out={out} is a run; give a folder of the audit's own, such as {out / 'audit'}")
    path = out / "audit.json"
    if not path.exists():
        return
    try:
        models = [run["model_sha256"] for run in json.loads(path.read_text(encoding="utf-8"))["runs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no audit of this version; give another --out") from error
    if models != [run.card.model_sha256 for run in audited]:
        raise ValueError(f"{path} is an audit of other runs, which is not overwritten; give another --out")


def _both_classes(manifest: pd.DataFrame, split: str) -> pd.DataFrame:
    frame = select_split(manifest, split)
    if frame[COVID].nunique() < 2:
        raise ValueError(
            f"all {len(frame)} images of split {split!r} of {manifest.attrs['path']} have {COVID} = "
            f"{frame[COVID].iloc[0]}; an AUC needs both classes, give another --split or --manifest"
        )
    return frame


def _source_grouped(run: runs.Run, split: str) -> pd.DataFrame:
    manifest = read_manifest(run.config.manifest)
    if manifest.attrs["sha256"] != run.card.manifest["sha256"]:
        raise ValueError(
            f"{run.config.manifest} is not the data that {run.folder} was trained on (another SHA-256); put the "
            "manifest back as it was"
        )
    shared = papers_in_several_splits(manifest)
    if len(shared):
        raise ValueError(
            f"--source_run={run.folder}: {len(shared)} source papers of {run.config.manifest}, such as "
            f"{shared.index[0]}, are in several splits; train it on a manifest made with "
            "python -m ladnn_tf.data.manifest --split=source"
        )
    frame = _both_classes(manifest, split)
    pipeline.verify_images(frame)
    return frame


def _altered(images: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    altered, possible = np.zeros_like(images), np.ones(len(images), bool)
    for position, image in enumerate(images):
        try:
            altered[position] = function(image)
        except NoLungsError as error:
            logging.warning("image %d is left out: %s", position, error)
            possible[position] = False
    return altered, possible


def _probabilities(run: runs.Run) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function from `(N, S, S, 3)` uint8 images to (N,) calibrated probabilities."""
    model = logits_model(run.model)  # once: each new model is traced anew

    def predict(images: np.ndarray) -> np.ndarray:
        logits = runs.predict_logits(model, images)
        return calibrated_probabilities(logits[COVID][:, 0], run.card.temperature)

    return predict


def _audit_run(run: runs.Run, frame: pd.DataFrame, views: Views, options: dict) -> dict:
    predict = _probabilities(run)
    table = frame.assign(probability=predict(views[UNCHANGED][0]))
    alterations = {}
    for name, (images, possible) in views.items():
        if name == UNCHANGED:
            continue
        logging.info("%s: %s", run.card.name, name)
        altered = np.where(possible, predict(images), np.nan)
        alterations[name] = shortcuts.altered_against_unchanged(table, altered, options)
    return _identity(run) | {
        UNCHANGED: _unchanged(table, options),
        "alterations": alterations,
        "sources": shortcuts.by_source(table, options),
    }


def _audit_source_run(run: runs.Run, frame: pd.DataFrame, split: str, options: dict) -> dict:
    images = pipeline.load_images(frame, run.card.image_size)
    table = frame.assign(probability=_probabilities(run)(images))
    runs.count_look(run, split)
    return _identity(run) | _counts(frame) | {"manifest": run.card.manifest, UNCHANGED: _unchanged(table, options)}


def _identity(run: runs.Run) -> dict[str, str]:
    card = run.card
    return {
        "name": card.name,
        "task": card.task,
        "backbone": card.backbone,
        "weights": card.weights,
        "model_sha256": card.model_sha256,
    }


def _unchanged(table: pd.DataFrame, options: dict) -> dict:
    auc = shortcuts.auc_interval(table, options)
    return {"auc": dataclasses.asdict(auc), "against_chance": shortcuts.against_chance(auc, table)}


def _counts(frame: pd.DataFrame) -> dict[str, int]:
    return {
        "images": len(frame),
        "patients": int(frame["patient"].nunique()),
        "positives": int(frame[COVID].sum()),
    }


def _form_of_files(manifest: pd.DataFrame, split: str, options: dict) -> dict:
    """Returns `shortcuts.form_of_files`, or `not_done` with the reason."""
    training = manifest[manifest["split"] == "train"].reset_index(drop=True)
    if split == "train":
        return {"not_done": "it would be judged on the images that it is fitted on"}
    if training[COVID].nunique() < 2:
        return {"not_done": "the manifest has no training images of both classes to fit it on"}
    return shortcuts.form_of_files(training, select_split(manifest, split), options)


def _one_of_each_class(frame: pd.DataFrame, views: Views) -> Views:
    possible = np.logical_and.reduce([each for _, each in views.values()])
    rows = []
    for covid in (1, 0):
        own = np.flatnonzero(frame[COVID] == covid)
        rows.append(next((row for row in own if possible[row]), own[0]))
    return {name: (images[rows], each[rows]) for name, (images, each) in views.items()}


def main(argv: list[str]) -> int:
    """The command."""
    flag_values = flags.FlagValues()
    fv = {"flag_values": flag_values}
    flags.DEFINE_multi_string("run", None, "folder of a run; again for more, such as seeds", required=True, **fv)
    flags.DEFINE_multi_string(
        "source_run",
        [],
        "folder of a run that was trained on a manifest with --split=source; again for more",
        **fv,
    )
    flags.DEFINE_enum("split", "test", SPLITS, "what to audit on", **fv)
    flags.DEFINE_string("manifest", None, "other data than the first run's own (default: the run's)", **fv)
    flags.DEFINE_string("out", None, "folder for the report (default: audit_SPLIT in the first run's)", **fv)
    flags.DEFINE_integer("resamples", 2000, "bootstrap resamples over patients", 100, **fv)
    flags.DEFINE_integer("seed", 0, "of the resamples", **fv)
    command.parse(flag_values, argv, USAGE)

    audited = [runs.load_run(folder) for folder in flag_values.run]
    source_runs = [runs.load_run(folder) for folder in flag_values.source_run]
    for given in (flag_values.run, flag_values.source_run):
        if len({Path(folder).resolve() for folder in given}) < len(given):
            raise ValueError(f"a run is given twice: {', '.join(given)}")
    manifest = flag_values.manifest or audited[0].config.manifest
    out = Path(flag_values.out or audited[0].folder / f"audit_{flag_values.split}")
    for run in audited:
        if not flag_values.out and file_sha256(manifest) != run.card.manifest["sha256"]:
            raise ValueError(
                f"{manifest} is not the data that {run.folder} was trained on (another SHA-256); give "
                "--out=FOLDER so that its audit is kept apart"
            )
    check_out(out, audited)
    found, examples = audit(
        audited,
        flag_values.split,
        manifest=manifest,
        source_runs=source_runs,
        resamples=flag_values.resamples,
        seed=flag_values.seed,
    )
    write_audit(found, examples, out)
    print(audit_text.format_audit(found))
    print("written: " + ", ".join(str(out / name) for name in FILES))
    return 0


if __name__ == "__main__":
    command.run(main)
