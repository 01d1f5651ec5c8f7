"""How much memory a server of SavedModels needs: with one version, with two, and with the largest images.

    python -m benchmarks.serving_memory --saved_model=models/ladnn/1

During an upgrade a server holds two versions, and its memory limit has to allow that. A version is loaded, then a
copy of it, by `tf.saved_model.load` in this process, as the contract double does; tensorflow_model_server loads
the same graph and the same variables by the same C++ code, but has no Python around it. After each load all that
is loaded answers batches of encoded images, with maps and without, several at a time: what is computed in flight
can be more than the weights. Last come images of `--side` pixels, of which small files can be made: a server that
takes requests from others than the page needs room for those that hold as many pixels as are read at all.
"""

import concurrent.futures
import dataclasses
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import flags, logging

from benchmarks.training import machine
from benchmarks.worker import peak_memory
from export.signatures import BYTES, EXPLAIN
from ladnn_tf import command
from ladnn_tf.data.phantom_slice import example_png
from ladnn_tf.data.preprocess import MAX_PIXELS, encode_png

USAGE = "python -m benchmarks.serving_memory --saved_model=models/ladnn/1 [--batch=8] [--at_once=2] [--side=7071]"
_STATUS = Path("/proc/self/status")


@dataclasses.dataclass(frozen=True)
class Stage:
    """What the process held at one time, in bytes.

    Attributes:
        name: what it had loaded and answered.
        resident: physical memory at that time.
        peak: the most until then.
    """

    name: str
    resident: int
    peak: int


def resident_memory() -> int:
    """The physical memory that this process holds now, in bytes.

    Raises:
        OSError: on systems without /proc.
    """
    lines = (line.split() for line in _STATUS.read_text(encoding="utf-8").splitlines())
    return next(1024 * int(words[1]) for words in lines if words[:1] == ["VmRSS:"])


def measure(folder: Path, *, batch: int, at_once: int, requests: int, side: int) -> list[Stage]:
    """Loads a version and a copy of it, and lets both answer.

    Args:
        folder: a version of `python -m export.saved_model`.
        batch: images in a request.
        at_once: requests answered at the same time.
        requests: to each signature of each version; of large images there are `at_once` in all.
        side: of the large images, pixels.

    Returns:
        The process before it loaded anything, with one version, with two, and after the large images.

    Raises:
        ValueError: if it is no such version.
        OSError: if it cannot be read or copied.
    """
    if not (folder / "saved_model.pb").is_file():
        raise ValueError(f"--saved_model={folder} should be a version's folder, with saved_model.pb in it")
    stages = [_stage("TensorFlow alone")]
    slices = [example_png()] * batch
    functions = []
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copytree(folder, Path(scratch) / "2")
        versions = []  # a function does not keep its version's variables alive
        for name, version in (("one version", folder), ("two versions", copy)):
            logging.info("%s: loading and answering", name)
            versions.append(tf.saved_model.load(str(version)))
            functions += [versions[-1].signatures[signature] for signature in (BYTES, EXPLAIN)]
            answer_all(functions * requests, slices, at_once)
            stages.append(_stage(name))
        name = f"images of {side} x {side}"
        logging.info("%s: answering", name)
        answer_all(functions[-1:] * at_once, [encode_png(np.zeros((side, side), np.uint8))] * batch, at_once)
        stages.append(_stage(name))
    return stages


def _stage(name: str) -> Stage:
    return Stage(name, resident_memory(), peak_memory())


def answer_all(functions: Sequence[Callable], images: Sequence[bytes], at_once: int) -> None:
    """Calls each function with the images, so many at the same time, and waits for all.

    Args:
        functions: of a SavedModel's signatures.
        images: PNG or JPEG files.
        at_once: calls at the same time.
    """
    batch = tf.constant(images)
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        for answer in [pool.submit(function, image_bytes=batch) for function in functions]:
            answer.result()


def format_report(stages: Sequence[Stage]) -> str:
    """The table of `measure`, in MB (millions of bytes)."""
    lines = [f"{'MB':24}{'now':>8}{'most so far':>14}"]
    lines += [f"{stage.name:24}{stage.resident / 1e6:8.0f}{stage.peak / 1e6:14.0f}" for stage in stages]
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """The command."""
    flag_values = flags.FlagValues()
    fv = {"flag_values": flag_values}
    largest = math.isqrt(MAX_PIXELS)
    flags.DEFINE_string("saved_model", None, "folder of a version", required=True, **fv)
    flags.DEFINE_integer("batch", 8, "images in a request", 1, **fv)
    flags.DEFINE_integer("at_once", 2, "requests answered at the same time", 1, **fv)
    flags.DEFINE_integer("requests", 8, "requests to each signature of each version", 1, **fv)
    flags.DEFINE_integer("side", largest, "side of the large images, pixels", 32, largest, **fv)
    command.parse(flag_values, argv, USAGE)

    sizes = {name: getattr(flag_values, name) for name in ("batch", "at_once", "requests", "side")}
    stages = measure(Path(flag_values.saved_model), **sizes)
    found = machine()
    print(f"{flag_values.saved_model}: requests of {sizes['batch']} images, {sizes['at_once']} at once; "
          f"{found['processor']}, {found['cores']} cores")  # fmt: skip
    print(format_report(stages))
    return 0


if __name__ == "__main__":
    command.run(main)
