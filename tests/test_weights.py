"""Initial weights: a model built and saved the publisher's way gives the same features when we load its file.

Nothing is downloaded: the publishers' own loading code is given files with random weights in their layout.
"""

import dataclasses
import functools
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from published_weights import (
    PREPROCESS,
    adapt,
    resnet18_of_keras_hub,
    shake,
    with_classifier,
    without_names,
    write_older_layout,
)

from ladnn_tf.models import weights_download
from ladnn_tf.models.backbones import BACKBONES, NORMALISATION_LAYER
from ladnn_tf.models.ladnn import build_model
from ladnn_tf.models.weights import CAFFE, TORCH, Normalisation, initial_weights, normalisation_of, save_npz

SIZE = 64

# Building and reading back is what costs time here. So one model of ours for each backbone serves all sources, the
# features are compared for one source of each publisher, the trunk then bit for bit for all others, and the
# publishers' own loaders read our files where the layout or the model depends on it.
READ_BY_THE_PUBLISHER = ("vgg16", "efficientnet_b0", "efficientnet_b1")
# The others have no layer or name of another kind than these, so that they are not read from every kind of file.
FROM_EVERY_FILE = ("vgg16", "densenet121", "efficientnet_b0")


@dataclasses.dataclass(frozen=True)
class Published:
    """One backbone as published.

    Attributes:
        name: its key in `BACKBONES`.
        folder: of its files.
        model: without its classifier, loaded by the publisher's own code.
        with_top: with its classifier.
        features: that the publisher's model computes on the publisher's preprocessing.
        ours: the whole model as training builds it for these weights.
        trunk: its trunk from normalised pixels, to load into.
        loaded: what the trunk then holds, proven once by the features.
        normalisation: the same.
    """

    name: str
    folder: Path
    model: keras.Model
    with_top: keras.Model
    features: np.ndarray
    ours: keras.Model
    trunk: keras.Model
    loaded: list[np.ndarray]
    normalisation: Normalisation


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    def refuse(*arguments, **_):
        raise AssertionError(f"a test downloads {arguments}")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", refuse)


def instead_of_downloads(patch, file):
    """What the publishers' code downloads is `file`."""
    for place in ("keras.src.utils.file_utils.get_file", "keras._tf_keras.keras.utils.get_file"):
        patch.setattr(place, lambda *_, **__: str(file))


@functools.cache
def ours_of(name):
    """The model of this project with the published normalisation, and its trunk from normalised pixels."""
    ours = build_model(name, image_size=SIZE, normalisation=CAFFE if name in ("vgg16", "resnet50") else TORCH)
    normalised = ours.get_layer(NORMALISATION_LAYER).output
    return ours, keras.Model(normalised, ours.get_layer("features").input)


@pytest.fixture(scope="module", autouse=True)
def _forget_models():
    yield
    ours_of.cache_clear()


def trunk_of(name):
    return ours_of(name)[1]


def same(features, expected):
    features, scale = np.asarray(features), np.abs(expected).max()
    assert expected.std() > 1e-3 * scale
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5 * scale)


def load(trunk, name, source, asked=None):
    """Loads a source into a trunk that holds other weights until then."""
    for layer in trunk.layers:
        if not isinstance(layer, keras.layers.Normalization):
            for variable in layer.weights:
                variable.assign(np.full(variable.shape, 0.5))
    initial = initial_weights(name, str(source), asked)
    initial.load(trunk)
    return initial.normalisation


def normalise(images, normalisation):
    mean, std = (np.array(x, np.float32) for x in (normalisation.mean, normalisation.std))
    return (images - mean) / std


def gives(published, source, asked=None):
    """Whether a source gives bit for bit what gave the publisher's features."""
    found = load(published.trunk, published.name, source, asked)
    assert found.same(published.normalisation)
    for variable, value in zip(published.trunk.weights, published.loaded, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)


