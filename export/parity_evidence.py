"""What the gate judges by: images, their labels, and what the run's own Keras model says of them."""

import dataclasses
import functools
import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy
from absl import logging

from export.artefacts import ARRAYS, Outputs
from export.signatures import answering_model
from ladnn_tf import metrics, runs
from ladnn_tf.calibration import calibrated_probabilities
from ladnn_tf.card import Card
from ladnn_tf.data import lung_images, pipeline
from ladnn_tf.data.covid_ct import read_covid_ct
from ladnn_tf.data.manifest import read_manifest, select_split
from ladnn_tf.data.phantom import write_dataset
from ladnn_tf.files import file_sha256
from ladnn_tf.labels import COVID

PHANTOM_PATIENTS = 80
"""Phantoms of the AUC loss: with `PHANTOM_SEED` 127 slices with COVID-19 and 127 without."""

PHANTOM_SEED = 20260
"""Not the quickstart's, so that a run that learnt on phantoms has not seen these."""

PHANTOM_SIZE = 224
"""Their least side in pixels, the generator's own; larger where the network's input is."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """N images and what the run's own model says of them.

    Attributes:
        data: what they are, as the report names it.
        encoded: the bytes of the files.
        pixels: `(N, S, S, 3)` uint8 RGB in [0, 255], as the Keras run sees them.
        labels: `(N,)` int, 1 is COVID-19.
        patients: `(N,)` str.
        reference: the run's own answers, in float32 arithmetic.
    """

    data: dict
    encoded: list[bytes]
    pixels: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    reference: Outputs

    @functools.cached_property
    def auc(self) -> float | None:
        """Of the run's own model; None where a class is missing."""
        return metrics.binary_metrics(self.labels, self.reference.covid, 0.5)["auc"]


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What one run's exports are compared on.

    Attributes:
        card: of the run.
        flags: of a command that takes the same images again, for a shell, such as `--run=runs/x --split=test`.
        sample: the images.
        make_phantoms: makes the phantoms, for runs whose AUC on the images is too low to show a loss.
        seen: to be called when there is an answer of which a person learns how good the run is on the images; it
            counts the look, once.
    """

    card: Card
    flags: str
    sample: Sample
    make_phantoms: Callable[[], Sample]
    seen: Callable[[], None]

    @functools.cached_property
    def phantoms(self) -> Sample:
        """Drawn when they are first asked for, which takes seconds."""
        return self.make_phantoms()


def load_evidence(
    run: runs.Run,
    manifest: str = "",
    split: str = "test",
    images: int = 0,
    *,
    phantom_patients: int = PHANTOM_PATIENTS,
    phantom_size: int = PHANTOM_SIZE,
) -> Evidence:
    """Reads images and lets the run's own model answer them; the first comparison counts as a look.

    Args:
        run: the run.
        manifest: the data; empty for the run's own.
        split: of the manifest.
        images: how many of the split, as `select_evenly`; 0 for all. For a model that is shown the lungs alone
            slices without lungs are then left out.
        phantom_patients: patients of the phantoms, two to four slices each, should they be needed.
        phantom_size: least side of the phantoms in pixels.

    Returns:
        The evidence.

    Raises:
        ValueError: if the run's manifest is not there, an image cannot be read, `images` leaves out a class, or
            the run's model gives a number that is not finite.
        FileNotFoundError: if `manifest` is no file.
    """
    path = manifest or run.config.manifest
    if not manifest and not Path(path).is_file():
        raise ValueError(
            f"{path}, the data of {run.folder}, is not here (looked for from {Path.cwd()}); give --manifest=FILE "
            "with real slices"
        )
    whole = pipeline.select_classes(select_split(read_manifest(path), split), run.card.classes)
    frame = select_evenly(whole, images, run.card.classes)
    pipeline.verify_images(frame)
    own = runs.is_own(run, path)
    about = {
        "manifest": {"file": Path(path).name, "sha256": file_sha256(path)},
        "own_data": own,
        "split": split,
        "images_in_split": len(whole),
    }
    predict = functools.partial(_reference, answering_model(run.model), run.card.temperature)
    sample = _sample(frame, run.card, about, predict)

    @functools.cache
    def seen() -> None:
        if own:
            runs.count_look(run, split)

    def make_phantoms() -> Sample:
        side = max(phantom_size, run.card.image_size)
        return _phantoms(phantom_patients, side, run.card, predict)

    flags = [f"--run={run.folder}", *([f"--manifest={manifest}"] if manifest else []), f"--split={split}"]
    flags += [f"--images={images}"] if images else []
    return Evidence(run.card, shlex.join(flags), sample, make_phantoms, seen)


def select_evenly(frame: pd.DataFrame, images: int, classes: Sequence[str] = ()) -> pd.DataFrame:
    """Takes so many rows, of each class its share, evenly over the rows sorted by the image's name.

    Args:
        frame: manifest rows.
        images: how many; 0, or more than there are, for all.
        classes: of the model's card; not empty for one with a softmax, whose classes are the diagnoses. The
            others' are COVID-19 and not.

    Returns:
        The rows, in their order; at least one of each class that is there.

    Raises:
        ValueError: if `images` is fewer than there are classes.
    """
    if not images or images >= len(frame):
        return frame
    groups = frame.groupby(pipeline.diagnoses(frame) if classes else COVID)
    indices = [group.sort_values("image").index for _, group in groups]
    if images < len(indices):
        raise ValueError(f"--images={images} leaves out a class; give at least {len(indices)}, or 0 for all")
    chosen, rows = [], len(frame)
    for later, index in zip(range(len(indices) - 1, -1, -1), indices, strict=True):
        count = min(max(round(images * len(index) / rows), 1), images - later)  # one is left for each later class
        chosen.append(index[np.linspace(0, len(index) - 1, count).round().astype(int)])
        images, rows = images - count, rows - len(index)
    return frame.loc[sorted(np.concatenate(chosen))]


def _sample(frame: pd.DataFrame, card: Card, about: dict, predict: Callable[[np.ndarray], Outputs]) -> Sample:
    frame, pixels = lung_images.load_split(frame, card.image_size, card.lungs)
    reference = predict(pixels)
    arrays = [getattr(reference, name) for name in ARRAYS]
    finite = [np.isfinite(x).reshape(len(frame), -1).all(axis=1) for x in arrays if x is not None]
    unsound = ~np.all(finite, axis=0)
    if unsound.any():
        raise ValueError(
            f"{frame['path'].iloc[int(np.argmax(unsound))]}: the run's own model gives no finite number"
        )
    labels, patients = frame[COVID].to_numpy(int), frame["patient"].to_numpy(str)
    counts = {"images": len(frame), "positives": int(labels.sum()), "patients": len(set(patients))}
    encoded = [Path(path).read_bytes() for path in frame["path"]]
    return Sample({**about, **counts}, encoded, pixels, labels, patients, reference)


def _reference(model, temperature: float, pixels: np.ndarray) -> Outputs:
    outputs = runs.predict_logits(model, pixels)
    return Outputs(
        calibrated_probabilities(outputs[COVID][:, 0], temperature),
        calibrated_probabilities(outputs["lesions"], 1.0) if "lesions" in outputs else None,
        outputs.get("attention"),
        classes=scipy.special.softmax(outputs["classes"], axis=1) if "classes" in outputs else None,
        boxes=outputs.get("boxes"),
        scores=outputs.get("scores"),
    )


def _phantoms(patients: int, side: int, card: Card, predict: Callable[[np.ndarray], Outputs]) -> Sample:
    logging.info("the AUC on the images is too low to show a loss: drawing phantoms of %d patients", patients)
    about = {"phantoms": {"patients": patients, "size": side, "seed": PHANTOM_SEED}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "phantoms"
        write_dataset(folder, patients=patients, size=side, seed=PHANTOM_SEED)
        return _sample(read_covid_ct(folder).rows, card, about, predict)
