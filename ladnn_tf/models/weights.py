"""Initial weights of every kind, and the normalisation that belongs to them.

A trunk that was trained on pixels in one range and order is silently wrong on any other, so a source of weights
always comes with its `Normalisation`, and `models/ladnn.py` builds the model with that one.

As a command it makes, on a machine with internet, the file that a machine without takes as `--weights=FILE.npz`:

    python -m ladnn_tf.models.weights fetch BACKBONE --out=FILE.npz [--source=imagenet|noisy-student]
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import flags

from ladnn_tf import command
from ladnn_tf.files import file_sha256, write_atomically
from ladnn_tf.models import normalisation as pixels
from ladnn_tf.models import weights_files, weights_transfer
from ladnn_tf.models.backbones import BACKBONES, NORMALISATION_LAYER, build_backbone
from ladnn_tf.models.normalisation import CAFFE, NORMALISATIONS, TORCH, Normalisation
from ladnn_tf.models.weights_files import StoredWeights
from ladnn_tf.models.weights_npz import read_npz, save_npz

__all__ = ["CAFFE", "NORMALISATIONS", "TORCH", "Normalisation", "initial_weights", "normalisation_of", "save_npz"]

PUBLISHED_NORMALISATION = {
    "vgg16": CAFFE,
    "resnet18": TORCH,
    "resnet50": CAFFE,
    "densenet121": TORCH,
    "densenet169": TORCH,
    "efficientnet_b0": TORCH,
    "efficientnet_b1": TORCH,
}
"""What the publishers' weights expect that do not normalise inside: `keras.applications.<...>.preprocess_input`;
the package efficientnet's own; for ResNet-18 of keras-hub, converted from timm's resnet18.a1_in1k with timm's
mean and standard deviation (keras-hub, tools/checkpoint_conversion/convert_resnet_checkpoints.py)."""

RESNET18_PRESET = "resnet_18_imagenet"
"""Of keras-hub; `from_preset` takes a folder in its place."""

SOURCES = ("imagenet", "noisy-student")
_EFFICIENTNET_STATISTICS = 7  # mean, variance and count of its Normalization, which no source fills
_ASK = "give --normalisation=torch or --normalisation=caffe"


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """A source of weights: its normalisation, and a function that loads them into a trunk, wholly or not."""

    normalisation: Normalisation
    load: Callable[[keras.Model], None]


def initial_weights(backbone: str, weights: str, normalisation: Normalisation | None = None) -> InitialWeights:
    """Opens a source of weights.

    Args:
        backbone: a key of `BACKBONES`.
        weights: one of

            - `none`;
            - `imagenet`, a download: Keras Applications', for ResNet-18 the preset of keras-hub;
            - `noisy-student`, a download: EfficientNet only, of the package efficientnet;
            - the path of a `.npz` (read without pickle), of a `.keras` (read in safe mode), `.weights.h5` or
              `.h5` file, of this project or as the publishers of `imagenet` and `noisy-student` write them, with
              or without their classifier. A checksum file `<path>.sha256` beside it is checked.
        normalisation: what to build with where the source does not say (`none`; a `.weights.h5` of this project,
            a `.npz` without it). A `.npz` that does not say is otherwise taken to be `TORCH`.

    Returns:
        The normalisation, and a function that fills a trunk built by `build_backbone`.

    Raises:
        ValueError: if the source does not exist for this backbone, cannot be read or downloaded, or if its
            normalisation is another one than `normalisation`, or unknown. The function raises it if the
            weights do not fit, and then leaves the trunk as it was.
    """
    if weights == "none":
        return InitialWeights(normalisation or TORCH, _keep)
    if weights == "imagenet":
        return _imagenet(backbone, normalisation)
    if weights == "noisy-student":
        return _noisy_student(backbone, normalisation)
    path = Path(weights)
    weights_files.check_file(path)
    _check_sha256(path)
    read = {".npz": _npz, ".keras": _keras_file, ".h5": _hdf5}[path.suffix]
    return read(backbone, path, normalisation)


def _keep(_trunk: keras.Model) -> None:
    """Leaves the random weights as they are."""


def normalisation_of(model: keras.Model) -> Normalisation:
    """The normalisation that a model of this project does inside."""
    rescaling = model.get_layer(NORMALISATION_LAYER)
    std = 1.0 / np.asarray(rescaling.scale)
    mean = -np.asarray(rescaling.offset) * std
    return Normalisation(tuple(map(float, mean.round(6))), tuple(map(float, std.round(6))))


def _open(
    stored: StoredWeights, source: str, own: Normalisation, asked: Normalisation | None, **how: bool
) -> InitialWeights:
    """A source whose normalisation is known, and which must not be asked for another."""
    if asked is not None and not own.same(asked):
        raise ValueError(
            f"{source} was trained with the normalisation {own}, not with the one asked for ({asked}); leave "
            "--normalisation=auto"
        )
    sizes = {name: _size(name) for name in BACKBONES}
    return InitialWeights(own, lambda trunk: weights_transfer.transfer(trunk, stored, source, sizes=sizes, **how))


def _size(backbone: str) -> int:
    """How many numbers initial weights fill."""
    described = BACKBONES[backbone]
    inside = _EFFICIENTNET_STATISTICS if backbone.startswith("efficientnet") else 0
    return described.trainable + described.statistics - inside


def _open_published(
    backbone: str, stored: StoredWeights, source: str, own: Normalisation | None, asked: Normalisation | None
) -> InitialWeights:
    """A publisher's weights; `own` is what they were found to expect, None if the publisher normalises outside."""
    if backbone not in PUBLISHED_NORMALISATION:
        raise ValueError(
            f"{source} does not say how pixels are normalised, and nobody publishes weights for {backbone}; give "
            "a model.keras or a .npz of this project"
        )
    own = own or PUBLISHED_NORMALISATION[backbone]
    return _open(stored, source, own, asked, bgr=PUBLISHED_NORMALISATION[backbone] is CAFFE)


