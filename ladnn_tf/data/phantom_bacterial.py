"""Draws bacterial pneumonia into a phantom's chest: what a model has to tell COVID-19 from.

A lobe or a segment of it is filled: a wedge between hilum and pleura that ends at the fissure, with air in its
bronchi and a narrow rim of ground glass; or patches around the bronchi (bronchopneumonia). It lies on one side as
a rule, and fluid in the pleural space may go with it (Franquet, Eur Respir J 2001; 18: 196-208).
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from ladnn_tf.data.phantom_anatomy import LUNG, Anatomy, Patient, draw_anatomy
from ladnn_tf.data.phantom_painter import smooth_step
from ladnn_tf.data.phantom_scanner import smooth_noise
from ladnn_tf.data.phantom_slice import Slice, compose_slice, highest

BACTERIAL_AREA_LIMIT = 0.16
"""Most that the lesions of a slice may cover, as a part of its lungs; COVID-19 has `LESION_AREA_LIMIT`."""

FLUID = 10.0
"""HU of a pleural effusion."""

_SMALLEST_WITH_AIR = 0.03  # of the lungs; no bronchus is seen in a smaller lesion


@dataclass(frozen=True)
class Pneumonia:
    """A patient's bacterial pneumonia, the same in all slices.

    Attributes:
        side: -1 for the patient's right lung, 1 for the left.
        direction: of the focus as seen from the hilum, radians; 0 is lateral, positive is backwards.
        opening: half the angle of the wedge, radians.
        apex: where the wedge begins, as a part of the way from the hilum (0) to the pleura (1).
        lower: whether the focus lies behind the oblique fissure, else in front of it.
        patchy: whether it is patches around the bronchi and not a wedge.
        bilateral: whether there is a smaller focus on the other side.
        rim: ground glass for each pixel of consolidation.
        air: whether an air bronchogram is seen.
        effusion: depth of the fluid at the back as a part of the cavity's; 0 for none.
    """

    side: int
    direction: float
    opening: float
    apex: float
    lower: bool
    patchy: bool
    bilateral: bool
    rim: float
    air: bool
    effusion: float


def sample_pneumonia(rng: np.random.Generator, *, effusion: bool, bilateral: bool, patchy: bool) -> Pneumonia:
    """Draws how a patient's pneumonia lies and looks.

    Args:
        rng: of all that the other arguments do not say.
        effusion: whether there is fluid on the side of the focus.
        bilateral: whether there is a focus on the other side, too.
        patchy: whether it is bronchopneumonia.

    Returns:
        The pneumonia.
    """
    lower = bool(rng.random() < 0.62)
    return Pneumonia(
        side=int(rng.choice([-1, 1])),
        direction=rng.uniform(0.1, 1.1) if lower else rng.uniform(-0.9, 0.1),
        opening=rng.uniform(0.35, 0.75),
        apex=rng.uniform(0.25, 0.6),
        lower=lower,
        patchy=patchy,
        bilateral=bilateral,
        rim=rng.uniform(0.15, 0.55) if rng.random() < 0.75 else rng.uniform(0.6, 1.2),
        air=bool(rng.random() < 0.75),
        effusion=rng.uniform(0.10, 0.26) if effusion else 0.0,
    )


def draw_pneumonia(
    patient: Patient,
    pneumonia: Pneumonia,
    others: Collection[str],
    *,
    level: float,
    share: float,
    seed: int | list[int],
    size: int = 224,
    lesion_seed: int | list[int] | None = None,
) -> Slice:
    """Draws a slice of a patient with bacterial pneumonia.

    Args:
        patient: from `sample_patient`.
        pneumonia: from `sample_pneumonia`.
        others: of `phantom_slice.OTHER_FINDINGS`.
        level: 0 (aortic arch) to 1 (dome of the diaphragm).
        share: of the lungs that the lesions cover, ground glass included, up to `BACTERIAL_AREA_LIMIT`; 0 for a
            slice that the pneumonia does not reach, which has no effusion either.
        seed: of all that is random in this slice.
        size: side in pixels.
        lesion_seed: of where the lesions are, so that neighbouring slices can have the same ones; None: `seed`.

    Returns:
        The slice. `others` holds "effusion" where there is one; the lung mask leaves it out.

    Raises:
        ValueError: if `share` is out of range.
    """
    if not 0 <= share <= BACTERIAL_AREA_LIMIT:
        raise ValueError(f"share should be from 0 to {BACTERIAL_AREA_LIMIT}; got {share:g}")
    rng = np.random.default_rng(seed)
    anatomy = draw_anatomy(patient, level, size, rng)
    if not share:
        return compose_slice(patient, anatomy, {}, others, level, rng)
    lesion_rng = rng if lesion_seed is None else np.random.default_rng(lesion_seed)
    fluid = _effusion(patient, anatomy, pneumonia, level, lesion_rng)
    anatomy = fill_lung(anatomy, fluid, FLUID)
    extents = _extents(patient, anatomy, pneumonia, level, share, lesion_rng)
    air = ("AirBr",) if pneumonia.air and share >= _SMALLEST_WITH_AIR else ()
    drawn = compose_slice(patient, anatomy, extents, (*others, *air), level, rng)
    lesions = {name: mask for name, mask in drawn.lesions.items() if mask.any()}
    found = {"effusion": fluid >= 0.5} if (fluid >= 0.5).any() else {}
    return replace(drawn, lesions=lesions, others={**drawn.others, **found})


def fill_lung(anatomy: Anatomy, part: np.ndarray, value: float | np.ndarray) -> Anatomy:
    """Replaces lung by something else, such as fluid.

    Args:
        anatomy: a healthy slice.
        part: how much of each pixel's lung goes, (size, size) float32 from 0 to 1.
        value: HU of what comes instead.

    Returns:
        The slice with less lung.
    """
    stays = 1 - part
    return replace(
        anatomy,
        body=anatomy.body + anatomy.lung * part * (value - LUNG),
        lung=anatomy.lung * stays,
        vessels=anatomy.vessels * stays,
        airways=anatomy.airways * stays,
    )


def _effusion(patient, anatomy, pneumonia, level, rng) -> np.ndarray:
    """How much of each pixel is fluid: a crescent at the back of the focus' side, with a concave surface."""
    if not pneumonia.effusion:
        return np.zeros(anatomy.lung.shape, np.float32)
    # Fluid gathers below; above the hila only a thin layer is left.
    depth = pneumonia.effusion * (0.25 + 0.75 * smooth_step(level / 0.8)) * 2 * patient.half_depth
    depth = depth * rng.uniform(0.85, 1.15)
    # The surface is a circle about the lung's middle, so the layer thins out along the ribs and at the spine.
    x, y = np.abs(anatomy.x) - 0.52 * patient.half_width, anatomy.y
    wall = 0.98 * patient.half_depth
    wave = 1.5 * smooth_noise(rng, x.shape, 25 / anatomy.pixel)
    surface = wall - depth + wave - 0.8 * x**2 / patient.half_width
    side = np.clip(pneumonia.side * anatomy.x / anatomy.pixel + 0.5, 0, 1)
    return (np.clip((y - surface) / anatomy.pixel + 0.5, 0, 1) * side * (anatomy.lung > 0)).astype(np.float32)


