"""DRENet and its plain trunk as networks: shapes, shared weights, which loss trains what, saving."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from ladnn_tf import losses
from ladnn_tf.fused_batch_norm import with_fused_batch_norm
from ladnn_tf.models.backbones import BACKBONES, NORMALISATION_LAYER
from ladnn_tf.models.drenet import HIDDEN, CovidLogit, Regions, build_drenet, build_trunk, trained_outputs
from ladnn_tf.models.ladnn import build_model, float32_copy, logits_model, trunk_layers

SMALL = Regions((16.0, 24.0), 3, 32)
TRUNK = (27 + 3) * 8 + (72 + 3) * 16 + (144 + 3) * 16
"""Weights of the tiny trunk: per channel a kernel, a bias, a scale and a shift."""
LABELS = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
SHAPES = {
    "covid": (2, 1),
    "classes": (2, 3),
    "image": (2, 3),
    "regions": (2, 3, 3),
    "boxes": (2, 3, 4),
    "scores": (2, 3),
}


def build(**options):
    keras.utils.set_random_seed(1)
    return build_drenet("tiny", **{"classes": 3, "image_size": 64, "regions": SMALL, **options})


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model(tiny_backbone):
    """Tests read it; none changes its weights."""
    return build()


def count(variables):
    return sum(int(np.prod(variable.shape)) for variable in variables)


def shapes(outputs):
    return {name: tuple(value.shape) for name, value in outputs.items()}


def inner(model, *layers):
    """The outputs of layers within a model, by their names."""
    return keras.Model(model.input, {name: model.get_layer(name).output for name in layers})


def test_the_default_is_resnet50_at_448_with_two_scales():
    """196 anchors of 48 and 49 of 96 pixels; a view is 224 pixels; K + 2 = 5 feature vectors of 2048."""
    model = build_drenet()
    select = model.get_layer("region_scores")
    assert select.grids == [14, 7]
    assert select.sides == [48.0, 96.0]
    assert model.get_layer("views").output.shape == (None, 224, 224, 3)
    assert model.get_layer("all_features").output.shape == (None, 5 * 2048)
    assert model.get_layer("perceptron").output.shape == (None, 512)
    trunk = BACKBONES["resnet50"]
    proposals = (9 * 2048 + 1) * 128 + (9 * 128 + 1) * 128 + 2 * (128 + 1)
    heads = 2 * (2048 + 1) * 2 + (5 * 2048 + 1) * 512 + (512 + 1) * 2
    # The second pass has batch norm of its own: two numbers a channel are trained, and two are statistics.
    assert count(model.trainable_variables) == trunk.trainable + trunk.statistics + proposals + heads
    assert count(model.non_trainable_variables) == 2 * trunk.statistics
    image = np.random.default_rng(0).integers(0, 256, (1, 448, 448, 3)).astype(np.uint8)
    outputs = {name: value.numpy() for name, value in model(image).items()}
    assert shapes(outputs) == {
        "covid": (1, 1),
        "classes": (1, 2),
        "image": (1, 2),
        "regions": (1, 3, 2),
        "boxes": (1, 3, 4),
        "scores": (1, 3),
    }
    sides = (outputs["boxes"][0, :, 2:] - outputs["boxes"][0, :, :2]) * 448
    assert set(np.round(sides, 3).ravel().tolist()) <= {48.0, 96.0}


def test_outputs_are_probabilities_boxes_and_ordered_scores(model, images):
    outputs = {name: value.numpy() for name, value in model(images).items()}
    assert shapes(outputs) == SHAPES
    for name in ("classes", "image", "regions"):
        np.testing.assert_allclose(outputs[name].sum(axis=-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(outputs["covid"][:, 0], outputs["classes"][:, 0], rtol=1e-5)
    assert (np.diff(outputs["scores"]) <= 0).all()
    assert ((outputs["scores"] > 0) & (outputs["scores"] < 1)).all()
    # Anchors about cells of 8 and 16 pixels of 64: at most half a box outside.
    sides = (outputs["boxes"][..., 2:] - outputs["boxes"][..., :2]) * 64
    assert set(sides.ravel().tolist()) <= {16.0, 24.0}
    assert outputs["boxes"].min() >= -12 / 64
    assert outputs["boxes"].max() <= 1 + 12 / 64


def test_boxes_are_the_best_anchors_of_the_proposals_scores(model, images):
    names = ("proposals_all", "region_scores")
    found = keras.Model(model.input, [model.get_layer(name).output for name in names] + [model.output["boxes"]])
    every, (_, best), boxes = found(images)
    anchors = model.get_layer("region_scores")._anchors
    for image in range(2):
        expected = tf.image.non_max_suppression(anchors, every[image], 3, iou_threshold=0.1).numpy()
        np.testing.assert_allclose(boxes[image], anchors[expected] / 64, rtol=1e-6)
        np.testing.assert_allclose(best[image], np.array(every[image])[expected], rtol=1e-6)


def test_it_has_the_weights_of_one_trunk_and_of_its_heads(model):
    proposals = (9 * 16 + 1) * 128 + (9 * 128 + 1) * 128 + 2 * (128 + 1)
    heads = 2 * (16 + 1) * 3 + (5 * 16 + 1) * HIDDEN + (HIDDEN + 1) * 3
    batch_norm = 2 * (8 + 16 + 16)  # of the second pass
    assert count(model.trainable_variables) == TRUNK + batch_norm + proposals + heads
    assert [layer.name for layer in model.layers].count("conv1") == 1
    for each in (trained_outputs(model), logits_model(model)):
        assert {id(v) for v in each.trainable_variables} == {id(v) for v in model.trainable_variables}


def test_the_views_go_through_the_same_trunk(tiny_backbone, images):
    """What the trunk alone, with the batch norm of the second pass, makes of the views is what the perceptron sees
    of them, also after a change."""
    model = build()
    own = model.get_layer("bn2_views")
    own.set_weights([value + 0.5 for value in own.get_weights()])
    alone = BACKBONES["tiny"].build(include_top=False, weights=None, input_tensor=keras.Input((32, 32, 3)))
    for layer in alone.layers[1:]:
        name = f"{layer.name}_views" if layer.name.startswith("bn") else layer.name
        layer.set_weights(model.get_layer(name).get_weights())
    parts = inner(model, "views", "view_features", "all_features", "features")
    before = parts(images)
    expected = np.mean(alone(before["views"]), axis=(1, 2))
    np.testing.assert_allclose(before["view_features"], np.reshape(expected, (8, 16)), atol=1e-6)
    # The concatenation: the image, its K regions, its second view.
    together = np.concatenate([before["features"], np.reshape(before["view_features"], (2, -1))], axis=-1)
    np.testing.assert_array_equal(before["all_features"], together)
    # A last convolution that gives 3 everywhere, in both passes; batch norm begins with mean 0 and variance 1.
    last = model.get_layer("conv3")
    last.set_weights([np.zeros(last.kernel.shape), np.full(last.bias.shape, 3.0)])
    after = parts(images)
    expected = 3 / math.sqrt(1 + model.get_layer("bn3").epsilon)
    np.testing.assert_allclose(after["features"], np.full((2, 16), expected), rtol=1e-5)
    np.testing.assert_allclose(after["view_features"], np.full((8, 16), expected), rtol=1e-5)


def gradients(model, images, loss):
    """The gradient of `loss(logits)` for each trainable weight, by path: the largest entry, None where none."""
    trained = trained_outputs(model)
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(loss(trained(images)))
    found = tape.gradient(value, [v.value for v in trained.trainable_variables])
    return {
        v.path: None if g is None else float(np.abs(np.array(g)).max())
        for v, g in zip(trained.trainable_variables, found, strict=True)
    }


def test_the_ranking_loss_trains_the_proposals_alone(model, images):
    def ranking(logits):
        scores, of_regions = logits["regions"][..., 0], logits["regions"][..., 1:]
        entropies = [losses.class_loss(LABELS, of_regions[:, region]) for region in range(3)]
        return losses.ranking_loss(scores, tf.stack(entropies, axis=-1))

    found = gradients(model, images, ranking)
    assert {path for path, value in found.items() if not path.startswith("proposals") and value} == set()
    assert found["proposals_1/kernel"] > 0
    assert found["proposals_1_scores/kernel"] > 0


def test_the_losses_of_the_classes_train_everything_but_the_proposals(model, images):
    def classification(logits):
        of_regions = logits["regions"][..., 1:]
        return (
            losses.class_loss(LABELS, logits["classes"])
            + losses.class_loss(LABELS, logits["image"])
            + sum(losses.class_loss(LABELS, of_regions[:, region]) for region in range(3))
        )

    found = gradients(model, images, classification)
    assert {path.split("/")[0] for path, value in found.items() if not value} == {
        "proposals_1",
        "proposals_1_scores",
        "proposals_2",
        "proposals_2_scores",
    }


def test_each_head_trains_the_trunk(model, images):
    for head in ("classes", "image"):
        found = gradients(model, images, lambda logits, head=head: losses.class_loss(LABELS, logits[head]))
        assert found["conv1/kernel"] > 0, head
    found = gradients(model, images, lambda logits: losses.class_loss(LABELS, logits["regions"][:, 1, 1:]))
    assert found["conv1/kernel"] > 0
    assert found["regions_logits/kernel"] > 0
    assert not found["classes_logits/kernel"]


def whole_loss(logits):
    return losses.per_image_loss(dict.fromkeys(logits, LABELS), logits)


def test_the_whole_loss_trains_every_weight(tiny_backbone, images):
    """Where regions of both scales are among the best; within a scale the biases of the scores cancel."""
    model = build(regions=Regions((16.0, 24.0), 6, 32))
    large = model.get_layer("proposals_2_scores").kernel
    large.assign(3 * large)
    found = gradients(model, images, whole_loss)
    assert [path for path, value in found.items() if not value or not math.isfinite(value)] == []


@pytest.mark.parametrize("name", ["vgg16", "resnet18"])
def test_the_paper_s_other_trunks_in_mixed_precision(name, images):
    """Eagerly: shapes, float32 outputs, a gradient everywhere in the trunk."""
    model = build_drenet(
        name, classes=3, image_size=64, precision="mixed_bfloat16", regions=Regions((32.0,), 3, 32)
    )
    outputs = model(images)
    assert shapes(outputs) == SHAPES
    assert {value.dtype for value in outputs.values()} == {tf.float32}
    assert model.get_layer("region_scores").grids == [2]
    found = gradients(model, images, lambda logits: losses.class_loss(LABELS, logits["image"]))
    trunk = {v.path for layer in trunk_layers(model) for v in layer.trainable_variables}
    views = {v.path for v in model.trainable_variables if "_views/" in v.path}
    assert len(trunk) > 20
    assert not trunk & views
    assert [path for path in trunk if not found[path]] == []
    assert bool(views) == (name != "vgg16")  # which has no batch norm
    found = gradients(model, images, lambda logits: losses.class_loss(LABELS, logits["classes"]))
    assert [path for path in trunk | views if not found[path]] == []


def test_a_step_lowers_the_loss_and_moves_the_statistics(tiny_backbone, images):
    model = build()
    trained = trained_outputs(model)
    optimizer = keras.optimizers.SGD(1e-3)
    before = float(tf.reduce_mean(whole_loss(trained(images))))
    statistics = np.array(model.get_layer("bn1").moving_mean)
    variables = trained.trainable_variables
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(whole_loss(trained(images)))
    optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
    assert float(tf.reduce_mean(whole_loss(trained(images)))) < before
    trained(images, training=True)
    assert (np.array(model.get_layer("bn1").moving_mean) != statistics).any()


def test_each_pass_has_its_own_statistics(tiny_backbone, images):
    """They begin alike; a step moves those of the image and those of the views by what each pass saw."""
    model = build(batch_norm_momentum=0.0)
    first, second = model.get_layer("bn1"), model.get_layer("bn1_views")
    for ours, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    conv = model.get_layer("conv1")
    trained_outputs(model)(images, training=True)
    normalised = inner(model, NORMALISATION_LAYER)(images)[NORMALISATION_LAYER]
    np.testing.assert_allclose(first.moving_mean, np.mean(conv(normalised), axis=(0, 1, 2)), atol=1e-3)
    assert np.abs(np.array(first.moving_mean) - np.array(second.moving_mean)).max() > 0.01


def test_outside_of_training_nothing_is_dropped(model, images):
    first, second = model(images, training=False), model(images)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
    dropped = [model(images, training=True)["classes"].numpy() for _ in range(2)]
    assert (dropped[0] != dropped[1]).any()  # the tiny trunk has dropout, so the above could fail


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_it_is_saved_and_loaded_whole(precision, tiny_backbone, images, tmp_path):
    model = build(precision=precision, regions=Regions((16.0, 24.0, 40.0), 2, 48))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    outputs, again, copied = model(images), loaded(images), float32_copy(model)(images)
    for name, value in outputs.items():
        assert value.dtype == "float32"
        np.testing.assert_array_equal(again[name], value, err_msg=name)
        if precision == "float32" or name == "image":  # by 16 bits other anchors may be the best
            np.testing.assert_allclose(copied[name], value, atol=0.02, err_msg=name)
    assert len(float32_copy(model).get_weights()) == len(model.get_weights())
    assert {layer.compute_dtype for layer in float32_copy(model).layers} == {"float32"}


def test_logits_are_those_of_the_probabilities(model, images):
    probabilities, logits, trained = model(images), logits_model(model)(images), trained_outputs(model)(images)
    assert list(logits) == list(probabilities)
    np.testing.assert_allclose(tf.sigmoid(logits["covid"]), probabilities["covid"], rtol=1e-5)
    for head in ("classes", "image", "regions"):
        np.testing.assert_allclose(tf.nn.softmax(logits[head]), probabilities[head], rtol=1e-5)
    for name in ("boxes", "scores"):
        np.testing.assert_array_equal(logits[name], probabilities[name])
    assert shapes(trained) == {"classes": (2, 3), "image": (2, 3), "regions": (2, 3, 4)}
    np.testing.assert_array_equal(trained["classes"], logits["classes"])
    np.testing.assert_array_equal(trained["image"], logits["image"])
    np.testing.assert_array_equal(trained["regions"][..., 1:], logits["regions"])
    np.testing.assert_allclose(tf.sigmoid(trained["regions"][..., 0]), probabilities["scores"], rtol=1e-5)


def test_covid_s_logit_is_a_layer_that_is_saved():
    layer = CovidLogit(name="covid_logits")
    np.testing.assert_allclose(layer(np.zeros((1, 3), np.float32)), [[-math.log(2)]], rtol=1e-6)
    assert layer(keras.Input((3,))).shape == (None, 1)
    assert CovidLogit.from_config(layer.get_config()).name == "covid_logits"


@pytest.mark.parametrize("prepare", [trained_outputs, lambda model: with_fused_batch_norm(trained_outputs(model))])
def test_the_frozen_phase_freezes_the_trunk_alone(model, prepare):
    frozen = {layer.name for layer in trunk_layers(prepare(model)) if layer.weights and layer.trainable_weights}
    assert frozen == {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3"}


def test_other_sizes_scales_and_numbers_of_regions(tiny_backbone):
    """96 pixels: maps of 12, 6 and 3 cells; a view of half the image; one scale and one region."""
    model = build(image_size=96, regions=Regions((20.0, 40.0, 60.0), 4), classes=2)
    assert model.get_layer("region_scores").grids == [12, 6, 3]
    assert model.get_layer("views").output.shape == (None, 48, 48, 3)
    assert model.get_layer("all_features").output.shape == (None, 6 * 16)
    assert model.output["regions"].shape == (None, 4, 2)
    one = build(regions=Regions((24.0,), 1, 32))
    assert one.output["boxes"].shape == (None, 1, 4)
    assert "proposals_all" not in {layer.name for layer in one.layers}
    outputs = one(np.zeros((1, 64, 64, 3), np.uint8))
    assert all(np.isfinite(value).all() for value in outputs.values())


def test_as_many_scales_as_the_feature_map_can_be_halved():
    """ResNet-18 at 64 pixels ends in 2 x 2 cells: the second scale has one, a third could have none of its own."""
    small = Regions((16.0, 24.0, 40.0), 1, 32)
    with pytest.raises(ValueError, match=r"3 anchors need a larger image: at 64 pixels .* scale 2 has one cell"):
        build_drenet("resnet18", image_size=64, regions=small)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "anchors should be one to 3 sides"),
        (((1.0, 2.0, 3.0, 4.0),), "anchors should be one to 3 sides"),
        (((1.0, 48.0),), "at least 2 pixels"),
        (((math.nan,),), "at least 2 pixels"),
        (((48.0, math.inf),), "at least 2 pixels"),
        (((48.0,), 0), "number of regions should be at least 1. Received: 0"),
        (((48.0,), 3, 16), "view_size should be at least 32 pixels, or 0. Received: 16"),
        (((48.0,), 3, 0, -1.0), "temperature should be 0 or more. Received: -1.0"),
        (((48.0,), 3, 0, math.nan), "temperature should be 0 or more"),
    ],
)
def test_regions_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Regions(*(arguments or ((),)))


def test_wrong_arguments_are_those_of_la_dnn():
    for builder in (build_drenet, build_trunk):
        with pytest.raises(ValueError, match="backbone should be one of vgg16"):
            builder("resnet101")
        with pytest.raises(ValueError, match="at least 32"):
            builder("resnet18", image_size=16)


def test_the_plain_trunk_is_the_trunk_and_one_dense_layer(tiny_backbone, images):
    model = build_trunk("tiny", classes=3, image_size=64)
    outputs = model(images)
    assert shapes(outputs) == {"covid": (2, 1), "classes": (2, 3)}
    np.testing.assert_allclose(outputs["covid"][:, 0], outputs["classes"][:, 0], rtol=1e-5)
    assert count(model.trainable_variables) == TRUNK + (16 + 1) * 3
    trained = trained_outputs(model)
    assert list(trained.output) == ["classes"]
    np.testing.assert_allclose(tf.nn.softmax(trained(images)["classes"]), outputs["classes"], rtol=1e-5)
    assert [layer.name for layer in trunk_layers(model)] == [
        layer.name for layer in trunk_layers(build_model("tiny", image_size=64))
    ]


def test_of_la_dnn_the_trained_outputs_are_its_logits(tiny_backbone, images):
    model = build_model(tiny_backbone, image_size=64)
    for head, value in trained_outputs(model)(images).items():
        np.testing.assert_array_equal(value, logits_model(model)(images)[head])
