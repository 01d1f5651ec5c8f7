"""A series in a real Chromium: dropped as DICOM on a page with its own process and a TFLite model.

The model is `tiny_tflite`'s. The tests are skipped where there is no Chromium (Debian's package `chromium`).
"""

import csv
import http.client
import json
import re

import pytest
import tiny_tflite
from playwright.sync_api import expect
from series_files import IDENTIFYING, SAYINGS, changed

from benchmarks.server_process import HOST, free_port, running, status_of
from ladnn_tf.data.phantom_volume import phantom_volume

pytest.importorskip("pydicom")

SLICES = 18


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """DICOM files without endings, as on a hospital's CD, of somebody with a name; and a file that is no image."""
    from ladnn_tf.data.dicom_writer import write_series

    made = tmp_path_factory.mktemp("cd") / "CT"
    hu, spacing_mm, _ = phantom_volume(slices=SLICES, size=64, seed=1)
    for number, path in enumerate(write_series(hu, spacing_mm, made)):
        path.with_name(f"IM{number:03d}").write_bytes(changed(path.read_bytes(), **IDENTIFYING))
        path.unlink()
    (made / "README").write_text("no image")
    return made


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The URL of a page of its own, its log and the folder for its series."""
    base = tmp_path_factory.mktemp("page")
    model = tiny_tflite.write_model(base / "tiny.tflite", threshold=0.3)
    (base / "series").mkdir()
    port = free_port()
    arguments = [f"--model={model}", f"--port={port}", f"--series_folder={base / 'series'}"]
    arguments.append(f"--audit_log={base / 'audit.jsonl'}")
    with running("the page", "serving.webapp", arguments, lambda: status_of(port, "/readyz") == 200) as server:
        yield f"http://{HOST}:{port}", server, base
    assert list((base / "series").iterdir()) == []


@pytest.fixture
def visit(chromium, page):
    """A function from the settings of a browser to a page of it, on which nothing may go wrong unseen."""
    contexts, complaints = [], []

    def visit(**settings):
        contexts.append(chromium.new_context(base_url=page[0], **settings))
        opened = contexts[-1].new_page()
        opened.set_default_timeout(30_000)
        opened.on("console", lambda message: complaints.append(message.text))
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.goto("/")
        return opened

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []


def test_a_folder_of_dicom_without_endings_is_answered_for_the_person(visit, page, folder):
    opened = visit()
    opened.set_input_files("#folder", str(folder))
    expect(opened.locator("#chosen-files li")).to_have_count(SLICES)
    assert "1 other file in the folder is no image and no DICOM" in opened.inner_text("#status")
    assert opened.locator(".complaint").count() == 0
    opened.click("#submit")
    opened.wait_for_url("**/diagnose")
    article = opened.locator("article")
    assert article.count() == 1
    assert article.locator("h2").inner_text() == "CT, series 1"
    assert article.locator(".suspects img:not(.heat)").count() == 3
    expect(article.locator(".call")).to_have_text("Called positive")
    heat = article.locator("img.heat").nth(2)
    opened.focus("input[type=range]")
    opened.keyboard.press("ArrowLeft")
    assert heat.evaluate("image => Number(getComputedStyle(image).opacity)") == pytest.approx(0.6)
    article.locator("summary").click()
    expect(article.locator("details tbody tr")).to_have_count(15)
    with opened.expect_download() as download:
        opened.click("a[download]")
    with open(download.value.path(), encoding="utf-8-sig", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["file"], row["state"], row["slices"]) == ("CT, series 1", "answered", str(SLICES))
    shown = re.sub(r'"data:[^"]+"', "", opened.content())
    told = shown + page[1].log() + (page[2] / "audit.jsonl").read_text() + json.dumps(row)
    for value in SAYINGS:
        assert value not in told


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_a_series_on_a_phone_scrolls_in_one_direction_only(visit, folder, locale):
    opened = visit(viewport={"width": 360, "height": 740}, has_touch=True, locale=locale)
    opened.set_input_files("#files", [str(path) for path in sorted(folder.glob("IM*"))])
    opened.click("#submit")
    opened.wait_for_url("**/diagnose")
    assert opened.get_attribute("html", "lang").startswith(locale[:2])
    opened.locator("summary").click()
    assert opened.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    widths = opened.locator(".suspects img:not(.heat)").evaluate_all("images => images.map(image => image.width)")
    assert len(widths) == 3
    assert all(200 < width < 360 for width in widths)


def test_pictures_are_one_person_where_the_box_is_ticked(visit, folder):
    from ladnn_tf.data.preprocess import encode_png
    from ladnn_tf.data.volumes import read_series

    (volume,) = read_series(folder)
    pictures = [
        {"name": f"{number}.png", "mimeType": "image/png", "buffer": encode_png(volume.pixels(number))}
        for number in range(4, 10)
    ]
    opened = visit()
    opened.set_input_files("#files", pictures)
    opened.get_by_label("The images are slices of one person").check()
    opened.click("#submit")
    opened.wait_for_url("**/diagnose")
    assert opened.locator("article").count() == 1
    assert "6 slices were read" in opened.inner_text("article")
    assert "not in Hounsfield units" in opened.inner_text("article")


def test_a_client_that_hangs_up_leaves_no_file(page, folder):
    """The connection is closed as soon as the upload is sent; the page ends with an empty folder (see `page`)."""
    cut = "cut"
    body = b"".join(
        f'--{cut}\r\nContent-Disposition: form-data; name="files"; filename="{path.name}"\r\n\r\n'.encode()
        + path.read_bytes()
        + b"\r\n"
        for path in sorted(folder.glob("IM*"))
    )
    connection = http.client.HTTPConnection(page[0].removeprefix("http://"))
    headers = {"Content-Type": f"multipart/form-data; boundary={cut}"}
    connection.request("POST", "/diagnose", body + f"--{cut}--\r\n".encode(), headers)
    connection.close()
    assert status_of(int(page[0].rpartition(":")[2]), "/healthz") == 200
