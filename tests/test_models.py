"""The seven backbones and the twin heads. One sweep, eagerly, at 64 pixels (the first graph costs a minute)."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ladnn_tf import losses
from ladnn_tf.models.backbones import BACKBONES, NORMALISATION_LAYER
from ladnn_tf.models.ladnn import build_model, float32_copy, logits_model, trunk_layers

SEVEN = ["vgg16", "resnet18", "resnet50", "densenet121", "densenet169", "efficientnet_b0", "efficientnet_b1"]
LABELS = {
    "covid": np.array([[1.0], [0.0]], np.float32),
    "lesions": np.array([[1, 0, 0, 1, 0], [-1] * 5], np.float32),
}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)


def test_the_paper_s_seven_backbones_are_there():
    assert [name for name in BACKBONES if name != "tiny"] == SEVEN


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # Parameters of torchvision's models, 1000 classes.
        ("vgg16", 138_357_544 - (25_088 + 1) * 4096 - (4096 + 1) * 4096 - (4096 - 512) * 1000),
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032 + 26_560),  # Keras' convolutions have a bias, PyTorch's have none
        ("densenet121", 7_978_856),
        ("densenet169", 14_149_480),
        ("efficientnet_b0", 5_288_548),
        ("efficientnet_b1", 7_794_184),
    ],
)
def test_parameters_are_the_published_ones_less_the_classifier(name, published):
    assert BACKBONES[name].trainable == published - (BACKBONES[name].features + 1) * 1000


def count(weights):
    return sum(int(np.prod(w.shape)) for w in weights)


@pytest.mark.parametrize("name", SEVEN)
def test_backbone_sweep(name, images, tmp_path):
    """Builds, counts, gets a gradient everywhere, takes a step in both precisions, saves and loads."""
    backbone = BACKBONES[name]
    model = build_model(name, image_size=64)
    probabilities = model(images)
    assert {head: tuple(value.shape) for head, value in probabilities.items()} == {
        "covid": (2, 1),
        "lesions": (2, 5),
    }

    heads = (backbone.features + 1) * 6
    assert count(model.trainable_variables) == backbone.trainable + heads
    assert count(model.non_trainable_variables) - count(seeds(model)) == backbone.statistics

    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path, compile=False, safe_mode=True)
    for head, value in loaded(images).items():
        np.testing.assert_array_equal(value, probabilities[head])

    gradients = gradient(model, images, training=False)
    assert [path for path, g in gradients.items() if g is None or not np.any(g)] == []

    take_a_step(model, images)
    if name in ("resnet50", "densenet169", "efficientnet_b1"):
        return  # in mixed precision a smaller network of the same family stands for them
    # float16 is several times slower on a processor: one backbone stands for it.
    precision = "mixed_float16" if name == "resnet18" else "mixed_bfloat16"
    mixed = build_model(name, image_size=64, precision=precision)
    take_a_step(mixed, images)
    assert all(v.dtype == "float32" for v in mixed.trainable_variables)
    if name == "densenet121":
        return  # slow to save and to load
    mixed.save(path)
    again = keras.models.load_model(path, compile=False, safe_mode=True)(images)
    for head, value in mixed(images).items():
        assert value.dtype == "float32"
        np.testing.assert_array_equal(again[head], value)
    for head, value in float32_copy(mixed)(images).items():
        np.testing.assert_allclose(value, again[head], atol=0.05)


def seeds(model):
    return [v for v in model.non_trainable_variables if "seed" in v.path]


def gradient(model, images, training):
    """The gradient of the loss for each trainable weight, by path."""
    trained = logits_model(model)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(losses.per_image_loss(LABELS, trained(images, training=training)))
    assert np.isfinite(float(loss))
    gradients = tape.gradient(loss, [v.value for v in trained.trainable_variables])
    return {v.path: g for v, g in zip(trained.trainable_variables, gradients, strict=True)}


def take_a_step(model, images):
    """One optimizer step, eagerly, as in training; trunk and heads must move, and the moving statistics."""
    before = {v.path: np.array(v) for v in model.variables}
    gradients = gradient(model, images, training=True)
    variables = logits_model(model).trainable_variables
    keras.optimizers.Adam(1e-4).apply([gradients[v.path] for v in variables], variables)
    moved = {v.path for v in model.variables if (np.array(v) != before[v.path]).any()}
    assert {"covid_logits/kernel", "lesions_logits/kernel", variables[0].path} <= moved
    for batch_norm in (x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)):
        assert batch_norm.moving_mean.path in moved


def test_mixed_precision_keeps_heads_and_statistics_in_float32(tiny_backbone):
    model = build_model(tiny_backbone, image_size=64, precision="mixed_float16")
    assert model.get_layer("conv1").compute_dtype == "float16"
    for name in ("covid_logits", "lesions_logits", "covid", "lesions", NORMALISATION_LAYER, "features"):
        assert model.get_layer(name).compute_dtype == "float32", name
    assert model.get_layer("bn1").moving_mean.dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"  # nothing global stays behind


def test_the_lesions_begin_as_rare_and_without_a_preference(images, tiny_backbone):
    """A probability of 1 / (1 + e^2) = 0.119 for every image; COVID-19's head begins at random."""
    model = build_model(tiny_backbone, image_size=64)
    probabilities = model(images)
    np.testing.assert_allclose(probabilities["lesions"], 0.119203, atol=1e-6)
    assert np.ptp(probabilities["covid"]) > 0


