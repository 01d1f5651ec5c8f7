"""The diagnosis page, asked over ASGI: answers, errors, clients that go away, probes, metrics."""

import asyncio
import base64
import dataclasses
import io
import json
import re
import threading
from pathlib import Path

import pytest
from PIL import Image
from serving_page import JSON, SHA256, TOKEN, FakePredictor, ask, example, form, png, running_page, zipped
from tiny_tflite import card_of

from serving.clients.errors import Overloaded, ServerFailed, TimedOut, Unavailable
from serving.page import app as page_app
from serving.page import image_answering
from serving.page.app import create_app
from serving.page.body_limits import Leaving, UploadRoom
from serving.page.errors import PageError
from serving.page.predictors import NotReadyError
from serving.page.settings import Settings
from serving.page.words import LANGUAGES, words_of

PAGE = Path(page_app.__file__).parent
LIGHT, DARK, BLACK = png(204), png(51), png(0)  # 0.8, 0.2, abstained


@pytest.fixture
def page(tmp_path):
    with running_page(tmp_path) as made:
        yield made


def test_answers_as_json(page):
    light, dark, black, text = page.results(
        ("light.png", LIGHT), ("dark.png", DARK), ("black.png", BLACK), ("a.png", b"text")
    )
    assert (light["file"], light["state"], light["positive"]) == ("light.png", "answered", True)
    assert light["covid"] == pytest.approx(0.8)
    assert (dark["state"], dark["positive"]) == ("answered", False)
    assert (black["state"], black["covid"], black["positive"]) == ("abstained", None, None)
    assert black["reason"] == "it is black"
    assert (text["state"], text["covid"]) == ("error", None)
    assert text["reason"].startswith("neither PNG")
    for result in (light, dark, black, text):
        assert (result["model_version"], result["card_sha256"]) == (card_of(b"model one").version, SHA256)
        assert "research use only" in result["notice"]
    assert "picture" not in light


def test_answers_as_a_page(page):
    response = page.client.post("/diagnose", files=[("files", ("a&b.png", LIGHT)), ("files", ("c.png", b""))])
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    text = response.text
    assert "a&amp;b.png" in text
    assert "data:image/jpeg;base64," in text
    assert "data:text/csv" in text
    assert "the file is empty" in text
    assert card_of(b"model one").version in text


def test_a_zip_and_its_neighbours(page):
    results = page.results(("z.zip", zipped({"1.png": LIGHT, "2.png": DARK})), ("3.png", BLACK))
    assert [result["file"] for result in results] == ["z.zip/1.png", "z.zip/2.png", "3.png"]
    assert [result["state"] for result in results] == ["answered", "answered", "abstained"]


def test_an_upload_of_bad_files_alone_asks_no_model(page):
    (result,) = page.results(("a.dcm", b"\x08\x00\x05\x00CS"))
    assert result["reason"].startswith("a DICOM file without its mark")
    assert page.predictor.asked == 0


def test_uploads_without_files(page):
    for files in ([("files", ("", b""))], [("other", ("a.png", LIGHT))]):
        response = page.client.post("/diagnose", files=files, headers=JSON)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "no_files")


def test_too_many_files_are_refused_by_name(tmp_path):
    with running_page(tmp_path, max_images=2) as page:
        for files in (
            [(f"{number}.png", LIGHT) for number in range(3)],
            [("2.png", zipped(dict.fromkeys("abc", LIGHT)))],
        ):
            response = page.upload(*files)
            assert response.status_code == 413
            assert "2.png" in response.json()["error"]["message"]
        assert page.predictor.asked == 0


def test_too_many_pixels_are_not_decoded(tmp_path):
    with running_page(tmp_path, max_pixels=1024) as page:
        (result,) = page.results(("a.png", png(size=(40, 30))))
        assert result["reason"].startswith("40 x 30 pixels are more than the 1,024")
        assert page.predictor.asked == 0


def test_chinese(page):
    answer = page.upload(("a.png", b"text"), headers={"Accept-Language": "zh-CN,zh;q=0.9"})
    assert answer.json()["results"][0]["reason"].startswith("无论文件名如何")
    error = page.client.post("/diagnose?lang=zh", headers=JSON)
    assert error.json()["error"]["message"].startswith("该请求不是上传")
    shown = page.client.get("/?lang=zh")
    assert 'lang="zh' in shown.text
    assert "ladnn_language=zh" in shown.headers["set-cookie"]
    assert 'lang="zh' in page.client.get("/").text  # by the cookie


