"""The slices of a manifest as a model is to see them: whole, or their lungs alone."""

import collections
import concurrent.futures
import functools
import os
from pathlib import Path

import numpy as np
import pandas as pd
from absl import logging

from ladnn_tf.data import lungs, pipeline, preprocess


def load_split(
    frame: pd.DataFrame, size: int, shown: str = "whole", *, cache: str = "memory", seed: int = 0
) -> tuple[pd.DataFrame, np.ndarray]:
    """Decodes and resizes the images of a split.

    Args:
        frame: manifest rows with the columns `path` and `row`.
        size: the side S in pixels.
        shown: `whole`; `extracted`: the lungs alone, cropped, on black; or `filled`: the same, the black filled
            with copies of the lungs, for training only. Slices without lungs are then left out, as
            the log says.
        cache: as `pipeline.load_images`; extracted lungs are kept in memory.
        seed: of the filling.

    Returns:
        The rows that are left, with an index of 0 to n - 1, and `(n, S, S, 3)` uint8 RGB in [0, 255].

    Raises:
        ValueError: if an image cannot be read, or no slice has lungs.
    """
    if shown == "whole":
        return frame, pipeline.load_images(frame, size, cache)
    read = functools.partial(_lungs_of, size=size, fill=shown == "filled", seed=seed)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(read, frame["path"], range(len(frame))))
    reasons = collections.Counter(reason for _, reason in found if reason)
    kept = [number for number, (_, reason) in enumerate(found) if not reason]
    source = frame.attrs.get("path", "the manifest")
    if not kept:
        raise ValueError(
            f"none of {len(frame)} slices of {source} shows lungs, such as {frame['path'].iloc[0]}: "
            f"{found[0][1]}; take --lungs=whole"
        )
    if reasons:
        logging.info("%d of %d slices of %s are left out:", len(frame) - len(kept), len(frame), source)
        for reason, count in reasons.most_common():
            logging.info("  %d: %s", count, reason)
    return frame.iloc[kept].reset_index(drop=True), np.stack([found[number][0] for number in kept])


def _lungs_of(path: str, number: int, *, size: int, fill: bool, seed: int) -> tuple[np.ndarray | None, str]:
    pixels = preprocess.read_pixels(Path(path))
    found = lungs.find_lungs(lungs.pseudo_hu(pixels))
    if found.reason:
        return None, found.reason
    if fill:
        pixels = lungs.filled(pixels, found.mask, np.random.default_rng([seed, number]))
    else:
        pixels = lungs.extracted(pixels, found.mask)
    return preprocess.resize(pixels, size), ""
