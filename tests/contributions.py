"""What the tests of the data collection give to it, and how they look into its folder."""

import functools

import numpy as np

from serving.collection.consent import consent
from serving.collection.images import NOTHING, prepare
from serving.collection.store import Contribution


def noise(seed, size=(40, 48)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


@functools.cache
def image(seed, erasure=None):
    """One of any number of different small pictures, prepared."""
    return prepare(noise(seed), erasure or NOTHING)


def contribution(*seeds, **stated):
    return Contribution(tuple(map(image, seeds)), consent("en"), **stated)


def files(folder):
    """Every file below a data folder, but for the database's own."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if not path.startswith("collection.sqlite"))


def image_files(*seeds):
    names = {image(seed).sha256 for seed in seeds}
    return sorted(f"images/{name[:2]}/{name}.png" for name in names)


KEPT = [".ladnn_collection.lock", "collection.key"]
"""What is in the folder of an empty collection."""