def test_the_model_that_answers_may_change(page):
    """Between two requests, and the metrics, the audit log and the page follow."""
    page.results(("a.png", LIGHT))
    page.predictor.current = card_of(b"model two", name="two"), "d" * 64
    (result,) = page.results(("a.png", LIGHT))
    version = card_of(b"model two", name="two").version
    assert (result["model_version"], result["card_sha256"]) == (version, "d" * 64)
    first, second = page.audit("image")
    assert (first["card_sha256"], second["card_sha256"]) == (SHA256, "d" * 64)
    assert second["model_version"] == version
    assert page.audit("request")[-1]["card_sha256"] == "d" * 64
    text = page.client.get("/metrics").text
    assert re.findall(r'ladnn_page_model_info\{card_sha256="(\w+)"', text) == ["d" * 64]


def test_an_upload_answered_by_two_models_has_the_threshold_of_each(page):
    page.results(("a.png", LIGHT))
    cards = [(card_of(b"1", threshold=0.3), "1" * 64), (card_of(b"2", threshold=0.6), "2" * 64)]
    used = list(cards)
    answer = page.predictor.answer
    turns = threading.Lock()

    def alternately(encoded, pixels):
        with turns:
            page.predictor.current = cards.pop()
            return answer(encoded, pixels)

    page.predictor.answer = alternately
    response = page.upload(("a.png", LIGHT), ("b.png", LIGHT))
    point = response.json()["operating_point"]
    assert "30" in point
    assert "60" in point
    assert {result["threshold"] for result in response.json()["results"]} == {0.3, 0.6}
    assert sorted(line.split(": ")[0] for line in point.splitlines()) == sorted(
        f"{card.version} ({sha256[:12]})" for card, sha256 in used
    )


@pytest.mark.parametrize("unfit_at", [0, 1])
def test_an_upload_answered_by_an_unfit_model_too_has_its_banner(tmp_path, unfit_at):
    """Whichever image it answered."""
    fit = card_of(b"1"), "1" * 64
    unfit = dataclasses.replace(fit[0], export=dataclasses.replace(fit[0].export, fitness="unfit")), "2" * 64
    with running_page(tmp_path, workers=1) as page:
        cards = [fit, fit]
        cards[unfit_at] = unfit
        answer = page.predictor.answer

        def in_turns(encoded, pixels):
            page.predictor.current = cards.pop(0)
            return answer(encoded, pixels)

        page.predictor.answer = in_turns
        response = page.client.post("/diagnose", files=[("files", ("a.png", LIGHT)), ("files", ("b.png", LIGHT))])
        before_the_results = response.text.split("<main")[0]
        assert words_of("en")("site.unfit") in before_the_results
        assert words_of("en")("results.several_models") in response.text


@pytest.mark.parametrize("accept", ["application/json", "text/html"])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unavailable("http://secret:8501 is down"), 503),
        (TimedOut("http://secret:8501 is slow"), 504),
        (ServerFailed("http://secret:8501 is broken"), 502),
        (Overloaded("http://secret:8501 is overloaded"), 503),
        (RuntimeError("a secret of the model"), 500),
    ],
)
def test_errors_behind_the_page(page, error, status, accept):
    page.predictor.error = error
    response = page.upload(("a.png", LIGHT), headers={"Accept": accept})
    assert response.status_code == status
    assert "secret" not in response.text
    assert ("retry-after" in response.headers) == (status == 503)
    assert accept in response.headers["content-type"]
    (line,) = page.audit("image")
    assert (line["state"], line["outcome"]) == ("not_begun", "failed")
    assert page.audit("request")[0]["status"] == status
    page.predictor.error = None
    assert page.results(("a.png", LIGHT))[0]["state"] == "answered"


