"""From the headers of DICOM files to volumes: one pass over the headers, then the pixels slice by slice."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ladnn_tf.data.dicom_codecs import CodecError
from ladnn_tf.data.dicom_frames import Frame, LeftOut, read_frames
from ladnn_tf.data.dicom_geometry import (
    SAME_POSITION,
    Turn,
    heights,
    slice_spacing,
    spacing_report,
    turn_of,
    turn_report,
)
from ladnn_tf.data.dicom_header import LeftOutError
from ladnn_tf.data.dicom_pixels import PixelReader
from ladnn_tf.data.dicom_stacks import Stack, stacks_of
from ladnn_tf.data.series_sources import Source, reason_of
from ladnn_tf.data.volume import (
    MAX_VOXELS,
    SeriesError,
    Volume,
    check_size,
    counted,
    left_out_report,
    value_report,
)

MAX_ALL_VOXELS = 2 * MAX_VOXELS
"""Of all series that are read at once."""

_LISTED = 20  # series in a message


def read_dicom(name: str, sources: Sequence[Source], left_out: Mapping[str, Sequence[str]]) -> list[Volume]:
    """Reads all axial CT series of a set of files.

    Args:
        name: of the set, for messages.
        sources: the files; their names and order mean nothing.
        left_out: what was left out before: reason -> names.

    Returns:
        One volume for each series or more, those of the lowest series number first within a study.

    Raises:
        SeriesError: if no slice can be read, or if there are too many.
        OSError: if a file cannot be read at all.
    """
    left_out = defaultdict(list, {reason: list(names) for reason, names in left_out.items()})
    stacks = stacks_of(_headers(sources, left_out), left_out)
    _check_sizes(name, stacks)
    volumes = []
    with PixelReader() as reader:
        for stack in stacks:
            volume = _volume(stack, reader, left_out)
            if volume:
                volumes.append(volume)
    common = left_out_report(left_out)
    if not volumes:
        raise SeriesError(f"{name}: no CT slice can be read. {' '.join(common) or 'There is no file.'}")
    return [dataclasses.replace(volume, report=(*volume.report, *common)) for volume in volumes]


def _headers(sources: Iterable[Source], left_out: LeftOut) -> list[Frame]:
    frames = []
    for source in sources:
        try:
            frames += read_frames(source, left_out)
        except (LeftOutError, SeriesError, OSError) as error:
            left_out[reason_of(error, source.name)].append(source.name)
    return frames


def _check_sizes(name: str, stacks: Sequence[Stack]) -> None:
    total = 0
    for stack in stacks:
        form = stack.frames[0].pixels.format
        check_size(name, (len(stack.frames), form.rows, form.columns))
        total += len(stack.frames) * form.rows * form.columns
    if total > MAX_ALL_VOXELS:
        listed = "; ".join(
            f"{stack.title}: {counted(len(stack.frames), 'slice')}, such as {stack.frames[0].name}"
            for stack in stacks[:_LISTED]
        )
        rest = f"; and {len(stacks) - _LISTED} more" if len(stacks) > _LISTED else ""
        raise SeriesError(
            f"{name}: {len(stacks)} series have {total:,} voxels together, more than the {MAX_ALL_VOXELS:,} that "
            f"are read at once; give each as a folder or zip of its own ({listed}{rest})"
        )


def _volume(stack: Stack, reader: PixelReader, left_out: LeftOut) -> Volume | None:
    """Reads the pixels of a stack; None if none can be read."""
    frames = stack.frames
    turn = turn_of(frames[0].orientation)
    form = frames[0].pixels.format
    rows, columns = (form.columns, form.rows) if turn.transposed else (form.rows, form.columns)
    along = heights(frames)
    # Pages of it that stay empty, as for duplicates, are never used.
    hu = np.empty((len(frames), rows, columns), np.float32)
    kept, kept_at, duplicates, padded_pixels, padded_slices = [], -np.inf, [], 0, 0
    for frame, height in zip(frames, along, strict=True):
        try:
            pixels, padded = reader.read(frame)
        except (CodecError, LeftOutError, SeriesError, OSError) as error:
            left_out[reason_of(error, frame.pixels.source.name)].append(frame.name)
            continue
        if not np.isfinite(pixels).all():
            left_out["RescaleSlope (0028,1053) makes values that are not finite"].append(frame.name)
            continue
        pixels = turn.apply(pixels)
        if kept and height - kept_at <= SAME_POSITION:
            duplicates.append((frame, bool(np.array_equal(pixels, hu[len(kept) - 1]))))
            continue
        hu[len(kept)] = pixels
        kept.append(frame)
        kept_at = height
        if padded is not None:
            padded_pixels += int(padded.sum())
            padded_slices += 1
    if not kept:
        return None
    hu = hu[: len(kept)]
    names = tuple(frame.name for frame in kept)
    report = [*stack.warnings, *_stack_report(kept, names, turn, duplicates), *stack.notes]
    if padded_slices:
        report.append(
            f"PixelPaddingValue (0028,0120): {padded_pixels / hu.size:.1%} of the pixels, in "
            f"{counted(padded_slices, 'slice')}, hold no measurement and became air, -1000 HU"
        )
    report += value_report(hu)
    spacing = kept[0].spacing[::-1] if turn.transposed else kept[0].spacing
    return Volume(stack.title, hu, (slice_spacing(kept), *spacing), tuple(f"{line}." for line in report), names)


def _stack_report(
    frames: Sequence[Frame], names: Sequence[str], turn: Turn, duplicates: Sequence[tuple[Frame, bool]]
) -> list[str]:
    report = spacing_report(frames, names)
    for same, what in ((True, "the same pixels"), (False, "other pixels")):
        again = [frame.name for frame, identical in duplicates if identical == same]
        if again:
            lie, were = ("lies", "was") if len(again) == 1 else ("lie", "were")
            report.append(
                f"{counted(len(again), 'slice')} {lie} where another one lies, with {what}, and {were} left out: "
                f"{', '.join(again[:3])}{', ...' * (len(again) > 3)}"
            )
    report += turn_report(turn)
    notes = Counter(note for frame in frames for note in frame.notes)
    report += [f"{note} ({count} of {counted(len(frames), 'slice')})" for note, count in notes.items()]
    if len({(frame.slope, frame.intercept) for frame in frames}) > 1:
        report.append("RescaleSlope (0028,1053) or RescaleIntercept (0028,1052) differs; each slice has its own")
    return report
