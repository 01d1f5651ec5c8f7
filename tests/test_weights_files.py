"""Bad weights files are clear errors that leave the trunk as it was; `fetch` makes a file that loads elsewhere."""

import pickle
import subprocess
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest
from absl import logging
from published_weights import shake, with_classifier, without_names, write_older_layout

from ladnn_tf.files import file_sha256
from ladnn_tf.models import weights, weights_download
from ladnn_tf.models.backbones import BACKBONES, build_backbone
from ladnn_tf.models.ladnn import build_model
from ladnn_tf.models.weights import (
    CAFFE,
    SIGNED,
    TORCH,
    UNIT,
    Normalisation,
    initial_weights,
    normalisation_of,
    save_npz,
)


@pytest.fixture
def trunk(tiny_backbone, monkeypatch):
    """The tiny trunk, for which somebody now publishes weights, and which must stay as it is."""
    monkeypatch.setitem(weights.PUBLISHED_NORMALISATION, "tiny", TORCH)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64, 64, 3))
    trunk = keras.Model(inputs, build_backbone("tiny", inputs, 0.9).output)
    shake(trunk)
    return trunk


@pytest.fixture
def refused(trunk, tmp_path):
    """Loads a file that must not load, and checks that nothing of the trunk has changed."""

    def check(name, message, backbone="tiny", asked=None):
        before = [np.array(variable) for variable in trunk.weights]
        with pytest.raises(ValueError, match=message) as caught:
            initial_weights(backbone, str(tmp_path / name), asked).load(trunk)
        assert name.split(".")[0] in str(caught.value)
        assert "\n" not in str(caught.value)
        for variable, value in zip(trunk.weights, before, strict=True):
            np.testing.assert_array_equal(variable, value)

    return check


def other_trunk(change=lambda values: None):
    """Arrays of another tiny trunk, as a `.npz` names them."""
    inputs = keras.Input((64, 64, 3))
    model = build_backbone("tiny", inputs, 0.9)
    values = {f"{x.name}/{v.name}": np.array(v) for x in model.layers for v in x.weights}
    change(values)
    return values


# ---- Files that are no weights files

WEB_PAGE = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize("suffix", [".npz", ".keras", ".h5", ".weights.h5"])
def test_no_weights_file_at_all(suffix, refused, tmp_path):
    for content, message in (
        (b"", "is empty: it was probably not downloaded"),
        (WEB_PAGE, "looks like a web page: the download was redirected or needs a login"),
        (LFS, "Git LFS pointer"),
        (b"junk", r"cannot be read as .*probably not downloaded or copied wholly"),
    ):
        (tmp_path / f"bad{suffix}").write_bytes(content)
        refused(f"bad{suffix}", message)


def good_files(folder):
    """A loadable file of each kind."""
    model = build_model("tiny", image_size=64)
    save_npz(folder / "good.npz", model, TORCH, backbone="tiny", source="a test")
    model.save(folder / "good.keras")
    trunk = build_backbone("tiny", keras.Input((64, 64, 3)), 0.9)
    trunk.save_weights(folder / "good.weights.h5")
    write_older_layout(folder / "good.h5", trunk)
    return ("good.npz", "good.keras", "good.weights.h5", "good.h5")


def test_truncated_files(refused, trunk, tmp_path):
    for name in good_files(tmp_path):
        initial_weights("tiny", str(tmp_path / name)).load(trunk)
        content = (tmp_path / name).read_bytes()
        for part in (0.3, 0.7, 0.99):
            (tmp_path / name).write_bytes(content[: int(part * len(content))])
            refused(name, r"cannot be read as .* wholly")


def test_wrong_suffixes(refused, tmp_path):
    good_files(tmp_path)
    for old, new, message in (
        ("good.npz", "a.h5", "is a zip archive, not an HDF5 file: its suffix should probably be .keras or .npz"),
        ("good.h5", "b.npz", "is an HDF5 file: its suffix should be .h5"),
        ("good.weights.h5", "c.keras", "is an HDF5 file: its suffix should be .h5"),
        ("good.keras", "d.npz", "plain arrays"),
        ("good.npz", "e.keras", "cannot be read as a Keras file"),
        ("good.npz", "f.pth", "path of a .npz, .keras, .weights.h5 or .h5 file"),
    ):
        (tmp_path / new).write_bytes((tmp_path / old).read_bytes())
        refused(new, message)
    refused("none.npz", "there is no weights file")


