"""What every command of this project shares: its own flags, `--flagfile`, `--help` and one-line errors.

A command defines its flags in its own `flags.FlagValues()`, so that any number of commands can be imported
into one process (the tests do) without their flags clashing:

    def main(argv: list[str]) -> int:
        flag_values = flags.FlagValues()
        flags.DEFINE_string("out", None, "file to write", flag_values=flag_values)
        command.parse(flag_values, argv, usage="python -m ladnn_tf.thing --out=FILE")
        do_the_work(flag_values.out)
        return 0

    if __name__ == "__main__":
        command.run(main)

Exit status: 0 is success, 1 an error in the data or the files, 2 an error in the command line; the exports have 3
for a model that got worse than it may.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from absl import flags, logging

DEBUG_VARIABLE = "LADNN_TF_DEBUG"
"""Set to 1 in the environment, errors keep their traceback."""

_HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")


def parse(
    flag_values: flags.FlagValues, argv: Sequence[str], usage: str, *, positional: bool = False
) -> list[str]:
    """Parses a command line, `--flagfile=FILE` included, into `flag_values`.

    Args:
        flag_values: the command's own flags, defined with `flag_values=`.
        argv: as `sys.argv`: the program's name, then the arguments.
        usage: the command as a person types it; `--help` prints it above the flags.
        positional: whether arguments that are not flags (files, say) are allowed.

    Returns:
        The arguments that are not flags, without the program's name.

    Raises:
        SystemExit: with status 0 after `--help`, and with status 2 after an error in the command line, which
            is then printed to stderr. This is what argparse does, too.
        ValueError: if `argv` does not begin with the program's name.
    """
    if not argv or argv[0].startswith("-"):
        raise ValueError(f"argv must begin with the program's name, as sys.argv does; received {list(argv)}")
    if any(argument in _HELP for argument in argv[1:]):
        print(help_text(flag_values, usage))
        raise SystemExit(0)
    try:
        remaining = flag_values(list(argv))[1:]
    except flags.CantOpenFlagFileError as error:
        message = str(error).removeprefix("ERROR:: ")  # "ERROR:: Unable to open flagfile: [Errno 2] ..."
        usage_error(
            f"{message}. It was looked for from the working directory {Path.cwd()}; commands are run from the"
            " root of the checkout, where `configs/` is",
            usage,
        )
    except flags.Error as error:
        usage_error(str(error), usage)
    if remaining and not positional:
        usage_error(f"unexpected argument {remaining[0]!r}; a flag is written --name=value", usage)
    return remaining


def help_text(flag_values: flags.FlagValues, usage: str) -> str:
    """Returns the usage line and every flag with its help and its default."""
    lines = [f"usage: {usage}", ""]
    for name in sorted(flag_values):
        flag = flag_values[name]
        default = "none" if flag.default is None else flag.default_as_str
        lines.append(f"  --{'[no]' if flag.boolean else ''}{name}: {flag.help} (default: {default})")
    lines.append("  --flagfile: read flags from this file, one to a line, as if they stood here (default: none)")
    return "\n".join(lines)


def run(main: Callable[[list[str]], int]) -> None:
    """Runs a command's `main(sys.argv)` and ends the process with its exit status.

    A ValueError or OSError, by which this project reports bad input, is printed as one line and makes the
    status 1; set LADNN_TF_DEBUG=1 for its traceback. Every other exception is a defect and keeps it.

    Args:
        main: takes `sys.argv` and returns the exit status.

    Raises:
        SystemExit: always.
    """
    flags.FLAGS(sys.argv[:1])  # absl.logging's own flags, at their defaults; else it warns of unparsed flags
    logging.set_verbosity(logging.INFO)
    try:
        status = main(sys.argv)
    except (ValueError, OSError) as error:
        if os.environ.get(DEBUG_VARIABLE) == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        status = 1
    sys.exit(status)


def usage_error(message: str, usage: str) -> NoReturn:
    print(f"error: {message}\nusage: {usage}\n(--help lists the flags)", file=sys.stderr)
    raise SystemExit(2)
