"""The export of the data collection, read back as training reads it."""

import collections
import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY
from contributions import contribution, export, files, given, image, noise

from ladnn_tf.data.preprocess import encode_png, read_pixels
from serving.collection import export as collection_export
from serving.collection.files import image_path
from serving.collection.images import prepare
from serving.collection.store import Collection


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def collection(folder):
    with Collection(folder) as opened:
        yield opened


def names(folder):
    """What a data folder's images are called, by the seed of their pixels."""
    return {str(image_path(folder, image(seed).sha256)): seed for seed in range(10)}


def test_an_export_is_read_as_a_manifest(collection, folder, tmp_path, capsys):
    lesions = {"GGO": True, "Csld": False, "AirBr": None}
    first = collection.add(contribution(0, 1, covid=True, lesions=lesions, patient_code="a"))
    second = collection.add(contribution(2, covid=False))
    collection.add(contribution(3, lesions={"GGO": True}))
    collection.add(contribution(4, covid=False, patient_code="A "))
    collection.withdraw(collection.add(contribution(5, covid=True)).text)
    frame = export(folder, tmp_path / "elsewhere" / "own.csv", "--site=st-anna")

    seeds = [names(folder)[path] for path in frame["path"]]
    assert seeds == [0, 1, 2, 4]
    assert frame["image"][0] == f"../data/images/{image(0).sha256[:2]}/{image(0).sha256}.png"
    assert (read_pixels(frame["path"][0]) == noise(0)).all()
    assert list(frame["covid"]) == [1, 1, 0, 0]
    assert list(frame["source"].unique()) == ["collected/st-anna"]
    for lesion, values in {"GGO": (1, 1), "Csld": (0, 0), "AirBr": (np.nan, np.nan)}.items():
        np.testing.assert_array_equal(frame[lesion], (*values, np.nan, np.nan))
    patients = list(frame["patient"])
    assert patients[0] == patients[1] == patients[3]  # one code
    assert patients[2] == f"collected/contribution-{second.contribution}"
    assert first.contribution not in patients[0]
    assert set(frame["report"]) == set(frame["diagnosis"]) == {""}

    output = capsys.readouterr().out
    assert "images: 4, patients: 2, contributions: 4\n" in output
    assert "contributions left out, as they state no diagnosis: 1\n" in output
    assert f"written: {tmp_path / 'elsewhere' / 'own.csv'}\n" in output
    assert frame.attrs["sha256"] in output


def test_the_page_may_be_running_and_nothing_is_changed(collection, folder, tmp_path):
    collection.add(contribution(0, covid=True))
    before = files(folder)
    export(folder, tmp_path / "a.csv")
    assert files(folder) == before
    collection.add(contribution(1, covid=True))
    assert len(export(folder, tmp_path / "a.csv")) == 2


def test_an_image_contributed_twice_is_one_row(collection, folder, tmp_path, capsys):
    collection.add(contribution(0, 1, covid=True, lesions={"GGO": True, "Csld": None}, patient_code="a"))
    collection.add(contribution(0, covid=True, lesions={"Csld": False}, patient_code="a"))
    frame = export(folder, tmp_path / "a.csv")
    assert [names(folder)[path] for path in frame["path"]] == [0, 1]
    assert (frame["GGO"][0], frame["Csld"][0]) == (1, 0)  # what either states
    assert (frame["GGO"][1], np.isnan(frame["Csld"][1])) == (1, True)
    assert "images contributed more than once, listed once: 1\n" in capsys.readouterr().out


def test_equal_pixels_in_two_files_are_one_image(collection, folder, tmp_path):
    # As another version of the PNG encoder would write them.
    other = dataclasses.replace(image(0), png=encode_png(noise(0), 1))
    assert image(0).sha256 != other.sha256
    for one in (image(0), other):
        collection.add(given(one, covid=True))
    assert len(export(folder, tmp_path / "a.csv")) == 1


