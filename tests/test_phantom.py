import ast
import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ladnn_tf.data import phantom, phantom_scanner, phantom_slice
from ladnn_tf.data.phantom import format_summary, write_dataset
from ladnn_tf.data.phantom_anatomy import sample_patient
from ladnn_tf.data.phantom_plan import COMBINATIONS, plan_patients
from ladnn_tf.data.phantom_sheet import write_contact_sheet
from ladnn_tf.data.phantom_slice import LESION_AREA_LIMIT, draw_slice
from ladnn_tf.labels import COVID, LESIONS, SPLITS, canonical_label

NAMES = {"train": "train_meta.csv", "validation": "val_meta.csv", "test": "test_meta.csv"}


def _patient(seed=0):
    return sample_patient(*np.random.default_rng(seed).spawn(2))


def _rows(path: Path) -> list[list[str]]:
    with path.open(encoding="latin-1", newline="") as file:
        return list(csv.reader(file))


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Sixty patients: 18, 4 and 8 of each class, so that every lesion is in each split."""
    out = tmp_path_factory.mktemp("phantom") / "data"
    write_dataset(out, patients=60, size=64, seed=3)
    return out


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_dataset(tmp_path / name, patients=6, size=48, seed=seed)
    first, again, other = (_files(tmp_path / name) for name in "abc")
    assert first == again
    images = {name for name in first if name.startswith("images")}
    assert images
    assert not {first[name] for name in images} & set(other.values())


@pytest.mark.parametrize("size", [48, 96, 224])
@pytest.mark.parametrize("findings", sorted({*COMBINATIONS, ("GGO", "motion", "emphysema", "nodule")}))
def test_lesions_cover_something_but_at_most_a_tenth_of_the_lungs(findings, size):
    drawn = draw_slice(_patient(1), findings, level=0.5, seed=2, size=size)
    assert set(drawn.lesions) == set(findings) & set(LESIONS)
    together = np.zeros_like(drawn.lung)
    for mask in drawn.lesions.values():
        assert mask.any()
        assert not (mask & ~drawn.lung).any()
        together |= mask
    assert 0.04 * drawn.lung.sum() < together.sum() <= LESION_AREA_LIMIT * drawn.lung.sum()


def test_a_lesion_changes_at_most_a_tenth_of_the_lungs_pixels(monkeypatch):
    # Not only the masks keep the limit: without noise and blur nothing else differs from the healthy slice.
    monkeypatch.setattr(phantom_slice, "acquire", lambda patient, anatomy, hu, motion, rng: hu)
    patient = _patient(4)
    drawn = draw_slice(patient, ("GGO",), level=0.4, seed=9)
    extent = {}
    monkeypatch.setattr(
        phantom_slice,
        "_lesion_extents",
        lambda *arguments, original=phantom_slice._lesion_extents: (extent.update(original(*arguments)), {})[1],
    )
    monkeypatch.setattr(phantom_slice, "LESIONS", ())
    monkeypatch.setattr(phantom_slice, "_check", lambda findings, size: None)
    healthy = draw_slice(patient, ("GGO",), level=0.4, seed=9)
    changed = np.abs(drawn.hu - healthy.hu) > 0.5
    assert (changed == ((extent["GGO"] > 0) & changed)).all()
    assert 0.02 * drawn.lung.sum() < changed.sum() <= LESION_AREA_LIMIT * drawn.lung.sum()


def test_no_lesion_without_a_lesion_finding():
    for findings in ((), ("nodule",), ("emphysema",), ("motion",)):
        drawn = draw_slice(_patient(2), findings, level=0.3, seed=0, size=64)
        assert drawn.lesions == {}
        assert set(drawn.others) == set(findings) - {"motion"}


def _mean(drawn, mask):
    return float(np.mean(drawn.hu[mask]))


def test_densities_are_ordered_as_in_radiology():
    """Over ten patients: lung < ground glass < consolidation, and a bronchogram is darker than its host."""
    values = {name: [] for name in ("lung", "GGO", "Csld", "AirBr", "host", "emphysema", "nodule")}
    for seed in range(10):
        patient = _patient(seed)
        covid = draw_slice(patient, ("GGO", "Csld"), level=0.5, seed=seed)
        air = draw_slice(patient, ("Csld", "AirBr"), level=0.5, seed=seed)
        other = draw_slice(patient, ("emphysema", "nodule"), level=0.2, seed=seed)
        healthy = covid.lung & ~covid.lesions["GGO"] & ~covid.lesions["Csld"]
        values["lung"].append(float(np.median(covid.hu[healthy])))
        values["GGO"].append(_mean(covid, covid.lesions["GGO"]))
        values["Csld"].append(float(np.median(covid.hu[covid.lesions["Csld"]])))
        values["AirBr"].append(_mean(air, air.lesions["AirBr"]))
        values["host"].append(_mean(air, air.lesions["Csld"] & ~air.lesions["AirBr"]))
        values["emphysema"].append(_mean(other, other.others["emphysema"] & ~other.others["nodule"]))
        values["nodule"].append(_mean(other, other.others["nodule"]))
    mean = {name: np.mean(numbers) for name, numbers in values.items()}
    assert mean["emphysema"] < mean["lung"] < mean["GGO"] < mean["Csld"]
    assert -900 < mean["lung"] < -780
    assert -650 < mean["GGO"] < -400
    assert -150 < mean["Csld"] < 60
    assert -250 < mean["nodule"] < 80
    for dark, bright in (("AirBr", "host"), ("lung", "GGO"), ("GGO", "Csld")):
        assert all(np.array(values[dark]) < np.array(values[bright]) - 60)


def test_vessels_show_through_ground_glass_but_not_through_consolidation(monkeypatch):
    """The line from vessel-less to vessel pixels is seen in ground glass, hidden in consolidation."""
    contrast = {}
    for lesion in ("GGO", "Csld"):
        inside = []
        for seed in range(8):
            patient = _patient(seed)
            drawn = draw_slice(patient, (lesion,), level=0.5, seed=seed)
            anatomy = phantom_slice.draw_anatomy(patient, 0.5, 224, np.random.default_rng(seed))
            thick = drawn.lesions[lesion] & (anatomy.vessels > 0.6)
            none = drawn.lesions[lesion] & (anatomy.vessels == 0)
            if thick.sum() > 5:
                inside.append(np.median(drawn.hu[thick]) - np.median(drawn.hu[none]))
        contrast[lesion] = np.mean(inside)
    assert contrast["GGO"] > 150
    assert contrast["Csld"] < 50


def test_septal_lines_are_thin_and_leave_the_lobules_dark():
    dark, bright = [], []
    for seed in range(6):
        drawn = draw_slice(_patient(seed), ("InSepThi",), level=0.6, seed=1)
        healthy = np.median(drawn.hu[drawn.lung & ~drawn.lesions["InSepThi"]])
        low, high = np.percentile(drawn.hu[drawn.lesions["InSepThi"]], [20, 90])
        dark.append(low - healthy)
        bright.append(high - healthy)
    # The lobules are lung as elsewhere (the lines' blur and the lung's gravity gradient add a little).
    assert np.mean(dark) < 110
    assert np.mean(bright) > 300


def test_the_window_maps_its_ends_and_its_level():
    # Level -600, width 1500: -1350 is black, 150 is white, the level itself is 127.5, rounded to even.
    grey = phantom_scanner.display_window(np.array([-2000.0, -1350.0, -600.0, 150.0, 900.0]), -600, 1500)
    assert grey.tolist() == [0, 0, 128, 255, 255]


def test_highest_takes_exactly_the_count_and_only_free_pixels():
    potential = np.array([[9.0, 8.0, 7.0], [6.0, 5.0, 4.0]])
    free = np.array([[False, True, True], [True, True, True]])
    extent = phantom_slice.highest(potential, free, 3, edge=1.0)
    # In order 8, 7, 6; heights 3/3, 2/3, 1/3 and h^2 (3 - 2h): 1, 20/27, 7/27.
    np.testing.assert_allclose(extent, [[0, 1, 20 / 27], [7 / 27, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("findings", "message"),
    [
        (("GGO", "tumour"), r"findings should be of .* got tumour"),
        (("CrPa",), "must hold GGO"),
        (("AirBr",), "add Csld or GGO"),
    ],
)
def test_impossible_findings_are_refused(findings, message):
    with pytest.raises(ValueError, match=message):
        draw_slice(_patient(), findings, level=0.5, seed=0)


def test_a_slice_too_small_is_refused():
    with pytest.raises(ValueError, match="at least 32 pixels; got 16"):
        draw_slice(_patient(), (), level=0.5, seed=0, size=16)


def test_split_by_patient_with_every_lesion_in_every_split(dataset):
    patient_of = {row[0]: row[1] for row in _rows(dataset / "ucsd/COVID-CT-MetaInfo.csv")[1:]}
    patient_of |= {row[1]: row[2] for row in _rows(dataset / "ucsd/NonCOVID-CT-MetaInfo.csv")[1:]}
    patients = {}
    for split in SPLITS:
        header, *rows = _rows(dataset / "la-dnn" / NAMES[split])
        assert header == ["imgname", "CVD19", "GGO", "Csld", "CrPa", "AirBr", "InSepThi"]
        assert {row[1] for row in rows} == {"CVD19", ""}
        for column, lesion in enumerate(LESIONS, start=2):
            assert {row[column] for row in rows} == {lesion, ""}
        patients[split] = {patient_of[row[0]] for row in rows}
    assert not patients["train"] & patients["test"]
    assert not patients["train"] & patients["validation"]
    assert not patients["validation"] & patients["test"]
    # 30 positives and 30 negatives: 15 % of 30 is 4.5 -> 4, 25 % is 7.5 -> 8, each twice.
    assert {split: len(names) for split, names in patients.items()} == {
        "train": 36,
        "validation": 8,
        "test": 16,
    }


def test_default_plan_has_every_lesion_labelled_in_every_split_and_the_declared_fractions():
    planned = plan_patients(220, seed=0)
    assert sorted(patient.number for patient in planned) == list(range(1, 221))
    assert 600 <= sum(patient.slices for patient in planned) <= 700
    unlabelled = [patient for patient in planned if patient.lesions and not patient.labelled]
    assert 0.05 <= len(unlabelled) / 110 <= 0.15
    for split in SPLITS:
        here = [patient for patient in planned if patient.split == split and patient.labelled]
        assert {lesion for patient in here for lesion in patient.lesions} == set(LESIONS)
        # Nothing of the others tells the class.
        for finding in phantom_slice.OTHER_FINDINGS:
            assert any(finding in patient.others for patient in here if patient.lesions)
            assert any(finding in patient.others for patient in here if not patient.lesions)
    assert all(1 <= len(patient.lesions) <= 3 for patient in planned if patient.lesions)


def test_each_positive_is_matched_with_a_negative_of_its_split():
    planned = plan_patients(40, seed=1)
    cases = {(p.split, p.match): p.slices for p in planned if p.lesions}
    controls = {(p.split, p.match): p.slices for p in planned if not p.lesions}
    assert len(cases) == 20
    assert cases == controls
    first, second = (
        sample_patient(np.random.default_rng(anatomy), np.random.default_rng(9)) for anatomy in (1, 2)
    )
    for name in ("window", "noise", "lung_density", "fat", "half_width", "contrast"):
        assert getattr(first, name) == getattr(second, name)
    assert first.view.field_of_view == second.view.field_of_view
    assert not np.array_equal(first.tree, second.tree)


def test_published_formats(dataset):
    header, *annotation = _rows(dataset / "la-dnn/COVID-CT-MetaInfo_new.csv")
    assert ",".join(header) == (
        ",,C0VID19,GGO,consolidation(Csld),Crazy paving appearance(CrPa),air bronchograms(AirBr),"
        "interlobular septal thickening(InSepThi),"
    )
    header, *positives = _rows(dataset / "ucsd/COVID-CT-MetaInfo.csv")
    assert header == ["File name", "Patient ID", "patient_id", "Age", "Gender"]
    header, *negatives = _rows(dataset / "ucsd/NonCOVID-CT-MetaInfo.csv")
    assert header == ["", "image name", "patient id", "", "patient_id"]
    on_disk = {path.name for path in (dataset / "images/CT_COVID").iterdir()}
    assert on_disk == {row[0] for row in annotation} == {row[0] for row in positives}
    assert {path.name for path in (dataset / "images/CT_NonCOVID").iterdir()} == {row[1] for row in negatives}
    for name, patient, number, age, sex in positives:
        assert re.fullmatch(rf"phantom-covid_{number}-\d\.(png|jpg)", name)
        assert patient == f"Patient {number}"
        assert age == "" or 18 <= int(age) <= 90
        assert sex in ("M", "F", "")
    for index, (row, name, patient, _, number) in enumerate(negatives):
        assert (row, patient) == (str(index), f"phantom_patient_{number}")
        assert re.fullmatch(rf"phantom-(normal|nodule|emphysema|motion)_{number}-\d\.(png|jpg)", name)
    labels = {row[0]: row[1:] for split in SPLITS for row in _rows(dataset / "la-dnn" / NAMES[split])[1:]}
    for name, patient, *tokens, report in annotation:
        assert labels[name] == tokens
        assert next(canonical_label(token) for token in tokens if token) == COVID
        (text,) = ast.literal_eval(report)
        assert patient in text
    assert {name for name, tokens in labels.items() if tokens[0]} == on_disk


def test_reports_mention_the_labelled_lesions_only(dataset):
    words = {
        "GGO": r"ground[- ]glass|GGO",
        "Csld": r"consolidat",
        "CrPa": r"crazy[- ]paving",
        "AirBr": r"air bronchogram",
        "InSepThi": r"interlobular sept",
    }
    texts = set()
    for row in _rows(dataset / "la-dnn/COVID-CT-MetaInfo_new.csv")[1:]:
        for lesion, token in zip(LESIONS, row[3:8], strict=True):
            assert bool(re.search(words[lesion], row[8], re.IGNORECASE)) == (token == lesion), row[8]
        texts.add(re.sub(r"\d+", "", row[8]))
    assert len(texts) > 20


def test_masks_belong_to_the_slices_and_unlabelled_positives_have_them_too(dataset):
    size = (64, 64)
    seen = 0
    for row in _rows(dataset / "la-dnn/COVID-CT-MetaInfo_new.csv")[1:]:
        stem = Path(row[0]).stem
        lung = np.asarray(Image.open(dataset / f"masks/lung/{stem}.png"))
        assert lung.shape == size
        assert set(np.unique(lung)) == {0, 255}
        masks = {name: dataset / f"masks/{name}/{stem}.png" for name in LESIONS}
        present = {name: np.asarray(Image.open(path)) > 0 for name, path in masks.items() if path.exists()}
        assert present
        together = np.any(list(present.values()), axis=0)
        assert not (together & (lung == 0)).any()
        assert together.sum() <= LESION_AREA_LIMIT * (lung > 0).sum()
        labelled = {token for token in row[3:8] if token}
        assert labelled in (set(present), set())
        seen += not labelled
    assert seen > 0
    for row in _rows(dataset / "ucsd/NonCOVID-CT-MetaInfo.csv")[1:]:
        stem = Path(row[1]).stem
        assert (dataset / f"masks/lung/{stem}.png").exists()
        assert not any((dataset / f"masks/{name}/{stem}.png").exists() for name in LESIONS)


def test_the_readme_says_that_nothing_is_real(dataset):
    text = (dataset / "README.txt").read_text(encoding="utf-8")
    assert "Synthetic" in text
    assert "--patients=60 --size=64 --seed=3" in text
    assert str(dataset) not in text


def _histograms(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    histograms, labels = [], []
    for name, covid, *_ in _rows(folder / "la-dnn" / NAMES[split])[1:]:
        image = np.asarray(Image.open(folder / "images" / ("CT_COVID" if covid else "CT_NonCOVID") / name))
        histograms.append(np.bincount(image.ravel() // 4, minlength=64) / image.size)
        labels.append(bool(covid))
    return np.array(histograms), np.array(labels)


def test_the_grey_histogram_does_not_give_the_class_away(tmp_path):
    write_dataset(tmp_path / "data", patients=160, size=64, seed=1)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    model.fit(*_histograms(tmp_path / "data", "train"))
    histograms, labels = _histograms(tmp_path / "data", "test")
    assert len(labels) > 100
    assert roc_auc_score(labels, model.decision_function(histograms)) < 0.80


def test_a_folder_that_holds_anything_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        write_dataset(tmp_path / "data", patients=6, size=48)
    assert _files(tmp_path) == {"data/mine.txt": b"mine"}
    with pytest.raises(FileExistsError, match="not an empty folder"):
        write_dataset(tmp_path / "data" / "mine.txt", patients=6, size=48)


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(phantom, "write_report", interrupted)
    (tmp_path / "data").mkdir()
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "data", patients=6, size=48)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    monkeypatch.undo()
    summary = write_dataset(tmp_path / "data", patients=6, size=48)
    assert (tmp_path / "data" / "README.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert sum(summary.patients.values()) == 6


def test_too_few_patients_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"at least 6.*got 5"):
        write_dataset(tmp_path / "data", patients=5)


def test_summary_counts_what_is_on_disk(dataset, tmp_path):
    summary = write_dataset(tmp_path / "data", patients=6, size=48, seed=2)
    for split in SPLITS:
        rows = _rows(tmp_path / "data" / "la-dnn" / NAMES[split])[1:]
        assert summary.slices[split, "covid"] == sum(row[1] == "CVD19" for row in rows)
        assert summary.slices[split, "other"] == sum(row[1] == "" for row in rows)
        assert summary.lesions[split, "GGO"] == sum(row[2] == "GGO" for row in rows)
    table = format_summary(summary).splitlines()
    assert table[0].split() == ["split", "patients", "slices", "COVID-19", *LESIONS, "unlabelled", "other"]
    assert [line.split()[0] for line in table[1:]] == list(SPLITS)


def _command(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ladnn_tf.data.phantom", *arguments]
    root = Path(__file__).resolve().parent.parent
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)


def test_command_prints_counts_and_paths_and_refuses_a_second_run(tmp_path):
    out, sheet = tmp_path / "data", tmp_path / "sheet.png"
    done = _command(f"--out={out}", "--patients=6", "--size=48", f"--contact_sheet={sheet}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split()[:3] == ["split", "patients", "slices"]
    assert str(out) in done.stdout
    assert str(sheet) in done.stdout
    assert sheet.exists()
    again = _command(f"--out={out}", "--patients=6", "--size=48")
    assert again.returncode == 1
    assert "not an empty folder" in again.stderr
    assert "Traceback" not in again.stderr


def test_contact_sheet_shows_nine_rows(tmp_path):
    write_contact_sheet(tmp_path / "sheets" / "sheet.png", size=64, columns=2)
    with Image.open(tmp_path / "sheets" / "sheet.png") as sheet:
        assert sheet.mode == "RGB"
        pixels = np.asarray(sheet).astype(int)
    # The outlines are the only coloured pixels.
    coloured = (pixels.max(2) - pixels.min(2)) > 60
    rows = np.array_split(np.arange(sheet.height), 9)
    assert [bool(coloured[row].any()) for row in rows] == [True] * 5 + [False, True, True, False]
