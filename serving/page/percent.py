"""Probabilities and shares in per cent, rounded so that they never say more than is known.

A probability is never shown as 0 % or 100 %, and never on the wrong side of the threshold that it is held against.
"""

from decimal import Decimal

from serving.page.words import Words

MOST_DIGITS = 2
"""Digits behind the point at most; finer differences are noise of single precision."""


def probability(value: float, words: Words, digits: int = 0) -> str:
    """A network's probability: what would round to 0 or 100 % is `<1 %` or `>99 %`.

    Exactly 0 and 1 are shown so too: a sigmoid does not reach them, only its rounding to float32 does.

    Args:
        value: in [0, 1].
        words: of the reader's language.
        digits: behind the point.
    """
    return words("percent.value", number=_inside(100.0 * value, digits))


def share(value: float, words: Words, digits: int = 0) -> str:
    """A share or a threshold: as `probability`, but 0 and 1 themselves are `0 %` and `100 %`.

    Args:
        value: in [0, 1].
        words: of the reader's language.
        digits: behind the point.
    """
    return words("percent.value", number=_share(value, digits))


def exactly(value: Decimal, words: Words) -> str:
    """A share that was set and not measured, with all its digits: 0.975 is `97.5 %`, 0.9999 is `99.99 %`."""
    return words("percent.value", number=f"{(100 * value).normalize():f}")


def interval(low: float, high: float, words: Words) -> str:
    """An interval of shares, such as `71 to 93 %`; the limits as in `share`."""
    return words("percent.interval", low=_share(low, 0), high=_share(high, 0))


def span(low: float, high: float, words: Words) -> str:
    """The two ends of a bin of scores, with a digit behind the point where they need one."""
    low_text, high_text = (f"{round(100.0 * value, 1):g}" for value in (low, high))
    return words("percent.interval", low=low_text, high=high_text)


def digits_apart(value: float, threshold: float) -> int:
    """The fewest digits behind the point that show a probability and a threshold as different.

    Args:
        value: the probability, in [0, 1].
        threshold: in [0, 1].

    Returns:
        From 0 to `MOST_DIGITS`, which may still show them as equal; 0 if they are equal.
    """
    if value == threshold:
        return 0
    for digits in range(MOST_DIGITS):
        if _inside(100.0 * value, digits) != _share(threshold, digits):
            return digits
    return MOST_DIGITS


def _share(value: float, digits: int) -> str:
    return f"{100.0 * value:.{digits}f}" if value in (0.0, 1.0) else _inside(100.0 * value, digits)


def _inside(percent: float, digits: int) -> str:
    """A percentage above 0 and below 100, in figures."""
    text = f"{percent:.{digits}f}"
    least = 10.0**-digits
    if float(text) <= 0.0:
        return f"<{least:.{digits}f}"
    if float(text) >= 100.0:
        return f">{100.0 - least:.{digits}f}"
    return text
