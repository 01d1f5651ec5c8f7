"""The input pipeline: the image contract in TensorFlow, stateless order and augmentation."""

import io
import math

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image

from ladnn_tf.data import pipeline, preprocess
from ladnn_tf.data.manifest import read_manifest

NO_AUGMENTATION = pipeline.Augmentation(scale_min=1.0, scale_max=1.0, flip=False)


def assert_both_sides_agree(files, size):
    """Decoded pixels equal; after the resize at most 0.1 % of pixels differ, by one level."""
    different = total = 0
    for file in files:
        encoded = file.read_bytes()
        pixels = preprocess.decode(encoded)
        decoded = pipeline.decode(tf.constant(encoded))
        np.testing.assert_array_equal(decoded, pixels, err_msg=str(file))
        ours = preprocess.resize(pixels, size).astype(int)
        gap = np.abs(ours - pipeline.resize(decoded, size).numpy().astype(int))
        assert gap.max() <= 1, file
        different += np.count_nonzero(gap.any(axis=-1))
        total += size * size
    assert different <= 0.001 * total, f"{different} of {total} pixels"


def test_both_sides_of_the_image_contract_agree_on_all_real_slices(shared_data):
    files = sorted((shared_data / "covid-ct" / "images").glob("*/*"))
    assert len(files) == 746
    assert_both_sides_agree(files, 224)


def test_both_sides_of_the_image_contract_agree_on_phantoms(phantoms):
    # 47 of 64 pixels: simple ratios, such as 48 of 64, make exact ties in the rounding.
    assert_both_sides_agree(sorted((phantoms / "images").glob("*/*"))[:12], 47)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "I;16", "JPEG"])
def test_both_sides_decode_every_kind_alike(mode):
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 4)).astype(np.uint8)
    images = {
        "L": lambda: Image.fromarray(noise[..., 0]),
        "LA": lambda: Image.fromarray(noise[..., :2]),
        "RGB": lambda: Image.fromarray(noise[..., :3]),
        "RGBA": lambda: Image.fromarray(noise),
        "P": lambda: Image.fromarray(noise[..., :3]).quantize(16),
        "1": lambda: Image.fromarray(noise[..., 0]).convert("1"),
        "I;16": lambda: Image.fromarray(noise[..., 0].astype(np.uint16) * 256 + noise[..., 1]),
        "JPEG": lambda: Image.fromarray(noise[..., :3]),
    }
    buffer = io.BytesIO()
    images[mode]().save(buffer, "JPEG" if mode == "JPEG" else "PNG")
    encoded = buffer.getvalue()
    np.testing.assert_array_equal(pipeline.decode(tf.constant(encoded)), preprocess.decode(encoded))


