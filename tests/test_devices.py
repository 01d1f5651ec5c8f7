"""Two devices train as one does."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from test_resume import start, wait

from ladnn_tf import devices, runs
from ladnn_tf.data import pipeline


def test_two_logical_devices_give_one_device_s_losses(tiny_settings, phantom_manifest, tmp_path):
    """The same global batches, batch norm over all their images. 43 images: the last batch, of 11, leaves one out
    on two devices."""
    frame = pd.read_csv(phantom_manifest, dtype=str, keep_default_na=False)
    frame["image"] = [str(phantom_manifest.parent / image) for image in frame["image"]]
    frame.drop(frame.index[frame["split"] == "train"][0]).to_csv(tmp_path / "m.csv", index=False)
    settings = tmp_path / "config.flags"
    changed = dataclasses.replace(tiny_settings, manifest=str(tmp_path / "m.csv"), epochs=2, ema_decay=0.9)
    settings.write_text(changed.to_flags())
    two = start(tmp_path / "two", settings, "", "CPU:0,CPU:1")
    wait(start(tmp_path / "one", settings, "", "CPU:0", "2"), 0)
    wait(two, 0)
    one, two = (pd.read_csv(tmp_path / name / "history.csv") for name in ("one", "two"))
    for column in ("loss", "covid_loss", "lesions_loss", "val_loss", "val_auc"):
        np.testing.assert_allclose(two[column], one[column], rtol=2e-4, err_msg=column)
    for layer in runs.load_run(tmp_path / "two").model.layers:
        assert not getattr(layer, "synchronized", False), layer.name


def test_batches_are_divided_evenly():
    assert pipeline.images_per_epoch(425, 32) == 425
    assert pipeline.images_per_epoch(425, 32, devices=2) == 424  # of the last 9 one waits
    assert pipeline.images_per_epoch(425, 32, devices=16) == 416  # the last 9 are too few for 16 devices
    assert pipeline.images_per_epoch(416, 32, devices=4) == 416
    with pytest.raises(ValueError, match="multiple of the 3 devices"):
        pipeline.images_per_epoch(425, 32, devices=3)
    with pytest.raises(ValueError, match="3 training images cannot be divided among 4 devices"):
        pipeline.images_per_epoch(3, 4, devices=4)


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
