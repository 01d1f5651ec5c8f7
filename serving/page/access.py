"""Who asks, from where, and whether they may: host names, proxies, logins, other sites, the rate.

A request comes from its peer, unless that is one of `trusted_proxies`: then from the last address in
X-Forwarded-For that is none of them (the ones before it anybody could have written), by the scheme of
X-Forwarded-Proto.
"""

import ipaddress
import logging
import urllib.parse
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection

from serving.page.errors import PageError, try_later
from serving.page.rate_limit import RateLimit
from serving.page.sessions import Sessions
from serving.page.settings import Network, Settings

OPEN_TO_ALL = ("/healthz", "/readyz", "/login")
"""What is asked for without a login; and everything under `STATIC`."""

STATIC = "/static/"

_ANY_NAME = ("/healthz", "/readyz")  # a probe asks by whatever address it has
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_UNSAFE = ("POST", "PUT", "PATCH", "DELETE")
_LOGIN_ATTEMPTS = 10  # wrong ones a minute and address
_HINTS = 10  # a minute in the log, about requests by a wrong name or through a proxy
_PROXIES_OWN = ("forwarded", "x-real-ip", "via")  # headers that proxies add, and X-Forwarded-...
_LONGEST_USER = 200  # characters
_MOST_FORWARDED = 50  # addresses in X-Forwarded-For that are looked at, from the last
_IPV6_CUSTOMER = 64  # bits of an address that one customer of a network provider has for himself

logger = logging.getLogger("ladnn_tf.serving")


class WrongTokenError(PageError):
    """A login that failed.

    Args:
        refusal: what the client is told.
        line: for the audit log; None where the log has enough of this client.
    """

    def __init__(self, refusal: PageError, line: dict[str, Any] | None) -> None:
        super().__init__(refusal.status, refusal.key, headers=refusal.headers, **refusal.values)
        self.line = line


@dataclass(frozen=True)
class Caller:
    """Whoever sent a request.

    Attributes:
        address: of the client, as far as it can be told.
        scheme: `http` or `https`, as the client sees it.
        user: name of the user; of a login by token, which has no names, `token`; empty for nobody or anybody.
        key: what the rate limit and the turns in the queue go by: the user that a proxy names, else the address.
        known: whether everything may be asked for.
        session: whether there is a session to log out from.
    """

    address: str
    scheme: str
    user: str = ""
    key: str = ""
    known: bool = False
    session: bool = False


