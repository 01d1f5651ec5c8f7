"""The client against the double of TensorFlow Serving: the same tests over REST and over gRPC."""

import contextlib
import csv
import json
import socket

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving_models import TEMPERATURES, slice_jpeg, slice_png, version_folders
from test_preprocess import NOISE, encode
from tiny_tflite import card_of

pytest.importorskip("httpx")
pytest.importorskip("tensorflow_serving.apis")

from ladnn_tf.card import NOTICE, Export, card_json
from ladnn_tf.labels import LESIONS
from serving import client as command
from serving.clients.errors import ModelRefused, NotFound, TimedOut, Unavailable
from serving.clients.retry import Retry
from serving.double.server import Double

ONCE = Retry(attempts=1)
SECONDS = 60.0  # to wait for what must come
BY_HAND = card_of(b"", name="hand", task="baseline", threshold=0.25, export=Export("saved_model", "0" * 64, "fit"))


class ByHand(tf.Module):
    """A baseline whose answer is the file's length divided by 1000."""

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")])
    def answer(self, image_bytes):
        return {"covid": tf.cast(tf.strings.length(image_bytes), tf.float32) / 1000.0}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="query")])
    def card(self, query):
        return {"card": tf.repeat(tf.constant(card_json(BY_HAND))[None], tf.shape(query)[0])}


def write_config(path, folders, versions=(1, 2), stable=1):
    """A models.config with the given versions of `ladnn`, and the newest of the others."""
    models = [
        f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" ' for name, base in folders
    ]
    policy = " ".join(f"versions: {version}" for version in versions)
    models[0] += f"model_version_policy {{ specific {{ {policy} }} }} "
    models[0] += f'version_labels {{ key: "stable" value: {stable} }} '
    path.write_text(f"model_config_list {{ {' '.join(model + '}' for model in models)} }}\n")


