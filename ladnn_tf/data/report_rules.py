"""The language of chest-CT reports: terms of the lesions, cues of denial and resolution, normal lungs.

The terms are those of the Fleischner Society's glossary (Hansell et al. 2008, "Fleischner Society: Glossary of
Terms for Thoracic Imaging") with the variants of spelling, number and word order that reports have, and the
literal translations that are frequent in English reports from Chinese hospitals. The cues of denial follow NegEx
(Chapman et al. 2001, "A Simple Algorithm for Identifying Negated Findings and Diseases in Discharge
Summaries"). What the annotation of COVID-CT decided, on its training captions alone:

- A term counts, nothing is inferred from it. Crazy paving is by definition ground glass with thickened septa, but
  is labelled without them where the report does not name them.
- A septal thickening counts, whichever septa it names.
- "Patchy shadow" and "fuzzy shadow" are labelled GGO; "patchy opacity", "airspace opacity", "reticular" and
  "cobblestone" are too vague, or not labelled, and count for nothing.

Every pattern is searched for in one sentence of a normalised text (`report_sentences.normalise`), without
regard to capitals. The unmistakable terms are found inside longer words, too: texts taken from PDF files often
lost their spaces ("multifocalground-glasschanges").
"""

import re
from collections.abc import Mapping

_HAZE = r"(?:opacit\w+|opacification\w*|attenuation|densit\w+|shadow\w*|increase\w*|areas?|veil\w*)"
# Not of the lung: ventricles, atria and nose have a septum as well.
_SEPTUM = r"(?<!ventricular )(?<!atrial )(?<!nasal )(?<!cardiac )sept(?:al|ae?|ums?)"
_LUNG_SEPTUM = rf"(?:{_SEPTUM}|inter-?\s?lobular)"
_THICK = r"thick\w*"
_FEW_WORDS = r"(?:\s+[\w/()&-]+){0,4}?"


def _compile(patterns: Mapping[str, str]) -> dict[str, re.Pattern[str]]:
    return {name: re.compile(pattern, re.IGNORECASE) for name, pattern in patterns.items()}


TERMS: dict[str, dict[str, re.Pattern[str]]] = {
    "GGO": _compile(
        {
            # With the misprints of "ground" and "glass" that leave their first letters.
            "ground glass": r"g\w{2,5}d(?:ed)?[\s-]*g[lr]?ass\w*",
            "GGO": r"\b[mp]?GG[AON]s?\b",
            "frosted glass": r"(?:frosted|grinding|milky?|matte?)[\s-]*glass",
            "hazy opacity": rf"\bhazy\s+(?:\w+\s+)?{_HAZE}",
            "patchy shadow": r"\b(?:patchy|fuzzy|cloudy|blurr(?:y|ed))\s+(?:(?!consolid|dense|high)\w+\s+)?"
            r"shadow\w*",
        }
    ),
    "Csld": _compile(
        {
            # Not the consolidation of a cancer's treatment.
            "consolidation": r"consolid\w*\b(?!\s+(?:chemo|radio|immuno)?(?:therapy|treatment))",
            "hepatisation": r"hepati[sz]ation",
        }
    ),
    "CrPa": _compile(
        {
            "crazy paving": r"craz(?:y|ed|ing)[\s-]*pav\w+",
            "paving stone": r"paving[\s-]*stone",
        }
    ),
    "AirBr": _compile(
        {
            "bronchogram": r"bronchi?(?:ol)?ogram|air[\s-]*bronchogra",
            "air-filled bronchi": r"\b(?:air|gas)[\s-]*(?:filled|containing)\s+bronch(?:i|us|ioles?)\b",
            "air bronchus sign": r"\bair[\s-]*bronch(?:us|i|ial)\b",
            "bronchial inflation": r"\bbronch(?:ial|us)\s+inflation\b",
        }
    ),
    "InSepThi": _compile(
        {
            "septal thickening": rf"{_LUNG_SEPTUM}{_FEW_WORDS}\s*{_THICK}",
            "thickened septa": rf"{_THICK}{_FEW_WORDS}\s*{_LUNG_SEPTUM}",
            "septal lines": r"\bseptal\s+lines?\b",
            "Kerley lines": r"\bKerley\b",
        }
    ),
}
"""The terms of each lesion: the first is the usual one."""

