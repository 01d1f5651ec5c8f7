"""From the headers of DICOM files to volumes: one pass over the headers, then the pixels slice by slice."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ladnn_tf.data.dicom_codecs import CodecError
from ladnn_tf.data.dicom_frames import Frame, read_frames
from ladnn_tf.data.dicom_geometry import (
    MAX_OBLIQUE,
    SAME_POSITION,
    Turn,
    heights,
    in_order,
    slice_spacing,
    spacing_report,
    stack_key,
    turn_of,
    turn_report,
)
from ladnn_tf.data.dicom_header import LeftOutError
from ladnn_tf.data.dicom_pixels import PixelReader
from ladnn_tf.data.series_sources import Source, reason_of
from ladnn_tf.data.volume import MAX_VOXELS, SeriesError, Volume, check_size, left_out_report, value_report

MAX_ALL_VOXELS = 2 * MAX_VOXELS
"""Of all series that are read at once."""

LeftOut = dict[str, list[str]]
"""Why files were left out: reason -> their names."""


def read_dicom(name: str, sources: Sequence[Source], left_out: Mapping[str, Sequence[str]]) -> list[Volume]:
    """Reads all axial CT series of a set of files.

    Args:
        name: of the set, for messages.
        sources: the files; their names and order mean nothing.
        left_out: what was left out before: reason -> names.

    Returns:
        One volume for each series, those of the lowest series number first.

    Raises:
        SeriesError: if no slice can be read, or if there are too many.
        OSError: if a file cannot be read at all.
    """
    left_out = defaultdict(list, {reason: list(names) for reason, names in left_out.items()})
    stacks = _stacks(_headers(sources, left_out), left_out)
    _check_sizes(name, stacks)
    parts = Counter(stack[0].series for stack in stacks)
    volumes = []
    with PixelReader() as reader:
        for stack, title in zip(stacks, _titles(stacks, parts), strict=True):
            volume = _volume(stack, title, reader, left_out, parts[stack[0].series])
            if volume:
                volumes.append(volume)
    common = left_out_report(left_out)
    if not volumes:
        raise SeriesError(f"{name}: no CT slice can be read. {' '.join(common) or 'There is no file.'}")
    return [
        Volume(volume.name, volume.hu, volume.spacing_mm, (*volume.report, *common), volume.files)
        for volume in volumes
    ]


def _headers(sources: Iterable[Source], left_out: LeftOut) -> list[Frame]:
    frames = []
    for source in sources:
        try:
            frames += read_frames(source)
        except (LeftOutError, SeriesError, OSError) as error:
            left_out[reason_of(error, source.name)].append(source.name)
    return frames


def _stacks(frames: Iterable[Frame], left_out: LeftOut) -> list[list[Frame]]:
    """Axial slices that belong together, each stack in order."""
    groups = defaultdict(list)
    for frame in frames:
        try:
            turn = turn_of(frame.orientation)
        except ValueError as error:
            left_out[str(error)].append(frame.pixels.source.name)
            continue
        if turn.oblique > MAX_OBLIQUE:
            reason = f"not axial: ImageOrientationPatient (0020,0037) is over {MAX_OBLIQUE:.0f} degrees from it"
            left_out[reason].append(frame.pixels.source.name)
        else:
            groups[stack_key(frame)].append(frame)
    stacks = [in_order(group) for group in groups.values()]
    return sorted(stacks, key=lambda stack: (_series_number(stack[0]), stack[0].series, -len(stack)))


def _series_number(frame: Frame) -> float:
    try:
        return float(frame.number)
    except ValueError:
        return float("inf")


def _titles(stacks: Sequence[Sequence[Frame]], parts: Mapping[str, int]) -> list[str]:
    """A name for each stack, with a part's number where a series has several."""
    seen, titles = Counter(), []
    for stack in stacks:
        frame = stack[0]
        title = f"series {frame.number}" if frame.number else "series without a number"
        if frame.description:
            title += f" ({frame.description})"
        if parts.get(frame.series, 1) > 1:
            seen[frame.series] += 1
            title += f", part {seen[frame.series]} of {parts[frame.series]}"
        titles.append(title)
    return titles


