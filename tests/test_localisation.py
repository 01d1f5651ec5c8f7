"""Cells, hits and shares of heat by hand; the summary against means and differences worked out otherwise."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ladnn_tf import localisation
from ladnn_tf.localisation import Source, cell_shares, measure, measure_chance, measure_map, sources, summarise


def test_cell_shares_by_hand():
    mask = np.zeros((4, 6), bool)
    mask[0, 0] = mask[3, 5] = mask[3, 4] = True
    np.testing.assert_allclose(cell_shares(mask, 2, 2), [[1 / 6, 0], [0, 2 / 6]])
    np.testing.assert_allclose(cell_shares(mask, 1, 1), [[3 / 24]])
    assert cell_shares(np.ones((7, 9), bool), 3, 2).tolist() == [[1, 1], [1, 1], [1, 1]]


def test_a_pixel_belongs_to_the_cell_of_its_centre():
    """Five pixels in two cells: the centre of the third is the border and belongs to the second cell."""
    mask = np.zeros((1, 5), bool)
    mask[0, 2] = True
    np.testing.assert_allclose(cell_shares(mask, 1, 2), [[0, 1 / 3]])


LESION = np.array([[0.5, 0.0], [0.0, 0.0]])
LUNG = np.array([[1.0, 0.5], [0.25, 0.0]])


@pytest.mark.parametrize(
    ("heat", "hit", "inside", "outside_lung"),
    [
        ([[3, 1], [0, 0]], 1.0, 1.5 / 4, (0 + 0.5) / 4),
        ([[1, 3], [0, 4]], 0.0, 0.5 / 8, (0 + 1.5 + 4) / 8),
        ([[0, 0], [0, 2]], 0.0, 0.0, 1.0),
    ],
)
def test_measures_by_hand(heat, hit, inside, outside_lung):
    found = measure_map(np.array(heat, float), LESION, LUNG)
    assert found == pytest.approx({"hit": hit, "inside": inside, "outside_lung": outside_lung})


def test_a_map_of_zeros_is_a_miss_without_heat():
    found = measure_map(np.zeros((2, 2)), LESION, LUNG)
    assert found["hit"] == 0.0
    assert np.isnan([found["inside"], found["outside_lung"]]).all()


def test_chance_by_hand():
    """Three cells overlap the lung, one of them the lesion."""
    expected = {"hit": 1 / 3, "inside": 0.5 / 3, "outside_lung": 1 - 1.75 / 3}
    assert measure_chance(LESION, LUNG) == pytest.approx(expected)


def test_each_lesion_has_its_map_and_the_baseline_one_for_all():
    own, covid, mean = sources("net", np.zeros((1, 2, 2, 6)))
    assert own.columns == mean.columns == {"GGO": 1, "Csld": 2, "CrPa": 3, "AirBr": 4, "InSepThi": 5}
    assert set(covid.columns.values()) == {0}
    baseline, mean = sources("base", np.zeros((1, 2, 2, 1)))
    assert set(baseline.columns.values()) == set(mean.columns.values()) == {0}


def test_the_mean_map_is_the_same_for_all_slices():
    maps = np.zeros((2, 1, 2, 1))
    maps[0, 0, 0], maps[1, 0, 1] = 4.0, 2.0
    mean = sources("base", maps)[-1].maps
    assert mean[..., 0].tolist() == [[[2.0, 1.0]], [[2.0, 1.0]]]


@pytest.fixture
def masks(tmp_path):
    """Slice `a` has GGO top left and Csld bottom right, `b` GGO bottom right, `c` nothing; lungs everywhere."""

    def write(name, mask):
        path = tmp_path / "masks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(mask, np.uint8) * 255).save(path)

    corner = np.zeros((4, 4))
    corner[:2, :2] = 1
    write("GGO/a.png", corner)
    write("Csld/a.png", corner[::-1, ::-1])
    write("GGO/b.png", corner[::-1, ::-1])
    for name in "abc":
        write(f"lung/{name}.png", np.ones((4, 4)))
    return tmp_path / "masks"


FRAME = pd.DataFrame({"image": ["x/a.jpg", "x/b.jpg", "x/c.jpg"], "patient": ["1", "2", "3"]})
FRAME["path"] = "/" + FRAME["image"]


def top_left_maps(slices=3, columns=6):
    maps = np.zeros((slices, 2, 2, columns))
    maps[:, 0, 0] = 1.0
    return maps


def test_measure_finds_the_masks_of_each_slice(masks):
    pairs = measure(FRAME, sources("net", top_left_maps()), masks)
    own = pairs[pairs["source"] == "net, map of the lesion"]
    assert own[["image", "lesion", "hit"]].to_numpy().tolist() == [
        ["x/a.jpg", "GGO", 1.0],
        ["x/a.jpg", "Csld", 0.0],
        ["x/b.jpg", "GGO", 0.0],
    ]
    chance = pairs[pairs["source"] == localisation.CHANCE]
    assert chance["hit"].tolist() == [0.25] * 3


def test_measure_reads_the_column_of_the_lesion(masks):
    maps = np.zeros((3, 2, 2, 6))
    maps[0, 0, 0, 1] = maps[0, 1, 1, 2] = maps[1, 1, 1, 1] = 1.0
    pairs = measure(FRAME, [Source("own", maps, {"GGO": 1, "Csld": 2})], masks)
    assert pairs[pairs["source"] == "own"]["hit"].tolist() == [1.0, 1.0, 1.0]


def test_runs_with_different_grids(masks):
    fine = np.zeros((3, 4, 4, 1))
    fine[:, 3, 3] = 1.0
    pairs = measure(FRAME, [*sources("net", top_left_maps()), *sources("fine", fine)], masks)
    assert pairs[pairs["source"] == "fine, map of covid"]["hit"].tolist() == [0.0, 1.0, 1.0]


def test_summary_by_hand(masks):
    summary = summarise(measure(FRAME, sources("net", top_left_maps()), masks), resamples=200)
    assert list(summary["lesions"]) == ["GGO", "Csld", "all"]
    everything = summary["lesions"]["all"]
    assert (everything["pairs"], everything["patients"]) == (3, 2)
    hit = everything["sources"]["net, map of the lesion"]["hit"]
    assert hit["value"] == pytest.approx(1 / 3)
    assert (hit["low"], hit["high"]) == (0.0, 0.5)  # only patient 2, only patient 1
    difference = everything["differences"][localisation.CHANCE]["hit"]
    assert difference["difference"] == pytest.approx(1 / 3 - 0.25)
    text = localisation.format_summary(summary)
    assert "33.3 [0.0, 50.0]" in text
    assert "random lung cell" in text
    assert "+8.3" in text


def test_maps_of_zeros_stay_out_of_the_shares_alone(masks):
    maps = top_left_maps()
    maps[1] = 0.0
    everything = summarise(measure(FRAME, sources("net", maps), masks), resamples=100)["lesions"]["all"]
    means = everything["sources"]["net, map of covid"]
    assert means["hit"]["value"] == pytest.approx(1 / 3)
    assert means["inside"]["value"] == pytest.approx((1 + 0) / 2)  # of slice a's two lesions
    assert everything["empty_maps"]["net, map of covid"] == 1
    assert everything["empty_maps"][localisation.CHANCE] == 0


def test_a_difference_of_shares_is_over_pairs_in_which_both_have_one(masks):
    """Slice a: both all on GGO. Slice b: the first has no map, the second misses. Without b they are equal."""
    own, other = top_left_maps(), top_left_maps()
    own[1] = 0.0
    found = [Source("own", own, {"GGO": 1, "Csld": 2}), Source("other", other, {"GGO": 1, "Csld": 2})]
    summary = summarise(measure(FRAME, found, masks), resamples=100)
    difference = summary["lesions"]["all"]["differences"]["other"]
    assert difference["inside"]["difference"] == 0.0
    assert difference["inside"]["b"] == pytest.approx(1 / 2)
    assert difference["hit"]["b"] == pytest.approx(1 / 3)
    text = localisation.format_summary(summary)
    assert "maps of zeros, which are misses: 1 of own" in text
    assert "+0.0 [n/a]" in text


def test_a_mask_that_is_black_throughout_is_no_lesion(masks):
    (masks / "CrPa").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(masks / "CrPa" / "a.png")
    assert set(localisation.lesion_masks(masks, "a.jpg")) == {"GGO", "Csld"}


def test_transparent_masks_are_refused(masks):
    pixels = np.full((4, 4, 4), 255, np.uint8)
    Image.fromarray(pixels).save(masks / "GGO" / "a.png")
    assert localisation.lesion_masks(masks, "a.jpg")["GGO"].all()
    pixels[0, 0, 3] = 0
    Image.fromarray(pixels).save(masks / "GGO" / "a.png")
    with pytest.raises(ValueError, match=r"GGO.a\.png has transparent places"):
        localisation.lesion_masks(masks, "a.jpg")


def test_slices_of_one_name_would_share_a_mask(masks):
    frame = FRAME.assign(path=["/x/a.jpg", "/y/a.jpg", "/x/c.jpg"])
    with pytest.raises(ValueError, match=r"/x/a\.jpg and /y/a\.jpg have one name"):
        measure(frame, sources("net", top_left_maps()), masks)


def test_maps_that_are_not_finite_are_an_error(masks):
    with pytest.raises(ValueError, match=r"net, map of the lesion: not every number is finite"):
        measure(FRAME, sources("net", top_left_maps() * np.nan), masks)


def test_bad_masks(masks):
    measured = sources("net", top_left_maps())
    with pytest.raises(ValueError, match="there is no folder of masks"):
        measure(FRAME, measured, masks / "absent")
    with pytest.raises(ValueError, match=r"none of the 1 slices has a lesion mask .* such as .*GGO.c\.png"):
        measure(FRAME.iloc[2:], measured, masks)
    Image.fromarray(np.ones((2, 2), np.uint8)).save(masks / "lung" / "a.png")
    with pytest.raises(ValueError, match=r"lung.a\.png is empty or differs in size"):
        measure(FRAME, measured, masks)
    (masks / "lung" / "a.png").unlink()
    with pytest.raises(ValueError, match=r"the mask .*lung.a\.png cannot be read"):
        measure(FRAME, measured, masks)
    (masks / "GGO" / "a.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"the mask .*GGO.a\.png cannot be read"):
        measure(FRAME, measured, masks)
