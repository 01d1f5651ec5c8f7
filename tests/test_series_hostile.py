"""A sample of the benchmark of damaged files, in this process, and what the benchmark counts as a fault."""

import os

import pytest

from benchmarks import series_hostile, series_mutations
from benchmarks.series_hostile import ANSWERS, Verdict
from ladnn_tf.data.volumes import SeriesError

BOMB = 2**27
"""Bytes that a bomb unpacks to: twice what is unpacked of a small file."""


def test_a_sample_is_read_or_refused_by_name(tmp_path):
    seen = set()
    for number in range(150):
        case = series_mutations.hostile(1, number, BOMB)
        folder = tmp_path / str(number)
        folder.mkdir()
        what, words = series_hostile.judge(series_mutations.write(case, folder))
        assert what in ANSWERS, f"number {number}: {case.kind}, {case.damage}: {what}: {words}"
        seen.add(what)
    assert {"read with a report", "refused"} <= seen


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (SeriesError("a.dcm: bad"), "refused"),
        (OSError("RescaleSlope (0028,1053) is missing"), "refused"),
        (SeriesError("it is bad"), "names nothing"),
        (SeriesError("a.dcm:\nbad"), "names nothing"),
        (MemoryError(), "memory"),
        (IndexError("list index out of range"), "other exception"),
    ],
)
def test_what_counts_as_a_fault(tmp_path, monkeypatch, error, what):
    def read(path):
        raise error

    monkeypatch.setattr(series_hostile, "read_series", read)
    assert series_hostile.judge(tmp_path / "a.dcm")[0] == what


def test_the_table_counts_each_verdict():
    verdicts = [
        Verdict(0, "zip", "truncated", "refused", "x"),
        Verdict(1, "zip", "truncated", "crash", "exit status -11"),
        Verdict(2, "PNG", "truncated", "read", ""),
    ]
    table = series_hostile.format_table(verdicts)
    assert "| truncated | 3 | 1 | 0 | 1 | 0 | 0 | 1 | 0 | 0 |" in table
    assert "| zip | 2 | 0 | 0 | 1 | 0 | 0 | 1 | 0 | 0 |" in table
    assert table.endswith("1 read, 0 read with a report, 1 refused, 0 names nothing, 0 other exception, 1 crash, "
                          "0 hang, 0 memory")  # fmt: skip


def test_the_command(tmp_path, monkeypatch, capsys):
    """Its processes replaced by verdicts: the status is 1 with a fault, whose file is kept."""

    def storm(seed, count, limit):
        yield Verdict(0, "zip", "truncated", "refused", "x")
        yield Verdict(1, "zip", "truncated", fault, "")

    monkeypatch.setattr(series_hostile, "storm", storm)
    arguments = ["series_hostile", "--files=2", f"--keep={tmp_path}"]
    fault = "refused"
    assert series_hostile.main(arguments) == 0
    assert not list(tmp_path.iterdir())
    fault = "hang"
    assert series_hostile.main(arguments) == 1
    assert "FAULT 1: zip, truncated: hang" in capsys.readouterr().out
    assert (tmp_path / "0-1").is_dir()
    assert series_hostile.main([*arguments, "--only=3"]) in (0, 1)
    assert os.listdir(tmp_path / "0-3")
