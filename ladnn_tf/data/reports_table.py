"""What the command of `reports.py` prints: scores of each split, disagreements, patterns."""

import math

import pandas as pd

from ladnn_tf.data.reports_measured import (
    LIKELY_ERRORS,
    PARTS,
    apply,
    ceiling,
    keyword_lesions,
    micro_f1_interval,
    score,
)


def scores(captions: pd.DataFrame, lesions: pd.DataFrame, by_panel: pd.DataFrame) -> str:
    """Returns the scores of each of `PARTS`, beside those of the bare keywords and the ceiling.

    Args:
        captions: as `read_captions`.
        lesions: what was read from the texts, as `apply`.
        by_panel: the same, where the sub-figure is known from that part of the text alone.
    """
    keywords = apply(keyword_lesions, captions["report"])
    lines = []
    for name, splits in PARTS.items():
        part = captions[captions["split"].isin(splits)]
        if part.empty:
            continue
        head = (
            f"{name}: {len(part)} captions, {part['report'].nunique()} distinct, {part['group'].nunique()} papers"
        )
        lines += ["", head + ("; the rules were written on these" if name == "train" else "")]
        lines.append(
            f"{'':12}{'tp':>5}{'fp':>5}{'fn':>5}{'precision':>11}{'recall':>8}{'F1':>7}{'keywords F1':>13}"
        )
        bare = score(part, keywords.loc[part.index])
        lines += [
            f"{label:12}{s.tp:5}{s.fp:5}{s.fn:5}{_figure(s.precision):>11}{_figure(s.recall):>8}{_figure(s.f1):>7}"
            f"{_figure(bare[label].f1):>13}"
            for label, s in score(part, lesions.loc[part.index]).items()
        ]
        interval = micro_f1_interval(part, lesions.loc[part.index])
        limits = "n/a" if interval.low is None else f"{interval.low:.3f} to {interval.high:.3f}"
        labelled = part[part["labelled"]]
        lines += [
            f"  micro F1, 95 % interval over papers: {limits}",
            f"  micro F1 of the best function of the text: {_figure(ceiling(part).f1)}",
            f"  micro F1 with the sub-figure by the file's number, where the caption marks several:"
            f" {_figure(score(part, by_panel.loc[part.index])['micro'].f1)}",
            f"  micro F1 of the {len(labelled)} images with a lesion label:"
            f" {_figure(score(labelled, lesions.loc[labelled.index])['micro'].f1)}",
        ]
    return "\n".join(lines)


def disagreements(listed: pd.DataFrame) -> str:
    """Returns the disagreements by kind, two lines to one."""
    lines = ["", f"Disagreements: {listed['images'].sum()} labels of images, {len(listed)} of distinct captions"]
    for kind, rows in listed.groupby("kind", sort=False):
        likely = " (looks like an error of the annotation)" if kind in LIKELY_ERRORS else ""
        lines += ["", f"{kind}{likely}: {rows['images'].sum()} labels, {len(rows)} captions"]
        for row in rows.itertuples(index=False):
            what = f"annotated {row.annotated}, read {row.read}"
            lines += [f"  {row.lesion} {what} ({row.split}): {row.names}", f"    {row.report}"]
    return "\n".join(lines)


def patterns(counts: pd.DataFrame) -> str:
    """Returns the counts of `pattern_counts` as a table."""
    lines = ["", "Patterns, and the distinct captions of the training split that each touches (papers)"]
    lines += [
        f"  {row.rule:16}{row.pattern:24}{row.captions:4} ({row.papers})" for row in counts.itertuples(index=False)
    ]
    return "\n".join(lines)


def _figure(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.3f}"
