"""Initial weights: every source gives the publisher's own features, or a clear error."""

import zipfile

import keras
import numpy as np
import pytest

from ladnn_tf.models import weights
from ladnn_tf.models.backbones import BACKBONES
from ladnn_tf.models.ladnn import build_model
from ladnn_tf.models.weights import CAFFE, TORCH, normalisation_of

APPLICATIONS = keras.applications
PREPROCESS = {
    "vgg16": APPLICATIONS.vgg16.preprocess_input,
    "resnet50": APPLICATIONS.resnet.preprocess_input,
    "densenet121": APPLICATIONS.densenet.preprocess_input,
}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)


def features(model, images):
    return np.asarray(keras.Model(model.input, model.get_layer("features").output)(images))


def same_features(model, published, prepared, images):
    expected = np.asarray(published(prepared)).mean(axis=(1, 2))
    np.testing.assert_allclose(features(model, images), expected, atol=1e-5 * max(1.0, np.abs(expected).max()))


def shake(model):
    """Random statistics, too: freshly built ones are 0 and 1 and would hide a layer that was not loaded."""
    rng = np.random.default_rng(1)
    for variable in model.variables:
        if "moving" in variable.path or "gamma" in variable.path or "beta" in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))


@pytest.mark.parametrize("name", list(PREPROCESS))
def test_imagenet_gives_the_publisher_s_features(name, images, monkeypatch):
    published = BACKBONES[name].build(include_top=False, weights=None, input_shape=(64, 64, 3))
    shake(published)
    monkeypatch.setattr(weights, "_download", lambda build, what: published)
    model = build_model(name, image_size=64, weights="imagenet")
    assert normalisation_of(model) == (TORCH if name == "densenet121" else CAFFE)
    same_features(model, published, PREPROCESS[name](images.copy()), images)


def test_efficientnet_imagenet_normalisation_is_keras_own_with_its_extra_rescaling(images, monkeypatch):
    """Keras' published file: its Normalization divides by sqrt(std), an extra Rescaling does so once more."""
    std = np.array([0.229, 0.224, 0.225], np.float32)
    published = APPLICATIONS.EfficientNetB0(include_top=False, weights=None, input_shape=(64, 64, 3))
    shake(published)
    normalization = next(x for x in published.layers if isinstance(x, keras.layers.Normalization))
    normalization.adapt_mean.assign([0.485, 0.456, 0.406])
    normalization.adapt_variance.assign(std)
    normalization.finalize_state()
    monkeypatch.setattr(weights, "_download", lambda build, what: published)
    model = build_model("efficientnet_b0", image_size=64, weights="imagenet")

    start = published.layers.index(normalization)
    inside = keras.Model(published.input, normalization.output)(images) / np.sqrt(std)
    trunk = keras.Model(published.layers[start].output, published.output)
    same_features(model, trunk, inside, images)


def test_noisy_student_gives_the_publisher_s_features(images, monkeypatch):
    import efficientnet.tfkeras as efficientnet

    published = efficientnet.EfficientNetB0(include_top=False, weights=None, input_shape=(64, 64, 3))
    shake(published)
    monkeypatch.setattr(weights, "_download", lambda build, what: published)
    model = build_model("efficientnet_b0", image_size=64, weights="noisy-student")
    same_features(model, published, efficientnet.preprocess_input(images.copy()), images)


def test_tiny_imagenet_file_gives_the_probe_s_features(shared_weights):
    model = build_model("resnet18", image_size=64, weights=str(shared_weights / "resnet18_tiny_imagenet.npz"))
    probe = np.load(shared_weights / "resnet18_tiny_imagenet_probe.npz")
    scale = probe["features"].max()
    np.testing.assert_allclose(features(model, probe["images"]), probe["features"], atol=5e-3 * scale)


def arrays(model):
    """The trunk of a model as the arrays of a .npz file."""
    return {
        f"{layer.name}/{variable.name}": np.asarray(variable)
        for layer in model.layers
        for variable in layer.weights
        if not layer.name.endswith("_logits") and "seed" not in variable.path
    }


