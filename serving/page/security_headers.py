"""The headers that every response gets, so that a browser does with it only what the page means it to do."""

from collections.abc import Iterable

from serving.page.access import STATIC

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    # Not `no-referrer`, with which a browser calls the origin of the page's own forms `null`.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

Headers = list[tuple[bytes, bytes]]


def with_security_headers(headers: Iterable[tuple[bytes, bytes]], path: str) -> Headers:
    """The headers of a response with those that every response gets.

    Args:
        headers: as the response has them, names in lower case.
        path: that was asked for: only what is under `STATIC` may be kept, and is asked about each time.
    """
    caching = b"no-cache" if path.startswith(STATIC) else b"no-store"
    added = (*_HEADERS, (b"cache-control", caching))
    names = {name for name, _ in added}
    return [(name, value) for name, value in headers if name.lower() not in names] + list(added)
