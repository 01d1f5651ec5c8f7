"""`python -m serving.double`: the command of `server.py`."""

import sys

from ladnn_tf import command

try:
    from serving.double.server import main
except ModuleNotFoundError as error:
    sys.exit(f"error: the double runs on TensorFlow ({error}): pip install '.[grpc]', at the root of the checkout")

if __name__ == "__main__":
    command.run(main)
