"""Shows where a run looked: `python -m ladnn_tf.explain --run=runs/NAME FILE...`.

With `--masks=DIR` and no files it measures on a split of the run's data whether the maps point at the lesions
(`localisation.py`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from absl import flags

from ladnn_tf import command, drawing, explain_panel, localisation, runs
from ladnn_tf.calibration import calibrated_probabilities
from ladnn_tf.data import pipeline, preprocess
from ladnn_tf.data.manifest import read_manifest, select_split
from ladnn_tf.explain_panel import Explanation
from ladnn_tf.files import file_sha256, write_atomically
from ladnn_tf.labels import COVID, LESIONS, SPLITS
from ladnn_tf.lesion_thresholds import lesion_thresholds
from ladnn_tf.models.attention import METHODS, attention_model

USAGE = (
    "python -m ladnn_tf.explain --run=runs/NAME [--compare_run=runs/BASELINE] [--out=DIR] FILE...\n"
    "       python -m ladnn_tf.explain --run=runs/NAME [--compare_run=runs/BASELINE] --masks=DIR [--split=test]"
)
_BATCH = 32


def explain(
    run: runs.Run, files: Sequence[str | Path], *, method: str = "gradcam++"
) -> list[Explanation | preprocess.ImageError]:
    """Predicts image files and computes their maps, one answer per file, in order.

    Args:
        run: the model and its card.
        files: PNG or JPEG files.
        method: one of `attention.METHODS`.

    Returns:
        Per file an `Explanation`, or the error of a file that cannot be read.

    Raises:
        ValueError: as `lesion_thresholds` and `check_whole`.
    """
    check_whole(run)
    model = attention_model(run.model, method)
    thresholds = lesion_thresholds(run)
    answers = []
    for start in range(0, len(files), _BATCH):
        answers += _explain_batch(model, run, files[start : start + _BATCH], *thresholds)
    return answers


def check_whole(run: runs.Run) -> None:
    """Checks that a run's model is shown whole slices.

    Raises:
        ValueError: if it is shown the lungs alone.
    """
    if run.card.lungs != "whole":
        raise ValueError(
            f"{run.folder} was trained on lungs that were cut out: its maps lie on those, and slices and masks "
            "are whole. Give a run of --lungs=whole"
        )


def _explain_batch(
    model,
    run: runs.Run,
    files: Sequence[str | Path],
    thresholds: Mapping[str, float],
    not_chosen: tuple[str, ...],
) -> list[Explanation | preprocess.ImageError]:
    answers, images = {}, {}
    for number, file in enumerate(files):
        try:
            images[number] = preprocess.read_image(file, run.card.image_size)
        except preprocess.ImageError as error:
            answers[number] = error
    if images:
        outputs = runs.predict_logits(model, np.stack(list(images.values())))
        for row, number in enumerate(images):
            one = {name: values[row] for name, values in outputs.items()}
            answers[number] = _explanation(run, Path(files[number]), one, thresholds, not_chosen)
    return [answers[number] for number in range(len(files))]


def _explanation(
    run: runs.Run,
    file: Path,
    outputs: Mapping[str, np.ndarray],
    thresholds: Mapping[str, float],
    not_chosen: tuple[str, ...],
) -> Explanation | preprocess.ImageError:
    if not all(np.isfinite(values).all() for values in outputs.values()):
        return preprocess.ImageError(f"{file}: the model gives no finite number for this image")
    labels = (COVID, *(LESIONS if "lesions" in outputs else ()))
    probabilities = {COVID: float(calibrated_probabilities(outputs[COVID], run.card.temperature)[0])}
    if "lesions" in outputs:
        values = calibrated_probabilities(outputs["lesions"], 1.0)
        probabilities |= dict(zip(LESIONS, map(float, values), strict=True))
    positive = probabilities[COVID] >= run.card.threshold
    found = tuple(lesion for lesion in thresholds if probabilities[lesion] >= thresholds[lesion])
    caveat = ""
    if thresholds and not positive and run.config.lesion_targets == "positives":
        caveat = "Lesions are not shown: they were learnt on COVID-19 images alone, and this call is negative."
        found = ()
    maps = {label: outputs["attention"][..., column] for column, label in enumerate(labels)}
    return Explanation(
        run=run.card.name,
        file=file,
        probabilities=probabilities,
        positive=positive,
        thresholds={COVID: run.card.threshold, **thresholds},
        not_chosen=not_chosen,
        found=found,
        maps=maps,
        caveat=caveat,
    )


def write_panels(
    run: runs.Run,
    other: runs.Run | None,
    files: Sequence[str],
    *,
    out: Path,
    masks: str | None = None,
    method: str = "gradcam++",
) -> tuple[dict[str, Path], list[str]]:
    """Explains files and writes a panel for each, `<out>/<its folder>_<its name>.png`.

    Args:
        run: the run.
        other: another to set beside it, or None.
        files: PNG or JPEG files; of two whose panels had one name the second gets a number.
        out: folder of the panels.
        masks: folder of lesion masks, whose outlines are drawn; or None.
        method: one of `attention.METHODS`.

    Returns:
        The panel of each file that was explained, and the errors of the others.

    Raises:
        ValueError: if a panel would replace one of the files, or as `explain`.
    """
    for each in filter(None, (run, other)):
        check_whole(each)
    panels = panel_paths(files, out)
    ours = explain(run, files, method=method)
    theirs = explain(other, files, method=method) if other else [None] * len(files)
    written, errors = {}, []
    for file, panel, mine, their in zip(files, panels, ours, theirs, strict=True):
        try:
            for each in (mine, their):
                if isinstance(each, preprocess.ImageError):
                    raise each
            outlines = localisation.lesion_masks(masks, file) if masks else None
            figure = explain_panel.draw(preprocess.decode(Path(file).read_bytes()), mine, their, outlines)
        except ValueError as error:
            errors.append(str(error))
            continue
        drawing.save(figure, panel.with_suffix(""), ["png"])
        written[str(file)] = panel
    return written, errors


def panel_paths(files: Sequence[str | Path], out: Path) -> list[Path]:
    """Where the panels of files are written: names that tell patients apart whose files have the same names.

    Raises:
        ValueError: if a panel would replace one of the files.
    """
    names, panels = set(), []
    for file in map(Path, files):
        stem = f"{file.absolute().parent.name}_{file.stem}".replace(".", "_")
        name, number = stem, 1
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names.add(name)
        panels.append(out / f"{name}.png")
    given = {Path(file).resolve() for file in files}
    for panel in panels:
        if panel.resolve() in given:
            raise ValueError(f"the panel {panel} would replace a slice of that name; give another --out")
    return panels


def measure(
    run: runs.Run,
    other: runs.Run | None,
    *,
    manifest: str | Path,
    split: str,
    masks: str | Path,
    method: str = "gradcam++",
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[pd.DataFrame, dict]:
    """Measures on a split whether the maps point at the lesions (`localisation.py`).

    Args:
        run: the run.
        other: another to set beside it, or None.
        manifest: the data.
        split: of the manifest.
        masks: folder of the masks.
        method: one of `attention.METHODS`.
        resamples: bootstrap resamples over patients.
        seed: of the resamples.

    Returns:
        The pairs and their summary.

    Raises:
        ValueError: if manifest, images or masks cannot be read, or as `check_whole`.
    """
    for each in filter(None, (run, other)):
        check_whole(each)
    frame = select_split(read_manifest(manifest), split)
    localisation.check_folder(masks)
    pipeline.verify_images(frame)
    sources = []
    for each in filter(None, (run, other)):
        images = pipeline.load_images(frame, each.card.image_size)
        maps = runs.predict_logits(attention_model(each.model, method), images)["attention"]
        sources += localisation.sources(each.card.name, maps)
    pairs = localisation.measure(frame, sources, masks)
    summary = localisation.summarise(pairs, resamples=resamples, seed=seed)
    data = {"file": Path(manifest).name, "sha256": file_sha256(manifest)}
    models = {}
    for each in filter(None, (run, other)):
        models[each.card.name] = each.card.model_sha256
        if data["sha256"] == each.card.manifest["sha256"]:
            runs.count_look(each, split)
    return pairs, {"split": split, "method": method, "manifest": data, "model_sha256": models, **summary}


def main(argv: list[str]) -> int:
    """The command; the exit status is 1 if any file could not be explained."""
    flag_values = flags.FlagValues()
    fv = {"flag_values": flag_values}
    flags.DEFINE_string("run", None, "folder of the run", required=True, **fv)
    flags.DEFINE_string("compare_run", None, "another run to set beside it, the baseline say", **fv)
    flags.DEFINE_enum("method", "gradcam++", METHODS, "of the maps", **fv)
    flags.DEFINE_string("masks", None, "folder of lesion masks (<lesion>/NAME.png, lung/NAME.png)", **fv)
    flags.DEFINE_enum("split", "test", SPLITS, "what is measured, where no files are given", **fv)
    flags.DEFINE_string("manifest", None, "other data to measure on than the run's own", **fv)
    flags.DEFINE_string("out", None, "folder for panels and figures (default: explained/ in the run)", **fv)
    flags.DEFINE_integer("resamples", 2000, "bootstrap resamples over patients", 100, **fv)
    flags.DEFINE_integer("seed", 0, "of the resamples", **fv)
    files = command.parse(flag_values, argv, USAGE, positional=True)
    if not files and not flag_values.masks:
        command.usage_error("give image files to explain, or --masks to measure a split", USAGE)
    run = runs.load_run(flag_values.run)
    other = runs.load_run(flag_values.compare_run) if flag_values.compare_run else None
    if other and other.card.name == run.card.name:
        raise ValueError(f"--run and --compare_run are both named {run.card.name}; give one another folder name")
    out = Path(flag_values.out) if flag_values.out else run.folder / "explained"
    options = {"masks": flag_values.masks, "method": flag_values.method}
    if files:
        written, errors = write_panels(run, other, files, out=out, **options)
        for file, panel in written.items():
            print(f"{file}: {panel}")
        for error in errors:
            print(f"not explained: {error}")
        return 1 if errors else 0
    manifest = flag_values.manifest or run.config.manifest
    if not flag_values.out:
        runs.check_own_data(run, manifest, "figures are")
    pairs, summary = measure(
        run,
        other,
        manifest=manifest,
        split=flag_values.split,
        resamples=flag_values.resamples,
        seed=flag_values.seed,
        **options,
    )
    print(f"{summary['split']} split, {summary['method']}\n")
    print(localisation.format_summary(summary))
    against = f"_{other.card.name}" if other else ""
    stem = f"localisation_{summary['split']}_{summary['method']}{against}"
    write_atomically(out / f"{stem}.csv", pairs.to_csv(index=False).encode())
    write_atomically(out / f"{stem}.json", (json.dumps(summary, indent=1, allow_nan=False) + "\n").encode())
    print(f"\nwritten: {out / stem}.csv, {out / stem}.json")
    return 0


if __name__ == "__main__":
    command.run(main)
