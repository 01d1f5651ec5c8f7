"""Do the boxes of a DRENet lie on lesions? Shares of lesion in boxes, hits, and what other boxes would do.

A box hits if at least a given share of its area inside the image is lesion, of whatever kind, or if it holds at
least a given part of the image's largest lesion (the largest connected area). The first alone cannot be met where
all lesions are small beside the anchors, the second not where a lesion is larger than they. Everything is counted
per image:

- hit: whether any of its K boxes hits;
- filled: whether any does by the first rule, the lesion's share of the box;
- boxes: the share of its boxes that hit;
- covered: the share of its lesions' area that lies in its boxes together.

Large boxes cover more and are filled less.

Lesions prefer some places and boxes may do so, too. So the same is counted for random boxes, for random boxes in
the lungs, and for the boxes of all other patients' images: these have the run's own sizes and places, and only
what goes beyond them follows the lesions of the image.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from ladnn_tf import intervals, localisation

OWN = "the run's boxes"
OTHERS = "boxes of other patients"
RANDOM = "random boxes"
RANDOM_IN_LUNGS = "random boxes in the lungs"
MEASURES = ("hit", "filled", "boxes", "covered")
ALL_IMAGES = "all"
SMALL, LARGE = "smaller lesions", "larger lesions"

_POSSIBLE = ("reachable", "fillable")  # by any anchor, as `measure` has them
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Rule:
    """When a box hits.

    Attributes:
        least_share: of the box' area inside the image that is lesion, in (0, 1].
        least_part: of the largest lesion's area that lies in the box, in (0, 1].
    """

    least_share: float = 0.1
    least_part: float = 0.5

    @property
    def text(self) -> str:
        """The rule in words."""
        return (
            f"a box hits if at least {100 * self.least_share:g} % of it is lesion, or if it holds at least "
            f"{100 * self.least_part:g} % of the image's largest lesion"
        )


RULE = Rule()
"""When nothing else is said."""


@dataclasses.dataclass(frozen=True, eq=False)
class Masks:
    """What is known of one image.

    Attributes:
        lesion: `(H, W)` bool, all its lesions together.
        lung: `(H, W)` bool.
    """

    lesion: np.ndarray
    lung: np.ndarray

    @functools.cached_property
    def largest(self) -> np.ndarray:
        """`(H, W)` bool, the largest lesion: of the areas whose pixels touch by an edge."""
        areas, _ = ndimage.label(self.lesion)
        return areas == 1 + np.argmax(np.bincount(areas.ravel())[1:])


def read_masks(folder: str | Path, images: Sequence[str | Path]) -> list[Masks | None]:
    """The masks of images, as `localisation.lesion_masks` reads them; None for an image without a lesion.

    Raises:
        ValueError: if no image has a lesion mask, two that have one have the same name, or a lung mask is missing,
            empty, or of another size.
    """
    found: list[Masks | None] = []
    named = {}
    for image in images:
        lesions = localisation.lesion_masks(folder, image)
        if not lesions:
            found.append(None)
            continue
        other = named.setdefault(Path(image).stem, image)
        if other != image:
            raise ValueError(
                f"{other} and {image} have one name, so that they would share their masks; rename one"
            )
        file = Path(folder) / "lung" / f"{Path(image).stem}.png"
        lung = localisation.read_mask(file)
        if not lung.any() or any(mask.shape != lung.shape for mask in lesions.values()):
            raise ValueError(f"{file} is empty or differs in size from the lesions' masks; make them anew")
        found.append(Masks(np.any(list(lesions.values()), axis=0), lung))
    if not any(found):
        raise ValueError(
            f"none of the {len(found)} images has a lesion mask in {folder}; expected <lesion>/<name of the "
            "image>.png"
        )
    return found


def lesion_shares(boxes: np.ndarray, lesion: np.ndarray) -> np.ndarray:
    """The share of each box' area inside the image that is lesion.

    Args:
        boxes: `(..., 4)`: top, left, bottom, right as shares of the image's sides; pixels are cut where an edge
            goes through them.
        lesion: `(H, W)` bool.

    Returns:
        `(...)` float64 in [0, 1]; 0 for a box that lies outside of the image.
    """
    inside, area = _inside(boxes, lesion)
    return np.divide(inside, area, out=np.zeros_like(area), where=area > 0)


def lesion_parts(boxes: np.ndarray, lesion: np.ndarray) -> np.ndarray:
    """The part of a lesion's area that each box holds: as `lesion_shares`, but of the lesion, not empty."""
    inside, _ = _inside(boxes, lesion)
    return inside / lesion.sum()


