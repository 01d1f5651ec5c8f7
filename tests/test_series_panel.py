"""The picture of an answered series, and the overlays of models with classes."""

import io

import numpy as np
import pytest
import series_fakes
from PIL import Image
from series_fakes import CLASSES, LUNG, Predictor, drenet

from ladnn_tf import edge_overlay, series, series_panel
from ladnn_tf.answer import Answer
from ladnn_tf.card import NOTICE, PersonRule
from ladnn_tf.series_answer import SliceAnswer

SIDE, GAP, TOP = 384, 10, 110  # of the pictures, in pixels
MIDDLE = [0.25, 0.25, 0.75, 0.75]
CORNER = [-0.1, -0.1, 0.2, 0.2]


@pytest.fixture(autouse=True)
def _lungs_by_hand(monkeypatch):
    monkeypatch.setattr(series.lungs, "find_lungs", series_fakes.find_lungs)


def answered(answers, threshold=0.5, **changes):
    fields = {"task": "drenet", "classes": CLASSES, "person": PersonRule("mean", threshold, "by hand", 2, 1)}
    predictor = Predictor(answers, **(fields | changes))
    return series.answer_series(series_fakes.volume([LUNG] * len(answers)), predictor)


def panes(found):
    """The pixels of the slices side by side, the most suspicious first."""
    picture = np.asarray(series_panel.draw(found, "scan")).astype(int)
    return [picture[TOP : TOP + SIDE, GAP + n * (SIDE + GAP) :][:, :SIDE] for n in range(len(found.suspicious))]


def coloured(pane):
    """Rows and columns from the first to the last place in the colour of the boxes; None if there is none."""
    places = np.argwhere((pane == edge_overlay.OUTLINE).all(axis=-1))
    return (*places.min(axis=0).tolist(), *places.max(axis=0).tolist()) if len(places) else None


