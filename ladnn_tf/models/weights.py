"""Initial weights of every kind, and the normalisation that belongs to them.

A trunk that was trained on pixels in one range and order is silently wrong on any other, so a source of weights
always comes with its `Normalisation`, and `models/ladnn.py` builds the model with that one.

As a command it makes, on a machine with internet, the file that a machine without takes as `--weights=FILE.npz`:

    python -m ladnn_tf.models.weights fetch BACKBONE --out=FILE.npz [--source=imagenet|noisy-student]
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from absl import flags, logging

from ladnn_tf import command
from ladnn_tf.files import file_sha256, write_atomically
from ladnn_tf.models import normalisation as pixels
from ladnn_tf.models import weights_download, weights_files, weights_hdf5, weights_transfer
from ladnn_tf.models.backbones import BACKBONES, NORMALISATION_LAYER, build_backbone
from ladnn_tf.models.normalisation import CAFFE, NORMALISATIONS, SIGNED, TORCH, UNIT, Normalisation
from ladnn_tf.models.weights_files import StoredWeights
from ladnn_tf.models.weights_npz import read_npz, save_npz

__all__ = [
    "CAFFE",
    "NORMALISATIONS",
    "SIGNED",
    "TORCH",
    "UNIT",
    "Normalisation",
    "initial_weights",
    "normalisation_of",
    "save_npz",
]

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

SOURCES = ("imagenet", "noisy-student")
_EFFICIENTNET_STATISTICS = 7  # mean, variance and count of its Normalization, which no source fills
_KERAS_HUB_SAME = ("vgg16", "resnet18")  # as keras-hub 0.32 builds them; its DenseNet pads the stem on one side
# In the .h5 files of EfficientNet, its own; older Keras versions divide by the operation.
_EFFICIENTNET_LAYERS = ("rescaling", "normalization", "multiply", "tf.math.truediv")
_ASK = f"give --normalisation={'|'.join(NORMALISATIONS)}"


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
        normalisation: what to build with where the source does not say. It has to be given for a `.weights.h5` of
            this project, for keras-hub's VGG-16 without its preset's `image_converter.json` beside it, and for
            a `.npz` of VGG-16 or ResNet-50 that does not say. Any other file that does not say is taken, with a
            warning in the log, to be the publisher's and to expect `PUBLISHED_NORMALISATION`, a `.npz` to
            expect `TORCH`; give `normalisation` where that is wrong.

    The first kernel of VGG-16 and ResNet-50 is turned from BGR to RGB where the publisher normalises outside and
    `CAFFE` is taken or given, and wherever the channels are turned in the model itself. keras-hub's is in RGB. Its
    files are known by its class or its automatic name, so that a renamed keras-hub backbone, or a file without
    names, passes for one of Keras Applications where the layers agree (VGG-16, DenseNet).

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


def _open_file(
    backbone: str,
    stored: StoredWeights,
    source: str,
    own: Normalisation | None,
    asked: Normalisation | None,
    bgr: bool = False,
) -> InitialWeights:
    """A file that this project has not written; `own` is what it was found to expect, None if it does not say."""
    if stored.keras_hub:
        _check_keras_hub(backbone, source)
    if own is not None:
        return _open(stored, source, own, asked, bgr=bgr)
    published = PUBLISHED_NORMALISATION.get(backbone)
    if stored.keras_hub and backbone != "resnet18":  # theirs are of other trainings than Keras Applications'
        published = None
    taken = asked or published
    if taken is None:
        bring = "lay image_converter.json of its preset beside its model.weights.h5, or "
        raise ValueError(
            f"{source} does not say how pixels are normalised, and no publisher's way is known for it; "
            f"{bring if stored.keras_hub else ''}{_ASK}"
        )
    bgr = published is CAFFE and taken.same(CAFFE)
    order = ", its first kernel in BGR order" if bgr else ""
    if asked is None:
        said = "%s does not say how pixels are normalised: taken as %s was published (%s%s). If that is wrong, %s."
        logging.warning(said, source, backbone, taken, order, _ASK)
    else:
        logging.info("%s does not say how pixels are normalised: taken as asked (%s%s)", source, taken, order)
    return _open(stored, source, taken, asked, bgr=bgr)


def _check_keras_hub(backbone: str, source: str) -> None:
    if backbone not in _KERAS_HUB_SAME:
        raise ValueError(
            f"{source} is of keras-hub, which builds {BACKBONES[backbone].title} otherwise than Keras "
            "Applications (padding, strides or layers), so that its weights give other features here; give "
            "--weights=imagenet"
        )


def _open_download(
    backbone: str,
    published: keras.Model,
    source: str,
    own: Normalisation | None,
    asked: Normalisation | None,
) -> InitialWeights:
    """A publisher's model; `own` is what the publisher says it expects, None to find out."""
    if own is None:
        outside = PUBLISHED_NORMALISATION[backbone]
        own, bgr = pixels.inside(published, source) or (outside, outside is CAFFE)
    else:
        bgr = False
    return _open(weights_files.of_model(published), source, own, asked, bgr=bgr)


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
    taken = own or asked
    if taken is None:
        if PUBLISHED_NORMALISATION.get(backbone) is CAFFE:
            raise ValueError(
                f"{path} does not hold normalisation/mean and normalisation/std, and weights of {backbone} are "
                f"trained with one normalisation as often as with another; {_ASK}"
            )
        taken = TORCH
        said = "%s does not hold normalisation/mean and normalisation/std: taken to be torch (%s). If not, %s."
        logging.warning(said, path, taken, _ASK)
    return _open(stored, str(path), taken, asked, strict=True)


