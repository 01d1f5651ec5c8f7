"""A grid of runs, backbone x task x data set x seed: which there should be, and how far each one is.

All state lies in the run folders themselves, so that a grid can be killed at any moment and started again. A run
is recognised by its settings and by the hashes of its manifest and of its initial weights, not by its name.
"""

import dataclasses
import enum
import itertools
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from absl import flags

from ladnn_tf import checkpoint, config, metrics, runs
from ladnn_tf.data.manifest import read_manifest
from ladnn_tf.files import file_sha256, write_atomically
from ladnn_tf.labels import COVID, SPLITS, TASKS
from ladnn_tf.models.backbones import BACKBONES
from ladnn_tf.models.weights import SOURCES

SPLIT = "test"
"""The split of the table."""

_NAMED_WEIGHTS = (*SOURCES, "none")
_AUC_TOLERANCE = 1e-9
_COLUMNS = ("image", "patient", COVID, f"{COVID}_probability")


class State(enum.StrEnum):
    """How far a run is, in the order in which a grid would rather have one than the next."""

    DONE = "done"
    EVALUATE = "to evaluate"
    BUSY = "being trained by another process"
    UNFINISHED = "unfinished"
    BLOCKED = "blocked"
    MISSING = "to train"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A manifest under the name that it has in the table.

    Attributes:
        name: such as `d0`.
        manifest: path of the CSV file.
        sha256: of the file.
        images: number of images in each split.
    """

    name: str
    manifest: str
    sha256: str
    images: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One run of a grid.

    Attributes:
        name: of its folder, if it has to be made.
        dataset: what it is trained and tested on.
        settings: of the training.
        weights_sha256: of the file of initial weights; empty where they have a name.
    """

    name: str
    dataset: Dataset
    settings: config.TrainConfig
    weights_sha256: str


@dataclasses.dataclass(frozen=True)
class Status:
    """What there is of a wanted run.

    Attributes:
        wanted: the run.
        state: how far it is.
        folder: where it lies, or would lie.
        epoch: number of finished epochs of one that is unfinished or busy.
        reason: why it is blocked.
        predictions: of the test split, of one that is done (`runs.read_predictions`).
    """

    wanted: Wanted
    state: State
    folder: Path
    epoch: int = 0
    reason: str = ""
    predictions: pd.DataFrame | None = None


def read_datasets(items: Iterable[str]) -> list[Dataset]:
    """Reads manifests that are given as `name=path`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if an item is something else, a name or a file occurs twice, or a manifest is wrong.
    """
    datasets: list[Dataset] = []
    for item in items:
        name, _, path = item.partition("=")
        if not re.fullmatch(r"\w[\w-]*", name) or not path:
            raise ValueError(
                f"--datasets should be NAME=MANIFEST.csv,... such as d0=data/covid_ct.csv, got {item!r}"
            )
        frame = read_manifest(path)
        images = {split: int((frame["split"] == split).sum()) for split in SPLITS}
        for other in datasets:
            if name == other.name or frame.attrs["sha256"] == other.sha256:
                raise ValueError(
                    f"--datasets={item} and {other.name}={other.manifest} have one name or one content"
                )
        datasets.append(Dataset(name, path, frame.attrs["sha256"], images))
    return datasets


def read_recipe(path: str | Path) -> config.TrainConfig:
    """Reads the settings that all runs of a grid share from a flagfile of `ladnn_tf.train`.

    Raises:
        ValueError: if a line is no such flag, a value is out of range, or it begins from another run.
    """
    flag_values = flags.FlagValues()
    config.define_flags(flag_values)
    try:
        rest = flag_values(["recipe", f"--flagfile={path}"])[1:]
    except flags.Error as error:
        raise ValueError(f"--recipe={path}: {error}; looked for from {Path.cwd()}") from error
    if rest:
        raise ValueError(f"--recipe={path}: {rest[0]!r} is no flag of ladnn_tf.train")
    settings = config.from_flags(flag_values)
    if settings.init_run:
        raise ValueError(f"--recipe={path} has --init_run; the runs of a grid begin from --weights")
    return settings


