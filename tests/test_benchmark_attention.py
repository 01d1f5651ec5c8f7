"""The benchmark of attention: ratios by hand, the command on the tiny trunk, maps that disagree."""

import numpy as np
import pytest

pytest.importorskip("tf_keras_vis.gradcam_plus_plus")

from benchmarks import attention

TIMINGS = {
    attention.FORWARD: [0.010, 0.020, 0.010, 0.010],
    attention.MAPS: [0.011, 0.020, 0.0104, 0.0102],
    attention.REFERENCE: [0.33, 0.8, 0.312, 0.306],
}


def test_report_of_made_up_timings():
    lines = attention.format_report(TIMINGS).splitlines()
    assert lines[1].split() == ["logits", "10.0", "(10.0", "to", "20.0)"]
    # Of the rounds' ratios 1.1, 1.0, 1.04, 1.02 and 30, 40, 30, 30, not the ratios of the medians.
    assert "1.030" in lines[5]
    assert lines[6].endswith("30.0 (30.0 to 40.0)")


def test_everybody_has_turns_in_each_round_and_the_order_turns_round():
    order = []
    functions = {name: lambda name=name: order.append(name) for name in "abc"}
    timings = attention.take_turns(functions, 2, {"a": 3, "b": 3, "c": 1})
    assert "".join(order) == "abcbaab" * 2
    assert {name: len(seconds) for name, seconds in timings.items()} == {"a": 2, "b": 2, "c": 2}


def test_the_time_of_a_round_is_that_of_a_call(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(attention.time, "perf_counter", lambda: float(next(clock)))
    timings = attention.take_turns({"a": lambda: next(clock), "b": lambda: None}, 2, {"a": 3, "b": 1})
    assert timings == {"a": [2.0, 2.0], "b": [1.0, 1.0]}


def test_command_on_the_tiny_trunk(tiny_backbone, capsys):
    arguments = [f"--backbone={tiny_backbone}", "--image_size=32", "--batch_size=2", "--rounds=2", "--calls=2"]
    assert attention.main(["attention", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "tiny: 6 maps of 2 x 32 x 32 pixels, 2 rounds of 2 calls" in printed
    assert "tf-keras-vis / logits and maps" in printed


def test_maps_that_disagree_are_an_error(tiny_backbone, monkeypatch):
    monkeypatch.setattr(attention, "largest_difference", lambda a, b: float(np.ptp(a) > 0) * 0.1)
    with pytest.raises(ValueError, match=r"maps differ by 0\.1 .*at most 0\.0001"):
        attention.main(["attention", f"--backbone={tiny_backbone}", "--image_size=32", "--rounds=2"])


def test_largest_difference_is_of_stretched_maps():
    maps = np.array([0.0, 1.0, 4.0]).reshape(1, 1, 3, 1)
    assert attention.largest_difference(maps, 7 * maps + 1) == pytest.approx(0)
    other = np.array([0.0, 3.0, 4.0]).reshape(1, 1, 3, 1)
    assert attention.largest_difference(maps, other) == pytest.approx(0.5)
