"""The healthy chest of a phantom patient: an axial slice in Hounsfield units, drawn from geometry.

All lengths are millimetres and all coordinates are the patient's: x grows to the image's right (the patient's
left), y from the sternum to the spine, z from the apex to the diaphragm. The pulmonary vessels are a tree in
three dimensions that each slice cuts, so that the slices of a patient belong together.
"""

from dataclasses import dataclass

import numpy as np

from ladnn_tf.data.phantom_painter import Painter, View, bump, ellipse, polar, smooth_step, turn
from ladnn_tf.data.phantom_vessels import HILUM_LEVEL, cut_vessels, grow_vessels

AIR = -1000.0
FAT = -100.0
MUSCLE = 50.0
BLOOD = 40.0
LUNG = -850.0


@dataclass(frozen=True)
class Patient:
    """What is the same in all slices of a patient: build, anatomy, scanner and display window.

    Attributes:
        half_width: of the thoracic cavity at its widest, mm.
        half_depth: the same from front to back, mm.
        squareness: exponent of the superellipse that the cavity follows; 2 is an ellipse.
        outline: (4, 2) amplitude and phase of the cavity's irregularity, harmonics 2 to 5.
        fat: thickness of the subcutaneous fat, mm.
        breast: height of the breast tissue, mm; 0 for none.
        heart: relative size of the heart.
        mediastinum: (2,) relative width of the tissue between the lungs, right and left of the middle.
        contrast: HU of blood (40 without contrast agent).
        lung_density: HU of the parenchyma half-way from front to back; inspiration and emphysema shift it.
        gravity: HU by which the dependent lung is denser than the anterior lung.
        dependent: HU by which the lung on the spine's side of the pleura is denser still.
        vessel_density: relative calibre of the vessels.
        view: how the patient lies in the image.
        couch: whether the couch is in the picture.
        circular: whether the picture is black outside the reconstruction's circle.
        noise: standard deviation of the noise at 1.5 mm pixels, HU.
        sharpness: standard deviation of the reconstruction kernel's blur, mm.
        window: (level, width) of the display, HU.
        tree: (segments, 8) pulmonary vessels, from `grow_vessels`.
    """

    half_width: float
    half_depth: float
    squareness: float
    outline: np.ndarray
    fat: float
    breast: float
    heart: float
    mediastinum: np.ndarray
    contrast: float
    lung_density: float
    gravity: float
    dependent: float
    vessel_density: float
    view: View
    couch: bool
    circular: bool
    noise: float
    sharpness: float
    window: tuple[float, float]
    tree: np.ndarray


@dataclass(frozen=True)
class Anatomy:
    """One healthy slice in parts, each (size, size) float32, from which lesions are composed.

    Attributes:
        body: HU of everything; the lungs hold the plain value `LUNG`.
        lung: part of each pixel that is lung, 0 to 1.
        vessels: part of each pixel that is vessel or bronchial wall.
        airways: part of each pixel that is air in a bronchus.
        x, y: the pixel centres in patient coordinates, mm.
        periphery: distance from the cavity's centre relative to its wall; 1 is the costal pleura.
        pixel: side of a pixel, mm.
    """

    body: np.ndarray
    lung: np.ndarray
    vessels: np.ndarray
    airways: np.ndarray
    x: np.ndarray
    y: np.ndarray
    periphery: np.ndarray
    pixel: float


def sample_patient(rng: np.random.Generator, scan_rng: np.random.Generator) -> Patient:
    """Draws a patient; nothing here depends on what the patient has.

    Args:
        rng: of the anatomy.
        scan_rng: of what sets the picture's brightness: build, inspiration, contrast agent, scanner, window.
            Two patients with the same one are matched as cases and controls are.

    Returns:
        The patient.
    """
    half_width = scan_rng.uniform(112, 148)
    return Patient(
        half_width=half_width,
        half_depth=half_width * rng.uniform(0.63, 0.83),
        squareness=rng.uniform(2.0, 2.4),
        outline=np.stack([rng.normal(0, 0.018, 4), rng.uniform(0, 2 * np.pi, 4)], 1),
        fat=scan_rng.uniform(4, 22),
        breast=float(scan_rng.choice([0.0, scan_rng.uniform(8, 24)])),
        heart=rng.uniform(0.78, 1.18),
        mediastinum=rng.uniform(0.8, 1.25, 2),
        contrast=float(scan_rng.choice([BLOOD, scan_rng.uniform(120, 260)], p=[0.7, 0.3])),
        lung_density=scan_rng.uniform(-885, -790),
        gravity=rng.uniform(20, 120),
        dependent=float(rng.choice([0.0, rng.uniform(30, 150)], p=[0.35, 0.65])),
        vessel_density=rng.uniform(0.7, 1.05),
        view=View(
            field_of_view=half_width * scan_rng.uniform(2.15, 2.85),
            # The spine is longer behind the chest's centre than the sternum is in front of it.
            shift=rng.normal((0, -6), 9),
            angle=rng.normal(0, 0.07),
        ),
        couch=bool(scan_rng.random() < 0.6),
        circular=bool(scan_rng.random() < 0.4),
        noise=scan_rng.uniform(12, 50),
        sharpness=scan_rng.uniform(0.5, 1.3),
        window=(scan_rng.uniform(-680, -480), scan_rng.uniform(1200, 1800)),
        tree=grow_vessels(rng),
    )


