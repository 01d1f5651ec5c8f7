"""Processes that are killed while they change a data collection, each at another step; `FOLDER` is the argument.

Each works in `FOLDER/CHANGE-STEP-OCCURRENCE`. It adds images 0 and 1, and is killed while it then adds images 1, 2
and 3 or withdraws the first contribution again. It kills itself by SIGKILL, which no `finally` sees.
"""

import json
import os
import signal
import sys
from pathlib import Path

from contributions import contribution

from serving.collection.store import Collection

KILLS = [
    ("add", "note", 1),
    ("add", "file", 1),
    ("add", "file", 3),
    ("add", "record", 1),
    ("add", "commit", 1),
    ("add", "settle", 1),
    ("withdraw", "note", 1),
    ("withdraw", "record", 1),
    ("withdraw", "commit", 1),
    ("withdraw", "settle", 1),
]
"""What is done, and before which occurrence of which step the process is killed."""


def name(change, step, occurrence):
    return f"{change}-{step}-{occurrence}"


def _change_and_die(folder, change, step, occurrence):
    seen = []

    def on_step(reached):
        seen.append(reached)
        if armed and seen.count(step) == occurrence:
            os.kill(os.getpid(), signal.SIGKILL)

    armed = False
    collection = Collection(folder, on_step=on_step)
    receipt = collection.add(contribution(0, 1, covid=True, lesions={"GGO": True}, patient_code="a"))
    armed = True
    seen.clear()
    if change == "add":
        collection.add(contribution(1, 2, 3, covid=False, contributor="anna"))
    else:
        collection.withdraw(receipt.text)


def main(folder):
    for kill in KILLS:
        child = os.fork()
        if not child:
            try:
                _change_and_die(folder / name(*kill), *kill)
            finally:
                os._exit(1)  # it lived
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            raise SystemExit(f"{name(*kill)} was not killed: status {status}")
        print(json.dumps(kill), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