_SHOW = r"(?:show|reveal|demonstrat|display|depict|indicat|exhibit|find|found|see|have|contain|includ|involv)\w*"
_SEEN = (
    r"(?:seen|observed|found|identified|detected|visible|visuali[sz]ed|present|evident|noted|shown|demonstrated"
    r"|apparent|appreciated|obvious)"
)

DENIED_AFTER = _compile(
    {
        "no": r"\b(?:no|nil)\b(?!\.\s*\d)(?!\s+longer)",
        "without": r"\bwithout\b",
        "absence of": r"\b(?:absence|lack)\s+of\b|\black(?:s|ed|ing)\b|\bdevoid\s+of\b",
        "free of": r"\bfree\s+(?:of|from)\b",
        "negative for": r"\bnegative\s+for\b",
        "neither, nor": r"\b(?:neither|nor|none\s+of)\b",
        # The passive, `was not seen`, denies what stands before it.
        "not showing": rf"(?<!is )(?<!are )(?<!was )(?<!were )\b(?:not|never|fail(?:s|ed)?\s+to)\s+"
        rf"(?:any\s+|clearly\s+)?{_SHOW}",
        "not with": r"\bnot\s+(?:\w+ly\s+)?(?:associated|accompanied|combined|consistent|compatible)\s+"
        r"(?:with|by)\b|\bnot\s+any\b",
        "rather than": r"\b(?:rather\s+than|instead\s+of)\b",
    }
)
"""Cues that deny what follows them."""

_GONE = r"\b(?:resolved|disappeared|vanished|cleared|dissipated|absorbed)\b"
# Before a noun the participle belongs to it: `stable GGO and resolved effusion`.
_NOUN = (
    r"(?=\s+(?!\w+ly\b|(?:on|in|at|by|to|of|up|as|and|or|but|after|before|with|within|without|from|for|during"
    r"|following|since|over|when|while|until|upon|between|under|than|then|compared|again)\b)[a-z])"
)

RESOLVED_AFTER = _compile(
    {
        "resolution of": r"\b(?:(?:complete|full|total|entire)\s+)?"
        r"(?:resolution|disappearance|clear(?:ance|ing))\s+of\b",
        "complete absorption of": r"\b(?:complete|full|total|entire)\s+absorption\s+of\b",
        "resolved lesion": rf"{_GONE}{_NOUN}",
    }
)
"""Cues that what follows them is there no longer."""

DENIED_BEFORE = _compile(
    {
        "not seen": rf"\bnot\s+(?:be(?:en)?\s+)?(?:(?!previous)\w+ly\s+)?{_SEEN}\b",
        "cannot be seen": rf"\bcannot\s+be\s+(?:\w+ly\s+)?{_SEEN}\b",
        "no longer seen": rf"\bno\s+longer\s+(?:\w+ly\s+)?(?:{_SEEN}|there|exists?)\b",
        "absent": r"\babsent\b",
        "ruled out": r"(?<!not be )\b(?:ruled\s+out|excluded)\b",
    }
)
"""Cues that deny what stands before them."""

EARLIER = re.compile(
    r"\s+(?:(?:on|in|at|the|any|a|his|her)\s+)*(?:previous(?:ly)?|prior|earlier|before|last)\b", re.IGNORECASE
)
"""Behind such a cue: what was not seen before is new, `not seen on the prior scan`."""

RESOLVED_BEFORE = _compile(
    {
        "resolved": rf"{_GONE}(?!{_NOUN})",
    }
)
"""Cues that what stands before them is there no longer."""

