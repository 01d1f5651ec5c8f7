"""Do a DRENet's boxes hit lesions? `python -m ladnn_tf.box_hits --run=runs/NAME --masks=DIR [--split=test]`.

It predicts the images of a split of the run's data that have a lesion mask, and sets the boxes beside random ones
(`box_measures.py`).
"""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from absl import flags

from ladnn_tf import box_hits_sheet, box_measures, command, localisation, runs
from ladnn_tf.box_hits_sheet import Tile
from ladnn_tf.box_measures import RULE, Masks, Rule
from ladnn_tf.data import pipeline, preprocess
from ladnn_tf.data.manifest import read_manifest, select_split
from ladnn_tf.files import file_sha256, write_atomically
from ladnn_tf.labels import CLASS_NAMES, SPLITS
from ladnn_tf.models.regions import SelectRegions, anchors

USAGE = "python -m ladnn_tf.box_hits --run=runs/NAME --masks=DIR [--split=test] [--sheet=FILE.jpg]"

_BATCH = 8
_TILES = 24


@dataclasses.dataclass(frozen=True, eq=False)
class BoxHits:
    """What came of a measurement.

    Attributes:
        frame: manifest rows of the N images with lesions.
        boxes: `(N, K, 4)` float32 of the run, best first, as shares of the image's sides.
        masks: of the images.
        rule: when a box hits.
        measured: from `box_measures.measure`.
        summary: for `metrics.json`.
    """

    frame: pd.DataFrame
    boxes: np.ndarray
    masks: list[Masks]
    rule: Rule
    measured: pd.DataFrame
    summary: dict


def measure(
    run: runs.Run,
    *,
    manifest: str | Path,
    split: str,
    masks: str | Path,
    rule: Rule = RULE,
    draws: int = 200,
    resamples: int = 2000,
    seed: int = 0,
) -> BoxHits:
    """Measures on a split whether the boxes hit lesions, and what random boxes would do.

    Random boxes are the run's anchors with random scores, through the run's own suppression. On the run's own data
    it counts as a look at the split.

    Args:
        run: a DRENet and its card.
        manifest: the data.
        split: of the manifest.
        masks: folder of the masks.
        rule: when a box hits.
        draws: of random boxes for each image.
        resamples: bootstrap resamples over patients.
        seed: of draws and resamples.

    Returns:
        Boxes, measures and their summary.

    Raises:
        ValueError: if the run has no boxes, or was trained on lungs that were cut out, which the masks do not fit;
            if manifest, images or masks cannot be read.
    """
    _check(run)
    localisation.check_folder(masks)
    frame = pipeline.select_classes(select_split(read_manifest(manifest), split), run.card.classes)
    found = box_measures.read_masks(masks, frame["path"])
    ill = [each is not None for each in found]
    frame, found = frame[ill].reset_index(drop=True), [each for each in found if each is not None]
    pipeline.verify_images(frame)
    select = run.model.get_layer("region_scores")
    boxes = _boxes(run, frame)

    def draw(allowed: np.ndarray, image: int) -> tuple[np.ndarray, np.ndarray]:
        return random_boxes(select, allowed, draws, np.random.default_rng([seed, image]))

    every = anchors(select.image_size, select.grids, select.sides) / select.image_size
    measured = box_measures.measure(frame, boxes, found, every, draw, rule)
    diagnoses = pipeline.diagnoses(frame).to_numpy(str)
    classes = {CLASS_NAMES[name]: diagnoses == name for name in run.card.classes}
    summary = {
        "split": split,
        "manifest": {"file": Path(manifest).name, "sha256": file_sha256(manifest)},
        **dataclasses.asdict(rule),
        "regions": boxes.shape[1],
        "draws": draws,
        **box_measures.summarise(measured, classes, resamples=resamples, seed=seed),
    }
    if runs.is_own(run, manifest):
        runs.count_look(run, split)
    return BoxHits(frame, boxes, found, rule, measured, summary)


def _check(run: runs.Run) -> None:
    if run.card.task != "drenet":
        raise ValueError(f"{run.folder} is a {run.card.task} and has no boxes; give a run of --model=drenet")
    if run.card.lungs != "whole":
        raise ValueError(
            f"{run.folder} was trained on lungs that were cut out: its boxes lie on those, and the masks on whole "
            "slices. Give a run of --lungs=whole"
        )


def _boxes(run: runs.Run, frame: pd.DataFrame) -> np.ndarray:
    model = keras.Model(run.model.input, {"boxes": run.model.output["boxes"]})
    images = pipeline.load_images(frame, run.card.image_size)
    return runs.predict_logits(model, images, _BATCH)["boxes"]


