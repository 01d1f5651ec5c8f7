"""New splits: proportions, no group in two splits, every lesion everywhere, the same for the same seed."""

import numpy as np
import pandas as pd
import pytest

from ladnn_tf.data.covid_ct import read_covid_ct
from ladnn_tf.data.splits import (
    FRACTIONS,
    papers_in_several_splits,
    source_groups,
    split_by_patient,
    split_by_source,
)
from ladnn_tf.labels import LESIONS, SPLITS


def _frame(seed: int, patients: int = 60) -> pd.DataFrame:
    """Patients of one to five images; three patients with InSepThi, who are the ones with AirBr, and so on."""
    generator = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        covid = patient % 2
        lesions = dict.fromkeys(LESIONS, float("nan"))
        if covid:
            rare = patient // 2
            lesions = {
                "GGO": 1.0,
                "Csld": float(generator.random() < 0.4),
                "CrPa": float(rare in (0, 1, 5, 6)),
                "AirBr": float(rare in (0, 1, 2, 4)),
                "InSepThi": float(rare in (0, 1, 2)),
            }
        source = f"covid_ct/paper {patient // 4}" if covid else "covid_ct/medpix"
        row = {"patient": f"p{patient}", "source": source, "covid": covid, **lesions}
        rows += [row] * int(generator.integers(1, 6))
    return pd.DataFrame(rows).sample(frac=1, random_state=seed).reset_index(drop=True)


def test_equal_patients_are_split_exactly():
    frame = pd.DataFrame(
        {"patient": [f"p{i}" for i in range(40)], "covid": [i % 2 for i in range(40)]}
        | {lesion: [float("nan")] * 40 for lesion in LESIONS}
    )
    split = split_by_patient(frame, seed=0)
    # 20 images of each class, one to a patient: 12, 3 and 5 of each.
    counts = pd.crosstab(frame["covid"], split)
    for covid in (0, 1):
        assert counts.loc[covid, list(SPLITS)].tolist() == [12, 3, 5]


@pytest.mark.parametrize("seed", range(20))
def test_patients_stay_together_and_every_lesion_reaches_every_split(seed):
    frame = _frame(seed)
    split = split_by_patient(frame, seed)
    assert split.groupby(frame["patient"]).nunique().max() == 1
    present = frame.groupby(split)[list(LESIONS)].sum()
    assert (present.loc[list(SPLITS)] > 0).all(axis=None)
    for covid in (0, 1):
        shares = split[frame["covid"] == covid].value_counts(normalize=True)[list(SPLITS)]
        assert np.abs(shares.to_numpy() - FRACTIONS).max() < 0.08


def test_a_seed_repeats_its_split_and_another_gives_another():
    frame = _frame(0)
    assert split_by_patient(frame, 3).equals(split_by_patient(frame, 3))
    assert not split_by_patient(frame, 3).equals(split_by_patient(frame, 4))


def test_the_index_of_the_frame_is_kept():
    frame = _frame(0)
    shifted = frame.set_index(frame.index + 100)
    split = split_by_patient(shifted, 3)
    assert split.index.equals(shifted.index)
    assert split.tolist() == split_by_patient(frame, 3).tolist()


def test_source_groups_are_papers_over_both_datasets_and_patients_within_archives():
    frame = pd.DataFrame(
        {
            "source": ["covid_ct/kjr", "ladnn_d1/kjr", "covid_ct/medpix", "covid_ct/medpix", "hospital", "", ""],
            "patient": ["a", "b", "c", "d", "e", "f", "g"],
        }
    )
    groups = source_groups(frame).tolist()
    assert groups[0] == groups[1]
    assert len(set(groups[1:])) == 6


def test_a_patient_in_two_papers_joins_them():
    frame = pd.DataFrame(
        {"source": [f"covid_ct/{name}" for name in "XXYYZZW"], "patient": ["a", "b", "b", "c", "c", "d", "e"]}
    )
    # b is in X and Y, c in Y and Z: X, Y and Z are one; W is another.
    groups = source_groups(frame).tolist()
    assert len(set(groups[:6])) == 1
    assert groups[6] != groups[0]


def test_papers_stay_together():
    frame = _frame(1)
    split = split_by_source(frame, seed=1)
    papers = frame["source"] != "covid_ct/medpix"
    assert split[papers].groupby(frame["source"][papers]).nunique().max() == 1
    assert split[~papers].nunique() == 3


def test_papers_in_several_splits_by_hand():
    rows = [
        ("covid_ct/kjr", "train"), ("covid_ct/kjr", "train"), ("ladnn_d1/kjr", "test"),  # over both datasets
        ("covid_ct/1", "train"), ("covid_ct/1", "validation"), ("covid_ct/1", "test"),
        ("covid_ct/2", "test"), ("covid_ct/2", "test"),  # in one split
        ("covid_ct/medpix", "train"), ("covid_ct/medpix", "test"),  # an archive
        ("covid_ct/phantom", "train"), ("covid_ct/phantom", "test"),
        ("", "train"), ("", "test"),
    ]  # fmt: skip
    papers = papers_in_several_splits(pd.DataFrame(rows, columns=["source", "split"]))
    assert papers.index.tolist() == ["1", "kjr"]
    assert papers[list(SPLITS)].to_numpy().tolist() == [[1, 1, 1], [2, 0, 1]]
    none = papers_in_several_splits(pd.DataFrame(rows[8:], columns=["source", "split"]))
    assert none.shape == (0, 3)


def test_impossible_splits_are_refused():
    frame = _frame(0, patients=2)
    with pytest.raises(ValueError, match=r"three groups \(patient\) or more; there are 2"):
        split_by_patient(frame, 0)
    with pytest.raises(ValueError, match=r"whose sum is 1. Received: \(0.6, 0.2, 0.3\)"):
        split_by_patient(_frame(0), 0, (0.6, 0.2, 0.3))


@pytest.mark.parametrize("split_rows", [split_by_patient, split_by_source])
def test_real_data_is_split_with_every_lesion_everywhere(shared_data, split_rows):
    frame = read_covid_ct(shared_data / "covid-ct").rows
    split = split_rows(frame, seed=0)
    assert split.groupby(frame["patient"]).nunique().max() == 1
    assert (frame.groupby(split)[list(LESIONS)].sum() > 0).all(axis=None)
    for covid in (0, 1):
        shares = split[frame["covid"] == covid].value_counts(normalize=True)[list(SPLITS)]
        assert np.abs(shares.to_numpy() - FRACTIONS).max() < 0.04


def test_real_published_split_shares_three_preprints(shared_data):
    papers = papers_in_several_splits(read_covid_ct(shared_data / "covid-ct").rows)
    assert papers.index.tolist() == ["20034686", "20035212", "20040782"]
    assert papers.loc["20040782"].tolist() == [4, 5, 5]