def test_boxes_are_where_they_are_said_to_be():
    pane = panes(answered([drenet(0.9, [MIDDLE], [0.5])]))[0]
    assert (pane[series_panel._SIDE // 2, SIDE // 2] == 110).all()  # -700 HU: 650 / 1500 * 255
    assert (pane[97:287, 97] == edge_overlay.OUTLINE).all()  # a quarter and a pixel of black rim
    assert (pane[286, 97:287] == edge_overlay.OUTLINE).all()
    assert (pane[96, 96:288] == 0).all()
    assert (pane[95, 200] == pane[289, 200]).all()


def test_a_box_that_reaches_outside_is_drawn_at_the_border():
    pane = panes(answered([drenet(0.9, [CORNER], [0.5])]))[0]
    assert (pane[0, :77] == 0).all()
    assert (pane[1, 1:76] == edge_overlay.OUTLINE).all()


@pytest.mark.parametrize(("second", "drawn"), [(0.81, True), (0.79, False)])
def test_boxes_are_compared_with_the_best_of_the_series(second, drawn):
    """Their scores are not: 0.4 is the best there is, and 0.8 of it is 0.32."""
    slices = [drenet(0.9, [MIDDLE, CORNER], [0.4, 0.1]), drenet(0.8, [MIDDLE], [second * 0.4])]
    first, other = panes(answered(slices))
    assert coloured(first) is not None
    assert coloured(first)[0] > 50  # the corner has a quarter of the best score
    assert (coloured(other) is not None) == drawn


def test_who_is_called_negative_gets_no_boxes():
    found = answered([drenet(0.3, [MIDDLE], [1.0]), drenet(0.1, [MIDDLE], [1.0])])
    assert [coloured(pane) for pane in panes(found)] == [None, None]
    assert "no boxes are drawn, as the person is called negative" in series_panel._what_is_drawn(found)


def test_of_a_negative_person_a_slice_at_the_threshold_gets_none():
    found = answered([drenet(0.5, [MIDDLE], [1.0]), drenet(0.1, [MIDDLE], [1.0])])
    assert not found.positive
    assert found.slices[0].answer.positive
    assert [coloured(pane) for pane in panes(found)] == [None, None]


def test_a_positive_person_gets_boxes_in_slices_below_the_threshold_too():
    found = answered([drenet(0.3, [MIDDLE], [1.0]), drenet(0.2, [MIDDLE], [1.0])], threshold=0.2)
    assert None not in [coloured(pane) for pane in panes(found)]
    assert series_panel._what_is_drawn(found) == (
        "boxes: where the network looked closer, not where a lesion is; the number at a box: its score as a share "
        "of the highest of the series, drawn above 0.8"
    )


def test_where_the_best_boxes_are_in_slices_that_are_not_shown_that_is_said():
    found = answered([drenet(0.9, [MIDDLE], [0.5])] * 3 + [drenet(0.8, [MIDDLE], [1.0])])
    assert [coloured(pane) for pane in panes(found)] == [None] * 3
    assert series_panel._what_is_drawn(found).startswith("no boxes are drawn, as the highest scores of the series")


def test_boxes_without_any_score_are_not_drawn():
    assert coloured(panes(answered([drenet(0.9, [MIDDLE], [0.0])]))[0]) is None


def test_a_map_lies_over_a_second_picture_of_the_slice():
    maps = np.zeros((2, 2, 6), np.float32)
    maps[0, 0, 0] = 1.0
    lesions = dict.fromkeys(("GGO", "Csld", "CrPa", "AirBr", "InSepThi"), 0.5)
    found = answered([{"covid": 0.9, "maps": maps, "lesions": lesions}], task="ladnn", classes=())
    picture = np.asarray(series_panel.draw(found, "scan")).astype(int)
    above, below = picture[TOP:, GAP:], picture[TOP + SIDE + GAP :, GAP:]
    assert above[10, 10].tolist() == above[370, 370].tolist() == [110, 110, 110]
    assert below[10, 10].tolist() == pytest.approx([204, 189, 75], abs=2)  # 0.35 * 110 + 0.65 * (254, 232, 56)
    assert below[370, 370].tolist() == [110, 110, 110]


def test_a_model_with_neither_has_the_slices_alone():
    classes = dict(zip(CLASSES, (0.9, 0.1, 0.0), strict=True))
    found = answered([{"covid": 0.9, "classes": classes}], task="trunk")
    assert coloured(panes(found)[0]) is None
    assert "does not say where it looked" in series_panel._what_is_drawn(found)


def test_slices_keep_their_proportions():
    found = answered([drenet(0.9, [[0, 0, 1, 1]], [1.0])])
    wide = SliceAnswer(0, "", found.slices[0].answer, "", np.full((10, 20, 3), 200, np.uint8))
    pane = np.asarray(series_panel._with_boxes(wide, found)).astype(int)
    assert (pane[: SIDE // 4] == 0).all()
    assert (pane[3 * SIDE // 4 :][40:] == 0).all()
    assert (pane[SIDE // 4 + 5 : 3 * SIDE // 4 - 5, 5:-5] == 200).all()
    assert coloured(pane) == (SIDE // 4 + 1, 1, 3 * SIDE // 4 - 2, SIDE - 2)


def test_the_notes_name_rule_window_model_caveats_and_notice():
    found = answered([drenet(0.9, [MIDDLE], [1.0])], sources=("phantoms",), lesion_targets="positives")
    words = " ".join(text for text, _ in series_panel._notes(found))
    assert "ignore them" not in words  # the lesions, of which there are none
    for part in ("by hand", "level -600 HU", found.card.version, "PHANTOM MODEL", "bacterial pneumonia", NOTICE):
        assert part in words


def test_it_is_as_wide_for_one_slice_as_for_three_and_a_png():
    sizes = set()
    for count in (1, 2, 3, 5):
        encoded = series_panel.panel_png(answered([drenet(0.9, [MIDDLE], [1.0])] * count), "\u4e2d/\x1b\n" * 99)
        with Image.open(io.BytesIO(encoded)) as picture:
            assert picture.format == "PNG"
            sizes.add(picture.width)
    assert sizes == {GAP + 3 * (SIDE + GAP)}


def test_without_an_answer_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match="no answer that could be drawn: the only slice"):
        series_panel.draw(answered([{"error": "broken"}]), "scan")


def overlay(task="drenet", **fields):
    card = Predictor([], task=task, classes=CLASSES).card
    result = Answer(card, "", **fields)
    picture = edge_overlay.draw(np.full((32, 32, 3), 100, np.uint8), result, "a.png", NOTICE)
    return np.asarray(picture).astype(int)


def test_the_overlay_of_one_slice_has_its_boxes():
    picture = overlay(**drenet(0.7, [MIDDLE, CORNER], [0.4, 0.3]), positive=True)
    assert coloured(picture[:, :328]) is None
    assert (picture[26 + 81 : 26 + 239, 336 + 81] == edge_overlay.OUTLINE).all()
    assert (picture[26 + 20, 336 + 20] == 100).all()


def test_the_overlay_of_a_negative_slice_has_none():
    picture = overlay(**drenet(0.7, [MIDDLE], [0.4]), positive=False)
    assert coloured(picture) is None
    assert (picture[26:346, 336:] == 255).all()


def test_the_overlay_of_a_plain_trunk_is_the_slice():
    classes = dict(zip(CLASSES, (0.7, 0.2, 0.1), strict=True))
    picture = overlay("trunk", covid=0.7, positive=True, classes=classes)
    assert (picture[26:346, 8:328] == 100).all()
    assert (picture[26:346, 336:] == 255).all()
