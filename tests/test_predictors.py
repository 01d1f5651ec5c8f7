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


def test_the_remote_predictor_answers_slices_together():
    """Two slices of a chest and one that is none: the two are sent in one call, as PNG, and get their places."""
    client = FakeClient()
    client.ask = lambda images, explain: (
        client.asked.append((images, explain))
        or [dataclasses.replace(GOOD, covid=place / 4) for place in range(len(images))]
    )
    chest = preprocess.decode(example_png())
    grey = np.broadcast_to(chest[..., :1], chest.shape)  # as series have it: one channel's memory
    answers = RemotePredictor(client).predict([grey, preprocess.decode(png()), grey])
    assert [answer.covid for answer in answers] == [0.0, None, 0.25]
    assert answers[1].abstained
    ((images, explain),) = client.asked
    assert explain
    assert (preprocess.decode(images[0]) == chest[..., :1]).all()
    assert RemotePredictor(client).predict([preprocess.decode(png())])[0].abstained
    assert len(client.asked) == 1


def test_a_model_of_lungs_alone_is_asked_about_pictures_that_look_like_no_slice():
    client = FakeClient(dataclasses.replace(GOOD, card=dataclasses.replace(CARD, lungs="extracted")))
    client.card = lambda: (client.result.card, "c" * 64)
    assert RemotePredictor(client).predict([preprocess.decode(png())]) == [client.result]


def test_the_embedded_predictor_hands_slices_on():
    edge = FakeEdge()
    edge.predict = lambda images: [GOOD] * len(images)
    assert EmbeddedPredictor(edge).predict([np.zeros((4, 4, 3), np.uint8)] * 3) == [GOOD] * 3


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
