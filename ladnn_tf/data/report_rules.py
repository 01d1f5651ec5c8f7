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
        "no": r"\bno\b(?!\.\s*\d)(?!\s+longer)",
        "without": r"\bwithout\b",
        "absence of": r"\b(?:absence|lack)\s+of\b|\black(?:s|ed|ing)\b|\bdevoid\s+of\b",
        "free of": r"\bfree\s+(?:of|from)\b",
        "negative for": r"\bnegative\s+for\b",
        "neither, nor": r"\b(?:neither|nor|none\s+of)\b",
        "not showing": rf"\b(?:not|never|fail(?:s|ed)?\s+to)\s+(?:any\s+|clearly\s+)?{_SHOW}",
        "not with": r"\bnot\s+(?:associated|accompanied|combined)\s+(?:with|by)\b|\bnot\s+any\b",
        "rather than": r"\b(?:rather\s+than|instead\s+of)\b",
    }
)
"""Cues that deny what follows them."""

RESOLVED_AFTER = _compile(
    {
        "resolution of": r"\b(?:(?:complete|full|total|entire)\s+)?"
        r"(?:resolution|disappearance|clear(?:ance|ing))\s+of\b",
        "complete absorption of": r"\b(?:complete|full|total|entire)\s+absorption\s+of\b",
    }
)
"""Cues that what follows them is there no longer."""

DENIED_BEFORE = _compile(
    {
        "not seen": rf"\bnot\s+(?:be\s+)?(?:\w+ly\s+)?{_SEEN}\b",
        "cannot be seen": rf"\bcannot\s+be\s+{_SEEN}\b",
        "no longer seen": r"\bno\s+longer\b",
        "absent": r"\babsent\b",
        "ruled out": r"(?<!not be )\b(?:ruled\s+out|excluded)\b",
    }
)
"""Cues that deny what stands before them."""

RESOLVED_BEFORE = _compile(
    {
        "resolved": r"\b(?:resolved|disappeared|vanished|cleared|dissipated)\b",
        "absorbed": r"\babsorbed\b",
    }
)
"""Cues that what stands before them is there no longer."""

DENIED_BEHIND = re.compile(
    r"\s*(?:\([^)+-]*\))?\s*(?::\s*(?:no|none|nil|not|absent|negative)\b|\(\s*-\s*\))", re.IGNORECASE
)
"""What denies the term that it follows directly, as in forms: `consolidation: none`, `GGO (-)`."""

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
    r"|since|until|then|(?:in|de)creas\w+|progress\w*)\b",
    re.IGNORECASE,
)
"""Ends the reach of a cue towards the beginning of the sentence."""

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
_LUNG = r"(?:lungs?(?:\s+(?:fields?|parenchyma))?|parenchyma|chest\s+CT|CT\s+(?:scans?|images?|examination))"
_CLEAR = r"(?<!not )\b(?:clear|normal|unremarkable)\b"
_WHOLLY = r"(?:complete|full|total|entire)"

NORMAL = _compile(
    {
        "clear lungs": rf"{_CLEAR}\s+(?:\w+\s+)?{_LUNG}\b",
        "lungs are clear": rf"\b{_LUNG}(?:\s+(?:is|are|was|were|appears?|remains?|both|bilaterally|on|CT))*"
        rf"\s+{_CLEAR}",
        "no abnormality": rf"\bno\s+{_PLAIN}{_ABNORMALITY}",
        "complete resolution": rf"\b{_WHOLLY}\s+(?:resolution|absorption|disappearance)\s+of\s+(?:\w+\s+){{0,2}}?"
        rf"{_ABNORMALITY}",
        "completely absorbed": rf"\b{_ABNORMALITY}(?:\s+\w+){{0,3}}?\s+{_WHOLLY}ly\s+"
        r"(?:resolved|absorbed|disappeared|cleared)",
    }
)
"""Statements that the lungs are normal, or normal again."""

OTHER_ORGANS = re.compile(
    r"\b(?:mediastin\w*|pleura\w*|hepatic|liver|splen\w*|renal|kidneys?|adrenal\w*|bon[ey]\w*|rib\w*|osseous|cardiac"
    r"|heart|thyroid|lymph\w*|breast\w*|abdom\w*|oesophag\w*|esophag\w*|brain)\b",
    re.IGNORECASE,
)
"""In a sentence with these, `no abnormality` is not said of the lungs."""

CUES = {
    "denied after": DENIED_AFTER,
    "resolved after": RESOLVED_AFTER,
    "denied before": DENIED_BEFORE,
    "resolved before": RESOLVED_BEFORE,
    "normal lungs": NORMAL,
}
"""The kinds of cues."""
