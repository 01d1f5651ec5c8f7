"""Lungs: on drawn bodies whose lungs are known, on phantoms, and on slices that have none."""

import math
import re

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from ladnn_tf.data import lungs_sheet
from ladnn_tf.data.lungs import extracted, filled, find_lungs, pseudo_hu
from ladnn_tf.data.phantom_anatomy import sample_patient
from ladnn_tf.data.phantom_slice import draw_slice

AIR, LUNG, TISSUE = -1000, -850, 40
SHAPE = (256, 320)
RIGHT, LEFT = ((0.5, 0.3), (0.27, 0.13)), ((0.5, 0.7), (0.27, 0.13))
BODY = ((0.5, 0.5), (0.4, 0.46))


def ellipse(centre, radii, shape=SHAPE):
    """`(H, W)` bool; centre and radii (row, column) as shares of height and width."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    (y, x), (dy, dx) = centre, radii
    return ((rows / shape[0] - y) / dy) ** 2 + ((columns / shape[1] - x) / dx) ** 2 <= 1


def body(*holes, air=AIR, lung=LUNG, tissue=TISSUE):
    """A body in air, (H, W) float32 HU, with ellipses of lung, and the mask of these."""
    hu = np.full(SHAPE, air, np.float32)
    hu[ellipse(*BODY)] = tissue
    mask = np.zeros(SHAPE, bool)
    for hole in holes:
        mask |= ellipse(*hole)
    hu[mask] = lung
    return hu, mask


def dice(one, two):
    return 2 * (one & two).sum() / (one.sum() + two.sum())


def as_pictures(hu, level, width):
    grey = np.clip((hu - level) / width + 0.5, 0, 1) * 255
    return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)


def test_two_lungs_and_their_share_of_the_body():
    """Ellipses: 2 * 0.27 * 0.13 / (0.4 * 0.46) = 0.3815 of the body, whatever the air around."""
    hu, mask = body(RIGHT, LEFT)
    found = find_lungs(hu)
    assert found.mask.shape == SHAPE
    assert found.mask.dtype == bool
    assert dice(found.mask, mask) > 0.985
    assert found.share == pytest.approx(0.3815, abs=0.01)
    assert (found.regions, found.reason) == (2, "")
    wide = np.pad(hu, 80, constant_values=AIR)
    assert find_lungs(wide).share == pytest.approx(0.3815, abs=0.015)


def test_known_pixel_sizes_need_not_be_square():
    """The same body, each row 1.5 times as high: half the rows at twice the height are the same section."""
    hu, mask = body(RIGHT, LEFT)
    found = find_lungs(hu[::2], (2.4, 1.2))
    assert dice(found.mask, mask[::2]) > 0.97
    assert found.share == pytest.approx(0.3815, abs=0.015)
    assert found.regions == 2


@pytest.mark.parametrize(
    ("level", "width"), [(-600, 1500), (-500, 1200), (-700, 1000), (-250, 700), (40, 400), (-300, 3000)]
)
def test_pictures_in_any_window(level, width):
    """Also where the lungs are as black as air, or tissue is dark, below the fixed threshold."""
    hu, mask = body(RIGHT, LEFT)
    found = find_lungs(pseudo_hu(as_pictures(hu, level, width)))
    assert dice(found.mask, mask) > 0.97
    assert (found.regions, found.reason) == (2, "")


def test_lungs_cut_by_the_border_stay():
    hu, mask = body(RIGHT, LEFT)
    crop = np.s_[50:200, 70:250]
    assert mask[crop][:, 0].any()
    assert mask[crop][:, -1].any()
    for image in (hu[crop], pseudo_hu(as_pictures(hu[crop], -600, 1500))):
        found = find_lungs(image)
        assert dice(found.mask, mask[crop]) > 0.97
        assert found.regions == 2


def test_lungs_cut_by_the_circle_of_the_field_of_view_stay():
    """Both are found, but for what bulges beyond the hull of the tissue that is left (a known limit)."""
    hu, mask = body(RIGHT, LEFT)
    circle = ellipse((0.5, 0.5), (0.45, 0.31))
    hu[~circle] = -2000
    assert (mask & ~circle).any()
    for image in (hu, pseudo_hu(as_pictures(hu, -600, 1500))):
        found = find_lungs(image)
        assert dice(found.mask, mask & circle) > 0.83
        assert found.regions == 2


def test_one_lung_is_kept_if_its_share_suffices():
    hu, mask = body(LEFT)
    found = find_lungs(hu)
    assert dice(found.mask, mask) > 0.98
    assert (found.regions, found.reason) == (1, "")


def test_one_small_lung_is_left_out_with_its_share():
    """0.16 * 0.08 / (0.4 * 0.46) = 7.0 %."""
    found = find_lungs(body(((0.5, 0.7), (0.16, 0.08)))[0])
    assert found.regions == 1
    assert re.fullmatch(
        r"one lung only, (6\.9|7(\.1)?) % of the body section; at least 10 % are needed", found.reason
    )


def test_two_small_lungs_are_left_out_with_their_share():
    """2 * 0.13 * 0.06 / (0.4 * 0.46) = 8.5 %."""
    found = find_lungs(body(((0.5, 0.3), (0.13, 0.06)), ((0.5, 0.7), (0.13, 0.06)))[0])
    assert found.regions == 2
    assert found.reason.startswith("lungs are 8.")
    assert found.share == pytest.approx(0.0848, abs=0.004)


def test_lungs_that_would_fill_the_body_are_not_plausible():
    """0.36 * 0.41 / (0.4 * 0.46) = 80 %."""
    found = find_lungs(body(((0.5, 0.5), (0.36, 0.41)))[0])
    assert found.share == pytest.approx(0.802, abs=0.01)
    assert found.reason.endswith("at most 75 % is plausible")


def test_lungs_joined_in_front_count_as_two_and_the_heart_stays_out():
    hu, mask = body(RIGHT, LEFT)
    bridge = np.zeros(SHAPE, bool)
    bridge[80:90, 110:210] = True
    hu[bridge] = LUNG
    assert ndimage.label(mask | bridge)[1] == 1
    found = find_lungs(hu)
    assert found.regions == 2
    assert dice(found.mask, mask | bridge) > 0.96
    assert not found.mask[110:150, 155:165].any()


def test_lungs_joined_in_front_and_behind_do_not_enclose_the_heart():
    hu, mask = body(RIGHT, LEFT)
    for rows in (slice(80, 88), slice(168, 176)):
        hu[rows, 110:210] = LUNG
    found = find_lungs(hu)
    assert found.regions == 2
    assert not found.mask[110:150, 155:165].any()
    assert (found.mask & mask).sum() > 0.98 * mask.sum()


def test_one_plain_hole_is_not_parted():
    assert find_lungs(body(((0.5, 0.5), (0.25, 0.25)))[0]).regions == 1


def test_no_lungs():
    found = find_lungs(body()[0])
    assert (found.regions, found.share) == (0, 0.0)
    assert found.reason == "no region in the body section is dark and large enough for a lung"


@pytest.mark.parametrize(
    "opacity",
    [
        pytest.param(((0.5, 0.7), (0.06, 0.04)), id="inside"),
        pytest.param(((0.5, 0.83), (0.08, 0.05)), id="at the chest wall"),
        pytest.param(((0.42, 0.7), (0.02, 0.14)), id="a fissure that cuts the lung"),
    ],
)
def test_consolidation_belongs_to_the_lung(opacity):
    hu, mask = body(RIGHT, LEFT)
    dense = ellipse(*opacity) & mask
    hu[dense] = TISSUE
    found = find_lungs(hu)
    assert (found.mask & dense).sum() > 0.85 * dense.sum()
    assert dice(found.mask, mask) > 0.97


def test_the_heart_in_a_hollow_of_the_lung_does_not():
    hu, mask = body(RIGHT, LEFT)
    heart = ellipse((0.5, 0.58), (0.12, 0.1))
    hu[heart] = TISSUE
    assert (heart & mask).sum() > 600
    found = find_lungs(hu)
    assert dice(found.mask, mask & ~heart) > 0.97


def test_ground_glass_beside_aerated_lung_belongs_to_it():
    """-480 HU, and grey 148 in the picture, are above -600, and below what fat and muscle have."""
    hu, mask = body(RIGHT, LEFT)
    glass = mask & (np.arange(SHAPE[0]) > 150)[:, None]
    hu[glass] = -480
    assert dice(find_lungs(hu).mask, mask) > 0.98
    assert dice(find_lungs(pseudo_hu(as_pictures(hu, -600, 1500))).mask, mask) > 0.97


def test_table_clothes_and_letters_are_neither_body_nor_lung():
    hu, mask = body(RIGHT, LEFT)
    wide = np.pad(hu, ((10, 60), (30, 30)), constant_values=AIR)
    expected = np.pad(mask, ((10, 60), (30, 30)))
    wide[238:241, 20:360] = 300  # the table: two shells with air between, the upper one touches the back
    wide[300:303, 20:360] = 300
    wide[5:15, 5:15] = TISSUE
    found = find_lungs(wide)
    assert dice(found.mask, expected) > 0.97
    assert found.share == pytest.approx(0.3815, abs=0.02)


def test_trachea_and_gas_are_no_lungs_in_hu():
    hu, mask = body(RIGHT, LEFT)
    trachea = ellipse((0.5, 0.49), (0.035, 0.03))
    for value in (AIR, -900):  # the latter where the slice is thick
        hu[trachea] = value
        assert not (find_lungs(hu).mask & trachea).any()
    gas, _ = body(RIGHT)
    stomach = ellipse(*LEFT)
    gas[stomach] = -995
    found = find_lungs(gas)
    assert found.regions == 1
    assert not (found.mask & stomach).any()
    assert (found.mask & mask).any()


@pytest.mark.parametrize("angle", [-25, 12, 90, 180])
def test_turned_slices(angle):
    hu, mask = body(RIGHT, LEFT)
    hu = ndimage.rotate(hu, angle, order=1, cval=AIR)
    mask = ndimage.rotate(mask.astype(np.float32), angle, order=1) > 0.5
    found = find_lungs(hu)
    assert dice(found.mask, mask) > 0.97
    assert found.regions == 2


def test_a_white_frame_is_no_body():
    hu, mask = body(RIGHT, LEFT)
    framed = np.pad(as_pictures(hu, -600, 1500), ((8, 8), (8, 8), (0, 0)), constant_values=255)
    found = find_lungs(pseudo_hu(framed))
    assert dice(found.mask, np.pad(mask, 8)) > 0.97
    assert found.share == pytest.approx(0.3815, abs=0.02)


def test_a_white_wall_up_to_the_border_is_no_frame():
    """Lungs cut out of their picture, on white: without the white nothing would be around them."""
    grey = np.where(ellipse((0.5, 0.25), (0.4, 0.2)) | ellipse((0.5, 0.75), (0.4, 0.2)), 60, 255)
    pixels = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    found = find_lungs(pseudo_hu(pixels))
    assert dice(found.mask, grey == 60) > 0.97
    assert (found.regions, found.reason) == (2, "")


@pytest.mark.parametrize(
    ("hu", "reason"),
    [
        (np.full((300, 300), -1000), "no body was found: the picture has hardly any contrast"),
        (np.zeros((300, 300)), "no region in the body section"),
        (np.full((32, 32), -1000), "no body was found"),
        (np.zeros((1, 700)), "700 x 1 pixels; at least 32 x 32 are needed"),
        (np.zeros((600, 31)), "31 x 600 pixels"),
        (np.where(np.arange(300) < 4, 40, -1000) * np.ones((300, 1)), "no body was found: tissue takes up"),
        (np.random.default_rng(0).uniform(-1000, 1000, (64, 900)), "no "),
        (np.random.default_rng(0).uniform(-1e9, 1e9, (64, 64)), "no "),
    ],
    ids=["air", "tissue", "tiny air", "a line", "a strip", "an edge", "noise", "huge numbers"],
)
@pytest.mark.parametrize("pixel_mm", [(math.nan, math.nan), (0.7, 0.7), (1e-9, 1e9), (0, -1)])
def test_whatever_is_shown_there_is_a_reason(hu, reason, pixel_mm):
    found = find_lungs(hu.astype(np.float32), pixel_mm)
    assert found.reason.startswith(reason)
    assert found.mask.shape == hu.shape
    assert not found.mask.any()
    assert (found.regions, found.share) == (0, 0.0)


@pytest.mark.parametrize("shape", [(4,), (0, 40), (40, 40, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"hu should be \(H, W\)"):
        find_lungs(np.zeros(shape, np.float32))


def test_pseudo_hu_is_three_times_the_grey_less_1000():
    pixels = np.array([[[0, 0, 0], [255, 255, 255], [100, 110, 120]]], np.uint8)
    assert pseudo_hu(pixels).tolist() == [[-1000, -235, -670]]
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        pseudo_hu(pixels[0])


PIXELS = np.repeat(np.arange(1, 31, dtype=np.uint8).reshape(5, 6, 1), 3, axis=2)
MASK = np.zeros((5, 6), bool)
MASK[1, 1:4] = MASK[2, 1] = MASK[3, 3] = True  # of 8, 9, 10, 14 and 22


def test_extracted_is_the_box_with_zeros_outside():
    assert extracted(PIXELS, MASK)[..., 0].tolist() == [[8, 9, 10], [14, 0, 0], [0, 0, 22]]
    assert extracted(PIXELS, MASK).dtype == np.uint8


@pytest.mark.parametrize("seed", range(8))
def test_filled_keeps_the_lungs_and_fills_the_rest_with_their_pixels(seed):
    image = filled(PIXELS, MASK, np.random.default_rng(seed))
    assert image.shape == (3, 3, 3)
    own = MASK[1:4, 1:4]
    assert image[own].tolist() == extracted(PIXELS, MASK)[own].tolist()
    assert set(image[~own].ravel().tolist()) <= {8, 9, 10, 14, 22}
    assert image.tolist() == filled(PIXELS, MASK, np.random.default_rng(seed)).tolist()


def test_filled_differs_from_seed_to_seed_and_needs_no_square():
    hu, mask = body(RIGHT, LEFT)
    pixels = as_pictures(hu + np.random.default_rng(1).normal(0, 30, SHAPE), -600, 1500)
    one, two = (filled(pixels, mask, np.random.default_rng(seed)) for seed in (0, 1))
    assert one.shape == two.shape == extracted(pixels, mask).shape
    assert (one != two).any()
    assert one.min() > 0
    rimless = pixels.copy()
    rimless[ndimage.binary_dilation(~mask)] = 255
    assert filled(rimless, mask, np.random.default_rng(0)).max() < 255  # neither tissue nor the rim


def test_filled_ends_where_copies_reach_only_a_part():
    """Two far pixels in a box of 1 x 5000: 64 copies fill at most 128, the nearest pixel the rest."""
    pixels = np.zeros((1, 5000, 3), np.uint8)
    pixels[0, 0], pixels[0, -1] = 10, 20
    mask = np.zeros((1, 5000), bool)
    mask[0, [0, -1]] = True  # thinner than a rim
    image = filled(pixels, mask, np.random.default_rng(0))
    assert set(np.unique(image)) == {10, 20}
    assert (image[0, :2500] == 10).mean() > 0.95
    assert (image[0, 2500:] == 20).mean() > 0.95


@pytest.mark.parametrize("work", [extracted, lambda *given: filled(*given, np.random.default_rng(0))])
def test_masks_that_do_not_fit_are_refused(work):
    with pytest.raises(ValueError, match="the mask is empty"):
        work(PIXELS, np.zeros((5, 6), bool))
    with pytest.raises(ValueError, match=r"mask should be \(5, 6\) bool"):
        work(PIXELS, MASK[1:])
    with pytest.raises(ValueError, match="bool"):
        work(PIXELS, MASK.astype(int))
    with pytest.raises(ValueError, match="uint8"):
        work(PIXELS.astype(float), MASK)


def test_on_phantoms():
    """Against the drawn lungs with their lesions, vessels left out of neither."""
    findings = ((), ("GGO",), ("Csld",), ("emphysema",))
    in_hu, in_pictures = [], []
    for number in range(12):
        patient = sample_patient(*np.random.default_rng([4, number]).spawn(2))
        drawn = draw_slice(patient, findings[number % 4], level=number / 11, seed=number, size=256)
        pixel = patient.view.field_of_view / 256
        for found, values in (
            (find_lungs(drawn.hu, (pixel, pixel)), in_hu),
            (find_lungs(pseudo_hu(np.repeat(drawn.image[..., None], 3, axis=2))), in_pictures),
        ):
            assert (found.regions, found.reason) == (2, "")
            values.append(dice(found.mask, drawn.lung))
    for values in (in_hu, in_pictures):
        assert np.median(values) > 0.97
        assert min(values) > 0.85


def test_real_slices(shared_data):
    """Those of DRENet's two persons, of which the top and the bottom ones are cut."""
    paths = sorted((shared_data / "drenet-demo").glob("*/*.jpg"))[::4]
    found = lungs_sheet.find_all(paths)
    assert [item.regions for item in found] == [2] * len(paths)
    assert not any(item.reason for item in found)


