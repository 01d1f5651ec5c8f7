"""The client of TensorFlow Serving against a server that is a Python object: what it sends, what it answers."""

import csv
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from serving_models import slice_png
from test_preprocess import NOISE, encode
from tiny_tflite import card_of

from ladnn_tf.card import Export, card_json, parse_card
from ladnn_tf.labels import LESIONS
from serving import client as command
from serving.clients import output as client_output
from serving.clients.answers import bad_places
from serving.clients.errors import (
    InvalidRequest,
    ModelRefused,
    NotFound,
    Overloaded,
    ServerFailed,
    ServingError,
    TimedOut,
    Unavailable,
)
from serving.clients.retry import Retry
from serving.clients.serving_client import ServingClient

FIT = Export("saved_model", "0" * 64, "fit")
LESION_ROW = [0.1, 0.2, 0.3, 0.4, 0.5]


class Clock:
    """Seconds that pass only when somebody says so, or sleeps."""

    def __init__(self):
        self.now = 100.0
        self.slept = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


class Server:
    """A transport with the server in it: an image is the text of its probability, `0.25`, or `bad`.

    Attributes:
        numbers: real images, by the texts that stand for them.
        cards: version -> its card; a version that is not here is not loaded.
        labels: label -> version; the highest version is the newest.
        asked: what was sent, a tuple each: `version` and the label, `card` and the version, a signature and the
            images and the version.
        failures: exceptions, and None for none, that the next calls meet, in order.
        refuse: what it says of a request with these images; empty if it answers.
        change: makes other outputs of the right ones.
    """

    def __init__(self, **changes):
        self.cards = {1: card_json(card_of(b"one", export=FIT, **changes))}
        self.numbers = {}
        self.labels = {}
        self.asked = []
        self.failures = []
        self.refuse = lambda images: "a damaged image" if b"bad" in images else ""
        self.change = lambda outputs: outputs
        self.state = {1: "AVAILABLE"}
        self.closed = False

    def predict(self, signature, inputs, version, label):
        images = [self.numbers.get(image, image) for image in inputs.get("image_bytes", ())]
        self.asked.append((signature, *([images] if images else []), version))
        self._fail()
        if version not in self.cards:
            raise NotFound(f"Servable not found for request: Specific(ladnn, {version})")
        if signature == "card":
            if inputs != {"query": [b""]} or not self.cards[version]:
                raise InvalidRequest("400", 'Serving signature name: "card" not found in signature def')
            return {"card": np.array([self.cards[version]], object)}
        if words := self.refuse(images):
            raise InvalidRequest("400", words)
        outputs = {
            "covid": np.array([float(image) for image in images], np.float32),
            "lesions": np.array([LESION_ROW] * len(images), np.float32),
        }
        if signature == "explain":
            outputs["maps"] = np.arange(len(images) * 24, dtype=np.float32).reshape(-1, 2, 2, 6)
        return self.change(outputs)

    def served_version(self, label):
        self.asked.append(("version", label))
        self._fail()
        return self.labels[label] if label else max(self.cards)

    def states(self):
        self._fail()
        return self.state

    def close(self):
        self.closed = True

    def _fail(self):
        failure = self.failures.pop(0) if self.failures else None
        if failure:
            raise failure


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def client_of(clock):
    def make(server, draw=1.0, **options):
        options = {"retry": Retry(sleep=clock.sleep, draw=lambda: draw), "clock": clock} | options
        return ServingClient(server, **options)

    return make


def requests(server):
    """The images of each request, with the version that was asked."""
    return [(images, version) for signature, images, version in filter(lambda a: len(a) == 3, server.asked)]


def test_an_answer_is_judged_by_the_card_and_a_probability_at_the_threshold_is_positive(server, client_of):
    client = client_of(server)
    answers = client.ask([b"0.25", b"0.5", b"0.75"])
    assert [(answer.covid, answer.positive) for answer in answers] == [(0.25, False), (0.5, True), (0.75, True)]
    assert answers[0].lesions == {
        name: pytest.approx(value) for name, value in zip(LESIONS, LESION_ROW, strict=True)
    }
    assert (answers[0].threshold, answers[0].maps, answers[0].error) == (0.5, None, "")
    assert client.card() == (answers[0].card, answers[0].card_sha256)
    assert answers[0].card == parse_card(server.cards[1], "x")
    assert server.asked == [("version", ""), ("card", 1), ("serving_default", [b"0.25", b"0.5", b"0.75"], 1)]


