"""Table 2 of Liu et al. 2020 from one's own runs: means over seeds, intervals, and LA-DNN minus baseline.

The patients are what is drawn at random: in each bootstrap resample the same patients are drawn for all seeds and
both networks, and the metrics are averaged over the seeds then. The spread over seeds is given beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ladnn_tf import delong, intervals, metrics, same_images
from ladnn_tf.labels import COVID
from ladnn_tf.published_table2 import METRICS, published

THRESHOLD = 0.5
"""Of the decision, as in the authors' public code. Temperature scaling moves no probability across it."""

BySeed = dict[int, pd.DataFrame]

Predictions = Mapping[tuple[str, str, str], BySeed]
"""Of the test split (`image, patient, covid, covid_probability`), by (data set, backbone, task) and seed."""


@dataclass(frozen=True)
class Value:
    """A metric of one network, in per cent; `None` is undefined.

    Attributes:
        seeds: number of seeds in the mean.
        mean: over the seeds.
        low: lower limit of the 95 % interval of that mean over patients.
        high: its upper limit.
        sd: standard deviation over the seeds; `None` for one.
    """

    seeds: int
    mean: float | None
    low: float | None
    high: float | None
    sd: float | None


@dataclass(frozen=True)
class Difference:
    """LA-DNN minus baseline, in percentage points, over the seeds that both have; `None` is undefined.

    Attributes:
        seeds: number of seeds in the mean.
        mean: of the difference over the seeds.
        low: lower limit of its 95 % interval over patients.
        high: its upper limit.
        p: two-sided, by the paired bootstrap over patients.
        p_delong: two-sided, by DeLong's test with patients as clusters; of the AUC only.
    """

    seeds: int
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    p_delong: float | None


@dataclass(frozen=True)
class Row:
    """One metric of one backbone on one data set.

    Attributes:
        metric: one of `METRICS`.
        backbone: a key of `BACKBONES`.
        dataset: the name of the data set.
        images: of the test split, as every one of these counts; 0 where there is no run on the data set.
        patients: their number.
        positives: number of images with COVID-19.
        baseline: the diagnosis alone; `None` without a run.
        ladnn: with the lesions; `None` without a run.
        difference: `None` without a seed that both have.
        paper_baseline: the paper's figure in per cent; `None` where it has none.
        paper_ladnn: the same of LA-DNN.
    """

    metric: str
    backbone: str
    dataset: str
    images: int
    patients: int
    positives: int
    baseline: Value | None
    ladnn: Value | None
    difference: Difference | None
    paper_baseline: float | None
    paper_ladnn: float | None

    @property
    def paper_difference(self) -> float | None:
        """LA-DNN minus baseline in the paper, in percentage points with its one decimal."""
        if self.paper_baseline is None or self.paper_ladnn is None:
            return None
        return round(self.paper_ladnn - self.paper_baseline, 1)


