"""Small DICOM series with something irregular, for tests."""

from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.uid import generate_uid

from benchmarks.series_files import example_hu
from ladnn_tf.data.dicom_writer import set_pixels, write_series

SPACING = (5.0, 0.7, 0.8)
SHAPE = (12, 48, 64)
GAP, AGAIN = 7, 3
"""Indices of the slice that is missing and of the one that is there twice, in irregular_series()."""

AIL = [1, 0, 0, 0, 0, -1]  # coronal


def volume(shape=SHAPE, seed=0):
    """(z, y, x) float32 whole HU."""
    return example_hu(shape, seed)


def edit(source: Path, target: Path | None = None, *, remove=(), meta=None, pixels=None, **values) -> Path:
    """Changes elements of a DICOM file.

    Args:
        source: the file.
        target: where to write; the file itself if None.
        remove: keywords of elements to delete.
        meta: keyword -> value of the file meta information.
        pixels: new stored values, written after everything else is set.
        values: keyword -> value.
    """
    dataset = dcmread(source)
    for keyword, value in (meta or {}).items():
        setattr(dataset.file_meta, keyword, value)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    if pixels is not None:
        set_pixels(dataset, pixels)
    for keyword in remove:
        delattr(dataset, keyword)
    dataset.save_as(target or source)
    return target or source


def another(source: Path, target: Path, **values) -> Path:
    """A copy with a UID of its own."""
    uid = generate_uid(entropy_srcs=[target.name])
    return edit(source, target, SOPInstanceUID=uid, meta={"MediaStorageSOPInstanceUID": uid}, **values)


def add_localizer(source: Path, target: Path) -> Path:
    """A coronal localizer of the same study, in a series of its own."""
    return another(
        source,
        target,
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ImageOrientationPatient=AIL,
        SeriesInstanceUID=generate_uid(entropy_srcs=["localizer"]),
        SeriesNumber=0,
    )


def irregular_series(folder: Path, transfer_syntax: str, compress=None) -> tuple[np.ndarray, list[Path]]:
    """Writes a series with one duplicate, one gap and one localizer.

    Args:
        folder: where to.
        transfer_syntax: as write_series.
        compress: a function that compresses the files in place, if that is another program's work.

    Returns:
        The HU that are to be read, and the files in order, without duplicate and localizer.
    """
    hu = volume()
    files = write_series(hu, SPACING, folder, transfer_syntax=transfer_syntax)
    if compress:
        compress(files)
    another(files[AGAIN], folder / "0.dcm", InstanceNumber=99)
    add_localizer(files[0], folder / "zz")
    files.pop(GAP).unlink()
    return np.delete(hu, GAP, axis=0), files
