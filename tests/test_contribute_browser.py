"""The preview of a contribution in a real Chromium shows what the server stores; skipped where there is none."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from page_process import collecting_page
from PIL import Image
from playwright.sync_api import expect

from ladnn_tf.data.phantom_slice import example_png
from ladnn_tf.data.preprocess import decode, encode_png

WIDTH, HEIGHT = 250, 190
EDGE = 2  # pixels of the dashed edge, which is in the preview alone
PIXELS = """canvas => {
  const context = canvas.getContext("2d");
  return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
}"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("page") / "collection"


@pytest.fixture(scope="module")
def browser(chromium, data):
    """A browser with the address of a page of its own."""
    with collecting_page(data) as address, chromium.new_context(base_url=address) as context:
        yield context


@pytest.fixture
def form(browser):
    page = browser.new_page()
    page.set_default_timeout(20_000)
    page.goto("/contribute")
    yield page
    page.close()


def choose(page, content):
    """Chooses a file, and returns the canvas of its preview."""
    page.set_input_files("#files", [{"name": "slice.png", "mimeType": "image/png", "buffer": content}])
    expect(page.locator("#preview-images canvas")).to_have_count(1)
    return page.locator("#preview-images canvas")


def shown(canvas):
    """The pixels of a preview, (H, W, 3) uint8."""
    height, width = (int(canvas.get_attribute(name)) for name in ("height", "width"))
    return np.array(canvas.evaluate(PIXELS), np.uint8).reshape(height, width, 4)[..., :3]


def stored_after_submit(page, data):
    """The pixels that the server stores, which are withdrawn again."""
    page.check("#agree")
    page.click("#submit")
    receipt = page.locator(".receipt").inner_text()
    (path,) = data.rglob("*.png")
    pixels = decode(path.read_bytes())
    page.goto("/contribute")
    page.fill("#receipt", receipt)
    page.click("form[action$=withdraw] button")
    expect(page.locator(".done")).to_be_visible()
    return pixels


def slice_of(width, height):
    """A phantom slice of this size without any black pixel, so that what is black was erased."""
    picture = Image.open(io.BytesIO(example_png())).convert("L").resize((width, height))
    return np.clip(np.asarray(picture), 1, 255)


def test_the_erased_corners_of_the_preview_are_those_that_the_server_stores_black(form, data):
    canvas = choose(form, encode_png(slice_of(WIDTH, HEIGHT)))
    form.check("#top_left")
    form.check("#bottom_right")
    form.fill("#corner_percent", "7")
    preview = shown(canvas)
    stored = stored_after_submit(form, data)
    # 7 % of 250 columns are 17.5, so 18; of 190 rows 13.3, so 14.
    black = np.zeros((HEIGHT, WIDTH), bool)
    black[:14, :18] = black[176:, 232:] = True
    assert ((stored == 0).all(axis=-1) == black).all()
    assert (preview[~black] == stored[~black]).all()
    inside = np.zeros_like(black)
    inside[EDGE : 14 - EDGE, EDGE : 18 - EDGE] = inside[176 + EDGE : -EDGE, 232 + EDGE : -EDGE] = True
    assert (preview[inside] == 0).all()
    assert (preview[black & ~inside] == (0xE6, 0x9F, 0x00)).all(axis=-1).any()  # the dashed edge


def test_the_preview_does_not_believe_a_file_about_its_colours(form, data):
    # By its gamma of 4, 100 would be shown as 38; the server stores 100.
    png = encode_png(slice_of(WIDTH, HEIGHT))
    kind, gamma = b"gAMA", struct.pack(">I", 400_000)
    chunk = struct.pack(">I", len(gamma)) + kind + gamma + struct.pack(">I", zlib.crc32(kind + gamma))
    preview = shown(choose(form, png[:33] + chunk + png[33:]))  # behind the header's 8 + 25 bytes
    assert (preview == stored_after_submit(form, data)).all()


def test_what_the_preview_cannot_show_is_refused(form, data):
    pixels = slice_of(WIDTH, HEIGHT)
    alpha = np.full_like(pixels, 255)
    pixels[20:30, 20:90], alpha[20:30, 20:90] = 255, 0  # a name, rubbed out
    content = io.BytesIO()
    Image.fromarray(np.dstack([pixels, alpha])).save(content, "PNG")
    preview = shown(choose(form, content.getvalue()))
    assert (preview[20:30, 20:90] == 0).all()
    form.check("#agree")
    form.click("#submit")
    expect(form.locator("#problems")).to_have_text(re.compile("slice.png: has transparent parts"))
    assert list(data.rglob("*.png")) == []
