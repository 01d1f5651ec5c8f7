"""Shares of lesion in boxes and hits by hand; random boxes; the command on the tiny DRENet; the sheet."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ladnn_tf import box_hits, box_hits_sheet, box_measures, runs
from ladnn_tf.box_hits_sheet import Tile
from ladnn_tf.box_measures import Masks, Rule
from ladnn_tf.labels import LESIONS
from ladnn_tf.models.regions import SelectRegions


def area(top, left, bottom, right, size=8):
    mask = np.zeros((size, size), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_lesion_shares_by_hand():
    """An image of 8 x 8 pixels whose rows 2 to 3, columns 4 to 7 are lesion."""
    boxes = np.array(
        [
            [2, 4, 4, 8],  # the lesion itself
            [0, 0, 8, 8],  # 8 of 64
            [0, 0, 4, 4],  # beside it
            [2.5, 3, 5, 5],  # 1.5 of 5
            [2, 6, 4, 12],  # 4 of the 4 that are inside the image
            [-4, -4, -1, -1],  # outside
        ],
        np.float32,
    )
    found = box_measures.lesion_shares(boxes[None] / 8, area(2, 4, 4, 8))
    np.testing.assert_allclose(found, [[1, 8 / 64, 0, 1.5 / 5, 1, 0]], atol=1e-7)


def test_lesion_shares_of_a_slice_that_is_no_square():
    mask = np.zeros((2, 4), bool)
    mask[1, 3] = True
    np.testing.assert_allclose(box_measures.lesion_shares(np.array([0.5, 0.5, 1, 1]), mask), 0.5)


def test_a_box_hits_from_the_least_share_on():
    boxes = np.array([[0, 0, 0.5, 1], [0.5, 0, 1, 1]])
    mask = area(2, 0, 9, 1, size=10)  # 3 of the upper box' 50 pixels, 4 of the lower one's
    masks = Masks(mask, mask)
    assert box_measures.hits(boxes, masks, Rule(0.06, 1)).tolist() == [True, True]
    assert box_measures.hits(boxes, masks, Rule(0.061, 1)).tolist() == [False, True]
    assert box_measures.hits(boxes, masks, Rule(0.081, 1)).tolist() == [False, False]


def test_a_box_hits_that_holds_the_least_part_of_the_largest_lesion():
    """A lesion of 3 pixels, and one of 4 of which the left box has 1 and the right box 3."""
    mask = area(0, 0, 3, 1) | area(6, 3, 7, 7)
    masks = Masks(mask, mask)
    np.testing.assert_array_equal(masks.largest, area(6, 3, 7, 7))
    boxes = np.array([[0, 0, 1, 0.5], [0, 0.5, 1, 1]])
    np.testing.assert_allclose(box_measures.lesion_parts(boxes, masks.largest), [1 / 4, 3 / 4])
    assert box_measures.hits(boxes, masks, Rule(1, 0.25)).tolist() == [True, True]
    assert box_measures.hits(boxes, masks, Rule(1, 0.75)).tolist() == [False, True]
    assert box_measures.hits(boxes, masks, Rule(1, 0.76)).tolist() == [False, False]


def test_lesions_that_touch_at_a_corner_alone_are_two():
    mask = area(0, 0, 2, 2) | area(2, 2, 5, 5)
    np.testing.assert_array_equal(Masks(mask, mask).largest, area(2, 2, 5, 5))


def test_centres_inside_by_hand():
    boxes = np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [-0.5, 0, 0.7, 1]])  # centres (2, 2), (6, 6), (0.8, 4)
    assert box_measures.centres_inside(boxes, area(0, 0, 3, 5)).tolist() == [True, False, True]


def test_lesion_covered_by_hand():
    """A lesion of 2 x 4 pixels: one box has its left half, another its upper half; together 6 of 8."""
    boxes = np.array([[0, 0, 8, 6], [0, 0, 3, 8]]) / 8
    there = np.array([[True, True], [True, False], [False, True], [False, False]])
    found = box_measures.lesion_covered(np.stack([boxes] * 4), there, area(2, 4, 4, 8))
    np.testing.assert_allclose(found, [6 / 8, 4 / 8, 4 / 8, 0])


def quarters():
    """The four quarters of an image."""
    return np.array([[0, 0, 1, 1], [0, 1, 1, 2], [1, 0, 2, 1], [1, 1, 2, 2]]) / 2


def measured_by_hand():
    """Three images of two patients; the run's two boxes are the upper quarters, or the lower ones."""
    every = quarters()
    frame = pd.DataFrame({"image": ["a1", "a2", "b1"], "patient": ["a", "a", "b"]})
    boxes = np.stack([every[[0, 1]], every[[1, 0]], every[[2, 3]]])
    whole = np.ones((8, 8), bool)
    masks = [
        Masks(area(0, 0, 4, 4), area(0, 0, 8, 4)),
        Masks(area(4, 4, 8, 8), whole),
        Masks(area(4, 0, 8, 8), whole),
    ]

    def draw(allowed, image):
        """Each allowed anchor once, alone; and a box that is not there."""
        boxes = np.stack([every, np.tile(every[image], (4, 1))], axis=1)
        return boxes, np.stack([allowed, np.zeros(4, bool)], axis=1)

    return box_measures.measure(frame, boxes, masks, every, draw, Rule(0.5, 1))


