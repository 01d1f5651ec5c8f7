"""One column of the gate: what an artefact says of a sample, set beside what the run's own model says."""

import dataclasses
from collections.abc import Callable

import numpy as np

from export import parity_regions
from export.artefacts import ARRAYS, Artefact, Outputs
from export.parity_evidence import Sample
from ladnn_tf import intervals, metrics

COLUMNS = {"same_pixels": "same pixels", "encoded_bytes": "encoded bytes"}
"""What an artefact is given: the pixels that the run's own model saw, or the file, to decode and resize itself."""

RESAMPLES = 2000
LEVEL = 0.95

NO_ATTENTION = 1e-6
"""A label whose reference maps nowhere exceed this has no attention to be relative to (float16 ends near 6e-8):
its maps are compared as they are, so that an artefact that shows attention there is caught, and noise is not."""

_METRICS = ("auc", "sensitivity")
_PROBABILITIES = ("covid", "lesions", "classes", "scores")


def ask(
    sample: Sample,
    artefact: Artefact,
    thresholds: tuple[float, float],
    reasons: list[str],
    measure_column: Callable[[Sample, Outputs, tuple[float, float]], dict],
) -> dict[str, dict | None]:
    """Asks an artefact about a sample in both columns.

    Args:
        sample: the images.
        artefact: the exported model.
        thresholds: of the run's card and of the artefact's.
        reasons: what cannot be compared is added here, a sentence each.
        measure_column: `measure` or `losses`.

    Returns:
        The figures of each of `COLUMNS`; None where the outputs cannot be compared.
    """
    answers = {
        "same_pixels": lambda: artefact.from_pixels(sample.pixels),
        "encoded_bytes": lambda: artefact.from_bytes(sample.encoded),
    }
    columns = {}
    for name, title in COLUMNS.items():
        outputs = answers[name]()
        found = problems(outputs, sample.reference)
        where = "phantoms, " if "phantoms" in sample.data else ""
        reasons += [f"{where}{title}: {problem}" for problem in found]
        columns[name] = None if found else measure_column(sample, outputs, thresholds)
    return columns


def problems(outputs: Outputs, reference: Outputs) -> list[str]:
    """What keeps an artefact's outputs from being compared at all, a sentence each; empty if nothing does.

    Args:
        outputs: of the artefact.
        reference: of the run's own model, on the same images.
    """
    found = list(outputs.problems)
    if found and not np.isfinite(outputs.covid).any():
        return found  # it answered nothing, and said why
    for name in ARRAYS:
        got, wanted = getattr(outputs, name), getattr(reference, name)
        if wanted is None and got is not None:
            found.append(f"it has {name}, which the run's model has not")
        elif wanted is None:
            continue
        elif got is None:
            found.append(f"it has no {name}")
        elif got.shape != wanted.shape:
            found.append(f"its {name} have the shape {got.shape}, expected {wanted.shape}")
        elif not np.isfinite(got).all():
            images = int((~np.isfinite(got)).reshape(len(got), -1).any(axis=1).sum())
            found.append(f"its {name} are not finite for {images} of {len(got)} images")
        elif name in _PROBABILITIES and not ((got >= 0) & (got <= 1)).all():
            found.append(f"its {name} are no probabilities: from {got.min():.6g} to {got.max():.6g}")
    return found


