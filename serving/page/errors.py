"""Requests that the page refuses or cannot answer: raised anywhere, shown by the gate as a page or as JSON."""

from collections.abc import Mapping

PREFIX = "refused."
"""How the keys of the messages begin, in `texts/server.*.json`."""


class PageError(Exception):
    """A request that gets an error instead of what it asked for.

    Args:
        status: of HTTP.
        key: of the message in `texts/server.*.json`, without `PREFIX`; in JSON it is the `code`.
        headers: of the response.
        values: of the message's placeholders.
    """

    def __init__(
        self, status: int, key: str, *, headers: Mapping[str, str] | None = None, **values: object
    ) -> None:
        super().__init__(f"{status} {key}")
        self.status = status
        self.key = key
        self.headers = dict(headers or {})
        self.values = values


def try_later(key: str, seconds: float, *, status: int = 503, **values: object) -> PageError:
    """An error that says when to come back.

    Args:
        key: of the message.
        seconds: until then; rounded up to whole seconds, at least one.
        status: of HTTP.
        values: of the message's placeholders; `seconds` is among them.
    """
    whole = max(1, -int(-seconds // 1))
    return PageError(status, key, headers={"Retry-After": str(whole)}, seconds=whole, **values)
