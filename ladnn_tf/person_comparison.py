"""Tables 1 and 2 of Song et al. from one's own runs: figures over persons, and the first run minus each other.

The persons are what is drawn at random, and for a difference the same ones are drawn for both runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ladnn_tf import intervals, metrics, metrics_classes, person_report, report_metrics
from ladnn_tf.card import Card
from ladnn_tf.labels import COVID
from ladnn_tf.person import by_person
from ladnn_tf.published_drenet import METRICS

_OF_TABLE_1 = {"recall": "sensitivity"}  # the paper's name of a metric, where it is another than ours


@dataclass(frozen=True)
class Block:
    """A table: runs by metrics.

    Attributes:
        title: what is cut how.
        rows: run -> metric -> value with its interval over persons.
        differences: run -> metric -> the first run minus this one; for all but the first.
        rules: run -> its operating point in words; empty where it is the same for all, as the title says.
    """

    title: str
    rows: dict[str, dict[str, intervals.Interval]]
    differences: dict[str, dict[str, intervals.PairedDifference]]
    rules: dict[str, str]


@dataclass(frozen=True)
class Tables:
    """All that is printed.

    Attributes:
        split: of the predictions.
        classes: that the models tell apart; empty for COVID-19 against anything else.
        patients: number of persons by class; of COVID-19 against anything else `covid19` and `other`.
        blocks: the tables.
        phantoms: whether a model was trained on drawn slices alone.
        resamples: of the bootstrap.
        seed: of the resamples.
    """

    split: str
    classes: tuple[str, ...]
    patients: dict[str, int]
    blocks: tuple[Block, ...]
    phantoms: bool
    resamples: int
    seed: int


def person_tables(
    cards: Mapping[str, Card],
    tables: Mapping[str, pd.DataFrame],
    split: str,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Tables:
    """Works out the tables from predictions.

    Args:
        cards: of the runs, by name, at least one.
        tables: their predictions of the same images, by name, as `runs.predictions_table`.
        split: of the predictions.
        resamples: bootstrap resamples of the persons, at least 1.
        seed: of the resamples.

    Returns:
        Of three classes one block, as Table 2: the class with the highest mean probability, averages over the
        classes. Else two, as Table 1: the mean over the slices at 0.5, and each run's own rule for persons.

    Raises:
        ValueError: if two runs were trained on other data or classes, lack a column, or disagree about a person.
    """
    check_cards(cards)
    _check_tables(cards, tables)
    first, *_ = cards
    classes = cards[first].classes
    options = {"resamples": resamples, "seed": seed, "level": report_metrics.LEVEL}
    if len(classes) > 2:
        _, labels, _ = person_report.persons_classes(tables[first])
        patients = {name: int(np.sum(labels == number)) for number, name in enumerate(classes)}
        blocks = (_of_classes(tables, classes, options),)
    else:
        _, labels = _persons(tables[first])
        other = classes[1] if classes else "other"
        patients = {"covid19": int(labels.sum()), other: int(len(labels) - labels.sum())}
        own = {
            name: person_report.person_point(table, cards[name].person, cards[name].threshold)
            for name, table in tables.items()
        }
        paper = {name: person_report.paper_point(table) for name, table in tables.items()}
        rules = {name: f"{point.threshold:.4f}: {point.rule}" for name, point in own.items()}
        blocks = (
            _of_diagnosis("Mean over the slices, cut at 0.5, as in the paper", tables[first], paper, {}, options),
            _of_diagnosis("At each run's own rule for persons", tables[first], own, rules, options),
        )
    phantoms = any(card.of_phantoms for card in cards.values())
    return Tables(split, classes, patients, blocks, phantoms, resamples, seed)


def check_cards(cards: Mapping[str, Card]) -> None:
    """Checks that runs can stand in one table.

    Raises:
        ValueError: if two runs were trained on other data, or tell other classes apart.
    """
    first, *others = cards
    for name in others:
        a, b = cards[first], cards[name]
        if a.manifest["sha256"] != b.manifest["sha256"]:
            raise ValueError(
                f"{first} and {name} were trained on other data: {a.manifest['file']} with SHA-256 "
                f"{a.manifest['sha256'][:12]}... and {b.manifest['file']} with {b.manifest['sha256'][:12]}...; "
                "one table holds runs of the same manifest only"
            )
        if a.classes != b.classes:
            of_a, of_b = (", ".join(card.classes) or "COVID-19 from the rest" for card in (a, b))
            raise ValueError(f"{first} and {name} tell other classes apart: {of_a}, and {of_b}")


def _check_tables(cards: Mapping[str, Card], tables: Mapping[str, pd.DataFrame]) -> None:
    first, *_ = tables
    for name, table in tables.items():
        missing = [f"{each}_probability" for each in cards[name].classes if f"{each}_probability" not in table]
        if missing:
            raise ValueError(
                f"the predictions of {name} lack the columns {', '.join(missing)}; evaluate the run again"
            )
        ours, theirs = _labels(tables[first]), _labels(table)
        if only := sorted(set(ours) ^ set(theirs)):
            raise ValueError(
                f"{first} and {name} were evaluated on other persons: {len(only)} are in one of them alone, such "
                f"as {only[0]!r}; evaluate both on the same manifest"
            )
        if differs := [patient for patient in ours if ours[patient] != theirs[patient]]:
            raise ValueError(f"{first} and {name} disagree about the label of person {differs[0]!r}")


def _labels(table: pd.DataFrame) -> dict[str, tuple]:
    """Returns patient -> whether positive, and every diagnosis."""
    persons = table.assign(patient=table["patient"].astype(str)).groupby("patient")
    return {name: (rows[COVID].max(), set(rows["diagnosis"].astype(str))) for name, rows in persons}


def _persons(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return by_person(table["patient"], table[COVID], table[f"{COVID}_probability"], "mean")[:2]


def _of_diagnosis(
    title: str,
    table: pd.DataFrame,
    points: Mapping[str, report_metrics.Point],
    rules: dict[str, str],
    options: dict,
) -> Block:
    names, labels = _persons(table)

    def statistic(point: report_metrics.Point) -> intervals.Statistic:
        def values(weights: np.ndarray) -> dict[str, np.ndarray]:
            found = metrics.probability_metrics(labels, point.probabilities, weights)
            found |= metrics.threshold_metrics(labels, point.probabilities, point.threshold, weights)
            return {name: found[_OF_TABLE_1.get(name, name)] for name in METRICS["two"]}

        return values

    statistics = {run: statistic(point) for run, point in points.items()}
    rows = {
        run: {
            name: report_metrics.decision_interval(
                interval,
                _OF_TABLE_1.get(name, name),
                names,
                labels,
                points[run].probabilities >= points[run].threshold,
            )
            for name, interval in intervals.bootstrap_patients(names, values, **options).items()
        }
        for run, values in statistics.items()
    }
    return Block(title, rows, _differences(names, statistics, options), rules)


def _of_classes(tables: Mapping[str, pd.DataFrame], classes: tuple[str, ...], options: dict) -> Block:
    persons = {run: person_report.persons_classes(table) for run, table in tables.items()}

    def statistic(labels: np.ndarray, predicted: np.ndarray) -> intervals.Statistic:
        def values(weights: np.ndarray) -> dict[str, np.ndarray]:
            found = metrics_classes.class_metrics(labels, predicted, classes, weights)
            return {
                name: found[name if name == "accuracy" else f"{metrics_classes.MACRO}/{name}"]
                for name in METRICS["three"]
            }

        return values

    statistics = {run: statistic(labels, predicted) for run, (_, labels, predicted) in persons.items()}
    rows = {}
    for run, (names, labels, predicted) in persons.items():
        rows[run] = intervals.bootstrap_patients(names, statistics[run], **options)
        # Of these only the accuracy is a share, for which there is Wilson's interval.
        rows[run]["accuracy"] = report_metrics.decision_interval(
            rows[run]["accuracy"], "accuracy", names, labels, predicted
        )
    title = "The class with the highest mean probability over the slices; averages over the classes"
    return Block(title, rows, _differences(next(iter(persons.values()))[0], statistics, options), {})


def _differences(
    names: np.ndarray, statistics: Mapping[str, intervals.Statistic], options: dict
) -> dict[str, dict[str, intervals.PairedDifference]]:
    first, *others = statistics
    return {
        run: intervals.paired_bootstrap(names, statistics[first], statistics[run], **options) for run in others
    }
