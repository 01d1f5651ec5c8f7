"""Who may ask: hosts, proxies, tokens, sessions, other sites, rates; and the settings of all that."""

import pytest
from starlette.requests import Request

from serving.page import rate_limit, sessions
from serving.page.access import Access, WrongTokenError
from serving.page.errors import PageError
from serving.page.rate_limit import RateLimit
from serving.page.sessions import Sessions
from serving.page.settings import Settings, parse_network, read_token

TOKEN = "correct-horse-battery-staple"


class Clock:
    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def request(path="/", method="GET", peer="127.0.0.1", scheme="http", **headers):
    """A request; the headers' names have underscores, and a list stands for a header that comes several times."""
    found = [("host", "localhost:8000")] if "host" not in headers else []
    for name, value in headers.items():
        values = value if isinstance(value, list) else [value]
        found += [(name.replace("_", "-"), each) for each in values]
    return Request(
        {
            "type": "http",
            "method": method,
            "scheme": scheme,
            "path": path,
            "query_string": b"",
            "client": (peer, 50000),
            "headers": [(name.lower().encode(), value.encode("utf-8")) for name, value in found],
        }
    )


def access(**settings):
    made = Settings(**settings)
    return Access(made, Sessions(made.token, 3600.0) if made.token else None)


def refusal(checker, asked):
    with pytest.raises(PageError) as caught:
        checker.check(asked)
    return caught.value.status, caught.value.key


def test_without_a_login_everybody_on_this_machine_is_known():
    caller = access().check(request())
    assert (caller.known, caller.user, caller.address, caller.scheme) == (True, "", "127.0.0.1", "http")
    assert not caller.session


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "page.hospital:80"]
)
def test_hosts_that_are_the_pages(host):
    checker = access(allowed_hosts=("page.hospital",), token=TOKEN)
    assert checker.check(request(host=host, authorization=f"Bearer {TOKEN}")).known


def test_a_wrong_host_is_a_hint_in_the_log_ten_times_a_minute(caplog):
    checker = access()
    for number in range(20):
        assert refusal(checker, request(host=f"page{number}.hospital"))[1] == "unknown_host"
    hints = [record.getMessage() for record in caplog.records]
    assert len(hints) == 10
    assert "'page0.hospital': if that is a name of this page, give it as --allowed_host" in hints[0]


@pytest.mark.parametrize("path", ["/", "/diagnose", "/healthz", "/static/style.css", "/login"])
@pytest.mark.parametrize(
    "headers",
    [
        {"forwarded": "for=192.0.2.7"},
        {"x_forwarded_for": "192.0.2.7"},
        {"X_Forwarded_For": "127.0.0.1"},
        {"x_forwarded_host": "localhost"},
        {"x_forwarded_proto": "https"},
        {"x_real_ip": "127.0.0.1"},
        {"via": "1.1 proxy"},
    ],
)
def test_without_a_login_nobody_comes_through_a_proxy(headers, path, caplog):
    """It would come from loopback, and be that of anybody."""
    assert refusal(access(), request(path, **headers)) == (403, "behind_proxy")
    assert "--token_file" in caplog.text
    with_login = access(token=TOKEN)
    assert with_login.check(request(path, authorization=f"Bearer {TOKEN}", **headers)).address == "127.0.0.1"


@pytest.mark.parametrize(
    "host", ["evil.com", "localhost.evil.com", "", "127.0.0.1.evil.com:8000", "[::2]", "[", ":8000"]
)
def test_other_hosts_are_refused(host):
    """An attacker's name, pointed at this machine, would put the attacker's page into the same origin."""
    assert refusal(access(), request(host=host)) == (400, "unknown_host")


def test_two_hosts_are_refused():
    assert refusal(access(), request(host=["localhost", "localhost"])) == (400, "unknown_host")


def test_the_address_that_is_listened_on_is_a_host():
    checker = access(host="10.0.0.5", token=TOKEN)
    assert not checker.check(request("/login", host="10.0.0.5:8000")).known


