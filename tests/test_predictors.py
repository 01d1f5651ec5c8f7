"""What answers the page: the edge predictor in this process, and TensorFlow Serving behind a client."""

import dataclasses

import numpy as np
import pytest
from serving_page import png
from tiny_tflite import card_of

from ladnn_tf.answer import Answer
from ladnn_tf.data import preprocess, quality
from ladnn_tf.data.phantom_slice import example_png
from serving.clients.errors import Unavailable
from serving.page.predictors import EmbeddedPredictor, NotReadyError, RemotePredictor

CARD = card_of(b"model")
GOOD = Answer(CARD, "c" * 64, covid=0.25, positive=False)


class FakeEdge:
    card, card_sha256 = CARD, "c" * 64

    def __init__(self, answer=GOOD):
        self.result = answer
        self.asked = []

    def answer(self, image):
        self.asked.append(image)
        return self.result, None


class FakeClient:
    def __init__(self, answer=GOOD):
        self.result = answer
        self.asked = []
        self.closed = False

    def card(self):
        return CARD, "c" * 64

    def ask(self, images, explain=False):
        if isinstance(self.result, Exception):
            raise self.result
        self.asked.append((images, explain))
        return [self.result]

    def close(self):
        self.closed = True


def test_the_embedded_predictor_is_given_pixels_and_decodes_nothing_twice():
    edge = FakeEdge()
    pixels = np.zeros((40, 40, 3), np.uint8)
    assert EmbeddedPredictor(edge).answer(b"encoded", pixels) is GOOD
    assert edge.asked[0] is pixels
    assert EmbeddedPredictor(edge).card() == (CARD, "c" * 64)


def test_the_remote_predictor_sends_bytes_and_wants_maps():
    client = FakeClient()
    encoded = example_png()
    assert RemotePredictor(client).answer(encoded, preprocess.decode(encoded)) is GOOD
    assert client.asked == [([encoded], True)]


def test_the_remote_predictor_abstains_before_it_sends():
    client = FakeClient()
    pixels = preprocess.decode(png())
    answer = RemotePredictor(client).answer(png(), pixels)
    assert (answer.abstained, answer.reason) == (True, quality.refusal(pixels))
    assert (answer.card_sha256, client.asked) == ("c" * 64, [])
    assert RemotePredictor(client, check=False).answer(png(), pixels) is GOOD


@pytest.mark.parametrize("make", [lambda answer: EmbeddedPredictor(FakeEdge(answer)),
                                  lambda answer: RemotePredictor(FakeClient(answer))])  # fmt: skip
def test_ready_is_a_real_answer(make):
    make(GOOD).ready()
    for fields, why in (
        ({"error": "it is broken"}, "broken"),
        ({"abstained": True, "reason": "no chest"}, "no chest"),
    ):
        with pytest.raises(NotReadyError, match=why):
            make(dataclasses.replace(GOOD, covid=None, positive=None, **fields)).ready()


def test_a_server_that_is_away():
    predictor = RemotePredictor(FakeClient(Unavailable("down")))
    with pytest.raises(Unavailable):
        predictor.ready()


def test_the_client_is_closed_with_its_predictor():
    client = FakeClient()
    RemotePredictor(client).close()
    assert client.closed
    EmbeddedPredictor(FakeEdge()).close()
