"""Where an image comes from, read from a manifest's column `source`: a paper, an archive, or a drawing.

A paper is the same one in both datasets (`covid_ct/kjr-21-e24` and `ladnn_d1/kjr-21-e24`), as the name behind
the slash counts. A paper that the datasets call by different names, a title here and a DOI there, counts as two.
"""

import pandas as pd

from ladnn_tf.labels import PHANTOM_DATA

_PHANTOM = "phantom"
"""The source of phantoms, whatever their dataset."""

OTHER_SOURCES = "other"
"""The name of small sources together."""

ARCHIVES = frozenset(
    {
        "crawled",
        "medpix",
        _PHANTOM,
        "CPTAC-LSCC",
        "LungCT-Diagnosis",
        "covid-chestxray-dataset",
        "hku",
        "luna16",
    }
)
"""Sources, without their dataset, that collect the images of many papers or patients."""


def datasets(frame: pd.DataFrame) -> tuple[str, ...]:
    """Names the datasets of some images, in order, as a card has them: phantoms by `PHANTOM_DATA`.

    Args:
        frame: column `source`; where that is empty the image counts for none.
    """
    names = frame["source"].str.split("/", n=1).str[0].mask(drawn(frame), PHANTOM_DATA)
    return tuple(sorted(set(names) - {""}))


def without_dataset(frame: pd.DataFrame) -> pd.Series:
    """Returns the paper or archive of each row, without the dataset: str, `""` where there is no source.

    Args:
        frame: column `source`.
    """
    return frame["source"].str.split("/", n=1).str[-1]


def drawn(frame: pd.DataFrame) -> pd.Series:
    """Returns whether each row is a phantom, drawn and not scanned: bool."""
    return without_dataset(frame) == _PHANTOM


def papers(frame: pd.DataFrame) -> pd.Series:
    """Returns the paper of each row, without the dataset: str, `""` for an archive, a phantom or no source.

    Args:
        frame: column `source`.
    """
    name = without_dataset(frame)
    return name.mask(name.isin(ARCHIVES), "").rename("paper")


def pooled_sources(sources: pd.Series, smallest: int) -> pd.Series:
    """The dataset and paper of each image, `covid_ct/20040782`.

    Args:
        sources: a manifest's column `source`.
        smallest: papers of fewer images than this become `OTHER_SOURCES`.

    Returns:
        str, NaN where the source is empty.
    """
    known = sources.where(sources != "")
    names = known.map(lambda source: "/".join(source.split("/")[:2]), na_action="ignore")
    return names.mask(names.map(names.value_counts()) < smallest, OTHER_SOURCES)
