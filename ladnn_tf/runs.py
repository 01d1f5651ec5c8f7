"""A run is a folder that repeats itself: `config.flags`, `model.keras`, `card.json` and what came of them."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import scipy
from absl import logging

from ladnn_tf import checkpoint
from ladnn_tf.calibration import calibrated_probabilities
from ladnn_tf.card import Card, read_card
from ladnn_tf.config import TrainConfig, read_config
from ladnn_tf.data import lung_images, pipeline
from ladnn_tf.data.manifest import read_manifest, select_split
from ladnn_tf.devices import grow_gpu_memory
from ladnn_tf.files import file_sha256, write_atomically
from ladnn_tf.labels import COVID, LESIONS
from ladnn_tf.models import drenet  # noqa: F401  Keras must know its layers before it reads a model that has them
from ladnn_tf.models.ladnn import logits_model

try:
    import fcntl
except ImportError:
    fcntl = None

_IDENTITY = ["image", "patient", "source", "diagnosis", "sex", "age", COVID, *LESIONS]
_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "pillow", "scikit-learn")
BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where it lies.
        config: the settings it was trained with.
        card: its model card, checked against the model file.
    """

    folder: Path
    config: TrainConfig
    card: Card

    @functools.cached_property
    def model(self) -> keras.Model:
        """The trained model, float32: images `(B, S, S, 3)` to probabilities, not calibrated."""
        grow_gpu_memory()
        return keras.models.load_model(self.folder / "model.keras", compile=False, safe_mode=True)


