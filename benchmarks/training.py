"""How fast a network trains, whether the input pipeline keeps up, and how that compares with PyTorch.

    python -m benchmarks.training --backbone=densenet169

Each contender is a process of its own, which builds, compiles and warms up. Then the contenders take turns,
round after round, so that what else the machine does hits all alike. A round measures of ours: the input pipeline
alone (random images in memory, the augmentation of `configs/base.flags`), the training on a constant batch
(`model`), and the training on the pipeline (`both`); of PyTorch: the training on a constant batch. Both train with
the same loss, Adam and L2 decay, from random weights. Compiling DenseNet-169 takes more than a minute for each
contender, and each holds 3 to 6 GiB of memory: more variants than the machine has room for take several runs.
"""

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from absl import flags, logging

from benchmarks.contenders import (
    MORE_PARAMETERS_IN_KERAS,
    TORCH_VARIANTS,
    VARIANTS,
    Contender,
    chosen_contenders,
)
from benchmarks.training_table import format_summary, summarise
from benchmarks.worker import WorkerProcess
from ladnn_tf import command
from ladnn_tf.files import write_atomically

USAGE = "python -m benchmarks.training --backbone=densenet169 [--variants=float32,bfloat16] [--out=FILE.json]"
_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "torch", "monai", "numpy")
# What decides the speed of a convolution on x86-64 and on Arm.
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")
StartWorker = Callable[[str, Contender, dict], WorkerProcess]


def take_turns(
    contenders: Mapping[str, Contender],
    workers: Mapping[str, WorkerProcess],
    *,
    rounds: int,
    steps: int,
    batch: int,
) -> tuple[dict[str, dict[str, list[float]]], dict[str, float]]:
    """Measures every mode of every contender once in each round, every second round backwards.

    Args:
        contenders: by name.
        workers: of the same names, warm.
        rounds: number of rounds.
        steps: training steps, or batches of the pipeline, per measurement.
        batch: images per step.

    Returns:
        Seconds per image by name and mode, one for each round; peak memory in bytes by name.
    """
    turns = [(name, mode) for name, contender in contenders.items() for mode in contender.modes]
    timings = {name: {mode: [] for mode in contender.modes} for name, contender in contenders.items()}
    peaks = {}
    for number in range(rounds):
        for name, mode in turns[:: -1 if number % 2 else 1]:
            answer = workers[name].measure(mode, steps)
            timings[name][mode].append(answer["seconds"] / (steps * batch))
            peaks[name] = answer["peak_memory"]
            milliseconds = 1000 * timings[name][mode][-1]
            logging.info("round %d of %d: %s, %s: %.1f ms per image", number + 1, rounds, name, mode, milliseconds)
    return timings, peaks


def check_parameters(counts: Mapping[str, int], contenders: Mapping[str, Contender], backbone: str) -> None:
    """Checks that all train the same network.

    Args:
        counts: trainable parameters by contender.
        contenders: by name.
        backbone: the network; Keras' own may have biases that the other's has not.

    Raises:
        ValueError: if the counts do not agree.
    """
    more = MORE_PARAMETERS_IN_KERAS.get(backbone, 0)
    expected = {counts[name] - (0 if contenders[name].is_torch else more) for name in counts}
    if len(expected) > 1:
        found = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise ValueError(
            f"{backbone}: the contenders do not train the same network. Expected the same number of trainable "
            f"parameters, and {more:,} more in Keras'. Found: {found}. Does the installed MONAI build another one?"
        )