def draw_anatomy(patient: Patient, level: float, size: int, rng: np.random.Generator) -> Anatomy:
    """Draws the healthy chest at a level.

    Args:
        patient: the patient.
        level: 0 is the top of the aortic arch, 0.45 the hila, 1 the dome of the diaphragm.
        size: side of the slice in pixels.
        rng: what differs from slice to slice, such as where the ribs cross the plane.

    Returns:
        The parts of the slice.
    """
    body = Painter(patient.view, size, AIR)
    lung = Painter(patient.view, size, 0.0)
    if patient.couch:
        _paint_couch(body, patient)
    angles = np.linspace(-np.pi, np.pi, 241)
    cavity = cavity_radius(patient, level, angles)
    _paint_wall(body, patient, level, angles, cavity, rng)
    body.polygon(polar(angles, cavity), LUNG)
    lung.polygon(polar(angles, cavity), 1.0)
    for outline, value in _mediastinum(patient, level):
        # Nothing between the lungs reaches further than the chest wall's inner muscles.
        direction = np.arctan2(outline[:, 1], outline[:, 0])
        limit = np.interp(direction, angles, cavity) + 4
        points = outline * np.minimum(1, limit / np.hypot(*outline.T))[:, None]
        body.polygon(points, value)
        lung.polygon(points, 0.0)
    _paint_vertebra(body, patient, level)
    coverage = lung.pixels()
    half_axes = (patient.half_width, patient.half_depth)
    vessels, airways = cut_vessels(patient.tree, patient.vessel_density, half_axes, patient.view, level, size)
    x, y = body.coordinates()
    radius = np.interp(np.arctan2(y, x), angles, cavity)
    return Anatomy(
        body=body.pixels(),
        lung=coverage,
        vessels=vessels * coverage,
        airways=airways * coverage,
        x=x,
        y=y,
        periphery=(np.hypot(x, y) / radius).astype(np.float32),
        pixel=patient.view.field_of_view / size,
    )


def cavity_radius(patient: Patient, level: float, angles: np.ndarray) -> np.ndarray:
    """Distance from the chest's centre to the costal pleura at `angles` (radians; pi / 2 is the spine), mm."""
    growth = 0.78 + 0.22 * smooth_step(level / 0.55)
    width = patient.half_width * growth
    depth = np.where(np.sin(angles) < 0, 0.97, 1.05) * patient.half_depth * (0.85 + 0.15 * growth)
    power = patient.squareness
    radius = (np.abs(np.cos(angles) / width) ** power + np.abs(np.sin(angles) / depth) ** power) ** (-1 / power)
    for harmonic, (amplitude, phase) in enumerate(patient.outline, start=2):
        radius = radius * (1 + amplitude * np.cos(harmonic * angles + phase))
    # The chest is narrower in front than behind, and the spine and the sternum stand inward.
    radius = radius * (1 - 0.07 * (bump(angles, -0.75, 0.45) + bump(angles, -np.pi + 0.75, 0.45)))
    radius = radius * (1 + 0.05 * (bump(angles, 0.95, 0.4) + bump(angles, np.pi - 0.95, 0.4)))
    return radius * (1 - 0.05 * bump(angles, -np.pi / 2, 0.25) - 0.10 * bump(angles, np.pi / 2, 0.25))


