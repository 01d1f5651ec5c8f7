"""The withdrawal of a contribution by command."""

import pytest
from contributions import KEPT, contribution, files, image_files

from serving.collection import withdraw as collection_withdraw
from serving.collection.store import Collection


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def collection(folder):
    with Collection(folder) as opened:
        yield opened


def withdraw(folder, *options):
    return collection_withdraw.main(["withdraw", f"--data={folder}", *options])


def test_the_command_withdraws_by_receipt_and_by_id(folder, capsys):
    with Collection(folder) as collection:
        first, second = collection.add(contribution(0, 1)), collection.add(contribution(2))
    assert withdraw(folder, f"--receipt={first.text.lower()}") == 0
    assert withdraw(folder, f"--id={second.contribution}") == 0
    assert withdraw(folder, f"--id={second.contribution}") == 0
    assert files(folder) == KEPT
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        f"withdrawn: contribution {first.contribution} with 2 images",
        f"withdrawn: contribution {second.contribution} with 1 image",
    ]
    assert lines[2].startswith(f"contribution {second.contribution} was withdrawn before, at 20")


def test_the_command_refuses_what_it_cannot_do(collection, folder, tmp_path):
    collection.add(contribution(0))
    with pytest.raises(ValueError, match="used by another process, probably the page"):
        withdraw(folder, "--receipt=0")
    collection.close()
    with pytest.raises(ValueError, match="nothing was withdrawn: no contribution has this receipt"):
        withdraw(folder, "--receipt=0")
    with pytest.raises(ValueError, match="no folder of the data collection"):
        withdraw(tmp_path / "mistyped", "--receipt=0")
    for options in ((), ("--receipt=0", "--id=0")):
        with pytest.raises(SystemExit, match="2"):
            withdraw(folder, *options)
    assert files(folder) == sorted(KEPT + image_files(0))
