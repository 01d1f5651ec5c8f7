"""The altered slices: what is gone, and what must not be touched."""

import numpy as np
import pytest
from test_lung_hulls import drawn_slice

from ladnn_tf.data import preprocess
from ladnn_tf.data.alterations import ALTERATIONS, COMMON_SIZE, common_resolution
from ladnn_tf.data.lung_hulls import NoLungsError, lung_mask


@pytest.fixture
def pixels():
    """A slice of 120 pixels with noise, so that every pixel says something."""
    drawn, _ = drawn_slice((120, 120))
    noise = np.random.default_rng(1).integers(-9, 10, drawn.shape)
    brighter_below = np.linspace(-30, 30, 120)[:, None, None]
    return np.clip(drawn + noise + brighter_below, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", ALTERATIONS)
def test_shape_and_type_stay_and_the_original_is_not_touched(name, pixels):
    before = pixels.copy()
    altered = ALTERATIONS[name](pixels)
    assert altered.shape == pixels.shape
    assert altered.dtype == np.uint8
    assert (pixels == before).all()
    assert (altered != pixels).any()


def test_nothing_inside_the_lungs_changes_a_slice_without_them(pixels):
    """A slice with an opacity and the same without become one."""
    mask = lung_mask(pixels)
    other = pixels.copy()
    other[45:70, 28:40] = 230
    assert (lung_mask(other) == mask).all()
    for name in ("lungs erased", "only the border"):
        altered = ALTERATIONS[name](pixels)
        assert (altered == ALTERATIONS[name](other)).all()
        assert len(np.unique(altered[mask], axis=0)) == 1
    assert (ALTERATIONS["only the lungs"](pixels) != ALTERATIONS["only the lungs"](other)).any()


def test_lungs_erased_leaves_the_rest_and_fills_with_tissue(pixels):
    mask = lung_mask(pixels)
    altered = ALTERATIONS["lungs erased"](pixels)
    assert (altered[~mask] == pixels[~mask]).all()
    assert np.abs(altered[mask].astype(int) - 200).max() <= 12


def test_only_the_lungs_is_the_counterpart(pixels):
    mask = lung_mask(pixels)
    altered = ALTERATIONS["only the lungs"](pixels)
    assert (altered[mask] == pixels[mask]).all()
    assert (altered[~mask] == 128).all()


def test_the_border_is_a_tenth_of_the_side(pixels):
    altered = ALTERATIONS["only the border"](pixels)
    assert (altered[12:-12, 12:-12] == 128).all()
    assert (altered[:12] == pixels[:12]).all()
    assert (altered[:, -12:] == pixels[:, -12:]).all()


def test_lungs_that_reach_into_the_border_are_not_left_there():
    drawn, lungs = drawn_slice((180, 240))
    cropped = preprocess.resize(drawn[30:150, 45:195], 120)
    kept = preprocess.resize(np.repeat(lungs[30:150, 45:195, None] * np.uint8(255), 3, axis=2), 120)[..., 0] > 250
    assert kept[:, :12].any()
    assert (ALTERATIONS["only the border"](cropped)[kept] == 128).all()


def test_the_corners_are_black_and_nothing_else(pixels):
    changed = (ALTERATIONS["corners erased"](np.maximum(pixels, 1)) == 0).all(axis=2)
    expected = np.zeros((120, 120), bool)
    for rows in (slice(0, 20), slice(100, 120)):
        for columns in (slice(0, 20), slice(100, 120)):
            expected[rows, columns] = True
    assert (changed == expected).all()


@pytest.mark.parametrize("name", ["lungs erased", "only the lungs", "only the border"])
def test_without_lungs_there_is_nothing_to_erase(name):
    with pytest.raises(NoLungsError):
        ALTERATIONS[name](np.zeros((64, 64, 3), np.uint8))


def test_at_one_resolution_fine_detail_is_gone_and_grey_stays():
    """Stripes of one pixel, as a sharp original has, become even; a coarse gradient stays."""
    stripes = np.zeros((480, 480, 3), np.uint8)
    stripes[:, ::2] = 200
    middle = common_resolution(stripes, 128)[8:-8, 8:-8]
    assert middle.min() >= 95
    assert middle.max() <= 105
    gradient = np.repeat(np.linspace(0, 255, 480).astype(np.uint8)[:, None, None], 3, axis=2).repeat(480, axis=1)
    assert np.abs(common_resolution(gradient, 128).astype(int) - preprocess.resize(gradient, 128)).max() <= 2


def test_two_resolutions_of_one_slice_come_close():
    """480 and 240 pixels of the same slice differ at the network's size, hardly after the common one."""
    sharp = np.random.default_rng(0).integers(0, 256, (480, 480, 3)).astype(np.uint8)
    dull = preprocess.resize(sharp, 2 * COMMON_SIZE)
    plain = np.abs(preprocess.resize(sharp, 224).astype(float) - preprocess.resize(dull, 224)).mean()
    common = np.abs(common_resolution(sharp, 224).astype(float) - common_resolution(dull, 224)).mean()
    assert common < plain / 2