def test_npz_restores_weights_and_normalisation(images, tiny_backbone, tmp_path):
    model = build_model(tiny_backbone, image_size=64)
    shake(model)
    np.savez(tmp_path / "w.npz", **arrays(model))
    again = build_model(tiny_backbone, image_size=64, weights=str(tmp_path / "w.npz"))
    np.testing.assert_array_equal(features(again, images), features(model, images))
    assert normalisation_of(again) == TORCH

    own = {"normalisation/mean": np.array([10.0, 20, 30]), "normalisation/std": np.array([2.0, 4, 5])}
    np.savez(tmp_path / "n.npz", **arrays(model), **own)
    shifted = normalisation_of(build_model(tiny_backbone, image_size=64, weights=str(tmp_path / "n.npz")))
    assert shifted.mean == (10, 20, 30)
    assert shifted.std == (2, 4, 5)


def test_keras_file_restores_the_trunk_and_leaves_the_heads(images, tiny_backbone, tmp_path):
    model = build_model(tiny_backbone, image_size=64)
    shake(model)
    model.save(tmp_path / "model.keras")
    again = build_model(tiny_backbone, task="baseline", image_size=64, weights=str(tmp_path / "model.keras"))
    np.testing.assert_array_equal(features(again, images), features(model, images))
    heads = [np.asarray(m.get_layer("covid_logits").kernel) for m in (again, model)]
    assert (heads[0] != heads[1]).any()


def write_npz(path, tiny_backbone, change):
    values = arrays(build_model(tiny_backbone, image_size=64))
    change(values)
    np.savez(path, **values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v: v.pop("conv2/kernel"),
            r"has no conv2/kernel, which the backbone needs with shape \(3, 3, 8, 16\)",
        ),
        (
            lambda v: v.update({"conv2/kernel": np.zeros((3, 3, 8, 8))}),
            r"conv2/kernel has shape \(3, 3, 8, 8\), the backbone needs \(3, 3, 8, 16\)",
        ),
        (
            lambda v: v.update({"stage1/extra/kernel": np.zeros(1)}),
            "layers that the backbone has not: stage1_extra",
        ),
    ],
    ids=["missing", "shape", "left-over"],
)
def test_a_mismatch_names_the_layer_and_both_shapes(change, message, tiny_backbone, tmp_path):
    write_npz(tmp_path / "w.npz", tiny_backbone, change)
    with pytest.raises(ValueError, match=message):
        build_model(tiny_backbone, image_size=64, weights=str(tmp_path / "w.npz"))


def test_pickles_are_not_read(tiny_backbone, tmp_path):
    np.savez(tmp_path / "w.npz", **{"conv1/kernel": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(ValueError, match="plain arrays"):
        build_model(tiny_backbone, image_size=64, weights=str(tmp_path / "w.npz"))


def test_unusable_sources_say_what_to_do(tiny_backbone, tmp_path, monkeypatch):
    (tmp_path / "junk.npz").write_bytes(b"junk")
    (tmp_path / "junk.keras").write_bytes(b"junk")
    (tmp_path / "empty.npz").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "zip.keras", "w") as file:
        file.writestr("readme.txt", "no model")
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    np.savez(tmp_path / "mean.npz", **{"normalisation/mean": np.zeros(3)})
    np.savez(tmp_path / "std.npz", **{"normalisation/mean": np.zeros(3), "normalisation/std": np.zeros(3)})
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    other.save(tmp_path / "other.keras")
    for source, message in {
        str(tmp_path / "junk.npz"): "cannot be read as a .npz",
        str(tmp_path / "junk.keras"): "cannot be read as a Keras file",
        str(tmp_path / "empty.npz"): "cannot be read as a .npz",
        str(tmp_path / "array.npz"): "cannot be read as a .npz",
        str(tmp_path / "std.npz"): "three numbers each",
        str(tmp_path / "mean.npz"): "both normalisation/mean and normalisation/std",
        str(tmp_path / "zip.keras"): "cannot be read as a Keras file",
        str(tmp_path / "other.keras"): "normalisation of its weights is unknown",
        str(tmp_path / "no.npz"): "there is no weights file",
        "image-net": "Received: 'image-net'",
        "noisy-student": "EfficientNet only",
        "imagenet": "no ImageNet weights for tiny",
    }.items():
        with pytest.raises(ValueError, match=message):
            build_model(tiny_backbone, image_size=64, weights=source)


def test_a_failed_download_names_the_way_without_internet(monkeypatch):
    def offline(**_):
        raise Exception("URL fetch failure")

    monkeypatch.setitem(
        BACKBONES, "densenet121", type(BACKBONES["densenet121"])("D", offline, 1, 1, 1, "tests only")
    )
    source = weights.initial_weights("densenet121", "imagenet")
    with pytest.raises(ValueError, match=r"could not be downloaded \(URL fetch failure\).*--weights=FILE"):
        source.load(None)
