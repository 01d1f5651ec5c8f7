"""The Pillow side of the image contract."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from ladnn_tf.data import preprocess

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8))


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_wrong_checksum(encoded: bytes) -> bytes:
    """The same PNG with a bit of the checksum behind its first IDAT chunk turned."""
    start = encoded.index(b"IDAT")
    (length,) = struct.unpack(">I", encoded[start - 4 : start])
    changed = bytearray(encoded)
    changed[start + 4 + length] ^= 1
    return bytes(changed)


def orientation(value: object) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    return exif


def with_cut_profile() -> bytes:
    """A PNG with an iCCP chunk, behind the pixels, that ends after the name of the colour profile."""
    whole = encode(NOISE)
    body = b"iCCP" + b"icc\0"
    chunk = struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body))
    return whole[:-12] + chunk + whole[-12:]


def png(width: int, height: int, depth: int, colour: int, rows: bytes | None) -> bytes:
    """A PNG written by hand, for kinds that Pillow does not write; without IDAT if there are no rows."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (b"" if rows is None else chunk(b"IDAT", zlib.compress(rows)))
        + chunk(b"IEND", b"")
    )


def test_grey_becomes_three_equal_channels():
    pixels = preprocess.decode(encode(Image.fromarray(np.array([[0, 255], [7, 8]], np.uint8))))
    assert pixels.dtype == np.uint8
    assert pixels[..., 1].tolist() == [[0, 255], [7, 8]]
    assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_not_blended(mode):
    opaque, clear = [(90, 90, 90, 255), (90, 90, 90, 0)] if mode == "RGBA" else [(90, 255), (90, 0)]
    image = Image.new(mode, (2, 1), opaque)
    image.putpixel((1, 0), clear)
    assert preprocess.decode(encode(image)).tolist() == [[[90, 90, 90], [90, 90, 90]]]


def test_palette_gives_its_colours_also_where_an_entry_is_transparent():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    expected = [[[10, 20, 30], [200, 100, 50]]]
    assert preprocess.decode(encode(image)).tolist() == expected
    assert preprocess.decode(encode(image, transparency=1)).tolist() == expected


def test_one_bit_is_black_and_white():
    image = Image.new("1", (2, 1), 0)
    image.putpixel((1, 0), 1)
    assert preprocess.decode(encode(image))[0, :, 0].tolist() == [0, 255]


def test_sixteen_bit_grey_is_divided_by_257_and_rounded():
    values = np.array([[0, 257, 385, 386, 65535]], np.uint16)  # 385 / 257 = 1.498, 386 / 257 = 1.502
    assert preprocess.decode(encode(Image.fromarray(values)))[0, :, 0].tolist() == [0, 1, 1, 2, 255]


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (b"not an image at all", "neither PNG nor JPEG"),
        (encode(Image.new("RGB", (8, 8)), "TIFF"), "neither PNG nor JPEG"),
        (encode(Image.new("L", (8, 8)), "GIF"), "neither PNG nor JPEG"),
        (encode(NOISE)[:900], "truncated"),
        (encode(NOISE, "JPEG")[:900], "truncated"),
        (encode(NOISE)[:-4], "truncated"),
        (encode(NOISE)[:-12], "truncated"),
        (with_wrong_checksum(encode(NOISE)), "damaged"),
        (encode(Image.new("CMYK", (8, 8)), "JPEG"), "CMYK"),
        (png(1, 1, 16, 2, b"\x00" + b"\x01" * 6), "16-bit PNG"),
        (png(8, 8, 8, 0, None), "damaged"),
        (with_cut_profile(), "damaged"),
        (encode(NOISE, "JPEG", exif=orientation(6)), r"turned \(EXIF orientation 6\); save it upright"),
        (encode(NOISE, exif=orientation(2)), r"turned \(EXIF orientation 2\)"),
        (png(0, 0, 8, 0, b""), "damaged or truncated|neither PNG nor JPEG"),
        (png(30_000, 30_000, 8, 0, b"\x00"), "too many pixels"),
        (png(8_000, 8_000, 8, 0, b"\x00"), "8000 x 8000 pixels"),
    ],
    ids=[
        "empty",
        "lfs",
        "junk",
        "tiff",
        "gif",
        "cut-png",
        "cut-jpeg",
        "cut-end",
        "no-end",
        "checksum",
        "cmyk",
        "png48",
        "no-data",
        "cut-profile",
        "turned-jpeg",
        "turned-png",
        "zero-size",
        "bomb",
        "large",
    ],
)
def test_bad_images_are_refused_with_their_reason(encoded, message):
    with pytest.raises(preprocess.ImageError, match=message):
        preprocess.decode(encoded)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("value", [1, 0, 9])
def test_upright_and_unknown_orientations_are_read(kind, value):
    assert (preprocess.decode(encode(NOISE, kind, exif=orientation(value)))).shape == (64, 64, 3)


def test_damaged_metadata_are_no_reason():
    encoded = encode(NOISE, exif=orientation(6).tobytes()[:-20])
    assert (preprocess.decode(encoded)[..., 0] == np.asarray(NOISE)).all()


def test_resize_averages_when_it_shrinks():
    # Antialiased bilinear from 4 to 2 pixels: a triangle of radius 2 source pixels about 1.0 and 3.0. The first
    # output has weights 0.75, 0.75, 0.25 (normalised by 1.75) on the values 0, 70, 140.
    row = np.array([0, 70, 140, 210], np.uint8)
    pixels = np.repeat(np.repeat(row[None, :, None], 4, axis=0), 3, axis=2)
    first = (0.75 * 0 + 0.75 * 70 + 0.25 * 140) / 1.75  # 50.0
    last = (0.25 * 70 + 0.75 * 140 + 0.75 * 210) / 1.75  # 160.0
    assert preprocess.resize(pixels, 2)[..., 0].tolist() == [[round(first), round(last)]] * 2


def test_resize_does_not_keep_the_aspect_ratio():
    assert preprocess.resize(np.zeros((10, 40, 3), np.uint8), 16).shape == (16, 16, 3)


def test_read_image_names_the_file(tmp_path):
    broken = tmp_path / "91%1.png"
    broken.write_bytes(b"")
    with pytest.raises(preprocess.ImageError, match=r"91%1\.png: the file is empty"):
        preprocess.read_image(broken, 32)
    with pytest.raises(preprocess.ImageError, match=r"missing\.png: cannot be read \(No such file"):
        preprocess.read_image(tmp_path / "missing.png", 32)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_an_encoded_png_gives_the_pixels_back(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    expected = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=-1)
    np.testing.assert_array_equal(preprocess.decode(preprocess.encode_png(pixels, compress_level=1)), expected)