def test_npz_without_plain_arrays(refused, tmp_path):
    np.savez(tmp_path / "object.npz", **{"conv1/kernel": np.array([{"a": 1}], dtype=object)})
    refused("object.npz", "holds a Python object .a pickle., which could run code")
    with zipfile.ZipFile(tmp_path / "stray.npz", "w") as file:
        file.writestr("conv1.npy", pickle.dumps({}))
    refused("stray.npz", "plain arrays")
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    refused("array.npz", "cannot be read as a .npz")
    np.savez(tmp_path / "mean.npz", **{"normalisation/mean": np.zeros(3)})
    refused("mean.npz", "both normalisation/mean and normalisation/std")
    np.savez(tmp_path / "std.npz", **{"normalisation/mean": np.zeros(3), "normalisation/std": np.zeros(3)})
    refused("std.npz", "three numbers each")


def test_keras_files_of_something_else(refused, tmp_path):
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]).save(tmp_path / "dense.keras")
    refused("dense.keras", "it has no conv1/kernel.* it has 0 numbers")
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as file:
        file.writestr("readme.txt", "no model")
    refused("empty.keras", "cannot be read as a Keras file")


def test_hdf5_files_of_something_else(refused, trunk, tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["slices"] = np.zeros(3)
    refused("data.h5", "not one of Keras weights: at its top it holds slices")
    write_older_layout(tmp_path / "missing.h5", trunk)
    with h5py.File(tmp_path / "missing.h5", "a") as file:
        del file["conv2"]
    refused("missing.h5", "cannot be read as an HDF5 file of weights")
    with h5py.File(tmp_path / "odd.weights.h5", "w") as file:
        file["layers/conv2d/vars/zero"] = np.zeros(3)
    refused("odd.weights.h5", "cannot be read as an HDF5 file of weights")
    with h5py.File(tmp_path / "huge.weights.h5", "w") as file:
        file.create_dataset("layers/conv2d/vars/0", (10**6, 10**6, 1, 1), chunks=True, dtype="f4")
    refused("huge.weights.h5", "declares 1,000,000,000,000 numbers")


def test_links_to_other_files_are_refused(refused, trunk, tmp_path):
    write_older_layout(tmp_path / "secret.h5", trunk)
    for name, link in (("external", h5py.ExternalLink("secret.h5", "/conv2")), ("soft", h5py.SoftLink("/conv1"))):
        write_older_layout(tmp_path / f"{name}.h5", trunk)
        with h5py.File(tmp_path / f"{name}.h5", "a") as file:
            del file["conv2"]
            file["conv2"] = link
        refused(f"{name}.h5", "conv2 is a link, which could name another file")
    with h5py.File(tmp_path / "outside.weights.h5", "w") as file:
        where = [(str(tmp_path / "secret.h5"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("layers/conv2d/vars/0", (3,), dtype="f4", external=where)
    refused("outside.weights.h5", "lies in another file, which is not read")


# ---- Weights that do not fit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v: v.pop("conv2/kernel"),
            r"it has no conv2/kernel, which the backbone needs with shape \(3, 3, 8, 16\); it was probably made",
        ),
        (
            lambda v: v.update({"conv2/kernel": np.zeros((3, 3, 8, 8))}),
            r"conv2/kernel has shape \(3, 3, 8, 8\), the backbone needs \(3, 3, 8, 16\)",
        ),
        (
            lambda v: v.update({"stage1/extra/kernel": np.zeros(1)}),
            "layers that the backbone has not: stage1_extra",
        ),
        (lambda v: v.update({"bn1/renorm": np.zeros(8)}), "bn1 holds renorm, which the backbone has not"),
        (
            lambda v: v["bn3/moving_mean"].__setitem__(0, np.nan),
            "bn3/moving_mean holds numbers that are not finite",
        ),
        (lambda v: v.update({"bn3/gamma": np.full(16, 1e300)}), "not finite in float32"),
        (lambda v: v.update({"bn3/gamma": np.full(16, "x")}), "should hold floating-point numbers.*dtype <U1"),
    ],
    ids=["missing", "shape", "left-over", "variable", "nan", "overflow", "text"],
)
def test_a_misfit_names_the_layer_and_both_shapes(change, message, refused, tmp_path):
    np.savez(tmp_path / "w.npz", **other_trunk(change))
    refused("w.npz", message)


def test_a_file_of_another_backbone_is_recognised(trunk, refused, tmp_path):
    _, other = with_classifier("vgg16", BACKBONES["vgg16"].build, 64)
    write_older_layout(tmp_path / "vgg.h5", other)
    other.save_weights(tmp_path / "vgg.weights.h5")
    # The first layer in order, under its name there.
    message = r"conv1/kernel \(there block1_conv1\) has shape \(3, 3, 3, 64\), the backbone needs \(3, 3, 3, 8\)"
    refused("vgg.h5", rf"{message}; its 14,714,688 numbers are those of vgg16")
    refused("vgg.weights.h5", "its 14,714,688 numbers are those of vgg16")
    save_npz(tmp_path / "named.npz", trunk, TORCH, backbone="tiny", source="a test")
    refused("named.npz", "holds weights of tiny, not of vgg16", backbone="vgg16")


def test_the_size_of_every_backbone_is_what_its_files_hold(tiny_backbone):
    """EfficientNet's published numbers: its parameters without the seven of its Normalization."""
    assert weights._size("efficientnet_b0") == 4_049_571 - 7
    assert weights._size("densenet121") == 7_037_504
    assert weights._size("resnet18") == 11_186_112


def test_layers_are_matched_by_name_where_names_agree(trunk, tmp_path):
    """Two layers of one shape, in another order in the file: by order they would be swapped without a word."""
    write_older_layout(tmp_path / "w.h5", trunk)
    expected = {variable.path: np.array(variable) for variable in trunk.weights}
    with h5py.File(tmp_path / "w.h5", "a") as file:
        names = list(file.attrs["layer_names"])
        file.attrs["layer_names"] = names[::-1]
    for variable in trunk.weights:
        variable.assign(np.zeros(variable.shape))
    initial_weights("tiny", str(tmp_path / "w.h5")).load(trunk)
    for variable in trunk.weights:
        np.testing.assert_array_equal(variable, expected[variable.path])


# ---- Normalisation


def test_normalisation_asked_for(tiny_backbone, tmp_path):
    assert normalisation_of(build_model("tiny", image_size=64)) == TORCH
    assert normalisation_of(build_model("tiny", image_size=64, normalisation=CAFFE)) == CAFFE
    np.savez(tmp_path / "silent.npz", **other_trunk())
    for asked, expected in ((None, TORCH), (CAFFE, CAFFE)):
        model = build_model("tiny", image_size=64, weights=str(tmp_path / "silent.npz"), normalisation=asked)
        assert normalisation_of(model) == expected


def test_a_source_s_own_normalisation_cannot_be_overruled(refused, trunk, tmp_path):
    own = Normalisation((10.0, 20.0, 30.0), (2.0, 4.0, 5.0))
    save_npz(tmp_path / "own.npz", trunk, own, backbone="tiny", source="a test")
    loaded = build_model("tiny", image_size=64, weights=str(tmp_path / "own.npz"))
    assert normalisation_of(loaded) == own
    loaded.save(tmp_path / "own.keras")
    for name in ("own.npz", "own.keras"):
        assert initial_weights("tiny", str(tmp_path / name), own).normalisation == own
        refused(name, "trained with the normalisation mean 10 20 30, std 2 4 5, not with the one", asked=CAFFE)


@pytest.fixture
def logged(monkeypatch):
    """Messages by their level."""
    found = {"warning": [], "info": []}
    for level, messages in found.items():
        record = lambda text, *values, kept=messages: kept.append(text % values)  # noqa: E731
        monkeypatch.setattr(logging, level, record)
    return found


def tiny_on(change, head=None):
    """A whole tiny model that changes its images first, as its owner built it."""
    images = keras.Input((64, 64, 3))
    trunk = BACKBONES["tiny"].build(include_top=False, weights=None, input_tensor=change(images))
    shake(trunk)
    output = keras.layers.Dense(head)(keras.layers.Flatten()(trunk.output)) if head else trunk.output
    return keras.Model(images, output)


def save_all(model, folder, name):
    """In the three formats; the names of the files."""
    model.save(folder / f"{name}.keras")
    model.save_weights(folder / f"{name}.weights.h5")
    model.save(folder / f"{name}.h5")
    return [f"{name}{suffix}" for suffix in (".keras", ".weights.h5", ".h5")]


@pytest.mark.parametrize("head", [None, 1])
def test_an_assumed_normalisation_is_said_and_can_be_overruled(head, trunk, logged, tmp_path, monkeypatch):
    """A head of width 1 does not make it a model of this project, and only caffe turns the first kernel."""
    monkeypatch.setitem(weights.PUBLISHED_NORMALISATION, "tiny", CAFFE)
    model = tiny_on(lambda images: images, head)
    kernel = np.asarray(model.get_layer("conv1").kernel)
    names = save_all(model, tmp_path, "own")
    logged["warning"].clear()  # Keras' own, that .h5 is legacy
    for name in names:
        for asked, expected in ((None, CAFFE), (CAFFE, CAFFE), (UNIT, UNIT), (SIGNED, SIGNED), (TORCH, TORCH)):
            initial = initial_weights("tiny", str(tmp_path / name), asked)
            assert initial.normalisation == expected
            initial.load(trunk)
            bgr = expected is CAFFE
            np.testing.assert_array_equal(trunk.get_layer("conv1").kernel, kernel[:, :, ::-1] if bgr else kernel)
            said = logged["info" if asked else "warning"].pop()
            assert f"{name} does not say how pixels are normalised: taken as " in said
            assert str(expected) in said
            assert ("BGR" in said) == bgr
            assert ("give --normalisation=torch|caffe|unit|signed" in said) == (asked is None)
    assert logged == {"warning": [], "info": []}


@pytest.mark.parametrize(
    ("change", "expected", "bgr"),
    [
        (lambda images: keras.layers.Rescaling(1 / 127.5, -1)(images), SIGNED, False),
        (lambda images: images / 127.5 - 1, SIGNED, False),
        (keras.applications.vgg16.preprocess_input, CAFFE, True),
    ],
    ids=["layer", "operators", "preprocess_input"],
)
def test_a_normalisation_in_front_of_the_stem(
    change, expected, bgr, trunk, refused, logged, tmp_path, monkeypatch
):
    """It is read from a .keras, and the first kernel turned only where it gets BGR; other files do not hold it."""
    monkeypatch.setitem(weights.PUBLISHED_NORMALISATION, "tiny", CAFFE)
    model = tiny_on(change)
    kernel = np.asarray(model.get_layer("conv1").kernel)
    keras_file, weights_file, whole = save_all(model, tmp_path, "front")
    logged["warning"].clear()
    # Keras stores operators in the configuration of a whole model only.
    layer = any(isinstance(x, keras.layers.Rescaling) for x in model.layers)
    for name in (weights_file, whole) if layer else (whole,):
        for asked in (None, UNIT):
            refused(name, r"names layers that change pixels before the first convolution .*\.keras", asked=asked)
    refused(keras_file, "leave --normalisation=auto", asked=TORCH)
    initial = initial_weights("tiny", str(tmp_path / keras_file))
    initial.load(trunk)
    assert initial.normalisation.same(expected)
    np.testing.assert_array_equal(trunk.get_layer("conv1").kernel, kernel[:, :, ::-1] if bgr else kernel)
    assert not logged["warning"]


def test_statistics_in_front_of_another_backbone_than_efficientnet(refused, tmp_path):
    """EfficientNet's are of pixels divided by 255, anybody else's of what they like."""
    adapted = keras.layers.Normalization()
    adapted.adapt(np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)))
    for name in save_all(tiny_on(adapted), tmp_path, "adapted")[1:]:
        refused(name, r"change pixels before the first convolution \(normalization")


