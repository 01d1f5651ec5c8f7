"""The contract with TensorFlow Serving: what the clients rely on, asked of the double or of a real server.

Expected answers are those of the same SavedModel called in this process, or were worked out by hand. Codes and
words are those of TensorFlow Serving's sources.
"""

import contextlib
import json

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("tensorflow_serving.apis")

from google.protobuf import text_format
from serving_contract import LABELS, ODD, POLICY, Grpc, Refused, Rest, encoded, path_of, served, spec_of
from serving_models import TEMPERATURES, slice_jpeg, slice_png, write_config
from tensorflow_serving.apis import get_model_metadata_pb2, model_management_pb2, predict_pb2

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # a real server's kernels are not those of the Python package
CODES = {"INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "NOT_FOUND": 404}


@pytest.fixture(scope="module")
def server(request, tmp_path_factory):
    # A server that runs has its own model: none is trained for it.
    with served(lambda: request.getfixturevalue("tiny_run"), tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture(scope="module")
def rest(server):
    transport = Rest(server)
    yield transport
    transport.close()


@pytest.fixture(scope="module")
def stubs(server):
    transport = Grpc(server)
    yield transport
    transport.close()


@pytest.fixture(params=["rest", "stubs"])
def ask(request):
    """One transport, then the other."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def ours(server):
    """A server that the tests started, with the models of `serving_models.py`."""
    if server.config is None:
        pytest.skip("this needs the tests' own models, and the server is somebody's")
    return server


@pytest.fixture
def unbatched(ours):
    """Such a server, if it computes each request alone."""
    if ours.batching:
        pytest.skip("a server that batches fills requests up and splits the outputs, which it cannot do here")
    return ours


@pytest.fixture(scope="module")
def images():
    return [slice_png(0), slice_jpeg(1), slice_png(2)]


@contextlib.contextmanager
def refused(ask, grpc_code):
    """Holds that a call is refused with this code, or over REST with the HTTP status of it."""
    with pytest.raises(Refused) as caught:
        yield caught
    assert caught.value.code == (grpc_code if isinstance(ask, Grpc) else CODES[grpc_code]), caught.value.message


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values.numpy(), **CLOSE, err_msg=name)


def only(outputs):
    (value,) = outputs.values()
    return value.tolist()


# --- answers ---


@pytest.mark.parametrize("signature", ["serving_default", "explain"])
def test_encoded_images_are_answered_by_the_newest_version(server, ask, images, signature):
    expected = server.reference()[signature](image_bytes=tf.constant(images))
    assert_same(ask.predict(server.model, signature, {"image_bytes": images}), expected)


def test_pixels_are_answered(server, ask):
    pixels = np.arange(2 * 5 * 6 * 3, dtype=np.uint8).reshape(2, 5, 6, 3)
    expected = server.reference()["pixels"](images=tf.constant(pixels))
    assert_same(ask.predict(server.model, "pixels", {"images": pixels}), expected)


def test_each_version_is_asked_by_its_number(server, ask, images):
    for version in server.folders:
        expected = server.reference(version)["serving_default"](image_bytes=tf.constant(images))
        assert_same(ask.predict(server.model, "", {"image_bytes": images}, version), expected)


def test_a_version_s_temperature_divides_the_logit(ours, ask, images):
    logits = []
    for version in (1, 2):
        covid = ask.predict(ours.model, "", {"image_bytes": images}, version)["covid"].astype(np.float64)
        logits.append(np.log(covid / (1 - covid)) * TEMPERATURES[version])
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4)
    assert np.abs(logits[0]).min() > 0.01  # else both would answer the same


def test_each_label_is_asked_by_its_name(server, ask, images):
    if not server.labels:
        pytest.skip("the server's labels are not known: SERVING_LABELS")
    for label, version in server.labels.items():
        expected = server.reference(version)["serving_default"](image_bytes=tf.constant(images))
        assert_same(ask.predict(server.model, "", {"image_bytes": images}, label=label), expected)


def test_each_version_gives_its_card(server, ask):
    for version, folder in server.folders.items():
        card = only(ask.predict(server.model, "card", {"query": [b""]}, version))
        text = card[0].decode() if isinstance(card[0], bytes) else card[0]
        assert text == (folder / "assets" / "card.json").read_text(encoding="ascii")
        if server.config:
            assert json.loads(text)["temperature"] == TEMPERATURES[version]


def test_a_bad_image_refuses_its_request_and_no_other(server, ask, images):
    # Two images: a size that a server that batches does not fill up.
    with refused(ask, "INVALID_ARGUMENT") as caught:
        ask.predict(server.model, "", {"image_bytes": [images[0], b"text"]})
    assert "1 of 2 images cannot be read" in caught.value.message
    assert "image_bytes[1]: neither PNG nor JPEG" in caught.value.message
    assert len(ask.predict(server.model, "", {"image_bytes": images})["covid"]) == 3


def test_an_empty_batch_is_refused_by_the_model(unbatched, ask):
    """Never asked of a server that batches: to fill up an empty batch may be its end."""
    with refused(ask, "INVALID_ARGUMENT") as caught:
        ask.predict(unbatched.model, "pixels", {"images": np.zeros((0, 4, 4, 3), np.uint8)})
    if isinstance(ask, Grpc):  # in JSON an empty list has no further dimensions, which is refused, too
        assert "the request holds no image" in caught.value.message


def test_a_request_may_be_larger_than_grpc_s_own_limit(server, ask, images):
    large = images[0] + bytes(5_000_000)  # what stands behind the end of a PNG is not read
    expected = server.reference()["serving_default"](image_bytes=tf.constant([images[0]]))
    assert_same(ask.predict(server.model, "", {"image_bytes": [large]}), expected)


def test_values_of_every_kind_arrive(ours, ask):
    found = ask.predict(ODD, "kinds", {"count": np.array([-3, 12], np.int64)})
    assert found["flag"].tolist() == [False, True]
    assert found["half"].tolist() == [-1.5, 6.0]
    assert found["small"].tolist() == [253, 12]
    if isinstance(ask, Grpc):
        assert found["text"].tolist() == [b"-3", b"12"]
        assert found["raw_bytes"].tolist() == [b"\xff-3", b"\xff12"]
    else:
        assert found["text"].tolist() == ["-3", "12"]
        assert found["raw_bytes"].tolist() == [{"b64": "/y0z"}, {"b64": "/zEy"}]


def test_several_inputs(ours, ask):
    assert only(ask.predict(ODD, "sum", {"a": np.float32([1, 2]), "b": np.float32([10, 20])})) == [11.0, 22.0]


def test_an_output_without_a_batch(unbatched, ask):
    assert only(ask.predict(ODD, "total", {"values": np.float32([1, 2, 4])})) == 7.0
    mark = only(ask.predict(ODD, "mark", {"values": np.float32([1])}))
    assert mark == (b"\xff\0" if isinstance(ask, Grpc) else {"b64": "/wA="})


# --- refusals ---


@pytest.mark.parametrize(
    ("specified", "words"),
    [
        ({"model": "nobody"}, "Servable not found for request: Latest(nobody)"),
        ({"version": 4711}, "4711"),
        ({"model": "nobody", "version": 1}, "Servable not found for request: Specific(nobody, 1)"),
    ],
)
def test_a_model_or_version_that_is_not_there_is_not_found(server, ask, images, specified, words):
    specified = {"model": server.model, **specified}
    with refused(ask, "NOT_FOUND") as caught:
        ask.predict(signature="", inputs={"image_bytes": images}, **specified)
    assert words in caught.value.message
    with refused(ask, "NOT_FOUND"):
        ask.metadata(**specified)


def test_an_unknown_label_is_an_invalid_argument(server, ask, images):
    with refused(ask, "INVALID_ARGUMENT") as caught:
        ask.predict(server.model, "", {"image_bytes": images}, label="nightly")
    assert caught.value.message == "Unrecognized servable version label: nightly"
    with refused(ask, "INVALID_ARGUMENT"):
        ask.metadata(server.model, label="nightly")


def test_an_unknown_signature_is_refused(server, ask, images):
    with refused(ask, "FAILED_PRECONDITION") as caught:
        ask.predict(server.model, "classify", {"image_bytes": images})
    assert '"classify" not found' in caught.value.message


def test_without_a_name_serving_default_is_meant(ours, ask):
    with refused(ask, "FAILED_PRECONDITION") as caught:
        ask.predict(ODD, "", {"values": np.float32([1])})
    assert '"serving_default" not found' in caught.value.message


def test_a_missing_input_is_named(ours, ask):
    with refused(ask, "INVALID_ARGUMENT") as caught:
        ask.predict(ODD, "sum", {"a": np.float32([1])})
    words = "Missing but required: {b}" if isinstance(ask, Grpc) else "Missing named input: b in 'inputs' object."
    assert words in caught.value.message


def test_inputs_of_different_batches_are_refused_by_the_model(ours, ask):
    with refused(ask, "INVALID_ARGUMENT") as caught:
        ask.predict(ODD, "sum", {"a": np.float32([1, 2]), "b": np.float32([1, 2, 3])})
    assert "ncompatible shapes" in caught.value.message or "equal 0th-dimension" in caught.value.message


def test_an_input_of_another_name_or_type_is_refused_by_grpc(server, stubs, images):
    with refused(stubs, "INVALID_ARGUMENT"):
        stubs.predict(server.model, "", {"image": images})
    with refused(stubs, "INVALID_ARGUMENT"):
        stubs.predict(server.model, "", {"image_bytes": images, "more": images})
    with refused(stubs, "INVALID_ARGUMENT") as caught:
        stubs.predict(server.model, "", {"image_bytes": np.int64([1])})
    assert "Expects arg[0] to be string but int64 is provided" in caught.value.message


# --- metadata and status ---


def test_metadata_tells_the_version_that_a_request_without_one_is_answered_by(server, ask):
    version, signatures = ask.metadata(server.model)
    assert version == server.newest
    assert {"serving_default", "explain", "pixels", "card"} <= signatures


def test_metadata_knows_labels(server, ask):
    for label, version in server.labels.items():
        assert ask.metadata(server.model, label=label)[0] == version
    for version in server.folders:
        assert ask.metadata(server.model, version)[0] == version


def test_metadata_gives_types_and_shapes(server, rest):
    document = rest.send("GET", f"{path_of(server.model)}/metadata")
    definition = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert definition["method_name"] == "tensorflow/serving/predict"
    image_bytes, covid = definition["inputs"]["image_bytes"], definition["outputs"]["covid"]
    assert (image_bytes["dtype"], covid["dtype"]) == ("DT_STRING", "DT_FLOAT")
    assert image_bytes["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}


def test_the_status_lists_every_version_the_newest_first(server, ask):
    states = ask.states(server.model)
    assert {version for version, state in states if state == "AVAILABLE"} == set(server.folders)
    assert [version for version, _ in states] == sorted((version for version, _ in states), reverse=True)


def test_the_status_of_one_version_and_of_none(server, ask):
    assert ask.states(server.model, server.newest) == [(server.newest, "AVAILABLE")]
    with refused(ask, "NOT_FOUND") as caught:
        ask.states(server.model, 4711)
    assert caught.value.message == f"Could not find version 4711 of model {server.model}"
    with refused(ask, "NOT_FOUND") as caught:
        ask.states("nobody")
    assert caught.value.message == "Could not find any versions of model nobody"


def test_the_status_does_not_know_labels(server, ask):
    assert ask.states(server.model, label="nightly") == ask.states(server.model)


# --- REST alone ---


def test_rows_and_columns_say_the_same(server, rest, images):
    values = encoded(images)
    bodies = [
        {"instances": values},
        {"instances": [{"image_bytes": value} for value in values]},
        {"inputs": values},
        {"inputs": {"image_bytes": values}},
    ]
    answers = [rest.send("POST", f"{path_of(server.model)}:predict", json=body) for body in bodies]
    columns = answers[3]["outputs"]
    rows = [{"covid": c, "lesions": x} for c, x in zip(columns["covid"], columns["lesions"], strict=True)]
    assert answers == [{"predictions": rows}, {"predictions": rows}, {"outputs": columns}, {"outputs": columns}]


def predict_odd(rest, signature, **body):
    return rest.send("POST", f"{path_of(ODD)}:predict", json={"signature_name": signature, **body})


def test_a_single_output_has_no_name_and_a_single_input_needs_none(ours, rest):
    assert predict_odd(rest, "echo", instances=[[1.0, 2.0], [3.0, 4.0]]) == {"predictions": [[1, 2], [3, 4]]}
    assert predict_odd(rest, "echo", inputs=[[1.0, 2.0]]) == {"outputs": [[1, 2]]}
    rows = [{"a": 1, "b": 10}, {"a": 2, "b": 20}]
    assert predict_odd(rest, "sum", instances=rows) == {"predictions": [11, 22]}


def test_rows_of_every_kind(ours, rest):
    expected = {"text": "12", "raw_bytes": {"b64": "/zEy"}, "flag": True, "half": 6.0, "small": 12}
    assert predict_odd(rest, "kinds", instances=[12]) == {"predictions": [expected]}


def test_numbers_are_written_shortly_and_those_that_are_none_by_name(ours, rest):
    body = '{"signature_name": "echo", "inputs": [[0.2, 1, 0.123456789, NaN, Infinity, -Infinity]]}'
    response = rest.client.post(f"{path_of(ODD)}:predict", content=body)
    found = json.loads(response.text, parse_float=str, parse_constant=str)
    assert found == {"outputs": [["0.2", "1.0", "0.123456791", "NaN", "Infinity", "-Infinity"]]}


@pytest.mark.parametrize(
    ("signature", "body", "words"),
    [
        ("sum", {"instances": [1.0]}, "instances is a plain list, but expecting list of objects"),
        ("sum", {"instances": [{"a": 1.0}]}, "Failed to process element: 0"),
        ("sum", {"instances": [{"a": 1.0, "b": 1.0}, {"a": 1.0, "c": 1.0}]}, "Failed to process element: 1"),
        ("sum", {"instances": [{"a": 1.0, "b": 1.0}, 1.0]}, "Expecting object but got"),
        ("echo", {"instances": [[1.0], {"values": [1.0]}]}, "Expecting value/list but got object at item 1"),
        ("echo", {"instances": [[1.0], [1.0, 2.0]]}, "Failed to process element: 1"),
        ("sum", {"inputs": [1.0]}, "inputs is a plain value/list, but expecting an object"),
        ("sum", {"inputs": {"a": [1.0]}}, "Missing named input: b in 'inputs' object."),
        ("echo", {"inputs": [[1.0], 2.0]}, "found at incorrect level"),
        ("echo", {"inputs": [[1.0], [2.0, 3.0]]}, "Encountered list at unexpected size: 2"),
        ("echo", {"inputs": [[True]]}, "is not of expected type: float"),
        ("echo", {"inputs": [[16777217]]}, "without loss of precision"),
        ("kinds", {"inputs": [1.0]}, "is not of expected type: int64"),
        ("kinds", {"inputs": ["1"]}, "is not of expected type: int64"),
    ],
)
def test_json_that_does_not_fit_the_signature_is_refused(ours, rest, signature, body, words):
    with refused(rest, "INVALID_ARGUMENT") as caught:
        predict_odd(rest, signature, **body)
    assert words in caught.value.message


def test_rows_need_a_common_batch_and_columns_do_not(unbatched, rest):
    for signature, words in (("total", "has no shape information"), ("uneven", "has inconsistent batch size")):
        with refused(rest, "INVALID_ARGUMENT") as caught:
            predict_odd(rest, signature, instances=[1.0, 2.0])
        assert words in caught.value.message
    assert predict_odd(rest, "uneven", inputs=[1.0, 2.0]) == {"outputs": {"values": [1, 2], "first": [1]}}


def test_extra_columns_are_passed_over(ours, rest):
    inputs = {"a": [1.0], "b": [2.0], "c": "of no use"}
    assert predict_odd(rest, "sum", inputs=inputs) == {"outputs": [3.0]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "JSON Parse error: The document is empty"),
        ("instances = [1, 2]", "JSON Parse error: Invalid value."),
        ('{"instances": [1', "JSON Parse error: "),
        ("[1]", "Is not object"),
        ("{}", "Missing 'inputs' or 'instances' key"),
        ('{"instances": [""], "inputs": [""]}', "only one of 'inputs' or 'instances'"),
        ('{"instances": {}}', "to be an list/array"),
        ('{"instances": []}', "No values in 'instances' array"),
        ('{"signature_name": 1, "inputs": [""]}', "'signature_name' key must be a string value."),
        ('{"instances": [{"b64": "!"}]}', "Unable to base64 decode"),
        ('{"instances": [{"b64": 1}]}', "Failed to process element: 0"),
        ('{"inputs": [1]}', "is not of expected type: string"),
    ],
)
def test_a_request_that_is_not_as_it_should_be_is_refused(server, rest, body, words):
    with refused(rest, "INVALID_ARGUMENT") as caught:
        rest.send("POST", f"{path_of(server.model)}:predict", content=body)
    assert words in caught.value.message


def test_base64_may_lack_its_padding_but_not_have_it_wrong(server, rest):
    def send(*texts):
        body = {"signature_name": "card", "inputs": [{"b64": text} for text in texts]}
        return rest.send("POST", f"{path_of(server.model)}:predict", json=body)

    assert len(send("YQ==", "YQ", "Y Q\n", "")["outputs"]) == 4
    for text in ("YQ=", "Y", "_-__", "YQ=="[::-1]):
        with refused(rest, "INVALID_ARGUMENT"):
            send(text)


def test_json_is_read_before_the_model_is_looked_for(rest):
    with refused(rest, "INVALID_ARGUMENT"):
        rest.send("POST", "/v1/models/nobody:predict", content="{")
    with refused(rest, "NOT_FOUND"):
        rest.send("POST", "/v1/models/nobody:predict", content="{}")


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("GET", "/v1/foo", "Malformed request: GET /v1/foo"),
        ("POST", "/v1/models/foo", "Malformed request"),
        ("GET", "/v1/models", "Missing model name"),
        ("GET", "/v1/models/foo:predict", "Malformed request"),
        ("POST", "/v1/models/foo/metadata", "Malformed request"),
        ("POST", "/v1/models/foo/versions/one:predict", "Malformed request"),
        ("POST", "/v1/models/foo/versions/1/labels/stable:predict", "Malformed request"),
        ("PUT", "/v1/models/foo", "Malformed request"),
    ],
)
def test_a_path_that_is_none_is_refused(rest, method, path, words):
    with refused(rest, "INVALID_ARGUMENT") as caught:
        rest.send(method, path, content="{}" if method == "POST" else None)
    assert words in caught.value.message


def test_a_version_that_is_too_large_is_refused_with_whatever_body(rest):
    response = rest.client.post(f"/v1/models/foo/versions/{2**63}:predict", content="{}")
    assert response.status_code == 400  # the real server's error has no body at all


def test_outside_the_api_there_is_nothing(rest):
    assert rest.client.get("/").status_code == 404
    assert rest.client.get("/v2/models/foo").status_code == 404


# --- gRPC alone ---


@pytest.mark.parametrize("signature", ["", "explain"])
def test_an_answer_says_what_answered(server, stubs, images, signature):
    for version in (None, *server.folders):
        request = predict_pb2.PredictRequest(model_spec=spec_of(server.model, signature, version))
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(images))
        answered_by = stubs.prediction.Predict(request).model_spec
        assert (answered_by.name, answered_by.version.value) == (server.model, version or server.newest)
        assert answered_by.signature_name == (signature or "serving_default")


def test_outputs_may_be_chosen(server, stubs, images):
    request = predict_pb2.PredictRequest(model_spec=spec_of(server.model, "explain"), output_filter=["covid"])
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(images))
    assert set(stubs.prediction.Predict(request).outputs) == {"covid"}
    request.output_filter.append("mood")
    with refused(stubs, "INVALID_ARGUMENT") as caught:
        stubs.call(stubs.prediction.Predict, request)
    assert "output tensor alias not found in signature: mood" in caught.value.message


def test_a_request_must_say_what_it_is_about(server, stubs):
    with refused(stubs, "INVALID_ARGUMENT") as caught:
        stubs.call(stubs.prediction.Predict, predict_pb2.PredictRequest())
    assert caught.value.message == "Missing ModelSpec"
    with refused(stubs, "INVALID_ARGUMENT"):
        stubs.predict("", "", {})
    request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec_of(server.model))
    with refused(stubs, "INVALID_ARGUMENT"):
        stubs.call(stubs.prediction.GetModelMetadata, request)
    request.metadata_field.append("card")
    with refused(stubs, "INVALID_ARGUMENT"):
        stubs.call(stubs.prediction.GetModelMetadata, request)


def test_a_long_message_is_cut(server, stubs):
    with refused(stubs, "INVALID_ARGUMENT") as caught:
        stubs.predict(server.model, "", {"a" * 3000: [b""]})
    assert caught.value.message.endswith("...TRUNCATED")
    assert len(caught.value.message) == 1024 + len("...TRUNCATED")


def test_labels_move_by_a_new_configuration(ours, stubs):
    def reload(**labels):
        # The server's own file: one that polls it would go back to what it says.
        file = write_config(ours.config, models, policy=POLICY, labels=labels)
        request = model_management_pb2.ReloadConfigRequest()
        text_format.Parse(file.read_text(), request.config)
        return stubs.call(stubs.service.HandleReloadConfigRequest, request)

    models = {name: ours.config.with_name(name) for name in ("ladnn", ODD)}
    try:
        assert reload(stable=2, fresh=3).status.error_code == 0
        assert stubs.metadata("ladnn", label="stable")[0] == 2
        with refused(stubs, "INVALID_ARGUMENT"):
            stubs.metadata("ladnn", label="canary")
        with refused(stubs, "NOT_FOUND"):
            stubs.metadata("ladnn", label="fresh")
        with refused(stubs, "FAILED_PRECONDITION") as caught:
            reload(stable=3)
        assert "Request to assign label to version 3 of model ladnn" in caught.value.message
        assert stubs.metadata("ladnn", label="stable")[0] == 2
    finally:
        reload(**LABELS)
    assert stubs.metadata("ladnn", label="stable")[0] == 1
