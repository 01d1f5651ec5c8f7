"""The settings of a training: one frozen dataclass, from which the flags are made."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from absl import flags

from ladnn_tf.card import LUNGS, check_classes
from ladnn_tf.labels import CLASSES, LESION_TARGETS, MODELS, TASKS

_SELECT_BY = ("covid_loss", "loss", "auc", "class_loss")

_OF_MODEL = {"drenet": {"backbone": "resnet50", "image_size": 448, "region_temperature": 1.0}}
"""What a model has where the flags do not say, instead of the settings' own defaults."""


def _setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    minimum=None,
    maximum=None,
    added_later: bool = False,
) -> Any:
    """A setting; `added_later`: older runs lack it, and its default does what they did."""
    metadata = {"help": help, "choices": choices, "minimum": minimum, "maximum": maximum, "optional": added_later}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """All that decides the outcome of a training; each field is a flag of `ladnn_tf.train`."""

    manifest: str = _setting("data/covid_ct.csv", "manifest CSV (python -m ladnn_tf.data.manifest)")
    backbone: str = _setting(
        "densenet169", "vgg16, resnet18, resnet50, densenet121, densenet169, efficientnet_b0 or efficientnet_b1"
    )
    model: str = _setting(
        "ladnn",
        "ladnn (sigmoid heads, see --task), drenet (classes, by regions looked at twice) or trunk (classes, no "
        "regions)",
        choices=MODELS,
        added_later=True,
    )
    task: str = _setting(
        "ladnn", "of --model=ladnn: ladnn (diagnosis and lesions) or baseline (diagnosis alone)", choices=TASKS
    )
    classes: str = _setting(
        ",".join(CLASSES),
        "of --model=drenet and trunk: covid19,bacterial or covid19,normal or all three; images with another "
        "diagnosis are left out",
        added_later=True,
    )
    anchors: str = _setting(
        "48,96",
        "DRENet: sides of the regions on each of up to three scales, pixels of the input",
        added_later=True,
    )
    regions: int = _setting(3, "DRENet: number of regions", minimum=1, added_later=True)
    view_size: int = _setting(
        0, "DRENet: side that regions are enlarged to, pixels; 0: half the input's", minimum=0, added_later=True
    )
    region_temperature: float = _setting(
        0.0,
        "DRENet (1 for it): in training regions are drawn by the softmax of their scores over this temperature; "
        "0: the best are taken, as in the paper",
        minimum=0.0,
        added_later=True,
    )
    lungs: str = _setting(
        "whole",
        "what of a slice is shown: whole, extracted (the lungs alone, cropped, on black; slices without lungs are "
        "left out) or filled (extracted; in training the black is filled with turned lungs)",
        choices=(*LUNGS, "filled"),
        added_later=True,
    )
    window_level: float = _setting(-600.0, "HU in the middle of the grey levels of a CT series", added_later=True)
    window_width: float = _setting(1500.0, "HU from black to white in a CT series", minimum=1.0, added_later=True)
    image_size: int = _setting(224, "side of the network's input, pixels", minimum=32)
    weights: str = _setting(
        "imagenet", "imagenet, noisy-student, none, or a .npz, .keras, .weights.h5 or .h5 file"
    )
    normalisation: str = _setting(
        "auto",
        "of the pixels: auto (what belongs to the weights), or torch, caffe, unit (x / 255) or signed "
        "(x / 127.5 - 1) for a file that does not say",
        choices=("auto", "torch", "caffe", "unit", "signed"),
    )
    init_run: str = _setting("", "folder of a run to start from, heads included, instead of --weights")
    batch_norm_momentum: float = _setting(
        0.9, "share of the moving statistics that a step keeps", minimum=0.0, maximum=0.9999
    )
    precision: str = _setting(
        "float32",
        "number format of the trunk's arithmetic",
        choices=("float32", "mixed_float16", "mixed_bfloat16"),
    )

    xla: bool = _setting(False, "compile the training step by XLA")

    epochs: int = _setting(15, "epochs after the frozen phase", minimum=1)
    batch_size: int = _setting(32, "images per step", minimum=1)
    optimizer: str = _setting("adam", "adam or sgd (with --momentum)", choices=("adam", "sgd"), added_later=True)
    momentum: float = _setting(0.9, "of --optimizer=sgd", minimum=0.0, maximum=0.9999, added_later=True)
    learning_rate: float = _setting(5e-5, "peak learning rate", minimum=0.0)
    warmup_epochs: float = _setting(0.0, "epochs of linear warm-up from 0", minimum=0.0)
    cosine_decay: bool = _setting(False, "cosine decay to 0 over the epochs; otherwise constant")
    step_decay: str = _setting(
        "", "epochs after which the learning rate is divided by 10, such as 60,100", added_later=True
    )
    frozen_epochs: int = _setting(0, "epochs before that train the heads alone", minimum=0)
    frozen_learning_rate: float = _setting(1e-3, "constant learning rate of the frozen phase", minimum=0.0)
    weight_decay: float = _setting(5e-4, "L2 decay of every weight, as PyTorch's Adam", minimum=0.0)
    decoupled_decay: bool = _setting(False, "decouple the decay from the gradient (AdamW)")
    ema_decay: float = _setting(
        0.0,
        "momentum of a moving average of the weights, which is then validated and kept; 0: off",
        minimum=0.0,
        maximum=0.9999,
    )
    early_stopping_patience: int = _setting(0, "epochs without a better one before it stops; 0: off", minimum=0)
    select_by: str = _setting(
        "covid_loss",
        "what makes the best epoch on validation: covid_loss (cross entropy of the diagnosis), loss (the whole "
        "loss), auc or, with classes, class_loss (their cross entropy, without DRENet's regions); each over "
        "images, not over batches",
        choices=_SELECT_BY,
    )

    covid_weight: float = _setting(5.0, "how many times the diagnosis counts in the loss", minimum=0.0)
    lesion_targets: str = _setting(
        "positives",
        "positives: lesions are learnt where they are known; all: a COVID-negative image has none",
        choices=LESION_TARGETS,
    )
    scale_min: float = _setting(0.8, "smallest zoom factor", minimum=0.1)
    scale_max: float = _setting(1.2, "largest zoom factor", minimum=0.1)
    shear_degrees: float = _setting(0.0, "largest horizontal shear, degrees", minimum=0.0, maximum=60.0)
    flip: bool = _setting(True, "mirror left and right with probability 0.5")
    brightness: float = _setting(0.0, "largest shift, share of the grey range", minimum=0.0, maximum=1.0)
    contrast: float = _setting(0.0, "largest relative change of contrast", minimum=0.0, maximum=1.0)
    shift: float = _setting(
        0.0, "largest displacement, share of the side", minimum=0.0, maximum=0.5, added_later=True
    )

    target_sensitivity: float = _setting(
        0.95, "the card's threshold reaches this sensitivity on validation", minimum=0.01, maximum=1.0
    )
    seed: int = _setting(0, "of weights, order and augmentation", minimum=0)
    deterministic: bool = _setting(False, "bit-identical repetition (slower)")
    verify_images: bool = _setting(True, "decode every image before the first epoch and name the bad ones")
    cache: str = _setting("memory", "where decoded images are kept: memory, or a folder")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, choices = getattr(self, field.name), field.metadata["choices"]
            low, high = field.metadata["minimum"], field.metadata["maximum"]
            if choices and value not in choices:
                raise ValueError(f"--{field.name} should be one of {', '.join(choices)}. Received: {value!r}")
            finite = not isinstance(value, float) or math.isfinite(value)
            if not finite or (low is not None and value < low) or (high is not None and value > high):
                limits = f"at least {low}" if high is None else f"from {low} to {high}"
                raise ValueError(f"--{field.name} should be {limits}. Received: {value!r}")
        if self.scale_min > self.scale_max:
            raise ValueError(f"--scale_min={self.scale_min} is above --scale_max={self.scale_max}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"--warmup_epochs={self.warmup_epochs} leaves none of --epochs={self.epochs}")

        if self.step_decay and (self.cosine_decay or self.warmup_epochs):
            raise ValueError("--step_decay excludes --cosine_decay and --warmup_epochs")
        if self.optimizer == "sgd" and self.decoupled_decay:
            raise ValueError("--decoupled_decay is of --optimizer=adam")
        if self.step_epochs != sorted(set(self.step_epochs)) or any(epoch < 1 for epoch in self.step_epochs):
            raise ValueError(f"--step_decay should be rising numbers of epochs. Received: {self.step_decay}")
        if self.model != "ladnn":
            check_classes(self.class_names)
        elif self.select_by == "class_loss":
            raise ValueError("--select_by=class_loss is of --model=drenet and trunk; take covid_loss, loss or auc")
        if self.model == "drenet" and not self.anchor_sides:
            raise ValueError("--anchors should be one to three sides in pixels, such as 48,96. Received: none")

    @property
    def kind(self) -> str:
        """What the card calls the task: `--task` of `--model=ladnn`, else the model."""
        return self.task if self.model == "ladnn" else self.model

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the softmax, in order; empty for a model without one."""
        return () if self.model == "ladnn" else tuple(name.strip() for name in self.classes.split(","))

    @property
    def shown_lungs(self) -> str:
        """What of a slice the trained model is shown, as its card has it; lungs are filled in training alone."""
        return "whole" if self.lungs == "whole" else "extracted"

    @property
    def anchor_sides(self) -> tuple[float, ...]:
        """Of DRENet's regions, pixels."""
        return tuple(_numbers(self.anchors, "anchors"))

    @property
    def step_epochs(self) -> list[float]:
        """After which the learning rate is divided by 10."""
        return _numbers(self.step_decay, "step_decay")

    def to_flags(self) -> str:
        """The settings as the text of a flagfile, one `--name=value` to a line."""
        lines = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool):
                value = str(value).lower()
            lines.append(f"--{field.name}={value}")
        return "\n".join(lines) + "\n"


