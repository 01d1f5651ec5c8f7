"""Images that occur in two splits, as they are or nearly: each makes an evaluation look better than it is.

*Exact* means equal decoded pixels. *Near* means a small Hamming distance between perceptual hashes: the
signs, about their median, of the 255 lowest frequencies but the mean of a 32 x 32 grey image's cosine
transform ("pHash", Zauner 2010, with 16 x 16 coefficients in place of 8 x 8, which cannot tell CT slices
apart: at a distance of 8 of its 63 bits, half of the pairs are different persons).
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from absl import logging
from PIL import Image

from ladnn_tf.data import preprocess
from ladnn_tf.data.sources import drawn

HASH_BITS = 255

MAX_DISTANCE = 54
"""The largest distance that counts as near, of 255 bits.

Chosen by looking at the pairs across the published split of COVID-CT. There are four up to 54, and each is a
true one: at 12 and 22 the same image, taken from two places; at 50 and 52 neighbouring slices of one person.
From 58 on they are different persons. The same image, compressed, resized, brightened or with an arrow drawn
in, stays below 32; cropped by 1 % on each side, below 42; cropped by 4 % it is not found. For phantoms no
distance works: drawn by one hand, they resemble each other too much, so that only equal ones are looked for.
"""

_GRID = 32
_FREQUENCIES = 16


def perceptual_hash(pixels: np.ndarray) -> np.ndarray:
    """Returns the perceptual hash of an image.

    Args:
        pixels: (H, W, 3) uint8.

    Returns:
        (255,) bool.
    """
    grey = Image.fromarray(pixels).convert("L").resize((_GRID, _GRID), Image.Resampling.BILINEAR)
    # Rows are the cosines of one frequency: the type II transform without its normalisation.
    cosines = np.cos(np.pi * np.outer(np.arange(_FREQUENCIES), 2 * np.arange(_GRID) + 1) / (2 * _GRID))
    coefficients = (cosines @ np.asarray(grey, dtype=np.float64) @ cosines.T).ravel()[1:]
    return coefficients > np.median(coefficients)


def hamming_distances(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the number of different bits of each pair.

    Args:
        hashes: (N, bits) bool.
        others: (M, bits) bool.

    Returns:
        (N, M) int.
    """
    signs, other_signs = (np.where(bits, 1.0, -1.0).astype(np.float32) for bits in (hashes, others))
    return np.rint((hashes.shape[1] - signs @ other_signs.T) / 2).astype(np.int64)


def near_duplicates(frame: pd.DataFrame, max_distance: int = MAX_DISTANCE) -> pd.DataFrame:
    """Returns the pairs of images that are equal, or nearly, and in different splits.

    An image that cannot be read is left out, and named in the log. With a phantom, only an equal image counts.

    Args:
        frame: columns `path`, `image`, `source`, `split`, `patient` and `covid`.
        max_distance: the largest Hamming distance of the perceptual hashes that counts as near.

    Returns:
        One row for each pair, the closest first: `kind` ("exact" or "near"), `distance`, and `image`,
        `split`, `patient`, `covid` of both, each with the suffix `_1` or `_2`.
    """
    logging.info("looking for duplicates among %d images", len(frame))
    hashes, digests, rows = [], [], []
    for row, path in enumerate(frame["path"]):
        try:
            pixels = preprocess.decode(Path(path).read_bytes())
        except (OSError, preprocess.ImageError) as error:
            logging.warning("not compared with the others: %s: %s", path, error)
            continue
        hashes.append(perceptual_hash(pixels))
        digests.append(hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest())
        rows.append(row)
    readable = frame.iloc[rows]
    splits, digests = readable["split"].to_numpy(), np.array(digests)
    phantom = drawn(readable).to_numpy()
    bits = np.array(hashes).reshape(-1, HASH_BITS)
    pairs = []
    for first in range(len(readable)):
        distances = hamming_distances(bits[first : first + 1], bits[first + 1 :])[0]
        across = splits[first + 1 :] != splits[first]
        exact = digests[first + 1 :] == digests[first]
        near = (distances <= max_distance) & ~(phantom[first] | phantom[first + 1 :])
        for offset in np.flatnonzero(across & (exact | near)):
            kind = "exact" if exact[offset] else "near"
            pairs.append((kind, int(distances[offset]), first, first + 1 + offset))
    pairs.sort(key=lambda pair: (pair[0] != "exact", *pair[1:]))

    columns: dict[str, list] = {"kind": [pair[0] for pair in pairs], "distance": [pair[1] for pair in pairs]}
    for place, suffix in ((2, "_1"), (3, "_2")):
        for column in ("image", "split", "patient", "covid"):
            values = readable[column].to_numpy()
            columns[column + suffix] = [values[pair[place]] for pair in pairs]
    return pd.DataFrame(columns)
