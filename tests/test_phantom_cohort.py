import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ladnn_tf.data import phantom_cohort, phantom_files
from ladnn_tf.data.manifest import read_manifest
from ladnn_tf.data.phantom import write_dataset
from ladnn_tf.data.phantom_anatomy import sample_patient
from ladnn_tf.data.phantom_bacterial import BACTERIAL_AREA_LIMIT, Pneumonia, draw_pneumonia, sample_pneumonia
from ladnn_tf.data.phantom_cohort import write_cohort
from ladnn_tf.data.phantom_cohort_plan import plan_cohort
from ladnn_tf.data.phantom_slice import LESION_AREA_LIMIT, draw_slice
from ladnn_tf.data.sources import datasets
from ladnn_tf.labels import CLASSES, LESIONS, SPLITS

WEDGE = Pneumonia(
    side=1,
    direction=0.6,
    opening=0.6,
    apex=0.3,
    lower=True,
    patchy=False,
    bilateral=False,
    rim=0.3,
    air=True,
    effusion=0.0,
)


def _patient(seed=0):
    return sample_patient(*np.random.default_rng(seed).spawn(2))


def _altered(pneumonia, **changes):
    return Pneumonia(**{**vars(pneumonia), **changes})


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _grey(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """Forty-five patients: 9, 2 and 4 of each class in the splits."""
    out = tmp_path_factory.mktemp("cohort") / "data"
    write_cohort(out, patients=45, size=64, seed=3)
    return out


def test_the_phantoms_of_the_published_format_are_as_they_were(tmp_path):
    """What the code drew before bacterial pneumonia came; decoded, for a new Pillow may pack otherwise."""
    write_dataset(tmp_path / "data", patients=9, size=48, seed=3)
    digest = hashlib.sha256()
    for path in sorted((tmp_path / "data").rglob("*")):
        if path.is_file() and path.suffix != ".jpg":
            digest.update(path.relative_to(tmp_path / "data").as_posix().encode())
            digest.update(_grey(path).tobytes() if path.suffix == ".png" else path.read_bytes())
    assert digest.hexdigest() == "3147d42a1298e86173e73399b439b3b6429141a21bc896c0903db4d839ec7d38"


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_cohort(tmp_path / name, patients=9, size=64, seed=seed)
    first, again, other = (_files(tmp_path / name) for name in "abc")
    assert first == again
    images = {name for name in first if name.startswith("images")}
    assert len(images) == 45
    assert not {first[name] for name in images} & set(other.values())


def test_120_patients_are_split_60_10_30_in_three_equal_classes():
    planned = plan_cohort(120, 5, 0)
    assert sorted(patient.number for patient in planned) == list(range(1, 121))
    counts = Counter((patient.diagnosis, patient.split) for patient in planned)
    for diagnosis in CLASSES:
        assert [counts[diagnosis, split] for split in SPLITS] == [24, 4, 12]
    # Numbers do not follow from the class or the split: not in turn, not in blocks.
    for name in ("diagnosis", "split"):
        for value in {getattr(patient, name) for patient in planned}:
            numbers = np.array([patient.number for patient in planned if getattr(patient, name) == value])
            assert set(numbers % 3) == {0, 1, 2}
            assert numbers.min() < 30
            assert numbers.max() > 90
    # A third of the bacterial ones have an effusion, a quarter each patches and both sides.
    bacterial = [patient for patient in planned if patient.diagnosis == "bacterial"]
    assert sum(patient.effusion for patient in bacterial) == 8 + 1 + 4
    assert sum(patient.patchy for patient in bacterial) == 6 + 1 + 3
    assert sum(patient.bilateral for patient in bacterial) == 6 + 1 + 3


def test_the_classes_are_matched_but_for_the_disease():
    groups = {}
    for patient in plan_cohort(120, 5, 0):
        groups.setdefault(patient.match, {})[patient.diagnosis] = patient
    assert len(groups) == 40
    for matched in groups.values():
        assert set(matched) == set(CLASSES)
        for name in ("split", "levels", "distractors", "age", "sex"):
            assert len({getattr(patient, name) for patient in matched.values()}) == 1
        ill = [np.count_nonzero(matched[diagnosis].extents) for diagnosis in ("covid19", "bacterial")]
        assert ill[0] == ill[1]
        assert 3 <= ill[0] <= 5
        assert not any(matched["normal"].extents)
    spread = Counter(np.count_nonzero(matched["covid19"].extents) for matched in groups.values())
    assert set(spread) == {3, 4, 5}


def test_the_manifest_is_read_back_and_no_patient_is_in_two_splits(cohort):
    frame = read_manifest(cohort / "manifest.csv")
    assert len(frame) == 225
    assert datasets(frame) == ("phantoms",)
    patients = frame.groupby("patient")
    assert (patients["split"].nunique() == 1).all()
    assert (patients["diagnosis"].nunique() == 1).all()
    assert (patients["image"].count() == 5).all()
    assert [list(rows["slice_index"]) for _, rows in patients] == [[1, 2, 3, 4, 5]] * 45
    assert (frame["covid"] == (frame["diagnosis"] == "covid19")).all()
    assert frame[list(LESIONS)].notna().all(axis=None)
    assert not frame.loc[frame["diagnosis"] == "normal", list(LESIONS)].any(axis=None)
    bacterial = frame[(frame["diagnosis"] == "bacterial") & frame[list(LESIONS)].any(axis=1)]
    assert (bacterial[["Csld", "GGO"]] == 1).all(axis=None)
    assert 0 < bacterial["AirBr"].sum() < len(bacterial)
    assert all(Path(path).is_file() for path in frame["path"])


def test_masks_match_the_labels_and_keep_the_limits(cohort):
    frame = read_manifest(cohort / "manifest.csv")
    shown, shares = Counter(), {"covid19": [], "bacterial": []}
    for row in frame.itertuples():
        stem = Path(row.image).name
        lung = _grey(cohort / "masks" / "lung" / stem) > 0
        together = np.zeros_like(lung)
        for lesion in LESIONS:
            path = cohort / "masks" / lesion / stem
            assert path.is_file() == (getattr(row, lesion) == 1)
            if path.is_file():
                mask = _grey(path)
                assert set(np.unique(mask)) == {0, 255}
                together |= mask > 0
        assert not (together & ~lung).any()
        if together.any():
            shown[row.patient] += 1
            shares[row.diagnosis].append(together.sum() / lung.sum())
    assert set(shown.values()) == {3, 4, 5}
    assert len(shown) == 30
    assert max(shares["covid19"]) <= LESION_AREA_LIMIT
    # One pixel for each of four extents at least, however small the slice is.
    assert max(shares["bacterial"]) <= BACTERIAL_AREA_LIMIT + 4 / 500
    medians = [np.median(shares[diagnosis]) for diagnosis in ("covid19", "bacterial")]
    assert 0.7 < medians[0] / medians[1] < 1.4
    assert min(shares["covid19"] + shares["bacterial"]) < 0.02


def test_names_and_order_tell_nothing_of_the_class(cohort):
    frame = read_manifest(cohort / "manifest.csv")
    assert all(re.fullmatch(r"images/\d{4}-[1-5]\.png", image) for image in frame["image"])
    assert frame["patient"].str.fullmatch(r"phantoms/3-\d{4}").all()
    assert frame["source"].nunique() == 1
    numbers = frame["image"].str[7:11].astype(int)
    for diagnosis in CLASSES:
        assert 15 < numbers[frame["diagnosis"] == diagnosis].mean() < 31
    for path in frame["path"]:
        with Image.open(path) as image:
            assert (image.mode, image.size, image.info) == ("L", (64, 64), {})


def test_distractors_are_in_every_class(cohort):
    frame = read_manifest(cohort / "manifest.csv").set_index("image")
    for finding in ("nodule", "emphysema"):
        names = [f"images/{path.name}" for path in (cohort / "masks" / "pathology" / finding).iterdir()]
        counts = frame.loc[names, "diagnosis"].value_counts()
        assert set(counts.index) == set(CLASSES)
        assert counts.max() == counts.min()
    names = [f"images/{path.name}" for path in (cohort / "masks" / "pathology" / "effusion").iterdir()]
    assert set(frame.loc[names, "diagnosis"]) == {"bacterial"}


@pytest.mark.parametrize("pair", [("covid19", "bacterial"), ("covid19", "normal")])
def test_brightness_does_not_tell_the_classes_apart(cohort, pair):
    """Fitted on train and validation, mean grey and a coarse histogram do not solve the test patients."""
    frame = read_manifest(cohort / "manifest.csv")
    frame = frame[frame["diagnosis"].isin(pair)]
    pixels = np.stack([_grey(path) for path in frame["path"]])
    features = {
        "mean": pixels.mean((1, 2))[:, None],
        "histogram": np.stack([np.histogram(image, 16, (0, 256))[0] for image in pixels]),
    }
    test = (frame["split"] == "test").to_numpy()
    for values in features.values():
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        model.fit(values[~test], frame["diagnosis"][~test] == pair[0])
        scores = frame[test].assign(score=model.decision_function(values[test]))
        persons = scores.groupby("patient").agg({"score": "mean", "diagnosis": "first"})
        auc = roc_auc_score(persons["diagnosis"] == pair[0], persons["score"])
        assert auc < 0.8


@pytest.mark.parametrize("size", [64, 224])
def test_a_wedge_lies_on_its_side_and_holds_air(size):
    drawn = draw_pneumonia(_patient(1), WEDGE, (), level=0.6, share=0.1, seed=2, size=size)
    assert set(drawn.lesions) == {"GGO", "Csld", "AirBr"}
    middle = size * 0.5
    dense = drawn.lesions["Csld"]
    assert np.nonzero(dense)[1].min() > middle - size * 0.08
    other = draw_pneumonia(_patient(1), _altered(WEDGE, side=-1), (), level=0.6, share=0.1, seed=2, size=size)
    assert np.nonzero(other.lesions["Csld"])[1].max() < middle + size * 0.08
    air = drawn.lesions["AirBr"]
    assert not (air & ~dense).any()
    assert drawn.hu[air].mean() < drawn.hu[dense & ~air].mean() - 80
    together = dense | drawn.lesions["GGO"]
    assert 0.05 * drawn.lung.sum() < together.sum() <= 0.1 * drawn.lung.sum() + 2


def test_the_fissure_bounds_the_lobe():
    """In the same direction from the hilum, the lower lobe's focus lies behind the upper lobe's."""
    lobes = []
    for lower in (True, False):
        focus = _altered(WEDGE, lower=lower, direction=0.2)
        drawn = draw_pneumonia(_patient(1), focus, (), level=0.55, share=0.06, seed=2)
        lobes.append(drawn.lesions["Csld"])
    assert np.median(np.nonzero(lobes[0])[0]) > np.median(np.nonzero(lobes[1])[0]) + 10
    assert (lobes[0] & lobes[1]).sum() < 0.02 * lobes[0].sum()


def test_a_second_focus_is_on_the_other_side_and_smaller():
    one = draw_pneumonia(_patient(3), WEDGE, (), level=0.6, share=0.1, seed=1)
    two = draw_pneumonia(_patient(3), _altered(WEDGE, bilateral=True), (), level=0.6, share=0.1, seed=1)
    left = np.arange(224) >= 112
    sides = [[(drawn.lesions["Csld"] & side).sum() for side in (left, ~left)] for drawn in (one, two)]
    assert sides[0][1] == 0
    assert 0 < sides[1][1] < sides[1][0] < sides[0][0]


def test_an_effusion_is_fluid_at_the_back_of_its_side_and_no_lung():
    dry = draw_pneumonia(_patient(2), WEDGE, (), level=0.8, share=0.06, seed=5)
    wet = draw_pneumonia(_patient(2), _altered(WEDGE, effusion=0.2), (), level=0.8, share=0.06, seed=5)
    assert "effusion" not in dry.others
    fluid = wet.others["effusion"]
    assert not (fluid & wet.lung).any()
    assert (fluid & ~dry.lung).sum() < 0.1 * fluid.sum()
    assert abs(np.median(wet.hu[fluid]) - 10) < 15
    rows, columns = np.nonzero(fluid)
    assert columns.min() > 224 * 0.42
    assert np.median(rows) > np.median(np.nonzero(dry.lung)[0])
    reached = draw_pneumonia(_patient(2), _altered(WEDGE, effusion=0.2), (), level=0.8, share=0.0, seed=5)
    assert not reached.others
    assert (reached.hu == draw_slice(_patient(2), (), level=0.8, seed=5).hu).all()


def test_a_very_small_lesion_has_no_bronchus():
    drawn = draw_pneumonia(_patient(1), WEDGE, (), level=0.6, share=0.015, seed=2)
    assert set(drawn.lesions) == {"GGO", "Csld"}
    assert 0 < (drawn.lesions["Csld"] | drawn.lesions["GGO"]).sum() <= 0.015 * drawn.lung.sum() + 2


def test_extent_and_lesion_seed_of_covid_lesions():
    options = {"level": 0.6, "seed": 4}
    whole = draw_slice(_patient(1), ("GGO",), **options)
    half = draw_slice(_patient(1), ("GGO",), extent=0.5, **options)
    assert 0.4 < half.lesions["GGO"].sum() / whole.lesions["GGO"].sum() < 0.6
    # The same lesions under another slice's noise.
    first, second = (draw_slice(_patient(1), ("GGO",), level=0.6, seed=seed, lesion_seed=9) for seed in (4, 5))
    assert (first.lesions["GGO"] == second.lesions["GGO"]).all()
    assert (first.hu != second.hu).any()
    assert (first.lesions["GGO"] != whole.lesions["GGO"]).any()


def test_sampled_pneumonias_differ_and_follow_the_plan():
    drawn = [
        sample_pneumonia(np.random.default_rng(seed), effusion=seed % 2 == 0, bilateral=False, patchy=True)
        for seed in range(40)
    ]
    assert {pneumonia.side for pneumonia in drawn} == {-1, 1}
    assert {pneumonia.lower for pneumonia in drawn} == {False, True}
    assert [pneumonia.effusion > 0 for pneumonia in drawn] == [True, False] * 20
    assert all(pneumonia.patchy and not pneumonia.bilateral for pneumonia in drawn)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patients": 10}, "patients should be a multiple of 3, at least 9"),
        ({"patients": 6}, "patients should be a multiple of 3, at least 9"),
        ({"slices": 4}, "slices should be at least 5"),
        ({"size": 32}, "size should be at least 64"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_cohort(tmp_path / "data", **options)
    assert not list(tmp_path.iterdir())


def test_a_share_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"share should be from 0 to 0\.16; got 0\.2"):
        draw_pneumonia(_patient(), WEDGE, (), level=0.5, share=0.2, seed=0)


def test_an_interrupted_cohort_leaves_nothing(tmp_path, monkeypatch):
    written = []

    def fail(*arguments):
        written.append(arguments)
        if len(written) == 7:
            raise OSError("disk full")
        phantom_files.write_slice(*arguments)

    monkeypatch.setattr(phantom_cohort, "write_slice", fail)
    with pytest.raises(OSError, match="disk full"):
        write_cohort(tmp_path / "data", patients=9, size=64)
    assert not list(tmp_path.iterdir())


def test_a_full_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="exists and is not an empty folder"):
        write_cohort(tmp_path, patients=9, size=64)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_command_writes_counts_and_a_contact_sheet(tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    arguments = [f"--out={tmp_path / 'data'}", "--patients=9", "--size=64", f"--contact_sheet={sheet}"]
    assert phantom_cohort.main(["phantom_cohort", *arguments]) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith(SPLITS)]
    assert [re.findall(r"(\d+) patients", row) for row in rows] == [["1", "1", "1"]] * 3
    assert all(row.endswith("0/5 slices") for row in rows)
    assert "Nothing in this folder shows a person" in (tmp_path / "data" / "README.txt").read_text()
    assert _grey(sheet).shape == (9 * 68, 90 + 5 * 68, 3)
