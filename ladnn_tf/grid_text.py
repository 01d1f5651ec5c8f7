"""The runs of a grid and their cost as text."""

from collections.abc import Sequence

from ladnn_tf.grid import State, Status
from ladnn_tf.grid_cost import Rates, is_measured, minutes


def estimate(statuses: Sequence[Status], rates: Rates) -> str:
    """What runs still need, in words."""
    needed = [minutes(status, rates) for status in statuses]
    unknown = needed.count(None)
    text = f"about {duration(sum(each for each in needed if each is not None))}"
    return text + (f", and {unknown} runs whose time is unknown" if unknown else "")


def duration(length: float) -> str:
    """A length in minutes, as minutes, or hours where they are many, in words."""
    return f"{length:.1f} minutes" if length < 90 else f"{length / 60:.1f} hours"


def format_plan(statuses: Sequence[Status], passed_over: Sequence[str], rates: Rates) -> str:
    """The runs of a grid, how far each is, and what it would cost, as an aligned table."""
    lines = [("run", "state", "minutes")]
    for status in statuses:
        state = str(status.state)
        if status.state in (State.UNFINISHED, State.BUSY):
            settings = status.wanted.settings
            state += f", {status.epoch} of {settings.frozen_epochs + settings.epochs} epochs done"
        needed = minutes(status, rates)
        rough = " (rough)" if needed and not is_measured(status, rates) else ""
        lines.append((str(status.folder), state, "unknown" if needed is None else f"{needed:.1f}{rough}"))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    parts = [
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    done = sum(status.state == State.DONE for status in statuses)
    others = f"; the others need {estimate(statuses, rates)}" if done < len(statuses) else ""
    parts += ["", f"{done} of {len(statuses)} runs are done{others}"]
    parts += [f"blocked: {status.reason}" for status in statuses if status.state == State.BLOCKED]
    return "\n".join([*parts, *passed_over])
