"""Whether tables of predictions are of the same images: every comparison of runs asks this first."""

import numpy as np
import pandas as pd

from ladnn_tf.labels import COVID


def unshared_images(a: pd.DataFrame, b: pd.DataFrame) -> list[str]:
    """Returns the images that are in one of two tables alone, sorted."""
    return sorted(set(a["image"]) ^ set(b["image"]))


def in_the_order_of(reference: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of a table in the order of another's, which has the same images."""
    return table.set_index("image").loc[reference["image"]].reset_index()


def first_disagreement(a: pd.DataFrame, b: pd.DataFrame) -> tuple[str, str] | None:
    """Finds the first image with another label or another patient in one of two tables in the same order.

    Returns:
        The column, `covid` or `patient`, and the image; None where the tables agree.
    """
    for column in (COVID, "patient"):
        differs = np.flatnonzero(a[column].to_numpy() != b[column].to_numpy())
        if len(differs):
            return column, a["image"].iloc[differs[0]]
    return None
