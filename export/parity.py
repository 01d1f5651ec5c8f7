"""The gate: compares exported models with the run that they were made of, on real images.

    python -m export.parity --run=runs/NAME --saved_model=models/ladnn --tflite=models/edge

measures what already lies there again, writes the findings into the cards, removes what fails (`--keep_failed`
leaves it, as "unfit") and writes a report beside it: `parity.md` and `.json` of TFLite files,
`parity_<version>.md` and `.json` of a SavedModel. The exporting commands do the same before an artefact takes its
place. Each artefact is asked in two columns: with the pixels that the run's own model saw, and with the files'
bytes, which it decodes and resizes itself; a TFLite file through the shipped edge predictor.

Exit status: 0 if all are fit, 3 if anything is unfit, kept or not; 1 after an error, 2 after one in the flags.
"""

from collections.abc import Iterable
from pathlib import Path

from absl import flags

from export.artefacts import SavedModelArtefact, TFLiteArtefact, artefact_card
from export.parity_compare import Comparison, check_source, compare
from export.parity_evidence import Evidence, load_evidence
from export.parity_report import STEM, format_table, version_stem, write_report
from export.parity_tolerances import QUANTISED, Tolerances
from export.placing import place_again
from ladnn_tf import command, runs
from ladnn_tf.labels import SPLITS
from ladnn_tf.tflite_file import SUFFIX

USAGE = """python -m export.parity --run=runs/NAME [--saved_model=FOLDER] [--tflite=FOLDER or FILE,FILE]

Compares what lies there with the run's own model, rewrites its card, and removes what is unfit but for
--keep_failed. Exit status: 0 if all are fit, 3 if anything is unfit, kept or not; 1 after an error, 2 after one in
the flags."""

UNFIT = 3
"""The exit status of every command of the gate if anything is unfit."""

