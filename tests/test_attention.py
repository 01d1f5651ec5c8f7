"""The closed form of Grad-CAM++ against derivatives taken numerically and against tf-keras-vis."""

import keras
import numpy as np
import pytest
from keras import ops

from ladnn_tf.models.attention import METHODS, AttentionMaps, attention_maps, attention_model, normalised
from ladnn_tf.models.backbones import BACKBONES
from ladnn_tf.models.ladnn import build_model, logits_model

SHAPE = (3, 4, 5)  # h, w, K


@pytest.fixture
def head():
    """Features of one image, and the layers behind them, in float64 so that third differences mean something."""
    generator = np.random.default_rng(1)
    features = generator.uniform(-0.2, 1.5, SHAPE)
    inputs = keras.Input(SHAPE, dtype="float64")
    pooled = keras.layers.GlobalAveragePooling2D(dtype="float64")(inputs)
    logits = keras.layers.Dense(2, dtype="float64")
    model = keras.Model(inputs, logits(pooled))
    logits.set_weights([generator.normal(0, 2, (SHAPE[-1], 2)), np.array([0.3, -0.2])])
    return features, model, logits.get_weights()[0]


def differences(model, features, label, step=0.05):
    """First, second and third derivative of exp(logit) by each feature, by central differences: `SHAPE` each."""
    offsets = np.array([-2, -1, 0, 1, 2]) * step
    moved = np.repeat(features[None], len(offsets) * features.size, axis=0)
    places = list(np.ndindex(features.shape))
    for number, place in enumerate(places):
        for column, offset in enumerate(offsets):
            moved[(number * len(offsets) + column, *place)] += offset
    scores = np.exp(ops.convert_to_numpy(model(moved))[:, label]).reshape(len(places), len(offsets))
    stencils = {
        1: np.array([1, -8, 0, 8, -1]) / (12 * step),
        2: np.array([-1, 16, -30, 16, -1]) / (12 * step**2),
        3: np.array([-1, 2, 0, -2, 1]) / (2 * step**3),
    }
    return [(scores @ stencil).reshape(features.shape) for stencil in stencils.values()]


@pytest.mark.parametrize("label", [0, 1])
def test_numeric_differentiation_gives_the_same_maps(head, label):
    """The paper's equations 5 and 6, term by term, with nothing known of the head but its scores."""
    features, model, kernel = head
    first, second, third = differences(model, features, label)
    alphas = second / (2 * second + features.sum(axis=(0, 1)) * third)
    expected = {
        "gradcam++_paper": (alphas * np.maximum(first, 0)).sum(axis=(0, 1)),
        "gradcam++": (alphas / alphas.sum(axis=(0, 1)) * np.maximum(first, 0)).sum(axis=(0, 1)),
        "cam": first.mean(axis=(0, 1)),
    }
    assert set(expected) == set(METHODS)
    assert (kernel[:, label] < 0).any()
    for method, weights in expected.items():
        reference = normalised(np.maximum(features @ weights, 0)[..., None])[..., 0]
        maps = ops.convert_to_numpy(attention_maps(features[None], kernel, method))[0]
        assert np.ptp(reference) == 1.0
        np.testing.assert_allclose(normalised(maps)[..., label], reference, atol=1e-4, err_msg=method)


def test_methods_by_hand():
    features = np.array([[[[1.0, 0.0], [0.0, 2.0]]]])  # two positions, two channels of mean 0.5 and 1
    kernel = np.array([[1.0, 1.0], [-1.0, 1.0]])
    maps = {method: ops.convert_to_numpy(attention_maps(features, kernel, method)) for method in METHODS}
    np.testing.assert_allclose(maps["gradcam++"], [[[[1, 1], [0, 2]]]])
    np.testing.assert_allclose(maps["cam"], [[[[1, 1], [0, 2]]]])
    np.testing.assert_allclose(maps["gradcam++_paper"], [[[[1 / 2.5, 1 / 2.5], [0, 2 / 3]]]], rtol=1e-6)
    against = attention_maps(np.full((1, 1, 1, 1), 2.0), np.array([[-1.0]]), "gradcam++_paper")
    np.testing.assert_array_equal(against, [[[[0.0]]]])  # where 2 + w mean(A) is 0
    features[..., 1] = 3.0  # a channel against the first label, everywhere
    np.testing.assert_allclose(attention_maps(features, kernel, "cam")[..., 0], [[[0, 0]]])
    np.testing.assert_allclose(attention_maps(features, kernel)[..., 0], [[[1, 0]]])
    np.testing.assert_allclose(attention_maps(-features, kernel)[..., 1], [[[0, 0]]])