def test_measures_by_hand():
    found = measured_by_hand()
    assert found["image"].tolist() == [image for image in ("a1", "a2", "b1") for _ in range(4)]
    table = {
        source: rows[["filled", "boxes", "covered"]].to_numpy().tolist()
        for source, rows in found.groupby("source")
    }
    # Of a1 the first of two boxes hits, of a2 none, of b1 both.
    assert table[box_measures.OWN] == [[1, 0.5, 1], [0, 0, 0], [1, 1, 1]]
    # b's lower quarters: none hits a1's lesion, one of two that of a2; a's four upper ones miss b1's.
    assert table[box_measures.OTHERS] == [[0, 0, 0], [1, 0.5, 1], [0, 0, 0]]
    # One quarter of four is lesion in a1 and a2, two are in b1.
    assert table[box_measures.RANDOM] == [[0.25] * 3, [0.25] * 3, [0.5, 0.5, 0.25]]
    # The lungs of a1 are its left half: two quarters, one of them lesion; in two of four draws there is no box.
    assert table[box_measures.RANDOM_IN_LUNGS] == [[0.25, 0.5, 0.25], [0.25] * 3, [0.5, 0.5, 0.25]]
    own = found[found["source"] == box_measures.OWN]
    assert own["lesion"].tolist() == [0.25, 0.25, 0.5]
    assert own["reachable"].all()
    pd.testing.assert_series_equal(found["hit"], found["filled"], check_names=False)


def test_small_lesions_are_hit_by_boxes_that_they_do_not_fill():
    """Two pixels in the first of four quarters: no quarter is filled by a half, one holds them all."""
    masks = [Masks(area(0, 0, 1, 2), np.ones((8, 8), bool))] * 2
    frame = pd.DataFrame({"image": ["a", "b"], "patient": ["a", "b"]})
    boxes = np.stack([quarters()[[0, 1]], quarters()[[2, 3]]])

    def draw(allowed, image):
        return quarters()[:, None], allowed[:, None]

    found = box_measures.measure(frame, boxes, masks, quarters(), draw, Rule(0.5, 0.5))
    own = found[found["source"] == box_measures.OWN]
    assert own[["hit", "filled", "boxes", "covered"]].to_numpy().tolist() == [[1, 0, 0.5, 1], [0, 0, 0, 0]]
    assert own["reachable"].tolist() == [True, True]
    assert own["fillable"].tolist() == [False, False]
    text = box_measures.format_summary(box_measures.summarise(found, {}, resamples=100), 2)
    assert "hits in 100.0 % of the images, by its share of lesion in 0.0 %." in text


