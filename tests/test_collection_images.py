"""The pictures of the data collection: what is taken, what is erased, and what is left out of the file."""

import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from contributions import noise
from PIL import Image, PngImagePlugin

from ladnn_tf.data.phantom_slice import example_png
from ladnn_tf.data.preprocess import PNG_SIGNATURE, decode, encode_png
from ladnn_tf.data.quality import refusal
from serving.collection.images import CORNERS, Erasure, HiddenError, erase, prepare

SECRET = "Erika Mustermann"


def test_erased_corners_are_rounded_up_to_whole_pixels():
    # 15 % of 10 rows are 1.5, so 2; of 20 columns 3.
    white = np.full((10, 20, 3), 255, np.uint8)
    for corner, rows, columns in (
        ("top_left", slice(0, 2), slice(0, 3)),
        ("top_right", slice(0, 2), slice(17, 20)),
        ("bottom_left", slice(8, 10), slice(0, 3)),
        ("bottom_right", slice(8, 10), slice(17, 20)),
    ):
        erased = erase(white, Erasure((corner,), 15))
        assert (erased[rows, columns] == 0).all()
        assert (erased == 0).all(axis=-1).sum() == 6
    assert (erase(white, Erasure(CORNERS, 15)) == 0).all(axis=-1).sum() == 24
    assert (white == 255).all()


def test_seven_percent_of_a_hundred_are_seven():
    # 0.07 * 100 is 7.000000000000001 in floating point.
    assert (erase(np.full((100, 100, 3), 9, np.uint8), Erasure(("top_left",), 7)) == 0).all(axis=-1).sum() == 49


def test_erasing_nothing_and_erasing_most():
    pixels = noise(1, (7, 5))
    assert (erase(pixels, Erasure()) == pixels).all()
    # 30 % of 7 rows are 2.1, so 3; of 5 columns 1.5, so 2: one row and one column stay.
    left = (erase(np.full((7, 5, 3), 255, np.uint8), Erasure(CORNERS, 30)) > 0).all(axis=-1)
    assert left.sum() == 7 + 5 - 1


@pytest.mark.parametrize("arguments", [(("middle",), 15), (("top_left",), 4), (("top_left",), 31)])
def test_an_erasure_that_is_not_offered_is_refused(arguments):
    with pytest.raises(ValueError, match="Received"):
        Erasure(*arguments)


def chunks(png):
    found, place = [], 8
    while place < len(png):
        length = int.from_bytes(png[place : place + 4])
        found.append(png[place + 4 : place + 8])
        place += 12 + length
    return found


def with_metadata(kind):
    exif = Image.Exif()
    exif[0x010E] = SECRET  # ImageDescription
    exif.get_ifd(0x8825)[1] = "N"  # GPS latitude
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 14.0)
    content = io.BytesIO()
    options = {"exif": exif, "icc_profile": SECRET.encode()}
    if kind == "PNG":
        options["pnginfo"] = text = PngImagePlugin.PngInfo()
        text.add_text("Patient", SECRET)
        text.add_itxt("Comment", SECRET, zip=True)
    else:
        options["comment"] = SECRET.encode()
    Image.fromarray(noise(3)).save(content, kind, **options)
    return content.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_no_metadata_survives(kind):
    encoded = with_metadata(kind)
    assert SECRET.encode() in encoded
    assert Image.open(io.BytesIO(encoded)).getexif().get_ifd(0x8825)
    prepared = prepare(encoded + SECRET.encode())  # and something behind the picture's end
    assert set(chunks(prepared.png)) == {b"IHDR", b"IDAT", b"IEND"}
    assert prepared.png.endswith(b"IEND\xaeB`\x82")
    assert SECRET.encode() not in prepared.png
    assert (decode(prepared.png) == decode(encoded)).all()
    assert prepared.sha256 == hashlib.sha256(prepared.png).hexdigest()


def test_grey_is_stored_as_grey_and_colour_as_colour():
    grey = np.repeat(noise(4)[..., :1], 3, axis=-1)
    almost = grey.copy()
    almost[5, 6, 2] ^= 1
    for pixels, mode in ((grey, "L"), (almost, "RGB")):
        prepared = prepare(encode_png(pixels))
        assert Image.open(io.BytesIO(prepared.png)).mode == mode
        assert (decode(prepared.png) == pixels).all()
        assert (prepared.width, prepared.height) == (48, 40)


def test_equal_pixels_have_one_hash_whatever_their_file():
    pixels = noise(5)
    one, other = prepare(encode_png(pixels)), prepare(encode_png(pixels, 9))
    turned = prepare(encode_png(pixels.reshape(48, 40, 3)))
    assert one.pixels_sha256 == other.pixels_sha256 != turned.pixels_sha256


def test_a_picture_is_judged_before_its_corners_are_erased():
    pixels, erasure = decode(example_png()), Erasure(CORNERS, 30)
    assert refusal(erase(pixels, erasure))
    assert prepare(example_png(), erasure).refusal == ""
    assert prepare(encode_png(noise(6)), erasure).refusal.startswith("in colour")


