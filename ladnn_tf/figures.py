"""Draws the figures of runs and of a manifest: `python -m ladnn_tf.figures --run=runs/A --run=runs/B --out=DIR`.

| figure | of | shows |
| --- | --- | --- |
| roc, precision_recall | all runs on one axis | curves with bands over patients (Liu et al. 2020, Figure 4) |
| reliability_<run> | each run | calibration before and after the temperature |
| training_<run> | each run | losses, AUC and learning rate over the epochs |
| lesion_pairs_<run> | each LA-DNN | the five lesion outputs by class (Figure 6) |
| lesion_counts, concordance, negatives, figure3 | the manifest | the data (Figure 3, in parts and whole) |

No model is run: `evaluate` has written the predictions before.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from absl import flags
from matplotlib.figure import Figure

from ladnn_tf import (
    command,
    drawing,
    figures_curves,
    figures_lesions,
    figures_manifest,
    figures_runs,
    figures_training,
    runs,
)
from ladnn_tf.data.manifest import read_manifest
from ladnn_tf.labels import SPLITS

USAGE = (
    "python -m ladnn_tf.figures --run=runs/A --run=runs/B --manifest=FILE --out=DIR "
    "[--only=roc,precision_recall] [--split=test]"
)

OF_RUNS = ("roc", "precision_recall", "reliability", "training", "lesion_pairs")
OF_MANIFEST = {
    "lesion_counts": figures_manifest.lesion_counts_figure,
    "concordance": figures_manifest.concordance_figure,
    "negatives": figures_manifest.negatives_figure,
    "figure3": figures_manifest.figure3,
}


def run_figures(
    names: Sequence[str],
    loaded: Mapping[str, runs.Run],
    split: str,
    *,
    group_seeds: bool,
    resamples: int,
    seed: int,
) -> Iterator[tuple[str, Figure]]:
    """Yields figures of runs, each with the name of its file; all files are read before the first.

    Args:
        names: of `OF_RUNS`.
        loaded: runs by name.
        split: whose predictions are drawn.
        group_seeds: whether runs that differ in the seed alone share a curve.
        resamples: of the patients.
        seed: of the resamples.

    Raises:
        ValueError: if a file is missing or damaged, runs were evaluated on different images, or a figure cannot
            hold so many.
    """
    options = {"resamples": resamples, "seed": seed}
    tables = figures_runs.read_tables(loaded, split) if set(names) - {"training"} else {}
    histories = {}
    if "training" in names:
        histories = {name: figures_runs.read_history(run.folder) for name, run in loaded.items()}
    drawn = figures_runs.lines(loaded, group_seeds=group_seeds)
    if "roc" in names:
        yield "roc", figures_curves.roc_figure(drawn, loaded, tables, split, **options)
    if "precision_recall" in names:
        figure = figures_curves.precision_recall_figure(drawn, loaded, tables, split, **options)
        yield "precision_recall", figure
    for name, run in loaded.items():
        if "reliability" in names:
            figure = figures_curves.reliability_figure(name, run, tables[name], split, **options)
            yield f"reliability_{name}", figure
        if "training" in names:
            yield f"training_{name}", figures_training.training_figure(name, run, histories[name])
        if "lesion_pairs" in names and run.card.task == "ladnn":
            figure = figures_lesions.lesion_pairs_figure(name, run, tables[name], split, **options)
            yield f"lesion_pairs_{name}", figure


def main(argv: list[str]) -> int:
    """The command."""
    flag_values = flags.FlagValues()
    fv = {"flag_values": flag_values}
    flags.DEFINE_multi_string("run", [], "folder of a run; may be given several times", **fv)
    flags.DEFINE_string("manifest", None, "draw what this manifest holds", **fv)
    flags.DEFINE_string("out", None, "folder for the figures, replaces older ones", required=True, **fv)
    flags.DEFINE_enum("split", "test", SPLITS, "whose predictions are drawn", **fv)
    flags.DEFINE_list("only", [], f"of {', '.join((*OF_RUNS, *OF_MANIFEST))}; empty: all that can be", **fv)
    flags.DEFINE_list("formats", list(drawing.FORMATS), f"of {', '.join(drawing.FORMATS)}", **fv)
    flags.DEFINE_boolean("group_seeds", True, "runs that differ in their seed alone share one mean curve", **fv)
    flags.DEFINE_integer("resamples", 2000, "bootstrap resamples over patients", 100, **fv)
    flags.DEFINE_integer("seed", 0, "of the resamples", 0, **fv)
    command.parse(flag_values, argv, USAGE)

    folder = Path(flag_values.out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out={folder} is a file; give a folder")
    of_runs, of_manifest = _chosen(flag_values.only, flag_values.run, flag_values.manifest)
    if not flag_values.formats:
        command.usage_error("--formats should name at least one", USAGE)
    _check_names("formats", flag_values.formats, drawing.FORMATS)
    loaded = figures_runs.load_runs(flag_values.run) if of_runs else {}
    frame = read_manifest(flag_values.manifest) if of_manifest else None
    baselines = [name for name, run in loaded.items() if run.card.task == "baseline"]
    if "lesion_pairs" in flag_values.only and len(baselines) == len(loaded):
        raise ValueError(
            f"--only=lesion_pairs needs an LA-DNN; {', '.join(baselines)} learnt the diagnosis alone "
            "(baseline) and has no lesion outputs"
        )
    if "lesion_pairs" in of_runs and baselines:
        print(f"no lesion_pairs of {', '.join(baselines)}: a baseline has no lesion outputs")

    options = {name: flag_values[name].value for name in ("group_seeds", "resamples", "seed")}
    drawn = itertools.chain(
        run_figures(of_runs, loaded, flag_values.split, **options),
        ((name, OF_MANIFEST[name](frame)) for name in of_manifest),
    )
    for name, figure in drawn:
        for file in drawing.save(figure, folder / name, flag_values.formats):
            print(f"written: {file}")
    return 0


def _chosen(only: Sequence[str], folders: Sequence[str], manifest: str | None) -> tuple[list[str], list[str]]:
    """Returns the figures to draw of runs and of the manifest; ends the command where there is nothing to draw."""
    _check_names("only", only, (*OF_RUNS, *OF_MANIFEST))
    if not folders and not manifest:
        command.usage_error("give --run=FOLDER, --manifest=FILE or both", USAGE)
    of_runs = [name for name in OF_RUNS if name in only or not only]
    of_manifest = [name for name in OF_MANIFEST if name in only or not only]
    for names, flag, given in ((of_runs, "run", folders), (of_manifest, "manifest", manifest)):
        if only and names and not given:
            command.usage_error(f"--only={names[0]} needs --{flag}", USAGE)
    return of_runs if folders else [], of_manifest if manifest else []


def _check_names(flag: str, given: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        command.usage_error(f"--{flag} should be of {', '.join(known)}. Received: {unknown[0]!r}", USAGE)


if __name__ == "__main__":
    command.run(main)