def _keras_file(backbone: str, path: Path, asked: Normalisation | None) -> InitialWeights:
    model = weights_files.read_keras(path)
    stored = weights_files.of_model(model)
    if NORMALISATION_LAYER in stored.names:
        return _open(stored, str(path), normalisation_of(model), asked, strict=True)
    own, bgr = pixels.inside(model, str(path)) or (None, False)
    return _open_file(backbone, stored, str(path), own, asked, bgr)


def _hdf5(backbone: str, path: Path, asked: Normalisation | None) -> InitialWeights:
    stored = weights_hdf5.read_hdf5(path)
    # Files of older Keras versions hold no names: there a head of width 1 is ours, as a publisher's is wider.
    if NORMALISATION_LAYER in stored.names if stored.named else 1 in stored.dense_widths:
        if asked is None:
            raise ValueError(
                f"{path} holds the weights of a model of this project, but not the normalisation it was trained "
                f"with; {_ASK}, or the run's model.keras instead"
            )
        return _open(stored, str(path), asked, asked)
    own = weights_hdf5.preset_normalisation(path)
    if own:
        _check_keras_hub(backbone, str(path))
    efficientnet = backbone.startswith("efficientnet")
    inside = efficientnet and own is None and stored.pixel_statistics
    belong = _EFFICIENTNET_LAYERS if inside else ("multiply",) if efficientnet else ()
    strange = [name for name in stored.layers_on_pixels if not name.startswith(belong)]
    if strange:
        raise ValueError(
            f"{path} names layers that change pixels before the first convolution ({', '.join(strange)}), but not "
            "what they do; bring the whole model, saved as a .keras file, where it can be read"
        )
    if inside:
        own = pixels.of_statistics(*stored.pixel_statistics, stored.rescalings)
    return _open_file(backbone, stored, str(path), own, asked)


def _fetch_command(backbone: str, source: str) -> str:
    return f"python -m ladnn_tf.models.weights fetch {backbone} --source={source} --out=FILE.npz"


def _imagenet(backbone: str, asked: Normalisation | None) -> InitialWeights:
    if backbone not in PUBLISHED_NORMALISATION:
        raise ValueError(f"there are no ImageNet weights for {backbone}; give --weights=FILE or --weights=none")
    source = f"the ImageNet weights of {BACKBONES[backbone].title}"
    fetched_by = _fetch_command(backbone, "imagenet")
    if backbone == "resnet18":
        published, own = weights_download.keras_hub_resnet18(source, fetched_by)
    else:
        published = weights_download.keras_applications(BACKBONES[backbone].build, source, fetched_by)
        own = None
    return _open_download(backbone, published, source, own, asked)


def _noisy_student(backbone: str, asked: Normalisation | None) -> InitialWeights:
    if not backbone.startswith("efficientnet"):
        raise ValueError(f"noisy-student weights exist for EfficientNet only, not for {backbone}")
    source = f"the noisy-student weights of {BACKBONES[backbone].title}"
    published = weights_download.noisy_student(backbone, source, _fetch_command(backbone, "noisy-student"))
    return _open_download(backbone, published, source, None, asked)


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