def test_probes_may_ask_by_any_name():
    for path in ("/healthz", "/readyz"):
        assert not access(token=TOKEN).check(request(path, host="10.1.2.3:8000")).known


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),  # curl
        ({"sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "none"}, True),
        ({"sec_fetch_site": "same-site"}, False),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "cross-site", "origin": "http://localhost:8000"}, False),
        ({"sec_fetch_site": "same-origin", "origin": "https://page.hospital"}, True),  # a proxy that changes Host
        ({"origin": "http://localhost:8000"}, True),
        ({"origin": "https://localhost:8000"}, True),  # behind a proxy with TLS
        ({"origin": "http://localhost"}, False),
        ({"origin": "http://localhost:9000"}, False),
        ({"origin": "http://evil.com"}, False),
        ({"origin": "null"}, False),
        ({"origin": ""}, False),
        ({"origin": "http://["}, False),
    ],
)
def test_posts_of_other_sites_are_refused(headers, allowed):
    asked = request("/diagnose", "POST", **headers)
    if allowed:
        assert access().check(asked).known
    else:
        assert refusal(access(), asked) == (403, "other_site")
    assert access().check(request("/", "GET", **headers)).known  # a link from elsewhere may be followed


def test_strangers_get_in_nowhere_but_where_it_is_open():
    checker = access(token=TOKEN)
    for path in ("/", "/diagnose", "/metrics", "/contribute", "/nothing", "/login/", "/healthz2", "/static"):
        assert refusal(checker, request(path)) == (401, "login"), path
    for path in ("/login", "/healthz", "/readyz", "/static/style.css"):
        assert not checker.check(request(path)).known


def test_bearer_tokens():
    checker = access(token=TOKEN)
    caller = checker.check(request("/metrics", authorization=f"Bearer {TOKEN}"))
    assert (caller.known, caller.user, caller.session) == (True, "token", False)
    assert refusal(checker, request(authorization="Bearer wrong")) == (401, "wrong_token")
    assert refusal(checker, request(authorization=f"Basic {TOKEN}")) == (401, "login")
    assert refusal(checker, request(authorization="Bearer 令牌")) == (401, "wrong_token")


def test_wrong_tokens_are_limited_and_the_right_one_never():
    """Ten wrong ones a minute and address; who has the right one gets in, whatever others at his address try."""
    checker = access(token=TOKEN)
    for _ in range(10):
        assert refusal(checker, request(authorization="Bearer wrong")) == (401, "wrong_token")
    for _ in range(3):
        assert refusal(checker, request(authorization="Bearer wrong")) == (429, "too_many_logins")
    assert checker.check(request(authorization=f"Bearer {TOKEN}")).known
    assert refusal(checker, request(authorization="Bearer wrong", peer="127.0.0.2")) == (401, "wrong_token")


def test_failed_logins_have_lines_until_they_are_limited():
    checker = access(token=TOKEN)
    lines = []
    for number in range(15):
        with pytest.raises(WrongTokenError) as caught:
            checker.check_login("192.0.2.7", "wrong", "form" if number % 2 else "bearer")
        lines.append(caught.value.line)
    failed = {"event": "login", "address": "192.0.2.7", "success": False}
    assert lines[:10] == [failed | {"by": by} for by in ["bearer", "form"] * 5]
    assert lines[10:] == [{"event": "login_limit", "address": "192.0.2.7", "by": "bearer"}, None, None, None, None]


def test_right_tokens_are_not_counted_as_wrong_ones():
    checker = access(token=TOKEN, rate_limit=0)
    for _ in range(30):
        assert checker.check(request(authorization=f"Bearer {TOKEN}")).known


@pytest.mark.parametrize(("scheme", "name"), [("http", "ladnn_session"), ("https", "__Host-ladnn_session")])
def test_a_session_is_as_good_as_the_token(scheme, name):
    settings = Settings(token=TOKEN)
    sessions = Sessions(TOKEN, 3600.0)
    checker = Access(settings, sessions)
    cookie = sessions.begin()
    caller = checker.check(request(scheme=scheme, cookie=f"{name}={cookie}"))
    assert (caller.known, caller.session, caller.user) == (True, True, "token")
    sessions.end(cookie)
    assert refusal(checker, request(scheme=scheme, cookie=f"{name}={cookie}")) == (401, "login")


def test_the_token_is_no_cookie():
    assert refusal(access(token=TOKEN), request(cookie=f"ladnn_session={TOKEN}")) == (401, "login")


def test_sessions_end():
    clock = Clock()
    sessions = Sessions(TOKEN, 60.0, clock)
    cookie = sessions.begin()
    assert TOKEN not in cookie
    assert sessions.begin() != cookie
    clock.now += 59.0
    assert sessions.holds(cookie)
    assert Sessions(TOKEN, 60.0, clock).holds(cookie)  # after a restart, or in another replica
    assert not Sessions(f"{TOKEN}2", 60.0, clock).holds(cookie)
    clock.now += 1.0
    assert not sessions.holds(cookie)


