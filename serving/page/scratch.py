"""Folders in which series lie while they are read: of this process alone, gone with the upload, and with the page.

The readers of DICOM and NIfTI want files. A folder is deleted as soon as its series is read or refused, whatever
happens; if the process is killed meanwhile, the next page that starts with the same parent deletes what is left.
"""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ladnn_tf.files import lock_alone

PREFIX = "ladnn-page-"
"""How the names of the pages' own folders begin."""

_LOCK = "lock"

logger = logging.getLogger("ladnn_tf.serving")


class Scratch:
    """The folder of a page, and a lock in it that says that the page lives.

    Args:
        parent: where to make it, an existing folder; None for the system's folder of temporary files.

    Raises:
        OSError: if no folder can be made there.
    """

    def __init__(self, parent: Path | None = None) -> None:
        parent = Path(tempfile.gettempdir() if parent is None else parent)
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))  # readable by its owner alone
        # Locked at once: until then another page that starts may take it for one that was left.
        self._lock = (self._folder / _LOCK).open("wb")
        lock_alone(self._lock, self._folder, "", logger)
        _delete_left(parent, self._folder)

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """An empty folder that is deleted with everything in it when the context ends.

        Raises:
            OSError: if it cannot be made.
        """
        with tempfile.TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def close(self) -> None:
        """Deletes everything, that of a series that is still being read too."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()


def _delete_left(parent: Path, own: Path) -> None:
    """Deletes the folders of pages that were killed: nobody has their lock."""
    for folder in parent.glob(f"{PREFIX}*"):
        if folder == own or not _is_mine(folder):
            continue
        try:
            with (folder / _LOCK).open("rb") as lock:
                if lock_alone(lock, folder, "another page has it", logger):
                    shutil.rmtree(folder)
                    logger.warning("deleted %s, which a page that was killed has left", folder)
        except (OSError, ValueError):
            continue


def _is_mine(folder: Path) -> bool:
    """Whether a folder is one, no link to one, and of this user: others may write to the system's folder."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return folder.is_dir() and not folder.is_symlink() and status.st_uid == os.getuid()
