"""The curves of a training: losses, validation AUC and learning rate over the epochs."""

import pandas as pd
from matplotlib.figure import Figure

from ladnn_tf import runs
from ladnn_tf.drawing import COLOURS, new_figure

_PANELS = {
    "cross entropy (nats)": {
        "covid_loss": "diagnosis, training",
        "val_covid_loss": "diagnosis, validation",
        "lesions_loss": "lesions, training",
    },
    "whole loss": {"loss": "training", "val_loss": "validation, without weight decay"},
    "AUC": {"val_auc": "diagnosis, validation"},
    "learning rate": {"learning_rate": "at the end of the epoch"},
}
_STYLES = {
    **dict.fromkeys(("val_covid_loss", "val_loss", "val_auc"), (COLOURS[1], "--")),
    "lesions_loss": (COLOURS[2], ":"),
}


def training_figure(name: str, run: runs.Run, history: pd.DataFrame) -> Figure:
    """Draws losses, validation AUC and learning rate over the epochs, the best epoch marked.

    Args:
        name: of the run.
        run: whose card names the best epoch and the validation split's size.
        history: from `figures_runs.read_history`.

    Raises:
        ValueError: if the card's best epoch is not among the history's.
    """
    best = run.card.best_epoch
    if not 1 <= best <= len(history):
        raise ValueError(
            f"{run.folder}: the best epoch of card.json is {best}, but history.csv has {len(history)} epochs; the "
            "two files are not of the same training"
        )
    decayed = run.config.weight_decay and not run.config.decoupled_decay
    figure = new_figure(9, 6.5)
    panels = figure.subplots(2, 2, sharex=True)
    for axes, (title, columns) in zip(panels.flat, _PANELS.items(), strict=True):
        for column, label in columns.items():
            if column not in history:
                continue
            if column == "loss" and decayed:
                label = f"{label}, with weight decay"
            colour, dash = _STYLES.get(column, (COLOURS[0], "-"))
            axes.plot(history["epoch"], history[column], label=label, color=colour, linestyle=dash, marker=".")
        axes.axvline(best, color="0.55", linewidth=1, zorder=0, label=f"best epoch: {best}")
        axes.set_ylabel(title)
        axes.legend(fontsize=8)
    for axes in panels[1]:
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(f"{name}: training\n{_validation_size(run)}best epoch by {run.config.select_by}", fontsize=9)
    return figure


def _validation_size(run: runs.Run) -> str:
    counts = run.card.metrics.get("validation")
    if not counts:
        return ""
    return (
        f"Validation split: {counts['images']} images of {counts['patients']} patients, "
        f"{counts['positives']} with COVID-19; "
    )
