"""The graph that a server runs: its answers beside the run's own, and what it says of images that are none."""

import struct
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from test_preprocess import NOISE, encode, png, with_wrong_checksum

from export import signatures
from ladnn_tf import runs
from ladnn_tf.data import preprocess
from ladnn_tf.data.manifest import read_manifest
from ladnn_tf.models.ladnn import build_model

TEMPERATURE = 2.5
INVALID = tf.errors.InvalidArgumentError
JPEG = encode(NOISE, "JPEG")


@pytest.fixture(scope="module")
def model(tiny_run):
    return runs.load_run(tiny_run).model


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    path = tmp_path_factory.mktemp("card") / "card.json"
    path.write_bytes(b'{"name": "tiny"}')
    return path


@pytest.fixture(scope="module")
def served(model, card):
    """The signatures, with the object that keeps their variables alive."""
    return signatures.servable(model, TEMPERATURE, card)


@pytest.fixture(scope="module")
def ask(served):
    """A function from a list of files, or pixels, to a signature's answers as arrays."""

    def answers(images, signature=signatures.BYTES):
        pixels = signature == signatures.PIXELS
        inputs = {"images": tf.constant(images)} if pixels else {"image_bytes": tf.constant(images, tf.string)}
        return {name: tensor.numpy() for name, tensor in served[1][signature](**inputs).items()}

    return answers


@pytest.fixture(scope="module")
def files(phantom_manifest):
    """Six phantoms of 64 x 64 pixels, PNG and JPEG."""
    frame = read_manifest(phantom_manifest)
    return [Path(path).read_bytes() for path in frame["path"][:6]]


@pytest.fixture(scope="module")
def pixels(files):
    """The same at 32 x 32 by Pillow."""
    return np.stack([preprocess.resize(preprocess.decode(file), 32) for file in files])


def as_png(images):
    return [encode(Image.fromarray(image)) for image in images]


def test_probabilities_are_the_keras_model_s_and_the_temperature_divides_the_logit(model, ask, pixels):
    own = model.predict(pixels.astype(np.float32), verbose=0)
    p = own["covid"][:, 0].astype(np.float64)
    calibrated = 1 / (1 + ((1 - p) / p) ** (1 / TEMPERATURE))  # sigmoid(log(p / (1 - p)) / T)
    assert np.abs(calibrated - p).max() > 0.01
    for answers in (ask(pixels, "pixels"), ask(as_png(pixels)), ask(as_png(pixels), "explain")):
        np.testing.assert_allclose(answers["covid"], calibrated, atol=1e-5)
        np.testing.assert_allclose(answers["lesions"], own["lesions"], atol=1e-5)
        assert {array.dtype for array in answers.values()} == {np.dtype(np.float32)}


def test_maps_are_the_positive_weights_times_the_features(model, ask, pixels):
    features = keras.Model(model.input, model.get_layer("features").input)
    kernel = np.concatenate([model.get_layer(f"{x}_logits").get_weights()[0] for x in ("covid", "lesions")], 1)
    expected = np.maximum(features.predict(pixels, verbose=0) @ np.maximum(kernel, 0), 0)
    maps = ask(as_png(pixels), "explain")["maps"]
    assert maps.shape == (6, 4, 4, 6)
    assert maps.max() > 0.01
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-5)


def test_files_of_any_size_are_resized_by_the_contract(ask, files, pixels):
    mixed = [files[0], as_png(pixels)[1], files[2]]
    np.testing.assert_allclose(ask(mixed)["covid"], ask(pixels[:3], "pixels")["covid"], atol=2e-3)
    whole = np.stack([preprocess.decode(file) for file in files])
    assert whole.shape == (6, 64, 64, 3)
    np.testing.assert_allclose(ask(whole, "pixels")["covid"], ask(files)["covid"], atol=1e-6)


def test_every_kind_of_file_that_is_decoded_elsewhere_is_decoded_here(ask):
    grey = NOISE.resize((32, 32))
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    kinds = [
        encode(grey),
        encode(grey.convert("1")),
        encode(palette, transparency=1),
        encode(Image.merge("LA", (grey, grey))),
        encode(Image.merge("RGBA", (grey, grey, grey, grey))),
        encode(Image.fromarray(np.asarray(grey).astype(np.uint16) * 250)),
        encode(grey, "JPEG"),
        encode(grey.convert("RGB"), "JPEG", progressive=True),
        encode(grey) + b"trailing",
        encode(grey, "JPEG") + bytes(99),
    ]
    expected = np.stack([preprocess.decode(kind) for kind in kinds])
    np.testing.assert_allclose(ask(kinds)["covid"], ask(expected, "pixels")["covid"], atol=1e-6)


def jpeg_claiming(width: int, height: int) -> bytes:
    start = JPEG.index(b"\xff\xc0") + 5  # ITU-T T.81, B.2.2: after the frame's marker, length and precision
    return JPEG[:start] + struct.pack(">HH", height, width) + JPEG[start + 4 :]