def test_unknown_method():
    with pytest.raises(ValueError, match=r"method should be one of .*cam.*'gradcam'"):
        attention_maps(np.zeros((1, 1, 1, 1)), np.zeros((1, 1)), "gradcam")
    with pytest.raises(ValueError, match=r"method should be one of .*cam.*'gradcam'"):
        AttentionMaps(6, "gradcam")


def test_normalised_map_by_map():
    maps = np.zeros((2, 1, 3, 2))
    maps[0, 0, :, 0] = [1, 2, 5]
    maps[1, 0, :, 1] = [7, 7, 7]
    result = normalised(maps)
    np.testing.assert_allclose(result[0, 0, :, 0], [0, 0.25, 1])
    assert not result[0, ..., 1].any()
    assert not result[1].any()


@pytest.mark.parametrize("task", ["ladnn", "baseline"])
def test_the_model_with_attention_saves_and_loads(tiny_backbone, task, tmp_path):
    keras.utils.set_random_seed(2)
    model = build_model(tiny_backbone, task=task, image_size=32)
    for head in model.output:
        kernel = model.get_layer(f"{head}_logits").kernel
        kernel.assign(np.random.default_rng(5).normal(0, 1, kernel.shape))
    with_attention = attention_model(model, "gradcam++_paper")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.float32)
    outputs = with_attention(images)
    labels = 6 if task == "ladnn" else 1
    assert outputs["attention"].shape == (3, 4, 4, labels)
    assert outputs["attention"].dtype == "float32"
    for head, values in logits_model(model)(images).items():
        np.testing.assert_array_equal(outputs[head], values)
    with_attention.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")(images)
    assert np.max(outputs["attention"]) > 0
    np.testing.assert_array_equal(loaded["attention"], outputs["attention"])


def test_maps_follow_the_order_of_the_labels(tiny_backbone):
    """A head whose kernel is zero has a map of zeros, and the map lies in the place of its label."""
    model = build_model(tiny_backbone, image_size=32)
    covid, lesions = (model.get_layer(f"{head}_logits") for head in ("covid", "lesions"))
    covid.kernel.assign(np.zeros(covid.kernel.shape))
    kernel = np.zeros(lesions.kernel.shape)
    kernel[:, 2] = 1.0  # crazy paving
    lesions.kernel.assign(kernel)
    maps = attention_model(model)(np.full((1, 32, 32, 3), 90.0))["attention"]
    assert list(np.asarray(maps).max(axis=(0, 1, 2)) > 0) == [False, False, False, True, False, False]


@pytest.mark.parametrize(("number", "backbone"), list(enumerate(sorted(BACKBONES))))
def test_equals_tf_keras_vis(number, backbone):
    """COVID-19 and, of the lesions, one for each backbone, as tf-keras-vis needs a forward pass for each."""
    vis = pytest.importorskip("tf_keras_vis.gradcam_plus_plus")
    keras.utils.set_random_seed(4)
    model = build_model(backbone, image_size=96)
    lesions = model.get_layer("lesions_logits")
    lesions.kernel.assign(np.random.default_rng(5).normal(0, 0.1, lesions.kernel.shape))
    images = np.random.default_rng(3).integers(0, 256, (1, 96, 96, 3)).astype(np.float32)
    maps = normalised(np.asarray(attention_model(model)(images)["attention"]))
    logits = logits_model(model)
    joined = keras.Model(model.input, keras.layers.Concatenate(dtype="float32")(list(logits.output.values())))
    reference = vis.GradcamPlusPlus(joined, clone=False)
    pooling_reads = model.get_layer("features").input._keras_history.operation.name
    for label in (0, 1 + number % 5):
        expected = reference(
            lambda output, label=label: output[:, label],
            images,
            penultimate_layer=pooling_reads,
            seek_penultimate_conv_layer=False,
            expand_cam=False,
        )
        expected = normalised(np.asarray(expected)[..., None])[..., 0]
        assert np.ptp(expected) > 0.99, label
        np.testing.assert_allclose(maps[..., label], expected, atol=1e-4)
