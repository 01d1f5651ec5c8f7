"""Lesion labels from the text of a radiology report or of a figure's caption; and the command that measures it.

    python -m ladnn_tf.data.reports --covid_ct=DIR --csv=FILE

This is how LA-DNN's authors came by their lesion labels (Liu et al. 2020, section 3): by hand, from the reports
that come with the images of COVID-CT. `report_rules.py` holds the terms and the cues; they were written on the
captions of the training split alone.

On the 145 images with captions (50 texts, 27 papers) of validation and test the micro F1 was 0.889, 95 % interval
over papers 0.773 to 0.981, when it was measured for the first time; bare keywords have 0.947. That look showed a
fault: texts whose spaces were lost in extraction ("multifocalground-glasschanges") were not read. It was mended,
and nothing else: 0.936 [0.849, 0.993], which is no longer a blind figure. A caption of six images made all 12
false positives, with "paving stones" and "thickening of interlobular stroma", which the annotation leaves out.
The rules for layout, requests and changes, and more denials, came later, as general language and without a look at
these captions; they were not measured on them.

English only: a report in another language names none of the lesions, and `speaks_of_lungs` is False for it.
"""

import re
from pathlib import Path

from ladnn_tf.data.report_rules import (
    DENIED_AFTER,
    DENIED_BEFORE,
    DENIED_BEHIND,
    DENIED_WITHIN,
    EARLIER,
    END_OF_DENIAL,
    END_OF_REQUEST,
    LINK,
    NO_DENIAL,
    NORMAL,
    OF_LUNGS,
    PARTLY,
    REQUEST,
    RESOLVED_AFTER,
    RESOLVED_BEFORE,
    START_OF_DENIAL,
    TERMS,
)
from ladnn_tf.data.report_sentences import findings, normalise, part_of_panel, sentences
from ladnn_tf.labels import LESIONS

_USAGE = "python -m ladnn_tf.data.reports --covid_ct=DIR [--csv=FILE]"

_LIST_WORDS = 5  # of a list's item, as in `no consolidation, crazy paving or air bronchogram`


def lesions_from_report(text: str, *, panel: str | None = None) -> dict[str, bool]:
    """Returns the lesions that a report says are there.

    A lesion is there if the text names it, by any of its terms, at least once without denying it ("no evidence
    of", "was not seen", "consolidation: none") and without saying that it is gone ("complete resolution of",
    "had disappeared"). A lesion that decreased, or was partly absorbed, is there. So is a possible one. A lesion
    that the text does not name is not there, as radiologists do not list what is absent; whether a text says
    anything at all is told by `speaks_of_lungs`.

    Args:
        text: the report in English, with any line breaks.
        panel: the letter of a sub-figure where the text is a figure's caption: what the caption says of the other
            ones is left out (see `report_sentences.part_of_panel`). The file names of COVID-CT do not tell it
            reliably, so that its captions are read as a whole.

    Returns:
        For each of `labels.LESIONS`, in their order, whether it is there.

    Raises:
        ValueError: if `panel` is not one letter.
    """
    present = dict.fromkeys(LESIONS, False)
    for lesion, denied in _mentions(text, panel):
        present[lesion] |= not denied
    return present


def lesions_named(text: str) -> frozenset[str]:
    """Returns the lesions that a report names, be it to deny them."""
    return frozenset(lesion for lesion, _ in _mentions(text, None))


def speaks_of_lungs(text: str) -> bool:
    """Returns whether a report tells which of the five lesions are there.

    It does if it names one of them, be it to deny it, or states that the lungs are normal or that their lesions
    are gone. A report of anything else (of nodules, or that refers to an earlier one) leaves all five unknown:
    "No pleural effusion" does not tell that there is no consolidation.
    """
    if _mentions(text, None):
        return True
    return any(
        statement.search(sentence)
        for sentence in sentences(findings(normalise(text)))
        if OF_LUNGS.search(sentence)
        for statement in NORMAL.values()
    )


def _mentions(text: str, panel: str | None) -> list[tuple[str, bool]]:
    """Every place where a lesion is named: the lesion, and whether it is denied there."""
    plain = findings(normalise(text))
    if panel is not None:
        plain = part_of_panel(plain, panel)
    found = []
    for sentence in sentences(plain):
        requests, denials = _requests(sentence), _denials(sentence)
        for lesion, terms in TERMS.items():
            for term in terms.values():
                for match in term.finditer(sentence):
                    if _within(match.start(), requests):
                        continue
                    denied = (
                        _within(match.start(), denials)
                        or DENIED_WITHIN.search(sentence, 0, match.start())
                        or DENIED_BEHIND.match(sentence, match.end())
                    )
                    found.append((lesion, bool(denied)))
    return found


def _within(place: int, parts: list[tuple[int, int]]) -> bool:
    return any(start <= place < end for start, end in parts)


