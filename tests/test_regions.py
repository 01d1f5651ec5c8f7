"""Anchors, suppression, crops and the second view, against cases by hand and TensorFlow's own image operations."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ladnn_tf.models import regions
from ladnn_tf.models.regions import PerImage, SelectRegions, Shares, StopGradient, Views


def test_anchors_of_the_default_size():
    """448 pixels: 14 x 14 squares of 48, then 7 x 7 of 96; the third scale adds 4 x 4 of 192."""
    boxes = regions.anchors(448, (14, 7), (48, 96))
    assert boxes.shape == (196 + 49, 4)
    assert boxes.dtype == np.float32
    # Cells of 32 pixels: the first centre is 16, the next one to the right 48; the last one 432.
    assert boxes[0].tolist() == [-8, -8, 40, 40]
    assert boxes[1].tolist() == [-8, 24, 40, 72]
    assert boxes[14].tolist() == [24, -8, 72, 40]
    assert boxes[195].tolist() == [408, 408, 456, 456]
    # Cells of 64 pixels: the first centre is 32.
    assert boxes[196].tolist() == [-16, -16, 80, 80]
    assert boxes[-1].tolist() == [368, 368, 464, 464]
    third = regions.anchors(448, (14, 7, 4), (48, 96, 192))
    assert third.shape == (245 + 16, 4)
    np.testing.assert_array_equal(third[:245], boxes)
    # Cells of 112 pixels: the first centre is 56.
    assert third[245].tolist() == [-40, -40, 152, 152]


def test_anchors_of_cells_that_are_no_whole_pixels():
    # 10 pixels in 4 cells of 2.5: centres 1.25, 3.75, ...
    assert regions.anchors(10, (4,), (3,))[5].tolist() == [2.25, 2.25, 5.25, 5.25]


def test_overlaps_by_hand():
    boxes = np.array([[0, 0, 4, 4], [0, 2, 4, 6], [4, 4, 8, 8], [1, 1, 3, 3]], np.float32)
    expected = [
        [1, 8 / (16 + 16 - 8), 0, 4 / 16],
        [1 / 3, 1, 0, 2 / (16 + 4 - 2)],
        [0, 0, 1, 0],
        [1 / 4, 1 / 9, 0, 1],
    ]
    np.testing.assert_allclose(regions.overlaps(boxes), expected, rtol=1e-6)


def test_neighbours_on_a_scale_suppress_each_other_and_diagonal_ones_do_not():
    """48 on cells of 32: 16 x 48 shared of 3840 is 0.2, across the corner 16 x 16 of 4352 is 0.06."""
    found = regions.overlaps(regions.anchors(96, (3,), (48,)))
    np.testing.assert_allclose(found[0, [1, 3, 4]], [768 / 3840, 768 / 3840, 256 / 4352], rtol=1e-6)
    assert ((found > regions.OVERLAP)[4] == [0, 1, 0, 1, 1, 1, 0, 1, 0]).all()


def test_interpolation_by_hand():
    """Three values from pixel 1 to pixel 2; from half a pixel before the image to its last pixel."""
    found = regions.interpolation(np.array([[1.0, -0.5]], np.float32), np.array([[2.0, 2.5]], np.float32), 3, 3)
    expected = [
        [[0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]],
        [[0.5, 0, 0], [0, 1, 0], [0, 0, 0.5]],
    ]
    np.testing.assert_allclose(found, [expected])


def test_shrinking_by_hand():
    # The first is read about the edge of pixels 0 and 1, in a tent of 2 to either side: they and pixel 2 lie
    # 0.5, 0.5 and 1.5 off.
    np.testing.assert_allclose(
        regions.shrinking(2, 4), [[3 / 7, 3 / 7, 1 / 7, 0], [0, 1 / 7, 3 / 7, 3 / 7]], rtol=1e-6
    )
    np.testing.assert_allclose(regions.shrinking(3, 3), np.eye(3))


@pytest.mark.parametrize(("out", "size"), [(5, 12), (16, 32), (9, 7)])
def test_shrinking_is_tensorflow_s_antialiased_resize(out, size):
    image = np.random.default_rng(out).uniform(0, 255, (size, size, 1)).astype(np.float32)
    rows = regions.shrinking(out, size)
    expected = tf.image.resize(image, (out, out), "bilinear", antialias=True)[..., 0]
    np.testing.assert_allclose(rows @ image[..., 0] @ rows.T, expected, atol=1e-3)


def test_suppression_by_hand():
    """Nine squares of 48 in three rows; side by side they suppress each other, across corners they do not."""
    layer = SelectRegions(96, (3,), (48,), 3)
    scores = np.array([[0.1, 0.8, 0.2, 0.7, 0.9, 0.6, 0.3, 0.5, 0.4]], np.float32)
    # The middle one takes all but the corners, of which 8, 6 and 2 have the highest scores.
    boxes, found = layer(scores)
    np.testing.assert_allclose(found, [[0.9, 0.4, 0.3]])
    np.testing.assert_array_equal(boxes, [[[24, 24, 72, 72], [56, 56, 104, 104], [56, -8, 104, 40]]])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [False, True])
def test_suppression_is_tensorflow_s(seed, ties):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(3, 245 + 16)).astype(np.float32)
    if ties:
        scores = np.round(scores)  # some hundred anchors have the same score
    layer = SelectRegions(448, (14, 7, 4), (48, 96, 192), 6)
    boxes, found = layer(scores)
    anchors = regions.anchors(448, (14, 7, 4), (48, 96, 192))
    for image in range(3):
        expected = tf.image.non_max_suppression(anchors, scores[image], 6, iou_threshold=regions.OVERLAP).numpy()
        np.testing.assert_array_equal(boxes[image], anchors[expected])
        np.testing.assert_array_equal(found[image], scores[image][expected])


def test_where_too_few_are_left_the_first_anchor_is_taken_again():
    layer = SelectRegions(8, (2,), (8,), 3)  # each of the four covers a third of each other, or a seventh
    boxes, found = layer(np.array([[-1.0, -4.0, -3.0, 2.0]], np.float32))
    np.testing.assert_array_equal(found, [[2, -1, -1]])
    np.testing.assert_array_equal(boxes[0, 1:], [[-2, -2, 6, 6]] * 2)


def test_only_the_scores_that_were_taken_have_a_gradient():
    scores = tf.Variable([[0.1, 0.8, 0.2, 0.7, 0.9, 0.6, 0.3, 0.5, 0.4]])
    with tf.GradientTape(persistent=True) as tape:
        boxes, found = SelectRegions(96, (3,), (48,), 2)(scores)
        weighted = tf.reduce_sum(found * [[2.0, 3.0]])
    np.testing.assert_allclose(tape.gradient(weighted, scores), [[0, 0, 0, 0, 2, 0, 0, 0, 3]])
    assert tape.gradient(boxes, scores) is None


def test_training_draws_regions_by_the_softmax_of_their_scores():
    """Four squares that do not touch. At temperature 2 the scores 2 ln(1, 2, 3, 4) are drawn as 1 : 2 : 3 : 4, and
    after the last of them the others as 1 : 2 : 3."""
    keras.utils.set_random_seed(1)
    layer = SelectRegions(96, (2,), (24,), 2, temperature=2.0)
    scores = np.tile(2 * np.log([[1.0, 2.0, 3.0, 4.0]]).astype(np.float32), (4000, 1))
    found = np.exp(np.array(layer(scores, training=True)[1]) / 2).round().astype(int)  # the scores, without noise
    assert (found[:, 0] != found[:, 1]).all()
    first = np.bincount(found[:, 0], minlength=5)[1:] / 4000
    np.testing.assert_allclose(first, [0.1, 0.2, 0.3, 0.4], atol=0.03)
    second = found[found[:, 0] == 4, 1]
    np.testing.assert_allclose(
        np.bincount(second, minlength=4)[1:] / len(second), [1 / 6, 1 / 3, 1 / 2], atol=0.05
    )
    again = np.exp(np.array(layer(scores, training=True)[1]) / 2).round().astype(int)
    assert (again != found).any()


def test_only_training_draws_and_only_at_a_temperature():
    scores = np.random.default_rng(0).normal(size=(50, 13)).astype(np.float32)
    best = SelectRegions(96, (3, 2), (48, 96), 2)
    drawn = SelectRegions(96, (3, 2), (48, 96), 2, temperature=1.0)
    for ours, theirs in zip(drawn(scores, training=False), best(scores, training=True), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not best.variables


def cut(images, boxes, out):
    """The crops of `Views`, without the second view: `(B, K, out, out, 3)`."""
    confidences = np.ones(boxes.shape[:2], np.float32)
    views = Views(images.shape[1], out)(images, boxes, confidences)
    return np.reshape(views, (len(images), boxes.shape[1] + 1, out, out, 3))[:, :-1]


def test_crops_by_hand():
    """Pixels 1 and 2 as they are; in three steps with their means between; and half outside of the image."""
    image = np.zeros((1, 4, 4, 3), np.float32)
    image[0, ..., 0] = np.arange(16).reshape(4, 4)
    inside, corner = [1, 1, 3, 3], [-1, 2, 2, 5]
    two = cut(image, np.array([[inside]], np.float32), 2)[0, 0, ..., 0]
    np.testing.assert_allclose(two, [[5, 6], [9, 10]])
    three = cut(image, np.array([[inside, corner]], np.float32), 3)[0, ..., 0]
    np.testing.assert_allclose(three[0], [[5, 5.5, 6], [7, 7.5, 8], [9, 9.5, 10]])
    np.testing.assert_allclose(three[1], [[0, 0, 0], [2, 3, 0], [6, 7, 0]])


def test_crops_are_tensorflow_s_of_an_image_padded_by_zeros():
    rng = np.random.default_rng(0)
    size, out, pad, count = 20, 7, 12, 5
    images = rng.uniform(-2, 2, (2, size, size, 3)).astype(np.float32)
    start = rng.uniform(-8, 15, (2, count, 2))
    boxes = np.concatenate([start, start + rng.uniform(3, 12, (2, count, 2))], axis=-1).astype(np.float32)
    boxes[0, 0] = [-8, -8, 4, 4]
    boxes[1, 0] = [17, 5, 29, 17]
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    shares = (boxes + pad - np.array([0, 0, 1, 1])) / (size + 2 * pad - 1)  # the first and the last pixel
    expected = tf.image.crop_and_resize(
        padded, shares.reshape(-1, 4).astype(np.float32), np.repeat([0, 1], count), (out, out)
    )
    np.testing.assert_allclose(cut(images, boxes, out), np.reshape(expected, (2, count, out, out, 3)), atol=1e-4)


def second(images, boxes, confidences, out):
    views = Views(images.shape[1], out)(images, np.array(boxes, np.float32), np.array(confidences, np.float32))
    return np.reshape(views, (len(images), -1, out, out, 3))[:, -1]


def test_the_second_view_by_hand():
    """Pixels 1 to 2 at 0.5 and pixels 2 to 4 at 0.25; where both are, the higher; the rest black."""
    image = np.full((1, 6, 6, 3), 8.0, np.float32)
    boxes = [[[1, 1, 3, 3], [2, 2, 5, 5]]]
    found = second(image, boxes, [[0.5, 0.25]], 6)
    expected = np.array(
        [
            [0, 0, 0, 0, 0, 0],
            [0, 4, 4, 0, 0, 0],
            [0, 4, 4, 2, 2, 0],
            [0, 0, 2, 2, 2, 0],
            [0, 0, 2, 2, 2, 0],
            [0, 0, 0, 0, 0, 0],
        ]
    )
    for channel in range(3):
        np.testing.assert_allclose(found[0, ..., channel], expected, atol=1e-6)
    other_way = second(image, [boxes[0][::-1]], [[0.25, 0.5]], 6)
    np.testing.assert_allclose(other_way, found)
    # Half as large, by the rows of `shrinking`, which are TensorFlow's.
    half = second(image, boxes, [[0.5, 0.25]], 3)
    resized = tf.image.resize(found, (3, 3), "bilinear", antialias=True)
    np.testing.assert_allclose(half, resized, atol=1e-5)


def test_the_second_view_knows_rows_from_columns_and_what_lies_outside():
    image = np.zeros((1, 4, 4, 3), np.float32)
    image[0, ..., 1] = np.arange(16).reshape(4, 4)
    found = second(image, [[[-3, 2, 1, 9]]], [[1.0]], 4)[0, ..., 1]
    np.testing.assert_allclose(found, [[0, 0, 2, 3], [0] * 4, [0] * 4, [0] * 4], atol=1e-6)


def test_the_views_of_an_image_follow_each_other():
    """Image after image: its regions in their order, then its second view."""
    images = np.ones((2, 8, 8, 3), np.float32) * np.array([1.0, 10.0], np.float32)[:, None, None, None]
    boxes = np.array([[[0, 0, 4, 4], [4, 4, 8, 8], [0, 4, 4, 8]]] * 2, np.float32)
    images[:, 4:, 4:] *= 2
    images[:, :4, 4:] *= 3
    views = Views(8, 4)(images, boxes, np.full((2, 3), 0.5, np.float32))
    assert views.shape == (8, 4, 4, 3)
    np.testing.assert_allclose(views[:3, 0, 0, 0], [1, 2, 3])
    np.testing.assert_allclose(views[4:7, 0, 0, 0], [10, 20, 30])
    np.testing.assert_allclose(np.max(views[3], axis=(0, 1, 2)), 1.5)
    np.testing.assert_allclose(np.max(views[7], axis=(0, 1, 2)), 15)


def test_no_gradient_flows_from_the_views_to_boxes_and_confidences():
    images = tf.Variable(tf.ones((1, 6, 6, 3)))
    boxes, confidences = tf.Variable([[[1.0, 1.0, 4.0, 4.0]]]), tf.Variable([[0.5]])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(Views(6, 3)(images, boxes, confidences))
    of_images, of_boxes, of_confidences = tape.gradient(total, [images, boxes, confidences])
    assert of_boxes is None
    assert of_confidences is None
    assert np.abs(of_images).max() > 0


def test_the_small_layers_by_hand():
    features = np.arange(12, dtype=np.float32).reshape(6, 2)
    np.testing.assert_array_equal(PerImage(3)(features), features.reshape(2, 3, 2))
    boxes = np.array([[[-8, 0, 40, 448]]], np.float32)
    np.testing.assert_allclose(Shares(448)(boxes), [[[-8 / 448, 0, 40 / 448, 1]]])
    inputs = tf.Variable([1.0, 2.0])
    with tf.GradientTape() as tape:
        outputs = StopGradient()(inputs)
    np.testing.assert_array_equal(outputs, [1, 2])
    assert tape.gradient(outputs, inputs) is None


@pytest.mark.parametrize(
    ("layer", "inputs", "outputs"),
    [
        (SelectRegions(96, (3, 2), (48, 96), 2, 0.5), [(13,)], [(2, 4), (2,)]),
        (Views(8, 5), [(8, 8, 3), (2, 4), (2,)], [(5, 5, 3)]),
        (PerImage(3), [(4,)], [(3, 4)]),
        (Shares(8), [(2, 4)], [(2, 4)]),
        (StopGradient(), [(2, 4)], [(2, 4)]),
    ],
    ids=["select", "views", "per_image", "shares", "stop"],
)
def test_layers_know_their_shapes_and_come_back_from_their_configuration(layer, inputs, outputs):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    symbolic = keras.tree.flatten(again(*[keras.Input(shape) for shape in inputs]))
    assert [tensor.shape for tensor in symbolic] == [(None, *shape) for shape in outputs]
    rng = np.random.default_rng(0)
    values = [rng.uniform(size=(6, *shape)).astype(np.float32) for shape in inputs]
    for ours, theirs in zip(*(keras.tree.flatten(each(*values)) for each in (layer, again)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