def test_the_list_of_ended_sessions_forgets_the_oldest(monkeypatch):
    monkeypatch.setattr(sessions, "_MOST_ENDED", 2)
    kept = Sessions(TOKEN, 60.0, Clock())
    cookies = [kept.begin() for _ in range(3)]
    for cookie in cookies:
        kept.end(cookie)
    assert [kept.holds(cookie) for cookie in cookies] == [True, False, False]
    kept.end(cookies[2])  # once more
    assert not kept.holds(cookies[1])


def test_cookies_cannot_be_made_up():
    clock = Clock()
    sessions = Sessions(TOKEN, 60.0, clock)
    end, nonce, mac = sessions.begin().split(".")
    later = f"{int(end, 16) + 1:x}"
    made_up = ["", ".", "..", "令牌", f"{end}.{nonce}.", f"{later}.{nonce}.{mac}", f"{end}.{nonce[::-1]}.{mac}"]
    assert not any(map(sessions.holds, made_up))
    sessions.end("nonsense")


def test_the_proxys_header_counts_from_the_proxy_alone():
    checker = access(user_header="X-Remote-User", trusted_proxies=(parse_network("10.0.0.0/24"),), host="0.0.0.0")
    caller = checker.check(request(peer="10.0.0.7", x_remote_user="anna"))
    assert (caller.known, caller.user, caller.key) == (True, "anna", "user anna")
    assert checker.check(request(peer="::ffff:10.0.0.7", x_remote_user="安娜")).user == "安娜"
    assert refusal(checker, request(peer="10.0.1.7", x_remote_user="anna")) == (403, "around_proxy")
    assert refusal(checker, request(peer="testclient", x_remote_user="anna")) == (403, "around_proxy")
    for nobody in ({}, {"x_remote_user": ""}, {"x_remote_user": ["anna", "bert"]}, {"x_remote_user": "a\tb"},
                   {"x_remote_user": "x" * 201}):  # fmt: skip
        assert refusal(checker, request(peer="10.0.0.7", **nobody)) == (403, "no_user")
    assert not checker.check(request("/healthz", peer="10.0.1.7", x_remote_user="anna")).known


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("10.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("10.0.0.1", "1.1.1.1, 192.0.2.7", "192.0.2.7"),  # what came before the proxy's own entry is not believed
        ("10.0.0.1", "192.0.2.7, 10.0.0.2", "192.0.2.7"),  # two proxies
        ("10.0.0.1", ["1.1.1.1", "192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", "192.0.2.7:5123", "192.0.2.7"),
        ("10.0.0.1", "[2001:db8::7]:5123", "2001:db8::7"),
        ("10.0.0.1", "2001:db8::7", "2001:db8::7"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.2", "10.0.0.2"),
        ("192.0.2.1", "1.1.1.1", "192.0.2.1"),  # no proxy of ours
    ],
)
def test_the_clients_address(peer, forwarded, expected):
    checker = access(trusted_proxies=(parse_network("10.0.0.0/24"),), token=TOKEN)
    assert checker.check(request("/login", peer=peer, x_forwarded_for=forwarded)).address == expected


@pytest.mark.parametrize(
    ("peer", "told", "expected"),
    [
        ("10.0.0.1", "https", "https"),
        ("10.0.0.1", "http, https", "https"),
        ("10.0.0.1", "ftp", "http"),
        ("192.0.2.1", "https", "http"),
    ],
)
def test_the_clients_scheme(peer, told, expected):
    checker = access(trusted_proxies=(parse_network("10.0.0.1"),), token=TOKEN)
    assert checker.check(request("/login", peer=peer, x_forwarded_proto=told)).scheme == expected


def test_a_client_that_comes_too_often():
    checker = access(rate_limit=2)
    for _ in range(2):
        checker.check(request())
    with pytest.raises(PageError) as caught:
        checker.check(request())
    assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "30"})  # two a minute
    assert checker.check(request(peer="127.0.0.2")).known
    assert checker.check(request("/static/style.css")).known  # what is open to all is not counted


