"""Tables 1 and 2 of Song et al. from finished runs: `python -m ladnn_tf.person_tables --run=A --run=B`.

Only the runs' cards and their `predictions_<split>.csv` are read, no model.
"""

from pathlib import Path

from absl import flags

from ladnn_tf import command, figures_runs
from ladnn_tf.files import write_atomically
from ladnn_tf.labels import SPLITS
from ladnn_tf.person_comparison import check_cards, person_tables
from ladnn_tf.person_tables_text import to_markdown, to_text

USAGE = "python -m ladnn_tf.person_tables --run=runs/A --run=runs/B [--split=test] [--out=FILE.md]"


def main(argv: list[str]) -> int:
    """The command."""
    flag_values = flags.FlagValues()
    fv = {"flag_values": flag_values}
    flags.DEFINE_multi_string("run", None, "folder of a finished run; the first is set beside each other", **fv)
    flags.DEFINE_enum("split", "test", SPLITS, "whose predictions are read", **fv)
    flags.DEFINE_string("out", None, "Markdown file to write the tables to (default: none)", **fv)
    flags.DEFINE_integer("resamples", 2000, "bootstrap resamples over persons", 100, **fv)
    flags.DEFINE_integer("seed", 0, "of the resamples", **fv)
    command.parse(flag_values, argv, USAGE)
    if not flag_values.run:
        command.usage_error("give at least one --run", USAGE)

    loaded = figures_runs.load_runs(flag_values.run)
    cards = {name: run.card for name, run in loaded.items()}
    check_cards(cards)  # other data is what the message speaks of, not the other images that come of it
    tables = figures_runs.read_tables(loaded, flag_values.split)
    found = person_tables(cards, tables, flag_values.split, resamples=flag_values.resamples, seed=flag_values.seed)
    titles = {name: f"{name} ({card.task}, {card.backbone})" for name, card in cards.items()}
    print(to_text(found, titles))
    if flag_values.out:
        out = Path(flag_values.out)
        write_atomically(out, to_markdown(found, titles).encode())
        print(f"written: {out}")
    return 0


if __name__ == "__main__":
    command.run(main)