def test_summary_by_hand():
    found = box_measures.summarise(
        measured_by_hand(), {"ill": np.array([True, False, True]), "none": np.zeros(3, bool)}, resamples=200
    )
    groups = found["groups"]
    assert list(groups) == ["all", "ill", "smaller lesions", "larger lesions"]
    assert [(group["images"], group["patients"]) for group in groups.values()] == [(3, 2), (2, 2), (2, 1), (1, 1)]
    own = {name: group["sources"][box_measures.OWN]["hit"]["value"] for name, group in groups.items()}
    assert own == {"all": pytest.approx(2 / 3), "ill": 1, "smaller lesions": 0.5, "larger lesions": 1}
    assert groups["all"]["sources"][box_measures.OWN]["boxes"]["value"] == pytest.approx(0.5)
    interval = groups["all"]["sources"][box_measures.OWN]["hit"]
    # A resample has patient a twice, both once, or b twice: 1/2, 2/3 or 1.
    assert (interval["low"], interval["high"]) == (0.5, 1.0)
    difference = groups["all"]["differences"][box_measures.RANDOM]["hit"]
    assert difference["difference"] == pytest.approx(2 / 3 - 1 / 3)
    assert (difference["low"], difference["high"]) == (0.25, 0.5)
    text = box_measures.format_summary(found, 2)
    assert "all                     3        2  the run's boxes" in text
    assert "66.7 [50.0, 100.0]" in text
    assert "+33.3 [+25.0, +50.0]" in text
    assert "any of 2 boxes hits" in text
    json.dumps(found, allow_nan=False)


def test_a_source_without_boxes_is_undefined_and_not_zero():
    found = measured_by_hand()
    found.loc[found["source"] == box_measures.OTHERS, ["hit", "filled", "boxes"]] = np.nan
    summary = box_measures.summarise(found, {}, resamples=100)
    everything = summary["groups"]["all"]
    assert everything["sources"][box_measures.OTHERS]["hit"]["value"] is None
    assert everything["differences"][box_measures.OTHERS]["hit"]["difference"] is None
    assert "n/a" in box_measures.format_summary(summary, 2)


def test_random_boxes_are_suppressed_anchors_that_are_allowed():
    select = SelectRegions(96, (3,), (48,), 2)  # side by side they suppress each other
    allowed = np.zeros(9, bool)
    allowed[[0, 1, 5]] = True
    boxes, there = box_hits.random_boxes(select, allowed, 300, np.random.default_rng(0))
    assert boxes.shape == (300, 2, 4)
    assert there.all()
    cells = np.rint((boxes[..., 0] + boxes[..., 2]) * 1.5 - 0.5) * 3 + np.rint(
        (boxes[..., 1] + boxes[..., 3]) * 1.5 - 0.5
    )
    pairs, counts = np.unique(cells, axis=0, return_counts=True)
    # 0 and 1 are neighbours, 1 and 5 are not: the first is one of three, then it is 5, or one of two.
    assert pairs.tolist() == [[0, 5], [1, 5], [5, 0], [5, 1]]
    np.testing.assert_allclose(counts / 300, [1 / 3, 1 / 3, 1 / 6, 1 / 6], atol=0.08)
    allowed[[0, 1]] = False
    _, there = box_hits.random_boxes(select, allowed, 5, np.random.default_rng(0))
    assert there.tolist() == [[True, False]] * 5