def test_baseline_is_the_same_network_with_the_covid_head_alone(images, tiny_backbone):
    model = build_model(tiny_backbone, task="baseline", image_size=64)
    assert list(model(images)) == ["covid"]
    whole = build_model(tiny_backbone, image_size=64)
    names = [layer.name for layer in whole.layers if not layer.name.startswith("lesions")]
    assert [layer.name for layer in model.layers] == names


def test_logits_and_probabilities_are_one_network(images, tiny_backbone):
    model = build_model(tiny_backbone, image_size=64)
    logits, probabilities = logits_model(model)(images), model(images)
    for head in ("covid", "lesions"):
        np.testing.assert_allclose(1 / (1 + np.exp(-logits[head].numpy())), probabilities[head], atol=1e-6)


def test_normalisation_is_inside(tiny_backbone):
    model = build_model(tiny_backbone, image_size=32)
    normalised = keras.Model(model.input, model.get_layer(NORMALISATION_LAYER).output)
    grey = np.full((1, 32, 32, 3), 128, np.uint8)
    # (128 - mean) / std of ImageNet's R, G and B
    expected = [(128 - 123.675) / 58.395, (128 - 116.28) / 57.12, (128 - 103.53) / 57.375]
    np.testing.assert_allclose(normalised(grey)[0, 0, 0], expected, rtol=1e-4)


def test_uint8_and_float_pixels_give_the_same(images, tiny_backbone):
    model = build_model(tiny_backbone, image_size=64)
    np.testing.assert_array_equal(model(images)["covid"], model(images.astype(np.float32))["covid"])


def test_batch_norm_momentum_reaches_every_layer_and_the_file(tiny_backbone, tmp_path):
    model = build_model(tiny_backbone, image_size=32, batch_norm_momentum=0.7)
    model.save(tmp_path / "m.keras")
    for each in (model, keras.models.load_model(tmp_path / "m.keras")):
        momenta = {x.momentum for x in each.layers if isinstance(x, keras.layers.BatchNormalization)}
        assert momenta == {0.7}


def test_trunk_layers_end_before_the_pooling(tiny_backbone):
    names = [layer.name for layer in trunk_layers(build_model(tiny_backbone, image_size=32))]
    assert names[-1] == "dropout"
    assert "covid_logits" not in names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet101"}, "backbone should be one of vgg16, .*Received: 'resnet101'"),
        ({"task": "lesions"}, "task should be one of ladnn, baseline"),
        ({"image_size": 16}, "at least 32"),
        ({"precision": "float16"}, "precision should be one of"),
    ],
)
def test_wrong_arguments_name_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model(**{"backbone": "resnet18", **arguments})
