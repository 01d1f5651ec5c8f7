"""What the figures read from run folders: runs and their names, predictions of the same images, lines, history."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ladnn_tf import calibration, metrics, runs, same_images
from ladnn_tf.labels import COVID, LESIONS

TASK_NAMES = {"ladnn": "LA-DNN", "baseline": "baseline", "trunk": "plain trunk", "drenet": "DRENet"}

HISTORY = ("epoch", "loss", "val_loss", "val_covid_loss", "val_auc", "learning_rate")
"""Columns of every `history.csv`; LA-DNN's has `covid_loss` and `lesions_loss` too."""


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve of a figure: one run, or the runs of one experiment that differ in their seed alone.

    Attributes:
        label: for the legend.
        task: `ladnn` or `baseline`.
        names: of its runs.
    """

    label: str
    task: str
    names: tuple[str, ...]


def load_runs(folders: Sequence[str]) -> dict[str, runs.Run]:
    """Opens runs and names each by its folder; where two folders are called the same, with those above them.

    Returns:
        Runs by name, in the order given.

    Raises:
        ValueError: if one is no finished run, or given twice.
    """
    paths = [Path(folder).resolve() for folder in folders]
    twice = [folder for number, folder in enumerate(folders) if paths[number] in paths[:number]]
    if twice:
        raise ValueError(f"--run={twice[0]} is given twice; give each run once")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return {
        "_".join(path.parts[-depth:]): runs.load_run(folder) for path, folder in zip(paths, folders, strict=True)
    }


def read_tables(loaded: Mapping[str, runs.Run], split: str) -> dict[str, pd.DataFrame]:
    """Reads the runs' predictions of a split, all in the order of the first run's images.

    Args:
        loaded: runs by name, at least one.
        split: `train`, `validation` or `test`.

    Returns:
        Tables by name, as `runs.predictions_table`.

    Raises:
        ValueError: if there are no predictions, they are damaged or not the run's, or two runs' are not of the
            same images with the same labels.
    """
    tables = {name: _read_table(run, split) for name, run in loaded.items()}
    first, *others = tables
    for name in others:
        tables[name] = _in_the_order_of(tables[first], tables[name], loaded[first].folder, loaded[name].folder)
    return tables


def lines(loaded: Mapping[str, runs.Run], *, group_seeds: bool) -> list[Line]:
    """Decides which curves a figure of several runs has.

    Args:
        loaded: runs by name.
        group_seeds: whether runs of the same settings, data and initial weights share a line, whatever their
            seeds.

    Returns:
        The lines, in the order of their first runs.

    Raises:
        ValueError: if two runs hold the same model.
    """
    groups: dict[object, list[str]] = {}
    models: dict[str, str] = {}
    for name, run in loaded.items():
        first = models.setdefault(run.card.model_sha256, name)
        if first != name:
            raise ValueError(f"{first} and {name} hold the same model; give each run once")
        experiment = dataclasses.replace(run.config, seed=0), run.card.manifest["sha256"], run.card.weights
        groups.setdefault(experiment if group_seeds else name, []).append(name)
    kinds = [_kind(loaded[names[0]]) for names in groups.values()]
    drawn = []
    for kind, names in zip(kinds, groups.values(), strict=True):
        seeds = len({loaded[name].config.seed for name in names})
        label = _label(kind, names, seeds, unique=kinds.count(kind) == 1)
        drawn.append(Line(label, loaded[names[0]].card.task, tuple(names)))
    return drawn


def read_history(folder: Path) -> pd.DataFrame:
    """Reads `history.csv` of a run.

    Returns:
        The columns of `HISTORY` and, for LA-DNN, `covid_loss` and `lesions_loss`: float64, NaN where a value was
        not a number; a row for each epoch.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    path = folder / "history.csv"
    if not path.is_file():
        raise ValueError(f"there is no {path}, which training writes; copy the whole folder of the run")
    history = _read(path, lambda: pd.read_csv(path))
    missing = [column for column in HISTORY if column not in history]
    if missing:
        raise ValueError(f"{path} is damaged: it lacks the columns {', '.join(missing)}")
    for column in history:
        if not pd.api.types.is_numeric_dtype(history[column]):
            raise ValueError(f"{path} is damaged: its column {column} holds something other than numbers")
    if list(history["epoch"]) != list(range(1, len(history) + 1)) or history.empty:
        raise ValueError(f"{path} is damaged: its epochs should be 1, 2, 3 and so on")
    return history.astype(np.float64)


def sample(table: pd.DataFrame, split: str) -> str:
    """The size of a sample, for a title: `Test split: 203 images of 121 patients, 98 with COVID-19`."""
    patients, positives = table["patient"].nunique(), int(table[COVID].sum())
    return f"{split.capitalize()} split: {len(table)} images of {patients} patients, {positives} with COVID-19"


def _kind(run: runs.Run) -> str:
    return f"{TASK_NAMES[run.card.task]}, {run.card.backbone}"


def _label(kind: str, names: Sequence[str], seeds: int, *, unique: bool) -> str:
    several = ""
    if len(names) > 1:
        in_words = f"{seeds} seed{'s' if seeds > 1 else ''}"
        several = f", {in_words}" if seeds == len(names) else f", {len(names)} runs of {in_words}"
    return f"{kind}{several}" if unique else f"{kind}{several} ({names[0]}{' ...' if several else ''})"


def _read(path: Path, reader: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    try:
        return reader()
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _read_table(run: runs.Run, split: str) -> pd.DataFrame:
    path = run.folder / f"predictions_{split}.csv"
    again = f"make it anew by python -m ladnn_tf.evaluate --run={run.folder} --split={split}"
    table = _read(path, lambda: runs.read_predictions(run.folder, split))
    lesions = [f"{lesion}_{kind}" for lesion in LESIONS for kind in ("logit", "probability")]
    numbers = ["covid_logit", "covid_probability"] + (lesions if run.card.task == "ladnn" else [])
    missing = [name for name in ("image", "patient", COVID, *numbers) if name not in table]
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}; {again}")
    if table["image"].duplicated().any():
        raise ValueError(f"{path} lists {table['image'][table['image'].duplicated()].iloc[0]!r} twice; {again}")
    try:
        metrics.checked(table[COVID], table["covid_probability"])
        finite = np.isfinite(table[numbers].to_numpy(np.float64)).all(axis=1)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; {again}") from error
    if not finite.all():
        image = table["image"].iloc[np.argmin(finite)]
        raise ValueError(f"{path} is damaged: not all outputs of image {image!r} are numbers; {again}")
    logits, probabilities = table["covid_logit"], table["covid_probability"]
    if calibration.worst_mismatch(logits, probabilities, run.card.temperature) is not None:
        raise ValueError(f"{path} was not predicted with the temperature of this run's card; {again}")
    return table


def _in_the_order_of(first: pd.DataFrame, table: pd.DataFrame, one: Path, other: Path) -> pd.DataFrame:
    different = same_images.unshared_images(first, table)
    if different:
        raise ValueError(
            f"{one} and {other} were evaluated on different images ({len(different)} are in one of them alone, "
            f"such as {different[0]!r}); one figure holds runs on the same images only: evaluate both with the "
            "same manifest"
        )
    table = same_images.in_the_order_of(first, table)
    if found := same_images.first_disagreement(first, table):
        column, image = found
        raise ValueError(
            f"{one} and {other} disagree about the {column} of image {image!r}; evaluate both with the same "
            "manifest"
        )
    return table
