"""The page with TensorFlow Serving's double behind it, over REST, while its versions change."""

import pytest
import tensorflow as tf
from serving_models import slice_png, write_config
from serving_page import JSON, running_page
from tiny_tflite import card_of

pytest.importorskip("httpx")
pytest.importorskip("tensorflow_serving.apis")

from ladnn_tf.card import Export, card_json
from ladnn_tf.data.phantom_volume import phantom_volume
from serving.client import connect
from serving.clients.retry import Retry
from serving.double.server import Double
from serving.page.predictors import RemotePredictor

CARDS = {
    version: card_of(
        b"",
        name=f"hand{version}",
        task="baseline",
        threshold=threshold,
        export=Export("saved_model", "0" * 64, "fit"),
    )
    for version, threshold in ((1, 0.25), (2, 0.75))
}
BYTES = tf.TensorSpec((None,), tf.string)


def save(version, folder):
    """A baseline that gives every image 0.5 and a map of zeros."""

    class Half(tf.Module):
        @tf.function(input_signature=[BYTES])
        def explain(self, image_bytes):
            count = tf.shape(image_bytes)[0]
            return {"covid": tf.fill([count], 0.5), "maps": tf.zeros([count, 2, 2, 1])}

        @tf.function(input_signature=[BYTES])
        def card(self, query):
            return {"card": tf.repeat(tf.constant(card_json(CARDS[version]))[None], tf.shape(query)[0])}

    module = Half()
    tf.saved_model.save(module, str(folder), signatures={"explain": module.explain, "card": module.card})


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The double with both versions and the label `stable`; and a function that moves it."""
    folder = tmp_path_factory.mktemp("served")
    for version in CARDS:
        save(version, folder / "ladnn" / str(version))
    config = folder / "models.config"
    models = {"ladnn": folder / "ladnn"}
    write_config(config, models, labels={"stable": 1})
    with Double(config, allow_version_labels_for_unavailable_models=True) as double:

        def move(version):
            write_config(config, models, labels={"stable": version})
            double.read_config_again()
            double.models.poll()

        yield double, move


@pytest.fixture
def page(served, tmp_path):
    double, move = served
    move(1)
    now = [0.0]
    client = connect(double.rest_url, label="stable", retry=Retry(attempts=1), clock=lambda: now[0])
    predictor = RemotePredictor(client, check=False)
    with running_page(tmp_path, predictor=predictor, ready_seconds=0.0) as made:
        made.move = move
        made.wait = lambda: now.__setitem__(0, now[0] + 10.0)  # the client asks every few seconds for the version
        yield made
    predictor.close()


def test_page_audit_log_and_metrics_follow_the_label(page):
    for version in (1, 2, 1):
        page.move(version)
        page.wait()
        (result,) = page.results(("a.png", slice_png()))
        assert result["model_version"] == CARDS[version].version
        assert result["threshold"] == CARDS[version].threshold
        assert result["positive"] is (version == 1)  # 0.5 is above 0.25 and below 0.75
        line = page.audit("image")[-1]
        assert (line["model_version"], line["card_sha256"]) == (CARDS[version].version, result["card_sha256"])
        assert page.audit("request")[-1]["model_version"] == CARDS[version].version
        assert f'version="{CARDS[version].version}"' in page.client.get("/metrics").text


def test_a_good_image_beside_a_corrupt_one_is_answered(page):
    good, bad = page.results(("a.png", slice_png()), ("b.png", slice_png()[:-20]))
    assert (good["state"], good["covid"]) == ("answered", 0.5)
    assert bad["state"] == "error"
    assert bad["model_version"] == good["model_version"]


def test_ready_means_answered(page):
    assert page.client.get("/readyz").status_code == 200


def test_a_series_is_answered_in_requests_of_several_slices(page, tmp_path):
    """Each slice gets 0.5; the threshold is that of the version that is served."""
    pytest.importorskip("pydicom")
    from ladnn_tf.data.dicom_writer import write_series

    hu, spacing_mm, _ = phantom_volume(slices=18, size=64, seed=1)
    files = [(path.name, path.read_bytes()) for path in write_series(hu, spacing_mm, tmp_path / "series")]
    for version, threshold, positive in ((1, 0.25, True), (2, 0.75, False)):
        page.move(version)
        page.wait()
        (result,) = page.upload(*files).json()["series"]
        assert (result["covid"], result["low"], result["threshold"]) == (0.5, None, threshold)
        assert (result["positive"], result["model_version"]) == (positive, CARDS[version].version)
        assert 10 < result["slices_answered"] < 15
    assert [line["call"] for line in page.audit("series")] == ["positive", "negative"]


def test_a_model_server_that_is_gone(tmp_path, served):
    double, _ = served
    client = connect(double.rest_url, model="none", retry=Retry(attempts=1))
    with running_page(tmp_path, predictor=RemotePredictor(client, check=False)) as page:
        response = page.upload(("a.png", slice_png()))
        assert (response.status_code, response.json()["error"]["code"]) == (502, "server_failed")
        assert page.client.get("/readyz").json()["reason"] == "the model server fails"
        assert page.client.get("/", headers=JSON).status_code == 200
    client.close()
