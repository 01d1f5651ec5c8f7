"""The model card: its score bins, and cards of runs that have none."""

import dataclasses
import json

import pytest
from tiny_tflite import card_of

from ladnn_tf.card import Export, PersonRule, ScoreBin, card_json, parse_card

LOW = ScoreBin(0.0, 0.5, 10, 1, (0.02, 0.4))
HIGH = ScoreBin(0.5, 1.0, 0, 0, None)
CARD = card_of(b"", score_bins=(LOW, HIGH), lesion_targets="positives")


def test_score_bins_survive_the_card_s_json():
    assert parse_card(card_json(CARD), "x") == CARD


@pytest.mark.parametrize(("probability", "found"), [(0.0, LOW), (0.4999, LOW), (0.5, HIGH), (1.0, HIGH)])
def test_an_edge_belongs_to_the_upper_bin_and_1_to_the_last(probability, found):
    assert CARD.score_bin(probability) is found


def test_the_card_of_an_older_run_has_no_bins():
    fields = json.loads(card_json(CARD))
    del fields["score_bins"], fields["lesion_targets"]
    card = parse_card(json.dumps(fields).encode(), "x")
    assert (card.score_bins, card.lesion_targets) == ((), "")
    assert card.score_bin(0.5) is None


def test_a_rule_for_persons_survives_and_that_of_an_older_run_knows_no_number_of_slices():
    card = dataclasses.replace(CARD, person=PersonRule("mean", 0.5, "by hand", 24, 11, slices=2))
    assert parse_card(card_json(card), "x") == card
    fields = json.loads(card_json(card))
    del fields["person"]["slices"]
    assert parse_card(json.dumps(fields).encode(), "x").person == PersonRule("mean", 0.5, "by hand", 24, 11, 0)
    fields["person"]["slices"] = 2.5
    with pytest.raises(ValueError, match=r"slices should be a number, 0 or more\. Received: 2\.5"):
        parse_card(json.dumps(fields).encode(), "x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score_bins": (HIGH, LOW)}, "from 0 to 1 without gaps"),
        ({"score_bins": (LOW,)}, "from 0 to 1 without gaps"),
        ({"score_bins": (HIGH,)}, "from 0 to 1 without gaps"),
        ({"lesion_targets": "some"}, "lesion_targets should be empty or one of positives, all. Received: 'some'"),
    ],
)
def test_what_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CARD, **changes)


@pytest.mark.parametrize(
    "values", [(0.5, 0.5, 0, 0, None), (0.0, 1.1, 0, 0, None), (0.0, 1.0, 1, 2, (0, 1)), (0.0, 1.0, 1, 1, None)]
)
def test_an_impossible_bin_is_refused(values):
    with pytest.raises(ValueError, match="a score bin should have"):
        ScoreBin(*values)


@pytest.mark.parametrize(("fitness", "unfit"), [("fit", False), ("unfit", True), ("unmeasured", True)])
def test_only_an_exported_model_can_be_unfit(fitness, unfit):
    assert dataclasses.replace(CARD, export=Export("int8", "0" * 64, fitness)).unfit == unfit
    assert not dataclasses.replace(CARD, export=None).unfit


def test_caveats_are_what_the_card_knows():
    assert dataclasses.replace(CARD, lesion_targets="all").caveats == ()
    unfit = dataclasses.replace(CARD, export=Export("int8", "0" * 64, "unfit"))
    assert [caveat.split()[0] for caveat in unfit.caveats] == ["UNFIT", "The"]
    assert "where the call is negative, ignore them" in CARD.caveats[0]


@pytest.mark.parametrize(
    ("sources", "warned"),
    [(("phantoms",), True), (("covid_ct", "phantoms"), False), (("covid_ct",), False), ((), False)],
)
def test_a_model_of_drawn_slices_says_so(sources, warned):
    card = dataclasses.replace(CARD, lesion_targets="all", sources=sources)
    assert parse_card(card_json(card), "x").sources == sources
    assert any("trained on drawn slices" in caveat for caveat in card.caveats) == card.of_phantoms == warned
