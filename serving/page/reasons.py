"""The reasons why an image has no answer, and the caveats of cards, in the reader's language.

They come from `ladnn_tf.data.quality`, `ladnn_tf.data.preprocess`, the predictors and `Card.caveats`, as English
sentences.
`texts/reasons.en.json` has them with placeholders, which is how they are recognised, and `texts/reasons.zh.json`
their translations. What is not recognised stays English.
"""

import functools
import re

from serving.page.words import LANGUAGES, Words, words_of

PREFIX = "reason."
"""How the keys of these texts begin."""

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def reason_in(words: Words, reason: str) -> tuple[str, str]:
    """A reason in the reader's language, where it is known.

    Args:
        words: of the reader's language.
        reason: the English sentence, of an `Answer`'s `reason` or `error`, or of its card's `caveats`.

    Returns:
        The reason and its language, one of `LANGUAGES`.
    """
    if words.language == LANGUAGES[0]:
        return reason, LANGUAGES[0]
    for key, pattern in _patterns():
        if found := pattern.fullmatch(reason):
            return words(key, **found.groupdict()), words.language
    return reason, LANGUAGES[0]


@functools.cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    """The keys with what recognises them, those with fewer placeholders, and so more exact, first."""
    english = words_of(LANGUAGES[0]).texts
    keys = sorted((key for key in english if key.startswith(PREFIX)), key=lambda key: english[key].count("{"))
    return [(key, re.compile(_pattern(english[key]), re.DOTALL)) for key in keys]


def _pattern(text: str) -> str:
    literal_and_name = _PLACEHOLDER.split(text)
    return "".join(
        f"(?P<{part}>.+?)" if position % 2 else re.escape(part) for position, part in enumerate(literal_and_name)
    )