def table_rows(
    predictions: Predictions,
    datasets: Sequence[str],
    backbones: Sequence[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Row]:
    """Works out the table from predictions.

    Args:
        predictions: of every finished run.
        datasets: names, in the table's order.
        backbones: keys of `BACKBONES`, in the table's order.
        resamples: bootstrap resamples of the patients, at least 1.
        seed: of the resamples.

    Returns:
        A row for each metric, data set and backbone, in this order, whether there is a run or not.

    Raises:
        ValueError: if two runs on one data set have other test images, labels or patients.
    """
    options = {"resamples": resamples, "seed": seed}
    rows = []
    for dataset in datasets:
        aligned = _aligned_runs(predictions, dataset)
        for backbone in backbones:
            baseline, ladnn = (aligned.get((backbone, task), {}) for task in ("baseline", "ladnn"))
            rows += _rows(dataset, backbone, baseline, ladnn, options)
    return sorted(rows, key=lambda row: METRICS.index(row.metric))


def _aligned_runs(predictions: Predictions, dataset: str) -> dict[tuple[str, str], BySeed]:
    """Returns the predictions on one data set, all in the same order of images."""
    reference = None
    aligned: dict[tuple[str, str], BySeed] = {}
    for (name, backbone, task), by_seed in predictions.items():
        for number, table in by_seed.items() if name == dataset else ():
            reference = table if reference is None else reference
            what = f"{dataset}: {backbone} {task} seed {number}"
            aligned.setdefault((backbone, task), {})[number] = _aligned(table, reference, what)
    return aligned


def _aligned(table: pd.DataFrame, reference: pd.DataFrame, what: str) -> pd.DataFrame:
    """Returns the rows of a table in the order of another of the same images."""
    if same_images.unshared_images(table, reference) or len(table) != len(reference):
        raise ValueError(f"{what} was tested on other images than the other runs; evaluate it again")
    table = same_images.in_the_order_of(reference, table)
    if found := same_images.first_disagreement(table, reference):
        column, image = found
        raise ValueError(f"{what} has another {column} for image {image!r} than the other runs; evaluate it again")
    return table


def _rows(dataset: str, backbone: str, baseline: BySeed, ladnn: BySeed, options: dict[str, int]) -> list[Row]:
    test = next(iter((*baseline.values(), *ladnn.values())), None)
    common = [number for number in ladnn if number in baseline]
    values = {"baseline": {}, "ladnn": {}} | {
        task: _values(test, list(by_seed.values()), options)
        for task, by_seed in (("baseline", baseline), ("ladnn", ladnn))
        if by_seed
    }
    differences = {}
    if common:
        ours, theirs = ([by_seed[number] for number in common] for by_seed in (ladnn, baseline))
        differences = _differences(test, ours, theirs, options)
    return [
        Row(
            metric=metric,
            backbone=backbone,
            dataset=dataset,
            images=0 if test is None else len(test),
            patients=0 if test is None else int(test["patient"].nunique()),
            positives=0 if test is None else int(test[COVID].sum()),
            baseline=values["baseline"].get(metric),
            ladnn=values["ladnn"].get(metric),
            difference=differences.get(metric),
            paper_baseline=published(metric, backbone, dataset, "baseline"),
            paper_ladnn=published(metric, backbone, dataset, "ladnn"),
        )
        for metric in METRICS
    ]


def _per_seed(test: pd.DataFrame, tables: Sequence[pd.DataFrame], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Returns (seeds, resamples) values of each metric."""
    found = []
    for table in tables:
        arguments = test[COVID], table[f"{COVID}_probability"]
        values = metrics.threshold_metrics(*arguments, THRESHOLD, weights)
        found.append(values | metrics.probability_metrics(*arguments, weights))
    return {metric: np.stack([values[metric] for values in found]) for metric in METRICS}


def _mean_over_seeds(test: pd.DataFrame, tables: Sequence[pd.DataFrame]) -> intervals.Statistic:
    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {metric: values.mean(axis=0) for metric, values in _per_seed(test, tables, weights).items()}

    return statistic


def _values(test: pd.DataFrame, tables: Sequence[pd.DataFrame], options: dict[str, int]) -> dict[str, Value]:
    found = intervals.bootstrap_patients(test["patient"], _mean_over_seeds(test, tables), **options)
    each = _per_seed(test, tables, np.ones((1, len(test))))
    several = len(tables) > 1
    return {
        metric: Value(
            seeds=len(tables),
            mean=_percent(found[metric].value),
            low=_percent(found[metric].low),
            high=_percent(found[metric].high),
            sd=_percent(metrics.none_if_nan(np.std(each[metric], ddof=1))) if several else None,
        )
        for metric in METRICS
    }


def _differences(
    test: pd.DataFrame,
    ladnn: Sequence[pd.DataFrame],
    baseline: Sequence[pd.DataFrame],
    options: dict[str, int],
) -> dict[str, Difference]:
    found = intervals.paired_bootstrap(
        test["patient"], _mean_over_seeds(test, ladnn), _mean_over_seeds(test, baseline), **options
    )
    scores = [table[f"{COVID}_probability"] for table in (*ladnn, *baseline)]
    weights = np.repeat([1 / len(ladnn), -1 / len(baseline)], len(ladnn))
    contrast = delong.auc_contrast(test[COVID], scores, test["patient"], weights)
    return {
        metric: Difference(
            seeds=len(ladnn),
            mean=_percent(found[metric].difference),
            low=_percent(found[metric].low),
            high=_percent(found[metric].high),
            p=found[metric].p,
            p_delong=contrast.p if metric == "auc" else None,
        )
        for metric in METRICS
    }


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
