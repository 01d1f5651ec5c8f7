"""Radiology reports of phantoms, in varied English."""

import numpy as np

from ladnn_tf.data.phantom_slice import Slice

_OPENINGS = (
    "Figure {figure}. Axial non-contrast chest CT of {patient}{person}, lung window.",
    "Chest CT of {patient}{person} on day {day} of illness.",
    "{patient}{person}. Thin-section CT obtained {day} days after the onset of fever and cough.",
    "Figure {figure}. CT image of {patient}{person} on admission.",
)

_LESION_SENTENCES = {
    "GGO": (
        "{Where} ground-glass opacities are seen in a {zone} distribution.",
        "There is {where} ground glass opacity, mainly {zone}, through which the vessels remain visible.",
        "CT shows multiple patchy GGO, {zone} and {where}.",
        "Hazy areas of ground-glass attenuation, {where} and {zone}.",
    ),
    "Csld": (
        "{Where} consolidation obscures the underlying vessels.",
        "Patchy consolidations are present, {zone} and {where}.",
        "Note {where} areas of consolidation in the {zone} lung.",
        "A {where} consolidative opacity is found in the {zone} zone.",
    ),
    "CrPa": (
        "Intralobular lines superimposed on the haze give a crazy-paving pattern.",
        "A crazy paving appearance is seen within the opacity.",
        "The opacity shows a crazy-paving sign.",
    ),
    "AirBr": (
        "Air bronchograms run through the dense lung.",
        "An air bronchogram sign is visible.",
        "Air-filled bronchi (air bronchogram) are seen in the opacity.",
    ),
    "InSepThi": (
        "Interlobular septal thickening is noted, {where}.",
        "There is {where} thickening of the interlobular septa, {zone}.",
        "Thickened interlobular septa form a polygonal network.",
    ),
}

_UNKNOWN = (
    "Follow-up study; see the text for a description.",
    "The lesions had progressed compared with the previous examination.",
    "Images at admission and at discharge are compared in the text.",
)

_ENDINGS = (
    "",
    " No pleural effusion.",
    " No enlarged lymph nodes.",
    " No pleural effusion or pneumothorax is seen.",
    " The airways are patent.",
)


def write_report(
    patient: str, age: int | None, sex: str, lesions: tuple[str, ...], drawn: Slice, seed: list[int]
) -> str:
    """Writes the report of a slice.

    Args:
        patient: the patient's name, such as `Patient 12`.
        age: years, or None.
        sex: M, F or empty.
        lesions: what to mention, of `LESIONS`; if empty the report does not say what the lesions are.
        drawn: the slice; where its lesions lie is described.
        seed: chooses the wording.

    Returns:
        The text.
    """
    rng = np.random.default_rng(seed)
    person = {"M": "man", "F": "woman"}.get(sex, "patient")
    opening = rng.choice(_OPENINGS).format(
        figure=rng.integers(1, 6),
        patient=patient,
        person=f", {_article(age)} {age}-year-old {person}" if age is not None else "",
        day=rng.integers(2, 19),
    )
    if not lesions:
        return f"{opening} {rng.choice(_UNKNOWN)}{rng.choice(_ENDINGS)}"
    sentences = []
    for lesion in lesions:
        where, zone = _where(drawn, lesion), _zone(drawn, lesion)
        sentence = rng.choice(_LESION_SENTENCES[lesion])
        sentences.append(sentence.format(where=where, Where=where.capitalize(), zone=zone))
    return f"{opening} {' '.join(sentences)}{rng.choice(_ENDINGS)}"


def _article(age: int) -> str:
    """`an` for eight, eleven, eighteen and eighty to eighty-nine."""
    return "an" if age in (8, 11, 18) or 80 <= age < 90 else "a"


def _where(drawn: Slice, lesion: str) -> str:
    """The side: a radiologist's right is the image's left."""
    half = drawn.lung.shape[1] // 2
    mask = drawn.lesions[lesion]
    right, left = mask[:, :half].sum(), mask[:, half:].sum()
    if min(right, left) > 0.1 * max(right, left):
        return "bilateral"
    return "right-sided" if right > left else "left-sided"


def _zone(drawn: Slice, lesion: str) -> str:
    rows = np.flatnonzero(drawn.lung.any(1))
    middle = (rows[0] + rows[-1]) / 2
    posterior = np.nonzero(drawn.lesions[lesion])[0].mean() > middle
    return "posterior subpleural" if posterior else "peripheral"
