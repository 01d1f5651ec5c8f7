"""Who is who in the data collection: which contributions are taken for those of one person."""

from collections.abc import Sequence

import sqlalchemy as sa

DATASET = "collected"
"""The first part of `source` and `patient` in the manifest."""


def own_name(record: sa.Row) -> str:
    """The patient's name by the contribution alone. 16 digits tell any number of patients apart."""
    if record.patient_hash:
        return f"{DATASET}/patient-{record.patient_hash[:16]}"
    return f"{DATASET}/contribution-{record.id}"


def joined(records: Sequence[sa.Row], alike: Sequence[tuple[sa.Row, sa.Row]]) -> dict[str, str]:
    """Joins the patients who share a picture, or have pictures that are alike.

    Args:
        records: of `records.read_records`.
        alike: pairs of them whose pictures are alike.

    Returns:
        The patient's own name -> the name of the first of those it is joined with, perhaps itself.
    """
    leader: dict[str, str] = {}  # a name -> an earlier one of the same person; the first leads to itself
    order: dict[str, int] = {}
    seen: dict[str, str] = {}  # a picture -> whose it is

    def first(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    def join(name: str, other: str) -> None:
        earlier, later = sorted((first(name), first(other)), key=order.__getitem__)
        leader[later] = earlier

    for record in records:
        own = own_name(record)
        leader.setdefault(own, own)
        order.setdefault(own, len(order))
        join(own, seen.setdefault(record.pixels_sha256, own))
    for record, other in alike:
        join(own_name(record), own_name(other))
    return {name: first(name) for name in leader}