def _inside(boxes: np.ndarray, lesion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each box that are lesion, and that are inside the image."""
    height, width = lesion.shape
    totals = np.zeros((height + 1, width + 1))
    totals[1:, 1:] = lesion.cumsum(axis=0).cumsum(axis=1)
    edges = np.clip(np.asarray(boxes, np.float64), 0.0, 1.0) * (height, width, height, width)
    top, left, bottom, right = np.moveaxis(edges, -1, 0)

    def until(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Lesion above y and left of x; between the pixels' edges it grows linearly."""
        row, column = np.minimum(y.astype(int), height - 1), np.minimum(x.astype(int), width - 1)
        down, across = y - row, x - column
        upper = totals[row, column] * (1 - across) + totals[row, column + 1] * across
        lower = totals[row + 1, column] * (1 - across) + totals[row + 1, column + 1] * across
        return upper * (1 - down) + lower * down

    inside = until(bottom, right) - until(top, right) - until(bottom, left) + until(top, left)
    return inside, (bottom - top) * (right - left)


def lesion_covered(boxes: np.ndarray, there: np.ndarray, lesion: np.ndarray) -> np.ndarray:
    """The share of a lesion that boxes cover together, by the centres of its pixels.

    Args:
        boxes: `(..., K, 4)` shares of the image's sides.
        there: `(..., K)` bool, which of them count.
        lesion: `(H, W)` bool, not empty.

    Returns:
        `(...)` float64 in [0, 1].
    """
    rows, columns = np.nonzero(lesion)
    y, x = (rows + 0.5) / lesion.shape[0], (columns + 0.5) / lesion.shape[1]
    top, left, bottom, right = np.moveaxis(boxes[..., None, :], -1, 0)
    inside = (y >= top) & (y < bottom) & (x >= left) & (x < right) & there[..., None]
    return inside.any(axis=-2).mean(axis=-1)


def centres_inside(boxes: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Whether the pixel at each box' centre is in a mask: `(n, 4)` shares and `(H, W)` bool to `(n,)` bool."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    rows, columns = (np.clip(centres, 0, 1) * mask.shape).astype(int).T
    return mask[np.minimum(rows, mask.shape[0] - 1), np.minimum(columns, mask.shape[1] - 1)]


def measure(
    frame: pd.DataFrame,
    boxes: np.ndarray,
    masks: Sequence[Masks],
    anchors: np.ndarray,
    draw: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]],
    rule: Rule,
) -> pd.DataFrame:
    """Measures the boxes of images that have lesions, and beside them other boxes.

    Args:
        frame: manifest rows, with `image` and `patient`.
        boxes: `(N, K, 4)` of the run, as shares of the image's sides.
        masks: of the N images.
        anchors: `(A, 4)`, all boxes that there are, as shares.
        draw: from which anchors are allowed, `(A,)` bool, and the image's number to random boxes `(n, K, 4)` and
            `(n, K)` bool, whether each is there.
        rule: when a box hits.

    Returns:
        A row for each image and source: `image, patient, source`, `MEASURES` (of random boxes the mean over the
        draws; NaN where there is no such box), `lesion` (the lesions' share of the image), and whether any anchor
        hits, `reachable`, and does so by its share of lesion, `fillable`.
    """
    patients = frame["patient"].to_numpy()
    rows = []
    for number, (image, each) in enumerate(zip(frame["image"], masks, strict=True)):
        everywhere = np.ones(len(anchors), bool)
        sources = {
            OWN: (boxes[number][None], np.ones((1, boxes.shape[1]), bool)),
            OTHERS: (boxes[patients != patients[number]], np.ones((1, boxes.shape[1]), bool)),
            RANDOM: draw(everywhere, number),
            RANDOM_IN_LUNGS: draw(centres_inside(anchors, each.lung), number),
        }
        about = {
            "lesion": float(each.lesion.mean()),
            **{name: bool(such.any()) for name, such in zip(_POSSIBLE, _judged(anchors, each, rule), strict=True)},
        }
        for source, (some, there) in sources.items():
            found, filled = (such & there for such in _judged(some, each, rule))
            there = np.broadcast_to(there, found.shape)
            values = [np.nan] * len(MEASURES)
            if there.any():
                covered = lesion_covered(some, there, each.lesion).mean()
                any_hit, any_filled = (such.any(axis=-1).mean() for such in (found, filled))
                values = [any_hit, any_filled, found.sum() / there.sum(), covered]
            rows.append(
                {
                    "image": image,
                    "patient": patients[number],
                    "source": source,
                    **dict(zip(MEASURES, map(float, values), strict=True)),
                    **about,
                }
            )
    return pd.DataFrame(rows)


