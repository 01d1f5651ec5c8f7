"""What answers the page: the edge predictor in this process, and TensorFlow Serving behind a client."""

import dataclasses

import numpy as np
import pytest
from serving_page import png
from tiny_tflite import card_of, class_model_bytes, write_model

from ladnn_tf.answer import Answer
from ladnn_tf.data import preprocess, quality
from ladnn_tf.data.phantom_slice import example_png
from ladnn_tf.edge_predictor import EdgePredictor
from serving.clients.errors import Unavailable
from serving.page.predictors import EmbeddedPredictor, NotReadyError, RemotePredictor

CARD = card_of(b"model")
OF_DRENET = {"task": "drenet", "classes": ("covid19", "bacterial", "normal")}
GOOD = Answer(CARD, "c" * 64, covid=0.25, positive=False)


class FakeEdge:
    card, card_sha256, check = CARD, "c" * 64, True

    def __init__(self, answer=GOOD):
        self.result = answer
        self.asked = []

    def ask(self, pixels):
        self.asked.append(pixels)
        return self.result


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
    pixels = preprocess.decode(example_png())
    answer, seen = EmbeddedPredictor(edge).answer(b"encoded", pixels)
    assert answer is GOOD
    assert seen is pixels
    np.testing.assert_array_equal(edge.asked[0], preprocess.resize(pixels, CARD.image_size))
    assert EmbeddedPredictor(edge).card() == (CARD, "c" * 64)


@pytest.mark.parametrize("lungs", ["whole", "extracted"])
def test_the_embedded_predictor_answers_as_the_edge_predictor_and_tells_what_it_was_shown(tmp_path, lungs):
    path = write_model(tmp_path / "m.tflite", class_model_bytes(), **OF_DRENET, lungs=lungs)
    edge, pixels = EdgePredictor(path), preprocess.decode(example_png())
    answer, seen = EmbeddedPredictor(edge).answer(b"", pixels)
    other, small = edge.answer(pixels)
    np.testing.assert_array_equal(preprocess.resize(seen, CARD.image_size), small)
    assert (answer.covid, answer.classes) == (other.covid, other.classes)
    assert (seen.shape == pixels.shape) == (lungs == "whole")
    grey = preprocess.decode(png())
    answer, seen = EmbeddedPredictor(edge).answer(b"", grey)
    assert (answer.reason, answer.abstained) == (edge.answer(grey)[0].reason, True)
    assert seen is grey


def test_a_failure_of_the_model_shows_the_whole_image():
    edge = FakeEdge(dataclasses.replace(GOOD, covid=None, positive=None, error="broken"))
    edge.card = dataclasses.replace(CARD, lungs="extracted")
    pixels = preprocess.decode(example_png())
    assert EmbeddedPredictor(edge).answer(b"", pixels)[1] is pixels


def test_the_remote_predictor_sends_bytes_and_wants_maps():
    client = FakeClient()
    encoded = example_png()
    pixels = preprocess.decode(encoded)
    answer, seen = RemotePredictor(client).answer(encoded, pixels)
    assert answer is GOOD
    assert seen is pixels
    assert client.asked == [([encoded], True)]


def test_the_remote_predictor_abstains_before_it_sends():
    client = FakeClient()
    pixels = preprocess.decode(png())
    answer, seen = RemotePredictor(client).answer(png(), pixels)
    assert seen is pixels
    assert (answer.abstained, answer.reason) == (True, quality.refusal(pixels))
    assert (answer.card_sha256, client.asked) == ("c" * 64, [])
    assert RemotePredictor(client, check=False).answer(png(), pixels)[0] is GOOD


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
