"""The command that writes a SavedModel: what it leaves in the folder, what a fresh process makes of it."""

import dataclasses
import errno
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from test_preprocess import NOISE, encode

pytest.importorskip("tensorflow_serving.apis")

from tensorflow_serving.apis import prediction_log_pb2

from export import saved_model, warmup
from export.artefacts import saved_model_card
from ladnn_tf import runs
from ladnn_tf.card import parse_card
from ladnn_tf.data.phantom_slice import example_png

LOAD = """
import json, os, sys

class Refuse:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("ladnn_tf", "export"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
import tensorflow as tf

folder, image = sys.argv[1:]
model = tf.saved_model.load(folder)
answers = model.signatures["serving_default"](image_bytes=tf.constant([open(image, "rb").read()]))
print(json.dumps({name: tensor.numpy().tolist() for name, tensor in answers.items()}), flush=True)
from tensorflow.python.tools import saved_model_cli

sys.argv = ["saved_model_cli", "show", "--dir", folder, "--all"]
saved_model_cli.main()
"""


@pytest.fixture(scope="module")
def run_folder(tiny_run, tmp_path_factory):
    """A copy of the run, in which looks may be counted, with a temperature that changes answers."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    shutil.copytree(tiny_run, folder)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "temperature": 2.5}))
    return folder


@pytest.fixture(scope="module")
def out(run_folder, tmp_path_factory):
    """The folder of versions that the command made, with version 1."""
    folder = tmp_path_factory.mktemp("models") / "ladnn"
    assert saved_model.main(["saved_model", f"--run={run_folder}", f"--out={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def loaded(out):
    return tf.saved_model.load(str(out / "1"))


@pytest.fixture
def copied(out, tmp_path, monkeypatch):
    """A folder of its own with version 1; the next is a copy of it, fit by decree."""
    folder = tmp_path / "ladnn"
    shutil.copytree(out, folder)
    card = saved_model_card(out / "1")
    found = saved_model.parity.Comparison("1", card, "fit", (), card.export.measured)

    def stage(_, target):
        shutil.copytree(out / "1", target)
        return card

    monkeypatch.setattr(saved_model, "stage", stage)
    monkeypatch.setattr(saved_model.parity, "compare", lambda *_: found)
    return folder


@pytest.fixture(scope="module")
def evidence(run_folder):
    return saved_model.parity.load_evidence(runs.load_run(run_folder), images=4)


@pytest.fixture
def export_again(copied, run_folder, evidence):
    def export(keep_failed=False):
        run, tolerances = runs.load_run(run_folder), saved_model.parity.Tolerances()
        return saved_model.export(run, copied, evidence, tolerances, keep_failed=keep_failed)

    return export


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_version_its_card_and_its_report_are_there_and_nothing_else(out, run_folder):
    assert names(out) == ["1", "parity_1.json", "parity_1.md"]
    assert names(out / "1" / "assets") == ["card.json"]
    assert names(out / "1" / "assets.extra") == ["tf_serving_warmup_requests"]
    card, source = saved_model_card(out / "1"), runs.load_run(run_folder).card
    assert (card.export.format, card.export.fitness) == ("saved_model", "fit")
    assert card.export.source_sha256 == source.model_sha256
    assert card.export.measured["same_pixels"]["probability_difference"]["largest"] < 1e-5
    assert dataclasses.replace(card, export=None, model_sha256=source.model_sha256) == source
    assert json.loads((out / "parity_1.json").read_text())["artefacts"][0]["in_place"]


def test_signatures_have_the_names_types_and_shapes_of_the_contract(out):
    assert saved_model.describe(out / "1") == [
        "serving_default: image_bytes string [B] -> covid float32 [B], lesions float32 [B, 5]",
        "explain: image_bytes string [B] -> covid float32 [B], lesions float32 [B, 5], maps float32 [B, 4, 4, 6]",
        "pixels: images uint8 [B, ?, ?, 3] -> covid float32 [B], lesions float32 [B, 5]",
        "card: query string [B] -> card string [B]",
    ]


def test_the_model_answers_with_its_final_card(out, loaded):
    """Not with the run's, which was there when the graph was written."""
    said = loaded.signatures["card"](query=tf.constant([b"", b"whatever"]))["card"].numpy().tolist()
    assert said == [(out / "1" / "assets" / "card.json").read_bytes()] * 2
    assert parse_card(said[0], "x").export.fitness == "fit"