def test_a_nested_backbone_is_named(refused, tmp_path):
    base = tiny_on(lambda images: images)
    base.name = "my_base"
    images = keras.Input((64, 64, 3))
    augmented = keras.Sequential([keras.layers.RandomFlip()], name="augmentation")(images)
    pooled = keras.layers.GlobalAveragePooling2D()(base(augmented / 255.0))
    model = keras.Model(images, keras.layers.Dense(2)(pooled))
    for name in save_all(model, tmp_path, "nested"):
        refused(name, r"nested in it as layer 'my_base'; .*get_layer\('my_base'\)\.save.*\(--normalisation\)")


def test_a_silent_npz(tiny_backbone, logged, tmp_path):
    np.savez(tmp_path / "silent.npz", **other_trunk())
    for backbone in ("vgg16", "resnet50"):
        with pytest.raises(
            ValueError, match=r"silent.npz does not hold normalisation/mean .* give --normalisation"
        ):
            initial_weights(backbone, str(tmp_path / "silent.npz"))
        assert initial_weights(backbone, str(tmp_path / "silent.npz"), UNIT).normalisation == UNIT
    assert not logged["warning"]
    assert initial_weights("tiny", str(tmp_path / "silent.npz")).normalisation == TORCH
    assert "silent.npz does not hold" in logged["warning"][0]
    assert "taken to be torch" in logged["warning"][0]


