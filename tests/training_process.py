"""A training in its own process: `training_process.py FOLDER CONFIG.flags|resume [KILL_EPOCH] [DEVICES] [DIVIDE]`.

With a KILL_EPOCH (from 0) the process kills itself in the middle of that epoch, after its second step. With
DEVICES there is no dropout, whose random numbers differ from device to device.
DIVIDE takes the images that can be divided among so many devices, whatever their number.
"""

import os
import signal
import sys

import keras
import tensorflow as tf
from tiny_backbone import TINY, TINY_WITHOUT_DROPOUT

from ladnn_tf import fit, train
from ladnn_tf.config import read_config
from ladnn_tf.data import pipeline
from ladnn_tf.models.backbones import BACKBONES


class Kill(keras.callbacks.Callback):
    """As by a power cut: nothing is written, nothing is cleared up."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self._kill_epoch, self._epoch = epoch, -1

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self._epoch, batch) == (self._kill_epoch, 1):
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: str, settings: str, kill_epoch: str = "", devices: str = "", divide: str = "") -> None:
    BACKBONES["tiny"] = TINY_WITHOUT_DROPOUT if devices else TINY
    if kill_epoch:
        fit.keras.callbacks.TerminateOnNaN = lambda: Kill(int(kill_epoch))
    if devices:
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * len(devices.split(","))
        tf.config.set_logical_device_configuration(cpu, parts)
    if divide:
        real = pipeline.images_per_epoch
        pipeline.images_per_epoch = lambda rows, batch_size, _: real(rows, batch_size, int(divide))
    names = devices.split(",") if devices else None
    if settings == "resume":
        train.resume(folder, devices=names)
    else:
        train.train(read_config(settings), folder, devices=names)


if __name__ == "__main__":
    main(*sys.argv[1:])
