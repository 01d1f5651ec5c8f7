"""The figures of Table 2 of Liu et al. 2020 (medRxiv 2020.05.11.20097907), in per cent.

The paper gives neither intervals nor a number of runs. Its networks saw 224 pixels and began with ImageNet
weights.
"""

METRICS = ("sensitivity", "auc", "f1", "accuracy")
"""The four blocks of the table, in the paper's order."""

_COLUMNS = (("d0", "baseline"), ("d0", "ladnn"), ("d0d1", "baseline"), ("d0d1", "ladnn"))

_FIGURES = {
    "sensitivity": {
        "vgg16": (75.5, 84.7, 85.3, 88.8),
        "resnet18": (71.4, 80.6, 75.5, 82.5),
        "resnet50": (67.3, 78.6, 82.5, 87.4),
        "densenet121": (77.6, 79.6, 86.0, 86.0),
        "densenet169": (77.6, 85.7, 85.3, 87.4),
        "efficientnet_b0": (68.4, 87.8, 86.7, 88.1),
        "efficientnet_b1": (70.4, 77.6, 76.2, 86.0),
    },
    "auc": {
        "vgg16": (81.3, 89.8, 92.7, 94.0),
        "resnet18": (83.0, 88.2, 93.1, 93.1),
        "resnet50": (87.6, 90.5, 91.6, 93.8),
        "densenet121": (86.0, 88.7, 92.8, 93.2),
        "densenet169": (88.2, 91.2, 93.1, 93.3),
        "efficientnet_b0": (87.7, 90.0, 92.0, 92.4),
        "efficientnet_b1": (84.1, 87.6, 91.6, 94.7),
    },
    "f1": {
        "vgg16": (74.8, 83.0, 84.1, 87.9),
        "resnet18": (74.0, 79.8, 80.6, 84.6),
        "resnet50": (75.9, 83.2, 82.8, 86.8),
        "densenet121": (80.0, 81.2, 84.2, 85.4),
        "densenet169": (81.3, 84.8, 86.2, 86.8),
        "efficientnet_b0": (74.9, 83.9, 85.2, 86.6),
        "efficientnet_b1": (73.4, 80.0, 79.8, 87.9),
    },
    "accuracy": {
        "vgg16": (75.4, 83.2, 85.1, 88.6),
        "resnet18": (75.9, 80.2, 83.1, 86.0),
        "resnet50": (79.3, 84.7, 84.1, 87.7),
        "densenet121": (81.3, 82.3, 85.1, 86.4),
        "densenet169": (82.8, 85.2, 87.3, 87.7),
        "efficientnet_b0": (77.8, 83.7, 86.0, 87.3),
        "efficientnet_b1": (75.4, 81.2, 82.1, 89.0),
    },
}


def published(metric: str, backbone: str, dataset: str, task: str) -> float | None:
    """A figure of the paper's Table 2.

    Args:
        metric: one of `METRICS`.
        backbone: a key of `BACKBONES`.
        dataset: `d0` (COVID-CT) or `d0d1` (with the authors' additional images).
        task: `baseline` or `ladnn`.

    Returns:
        Per cent, or `None` for a backbone or a data set that the paper does not have.
    """
    row = _FIGURES[metric].get(backbone)
    if row is None or (dataset, task) not in _COLUMNS:
        return None
    return row[_COLUMNS.index((dataset, task))]
