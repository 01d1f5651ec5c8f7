"""The shortcut audit: `python -m ladnn_tf.audit --run=runs/NAME [--manifest=FILE] [--source_run=runs/OTHER]`.

A network may learn where a slice comes from instead of the disease. The audit asks runs for the same slices with
the lungs erased, with the border alone, without the corners and at one resolution; looks at them by source; fits
a classifier that sees no pixel; and sets beside them runs that were trained on a split by source paper.
"""

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from absl import flags, logging

from ladnn_tf import audit_text, command, drawing, runs, shortcuts
from ladnn_tf.audit_sheet import contact_sheet
from ladnn_tf.audit_sources import source_grouped
from ladnn_tf.audit_views import UNCHANGED, Views, altered_views, evaluated_split, one_of_each_class
from ladnn_tf.calibration import calibrated_probabilities
from ladnn_tf.data import pipeline
from ladnn_tf.data.manifest import read_manifest, select_split
from ladnn_tf.files import file_sha256, write_atomically
from ladnn_tf.labels import COVID, SPLITS
from ladnn_tf.models.ladnn import logits_model

USAGE = "python -m ladnn_tf.audit --run=runs/NAME [--run=...] [--manifest=FILE] [--source_run=runs/OTHER]"
FILES = ("audit.json", "audit.md", "audit.png")
LEVEL = 0.95


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
        ValueError: if the data cannot be read, the split lacks a class, a run's `metrics.json` is of another
            model, or it is shown the lungs alone, a model is there twice, or a source run is none
            (`audit_sources.source_grouped`). No model has then been asked, and no look is counted.
    """
    options = {"resamples": resamples, "seed": seed, "level": LEVEL}
    check_runs([*audited, *source_runs])
    data = read_manifest(manifest)
    frame = evaluated_split(data, split)
    pipeline.verify_images(frame)
    grouped = [source_grouped(run, split) for run in source_runs]
    form_of_files = _form_of_files(data, split, options)
    results, views = [], {}
    for run in audited:
        size = run.card.image_size
        if size not in views:
            views[size] = altered_views(frame, size)
        results.append(_audit_run(run, frame, views[size], options))
    source_results = [
        _audit_source_run(run, rows, origins, options)
        for run, (rows, origins) in zip(source_runs, grouped, strict=True)
    ]
    own_data = [run for run in audited if run.card.manifest["sha256"] == data.attrs["sha256"]]
    for run in (*own_data, *source_runs):
        runs.count_look(run, split)
    found = {
        "split": split,
        "manifest": {"file": Path(manifest).name, "sha256": data.attrs["sha256"]},
        **_counts(frame),
        **options,
        "sources": shortcuts.count_sources(frame),
        "runs": results,
        "form_of_files": form_of_files,
        "source_runs": source_results,
    }
    return found, one_of_each_class(frame, views[audited[0].card.image_size])


def write_audit(found: dict, examples: Views, out: Path) -> None:
    """Writes `FILES` into a folder, `audit.json` last."""
    write_atomically(out / "audit.md", audit_text.format_audit(found).encode())
    drawing.save(contact_sheet(examples, found["split"], found["images"]), out / "audit", formats=("png",))
    text = json.dumps(found, indent=1, allow_nan=False) + "\n"
    write_atomically(out / "audit.json", text.encode())


def check_out(
    out: Path, audited: Sequence[runs.Run], split: str, manifest_sha256: str, source_runs: Sequence[runs.Run] = ()
) -> None:
    """Checks that an audit may be written to a folder; the folder is made.

    Args:
        out: the folder. An audit that lies there is replaced only by one of the same split, data and models.
        audited: the runs.
        split: that is audited.
        manifest_sha256: of the data.
        source_runs: as in `audit`.

    Raises:
        ValueError: if it is a run, or holds another audit.
        OSError: if nothing can be written there.
    """
    if any((out / name).exists() for name in ("config.flags", "card.json")):
        raise ValueError(f"--out={out} is a run; give a folder of the audit's own, such as {out / 'audit'}")
    path = out / "audit.json"
    if path.exists():
        new = {
            "split": split,
            "data": manifest_sha256,
            "runs": sorted(run.card.model_sha256 for run in audited),
            "source runs": sorted(run.card.model_sha256 for run in source_runs),
        }
        old = _subject(path)
        others = [name for name in new if new[name] != old[name]]
        if others:
            raise ValueError(
                f"{path} is an audit of other things ({', '.join(others)}), which is not overwritten; "
                "give another --out"
            )
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):  # before the work, not after it
        pass


def _subject(path: Path) -> dict[str, str | list[str]]:
    """Reads what an `audit.json` is an audit of."""
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        return {
            "split": old["split"],
            "data": old["manifest"]["sha256"],
            "runs": sorted(run["model_sha256"] for run in old["runs"]),
            "source runs": sorted(run["model_sha256"] for run in old["source_runs"]),
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no audit of this version; give another --out") from error


def check_runs(every: Sequence[runs.Run]) -> None:
    """Checks that runs can be audited beside each other, and that a look at each can be counted.

    Raises:
        ValueError: if a model is there twice, or is shown the lungs alone, or a `metrics.json` is of another one.
    """
    folders: dict[str, Path] = {}
    for run in every:
        if run.card.lungs != "whole":
            raise ValueError(
                f"{run.folder} was trained on lungs that were cut out, and the audit alters whole slices, which "
                "its model never sees. Give runs of --lungs=whole"
            )
        other = folders.get(run.card.model_sha256)
        if other:
            raise ValueError(
                f"the same model is given twice, as {other} and {run.folder}; it would be set beside itself"
            )
        folders[run.card.model_sha256] = run.folder
        runs.read_metrics(run.folder, run.card.model_sha256)


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


def _audit_source_run(run: runs.Run, frame: pd.DataFrame, origins: list[dict], options: dict) -> dict:
    images = pipeline.load_images(frame, run.card.image_size)
    table = frame.assign(probability=_probabilities(run)(images))
    return _identity(run) | _counts(frame) | {"origins": origins, UNCHANGED: _unchanged(table, options)}


def _identity(run: runs.Run) -> dict:
    card = run.card
    return {
        "name": card.name,
        "task": card.task,
        "backbone": card.backbone,
        "weights": card.weights,
        "image_size": card.image_size,
        "manifest": card.manifest,
        "settings_sha256": _settings_sha256(run),
        "model_sha256": card.model_sha256,
    }


def _settings_sha256(run: runs.Run) -> str:
    """Returns what is equal for runs that differ by no more than their seed: same data, weights and settings."""
    settings = dataclasses.replace(run.config, seed=0, manifest=run.card.manifest["sha256"])
    return hashlib.sha256((settings.to_flags() + run.card.weights).encode()).hexdigest()


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
    pipeline.verify_images(training)
    return shortcuts.form_of_files(training, select_split(manifest, split), options)


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
    check_runs([*audited, *source_runs])
    manifest = flag_values.manifest or audited[0].config.manifest
    out = Path(flag_values.out or audited[0].folder / f"audit_{flag_values.split}")
    for run in audited if not flag_values.out else ():
        runs.check_own_data(run, manifest, "audit is")
    check_out(out, audited, flag_values.split, file_sha256(manifest), source_runs)
    found, examples = audit(
        audited,
        flag_values.split,
        manifest=manifest,
        source_runs=source_runs,
        resamples=flag_values.resamples,
        seed=flag_values.seed,
    )
    print(audit_text.format_audit(found))
    write_audit(found, examples, out)
    print("written: " + ", ".join(str(out / name) for name in FILES))
    return 0


if __name__ == "__main__":
    command.run(main)
