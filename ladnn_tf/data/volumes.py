"""CT series of every common kind as volumes in HU: DICOM, NIfTI, or a folder of pictures.

What a series leaves out or has that is irregular is said in the volume's report; nothing is dropped silently, and
nothing about the patient gets into names or reports.
"""

import dataclasses
import threading
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

from ladnn_tf.data.picture_series import PICTURES, read_pictures
from ladnn_tf.data.series_sources import (
    HEAD_BYTES,
    WITHOUT_PREFIX,
    ZIP_SIGNATURE,
    Source,
    file_source,
    folder_sources,
    is_dicom,
    lacks_prefix,
    reason_of,
    zip_sources,
)
from ladnn_tf.data.volume import SeriesError, Volume, counted, display, printable

__all__ = ["SeriesError", "Volume", "display", "read_series"]

_KINDS = "a folder, a zip or a file of DICOM, a DICOMDIR, a NIfTI file (.nii, .nii.gz), or a folder of PNG or JPEG"

_NIFTI = (".nii", ".nii.gz")

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
    what = "a value that does" if odd == 1 else "values that do"
    line = f"{counted(odd, 'warning')} of pydicom about {what} not follow the standard."
    return [dataclasses.replace(volume, report=(*volume.report, line)) for volume in volumes]


def _read(path: Path) -> list[Volume]:
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give {_KINDS}")
    with file_source(path).open() as file:
        head = file.read(HEAD_BYTES)
    if is_dicom(head):
        return _read_dicom_file(path)
    if head.startswith(ZIP_SIGNATURE) or zipfile.is_zipfile(path):
        from ladnn_tf.data.dicom_series import read_dicom

        with zip_sources(path) as (sources, left_out):
            try:
                return read_dicom(path.name, sources, left_out)
            except SeriesError as error:
                if others := _what_to_unpack(sources):
                    raise SeriesError(f"{path.name}: {others}") from error
                raise
    from ladnn_tf.data.nifti import GZIP_SIGNATURE, is_nifti, read_nifti

    with file_source(path).open() as file:
        head = file.read(352)
    if is_nifti(head) or head.startswith(GZIP_SIGNATURE) or path.name.lower().endswith(_NIFTI):
        return [read_nifti(path)]
    if lacks_prefix(head):
        raise SeriesError(f"{path.name}: {WITHOUT_PREFIX}")
    if _is_picture(path.name):
        raise SeriesError(f"{path.name}: one picture is no series; give the folder of all slices")
    raise SeriesError(f"{path.name}: not a series; give {_KINDS}")


def _read_dicom_file(path: Path) -> list[Volume]:
    from ladnn_tf.data.dicom_series import read_dicom
    from ladnn_tf.data.dicomdir import read_dicomdir

    named = read_dicomdir(path)
    sources, left_out = ([file_source(path)], {}) if named is None else (named.sources, named.left_out)
    return read_dicom(path.name, sources, left_out)


def _read_folder(folder: Path) -> list[Volume]:
    sources = folder_sources(folder)
    name = folder.resolve().name
    if not sources:
        raise SeriesError(f"{name}: the folder is empty; give {_KINDS}")
    left_out: dict[str, list[str]] = {}
    directory = next((source for source in sources if source.path.upper() == "DICOMDIR"), None)
    if directory is not None:
        try:
            return _read_named(name, folder, directory.path, sources)
        except SeriesError as error:
            # A damaged DICOMDIR says nothing against the files: they are all looked at.
            left_out = {f"the DICOMDIR is of no use ({reason_of(error, directory.name)})": [directory.name]}
            sources.remove(directory)
    if any(is_dicom(_head(source)) for source in sources):
        from ladnn_tf.data.dicom_series import read_dicom

        return read_dicom(name, sources, left_out)
    pictures = [source for source in sources if "/" not in source.path and _is_picture(source.path)]
    if not pictures:
        raise SeriesError(f"{name}: {_what_is_there(name, sources)}")
    if others := [source.name for source in sources if source not in pictures]:
        left_out["beside the pictures, and none of them"] = others
    return [read_pictures(name, pictures, left_out)]


def _what_is_there(name: str, sources: Sequence[Source]) -> str:
    """Why the files of a folder are no series, and what to do."""
    if bare := [source.name for source in sources if lacks_prefix(_head(source))]:
        return f"{_listed(bare)}: {WITHOUT_PREFIX}"
    if whole := [source.name for source in sources if _is_whole(source)]:
        return f"{_listed(whole)}: a NIfTI or zip file is given by itself, not by its folder"
    if folders := {source.path.rpartition("/")[0] for source in sources if _is_picture(source.path)}:
        below = [printable(f"{name}/{folder}") for folder in sorted(folders)]
        return f"its pictures lie in folders below it; give the folder of one series ({_listed(below)})"
    listed = _listed([source.name for source in sources])
    return f"no DICOM file and no picture among {counted(len(sources), 'file')} ({listed}); give {_KINDS}"


def _what_to_unpack(sources: Sequence[Source]) -> str:
    """What to do with a zip of pictures or of NIfTI, which is none of DICOM; empty for any other."""
    nifti = any(source.path.lower().endswith(_NIFTI) for source in sources)
    pictures = any(_is_picture(source.path) for source in sources)
    if not (nifti or pictures) or any(is_dicom(_head(source)) for source in sources):
        return ""
    what, given = ("NIfTI", "the file") if nifti else ("pictures", "the folder of one series")
    return f"a zip of {what}, and only DICOM is read from a zip; unpack it, and give {given}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + ", ..." * (len(names) > 3)


def _is_picture(path: str) -> bool:
    return path.lower().endswith(PICTURES)


def _is_whole(source: Source) -> bool:
    """Whether one file holds a whole series, which a folder is not searched for."""
    return source.path.lower().endswith(_NIFTI) or _head(source).startswith(ZIP_SIGNATURE)


def _read_named(name: str, folder: Path, directory: str, sources: Sequence[Source]) -> list[Volume]:
    """Reads what the folder's DICOMDIR names; what it does not name is reported."""
    from ladnn_tf.data.dicom_series import read_dicom
    from ladnn_tf.data.dicomdir import read_dicomdir

    named = read_dicomdir(folder / directory)
    if named is None or not named.sources:
        raise SeriesError("it names no file that exists")
    left_out = named.left_out
    if unnamed := [source.name for source in sources if source.path not in {directory, *named.paths}]:
        left_out = {**left_out, "not named by the DICOMDIR": unnamed}
    return read_dicom(name, named.sources, left_out)


def _head(source: Source) -> bytes:
    """The first `HEAD_BYTES` bytes; none of what cannot be read."""
    try:
        with source.open() as file:
            return file.read(HEAD_BYTES)
    except (SeriesError, OSError):
        return b""
