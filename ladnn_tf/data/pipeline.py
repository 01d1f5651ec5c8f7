"""From manifest rows to `tf.data`: decode once, cache as uint8, shuffle, augment, batch, prefetch.

Shuffling and augmentation are functions of (seed, epoch, row) and of nothing else, so that a training that is
continued at epoch e sees what an uninterrupted one would have seen.
"""

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from absl import logging

from ladnn_tf.data import preprocess
from ladnn_tf.labels import CLASSES, COVID, LESIONS

UNKNOWN = -1.0
"""The value that stands for an unknown lesion label in `y["lesions"]`; the loss masks it."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image; every range is uniform.

    Attributes:
        scale_min, scale_max: the zoom factor; 1.2 shows the slice 1.2 times as large.
        shear_degrees: the largest horizontal shear angle, in degrees, to either side.
        flip: mirror left and right, with probability 0.5.
        brightness: the largest shift, as a share of the grey range (0.1 is 25.5 levels).
        contrast: the largest relative change about the image's own mean (0.1 is 0.9 to 1.1 times).
        shift: the largest displacement across and down, each to either side, as a share of the side.
    """

    scale_min: float = 0.8
    scale_max: float = 1.2
    shear_degrees: float = 0.0
    flip: bool = True
    brightness: float = 0.0
    contrast: float = 0.0
    shift: float = 0.0


_WORKERS = os.cpu_count() or 1
_BATCHES_AHEAD = 2
_DRAWS = 5  # scale, shear, flip, brightness, contrast
_SHIFT_DRAWS = 2  # across, down; drawn apart, so that those above are as they were before there was a shift


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes one PNG or JPEG as `preprocess.decode` does, in the graph.

    Args:
        encoded: scalar string, the bytes of the file.

    Returns:
        `(H, W, 3)` uint8 RGB in [0, 255].
    """
    png16 = tf.strings.substr(encoded, 1, 3) == "PNG"
    png16 &= tf.strings.substr(encoded, 24, 1) == b"\x10"

    def sixteen_bits():
        wide = tf.cast(tf.io.decode_png(encoded, channels=3, dtype=tf.uint16), tf.float32)
        return tf.cast(tf.round(wide / 257.0), tf.uint8)

    # decode_jpeg also reads PNG; decode_image would use the fast DCT, up to 21 grey levels off Pillow.
    image = tf.cond(
        png16,
        sixteen_bits,
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
    )
    image.set_shape((None, None, 3))
    return image


def resize(pixels: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes as `preprocess.resize` does, in the graph.

    Args:
        pixels: `(H, W, 3)` uint8 RGB.
        size: the side S in pixels.

    Returns:
        `(S, S, 3)` uint8 RGB in [0, 255].
    """
    # Given uint8 it computes in float32 all the same, without a copy of a large image in float32.
    resized = tf.image.resize(pixels, (size, size), "bilinear", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)


def verify_images(frame: pd.DataFrame) -> None:
    """Decodes every image once, so that a bad one is named before the first epoch and not in the middle of it.

    Args:
        frame: manifest rows (`manifest.read_manifest`).

    Raises:
        ValueError: naming every image that cannot be read, with its manifest row and the reason.
    """
    bad = []
    for row, path in zip(frame["row"], frame["path"], strict=True):
        try:
            preprocess.decode(Path(path).read_bytes())
        except (OSError, preprocess.ImageError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            bad.append(f"  row {row}: {path}: {reason}")
    if bad:
        source = frame.attrs.get("path", "the manifest")
        raise ValueError(
            f"{len(bad)} of {len(frame)} images of {source} cannot be read; mend the files or take the rows "
            "out:\n" + "\n".join(bad)
        )


def load_images(frame: pd.DataFrame, size: int, cache: str = "memory") -> np.ndarray:
    """Decodes and resizes all images of a manifest in parallel, once.

    Args:
        frame: manifest rows with the column `path`.
        size: the side S in pixels.
        cache: `memory`, or a folder in which a file that is mapped into memory is made; the file has no name
            there and goes when the process ends.

    Returns:
        `(N, S, S, 3)` uint8 RGB in [0, 255], in the order of the rows.

    Raises:
        ValueError: naming row and file of the first image that cannot be decoded.
    """
    shape = (len(frame), size, size, 3)
    if cache == "memory":
        images = np.empty(shape, np.uint8)
    else:
        Path(cache).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache) as file:
            images = np.memmap(file, np.uint8, mode="w+", shape=shape)
    dataset = tf.data.Dataset.from_tensor_slices(frame["path"].to_numpy(str))
    dataset = dataset.map(lambda path: resize(decode(tf.io.read_file(path)), size), num_parallel_calls=_WORKERS)
    done = 0
    try:
        for image in _fixed(dataset).as_numpy_iterator():
            images[done] = image
            done += 1
    except tf.errors.OpError as error:
        # The order is kept, so that it is the next image that failed.
        raise ValueError(
            f"row {frame['row'].iloc[done]}: {frame['path'].iloc[done]} cannot be decoded ({error.message}); mend "
            "the file or take the row out"
        ) from error
    logging.info("decoded %d images to %d x %d (%.0f MB)", len(frame), size, size, images.nbytes / 1e6)
    return images