@pytest.mark.parametrize(
    ("stated", "contrary"),
    [
        ({"covid": False, "lesions": {"CrPa": True}}, "covid"),
        ({"covid": True, "lesions": {"CrPa": False}}, "CrPa"),
        ({"covid": False, "lesions": {"CrPa": False}}, "covid, CrPa"),
    ],
)
def test_contradicting_labels_are_left_out_and_listed(collection, folder, tmp_path, capsys, stated, contrary):
    first = collection.add(contribution(0, 1, covid=True, lesions={"CrPa": True}, patient_code="a"))
    second = collection.add(contribution(0, patient_code="a", **stated))
    frame = export(folder, tmp_path / "a.csv")
    assert [names(folder)[path] for path in frame["path"]] == [1]
    path, where = image_path(folder, image(0).sha256), f"{first.contribution}, {second.contribution}"
    said = (
        f"images left out, as contributions state the contrary: 1\n  {path} (contributions {where}): {contrary}\n"
    )
    assert said in capsys.readouterr().out


def test_patients_who_share_an_image_are_one(collection, folder, tmp_path, capsys):
    collection.add(contribution(0, covid=True, patient_code="a"))
    collection.add(contribution(1, covid=False, patient_code="b"))
    collection.add(contribution(2, covid=False, patient_code="c"))
    alone = export(folder, tmp_path / "a.csv")
    assert alone["patient"].nunique() == 3
    capsys.readouterr()
    # It has no diagnosis, and so is no row, but says that a and b are one person.
    collection.add(contribution(1, 0))
    together = export(folder, tmp_path / "b.csv")
    assert list(together["patient"]) == [alone["patient"][0], alone["patient"][0], alone["patient"][2]]
    # b, and the last contribution's own
    output = capsys.readouterr().out
    assert "patients joined to another one, as they share a picture or have nearly the same: 2\n" in output
    assert "nearly the same picture of two patients" not in output


# What looks like no chest-CT slice


def test_what_the_contributor_insisted_on_is_named_and_left_out(collection, folder, tmp_path, capsys):
    photograph = prepare(encode_png(noise(0)))
    assert photograph.refusal.startswith("in colour")
    receipt = collection.add(given(photograph, image(1), covid=True))
    frame = export(folder, tmp_path / "a.csv")
    assert [names(folder)[path] for path in frame["path"]] == [1]
    where = f"{image_path(folder, photograph.sha256)} (contributions {receipt.contribution}): in colour"
    said = "images that look like no chest-CT slice, though the contributor says so, {}: 1\n  " + where
    assert said.format("left out") in capsys.readouterr().out
    assert len(export(folder, tmp_path / "b.csv", "--with_insisted")) == 2
    assert said.format("taken all the same") in capsys.readouterr().out
    collection.add(given(image(0), covid=True))  # judged before it was erased, and found right
    assert len(export(folder, tmp_path / "c.csv")) == 2
    assert "look like no chest-CT" not in capsys.readouterr().out


def test_what_is_left_out_joins_nobody(collection, folder, tmp_path):
    # Two photographs of one dark room are nearly the same, and their people are two.
    collection.add(given(prepare(encode_png(noise(0))), image(1), covid=True))
    collection.add(given(prepare(encode_png((noise(0) * 0.9).astype(np.uint8))), image(2), covid=True))
    assert export(folder, tmp_path / "a.csv")["patient"].nunique() == 2
    assert export(folder, tmp_path / "b.csv", "--with_insisted")["patient"].nunique() == 1


# Splits


def test_the_split_is_drawn_from_the_patient_s_name_60_15_25():
    # The SHA-256 of "b" begins with 3e, which is 62 of 256 or 0.24; of "abc" with ba, 0.73; of "a" with ca, 0.79.
    for patient, split in (("b", "train"), ("abc", "validation"), ("a", "test")):
        assert collection_export.split_of(patient) == split
    counts = collections.Counter(collection_export.split_of(f"collected/{number}") for number in range(10_000))
    # Three standard deviations of a share of 10,000 are at most 0.015.
    for split, share in (("train", 0.60), ("validation", 0.15), ("test", 0.25)):
        assert abs(counts[split] / 10_000 - share) < 0.015


