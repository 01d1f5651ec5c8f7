"""The command line that every command shares."""

import sys

import pytest
from absl import flags

from ladnn_tf import command

USAGE = "python -m ladnn_tf.thing --out=FILE"


@pytest.fixture
def flag_values() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("out", None, "file to write", flag_values=values)
    flags.DEFINE_integer("seed", 7, "seed of everything random", lower_bound=0, flag_values=values)
    flags.DEFINE_boolean("duplicates", True, "look for duplicates", flag_values=values)
    return values


def test_flags_are_parsed_and_defaults_stay(flag_values):
    assert command.parse(flag_values, ["thing", "--out=a.csv", "--noduplicates"], USAGE) == []
    assert (flag_values.out, flag_values.seed, flag_values.duplicates) == ("a.csv", 7, False)


def test_positional_arguments_only_where_allowed(flag_values, capsys):
    argv = ["thing", "--seed=1", "a.png", "b.png"]
    assert command.parse(flag_values, argv, USAGE, positional=True) == ["a.png", "b.png"]
    with pytest.raises(SystemExit) as stop:
        command.parse(flag_values, argv, USAGE)
    assert stop.value.code == 2
    assert "unexpected argument 'a.png'" in capsys.readouterr().err


def test_flagfile_with_comment_nesting_and_a_later_flag_that_wins(flag_values, tmp_path):
    (tmp_path / "base.flags").write_text("# the base\n--seed=3\n--out=base.csv\n", encoding="utf-8")
    (tmp_path / "run.flags").write_text(f"--flagfile={tmp_path}/base.flags\n--seed=4\n", encoding="utf-8")
    command.parse(flag_values, ["thing", f"--flagfile={tmp_path}/run.flags", "--noduplicates"], USAGE)
    assert (flag_values.out, flag_values.seed, flag_values.duplicates) == ("base.csv", 4, False)


def test_a_missing_flagfile_names_the_working_directory(flag_values, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command.parse(flag_values, ["thing", "--flagfile=configs/none.flags"], USAGE)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: Unable to open flagfile:")
    for part in ("configs/none.flags", str(tmp_path), "root of the checkout"):
        assert part in message


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--sead=1", "Unknown command line flag 'sead'. Did you mean: seed ?"),
        ("--seed=many", "flag --seed=many"),
        ("--seed=-1", "flag --seed=-1"),
    ],
)
def test_a_bad_flag_ends_with_status_2(flag_values, capsys, argument, expected):
    with pytest.raises(SystemExit) as stop:
        command.parse(flag_values, ["thing", argument], USAGE)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert expected in message
    assert USAGE in message


def test_help_lists_every_flag_with_its_help_and_default(flag_values, capsys):
    with pytest.raises(SystemExit) as stop:
        command.parse(flag_values, ["thing", "--help"], USAGE)
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"usage: {USAGE}"
    assert "  --out: file to write (default: none)" in lines
    assert "  --seed: seed of everything random (default: '7')" in lines
    assert "  --[no]duplicates: look for duplicates (default: 'true')" in lines


def test_argv_without_a_program_name_is_refused(flag_values):
    with pytest.raises(ValueError, match="begin with the program's name"):
        command.parse(flag_values, ["--out=a.csv"], USAGE)


def _status(main) -> int:
    with pytest.raises(SystemExit) as stop:
        command.run(main)
    return stop.value.code


def test_run_returns_the_status_and_passes_argv(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["thing", "a"])
    received = []

    def main(argv):
        received.extend(argv)
        return 3

    assert _status(main) == 3
    assert received == ["thing", "a"]


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError])
def test_run_prints_expected_errors_as_one_line(monkeypatch, capsys, kind):
    monkeypatch.setattr(sys, "argv", ["thing"])
    monkeypatch.delenv(command.DEBUG_VARIABLE, raising=False)

    def main(argv):
        raise kind("no such folder")

    assert _status(main) == 1
    assert capsys.readouterr().err == "error: no such folder\n"
    monkeypatch.setenv(command.DEBUG_VARIABLE, "1")
    with pytest.raises(kind):
        command.run(main)


def test_run_does_not_hide_a_defect(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["thing"])

    def main(argv):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        command.run(main)