def test_the_first_error_drops_the_rest_of_an_upload(tmp_path):
    with running_page(tmp_path, workers=1) as page:
        answer = page.predictor.answer

        def fail_once(encoded, pixels):
            page.predictor.answer = answer
            page.predictor.free.clear()  # the second waits, while the first has failed
            raise Unavailable("down", retry_after=7.0)

        page.predictor.answer = fail_once
        response = page.upload(*[(f"{number}.png", LIGHT) for number in range(20)])
        assert (response.status_code, response.headers["retry-after"]) == (503, "7")
        page.predictor.free.set()
        assert page.results(("a.png", LIGHT))[0]["state"] == "answered"
        assert page.predictor.asked <= 2  # the second, if it was begun, and the last
        assert page.metric("ladnn_page_queue_images") == 0.0


def test_a_full_queue_answers_at_once_and_recovers(tmp_path):
    """A queue of two: one image is in work, two wait; the next is refused until there is room."""
    with running_page(tmp_path, workers=1, queue=2, max_images=2) as page:
        page.predictor.free.clear()
        first = threading.Thread(target=page.upload, args=(("a.png", LIGHT),))
        first.start()
        assert page.predictor.begun.wait(30)
        taken, refused = [], []

        def upload(number):
            response = page.upload((f"{number}.png", LIGHT), (f"{number}b.png", LIGHT))
            (taken if response.status_code == 200 else refused).append(response)
            if response.status_code != 200:
                page.predictor.free.set()  # one is refused: let the others be answered

        others = [threading.Thread(target=upload, args=(number,)) for number in range(2)]
        for thread in others:
            thread.start()
        for thread in (first, *others):
            thread.join(60)
        assert (len(taken), len(refused)) == (1, 1)
        assert refused[0].status_code == 503
        assert int(refused[0].headers["retry-after"]) >= 1
        assert refused[0].json()["error"]["code"] == "queue_full"
        assert page.results(("a.png", LIGHT))[0]["state"] == "answered"


def test_a_client_that_goes_away_frees_its_places(tmp_path):
    predictor = FakePredictor()
    settings = Settings(workers=1, rate_limit=0, audit_log=tmp_path / "audit.jsonl")
    app = create_app(settings, predictor, None)

    async def scenario():
        leave = asyncio.Event()
        predictor.free.clear()
        async with app.router.lifespan_context(app):
            asked = asyncio.create_task(ask(app, "/diagnose", *form(LIGHT, LIGHT, LIGHT), leave=leave))
            assert await asyncio.to_thread(predictor.begun.wait, 30)
            leave.set()
            assert await asked == []  # nobody is there to be answered
            predictor.free.set()
            answer = await ask(app, "/diagnose", *form(LIGHT))
            assert answer[0]["status"] == 200

    asyncio.run(scenario())
    assert predictor.asked == 2  # the one that was begun, and the later one
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in lines if line["event"] == "image"] == ["client_gone"] * 3 + ["given"]
    assert [line["status"] for line in lines if line["event"] == "request"] == [499, 200]


def test_large_answers_leave_in_parts(page):
    sent = asyncio.run(ask(page.app, "/diagnose", *form(*[LIGHT] * 30)))
    bodies = [message["body"] for message in sent if message["type"] == "http.response.body"]
    assert max(map(len, bodies)) <= 2**16
    assert len(bodies) > 1
    headers = dict(sent[0]["headers"])
    assert int(headers[b"content-length"]) == sum(map(len, bodies))
    assert [message.get("more_body", False) for message in sent[1:]] == [True] * (len(bodies) - 1) + [False]


def test_a_client_that_takes_nothing_is_given_up(tmp_path, caplog):
    app = create_app(Settings(upload_timeout=0.01, audit_log=tmp_path / "audit.jsonl"), FakePredictor(), None)
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive():
        return messages[0]

    async def send(message):
        await asyncio.Event().wait()

    scope = {"type": "http", "method": "GET", "scheme": "http", "path": "/healthz", "query_string": b"",
             "headers": [(b"host", b"localhost")], "client": None, "root_path": ""}  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert "broken off" in caplog.text


def test_an_answer_has_a_deadline_as_a_whole():
    """A client that takes part after part, each in time, would otherwise keep its upload in memory for hours."""
    statuses = []

    async def send(message):
        await asyncio.sleep(0)

    async def before(status):
        statuses.append(status)

    async def drip():
        leaving = Leaving(send, "/", 0.05, before)
        await leaving({"type": "http.response.start", "status": 200})
        for _ in range(10**6):
            await leaving({"type": "http.response.body", "body": b"x", "more_body": True})

    with pytest.raises(TimeoutError):
        asyncio.run(drip())
    assert statuses == [200]


