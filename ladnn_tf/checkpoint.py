"""The state of a training after an epoch, in one file, from which it goes on bit-identically.

Keras' BackupAndRestore and `.keras` files leave out the states of random generators (dropout), so that a training
continued from them differs. Here every variable of model and optimizer is kept, with what the callbacks know.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ladnn_tf.files import atomic_file, read_arrays

FORMAT = 1
FILE = "checkpoint.npz"


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a training has come, as far as it is not in a variable.

    Attributes:
        epoch: number of finished epochs, those of a frozen phase included.
        stopped: whether it ended before its last epoch (early stopping, or a loss that is not finite).
        history: a row for each finished epoch, as in `history.csv`.
        best_epoch: number of the best epoch so far, from 1; 0 for none.
        origin: what the training began with and must find again, from `origin.describe`.
    """

    epoch: int
    stopped: bool
    history: list[dict[str, float]]
    best_epoch: int
    origin: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        path: of the file.
        progress: how far the training had come.
        best_weights: the best epoch's, as `Model.get_weights` gives them; empty for none.
        model: values of `Model.variables`, in order, seed states included.
        optimizer: values of the optimizer's variables, in order.
    """

    path: Path
    progress: Progress
    best_weights: list[np.ndarray]
    model: list[np.ndarray]
    optimizer: list[np.ndarray]

    def restore(self, model: keras.Model) -> None:
        """Gives a compiled model, and its optimizer, all values.

        Raises:
            ValueError: if they do not fit, naming the variable; nothing is assigned then.
        """
        model.optimizer.build(model.trainable_variables)
        for kind, variables, values in (
            ("model", model.variables, self.model),
            ("optimizer", model.optimizer.variables, self.optimizer),
        ):
            shapes = [tuple(variable.shape) for variable in variables]
            stored = [value.shape for value in values]
            if shapes != stored:
                wrong = [v.path for v, s, t in zip(variables, shapes, stored, strict=False) if s != t]
                raise ValueError(
                    f"{self.path} does not fit this training: {len(stored)} variables of the {kind} for "
                    f"{len(shapes)}{f', the first of another shape is {wrong[0]}' if wrong else ''}; it was "
                    "probably written by another version"
                )
        for variables, values in ((model.variables, self.model), (model.optimizer.variables, self.optimizer)):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)


def write_checkpoint(path: Path, model: keras.Model, progress: Progress, best_weights: list[np.ndarray]) -> None:
    """Writes the state of a training, atomically.

    Args:
        path: of the file; the one before is replaced.
        model: compiled; its variables and its optimizer's are written.
        progress: the rest of the state.
        best_weights: the best epoch's.

    Raises:
        OSError: if it cannot be written; the file before is then as it was.
    """
    arrays = {"progress": np.array(json.dumps({"format": FORMAT, **dataclasses.asdict(progress)}))}
    groups = (("model", model.variables), ("optimizer", model.optimizer.variables), ("best", best_weights))
    for group, values in groups:
        arrays |= {f"{group}/{number:05d}": np.asarray(value) for number, value in enumerate(values)}
    with atomic_file(path) as file:
        np.savez(file, **arrays)


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads what `write_checkpoint` wrote.

    Raises:
        ValueError: if it cannot be read, or is of another version.
    """
    try:
        arrays = read_arrays(path)
        fields = json.loads(str(arrays["progress"]))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is no checkpoint: {error}; start the run anew by --overwrite") from error
    if fields.pop("format", None) != FORMAT:
        raise ValueError(
            f"{path} was written by another version; go on with that one, or start anew by --overwrite"
        )
    groups = {
        group: [arrays[name] for name in sorted(arrays) if name.startswith(f"{group}/")]
        for group in ("model", "optimizer", "best")
    }
    return Checkpoint(path, Progress(**fields), groups["best"], groups["model"], groups["optimizer"])
