"""The page's doors: login by token, users of a proxy, other sites, rates."""

import json

import pytest
from serving_page import JSON, TOKEN, png, running_page

from serving.page.audit_log import AuditLog, AuditLogError
from serving.page.settings import parse_network
from serving.page.words import words_of

LIGHT = png(204)


@pytest.fixture
def page(tmp_path):
    with running_page(tmp_path) as made:
        yield made


@pytest.fixture
def guarded(tmp_path):
    """A page with a login by token."""
    with running_page(tmp_path, token=TOKEN) as made:
        yield made


def test_login(guarded):
    client = guarded.client
    assert client.get("/").headers["location"] == "/login"
    assert client.get("/", headers=JSON).json()["error"]["code"] == "login"
    assert guarded.upload(("a.png", LIGHT)).status_code == 401
    assert guarded.predictor.asked == 0
    assert 'name="token"' in client.get("/login").text
    wrong = client.post("/login", data={"token": "wrong"})
    assert wrong.status_code == 401
    assert "set-cookie" not in wrong.headers
    right = client.post("/login", data={"token": f" {TOKEN}\n"})
    assert (right.status_code, right.headers["location"]) == (303, "/")
    cookie = right.headers["set-cookie"]
    assert TOKEN not in cookie
    for attribute in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"):
        assert attribute in cookie
    assert "Secure" not in cookie
    assert '/logout"' in client.get("/").text
    assert guarded.upload(("a.png", LIGHT)).status_code == 200
    kept = dict(client.cookies)
    assert client.post("/logout").headers["location"] == "/login"
    assert client.get("/").status_code == 303
    client.cookies.update(kept)
    assert client.get("/").status_code == 303  # the cookie, had somebody kept it, is worth nothing
    assert [line["success"] for line in guarded.audit("login")] == [False, True]
    assert guarded.audit("image")[0]["user"] == "token"
    assert TOKEN not in json.dumps(guarded.audit())


def test_login_over_https(tmp_path):
    settings = {
        "token": TOKEN,
        "trusted_proxies": (parse_network("10.0.0.1"),),
        "allowed_hosts": ("page.hospital",),
    }
    with running_page(tmp_path, peer="10.0.0.1", base_url="http://page.hospital", **settings) as page:
        headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}
        cookie = page.client.post("/login", data={"token": TOKEN}, headers=headers).headers["set-cookie"]
        assert cookie.startswith("__Host-ladnn_session=")
        assert "Secure" in cookie
        assert page.audit("login")[0]["address"] == "192.0.2.7"


def test_wrong_tokens_are_limited(guarded):
    statuses = [guarded.client.post("/login", data={"token": "wrong"}).status_code for _ in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    refused = guarded.client.post("/login", data={"token": "wrong"}, headers=JSON)
    assert (refused.status_code, int(refused.headers["retry-after"])) == (429, 6)
    assert [line["event"] for line in guarded.audit()] == ["login"] * 10 + ["login_limit"]
    assert guarded.client.post("/login", data={"token": TOKEN}).status_code == 303  # the right one gets in


def test_every_line_names_the_model(guarded):
    right = {"Authorization": f"Bearer {TOKEN}"}
    guarded.client.post("/login", data={"token": TOKEN})
    guarded.client.post("/login", data={"token": "wrong"})
    guarded.client.get("/metrics", headers={"Authorization": "Bearer wrong"})
    guarded.upload(("a.png", LIGHT), headers=right)
    guarded.client.post("/logout")
    lines = guarded.audit()
    assert {line["event"] for line in lines} == {"login", "image", "request", "logout"}
    card, sha256 = guarded.predictor.card()
    assert {(line["model_version"], line["card_sha256"]) for line in lines} == {(card.version, sha256)}


def test_wrong_bearer_tokens_leave_lines(guarded):
    bearer = {"Authorization": "Bearer wrong"}
    statuses = [guarded.client.get("/metrics", headers=JSON | bearer).status_code for _ in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    lines = guarded.audit()
    assert [line["event"] for line in lines] == ["login"] * 10 + ["login_limit"]
    assert {(line["address"], line["by"]) for line in lines} == {("127.0.0.1", "bearer")}
    assert len({line["request"] for line in lines}) == 11
    assert "wrong" not in json.dumps(lines)
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert guarded.client.get("/metrics", headers=right).status_code == 200


def test_a_failed_login_that_cannot_be_noted_is_a_failure(guarded, monkeypatch):
    def fail(self, records):
        raise AuditLogError("the disk is full")

    monkeypatch.setattr(AuditLog, "write", fail)
    wrong = guarded.client.get("/", headers=JSON | {"Authorization": "Bearer wrong"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (500, "not_audited")
    assert guarded.client.post("/login", data={"token": "wrong"}).status_code == 500


@pytest.mark.parametrize(
    "body", [b"", b"token", b"token=%FF", b"x" * 5000, b"&".join([b"a=b"] * 100), "token=令牌".encode()]
)
def test_odd_logins(guarded, body):
    response = guarded.client.post("/login", content=body)
    assert response.status_code in (400, 401)


def test_a_login_of_a_megabyte_is_refused(guarded):
    assert guarded.client.post("/login", content=b"x" * 2**20).status_code == 413


def test_bearer_tokens_for_scripts_and_prometheus(guarded):
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert guarded.client.get("/metrics").status_code == 401
    assert b"ladnn_page_requests_total" in guarded.client.get("/metrics", headers=bearer).content
    assert guarded.upload(("a.png", LIGHT), headers=bearer).status_code == 200


def test_users_of_a_proxy(tmp_path):
    settings = {"user_header": "X-Remote-User", "trusted_proxies": (parse_network("10.0.0.1"),)}
    with running_page(tmp_path, peer="10.0.0.1", **settings) as page:
        headers = {"X-Remote-User": "anna", "X-Forwarded-For": "192.0.2.7"}
        assert page.upload(("a.png", LIGHT), headers=headers).status_code == 200
        assert (page.audit("image")[0]["user"], page.audit("image")[0]["address"]) == ("anna", "192.0.2.7")
        assert page.upload(("a.png", LIGHT)).json()["error"]["code"] == "no_user"
    with running_page(tmp_path, peer="192.0.2.9", **settings) as page:
        assert page.upload(("a.png", LIGHT), headers=headers).json()["error"]["code"] == "around_proxy"


def test_other_sites_and_other_names(page):
    response = page.upload(("a.png", LIGHT), headers={"Origin": "http://evil.com"})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "other_site")
    response = page.client.get("/", headers={"Host": "<evil>.com"})
    assert response.status_code == 400
    assert "<evil>" not in response.text
    assert "--allowed_host" not in response.text  # a stranger is told nothing of flags
    assert words_of("en")("error.400") in response.text
    assert "upload could" not in response.text
    forwarded = page.client.get("/", headers=JSON | {"X-Forwarded-For": "192.0.2.7"})
    assert (forwarded.status_code, forwarded.json()["error"]["code"]) == (403, "behind_proxy")
    assert page.client.get("/healthz", headers={"Host": "10.0.0.9"}).status_code == 200


def test_the_rate_is_limited(tmp_path):
    with running_page(tmp_path, rate_limit=3) as page:
        assert [page.upload(("a.png", LIGHT)).status_code for _ in range(4)] == [200, 200, 200, 429]
        response = page.upload(("a.png", LIGHT))
        assert (response.headers["retry-after"], response.json()["error"]["code"]) == ("20", "too_often")