def random_boxes(
    select: SelectRegions, allowed: np.ndarray, draws: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The boxes that random scores would choose.

    Args:
        select: of the run.
        allowed: `(A,)` bool, which anchors may be chosen.
        draws: how often K boxes are drawn.
        rng: of the scores.

    Returns:
        `(draws, K, 4)` float32 as shares of the image's sides, and `(draws, K)` bool: whether there was an anchor
        left that may be chosen.
    """
    scores = rng.uniform(1.0, 2.0, (draws, len(allowed))).astype(np.float32)
    boxes, found = select(np.where(allowed, scores, -scores))
    return np.array(boxes) / select.image_size, np.array(found) > 0


def tiles(hits: BoxHits, count: int = _TILES, seed: int = 0) -> list[Tile]:
    """Slices for a contact sheet, drawn at random, so that the sheet has hits and misses as the split has.

    Args:
        hits: from `measure`.
        count: at most so many.
        seed: of the choice.

    Returns:
        In the order of the manifest.
    """
    chosen = np.random.default_rng(seed).permutation(len(hits.frame))[:count]
    diagnoses = pipeline.diagnoses(hits.frame)
    found = []
    for number in sorted(chosen.tolist()):
        row, masks = hits.frame.iloc[number], hits.masks[number]
        hit = box_measures.hits(hits.boxes[number], masks, hits.rule)
        said = f"{hit.sum()} of {len(hit)} hit" if hit.any() else "MISSED"
        title = f"{Path(row['path']).stem}  {CLASS_NAMES[diagnoses[number]]}: {said}"
        pixels = preprocess.decode(Path(row["path"]).read_bytes())
        found.append(Tile(title, pixels, masks.lesion, hits.boxes[number], hit))
    return found


def _title(run: runs.Run, hits: BoxHits, shown: int) -> list[str]:
    summary = hits.summary
    everything = summary["groups"][box_measures.ALL_IMAGES]
    values = {source: each["hit"]["value"] for source, each in everything["sources"].items()}
    first = (
        f"{run.card.name}, {summary['split']} split: one of {summary['regions']} boxes hits a lesion in "
        f"{100 * values.pop(box_measures.OWN):.1f} % of {everything['images']} images of {everything['patients']} "
        f"patients ({shown} shown, drawn at random)"
    )
    others = ", ".join(f"{source} {100 * value:.1f} %" for source, value in values.items() if value is not None)
    return [first, others, hits.rule.text]


def main(argv: list[str]) -> int:
    """The command."""
    flag_values = flags.FlagValues()
    fv = {"flag_values": flag_values}
    flags.DEFINE_string("run", None, "folder of a run of --model=drenet", required=True, **fv)
    flags.DEFINE_string("masks", None, "folder of masks (<lesion>/NAME.png, lung/NAME.png)", required=True, **fv)
    flags.DEFINE_enum("split", "test", SPLITS, "what is measured", **fv)
    flags.DEFINE_string("manifest", None, "other data than the run's own (default: the run's)", **fv)
    flags.DEFINE_string("out", None, "folder for the results (default: the run's)", **fv)
    flags.DEFINE_string("sheet", None, "JPEG or PNG for a picture of some slices with their boxes", **fv)
    flags.DEFINE_float("least_share", RULE.least_share, "a box hits: of its area that is lesion", 0.001, 1.0, **fv)
    flags.DEFINE_float(
        "least_part", RULE.least_part, "or: of the image's largest lesion that lies in it", 0.001, 1.0, **fv
    )
    flags.DEFINE_integer("draws", 200, "of random boxes for each image", 1, **fv)
    flags.DEFINE_integer("resamples", 2000, "bootstrap resamples over patients", 100, **fv)
    flags.DEFINE_integer("seed", 0, "of draws, resamples and the sheet's slices", 0, **fv)
    command.parse(flag_values, argv, USAGE)
    sheet = box_hits_sheet.check_file(flag_values.sheet) if flag_values.sheet else None
    run = runs.load_run(flag_values.run)
    manifest = flag_values.manifest or run.config.manifest
    if not flag_values.out:
        runs.check_own_data(run, manifest, "figures are")
    out = Path(flag_values.out) if flag_values.out else run.folder
    runs.read_metrics(out, run.card.model_sha256)  # of this model, or an error before the work
    options = {name: flag_values[name].value for name in ("draws", "resamples", "seed")}
    rule = Rule(flag_values.least_share, flag_values.least_part)
    hits = measure(run, manifest=manifest, split=flag_values.split, masks=flag_values.masks, rule=rule, **options)
    print(f"{run.card.name}: {flag_values.split} split, images with a lesion; {rule.text}\n")
    print(box_measures.format_summary(hits.summary, hits.summary["regions"]))
    table = out / f"boxes_{flag_values.split}.csv"
    write_atomically(table, hits.measured.to_csv(index=False).encode())
    runs.write_metrics(out, f"{flag_values.split}, boxes", hits.summary, run.card.model_sha256)
    written = [table, out / "metrics.json"]
    if sheet:
        shown = tiles(hits, seed=flag_values.seed)
        box_hits_sheet.write_sheet(sheet, shown, _title(run, hits, len(shown)))
        written.append(sheet)
    print(f"\nwritten: {', '.join(map(str, written))}")
    return 0


if __name__ == "__main__":
    command.run(main)