def test_every_response_has_its_headers(page):
    for path, status in (("/", 200), ("/nothing", 404), ("/healthz", 200), ("/static/style.css", 200)):
        response = page.client.get(path)
        assert response.status_code == status
        assert response.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "same-origin"
        expected = "no-cache" if path.startswith("/static/") else "no-store"
        assert response.headers["cache-control"] == expected
        assert "server" not in response.headers


def test_pages_that_are_not_there(page):
    for path in ("/docs", "/redoc", "/openapi.json", "/contribute", "/static/../settings.py", "/static/none"):
        response = page.client.get(path, headers=JSON)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "no_such_page"), path
    response = page.client.get("/diagnose", headers=JSON)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert page.client.post("/login", data={"token": "x"}).status_code == 404
    assert page.client.get("/login").headers["location"] == "/"  # there is no login


def test_the_language_of_errors_is_the_clients(page):
    assert page.client.get("/none").headers["content-type"].startswith("text/html")
    weighed = {"Accept": "text/html;q=0.5, application/json;q=0.9"}
    assert page.client.get("/none", headers=weighed).headers["content-type"] == "application/json"
    weighed = {"Accept": "application/json;q=nonsense, */*"}
    assert page.client.get("/none", headers=weighed).headers["content-type"].startswith("text/html")


def test_healthz_and_readyz(page):
    assert page.client.get("/healthz").text == "alive\n"
    assert page.client.get("/readyz").json() == {"ready": True, "reason": ""}
    assert page.client.get("/readyz").status_code == 200
    assert page.predictor.asked == 1  # the outcome is kept for a while


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotReadyError("a secret of the model"), "the model gives no answer"),
        (Unavailable("http://secret"), "the model server cannot be reached"),
        (TimedOut("http://secret"), "the model server is too slow"),
        (ServerFailed("http://secret"), "the model server fails"),
        (Overloaded("http://secret"), "the model server is overloaded"),
        (RuntimeError("secret"), "the check failed"),
    ],
)
def test_readyz_says_why_not(tmp_path, error, reason):
    with running_page(tmp_path, ready_seconds=0.0, token=TOKEN) as page:
        page.predictor.not_ready = error
        response = page.client.get("/readyz")
        assert (response.status_code, response.json()) == (503, {"ready": False, "reason": reason})
        page.predictor.not_ready = None
        assert page.client.get("/readyz").status_code == 200


def test_the_first_page_without_a_model(page):
    page.predictor.no_card = Unavailable("down")
    response = page.client.get("/")
    assert response.status_code == 200
    assert 'enctype="multipart/form-data"' in response.text
    assert page.upload(("a.png", b"text")).status_code == 503  # whose model would not have answered it?


def test_the_first_page_names_the_model(page):
    assert card_of(b"model one").version in page.client.get("/").text


def test_metrics(page):
    page.upload(("a.png", LIGHT), ("b.png", b""), ("c.png", BLACK))
    page.client.get("/nothing")
    page.client.get("/nothing/else")
    assert page.metric('ladnn_page_requests_total{route="/diagnose",status="200"}') == 1.0
    assert page.metric('ladnn_page_requests_total{route="other",status="404"}') == 2.0
    assert page.metric('ladnn_page_images_total{state="answered"}') == 1.0
    assert page.metric('ladnn_page_images_total{state="abstained"}') == 1.0
    assert page.metric('ladnn_page_images_total{state="error"}') == 1.0
    assert page.metric("ladnn_page_queue_capacity") == 256.0
    assert page.metric("ladnn_page_queue_seconds_count") == 2.0
    assert page.metric("ladnn_page_answer_seconds_count") == 2.0
    assert page.metric("ladnn_page_upload_bytes") == 0.0


def test_a_gauge_says_whether_the_model_answers(tmp_path):
    with running_page(tmp_path, ready_seconds=0.0) as page:
        assert page.metric("ladnn_page_ready") == 1.0
        page.predictor.not_ready = Unavailable("down")
        assert page.metric("ladnn_page_ready") == 0.0  # each scrape asks
        page.predictor.not_ready = None
        assert page.client.get("/readyz").status_code == 200
        assert page.metric("ladnn_page_ready") == 1.0
        text = page.client.get("/metrics").text
        assert "# HELP ladnn_page_ready 1 if the model answered a phantom slice" in text


