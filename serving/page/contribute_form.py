"""What the form of a contribution says, its files left aside."""

import dataclasses

from ladnn_tf.labels import LESIONS
from serving.collection import consent
from serving.collection.consent import Consent
from serving.collection.contribution import MAX_PATIENT_CODE
from serving.collection.images import CORNERS, NOTHING, PERCENT, Erasure
from serving.page.errors import PageError
from serving.page.form_data import Form

COVID_CHOICES = {"": None, "yes": True, "no": False}
"""The values of the field `covid`, and what they state."""

LESION_CHOICES = {"": None, "present": True, "absent": False}
"""The values of the fields `lesion_GGO` and so on, and what they state."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """Why a contribution was refused.

    Attributes:
        key: of the sentence in `texts/contribute.*.json`.
        values: of its placeholders.
        field: the id of the form's control that it is about; empty for a file.
        file: the file that it is about; empty if it is about none.
        reason: what is wrong with the file, one of the English reasons; else empty.
    """

    key: str
    values: dict[str, object] = dataclasses.field(default_factory=dict)
    field: str = ""
    file: str = ""
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Statement:
    """What a form says.

    Attributes:
        consent: the text that was shown and agreed to; None if it was not agreed to, or is not the current one.
        covid, lesions, patient_code: as `contribution.Contribution` has them.
        erasure: which corners to erase.
        is_chest_ct: whether pictures are to be taken that look like no chest-CT slice.
        problems: why it is refused; empty if it is not.
    """

    consent: Consent | None = None
    covid: bool | None = None
    lesions: dict[str, bool | None] = dataclasses.field(default_factory=dict)
    patient_code: str = dataclasses.field(default="", repr=False)
    erasure: Erasure = NOTHING
    is_chest_ct: bool = False
    problems: tuple[Problem, ...] = ()


def read_statement(form: Form, operator: str) -> Statement:
    """Reads the fields of a form.

    Args:
        form: as it was sent.
        operator: whom the consent text names.

    Returns:
        What they say; where they say what is refused, with the problems.

    Raises:
        PageError: 400 for a value that the form cannot send.
    """
    problems = []
    agreed = consent.shown(form.value("consent"), operator)
    if form.value("agree") != "yes":
        agreed = None
        problems.append(Problem("contribute.problem_agree", field="agree"))
    elif agreed is None:
        problems.append(Problem("contribute.problem_consent_changed", field="agree"))
    code = form.value("patient_code").strip()
    if len(code) > MAX_PATIENT_CODE:
        problems.append(
            Problem("contribute.problem_patient_code", {"most": MAX_PATIENT_CODE}, field="patient_code")
        )
    percent = _percent(form.value("corner_percent"))
    if percent is None:
        values = {"least": PERCENT[0], "most": PERCENT[-1]}
        problems.append(Problem("contribute.problem_corner_percent", values, field="corner_percent"))
    corners = tuple(corner for corner in CORNERS if ("corner", corner) in form.fields)
    return Statement(
        consent=agreed,
        covid=_choice(form, "covid", COVID_CHOICES),
        lesions={lesion: _choice(form, f"lesion_{lesion}", LESION_CHOICES) for lesion in LESIONS},
        patient_code=code,
        erasure=Erasure(corners, NOTHING.percent if percent is None else percent),
        is_chest_ct=form.value("is_chest_ct") == "yes",
        problems=tuple(problems),
    )


def _choice(form: Form, name: str, choices: dict[str, bool | None]) -> bool | None:
    value = form.value(name)
    if value not in choices:
        raise PageError(400, "broken_form")
    return choices[value]


def _percent(text: str) -> int | None:
    if not text:
        return NOTHING.percent
    return next((percent for percent in PERCENT if str(percent) == text.strip()), None)
