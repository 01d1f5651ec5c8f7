"""What phantom datasets are written with: a folder that appears only when it is whole, slices and their masks."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ladnn_tf.data.phantom_slice import Slice


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Opens a folder beside `out` that takes its name only when the block ends without an error.

    Args:
        out: the folder; it must not exist or be empty. Folders above it are made.

    Yields:
        The folder to write into.

    Raises:
        FileExistsError: if `out` holds anything already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"{out} exists and is not an empty folder; give another --out, or remove it if it may go"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{out.name}.partial-", dir=out.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial)
        raise


def write_slice(folder: Path, image: Path, drawn: Slice) -> None:
    """Writes a slice as JPEG or PNG, and its masks as PNG, 0 or 255.

    Args:
        folder: the dataset's; the masks go to `masks/lung`, `masks/<lesion>` and `masks/pathology/<finding>`.
        image: the file, relative to `images` in `folder`; its stem names the masks.
        drawn: the slice.
    """
    path = folder / "images" / image
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 92} if image.suffix == ".jpg" else {"compress_level": 1}
    Image.fromarray(drawn.image).save(path, **options)
    masks = {"lung": drawn.lung, **drawn.lesions}
    masks.update((f"pathology/{name}", mask) for name, mask in drawn.others.items())
    for name, mask in masks.items():
        path = folder / "masks" / name / f"{image.stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * 255).save(path)
