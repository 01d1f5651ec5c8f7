"""Painting in millimetres with partial volume, and the shapes that phantoms are made of."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLING = 3
"""Structures are painted this much finer and averaged: partial volume, as a detector element has it."""


@dataclass(frozen=True)
class View:
    """How a patient lies in the image.

    Attributes:
        field_of_view: side of the image, mm.
        shift: (2,) position of the patient's centre, mm from the image's centre.
        angle: rotation, radians.
    """

    field_of_view: float
    shift: np.ndarray
    angle: float


class Painter:
    """Paints values in patient coordinates onto a supersampled picture; later strokes cover earlier ones."""

    def __init__(self, view: View, size: int, background: float):
        self._size = size
        self._scale = size * SUPERSAMPLING / view.field_of_view
        cosine, sine = np.cos(view.angle), np.sin(view.angle)
        self._rotation = np.array([[cosine, -sine], [sine, cosine]])
        self._shift = view.shift
        side = size * SUPERSAMPLING
        self._image = Image.new("F", (side, side), background)
        self._draw = ImageDraw.Draw(self._image)

    def _to_picture(self, points: np.ndarray) -> np.ndarray:
        centred = np.asarray(points, float) @ self._rotation.T + self._shift
        return centred * self._scale + self._size * SUPERSAMPLING / 2

    def polygon(self, points: np.ndarray, value: float) -> None:
        """Fills the polygon with corners `points`, (n, 2) mm."""
        self._draw.polygon(self._to_picture(points).ravel().tolist(), fill=value)

    def tubes(self, starts: np.ndarray, ends: np.ndarray, radii: np.ndarray, values: np.ndarray) -> None:
        """Draws round-ended tubes from `starts` to `ends`, each (n, 2) mm; `radii` (n,) mm, `values` (n,)."""
        corners = np.hstack([self._to_picture(starts), self._to_picture(ends)]).tolist()
        scaled = (radii * self._scale).tolist()
        for (x0, y0, x1, y1), radius, value in zip(corners, scaled, values.tolist(), strict=True):
            self._draw.line((x0, y0, x1, y1), fill=value, width=max(1, round(2 * radius)))
            if radius >= 1.5:
                for x, y in ((x0, y0), (x1, y1)):
                    self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=value)

    def pixels(self) -> np.ndarray:
        """The picture averaged to (size, size) float32."""
        return np.array(self._image.reduce(SUPERSAMPLING), np.float32)

    def coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """The patient coordinates x and y of the pixel centres, each (size, size) float32 mm."""
        axis = (np.arange(self._size) + 0.5) * SUPERSAMPLING
        picture = np.stack(np.meshgrid(axis, axis), -1)
        centred = (picture - self._size * SUPERSAMPLING / 2) / self._scale - self._shift
        points = (centred @ self._rotation).astype(np.float32)
        return points[..., 0], points[..., 1]


def polar(angles: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Points (n, 2) at `angles` (n,) and `radius` (n,) from the origin."""
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1)


def ellipse(centre, half_axes, tilt: float = 0.0) -> np.ndarray:
    """Outline (48, 2) of an ellipse, turned by `tilt` radians."""
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    points = np.stack([half_axes[0] * np.cos(angles), half_axes[1] * np.sin(angles)], 1)
    return turn(points, tilt) + centre


def turn(points: np.ndarray, angle: float) -> np.ndarray:
    """Points (n, 2) rotated about the origin by `angle` radians, from x towards y."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return points @ np.array([[cosine, sine], [-sine, cosine]])


def bump(angles: np.ndarray, middle: float, width: float) -> np.ndarray:
    """A Gaussian of height 1 on the circle, exp(-(difference / width)^2), angles in radians."""
    difference = (angles - middle + np.pi) % (2 * np.pi) - np.pi
    return np.exp(-((difference / width) ** 2))


def smooth_step(value):
    """Rises from 0 at 0 to 1 at 1 as 3 v^2 - 2 v^3, and stays."""
    clipped = np.clip(value, 0.0, 1.0)
    return clipped * clipped * (3 - 2 * clipped)