def test_verify_images_names_every_bad_file_with_its_row(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "good.png")
    (tmp_path / "pointer.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    names = ["good.png", "pointer.png", "missing.png"]
    frame = pd.DataFrame({"path": [str(tmp_path / name) for name in names], "row": [7, 9, 12]})
    frame.attrs["path"] = "manifest.csv"
    with pytest.raises(ValueError, match=r"2 of 3 images of manifest\.csv") as caught:
        pipeline.verify_images(frame)
    message = str(caught.value)
    assert "row 9: " in message
    assert "Git LFS pointer" in message
    assert f"row 12: {tmp_path / 'missing.png'}: No such file" in message
    assert "good.png" not in message
    pipeline.verify_images(frame.iloc[:1])


def test_an_image_that_only_tensorflow_cannot_decode_is_named_too(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        Image.new("L", (4, 4)).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"")
    names = ["a.png", "b.png", "c.png"]
    frame = pd.DataFrame({"path": [str(tmp_path / name) for name in names], "row": [2, 5, 8]})
    with pytest.raises(ValueError, match=r"row 5: .*b\.png cannot be decoded"):
        pipeline.load_images(frame, 8)


def test_images_are_cached_in_order_in_memory_and_on_disk(phantom_manifest, tmp_path):
    frame = read_manifest(phantom_manifest).iloc[[5, 0, 9]]
    expected = np.stack([preprocess.read_image(path, 24) for path in frame["path"]])
    for cache in ("memory", str(tmp_path / "cache")):
        images = pipeline.load_images(frame, 24, cache)
        assert images.dtype == np.uint8
        assert np.abs(images.astype(int) - expected).max() <= 1
    assert isinstance(images, np.memmap)


def frame_of_labels():
    return pd.DataFrame(
        {
            "covid": [1, 1, 0],
            "GGO": [1.0, np.nan, np.nan],
            "Csld": [0.0, np.nan, np.nan],
            "CrPa": [0.0, np.nan, np.nan],
            "AirBr": [0.0, np.nan, np.nan],
            "InSepThi": [1.0, np.nan, np.nan],
        }
    )


def test_targets_keep_unknown_apart_from_absent():
    labels = pipeline.targets(frame_of_labels())
    assert labels["covid"].tolist() == [[1], [1], [0]]
    assert labels["lesions"].tolist() == [[1, 0, 0, 0, 1], [-1] * 5, [-1] * 5]


def test_lesion_targets_all_takes_negatives_as_free_of_lesions_but_not_unlabelled_positives():
    labels = pipeline.targets(frame_of_labels(), "all")
    assert labels["lesions"].tolist() == [[1, 0, 0, 0, 1], [-1] * 5, [0] * 5]
    with pytest.raises(ValueError, match="positives or all"):
        pipeline.targets(frame_of_labels(), "some")


def dataset(images, first_epoch, epochs, seed=1, augmentation=NO_AUGMENTATION):
    rows = np.arange(len(images), dtype=np.float32)[:, None]
    batches = pipeline.training_dataset(
        images, {"covid": rows}, batch_size=4, seed=seed, augmentation=augmentation,
        first_epoch=first_epoch, epochs=epochs,
    )  # fmt: skip
    return list(batches.as_numpy_iterator())


def diagnosed(*rows):
    """A frame of (covid, diagnosis), numbered as in a file whose first row is the heading."""
    frame = pd.DataFrame(rows, columns=["covid", "diagnosis"])
    frame["row"] = np.arange(len(frame)) + 2
    frame.attrs["path"] = "m.csv"
    return frame


def test_classes_are_selected_by_diagnosis_and_an_unnamed_positive_is_covid():
    frame = diagnosed((1, "covid19"), (0, "viral"), (1, ""), (0, "normal"), (0, ""), (0, "bacterial"))
    found = pipeline.select_classes(frame, ("covid19", "normal"))
    assert found["row"].tolist() == [2, 4, 5]
    assert found.index.tolist() == [0, 1, 2]
    assert pipeline.diagnoses(found).tolist() == ["covid19", "covid19", "normal"]
    assert pipeline.select_classes(frame, ("covid19", "bacterial", "normal"))["row"].tolist() == [2, 4, 5, 7]
    assert pipeline.select_classes(frame, ()) is frame  # a model without classes takes all


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(1, "covid19"), (1, "viral"), (0, "normal")], r"m\.csv, row 3: the diagnosis is viral, but covid is 1"),
        ([(1, "covid19"), (0, "normal"), (0, "covid19")], r"row 4: the diagnosis is covid19, but covid is 0"),
        ([(0, "viral"), (0, "")], r"m\.csv has no image with one of the diagnoses covid19, normal in this split"),
    ],
)
def test_contradictions_and_missing_classes_are_named(rows, message):
    with pytest.raises(ValueError, match=message):
        pipeline.select_classes(diagnosed(*rows), ("covid19", "normal"))


def test_a_split_without_one_of_the_classes_is_evaluated_on_the_others():
    frame = diagnosed((0, "normal"), (0, ""))
    assert pipeline.select_classes(frame, ("covid19", "normal"))["row"].tolist() == [2]