def hits(boxes: np.ndarray, masks: Masks, rule: Rule) -> np.ndarray:
    """Whether each box hits a lesion of an image: `(..., 4)` boxes as shares of its sides to `(...)` bool."""
    return _judged(boxes, masks, rule)[0]


def _judged(boxes: np.ndarray, masks: Masks, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """Whether each box hits, and whether it does by its share of lesion."""
    filled = lesion_shares(boxes, masks.lesion) >= rule.least_share - _ROUNDING
    return filled | (lesion_parts(boxes, masks.largest) >= rule.least_part - _ROUNDING), filled


def summarise(
    measured: pd.DataFrame, classes: Mapping[str, np.ndarray], *, resamples: int = 2000, seed: int = 0
) -> dict:
    """Means with 95 % intervals by bootstrap over patients, for all images and for groups of them.

    Args:
        measured: from `measure`.
        classes: name -> `(N,)` bool, which of the N images are of the class.
        resamples: of the patients.
        seed: of the resamples.

    Returns:
        `resamples`, `seed` and `groups`: for `all`, each class and either half by the lesions' share of the image
        the numbers of `images` and `patients`, the shares of images that are `reachable` and `fillable`, `sources`
        (name -> measure -> fields of `intervals.Interval`) and `differences` (the run's own boxes minus each
        other: name -> measure -> fields of `intervals.PairedDifference`).
    """
    options = {"resamples": resamples, "seed": seed}
    by_source = {source: rows.reset_index(drop=True) for source, rows in measured.groupby("source", sort=False)}
    lesions = by_source[OWN]["lesion"].to_numpy()
    small = lesions <= np.median(lesions)
    groups = {ALL_IMAGES: np.ones(len(lesions), bool), **classes, SMALL: small, LARGE: ~small}
    found = {
        name: _summarise_group({source: rows[chosen] for source, rows in by_source.items()}, options)
        for name, chosen in groups.items()
        if chosen.any()
    }
    return {**options, "groups": found}


def _summarise_group(by_source: Mapping[str, pd.DataFrame], options: dict) -> dict:
    patients = by_source[OWN]["patient"].to_numpy()
    values = {source: rows[list(MEASURES)].to_numpy() for source, rows in by_source.items()}
    return {
        "images": len(patients),
        "patients": len(np.unique(patients)),
        **{name: float(by_source[OWN][name].mean()) for name in _POSSIBLE},
        "sources": {
            source: _as_dicts(
                intervals.bootstrap_patients(patients, intervals.weighted_means(each, MEASURES), **options)
            )
            for source, each in values.items()
        },
        "differences": {
            source: _as_dicts(
                intervals.paired_bootstrap(
                    patients, *intervals.paired_means(values[OWN], each, MEASURES), **options
                )
            )
            for source, each in values.items()
            if source != OWN
        },
    }


def _as_dicts(found: Mapping) -> dict[str, dict]:
    return {name: dataclasses.asdict(value) for name, value in found.items()}


def format_summary(summary: dict, regions: int) -> str:
    """The table of `summarise`'s result, in percent, a line for each group and source.

    Args:
        summary: from `summarise`.
        regions: K.
    """
    titles = (
        f"any of {regions} boxes hits",
        "by its share of lesion",
        "share of boxes that hit",
        "share of lesion covered",
    )
    width = max(len(source) for source in (OWN, OTHERS, RANDOM, RANDOM_IN_LUNGS))
    heads = "".join(f"  {title:>24}" for title in titles)
    lines = [f"{'images of':18}{'images':>7}{'patients':>9}  {'':{width}}{heads}"]
    for name, group in summary["groups"].items():
        for number, (source, values) in enumerate(group["sources"].items()):
            head = " " * 34 if number else f"{name:18}{group['images']:>7}{group['patients']:>9}"
            cells = "".join(f"  {localisation.percent(values[measure]):>24}" for measure in MEASURES)
            lines.append(f"{head}  {source:{width}}{cells}")
    everything = summary["groups"][ALL_IMAGES]
    lines += ["", f"{OWN} minus the other, all images, points:"]
    for source, values in everything["differences"].items():
        cells = "".join(
            f"  {localisation.percent(values[measure], 'difference', '+'):>24}" for measure in MEASURES
        )
        lines.append(f"{'':34}  {source:{width}}{cells}")
    lines += [
        "",
        f"Some region that could be chosen hits in {100 * everything['reachable']:.1f} % of the images, by its "
        f"share of lesion in {100 * everything['fillable']:.1f} %.",
        f"Percent, [95 % interval by bootstrap over patients], {summary['resamples']} resamples, seed "
        f"{summary['seed']}; [n/a]: no resample differs.",
    ]
    return "\n".join(line.rstrip() for line in lines)
