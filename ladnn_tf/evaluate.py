"""Evaluates a run on a split: `python -m ladnn_tf.evaluate --run=runs/NAME --split=test`."""

import dataclasses
from pathlib import Path

import pandas as pd
from absl import flags

from ladnn_tf import command, metrics, person, report, report_text, runs
from ladnn_tf.card import PersonRule, write_card
from ladnn_tf.files import file_sha256
from ladnn_tf.labels import COVID, SPLITS

USAGE = "python -m ladnn_tf.evaluate --run=runs/NAME --split=test [--prevalence=0.05]"


def operating_point(run: runs.Run, target_sensitivity: float | None) -> tuple[float, str]:
    """The threshold of the calibrated probability and the rule behind it.

    Args:
        run: whose card and validation predictions are read.
        target_sensitivity: to be reached on validation; None for the card's threshold.

    Returns:
        Threshold and rule.
    """
    if target_sensitivity is None:
        return run.card.threshold, run.card.threshold_rule
    table = runs.read_predictions(run.folder, "validation")
    threshold = metrics.choose_threshold(table[COVID], table[f"{COVID}_probability"], target_sensitivity)
    return threshold, runs.threshold_rule(target_sensitivity)


def person_rule(run: runs.Run, target_sensitivity: float | None) -> PersonRule | None:
    """How slices become a person's answer, at an operating point as by `operating_point`.

    Args:
        run: whose card and validation predictions are read.
        target_sensitivity: to be reached over persons of validation; None for the card's rule.

    Returns:
        The rule; None where the card has none, and where validation cannot tell (`person.choose_rule`).
    """
    if target_sensitivity is None:
        return run.card.person
    return _chosen_on(runs.read_predictions(run.folder, "validation"), target_sensitivity)


def _chosen_on(table: pd.DataFrame, target_sensitivity: float) -> PersonRule | None:
    return person.choose_rule(table["patient"], table[COVID], table[f"{COVID}_probability"], target_sensitivity)


