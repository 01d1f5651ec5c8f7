"""The benchmark of a person's answer: its table by hand, what it starts, and what it writes."""

import pytest

from benchmarks import series
from benchmarks.series import Measurement
from benchmarks.worker import WorkerEndedError
from ladnn_tf.data.volumes import read_series


def test_table_by_hand():
    found = [
        Measurement(seconds, int(peak * 1e6), "answered: 12 of 15")
        for seconds, peak in ((3, 500), (9, 700), (4, 600))
    ]
    lines = series.format_report({("edge", "all"): found}).splitlines()
    assert lines[1].split() == ["edge", "all", "4.0", "3.0", "9.0", "700", "answered:", "12", "of", "15"]


def test_each_command_is_started_with_both_choices_of_slices():
    found = series.commands("a.tflite", "runs/a", "scan")
    assert list(found) == [(name, choice) for choice in ("equidistant", "all") for name in ("edge", "predict")]
    assert found["edge", "all"][:3] == ["-m", "ladnn_tf.edge", "a.tflite"]
    assert "--slices=all" in found["predict", "all"]
    assert list(series.commands(None, "runs/a", "scan")) == [("predict", "equidistant"), ("predict", "all")]


def test_a_process_is_measured_and_its_failure_told():
    code = "content = bytearray(300_000_000); print('  answered: 1 of 1')"
    found = series.measure("edge", ["-c", code])
    assert found.said == "answered: 1 of 1"
    assert found.peak > 300e6
    assert found.seconds > 0
    with pytest.raises(WorkerEndedError, match="no such model"):
        series.measure("edge", ["-c", "import sys; sys.exit('no such model')"])


def test_the_series_that_is_written_is_read_again(tmp_path):
    series.write_folder(tmp_path / "scan", 62, size=32)
    (volume,) = read_series(tmp_path / "scan")
    assert volume.hu.shape == (62, 32, 32)
    assert volume.spacing_mm[0] == pytest.approx(300 / 62, rel=0.02)
    assert (volume.hu[0] == volume.hu[1]).all()  # 31 slices, twice
