"""Distances between slices: rounded positions, gaps, and several spacings in one series."""

import pytest
from dicom_series import SPACING, edit, volume

from ladnn_tf.data.dicom_writer import write_series
from ladnn_tf.data.volumes import read_series

GAPS = "a gap of 2.5 mm, where 1.25 mm are usual"
MIXED = "the distance between slices is mixed: 1.25 to 2.5 mm."


def read_at(folder, positions):
    """A series with slices at such positions, mm."""
    for file, position in zip(
        write_series(volume((len(positions), 6, 8)), SPACING, folder), positions, strict=True
    ):
        edit(file, ImagePositionPatient=["0", "0", str(position)])
    (series,) = read_series(folder)
    return series


def steps(*lengths):
    positions = [0.0]
    for length in lengths:
        positions.append(round(positions[-1] + length, 6))
    return positions


def test_positions_in_tenths_give_the_true_spacing_and_nothing_irregular(tmp_path):
    # 0, 0.6, 1.2, 1.9, 2.5 ...: steps of 0.6 and 0.7
    series = read_at(tmp_path, [f"{0.625 * index:.1f}" for index in range(20)])
    assert series.spacing_mm[0] == pytest.approx(0.625, abs=0.01)
    assert series.report == ()


def test_steps_that_rounding_does_not_explain_are_mixed(tmp_path):
    series = read_at(tmp_path, steps(0.6, 0.6, 0.8, 0.6, 0.8))
    assert series.spacing_mm[0] == pytest.approx(0.68, abs=1e-6)  # 3.4 / 5
    assert series.report == ("the distance between slices is mixed: 0.6 to 0.8 mm.",)


def test_gaps_do_not_count_in_the_spacing(tmp_path):
    series = read_at(tmp_path, steps(*[1.25] * 6, 3.75, *[1.25] * 5))
    assert series.spacing_mm[0] == 1.25
    (gap,) = series.report
    assert gap.startswith("a gap of 3.75 mm, where 1.25 mm are usual, between ")
    assert gap.endswith(": about 2 missing.")


@pytest.mark.parametrize(
    ("lengths", "gaps", "mixed"),
    [
        ([1.25] * 6 + [2.5] * 6, 0, True),
        ([1.25] * 40 + [2.5] * 3, 0, True),  # three that agree
        ([1.25] * 30 + [2.5] + [1.25] * 9 + [2.5], 2, False),  # two of 41
        ([1.25] * 8 + [2.5] + [1.25] * 4 + [2.5], 0, True),  # two of 14
        ([1.25] * 3 + [2.5], 1, False),  # one agrees with nothing
        ([1.25] * 9 + [2.5, 3.75, 5, 6.25], 4, False),
    ],
)
def test_larger_steps_that_agree_are_another_spacing(tmp_path, lengths, gaps, mixed):
    series = read_at(tmp_path, steps(*lengths))
    report = " ".join(series.report)
    assert report.count("a gap of ") + report.count("1 more gap.") == gaps
    assert (MIXED in series.report) == mixed
    assert (GAPS in report) == (gaps > 0)
    assert series.spacing_mm[0] == 1.25
