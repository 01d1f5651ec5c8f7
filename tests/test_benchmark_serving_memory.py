"""The benchmark of a server's memory: its table by hand, and a run on a SavedModel of a few bytes."""

import itertools

import pytest

from benchmarks import serving_memory
from benchmarks.serving_memory import Stage


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """A SavedModel that says how many bytes each image has, and refuses an empty one."""
    import tensorflow as tf

    holder = tf.Module()
    holder.one = tf.Variable(1.0)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")])
    def lengths(image_bytes):
        length = tf.cast(tf.strings.length(image_bytes), tf.float32)
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(length > 0.0), ["empty"])]):
            return {"covid": length * holder.one}

    folder = tmp_path_factory.mktemp("models") / "1"
    tf.saved_model.save(holder, str(folder), signatures={"serving_default": lengths, "explain": lengths})
    return folder


def test_table_by_hand():
    stages = [
        Stage("TensorFlow alone", 699_400_000, 700_600_000),
        Stage("one version", 1_000_000_000, 1_234_400_000),
    ]
    assert [line.split() for line in serving_memory.format_report(stages).splitlines()] == [
        ["MB", "now", "most", "so", "far"],
        ["TensorFlow", "alone", "699", "701"],
        ["one", "version", "1000", "1234"],
    ]


def test_stages_of_a_run(version):
    stages = serving_memory.measure(version, batch=2, at_once=2, requests=2, side=64)
    assert [stage.name for stage in stages] == [
        "TensorFlow alone",
        "one version",
        "two versions",
        "images of 64 x 64",
    ]
    # Linux counts pages for each thread and adds up now and then: what it says is some pages off.
    assert all(later.peak >= 0.99 * earlier.peak for earlier, later in itertools.pairwise(stages))
    assert all(10_000_000 < stage.resident <= stage.peak * 1.01 for stage in stages)


def test_every_function_answers_every_request_and_errors_are_not_lost():
    asked = []
    serving_memory.answer_all(
        [lambda image_bytes: asked.append(image_bytes.shape[0])] * 3, [b"a", b"b"], at_once=2
    )
    assert asked == [2, 2, 2]

    def refuse(image_bytes):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        serving_memory.answer_all([refuse], [b"a"], at_once=1)


def test_the_command(version, capsys):
    argv = ["serving_memory", f"--saved_model={version}", "--batch=1", "--at_once=1", "--requests=1", "--side=32"]
    assert serving_memory.main(argv) == 0
    first, header, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{version}: requests of 1 images, 1 at once; ")
    assert header.split()[0] == "MB"
    assert len(rows) == 4


def test_a_folder_of_versions_is_refused(version):
    with pytest.raises(ValueError, match=r"--saved_model=.* should be a version's folder"):
        serving_memory.measure(version.parent, batch=1, at_once=1, requests=1, side=32)
