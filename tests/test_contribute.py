"""The page of the data collection, over HTTP, with the real templates and texts."""

import html
import io
import re
import sqlite3

import numpy as np
import pytest
import sqlalchemy
from contributions import KEPT, OPERATOR, files, noise
from fastapi import FastAPI
from PIL import Image
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from ladnn_tf.data.phantom_slice import example_png
from ladnn_tf.data.preprocess import decode, encode_png
from ladnn_tf.labels import LESIONS
from serving.collection.consent import consent
from serving.collection.contribution import CollectionError, UncertainError
from serving.collection.images import PERCENT, Erasure, erase
from serving.collection.store import Collection
from serving.page import contribute, words
from serving.page.access import Caller
from serving.page.contribute_form import COVID_CHOICES, LESION_CHOICES
from serving.page.errors import PageError, try_later
from serving.page.pages import Pages
from serving.page.settings import Settings

AGREED = {"consent": consent("en", OPERATOR).sha256, "agree": "yes"}


class Site:
    """The routes alone, with what the gate gives them."""

    def __init__(self, folder, **settings):
        self.settings = Settings(**{"operator": OPERATOR, "max_images": 4, "max_unpacked_mb": 1, **settings})
        self.folder = folder
        self.collection = Collection(folder)
        self.lines = []
        self.record = lambda request, line: self.lines.append(dict(line))
        self.reserved = []
        self.reserve = self.reserved.append
        pages = Pages(self.settings, True, lambda: None)

        def render(request, template, context, status=200):
            return pages.page(request, template, status=status, **context)

        app = FastAPI()
        app.include_router(
            contribute.contribute_router(
                self.collection,
                render,
                self.settings,
                user_of=lambda request: request.state.caller.user,
                record=lambda request, line: self.record(request, line),
            )
        )

        @app.middleware("http")
        async def gate(request, call_next):
            request.state.caller = Caller("127.0.0.1", "http", "anna", known=True)
            request.state.reserve = lambda more: self.reserve(more)
            return await call_next(request)

        @app.exception_handler(PageError)
        async def refuse(request, error):
            return JSONResponse({"code": error.key}, error.status)

        self.client = TestClient(app, raise_server_exceptions=False)

    def contribute(self, *contents, **fields):
        sent = [("files", (f"{place}.png", content, "image/png")) for place, content in enumerate(contents)]
        sent = sent or [("files", ("", b"", "application/octet-stream"))]  # as a browser does
        return self.client.post("/contribute", files=sent, data=AGREED | fields)

    def withdraw(self, receipt):
        return self.client.post("/contribute/withdraw", files={"receipt": (None, receipt)})

    def rows(self, table):
        connection = sqlite3.connect(self.folder / "collection.sqlite")
        connection.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in connection.execute(f"SELECT * FROM ladnn_{table}")]
        finally:
            connection.close()

    def images(self):
        return [decode(path.read_bytes()) for path in sorted(self.folder.glob("images/*/*.png"))]

    def assert_nothing_stored(self):
        assert files(self.folder) == KEPT
        assert self.rows("contributions") == []
        assert self.lines == []


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "data")
    with site.client:
        yield site
    site.collection.close()


@pytest.fixture(scope="module")
def chest():
    return example_png()