def test_it_answers_as_the_server_loads_it(out, loaded):
    """TensorFlow Serving loads it as a graph into a session, and not as `tf.saved_model.load` does."""
    images = [encode(NOISE), example_png()]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        definitions = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(out / "1")).signature_def

        def ask(signature, **inputs):
            definition = definitions[signature]
            outputs = {name: info.name for name, info in definition.outputs.items()}
            return session.run(outputs, {definition.inputs[name].name: value for name, value in inputs.items()})

        assert ask("card", query=[b""])["card"].tolist() == [(out / "1" / "assets" / "card.json").read_bytes()]
        found = ask("serving_default", image_bytes=images)
    expected = loaded.signatures["serving_default"](image_bytes=tf.constant(images))
    assert set(found) == set(expected) == {"covid", "lesions"}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values.numpy(), atol=1e-6)


def test_an_export_of_an_older_version_is_to_be_made_again(out, tmp_path):
    shutil.copytree(out / "1", tmp_path / "1")
    (tmp_path / "1" / "assets" / "card.json").rename(tmp_path / "1" / "assets.extra" / "card.json")
    with pytest.raises(ValueError, match=r"1 was made by an older version of ladnn_tf: .* Export the run again"):
        saved_model_card(tmp_path / "1")
    (tmp_path / "1" / "assets.extra" / "card.json").unlink()
    with pytest.raises(ValueError, match=r"^there is no "):
        saved_model_card(tmp_path / "1")


def test_a_fresh_process_without_this_project_loads_and_shows_it(out, loaded, tmp_path):
    image = tmp_path / "slice.png"
    image.write_bytes(encode(NOISE))
    command = [sys.executable, "-c", LOAD, str(out / "1"), str(image)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    first, _, shown = result.stdout.partition("\n")
    here = loaded.signatures["serving_default"](image_bytes=tf.constant([encode(NOISE)]))
    for name, values in json.loads(first).items():
        np.testing.assert_allclose(values, here[name].numpy(), atol=1e-6)
    for line in ("signature_def['explain']", "inputs['image_bytes'] tensor_info", "outputs['maps'] tensor_info"):
        assert line in shown


def test_bad_bytes_reach_the_caller_as_invalid_argument_and_pixels_must_be_rgb(loaded):
    serve, good = loaded.signatures["serving_default"], encode(NOISE)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"image_bytes\[1\]: neither PNG nor JPEG; convert it"
    ):
        serve(image_bytes=tf.constant([good, b"text", good]))
    assert serve(image_bytes=tf.constant([good, good]))["covid"].shape == (2,)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[1,4,4,1\] is not compatible"):
        loaded.signatures["pixels"](images=tf.zeros((1, 4, 4, 1), tf.uint8))


