"""The pulmonary vessels and bronchi of a phantom: a tree in three dimensions that each slice cuts."""

import numpy as np

from ladnn_tf.data.phantom_painter import Painter, View

LUNG_HEIGHT = 180.0
HILUM_LEVEL = 0.45
SLICE_THICKNESS = 2.5


def grow_vessels(rng: np.random.Generator) -> np.ndarray:
    """Grows the vessels of both lungs from the hila.

    Args:
        rng: of all that is random.

    Returns:
        (segments, 8) float64: start and end (x, y, z), mm; radius, mm; generation from 0. Thin ones come first.
    """
    tree = np.concatenate([_grow_lung(rng, side) for side in (-1, 1)])
    return tree[np.argsort(tree[:, 6], kind="stable")]


def cut_vessels(
    tree: np.ndarray, calibre: float, half_axes: tuple[float, float], view: View, level: float, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the vessels, the bronchi beside them and the fissures at a level.

    Args:
        tree: from `grow_vessels`.
        calibre: factor of all radii.
        half_axes: half the width and half the depth of the thoracic cavity, mm.
        view: how the patient lies in the image.
        level: 0.45 is the hila, see `phantom_anatomy.draw_anatomy`.
        size: side of the slice in pixels.

    Returns:
        Two (size, size) float32 arrays: the part of each pixel that is vessel, bronchial wall or fissure, and
        the part that is air in a bronchus. They do not stop at the pleura.
    """
    starts, ends, radii, generations = _clip(tree, (level - HILUM_LEVEL) * LUNG_HEIGHT, calibre)
    # A vessel thinner than the slice fills only a part of its thickness.
    filled = np.clip(2 * radii / SLICE_THICKNESS, 0.25, 1.0)
    vessels = Painter(view, size, 0.0)
    airways = Painter(view, size, 0.0)
    _paint_fissures(vessels, half_axes, level)
    vessels.tubes(starts, ends, radii, filled)
    # A bronchus runs beside its artery as far as it can be seen.
    seen = (generations <= 3) & (radii > 1.4)
    beside = np.stack([0.9 * radii, -1.3 * radii], 1)[seen]
    lumen = 0.7 * radii[seen]
    air = np.clip(lumen / 1.5, 0.3, 1.0)
    vessels.tubes(starts[seen] + beside, ends[seen] + beside, lumen + 0.8, 0.6 * air)
    vessels.tubes(starts[seen] + beside, ends[seen] + beside, lumen, np.zeros_like(lumen))
    airways.tubes(starts[seen] + beside, ends[seen] + beside, lumen, air)
    return vessels.pixels(), airways.pixels()


def _grow_lung(rng: np.random.Generator, side: int) -> np.ndarray:
    # Directions spread evenly over the half sphere (a Fibonacci lattice), so that no part of the lung is bare.
    trunks = 24
    count = np.arange(trunks) + 0.5
    height, turn = 1 - 2 * count / trunks, np.pi * (1 + 5**0.5) * count + rng.uniform(0, 2 * np.pi)
    flat = np.sqrt(1 - height**2)
    directions = np.stack([side * np.abs(flat * np.cos(turn)), flat * np.sin(turn), height], 1)
    directions = directions + rng.normal(0, 0.12, directions.shape)
    starts = np.tile([side * 28.0, 8.0, 0.0], (trunks, 1)) + rng.normal(0, (3, 8, 10), (trunks, 3))
    radii = rng.uniform(2.2, 4.2, trunks)
    generations = []
    length = 23.0
    for generation in range(8):
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        reach = length * rng.uniform(0.6, 1.4, (len(starts), 1))
        ends = starts + reach * directions
        mark = np.full((len(starts), 1), generation)
        generations.append(np.hstack([starts, ends, radii[:, None], mark]))
        bend = rng.normal(size=directions.shape)
        bend -= (bend * directions).sum(1, keepdims=True) * directions
        bend /= np.linalg.norm(bend, axis=1, keepdims=True)
        # One branch carries on, the other leaves at a wider angle and is thinner (Murray's law, roughly).
        carry, leave = rng.uniform(0.1, 0.35, (len(bend), 1)), rng.uniform(0.45, 0.95, (len(bend), 1))
        directions = np.concatenate([directions + carry * bend, directions - leave * bend])
        starts = np.concatenate([ends, ends])
        radii = np.concatenate([radii * 0.84, radii * 0.64])
        length *= 0.90
    return np.concatenate(generations)


def _clip(tree: np.ndarray, height: float, calibre: float) -> tuple[np.ndarray, ...]:
    """What of the tree lies within the slice: starts and ends (n, 2), radii (n,), generations (n,)."""
    radii = tree[:, 6] * calibre
    slab = SLICE_THICKNESS / 2 + radii
    low, high = tree[:, 2] - height, tree[:, 5] - height
    rise = np.where(np.abs(high - low) < 1e-6, 1e-6, high - low)
    first = (np.clip(low, -slab, slab) - low) / rise
    last = (np.clip(high, -slab, slab) - low) / rise
    cut = np.abs(last - first) > 1e-9
    along = tree[cut, 3:5] - tree[cut, 0:2]
    starts = tree[cut, 0:2] + first[cut, None] * along
    ends = tree[cut, 0:2] + last[cut, None] * along
    return starts, ends, radii[cut], tree[cut, 7]


def _paint_fissures(painter: Painter, half_axes: tuple[float, float], level: float) -> None:
    """The oblique fissure of each lung: a faint line from the mediastinum to the ribs, further forward below."""
    along = np.linspace(0, 1, 13)
    for side in (-1, 1):
        y = half_axes[1] * (0.75 - 0.95 * level + 0.12 * side) - 16 * np.sin(np.pi * along)
        line = np.stack([side * (20 + along * half_axes[0]), y], 1)
        painter.tubes(line[:-1], line[1:], np.full(12, 0.5), np.full(12, 0.22))