def compare(
    contenders: Mapping[str, Contender],
    *,
    backbone: str,
    image_size: int,
    batch_size: int,
    rounds: int,
    steps: int,
    threads: int,
    start: StartWorker,
) -> dict:
    """Runs the whole comparison.

    Args:
        contenders: from `chosen_contenders`.
        backbone: a key of `BACKBONES`.
        image_size: the side in pixels.
        batch_size: images per step.
        rounds: number of rounds.
        steps: per measurement.
        threads: of each worker.
        start: makes the worker of a contender from its name, itself and the arguments of its training.

    Returns:
        What `--out` holds: settings, the machine, parameter counts, all timings in seconds per image, peak memory
        in bytes, and the summary.

    Raises:
        ValueError: if the arguments do not fit or the networks differ.
        ChildProcessError: if a worker fails.
    """
    arguments = {"backbone": backbone, "image_size": image_size, "batch_size": batch_size, "threads": threads}
    workers = {}
    try:
        for name, contender in contenders.items():
            logging.info("%s: builds, compiles and warms up", name)
            workers[name] = start(name, contender, arguments)
        counts = {name: worker.trainable_parameters for name, worker in workers.items()}
        check_parameters(counts, contenders, backbone)
        timings, peaks = take_turns(contenders, workers, rounds=rounds, steps=steps, batch=batch_size)
    finally:
        for worker in workers.values():
            worker.close()
    return {
        "settings": {**arguments, "rounds": rounds, "steps": steps},
        "machine": machine(),
        "trainable_parameters": counts,
        "seconds_per_image": timings,
        "peak_memory": peaks,
        "summary": summarise(timings, contenders),
    }


def machine(packages: Sequence[str] = _PACKAGES) -> dict:
    """The processor, what it can do, and the versions of Python and of the packages, where they are installed."""
    information = {}
    path = Path("/proc/cpuinfo")
    if path.is_file():
        lines = (line.partition(":") for line in path.read_text(encoding="utf-8").splitlines())
        information = {key.strip(): value.strip() for key, _, value in lines}
    found = information.get("flags", information.get("Features", "")).split()
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            logging.debug("%s is not installed", package)
    return {
        "processor": information.get("model name") or platform.processor() or platform.machine(),
        "features": [feature for feature in _FEATURES if feature in found],
        "cores": os.cpu_count(),
        "versions": versions,
    }


def format_report(result: dict) -> str:
    """What the command prints of the result of `compare`."""
    settings, found = result["settings"], result["machine"]
    size = settings["image_size"]
    counts = ", ".join(f"{name} {count:,}" for name, count in result["trainable_parameters"].items())
    return "\n".join(
        [
            f"{settings['backbone']}: training at {size} x {size} pixels, batches of {settings['batch_size']}, "
            f"{settings['threads']} threads",
            f"median (lowest to highest) of {settings['rounds']} rounds of {settings['steps']} steps",
            "",
            format_summary(result["summary"], result["peak_memory"], settings["backbone"]),
            "",
            f"trainable parameters: {counts}",
            f"{found['processor']}, {found['cores']} cores: {' '.join(found['features'])}",
            ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
        ]
    )


def main(argv: list[str], start: StartWorker = WorkerProcess) -> int:
    """The command."""
    flag_values = flags.FlagValues()
    fv = {"flag_values": flag_values}
    flags.DEFINE_string("backbone", "densenet169", "the network, as of ladnn_tf.train", **fv)
    flags.DEFINE_integer("image_size", 224, "side of the images, pixels", 32, **fv)
    flags.DEFINE_integer("batch_size", 16, "images per step", 1, **fv)
    flags.DEFINE_integer("rounds", 5, "times that every contender is measured", 1, **fv)
    flags.DEFINE_integer("steps", 5, "training steps per measurement", 1, **fv)
    flags.DEFINE_integer("threads", os.cpu_count(), "of each contender", 1, **fv)
    flags.DEFINE_list("variants", "float32,bfloat16", f"of ours, some of {', '.join(VARIANTS)}", **fv)
    flags.DEFINE_boolean("torch", True, "measure PyTorch with MONAI's network beside them", **fv)
    theirs = "torch_float32_channels_last,torch_bfloat16_channels_last"
    flags.DEFINE_list("torch_variants", theirs, f"of PyTorch's, some of {', '.join(TORCH_VARIANTS)}", **fv)
    flags.DEFINE_string("out", None, "JSON file for all timings", **fv)
    command.parse(flag_values, argv, USAGE)
    contenders = chosen_contenders(
        flag_values.variants, flag_values.torch_variants, flag_values.backbone, torch=flag_values.torch
    )
    result = compare(
        contenders,
        start=start,
        **{name: flag_values[name].value for name in ("backbone", "image_size", "batch_size", "rounds", "steps")},
        threads=flag_values.threads,
    )
    print(format_report(result))
    if flag_values.out:
        write_atomically(Path(flag_values.out), (json.dumps(result, indent=1) + "\n").encode())
        print(f"written: {flag_values.out}")
    return 0


if __name__ == "__main__":
    command.run(main)