def _check_sha256(path: Path) -> None:
    beside = path.with_name(f"{path.name}.sha256")
    if not beside.is_file():
        return
    words = beside.read_text(encoding="utf-8", errors="replace").split()
    found = file_sha256(path)
    if not words or words[0].lower() != found:
        raise ValueError(
            f"{path} was not copied wholly, or was changed: its SHA-256 is {found}, {beside.name} says "
            f"{words[0] if words else 'nothing'}; copy both again"
        )


def _npz(backbone: str, path: Path, asked: Normalisation | None) -> InitialWeights:
    stored, own = read_npz(path, backbone)
    return _open(stored, str(path), own or asked or TORCH, asked, strict=True)


def _keras_file(backbone: str, path: Path, asked: Normalisation | None) -> InitialWeights:
    model = weights_files.read_keras(path)
    stored = weights_files.of_model(model)
    if NORMALISATION_LAYER in stored.names:
        return _open(stored, str(path), normalisation_of(model), asked, strict=True)
    return _open_published(backbone, stored, str(path), pixels.inside(model), asked)


def _hdf5(backbone: str, path: Path, asked: Normalisation | None) -> InitialWeights:
    stored = weights_files.read_hdf5(path)
    # Files of older Keras versions hold no names; a head of width 1 is ours, a publisher's classifier is wider.
    if NORMALISATION_LAYER in stored.names or 1 in stored.dense_widths:
        if asked is None:
            raise ValueError(
                f"{path} holds the weights of a model of this project, but not the normalisation it was trained "
                f"with; {_ASK}, or the run's model.keras instead"
            )
        return _open(stored, str(path), asked, asked)
    own = None
    if stored.pixel_statistics:
        own = pixels.of_statistics(*stored.pixel_statistics, stored.rescalings)
    elif backbone == "resnet18":
        own = _preset_normalisation(path.parent)
    return _open_published(backbone, stored, str(path), own, asked)


def _preset_normalisation(folder: Path) -> Normalisation | None:
    """That of the image converter beside a keras-hub preset's weights, if there is one."""
    path = folder / "image_converter.json"
    if not path.is_file():
        return None
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))["config"]
        return pixels.from_affine(settings["scale"], settings["offset"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} should hold the scale and offset of keras-hub's image converter: {error}"
        ) from error


def _download(build: Callable[[], Any], what: str, fetched_by: str) -> Any:
    try:
        return build()
    except Exception as error:  # the downloaders raise bare Exception
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{what} could not be downloaded ({reason}); on a machine with internet run `{fetched_by}`, bring the "
            "file here and give --weights=FILE.npz, or start from --weights=none"
        ) from error


def _fetch_command(backbone: str, source: str) -> str:
    return f"python -m ladnn_tf.models.weights fetch {backbone} --source={source} --out=FILE.npz"