def _extents(patient, anatomy, pneumonia, level, share, rng) -> dict[str, np.ndarray]:
    """How much of each pixel is consolidation, and ground glass around it."""
    foci = [(pneumonia, 1.0)]
    if pneumonia.bilateral:
        second = replace(pneumonia, side=-pneumonia.side, patchy=True, lower=True, direction=rng.uniform(0.0, 1.0))
        part = rng.uniform(0.2, 0.45)
        foci = [(pneumonia, 1 - part), (second, part)]
    pixels = share * (anatomy.lung >= 0.5).sum()
    consolidation = np.zeros(anatomy.lung.shape, np.float32)
    rim = np.zeros(anatomy.lung.shape, np.float32)
    for focus, part in foci:
        free = (anatomy.lung >= 0.75) & (focus.side * anatomy.x > 0)
        height = _focus(patient, anatomy, focus, level, rng)
        dense = max(1, int(part * pixels / (1 + focus.rim)))
        here = highest(height, free, dense, 0.2)
        # The rim has no sharp border of its own.
        soft = height + 0.12 * smooth_noise(rng, height.shape, 5 / anatomy.pixel)
        rim += highest(soft, free & (here == 0), max(1, int(part * pixels) - dense), 0.9)
        consolidation += here
    return {"Csld": consolidation, "GGO": rim}


def _focus(patient, anatomy, pneumonia, level, rng) -> np.ndarray:
    """A landscape whose highest points become consolidation: a wedge or patches on the focus' side."""
    side = pneumonia.side
    x, y = side * anatomy.x - 26.0, anatomy.y - 6.0
    angle, distance = np.arctan2(y, x), np.hypot(x, y)
    reach = 0.75 * patient.half_width
    way = distance / reach
    if pneumonia.patchy:
        height = _patches(anatomy, pneumonia, reach, rng)
    else:
        turned = np.abs((angle - pneumonia.direction - rng.normal(0, 0.06) + np.pi) % (2 * np.pi) - np.pi)
        wedge = (pneumonia.opening - turned) * np.minimum(way, 1.0)
        height = np.minimum(wedge, 0.9 * (way - pneumonia.apex)) * 2.2
    height = height + 0.10 * smooth_noise(rng, x.shape, 8 / anatomy.pixel)
    height = height + 0.06 * smooth_noise(rng, x.shape, 3 / anatomy.pixel)
    # The fissure stops it, so the lobe's border is straight; a lobe that hardly reaches this level has no say.
    fissure = patient.half_depth * (0.75 - 0.95 * level + 0.12 * side) - 16 * np.sin(
        np.pi * np.clip((side * anatomy.x - 20) / patient.half_width, 0, 1)
    )
    behind = (anatomy.y - fissure) * (1 if pneumonia.lower else -1)
    if _room(anatomy, side, behind) > 0.12:
        height = height - 1.5 * (behind < 0)
    return height


def _room(anatomy, side, behind) -> float:
    """Which part of one lung lies in the focus' lobe at this level."""
    here = (anatomy.lung > 0.5) & (side * anatomy.x > 0)
    return float((here & (behind > 0)).sum() / max(1, here.sum()))


def _patches(anatomy, pneumonia, reach, rng) -> np.ndarray:
    """Hills around the bronchi of the focus' side."""
    height = np.full(anatomy.x.shape, -9.0, np.float32)
    for _ in range(rng.integers(2, 5)):
        angle = pneumonia.direction + rng.normal(0, 0.45)
        away = reach * rng.uniform(0.35, 0.95)
        x, y = pneumonia.side * (26.0 + away * np.cos(angle)), 6.0 + away * np.sin(angle)
        radius = rng.uniform(11, 24)
        hill = rng.uniform(-0.2, 0.1) - np.hypot(anatomy.x - x, anatomy.y - y) / radius
        height = np.maximum(height, hill)
    return height + 0.12 * smooth_noise(rng, height.shape, 6 / anatomy.pixel)
