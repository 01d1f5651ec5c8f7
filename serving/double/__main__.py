"""`python -m serving.double`: the command of `server.py`."""

from ladnn_tf import command
from serving.double.server import main

if __name__ == "__main__":
    command.run(main)