def wanted_runs(
    recipe: config.TrainConfig,
    name: str,
    datasets: Sequence[Dataset],
    backbones: Sequence[str],
    tasks: Sequence[str],
    seeds: Sequence[int],
    weights: str | None = None,
) -> list[Wanted]:
    """The runs of a grid, by data set, backbone, seed and task.

    Args:
        recipe: settings that all share.
        name: what the names of the folders begin with.
        datasets: see `read_datasets`.
        backbones: keys of `BACKBONES`.
        tasks: of `labels.TASKS`.
        seeds: each at least 0.
        weights: initial weights instead of the recipe's; `{backbone}` in it stands for the backbone.

    Raises:
        ValueError: if a list is empty or repeats itself, a backbone or task is unknown, or weights are missing.
    """
    for flag, values, known in (
        ("datasets", datasets, datasets),
        ("backbones", backbones, BACKBONES),
        ("tasks", tasks, TASKS),
        ("seeds", seeds, seeds),
    ):
        unknown = [value for value in values if value not in known]
        if not values or unknown or any(value in values[:place] for place, value in enumerate(values)):
            choices = "" if known is values else f" of {', '.join(known)}"
            raise ValueError(f"--{flag} should be a list{choices}, each once, got {list(values)}")
    wanted = []
    for dataset, backbone in itertools.product(datasets, backbones):
        chosen = (weights or recipe.weights).replace("{backbone}", backbone)
        if chosen not in _NAMED_WEIGHTS and not Path(chosen).is_file():
            raise ValueError(f"--weights={chosen} is no file, nor one of {', '.join(_NAMED_WEIGHTS)}")
        sha256 = "" if chosen in _NAMED_WEIGHTS else file_sha256(chosen)
        for seed, task in itertools.product(seeds, tasks):
            settings = dataclasses.replace(
                recipe, manifest=dataset.manifest, backbone=backbone, task=task, seed=seed, weights=chosen
            )
            folder = f"{name}_{dataset.name}_{backbone}_{task}_seed{seed}"
            wanted.append(Wanted(folder, dataset, settings, sha256))
    return wanted


def find_runs(wanted: Sequence[Wanted], folder: Path) -> tuple[list[Status], list[str]]:
    """Looks for the runs of a grid among the folders of runs; nothing is changed.

    Where several runs have the same settings, the one that is furthest counts, the first by name among equals.

    Args:
        wanted: the runs.
        folder: that holds the run folders.

    Returns:
        A status for each wanted run, in order, and a line on each run folder that was passed over: because it
        cannot be read, or because it has the settings of a wanted run, but other data or weights.
    """
    found: dict[str, list[Status]] = {each.name: [] for each in wanted}
    passed_over = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith(".") or not (path / "config.flags").is_file():
            continue
        try:
            settings = config.read_config(path / "config.flags")
            same = [each for each in wanted if _comparable(each.settings) == _comparable(settings)]
            if same:
                status = _examine(path, settings, same)
                found[status.wanted.name].append(status)
        except (ValueError, OSError) as error:
            where = "" if str(path) in str(error) else f"{path}: "
            passed_over.append(f"passed over: {where}{error}")
    order = list(State)
    return [
        min(found[each.name], key=lambda status: order.index(status.state), default=None)
        or _missing(each, folder / each.name)
        for each in wanted
    ], passed_over


def claim(status: Status) -> None:
    """Makes the folder of a missing run, with its settings, in one step; `train --resume` then begins it.

    Raises:
        ValueError: if another process was faster.
        OSError: if it cannot be written.
    """
    parent = status.folder.parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{status.folder.name}.") as temporary:
        new = Path(temporary) / "run"
        write_atomically(new / "config.flags", status.wanted.settings.to_flags().encode())
        try:
            new.rename(status.folder)
        except OSError as error:
            if not status.folder.exists():
                raise
            raise ValueError(f"{status.folder} was made by another process just now") from error


