"""Tables 1 and 2 of Song et al., person level, independent test: the paper's numbers as it prints them.

Its F1 is (precision + recall) / 2, not their harmonic mean.
"""

MODELS = ("VGG16", "DenseNet", "ResNet", "DRE-Net")

TWO_CLASSES = ("covid19", "bacterial")
"""Of Table 1: 88 patients with COVID-19 and 100 with bacterial pneumonia in all three splits together."""

_TABLE_1 = {
    "auc": (0.91, 0.87, 0.90, 0.95),
    "recall": (0.89, 0.93, 0.93, 0.96),
    "precision": (0.80, 0.76, 0.81, 0.79),
    "specificity": (0.80, 0.73, 0.80, 0.77),
    "f1": (0.84, 0.83, 0.86, 0.87),
    "accuracy": (0.84, 0.82, 0.86, 0.86),
}

_TABLE_2 = {
    "recall": (0.91, 0.88, 0.91, 0.93),
    "precision": (0.91, 0.89, 0.92, 0.93),
    "specificity": (0.91, 0.88, 0.91, 0.93),
    "f1": (0.91, 0.88, 0.91, 0.93),
    "accuracy": (0.91, 0.88, 0.91, 0.93),
}

METRICS = {"two": tuple(_TABLE_1), "three": tuple(_TABLE_2)}
"""Of Table 1 (two classes, at 0.5) and Table 2 (three classes, averages over them), in the paper's order."""


def published(classes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """The paper's figures for such classes.

    Args:
        classes: of `labels.CLASSES`, in their order.

    Returns:
        Model -> metric -> figure; empty where the paper has no such table.
    """
    table = {2: _TABLE_1 if classes == TWO_CLASSES else {}, 3: _TABLE_2}.get(len(classes), {})
    if not table:
        return {}
    return {model: {metric: row[number] for metric, row in table.items()} for number, model in enumerate(MODELS)}
