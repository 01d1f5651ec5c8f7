"""Learning rate, optimizer and what is compiled."""

import dataclasses

import keras
import pytest

from ladnn_tf import fit
from ladnn_tf.config import TrainConfig
from ladnn_tf.models.ladnn import build_model, logits_model


def test_the_schedule_warms_up_and_decays():
    settings = TrainConfig(learning_rate=1.0, epochs=4, warmup_epochs=1.0, cosine_decay=True)
    rate = fit.learning_rate_schedule(settings, steps_per_epoch=10)
    assert float(rate(0)) == 0.0
    assert float(rate(5)) == pytest.approx(0.5)
    assert float(rate(10)) == pytest.approx(1.0)
    assert float(rate(25)) == pytest.approx(0.5)  # half of the cosine
    assert float(rate(40)) == pytest.approx(0.0, abs=1e-7)
    constant = fit.learning_rate_schedule(dataclasses.replace(settings, cosine_decay=False), 10)
    assert float(constant(39)) == pytest.approx(1.0)
    assert fit.learning_rate_schedule(TrainConfig(learning_rate=1.0), 10) == 1.0


def test_float16_scales_the_loss(tiny_settings):
    settings = dataclasses.replace(tiny_settings, precision="mixed_float16")
    assert isinstance(fit._optimizer(settings, 1e-3), keras.optimizers.LossScaleOptimizer)
    assert isinstance(fit._optimizer(tiny_settings, 1e-3), keras.optimizers.Adam)


def test_xla_is_off_unless_it_is_asked_for(tiny_settings, tiny_backbone):
    """Keras' own default would compile on a GPU and not on a processor."""
    for xla in (False, True):
        model = logits_model(build_model(tiny_backbone, image_size=32))
        fit.compile_model(model, dataclasses.replace(tiny_settings, xla=xla), 1e-3)
        assert model.jit_compile is xla