def _numbers(text: str, name: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ValueError(f"--{name} should be numbers with commas between. Received: {text!r}") from error


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines one flag for each setting."""
    definers = {
        bool: flags.DEFINE_boolean, int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string
    }  # fmt: skip
    for field in dataclasses.fields(TrainConfig):
        metadata = field.metadata
        if metadata["choices"]:
            flags.DEFINE_enum(
                field.name, field.default, metadata["choices"], metadata["help"], flag_values=flag_values
            )
        else:
            definers[field.type](field.name, field.default, metadata["help"], flag_values=flag_values)


def from_flags(flag_values: flags.FlagValues) -> TrainConfig:
    """The settings from parsed flags.

    Raises:
        ValueError: for a value outside its range.
    """
    values = _values(flag_values)
    for name, value in _OF_MODEL.get(values["model"], {}).items():
        if not flag_values[name].present:
            values[name] = value
    return TrainConfig(**values)


def _values(flag_values: flags.FlagValues) -> dict[str, Any]:
    return {field.name: flag_values[field.name].value for field in dataclasses.fields(TrainConfig)}


def read_config(path: str | Path) -> TrainConfig:
    """Reads a run's `config.flags`.

    Raises:
        ValueError: if a line is no flag of this version, a flag is missing, or a value is outside its range.
    """
    flag_values = flags.FlagValues()
    define_flags(flag_values)
    try:
        rest = flag_values(["config", f"--flagfile={path}"])[1:]
    except flags.Error as error:
        raise ValueError(f"{path}: {error}; it was written by another version, or changed by hand") from error
    missing = [
        field.name
        for field in dataclasses.fields(TrainConfig)
        if not flag_values[field.name].present and not field.metadata["optional"]
    ]
    if rest or missing:
        wrong = f"{rest[0]!r} is no flag" if rest else f"--{missing[0]} is missing"
        raise ValueError(
            f"{path}: {wrong}; it was written by another version, or changed by hand (one --name=value for each "
            "setting). Use that version, or train the run anew"
        )
    try:
        return TrainConfig(**_values(flag_values))  # what an older version did not have is as it was then
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