def test_maps_come_when_they_are_asked_for(server, client_of):
    answers = client_of(server).ask([b"0.1", b"0.2"], explain=True)
    assert server.asked[-1][0] == "explain"
    assert answers[1].maps.shape == (2, 2, 6)
    assert answers[1].maps[0, 0].tolist() == [24, 25, 26, 27, 28, 29]


def test_a_baseline_has_no_lesions_and_one_map(client_of):
    server = Server(task="baseline")
    server.change = lambda outputs: {
        name: values[..., :1] if name == "maps" else values
        for name, values in outputs.items()
        if name != "lesions"
    }
    answer = client_of(server).ask([b"0.3"], explain=True)[0]
    assert (answer.lesions, answer.maps.shape) == ({}, (2, 2, 1))


CLASSES = ("covid19", "bacterial", "normal")


def drenet_outputs(outputs, regions=2, **changes):
    """What a DRENet answers in the place of the server's outputs: the same for every image."""
    count = len(outputs["covid"])
    found = {"covid": outputs["covid"], "classes": np.array([[0.5, 0.375, 0.125]] * count, np.float32)}
    if "maps" in outputs:
        found["boxes"] = np.full((count, regions, 4), (-0.25, 0.0, 0.5, 0.75), np.float32)
        found["scores"] = np.array([[0.75, 0.25]] * count, np.float32)
    return found | changes


def test_a_drenet_has_classes_and_if_asked_boxes_and_scores(client_of):
    server = Server(task="drenet", classes=CLASSES)
    server.change = drenet_outputs
    answer = client_of(server).ask([b"0.3"])[0]
    assert answer.classes == {"covid19": 0.5, "bacterial": 0.375, "normal": 0.125}
    assert (answer.covid, answer.lesions, answer.boxes, answer.scores) == (pytest.approx(0.3), {}, None, None)
    answer = client_of(server).ask([b"0.3", b"0.4"], explain=True)[1]
    assert answer.boxes.tolist() == [[-0.25, 0.0, 0.5, 0.75]] * 2
    assert answer.scores.tolist() == [0.75, 0.25]
    assert answer.maps is None


def test_a_plain_trunk_explains_nothing(client_of):
    server = Server(task="trunk", classes=CLASSES)
    server.change = drenet_outputs
    answer = client_of(server).ask([b"0.3"], explain=True)[0]
    assert list(answer.classes) == list(CLASSES)
    assert (answer.maps, answer.boxes, answer.scores) == (None, None, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": np.zeros((2, 2), np.float32)}, r"classes \(2, 2\) float32; expected \(2, 3\)"),
        ({"scores": np.zeros((2, 3), np.float32)}, "2 boxes and 3 scores for an image"),
        ({"boxes": np.zeros((2, 2, 5), np.float32)}, r"boxes \(2, 2, 5\) float32; expected \(2, n, 4\)"),
    ],
)
def test_a_drenet_s_outputs_have_the_shapes_that_its_card_promises(client_of, changes, words):
    server = Server(task="drenet", classes=CLASSES)
    server.change = lambda outputs: drenet_outputs(outputs, **changes)
    with pytest.raises(ServerFailed, match=words):
        client_of(server).ask([b"0.3", b"0.4"], explain=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": np.array([[np.nan, 0, 0]], np.float32)}, "no finite numbers"),
        ({"boxes": np.full((1, 2, 4), np.inf, np.float32)}, "no finite numbers"),
        ({"scores": np.array([[1.5, 0.5]], np.float32)}, "no probabilities"),
    ],
)
def test_impossible_numbers_of_a_drenet_are_an_error_of_the_image(client_of, changes, words):
    server = Server(task="drenet", classes=CLASSES)
    server.change = lambda outputs: drenet_outputs(outputs, **changes)
    answer = client_of(server).ask([b"0.3"], explain=True)[0]
    assert words in answer.error
    assert (answer.covid, answer.classes, answer.boxes) == (None, {}, None)


