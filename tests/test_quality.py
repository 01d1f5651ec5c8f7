"""What is taken for a chest-CT slice, and what is refused with which reason."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from ladnn_tf.data.preprocess import decode
from ladnn_tf.data.quality import refusal

COLOURED = ["astronaut", "cat", "coffee", "colorwheel", "immunohistochemistry", "logo", "retina", "rocket"]
GREY = ["brick", "camera", "clock", "coins", "grass", "gravel", "hubble_deep_field", "moon", "page"]


def rgb(values):
    return np.repeat(np.clip(values, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def grey(pixels):
    return rgb(np.asarray(Image.fromarray(pixels).convert("L")))


def in_grey(name):
    pixels = getattr(data, name)()
    return rgb(pixels) if pixels.ndim == 2 else grey(np.ascontiguousarray(pixels[..., :3]))


def ellipses(side, *shapes):
    """Draws (centre x, centre y, half width, half height, grey) over black, in shares of the half side."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    values = np.zeros((side, side))
    for centre_x, centre_y, half_width, half_height, shade in shapes:
        values[((x - centre_x) / half_width) ** 2 + ((y - centre_y) / half_height) ** 2 < 1] = shade
    return values


def chest(side=256, lung=60):
    """A drawn chest: a body wider than tall, two lungs, a heart between them, and noise as of a scanner."""
    lungs = ((-0.45, 0.0, 0.3, 0.45, lung), (0.45, 0.0, 0.3, 0.45, lung), (0.1, -0.1, 0.25, 0.28, 210))
    drawn = ellipses(side, (0, 0, 0.95, 0.7, 200), *lungs, (0, 0.45, 0.12, 0.12, 250))
    return rgb(drawn + np.random.default_rng(0).normal(0, 12, drawn.shape))


def head(window, ventricles=True):
    brain = [(0, 0, 0.66, 0.82, 255), (0, 0, 0.58, 0.74, window)]
    dark = [(-0.1, -0.1, 0.07, 0.25, window - 60), (0.1, -0.1, 0.07, 0.25, window - 60)] if ventricles else []
    drawn = ellipses(256, *brain, *dark)
    return rgb(drawn + np.random.default_rng(0).normal(0, 6, drawn.shape))


@pytest.fixture(scope="module")
def slices(shared_data):
    """Every fifth of the real ones."""
    paths = sorted((shared_data / "covid-ct" / "images").rglob("*.*"))[::5]
    return [decode(path.read_bytes()) for path in paths]


def with_frame(picture, rows, columns, shade):
    """A frame of such shares of the picture's height above and below, and of its width on the left and right."""
    height, width = round(rows * picture.shape[0]), round(columns * picture.shape[1])
    return np.pad(picture, ((height, height), (width, width), (0, 0)), constant_values=shade)


def refused(pictures):
    return [bool(refusal(picture)) for picture in pictures]


@pytest.mark.parametrize("side", [32, 64, 256, 1200])
def test_a_drawn_chest_passes_at_any_size(side):
    picture = Image.fromarray(chest()).resize((side, side), Image.Resampling.BILINEAR)
    assert refusal(np.asarray(picture)) == ""


@pytest.mark.parametrize("shade", [0, 255])
def test_a_frame_around_a_chest_changes_nothing(shade):
    assert refusal(np.pad(chest()[40:216], ((40, 40), (60, 60), (0, 0)), constant_values=shade)) == ""


def test_a_frame_around_lungs_cut_at_their_sides_is_no_air():
    cut = chest()[60:200, 60:196]  # each lung has lost its outer third
    assert refusal(cut) == ""
    assert refusal(np.pad(cut, ((20, 20), (20, 20), (0, 0)))) == ""


def test_a_round_field_of_view_is_no_body():
    seen = ellipses(256, (0, 0, 0.99, 0.99, 1)) > 0
    grey_levels = 90 + chest(lung=0)[..., 0] * 0.4  # air is grey within the circle, and black without
    assert refusal(rgb(np.where(seen, grey_levels, 0))) == ""


def test_a_soft_tissue_window_passes():
    """Bright organs part from all else there; the lungs show at the threshold below."""
    organs = ((0.0, -0.1, 0.14, 0.5, 255), (0, 0.45, 0.2, 0.2, 255), (0, -0.2, 0.2, 0.3, 255))
    lungs = ((-0.45, 0.0, 0.3, 0.45, 0), (0.45, 0.0, 0.3, 0.45, 0))
    drawn = ellipses(256, (0, 0, 0.95, 0.8, 60), *lungs, *organs)
    assert refusal(rgb(drawn + np.random.default_rng(0).normal(0, 8, drawn.shape))) == ""


