"""The consent text of the data collection, in its versions and languages.

A text lies in `VERSION.LANGUAGE.txt`: sections parted by empty lines, each a line with its heading and a line of
text. A version that was shown to anybody is never changed: whoever changes a word writes the files of a new
version, in both languages, and sets `CURRENT`. The old files stay, as contributions name the SHA-256 of the text
that was agreed to.
"""

import dataclasses
import functools
import hashlib
from pathlib import Path

CURRENT = "1"
"""The version that is shown now."""

FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Consent:
    """A consent text.

    Attributes:
        version: of the text.
        language: `en` or `zh`.
        text: of the file.
    """

    version: str
    language: str
    text: str = dataclasses.field(repr=False)

    @property
    def sections(self) -> list[tuple[str, str]]:
        """Heading and text of each section."""
        return [tuple(section.split("\n", 1)) for section in self.text.strip().split("\n\n")]

    @property
    def sha256(self) -> str:
        """Of the text in UTF-8, as `sha256sum` of its file, in hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@functools.cache
def consent(language: str, version: str = CURRENT) -> Consent:
    """The consent text in a language.

    Raises:
        FileNotFoundError: if there is none.
    """
    return Consent(version, language, (FOLDER / f"{version}.{language}.txt").read_text("utf-8"))


def shown(sha256: str) -> Consent | None:
    """The current text with this SHA-256, in whatever language; None if there is none (any more)."""
    for path in FOLDER.glob(f"{CURRENT}.*.txt"):
        found = consent(path.name.split(".")[1])
        if found.sha256 == sha256:
            return found
    return None