def test_an_ipv6_client_is_its_network():
    checker = access(rate_limit=1, trusted_proxies=(parse_network("127.0.0.1"),), token=TOKEN)
    right = {"authorization": f"Bearer {TOKEN}"}
    checker.check(request(x_forwarded_for="2001:db8::1", **right))
    assert refusal(checker, request(x_forwarded_for="2001:db8::ffff", **right))[0] == 429
    assert checker.check(request(x_forwarded_for="2001:db8:0:1::1", **right)).known


def test_buckets_fill_at_the_rate():
    clock = Clock()
    limit = RateLimit(60, clock)  # one a second
    assert [limit.take("a") for _ in range(60)] == [0.0] * 60
    assert limit.take("a") == pytest.approx(1.0)
    clock.now += 0.75
    assert limit.take("a") == pytest.approx(0.25)
    clock.now += 0.25
    assert limit.take("a") == 0.0
    clock.now += 1000.0
    assert [limit.take("a") for _ in range(61)].count(0.0) == 60  # no more than full


def test_no_limit():
    limit = RateLimit(0)
    assert {limit.take("a") for _ in range(1000)} == {0.0}


def test_the_memory_of_buckets_is_bounded(monkeypatch):
    monkeypatch.setattr(rate_limit, "_MOST_CLIENTS", 3)
    limit = RateLimit(1, Clock())
    for client in "abcd":
        limit.take(client)
    assert len(limit._buckets) == 3
    assert limit.take("d") > 0.0
    assert limit.take("a") == 0.0  # the one that was away longest is forgotten


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"host": "0.0.0.0"}, "there must be a login"),
        ({"host": "page.hospital"}, "there must be a login"),
        ({"token": "short"}, "16 or more"),
        ({"token": "x" * 16 + "\n"}, "printable"),
        ({"token": TOKEN, "user_header": "X-User", "trusted_proxies": (parse_network("10.0.0.1"),)}, "either"),
        ({"user_header": "X-User"}, "needs --trusted_proxy"),
        ({"user_header": "X User", "trusted_proxies": (parse_network("10.0.0.1"),)}, "name of a header"),
        ({"port": 65_536}, "--port should be a whole number from 0 to 65535. Received: 65536"),
        ({"port": 80.0}, "--port"),
        ({"workers": True}, "--workers"),
        ({"upload_timeout": float("nan")}, "--upload_timeout"),
        ({"upload_timeout": 0}, "--upload_timeout"),
        ({"max_pixels": 10**9}, "--max_pixels"),
        ({"queue": 10}, "at least --max_images=64"),
        ({"max_image_mb": 65}, "at most --max_request_mb=64"),
        ({"upload_memory_mb": 383}, "twice --max_request_mb=64 and --max_unpacked_mb=128 together"),
        ({"trusted_proxies": (parse_network("10.0.0.1"),)}, "--trusted_proxy needs a login"),
        ({"allowed_hosts": ("localhost", "page.hospital")}, "--allowed_host=page.hospital needs a login"),
        ({"operator": "x" * 501}, "--operator should be one line of at most 500"),
        ({"operator": "a\nb"}, "--operator should be one line"),
        ({"operator": "a\x1bb"}, "--operator should be one line"),
    ],
)
def test_settings_that_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Settings(**settings)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_without_a_login_only_this_machine(host):
    assert not Settings(host=host).has_login


def test_the_names_of_this_machine_need_no_login():
    assert Settings(allowed_hosts=("localhost", "127.0.0.2", "::1")).allowed_hosts


@pytest.mark.parametrize("operator", ["", "Dr A, a@hospital.example", "某医院\u3000放射科", "x" * 500])
def test_whoever_runs_the_collection_is_one_line(operator):
    assert Settings(operator=operator).operator == operator


def test_secrets_are_not_shown():
    assert TOKEN not in repr(Settings(token=TOKEN))
    assert "secret-key" not in repr(Settings(audit_key=b"secret-key-secret-key"))


def test_networks():
    assert str(parse_network("10.0.0.0/24")) == "10.0.0.0/24"
    assert str(parse_network("::1")) == "::1/128"
    for text in ("10.0.0.1/24", "proxy", "0.0.0.0/0", "::/0", ""):
        with pytest.raises(ValueError, match="--trusted_proxy"):
            parse_network(text)


def test_the_token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"\n{TOKEN}\n")
    assert read_token(path) == TOKEN
    for content in ("", "one\ntwo\n"):
        path.write_text(content)
        with pytest.raises(ValueError, match="one line"):
            read_token(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="cannot be read"):
        read_token(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_token(tmp_path / "none")