# What viewers do not show


def see_through(mode):
    """A white picture with a grey word under transparent pixels, which viewers show as the page's background."""
    grey = np.full((40, 48), 255, np.uint8)
    grey[3:9, 4:30] = 80
    hidden = grey == 80
    colour = np.repeat(grey[..., None], 3, axis=-1)
    alpha = np.where(hidden, 0, 255).astype(np.uint8)
    options = {}
    match mode:
        case "LA":
            image = Image.fromarray(np.dstack([grey, alpha]))
        case "RGBA":
            image = Image.fromarray(np.dstack([colour, alpha]))
        case "nearly opaque":
            image = Image.fromarray(np.dstack([colour, np.where(hidden, 254, 255).astype(np.uint8)]))
        case "one pixel":
            alpha[...] = 255
            alpha[-1, -1] = 0
            image = Image.fromarray(np.dstack([colour, alpha]))
        case "palette" | "half-transparent palette":
            image = Image.fromarray(np.where(hidden, 1, 0).astype(np.uint8), "P")
            image.putpalette([255, 255, 255, 80, 80, 80])
            options["transparency"] = 1 if mode == "palette" else b"\xff\x80"
        case "grey":
            image, options["transparency"] = Image.fromarray(grey), 80
        case "RGB":
            image, options["transparency"] = Image.fromarray(colour), (80, 80, 80)
        case "16 bits":
            image, options["transparency"] = Image.fromarray(grey.astype(np.uint16) * 257), 80 * 257
        case "1 bit":
            image, options["transparency"] = Image.fromarray(grey == 80), 1
    content = io.BytesIO()
    image.save(content, "PNG", **options)
    return content.getvalue()


SEE_THROUGH = ["LA", "RGBA", "nearly opaque", "one pixel", "palette", "half-transparent palette", "grey", "RGB"]


@pytest.mark.parametrize("mode", [*SEE_THROUGH, "16 bits", "1 bit"])
def test_what_lies_under_transparent_pixels_is_not_stored(mode):
    encoded = see_through(mode)
    assert set(chunks(encoded)) & {b"tRNS"} or mode in SEE_THROUGH[:4]
    assert len(np.unique(decode(encoded))) == 2  # the word is there, though nobody sees it
    with pytest.raises(HiddenError, match="save it without transparency"):
        prepare(encoded)


def without_use(mode):
    """A picture in which nothing is transparent, though it could be."""
    grey = np.arange(40 * 48, dtype=np.uint8).reshape(40, 48) // 2  # up to 127
    colour, opaque, options = np.repeat(grey[..., None], 3, axis=-1), np.full_like(grey, 255), {}
    match mode:
        case "LA":
            image = Image.fromarray(np.dstack([grey, opaque]))
        case "RGBA":
            image = Image.fromarray(np.dstack([colour, opaque]))
        case "palette":
            image, options["transparency"] = Image.fromarray(grey, "P"), 200
            image.putpalette(bytes(range(256)) * 3)
        case "grey":
            image, options["transparency"] = Image.fromarray(grey), 200
        case "RGB":  # each channel has the value somewhere, and no pixel all three of them
            image, options["transparency"] = Image.fromarray(colour), (100, 100, 101)
    content = io.BytesIO()
    image.save(content, "PNG", **options)
    return content.getvalue()


@pytest.mark.parametrize("mode", ["LA", "RGBA", "palette", "grey", "RGB"])
def test_an_opaque_alpha_channel_and_an_unused_transparent_colour_pass(mode):
    encoded = without_use(mode)
    assert (decode(prepare(encoded).png) == decode(encoded)).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_transparent_grey_counts_in_as_many_bits_as_the_file_has(bits):
    most = 2**bits - 1
    sample = bytes([0b10101010 if bits == 1 else 0b11001100 if bits == 2 else 0xF0])
    rows = zlib.compress(b"".join(b"\0" + sample * (32 * bits // 8) for _ in range(32)))

    def png(transparent):
        header = struct.pack(">IIBBBBB", 32, 32, bits, 0, 0, 0, 0)
        parts = ((b"IHDR", header), (b"tRNS", struct.pack(">H", transparent)), (b"IDAT", rows), (b"IEND", b""))
        return PNG_SIGNATURE + b"".join(
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
            for kind, content in parts
        )

    assert sorted(np.unique(decode(png(0)))) == [0, 255]
    for used in (0, most):
        with pytest.raises(HiddenError):
            prepare(png(used))
    if bits > 1:
        assert prepare(png(1)).width == 32


def test_an_animated_picture_is_refused():
    # Viewers show the frames; the picture that is decoded is none of them.
    content = io.BytesIO()
    hidden, *frames = (Image.fromarray(np.full((32, 32), grey, np.uint8)) for grey in (200, 0, 9))
    hidden.save(content, "PNG", save_all=True, default_image=True, append_images=frames)
    assert (decode(content.getvalue()) == 200).all()
    with pytest.raises(HiddenError, match="save it as a single one") as raised:
        prepare(content.getvalue())
    assert raised.value.kind == "animated"