def test_many_images_go_in_batches_and_come_back_in_order(server, client_of):
    values = [round(0.01 * n, 2) for n in range(1, 21)]
    answers = client_of(server).ask([str(value).encode() for value in values])
    assert [len(images) for images, _ in requests(server)] == [8, 8, 4]
    assert [answer.covid for answer in answers] == pytest.approx(values)
    assert client_of(Server()).ask([]) == []


def test_a_request_has_a_bound_in_bytes_and_a_larger_image_is_an_error_of_its_own(server, client_of):
    answers = client_of(server, request_bytes=10).ask([b"0.11", b"0.22", b"0.33", b"0.123456789", b"0.44"])
    assert [images for images, _ in requests(server)] == [[b"0.11", b"0.22"], [b"0.33", b"0.44"]]
    assert [answer.covid for answer in answers] == [
        *map(pytest.approx, (0.11, 0.22, 0.33)),
        None,
        pytest.approx(0.44),
    ]
    assert answers[3].error == "too large: at most 10 bytes are sent in one request, this file has 11"


def test_an_image_is_read_and_checked_before_it_is_sent(server, client_of):
    slices = [slice_png(0), slice_png(1)]
    server.numbers = {slices[0]: b"0.2", slices[1]: b"0.8", encode(NOISE): b"0.6"}
    images = [b"", slices[0], encode(NOISE), slices[1][:200], slices[1]]
    answers = client_of(server).predict(images)
    assert [answer.covid for answer in answers] == [None, pytest.approx(0.2), None, None, pytest.approx(0.8)]
    assert answers[0].error == "the file is empty; copy it again from its source"
    assert answers[3].error.startswith("damaged or truncated image")
    assert answers[2].abstained
    assert "noise" in answers[2].reason
    assert [images for images, _ in requests(server)] == [[b"0.2", b"0.8"]]
    unchecked = client_of(server, check=False).predict(images)
    assert unchecked[2].covid == pytest.approx(0.6)
    assert not unchecked[2].abstained


def test_images_are_bytes(server, client_of):
    client = client_of(server)
    with pytest.raises(
        ValueError, match=r"^images\[1\] should be the bytes of a PNG or JPEG file. Received: ndarray"
    ):
        client.ask([b"0.5", np.zeros(3)])
    with pytest.raises(ValueError, match=r"should be a list of images\. Received: a single bytes"):
        client.predict(b"0.5")
    assert server.asked == []


# What TensorFlow writes around the words of the graph, over several lines.
WORDS = (
    "assertion failed: [{} of {} images cannot be read, and none of the request is answered: {}]\n"
    "\t [[{{{{node Assert/Assert}}}}]]"
)


def refusing(bad, counts):
    """Words with places, as the graph has them, for the images in `bad`."""

    def refuse(images):
        counts.append(len(images))
        places = [place for place, image in enumerate(images) if image in bad]
        named = "; ".join(f"image_bytes[{place}]: neither PNG nor JPEG; convert it" for place in places)
        return WORDS.format(len(places), len(images), named) if places else ""

    return refuse


def test_the_images_that_the_server_names_get_their_error_and_the_others_are_sent_again(server, client_of):
    counts = []
    server.refuse = refusing({b"bad", b"worse"}, counts)
    answers = client_of(server).ask([b"0.1", b"bad", b"0.2", b"worse"])
    assert [answer.covid for answer in answers] == [pytest.approx(0.1), None, pytest.approx(0.2), None]
    assert [answer.error for answer in answers] == ["", "neither PNG nor JPEG; convert it"] * 2
    assert counts == [4, 2]
    assert client_of(server).ask([b"bad"])[0].error == "neither PNG nor JPEG; convert it"
    assert counts == [4, 2, 1]  # nothing is left to send


def test_without_places_the_batch_is_halved_until_the_culprits_are_alone(server, client_of, clock):
    answers = client_of(server).ask([b"0.1", b"0.2", b"0.3", b"bad", b"0.5", b"bad", b"0.7", b"0.8"])
    assert [answer.covid for answer in answers] == [
        None if number is None else pytest.approx(number) for number in (0.1, 0.2, 0.3, None, 0.5, None, 0.7, 0.8)
    ]
    assert answers[3].error == "the model server refuses this image (a damaged image)"
    # 8; 4, 2, 2, 1, 1 and the same again; the culprits twice more.
    assert [len(images) for images, _ in requests(server)] == [8, 4, 2, 2, 1, 1, 1, 1, 4, 2, 1, 1, 1, 1, 2]
    assert len(clock.slept) == 4


