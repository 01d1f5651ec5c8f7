"""Pictures of the data collection that are nearly the same, and what the export makes of them."""

import dataclasses

import numpy as np
import pytest
from contributions import export, given, image, noise

from ladnn_tf.data.preprocess import encode_png, read_pixels
from serving.collection.files import image_path
from serving.collection.images import CORNERS, Erasure, erase, prepare
from serving.collection.likeness import Likeness
from serving.collection.store import Collection


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def collection(folder):
    with Collection(folder) as opened:
        yield opened


def erased(seed, *corners, percent=15):
    """A noise image whose corners the contributor had erased."""
    return image(seed, Erasure(corners, percent))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (image(0), erased(0, "top_left")),
        (erased(0, *CORNERS, percent=30), image(0)),
        (erased(0, *CORNERS[:2], percent=30), erased(0, *CORNERS[2:], percent=25)),
    ],
)
def test_the_same_slice_with_erased_corners_stays_in_one_split_and_is_listed(
    collection, folder, tmp_path, capsys, first, second
):
    one, other = collection.add(given(first, covid=True)), collection.add(given(second, covid=True))
    collection.add(given(erased(1, "top_left"), covid=True))  # another person
    frame = export(folder, tmp_path / "a.csv")
    assert list(frame["patient"]) == [
        f"collected/contribution-{one.contribution}",
        f"collected/contribution-{one.contribution}",
        frame["patient"][2],
    ]
    assert frame["patient"].nunique() == 2
    output = capsys.readouterr().out
    assert "patients joined to another one, as they share a picture or have nearly the same: 1\n" in output
    paths = [image_path(folder, picture.sha256) for picture in (first, second)]
    assert (
        "pairs of nearly the same picture of two patients, taken for one: 1\n"
        f"  {paths[0]} (contributions {one.contribution}) and {paths[1]} (contributions {other.contribution}):"
        " distance 0\n"
    ) in output
    assert "contradicting" not in output


def test_pictures_that_are_nearly_the_same_and_their_contradicting_labels_are_listed(
    collection, folder, tmp_path, capsys
):
    brighter = dataclasses.replace(prepare(encode_png((noise(0) * 0.9).astype(np.uint8))), refusal="")
    collection.add(given(image(0), covid=True, lesions={"GGO": True, "CrPa": True}, patient_code="a"))
    collection.add(given(brighter, covid=False, lesions={"GGO": True, "CrPa": False}, patient_code="a"))
    collection.add(given(brighter, covid=False, lesions={"Csld": True}, patient_code="a"))
    frame = export(folder, tmp_path / "a.csv")
    assert list(frame["covid"]) == [1, 0]
    output = capsys.readouterr().out
    assert "of two patients" not in output
    assert "pairs of nearly the same picture with contradicting labels, not left out: 1\n" in output
    assert output.count(", covid, CrPa\n") == 1


def test_someone_without_a_diagnosis_joins_patients_too(collection, folder, tmp_path):
    collection.add(given(erased(0, "top_left", percent=30), covid=True))
    collection.add(given(erased(1, "top_left", percent=30), covid=True))
    assert export(folder, tmp_path / "a.csv")["patient"].nunique() == 2
    collection.add(given(image(0), image(1)))
    frame = export(folder, tmp_path / "b.csv")
    assert (len(frame), frame["patient"].nunique()) == (2, 1)


def test_the_slices_of_covid_ct_are_found_with_15_percent_of_each_corner_erased(shared_data):
    # Erased elsewhere or here; and others are not taken for them.
    folder = shared_data / "covid-ct" / "images"
    pixels = [read_pixels(path) for path in sorted(folder.glob("CT_*/*"))[::40]]
    everything, nothing = Erasure(CORNERS, 15), Erasure()
    for known in (everything, nothing):
        likeness = Likeness([nothing] * len(pixels) + [known] * len(pixels))
        for picture in pixels:
            likeness.add(picture)
        for picture in pixels:
            likeness.add(erase(picture, everything))
        pairs = {(pair.first, pair.second): pair.distance for pair in likeness.pairs()}
        same = [pairs.pop((place, place + len(pixels)), None) for place in range(len(pixels))]
        assert None not in same
        assert pairs == {}
        assert (max(same) == 0) == (known == everything)