@pytest.fixture(scope="module")
def folders(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    module = ByHand()
    card = {"card": module.card}
    tf.saved_model.save(module, str(folder / "hand" / "1"), signatures={"serving_default": module.answer, **card})
    tf.saved_model.save(module, str(folder / "cardless" / "1"), signatures={"serving_default": module.answer})
    version_folders(tiny_run, folder / "ladnn")
    return [(name, folder / name) for name in ("ladnn", "hand", "cardless")]


@pytest.fixture(scope="module")
def shared_double(folders, tmp_path_factory):
    config = tmp_path_factory.mktemp("config") / "models.config"
    write_config(config, folders)
    options = {"allow_version_labels_for_unavailable_models": True, "file_system_poll_wait_seconds": 0.0}
    with Double(config, **options) as double:
        yield double, config


@pytest.fixture
def double(shared_double, folders):
    """The double with both versions and `stable` on 1, as each test finds it; and what changes that."""
    double, config = shared_double

    def change(**changes):
        write_config(config, folders, **changes)
        double.read_config_again()
        double.models.poll()

    double.change = change
    yield double
    change()


@pytest.fixture(params=["rest", "grpc"])
def url(request, double):
    return double.rest_url if request.param == "rest" else f"grpc://{double.grpc_address}"


@pytest.fixture
def clock():
    seconds = [0.0]

    def clock():
        return seconds[0]

    clock.forward = lambda by: seconds.__setitem__(0, seconds[0] + by)
    return clock


@pytest.fixture
def connect(url):
    clients = []

    def connect(**options):
        options = {"retry": ONCE, "allow_unfit": True, "check": False} | options
        clients.append(command.connect(url, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture(scope="module")
def loaded(folders):
    return {version: tf.saved_model.load(str(folders[0][1] / str(version))) for version in TEMPERATURES}


@pytest.mark.parametrize("explain", [False, True])
def test_the_answers_are_those_of_the_model(explain, connect, loaded):
    images = [slice_png(0), slice_jpeg(1), slice_png(2)]
    expected = loaded[2].signatures["explain"](image_bytes=tf.constant(images))
    answers = connect().predict(images, explain=explain)
    np.testing.assert_allclose([answer.covid for answer in answers], expected["covid"], atol=1e-6)
    np.testing.assert_allclose(
        [[answer.lesions[lesion] for lesion in LESIONS] for answer in answers], expected["lesions"], atol=1e-6
    )
    if explain:
        np.testing.assert_allclose([answer.maps for answer in answers], expected["maps"], atol=1e-5)
    for answer in answers:
        assert (answer.card.temperature, answer.error, answer.maps is None) == (TEMPERATURES[2], "", not explain)
        assert answer.positive == (answer.covid >= answer.threshold)


def damaged_png(encoded):
    """With a wrong checksum in the middle, which only the decoder finds: the server's error names no place."""
    return encoded[:200] + bytes([encoded[200] ^ 255]) + encoded[201:]


def test_a_good_image_beside_corrupt_ones_is_answered(connect, loaded):
    good = [slice_png(seed) for seed in range(3)]
    images = [good[0], b"", damaged_png(good[1]), good[1], b"text", good[2], good[0][:500]]
    client = connect(retry=Retry(sleep=lambda seconds: None))
    expected = loaded[2].signatures["serving_default"](image_bytes=tf.constant(good))["covid"]
    for answers in (client.ask(images), client.predict(images)):
        covid = [answer.covid for answer in answers]
        assert [place for place, value in enumerate(covid) if value is not None] == [0, 3, 5]
        np.testing.assert_allclose([covid[0], covid[3], covid[5]], expected, atol=1e-6)
        assert answers[1].error == "the file is empty; copy it again from its source"
        assert answers[4].error == "neither PNG nor JPEG; convert it"
        assert answers[6].error.startswith("damaged or truncated image")
        assert answers[2].error
    assert "Invalid PNG data" in client.ask(images)[2].error


def test_a_label_that_moves_moves_the_answers_and_their_card(connect, double, clock, loaded):
    client, image = connect(label="stable", clock=clock), slice_png(0)
    temperatures = []
    for version in (1, 2):
        double.change(stable=version)
        clock.forward(10.0)
        answer = client.predict([image])[0]
        expected = loaded[version].signatures["serving_default"](image_bytes=tf.constant([image]))["covid"]
        np.testing.assert_allclose(answer.covid, expected[0], atol=1e-6)
        assert answer.card == client.card()[0]
        temperatures.append(answer.card.temperature)
    assert temperatures == [TEMPERATURES[1], TEMPERATURES[2]]


def test_a_version_that_is_unloaded_while_it_is_pinned_is_replaced(connect, double, clock):
    client, image = connect(clock=clock), slice_png(0)
    assert client.ask([image])[0].card.temperature == TEMPERATURES[2]
    double.change(versions=(1,))
    assert client.ask([image])[0].card.temperature == TEMPERATURES[1]
    assert client.ready()


def test_what_the_server_does_not_have_is_not_found(connect):
    with pytest.raises(
        NotFound, match=r"serves no model 'other' \(Servable not found for request: Latest\(other\)\)"
    ):
        connect(model="other").card()
    with pytest.raises(NotFound, match=r"no label 'none' .*Unrecognized servable version label: none"):
        connect(label="none").ask([slice_png(0)])
    for options in ({"model": "other"}, {"label": "none"}):
        assert not connect(**options).ready()
    assert connect(label="stable").ready()


def test_a_baseline_s_only_output_is_understood(connect):
    answers = connect(model="hand").ask([b"x" * 249, b"x" * 250])
    assert [(answer.covid, answer.positive, answer.lesions) for answer in answers] == [
        (pytest.approx(0.249), False, {}),
        (0.25, True, {}),
    ]
    assert answers[0].card == BY_HAND


def test_a_model_without_a_card_and_an_unfit_one_are_refused(connect):
    with pytest.raises(ModelRefused, match=r"has no signature 'card', .* by python -m export\.saved_model"):
        connect(model="cardless").ask([b"x"])
    with pytest.raises(ModelRefused, match="was never compared with the run"):
        connect(allow_unfit=False).predict([slice_png(0)])


def test_a_large_batch_goes_over_the_wire(connect):
    """More than the 4 MiB that gRPC takes by default."""
    answers = connect(model="hand").ask([b"x" * 900_000] * 8)
    assert [answer.error for answer in answers] == [
        "the model gives numbers for this image that are no probabilities"
    ] * 8


@pytest.fixture
def silent():
    """A port at which connections are taken, and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_says_nothing_times_out(scheme, silent):
    with (
        command.connect(f"{scheme}://127.0.0.1:{silent}", timeout=0.05, retry=ONCE) as client,
        pytest.raises(TimedOut, match=rf"127.0.0.1:{silent}: no whole answer within 0.05 s"),
    ):
        client.card()


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_is_not_there_is_unavailable_until_it_is(scheme, folders, monkeypatch, request):
    reserved = socket.socket()
    request.addfinalizer(reserved.close)
    reserved.bind(("127.0.0.1", 0))  # nobody else gets the port, and as it does not listen, it refuses
    port = reserved.getsockname()[1]
    url = f"{scheme}://127.0.0.1:{port}"
    with command.connect(url, model="hand", retry=ONCE) as client:
        assert not client.ready()
        with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{port} cannot be reached"):
            client.card()
    double = Double(dict(folders[1:2]), **{"rest_port" if scheme == "http" else "grpc_port": port})
    channels = []
    real = grpc.insecure_channel
    monkeypatch.setattr(grpc, "insecure_channel", lambda *given: channels.append(real(*given)) or channels[-1])
    with contextlib.ExitStack() as running:
        pauses = []

        def sleep(seconds):
            pauses.append(seconds)
            reserved.close()
            running.enter_context(double)
            for channel in channels:  # gRPC looks by itself, soon enough: test_serving_client_transports.py
                grpc.channel_ready_future(channel).result(SECONDS)

        client = running.enter_context(command.connect(url, model="hand", retry=Retry(sleep=sleep)))
        assert client.card()[0] == BY_HAND
        assert len(pauses) == 1


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(slice_png(0))
    (folder / "b.jpg").write_bytes(slice_jpeg(1))
    (folder / "c.png").write_bytes(b"text")
    (folder / "notes.txt").write_text("no image")
    (tmp_path / "noise.png").write_bytes(encode(NOISE))
    return folder


def test_the_command_answers_files_and_folders(url, files, tmp_path, capsys):
    outputs = [f"--csv={tmp_path / 'out.csv'}", f"--json={tmp_path / 'out.json'}"]
    arguments = [
        str(files),
        str(tmp_path / "noise.png"),
        str(tmp_path / "gone.png"),
        "--allow_unfit",
        "--batch_size=2",
    ]
    assert command.main(["client", f"--url={url}", "--label=stable", *arguments, *outputs]) == 1
    printed = capsys.readouterr()
    assert "1 file in " in printed.err
    lines = printed.out.splitlines()
    assert lines[0].split() == ["file", "COVID-19", "call", *LESIONS]
    assert lines[3].endswith("  no answer: neither PNG nor JPEG; convert it")
    assert "  no answer, not a chest-CT slice: noise, text or thin lines: " in lines[4]
    assert lines[5].endswith("  no answer: cannot be read (No such file or directory)")
    assert lines[7].startswith("positive: COVID-19 at 0.")
    assert "UNFIT MODEL" in lines[9]
    assert NOTICE in lines
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    document = json.loads((tmp_path / "out.json").read_text())
    assert [row["file"] for row in rows] == [record["file"] for record in document["predictions"]]
    assert [row["abstained"] for row in rows] == ["False", "False", "False", "True", "False"]
    assert float(rows[0]["covid"]) == document["predictions"][0]["covid"]
    assert float(rows[1]["GGO"]) == document["predictions"][1]["lesions"]["GGO"]
    assert {row["notice"] for row in rows} == {NOTICE}
    (model,) = document["models"]
    assert model["model_version"] == rows[0]["model_version"] == lines[8]
    assert [(model["notice"], model["unfit"])] == [(NOTICE, True)]
    assert command.main(["client", f"--url={url}", str(files / "a.png"), "--allow_unfit", "--nocheck"]) == 0


def test_the_command_says_in_one_line_what_is_wrong(url, files, silent):
    image = str(files / "a.png")
    with pytest.raises(ModelRefused, match="was never compared"):
        command.main(["client", f"--url={url}", image])
    with pytest.raises(NotFound, match="serves no model 'other'"):
        command.main(["client", f"--url={url}", "--model=other", image])
    with pytest.raises(NotFound, match="no label 'x'"):
        command.main(["client", f"--url={url}", "--label=x", image])
    with pytest.raises(TimedOut):
        command.main(["client", f"--url=http://127.0.0.1:{silent}", "--timeout=0.05", image])
    with pytest.raises(ValueError, match="cannot be written: there is no folder"):
        command.main(["client", f"--url={url}", "--csv=/none/x.csv", image])
    (files / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no \.png, \.jpg or \.jpeg file"):
        command.main(["client", f"--url={url}", str(files / "empty")])
    with pytest.raises(SystemExit):
        command.main(["client", f"--url={url}"])
