"""Where masks exist: does the attention map point at the lesion? Pointing game and shares of heat, with intervals.

A map of `h x w` cells lies over the slice; a pixel belongs to the cell that its centre lies in. Everything is
counted for each pair of a slice and a lesion that is in it, whether the network found it or not:

- hit: the hottest cell overlaps the lesion's mask (the pointing game of Zhang et al. 2018, without their tolerance
  of 15 pixels). A map of zeros points nowhere and is a miss;
- inside: the share of the map's heat that lies in the mask, a cell's heat being spread evenly over its pixels;
- outside_lung: the share of the heat outside the lungs.

Chance is a cell drawn at random from those that overlap a lung. Lesions prefer some places, so a map that is the
same for every slice does better than chance: the mean map of all slices shows how much better. Only what goes
beyond it follows the lesion.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ladnn_tf import intervals
from ladnn_tf.labels import COVID, LESIONS

MEASURES = ("hit", "inside", "outside_lung")
CHANCE = "random lung cell"
ALL_LESIONS = "all"


@dataclasses.dataclass(frozen=True)
class Source:
    """A source of maps that is measured.

    Attributes:
        name: in the table.
        maps: `(N, h, w, C)` raw maps of the slices.
        columns: for each lesion of `LESIONS` the column of `maps` that is to point at it.
    """

    name: str
    maps: np.ndarray
    columns: Mapping[str, int]


def sources(name: str, maps: np.ndarray) -> list[Source]:
    """The sources of one run: the map of COVID-19 and, of LA-DNN, each lesion's own; the mean of the first.

    Args:
        name: of the run.
        maps: `(N, h, w, 6)`, or `(N, h, w, 1)` of the baseline, from `attention_model`.

    Returns:
        Two sources for the baseline, three for LA-DNN.
    """
    found = [Source(f"{name}, map of {COVID}", maps, dict.fromkeys(LESIONS, 0))]
    if maps.shape[-1] > 1:
        own = {lesion: column for column, lesion in enumerate(LESIONS, start=1)}
        found.insert(0, Source(f"{name}, map of the lesion", maps, own))
    mean = np.broadcast_to(maps.mean(axis=0), maps.shape)
    return [*found, Source(f"{name}, the same mean map for all", mean, found[0].columns)]


def cell_shares(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The share of each cell that a mask covers.

    Args:
        mask: `(H, W)` bool.
        rows, columns: of the map, at most H and W.

    Returns:
        `(rows, columns)` float64 in [0, 1].
    """
    by_row = _membership(mask.shape[0], rows)
    by_column = _membership(mask.shape[1], columns)
    pixels = by_row.sum(axis=1)[:, None] * by_column.sum(axis=1)
    return by_row @ mask @ by_column.T / pixels


def _membership(pixels: int, cells: int) -> np.ndarray:
    """`(cells, pixels)`, 1 where a pixel's centre lies in the cell."""
    cell_of_pixel = ((np.arange(pixels) + 0.5) * cells / pixels).astype(int)
    return (cell_of_pixel == np.arange(cells)[:, None]).astype(np.float64)


def measure_map(heat: np.ndarray, lesion: np.ndarray, lung: np.ndarray) -> dict[str, float]:
    """One map against one lesion.

    Args:
        heat: `(h, w)` not negative.
        lesion: `(h, w)` shares of the cells that the lesion covers.
        lung: the same of the lungs.

    Returns:
        `MEASURES`; `hit` is 1.0 or 0.0, the shares are in [0, 1], or NaN for a map of zeros.
    """
    total = heat.sum()
    if not total > 0:
        return {"hit": 0.0, "inside": np.nan, "outside_lung": np.nan}
    return {
        "hit": float(lesion.flat[heat.argmax()] > 0),
        "inside": float((heat * lesion).sum() / total),
        "outside_lung": float((heat * (1 - lung)).sum() / total),
    }


def measure_chance(lesion: np.ndarray, lung: np.ndarray) -> dict[str, float]:
    """What a random cell of the lung would do; arguments and result as of `measure_map`."""
    cells = lung > 0
    return {
        "hit": float((lesion[cells] > 0).mean()),
        "inside": float(lesion[cells].mean()),
        "outside_lung": float(1 - lung[cells].mean()),
    }