def test_the_command_counts_and_draws(tmp_path, capsys):
    hu, _ = body(RIGHT, LEFT)
    Image.fromarray(as_pictures(hu, -600, 1500)).save(tmp_path / "a.png")
    Image.fromarray(as_pictures(body()[0], -600, 1500)).save(tmp_path / "b.png")
    sheet = tmp_path / "out" / "sheet.jpg"
    arguments = ["lungs_sheet", f"--pictures={tmp_path}", f"--contact_sheet={sheet}", "--fill"]
    assert lungs_sheet.main(arguments) == 0
    output = capsys.readouterr().out
    assert "2 slices, 1 kept (50.0 %)\n  1 with two lungs\n" in output
    assert f"left out: {tmp_path / 'b.png'}: no region in the body section" in output
    with Image.open(sheet) as image:
        assert image.size == (6 * 180, 194)
        assert len(image.getcolors(1 << 20)) > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --manifest or --pictures"),
        (["--pictures=a", "--manifest=b"], "give --manifest or --pictures"),
        (["--pictures=a", "--split=train"], "--split is of a manifest"),
        (["--pictures=a", "--contact_sheet=a.gif"], "should end in .png or .jpg"),
    ],
)
def test_a_wrong_command_line(arguments, message, capsys):
    with pytest.raises(SystemExit):
        lungs_sheet.main(["lungs_sheet", *arguments])
    assert message in capsys.readouterr().err


def test_a_folder_without_pictures(tmp_path):
    with pytest.raises(ValueError, match="there are no pictures"):
        lungs_sheet.main(["lungs_sheet", f"--pictures={tmp_path}"])
    with pytest.raises(FileNotFoundError, match="is no folder"):
        lungs_sheet.main(["lungs_sheet", f"--pictures={tmp_path / 'none'}"])