_RELATIVE = "maps relative to their label's largest value"
_FLOATING, _QUANTISED = "saved_model, float32 and float16", ", ".join(QUANTISED)
_TOLERANCES = {
    "float32": "float32 and saved_model: largest difference of probabilities, and of the scores of boxes",
    "float16": "float16: largest difference of the same",
    "encoded": "added to both from encoded bytes",
    "maps": f"{_FLOATING}: largest difference of {_RELATIVE}",
    "auc_loss": f"{_QUANTISED}: largest loss of AUC",
    "agreement": f"{_QUANTISED}: least share of decisions equal to the run's own",
    "mean": f"{_QUANTISED}: largest mean difference of all probabilities, and of {_RELATIVE}",
}
_SHARES = ("auc_loss", "agreement")


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines the flags of every command that passes through the gate."""
    fv = {"flag_values": flag_values}
    default = Tolerances()
    flags.DEFINE_string("manifest", "", "data of the comparison (default: the run's own)", **fv)
    flags.DEFINE_enum("split", "test", SPLITS, "of the manifest", **fv)
    flags.DEFINE_integer("images", 0, "how many of the split, evenly of each class; 0: all", 0, **fv)
    flags.DEFINE_boolean("keep_failed", False, 'keep what fails; its card then says "unfit"', **fv)
    for name, meaning in _TOLERANCES.items():
        most = 1.0 if name in _SHARES else None
        flags.DEFINE_float(f"tolerance_{name}", getattr(default, name), meaning, 0.0, most, **fv)


def tolerances_from(flag_values: flags.FlagValues) -> Tolerances:
    """The tolerances from parsed flags.

    Raises:
        ValueError: if one is not finite.
    """
    return Tolerances(**{name: flag_values[f"tolerance_{name}"].value for name in _TOLERANCES})


def newest_version(folder: str | Path) -> Path:
    """A SavedModel's version folder.

    Args:
        folder: of one version, or of integer versions, of which the newest is taken; only a folder with a
            `saved_model.pb` is one.

    Raises:
        ValueError: if there is none.
    """
    folder = Path(folder)
    if (folder / "saved_model.pb").is_file():
        return folder
    versions = [file.parent for file in folder.glob("*/saved_model.pb") if file.parent.name.isdecimal()]
    if not versions:
        raise ValueError(f"{folder} holds no SavedModel (looked for from {Path.cwd()}); make one by "
                         "python -m export.saved_model")  # fmt: skip
    return max(versions, key=lambda path: int(path.name))


def tflite_files(given: Iterable[str]) -> list[Path]:
    """TFLite files, each given by itself or all of a folder.

    Raises:
        ValueError: if a folder holds none, or a file is not there.
    """
    files = []
    for path in map(Path, given):
        found = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
        if not found or not found[0].is_file():
            raise ValueError(f"there is no TFLite file {path} (looked for from {Path.cwd()}); make one by "
                             "python -m export.tflite")  # fmt: skip
        files += found
    return list(dict.fromkeys(files))


def measure_again(
    paths: list[Path], evidence: Evidence, tolerances: Tolerances, keep_failed: bool
) -> list[Comparison]:
    """Compares artefacts in their places; cards are rewritten, what fails is removed.

    Args:
        paths: TFLite files and SavedModel version folders.
        evidence: of the run that all of them were made of.
        tolerances: of the judgement.
        keep_failed: leaves the unfit ones in place.

    Returns:
        One comparison for each path; the reports are written into the folders.

    Raises:
        ValueError: if an artefact is damaged.
        OSError: if a file cannot be written.
    """
    comparisons = {}
    for path in paths:
        artefact = SavedModelArtefact(path) if path.is_dir() else TFLiteArtefact(path)
        comparisons[path] = compare(evidence, artefact, tolerances)
        place_again(path, comparisons[path], keep_failed)
    for folder, stem in reports(paths):
        inside = [each for path, each in comparisons.items() if _report(path) == (folder, stem)]
        write_report(folder, stem, inside, evidence)
    return list(comparisons.values())


def reports(paths: Iterable[Path]) -> list[tuple[Path, str]]:
    """Folder and stem of the reports on artefacts: one for a folder's TFLite files, one for each version."""
    return list(dict.fromkeys(map(_report, paths)))


def _report(path: Path) -> tuple[Path, str]:
    return path.parent, STEM if path.suffix == SUFFIX else version_stem(path.name)


def main(argv: list[str]) -> int:
    """The command."""
    flag_values = flags.FlagValues()
    flags.DEFINE_string("run", None, "folder of the run", required=True, flag_values=flag_values)
    flags.DEFINE_string(
        "saved_model",
        None,
        "folder of a SavedModel's versions (the newest) or of one version",
        flag_values=flag_values,
    )
    flags.DEFINE_list("tflite", [], "folder of TFLite files, or files", flag_values=flag_values)
    define_flags(flag_values)
    command.parse(flag_values, argv, USAGE)
    if not flag_values.saved_model and not flag_values.tflite:
        command.usage_error("give --saved_model, --tflite or both", USAGE)
    tolerances = tolerances_from(flag_values)
    run = runs.load_run(flag_values.run)
    paths = [newest_version(flag_values.saved_model)] if flag_values.saved_model else []
    paths += tflite_files(flag_values.tflite)
    for path in paths:
        check_source(run.card, artefact_card(path), str(path))  # before the work, and before the look is counted
    evidence = load_evidence(run, flag_values.manifest, flag_values.split, flag_values.images)
    comparisons = measure_again(paths, evidence, tolerances, flag_values.keep_failed)
    print(format_table(comparisons))
    removed = [path for path in paths if not path.exists()]
    print("".join(f"\nremoved: {path} (unfit; --keep_failed keeps it)" for path in removed))
    print("report: " + ", ".join(f"{folder / stem}.md" for folder, stem in reports(paths)))
    return UNFIT if any(comparison.fitness != "fit" for comparison in comparisons) else 0


if __name__ == "__main__":
    command.run(main)
