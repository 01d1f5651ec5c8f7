"""The page in a real Chromium, with its own server process, a TFLite model and a data collection.

The model is `tiny_tflite`'s: COVID-19 is sigmoid(4 r - 2), r the mean grey of the slice divided by 255. The tests
are skipped where there is no Chromium (Debian's package `chromium`).
"""

import csv
import io
import math
import zipfile

import pytest
import tiny_tflite
from page_process import collecting_page
from playwright.sync_api import expect

from ladnn_tf.card import ScoreBin
from ladnn_tf.data.manifest import read_manifest
from ladnn_tf.data.phantom_slice import example_png
from ladnn_tf.data.preprocess import decode, resize
from serving.collection import export as collection_export

BINS = (ScoreBin(0.0, 0.5, 61, 2, (0.009, 0.112)), ScoreBin(0.5, 1.0, 40, 34, (0.709, 0.93)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("page") / "collection"


@pytest.fixture(scope="module")
def address(data):
    """The URL of a page of its own."""
    with collecting_page(data, score_bins=BINS, lesion_targets="positives", threshold=0.25) as address:
        yield address


@pytest.fixture
def visit(chromium, address):
    """A function from the settings of a browser to a page of it, on which nothing may go wrong unseen."""
    contexts, complaints = [], []

    def visit(path="/", **settings):
        contexts.append(chromium.new_context(base_url=address, **settings))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []


def file(name, content, kind="image/png"):
    return {"name": name, "mimeType": kind, "buffer": content}


def upload(page, *files):
    page.set_input_files("#files", list(files))
    page.click("#submit")
    page.wait_for_url("**/diagnose")


def percent():
    """Of COVID-19 in the phantom, as the model has it."""
    grey = resize(decode(example_png()), tiny_tflite.SIZE)[..., 0].mean() / 255.0
    return round(100 / (1 + math.exp(2 - 4 * grey)))


def plain(text):
    """A page's text with plain spaces and hyphens for those at which no line breaks."""
    return text.replace("\u00a0", " ").replace("\u2011", "-")


def has_no_horizontal_scroll(page):
    return page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_one_slice_gets_its_probability_its_evidence_and_its_map(visit):
    page = visit()
    upload(page, file("slice.png", example_png()))
    assert 25 < percent() < 50
    said = plain(page.locator(".said").inner_text())
    assert f"{percent()} %" in said
    assert "threshold of 25 %: called positive" in said
    assert "2 of 61 were COVID-19" in said
    assert "1 to 11 %" in said
    assert page.locator(".lesions li").count() == 5
    assert "For research use only" in page.locator("article").inner_text()


def test_the_slider_and_the_choice_of_the_map_work_by_keyboard(visit):
    page = visit()
    upload(page, file("slice.png", example_png()))
    heat = page.locator("img.heat[data-label=covid]")
    expect(heat).to_be_visible()
    opacity = [heat.evaluate("image => Number(getComputedStyle(image).opacity)")]
    page.focus("input[type=range]")
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
        opacity.append(heat.evaluate("image => Number(getComputedStyle(image).opacity)"))
    assert opacity == sorted(opacity, reverse=True)
    assert opacity[0] > opacity[-1]
    assert plain(page.get_attribute("input[type=range]", "aria-valuetext")) == "45 %"
    page.select_option("select[id^=map-]", "GGO")
    expect(page.locator("img.heat[data-label=GGO]")).to_be_visible()
    expect(heat).to_be_hidden()


def test_a_batch_with_a_corrupt_file_answers_the_others(visit):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("case 7/b.png", example_png())
    page = visit()
    upload(
        page,
        file("a.png", example_png()),
        file("corrupt.png", example_png()[:20_000]),
        file("b.zip", archive.getvalue(), "application/zip"),
        file("noise.txt", b"no picture", "text/plain"),
    )
    rows = page.locator("#results tbody tr")
    texts = {row.split("\t")[1]: row for row in map(plain, rows.all_inner_texts())}
    assert set(texts) == {"a.png", "corrupt.png", "b.zip/case 7/b.png", "noise.txt"}
    for name in ("a.png", "b.zip/case 7/b.png"):
        assert f"{percent()} %" in texts[name]
    for name in ("corrupt.png", "noise.txt"):
        assert "not analysed" in texts[name]
        assert "%" not in texts[name]

    header = page.locator("#results thead th", has_text="File")
    header.locator("button").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    files = page.locator("#results tbody th").all_inner_texts()
    assert files == ["noise.txt", "corrupt.png", "b.zip/case 7/b.png", "a.png"]

    with page.expect_download() as download:
        page.click("a[download]")
    with open(download.value.path(), encoding="utf-8-sig", newline="") as opened:
        table = {row["file"]: row for row in csv.DictReader(opened)}
    assert table["a.png"]["covid"] == table["b.zip/case 7/b.png"]["covid"]
    assert round(100 * float(table["a.png"]["covid"])) == percent()
    assert (table["corrupt.png"]["state"], table["corrupt.png"]["covid"]) == ("error", "")


def test_contributions_are_stored_without_corners_and_read_as_a_manifest(visit, data, tmp_path):
    page = visit("/contribute")
    page.set_input_files("#files", [file("slice.png", example_png())])
    expect(page.locator("#preview-images canvas")).to_have_count(1)
    page.check("[name=corner] >> nth=0")
    page.fill("#corner_percent", "20")
    page.select_option("#covid", "yes")
    page.select_option("#lesion_GGO", "present")
    page.click("#submit")
    assert page.url.endswith("/contribute")  # the browser asks for the consent first
    assert page.evaluate("document.querySelector('#agree').validity.valueMissing")
    page.check("#agree")
    page.click("#submit")
    receipt = page.locator(".receipt").inner_text()

    manifest = tmp_path / "site.csv"
    assert collection_export.main(["export", f"--data={data}", f"--out={manifest}"]) == 0
    row = read_manifest(manifest).iloc[0]
    assert (row["covid"], row["GGO"], row["Csld"] == row["Csld"]) == (1, 1.0, False)
    stored, sent = decode((tmp_path / row["path"]).read_bytes()), decode(example_png())
    assert (stored[:64, :64] == 0).all()  # 20 % of 320
    assert (stored[64:, 64:] == sent[64:, 64:]).all()

    page.goto("/contribute")
    page.fill("#receipt", receipt)
    page.click("form[action$=withdraw] button")
    expect(page.locator(".done")).to_be_visible()
    assert list(data.rglob("*.png")) == []


def test_a_chinese_browser_gets_chinese_and_can_choose_english(visit):
    page = visit(locale="zh-CN")
    assert page.get_attribute("html", "lang").startswith("zh")
    upload(page, file("slice.png", example_png()), file("x.txt", b"no picture", "text/plain"))
    text = page.inner_text("main")
    for lesion in ("磨玻璃影", "实变", "铺路石征", "空气支气管征", "小叶间隔增厚"):
        assert lesion in text
    page.goto("/?lang=en")
    assert page.get_attribute("html", "lang") == "en"


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_nothing_scrolls_sideways_on_a_phone(visit, locale):
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True, locale=locale)
    assert has_no_horizontal_scroll(page)
    upload(page, file("slice.png", example_png()), file("n" * 120 + ".txt", b"no picture", "text/plain"))
    assert page.locator("article").count() == 2
    assert has_no_horizontal_scroll(page)
    page.goto("/contribute")
    assert has_no_horizontal_scroll(page)


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_a_phone_shows_file_answer_and_probability_without_scrolling(visit, locale):
    page = visit(viewport={"width": 360, "height": 740}, locale=locale)
    name = "2019-novel-Coronavirus-severe-adult-respiratory-distress-p3-89%0.png"
    upload(page, file(name, example_png()), file("x.txt", b"no picture", "text/plain"))
    assert page.evaluate("(scroll => scroll.scrollWidth <= scroll.clientWidth)(document.querySelector('.scroll'))")
    row = page.locator("#results tbody tr").first
    for cell in (row.locator("th.file"), row.locator("td.answer"), row.locator("td.number:not(.place, .lesion)")):
        expect(cell).to_be_visible()
    expect(row.locator("td.lesion").first).to_be_hidden()
    expect(page.locator(".below")).to_be_visible()
    page.set_viewport_size({"width": 1280, "height": 740})
    expect(row.locator("td.lesion").first).to_be_visible()
    expect(page.locator(".below")).to_be_hidden()


def test_without_javascript_a_slice_is_answered(visit):
    page = visit(java_script_enabled=False)
    upload(page, file("slice.png", example_png()))
    assert f"{percent()} %" in plain(page.locator(".said").inner_text())
