"""Which slices make one volume, and what it is called: by study, series, geometry and acquisition."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ladnn_tf.data.dicom_frames import Frame, LeftOut
from ladnn_tf.data.dicom_geometry import MAX_OBLIQUE, SAME_POSITION, alike, heights, in_order, turn_of

MAX_PARTS = 50
"""Orientations and pixel spacings in a series: a CT has one, seldom two."""

_ACQUISITION = "AcquisitionNumber (0020,0012)"


@dataclass(frozen=True, eq=False)
class Stack:
    """The slices of one volume.

    Attributes:
        frames: in order.
        title: of numbers only, as free text may hold names: `study 1 of 2, series 3, part 1 of 2`.
        warnings: about all files together.
        notes: about the series and what of it the stack is.
    """

    frames: list[Frame]
    title: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def stacks_of(frames: Iterable[Frame], left_out: LeftOut) -> list[Stack]:
    """Puts axial slices together that belong together.

    Args:
        frames: of any studies and series.
        left_out: where slices that are not axial are entered.

    Returns:
        The stacks by study, as they come, and series number.
    """
    frames = _axial(frames, left_out)
    studies = {study: place for place, study in enumerate(dict.fromkeys(map(_study, frames)), 1)}
    patients = _patients(frames)
    warnings = [f"the files are of {len(studies)} studies"] * (len(studies) > 1)
    warnings += [f"the files are of {patients} patients"] * (patients > 1)
    series = defaultdict(list)
    for frame in frames:
        number = math.inf if frame.number is None else frame.number
        series[studies[_study(frame)], number, frame.series].append(frame)
    stacks = []
    for (study, number, _), members in sorted(series.items(), key=lambda item: item[0]):
        title = "series without a number" if math.isinf(number) else f"series {number}"
        title = f"study {study} of {len(studies)}, " * (len(studies) > 1) + title
        parts = [_by_acquisition(part) for part in _parts(members, left_out)]
        stacks += _series_stacks(parts, title, tuple(warnings))
    return stacks


def _series_stacks(
    parts: Sequence[Sequence[list[Frame]]], title: str, warnings: tuple[str, ...]
) -> Iterator[Stack]:
    """The stacks of one series, each part of which has one or more."""
    count = sum(map(len, parts))
    for place, part in enumerate(parts, 1):
        of_part = f", part {place} of {len(parts)}" * (len(parts) > 1)
        numbers = {frame.order[0] for stack in part for frame in stack}
        for number, stack in enumerate(part, 1):
            notes = []
            if len(parts) > 1:
                notes.append(
                    "the series has slices of several sizes, orientations, pixel spacings or frames of reference; "
                    f"it was read as {count} volumes"
                )
            if len(part) > 1:
                notes.append(
                    f"{len(numbers)} acquisitions ({_ACQUISITION}) of the series overlap; they were read as "
                    f"{len(part)} volumes"
                )
            if (own := len({frame.order[0] for frame in stack})) > 1:
                notes.append(f"the slices are of {own} acquisitions ({_ACQUISITION}), one after the other")
            of_acquisition = f", acquisition {number} of {len(part)}" * (len(part) > 1)
            yield Stack(stack, title + of_part + of_acquisition, warnings, tuple(notes))


def _study(frame: Frame) -> tuple[bytes, bytes]:
    """A study is of one patient (PS3.3 A.1.2), whatever a damaged UID says."""
    return frame.patient[0], frame.study


def _patients(frames: Iterable[Frame]) -> int:
    """How many patients are named. One whose issuer is missing may be any of those with the same PatientID."""
    issuers = defaultdict(set)
    for identifier, issuer in {frame.patient for frame in frames}:
        if identifier:
            issuers[identifier].add(issuer)
    return sum(max(1, len(found - {b""})) for found in issuers.values())


def _axial(frames: Iterable[Frame], left_out: LeftOut) -> list[Frame]:
    axial = []
    for frame in frames:
        try:
            oblique = turn_of(frame.orientation).oblique
        except ValueError as error:
            left_out.setdefault(str(error), []).append(frame.name)
            continue
        if oblique > MAX_OBLIQUE:
            reason = f"not axial: ImageOrientationPatient (0020,0037) is over {MAX_OBLIQUE:.0f} degrees from it"
            left_out.setdefault(reason, []).append(frame.name)
        else:
            axial.append(frame)
    return axial


def _parts(frames: Iterable[Frame], left_out: LeftOut) -> list[list[Frame]]:
    """Slices of a series that can lie in one volume, as they are alike to the first of them; most slices first."""
    groups: dict[tuple, list[list[Frame]]] = defaultdict(list)
    for frame in frames:
        form = frame.pixels.format
        parts = groups[frame.frame_of_reference, form.rows, form.columns]
        part = next((part for part in parts if alike(part[0], frame)), None)
        if part is not None:
            part.append(frame)
        elif len(parts) < MAX_PARTS:
            parts.append([frame])
        else:
            reason = f"its series has slices of more than {MAX_PARTS} orientations or pixel spacings"
            left_out.setdefault(reason, []).append(frame.name)
    return sorted((part for parts in groups.values() for part in parts), key=len, reverse=True)


def _by_acquisition(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Parts acquisitions that cover the same positions; those that follow one another stay together.

    Old scanners number each slice as an acquisition of its own: one slice overlaps nothing.

    Returns:
        Stacks in order, that of the lowest acquisition first.
    """
    ranges: dict[float, tuple[float, float]] = {}
    for frame, height in zip(frames, heights(frames), strict=True):
        low, high = ranges.get(frame.order[0], (height, height))
        ranges[frame.order[0]] = min(low, height), max(high, height)
    tops: list[float] = []  # of the acquisitions that each volume has so far
    volume_of = {}
    for number, (low, high) in sorted(ranges.items(), key=lambda item: (item[1][0], item[0])):
        free = (place for place, top in enumerate(tops) if min(top, high) - low <= SAME_POSITION)
        place = next(free, len(tops))
        tops[place : place + 1] = [max([high, *tops[place : place + 1]])]
        volume_of[number] = place
    volumes: list[list[Frame]] = [[] for _ in tops]
    for frame in frames:
        volumes[volume_of[frame.order[0]]].append(frame)
    return sorted(map(in_order, volumes), key=lambda volume: min(frame.order[0] for frame in volume))