def test_the_split_does_not_depend_on_what_else_is_there_nor_on_the_site(collection, folder, tmp_path):
    collection.add(contribution(0, covid=True, patient_code="a"))
    before = export(folder, tmp_path / "a.csv")
    for seed in range(1, 6):
        collection.add(contribution(seed, covid=False))
    after = export(folder, tmp_path / "a.csv", "--site=another")
    assert tuple(before.loc[0, ["patient", "split"]]) == tuple(after.loc[0, ["patient", "split"]])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [("train", 1), ("train", 0)],
            ["no patient is in split 'validation' yet", "no patient is in split 'test' yet"],
        ),
        (
            [("train", 1), ("validation", 0), ("validation", 1), ("test", 0)],
            ["split 'train' has no image without COVID-19 yet", "split 'test' has no image with COVID-19 yet"],
        ),
    ],
)
def test_an_empty_split_and_a_missing_class_are_said(rows, said):
    frame = collection_export.pd.DataFrame(rows, columns=["split", "covid"])
    assert collection_export.warnings_of(frame) == said


def test_the_warnings_are_printed(collection, folder, tmp_path, capsys):
    collection.add(contribution(0, covid=True))
    export(folder, tmp_path / "a.csv")
    output = capsys.readouterr().out
    assert output.count("warning: ") == 3


def test_nothing_to_export_is_an_error(collection, folder, tmp_path):
    collection.add(contribution(0))
    with pytest.raises(ValueError, match="no image to export; of 1 contributions 1 state no diagnosis"):
        export(folder, tmp_path / "a.csv")
    assert not (tmp_path / "a.csv").exists()


def test_missing_and_damaged_images_are_an_error(collection, folder, tmp_path):
    collection.add(contribution(0, 1, 2, covid=True))
    image_path(folder, image(0).sha256).unlink()
    image_path(folder, image(1).sha256).write_bytes(image(2).png)
    with pytest.raises(ValueError, match=r"2 of 3 images are missing or damaged.*No such file.*is damaged"):
        export(folder, tmp_path / "a.csv")


def test_a_wrong_folder_database_or_site_is_an_error(collection, folder, tmp_path):
    collection.add(contribution(0, covid=True))
    with pytest.raises(ValueError, match=r"no folder of the data collection: there is no collection\.key"):
        export(tmp_path / "mistyped", tmp_path / "a.csv")
    assert not (tmp_path / "mistyped").exists()
    with pytest.raises(OSError, match=r"No such file.*away\.sqlite"):
        export(folder, tmp_path / "a.csv", f"--database=sqlite:///{tmp_path / 'away.sqlite'}")
    Collection(tmp_path / "other").close()
    with pytest.raises(ValueError, match="another data folder"):
        export(folder, tmp_path / "a.csv", f"--database=sqlite:///{tmp_path / 'other' / 'collection.sqlite'}")
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(OSError, match="no such table"):
        export(folder, tmp_path / "a.csv", f"--database=sqlite:///{tmp_path / 'empty.sqlite'}")
    assert (tmp_path / "empty.sqlite").stat().st_size == 0
    with pytest.raises(ValueError, match="site should be letters"):
        export(folder, tmp_path / "a.csv", "--site=../x")


def test_the_collection_itself_needs_no_pandas_and_the_export_says_so():
    program = (
        "import sys; sys.modules['pandas'] = None\n"
        "import serving.collection.store\n"
        "assert not {'tensorflow', 'keras', 'absl'} & set(sys.modules)\n"
        "import serving.collection.export"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: the export needs the package pandas: pip install '.[train]' in the project's folder"
    )
