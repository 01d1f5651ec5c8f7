"""Folders of display pictures: the order of their names, and pseudo-HU."""

import numpy as np
import pytest
from PIL import Image

from ladnn_tf.data.picture_series import natural_key
from ladnn_tf.data.volumes import SeriesError, read_series


def save(folder, name, grey, size=(5, 4)):
    pixels = np.full((*size, 3), grey, np.uint8) if isinstance(grey, int) else grey
    Image.fromarray(pixels).save(folder / name)


def test_names_are_in_natural_order():
    names = ["slice_10", "slice_2", "109054_28.0.png", "109054_26.0.png", "Slice_1.PNG", "a1.2.840.9", "a1.2.99.1"]
    assert sorted(names, key=natural_key) == [
        "109054_26.0.png", "109054_28.0.png", "a1.2.99.1", "a1.2.840.9", "Slice_1.PNG", "slice_2", "slice_10",
    ]  # fmt: skip


def test_a_point_parts_whole_numbers():
    names = [f"IM-1.{number}.png" for number in (11, 2, 10, 3, 1)]
    assert sorted(names, key=natural_key) == [f"IM-1.{number}.png" for number in (1, 2, 3, 10, 11)]
    assert sorted(["9.25", "10.0", "9.5", "9"], key=natural_key) == ["9", "9.5", "9.25", "10.0"]
    # int() refuses as many digits
    assert natural_key(f"a{'9' * 5000}") < natural_key(f"a1{'0' * 5000}")
    assert sorted(["b/1.png", "a/2.png"], key=natural_key) == ["a/2.png", "b/1.png"]


def test_names_that_look_alike_in_messages_are_files_of_their_own(tmp_path):
    for number in range(12):
        save(tmp_path, f"{'a' * 70}_{number}_{'b' * 80}.png", 20 * number)
    (series,) = read_series(tmp_path)
    assert len(set(series.files)) == 1
    assert series.hu[:, 0, 0].tolist() == [60 * number - 1000 for number in range(12)]


def test_names_with_control_characters_are_files_of_their_own(tmp_path):
    for grey, sign in ((10, "\1"), (20, "\2")):
        save(tmp_path, f"a{sign}.png", grey)
    (series,) = read_series(tmp_path)
    assert series.files == ("a?.png", "a?.png")
    assert series.hu[:, 0, 0].tolist() == [-970, -940]


def test_other_files_beside_pictures_are_named(tmp_path):
    save(tmp_path, "1.png", 10)
    save(tmp_path, "2.png", 10)
    (tmp_path / "below").mkdir()
    save(tmp_path / "below", "3.png", 10)
    (series,) = read_series(tmp_path)
    assert len(series.hu) == 2
    assert series.report == ("left out: below/3.png: beside the pictures, and none of them.",)


def test_pictures_are_read_in_order_as_pseudo_hu(tmp_path):
    for number, grey in ((10, 200), (9, 100), (1, 0)):
        save(tmp_path, f"slice_{number}.png", grey)
    (series,) = read_series(tmp_path)
    assert series.files == ("slice_1.png", "slice_9.png", "slice_10.png")
    # grey * 3 - 1000
    assert series.hu[:, 0, 0].tolist() == [-1000, -700, -400]
    assert series.hu.shape == (3, 5, 4)
    assert series.hu.dtype == np.float32
    assert not series.calibrated
    assert np.isnan(series.spacing_mm).all()
    assert series.report == ()
    assert series.name == tmp_path.name
    assert series.pixels(1).tolist() == [[[100] * 3] * 4] * 5


def test_every_grey_level_comes_back(tmp_path):
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None], 3, axis=-1)
    save(tmp_path, "a.png", grey)
    (series,) = read_series(tmp_path)
    assert np.array_equal(series.pixels(0), grey)
    assert series.report == ("there is one slice only.",)


def test_what_is_irregular_is_reported(tmp_path):
    for number in range(3):
        save(tmp_path, f"{number}.png", 50)
    coloured = np.full((5, 4, 3), (255, 0, 0), np.uint8)
    save(tmp_path, "3.png", coloured)
    save(tmp_path, "4.png", 50, size=(4, 4))
    (tmp_path / "5.jpg").write_bytes(b"no picture")
    (series,) = read_series(tmp_path)
    assert len(series.hu) == 4
    assert series.hu[3, 0, 0] == 76 * 3 - 1000  # 0.299 * 255 (ITU-R BT.601)
    assert series.report == (
        "left out: 5.jpg: neither PNG nor JPEG; convert it.",
        "left out: 4.png: not of 5 x 4 pixels, as most are.",
        "1 picture is coloured and was made grey: 3.png.",
    )


def test_no_picture_can_be_read(tmp_path):
    (tmp_path / "5.jpg").write_bytes(b"no picture")
    with pytest.raises(SeriesError, match=r"no picture can be read\. left out: 5\.jpg: neither PNG nor JPEG"):
        read_series(tmp_path)


def test_the_real_persons_are_read(shared_data):
    folders = [folder for folder in (shared_data / "drenet-demo").iterdir() if folder.is_dir()]
    assert len(folders) == 2
    for folder in folders:
        (series,) = read_series(folder)
        numbers = [float(name.rsplit("_", 1)[-1].rsplit(".", 1)[0]) for name in series.files]
        assert numbers == sorted(numbers)
        assert len(series.hu) > 5