def test_a_server_that_fills_its_batches_up_names_another_total_and_the_batch_is_halved(server, client_of):
    """1 of 4 for a request of 3: the fourth image is the server's own, and the places could be another batch's."""
    counts = []

    def refuse(images):
        filled = list(images) + [images[0]] * ({3: 4}.get(len(images), len(images)) - len(images))
        words = refusing({b"bad"}, [])(filled)
        counts.append((len(images), words.partition("[")[2].partition(" images")[0]))
        return words

    server.refuse = refuse
    answers = client_of(server).ask([b"0.1", b"0.2", b"bad"])
    assert [answer.covid for answer in answers] == [pytest.approx(0.1), pytest.approx(0.2), None]
    assert answers[2].error == "neither PNG nor JPEG; convert it"
    assert counts == [(3, "1 of 4"), (1, ""), (2, "1 of 2"), (1, "")]


def test_an_image_alone_that_was_put_together_with_another_client_s_is_sent_again(server, client_of, clock):
    words = [WORDS.format(1, 8, "image_bytes[0]: neither PNG nor JPEG; convert it"), "a damaged image", ""]
    server.refuse = lambda images: words.pop(0)
    assert client_of(server).ask([b"0.9"])[0].covid == pytest.approx(0.9)
    assert clock.slept == [0.25, 0.5]


@pytest.mark.parametrize(
    ("words", "count", "expected"),
    [
        (WORDS.format(1, 2, "image_bytes[1]: a; b"), 2, {1: "a; b"}),
        (WORDS.format(1, 2, "image_bytes[1]: a; b"), 3, {}),  # a batch of the server's, not this request
        (WORDS.format(3, 3, "image_bytes[0]: a; image_bytes[1]: b\n c; and 1 more"), 3, {0: "a", 1: "b c"}),
        ("1 of 2 images cannot be read: image_bytes[0]: a", 2, {0: "a"}),
        ("1 of 2 images cannot be read: image_bytes[7]: a", 2, {}),
        ("2 of 2 images cannot be read: image_bytes[0]: a; image_bytes[1]: b; copy...TRUNCATED", 2, {0: "a"}),
        ("Invalid PNG data, size 1708", 2, {}),
        ("", 1, {}),
    ],
)
def test_places_are_read_from_the_server_s_words(words, count, expected):
    assert bad_places(words, count) == expected


def test_what_is_unavailable_is_tried_again_ever_more_slowly_and_not_for_ever(server, client_of, clock):
    server.failures = [Unavailable("503")] * 3
    assert client_of(server).ask([b"0.5"])[0].covid == 0.5
    assert clock.slept == [0.25, 0.5, 1.0]
    server.asked.clear()
    server.failures = [Unavailable("the last word")] * 9
    with pytest.raises(Unavailable, match="the last word"):
        client_of(server).ask([b"0.5"])
    assert server.asked == [("version", "")] * 4
    assert len(server.failures) == 5


