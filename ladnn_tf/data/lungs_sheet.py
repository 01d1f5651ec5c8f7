"""A contact sheet of lungs: outlines over slices, and how many slices are kept; and its command.

    python -m ladnn_tf.data.lungs_sheet --manifest=FILE --contact_sheet=FILE.jpg

looks at the slices of a manifest (of one split by `--split`), `--pictures=DIR` at every PNG and JPEG file below a
folder. All are counted; `--count` of them, chosen at random, are drawn. A kept slice has an orange outline, one
that is left out a blue outline, if any, and its reason is printed.
"""

import collections
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image, ImageDraw
from scipy import ndimage

from ladnn_tf import command
from ladnn_tf.data import lungs, preprocess
from ladnn_tf.data.manifest import read_manifest, select_split
from ladnn_tf.files import write_atomically
from ladnn_tf.labels import SPLITS

_USAGE = (
    "python -m ladnn_tf.data.lungs_sheet (--manifest=FILE [--split=NAME] | --pictures=DIR) [--contact_sheet=FILE]"
)
_SUFFIXES = (".png", ".jpg", ".jpeg")
_KEPT = (230, 159, 0)  # Okabe and Ito's colours, which colour-blind people tell apart
_LEFT_OUT = (86, 180, 233)
_TILE = 180
_LINE = 14
_COLUMNS = 6


def find_all(paths: Sequence[str | Path]) -> list[lungs.Lungs]:
    """Finds the lungs in picture files, one answer per file, with empty masks to save memory.

    Raises:
        preprocess.ImageError: naming the file, if one cannot be read.
    """
    return [_without_mask(_of_file(path)[1]) for path in paths]


def draw_sheet(paths: Sequence[str | Path], fill: bool = False) -> Image.Image:
    """Draws slices with the outline of their lungs, their number of lungs and the lungs' share of the body.

    Args:
        paths: PNG or JPEG files, at least one.
        fill: whether to draw the extracted lungs and the filled ones beside each slice.

    Returns:
        The sheet, RGB.

    Raises:
        preprocess.ImageError: naming the file, if one cannot be read.
    """
    wide = _TILE * (3 if fill else 1)
    columns = max(1, _COLUMNS * _TILE // wide)
    rows = -(-len(paths) // columns)
    sheet = Image.new("RGB", (columns * wide, rows * (_TILE + _LINE)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, path in enumerate(paths):
        pixels, found = _of_file(path)
        left, top = number % columns * wide, number // columns * (_TILE + _LINE)
        panels = [_outlined(pixels, found)]
        if fill and found.mask.any():
            panels.append(Image.fromarray(lungs.extracted(pixels, found.mask)))
            panels.append(Image.fromarray(lungs.filled(pixels, found.mask, np.random.default_rng(number))))
        for panel, image in enumerate(panels):
            image.thumbnail((_TILE - 4, _TILE - 4))
            sheet.paste(image, (left + panel * _TILE, top))
        kept = "left out" if found.reason else "kept"
        text = f"{number + 1}: {found.regions} of 2, {100 * found.share:.0f} % of body, {kept}"
        draw.text((left + 2, top + _TILE - 2), text, fill="black")
    return sheet


def _of_file(path: str | Path) -> tuple[np.ndarray, lungs.Lungs]:
    pixels = preprocess.read_pixels(path)
    return pixels, lungs.find_lungs(lungs.pseudo_hu(pixels))


def _without_mask(found: lungs.Lungs) -> lungs.Lungs:
    return lungs.Lungs(np.zeros((0, 0), bool), found.share, found.regions, found.reason)


def _outlined(pixels: np.ndarray, found: lungs.Lungs) -> Image.Image:
    image = Image.fromarray(pixels)
    image.thumbnail((_TILE - 4, _TILE - 4))
    mask = np.asarray(Image.fromarray(found.mask).resize(image.size, Image.Resampling.NEAREST))
    drawn = np.array(image)
    drawn[mask & ~ndimage.binary_erosion(mask)] = _LEFT_OUT if found.reason else _KEPT
    return Image.fromarray(drawn)


def main(argv: list[str]) -> int:
    """Runs the command; `argv` is as `sys.argv`."""
    flag_values = _define_flags()
    command.parse(flag_values, argv, _USAGE)
    if bool(flag_values.manifest) == bool(flag_values.pictures):
        command.usage_error("give --manifest or --pictures", _USAGE)
    if flag_values.split and flag_values.pictures:
        command.usage_error("--split is of a manifest; --pictures has none", _USAGE)
    sheet = flag_values.contact_sheet
    if sheet and Path(sheet).suffix.lower() not in _SUFFIXES:
        command.usage_error(f"--contact_sheet should end in .png or .jpg. Received: {sheet}", _USAGE)
    paths = _paths(flag_values.manifest, flag_values.split, flag_values.pictures)
    found = find_all(paths)
    kept = [item for item in found if not item.reason]
    print(f"{len(found)} slices, {len(kept)} kept ({100 * len(kept) / len(found):.1f} %)")
    for regions, count in sorted(collections.Counter(item.regions for item in kept).items()):
        print(f"  {count} with {('no lung', 'one lung', 'two lungs')[regions]}")
    for path, item in zip(paths, found, strict=True):
        if item.reason:
            print(f"left out: {path}: {item.reason}")
    if sheet:
        chosen = np.random.default_rng(flag_values.seed).permutation(len(paths))[: flag_values.count]
        chosen = sorted(int(index) for index in chosen)
        content = io.BytesIO()
        kind = "PNG" if Path(sheet).suffix.lower() == ".png" else "JPEG"
        draw_sheet([paths[index] for index in chosen], flag_values.fill).save(content, kind, quality=85)
        write_atomically(Path(sheet), content.getvalue())
        print(f"written: {sheet} ({len(chosen)} slices)")
    return 0


def _paths(manifest: str | None, split: str | None, pictures: str | None) -> list[str]:
    if manifest:
        frame = read_manifest(manifest)
        paths = list((select_split(frame, split) if split else frame)["path"])
    else:
        folder = Path(pictures)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder.absolute()} is no folder; expected one with PNG or JPEG files")
        paths = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise ValueError(f"{manifest or pictures}: there are no pictures in it")
    return paths


def _define_flags() -> flags.FlagValues:
    flag_values = flags.FlagValues()
    flags.DEFINE_string("manifest", None, "manifest of the slices", flag_values=flag_values)
    flags.DEFINE_enum("split", None, list(SPLITS), "one split of the manifest only", flag_values=flag_values)
    flags.DEFINE_string("pictures", None, "folder of the slices, in place of a manifest", flag_values=flag_values)
    flags.DEFINE_string("contact_sheet", None, "picture to write, .png or .jpg", flag_values=flag_values)
    flags.DEFINE_integer("count", 60, "slices on the sheet, at most", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_integer("seed", 0, "seed of their choice", lower_bound=0, flag_values=flag_values)
    flags.DEFINE_boolean(
        "fill", False, "draw the extracted and the filled lungs beside each slice", flag_values=flag_values
    )
    return flag_values


if __name__ == "__main__":
    command.run(main)
