"""What the tests of the data collection give to it, and how they look into its folder."""

import contextlib
import dataclasses
import functools
import sqlite3

import numpy as np

from ladnn_tf.data.manifest import read_manifest
from ladnn_tf.data.preprocess import encode_png
from serving.collection import export as collection_export
from serving.collection.consent import consent
from serving.collection.contribution import Contribution
from serving.collection.images import NOTHING, prepare

OPERATOR = "Radiology, St Anna, ct@st-anna.example"


def export(folder, out, *options):
    """The manifest that the command makes of a collection, read as training reads it."""
    assert collection_export.main(["export", f"--data={folder}", f"--out={out}", *options]) == 0
    return read_manifest(out)


def noise(seed, size=(40, 48)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


@functools.cache
def image(seed, erasure=None):
    """One of any number of different small pictures, prepared, and taken for a chest-CT slice, which it is not."""
    return dataclasses.replace(prepare(encode_png(noise(seed)), erasure or NOTHING), refusal="")


def given(*images, **stated):
    return Contribution(images, consent("en", OPERATOR), **stated)


def contribution(*seeds, **stated):
    return given(*map(image, seeds), **stated)


def query(folder, statement):
    with contextlib.closing(sqlite3.connect(folder / "collection.sqlite")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(statement)]


def contributions(folder):
    return query(folder, "SELECT * FROM ladnn_contributions ORDER BY number")


def files(folder):
    """Every file below a data folder, but for the database's own."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if not path.startswith("collection.sqlite"))


def image_files(*seeds):
    names = {image(seed).sha256 for seed in seeds}
    return sorted(f"images/{name[:2]}/{name}.png" for name in names)


KEPT = [".ladnn_collection.lock", "collection.key"]
"""What is in the folder of an empty collection."""