@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0])
def test_pauses_are_drawn_between_half_and_all_of_a_doubling_bound(draw):
    retry = Retry(draw=lambda: draw)
    bounds = [0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert [retry.pause(n) for n in range(1, 8)] == pytest.approx([bound * (0.5 + 0.5 * draw) for bound in bounds])


@pytest.mark.parametrize(
    "kind", [TimedOut, InvalidRequest, NotFound, ServerFailed, Overloaded, ServingError, ModelRefused]
)
def test_nothing_else_is_tried_again(kind, clock):
    calls = []

    def work():
        calls.append(1)
        raise kind("no")

    with pytest.raises(kind):
        Retry(sleep=clock.sleep).call(work)
    assert (len(calls), clock.slept) == (1, [])


def test_a_server_s_wish_to_be_left_alone_is_respected_but_not_for_long(server, client_of, clock):
    server.failures = [Unavailable("full", retry_after=7.0)]
    client_of(server).card()
    assert clock.slept == [7.25]
    server.failures = [Unavailable("full", retry_after=31.0)]
    with pytest.raises(Unavailable, match="full"):
        client_of(server).card()
    assert clock.slept == [7.25]
    with pytest.raises(ValueError, match="attempts should be 1 or more"):
        Retry(attempts=0)


def add_version(server, version, **changes):
    server.cards[version] = card_json(card_of(str(version).encode(), export=FIT, **changes))


def test_the_version_is_asked_every_few_seconds_and_its_card_once(server, client_of, clock):
    client = client_of(server)
    for _ in range(3):
        client.ask([b"0.5"])
    add_version(server, 2, threshold=0.7)
    assert client.ask([b"0.6"])[0].positive  # version 1, with its card
    clock.now += 3.0
    assert client.ask([b"0.6"])[0].positive is False
    assert requests(server)[-1] == ([b"0.6"], 2)
    clock.now += 3.0
    client.ask([b"0.6"])
    assert [asked for asked in server.asked if len(asked) == 2] == [
        ("version", ""),
        ("card", 1),
        ("version", ""),
        ("card", 2),
        ("version", ""),
        ("card", 2),  # a server that was set up anew may have another model under the number
    ]


def test_a_label_is_resolved_and_its_version_pinned(server, client_of, clock):
    add_version(server, 2, threshold=0.7)
    server.labels = {"stable": 1}
    client = client_of(server, label="stable")
    assert client.card()[0].threshold == 0.5
    server.labels = {"stable": 2}
    clock.now += 3.0
    assert client.ask([b"0.6"])[0].threshold == 0.7
    assert server.asked[0] == ("version", "stable")
    assert requests(server) == [([b"0.6"], 2)]


def test_a_version_that_is_gone_is_resolved_anew_once(server, client_of):
    client = client_of(server)
    client.card()
    add_version(server, 2, threshold=0.7)
    del server.cards[1]
    answer = client.ask([b"0.6"])[0]
    assert (answer.threshold, answer.positive) == (0.7, False)
    assert requests(server) == [([b"0.6"], 1), ([b"0.6"], 2)]
    server.failures = [NotFound("gone")]
    with pytest.raises(NotFound, match="gone"):  # and the same one is served still
        client.ask([b"0.6"])
    versions = [3, 4, 5]
    server.served_version = lambda label: versions.pop(0)
    with pytest.raises(NotFound, match=r"Specific\(ladnn, 4\)"):  # not a third time
        client_of(server).ask([b"0.6"])


def test_after_a_server_went_away_nothing_is_taken_for_granted(server, client_of):
    client = client_of(server)
    client.card()
    server.failures = [Unavailable("down")] * 4
    with pytest.raises(Unavailable):
        client.ask([b"0.6"])
    server.cards[1] = card_json(card_of(b"another", export=FIT, threshold=0.9))
    assert client.ask([b"0.6"])[0].threshold == 0.9


@pytest.mark.parametrize(
    ("export", "words"),
    [
        (
            Export("saved_model", "0" * 64, "unfit", ("maps differ",)),
            "is unfit by its own card: maps differ. Allow it",
        ),
        (
            Export("saved_model", "0" * 64),
            "was never compared with the run .* python -m export.saved_model. Allow it",
        ),
    ],
)
def test_an_unfit_model_answers_only_where_it_is_allowed_and_says_so(export, words, client_of):
    server = Server()
    server.cards[1] = card_json(card_of(b"one", export=export))
    with pytest.raises(ModelRefused, match=words):
        client_of(server).ask([b"0.5"])
    assert requests(server) == []
    assert client_of(server, allow_unfit=True).ask([b"0.5"])[0].unfit


@pytest.mark.parametrize(
    ("card", "words"),
    [
        (b"", "version 1 has no signature 'card', .* export it again by python -m export.saved_model"),
        (b"{}", "the card that version 1 answers with is not a model card"),
        (card_json(card_of(b"one", export=None)), "is that of a run, not of an exported model"),
        (card_json(card_of(b"one", export=FIT, lungs="extracted")), "is shown the lungs alone by its card, and"),
    ],
)
def test_a_model_without_a_card_that_clients_can_keep_to_is_refused(card, words, server, client_of):
    server.cards[1] = card
    with pytest.raises(ModelRefused, match=words):
        client_of(server).card()


def test_a_card_that_is_no_text_is_refused(server, client_of):
    predict = server.predict
    server.predict = lambda *asked: {"card": np.zeros(1, np.float32)} if asked[0] == "card" else predict(*asked)
    with pytest.raises(ModelRefused, match="answers the signature 'card' with something else"):
        client_of(server).card()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("covid", np.zeros(1, np.float32)),
        ("covid", np.zeros(3, np.float32)),
        ("covid", np.zeros((2, 1), np.float32)),
        ("covid", np.array([b"0", b"1"], object)),
        ("lesions", np.zeros((2, 4), np.float32)),
        ("lesions", None),
        ("maps", np.zeros((2, 2, 2, 1), np.float32)),
        ("maps", np.zeros((2, 0, 2, 6), np.float32)),
        ("maps", None),
    ],
)
def test_numbers_of_another_shape_are_an_error_and_no_answer(name, values, server, client_of):
    def change(outputs):
        return {key: value for key, value in (outputs | {name: values}).items() if value is not None}

    server.change = change
    with pytest.raises(ServerFailed, match=f"version 1 answers with(out)? {name}"):
        client_of(server).ask([b"0.5", b"0.6"], explain=True)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("covid", np.nan, "no finite numbers"),
        ("covid", np.inf, "no finite numbers"),
        ("lesions", np.nan, "no finite numbers"),
        ("maps", np.nan, "no finite numbers"),
        ("covid", 1.5, "no probabilities"),
        ("lesions", -0.1, "no probabilities"),
    ],
)
def test_numbers_that_are_none_concern_one_image_and_are_no_diagnosis(name, value, words, server, client_of):
    def change(outputs):
        outputs[name][(1,) + (0,) * (outputs[name].ndim - 1)] = value
        return outputs

    server.change = change
    first, second = client_of(server).ask([b"0.5", b"0.6"], explain=True)
    assert (first.covid, first.error) == (0.5, "")
    assert words in second.error
    assert (second.covid, second.positive, second.lesions, second.maps) == (None, None, {}, None)


