"""The consent text of the data collection, in its versions and languages.

A text lies in `VERSION.LANGUAGE.txt`: sections parted by empty lines, each a line with its heading and a line of
text; `{operator}` stands for whoever runs the collection. A version that was shown to anybody is never changed:
whoever changes a word writes the files of a new version, in both languages, and sets `CURRENT`. The old files
stay, as contributions name the SHA-256 of the text that was agreed to, and the operator it named.
"""

import dataclasses
import functools
import hashlib
from pathlib import Path

CURRENT = "1"
"""The version that is shown now."""

FOLDER = Path(__file__).parent

_OPERATOR = "{operator}"


@dataclasses.dataclass(frozen=True)
class Consent:
    """A consent text, as it is shown.

    Attributes:
        version: of the text.
        language: `en` or `zh`.
        operator: who runs the collection, as the text has it.
        text: of the file, with the operator in it.
    """

    version: str
    language: str
    operator: str
    text: str = dataclasses.field(repr=False)

    @property
    def sections(self) -> list[tuple[str, str]]:
        """Heading and text of each section."""
        return [tuple(section.split("\n", 1)) for section in self.text.strip().split("\n\n")]

    @property
    def sha256(self) -> str:
        """Of the text with the operator in it, in UTF-8, in hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@functools.cache
def consent(language: str, operator: str) -> Consent:
    """The current consent text in a language.

    Args:
        language: `en` or `zh`.
        operator: who runs the collection: name and contact, on one line.

    Raises:
        FileNotFoundError: if there is none in this language.
        ValueError: if the operator is empty: nobody can agree to give data to nobody.
    """
    operator = " ".join(operator.split())
    if not operator:
        raise ValueError(
            "the consent text names who runs the data collection: give the operator's name and contact"
        )
    text = (FOLDER / f"{CURRENT}.{language}.txt").read_text("utf-8")
    return Consent(CURRENT, language, operator, text.replace(_OPERATOR, operator))


def shown(sha256: str, operator: str) -> Consent | None:
    """The current text with this SHA-256, in whatever language; None if there is none (any more)."""
    for path in FOLDER.glob(f"{CURRENT}.*.txt"):
        found = consent(path.name.split(".")[1], operator)
        if found.sha256 == sha256:
            return found
    return None