DENIED_BEHIND = re.compile(
    r"(?:\s+\w+){0,3}\)?\s*(?:\([^)+-]*\))?\s*"
    r"(?:[:=-]\s*(?:(?:none|nil|absent|negative)\b|(?:no|not)\b(?=\s*(?:[,)]|$)|\s+(?:evidence|signs?)\b))"
    r"|(?::\s*)?\(\s*-\s*\))",
    re.IGNORECASE,
)
"""What denies the term that it follows, as in forms: `consolidation: none`, `ground-glass opacities (-)`."""

DENIED_WITHIN = re.compile(r"\bnon[\s-]*$", re.IGNORECASE)
"""What denies the term that it stands directly before: `non-consolidated`."""

REQUEST = re.compile(
    r"(?<!not )\brule\s+out\b|\br/o\b|\b(?:evaluat|assess|look|check|search)\w*\s+for\b|\bto\s+exclude\b",
    re.IGNORECASE,
)
"""Asks whether what follows is there. (What one cannot rule out is possible, and counts.)"""

NO_DENIAL = re.compile(
    r"no\s+(?:\w+\s+){0,3}?(?:change|increase|decrease|progress|improve|resol|reduc|differen|absor|disappear|clearing)\w*"
    r"|without\s+(?:\w+\s+){0,2}?(?:change|increase|decrease|progress|improve|resol|contrast)\w*"
    r"|(?:no|not|without)\s+(?:only|doubt)",
    re.IGNORECASE,
)
"""Looks like a denial but denies no lesion: `no change of the consolidation`."""

PARTLY = re.compile(
    r"\b(?:part(?:s|ly|ial|ially)?|incomplete(?:ly)?|near(?:ly)?|almost|gradual(?:ly)?|slow(?:ly)?|slight(?:ly)?"
    r"|some(?:what)?|most(?:ly)?|majority|largely|obviously|significantly|markedly|being|not|cannot|no|without)\b",
    re.IGNORECASE,
)
"""Said of a resolution, the lesion is still there."""

_TURN = r"but|however|although|though|except|besides|whereas|while|with|accompanied|apart|other\s+than|which|only"
_FINDING_VERB = (
    r"(?:show|reveal|demonstrat|display|depict|develop|appear|persist|remain)\w*|there\s+(?:is|are|was|were)"
)

END_OF_DENIAL = re.compile(rf"[:;]|\b(?:{_TURN}|{_FINDING_VERB}|had|has|have)\b", re.IGNORECASE)
"""Ends the reach of a cue towards the end of the sentence."""

START_OF_DENIAL = re.compile(
    rf"[:;]|\b(?:{_TURN}|{_FINDING_VERB}|(?<!that )(?<!which )(?:is|are|was|were|had|has|have)|after|before|when"
    r"|since|until|then|(?:in|de)creas\w+|progress\w*|improv\w+|reduc\w+|worsen\w*|stable|unchanged)\b",
    re.IGNORECASE,
)
"""Ends the reach of a cue towards the beginning of the sentence."""

END_OF_REQUEST = re.compile(rf"[:;]|\b(?:but|however|which|{_FINDING_VERB})\b", re.IGNORECASE)
"""Ends the reach of a request."""

LINK = re.compile(
    r"(?:[\s,]|\b(?:which|that|and|but|then|later|finally|subsequently|had|has|have|been|was|were|is|are|all|"
    r"completely|fully|totally|entirely)\b)*$",
    re.IGNORECASE,
)
"""What may stand between a lesion and a cue behind it: `consolidation, which had completely`."""

_ABNORMALITY = r"(?:abnormal\w*|lesions?|infiltrat\w*|opacit\w+|shadows?|pneumonia)"
_PLAIN = (
    r"(?:(?:obvious|significant|evident|apparent|definite|visible|focal|acute|active|pulmonary|lung|parenchymal"
    r"|abnormal|any|other|evidence\s+of|signs?\s+of)\s+)*"
)
_LUNG = (
    r"(?:lungs?(?:\s+(?:fields?|parenchyma))?|parenchyma"
    r"|(?:chest|lung|pulmonary)\s+CT(?:\s+(?:scans?|images?|examination))?|CT\s+of\s+the\s+(?:chest|lungs?))"
)
# `of the spine` says where, and it is not the lungs.
_NOT_ELSEWHERE = (
    r"(?!\s+(?:of|in|within|on)\s+(?:the\s+)?"
    r"(?!the\b|lung|pulmonary|chest|parenchyma|both|either|bilateral|right|left|CT\b|this\b)\w)"
)
_CLEAR = r"(?<!not )\b(?:clear|normal|unremarkable)\b"
_WHOLLY = r"(?:complete|full|total|entire)"