@pytest.mark.parametrize("state", ["START", "LOADING", "UNLOADING", "END", "UNKNOWN"])
def test_ready_reads_the_state_of_the_version_that_would_be_asked(state, server, client_of, clock):
    client = client_of(server)
    assert client.ready()
    server.state = {1: state, 7: "AVAILABLE"}
    assert not client.ready()
    server.state = {}
    assert not client.ready()
    server.failures = [Unavailable("down")]
    assert not client.ready()
    assert clock.slept == []


@pytest.fixture
def files(server, tmp_path):
    """Five files of which the server answers 0.0, 0.2, ... 0.8, and two that cannot be read."""
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(slice_png(number))
        server.numbers[slice_png(number)] = str(number / 5).encode()
    (tmp_path / "large.png").write_bytes(b"")
    os.truncate(tmp_path / "large.png", 256 * 2**20 + 1)  # a hole: it takes no room
    return [
        str(tmp_path / name) for name in ("0.png", "1.png", "gone.png", "large.png", "2.png", "3.png", "4.png")
    ]


def answered(*arguments):
    """The records, and the cards that they have."""
    found = list(command.answer_files(*arguments))
    return [record for record, _ in found], list(dict.fromkeys(card.version for _, card in found))


def test_files_are_answered_in_groups_and_told_in_order(files, server, client_of):
    records, versions = answered(client_of(server, check=False), files, 3)
    assert [record["file"] for record in records] == files
    assert [record["covid"] for record in records] == [
        None if covid is None else pytest.approx(covid) for covid in (0.0, 0.2, None, None, 0.4, 0.6, 0.8)
    ]
    assert [record["positive"] for record in records] == [False, False, None, None, False, True, True]
    assert records[2]["error"] == "cannot be read (No such file or directory)"
    assert records[3]["error"].startswith("not read: more than 268,435,456 bytes")
    assert [len(images) for images, _ in requests(server)] == [2, 2, 1]
    assert versions == [parse_card(server.cards[1], "x").version]