def release(folder: Path) -> None:
    """Removes the folder of a run that holds its settings and nothing else: one that never began."""
    if [path.name for path in folder.iterdir()] == ["config.flags"]:
        with runs.training_lock(folder):
            (folder / "config.flags").unlink()
        folder.rmdir()


def _comparable(settings: config.TrainConfig) -> config.TrainConfig:
    # Data and weights are compared by their contents.
    return dataclasses.replace(settings, manifest="", weights="")


def _examine(folder: Path, settings: config.TrainConfig, same: Sequence[Wanted]) -> Status:
    """The status of a run with the settings of some wanted ones; ValueError if it is none of them."""
    finished = (folder / "card.json").is_file()
    epoch = 0
    if finished:
        run = runs.load_run(folder)
        data, weights = run.card.manifest["sha256"], run.card.weights
    elif (folder / checkpoint.FILE).is_file():
        data, weights, epoch = _progress(folder / checkpoint.FILE)
    else:
        data, weights = file_sha256(settings.manifest), settings.weights
        if weights not in _NAMED_WEIGHTS:
            weights += f" (SHA-256 {file_sha256(weights)})"
    wanted = next((each for each in same if each.dataset.sha256 == data), None)
    if wanted is None:
        raise ValueError(
            f"it was trained on data with SHA-256 {data[:12]}... ({settings.manifest} at that time), which "
            f"{', '.join(each.dataset.manifest for each in same)} has not; bring back the manifest to use it"
        )
    expected = f"(SHA-256 {wanted.weights_sha256})" if wanted.weights_sha256 else wanted.settings.weights
    if not weights.endswith(expected):
        raise ValueError(f"it began with other weights, {weights}, than --weights={wanted.settings.weights}")
    if finished:
        return _evaluation(wanted, run)
    try:
        with runs.training_lock(folder):
            return Status(wanted, State.UNFINISHED, folder, epoch)
    except ValueError:
        return Status(wanted, State.BUSY, folder, epoch)


def _progress(path: Path) -> tuple[str, str, int]:
    """The SHA-256 of the manifest, the weights, and the number of finished epochs of an interrupted training."""
    try:
        progress = checkpoint.read_checkpoint(path).progress
        return progress.origin["manifest_sha256"], progress.origin["weights"], progress.epoch
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no checkpoint of this version ({error})") from error


def _evaluation(wanted: Wanted, run: runs.Run) -> Status:
    try:
        figures = runs.read_metrics(run.folder, run.card.model_sha256).get(SPLIT)
        if figures is None or not (run.folder / f"predictions_{SPLIT}.csv").is_file():
            return Status(wanted, State.EVALUATE, run.folder)
        predictions = runs.read_predictions(run.folder, SPLIT)
        missing = [column for column in _COLUMNS if column not in predictions]
        if missing:
            raise ValueError(f"predictions_{SPLIT}.csv lacks the columns {', '.join(missing)}")
        if len(predictions) != figures["images"]:
            raise ValueError(
                f"predictions_{SPLIT}.csv has {len(predictions)} images, metrics.json {figures['images']}"
            )
        found = metrics.binary_metrics(predictions[COVID], predictions[f"{COVID}_probability"], 0.5)["auc"]
        stored = figures[COVID]["auc"]["value"]
        if found != stored and abs(found - stored) > _AUC_TOLERANCE:
            raise ValueError(f"the AUC of predictions_{SPLIT}.csv is {found}, that of metrics.json {stored}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = (
            f"predictions_{SPLIT}.csv and metrics.json cannot be used ({error}); restore them, or delete both and "
            "start again"
        )
        return Status(wanted, State.BLOCKED, run.folder, reason=reason)
    return Status(wanted, State.DONE, run.folder, predictions=predictions)


def _missing(wanted: Wanted, folder: Path) -> Status:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        reason = f"{folder} holds something else than this run; move it away, or give another --runs"
        return Status(wanted, State.BLOCKED, folder, reason=reason)
    return Status(wanted, State.MISSING, folder)
