"""Optimizer, learning rate and the phases of a training."""

import dataclasses
import math
from pathlib import Path

import keras

from ladnn_tf import config, losses
from ladnn_tf.checkpoint import Checkpoint
from ladnn_tf.data import pipeline
from ladnn_tf.models.ladnn import trunk_layers
from ladnn_tf.validation import Split, Validation

_EPSILON = 1e-8
"""Of Adam, as PyTorch's; Keras' own is 1e-7."""


def _optimizer(settings: config.TrainConfig, learning_rate) -> keras.optimizers.Optimizer:
    options = {"learning_rate": learning_rate}
    if settings.ema_decay:
        options |= {"use_ema": True, "ema_momentum": settings.ema_decay}
    if settings.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(momentum=settings.momentum, **options)
    elif settings.decoupled_decay:
        optimizer = keras.optimizers.AdamW(weight_decay=settings.weight_decay, epsilon=_EPSILON, **options)
    else:
        optimizer = keras.optimizers.Adam(epsilon=_EPSILON, **options)
    # compile() adds this by itself only if the model object's own policy is float16; here only its layers' is.
    if settings.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def learning_rate_schedule(settings: config.TrainConfig, steps_per_epoch: int):
    """Warm-up from 0, then constant or cosine decay to 0; or in steps, each a tenth of the one before.

    Args:
        settings: `learning_rate`, `warmup_epochs`, `cosine_decay`, `step_decay` and `epochs` count.
        steps_per_epoch: optimizer steps in an epoch.

    Returns:
        A number, or a Keras schedule of the optimizer's step.
    """
    if settings.step_decay:
        return keras.optimizers.schedules.PiecewiseConstantDecay(
            [round(epoch * steps_per_epoch) for epoch in settings.step_epochs],
            [settings.learning_rate / 10**number for number in range(len(settings.step_epochs) + 1)],
        )
    if not settings.warmup_epochs and not settings.cosine_decay:
        return settings.learning_rate
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    steps = settings.epochs * steps_per_epoch
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else settings.learning_rate,
        decay_steps=max(1, steps - warmup),
        alpha=0.0 if settings.cosine_decay else 1.0,
        warmup_target=settings.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def compile_model(model: keras.Model, settings: config.TrainConfig, learning_rate) -> None:
    """Gives a model the optimizer, losses and decay of a training.

    Args:
        model: from `trained_outputs`, made in the scope of the strategy that it is to be trained by.
        settings: of the training.
        learning_rate: a number or a Keras schedule.
    """
    if not settings.decoupled_decay and settings.weight_decay:
        losses.add_l2_decay(model, settings.weight_decay)
    model.compile(
        optimizer=_optimizer(settings, learning_rate),
        loss=losses.head_losses(model.output),
        loss_weights=losses.head_weights(model.output, settings.covid_weight),
        jit_compile=settings.xla,
    )


def augmentation(settings: config.TrainConfig) -> pipeline.Augmentation:
    """The random changes of training images that the settings ask for."""
    names = [field.name for field in dataclasses.fields(pipeline.Augmentation)]
    return pipeline.Augmentation(**{name: getattr(settings, name) for name in names})


def _steps(split: Split, settings: config.TrainConfig, devices: int) -> int:
    """Optimizer steps in an epoch."""
    used = pipeline.images_per_epoch(len(split.images), settings.batch_size, devices)
    return math.ceil(used / settings.batch_size)


def _fit(
    model: keras.Model,
    split: Split,
    settings: config.TrainConfig,
    callbacks: list[keras.callbacks.Callback],
    learning_rate,
    first: int,
    last: int,
    checkpoint: Checkpoint | None,
) -> bool:
    """Trains one phase, from epoch `first` to `last`, counted from 0, or what is left of it after a checkpoint.

    Returns:
        Whether the training stopped before the phase's end.
    """
    done = checkpoint.progress.epoch if checkpoint else 0
    if done > last:
        return False
    with model.distribute_strategy.scope():
        compile_model(model, settings, learning_rate)
        if done <= first:  # else the checkpoint does
            model.optimizer.build(model.trainable_variables)  # in the first step it would be traced twice
    # A checkpoint at the very end of the phase before is that phase's: this one begins with a new optimizer.
    if done > first:
        checkpoint.restore(model)
        first = done
    if first == last:
        # All that is left is what Keras does at the end of `fit`: the moving average becomes the weights.
        model.optimizer.finalize_variable_values(model.trainable_variables)
        return False
    devices = model.distribute_strategy.num_replicas_in_sync
    dataset = pipeline.training_dataset(
        split.images,
        {head: split.labels[head] for head in model.output},
        batch_size=settings.batch_size,
        seed=settings.seed,
        augmentation=augmentation(settings),
        first_epoch=first,
        epochs=last,
        devices=devices,
    )
    model.fit(
        dataset,
        steps_per_epoch=_steps(split, settings, devices),
        initial_epoch=first,
        epochs=last,
        callbacks=callbacks,
        shuffle=False,  # done by the dataset
    )
    return model.stop_training


def fit(
    model: keras.Model,
    split: Split,
    settings: config.TrainConfig,
    validation: Validation,
    folder: Path,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Trains a model: the frozen phase where there is one, then all layers.

    Args:
        model: from `trained_outputs`.
        split: the training split.
        settings: of the training.
        validation: keeps the best weights and writes the run's state.
        folder: of the run, for TensorBoard's events.
        checkpoint: of the same training, to go on from; None to begin.

    Raises:
        ValueError: if the checkpoint does not fit, or the batches cannot be divided among the devices.
        OSError: if the run's state cannot be written.
    """
    if checkpoint and checkpoint.progress.stopped:
        return
    callbacks = [
        validation,
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.TensorBoard(str(folder / "tensorboard"), write_graph=False),
    ]
    if settings.frozen_epochs:
        frozen = [layer for layer in trunk_layers(model) if layer.trainable]
        for layer in frozen:
            layer.trainable = False
        rate = settings.frozen_learning_rate
        stopped = _fit(model, split, settings, callbacks, rate, 0, settings.frozen_epochs, checkpoint)
        for layer in frozen:
            layer.trainable = True
        if stopped:
            return
    devices = model.distribute_strategy.num_replicas_in_sync
    rate = learning_rate_schedule(settings, _steps(split, settings, devices))
    last = settings.frozen_epochs + settings.epochs
    _fit(model, split, settings, callbacks, rate, settings.frozen_epochs, last, checkpoint)
