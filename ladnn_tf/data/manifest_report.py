"""What the manifest's command prints: rows mended and refused, duplicates, shared papers, Table 1, lesions."""

from collections import defaultdict
from collections.abc import Sequence

import pandas as pd

from ladnn_tf.data.duplicates import HASH_BITS
from ladnn_tf.data.published_table import Remark
from ladnn_tf.data.sources import drawn
from ladnn_tf.labels import COVID, LESIONS, SPLITS

# Table 1 of Liu et al. 2020: images and patients; all, training, validation, test. D1's split is not given.
_PAPER_TABLE1 = {
    ("D0", 1): ((345, 212), (187, 126), (60, 32), (98, 54)),
    ("D0", 0): ((401, 175), (238, 109), (58, 24), (105, 42)),
    ("D1", 1): ((219, 57), None, None, None),
    ("D1", 0): ((259, 164), None, None, None),
    ("D0+D1", 1): ((564, 269), (340, 169), (81, 34), (143, 66)),
    ("D0+D1", 0): ((660, 339), (398, 215), (97, 44), (165, 80)),
}
_DATASETS = {"covid_ct": "D0", "ladnn_d1": "D1"}


def table1(frame: pd.DataFrame) -> str:
    """Returns the paper's Table 1 for a manifest, beside the paper's own figures: images (patients).

    Args:
        frame: a manifest's rows.
    """
    dataset = frame["source"].str.split("/", n=1).str[0].map(_DATASETS)
    names = [name for name in _DATASETS.values() if (dataset == name).any()]
    columns = ("all", *SPLITS)
    head = "".join(f"{column:>12}" for column in columns)
    lines = [
        "",
        "Table 1: images (patients)",
        f"{'':16}{'this manifest':^48}  {'Liu et al. 2020':^48}",
        f"{'':16}{head}  {head}",
    ]
    for name in names if len(names) < 2 else [*names, "D0+D1"]:
        rows_of_dataset = frame[dataset.notna()] if name == "D0+D1" else frame[dataset == name]
        for covid, title in ((1, "positive"), (0, "negative")):
            rows = rows_of_dataset[rows_of_dataset[COVID] == covid]
            parts = [rows, *(rows[rows["split"] == split] for split in SPLITS)]
            ours = "".join(f"{_images_and_patients(len(p), p['patient'].nunique()):>12}" for p in parts)
            paper = "".join(
                f"{_images_and_patients(*figures) if figures else '-':>12}"
                for figures in _PAPER_TABLE1[name, covid]
            )
            lines.append(f"{name + ' ' + title:16}{ours}  {paper}")
    if drawn(frame).any():
        lines.append("These are phantoms, drawn and not scanned: the paper's figures are not theirs.")
    return "\n".join(lines)


def lesions(frame: pd.DataFrame) -> str:
    """Returns the images with and without each lesion, by split; "n/a" where a split cannot measure it.

    Args:
        frame: a manifest's rows.
    """
    lines = ["", "Lesions: images with / without it (others are unknown; n/a: no AUC can be computed)"]
    lines.append(f"{'':16}" + "".join(f"{lesion:>12}" for lesion in LESIONS))
    for split in SPLITS:
        rows = frame[frame["split"] == split]
        cells = []
        for lesion in LESIONS:
            present, absent = int((rows[lesion] == 1).sum()), int((rows[lesion] == 0).sum())
            cells.append(f"{present} / {absent}" + ("" if present and absent else " n/a"))
        lines.append(f"{split:16}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def remarks(remarks: Sequence[Remark], verb: str) -> str:
    """Returns every mended or refused row, by file and reason, each with its count.

    Args:
        remarks: the rows.
        verb: "mended" or "refused".
    """
    groups: dict[tuple[str, str], list[Remark]] = defaultdict(list)
    for remark in remarks:
        groups[remark.file if remark.row else "images", remark.reason].append(remark)
    lines = ["", f"Rows {verb}: {len(remarks)}"]
    for (file, reason), members in groups.items():
        lines.append(f"  {len(members)} in {file}: {reason}")
        lines += [f"    {f'row {m.row}' if m.row else '':9}{m.image}" for m in members]
    return "\n".join(lines)


def duplicates(pairs: pd.DataFrame, *, phantoms: bool) -> str:
    """Returns the duplicates across splits, three lines to a pair.

    Args:
        pairs: as `duplicates.near_duplicates`.
        phantoms: whether phantoms were among the images compared.
    """
    lines = ["", f"Images in two splits: {len(pairs)}"]
    if phantoms:
        lines.append("  Near-duplicates are not looked for among phantoms, which all resemble each other.")
    for pair in pairs.itertuples(index=False):
        contradiction = "" if pair.covid_1 == pair.covid_2 else ", and their labels contradict each other"
        lines.append(f"  {pair.kind}, {pair.distance} of {HASH_BITS} bits differ{contradiction}")
        lines.append(f"    {pair.split_1:12}{pair.image_1} ({pair.patient_1}, covid {pair.covid_1})")
        lines.append(f"    {pair.split_2:12}{pair.image_2} ({pair.patient_2}, covid {pair.covid_2})")
    return "\n".join(lines)


def shared_papers(papers: pd.DataFrame) -> str:
    """Returns the papers whose images are in more than one split, one to a line.

    Args:
        papers: as `splits.papers_in_several_splits`.
    """
    lines = ["", f"Source papers in more than one split: {len(papers)}"]
    if not papers.empty:
        lines.append("  (--split=source makes a split without any)")
        lines.append(f"{'images:':16}" + "".join(f"{split:>12}" for split in SPLITS))
        lines += [
            f"{'':16}" + "".join(f"{images[split]:>12}" for split in SPLITS) + f"  {paper}"
            for paper, images in papers.iterrows()
        ]
    return "\n".join(lines)


def _images_and_patients(images: int, patients: int) -> str:
    return f"{images} ({patients})"
