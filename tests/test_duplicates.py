"""Duplicates across splits: found when equal or nearly so, and not when different or in one split."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ladnn_tf.data.covid_ct import read_covid_ct
from ladnn_tf.data.duplicates import hamming_distances, near_duplicates, perceptual_hash


def _picture(seed: int, height: int = 96, width: int = 120) -> np.ndarray:
    """A smooth random picture, (height, width, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth.convert("RGB"))


def _distance(first: np.ndarray, second: np.ndarray) -> int:
    return int(hamming_distances(perceptual_hash(first)[None], perceptual_hash(second)[None])[0, 0])


def test_hamming_distances_by_hand():
    first = np.array([[True, True, False, False], [True, False, True, False]])
    second = np.array([[True, True, True, True]])
    assert hamming_distances(first, second).tolist() == [[2], [2]]
    assert hamming_distances(first, first).tolist() == [[0, 2], [2, 0]]


def test_hash_of_a_pure_cosine_has_its_one_bit():
    # Along the columns frequency 3, along the rows frequency 0: coefficient (0, 3), which is bit 2 since the
    # mean (0, 0) is left out. All others are rounding, which the median must not lift above zero by far.
    columns = np.cos(np.pi * 3 * (2 * np.arange(32) + 1) / 64)
    grey = np.tile(np.round(127.5 + 100 * columns), (32, 1)).astype(np.uint8)
    bits = perceptual_hash(np.repeat(grey[:, :, None], 3, axis=2))
    assert bits.shape == (255,)
    assert bits[2]
    inverted = perceptual_hash(255 - np.repeat(grey[:, :, None], 3, axis=2))
    assert not inverted[2]


def test_hash_survives_resizing_and_brightness_but_not_another_picture():
    picture = _picture(0)
    half = np.asarray(Image.fromarray(picture).resize((60, 48), Image.Resampling.BILINEAR))
    brighter = np.clip(picture * 0.9 + 20, 0, 255).astype(np.uint8)
    assert _distance(picture, picture) == 0
    assert _distance(picture, half) <= 16
    assert _distance(picture, brighter) <= 16
    assert _distance(picture, _picture(1)) > 80


@pytest.fixture
def frame(tmp_path):
    """Rows 0 and 1: the same pixels; 2: the same smaller; 3: different; 4: as 0, but in its split."""
    pictures = [_picture(0), _picture(0), _picture(0)[::2, ::2], _picture(1), _picture(0)]
    rows = []
    for number, (picture, split) in enumerate(
        zip(pictures, ["train", "test", "validation", "test", "train"], strict=True)
    ):
        path = tmp_path / f"{number}.png"
        Image.fromarray(picture).save(path, compress_level=number)
        rows.append(
            {"image": path.name, "path": str(path), "split": split, "patient": f"p{number}", "covid": number % 2}
        )
    return pd.DataFrame(rows).assign(source="covid_ct/medpix")


def test_pairs_across_splits_are_found_and_those_within_one_are_not(frame):
    pairs = near_duplicates(frame)
    found = {kind: set() for kind in ("exact", "near")}
    for pair in pairs.itertuples():
        found[pair.kind].add((pair.image_1, pair.image_2))
    assert found["exact"] == {("0.png", "1.png"), ("1.png", "4.png")}
    assert found["near"] == {("0.png", "2.png"), ("1.png", "2.png"), ("2.png", "4.png")}
    assert pairs["kind"].tolist() == ["exact"] * 2 + ["near"] * 3
    first = pairs.iloc[0]
    assert (first["distance"], first["split_1"], first["split_2"]) == (0, "train", "test")
    assert (first["patient_1"], first["patient_2"], first["covid_1"], first["covid_2"]) == ("p0", "p1", 0, 1)


def test_only_equal_images_count_where_one_is_a_phantom(frame):
    pairs = near_duplicates(frame.assign(source="covid_ct/phantom"))
    assert pairs["kind"].tolist() == ["exact"] * 2
    assert list(zip(pairs["image_1"], pairs["image_2"], strict=True)) == [("0.png", "1.png"), ("1.png", "4.png")]
    # Row 0 alone: its near pair with 2 goes, those of 1 and 4 with 2 stay.
    frame.loc[0, "source"] = "covid_ct/phantom"
    pairs = near_duplicates(frame)
    assert pairs["kind"].tolist() == ["exact"] * 2 + ["near"] * 2
    assert set(pairs["image_1"][2:]) | set(pairs["image_2"][2:]) == {"1.png", "2.png", "4.png"}


def test_an_image_that_cannot_be_read_is_left_out(frame):
    Path(frame.loc[0, "path"]).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    pairs = near_duplicates(frame)
    assert "0.png" not in {*pairs["image_1"], *pairs["image_2"]}
    assert len(pairs) == 3


def test_no_pairs_keep_the_columns(frame):
    pairs = near_duplicates(frame[frame["split"] == "train"])
    assert len(pairs) == 0
    assert {"kind", "distance", "image_1", "image_2"} <= set(pairs.columns)


def test_real_published_split_has_four_pairs(shared_data):
    pairs = near_duplicates(read_covid_ct(shared_data / "covid-ct").rows)
    found = {
        frozenset(image.rsplit("/", 1)[-1] for image in pair)
        for pair in zip(pairs["image_1"], pairs["image_2"], strict=True)
    }
    assert found == {
        frozenset({"71%0.jpg", "kjr-21-e24-p5-29.png"}),
        frozenset({"71%1.jpg", "kjr-21-e24-p5-31.png"}),
        frozenset({"2020.03.12.20034686-p17-91-4.png", "2020.03.12.20034686-p17-91-2.png"}),
        frozenset({"1921.png", "1919.png"}),
    }
    assert (pairs["kind"] == "near").all()
    assert pairs["covid_1"].eq(pairs["covid_2"]).tolist() == [False, False, True, True]
