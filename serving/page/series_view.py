"""What a reader sees of a series' answer: sentences in the reader's language, and the most suspicious slices."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ladnn_tf.card import Card
from ladnn_tf.edge_overlay import BOX_SHARE, strongest
from ladnn_tf.person import TOP_K
from ladnn_tf.series_answer import SeriesAnswer, SliceAnswer, reasons
from ladnn_tf.series_cautions import cautions
from serving.page import percent, pictures
from serving.page.calls import call_fields, model_fields, threshold_percent
from serving.page.file_kinds import DICOM
from serving.page.intake import SentSeries
from serving.page.reasons import reason_in
from serving.page.series_parts import Said, SeriesView, SliceView, SuspectView
from serving.page.view import class_views, heat_text, shown_name
from serving.page.words import Words

if TYPE_CHECKING:  # it reads series by packages that not every page has
    from serving.page.series_reading import ReadSeries

_AROUND_REASONS = (
    (re.compile(r"such as: (?P<reason>.+)", re.DOTALL), "series.such_as"),
    (re.compile(r"left out: (?P<files>.+?): (?P<reason>.+)\.", re.DOTALL), "series.file_left_out"),
    (re.compile(r"not taken for a chest-CT slice: (?P<reason>.+)", re.DOTALL), "series.not_chest_ct"),
    (re.compile(r"no answer: (?P<reason>.+)", re.DOTALL), "series.no_slice_answer"),
)
"""English sentences of `ladnn_tf.series` and the readers with a reason in them, and the keys of their texts."""

_AND_MORE = re.compile(r"(?P<files>.+) and (?P<count>\d+) more", re.DOTALL)
"""The files in such a sentence, where only the first are named."""

_NEXT_LEFT_OUT = re.compile(r"\. (?=left out: )")
"""Between the sentences of the readers' message that nothing can be read."""

_NAMED = 1  # files of a series that its name lists


def series_view(
    answer: SeriesAnswer, read: "ReadSeries", sent: SentSeries, words: Words, *, with_pictures: bool
) -> SeriesView:
    """An answer for a series as it is shown.

    Args:
        answer: of the series.
        read: the series.
        sent: the files it was read from.
        words: of the reader's language.
        with_pictures: whether there are pictures of the most suspicious slices.
    """
    threshold = threshold_percent(answer.covid, answer.threshold, words)
    report = list(read.report)
    common = {
        **model_fields(answer.card, answer.card_sha256, words),
        "file": _name([sent.files[place].name for place in read.places], read.number, words),
        "threshold": answer.threshold,
        "threshold_percent": threshold,
        "looked": _looked(answer, sent.kind, words),
        "left_out": _left_out(answer.slices, words),
        "report": [_said(sentence, words) for sentence in report] + _passed_over(sent, words),
        "slices": answer.count,
        "slices_answered": len(answer.answered),
        "looked_at": [_slice(each, words) for each in answer.slices],
        "shown": _shown(answer, words),
    }
    if answer.covid is None:
        return SeriesView(state="abstained", sentence=words("series.no_answer"), **common)
    how = words(f"series.how.{answer.aggregation}", count=TOP_K)
    call = call_fields(answer.covid, answer.positive, answer.threshold, words, "series", how=how)
    call["sentence"] = words("sentence.join").join((call["sentence"], *_beside_the_call(answer, words)))
    view = SeriesView(
        **call,
        low=answer.low,
        high=answer.high,
        interval=_interval(answer, words),
        aggregation=answer.aggregation,
        rule=_rule(answer, threshold, words),
        classes=class_views(answer.classes, words),
        **common,
    )
    return _with_pictures(view, answer, words) if with_pictures else view


def failure_view(sent: SentSeries, message: str, card: Card, card_sha256: str, words: Words) -> SeriesView:
    """Files of an upload of which no series could be read.

    Args:
        sent: the files.
        message: why, in English, without a full stop.
        card, card_sha256: of the model that would have answered.
        words: of the reader's language.
    """
    reason = _why_unread(message, words)
    return SeriesView(
        **model_fields(card, card_sha256, words),
        file=_name([file.name for file in sent.files], "", words),
        state="error",
        sentence=words("series.unread"),
        threshold=None,
        threshold_percent="",
        report=_passed_over(sent, words),
        reason=reason.text,
        reason_language=reason.language,
    )


def _name(files: Sequence[str], number: str, words: Words) -> str:
    """The common folder of the files, or one of them and how many others there are."""
    shown = [shown_name(file) for file in files]
    folders = {name.rpartition("/")[0] for name in shown}
    name = shown[0]
    if len(shown) > _NAMED:
        folder = folders.pop() if len(folders) == 1 else ""
        name = folder or words("series.files", first=shown[0], count=len(shown) - _NAMED)
    return words("series.numbered", name=name, number=number) if number else name


def _looked(answer: SeriesAnswer, kind: str, words: Words) -> str:
    z, y, x = answer.spacing_mm
    found = [words.count("series.read", answer.count)]
    if math.isfinite(z) and answer.count > 1:
        found.append(words("series.apart", distance=f"{z:.3g}"))
    if math.isfinite(y) and math.isfinite(x):
        found.append(words("series.pixels", height=f"{y:.3g}", width=f"{x:.3g}"))
    key = "series.looked" if len(answer.slices) < answer.count else "series.looked_all"
    values = {"looked": len(answer.slices), "answered": len(answer.answered)}
    sentences = [words("list.join").join(found) + words("sentence.end"), words(key, **values)]
    sentences.append(words("series.counted" if answer.calibrated or kind == DICOM else "series.counted_by_name"))
    return words("sentence.join").join(sentences)


