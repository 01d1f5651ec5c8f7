"""CT series of every common kind as volumes in HU: DICOM, NIfTI, or a folder of pictures.

What a series leaves out or has that is irregular is said in the volume's report; nothing is dropped silently, and
nothing about the patient gets into names or reports.
"""

import threading
import warnings
import zipfile
from pathlib import Path

from ladnn_tf.data.picture_series import PICTURES, read_pictures
from ladnn_tf.data.series_sources import (
    ZIP_SIGNATURE,
    Source,
    file_source,
    folder_sources,
    reason_of,
    zip_sources,
)
from ladnn_tf.data.volume import SeriesError, Volume, display

__all__ = ["SeriesError", "Volume", "display", "read_series"]

_KINDS = "a folder, a zip or a file of DICOM, a DICOMDIR, a NIfTI file (.nii, .nii.gz), or a folder of PNG or JPEG"

_READING = threading.Lock()
"""Python's warnings, which are collected here, are of the whole process; it also keeps one series in memory."""


def read_series(path: str | Path) -> list[Volume]:
    """Reads all CT series of a file or folder; one at a time in a process.

    Args:
        path: a folder of DICOM files (searched wholly; names mean nothing), a DICOMDIR or a folder with one, a
            DICOM file of one or many frames, a zip of DICOM files, a NIfTI file, or a folder of PNG or JPEG
            slices, whose order is that of the numbers in their names.

    Returns:
        At least one volume.

    Raises:
        SeriesError: if no slice can be read, or if there is more than is read; the message names files and tags.
        OSError: if the path is missing or cannot be read.
        ImportError: if a package of the extra `dicom` is missing.
    """
    path = Path(path)
    with _READING, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        volumes = _read(path)
    odd = 0
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            odd += 1
        else:  # of something else in this process
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if not odd:
        return volumes
    # pydicom's words may hold values of the patient's data, and so only their number is passed on.
    line = f"{odd} warnings of pydicom about values that do not follow the standard."
    return [
        Volume(volume.name, volume.hu, volume.spacing_mm, (*volume.report, line), volume.files, volume.calibrated)
        for volume in volumes
    ]


def _read(path: Path) -> list[Volume]:
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give {_KINDS}")
    with file_source(path).open() as file:
        head = file.read(132)
    if head[128:] == b"DICM":
        return _read_dicom_file(path)
    if head.startswith(ZIP_SIGNATURE) or zipfile.is_zipfile(path):
        from ladnn_tf.data.dicom_series import read_dicom

        with zip_sources(path) as (sources, left_out):
            return read_dicom(path.name, sources, left_out)
    from ladnn_tf.data.nifti import GZIP_SIGNATURE, is_nifti, read_nifti

    with file_source(path).open() as file:
        head = file.read(352)
    if is_nifti(head) or head.startswith(GZIP_SIGNATURE) or path.name.lower().endswith((".nii", ".nii.gz")):
        return [read_nifti(path)]
    raise SeriesError(f"{path.name}: not a series; give {_KINDS}")


def _read_dicom_file(path: Path) -> list[Volume]:
    from ladnn_tf.data.dicom_series import read_dicom
    from ladnn_tf.data.dicomdir import dicomdir_sources

    named = dicomdir_sources(path)
    sources, left_out = ([file_source(path)], {}) if named is None else named
    return read_dicom(path.name, sources, left_out)


def _read_folder(folder: Path) -> list[Volume]:
    sources = folder_sources(folder)
    name = folder.resolve().name
    if not sources:
        raise SeriesError(f"{name}: the folder is empty; give {_KINDS}")
    left_out: dict[str, list[str]] = {}
    directory = next((source for source in sources if source.name.upper() == "DICOMDIR"), None)
    if directory is not None:
        try:
            return _read_named(name, folder, directory.name, sources)
        except SeriesError as error:
            # A damaged DICOMDIR says nothing against the files: they are all looked at.
            left_out = {f"the DICOMDIR is of no use ({reason_of(error, directory.name)})": [directory.name]}
            sources.remove(directory)
    if any(_has_prefix(source) for source in sources):
        from ladnn_tf.data.dicom_series import read_dicom

        return read_dicom(name, sources, left_out)
    pictures = [source for source in sources if "/" not in source.name and source.name.lower().endswith(PICTURES)]
    if pictures:
        return [read_pictures(name, pictures)]
    listed = ", ".join(source.name for source in sources[:3])
    raise SeriesError(f"{name}: no DICOM file and no picture among {len(sources)} files ({listed}); give {_KINDS}")


def _read_named(name: str, folder: Path, directory: str, sources: list[Source]) -> list[Volume]:
    """Reads what the folder's DICOMDIR names; what it does not name is reported."""
    from ladnn_tf.data.dicom_series import read_dicom
    from ladnn_tf.data.dicomdir import dicomdir_sources

    named = dicomdir_sources(folder / directory)
    if named is None or not named[0]:
        raise SeriesError("it names no file that exists")
    named_sources, left_out = named
    known = {source.name for source in named_sources} | {directory}
    if unnamed := [source.name for source in sources if source.name not in known]:
        left_out = {**left_out, "not named by the DICOMDIR": unnamed}
    return read_dicom(name, named_sources, left_out)


def _has_prefix(source: Source) -> bool:
    try:
        with source.open() as file:
            return file.read(132)[128:] == b"DICM"
    except (SeriesError, OSError):
        return False