def _requests(sentence: str) -> list[tuple[int, int]]:
    """The parts of a sentence that ask for a lesion and do not say whether it is there, as (start, end)."""
    return [
        (request.end(), _end_of_reach(sentence, request.end(), END_OF_REQUEST, r"\b(?:or|and)\b"))
        for request in REQUEST.finditer(sentence)
    ]


def _denials(sentence: str) -> list[tuple[int, int]]:
    """The parts of a sentence in which a lesion is said not to be there, as (start, end)."""
    parts = []
    for cue in _all(DENIED_AFTER, sentence):
        if not NO_DENIAL.match(sentence, cue.start()):
            parts.append((cue.end(), _end_of_denial(sentence, cue.end())))
    for cue in _all(RESOLVED_AFTER, sentence):
        words = re.split(r"[\s-]+", sentence[: cue.start()].strip(" -"))
        if not PARTLY.fullmatch(words[-1]):
            parts.append((cue.end(), _end_of_denial(sentence, cue.end())))
    parts += [
        (_start_of_denial(sentence, cue.start()), cue.start())
        for cue in _all(DENIED_BEFORE, sentence)
        if not EARLIER.match(sentence, cue.end())
    ]
    for cue in _all(RESOLVED_BEFORE, sentence):
        start = _start_of_denial(sentence, cue.start())
        if not PARTLY.search(sentence, start, cue.start()):
            parts.append((start, cue.start()))
    return parts


def _all(cues: dict[str, re.Pattern[str]], sentence: str) -> list[re.Match[str]]:
    return [match for cue in cues.values() for match in cue.finditer(sentence)]


def _end_of_denial(sentence: str, start: int) -> int:
    """A denial reaches to a verb or a turn of the sentence, and beyond a comma only in a list with `or`."""
    return _end_of_reach(sentence, start, END_OF_DENIAL, r"\b(?:or|nor)\b")


def _end_of_reach(sentence: str, start: int, end: re.Pattern[str], last: str) -> int:
    stop = end.search(sentence, start)
    items = sentence[start : stop.start() if stop else len(sentence)].split(",")
    reach = _list_length(items, last)
    return start + len(",".join(items[:reach]))


def _start_of_denial(sentence: str, end: int) -> int:
    """The same towards the beginning of the sentence, where `and` makes a list, too."""
    linked = LINK.search(sentence, 0, end).start()
    stops = [stop.end() for stop in START_OF_DENIAL.finditer(sentence, 0, linked)]
    # Directly before the cue a stop begins nothing new: `GGO improved and resolved`.
    start = max((stop for stop in stops if sentence[stop:linked].strip(" ,")), default=0)
    items = sentence[start:linked].split(",")[::-1]
    is_list = re.search(r"\b(?:or|nor|and)\b", items[0]) and all(len(i.split()) <= _LIST_WORDS for i in items)
    return start if is_list else linked - len(items[0])


def _list_length(items: list[str], last: str) -> int:
    """How many items belong to the list that the first begins: up to the last one with `or`, if all are short."""
    length = 1
    for number, item in enumerate(items[1:], 2):
        if len(item.split()) > _LIST_WORDS:
            break
        if re.search(last, item):
            length = number
    return length


def main(argv: list[str]) -> int:
    """Runs the command; `argv` is as `sys.argv`."""
    # Imported here, as reading reports needs no more than the standard library.
    from absl import flags

    from ladnn_tf import command
    from ladnn_tf.data import reports_measured as measured
    from ladnn_tf.data import reports_table
    from ladnn_tf.files import write_atomically

    flag_values = flags.FlagValues()
    flags.DEFINE_string(
        "covid_ct",
        None,
        "folder of COVID-CT with LA-DNN's annotation (D0)",
        required=True,
        flag_values=flag_values,
    )
    flags.DEFINE_string("csv", None, "table of the disagreements to write", flag_values=flag_values)
    flags.DEFINE_boolean(
        "patterns", False, "list how many training captions each pattern touches", flag_values=flag_values
    )
    command.parse(flag_values, argv, _USAGE)

    captions = measured.read_captions(flag_values.covid_ct)
    lesions = measured.apply(lesions_from_report, captions["report"])
    by_panel = lesions.copy()
    for index, row in captions[captions["panel"] != ""].iterrows():
        by_panel.loc[index] = lesions_from_report(row["report"], panel=row["panel"])
    print(reports_table.scores(captions, lesions, by_panel))
    if flag_values.patterns:
        print(reports_table.patterns(measured.pattern_counts(captions[captions["split"] == "train"])))
    listed = measured.disagreements(captions, lesions, lesions_named)
    print(reports_table.disagreements(listed))
    if flag_values.csv:
        path = Path(flag_values.csv)
        write_atomically(path, listed.to_csv(index=False, lineterminator="\n").encode("utf-8"))
        print(f"\n{len(listed)} disagreements in {path.absolute()}")
    return 0


if __name__ == "__main__":
    from ladnn_tf.command import run

    run(main)