def _left_out(slices: Sequence[SliceAnswer], words: Words) -> list[Said]:
    return [_said(reason, words, count) for count, reason in reasons(slices)]


def _said(sentence: str, words: Words, count: int = 0) -> Said:
    """A sentence in the reader's language, and the reason in it as well."""
    for pattern, key in _AROUND_REASONS:
        if found := pattern.fullmatch(sentence):
            values = found.groupdict() | {"reason": _said(found["reason"], words).text}
            if "files" in values:
                values["files"] = _listed(values["files"], words)
            return Said(words(key, **values), words.language, count)
    return Said(*reason_in(words, sentence), count)


def _listed(files: str, words: Words) -> str:
    """Names of files, the last words of which may be how many others there are."""
    found = _AND_MORE.fullmatch(files)
    return words("series.and_more", **found.groupdict()) if found else files


def _why_unread(message: str, words: Words) -> Said:
    """Why nothing was read, and what was left out, without the last full stop."""
    first, *left_out = _NEXT_LEFT_OUT.split(message)
    if not left_out:
        return _said(message, words)
    said = [_said(f"{sentence}.", words) for sentence in (first, *left_out)]
    text = words("sentence.join").join(sentence.text for sentence in said)
    return Said(text.removesuffix(words("sentence.end")), said[0].language)


def _passed_over(sent: SentSeries, words: Words) -> list[Said]:
    if not sent.passed_over:
        return []
    return [Said(words.count("series.passed_over", sent.passed_over), words.language)]


def _slice(each: SliceAnswer, words: Words) -> SliceView:
    number = each.index + 1
    if each.answer is None:
        return SliceView(number, None, "", _said(each.reason, words))
    return SliceView(number, each.answer.covid, percent.probability(each.answer.covid, words), None)


def _beside_the_call(answer: SeriesAnswer, words: Words) -> list[str]:
    """The most probable class, and what must be known of this answer."""
    found = [reason_in(words, caution)[0] for caution in cautions(answer)]
    if best := answer.most_probable_class:
        found.insert(0, words("series.most_probable", name=words(f"class.{best}")))
    return found


def _interval(answer: SeriesAnswer, words: Words) -> str:
    if answer.low is not None:
        return words("series.interval", interval=percent.interval(answer.low, answer.high, words))
    return words("series.no_interval_one" if len(answer.answered) == 1 else "series.no_interval_alike")


def _rule(answer: SeriesAnswer, threshold: str, words: Words) -> str:
    chosen = answer.card.person
    if chosen is None:
        return words("series.rule_of_slices", threshold=threshold)
    return words(
        "series.rule", threshold=threshold, patients=chosen.patients, positives=chosen.positives, rule=chosen.rule
    )


def _shown(answer: SeriesAnswer, words: Words) -> str:
    sentences = [words("series.as_pictures")]
    if answer.calibrated:
        window = answer.card.window
        sentences = [words("series.window", level=f"{window.level:g}", width=f"{window.width:g}")]
    if answer.card.lungs == "extracted":
        sentences.append(words("series.lungs_alone"))
    return words("sentence.join").join(sentences)


def _with_pictures(view: SeriesView, answer: SeriesAnswer, words: Words) -> SeriesView:
    best = [answer.slices[place] for place in answer.suspicious]
    scores = [each.answer.scores.max(initial=0.0) for each in answer.answered if each.answer.scores is not None]
    highest = float(max(scores, default=0.0))
    suspects = [_suspect(each, answer, highest, words) for each in best]
    drawn, scale = words("series.nothing_drawn"), ""
    if best[0].answer.maps is not None:
        rows, columns = best[0].answer.maps.shape[:2]
        drawn = words("sentence.join").join(
            (words("results.legend"), words("view.cells", rows=rows, columns=columns))
        )
        scale = pictures.scale_uri()
    elif best[0].answer.boxes is not None:
        share = percent.share(BOX_SHARE, words)
        drawn = words("series.no_boxes")
        if answer.positive:
            boxes = any(suspect.boxes for suspect in suspects)
            drawn = words("series.boxes" if boxes else "series.boxes_elsewhere", share=share)
    return dataclasses.replace(view, suspects=suspects, drawn=drawn, scale=scale)


def _suspect(each: SliceAnswer, answer: SeriesAnswer, highest: float, words: Words) -> SuspectView:
    result, heat, text, boxes = each.answer, "", "", 0
    picture = None
    # The best region of a person called negative is no finding.
    if result.boxes is not None and answer.positive:
        found = strongest(result, highest)
        boxes = len(found[0])
        picture = pictures.boxed_uri(each.pixels, *found)
    if result.maps is not None:
        heat = pictures.heat_uri(result.maps[..., 0])
        text = heat_text(result.maps[..., 0], words("lesion.covid"), words)
    share = percent.probability(result.covid, words)
    return SuspectView(each.index + 1, share, picture or pictures.slice_uri(each.pixels), boxes, heat, text)
