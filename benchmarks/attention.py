"""What attention maps cost: beside a forward pass without them, and beside tf-keras-vis, which takes gradients.

    python -m benchmarks.attention --backbone=densenet169

Three contenders take turns, round after round, on the same images and the same network: its logits alone; logits
and the maps of all six labels from `models/attention.py`; and tf-keras-vis' `GradcamPlusPlus`, called once for
each label, as its users do. The first two are compiled into a graph; tf-keras-vis runs as it comes, which is
eagerly, and repeats the forward pass in each call. Before anything is timed, the maps of both are compared.
"""

import functools
import statistics
import time
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf
from absl import flags, logging
from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus

from benchmarks.random_model import random_model
from benchmarks.training_table import ratio, spread
from ladnn_tf import command
from ladnn_tf.labels import COVID, LESIONS
from ladnn_tf.models.attention import attention_model, normalised
from ladnn_tf.models.ladnn import logits_model

USAGE = "python -m benchmarks.attention --backbone=densenet169 [--image_size=224] [--batch_size=1] [--rounds=9]"
FORWARD, MAPS, REFERENCE = "logits", "logits and maps", "maps by tf-keras-vis"
_LABELS = (COVID, *LESIONS)
_TOLERANCE = 1e-4


def contenders(model: keras.Model, images: np.ndarray) -> dict[str, Callable[[], object]]:
    """What is timed: functions without arguments, which return when the result is there.

    Args:
        model: from `build_model`.
        images: `(B, S, S, 3)` float32 in [0, 255].

    Returns:
        By name. `MAPS` returns raw maps `(B, h, w, 6)`, `REFERENCE` the same stretched to [0, 1].
    """
    batch = tf.constant(images)
    logits, with_maps = logits_model(model), attention_model(model)
    compiled = {network.name: tf.function(network) for network in (logits, with_maps)}
    joined = keras.layers.Concatenate(dtype="float32")([logits.output[head] for head in (COVID, "lesions")])
    reference = GradcamPlusPlus(keras.Model(model.input, joined), clone=False)
    pooled = model.get_layer("features").input._keras_history.operation.name

    def forward() -> np.ndarray:
        return compiled[logits.name](batch)[COVID].numpy()

    def maps() -> np.ndarray:
        return compiled[with_maps.name](batch)["attention"].numpy()

    def by_gradients() -> np.ndarray:
        options = {"penultimate_layer": pooled, "seek_penultimate_conv_layer": False, "expand_cam": False}
        scores = [functools.partial(_score, label=label) for label in range(len(_LABELS))]
        return np.stack([reference(score, images, **options) for score in scores], axis=-1)

    return {FORWARD: forward, MAPS: maps, REFERENCE: by_gradients}


def _score(logits, label: int):
    return logits[:, label]


def take_turns(
    functions: Mapping[str, Callable[[], object]], rounds: int, calls: Mapping[str, int]
) -> dict[str, list[float]]:
    """Times the functions in turns, every second turn backwards.

    Args:
        functions: by name.
        rounds: number of rounds.
        calls: how often each is called in a round; those that are called alike take turns call by call, so that
            what else the machine does hits them alike.

    Returns:
        By name the mean seconds of a call, one for each round.
    """
    timings = {name: [] for name in functions}
    for number in range(rounds):
        spent = dict.fromkeys(functions, 0.0)
        for turn in range(max(calls.values())):
            for name in list(functions)[:: -1 if turn % 2 else 1]:
                if turn < calls[name]:
                    started = time.perf_counter()
                    functions[name]()
                    spent[name] += time.perf_counter() - started
        for name, seconds in spent.items():
            timings[name].append(seconds / calls[name])
        logging.info("round %d of %d", number + 1, rounds)
    return timings


def largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of two batches of maps `(B, h, w, C)`, each stretched to [0, 1]."""
    return float(np.abs(normalised(a) - normalised(b)).max())


def format_report(timings: Mapping[str, list[float]]) -> str:
    """The table of medians and ratios.

    Args:
        timings: from `take_turns`, of all three contenders.

    Returns:
        Milliseconds of each; what the maps add to a forward pass, in percent; how many times as long tf-keras-vis
        takes for the same maps. Ratios are medians of the rounds' ratios.
    """
    lines = [f"{'ms, median (lowest to highest)':34}"]
    for name, seconds in timings.items():
        found = {key: 1000 * value for key, value in spread(seconds).items()}
        lines.append(f"{name:34}{found['median']:9.1f} ({found['lowest']:.1f} to {found['highest']:.1f})")
    added = ratio(timings[MAPS], timings[FORWARD])
    slower = ratio(timings[REFERENCE], timings[MAPS])
    quartiles = statistics.quantiles([a / b for a, b in zip(timings[MAPS], timings[FORWARD], strict=True)], n=4)
    lines += [
        "",
        f"logits and maps / logits           {added['median']:.3f} (middle half of the rounds: {quartiles[0]:.3f} "
        f"to {quartiles[2]:.3f})",
        f"tf-keras-vis / logits and maps     {slower['median']:.1f} ({slower['lowest']:.1f} to "
        f"{slower['highest']:.1f})",
    ]
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """The command."""
    flag_values = flags.FlagValues()
    fv = {"flag_values": flag_values}
    flags.DEFINE_string("backbone", "densenet169", "the network, as of ladnn_tf.train", **fv)
    flags.DEFINE_integer("image_size", 224, "side of the images, pixels", 32, **fv)
    flags.DEFINE_integer("batch_size", 1, "images at a time", 1, **fv)
    flags.DEFINE_integer("rounds", 9, "times that every contender is measured", 2, **fv)
    flags.DEFINE_integer("calls", 20, "calls of the fast ones in each round", 1, **fv)
    command.parse(flag_values, argv, USAGE)

    model = random_model(flag_values.backbone, flag_values.image_size)
    shape = (flag_values.batch_size, flag_values.image_size, flag_values.image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
    functions = contenders(model, images)
    logging.info("compiling and warming up")
    functions[FORWARD]()
    difference = largest_difference(functions[MAPS](), functions[REFERENCE]())
    if not difference <= _TOLERANCE:
        raise ValueError(
            f"the maps differ by {difference:.2g} from tf-keras-vis', at most {_TOLERANCE:g} was expected"
        )
    calls = {FORWARD: flag_values.calls, MAPS: flag_values.calls, REFERENCE: 1}
    timings = take_turns(functions, flag_values.rounds, calls)
    print(f"{flag_values.backbone}: {len(_LABELS)} maps of {shape[0]} x {shape[1]} x {shape[2]} pixels, "
          f"{flag_values.rounds} rounds of {flag_values.calls} calls, of tf-keras-vis one")  # fmt: skip
    print(format_report(timings))
    print(f"largest difference of the maps, each from 0 to 1: {difference:.1g}")
    return 0


if __name__ == "__main__":
    command.run(main)