def test_a_failure_on_the_way_leaves_the_answers_that_there_are(files, server, client_of):
    client = client_of(server, check=False)
    server.failures = [None, None, None, ServerFailed("it broke")]  # version, card, 3 files; 3 files
    records, _ = answered(client, files, 3)
    assert [record["covid"] is None for record in records] == [False, False, True, True, True, True, True]
    assert records[2]["error"].startswith("cannot be read")
    assert {record["error"] for record in records[3:]} == {
        "the server failed before this file was answered: it broke"
    }
    assert len(requests(server)) == 2  # a server that failed is left alone
    server.failures = [ServerFailed("it broke")]
    with pytest.raises(ServerFailed, match="it broke"):
        answered(client, files, 3)


def test_two_versions_in_one_table_are_both_explained(files, server, client_of, clock):
    found = []
    for record, card in command.answer_files(client_of(server, check=False), files, 3):
        found.append((record["threshold"], card))
        clock.now += 2.0
        if not record["file"].endswith("0.png"):
            add_version(server, 2, threshold=0.7)
    assert [(threshold, card.threshold) for threshold, card in found] == [(0.5, 0.5)] * 3 + [(0.7, 0.7)] * 4
    cards = [found[0][1], found[-1][1]]
    footer = client_output.footer(cards)
    assert "COVID-19 at 0.500 or above (by hand)." in footer
    assert "COVID-19 at 0.700 or above (by hand)." in footer
    assert "--json and --csv tell which one answered what" in footer
    assert footer.endswith(cards[0].notice)
    assert "changed" not in client_output.footer(cards[:1])


@pytest.fixture
def main(server, monkeypatch, tmp_path):
    """The command with this server behind any URL, two files a request; gives its status and what it wrote."""
    monkeypatch.setattr(command, "connect", lambda *_, **__: ServingClient(server, check=False, batch_size=2))
    names = tmp_path / "out.csv", tmp_path / "out.json"

    def main(*files):
        arguments = ["client", "--url=http://h", "--batch_size=2", f"--csv={names[0]}", f"--json={names[1]}"]
        return command.main([*arguments, *files])

    def written():
        with names[0].open(newline="") as file:
            rows = list(csv.DictReader(file))
        records = json.loads(names[1].read_text())["predictions"]
        assert [row["file"] for row in rows] == [record["file"] for record in records]
        return rows

    main.written = written
    main.names = names
    return main


def test_ctrl_c_leaves_what_was_answered(main, files, server, capsys):
    server.failures = [None, None, None, KeyboardInterrupt()]  # version, card, 2 files; then none could be read
    assert main(*files[:2], *files[4:]) == 130
    assert [row["file"] for row in main.written()] == files[:2]
    printed = capsys.readouterr()
    assert printed.err == "interrupted: 2 of 5 files are answered\n"
    assert printed.out.splitlines()[-2:] == [f"written: {name}" for name in main.names]
    assert server.closed


def test_ctrl_c_before_the_first_answer_writes_nothing(main, files, server, capsys):
    server.failures = [KeyboardInterrupt()]
    assert main(*files) == 130
    assert not any(name.exists() for name in main.names)
    assert capsys.readouterr() == ("", "interrupted: 0 of 7 files are answered\n")


def test_whatever_else_ends_the_command_leaves_what_was_answered(main, files, server):
    server.failures = [None, None, None, MemoryError()]
    with pytest.raises(MemoryError):
        main(*files[:2], *files[4:])
    assert [row["file"] for row in main.written()] == files[:2]


def test_a_server_that_fails_on_the_way_leaves_what_was_answered(main, files, server):
    server.failures = [None, None, None, ServerFailed("it broke")]
    assert main(*files[:2], *files[4:]) == 1
    rows = main.written()
    assert [row["error"] != "" for row in rows] == [False, False, True, True, True]
    assert rows[4]["error"] == "the server failed before this file was answered: it broke"


