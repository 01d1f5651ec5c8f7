"""Writing, reading and recognising files."""

import contextlib
import hashlib
import logging
import os
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

try:
    import fcntl
except ImportError:  # Windows, where nothing is kept from anything
    fcntl = None

# NumPy lets through what its header parser and the zip module raise on damaged files.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    SyntaxError,
    MemoryError,
    RuntimeError,
    LookupError,
    zipfile.BadZipFile,
    zlib.error,
)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file that takes its place under its name only once it is whole and on the disk.

    A reader sees the old file or the new one, after a power cut too.

    Args:
        path: the file; folders above it are made.

    Yields:
        A binary file to write to.

    Raises:
        OSError: naming `path` if it cannot be written; the old file is then as it was, and nothing else is left.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)  # mkstemp's 0600 would hide the file from other users of the folder
            Path(temporary).replace(path)
            sync_folder(path.parent)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def sync_folder(folder: Path) -> None:
    """Waits until what was made and deleted in a folder is on the disk."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock_alone(file: BinaryIO, folder: Path, refusal: str, logger: logging.Logger) -> bool:
    """Takes the lock of a folder that one process uses at a time; closing the file frees it.

    Args:
        file: an open one in the folder.
        folder: for the warning where its file system has no locks, as some network shares.
        refusal: the message if another process has the lock.
        logger: of the warning.

    Returns:
        Whether this process has the lock; False where there are none.

    Raises:
        ValueError: with `refusal`.
    """
    if not fcntl:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(refusal) from error
    except OSError as error:
        logger.warning("%s cannot be locked (%s): use it from one process", folder, error.strerror)
        return False
    return True


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file in one go, as `atomic_file` does.

    Args:
        path: the file; folders above it are made.
        content: its bytes.

    Raises:
        OSError: as `atomic_file`.
    """
    with atomic_file(path) as file:
        file.write(content)


def file_sha256(path: str | Path, length: int = sys.maxsize) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits.

    Args:
        path: the file.
        length: how many bytes from its beginning count.

    Raises:
        ValueError: if there is no such file.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(min(length, 1 << 20)):
                digest.update(block)
                length -= len(block)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def folder_sha256(folder: str | Path, without: tuple[str, ...] = ()) -> str:
    """The SHA-256 over names and contents of all files of a folder, in the order of their names.

    Args:
        folder: of files and folders.
        without: subfolders that do not count.

    Returns:
        64 hexadecimal digits, of the lines `<SHA-256>  <path in the folder>`, which `sha256sum` prints too.

    Raises:
        ValueError: if a file cannot be read.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
    names = [name for name in names if name.split("/")[0] not in without]
    lines = "".join(f"{file_sha256(Path(folder) / name)}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads a `.npz` of plain arrays, without pickle.

    Raises:
        ValueError: if it is damaged, or holds something else, such as a pickle.
    """
    try:
        with path.open("rb") as opened, np.lib.npyio.NpzFile(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except _UNREADABLE as error:
        cause = "it was probably not downloaded or copied wholly"
        if "allow_pickle" in str(error):
            cause = "it holds a Python object (a pickle), which could run code; store plain arrays"
        raise ValueError(f"{path} cannot be read as a .npz of plain arrays ({error}); {cause}") from error
    strays = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if strays:
        raise ValueError(f"{path} cannot be read as a .npz of plain arrays: {strays[0]!r} is no array")
    return arrays