def diagnoses(frame: pd.DataFrame) -> pd.Series:
    """The diagnosis of each row of a manifest; where it is empty and the image is of COVID-19, that."""
    return frame["diagnosis"].where((frame["diagnosis"] != "") | (frame[COVID] != 1), CLASSES[0])


def select_classes(frame: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """The rows whose diagnosis is one of the classes, all rows for a model without classes.

    Raises:
        ValueError: if there are none, or the diagnosis and the label of COVID-19 contradict each other.
    """
    if not classes:
        return frame
    found = diagnoses(frame)
    source = frame.attrs.get("path", "the manifest")
    contradicting = (found == CLASSES[0]) != (frame[COVID] == 1)
    if contradicting.any():
        row = frame.index[contradicting][0]
        raise ValueError(
            f"{source}, row {frame['row'][row]}: the diagnosis is {found[row] or 'empty'}, but covid is "
            f"{frame[COVID][row]}; mend one of them"
        )
    kept = found.isin(classes)
    if not kept.any():
        raise ValueError(
            f"{source} has no image with one of the diagnoses {', '.join(classes)} in this split; fill the column "
            "`diagnosis`"
        )
    if not kept.all():
        logging.info("%d of %d images are of none of %s: left out", (~kept).sum(), len(frame), ", ".join(classes))
    return frame[kept].reset_index(drop=True)


def targets(
    frame: pd.DataFrame, lesion_targets: str = "positives", classes: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The labels as the loss takes them.

    Args:
        frame: manifest rows, from `select_classes`.
        lesion_targets: `positives` (an unknown lesion stays unknown) or `all` (a COVID-negative image counts as
            having none of the five; an unlabelled positive stays unknown).
        classes: of a model with a softmax, in order.

    Returns:
        `covid` (N, 1) float32, 1 or 0, and `lesions` (N, 5) float32, 1, 0 or `UNKNOWN`; of a model with C classes
        `covid`, and one-hot (N, C) float32 for each of its heads `classes`, `image` and `regions`.
    """
    if classes:
        one_hot = (diagnoses(frame).to_numpy(str)[:, None] == np.array(classes)).astype(np.float32)
        covid = frame[COVID].to_numpy(np.float32)[:, None]
        return {COVID: covid, **dict.fromkeys(("classes", "image", "regions"), one_hot)}
    covid = frame[COVID].to_numpy(np.float32)[:, None]
    lesions = frame[list(LESIONS)].to_numpy(np.float32)
    if lesion_targets == "all":
        lesions = np.where(np.isnan(lesions) & (covid == 0), 0.0, lesions)
    elif lesion_targets != "positives":
        raise ValueError(f"lesion_targets should be positives or all. Received: {lesion_targets!r}")
    return {"covid": covid, "lesions": np.nan_to_num(lesions, nan=UNKNOWN).astype(np.float32)}


def augmentation_draws(seed: int, epoch: tf.Tensor, rows: int) -> tf.Tensor:
    """The random numbers of one epoch: `(rows, 7)` float32 in [0, 1), a function of (seed, epoch, row) alone."""
    key = tf.constant(seed, tf.int64)
    draws = tf.random.stateless_uniform((rows, _DRAWS), seed=tf.stack([key, epoch]))
    shifts = tf.random.stateless_uniform((rows, _SHIFT_DRAWS), seed=tf.stack([key + 2, epoch]))
    return tf.concat([draws, shifts], axis=-1)


def epoch_order(seed: int, epoch: tf.Tensor, rows: int) -> tf.Tensor:
    """The order of one epoch: `(rows,)` int64, a permutation that is a function of (seed, epoch) alone."""
    key = tf.stack([tf.constant(seed, tf.int64) + 1, epoch])
    return tf.random.experimental.stateless_shuffle(tf.range(rows, dtype=tf.int64), seed=key)


def augment(images: tf.Tensor, draws: tf.Tensor, augmentation: Augmentation) -> tf.Tensor:
    """Applies one random affine map and one change of grey values per image.

    The map is scale, shear, flip and shift together, bilinear, black outside.

    Args:
        images: `(B, S, S, 3)` uint8.
        draws: `(B, 7)` float32 in [0, 1), one row of `augmentation_draws` per image.
        augmentation: the ranges.

    Returns:
        `(B, S, S, 3)` float32 in [0, 255].
    """
    a = augmentation
    pixels = tf.cast(images, tf.float32)
    scale_draw, shear_draw, flip_draw, brightness_draw, contrast_draw, *shift_draws = tf.unstack(draws, axis=-1)
    if a.scale_min != 1.0 or a.scale_max != 1.0 or a.shear_degrees or a.flip or a.shift:
        scale = a.scale_min + (a.scale_max - a.scale_min) * scale_draw
        shear = tf.tan((2.0 * shear_draw - 1.0) * (a.shear_degrees * np.pi / 180.0))
        mirror = tf.where(flip_draw < 0.5, -1.0, 1.0) if a.flip else tf.ones_like(flip_draw)
        # The operation maps output pixels to input pixels about the corner; the centre is to stay in place.
        side = tf.cast(tf.shape(pixels)[1], tf.float32)
        centre = (side - 1.0) / 2.0
        across, down = ((2.0 * draw - 1.0) * a.shift * side for draw in shift_draws)
        x_from_x, x_from_y, y_from_y = mirror / scale, shear / scale, 1.0 / scale
        zero = tf.zeros_like(scale)
        transforms = tf.stack(
            [
                x_from_x,
                x_from_y,
                centre * (1.0 - x_from_x - x_from_y) - x_from_x * across - x_from_y * down,
                zero,
                y_from_y,
                centre * (1.0 - y_from_y) - y_from_y * down,
                zero,
                zero,
            ],
            axis=-1,
        )
        pixels = tf.raw_ops.ImageProjectiveTransformV3(
            images=pixels,
            transforms=transforms,
            output_shape=tf.shape(pixels)[1:3],
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
            fill_value=0.0,
        )
    if a.contrast:
        factor = (1.0 + (2.0 * contrast_draw - 1.0) * a.contrast)[:, None, None, None]
        mean = tf.reduce_mean(pixels, axis=(1, 2, 3), keepdims=True)
        pixels = (pixels - mean) * factor + mean
    if a.brightness:
        pixels += ((2.0 * brightness_draw - 1.0) * (255.0 * a.brightness))[:, None, None, None]
    return tf.clip_by_value(pixels, 0.0, 255.0)


def images_per_epoch(rows: int, batch_size: int, devices: int = 1) -> int:
    """How many images an epoch has: all, on one device.

    On several each batch is divided evenly: every image then counts as on one device, and none is left without.
    Of the last, smaller batch up to `devices` - 1 images wait for another epoch, other ones in each.

    Args:
        rows: number of training images.
        batch_size: images per step, a multiple of `devices`.
        devices: among which each batch is divided.

    Returns:
        The number.

    Raises:
        ValueError: if the batches cannot be divided, or there are fewer images than devices.
    """
    if batch_size % devices:
        raise ValueError(f"--batch_size should be a multiple of the {devices} devices. Received: {batch_size}")
    if rows < devices:
        raise ValueError(f"{rows} training images cannot be divided among {devices} devices")
    return rows - rows % batch_size % devices


def training_dataset(
    images: np.ndarray,
    labels: dict[str, np.ndarray],
    *,
    batch_size: int,
    seed: int,
    augmentation: Augmentation,
    first_epoch: int,
    epochs: int,
    devices: int = 1,
) -> tf.data.Dataset:
    """All epochs from `first_epoch` to `epochs`, one after the other, for `fit(steps_per_epoch=...)`.

    Args:
        images: `(N, S, S, 3)` uint8, from `load_images`.
        labels: from `targets`, each with N rows; the arrays that the model has outputs for.
        batch_size: images per batch; the last batch of an epoch is smaller, none is dropped.
        seed: with the epoch and the row it determines order and augmentation.
        augmentation: the ranges.
        first_epoch: the number of the first epoch, from 0.
        epochs: the number after the last epoch's.
        devices: among which each batch is divided; see `images_per_epoch`.

    Returns:
        Batches of `(images (B, S, S, 3) float32 in [0, 255], labels)`.
    """
    rows, read = len(images), _reader(images)
    used = images_per_epoch(rows, batch_size, devices)

    def one_epoch(epoch):
        draws = augmentation_draws(seed, epoch, rows)
        dataset = tf.data.Dataset.from_tensor_slices(epoch_order(seed, epoch, rows)[:used]).batch(batch_size)
        return dataset.map(
            lambda index: (
                augment(read(index), tf.gather(draws, index), augmentation),
                {name: tf.gather(array, index) for name, array in labels.items()},
            ),
            num_parallel_calls=_WORKERS,
            deterministic=True,
        )

    return _fixed(tf.data.Dataset.range(first_epoch, epochs).flat_map(one_epoch))


def prediction_dataset(images: np.ndarray, batch_size: int) -> tf.data.Dataset:
    """The images in order, unchanged: batches `(B, S, S, 3)` uint8; the last may be smaller."""
    read = _reader(images)
    return _fixed(tf.data.Dataset.range(len(images)).batch(batch_size).map(read))


def _fixed(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Prefetches, with a fixed number of workers and batches ahead.

    Autotuning has a thread that sleeps for 10 ms, 20 ms, 40 ms ... up to a minute, and who gives up an iterator
    waits until it wakes: a prediction of a second would take two.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(_BATCHES_AHEAD).with_options(options)


def _reader(images: np.ndarray):
    """A graph function from row numbers `(B,)` to `(B, S, S, 3)` uint8."""

    def read(rows):
        # numpy_function keeps one copy of the images, in memory or mapped from disk, outside the graph.
        batch = tf.numpy_function(lambda i: images[i], [rows], tf.uint8, stateful=False)
        return tf.ensure_shape(batch, (None, *images.shape[1:]))

    return read