def publish(name, folder, build, source, preprocess, images):
    """Makes the publisher's files, and the publisher's model from them; the features prove our loading of one."""
    keras.utils.set_random_seed(0)
    with_top, model = with_classifier(name, build, SIZE)
    shake(with_top)
    adapt(with_top)
    write_older_layout(folder / "top.h5", with_top)
    write_older_layout(folder / "notop.h5", model)
    if (name, source) != ("efficientnet_b1", "noisy-student") and name in READ_BY_THE_PUBLISHER:
        with pytest.MonkeyPatch.context() as patch:
            instead_of_downloads(patch, folder / "notop.h5")
            model = build(include_top=False, weights=source, input_shape=(SIZE, SIZE, 3))
    features = np.asarray(model(preprocess(images.copy())))
    ours, trunk = ours_of(name)
    normalisation = load(trunk, name, folder / "notop.h5")
    same(trunk(normalise(images, normalisation)), features)
    loaded = [np.array(variable) for variable in trunk.weights]
    return Published(name, folder, model, with_top, features, ours, trunk, loaded, normalisation)


@pytest.fixture(scope="module", params=list(PREPROCESS))
def published(request, images, tmp_path_factory):
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    yield publish(name, folder, BACKBONES[name].build, "imagenet", PREPROCESS[name], images)
    shutil.rmtree(folder)


def test_imagenet(published, images, monkeypatch):
    monkeypatch.setattr(weights_download, "download", lambda build, source, fetched_by: published.model)
    gives(published, "imagenet")
    assert normalisation_of(published.ours).same(published.normalisation)
    pooled = keras.Model(published.ours.input, published.ours.get_layer("features").output)
    same(pooled(images), published.features.mean(axis=(1, 2)))
    with pytest.raises(ValueError, match="leave --normalisation=auto"):
        initial_weights(published.name, "imagenet", Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))


def test_published_files(published):
    """Without the classifier and with it, also from Keras versions that stored no names."""
    folder, named = published.folder, "published.weights.h5"
    gives(published, folder / "top.h5")
    published.model.save_weights(folder / named)
    gives(published, folder / named)
    if published.name in FROM_EVERY_FILE:
        # EfficientNet's with top was built without its extra Rescaling and so expects other pixels, see below.
        model = published.model if published.name == "efficientnet_b0" else published.with_top
        model.save(folder / "published.keras")
        gives(published, folder / "published.keras")
        named = "top.weights.h5"
        published.with_top.save_weights(folder / named)
        gives(published, folder / named)
    without_names(folder / named, folder / "nameless.weights.h5")
    gives(published, folder / "nameless.weights.h5")


def test_files_of_this_project(published):
    folder, own, ours = published.folder, published.normalisation, published.ours
    save_npz(folder / "ours.npz", ours, own, backbone=published.name, source="a test")
    gives(published, folder / "ours.npz")
    if published.name not in FROM_EVERY_FILE[::2]:  # DenseNet-121 has no name that the others have not
        return
    ours.save(folder / "ours.keras")
    gives(published, folder / "ours.keras")
    ours.save_weights(folder / "ours.weights.h5")
    without_names(folder / "ours.weights.h5", folder / "nameless.weights.h5")
    for name in ("ours.weights.h5", "nameless.weights.h5"):
        gives(published, folder / name, asked=own)
        with pytest.raises(ValueError, match="not the normalisation it was trained with; give --normalisation"):
            initial_weights(published.name, str(folder / name))


def test_keras_own_download(images, tmp_path, monkeypatch):
    model, _ = with_classifier("vgg16", BACKBONES["vgg16"].build, SIZE)
    write_older_layout(tmp_path / "whole.h5", model, group="model_weights")
    cut = keras.Model(model.input, model.get_layer("block5_pool").output, name="vgg16")
    write_older_layout(tmp_path / "notop.h5", cut)
    instead_of_downloads(monkeypatch, tmp_path / "notop.h5")
    expected = np.asarray(cut(PREPROCESS["vgg16"](images.copy())))
    trunk = trunk_of("vgg16")
    for source in ("imagenet", tmp_path / "whole.h5"):
        same(trunk(normalise(images, load(trunk, "vgg16", source))), expected)


