"""Draws one synthetic chest-CT slice: a healthy chest, the lesions of COVID-19 in it, and the scanner's image.

The appearances follow the Fleischner Society's glossary (Hansell et al. 2008, doi:10.1148/radiol.2462070712):
ground glass lets the vessels through, consolidation hides them, crazy paving is ground glass under a polygonal
net, an air bronchogram is air-filled bronchi in a dense lung, thickened septa bound the secondary lobules.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ladnn_tf.data.phantom_anatomy import LUNG, Anatomy, Patient, draw_anatomy, sample_patient
from ladnn_tf.data.phantom_painter import Painter, smooth_step
from ladnn_tf.data.phantom_scanner import acquire, blur, display_window, smooth_noise
from ladnn_tf.data.preprocess import encode_png
from ladnn_tf.labels import LESIONS

OTHER_FINDINGS = ("nodule", "emphysema", "motion")
"""Findings that are not COVID-19's; they occur with and without it."""

LESION_AREA_LIMIT = 0.10
"""Most that the lesions of a slice may cover, as a part of its lungs."""

MINIMUM_SIZE = 32
_EXAMPLE_SIZE = 320  # as large as a chest-CT slice in a journal is; not a size that any model takes unresized
MASK_THRESHOLD = 0.2


@dataclass(frozen=True)
class Slice:
    """A drawn slice.

    Attributes:
        image: (size, size) uint8, the grey levels of the display window.
        lung: (size, size) bool.
        lesions: for each lesion drawn, its extent, (size, size) bool. Crazy paving lies within ground glass and
            an air bronchogram within consolidation or ground glass, so these masks overlap.
        others: the same for nodules and emphysema.
        hu: (size, size) float32, Hounsfield units before the display window.
    """

    image: np.ndarray
    lung: np.ndarray
    lesions: dict[str, np.ndarray]
    others: dict[str, np.ndarray]
    hu: np.ndarray


def draw_slice(
    patient: Patient,
    findings: Collection[str],
    *,
    level: float,
    seed: int | list[int],
    size: int = 224,
    extent: float = 1.0,
    lesion_seed: int | list[int] | None = None,
) -> Slice:
    """Draws a slice of a patient.

    Args:
        patient: from `sample_patient`.
        findings: of `LESIONS` and `OTHER_FINDINGS`; empty for a normal slice. CrPa is ground glass by
            definition and needs GGO; AirBr needs Csld or GGO around it.
        level: 0 (aortic arch) to 1 (dome of the diaphragm).
        seed: of all that is random in this slice.
        size: side in pixels.
        extent: size of the lesions, as a part of what they have at most; above 0, at most 1.
        lesion_seed: of where the lesions are, so that neighbouring slices can have the same ones; None: `seed`.

    Returns:
        The slice; the same arguments give the same slice.

    Raises:
        ValueError: for an unknown finding, a lesion without the one it lies in, or a slice too small.
    """
    _check(findings, size)
    rng = np.random.default_rng(seed)
    anatomy = draw_anatomy(patient, level, size, rng)
    lung = anatomy.lung >= 0.5
    lesion_rng = rng if lesion_seed is None else np.random.default_rng(lesion_seed)
    extents = _lesion_extents(anatomy, lung, findings, lesion_rng, extent)
    return compose_slice(patient, anatomy, extents, findings, level, rng)


def compose_slice(
    patient: Patient,
    anatomy: Anatomy,
    extents: dict[str, np.ndarray],
    findings: Collection[str],
    level: float,
    rng: np.random.Generator,
) -> Slice:
    """Puts lesions into a healthy chest and takes the scanner's picture of it.

    Args:
        patient: from `sample_patient`.
        anatomy: the patient's healthy slice at `level`.
        extents: how much of each pixel is GGO, Csld, CrPa or InSepThi, (size, size) float32 from 0 to 1.
        findings: as `draw_slice` takes them; of the lesions only AirBr is looked at, the others are in `extents`.
        level: as `draw_slice` takes it.
        rng: of all that is random from here on.

    Returns:
        The slice.
    """
    lung = anatomy.lung >= 0.5
    tubes = _air_bronchogram(patient, anatomy, extents, findings, rng)
    others = _other_extents(anatomy, lung, level, findings, rng)
    hu = _lung_density(patient, anatomy, extents, others, rng)
    hu = _mix(hu, -900.0, tubes)
    hu = anatomy.body + anatomy.lung * (hu - LUNG)
    hu = acquire(patient, anatomy, hu, "motion" in findings, rng)
    masks = {name: (extent >= MASK_THRESHOLD) & lung for name, extent in extents.items()}
    if "CrPa" in masks:
        masks["GGO"] |= masks["CrPa"]
    if "AirBr" in findings:
        # Pixels much larger than a bronchus never hold much of it.
        masks["AirBr"] = (tubes > 0) & (tubes >= min(0.4, 0.5 * tubes.max()))
    return Slice(
        image=display_window(hu, *patient.window),
        lung=lung,
        lesions={name: masks[name] for name in LESIONS if name in masks},
        others={name: (extent >= 0.5) & lung for name, extent in others.items()},
        hu=hu,
    )


