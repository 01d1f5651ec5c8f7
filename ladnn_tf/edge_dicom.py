"""DICOM where pictures are expected: it is told apart, so that whoever gives it is told how it is given."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from ladnn_tf.data.series_sources import HEAD_BYTES, is_dicom

HINT = "this is DICOM: give it by --series=PATH, as it is; a picture made of it would lose the Hounsfield units"
"""Why a file or a folder is not answered as pictures, and what to do."""

PASSED_OVER = "DICOM is among them, which --series=PATH answers"
"""What is said of DICOM beside pictures, after what is passed over."""

_SEARCHED = 100  # files of a folder; a study has thousands that are all alike
_DIRECTORY = "DICOMDIR"


def holds_dicom(path: Path) -> bool:
    """Whether a file is DICOM, or a folder holds DICOM or a DICOMDIR, also in the folders in it.

    Args:
        path: of anything; of a folder the first hundred files are looked at.

    Returns:
        False, too, for what is not there or cannot be read.
    """
    if not path.is_dir():
        return _is_dicom_file(path)
    return any(file.name.upper() == _DIRECTORY or _is_dicom_file(file) for file in _files(path))


def _files(folder: Path) -> Iterator[Path]:
    found = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return itertools.islice(found, _SEARCHED)


def _is_dicom_file(path: Path) -> bool:
    try:
        if not path.is_file():  # a named pipe would be waited for
            return False
        with path.open("rb") as file:
            return is_dicom(file.read(HEAD_BYTES))
    except OSError:
        return False