def evaluate(
    run: runs.Run,
    split: str,
    *,
    manifest: str | Path,
    out: Path,
    target_sensitivity: float | None = None,
    prevalence: float | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[pd.DataFrame, dict]:
    """Predicts a split, evaluates it, and writes `predictions_<split>.csv` and `metrics.json`.

    Args:
        run: the model and its card.
        split: `train`, `validation` or `test`.
        manifest: the data; the run's own, or another for an external test.
        out: folder for both files; the run's own folder also gets the figures into its card, and of `validation`
            the rule for persons where the card has none.
        target_sensitivity: chooses other thresholds, of slices and of persons, on the run's validation
            predictions; the figures then have a name of their own in `metrics.json` and do not enter the card.
            None: the thresholds of the card.
        prevalence: share of COVID-19 in (0, 1) for which PPV and NPV are worked out; None for none.
        resamples: bootstrap resamples over patients.
        seed: of the resamples.

    Returns:
        The predictions and the evaluation (`report.evaluate_predictions`).

    Raises:
        ValueError: if the data cannot be read, the run's own folder is to take figures of other data, or `out` is
            another run.
    """
    own = _is_own(run, out)
    own_data = file_sha256(manifest) == run.card.manifest["sha256"]
    if own:
        runs.check_own_data(run, manifest, "figures are")
    if not own and any((out / name).exists() for name in ("config.flags", "card.json")):
        raise ValueError(f"--out={out} is another run; its predictions are not overwritten, give another folder")
    runs.read_metrics(out, run.card.model_sha256)  # of this model, or an error before the work
    threshold, rule = operating_point(run, target_sensitivity)
    table = runs.predict_split(run, manifest, split)
    if own_data:
        runs.count_look(run, split)
    of_persons = person_rule(run, target_sensitivity)
    if of_persons is None and own and split == "validation":  # a run of before cards had it
        of_persons = _chosen_on(table, run.config.target_sensitivity)
    evaluation = report.evaluate_predictions(
        table,
        threshold=threshold,
        temperature=run.card.temperature,
        threshold_rule=rule,
        person=of_persons,
        prevalence=prevalence,
        resamples=resamples,
        seed=seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    runs.write_predictions(out, split, table)
    name = split if target_sensitivity is None else f"{split}, target sensitivity {target_sensitivity:g}"
    runs.write_metrics(out, name, evaluation, run.card.model_sha256)
    if own and target_sensitivity is None:
        figures = {**run.card.metrics, split: runs.card_metrics(evaluation)}
        write_card(dataclasses.replace(run.card, metrics=figures, person=of_persons), run.folder / "card.json")
    return table, evaluation


def _is_own(run: runs.Run, out: Path) -> bool:
    return out.resolve() == run.folder.resolve()


def other_predictions(other: runs.Run, split: str, manifest: str | Path) -> pd.DataFrame:
    """The predictions of the run that is compared with.

    Args:
        other: that run.
        split: of the manifest.
        manifest: the data of the comparison. Of the run's own data its stored predictions are taken; other data,
            such as a site's on which a run was fine-tuned, is predicted now.

    Returns:
        As `runs.predictions_table`.

    Raises:
        ValueError: if its own data was not evaluated before, or the other data cannot be read.
    """
    if file_sha256(manifest) == other.card.manifest["sha256"]:
        return runs.read_predictions(other.folder, split)
    return runs.predict_split(other, manifest, split)


def compare(
    run: runs.Run,
    table: pd.DataFrame,
    other: runs.Run,
    theirs: pd.DataFrame,
    target_sensitivity: float | None,
    options: dict,
) -> dict:
    """Sets a run beside another on the same images, each at its own threshold (`report.compare`).

    Args:
        run: the first run.
        table: its predictions of a split.
        other: the second run.
        theirs: its predictions of the same split.
        target_sensitivity: as in `evaluate`.
        options: `resamples` and `seed`.

    Returns:
        The metrics of both, their differences and paired intervals.
    """
    thresholds = tuple(operating_point(each, target_sensitivity)[0] for each in (run, other))
    return report.compare(table, theirs, thresholds=thresholds, **options)


def main(argv: list[str]) -> int:
    """The command."""
    flag_values = flags.FlagValues()
    fv = {"flag_values": flag_values}
    flags.DEFINE_string("run", None, "folder of the run", required=True, **fv)
    flags.DEFINE_enum("split", "test", SPLITS, "what to evaluate", **fv)
    flags.DEFINE_string("manifest", None, "other data than the run's own (default: the run's)", **fv)
    flags.DEFINE_string("out", None, "folder for the results (default: the run's)", **fv)
    flags.DEFINE_float(
        "target_sensitivity",
        None,
        "choose the thresholds anew on validation (default: the card's)",
        0.01,
        1.0,
        **fv,
    )
    flags.DEFINE_float("prevalence", None, "share of COVID-19 for PPV and NPV, such as 0.05", 0.0, 1.0, **fv)
    flags.DEFINE_string(
        "compare_run",
        None,
        "another run to set beside, on the same images; of its own data it must be evaluated before",
        **fv,
    )
    flags.DEFINE_integer("resamples", 2000, "bootstrap resamples over patients", 100, **fv)
    flags.DEFINE_integer("seed", 0, "of the resamples", **fv)
    command.parse(flag_values, argv, USAGE)

    if flag_values.prevalence in (0.0, 1.0):
        command.usage_error("--prevalence should be between 0 and 1, such as 0.05", USAGE)
    run = runs.load_run(flag_values.run)
    other = runs.load_run(flag_values.compare_run) if flag_values.compare_run else None
    manifest = flag_values.manifest or run.config.manifest
    theirs = other_predictions(other, flag_values.split, manifest) if other else None
    out = Path(flag_values.out) if flag_values.out else run.folder
    options = {"resamples": flag_values.resamples, "seed": flag_values.seed}
    table, evaluation = evaluate(
        run,
        flag_values.split,
        manifest=manifest,
        out=out,
        target_sensitivity=flag_values.target_sensitivity,
        prevalence=flag_values.prevalence,
        **options,
    )
    print(f"{run.card.name}: {flag_values.split} split\n")
    print(report_text.format_report(evaluation))
    if other:
        comparison = compare(run, table, other, theirs, flag_values.target_sensitivity, options)
        name = f"{flag_values.split}, against {other.card.name}"
        runs.write_metrics(out, name, comparison, run.card.model_sha256)
        print()
        print(report_text.format_comparison(comparison, (run.card.name, other.card.name)))
    written = [str(out / f"predictions_{flag_values.split}.csv"), str(out / "metrics.json")]
    if _is_own(run, out) and flag_values.target_sensitivity is None:
        added = run.card.person is None and evaluation["persons"]["chosen"]
        written.append(f"{out / 'card.json'}{added * ' (now with a rule for persons)'}")
    print(f"\nwritten: {', '.join(written)}")
    return 0


if __name__ == "__main__":
    command.run(main)
