"""Two devices train as one does."""

import dataclasses

import numpy as np
import pandas as pd
import tensorflow as tf
from test_resume import start, wait

from ladnn_tf import devices, runs


def test_two_logical_devices_give_one_device_s_losses(tiny_settings, tmp_path):
    """The same global batches, batch norm over all images of a batch; 44 images: the last batch holds 12."""
    settings = tmp_path / "config.flags"
    settings.write_text(dataclasses.replace(tiny_settings, epochs=2, ema_decay=0.9).to_flags())
    two = start(tmp_path / "two", settings, "", "CPU:0,CPU:1")
    wait(start(tmp_path / "one", settings, "", "CPU:0"), 0)
    wait(two, 0)
    one, two = (pd.read_csv(tmp_path / name / "history.csv") for name in ("one", "two"))
    for column in ("loss", "covid_loss", "lesions_loss", "val_loss", "val_auc"):
        np.testing.assert_allclose(two[column], one[column], rtol=2e-4, err_msg=column)
    for layer in runs.load_run(tmp_path / "two").model.layers:
        assert not getattr(layer, "synchronized", False), layer.name


def test_one_device_needs_no_strategy():
    assert devices.training_strategy(["CPU:0"]).num_replicas_in_sync == 1
    assert not isinstance(devices.training_strategy(), tf.distribute.MirroredStrategy)


class Gpu:
    name = "GPU:0"


def test_gpu_memory_grows_as_it_is_needed(monkeypatch):
    asked = []
    experimental = tf.config.experimental
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [Gpu])
    monkeypatch.setattr(experimental, "get_memory_growth", lambda gpu: False)
    monkeypatch.setattr(experimental, "set_memory_growth", lambda gpu, on: asked.append((gpu, on)))
    devices.training_strategy(["CPU:0"])
    assert asked == [(Gpu, True)]


def test_a_gpu_in_use_is_left_as_it_is(monkeypatch):
    def too_late(gpu, on):
        raise RuntimeError("Physical devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [Gpu])
    monkeypatch.setattr(tf.config.experimental, "get_memory_growth", lambda gpu: False)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", too_late)
    assert devices.training_strategy(["CPU:0"]).num_replicas_in_sync == 1