def test_what_is_named_twice_is_asked_once(main, files, server, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    main(str(tmp_path), files[0], str(tmp_path / ".." / tmp_path.name / "1.png"))
    assert [row["file"] for row in main.written()] == sorted(name for name in files if "gone" not in name)
    assert sum(len(images) for images, _ in requests(server)) == 5


def test_the_csv_tells_the_caveats_of_the_card(main, files, server):
    export = Export("saved_model", "0" * 64, "unfit", ("maps differ",))
    server.cards[1] = card_json(card_of(b"one", export=export, lesion_targets="positives"))
    client = ServingClient(server, check=False, allow_unfit=True)
    ((record, card),) = command.answer_files(client, files[:1], 1)
    client_output.write_csv([record], [card], main.names[0])
    with main.names[0].open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert len(card.caveats) > 1
    assert row["caveats"] == " ".join(card.caveats)
    assert row["notice"] == card.notice


def test_table_csv_and_json_of_a_drenet_have_classes_in_the_place_of_lesions(files, main):
    server = Server(task="drenet", classes=CLASSES)
    server.change = drenet_outputs
    server.numbers[Path(files[0]).read_bytes()] = b"0.5"
    ((record, card),) = command.answer_files(ServingClient(server, check=False), files[:1], 1)
    said = {"covid19": 0.5, "bacterial": 0.375, "normal": 0.125}
    assert record["classes"] == said
    client_output.write_csv([record], [card], main.names[0])
    with main.names[0].open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert {name: float(row[f"{name}_probability"]) for name in CLASSES} == said
    assert not set(LESIONS) & set(row)
    client_output.write_json([record], [card], main.names[0])
    assert json.loads(main.names[0].read_text())["predictions"][0]["classes"] == said
    header, line = command.table_header(card), command.table_row(record)
    assert header.split()[-3:] == list(CLASSES)
    assert line.split()[-3:] == ["0.500", "0.375", "0.125"]


def test_a_client_closes_its_transport(server):
    with ServingClient(server) as client:
        assert client.ready()
    assert server.closed
    for option in ("batch_size", "request_bytes"):
        with pytest.raises(ValueError, match=f"{option} should be 1 or more"):
            ServingClient(server, **{option: 0})


def test_threads_share_a_client_and_each_gets_its_own_answers(server, client_of):
    client, answers = client_of(server), {}

    def work(number):
        value = number / 100
        answers[value] = [answer.covid for answer in client.ask([str(value).encode()] * 9)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 16
    for value, found in answers.items():
        assert found == [pytest.approx(value)] * 9


def test_errors_are_one_line_and_errors_of_the_system():
    error = ServingError("a\n\tb  c", "a\nb")
    assert (str(error), error.words) == ("a b c", "a\nb")
    assert isinstance(error, OSError)


def test_rest_needs_neither_tensorflow_nor_grpc():
    imports = "import sys, serving.client, serving.clients.rest"
    code = f"{imports}; print({{'tensorflow', 'grpc', 'keras'}} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


@pytest.mark.parametrize(
    ("url", "package", "extra"), [("http://h:1", "httpx", "serving"), ("grpc://h:1", "grpc", "grpc")]
)
def test_a_missing_package_is_an_error_that_names_the_extra(url, package, extra):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"from serving.client import main; main(['client', '--url={url}', 'a.png'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"pip install '.[{extra}]' in the root of the checkout" in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[-1].startswith("ValueError: ")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8501", "the URL should be http://, https://, grpc:// or grpcs:// and HOST:PORT"),
        ("ftp://localhost", "the URL should be"),
        ("http://", "the URL should be"),
        ("http://localhost:port", "is no URL"),
        ("grpc://localhost:8500/v1", "with nothing else"),
        ("grpc://localhost:8500#a", "with nothing else"),
    ],
)
def test_other_urls_are_refused(url, words):
    with pytest.raises(ValueError, match=words):
        command.connect(url)


def test_certificates_and_times_must_make_sense(tmp_path):
    with pytest.raises(ValueError, match="are for https:// and grpcs:// alone"):
        command.connect("http://localhost:8501", ca_file="ca.pem")
    (tmp_path / "ca.pem").write_text("no certificate")
    for file in ("ca.pem", "none.pem"):
        with pytest.raises(ValueError, match=f"{file} cannot be read as certificates"):
            command.connect("https://localhost:8501", ca_file=tmp_path / file)
    for name in ("timeout", "connect_timeout"):
        with pytest.raises(ValueError, match=f"^{name} should be above 0. Received: 0"):
            command.connect("http://localhost:8501", **{name: 0})
