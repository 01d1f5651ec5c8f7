"""The lung mask: on a drawn slice whose lungs are known, on phantoms, and on pictures without lungs."""

import numpy as np
import pytest
from PIL import Image

from ladnn_tf.data import preprocess
from ladnn_tf.data.lung_hulls import NoLungsError, lung_mask


def ellipse(shape, centre, radii):
    """`(H, W)` bool; centre and radii (row, column) as shares of height and width."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    (y, x), (dy, dx) = centre, radii
    return ((rows / shape[0] - y) / dy) ** 2 + ((columns / shape[1] - x) / dx) ** 2 <= 1


def drawn_slice(shape=(180, 240), air=40, lung=60, tissue=200):
    """A body with two lungs in grey levels, and the mask of the lungs."""
    grey = np.full(shape, air)
    grey[ellipse(shape, (0.5, 0.5), (0.42, 0.46))] = tissue
    lungs = ellipse(shape, (0.48, 0.28), (0.28, 0.14)) | ellipse(shape, (0.48, 0.72), (0.28, 0.14))
    grey[lungs] = lung
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8), lungs


def covered(mask, lungs):
    return (mask & lungs).sum() / lungs.sum()


@pytest.mark.parametrize(
    "levels",
    [
        pytest.param({}, id="lung window"),
        pytest.param({"air": 0, "lung": 0, "tissue": 120}, id="soft tissue"),
        pytest.param({"air": 0, "lung": 30, "tissue": 90}, id="dark"),
        pytest.param({"air": 60, "lung": 110, "tissue": 255}, id="bright"),
    ],
)
def test_both_lungs_are_covered_in_any_window_and_the_wall_stays(levels):
    pixels, lungs = drawn_slice(**levels)
    mask = lung_mask(pixels)
    assert mask.shape == lungs.shape
    assert mask.dtype == bool
    assert covered(mask, lungs) > 0.99
    assert (mask & ~lungs).sum() < 0.3 * lungs.sum()
    assert not mask[:, :10].any()  # the chest wall and the air beside the body
    assert not mask[:10].any()


def test_the_middle_stays():
    pixels, _ = drawn_slice()
    assert not lung_mask(pixels)[40:140, 115:125].any()


def test_an_opacity_as_bright_as_tissue_is_covered():
    """Those within both lungs by the hulls, one at the outside of one lung by the other lung's mirror image."""
    pixels, lungs = drawn_slice()
    inside = ellipse(lungs.shape, (0.5, 0.28), (0.1, 0.05)) | ellipse(lungs.shape, (0.5, 0.72), (0.1, 0.05))
    outside = lungs & (np.arange(240) > 190) & (np.arange(180) > 90)[:, None]
    pixels[inside | outside] = 200
    mask = lung_mask(pixels)
    assert mask[inside].all()
    assert covered(mask, outside) > 0.98


def test_hidden_lungs_are_found_in_a_cropped_slice():
    """Both lungs touch the border: the body has no outline."""
    pixels, lungs = drawn_slice()
    crop = np.s_[30:150, 45:195]
    assert lungs[crop][:, 0].any()
    mask = lung_mask(np.ascontiguousarray(pixels[crop]))
    assert covered(mask, lungs[crop]) > 0.97
    assert mask.mean() < 0.75


def test_a_white_frame_and_letters_change_little():
    pixels, lungs = drawn_slice()
    plain = lung_mask(pixels)
    pixels[5:25, 5:20] = 255
    framed = np.pad(pixels, ((6, 6), (6, 6), (0, 0)), constant_values=255)
    mask = lung_mask(framed)[6:-6, 6:-6]
    assert (mask ^ plain).sum() < 0.03 * lungs.sum()


def test_air_around_the_body_is_no_lung():
    pixels, lungs = drawn_slice()
    pixels[lungs] = 200
    with pytest.raises(NoLungsError, match="of the body"):
        lung_mask(pixels)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_empty_picture_has_no_lungs(level):
    with pytest.raises(NoLungsError):
        lung_mask(np.full((64, 64, 3), level, np.uint8))


def test_on_phantoms(phantoms):
    """Against the drawn truth, lesions included."""
    masks = sorted((phantoms / "masks" / "lung").glob("*.png"))[::4]
    assert len(masks) > 10
    shares, outside = [], []
    for path in masks:
        (image,) = (phantoms / "images").glob(f"*/{path.stem}.*")
        truth = np.asarray(Image.open(path)) > 0
        mask = lung_mask(preprocess.decode(image.read_bytes()))
        shares.append(covered(mask, truth))
        outside.append((mask & ~truth).mean())
    assert min(shares) > 0.9
    assert np.median(shares) > 0.98
    assert np.median(outside) < 0.2
    assert max(outside) < 0.45


def test_real_slices(shared_data):
    """Some COVID-CT slices: a plausible area, on both sides."""
    paths = sorted((shared_data / "covid-ct" / "images").glob("*/*"))[::60]
    for path in paths:
        mask = lung_mask(preprocess.read_image(path, 224))
        assert 0.05 < mask.mean() < 0.95, path.name
        assert min(mask[:, :112].mean(), mask[:, 112:].mean()) > 0.02, path.name