def test_warm_up_asks_every_signature_with_every_batch_size(out, loaded):
    asked = []
    for record in tf.data.TFRecordDataset(str(out / "1" / "assets.extra" / warmup.FILE)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        answers = loaded.signatures[request.model_spec.signature_name](**inputs)
        asked.append((request.model_spec.signature_name, len(answers["covid"])))
    assert sorted(asked) == [(name, b) for name in ("explain", "pixels", "serving_default") for b in (1, 2, 4, 8)]


def test_warm_up_requests_are_the_same_bytes_every_time(tmp_path):
    assert warmup.write_requests(tmp_path / "a", 32) == warmup.write_requests(tmp_path / "b", 32) == 12
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_warm_up_requests_that_cannot_be_written_are_an_error_in_one_line(tmp_path):
    path = tmp_path / "gone" / warmup.FILE
    with pytest.raises(OSError, match=f"^{path} cannot be written: "):
        warmup.write_requests(path, 32)


def test_the_next_version_follows_the_highest_integer(tmp_path):
    assert saved_model.next_version(tmp_path) == 1
    for name in ("2", "10", "9.old", ".11", "x12", "parity_13.md"):
        (tmp_path / name).mkdir()
    assert saved_model.next_version(tmp_path) == 11
    for name in ("parity_14.json", "parity_15.md", "parity_x.json", "parity.json"):
        (tmp_path / name).write_text("{}")
    assert saved_model.next_version(tmp_path) == 15


def test_an_unfit_version_is_not_written_but_its_report_is(copied, run_folder, evidence, monkeypatch, capsys):
    monkeypatch.setattr(saved_model.parity, "load_evidence", lambda *_: evidence)
    fit = saved_model.parity.compare()
    unfit = dataclasses.replace(fit, fitness="unfit", reasons=("maps differ",))
    monkeypatch.setattr(saved_model.parity, "compare", lambda *_: unfit)
    command = ["saved_model", f"--run={run_folder}", f"--out={copied}", "--images=4"]
    assert saved_model.main(command) == saved_model.parity.UNFIT == 3
    assert names(copied) == ["1", "parity_1.json", "parity_1.md", "parity_2.json", "parity_2.md"]
    printed = capsys.readouterr().out
    assert f"not written: {copied / '2'} (unfit; --keep_failed" in printed
    assert "maps differ" in printed
    assert saved_model.main([*command, "--keep_failed"]) == 3
    card = saved_model_card(copied / "3")
    assert (card.export.fitness, card.export.reasons) == ("unfit", ("maps differ",))
    assert f"written: {copied / '3'} (unfit, " in capsys.readouterr().out


def test_a_version_that_another_export_took_meanwhile_is_left_alone(copied, export_again, monkeypatch):
    fit = saved_model.parity.compare()

    def compare(*_):
        shutil.copytree(copied / "1", copied / "2")
        return fit

    monkeypatch.setattr(saved_model.parity, "compare", compare)
    before = (copied / "1" / "assets" / "card.json").read_bytes()
    comparison, placed = export_again()
    assert (comparison.name, placed) == ("3", True)
    assert (copied / "2" / "assets" / "card.json").read_bytes() == before
    assert names(copied) == ["1", "2", "3", "parity_1.json", "parity_1.md", "parity_3.json", "parity_3.md"]
    assert json.loads((copied / "parity_3.json").read_text())["artefacts"][0]["name"] == "3"


@pytest.mark.parametrize("error", [FileExistsError("taken"), OSError(errno.ENOTEMPTY, "Directory not empty")])
def test_a_version_taken_between_the_look_and_the_rename_is_another_s(copied, export_again, monkeypatch, error):
    place = saved_model.placing.place_saved_model

    def beaten(staged, card, comparison, target, keep_failed):
        if target.name == "2":
            target.mkdir()
            raise error
        return place(staged, card, comparison, target, keep_failed)

    monkeypatch.setattr(saved_model.placing, "place_saved_model", beaten)
    assert export_again()[0].name == "3"


def test_other_errors_of_placing_are_not_tried_again_and_leave_nothing(copied, export_again, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saved_model.placing, "place_saved_model", full)
    with pytest.raises(OSError, match="No space left"):
        export_again()
    assert names(copied) == ["1", "parity_1.json", "parity_1.md"]


def test_what_a_killed_export_left_goes_and_what_another_one_makes_stays(tmp_path):
    (tmp_path / ".staging-killed" / "7").mkdir(parents=True)
    with saved_model.staging(tmp_path) as first, saved_model.staging(tmp_path) as second:
        assert names(tmp_path) == sorted([first.name, second.name])
        assert all(name.startswith(".") for name in names(tmp_path))
    assert names(tmp_path) == []


def test_a_version_is_not_taken_for_the_folder_of_versions(out, run_folder, evidence):
    with pytest.raises(ValueError, match=f"give the folder of all versions, {out}$"):
        saved_model.export(runs.load_run(run_folder), out / "1", evidence, None, keep_failed=False)


def test_an_error_of_tensorflow_in_writing_is_one_line(run_folder, tmp_path, monkeypatch):
    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "no space left")

    monkeypatch.setattr(saved_model, "servable", lambda *_: (None, {}))
    monkeypatch.setattr(tf.saved_model, "save", full)
    with pytest.raises(OSError, match=f"{tmp_path / 'new'} cannot be written: no space left"):
        saved_model.stage(runs.load_run(run_folder), tmp_path / "new")