def test_unpublished_backbones_have_no_published_files(trunk, tiny_backbone, tmp_path, monkeypatch):
    trunk.save(tmp_path / "w.keras")
    monkeypatch.delitem(weights.PUBLISHED_NORMALISATION, "tiny")
    for source, message in (
        (str(tmp_path / "w.keras"), "does not say how pixels are normalised"),
        ("imagenet", "there are no ImageNet weights for tiny"),
        ("noisy-student", "EfficientNet only"),
        ("image-net", "Received: 'image-net'"),
    ):
        with pytest.raises(ValueError, match=message):
            initial_weights("tiny", source)


def test_heads_of_a_run_are_not_loaded(tiny_backbone, tmp_path):
    model = build_model("tiny", image_size=64)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    without_names(tmp_path / "model.weights.h5", tmp_path / "old.weights.h5")
    for name in ("model.keras", "model.weights.h5", "old.weights.h5"):
        again = build_model(
            "tiny", task="baseline", image_size=64, weights=str(tmp_path / name), normalisation=TORCH
        )
        np.testing.assert_array_equal(again.get_layer("conv3").kernel, model.get_layer("conv3").kernel)
        kernels = [np.asarray(m.get_layer("covid_logits").kernel) for m in (again, model)]
        assert (kernels[0] != kernels[1]).any()


