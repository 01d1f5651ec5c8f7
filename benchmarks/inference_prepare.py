"""The worker that writes what is measured: slices, and a run's model in every format, in a process of its own.

What TensorFlow takes to convert them is then gone before anything is measured.
"""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from benchmarks.random_model import random_model
from benchmarks.worker import answer_requests
from export.saved_model import stage
from export.tflite import card_for
from export.tflite_convert import convert, formats_of
from ladnn_tf import runs
from ladnn_tf.card import Card, write_card
from ladnn_tf.config import TrainConfig
from ladnn_tf.data import preprocess
from ladnn_tf.data.phantom_anatomy import sample_patient
from ladnn_tf.data.phantom_slice import draw_slice
from ladnn_tf.files import file_sha256
from ladnn_tf.models.normalisation import TORCH
from ladnn_tf.tflite_file import SUFFIX, read_card, with_card

SLICE_SIDE = 512
"""Pixels of an encoded slice, as scanners make them."""


def multiply_adds(model: keras.Model) -> int:
    """Counts the multiplications, each with its addition, of all convolutions and dense layers for one image.

    Args:
        model: from `build_model`.

    Returns:
        For each such layer the size of its kernel times the positions of its output; pooling, activations and
        batch norm are left out.
    """
    count = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D | keras.layers.Dense):
            count += math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1])
    return count


def write_random_run(folder: Path, model: keras.Model, backbone: str) -> None:
    """Writes the folder of a run that was never trained.

    Args:
        folder: to make.
        model: from `random_model`.
        backbone: its trunk.
    """
    size = model.input_shape[1]
    runs.create_folder(folder, TrainConfig(backbone=backbone, image_size=size, weights="none"))
    model.save(folder / "model.keras")
    card = Card(
        name=folder.name,
        task="ladnn",
        backbone=backbone,
        weights="none",
        normalisation={"mean": list(TORCH.mean), "std": list(TORCH.std)},
        image_size=size,
        temperature=1.0,
        threshold=0.5,
        threshold_rule="none: a benchmark's model with random weights",
        manifest={"file": "", "sha256": ""},
        model_sha256=file_sha256(folder / "model.keras"),
        weights_sha256="",
        best_epoch=0,
        metrics={},
        versions={},
        revision="",
    )
    write_card(card, folder / "card.json")


def draw_slices(count: int) -> list[bytes]:
    """Draws synthetic slices.

    Args:
        count: how many, each of another patient.

    Returns:
        PNG files, grey, `SLICE_SIDE` x `SLICE_SIDE`.
    """
    files = []
    for number in range(count):
        patient = sample_patient(np.random.default_rng([number, 0]), np.random.default_rng([number, 1]))
        drawn = draw_slice(patient, ("GGO",), level=0.5, seed=number, size=SLICE_SIDE)
        files.append(preprocess.encode_png(drawn.image))
    return files


def prepare(folder: Path, *, run: str, backbone: str, image_size: int, slices: int, exported: str = "") -> dict:
    """Writes slices and models.

    Args:
        folder: an empty one.
        run: folder of a finished run; empty for random weights.
        backbone: of random weights.
        image_size: of random weights, the side in pixels.
        slices: how many, phantoms. The ranges of int8 are taken from them too, for speed does not depend on it.
        exported: folder of TFLite files that were exported from the run; empty to convert it here.

    Returns:
        `name`, `backbone`, `image_size`, `multiply_adds`, the paths `pixels` (a `.npy` of `(slices, S, S, 3)`
        uint8) and `files` (a folder of PNG files), and `models`: paths by `keras`, `saved_model` and the formats
        of TFLite.

    Raises:
        ValueError: if the run is none, for an unknown backbone, or if the files were not made of the run.
    """
    source = Path(run)
    if not run:
        source = folder / "random"
        write_random_run(source, random_model(backbone, image_size), backbone)
    finished = runs.load_run(source)
    encoded = draw_slices(slices)
    (folder / "slices").mkdir()
    for number, content in enumerate(encoded):
        (folder / "slices" / f"{number}.png").write_bytes(content)
    size = finished.card.image_size
    pixels = np.stack([preprocess.resize(preprocess.decode(content), size) for content in encoded])
    np.save(folder / "slices.npy", pixels)
    models = {"keras": source / "model.keras", "saved_model": folder / "1"}
    stage(finished, models["saved_model"])
    models |= _exported(finished, Path(exported)) if exported else _converted(finished, pixels, folder)
    return {
        "name": finished.card.name,
        "backbone": finished.card.backbone,
        "image_size": size,
        "multiply_adds": multiply_adds(finished.model),
        "pixels": str(folder / "slices.npy"),
        "files": str(folder / "slices"),
        "models": {name: str(path) for name, path in models.items()},
    }


def _converted(run: runs.Run, pixels: np.ndarray, folder: Path) -> dict[str, Path]:
    models = {}
    for form, content in convert(run.model, run.card.temperature, formats_of(run.card.backbone), pixels).items():
        models[form] = folder / f"{form}{SUFFIX}"
        models[form].write_bytes(with_card(content, card_for(run, form, content)))
    return models


def _exported(run: runs.Run, folder: Path) -> dict[str, Path]:
    models = {form: folder / f"{form}{SUFFIX}" for form in formats_of(run.card.backbone)}
    models = {form: path for form, path in models.items() if path.is_file()}
    if "float32" not in models:
        raise ValueError(f"there is no float32{SUFFIX} in {folder}, which the ratios refer to; export it too")
    for path in models.values():
        source = read_card(path)[0].export.source_sha256
        if source != run.card.model_sha256:
            raise ValueError(
                f"{path} was made of another model ({source[:12]}...) than {run.folder} holds "
                f"({run.card.model_sha256[:12]}...); export it again"
            )
    return models


def main(argv: list[str]) -> None:
    """The worker."""
    job = json.loads(argv[1])
    folder = Path(job.pop("folder"))

    def start() -> tuple[dict, Callable[..., dict]]:
        return prepare(folder, **job), dict  # it is asked for nothing more

    answer_requests(start)


if __name__ == "__main__":
    main(sys.argv)