def _paint_wall(painter, patient, level, angles, cavity, rng) -> None:
    """Skin, fat, muscles, ribs, sternum and scapulae."""
    posterior = bump(angles, np.pi / 2, 0.55)
    lateral = bump(angles, 0.35, 0.5) + bump(angles, np.pi - 0.35, 0.5)
    shoulder = max(0.0, 1 - level / 0.4)
    muscle = cavity + 11 + 15 * posterior + (4 + 14 * shoulder) * lateral
    muscle = muscle + 5 * (bump(angles, -0.9, 0.35) + bump(angles, -np.pi + 0.9, 0.35)) * (1 + shoulder)
    muscle = muscle - 8 * bump(angles, np.pi / 2, 0.10)
    breast = patient.breast * (1 - abs(level - 0.6))
    skin = muscle + patient.fat * (1 - 0.45 * posterior + 0.15 * lateral) + 2
    skin = skin + breast * (bump(angles, -0.95, 0.33) + bump(angles, -np.pi + 0.95, 0.33))
    painter.polygon(polar(angles, skin), MUSCLE - 30)
    painter.polygon(polar(angles, skin - 2), FAT)
    painter.polygon(polar(angles, muscle), MUSCLE)
    # The layers of the chest wall's muscles are parted by thin sheets of fat.
    sheet = cavity + 11 + 0.45 * (muscle - cavity - 11)
    painter.polygon(polar(angles, sheet + 1.4), FAT + 40)
    painter.polygon(polar(angles, sheet), MUSCLE)
    painter.polygon(polar(angles, cavity + 10.5), FAT + 60)
    painter.polygon(polar(angles, cavity + 9.5), MUSCLE)
    _paint_ribs(painter, level, angles, cavity, rng)
    if shoulder > 0.15:
        _paint_scapulae(painter, angles, sheet)


def _paint_ribs(painter, level, angles, cavity, rng) -> None:
    phase = rng.uniform(0, 1)
    for side in (0, 1):
        for number in range(7):
            middle = -1.15 + (number + phase + rng.uniform(-0.15, 0.15)) * 0.36
            span = rng.uniform(0.07, 0.15) * (1.25 if middle > 0.2 else 0.9)
            along = np.linspace(middle - span, middle + span, 14)
            if side:
                along = np.pi - along
            along = (along + np.pi) % (2 * np.pi) - np.pi
            # A rib crosses the plane aslant: one end lies nearer to the pleura.
            inner = np.interp(along, angles, cavity) + 2 + np.linspace(0, 2.5, 14) * rng.uniform(-1, 1)
            thickness = 6.5 * np.sqrt(np.clip(1 - np.linspace(-1, 1, 14) ** 2, 0.02, 1))
            _paint_bone(painter, along, inner + 3.2, thickness)
    front = -np.pi / 2
    sternum = np.interp(front, angles, cavity) + 8
    width = 16 + 8 * (level < 0.25)
    painter.polygon(ellipse((0, -sternum), (width, 6.0)), 420)
    painter.polygon(ellipse((0, -sternum), (width - 2.5, 4.0)), 130)


def _paint_bone(painter, angles, radius, thickness) -> None:
    """A strip of bone along a curve: cortex outside, marrow inside."""
    for shrink, value in ((0.0, 520.0), (1.5, 180.0)):
        half = np.maximum(thickness / 2 - shrink, 0.1)
        edge = slice(2, -2) if shrink else slice(None)
        outline = np.concatenate(
            [polar(angles[edge], (radius + half)[edge]), polar(angles[edge], (radius - half)[edge])[::-1]]
        )
        painter.polygon(outline, value)


def _paint_scapulae(painter, angles, sheet) -> None:
    for side in (0, 1):
        along = np.linspace(0.25, 0.95, 20)
        if side:
            along = np.pi - along
        radius = np.interp(along, angles, sheet) + 3
        _paint_bone(painter, along, radius, np.linspace(8, 3.5, 20))


def _paint_couch(painter, patient) -> None:
    bottom = patient.half_depth * 1.05 + 30 + patient.fat * 0.6
    x = np.linspace(-1.9, 1.9, 60) * patient.half_width
    for offset, value in ((7.0, -350.0), (24.0, -500.0)):
        curve = bottom + offset - 34 * (x / (1.5 * patient.half_width)) ** 2
        outline = np.concatenate([np.stack([x, curve], 1), np.stack([x, curve + 2.2], 1)[::-1]])
        painter.polygon(outline, value)