def check_new_folder(folder: str | Path, *, overwrite: bool) -> Path:
    """Checks that a new run can be written to a folder; nothing is changed.

    Args:
        folder: the folder to make.
        overwrite: whether a run that lies there may be replaced.

    Returns:
        The folder.

    Raises:
        ValueError: if the folder exists and is not to be overwritten, is no run, or is being trained.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        if not overwrite:
            raise ValueError(f"{folder} exists; give another --run, or --overwrite to replace it")
        if not (folder / "config.flags").is_file():
            raise ValueError(f"{folder} exists and is not a run (no config.flags); it is not overwritten")
        with training_lock(folder):
            pass
    return folder


def create_folder(folder: Path, config: TrainConfig) -> None:
    """Makes the folder of a new run with its `config.flags`; one that `check_new_folder` let pass is deleted."""
    if folder.exists():
        shutil.rmtree(folder)
    write_atomically(folder / "config.flags", config.to_flags().encode())


@contextlib.contextmanager
def training_lock(folder: Path) -> Iterator[None]:
    """Keeps other processes from training in the same folder; the end of the process, however it comes, frees it.

    Where the system has no such locks (Windows) nothing is kept from anything.

    Raises:
        ValueError: if another process is training there.
    """
    with (folder / "config.flags").open("rb") as file:
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(f"{folder} is being trained by another process") from error
        yield


def unfinished_config(folder: Path) -> TrainConfig:
    """The settings of a run whose training was interrupted.

    Of a finished one the checkpoint is deleted that a kill at the very end may have left.

    Raises:
        ValueError: if there is no such run, or it is finished.
    """
    if not (folder / "config.flags").is_file():
        raise ValueError(f"there is no run to resume in {folder} (no config.flags; looked for from {Path.cwd()})")
    if (folder / "card.json").is_file():
        (folder / checkpoint.FILE).unlink(missing_ok=True)
        raise ValueError(f"{folder} is finished; there is nothing to resume")
    return read_config(folder / "config.flags")


def not_stored(what: str, folder: Path, error: OSError) -> str:
    """The message for a part of a training that could not be written: what is kept, and how to go on."""
    return (
        f"{what} could not be stored ({error.strerror or error}); the last state that could be written is "
        f"kept. Make room or mend the folder, then go on by python -m ladnn_tf.train --run={folder} --resume"
    )


def load_run(folder: str | Path) -> Run:
    """Opens a finished run; the model itself is read when it is first used.

    Raises:
        ValueError: if the folder is not a finished run, or its card does not belong to its model or its settings.
    """
    folder = Path(folder)
    for name in ("config.flags", "model.keras", "card.json"):
        if not (folder / name).is_file():
            begun = (folder / "config.flags").is_file()
            way = f"; finish it by python -m ladnn_tf.train --run={folder} --resume" if begun else ""
            raise ValueError(
                f"{folder} is not a finished run: there is no {name} (looked for from {Path.cwd()}){way}"
            )
    card = read_card(folder / "card.json", folder / "model.keras")
    config = read_config(folder / "config.flags")
    of_config = {
        "task": config.kind,
        "backbone": config.backbone,
        "image_size": config.image_size,
        "classes": config.class_names,
        "lungs": config.shown_lungs,
    }
    for field, setting in of_config.items():
        if getattr(card, field) != setting:
            raise ValueError(
                f"{folder} holds files of two runs: its card.json has {field}={getattr(card, field)}, its "
                f"config.flags --{field}={setting}; copy the whole folder of the run again"
            )
    manifest = card.manifest if isinstance(card.manifest, dict) else {}
    if not all(isinstance(manifest.get(key), str) for key in ("file", "sha256")):
        raise ValueError(
            f"{folder / 'card.json'} is damaged: its manifest should have a file and a sha256, got "
            f"{card.manifest}; copy the whole folder of the run again"
        )
    if card.task == "ladnn" and not card.lesion_targets:  # a run of before cards had it
        card = dataclasses.replace(card, lesion_targets=config.lesion_targets)
    return Run(folder, config, card)


def is_own(run: Run, manifest: str | Path) -> bool:
    """Whether a manifest is the data that a run was trained on, by its SHA-256.

    Raises:
        ValueError: if there is no such file.
    """
    return file_sha256(manifest) == run.card.manifest["sha256"]


def check_own_data(run: Run, manifest: str | Path, what: str) -> None:
    """Checks that results on a manifest may go into the run's own folder.

    Args:
        run: the run.
        manifest: the data of the results.
        what: the results with their verb, such as `figures are`, for the message.

    Raises:
        ValueError: if the run was trained on other data.
    """
    if not is_own(run, manifest):
        raise ValueError(
            f"{manifest} is not the data that {run.folder} was trained on (another SHA-256); give --out=FOLDER so "
            f"that its {what} kept apart"
        )


def predict_logits(model: keras.Model, images: np.ndarray, batch_size: int = BATCH_SIZE) -> dict[str, np.ndarray]:
    """Runs a model on decoded images.

    Args:
        model: from `logits_model`.
        images: `(N, S, S, 3)` uint8 RGB in [0, 255].
        batch_size: images per step; it changes speed and memory only.

    Returns:
        `{"covid": (N, 1), "lesions": (N, 5)}` float32 logits, or what else the model gives.
    """
    return model.predict(pipeline.prediction_dataset(images, batch_size), verbose=0)


def predictions_table(
    frame: pd.DataFrame, logits: dict[str, np.ndarray], temperature: float, classes: Sequence[str] = ()
) -> pd.DataFrame:
    """Puts labels and predictions side by side, a row per image.

    Args:
        frame: manifest rows.
        logits: from `predict_logits`, in the same order.
        temperature: of the diagnosis; lesions and classes are not calibrated.
        classes: of a model with a softmax, in order.

    Returns:
        The identifying columns and labels of the manifest, then `covid_logit`, `covid_probability` (calibrated)
        and, where the model has them, `<lesion>_logit`, `<lesion>_probability`, or `<class>_probability`.
    """
    table = frame[_IDENTITY].reset_index(drop=True)
    table[f"{COVID}_logit"] = logits[COVID][:, 0]
    table[f"{COVID}_probability"] = calibrated_probabilities(logits[COVID][:, 0], temperature)
    for column, lesion in enumerate(LESIONS if "lesions" in logits else ()):
        table[f"{lesion}_logit"] = logits["lesions"][:, column]
        table[f"{lesion}_probability"] = calibrated_probabilities(logits["lesions"][:, column], 1.0)
    if classes:
        probabilities = scipy.special.softmax(logits["classes"].astype(np.float64), axis=-1)
        for column, name in enumerate(classes):
            table[f"{name}_probability"] = probabilities[:, column]
    return table


def predict_split(run: Run, manifest: str | Path, split: str) -> pd.DataFrame:
    """Predicts one split of a manifest with a run's model.

    Returns:
        As `predictions_table`.

    Raises:
        ValueError: if the manifest or one of its images cannot be read, or nothing is left of the split: of a
            model with classes images with other diagnoses are left out, of one of lungs alone those without lungs.
    """
    frame = pipeline.select_classes(select_split(read_manifest(manifest), split), run.card.classes)
    pipeline.verify_images(frame)
    frame, images = lung_images.load_split(frame, run.card.image_size, run.card.lungs)
    logits = predict_logits(logits_model(run.model), images)
    return predictions_table(frame, logits, run.card.temperature, run.card.classes)


def threshold_rule(target_sensitivity: float) -> str:
    """The rule of a threshold chosen on validation, in words, for card and report."""
    return f"the highest with a sensitivity of at least {target_sensitivity:g} on validation"


def write_predictions(folder: Path, split: str, table: pd.DataFrame) -> None:
    """Writes `predictions_<split>.csv`."""
    write_atomically(folder / f"predictions_{split}.csv", table.to_csv(index=False).encode())


def read_predictions(folder: Path, split: str) -> pd.DataFrame:
    """Reads `predictions_<split>.csv`.

    Raises:
        ValueError: if there is none.
    """
    path = folder / f"predictions_{split}.csv"
    if not path.is_file():
        raise ValueError(
            f"there is no {path}; make it by python -m ladnn_tf.evaluate --run={folder} --split={split}"
        )
    text = dict.fromkeys(("image", "patient", "source", "diagnosis", "sex"), str)
    return pd.read_csv(
        path, dtype=text, keep_default_na=False, na_values={"age": [""], **{x: [""] for x in LESIONS}}
    )


def read_metrics(folder: Path, model_sha256: str) -> dict:
    """Reads `metrics.json` of a folder, an empty one where there is none.

    Raises:
        ValueError: if it holds figures of another model.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        return {"model_sha256": model_sha256, "looks": {}}
    metrics = json.loads(path.read_text(encoding="utf-8"))
    if metrics.get("model_sha256") != model_sha256:
        raise ValueError(f"{path} holds figures of another model; give another folder")
    return metrics