def text_of(response):
    """What a reader sees, without the tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", response.text)).split())


def receipt_of(response):
    assert response.status_code == 200, text_of(response)
    return re.search(r"(?:[0-9A-Z]{5}-){4}[0-9A-Z]{5}", response.text)[0]


# Contributing


def test_a_contribution_is_stored_and_can_be_withdrawn(site, chest):
    response = site.contribute(
        chest, covid="yes", lesion_GGO="present", lesion_CrPa="absent", lesion_AirBr="", patient_code=" P7 "
    )
    receipt = receipt_of(response)
    (row,) = site.rows("contributions")
    assert {label: row[label] for label in ("covid", *LESIONS)} == {
        "covid": 1,
        "GGO": 1,
        "Csld": None,
        "CrPa": 0,
        "AirBr": None,
        "InSepThi": None,
    }
    assert row["contributor"] == "anna"
    assert len(row["patient_hash"]) == 64
    assert (row["consent_version"], row["consent_language"]) == ("1", "en")
    assert (site.images()[0] == decode(chest)).all()
    assert row["operator"] == OPERATOR
    assert site.lines == [{"event": "contribution", "contribution": row["id"], "images": 1}]
    assert row["id"] in response.text
    assert "1 image was stored." in text_of(response)
    assert site.reserved == [path.stat().st_size for path in site.folder.glob("images/*/*.png")]

    withdrawn = site.withdraw(receipt.lower())
    assert withdrawn.status_code == 200
    assert "The contribution with 1 image was withdrawn and deleted." in text_of(withdrawn)
    assert files(site.folder) == KEPT
    assert site.lines[1:] == [{"event": "withdrawal", "contribution": row["id"], "images": 1}]
    assert "was withdrawn before, at 20" in text_of(site.withdraw(receipt))


def test_nothing_stated_is_stored_as_not_stated(site, chest):
    receipt_of(site.contribute(chest))
    (row,) = site.rows("contributions")
    assert {row[name] for name in ("covid", *LESIONS, "patient_hash")} == {None}
    (image,) = site.rows("images")
    assert (image["erased_corners"], image["erased_percent"], image["refusal"]) == ("", 0, "")


def test_the_chosen_corners_are_erased_on_the_server(site, chest):
    receipt_of(site.contribute(chest, corner=["top_left", "bottom_right", "nowhere"], corner_percent="20"))
    expected = erase(decode(chest), Erasure(("top_left", "bottom_right"), 20))
    assert (site.images()[0] == expected).all()
    assert (expected != decode(chest)).any()


def test_the_same_picture_twice_is_stored_once_and_said(site, chest):
    response = site.contribute(chest, chest)
    receipt_of(response)
    assert "Of 2 files some were the same picture" in text_of(response)
    assert len(site.images()) == 1


def test_receipts_are_in_no_log_and_no_file(site, chest, caplog):
    caplog.set_level(0)
    receipt = receipt_of(site.contribute(chest))
    assert receipt not in caplog.text
    for path in site.folder.rglob("*"):
        if path.is_file():
            assert receipt.encode() not in path.read_bytes()
            assert receipt.replace("-", "").encode() not in path.read_bytes()


# What is refused, all or nothing


@pytest.mark.parametrize("agree", ["", "no"])
def test_nothing_is_stored_without_the_consent(site, chest, agree):
    response = site.contribute(chest, agree=agree)
    assert response.status_code == 422
    assert "The consent is missing." in text_of(response)
    assert 'name="agree" type="checkbox" value="yes" required' in response.text
    site.assert_nothing_stored()


def test_another_consent_text_than_the_current_one_is_no_consent(site, chest):
    for shown in ("0" * 64, ""):
        response = site.contribute(chest, consent=shown)
        assert response.status_code == 422
        assert "The consent text has changed" in text_of(response)
    site.assert_nothing_stored()
    receipt_of(site.contribute(chest, consent=consent("zh", OPERATOR).sha256))
    assert site.rows("contributions")[0]["consent_language"] == "zh"


def test_one_bad_file_refuses_all_and_every_bad_one_is_named(site, chest):
    broken = chest[: len(chest) // 2]
    response = site.contribute(chest, broken, b"GIF89a" + bytes(20), b"PK\x03\x04" + bytes(20))
    assert response.status_code == 422
    text = text_of(response)
    assert "1.png : cannot be read ( damaged or truncated image" in text
    assert "2.png : cannot be read ( a GIF file" in text
    assert "3.png : a zip file; choose the images in it themselves" in text
    assert "0.png" not in text
    site.assert_nothing_stored()


def test_a_file_name_is_shown_as_text_and_without_its_way_up(site):
    sent = [("files", ("../../<b>x</b>\x1b.png", b"no image", "image/png"))]
    response = site.client.post("/contribute", files=sent, data=AGREED)
    assert response.status_code == 422
    assert "<b>x" not in response.text
    assert "../" not in text_of(response)


def test_what_is_no_chest_ct_needs_a_tick(site, chest):
    photograph = encode_png(noise(1, (64, 64)))
    assert "is_chest_ct" not in site.client.get("/contribute").text
    response = site.contribute(chest, photograph)
    assert response.status_code == 422
    assert "1.png : does not look like a chest-CT slice ( in colour" in text_of(response)
    assert 'name="is_chest_ct" type="checkbox" value="yes">' in response.text
    site.assert_nothing_stored()
    receipt_of(site.contribute(chest, photograph, is_chest_ct="yes"))
    refusals = [image["refusal"] for image in site.rows("images")]
    assert refusals[0] == ""
    assert refusals[1].startswith("in colour")


def test_the_tick_for_what_looks_like_no_chest_ct_is_set_anew_each_time(site, chest):
    photograph = encode_png(noise(1, (64, 64)))
    for fields in ({}, {"is_chest_ct": "yes", "patient_code": "x" * 65}):
        refused = site.contribute(photograph, **fields)
        assert refused.status_code == 422
        assert 'name="is_chest_ct" type="checkbox" value="yes">' in refused.text
        assert " checked" not in refused.text
    site.assert_nothing_stored()


def test_a_picture_with_transparent_parts_is_refused(site, chest):
    content = io.BytesIO()
    pixels = Image.open(io.BytesIO(chest)).convert("RGBA")
    pixels.save(content, "PNG")
    receipt_of(site.contribute(content.getvalue()))  # the alpha channel is opaque
    pixels.putpixel((3, 5), (255, 255, 255, 0))
    content = io.BytesIO()
    pixels.save(content, "PNG")
    for language, said in (("en", "0.png : has transparent parts"), ("zh", "0.png : 含有透明部分")):
        site.client.cookies.set("ladnn_language", language)
        response = site.contribute(content.getvalue())
        assert response.status_code == 422
        assert said in text_of(response)
    assert len(site.rows("contributions")) == 1


def test_no_file_is_no_contribution(site):
    response = site.contribute()
    assert response.status_code == 422
    assert "No image was chosen." in text_of(response)
    other = site.client.post("/contribute", files={"picture": ("a.png", b"x")}, data=AGREED)
    assert "No image was chosen." in text_of(other)
    site.assert_nothing_stored()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"patient_code": "x" * 65}, "The patient code is longer than 64 characters."),
        ({"corner_percent": "31"}, "a whole number from 5 to 30"),
        ({"corner_percent": "4"}, "a whole number from 5 to 30"),
        ({"corner_percent": "000000015999"}, "a whole number from 5 to 30"),
        ({"corner_percent": "1e1"}, "a whole number from 5 to 30"),
        ({"corner_percent": "\u0661\u0665"}, "a whole number from 5 to 30"),  # Arabic-Indic 15
    ],
)
def test_a_field_out_of_its_range_is_refused(site, chest, fields, said):
    response = site.contribute(chest, **fields)
    assert response.status_code == 422
    assert said in text_of(response)
    assert f'id="{next(iter(fields))}"' in response.text
    assert 'aria-invalid="true"' in response.text
    site.assert_nothing_stored()


@pytest.mark.parametrize("fields", [{"covid": "perhaps"}, {"lesion_GGO": "1"}])
def test_a_value_that_the_form_cannot_send_is_no_form(site, chest, fields):
    response = site.contribute(chest, **fields)
    assert (response.status_code, response.json()) == (400, {"code": "broken_form"})
    site.assert_nothing_stored()


def test_what_was_typed_is_still_there_after_a_refusal_but_the_consent(site):
    response = site.contribute(
        covid="no", lesion_Csld="present", patient_code='P"7', corner=["top_right"], corner_percent="25"
    )
    page = response.text
    assert '<option value="no" selected>' in page
    assert page.count(" selected>") == 6
    assert '<option value="present" selected>' in page
    assert 'value="P&#34;7"' in page
    assert 'value="top_right" checked' in page
    assert page.count(" checked") == 1
    assert 'required value="25"' in page


def test_too_many_and_too_large_files(site, chest):
    response = site.contribute(*[chest] * 5)
    assert (response.status_code, response.json()) == (413, {"code": "too_many_files"})
    large = site.contribute(chest + bytes(17 * 2**20))
    assert large.status_code == 422
    assert "0.png : cannot be read ( the file has more than 16 MB" in text_of(large)
    site.assert_nothing_stored()


def test_pictures_that_grow_too_large_are_refused(site):
    # 1 MB of stored pictures is allowed; these are noise, which no PNG makes smaller.
    pictures = [encode_png(noise(seed, (400, 400))) for seed in range(3)]
    response = site.contribute(*pictures, is_chest_ct="yes")
    assert response.status_code == 422
    assert "the pictures take more than 1 MB together" in text_of(response)
    assert len(site.reserved) == 2
    site.assert_nothing_stored()


def test_more_pixels_than_are_allowed_are_refused(tmp_path):
    site = Site(tmp_path / "data", max_pixels=32 * 32)
    response = site.contribute(encode_png(np.zeros((32, 33), np.uint8)))
    assert response.status_code == 422
    assert "0.png : cannot be read ( " in text_of(response)
    site.assert_nothing_stored()
    site.collection.close()


def test_without_memory_one_is_asked_to_come_back(site, chest):
    def reserve(more):
        raise try_later("busy", 2.0)

    site.reserve = reserve
    response = site.contribute(chest)
    assert (response.status_code, response.json()) == (503, {"code": "busy"})
    site.assert_nothing_stored()


# Failures


@pytest.mark.parametrize(
    ("error", "code"),
    [(CollectionError("full"), "collection_failed"), (UncertainError("?"), "collection_uncertain")],
)
def test_a_failing_collection_is_said(site, chest, monkeypatch, caplog, error, code):
    def fail(_):
        raise error

    monkeypatch.setattr(site.collection, "add", fail)
    response = site.contribute(chest)
    assert (response.status_code, response.json()) == (503, {"code": code})
    assert f"data collection: {error}" in caplog.text
    assert f"refused.{code}" in words.words_of("en")
    monkeypatch.setattr(site.collection, "withdraw", fail)
    withdrawal = site.withdraw("0")
    assert (withdrawal.status_code, withdrawal.json()) == (503, {"code": "withdrawal_failed"})
    assert "refused.withdrawal_failed" in words.words_of("zh")


def test_a_contribution_whose_line_cannot_be_written_is_taken_back(site, chest):
    def record(request, line):
        raise OSError("the disk is full")

    site.record = record
    assert site.contribute(chest).status_code == 500
    assert files(site.folder) == KEPT
    assert site.rows("contributions") == []


def test_a_contribution_that_cannot_even_be_taken_back_is_named_in_the_log(site, chest, monkeypatch, caplog):
    def record(request, line):
        raise OSError("the disk is full")

    def fail(*_):
        raise sqlalchemy.exc.OperationalError("DELETE", None, OSError("no route to host"))

    site.record = record
    monkeypatch.setattr("serving.collection.store.records.delete", fail)
    response = site.contribute(chest)
    assert (response.status_code, response.json()) == (503, {"code": "collection_uncertain"})
    (row,) = site.rows("contributions")
    assert f"serving.collection.withdraw --id={row['id']} takes it out" in caplog.text


def test_nothing_is_stored_for_a_client_who_has_gone(site, chest, monkeypatch):
    async def gone(_):
        return True

    monkeypatch.setattr("starlette.requests.Request.is_disconnected", gone)
    assert site.contribute(chest).status_code == 500  # nobody reads it
    site.assert_nothing_stored()


@pytest.mark.parametrize("receipt", ["", "AAAAA-AAAAA-AAAAA-AAAAA-AAAAA", "' OR 1=1 --", "\x00", "Ä" * 5000])
def test_a_receipt_that_nobody_has_withdraws_nothing(site, chest, receipt):
    receipt_of(site.contribute(chest))
    response = site.withdraw(receipt)
    assert response.status_code == 404
    assert "No contribution has this receipt." in text_of(response)
    assert site.collection.count() == 1
    assert len(site.lines) == 1


# The page


def test_the_consent_names_the_operator_and_without_one_there_is_no_page(site):
    response = site.client.get("/contribute")
    assert f"(&#34;the operator&#34; below): {OPERATOR}</p>" in response.text
    site.client.cookies.set("ladnn_language", "zh")
    assert OPERATOR in text_of(site.client.get("/contribute"))
    with pytest.raises(ValueError, match="operator's name and contact"):
        contribute.contribute_router(site.collection, None, Settings(), user_of=None, record=None)


def test_the_consent_to_give_to_another_operator_is_none(site, chest):
    response = site.contribute(chest, consent=consent("en", "somebody else").sha256)
    assert response.status_code == 422
    assert "The consent text has changed" in text_of(response)
    site.assert_nothing_stored()


def test_the_form_sends_what_is_read(site):
    """Every control's name and values, against what `contribute_form.py` takes."""
    page = site.client.get("/contribute").text
    assert f'name="consent" value="{consent("en", OPERATOR).sha256}"' in page
    names = set(re.findall(r'<(?:input|select)[^>]* name="([^"]+)"', page))
    expected = {"consent", "agree", "files", "corner", "corner_percent", "covid", "patient_code", "receipt"}
    assert names == expected | {f"lesion_{lesion}" for lesion in LESIONS}
    selects = {"covid": COVID_CHOICES} | {f"lesion_{lesion}": LESION_CHOICES for lesion in LESIONS}
    for name, choices in selects.items():
        select = re.search(rf'<select id="{name}".*?</select>', page, re.DOTALL)[0]
        assert re.findall(r'<option value="([^"]*)"', select) == list(choices)
    assert f'min="{PERCENT[0]}" max="{PERCENT[-1]}"' in page


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_is_in_the_reader_s_language_with_its_whole_consent_text(site, chest, language):
    response = site.client.get(f"/contribute?lang={language}")
    text = text_of(response)
    assert " ".join(consent(language, OPERATOR).text.split()) in text
    texts = words.words_of(language)
    assert texts("contribute.title") in text
    assert f'lang="{texts.tag}"' in response.text
    contributed = site.contribute(chest)  # the cookie remembers the language
    assert texts("contributed.receipt_hint") in text_of(contributed)
    refused = site.contribute(b"")
    assert texts("contribute.problems") in text_of(refused)


def test_nothing_on_the_pages_is_inline_and_every_control_has_a_label(site, chest):
    for page in (
        site.client.get("/contribute").text,
        site.contribute(encode_png(noise(1)), agree="", corner_percent="1").text,
        site.contribute(chest).text,
        site.withdraw("0").text,
    ):
        assert not re.search(r"\son\w+=|\sstyle=|<style|javascript:", page)
        assert re.findall(r"<script[^>]*>([^<]*)</script>", page) == [""] * page.count("<script")
        ids = re.findall(r'\sid="([^"]+)"', page)
        assert len(ids) == len(set(ids))
        controls = re.findall(r'<(?:input|select) id="([^"]+)"', page)
        labelled = re.findall(r'<label for="([^"]+)"', page)
        assert sorted(controls) == sorted(labelled)
        for described in re.findall(r'aria-(?:describedby|labelledby)="([^"]+)"', page):
            assert set(described.split()) <= set(ids)
        for target in re.findall(r'href="#([^"]+)"', page):
            assert target in ids


def test_the_receipt_s_page_has_no_link_that_would_lose_it_to_another_language(site, chest):
    assert "lang=zh" in site.client.get("/contribute").text
    assert "lang=zh" not in site.contribute(chest).text