def _check_sizes(name: str, stacks: Sequence[Sequence[Frame]]) -> None:
    total = 0
    for stack in stacks:
        form = stack[0].pixels.format
        check_size(name, (len(stack), form.rows, form.columns))
        total += len(stack) * form.rows * form.columns
    if total > MAX_ALL_VOXELS:
        series = "; ".join(
            f"{title}: {len(stack)} slices, {stack[0].pixels.source.name}"
            for stack, title in list(zip(stacks, _titles(stacks, {}), strict=True))[:5]
        )
        raise SeriesError(
            f"{name}: {len(stacks)} series have {total:,} pixels, more than the {MAX_ALL_VOXELS:,} that are read "
            f"at once; give the files of one series ({series})"
        )


def _volume(
    stack: Sequence[Frame], title: str, reader: PixelReader, left_out: LeftOut, parts: int
) -> Volume | None:
    """Reads the pixels of a stack, one of so many of its series; None if none can be read."""
    turn = turn_of(stack[0].orientation)
    form = stack[0].pixels.format
    rows, columns = (form.columns, form.rows) if turn.transposed else (form.rows, form.columns)
    along = heights(stack)
    # Pages of it that stay empty, as for duplicates, are never used.
    hu = np.empty((len(stack), rows, columns), np.float32)
    kept, kept_at, duplicates, padded_pixels, padded_slices = [], -np.inf, [], 0, 0
    for frame, height in zip(stack, along, strict=True):
        try:
            pixels, padded = reader.read(frame)
        except (CodecError, LeftOutError, SeriesError, OSError) as error:
            left_out[reason_of(error, frame.pixels.source.name)].append(_frame_name(frame))
            continue
        if not np.isfinite(pixels).all():
            left_out["RescaleSlope (0028,1053) makes values that are not finite"].append(_frame_name(frame))
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
    names = tuple(_frame_name(frame) for frame in kept)
    report = _stack_report(kept, names, turn, duplicates)
    if parts > 1:
        report.append(
            "the series has slices of several sizes, orientations, pixel spacings or frames of reference; it was "
            f"read as {parts} volumes"
        )
    if padded_slices:
        report.append(
            f"PixelPaddingValue (0028,0120): {padded_pixels / hu.size:.1%} of the pixels, in {padded_slices} "
            "slices, hold no measurement and became air, -1000 HU"
        )
    report += value_report(hu)
    spacing = kept[0].spacing[::-1] if turn.transposed else kept[0].spacing
    return Volume(title, hu, (slice_spacing(kept), *spacing), tuple(f"{line}." for line in report), names)


def _frame_name(frame: Frame) -> str:
    name = frame.pixels.source.name
    return name if frame.pixels.frames == 1 else f"{name} frame {frame.index + 1}"


def _stack_report(
    frames: Sequence[Frame], names: Sequence[str], turn: Turn, duplicates: Sequence[tuple[Frame, bool]]
) -> list[str]:
    report = spacing_report(frames, names)
    for same, what in ((True, "the same pixels"), (False, "other pixels")):
        again = [_frame_name(frame) for frame, identical in duplicates if identical == same]
        if again:
            report.append(
                f"{len(again)} slices lie where another one lies, with {what}, and were left out: "
                f"{', '.join(again[:3])}{', ...' * (len(again) > 3)}"
            )
    report += turn_report(turn)
    notes = Counter(note for frame in frames for note in frame.notes)
    report += [f"{note} ({count} of {len(frames)} slices)" for note, count in notes.items()]
    if len({(frame.slope, frame.intercept) for frame in frames}) > 1:
        report.append("RescaleSlope (0028,1053) or RescaleIntercept (0028,1052) differs; each slice has its own")
    return report