def write_metrics(folder: Path, name: str, figures: dict, model_sha256: str) -> None:
    """Writes figures under a name (a split, as a rule) into `metrics.json`, beside those that are there.

    Raises:
        ValueError: as `read_metrics`.
    """
    _replace_metrics(folder, {**read_metrics(folder, model_sha256), name: figures})


def count_look(run: Run, split: str) -> None:
    """Counts in the run's `metrics.json` that a split of its own data was evaluated, for whatever purpose."""
    metrics = read_metrics(run.folder, run.card.model_sha256)
    metrics["looks"][split] = metrics["looks"].get(split, 0) + 1
    _replace_metrics(run.folder, metrics)


def _replace_metrics(folder: Path, metrics: dict) -> None:
    text = json.dumps(metrics, indent=1, allow_nan=False) + "\n"
    write_atomically(folder / "metrics.json", text.encode())


def card_metrics(evaluation: dict) -> dict:
    """What the card says of an evaluation: the metrics of the diagnosis, with intervals and sample sizes."""
    return {key: evaluation[key] for key in ("images", "patients", "positives", "covid")}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's outcome."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            logging.debug("%s is not installed", package)
    return found


def git_revision() -> str:
    """The revision of the checkout this code runs from, with `-dirty` for changed files, or an empty string."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