def _imagenet(backbone: str, asked: Normalisation | None) -> InitialWeights:
    if backbone not in PUBLISHED_NORMALISATION:
        raise ValueError(f"there are no ImageNet weights for {backbone}; give --weights=FILE or --weights=none")
    source = f"the ImageNet weights of {BACKBONES[backbone].title}"
    fetched_by = _fetch_command(backbone, "imagenet")
    if backbone == "resnet18":
        published, converter = _download(_keras_hub_resnet18(), source, fetched_by)
        own = pixels.from_affine(converter.scale, converter.offset)
    else:
        build = BACKBONES[backbone].build
        published = _download(lambda: build(include_top=False, weights="imagenet"), source, fetched_by)
        own = pixels.inside(published)
    return _open_published(backbone, weights_files.of_model(published), source, own, asked)


def _keras_hub_resnet18() -> Callable[[], tuple[keras.Model, keras.layers.Layer]]:
    try:
        import keras_hub
    except ImportError as error:
        raise ValueError(
            "the ImageNet weights of ResNet-18 need the package keras-hub: pip install 'ladnn_tf[hub]'"
        ) from error
    return lambda: (
        keras_hub.models.ResNetBackbone.from_preset(RESNET18_PRESET),
        keras_hub.layers.ResNetImageConverter.from_preset(RESNET18_PRESET),
    )


def _noisy_student(backbone: str, asked: Normalisation | None) -> InitialWeights:
    if not backbone.startswith("efficientnet"):
        raise ValueError(f"noisy-student weights exist for EfficientNet only, not for {backbone}")
    try:
        import efficientnet.tfkeras as efficientnet
    except ImportError as error:
        raise ValueError(
            "noisy-student weights need the package efficientnet: pip install 'ladnn_tf[train]'"
        ) from error
    build = {"efficientnet_b0": efficientnet.EfficientNetB0, "efficientnet_b1": efficientnet.EfficientNetB1}
    source = f"the noisy-student weights of {BACKBONES[backbone].title}"
    published = _download(
        lambda: build[backbone](include_top=False, weights="noisy-student"),
        source,
        _fetch_command(backbone, "noisy-student"),
    )
    return _open_published(backbone, weights_files.of_model(published), source, pixels.inside(published), asked)


def fetch(backbone: str, source: str, out: Path) -> tuple[int, Normalisation]:
    """Downloads weights and writes them to a `.npz`, and beside it `<out>.sha256` in the format of sha256sum.

    Args:
        backbone: a key of `BACKBONES`.
        source: one of `SOURCES`.
        out: the file, ending in `.npz`.

    Returns:
        The number of parameters written, and the normalisation they expect.

    Raises:
        ValueError: if they do not exist or cannot be downloaded.
        OSError: if the files cannot be written.
    """
    initial = initial_weights(backbone, source)
    trunk = build_backbone(backbone, keras.Input((64, 64, 3)), batch_norm_momentum=0.9)
    initial.load(trunk)
    beside = out.with_name(f"{out.name}.sha256")
    beside.unlink(missing_ok=True)  # an old one would call the new file damaged, were we stopped in between
    parameters = save_npz(out, trunk, initial.normalisation, backbone=backbone, source=source)
    write_atomically(beside, f"{file_sha256(out)}  {out.name}\n".encode())
    return parameters, initial.normalisation


_USAGE = "python -m ladnn_tf.models.weights fetch BACKBONE --out=FILE.npz [--source=imagenet|noisy-student]"


def main(argv: list[str]) -> int:
    """The command `fetch`; see the module's docstring."""
    flag_values = flags.FlagValues()
    flags.DEFINE_string("out", None, "the .npz file to write", flag_values=flag_values)
    flags.DEFINE_enum("source", "imagenet", SOURCES, "which weights to download", flag_values=flag_values)
    words = command.parse(flag_values, argv, _USAGE, positional=True)
    if len(words) != 2 or words[0] != "fetch":
        command.usage_error(f"expected `fetch` and the name of a backbone. Received: {' '.join(words)!r}", _USAGE)
    backbone = words[1]
    if backbone not in BACKBONES:
        command.usage_error(f"BACKBONE should be one of {', '.join(BACKBONES)}. Received: {backbone!r}", _USAGE)
    if not flag_values.out or Path(flag_values.out).suffix != ".npz":
        command.usage_error(f"--out should be a file that ends in .npz. Received: {flag_values.out!r}", _USAGE)
    out = Path(flag_values.out)
    parameters, normalisation = fetch(backbone, flag_values.source, out)
    print(f"{out}: {flag_values.source} weights of {BACKBONES[backbone].title}")
    print(f"  {parameters:,} parameters, {out.stat().st_size:,} bytes; normalisation: {normalisation}")
    print(f"  SHA-256 {file_sha256(out)}, written to {out.name}.sha256 too: bring both files to the other machine")
    return 0


if __name__ == "__main__":
    command.run(main)