def test_phantoms_pass_at_64_and_32_pixels(phantoms):
    pictures = [decode(path.read_bytes()) for path in sorted((phantoms / "images").rglob("*.*"))[::2]]
    assert len(pictures) > 25
    for side in (64, 32):
        small = [np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.BILINEAR)) for p in pictures]
        assert np.mean(refused(small)) <= 0.02


def test_of_a_hundred_real_slices_two_are_refused_at_most_and_inverted_ones_all_but_two(slices):
    assert len(slices) == 150
    assert sum(refused(slices)) <= 3
    assert sum(refused([255 - picture for picture in slices[::2]])) >= 74


@pytest.mark.parametrize(("rows", "columns", "shade"), [(0.25, 0.25, 0), (0.5, 0, 0), (0.25, 0.25, 255)])
def test_wide_frames_around_real_slices_change_little(slices, rows, columns, shade):
    assert sum(refused([with_frame(picture, rows, columns, shade) for picture in slices[::3]])) <= 2


@pytest.mark.parametrize("name", COLOURED)
def test_photographs_in_colour_are_called_coloured(name):
    assert refusal(getattr(data, name)()[..., :3]).startswith("in colour")


@pytest.mark.parametrize("name", [*COLOURED, *GREY])
def test_photographs_in_grey_are_refused(name):
    assert refusal(in_grey(name))


def test_burned_in_arrows_in_colour_are_no_reason():
    picture = Image.fromarray(chest())
    ImageDraw.Draw(picture).rectangle((60, 110, 110, 150), outline=(255, 0, 0), width=4)
    assert refusal(np.asarray(picture)) == ""


def test_text_is_refused():
    for size, ink in ((14, 0), (14, 255), (40, 0)):
        page = Image.new("RGB", (512, 400), (255 - ink,) * 3)
        for line in range(10, 380, round(size * 1.3)):
            ImageDraw.Draw(page).text(
                (20, line),
                "Ground-glass opacity in both lungs, " * 3,
                fill=(ink,) * 3,
                font=ImageFont.load_default(size),
            )
        assert refusal(np.asarray(page))


@pytest.mark.parametrize("side", [32, 224, 900])
def test_noise_is_refused(side):
    random = np.random.default_rng(side)
    assert refusal(rgb(random.integers(0, 256, (64, 64)))).startswith("noise")
    assert refusal(rgb(random.integers(0, 256, (side, side))))
    assert refusal(random.integers(0, 256, (side, side, 3)).astype(np.uint8))
    assert refusal(rgb(random.normal(128, 40, (side, side))))


def test_clouds_do_not_part_into_dark_and_bright():
    coarse = Image.fromarray(np.random.default_rng(1).normal(128, 50, (12, 12)).astype(np.float32))
    clouds = np.asarray(coarse.resize((256, 256), Image.Resampling.BICUBIC))
    assert "do not part" in refusal(rgb(clouds + np.random.default_rng(2).normal(0, 9, clouds.shape)))


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_blank_is_refused(shade):
    assert refusal(np.full((300, 200, 3), shade, np.uint8)).startswith("hardly any contrast")
    assert refusal(np.full((32, 32, 3), shade, np.uint8)).startswith("hardly any contrast")


def test_pictures_too_small_to_be_judged_are_refused():
    small = np.asarray(Image.fromarray(chest()).resize((32, 31), Image.Resampling.BILINEAR))
    assert refusal(small) == "too small: 32 x 31 pixels; at least 32 x 32 can be judged"
    assert refusal(np.zeros((1, 1, 3), np.uint8)).startswith("too small")


def test_twelve_bits_in_sixteen_are_named_as_a_cause():
    full = chest()[..., 0] * (65535 / 255)
    encoded = io.BytesIO()
    Image.fromarray((full / 16).astype(np.uint16)).save(encoded, "PNG")
    assert refusal(decode(encoded.getvalue())).endswith(
        "; if this is a 16-bit file with 12-bit values, rescale it to the full range"
    )
    for other in (np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 90, np.uint8)):
        assert "12-bit" not in refusal(other)


def test_plain_shapes_are_refused():
    ramp = np.tile(np.linspace(0, 255, 256), (256, 1))
    assert refusal(rgb(ramp)).startswith("too smooth")
    square = np.pad(np.full((100, 100), 255), 78)  # nothing but one value is left once the frame is off
    for values in (ramp, ramp.T, square, 255 - square, ellipses(256, (0, 0, 0.6, 0.6, 255))):
        assert refusal(rgb(values))


