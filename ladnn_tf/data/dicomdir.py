"""The files that a DICOMDIR names (PS3.10 8, PS3.3 F)."""

from dataclasses import dataclass
from pathlib import Path

from ladnn_tf.data import dicom_elements as elements
from ladnn_tf.data.dicom_elements import DAMAGED, ElementError
from ladnn_tf.data.dicom_header import LeftOutError, open_dicom
from ladnn_tf.data.series_sources import MAX_FILES, Source, file_source
from ladnn_tf.data.volume import SeriesError, needs_dicom, printable

try:
    from pydicom import uid
    from pydicom.filereader import read_partial
except ImportError as error:
    raise needs_dicom(error) from error

_MAX_BYTES = 256 * 2**20  # a record takes about 1 KB
_IN_USE = 0xFFFF  # of RecordInUseFlag; 0 marks a record whose file is deleted or replaced (PS3.3 F.3.2.2)


@dataclass(frozen=True)
class Directory:
    """What a DICOMDIR names.

    Attributes:
        sources: the files that are in use and exist.
        left_out: reason -> names.
        paths: of all files that it names and that exist, in use or not.
    """

    sources: list[Source]
    left_out: dict[str, list[str]]
    paths: frozenset[str]


def read_dicomdir(path: Path) -> Directory | None:
    """The files of the image records.

    Args:
        path: of a DICOM file.

    Returns:
        What it names; None if the file is no DICOMDIR.

    Raises:
        SeriesError: if it is one and is damaged, or names more than `MAX_FILES` files.
        OSError: if it cannot be read.
    """
    try:
        file, length, _ = open_dicom(file_source(path))
        with file:
            meta = read_partial(file, lambda *_: True).file_meta
            if meta.get("MediaStorageSOPClassUID") != uid.MediaStorageDirectoryStorage:
                return None
            if length > _MAX_BYTES:
                raise SeriesError(f"{path.name}: a DICOMDIR of {length:,} bytes; up to {_MAX_BYTES:,} are read")
            file.seek(0)
            records = elements.items(read_partial(file), "DirectoryRecordSequence")
            names = [
                (parts, elements.integer(record, "RecordInUseFlag", _IN_USE) != 0)
                for record in records
                if elements.text(record, "DirectoryRecordType") == "IMAGE"
                if (parts := _file_id(record))
            ]
    except (SeriesError, LeftOutError, ElementError) as error:
        raise SeriesError(f"{path.name}: {str(error).removeprefix(f'{path.name}: ')}") from error
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise SeriesError(f"{path.name}: a damaged DICOMDIR; give the folder of the files instead") from error
    if len(names) > MAX_FILES:
        raise SeriesError(f"{path.name}: names {len(names):,} files; no more than {MAX_FILES:,} are read")
    return _resolve(path.parent, names)


def _file_id(record: object) -> tuple[str, ...]:
    found = elements.value(record, "ReferencedFileID")
    if found is None:
        return ()
    return (found,) if isinstance(found, str) else tuple(str(part) for part in found)


def _resolve(folder: Path, names: list[tuple[tuple[str, ...], bool]]) -> Directory:
    """Finds files by the parts of their names and whether their record is in use."""
    sources, left_out, unused = {}, {}, {}
    for parts, in_use in names:
        shown = printable("/".join(parts))
        # PS3.10 8.2: components of A to Z, 0 to 9 and underscore; what leads out of the folder is hostile.
        if any(part in ("", ".", "..") or set(part) & set("/\\:\0") for part in parts):
            left_out.setdefault("ReferencedFileID (0004,1500) leads out of the folder", []).append(shown)
        elif not (path := _find(folder, parts)):
            left_out.setdefault("ReferencedFileID (0004,1500) of the DICOMDIR does not exist", []).append(shown)
        elif in_use:
            sources.setdefault(path, file_source(path, path.relative_to(folder).as_posix()))
        else:
            unused[path] = shown
    if only_unused := [shown for path, shown in unused.items() if path not in sources]:
        left_out["RecordInUseFlag (0004,1410) of the DICOMDIR is 0: the record is not in use"] = only_unused
    paths = frozenset(path.relative_to(folder).as_posix() for path in (*sources, *unused))
    return Directory(list(sources.values()), left_out, paths)


def _find(folder: Path, parts: tuple[str, ...]) -> Path | None:
    """The file, whose name may be in lower case, as copies of CDs often have it."""
    for change in (str, str.lower):
        path = folder.joinpath(*map(change, parts))
        if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            return path
    return None