# ---- EfficientNet: noisy-student, and pixel statistics of every kind


@pytest.fixture(scope="module", params=["efficientnet_b0", "efficientnet_b1"])
def student(request, images, tmp_path_factory):
    """The package efficientnet's model and the files of its publisher."""
    import efficientnet.tfkeras as efficientnet

    name, folder = request.param, tmp_path_factory.mktemp("student")
    build = {"efficientnet_b0": efficientnet.EfficientNetB0, "efficientnet_b1": efficientnet.EfficientNetB1}[name]
    yield publish(name, folder, build, "noisy-student", efficientnet.preprocess_input, images)
    shutil.rmtree(folder)


def test_noisy_student(student, monkeypatch):
    assert student.normalisation == TORCH
    gives(student, student.folder / "top.h5")
    if student.name == "efficientnet_b1":
        monkeypatch.setattr(weights_download, "download", lambda build, source, fetched_by: student.model)
    instead_of_downloads(monkeypatch, student.folder / "notop.h5")
    gives(student, "noisy-student")


def test_pixel_statistics_come_from_the_file(images, tmp_path):
    """A Keras model built without ImageNet weights divides by 255 only, or by what it was adapted to."""
    model = BACKBONES["efficientnet_b0"].build(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
    shake(model)
    trunk = trunk_of("efficientnet_b0")
    for mean, variance, suffixes in (
        ([0.0] * 3, [1.0] * 3, (".h5",)),
        ([0.4, 0.5, 0.6], [0.04, 0.09, 0.16], (".weights.h5", ".keras")),
    ):
        adapt(model, mean, variance)
        expected = np.asarray(model(images))
        for suffix in suffixes:
            write = {".h5": lambda path: write_older_layout(path, model), ".keras": model.save}
            write.get(suffix, model.save_weights)(tmp_path / f"adapted{suffix}")
            found = load(trunk, "efficientnet_b0", tmp_path / f"adapted{suffix}")
            np.testing.assert_allclose(found.mean, 255 * np.array(mean), atol=1e-3)
            np.testing.assert_allclose(found.std, 255 * np.sqrt(variance), rtol=1e-5)
            same(trunk(normalise(images, found)), expected)


# ---- ResNet-18 of keras-hub


@pytest.fixture(scope="module")
def resnet18(images, tmp_path_factory):
    keras_hub = pytest.importorskip("keras_hub")
    folder = tmp_path_factory.mktemp("preset")
    keras.utils.set_random_seed(0)
    model = resnet18_of_keras_hub()
    shake(model)
    model.save_to_preset(folder)
    # Not ImageNet's numbers, so that a guess would be found out: (x - 127.5) / 51 for red.
    converter = keras_hub.layers.ResNetImageConverter(scale=[1 / 51, 1 / 60, 1 / 70], offset=[-2.5, -2.0, -1.5])
    converter.save_to_preset(folder)
    features = np.asarray(model(converter(images)))
    ours, trunk = ours_of("resnet18")
    normalisation = load(trunk, "resnet18", folder / "model.weights.h5")
    assert normalisation.same(Normalisation((127.5, 120.0, 105.0), (51.0, 60.0, 70.0)))
    same(trunk(normalise(images, normalisation)), features)
    loaded = [np.array(variable) for variable in trunk.weights]
    return Published("resnet18", folder, model, model, features, ours, trunk, loaded, normalisation)


def test_resnet18_preset(resnet18, monkeypatch):
    monkeypatch.setattr(weights_download, "RESNET18_PRESET", str(resnet18.folder))
    gives(resnet18, "imagenet")


def test_resnet18_weights_file_alone(resnet18, images, tmp_path):
    """Without the converter's file it is taken for the published one, by timm's mean and standard deviation."""
    without_names(resnet18.folder / "model.weights.h5", tmp_path / "old.weights.h5")
    assert load(resnet18.trunk, "resnet18", tmp_path / "old.weights.h5") == TORCH
    same(resnet18.trunk(normalise(images, TORCH)), np.asarray(resnet18.model(normalise(images, TORCH))))
    (tmp_path / "image_converter.json").write_text('{"config": {"scale": 2}}')
    with pytest.raises(ValueError, match=r"image_converter.json should hold the scale and offset"):
        initial_weights("resnet18", str(tmp_path / "old.weights.h5"))


def test_resnet18_whole_files_of_keras_hub(resnet18, tmp_path):
    """They hold no converter, so that the published one's normalisation is assumed, but can be said."""
    resnet18.model.save(tmp_path / "hub.keras")
    resnet18.model.save(tmp_path / "hub.h5")
    for name in ("hub.keras", "hub.h5"):
        assert load(resnet18.trunk, "resnet18", tmp_path / name) == TORCH
        gives(resnet18, tmp_path / name, asked=resnet18.normalisation)


def test_keras_hub_s_vgg16_is_in_rgb(images, tmp_path):
    """It is converted from timm's: torch's normalisation or another, and never BGR, whatever is asked for."""
    keras_hub = pytest.importorskip("keras_hub")
    hub = keras_hub.models.VGGBackbone([2, 2, 3, 3, 3], [64, 128, 256, 512, 512])
    shake(hub)
    hub.save_to_preset(tmp_path)
    hub.save(tmp_path / "hub.keras")
    trunk, path = trunk_of("vgg16"), tmp_path / "model.weights.h5"
    kernel = np.asarray(hub.get_layer("block1_conv1").kernel)
    for source in (path, tmp_path / "hub.keras"):
        with pytest.raises(ValueError, match=r"lay image_converter.json .* or give --normalisation=torch"):
            initial_weights("vgg16", str(source))
        assert load(trunk, "vgg16", source, CAFFE) == CAFFE
        np.testing.assert_array_equal(trunk.get_layer("block1_conv1").kernel, kernel)
    scale, offset = [1 / 51, 1 / 60, 1 / 70], [-2.5, -2.0, -1.5]
    converter = keras_hub.layers.VGGImageConverter(scale=scale, offset=offset)
    converter.save_to_preset(tmp_path)
    found = load(trunk, "vgg16", path)
    same(trunk(normalise(images, found)), np.asarray(hub(converter(images))))
    with pytest.raises(ValueError, match="keras-hub, which builds DenseNet-121 otherwise than Keras Applications"):
        initial_weights("densenet121", str(path))


def test_resnet18_files_of_this_project(resnet18, tmp_path):
    load(resnet18.trunk, "resnet18", resnet18.folder / "model.weights.h5")
    own = resnet18.normalisation
    save_npz(tmp_path / "ours.npz", resnet18.ours, own, backbone="resnet18", source="a test")
    gives(resnet18, tmp_path / "ours.npz")
    model = build_model("resnet18", image_size=SIZE, weights=str(tmp_path / "ours.npz"))
    assert normalisation_of(model).same(own)
    model.save(tmp_path / "ours.keras")
    gives(resnet18, tmp_path / "ours.keras")
    model.save_weights(tmp_path / "ours.weights.h5")
    gives(resnet18, tmp_path / "ours.weights.h5", asked=own)


def test_without_keras_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ValueError, match=r"pip install '\.\[hub\]' in the project's folder"):
        initial_weights("resnet18", "imagenet")


def test_tiny_imagenet_file_gives_the_probe_s_features(shared_weights):
    model = build_model("resnet18", image_size=64, weights=str(shared_weights / "resnet18_tiny_imagenet.npz"))
    probe = np.load(shared_weights / "resnet18_tiny_imagenet_probe.npz")
    features = np.asarray(keras.Model(model.input, model.get_layer("features").output)(probe["images"]))
    np.testing.assert_allclose(features, probe["features"], atol=5e-3 * probe["features"].max())
