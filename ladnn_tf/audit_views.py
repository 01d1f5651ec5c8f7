"""The images of a shortcut audit: a split, unchanged and in every alteration."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from absl import logging

from ladnn_tf.data import pipeline, preprocess
from ladnn_tf.data.alterations import ALTERATIONS, COMMON_SIZE, common_resolution
from ladnn_tf.data.lung_hulls import NoLungsError
from ladnn_tf.data.manifest import select_split
from ladnn_tf.labels import COVID

UNCHANGED = "unchanged"
COMMON_RESOLUTION = "common resolution"

Views = dict[str, tuple[np.ndarray, np.ndarray]]
"""Alteration -> `(N, S, S, 3)` uint8 images and (N,) bool, whether each could be altered."""


def evaluated_split(manifest: pd.DataFrame, split: str) -> pd.DataFrame:
    """Returns the rows of a split, with an index of 0 to n - 1.

    Raises:
        ValueError: if the split has no rows, or one class only.
    """
    frame = select_split(manifest, split)
    if frame[COVID].nunique() < 2:
        raise ValueError(
            f"all {len(frame)} images of split {split!r} of {manifest.attrs['path']} have {COVID} = "
            f"{frame[COVID].iloc[0]}; an AUC needs both classes, give another --split or --manifest"
        )
    return frame


def altered_views(frame: pd.DataFrame, size: int) -> Views:
    """Loads the images of manifest rows, unchanged and in every alteration.

    Args:
        frame: manifest rows.
        size: the side S of the network's input in pixels.

    Returns:
        Each alteration's images; where it was not possible the image is black. One common resolution is among
        them only where S is larger than it (`alterations.COMMON_SIZE`).
    """
    unchanged = pipeline.load_images(frame, size)
    views = {UNCHANGED: (unchanged, np.ones(len(frame), bool))}
    for name, function in ALTERATIONS.items():
        logging.info("altering %d images: %s", len(frame), name)
        views[name] = _altered(unchanged, function)
    if size <= COMMON_SIZE:
        return views
    originals = (preprocess.decode(Path(path).read_bytes()) for path in frame["path"])
    common = np.stack([common_resolution(original, size) for original in originals])
    return views | {COMMON_RESOLUTION: (common, np.ones(len(frame), bool))}


def one_of_each_class(frame: pd.DataFrame, views: Views) -> Views:
    """Picks a positive and a negative slice, in this order, that could be altered in every way if there is one.

    Args:
        frame: manifest rows with both classes.
        views: of these rows, from `altered_views`.
    """
    possible = np.logical_and.reduce([each for _, each in views.values()])
    rows = []
    for covid in (1, 0):
        own = np.flatnonzero(frame[COVID] == covid)
        rows.append(next((row for row in own if possible[row]), own[0]))
    return {name: (images[rows], each[rows]) for name, (images, each) in views.items()}


def _altered(images: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    altered, possible = np.zeros_like(images), np.ones(len(images), bool)
    for position, image in enumerate(images):
        try:
            altered[position] = function(image)
        except NoLungsError as error:
            logging.warning("image %d is left out: %s", position, error)
            possible[position] = False
    return altered, possible