def write(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


def test_masks_are_all_lesions_of_an_image_together(tmp_path):
    write(tmp_path / "GGO" / "a.png", area(0, 0, 2, 2))
    write(tmp_path / "Csld" / "a.png", area(6, 6, 8, 8))
    write(tmp_path / "lung" / "a.png", area(0, 0, 8, 4))
    found, none = box_measures.read_masks(tmp_path, ["x/a.jpg", "x/b.png"])
    np.testing.assert_array_equal(found.lesion, area(0, 0, 2, 2) | area(6, 6, 8, 8))
    np.testing.assert_array_equal(found.lung, area(0, 0, 8, 4))
    assert none is None
    with pytest.raises(ValueError, match="none of the 1 images has a lesion mask"):
        box_measures.read_masks(tmp_path, ["x/b.png"])
    with pytest.raises(ValueError, match=r"x/a\.jpg and y/a\.png have one name"):
        box_measures.read_masks(tmp_path, ["x/a.jpg", "y/a.png"])
    write(tmp_path / "lung" / "a.png", area(0, 0, 8, 4, size=9))
    with pytest.raises(ValueError, match=r"lung/a\.png is empty or differs in size"):
        box_measures.read_masks(tmp_path, ["x/a.jpg"])
    (tmp_path / "lung" / "a.png").unlink()
    with pytest.raises(ValueError, match=r"lung/a\.png cannot be read"):
        box_measures.read_masks(tmp_path, ["x/a.jpg"])


def test_command_measures_a_split_of_the_run_s_data(tiny_drenet_run, phantoms, tmp_path, capsys):
    run = shutil.copytree(tiny_drenet_run, tmp_path / "tiny_drenet")  # a look is counted in it
    sheet = tmp_path / "sheets" / "boxes.jpg"
    arguments = ["box_hits", f"--run={run}", f"--masks={phantoms / 'masks'}", "--split=validation"]
    arguments += ["--draws=20", "--resamples=100", "--seed=3"]
    assert box_hits.main([*arguments, f"--sheet={sheet}"]) == 0
    printed = capsys.readouterr().out
    for expected in (
        "tiny_drenet: validation split",
        "any of 3 boxes hits",
        "random boxes in the lungs",
        "COVID-19",
    ):
        assert expected in printed
    figures = json.loads((run / "metrics.json").read_text())
    assert figures["looks"] == {"validation": 1}
    summary = figures["validation, boxes"]
    assert summary["manifest"] == runs.load_run(run).card.manifest
    everything = summary["groups"]["all"]
    table = pd.read_csv(run / "boxes_validation.csv")
    own = table[table["source"] == box_measures.OWN]
    assert everything["images"] == len(own) == summary["groups"]["COVID-19"]["images"] > 5
    assert everything["sources"][box_measures.OWN]["hit"]["value"] == pytest.approx(own["hit"].mean())
    masks = {path.name for lesion in LESIONS for path in (phantoms / "masks" / lesion).glob("*.png")}
    assert {f"{image.rsplit('/', 1)[-1].rsplit('.', 1)[0]}.png" for image in own["image"]} <= masks
    with Image.open(sheet) as picture:
        assert picture.format == "JPEG"
        assert picture.size[0] > 1000
    first = figures["validation, boxes"]
    assert box_hits.main(arguments) == 0
    figures = json.loads((run / "metrics.json").read_text())
    assert figures["validation, boxes"] == first  # the same seed draws the same boxes
    assert figures["looks"] == {"validation": 2}


def test_the_run_s_boxes_are_what_is_measured(tiny_drenet_run, phantoms, diagnosed_manifest, tmp_path):
    """With lesions that fill the slices every box hits."""
    run = runs.load_run(shutil.copytree(tiny_drenet_run, tmp_path / "run"))
    for path in (phantoms / "masks" / "GGO").glob("*.png"):
        with Image.open(path) as mask:
            write(tmp_path / "masks" / "GGO" / path.name, np.ones(mask.size[::-1], bool))
            write(tmp_path / "masks" / "lung" / path.name, np.ones(mask.size[::-1], bool))
    options = {"manifest": diagnosed_manifest, "split": "train", "draws": 3, "resamples": 100}
    found = box_hits.measure(run, masks=tmp_path / "masks", rule=Rule(1.0, 1.0), **options)
    assert (found.measured[["hit", "filled", "boxes"]] == 1).all(axis=None)
    images = len(found.frame)
    assert found.boxes.shape == (images, 3, 4)
    tiles = box_hits.tiles(found, count=2)
    assert len(tiles) == 2
    assert tiles[0].hits.tolist() == [True] * 3
    assert "COVID-19: 3 of 3 hit" in tiles[0].title
    assert tiles[0].pixels.dtype == np.uint8


def test_what_has_no_boxes_is_refused(tiny_run, tiny_drenet_run, diagnosed_manifest, phantoms, tmp_path):
    with pytest.raises(ValueError, match="is a ladnn and has no boxes; give a run of --model=drenet"):
        box_hits.main(["box_hits", f"--run={tiny_run}", f"--masks={phantoms / 'masks'}"])
    run = runs.load_run(tiny_drenet_run)
    extracted = dataclasses.replace(run, card=dataclasses.replace(run.card, lungs="extracted"))
    options = {"manifest": diagnosed_manifest, "split": "test", "masks": phantoms / "masks"}
    with pytest.raises(ValueError, match="trained on lungs that were cut out"):
        box_hits.measure(extracted, **options)
    before = (tiny_drenet_run / "metrics.json").read_bytes()
    with pytest.raises(ValueError, match="no folder of masks"):
        box_hits.main(["box_hits", f"--run={tiny_drenet_run}", "--masks=absent"])
    with pytest.raises(ValueError, match=r"--sheet should be a \.jpg, \.jpeg, \.png file. Received: x\.pdf"):
        box_hits.main(["box_hits", f"--run={tiny_drenet_run}", "--masks=absent", "--sheet=x.pdf"])
    other = tmp_path / "other.csv"
    other.write_bytes(diagnosed_manifest.read_bytes() + b"\n")
    with pytest.raises(ValueError, match=r"other\.csv is not the data .*give --out"):
        box_hits.main(["box_hits", f"--run={tiny_drenet_run}", "--masks=absent", f"--manifest={other}"])
    assert (tiny_drenet_run / "metrics.json").read_bytes() == before  # no look is counted


def test_a_tile_shows_hits_as_whole_lines_and_misses_as_dashed_ones():
    boxes = np.array([[0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]])
    tile = Tile("a", np.zeros((32, 32, 3), np.uint8), area(4, 4, 12, 12, size=32), boxes, np.array([True, False]))
    pixels = np.asarray(box_hits_sheet._draw_tile(tile))
    best, second = (np.all(pixels == colour, axis=-1) for colour in box_hits_sheet._BOXES[:2])
    rows = np.rint(np.array([0.1, 0.5, 0.6, 0.9]) * (box_hits_sheet._SIDE - 1)).astype(int)
    across = slice(rows[0] + 20, rows[1] - 2)
    assert best[rows[1], across].all()
    line = second[rows[3], rows[2] + 2 : rows[3] - 2]
    assert 0.3 < line.mean() < 0.8
    assert np.all(pixels == box_hits_sheet._LESION, axis=-1).any()


def test_a_sheet_names_what_it_shows(tmp_path):
    tile = Tile("a", np.zeros((8, 8, 3), np.uint8), area(0, 0, 2, 2), quarters(), np.array([True, *[False] * 3]))
    box_hits_sheet.write_sheet(tmp_path / "a.png", [tile] * 7, ["one", "two"])
    with Image.open(tmp_path / "a.png") as picture:
        taller = picture.size
    box_hits_sheet.write_sheet(tmp_path / "b.PNG", [tile] * 6, ["one", "two"])
    with Image.open(tmp_path / "b.PNG") as picture:
        assert picture.size[0] == taller[0]
        assert picture.size[1] < taller[1]
