"""Forms with files, read into memory."""

import asyncio
import hmac

import pytest
from starlette.requests import ClientDisconnect, Request

from serving.page.errors import PageError
from serving.page.form_data import SentFile, read_form

TYPE = "multipart/form-data; boundary=cut"


def part(about: str, content: bytes) -> bytes:
    return f"--cut\r\nContent-Disposition: form-data; {about}\r\n\r\n".encode() + content + b"\r\n"


def read(body: bytes, kind: str = TYPE, *, step: int = 7, ends: bool = True, **limits):
    """Reads a body that arrives in pieces of `step` bytes."""
    pieces = [body[start : start + step] for start in range(0, len(body), step)] or [b""]
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request"} if ends else {"type": "http.disconnect"})

    async def receive():
        return messages.pop(0)

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode())]}
    limits = {"max_files": 10, "max_file_bytes": 1000} | limits
    return asyncio.run(read_form(Request(scope, receive), **limits))


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_files_and_fields(step):
    body = (
        part('name="files"; filename="a.png"', b"\r\n--cu\0")
        + part('name="consent"', "是".encode())
        + part('name="files"; filename=""', b"")  # no file chosen
        + part('name="files"; filename="肺.png"', b"")
        + b"--cut--\r\n"
    )
    form = read(body, step=step)
    assert form.files == [SentFile("files", "a.png", b"\r\n--cu\0"), SentFile("files", "肺.png", b"")]
    assert form.fields == [("consent", "是")]
    assert form.value("consent") == "是"
    assert form.value("none") == ""


def test_a_name_that_is_no_utf8_is_latin_1():
    body = part('name="f"; filename="?.png"', b"x").replace(b"?", b"\xe9") + b"--cut--\r\n"
    assert read(body).files[0].name == "é.png"


def test_a_file_that_is_too_large_is_dropped_and_the_others_stay():
    body = (
        part('name="files"; filename="big"', b"x" * 1001)
        + part('name="files"; filename="most"', b"y" * 1000)
        + part('name="files"; filename="zip"', b"PK" + b"z" * 2000)
        + b"--cut--\r\n"
    )
    big, most, larger = read(body, may_be_larger=lambda start: start.startswith(b"PK")).files
    assert (big.too_large, big.content) == (True, b"")
    assert (most.too_large, len(most.content)) == (False, 1000)
    assert (larger.too_large, len(larger.content)) == (False, 2002)


def test_the_hash_and_the_size_of_a_dropped_file_are_kept():
    body = (
        part('name="files"; filename="big"', b"x" * 1234)
        + part('name="files"; filename="a"', b"y")
        + b"--cut--\r\n"
    )
    for step in (7, 10_000):
        big, small = read(body, step=step, new_hash=lambda: hmac.new(b"key", digestmod="sha256")).files
        assert (big.dropped, big.dropped_hash) == (1234, hmac.new(b"key", b"x" * 1234, "sha256").hexdigest())
        assert (small.dropped, small.dropped_hash) == (0, "")
    assert read(body).files[0].dropped_hash == ""


def test_a_very_long_name():
    name = "n" * 5000
    assert read(part(f'name="files"; filename="{name}"', b"x") + b"--cut--\r\n").files[0].name == name


def test_too_many_files():
    body = b"".join(part(f'name="files"; filename="{number}"', b"x") for number in range(4)) + b"--cut--\r\n"
    assert len(read(body, max_files=4).files) == 4
    with pytest.raises(PageError) as caught:
        read(body, max_files=3)
    assert (caught.value.status, caught.value.values) == (413, {"file": "3", "most": 3})


WHOLE = part('name="files"; filename="a"', b"x") + b"--cut--\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing",
        b"--other\r\n" + WHOLE,
        WHOLE[:-6],
        WHOLE[:20],
        WHOLE.replace(b"form-data", b"attachment"),
        WHOLE.replace(b'name="files"; ', b""),
        b"--cut\r\nno colon\r\n\r\nx\r\n--cut--\r\n",
        b"--cut\r\n\r\nno header\r\n--cut--\r\n",
        part('name="long"', b"x" * 70_000) + b"--cut--\r\n",
        b"".join(part('name="many"', b"") for _ in range(1001)) + b"--cut--\r\n",
        b"".join(part('name="f"; filename=""', b"") for _ in range(1011)) + b"--cut--\r\n",
        b"--cut\r\nX: " + b"x" * 20_000 + b"\r\n" + WHOLE[7:],
    ],
)
def test_broken_forms(body):
    with pytest.raises(PageError) as caught:
        read(body, step=1000)
    assert (caught.value.status, caught.value.key) == (400, "broken_form")


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=cut",
    ],
)
def test_what_is_no_form(kind):
    with pytest.raises(PageError) as caught:
        read(WHOLE, kind)
    assert (caught.value.status, caught.value.key) == (415, "not_a_form")


def test_a_boundary_of_any_length_and_kind():
    with pytest.raises(PageError) as caught:
        read(WHOLE, f"multipart/form-data; boundary={'b' * 5000}")
    assert caught.value.key == "broken_form"


def test_a_client_that_goes_away():
    with pytest.raises(ClientDisconnect):
        read(WHOLE[:-6], ends=False)