def example_png() -> bytes:
    """One slice with ground glass as a grey PNG, always the same: for warming up and for probes."""
    patient = sample_patient(*np.random.default_rng(0).spawn(2))
    return encode_png(draw_slice(patient, ("GGO",), level=0.5, seed=0, size=_EXAMPLE_SIZE).image)


def _check(findings: Collection[str], size: int) -> None:
    unknown = sorted(set(findings) - set(LESIONS) - set(OTHER_FINDINGS))
    if unknown:
        raise ValueError(f"findings should be of {', '.join(LESIONS + OTHER_FINDINGS)}; got {', '.join(unknown)}")
    if "CrPa" in findings and "GGO" not in findings:
        raise ValueError("crazy paving (CrPa) is ground glass with a net of lines: findings must hold GGO too")
    if "AirBr" in findings and not {"Csld", "GGO"} & set(findings):
        raise ValueError("an air bronchogram (AirBr) needs a dense lung around it: add Csld or GGO to findings")
    if size < MINIMUM_SIZE:
        raise ValueError(f"size should be at least {MINIMUM_SIZE} pixels; got {size}")


def _lesion_extents(anatomy, lung, findings, rng, share=1.0) -> dict[str, np.ndarray]:
    """How much of each pixel is GGO, Csld, CrPa or InSepThi, 0 to 1; where one is, no other begins.

    The pixels that a lesion touches at all are counted out from the lung's area, so that `LESION_AREA_LIMIT`
    holds whatever the shapes are.
    """
    names = [name for name in ("Csld", "CrPa", "GGO", "InSepThi") if name in findings]
    if not names:
        return {}
    # A motion artefact shows a lesion twice, so there is less of it.
    part = rng.uniform(0.085, 0.0985) * (0.85 if "motion" in findings else 1.0)
    weights = np.array([rng.uniform(0.8, 1.2) * (1.25 if name == "CrPa" else 1.0) for name in names])
    budget = np.floor(share * part * lung.sum() * weights / weights.sum()).astype(int)
    free = anatomy.lung >= 0.75
    centres = _lesion_centres(anatomy, free, rng)
    extents = {}
    for name, count in zip(names, budget, strict=True):
        if name == "InSepThi":
            centres = _lesion_centres(anatomy, free, rng)
        potential = _potential(anatomy, centres, rng)
        edge = {"GGO": 0.75, "Csld": 0.35, "CrPa": 0.35, "InSepThi": 0.10}[name]
        extents[name] = highest(potential, free, count, edge)
        free = free & (extents[name] == 0)
    return extents


