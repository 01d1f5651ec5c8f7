"""The picture of one explained slice: slice, map and overlay for COVID-19 and each lesion found (Figure 5)."""

import dataclasses
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ladnn_tf import drawing
from ladnn_tf.labels import COVID, LESION_NAMES
from ladnn_tf.models.attention import normalised

_SIDE = 2.3  # inches, of one picture
_NAME_CHARACTERS = 60
_OUTLINE = drawing.COLOURS[4]
_OVERLAY = 0.55  # opacity of the hottest place


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What a run says of one slice.

    Attributes:
        run: its name.
        file: of the slice.
        probabilities: of each label, in [0, 1]; COVID-19's is calibrated. The baseline has no lesions.
        positive: whether COVID-19 reaches its threshold.
        thresholds: of each label, from which it is called or counts as found.
        not_chosen: the lesions whose threshold is not of validation but 0.5.
        found: the lesions that reach their thresholds.
        maps: `(h, w)` raw map of each label.
        caveat: why the lesions mean nothing here, or empty.
    """

    run: str
    file: Path
    probabilities: dict[str, float]
    positive: bool
    thresholds: dict[str, float]
    not_chosen: tuple[str, ...]
    found: tuple[str, ...]
    maps: dict[str, np.ndarray]
    caveat: str = ""

    @property
    def has_lesions(self) -> bool:
        """Whether the network has lesion outputs; the baseline has none."""
        return len(self.probabilities) > 1


def enlarged(heat: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map stretched to [0, 1] and bilinearly to the size of the slice: `(h, w)` to `(height, width)`."""
    stretched = normalised(heat[..., None])[..., 0].astype(np.float32)
    return np.asarray(Image.fromarray(stretched).resize((width, height), Image.Resampling.BILINEAR))


def draw(
    pixels: np.ndarray,
    explanation: Explanation,
    other: Explanation | None = None,
    masks: dict[str, np.ndarray] | None = None,
) -> Figure:
    """Draws the panel of one slice.

    A row for COVID-19 and one for each lesion found; in it the slice (with the outline of the lesion's mask, where
    there is one), the map and the map over the slice; of the other run both for COVID-19, and for the same lesion
    if it has that output.

    Args:
        pixels: `(H, W, 3)` uint8, the slice as it is in the file.
        explanation: of the run.
        other: of another run, the baseline as a rule.
        masks: `(H, W)` bool by lesion, of any size.

    Returns:
        The figure.
    """
    masks = masks or {}
    rows = [COVID, *explanation.found]
    sides = [explanation] if other is None else [explanation, other]
    columns = 1 + 2 * len(sides)
    aspect = pixels.shape[0] / pixels.shape[1]
    height = _SIDE * min(max(aspect, 0.5), 1.5)
    figure = drawing.new_figure(_SIDE * columns + 0.9, (height + 0.35) * len(rows) + 1.2)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, label in enumerate(rows):
        outlines = list(masks.values()) if label == COVID else [masks[label]] if label in masks else []
        grid[row, 0].imshow(pixels)
        grid[row, 0].set_title(_slice_title(label, bool(outlines)), fontsize=8)
        for mask in outlines:
            _outline(grid[row, 0], mask, pixels.shape)
        for number, side in enumerate(sides):
            _draw_side(grid[row, 1 + 2 * number], grid[row, 2 + 2 * number], pixels, side, label)
    colours = ScalarMappable(Normalize(0, 1), drawing.HEAT)
    bar = figure.colorbar(colours, ax=grid[0], shrink=0.9, aspect=12, pad=0.01, ticks=[0, 0.5, 1])
    bar.set_label("attention, of each map\nfrom lowest to highest", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(_title(explanation), fontsize=9)
    figure.supxlabel(_notes(explanation, other, 38 * columns), fontsize=7)
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a file may be called `$1.png`
    return figure


def _draw_side(map_axes: Axes, overlay_axes: Axes, pixels: np.ndarray, side: Explanation, label: str) -> None:
    if label not in side.maps or (label != COVID and side.caveat):
        why = "has no lesion output" if label not in side.maps else "called negative:\nits lesions are not shown"
        map_axes.text(0.5, 0.5, f"{_plain(side.run, 34)}\n{why}", ha="center", va="center", fontsize=8)
        return
    heat = enlarged(side.maps[label], *pixels.shape[:2])
    map_axes.imshow(heat, cmap=drawing.HEAT, vmin=0, vmax=1)
    overlay_axes.imshow(pixels)
    overlay_axes.imshow(heat, cmap=drawing.HEAT, vmin=0, vmax=1, alpha=_OVERLAY * heat)
    map_axes.set_title(_plain(side.run, 34), fontsize=8)
    overlay_axes.set_title(f"{_label_name(label)} {_value(side, label)}", fontsize=8)
    if not side.maps[label].any():
        map_axes.text(
            0.5, 0.5, "nothing speaks for it", color="white", ha="center", fontsize=8, transform=map_axes.transAxes
        )


def _outline(axes: Axes, mask: np.ndarray, shape: tuple[int, ...]) -> None:
    rows, columns = mask.shape
    # Pixel centres of the mask in the slice's pixels.
    x = (np.arange(columns) + 0.5) * shape[1] / columns - 0.5
    y = (np.arange(rows) + 0.5) * shape[0] / rows - 0.5
    axes.contour(x, y, mask.astype(float), levels=[0.5], colors=[_OUTLINE], linewidths=0.8)


def _value(side: Explanation, label: str) -> str:
    """`0.82 (from 0.40)`, with as many digits as it takes to see on which side of the threshold it is."""
    probability, threshold = side.probabilities[label], side.thresholds[label]
    digits = next((n for n in (2, 3, 4) if f"{probability:.{n}f}" != f"{threshold:.{n}f}"), 5)
    return f"{probability:.{digits}f} (from {threshold:.{digits}f})"


def _label_name(label: str) -> str:
    return "COVID-19" if label == COVID else label


def _slice_title(label: str, outlined: bool) -> str:
    name = "slice" if label == COVID else LESION_NAMES[label]
    return f"{name}, outlined" if outlined else name


def _title(explanation: Explanation) -> str:
    call = "positive" if explanation.positive else "negative"
    file = explanation.file.absolute()
    name = _plain(f"{file.parent.name}/{file.name}", _NAME_CHARACTERS)
    return f"{name}\n{_plain(explanation.run, 40)}: called COVID-19 {call}"


def _notes(explanation: Explanation, other: Explanation | None, characters: int) -> str:
    notes = []
    if explanation.caveat:
        notes.append(explanation.caveat)
    elif explanation.has_lesions:
        shown = [f"{name} {explanation.probabilities[lesion]:.2f}" for lesion, name in LESION_NAMES.items()]
        notes.append(("Lesions: " if explanation.found else "No lesion found: ") + ", ".join(shown) + ".")
        if explanation.not_chosen:
            names = ", ".join(LESION_NAMES[lesion] for lesion in explanation.not_chosen)
            notes.append(f"Found from 0.5, as validation gives no threshold: {names}.")
    if other is not None:
        call = "positive" if other.positive else "negative"
        notes.append(f"{_plain(other.run, 40)}: called COVID-19 {call}.")
    notes.append("A map shows where the network looked, not where a lesion is. For research use only.")
    return "\n".join(line for note in notes for line in textwrap.wrap(note, characters))


def _plain(text: str, characters: int) -> str:
    """A name with a question mark for what the font lacks, and not too long."""
    text = text.encode("latin-1", "replace").decode("latin-1")
    return text if len(text) <= characters else f"{text[: characters - 3]}..."