def measure(sample: Sample, outputs: Outputs, thresholds: tuple[float, float]) -> dict:
    """Compares an artefact's answers with the run's own.

    Args:
        sample: the images.
        outputs: of the artefact, without `problems`.
        thresholds: of the run's card and of the artefact's.

    Returns:
        - `probability_difference` (all labels and classes), `covid_difference` and, where there are maps,
          `map_difference`: `largest` and `mean` absolute difference; of the maps relative to the largest value of
          the reference's maps of that label over all images (see `NO_ATTENTION`). Where there are boxes, of the
          images with the same boxes alone;
        - where there are boxes, `boxes`: how many of `images` have the `same`, and how many of the others get
          another decision, `other_decisions`, and the largest `other_difference` of their probabilities; and
          `score_difference`, of `parity_regions.score_differences`;
        - `agreement`: `agreeing` decisions of `images`. A decision is whether COVID-19 is called, and with classes
          the likeliest of them too;
        - `auc`, `sensitivity`: the fields of `intervals.PairedDifference`, `a` the run's own and `b` the
          artefact's, the difference so being the loss, with the 95 % interval of a paired bootstrap over patients;
        - `own_decisions`: the same of the AUC with the run's own decisions in the place of the labels, of which
          the run's own is 1; undefined where it decides alike for all images.
    """
    reference = sample.reference
    same = parity_regions.same_boxes(outputs, reference)
    covid = np.abs(outputs.covid - reference.covid)
    shares = [
        np.abs(getattr(outputs, name) - getattr(reference, name))
        for name in ("lesions", "classes")
        if getattr(reference, name) is not None
    ]
    agreeing = (outputs.covid >= thresholds[1]) == (reference.covid >= thresholds[0])
    if reference.classes is not None:
        agreeing &= outputs.classes.argmax(axis=1) == reference.classes.argmax(axis=1)
    of_network = {}
    if reference.maps is not None:
        of_network["map_difference"] = _largest_and_mean(_map_differences(outputs.maps, reference.maps))
    if reference.boxes is not None:
        others = _probabilities(covid, shares, ~same)
        of_network["boxes"] = {
            "same": int(same.sum()),
            "images": len(same),
            "other_decisions": int((~agreeing[~same]).sum()),
            "other_difference": _largest_and_mean(others)["largest"],
        }
        scores = parity_regions.score_differences(outputs, reference)
        of_network["score_difference"] = _largest_and_mean(scores)
    return {
        "probability_difference": _largest_and_mean(_probabilities(covid, shares, same)),
        "covid_difference": _largest_and_mean(covid[same]),
        **of_network,
        "agreement": {"agreeing": int(agreeing.sum()), "images": len(agreeing)},
        **losses(sample, outputs, thresholds),
        "own_decisions": losses(
            dataclasses.replace(sample, labels=(reference.covid >= thresholds[0]).astype(int)), outputs, thresholds
        )["auc"],
    }


def losses(sample: Sample, outputs: Outputs, thresholds: tuple[float, float]) -> dict:
    """AUC and sensitivity of both and what the artefact loses, as in `measure`."""

    def statistic(probabilities: np.ndarray, threshold: float) -> intervals.Statistic:
        def values(weights: np.ndarray) -> dict[str, np.ndarray]:
            found = metrics.probability_metrics(sample.labels, probabilities, weights)
            found |= metrics.threshold_metrics(sample.labels, probabilities, threshold, weights)
            return {name: found[name] for name in _METRICS}

        return values

    differences = intervals.paired_bootstrap(
        sample.patients,
        statistic(sample.reference.covid, thresholds[0]),
        statistic(outputs.covid, thresholds[1]),
        resamples=RESAMPLES,
        level=LEVEL,
    )
    return {name: dataclasses.asdict(difference) for name, difference in differences.items()}


def _probabilities(covid: np.ndarray, shares: list[np.ndarray], images: np.ndarray) -> np.ndarray:
    """The differences of all probabilities of some images, in one row."""
    return np.concatenate([covid[images], *(each[images].ravel() for each in shares)])


def _map_differences(maps: np.ndarray, reference: np.ndarray) -> np.ndarray:
    largest = reference.max(axis=(0, 1, 2))
    return np.abs(maps - reference) / np.where(largest > NO_ATTENTION, largest, 1.0)


def _largest_and_mean(differences: np.ndarray) -> dict[str, float]:
    if not len(differences):  # no image has the same boxes, or none has others
        return {"largest": 0.0, "mean": 0.0}
    return {"largest": float(differences.max()), "mean": float(differences.mean())}