REFUSED = {
    "empty": (b"", "the file is empty"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
    "text": (b"not an image at all", "neither PNG nor JPEG"),
    "one-byte": (b"\x89", "neither PNG nor JPEG"),
    "zeros": (bytes(50), "neither PNG nor JPEG"),
    "gif": (encode(NOISE, "GIF"), "neither PNG nor JPEG"),
    "bmp": (encode(NOISE, "BMP"), "neither PNG nor JPEG"),
    "tiff": (encode(NOISE, "TIFF"), "neither PNG nor JPEG"),
    "cut-png": (encode(NOISE)[:900], "damaged or truncated"),
    "no-end": (encode(NOISE)[:-12], "damaged or truncated"),
    "half-end": (encode(NOISE)[:-1], "damaged or truncated"),
    "cut-jpeg": (JPEG[:900], "damaged or truncated"),
    "half-end-jpeg": (JPEG[:-1], "damaged or truncated"),
    "cmyk": (encode(Image.new("CMYK", (8, 8)), "JPEG"), "colour mode CMYK"),
    "png48": (png(1, 1, 16, 2, b"\x00" + b"\x01" * 6), "16-bit PNG"),
    "bomb": (png(30_000, 30_000, 8, 0, b"\x00"), "pixels"),
    "jpeg-bomb": (jpeg_claiming(30_000, 30_000), "pixels"),
    "large": (png(8_000, 6_251, 8, 0, b"\x00"), "8000 x 6251 pixels are more than the 50,000,000"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_elsewhere_is_refused_here_with_place_reason_and_remedy(ask, kind):
    encoded, reason = REFUSED[kind]
    good = encode(NOISE)
    with pytest.raises(preprocess.ImageError, match=reason):
        preprocess.decode(encoded)
    for signature in (signatures.BYTES, signatures.EXPLAIN):
        with pytest.raises(INVALID, match=rf"1 of 3 images cannot be read.* image_bytes\[1\]: .*{reason}.*;.* "):
            ask([good, encoded, good], signature)
    assert ask([good])["covid"].shape == (1,)


def test_files_that_only_begin_like_images_are_truncated(ask):
    short = b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\nIEND\xaeB`\x82"
    for encoded in (*short, png(0, 5, 8, 0, b"")):
        with pytest.raises(INVALID, match=r"image_bytes\[0\]: damaged or truncated image"):
            ask([encoded])


def test_sizes_beyond_all_numbers_are_refused_by_their_size(ask):
    with pytest.raises(INVALID, match="4294967295 x 4294967295 pixels"):
        ask([png(2**32 - 1, 2**32 - 1, 8, 0, b"\x00")])


def test_the_largest_size_that_is_read_is_not_refused():
    assert signatures.refusal(tf.constant(png(8_000, 6_250, 8, 0, b"\x00"))).numpy() == b""
    assert signatures.refusal(tf.constant(jpeg_claiming(8_000, 6_250))).numpy() == b""


@pytest.mark.parametrize(
    "encoded",
    [
        with_wrong_checksum(encode(NOISE)),
        JPEG[:-400] + b"\0\xff" * 20 + JPEG[-360:],
        b"\xff\xd8\xffjunk" * 9 + JPEG,
    ],
    ids=["checksum", "scan", "header"],
)
def test_damage_that_only_the_decoder_finds_is_an_error_that_says_so(ask, encoded):
    good = encode(NOISE)
    with pytest.raises(INVALID, match="damaged_image_copy_it_again_from_its_source"):
        ask([good, encoded])
    assert ask([good])["covid"].shape == (1,)


def test_several_bad_images_are_all_named_up_to_eight(ask):
    good = encode(NOISE)
    with pytest.raises(INVALID) as caught:
        ask([b"", good, b"text"])
    assert "2 of 3 images" in caught.value.message
    assert "image_bytes[0]: the file is empty" in caught.value.message
    assert "image_bytes[2]: neither PNG nor JPEG" in caught.value.message
    assert "more]" not in caught.value.message
    with pytest.raises(INVALID) as caught:
        ask([b"text"] * 10)
    assert caught.value.message.count("neither") == 8
    assert "image_bytes[7]: neither PNG nor JPEG; convert it; and 2 more]" in caught.value.message


@pytest.mark.parametrize("signature", [signatures.BYTES, signatures.EXPLAIN, signatures.PIXELS])
def test_a_request_without_images_is_an_error(ask, signature):
    nothing = np.zeros((0, 5, 5, 3), np.uint8) if signature == signatures.PIXELS else []
    with pytest.raises(INVALID, match="the request holds no image; send at least one"):
        ask(nothing, signature)


@pytest.mark.parametrize("queries", [0, 1, 3])
def test_the_card_comes_once_for_each_query(served, card, queries):
    asked = tf.constant([b"x"] * queries, tf.string)
    assert served[1][signatures.CARD](query=asked)["card"].numpy().tolist() == [card.read_bytes()] * queries


def test_a_baseline_has_neither_lesions_nor_their_maps(tiny_baseline_run, card):
    _, functions = signatures.servable(runs.load_run(tiny_baseline_run).model, 1.0, card)
    shapes = {
        name: {output: spec.shape.as_list() for output, spec in function.structured_outputs.items()}
        for name, function in functions.items()
    }
    assert shapes == {
        "serving_default": {"covid": [None]},
        "explain": {"covid": [None], "maps": [None, 4, 4, 1]},
        "pixels": {"covid": [None]},
        "card": {"card": [None]},
    }


def test_a_model_of_mixed_precision_is_served_in_float32(tiny_backbone, card):
    model = build_model(tiny_backbone, image_size=32, precision="mixed_bfloat16")
    _, functions = signatures.servable(model, 1.0, card)
    graph = functions["explain"].graph.as_graph_def(add_shapes=False)
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    types = {value.type for node in nodes for value in node.attr.values()}
    assert tf.float32.as_datatype_enum in types
    assert not types & {tf.float16.as_datatype_enum, tf.bfloat16.as_datatype_enum}