def check_folder(folder: str | Path) -> Path:
    """Returns the folder of masks.

    Raises:
        ValueError: if there is none.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"there is no folder of masks {folder} (looked for from {Path.cwd()})")
    return Path(folder)


def read_mask(path: Path) -> np.ndarray:
    """Reads a mask: `(H, W)` bool, true where the picture is not black.

    Raises:
        ValueError: if the file is missing or no picture, or is transparent in places, so that black and
            transparent could both mean "not here".
    """
    try:
        with Image.open(path) as image:
            if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
                raise ValueError(f"the mask {path} has transparent places; save it as black and white")
            return np.asarray(image.convert("L")) > 0
    except OSError as error:
        raise ValueError(f"the mask {path} cannot be read ({error})") from error


def lesion_masks(folder: str | Path, image: str | Path) -> dict[str, np.ndarray]:
    """The masks of a slice's lesions: `<folder>/<lesion>/<name of the image>.png`.

    Args:
        folder: of the masks.
        image: path of the slice; its name without the suffix counts.

    Returns:
        `(H, W)` bool by lesion. A lesion without a file, or with one that is black throughout, is not there.

    Raises:
        ValueError: if the folder is missing, or a mask cannot be read.
    """
    folder, name = check_folder(folder), f"{Path(image).stem}.png"
    found = {lesion: folder / lesion / name for lesion in LESIONS}
    masks = {lesion: read_mask(path) for lesion, path in found.items() if path.is_file()}
    return {lesion: mask for lesion, mask in masks.items() if mask.any()}


def measure(frame: pd.DataFrame, measured: list[Source], folder: str | Path) -> pd.DataFrame:
    """Measures every source on every pair of a slice and a lesion with a mask.

    Args:
        frame: manifest rows, with `image`, `path` and `patient`.
        measured: their maps, in the order of the rows.
        folder: of the masks: `<lesion>/NAME.png` and, for the same slices, `lung/NAME.png`.

    Returns:
        A row for each pair and source, chance included: `image, patient, lesion, source` and `MEASURES`. Chance is
        of the first source's grid.

    Raises:
        ValueError: if no slice has a mask, two slices with masks have one name, a map is not finite, or a lung
            mask is missing, empty, or of another size.
    """
    for source in measured:
        if not np.isfinite(source.maps).all():
            raise ValueError(f"{source.name}: not every number is finite; the network is damaged")
    rows, named = [], {}
    for number, (image, path, patient) in enumerate(
        zip(frame["image"], frame["path"], frame["patient"], strict=True)
    ):
        masks = lesion_masks(folder, path)
        if not masks:
            continue
        other = named.setdefault(Path(path).stem, path)
        if other != path:
            raise ValueError(f"{other} and {path} have one name, so that they would share their masks; rename one")
        lung_file = Path(folder) / "lung" / f"{Path(path).stem}.png"
        lung = read_mask(lung_file)
        if not lung.any() or any(mask.shape != lung.shape for mask in masks.values()):
            raise ValueError(f"{lung_file} is empty or differs in size from the lesions' masks; make them anew")
        for lesion, mask in masks.items():
            grids = {source.maps.shape[1:3] for source in measured}
            cells = {grid: (cell_shares(mask, *grid), cell_shares(lung, *grid)) for grid in grids}
            found = {
                source.name: measure_map(
                    source.maps[number, ..., source.columns[lesion]], *cells[source.maps.shape[1:3]]
                )
                for source in measured
            }
            found[CHANCE] = measure_chance(*cells[measured[0].maps.shape[1:3]])
            pair = {"image": image, "patient": patient, "lesion": lesion}
            rows += [{**pair, "source": source, **values} for source, values in found.items()]
    if not rows:
        raise ValueError(
            f"none of the {len(frame)} slices has a lesion mask in {folder}; expected <lesion>/<name of the "
            f"image>.png, such as {Path(folder) / LESIONS[0] / (Path(frame['path'].iloc[0]).stem + '.png')}"
        )
    return pd.DataFrame(rows)


def summarise(pairs: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> dict:
    """Means with 95 % intervals by bootstrap over patients, for each lesion and for all.

    Args:
        pairs: from `measure`.
        resamples: of the patients.
        seed: of the resamples.

    Returns:
        `resamples`, `seed`, and `lesions`: by lesion and for `all` the numbers of `pairs` and `patients`,
        `sources` (name -> measure -> fields of `intervals.Interval`), `empty_maps` (name -> number of maps of
        zeros) and `differences` (first source minus each other, chance included: name -> measure -> fields of
        `intervals.PairedDifference`). Maps of zeros are misses and have no shares of heat; a difference of shares
        is over the pairs in which both have one.
    """
    options = {"resamples": resamples, "seed": seed}
    present = [lesion for lesion in LESIONS if (pairs["lesion"] == lesion).any()]
    groups = {lesion: pairs[pairs["lesion"] == lesion] for lesion in present} | {ALL_LESIONS: pairs}
    return {**options, "lesions": {name: _summarise_group(group, options) for name, group in groups.items()}}


def _summarise_group(pairs: pd.DataFrame, options: dict) -> dict:
    by_source = dict(iter(pairs.groupby("source", sort=False)))
    first, *others = by_source
    patients = by_source[first]["patient"]
    values = {source: rows[list(MEASURES)].to_numpy() for source, rows in by_source.items()}
    return {
        "pairs": len(patients),
        "patients": int(patients.nunique()),
        "sources": {
            source: {
                name: dataclasses.asdict(interval)
                for name, interval in intervals.bootstrap_patients(
                    patients, intervals.weighted_means(own, MEASURES), **options
                ).items()
            }
            for source, own in values.items()
        },
        "empty_maps": {source: int(np.isnan(own).any(axis=1).sum()) for source, own in values.items()},
        "differences": {
            source: {
                name: dataclasses.asdict(difference)
                for name, difference in intervals.paired_bootstrap(
                    patients, *intervals.paired_means(values[first], values[source], MEASURES), **options
                ).items()
            }
            for source in others
        },
    }


def format_summary(summary: dict) -> str:
    """The table of `summarise`'s result, in percent, a line for each lesion and source."""
    titles = ("hit", "heat inside the lesion", "heat outside the lung")
    width = max(len(source) for source in summary["lesions"][ALL_LESIONS]["sources"])
    lines = [f"{'lesion':10}{'pairs':>6}  {'map':{width}}" + "".join(f"  {title:>24}" for title in titles)]
    for lesion, group in summary["lesions"].items():
        for number, (source, values) in enumerate(group["sources"].items()):
            head = f"{lesion:10}{group['pairs']:>6}" if not number else " " * 16
            lines.append(f"{head}  {source:{width}}" + "".join(f"  {percent(values[m]):>24}" for m in MEASURES))
    first, *_ = summary["lesions"][ALL_LESIONS]["sources"]
    lines += ["", f"{first} minus the other, all lesions, points:"]
    for source, values in summary["lesions"][ALL_LESIONS]["differences"].items():
        cells = "".join(f"  {percent(values[m], 'difference', '+'):>24}" for m in MEASURES)
        lines.append(f"{'':16}  {source:{width}}{cells}")
    empty = {name: count for name, count in summary["lesions"][ALL_LESIONS]["empty_maps"].items() if count}
    lines += ["", *(f"maps of zeros, which are misses: {count} of {name}" for name, count in empty.items())]
    lines += [
        "",
        "hit: the hottest cell overlaps the lesion. Percent, [95 % interval by bootstrap over patients], "
        f"{summary['resamples']} resamples, seed {summary['seed']}; [n/a]: no resample differs.",
    ]
    return "\n".join(line.rstrip() for line in lines)


def percent(interval: dict, key: str = "value", sign: str = "") -> str:
    """An interval in percent, as text.

    Args:
        interval: fields of `intervals.Interval` or `intervals.PairedDifference`, shares.
        key: the field before the interval.
        sign: `+` for a sign before every number.
    """
    if interval[key] is None:
        return "n/a"
    number = f"{100 * interval[key]:{sign}.1f}"
    if interval["low"] is None or interval["low"] == interval["high"]:
        return f"{number} [n/a]"
    return f"{number} [{100 * interval['low']:{sign}.1f}, {100 * interval['high']:{sign}.1f}]"
