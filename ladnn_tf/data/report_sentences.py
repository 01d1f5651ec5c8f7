"""A report's text made plain, its sentences, its findings, and the part that speaks of one sub-figure."""

import re
import unicodedata

from ladnn_tf.data.report_rules import ASKING_HEADING, HEADING, HEADING_IN_LINE, ITEM, TERMS, UNFINISHED

_HYPHENS = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), "-")
_NOTHING = dict.fromkeys(map(ord, '\u00ad\u200b"\u201c\u201d\u201e\u00ab\u00bb'))

# `A`, `b`, `1A`, `A and B`, `a, b`, `D-F`
_LETTERS = r"\d?[A-Ha-h](?:\s*(?:-|,|&|and|to)+\s*\d?[A-Ha-h])*"
_BRACKETED = re.compile(rf"\(\s*({_LETTERS})\s*(?:,[^)]*)?\)")
_LEADING = re.compile(rf"(?:.*:\s+)?(?:[Pp]anels?\s+)?({_LETTERS})(?:\s*[,:)](?=\s)|(?=\s+show)|$)")


def normalise(text: str) -> str:
    """Returns a text without what printing and scanning left in it.

    Words that a line's end divided are joined, hyphens are `-`, ligatures are letters, quotation marks are gone,
    `n't` is `not` and `w/o` is `without`. A sentence ends at an empty line, before a list's sign or number, before
    a heading, and at the end of a line if the next one begins with a capital letter; unless the line ends in a
    comma or in a word that cannot end a sentence (`report_rules.UNFINISHED`).
    """
    text = unicodedata.normalize("NFKC", text).translate(_HYPHENS | _NOTHING)
    text = re.sub(r"(?<=[^\W\d])-\s+(?!(?:and|or|to|no|not|none|nil|absent|negative)\b)(?=[a-z])", "", text)
    text = re.sub(r"\bcan['\u2019]t\b", "cannot", text, flags=re.IGNORECASE)
    text = re.sub(r"(?<=\w)n['\u2019]t\b", " not", text, flags=re.IGNORECASE)
    text = re.sub(r"\bw/o\b", "without", text, flags=re.IGNORECASE)
    joined = ""
    for line in map(str.strip, text.splitlines()):
        begins = not line or ITEM.match(line) or HEADING.match(line)
        ends = bool(begins) or (line[0].isupper() and not UNFINISHED.search(joined))
        joined += (". " if ends and joined else " ") + (ITEM.sub("", line, count=1) if joined else line)
    joined = re.sub(r"\s+\(?\d{1,2}\)\s+(?=[A-Z])", ". ", joined)
    return " ".join(HEADING_IN_LINE.sub(". ", joined.strip()).split())


def findings(text: str) -> str:
    """Returns a normalised text without what it asks.

    Left out are questions, and the sections that tell why and how the lungs were examined (`INDICATION: ...`), up
    to the next heading. Where no other heading follows, such a section is one sentence.
    """
    pieces = re.split(r"(?<=[.;!?])\s+", text)
    begins = [bool(HEADING.match(piece)) and not ASKING_HEADING.match(piece) for piece in pieces]
    kept = []
    asking = False
    for number, piece in enumerate(pieces):
        if ASKING_HEADING.match(piece):
            asking = any(begins[number:])
            continue
        asking = asking and not begins[number]
        if not asking and "?" not in piece[len(piece.rstrip(".;!?")) :]:
            kept.append(piece)
    return " ".join(kept)


def sentences(text: str) -> list[str]:
    """Returns the sentences of a normalised text, without the signs that end them."""
    return [sentence for sentence in re.split(r"[.;!?]+(?:\s+|$)", text) if sentence]


def part_of_panel(text: str, panel: str) -> str:
    """Returns what a figure's caption says of one sub-figure, and what it says of all.

    Captions are written in two ways: with the letter before its description, `(A) ... (B) ...` or
    `A, ... B, ...`, which holds until the next letter; or in brackets behind it, `ground-glass opacities
    (a and b) and consolidation (c)`. A sentence is of the second way where a lesion is named in it before its
    first bracket.

    Args:
        text: a normalised text.
        panel: one letter, large or small.

    Returns:
        The part; the whole text where no letter, or not this one, is marked in it.

    Raises:
        ValueError: if `panel` is not one letter.
    """
    if not re.fullmatch(r"[A-Za-z]", panel):
        raise ValueError(f"panel should be one letter, such as 'A'. Received: {panel!r}")
    if panel.lower() not in marked_panels(text):
        return text
    parts = []
    current: set[str] = set()  # whom the text speaks of at the moment; nobody is everybody
    for sentence in sentences(text):
        markers = _markers(sentence)
        if markers and _names_lesion(sentence[: markers[0].start()]):
            ends = [*(marker.end() for marker in markers[:-1]), len(sentence)]
            pieces = [
                (_letters(marker[1]), sentence[start:end])
                for marker, start, end in zip(markers, [0, *ends[:-1]], ends, strict=True)
            ]
        else:
            starts = [0, *(marker.end() for marker in markers)]
            ends = [*(marker.start() for marker in markers), len(sentence)]
            owners = [current, *(_letters(marker[1]) for marker in markers)]
            current = owners[-1]
            pieces = [(owner, sentence[start:end]) for owner, start, end in zip(owners, starts, ends, strict=True)]
        parts += [piece for owner, piece in pieces if not owner or panel.lower() in owner]
    return ". ".join(part.strip(" ,") for part in parts)


def marked_panels(text: str) -> set[str]:
    """Returns the letters of the sub-figures that a normalised caption marks, small."""
    return {
        letter for sentence in sentences(text) for marker in _markers(sentence) for letter in _letters(marker[1])
    }


def _markers(sentence: str) -> list[re.Match[str]]:
    leading = _LEADING.match(sentence)
    return [leading] if leading else list(_BRACKETED.finditer(sentence))


def _letters(marked: str) -> set[str]:
    """The letters of `A`, `1A`, `a and b` or `D-F`, small."""
    letters = set(re.findall(r"(?<![a-z])[a-h](?![a-z])", marked.lower()))
    for first, last in re.findall(r"([a-h])\s*(?:-|to)\s*\d?([a-h])", marked.lower()):
        letters |= {letter for letter in "abcdefgh" if first <= letter <= last}
    return letters


def _names_lesion(text: str) -> bool:
    return any(term.search(text) for terms in TERMS.values() for term in terms.values())
