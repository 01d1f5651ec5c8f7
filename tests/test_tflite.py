"""Conversion to TFLite: what goes in and comes out, what is quantised, and that nothing unfit is left in place."""

import dataclasses
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from export import parity, tflite, tflite_convert
from export.tflite_convert import FORMATS, Decisions, _equal_decisions, convert, formats_of
from ladnn_tf import runs
from ladnn_tf.data import lungs, pipeline, preprocess
from ladnn_tf.data.manifest import read_manifest, select_split
from ladnn_tf.labels import COVID
from ladnn_tf.models.attention import attention_model
from ladnn_tf.tflite_file import read_card

SIZE, TEMPERATURE = 16, 1.7


def squeeze_excite_model() -> keras.Model:
    """A network with one squeeze-excite block and the layers' names of `build_model`."""
    layers = keras.layers
    keras.utils.set_random_seed(4)
    images = keras.Input((SIZE, SIZE, 3), name="images")
    x = layers.Rescaling(1 / 127.5, -1.0, name="normalise_pixels")(images)
    x = layers.Conv2D(8, 3, 2, "same", activation="swish", name="stem")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="block_se_squeeze")(x)
    gate = layers.Conv2D(4, 1, activation="swish", name="block_se_reduce")(gate)
    gate = layers.Conv2D(8, 1, activation="sigmoid", name="block_se_expand")(gate)
    x = layers.Multiply(name="block_se_excite")([x, gate])
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="top")(x)
    pooled = layers.GlobalAveragePooling2D(name="features")(x)
    outputs = {}
    for head, width in {COVID: 1, "lesions": 5}.items():
        logits = layers.Dense(width, name=f"{head}_logits")(pooled)
        outputs[head] = layers.Activation("sigmoid", name=head)(logits)
    return keras.Model(images, outputs)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (12, SIZE, SIZE, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model():
    return squeeze_excite_model()


@pytest.fixture(scope="module")
def converted(model, images):
    return convert(model, TEMPERATURE, FORMATS, images)


def interpreter(content: bytes) -> Interpreter:
    found = Interpreter(model_content=content)
    found.allocate_tensors()
    return found


def answers(content: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    runner = interpreter(content).get_signature_runner("serving_default")
    found = [{name: value.copy() for name, value in runner(images=image[None]).items()} for image in images]
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def float_operations(content: bytes) -> set[str]:
    """Names of the tensors that operations write in float32, dequantisation and the delegate's copies left out."""
    found = Interpreter(model_content=content)
    tensors = {tensor["index"]: tensor for tensor in found.get_tensor_details()}
    written = [o for op in found._get_ops_details() if op["op_name"] != "DEQUANTIZE" for o in op["outputs"]]
    return {tensors[o]["name"] for o in written if o in tensors and tensors[o]["dtype"] == np.float32}


@pytest.mark.parametrize("form", FORMATS)
def test_raw_pixels_go_in_and_floats_come_out(converted, form):
    runner = interpreter(converted[form]).get_signature_runner("serving_default")
    (name, inputs), *others = runner.get_input_details().items()
    assert not others
    assert (name, inputs["dtype"], list(inputs["shape"])) == ("images", np.uint8, [1, SIZE, SIZE, 3])
    outputs = {key: (value["dtype"], list(value["shape"])) for key, value in runner.get_output_details().items()}
    assert outputs == {
        "covid": (np.float32, [1]),
        "lesions": (np.float32, [1, 5]),
        "maps": (np.float32, [1, 8, 8, 6]),
    }


# The bounds are about twice what was seen with this network; float16 has 11 bits, int8 has 8.
@pytest.mark.parametrize(
    ("form", "bound"),
    [("float32", 1e-5), ("float16", 1e-3), ("dynamic", 0.02), ("int8", 0.02), ("int8_mixed", 0.02)],
)
def test_every_format_answers_as_the_network(converted, model, images, form, bound):
    expected = attention_model(model).predict(images.astype(np.float32), verbose=0)
    found = answers(converted[form], images)
    covid = 1 / (1 + np.exp(-expected[COVID][:, 0] / TEMPERATURE))
    np.testing.assert_allclose(found["covid"], covid, atol=bound)
    np.testing.assert_allclose(found["lesions"], 1 / (1 + np.exp(-expected["lesions"])), atol=bound)
    scale = expected["attention"].max()
    np.testing.assert_allclose(found["maps"] / scale, expected["attention"] / scale, atol=4 * bound)


def test_int8_leaves_the_heads_in_float_and_nothing_else(converted):
    names = float_operations(converted["int8"])
    assert any("logits" in name for name in names)
    assert any("PartitionedCall" in name for name in names)
    assert not any("stem" in name or "top" in name or "_se_" in name for name in names)


def test_mixed_int8_leaves_squeeze_excite_in_float_too(converted):
    names = float_operations(converted["int8_mixed"])
    assert any("_se_" in name for name in names)
    assert not any("stem" in name or "top" in name for name in names)


def test_ranges_reach_the_strongest_calibration_image(model, images):
    """Averaged ranges would cut off what a single bright image among dark ones does."""
    bright = np.full((1, SIZE, SIZE, 3), 255, np.uint8)
    calibration = np.concatenate([bright, np.zeros((30, SIZE, SIZE, 3), np.uint8)])
    found = answers(convert(model, 1.0, ["int8"], calibration)["int8"], bright)["maps"]
    expected = attention_model(model).predict(bright.astype(np.float32), verbose=0)["attention"]
    np.testing.assert_allclose(found / expected.max(), expected / expected.max(), atol=0.05)


def test_only_efficientnet_has_a_mixed_format():
    assert formats_of("efficientnet_b1") == FORMATS
    assert formats_of("densenet121") == ("float32", "float16", "dynamic", "int8")


def test_images_are_taken_evenly_from_their_split(tiny_run):
    run = runs.load_run(tiny_run)
    frame = select_split(read_manifest(run.config.manifest), "train")
    every = pipeline.load_images(frame, run.card.image_size)
    images = tflite.split_images(run, run.config.manifest, "train", 3)
    np.testing.assert_array_equal(images, every[[0, round((len(every) - 1) / 2), -1]])
    assert len(tflite.split_images(run, run.config.manifest, "train", 10_000)) == len(every)
    validation = select_split(read_manifest(run.config.manifest), "validation")
    assert len(tflite.split_images(run, run.config.manifest, "validation", 0)) == len(validation)


def test_images_of_a_run_of_lungs_are_the_lungs_alone(tiny_run):
    """The ranges of int8 and its decisions are those of what the model is shown."""
    run = runs.load_run(tiny_run)
    run = dataclasses.replace(run, card=dataclasses.replace(run.card, lungs="extracted"))
    expected = []
    for path in select_split(read_manifest(run.config.manifest), "validation")["path"]:
        pixels = preprocess.decode(Path(path).read_bytes())
        found = lungs.find_lungs(lungs.pseudo_hu(pixels))
        if not found.reason:
            expected.append(preprocess.resize(lungs.extracted(pixels, found.mask), run.card.image_size))
    assert expected
    np.testing.assert_array_equal(tflite.split_images(run, run.config.manifest, "validation", 0), expected)


def test_int8_needs_the_runs_own_data(tiny_run, tmp_path):
    run = runs.load_run(tiny_run)
    moved = dataclasses.replace(run, config=dataclasses.replace(run.config, manifest=str(tmp_path / "no.csv")))
    assert tflite.training_data(moved, run.config.manifest) == run.config.manifest
    other = tmp_path / "other.csv"
    other.write_text("image\n")
    with pytest.raises(ValueError, match="int8 needs the images that"):
        tflite.training_data(moved, str(other))


def test_biases_of_the_heads_take_back_what_quantising_adds(converted, model, images):
    """Without it the mean logits of this network are off by 0.004 to 0.02."""
    expected = attention_model(model).predict(images.astype(np.float32), verbose=0)
    found = answers(converted["int8"], images)
    added = np.log(found["lesions"] / (1 - found["lesions"])) - expected["lesions"]
    np.testing.assert_allclose(added.mean(axis=0), 0.0, atol=1e-3)
    covid = np.log(found["covid"] / (1 - found["covid"])) - expected[COVID][:, 0] / TEMPERATURE
    assert abs(covid.mean()) < 1e-3


def test_the_network_is_left_as_it_was(converted, model, images):
    before = squeeze_excite_model().get_layer("covid_logits").bias.numpy()
    np.testing.assert_array_equal(model.get_layer("covid_logits").bias.numpy(), before)
    np.testing.assert_array_equal(
        answers(converted["float32"], images[:2])["covid"],
        answers(convert(model, TEMPERATURE, ["int8", "float32"], images)["float32"], images[:2])["covid"],
    )


@pytest.mark.parametrize(("shares", "chosen"), [([0.9, 0.99], 1), ([0.9, 0.8], 0), ([0.98], 0)])
def test_first_mixture_that_decides_as_the_network_is_taken(model, images, monkeypatch, shares, chosen):
    tried = []

    def equal_decisions(content, float32, decisions):
        tried.append(content)
        return shares[len(tried) - 1]

    monkeypatch.setattr(tflite_convert, "_equal_decisions", equal_decisions)
    monkeypatch.setattr(tflite_convert, "_MIXTURES", (("_se_",), ("_se_", "stem")))
    found = convert(model, TEMPERATURE, ["int8_mixed"], images[:2], Decisions(images, 0.5))["int8_mixed"]
    assert len(tried) == len(shares)
    assert found == tried[chosen]


def test_decisions_are_compared_at_the_threshold(converted, images):
    covid = np.sort(answers(converted["float32"], images)["covid"])
    threshold = (covid[5] + covid[6]) / 2
    assert _equal_decisions(converted["float32"], converted["float32"], Decisions(images, threshold)) == 1.0
    called = answers(converted["int8"], images)["covid"] >= threshold
    own = answers(converted["float32"], images)["covid"] >= threshold
    found = _equal_decisions(converted["int8"], converted["float32"], Decisions(images, threshold))
    assert found == np.mean(called == own)


@pytest.fixture(scope="module")
def own_run(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "tiny"
    shutil.copytree(tiny_run, folder)
    return folder


def test_command_writes_files_cards_and_report(own_run, tmp_path, capsys):
    argv = ["tflite", f"--run={own_run}", f"--out={tmp_path}", "--formats=float32,float16", "--images=6"]
    assert tflite.main(argv) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "float16.card.json",
        "float16.tflite",
        "float32.card.json",
        "float32.tflite",
        "parity.json",
        "parity.md",
    ]
    card, _ = read_card(tmp_path / "float16.tflite")
    source = runs.load_run(own_run).card
    assert (card.export.format, card.export.fitness) == ("float16", "fit")
    assert card.export.source_sha256 == source.model_sha256 != card.model_sha256
    assert (card.threshold, card.temperature) == (source.threshold, source.temperature)
    assert f"written: {tmp_path / 'float32.tflite'}" in capsys.readouterr().out


def test_command_leaves_nothing_unfit_in_place(own_run, tmp_path, capsys):
    argv = [
        "tflite",
        f"--run={own_run}",
        f"--out={tmp_path}",
        "--formats=float16",
        "--images=6",
        "--tolerance_float16=1e-9",
    ]
    assert tflite.main(argv) == parity.UNFIT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parity.json", "parity.md"]
    assert "written: " not in capsys.readouterr().out.replace("report: ", "")
    assert tflite.main([*argv, "--keep_failed"]) == parity.UNFIT
    card, _ = read_card(tmp_path / "float16.tflite")
    assert card.export.fitness == "unfit"
    assert card.export.reasons
    assert json.loads((tmp_path / "float16.card.json").read_text())["export"]["fitness"] == "unfit"


def test_command_names_the_formats_that_there_are(tiny_run, tmp_path):
    argv = ["tflite", f"--run={tiny_run}", f"--out={tmp_path}", "--formats=int8_mixed"]
    with pytest.raises(ValueError, match=r"float32, float16, dynamic, int8 for tiny\. Received: 'int8_mixed'"):
        tflite.main(argv)