# ---- fetch


@pytest.fixture
def published(monkeypatch):
    """What a download of VGG-16 would give."""
    keras.utils.set_random_seed(0)
    model = BACKBONES["vgg16"].build(include_top=False, weights=None, input_shape=(64, 64, 3))
    shake(model)
    monkeypatch.setattr(weights_download, "download", lambda build, source, fetched_by: model)
    return model


def test_fetch_makes_the_file_for_an_offline_machine(published, tmp_path, capsys):
    out = tmp_path / "new" / "vgg16.npz"
    assert weights.main(["weights", "fetch", "vgg16", f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    for expected in (
        str(out),
        "14,714,688 parameters",
        "mean 123.68 116.779 103.939, std 1 1 1",
        file_sha256(out),
    ):
        assert expected in printed
    assert f"{out.stat().st_size:,} bytes" in printed
    checked = subprocess.run(
        ["sha256sum", "--check", "vgg16.npz.sha256"], cwd=out.parent, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr

    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype(np.float32)
    model = build_model("vgg16", image_size=64, weights=str(out))
    online = build_model("vgg16", image_size=64, weights="imagenet")
    for variable, other in zip(model.weights[:26], online.weights[:26], strict=True):
        np.testing.assert_array_equal(variable, other, err_msg=variable.path)
    features = keras.Model(model.input, model.get_layer("features").output)(images)
    expected = np.asarray(published(keras.applications.vgg16.preprocess_input(images))).mean(axis=(1, 2))
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5 * expected.max())

    damaged = bytearray(out.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    out.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"was not copied wholly.*vgg16.npz.sha256 says"):
        initial_weights("vgg16", str(out))


def test_the_checksum_beside_any_file_is_checked(trunk, refused, tmp_path):
    write_older_layout(tmp_path / "w.h5", trunk)
    beside = tmp_path / "w.h5.sha256"
    beside.write_text(f"{file_sha256(tmp_path / 'w.h5')} *w.h5\n")
    initial_weights("tiny", str(tmp_path / "w.h5")).load(trunk)
    for content in ("", "0" * 64 + "  w.h5\n"):
        beside.write_text(content)
        refused("w.h5", "was not copied wholly, or was changed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected `fetch` and the name of a backbone"),
        (["vgg16", "--out=a.npz"], "expected `fetch` and the name"),
        (["fetch", "vgg19", "--out=a.npz"], "BACKBONE should be one of vgg16, resnet18"),
        (["fetch", "vgg16"], "--out should be a file that ends in .npz"),
        (["fetch", "vgg16", "--out=a.h5"], "--out should be a file that ends in .npz"),
        (["fetch", "vgg16", "--source=torch", "--out=a.npz"], "imagenet|noisy-student"),
    ],
)
def test_fetch_explains_its_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as left:
        weights.main(["weights", *arguments])
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_a_failed_download_is_one_line_that_names_the_way(tmp_path):
    """As a user meets it on a machine without internet."""
    code = (
        "import sys, keras; from ladnn_tf import command; from ladnn_tf.models import backbones, weights\n"
        "def offline(**_): raise Exception('URL fetch failure\\non https://somewhere')\n"
        "described = backbones.BACKBONES['densenet121']\n"
        "object.__setattr__(described, 'build', offline)\n"
        f"sys.argv = ['weights', 'fetch', 'densenet121', '--out={tmp_path}/d.npz']\n"
        "command.run(weights.main)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith(
        "error: the ImageNet weights of DenseNet-121 could not be downloaded (URL fetch failure on"
    )
    assert "`python -m ladnn_tf.models.weights fetch densenet121 --source=imagenet --out=FILE.npz`" in line
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_save_npz_wants_its_suffix(trunk, tmp_path):
    with pytest.raises(ValueError, match=r"should end in .npz"):
        save_npz(tmp_path / "w.h5", trunk, TORCH, backbone="tiny", source="a test")