NORMAL = _compile(
    {
        "clear lungs": rf"{_CLEAR}\s+(?:\w+\s+)?{_LUNG}\b",
        "lungs are clear": rf"\b{_LUNG}(?:\s+(?:is|are|was|were|appears?|remains?|both|bilaterally|on|CT))*"
        rf"\s+{_CLEAR}",
        "no abnormality": rf"\bno\s+{_PLAIN}{_ABNORMALITY}\b{_NOT_ELSEWHERE}",
        "complete resolution": rf"\b{_WHOLLY}\s+(?:resolution|absorption|disappearance)\s+of\s+(?:\w+\s+){{0,2}}?"
        rf"{_ABNORMALITY}",
        "completely absorbed": rf"\b{_ABNORMALITY}(?:\s+\w+){{0,3}}?\s+{_WHOLLY}ly\s+"
        r"(?:resolved|absorbed|disappeared|cleared)",
    }
)
"""Statements that the lungs are normal, or normal again."""

OF_LUNGS = re.compile(
    r"\b(?:lungs?|pulmonary(?!\s+(?:arter|vein|vessel|trunk|embol))|pneumonia|chest(?!\s+wall)|parenchyma\w*)",
    re.IGNORECASE,
)
"""A sentence without any of these does not say that the lungs are normal: `no abnormality of the spine`."""

ASKING_HEADING = re.compile(
    r"(?=[A-Z])(?i:(?:\w+\s+){0,2}(?:indications?|history|techniques?|(?:clinical\s+)?questions?"
    r"|clinical\s+(?:information|data|details)|reason\s+for\s+\w+)\s*(?::|\W*$))"
)
"""Begins a section that tells why and how the lungs were examined, and not what was found."""

HEADING = re.compile(r"[A-Z][\w /-]{2,40}:|(?i:findings|impression|conclusion|comparison|results?|report)\W*$")
"""Begins any section."""

HEADING_IN_LINE = re.compile(
    r"\s+(?=(?:CT\s+|C(?:LINICAL|linical)\s+)?(?:I(?:NDICATION|ndication)S?|H(?:ISTORY|istory)|T(?:ECHNIQUE|echnique)"
    r"|F(?:INDINGS|indings)|I(?:MPRESSION|mpression)|C(?:ONCLUSION|onclusion)|C(?:OMPARISON|omparison))\s*:)"
)
"""The space before a heading in the midst of a line: texts taken from tables often lost their lines."""

ITEM = re.compile(r"(?:[*\u2022\u00b7\u25aa\u25cf]\s*|-\s+|\(?\d{1,2}[.)]\s+)")
"""The sign or number before a list's item."""

UNFINISHED = re.compile(
    r"(?:[,:(/&-]|(?<!: )\b(?:a|an|the|no|not|any|without|or|nor|and|but|with|of|in|on|at|to|for|from|by|as|is|are"
    r"|was|were|has|have|had|be|been|shows?|showed|showing|reveal(?:s|ed)|new|other|evidence|typical|definite|focal|patchy"
    r"|diffuse|multiple|scattered|bilateral|peripheral|subpleural|evaluate|assess|rule\s+out|r/o))$",
    re.IGNORECASE,
)
"""Ends a line whose sentence goes on, even if the next one begins with a capital letter: `no` / `GGO`.

Not behind a colon, where `Effusion: no` is an answer."""

CUES = {
    "denied after": DENIED_AFTER,
    "resolved after": RESOLVED_AFTER,
    "denied before": DENIED_BEFORE,
    "resolved before": RESOLVED_BEFORE,
    "normal lungs": NORMAL,
}
"""The kinds of cues."""