def test_targets_of_classes_are_one_hot_in_their_order():
    frame = diagnosed((0, "normal"), (1, ""), (0, "bacterial"), (1, "covid19"))
    found = pipeline.targets(frame, classes=("covid19", "bacterial", "normal"))
    expected = [[0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert list(found) == ["covid", "classes", "image", "regions"]
    assert found["covid"].tolist() == [[0], [1], [0], [1]]
    for head in ("classes", "image", "regions"):
        assert found[head].dtype == np.float32
        assert found[head].tolist() == expected
    two = pipeline.targets(frame.iloc[[0, 1]], classes=("covid19", "normal"))
    assert two["classes"].tolist() == [[0, 1], [1, 0]]


@pytest.fixture(scope="module")
def ten_images():
    return np.random.default_rng(1).integers(0, 256, (10, 8, 8, 3)).astype(np.uint8)


def test_every_epoch_shows_every_row_once_in_another_order(ten_images):
    batches = dataset(ten_images, 0, 2)
    assert [len(images) for images, _ in batches] == [4, 4, 2, 4, 4, 2]
    orders = [np.concatenate([y["covid"][:, 0] for _, y in batches[i : i + 3]]) for i in (0, 3)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert orders[0].tolist() != orders[1].tolist()
    for images, labels in batches:
        np.testing.assert_array_equal(images, ten_images[labels["covid"][:, 0].astype(int)])


def test_order_and_augmentation_are_functions_of_seed_epoch_and_row(ten_images):
    augmentation = pipeline.Augmentation(shear_degrees=10, brightness=0.1, contrast=0.1)
    whole = dataset(ten_images, 0, 3, augmentation=augmentation)
    resumed = dataset(ten_images, 2, 3, augmentation=augmentation)
    for (images, labels), (others, other_labels) in zip(whole[6:], resumed, strict=True):
        np.testing.assert_array_equal(images, others)
        np.testing.assert_array_equal(labels["covid"], other_labels["covid"])
    another_seed = dataset(ten_images, 2, 3, seed=2, augmentation=augmentation)
    assert any((a[0] != b[0]).any() for a, b in zip(another_seed, resumed, strict=True))


def test_a_row_is_augmented_by_its_own_draws_wherever_it_stands_in_the_order(ten_images):
    augmentation = pipeline.Augmentation(shear_degrees=10, brightness=0.1, contrast=0.1)
    draws = pipeline.augmentation_draws(1, tf.constant(4, tf.int64), 10)
    assert len({tuple(row) for row in draws.numpy()}) == 10
    expected = pipeline.augment(ten_images, draws, augmentation).numpy()
    for images, labels in dataset(ten_images, 4, 5, augmentation=augmentation):
        np.testing.assert_allclose(images, expected[labels["covid"][:, 0].astype(int)], atol=1e-3)
    assert (draws.numpy() != pipeline.augmentation_draws(1, tf.constant(5, tf.int64), 10).numpy()).all()


def spot(row, column, size=9):
    image = np.zeros((1, size, size, 3), np.uint8)
    image[0, row, column] = 200
    return image


def where(pixels):
    return tuple(map(int, np.unravel_index(np.argmax(pixels[0, ..., 0]), pixels.shape[1:3])))


def apply(image, draws, **ranges):
    settings = {"scale_min": 1.0, "scale_max": 1.0, "flip": False} | ranges
    draw = tf.constant([[*draws, *[0.5] * (7 - len(draws))]], tf.float32)  # no shift unless it is given
    return pipeline.augment(tf.constant(image), draw, pipeline.Augmentation(**settings)).numpy()


def test_without_ranges_nothing_changes(ten_images):
    draws = tf.random.stateless_uniform((10, 7), seed=[0, 0])
    np.testing.assert_array_equal(pipeline.augment(ten_images, draws, NO_AUGMENTATION), ten_images)


def test_flip_mirrors_left_and_right_below_one_half():
    np.testing.assert_allclose(apply(spot(2, 1), [0, 0, 0.49, 0, 0], flip=True), spot(2, 7), atol=1e-3)
    np.testing.assert_allclose(apply(spot(2, 1), [0, 0, 0.5, 0, 0], flip=True), spot(2, 1), atol=1e-3)


def test_scale_two_doubles_the_distance_from_the_centre():
    enlarged = apply(spot(5, 2), [1, 0.5, 1, 0, 0], scale_max=2.0)  # centre is (4, 4)
    assert where(enlarged) == (6, 0)
    shrunk = apply(spot(6, 0), [0, 0.5, 1, 0, 0], scale_min=0.5, scale_max=1.0)
    assert where(shrunk) == (5, 2)
    assert shrunk[0, 0, 0, 0] == 0  # black outside


def test_shear_moves_a_row_by_the_tangent_of_the_angle_in_degrees():
    # 45 degrees: a row 3 below the centre moves 3 pixels; the centre's row stays.
    assert where(apply(spot(7, 4), [0, 1.0, 1, 0, 0], shear_degrees=45)) == (7, 1)
    assert where(apply(spot(7, 4), [0, 0.0, 1, 0, 0], shear_degrees=45)) == (7, 7)
    assert where(apply(spot(4, 4), [0, 1.0, 1, 0, 0], shear_degrees=45)) == (4, 4)
    assert math.isclose(math.tan(math.radians(45)), 1.0)


def test_shift_moves_by_a_share_of_the_side():
    """A third of nine pixels: three, right and down at the largest draws, left and up at the smallest."""
    assert where(apply(spot(4, 3), [0, 0.5, 1, 0, 0, 1.0, 0.5], shift=1 / 3)) == (4, 6)
    assert where(apply(spot(4, 3), [0, 0.5, 1, 0, 0, 0.5, 0.0], shift=1 / 3)) == (1, 3)
    # It comes after the others, so that its size does not depend on them: (4, 3) is enlarged to (4, 2) first.
    assert where(apply(spot(4, 3), [1, 0.5, 1, 0, 0, 1.0, 0.5], shift=1 / 3, scale_max=2.0)) == (4, 5)
    assert where(apply(spot(4, 3), [0, 0.5, 0, 0, 0, 1.0, 0.5], shift=1 / 3, flip=True)) == (4, 8)
    assert where(apply(spot(7, 4), [0, 1.0, 1, 0, 0, 0.5, 0.0], shift=1 / 3, shear_degrees=45)) == (4, 1)


def test_the_shift_leaves_the_other_draws_as_they_were():
    draws = pipeline.augmentation_draws(3, tf.constant(2, tf.int64), 50).numpy()
    np.testing.assert_array_equal(draws[:, :5], tf.random.stateless_uniform((50, 5), seed=[3, 2]))
    assert 0.3 < draws[:, 5].mean() < 0.7
    assert np.abs(np.corrcoef(draws.T)[5:, :5]).max() < 0.5


def test_brightness_and_contrast_by_hand():
    image = np.full((1, 4, 4, 3), 100, np.uint8)
    image[0, :2] = 50  # mean 75
    brighter = apply(image, [0, 0, 1, 1.0, 0], brightness=0.1)
    np.testing.assert_allclose(brighter[0, [0, 3], 0, 0], [75.5, 125.5], atol=1e-3)
    steeper = apply(image, [0, 0, 1, 0, 1.0], contrast=0.2)
    np.testing.assert_allclose(steeper[0, [0, 3], 0, 0], [45, 105], atol=1e-3)
    assert apply(np.full((1, 4, 4, 3), 250, np.uint8), [0, 0, 1, 1.0, 0], brightness=1.0).max() == 255


def test_prediction_dataset_keeps_order_and_the_last_small_batch(ten_images):
    batches = list(pipeline.prediction_dataset(ten_images, 4).as_numpy_iterator())
    assert [len(b) for b in batches] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(batches), ten_images)
