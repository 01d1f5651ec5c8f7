"""What is given to the data collection and what comes back: contributions, receipts, withdrawals, errors."""

import dataclasses
from collections.abc import Mapping

from ladnn_tf.labels import LESIONS
from serving.collection.consent import Consent
from serving.collection.images import PreparedImage

MAX_PATIENT_CODE = 64
"""Characters of a patient code; a longer one is no code."""


class CollectionError(OSError):
    """The collection cannot be read or written; the message says what that means for what was asked."""


class UncertainError(CollectionError):
    """Whether a contribution was stored cannot be told; the message has its id."""


class UnknownContributionError(LookupError):
    """No contribution has this receipt, or this id."""


@dataclasses.dataclass(frozen=True, eq=False)
class Contribution:
    """What is given: the images of one patient, and what is known of them.

    Attributes:
        images: of `images.prepare`, at least one; equal ones are stored once.
        consent: the text that was agreed to.
        covid: whether the patient had COVID-19; None where it is not stated.
        lesions: of `labels.LESIONS`, whether it is present; one that is not here, or None, is not stated.
        patient_code: a pseudonym of the site's own, at most `MAX_PATIENT_CODE` characters; stored as a keyed hash,
            for which case and white space do not count. Empty if there is none.
        contributor: the user's name, or empty.

    Raises:
        ValueError: if there is no image, a lesion is unknown, or the patient code is too long.
    """

    images: tuple[PreparedImage, ...]
    consent: Consent
    covid: bool | None = None
    lesions: Mapping[str, bool | None] = dataclasses.field(default_factory=dict)
    patient_code: str = dataclasses.field(default="", repr=False)
    contributor: str = ""

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("a contribution needs at least one image")
        strays = [lesion for lesion in self.lesions if lesion not in LESIONS]
        if strays:
            raise ValueError(f"lesions should be of {', '.join(LESIONS)}. Received: {strays[0]!r}")
        if len(self.patient_code) > MAX_PATIENT_CODE:
            raise ValueError(f"a patient code has at most {MAX_PATIENT_CODE} characters")


@dataclasses.dataclass(frozen=True)
class Receipt:
    """What the contributor gets, once.

    Attributes:
        text: of `receipts.new_receipt`; with it the contribution can be withdrawn.
        contribution: the id, 16 hexadecimal digits; no secret.
        images: how many different ones were stored.
        created: UTC, `2026-01-31T23:59:59Z`.
    """

    text: str = dataclasses.field(repr=False)
    contribution: str
    images: int
    created: str


@dataclasses.dataclass(frozen=True)
class Withdrawal:
    """What a withdrawal did.

    Attributes:
        contribution: the id.
        images: how many it took out of the contribution; 0 if that was withdrawn before.
        withdrawn: when, perhaps before: UTC, `2026-01-31T23:59:59Z`.
    """

    contribution: str
    images: int
    withdrawn: str
