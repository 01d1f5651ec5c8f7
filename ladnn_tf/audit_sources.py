"""The source runs of a shortcut audit: what their split by source paper keeps apart, and what it does not.

`python -m ladnn_tf.data.manifest --split=source` keeps every paper in one split. An archive, such as the places
where COVID-CT has its negatives from, is in all of them.
"""

import pandas as pd

from ladnn_tf import runs
from ladnn_tf.audit_views import evaluated_split
from ladnn_tf.data import pipeline
from ladnn_tf.data.manifest import read_manifest
from ladnn_tf.data.sources import papers, without_dataset
from ladnn_tf.data.splits import papers_in_several_splits
from ladnn_tf.labels import COVID


def source_grouped(run: runs.Run, split: str) -> tuple[pd.DataFrame, list[dict]]:
    """Reads what a source run is evaluated on, and checks that it deserves the name.

    Args:
        run: whose own manifest is read.
        split: `validation` or `test`.

    Returns:
        The rows of the split, and where they come from (`origins`).

    Raises:
        ValueError: if the manifest is not the one that the run was trained on, papers are in several splits, no
            image of the split has a paper, the split lacks a class or is the training's, or an image cannot be
            read.
    """
    if split == "train":
        raise ValueError(f"--source_run={run.folder}: --split=train is what it was trained on; give another split")
    manifest = read_manifest(run.config.manifest)
    if manifest.attrs["sha256"] != run.card.manifest["sha256"]:
        raise ValueError(
            f"{run.config.manifest} is not the data that {run.folder} was trained on (another SHA-256); put the "
            "manifest back as it was"
        )
    shared = papers_in_several_splits(manifest)
    if len(shared):
        raise ValueError(
            f"--source_run={run.folder}: {len(shared)} source papers of {run.config.manifest}, such as "
            f"{shared.index[0]}, are in several splits; train it on a manifest made with "
            "python -m ladnn_tf.data.manifest --split=source"
        )
    frame = evaluated_split(manifest, split)
    found = origins(manifest, split)
    if not any(row["from_papers"] for row in found):
        raise ValueError(
            f"--source_run={run.folder}: none of the {len(frame)} images of split {split!r} of "
            f"{run.config.manifest} comes from a paper (column source), so that no paper is kept apart; leave "
            "this --source_run out"
        )
    pipeline.verify_images(frame)
    return frame, found


def origins(manifest: pd.DataFrame, split: str) -> list[dict]:
    """Where the images of each class of a split come from, as seen from the training.

    Args:
        manifest: all its rows; no paper is in several splits.
        split: that is evaluated.

    Returns:
        For COVID-19, then for the others: `covid` (1 or 0); `images`; `from_papers`: of papers, none of which
        was trained on; `from_trained_archives`: of archives of which the training has images too;
        `trained_archives`: their names, sorted; `from_other_archives`; `without_source`. The four numbers add up
        to `images`.
    """
    name = without_dataset(manifest)
    paper = papers(manifest)
    archive = name.where(paper == "", "")
    trained = archive.isin(set(archive[manifest["split"] == "train"]) - {""})
    found = []
    for covid in (1, 0):
        own = (manifest["split"] == split) & (manifest[COVID] == covid)
        found.append(
            {
                COVID: covid,
                "images": int(own.sum()),
                "from_papers": int((own & (paper != "")).sum()),
                "from_trained_archives": int((own & trained).sum()),
                "trained_archives": sorted(archive[own & trained].unique()),
                "from_other_archives": int((own & (archive != "") & ~trained).sum()),
                "without_source": int((own & (name == "")).sum()),
            }
        )
    return found