def _mediastinum(patient: Patient, level: float) -> list[tuple[np.ndarray, float]]:
    """Outlines (n, 2) mm and HU of what lies between the lungs, in painting order."""
    depth = patient.half_depth
    middle = np.exp(-(((level - HILUM_LEVEL) / 0.16) ** 2))
    heights = np.array([-1.2, -0.95, -0.7, -0.4, -0.1, 0.15, 0.35, 0.55, 0.8, 1.2]) * depth
    right = np.array([3, 6, 17, 31, 31 + 5 * middle, 24 + 10 * middle, 19, 23, 27, 46])
    left = np.array([3, 5, 19, 31, 29 + 6 * middle, 23 + 11 * middle, 25, 26, 26, 46])
    rows = np.linspace(heights[0], heights[-1], 60)
    kernel = np.ones(7) / 7
    right, left = (
        np.convolve(np.pad(np.interp(rows, heights, half), 3, "edge"), kernel, "valid") for half in (right, left)
    )
    right, left = right * patient.mediastinum[0], left * patient.mediastinum[1]
    block = np.concatenate([np.stack([-right, rows], 1), np.stack([left, rows], 1)[::-1]])
    # Fat in front, muscle and the spine's ligaments behind.
    parts = [(block, FAT + 20), (block[block[:, 1] > 0.45 * depth], MUSCLE)]
    parts += _heart(patient, level) + _great_vessels(patient, level)
    parts.append((ellipse((5, 0.30 * depth), (8, 5.5)), MUSCLE - 10))
    parts += _central_airways(depth, level)
    # The liver under the right dome of the diaphragm: a ball's cross-section, which grows fast at first.
    dome = np.sqrt(max(0.0, level - 0.78) / 0.25)
    if dome > 0.35:
        half_axes = np.array([58, 50]) * dome
        parts.append((ellipse((-0.50 * patient.half_width, -0.02 * depth), half_axes), 60.0))
    return parts


def _heart(patient: Patient, level: float) -> list[tuple[np.ndarray, float]]:
    heart = patient.heart * smooth_step((level - 0.42) / 0.25)
    if heart <= 0.05:
        return []
    half_axes = np.array([60, 45]) * heart * patient.half_depth / 88
    centre = np.array([17 * heart, -0.33 * patient.half_depth])
    parts = []
    for shrink, value in ((0, FAT + 10), (3, MUSCLE)):
        outline = ellipse((0, 0), half_axes - shrink)
        angles = np.arctan2(outline[:, 1], outline[:, 0])
        # The apex points to the left and forward; the right atrium bulges to the right.
        shape = 1 + 0.10 * bump(angles, -0.1, 0.5) - 0.10 * bump(angles, -1.1, 0.5) + 0.05 * bump(angles, 2.6, 0.5)
        parts.append((turn(outline * shape[:, None], 0.38) + centre, value))
    left, right = centre + np.array([14, 4]), centre - np.array([22, 4])
    parts.append((ellipse(left, half_axes * 0.48, tilt=0.6), patient.contrast))
    parts.append((ellipse(right, half_axes * 0.42, tilt=0.2), patient.contrast))
    return parts


def _great_vessels(patient: Patient, level: float) -> list[tuple[np.ndarray, float]]:
    depth, blood = patient.half_depth, patient.contrast
    if level < 0.22:
        arch = [ellipse((6, -0.06 * depth), (34, 14), tilt=0.95)]
    else:
        arch = [ellipse((-11, -0.30 * depth), (17, 16))]
        if level < 0.62:
            arch.append(ellipse((15, -0.34 * depth), (14, 17), tilt=0.5))
    superior_cava = ellipse((-25, -0.22 * depth), (8.5, 9))
    descending_aorta = ellipse((27, 0.46 * depth), (12.5, 12.5))
    return [(outline, blood) for outline in (*arch, superior_cava, descending_aorta)]


def _central_airways(depth: float, level: float) -> list[tuple[np.ndarray, float]]:
    """The trachea above the carina, two main bronchi below it."""
    if level < 0.38:
        centre = (-3, 0.08 * depth)
        return [(ellipse(centre, (10, 9.5)), MUSCLE), (ellipse(centre, (8.5, 8)), AIR)]
    parts = []
    if level < 0.62:
        spread = 10 + 55 * (level - 0.38)
        for side, calibre in ((-1, 7.5), (1, 6.5)):
            centre = (side * spread, 0.12 * depth)
            parts.append((ellipse(centre, (calibre + 3.5, calibre), tilt=side * 0.4), MUSCLE))
            parts.append((ellipse(centre, (calibre + 2, calibre - 1.5), tilt=side * 0.4), AIR + 20))
    return parts


def _paint_vertebra(painter, patient, level) -> None:
    y = 0.66 * patient.half_depth
    size = 0.85 + 0.25 * level
    painter.polygon(ellipse((0, y), np.array([18, 14]) * size), 420)
    painter.polygon(ellipse((0, y), np.array([16, 12]) * size), 190)
    rear = y + 24 * size
    for side in (-1, 1):
        wing = np.array([[3, 8], [16, 2], [34, 10], [36, 15], [20, 13], [5, 20]], float)
        painter.polygon(np.stack([side * wing[:, 0], rear - 8 + wing[:, 1]], 1), 380)
    spine = np.array([[-5, 4], [5, 4], [2.5, 30], [-2.5, 30]], float) + np.array([0, rear])
    painter.polygon(spine, 360)
    painter.polygon(ellipse((0, rear - 3), (10.5, 10)), 430)
    painter.polygon(ellipse((0, rear - 3), (8.5, 8)), 30)