def test_an_inverted_chest_is_called_so():
    assert "inverted" in refusal(255 - chest(lung=20))


@pytest.mark.parametrize(("window", "ventricles"), [(120, True), (120, False), (190, True), (60, False)])
def test_heads_are_refused(window, ventricles):
    assert refusal(head(window, ventricles))


@pytest.mark.parametrize("brightness", [255, 640])
def test_the_head_of_shepp_and_logan_is_refused(brightness):
    values = data.shepp_logan_phantom()
    assert refusal(rgb(np.rint(brightness * values)))
    assert refusal(rgb(np.rint(brightness * np.pad(values, 60))))


@pytest.mark.parametrize("framed", [False, True])
def test_a_body_that_is_taller_than_wide_is_no_chest(framed):
    # The body has 0.95 by 0.7 of the picture: 1.36 times as wide as tall, and 0.68 times at half the width.
    narrow = np.asarray(Image.fromarray(chest()).resize((128, 256), Image.Resampling.BILINEAR))
    assert "taller than wide" in refusal(np.pad(narrow, ((30, 30), (30, 30), (0, 0))) if framed else narrow)


def test_a_body_without_air_has_no_lung():
    organs = ((-0.3, 0, 0.35, 0.35, 220), (0.45, 0.1, 0.2, 0.25, 215), (0, 0.45, 0.12, 0.12, 250))
    body = ellipses(256, (0, 0, 0.95, 0.7, 170), *organs)
    body += np.random.default_rng(0).normal(0, 40, body.shape)  # else it would be too smooth
    assert refusal(rgb(body)).startswith("no dark region inside a bright body")


def test_a_chest_on_its_side_is_refused():
    assert refusal(np.ascontiguousarray(np.rot90(chest())))


def test_large_pictures_are_shrunk_in_strips_with_the_same_result(monkeypatch):
    from ladnn_tf.data import quality

    picture = np.random.default_rng(0).integers(0, 256, (700, 530, 3)).astype(np.uint8)
    whole = quality._shrunk(picture)
    assert whole.shape == (140, 133, 3)  # blocks of 700 // 128 = 5 rows and 530 // 128 = 4 columns, and 2 over
    monkeypatch.setattr(quality, "_STRIP", 5000)
    np.testing.assert_array_equal(quality._shrunk(picture), whole)


@pytest.mark.parametrize("wrong", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)])
def test_other_arrays_are_an_error(wrong):
    with pytest.raises(ValueError, match=r"expected \(H, W, 3\) uint8"):
        refusal(wrong)


def non_slices():
    """Of every kind of this file that is no slice, and other pictures of scikit-image."""
    random = np.random.default_rng(5)
    photographs = [getattr(data, name)()[..., :3] for name in COLOURED]
    greys = [in_grey(name) for name in [*COLOURED, *GREY]]
    others = [
        data.horse() * 255.0,
        data.checkerboard(),
        data.text(),
        data.microaneurysms(),
        data.binary_blobs() * 255.0,
    ]
    ramp = np.tile(np.linspace(0, 255, 256), (256, 1))
    shapes = [ramp, ramp.T, np.pad(np.full((100, 100), 255), 78), ellipses(256, (0, 0, 0.6, 0.6, 255))]
    noise = [random.integers(0, 256, (side, side)) for side in (32, 224, 900)]
    blank = [np.full((300, 200), shade) for shade in (0, 128, 255)]
    shepp_logan = [brightness * data.shepp_logan_phantom() for brightness in (255, 640)]
    heads = [head(window, ventricles) for window in (60, 120, 190) for ventricles in (True, False)]
    chests = [255 - chest(), np.ascontiguousarray(np.rot90(chest()))]
    drawn = [rgb(values) for values in [*others, *shapes, *noise, *blank, *shepp_logan]]
    return [*photographs, *greys, *drawn, *heads, *chests]


@pytest.mark.parametrize("frame", [0.0, 0.25])
def test_of_all_that_is_no_slice_19_in_20_are_refused(frame):
    pictures = non_slices()
    assert len(pictures) == 50
    assert np.mean(refused([with_frame(picture, frame, frame, 0) for picture in pictures])) >= 0.95


def test_it_needs_numpy_and_pillow_alone():
    code = (
        "import sys; import ladnn_tf.data.quality; "
        "sys.exit(any(name in sys.modules for name in ('scipy', 'skimage', 'absl', 'pandas', 'tensorflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
