"""How fast and how large a model is, in every format and on every runtime that is installed.

    python -m benchmarks.inference --run=runs/NAME
    python -m benchmarks.inference --backbone=efficientnet_b0 --image_size=224 --edge

A run's model, or one with random weights, whose speed is the same, is written to a temporary folder as a
SavedModel and in every format of TFLite; for PyTorch and ONNX Runtime MONAI's network of the same architecture is
taken. The contenders, each in a process of its own, take turns in several rounds (`inference_rounds.py`). Beside
them NumPy multiplies matrices: what a core can do, of which every contender reaches a share.
"""

import functools
import tempfile
from pathlib import Path

from absl import flags, logging

from benchmarks import inference_processes, inference_rounds
from benchmarks.inference_contenders import ours, theirs
from benchmarks.inference_table import explanations, format_markdown, format_text, summarise
from benchmarks.training import machine
from benchmarks.worker import Worker
from ladnn_tf import command
from ladnn_tf.files import write_atomically

USAGE = "python -m benchmarks.inference (--run=runs/NAME | --backbone=efficientnet_b0 [--image_size=224]) [--edge]"
_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "ai-edge-litert", "torch", "monai", "onnxruntime", "numpy")


def compare(
    folder: Path,
    source: dict,
    *,
    threads: int,
    batch: int,
    rounds: int,
    calls: int,
    torch: bool,
    edge: bool,
) -> tuple[dict, dict]:
    """Runs the whole comparison.

    Args:
        folder: an empty one, for what is measured.
        source: `run`, `backbone`, `image_size` and `exported`, as `inference_prepare.prepare` takes them.
        threads: of each process.
        batch: images in a call where throughput is measured.
        rounds: number of rounds.
        calls: of each contender in each round.
        torch: whether PyTorch and ONNX Runtime are measured.
        edge: whether the edge predictor and its command are measured.

    Returns:
        What was prepared, and the summary.

    Raises:
        ValueError: if there is no such run or backbone.
        WorkerEndedError: if the formats cannot be made.
    """
    variables = inference_processes.environment(threads)
    job = {"folder": str(folder), **source, "slices": batch}
    logging.info("writing the model in every format")
    worker = Worker("the preparation", "benchmarks.inference_prepare", job, {"CUDA_VISIBLE_DEVICES": ""})
    worker.close()
    prepared = worker.ready
    contenders, absent = ours(prepared, batch, edge=edge), {}
    if torch:
        more, absent = theirs(folder, prepared, batch, variables)
        contenders |= more
    start = functools.partial(inference_processes.start, threads=threads)
    measured = inference_rounds.measure(contenders, start, rounds=rounds, calls=calls)
    return prepared, summarise(measured, contenders, absent, prepared["multiply_adds"])


def _source(flag_values: flags.FlagValues) -> dict:
    if bool(flag_values.run) == bool(flag_values.backbone):
        command.usage_error("give either --run or --backbone", USAGE)
    if flag_values.run and flag_values["image_size"].present:
        command.usage_error("--image_size goes with --backbone; a run has its own", USAGE)
    run = str(Path(flag_values.run).absolute()) if flag_values.run else ""  # workers work elsewhere
    if flag_values.exported and not run:
        command.usage_error("--exported goes with --run", USAGE)
    exported = str(Path(flag_values.exported).absolute()) if flag_values.exported else ""
    return {
        "run": run,
        "backbone": flag_values.backbone,
        "image_size": flag_values.image_size,
        "exported": exported,
    }


def main(argv: list[str]) -> int:
    """The command."""
    flag_values = flags.FlagValues()
    fv = {"flag_values": flag_values}
    flags.DEFINE_string("run", "", "folder of a finished run", **fv)
    flags.DEFINE_string("exported", "", "with --run: folder of its exported TFLite files, to measure those", **fv)
    flags.DEFINE_string("backbone", "", "instead of --run: a network with random weights", **fv)
    flags.DEFINE_integer("image_size", 224, "of the network with random weights, pixels", 32, **fv)
    flags.DEFINE_integer("threads", 1, "of each contender", 1, **fv)
    flags.DEFINE_integer("batch_size", 8, "images in a call where throughput is measured", 1, **fv)
    flags.DEFINE_integer("rounds", 5, "times that every contender is started and measured", 1, **fv)
    flags.DEFINE_integer("calls", 50, "of each contender in each round, one image each", 2, **fv)
    flags.DEFINE_boolean("torch", True, "measure PyTorch and ONNX Runtime too", **fv)
    flags.DEFINE_boolean("edge", False, "measure the edge predictor and its command in int8 too", **fv)
    flags.DEFINE_string("markdown", None, "file for the table in Markdown", **fv)
    command.parse(flag_values, argv, USAGE)
    source = _source(flag_values)
    amounts = {"threads": flag_values.threads, "batch": flag_values.batch_size, "rounds": flag_values.rounds,
               "calls": flag_values.calls}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        prepared, summary = compare(
            Path(folder), source, **amounts, torch=flag_values.torch, edge=flag_values.edge
        )
    sizes = {key: prepared[key] for key in ("image_size", "multiply_adds")}
    notes = [*explanations(summary, **sizes, **amounts), *_machine()]
    whose = "random weights" if flag_values.backbone else prepared["name"]
    title = f"{prepared['backbone']} ({whose}): inference"
    print("\n\n".join([title, format_text(summary), "\n".join(notes)]))
    if flag_values.markdown:
        text = "\n\n".join([f"# {title}", format_markdown(summary), "\n".join(f"- {note}" for note in notes)])
        write_atomically(Path(flag_values.markdown), (text + "\n").encode())
        print(f"written: {flag_values.markdown}")
    return 0


def _machine() -> list[str]:
    found = machine(_PACKAGES)
    return [
        f"{found['processor']}, {found['cores']} cores: {' '.join(found['features'])}",
        ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
    ]


if __name__ == "__main__":
    command.run(main)
