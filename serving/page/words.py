"""The page's texts in English and Chinese, and the choice between the two.

The texts lie in `texts/*.en.json` and `texts/*.zh.json`, flat dictionaries of a key (`index.title`) and a text
with placeholders in braces (`{count} images`). The files of a language are one dictionary, and both languages have
the same keys and placeholders. The texts are plain: the templates escape them as they escape everything.
"""

import dataclasses
import functools
import json
import re
from pathlib import Path

LANGUAGES = ("en", "zh")
"""The first is the one of visitors who prefer neither."""

FOLDER = Path(__file__).parent / "texts"

# RFC 9110, 12.5.4 and 12.4.2: a language range, then perhaps a weight of up to three digits after the point.
_RANGE = re.compile(
    r"\s*([a-z]{1,8}(?:-[a-z0-9]{1,8})*|\*)\s*(?:;\s*q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*)?", re.I
)
_LONGEST_HEADER = 1000  # characters; a browser sends far fewer


@dataclasses.dataclass(frozen=True)
class Words:
    """The texts of one language; called with a key, they give its text.

    Attributes:
        language: one of `LANGUAGES`.
        texts: key -> text with placeholders.
    """

    language: str
    texts: dict[str, str] = dataclasses.field(repr=False)

    def __call__(self, key: str, /, **values: object) -> str:
        """The text of a key, its placeholders filled.

        Raises:
            LookupError: if there is no such text, or a placeholder has no value.
        """
        if key not in self.texts:
            raise LookupError(f"there is no text {key!r} in {FOLDER.name}/*.{self.language}.json")
        try:
            return self.texts[key].format(**values)
        except LookupError as error:
            raise LookupError(f"the text {key!r} needs a value for {error}; given: {', '.join(values)}") from error

    def __contains__(self, key: str) -> bool:
        return key in self.texts

    def count(self, key: str, number: int, /, **values: object) -> str:
        """The text `KEY.one` or `KEY.many`, as the number has it; its placeholder `{count}` is the number."""
        return self(f"{key}.{'one' if number == 1 else 'many'}", count=number, **values)

    @property
    def tag(self) -> str:
        """The language for HTML's `lang` (BCP 47)."""
        return self("language.tag")

    @property
    def other(self) -> "Words":
        """The texts of the other language, for the link that leads to it."""
        return words_of(next(language for language in LANGUAGES if language != self.language))


@functools.cache
def words_of(language: str) -> Words:
    """The texts of a language.

    Args:
        language: one of `LANGUAGES`.

    Raises:
        ValueError: if there is no such language, or as `read_texts`.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language should be one of {', '.join(LANGUAGES)}. Received: {language!r}")
    return Words(language, read_texts(FOLDER, language))


def read_texts(folder: Path, language: str) -> dict[str, str]:
    """Reads the files `*.LANGUAGE.json` of a folder as one dictionary of keys and texts.

    Raises:
        ValueError: naming the file, if one is damaged, or a key is there twice.
    """
    texts: dict[str, str] = {}
    for path in sorted(folder.glob(f"*.{language}.json")):
        for key, text in _read_pairs(path):
            if key in texts:
                raise ValueError(f"{path}: the text {key!r} is there twice; keep one of them")
            texts[key] = text
    return texts


def _read_pairs(path: Path) -> list[tuple[str, str]]:
    try:
        pairs = json.loads(path.read_bytes(), object_pairs_hook=list)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON in UTF-8: {error}") from error
    if not isinstance(pairs, list) or not all(
        isinstance(pair, tuple) and isinstance(pair[1], str) for pair in pairs
    ):
        raise ValueError(f"{path} should be one object of keys and texts")
    return pairs


def choose_language(query: str | None, cookie: str | None, accept_language: str | None) -> Words:
    """The texts for a visitor: as the address asks, else as the cookie remembers, else as the browser prefers.

    Args:
        query: `?lang=` of the address; anything but one of `LANGUAGES` is ignored, as of the cookie.
        cookie: the cookie's value.
        accept_language: the header `Accept-Language`. Any kind of Chinese is given the Chinese texts.

    Returns:
        The texts, English if nothing says otherwise.
    """
    for wish in (query, cookie):
        if wish in LANGUAGES:
            return words_of(wish)
    return words_of(_preferred(accept_language or ""))


def _preferred(header: str) -> str:
    best, most = LANGUAGES[0], 0.0
    for part in header[:_LONGEST_HEADER].split(","):
        found = _RANGE.fullmatch(part)
        if not found:
            continue
        language, weight = found[1].lower().partition("-")[0], float(found[2] or 1.0)
        if language == "*":
            language = LANGUAGES[0]
        if language in LANGUAGES and weight > most:
            best, most = language, weight
    return best
