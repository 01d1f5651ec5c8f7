"""The contact sheet of the shortcut audit: one slice of each class in every alteration."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from ladnn_tf import drawing


def contact_sheet(
    examples: Mapping[str, tuple[np.ndarray, np.ndarray]], split: str, images_of_split: int
) -> Figure:
    """Draws the slices, a column for each alteration.

    Args:
        examples: alteration -> `(2, S, S, 3)` uint8 images, a positive and a negative, and (2,) bool, whether
            each could be altered.
        split: its name.
        images_of_split: how many images it has.

    Returns:
        The figure.
    """
    figure = drawing.new_figure(2.1 * len(examples), 4.9)
    axes = figure.subplots(2, len(examples), squeeze=False)
    for column, (name, (images, possible)) in enumerate(examples.items()):
        for row, label in enumerate(("COVID-19", "other")):
            axis = axes[row, column]
            axis.imshow(images[row] if possible[row] else np.full_like(images[row], 255))
            axis.set(xticks=[], yticks=[])
            if not possible[row]:
                axis.text(0.5, 0.5, "no lungs found", ha="center", va="center", transform=axis.transAxes)
            if row == 0:
                axis.set_title(name, fontsize=10)
            if column == 0:
                axis.set_ylabel(label)
    size = images.shape[1]
    figure.suptitle(
        f"One slice of each class in every alteration, as the network sees it ({size} x {size} pixels); "
        f"{split} split, n = {images_of_split}",
        fontsize=11,
    )
    return figure