def test_scrapes_ask_the_model_no_more_often_than_probes(page):
    for path in ("/readyz", "/metrics", "/metrics", "/readyz"):
        page.client.get(path)
    assert page.predictor.asked == 1


def test_a_scrape_does_not_wait_for_a_model_server_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(page_app, "_SCRAPE_SECONDS", 0.05)
    with running_page(tmp_path) as page:
        assert page.metric("ladnn_page_ready") == 1.0
    with running_page(tmp_path) as page:
        free = threading.Event()
        page.predictor.ready = lambda: free.wait(60)
        try:
            assert page.metric("ladnn_page_ready") == 0.0
        finally:
            free.set()


def test_room_for_uploads_is_shared():
    """10 bytes for all, 5 for one client; four uploads at a time, two of one client."""
    room = UploadRoom(10, 4)

    def refused(work, *given):
        with pytest.raises(PageError) as caught:
            work(*given)
        return caught.value.status, caught.value.key

    with room.upload("a", 5) as first, room.upload("a", 5) as second:
        assert room.used == 0  # what is announced is not there yet
        first(3)
        assert refused(second, 3) == (503, "busy_client")
        second(2)
        assert room.used == 5
        assert refused(room.upload("a", 0).__enter__) == (503, "busy_client")  # its third
        assert refused(room.upload("b", 6).__enter__) == (503, "busy")
        with room.upload("b", 5) as third, room.upload("c", 0) as fourth:
            third(5)
            assert refused(fourth, 1) == (503, "busy")
            assert refused(room.upload("d", 0).__enter__) == (503, "busy")  # the fifth of all
        assert room.used == 5
    assert room.used == 0
    with room.upload("a", 5) as again:
        again(5)


def test_every_status_of_an_error_has_a_title_and_no_other():
    code = "\n".join(path.read_text() for path in PAGE.glob("*.py"))
    used = set(re.findall(r"PageError\(\s*(\d{3})\b", code)) | set(re.findall(r"status=(4\d\d|5\d\d)\)", code))
    used |= {"404", "405"} | ({"503"} if "try_later(" in code else set())  # the router's; the default
    for language in LANGUAGES:
        titles = {
            key.removeprefix("error.") for key in words_of(language).texts if re.fullmatch(r"error\.\d+", key)
        }
        assert titles == used


def test_every_message_of_an_error_is_there_and_used():
    code = "\n".join(path.read_text() for path in PAGE.glob("*.py"))
    keys = {key.removeprefix("refused.") for key in words_of("en").texts if key.startswith("refused.")}
    named = set(re.findall(r'"([a-z_]+)"', code))
    assert keys <= named
    raised = set(re.findall(r'PageError\(\s*\d{3}, "([a-z_]+)"', code)) | set(
        re.findall(r'try_later\("([a-z_]+)"', code)
    )
    assert raised <= keys


def test_a_page_for_several_times_has_metrics_of_its_own(tmp_path):
    (tmp_path / "other").mkdir()
    with running_page(tmp_path) as first, running_page(tmp_path / "other") as second:
        first.upload(("a.png", LIGHT))
        assert 'state="answered"' in first.client.get("/metrics").text
        assert 'state="answered"' not in second.client.get("/metrics").text


def test_pictures_are_of_what_the_network_was_shown(page):
    answer = page.predictor.answer
    page.predictor.answer = lambda encoded, pixels: (answer(encoded, pixels)[0], pixels[:10, :20])
    text = page.client.post("/diagnose", files=[("files", ("a.png", png(204)))]).text
    (encoded,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (20, 10)


def test_the_pictures_are_not_made_for_json(page, monkeypatch):
    seen = []
    view_of = image_answering.view_of
    monkeypatch.setattr(image_answering, "view_of", lambda *given: seen.append(given[2]) or view_of(*given))
    (result,) = page.results(("a.png", LIGHT))
    assert seen == [None]
    # What is said of pictures makes no sense without them.
    assert {"picture", "boxes", "heat", "cells", "scale"}.isdisjoint(result)


def test_a_real_slice(page):
    assert page.results(("slice.png", example()))[0]["state"] == "answered"
