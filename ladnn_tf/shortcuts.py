"""What tells COVID-19 from other slices beside the lungs: the measures of the shortcut audit.

COVID-CT was collected from publications, and no paper in it holds both classes (He et al. 2020 took the negatives
from other places than the positives). Whatever marks a source, such as resolution, window, frame or file format,
therefore marks a class.

Nothing here needs a model: the input is a DataFrame with a row per image and the columns `patient`, `source`,
`covid` (0 or 1) and `probability`.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ladnn_tf import intervals, metrics
from ladnn_tf.data.sources import OTHER_SOURCES, pooled_sources
from ladnn_tf.labels import COVID

SMALLEST_SOURCE = 5
"""Sources with fewer images of a split than this are pooled as `OTHER_SOURCES`."""

UNKNOWN_SOURCE = "not given"

FEWEST_PATIENTS = 5
"""Of each class, for any verdict: a bootstrap of two or three patients gives far too narrow an interval."""

SHOWN = "above chance"
NOT_SHOWN = "chance is inside the interval"
REVERSED = "below chance"
UNJUDGED = "no interval"
TOO_FEW = f"fewer than {FEWEST_PATIENTS} patients of a class"
"""What an AUC with its interval says of chance, 0.5; a shortcut is shown by the first only."""

_KINDS = {"L": "grey", "1": "grey", "I": "grey", "I;16": "grey", "RGB": "colour", "P": "palette"}
_OTHER_KIND = "alpha"


def auc_interval(table: pd.DataFrame, options: dict) -> intervals.Interval:
    """The AUC of a table of predictions, with its bootstrap interval over patients.

    Args:
        table: see the module's description.
        options: `resamples`, `seed` and `level` of the bootstrap.

    Returns:
        The interval; without a value where a class is missing.
    """
    if table.empty:
        return intervals.Interval(None)
    return intervals.bootstrap_patients(table["patient"], _auc(table), **options)["auc"]


def against_chance(auc: intervals.Interval, table: pd.DataFrame) -> str:
    """What an AUC says of chance.

    An AUC of 1 or of 0 has no bootstrap interval, as no resample differs. With `FEWEST_PATIENTS` of each class it
    is judged all the same: chance puts 5 patients before 5 others once in 252 (10 choose 5), below 2.5 %.

    Args:
        auc: with its interval.
        table: the predictions that it belongs to, see the module's description.

    Returns:
        `SHOWN`, `NOT_SHOWN`, `REVERSED`, `UNJUDGED` or `TOO_FEW`.
    """
    if min(table.loc[table[COVID] == covid, "patient"].nunique() for covid in (0, 1)) < FEWEST_PATIENTS:
        return TOO_FEW
    if auc.low is not None:
        return SHOWN if auc.low > 0.5 else REVERSED if auc.high < 0.5 else NOT_SHOWN
    return {1.0: SHOWN, 0.0: REVERSED}.get(auc.value, UNJUDGED)


def altered_against_unchanged(unchanged: pd.DataFrame, altered: np.ndarray, options: dict) -> dict:
    """Sets a network's answers to altered images beside those to the same images unchanged.

    Args:
        unchanged: the predictions of the images as they are, see the module's description.
        altered: (n,) probabilities of the altered images, in the same order; NaN where an image could not be
            altered, which is then left out on both sides.
        options: of the bootstrap, as in `auc_interval`.

    Returns:
        `images`; `left_out`; `auc` of the altered images, with interval; `against_chance` of that; `difference`,
        altered minus unchanged, the fields of `intervals.PairedDifference`; `excess_left`: which share of what
        the AUC has above 0.5 is left, None where the unchanged AUC is not above 0.5 or undefined.
    """
    kept = np.isfinite(altered)
    before = unchanged[kept]
    after = before.assign(probability=altered[kept])
    auc = auc_interval(after, options)
    difference = intervals.PairedDifference(None, None)
    if kept.any():
        difference = intervals.paired_bootstrap(before["patient"], _auc(after), _auc(before), **options)["auc"]
    defined = difference.difference is not None and difference.b > 0.5
    return {
        "images": int(kept.sum()),
        "left_out": int((~kept).sum()),
        "auc": dataclasses.asdict(auc),
        "against_chance": against_chance(auc, after),
        "difference": dataclasses.asdict(difference),
        "excess_left": (difference.a - 0.5) / (difference.b - 0.5) if defined else None,
    }


def by_source(table: pd.DataFrame, options: dict) -> list[dict]:
    """Which sources a network finds easy: each one's images against all images of the other class.

    An AUC inside a source is undefined for most: they hold one class only.

    Args:
        table: the predictions, see the module's description.
        options: of the bootstrap, as in `auc_interval`.

    Returns:
        For each source and each class in it `source`, `covid` (the class, 0 or 1), `images`, `patients`,
        `mean_probability`, and `auc` with interval: of these images against all of the other class in the
        table, undefined where there are none. COVID-19 first, then by name, the pooled ones last.
    """
    rows = []
    for covid in (1, 0):
        own, others = table[table[COVID] == covid], table[table[COVID] != covid]
        names = pooled_sources(own["source"], SMALLEST_SOURCE).fillna(UNKNOWN_SOURCE)
        for name in sorted(names.unique(), key=lambda name: (name in (OTHER_SOURCES, UNKNOWN_SOURCE), name)):
            images = own[names == name]
            rows.append(
                {
                    "source": name,
                    COVID: covid,
                    "images": len(images),
                    "patients": int(images["patient"].nunique()),
                    "mean_probability": float(images["probability"].mean()),
                    "auc": dataclasses.asdict(auc_interval(pd.concat([images, others]), options)),
                }
            )
    return rows


def count_sources(frame: pd.DataFrame) -> dict[str, int]:
    """Returns `all` sources, how many are `with_both_classes`, and how many `images_without` one there are."""
    names = pooled_sources(frame["source"], 1)
    classes = frame.groupby(names)[COVID].nunique()
    return {
        "all": len(classes),
        "with_both_classes": int((classes == 2).sum()),
        "images_without": int(names.isna().sum()),
    }


def form_of_files(training: pd.DataFrame, evaluated: pd.DataFrame, options: dict) -> dict:
    """What is known of the class without a single pixel: a logistic regression on the form of the files.

    It reads width, height and their ratio (logarithms), the file's format (PNG or JPEG) and its colour mode
    (grey, colour, palette, with alpha), standardised, with scikit-learn's default penalty.

    Args:
        training: manifest rows to fit on.
        evaluated: other rows of the same manifest.
        options: of the bootstrap, as in `auc_interval`.

    Returns:
        `images` and `training_images`, `auc` with interval and `against_chance` on the evaluated rows, and
        `formats`: images of both tables together by format and colour mode and class.

    Raises:
        ValueError: if the training rows lack a class, or a file is no picture.
    """
    if training[COVID].nunique() < 2:
        raise ValueError("the training split needs images of both classes to fit on")
    forms = [_forms(training), _forms(evaluated)]
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(_features(forms[0]), training[COVID])
    table = evaluated[["patient", COVID]].assign(probability=classifier.predict_proba(_features(forms[1]))[:, 1])
    auc = auc_interval(table, options)
    both = pd.concat(forms)
    both[COVID] = pd.concat([training[COVID], evaluated[COVID]])
    counts = both.groupby(["format", "kind"])[COVID].agg(["sum", "size"])
    return {
        "images": len(evaluated),
        "training_images": len(training),
        "auc": dataclasses.asdict(auc),
        "against_chance": against_chance(auc, table),
        "formats": {
            f"{file_format}, {kind}": {"positives": int(row["sum"]), "negatives": int(row["size"] - row["sum"])}
            for (file_format, kind), row in counts.iterrows()
        },
    }


def _auc(table: pd.DataFrame) -> intervals.Statistic:
    labels, probabilities = metrics.checked(table[COVID], table["probability"])
    return lambda weights: {"auc": metrics.probability_metrics(labels, probabilities, weights)["auc"]}


def _forms(frame: pd.DataFrame) -> pd.DataFrame:
    """Reads the files' headers: `width`, `height`, `format`, `kind`, with the frame's index."""
    rows = []
    for row, path in zip(frame["row"], frame["path"], strict=True):
        try:
            with Image.open(Path(path), formats=("PNG", "JPEG")) as image:
                rows.append((*image.size, image.format, _KINDS.get(image.mode, _OTHER_KIND)))
        except OSError as error:
            raise ValueError(f"row {row}: {path} cannot be read ({error.strerror or 'no picture'})") from error
    return pd.DataFrame(rows, columns=["width", "height", "format", "kind"], index=frame.index)


def _features(forms: pd.DataFrame) -> np.ndarray:
    width, height = np.log(forms["width"]), np.log(forms["height"])
    kinds = [forms["kind"] == kind for kind in sorted({*_KINDS.values(), _OTHER_KIND})]
    return np.column_stack([width, height, width - height, forms["format"] == "JPEG", *kinds]).astype(float)