class Access:
    """What the settings say of who may ask.

    Args:
        settings: of the page.
        sessions: of the login by token; None if there is none.
    """

    def __init__(self, settings: Settings, sessions: Sessions | None) -> None:
        self._settings = settings
        self._sessions = sessions
        names = (*_LOOPBACK_NAMES, settings.host, *settings.allowed_hosts)
        self._names = {name.strip("[]").lower() for name in names}
        self._rate = RateLimit(settings.rate_limit)
        self._failures = RateLimit(_LOGIN_ATTEMPTS)
        self._limits_begun = RateLimit(1)
        self._hints = RateLimit(_HINTS)

    def check(self, request: HTTPConnection) -> Caller:
        """Finds out who asks.

        Returns:
            The caller; a stranger (not `known`) only where the path is open to all.

        Raises:
            PageError: 400 for a host name that is not the page's, 401 for strangers, 403 for a request that
                another site made, that went around the proxy, or that came through one to a page without a login,
                429 if the client comes too often.
            WrongTokenError: as `check_login`.
        """
        path = request.scope["path"]
        address, scheme = self._origin(request)
        if not self._settings.has_login:
            self._check_is_direct(request)
        if path not in _ANY_NAME:
            self._check_host(request)
        self._check_site(request)
        is_open = path in OPEN_TO_ALL or path.startswith(STATIC)
        caller = self._identify(request, address, scheme, is_open=is_open)
        if not is_open:
            seconds = self._rate.take(caller.key)
            if seconds:
                raise try_later("too_often", seconds, status=429)
        return caller

    def check_login(self, address: str, token: str, by: str) -> None:
        """Lets the right token in, whatever others tried; wrong ones are counted against the address.

        Args:
            address: of the client.
            token: that was given.
            by: `form` or `bearer`, for the audit log.

        Raises:
            WrongTokenError: 401 for a wrong token, 429 after too many of them.
        """
        if self._sessions is not None and self._sessions.opens(token):
            return
        key = _network_of(address)
        line = {"address": address, "by": by}
        seconds = self._failures.take(key)
        if not seconds:
            refusal = PageError(401, "wrong_token", headers={"WWW-Authenticate": "Bearer"})
            raise WrongTokenError(refusal, {"event": "login", **line, "success": False})
        begins = not self._limits_begun.take(key)
        refusal = try_later("too_many_logins", seconds, status=429)
        raise WrongTokenError(refusal, {"event": "login_limit", **line} if begins else None)

    def cookie_name(self, scheme: str) -> str:
        """Of the session; over https the prefix keeps other hosts of the domain from setting it (RFC 6265bis)."""
        return "__Host-ladnn_session" if scheme == "https" else "ladnn_session"

    def _origin(self, request: HTTPConnection) -> tuple[str, str]:
        peer = _address(request.client.host if request.client else "")
        scheme = request.scope["scheme"]
        if not self._is_proxy(peer):
            return peer, scheme
        forwarded = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
        address = peer
        for entry in reversed(forwarded[-_MOST_FORWARDED:]):
            found = _address(entry.strip())
            if not _is_address(found):
                break
            address = found
            if not self._is_proxy(found):
                break
        told = request.headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower()
        return address, told if told in ("http", "https") else scheme

    def _is_proxy(self, address: str) -> bool:
        return _is_address(address) and any(
            _contains(network, address) for network in self._settings.trusted_proxies
        )

    def _check_is_direct(self, request: HTTPConnection) -> None:
        """Refuses what a proxy passes on: from this machine, but not of those who are at it."""
        for name in request.headers:
            if name in _PROXIES_OWN or name.startswith("x-forwarded-"):
                self._hint(
                    "a request came through a proxy (it has the header %s): to be reached through one the page "
                    "needs a login, --token_file=FILE or --user_header=NAME",
                    name,
                )
                raise PageError(403, "behind_proxy")

    def _check_host(self, request: HTTPConnection) -> None:
        hosts = request.headers.getlist("host")
        name = _host_name(hosts[0]) if len(hosts) == 1 else ""
        if name not in self._names:
            self._hint("asked for as %.200r: if that is a name of this page, give it as --allowed_host", name)
            raise PageError(400, "unknown_host", host=name or "?")

    def _hint(self, message: str, value: str) -> None:
        if not self._hints.take(""):
            logger.warning(message, value)

    def _check_site(self, request: HTTPConnection) -> None:
        """Refuses what a page of another site lets a user's browser send (cross-site request forgery)."""
        if request.scope.get("method") not in _UNSAFE:
            return
        site = request.headers.get("sec-fetch-site")
        if site is not None:
            allowed = site in ("same-origin", "none")
        else:  # an older browser, or http without TLS; what is no browser sends neither header
            origin = request.headers.get("origin")
            allowed = origin is None or _is_at(origin, request.headers.get("host", ""))
        if not allowed:
            raise PageError(403, "other_site")

    def _identify(self, request: HTTPConnection, address: str, scheme: str, *, is_open: bool) -> Caller:
        if self._settings.user_header:
            return self._behind_proxy(request, address, scheme, is_open=is_open)
        key = _network_of(address)
        if self._sessions is None:
            return Caller(address, scheme, key=key, known=True)
        cookie = request.cookies.get(self.cookie_name(scheme), "")
        if cookie and self._sessions.holds(cookie):
            return Caller(address, scheme, "token", key, known=True, session=True)
        stranger = Caller(address, scheme, key=key)
        method, _, token = request.headers.get("authorization", "").partition(" ")
        if method.lower() == "bearer" and not is_open:
            self.check_login(address, token.strip(), "bearer")
            return Caller(address, scheme, "token", key, known=True)
        if not is_open:
            raise PageError(401, "login", headers={"WWW-Authenticate": "Bearer"})
        return stranger

    def _behind_proxy(self, request: HTTPConnection, address: str, scheme: str, *, is_open: bool) -> Caller:
        peer = _address(request.client.host if request.client else "")
        users = request.headers.getlist(self._settings.user_header) if self._is_proxy(peer) else []
        user = _text(users[0]).strip() if len(users) == 1 else ""
        if user and user.isprintable() and len(user) <= _LONGEST_USER:
            return Caller(address, scheme, user, f"user {user}", known=True)
        if not is_open:
            raise PageError(403, "around_proxy" if not self._is_proxy(peer) else "no_user")
        return Caller(address, scheme, key=_network_of(address))


def _is_at(origin: str, host: str) -> bool:
    """Whether an Origin header is of a page of this host and port, by whichever scheme."""
    try:
        return urllib.parse.urlsplit(origin).netloc.lower() == host.lower() != ""
    except ValueError:
        return False


def _address(text: str) -> str:
    """An address in its usual form, without a port; anything else as it is."""
    bare = text[1:].partition("]")[0] if text.startswith("[") else text
    if bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return text
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:10.0.0.1, as a socket for both families has it
    return str(mapped or address)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _contains(network: Network, address: str) -> bool:
    return ipaddress.ip_address(address) in network


def _network_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or the part of an IPv6 address that its owner cannot change."""
    if not _is_address(address) or ipaddress.ip_address(address).version == 4:
        return address
    return str(ipaddress.ip_network(f"{address.partition('%')[0]}/{_IPV6_CUSTOMER}", strict=False))


def _host_name(host: str) -> str:
    """The name in a Host header, without its port (RFC 9110, 7.2)."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _text(value: str) -> str:
    """A header's value, which Starlette reads as Latin-1, as the UTF-8 that proxies send."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value