def _lesion_centres(anatomy: Anatomy, free: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Centres of the patches, (n, 2) mm: near the costal pleura, rather at the back, on both sides as a rule."""
    wanted = np.exp(-(((anatomy.periphery - 0.88) / 0.09) ** 2)) * np.exp(anatomy.y / 30) * free
    one_sided = rng.random() < 0.12
    first = rng.choice([-1, 1])
    centres = []
    for number in range(rng.integers(2, 4)):
        side = first if one_sided or number % 2 == 0 else -first
        weight = (wanted * (np.sign(anatomy.x) == side)).ravel().astype(float)
        index = rng.choice(weight.size, p=weight / weight.sum())
        centres.append((anatomy.x.flat[index], anatomy.y.flat[index]))
    return np.array(centres)


def _potential(anatomy, centres, rng) -> np.ndarray:
    """A landscape whose highest points become lesion: hills at the centres, roughened."""
    height = np.full(anatomy.x.shape, -9.0, np.float32)
    for x, y in centres:
        # Patches lie along the pleura.
        angle = np.arctan2(x, -y) + rng.normal(0, 0.4)
        long, short = 16 * rng.uniform(1.1, 1.9), 16 * rng.uniform(0.7, 1.0)
        along = (anatomy.x - x) * np.cos(angle) + (anatomy.y - y) * np.sin(angle)
        across = (anatomy.y - y) * np.cos(angle) - (anatomy.x - x) * np.sin(angle)
        hill = rng.uniform(-0.15, 0.15) - np.hypot(along / long, across / short)
        height = np.maximum(height, hill)
    rough = smooth_noise(rng, height.shape, 7 / anatomy.pixel)
    fine = smooth_noise(rng, height.shape, 3 / anatomy.pixel)
    return height + 0.25 * rough + 0.16 * fine


def highest(potential: np.ndarray, free: np.ndarray, count: int, edge: float) -> np.ndarray:
    """Extent of the `count` highest free pixels: 0 at the lowest, 1 above the part `edge` of the order."""
    extent = np.zeros(potential.shape, np.float32)
    candidates = np.flatnonzero(free)
    count = min(count, candidates.size)
    order = np.argsort(-potential.flat[candidates], kind="stable")[:count]
    height = (count - np.arange(count)) / max(edge * count, 1.0)
    extent.flat[candidates[order]] = smooth_step(height)
    return extent


def _other_extents(anatomy, lung, level, findings, rng) -> dict[str, np.ndarray]:
    """How much of each pixel is nodule or emphysema, 0 to 1."""
    extents = {}
    if "nodule" in findings:
        extents["nodule"] = _nodules(anatomy, lung, rng)
    if "emphysema" in findings:
        coarse = smooth_noise(rng, lung.shape, 12 / anatomy.pixel)
        holes = smooth_noise(rng, lung.shape, 2.4 / anatomy.pixel)
        # Centrilobular emphysema prefers the upper lung and the front.
        field = holes + 0.6 * coarse - 0.004 * anatomy.y + 0.35 * (0.5 - level)
        extents["emphysema"] = np.clip((field - 0.75) / 0.35, 0, 1) * lung
    return extents


def _nodules(anatomy, lung, rng) -> np.ndarray:
    extent = np.zeros(lung.shape, np.float32)
    inside = np.flatnonzero((blur(lung.astype(np.float32), 4 / anatomy.pixel) > 0.85) & lung)
    for _ in range(rng.integers(1, 5)):
        index = rng.choice(inside)
        radius = rng.uniform(3.5, 9.0)
        angle = np.arctan2(anatomy.y - anatomy.y.flat[index], anatomy.x - anatomy.x.flat[index])
        lobulated = radius * (1 + 0.06 * np.cos(3 * angle + rng.uniform(0, 6)))
        distance = np.hypot(anatomy.x - anatomy.x.flat[index], anatomy.y - anatomy.y.flat[index])
        extent = np.maximum(extent, np.clip((lobulated - distance) / anatomy.pixel + 0.5, 0, 1))
    return extent * lung


def _lung_density(patient, anatomy, extents, others, rng) -> np.ndarray:
    """HU within the lungs, in the order in which one appearance hides another."""
    shape, pixel = anatomy.lung.shape, anatomy.pixel
    hu = patient.lung_density + patient.gravity * np.clip(anatomy.y / patient.half_depth, -1, 1) / 2
    # The most dependent lung is a little collapsed in many people.
    hu = hu + patient.dependent * np.exp(-(((1.0 - anatomy.periphery) / 0.07) ** 2)) * np.clip(
        anatomy.y / patient.half_depth, 0, 1
    )
    hu = hu + 14 * smooth_noise(rng, shape, 9 / pixel) + 16 * smooth_noise(rng, shape, 2 / pixel)
    vessels = anatomy.vessels
    if "emphysema" in others:
        hu = _mix(hu, -985.0, 0.85 * others["emphysema"])
        vessels = vessels * (1 - 0.6 * others["emphysema"])
    ground_glass = np.maximum(extents.get("GGO", 0.0), extents.get("CrPa", 0.0))
    hazy = rng.uniform(-490, -390) + 40 * smooth_noise(rng, shape, 4 / pixel)
    hu = _mix(hu, np.maximum(hazy, hu + 60), ground_glass)
    hu = _mix(hu, 40.0, vessels)
    hu = _mix(hu, -960.0, anatomy.airways)
    if "CrPa" in extents:
        net = _septa(anatomy, extents["CrPa"] > 0, rng, lobule=7.0, width=1.5)
        hu = _mix(hu, 20.0, 0.8 * net * extents["CrPa"])
    if "InSepThi" in extents:
        net = _septa(anatomy, extents["InSepThi"] > 0, rng, lobule=11.0, width=2.6)
        hu = _mix(hu, 40.0, net * extents["InSepThi"])
    if "nodule" in others:
        hu = _mix(hu, rng.uniform(10, 70), others["nodule"])
    if "Csld" in extents:
        hu = _mix(hu, 20 + 25 * smooth_noise(rng, shape, 3 / pixel), extents["Csld"])
    return hu


def _septa(anatomy, region, rng, lobule, width) -> np.ndarray:
    """The borders of secondary lobules in a region: part of each pixel within `width` mm of a Voronoi edge."""
    points = np.stack([anatomy.x[region], anatomy.y[region]], 1) / lobule
    corner = points.min(0) - 2
    columns, rows = (np.ceil(points.max(0) - corner) + 3).astype(int)
    # One lobule's centre in each cell of a grid; the nearest ones are at most two cells away.
    jitter = rng.uniform(0.1, 0.9, (rows, columns, 2))
    centres = jitter + np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1)
    steps = np.stack(np.meshgrid(np.arange(-2, 3), np.arange(-2, 3)), -1).reshape(-1, 2)
    cells = np.floor(points - corner).astype(int)[:, None] + steps
    candidates = centres[cells[..., 1], cells[..., 0]]
    squared = ((points[:, None] - corner - candidates) ** 2).sum(-1)
    order = np.argsort(squared, axis=1)[:, :3]
    near = np.take_along_axis(squared, order, 1)
    centre = np.take_along_axis(candidates, order[..., None], 1)
    between = np.linalg.norm(centre[:, 1:] - centre[:, :1], axis=2)
    distance = lobule * (near[:, 1:] - near[:, :1]) / (2 * between)
    # Not every septum is equally thick; the two lobules beside it determine how thick.
    thickness = np.take_along_axis(rng.random((rows, columns))[cells[..., 1], cells[..., 0]], order, 1)
    strength = np.sqrt(0.3 + 0.7 * ((thickness[:, :1] + thickness[:, 1:]) % 1))
    part = np.clip((width / 2 - distance) / anatomy.pixel + 0.5, 0, min(1.0, width / anatomy.pixel))
    lines = np.zeros(region.shape, np.float32)
    lines[region] = (strength * part).max(1)
    return lines


def _air_bronchogram(patient, anatomy, extents, findings, rng) -> np.ndarray:
    """Part of each pixel that is air in a bronchus through the dense lung."""
    if "AirBr" not in findings:
        return np.zeros(anatomy.lung.shape, np.float32)
    host = extents["Csld"] if "Csld" in extents else extents["GGO"]
    dense = host >= 0.8
    painter = Painter(patient.view, host.shape[0], 0.0)
    depth = blur(host, 4 / anatomy.pixel) * dense
    for side in (-1, 1):
        here = depth * (np.sign(anatomy.x) == side)
        if not here.any():
            continue
        # The bronchus comes from the hilum and reaches at least the middle of the dense lung.
        middle = np.array([anatomy.x.flat[here.argmax()], anatomy.y.flat[here.argmax()]])
        outward = middle - (side * 30.0, 10.0)
        outward /= np.linalg.norm(outward)
        _branches(painter, middle - 9 * outward, outward, 1.9, 4, rng)
    return painter.pixels() * dense


def _branches(painter, start, direction, radius, generations, rng) -> None:
    end = start + direction * rng.uniform(9.5, 13)
    painter.tubes(start[None], end[None], np.array([radius]), np.ones(1))
    if generations == 1:
        return
    for turn in (rng.uniform(0.25, 0.6), -rng.uniform(0.25, 0.6)):
        cosine, sine = np.cos(turn), np.sin(turn)
        turned = np.array(
            [cosine * direction[0] - sine * direction[1], sine * direction[0] + cosine * direction[1]]
        )
        _branches(painter, end, turned, radius * 0.82, generations - 1, rng)


def _mix(background, foreground, part) -> np.ndarray:
    """Replaces `part` (0 to 1) of each pixel."""
    return background + (foreground - background) * part
