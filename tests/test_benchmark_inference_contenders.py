"""What the benchmark of inference measures: processes, contenders, preparation; one real contender."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

from benchmarks import inference_contenders, inference_processes
from benchmarks.inference_contenders import MATRIX_PRODUCT, REFERENCE, Contender
from benchmarks.worker import WorkerEndedError


def test_batches_take_turns_and_warm_up_is_not_counted(monkeypatch):
    from benchmarks import inference_worker

    clock, seen = iter(range(100)), []
    monkeypatch.setattr(inference_worker.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(inference_worker.time, "process_time", iter([5.0, 9.5]).__next__)
    answer = inference_worker.measure(seen.append, [1, 2, 3, 4], 3, 2)
    assert seen == [[1, 2], [3, 4], [1, 2], [3, 4], [1, 2]]
    assert answer["seconds"] == [1.0, 1.0, 1.0]
    assert answer["cores"] == 1.5
    assert answer["peak_memory"] > 2**20


RUNTIME = """
import os, sys, time
def load(model, threads, *, number=0):
    print("a library prints")
    if model == "wrong":
        raise ValueError("this is no model")
    if model == "dies":
        sys.exit("the last words")
    def answer(files):
        if not all(isinstance(file, bytes) for file in files):
            raise TypeError(type(files[0]))
        if (threads, number, os.environ["OMP_NUM_THREADS"], os.environ["CUDA_VISIBLE_DEVICES"]) != (3, 7, "3", ""):
            raise TypeError(os.environ)
    return answer
if __name__ == "__main__":
    model, file, *options = sys.argv[1:]
    if options != ["--format=jsonl", "--threads=3", "--allow_unfit"]:
        sys.exit("wrong options")
    if model == "dies":
        sys.exit("the last words")
    print(file, flush=True)
"""


@pytest.fixture
def made_up_runtime(tmp_path, monkeypatch):
    (tmp_path / "made_up_runtime.py").write_text(RUNTIME, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folder = tmp_path / "slices"
    folder.mkdir()
    (folder / "0.png").write_bytes(b"PNG")
    return Contender("made_up_runtime", "model", str(folder), 1, {"number": 7})


def test_a_worker_loads_answers_and_measures(made_up_runtime):
    process = inference_processes.start("made up", made_up_runtime, 3)
    assert 0 < process.ready["import_seconds"] < process.cold_start
    answer = process.ask(calls=4, batch=1)
    assert len(answer["seconds"]) == 4
    assert answer["peak_memory"] >= process.ready["peak_memory"] > 2**20
    process.close()


@pytest.mark.parametrize("is_command", [False, True])
def test_the_last_words_of_a_process_are_the_reason(made_up_runtime, is_command):
    dying = dataclasses.replace(made_up_runtime, model="dies", is_command=is_command)
    with pytest.raises(WorkerEndedError, match="worker of made up ended with status 1") as ended:
        inference_processes.start("made up", dying, 3)
    assert ended.value.reason == "ended with status 1: the last words"


def test_a_model_that_is_none_is_told_in_the_runtimes_words(made_up_runtime):
    with pytest.raises(ValueError, match=r"^this is no model$"):
        inference_processes.start("made up", dataclasses.replace(made_up_runtime, model="wrong"), 3)


def test_a_command_is_started_and_ends(made_up_runtime):
    process = inference_processes.start("made up", dataclasses.replace(made_up_runtime, is_command=True), 3)
    assert process.cold_start > 0
    assert process.ready["peak_memory"] > 2**20
    process.close()


def test_peak_memory_is_not_what_the_parent_holds():
    if not Path("/proc/self/status").is_file():
        pytest.skip("no /proc here")
    held = b"\x01" * 200_000_000
    code = "from benchmarks.worker import peak_memory; print(peak_memory())"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, check=True)
    assert 2**20 < int(result.stdout) < len(held)


def test_the_parent_is_light_and_a_worker_imports_nothing_before_its_clock():
    code = (
        "import sys, benchmarks.inference_worker; print('numpy' in sys.modules); import benchmarks.inference; "
        "print(any(name in sys.modules for name in ('tensorflow', 'keras', 'torch', 'pandas', 'ai_edge_litert')))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, check=True)
    assert result.stdout.split() == [b"False", b"False"]


PREPARED = {"backbone": "resnet18", "image_size": 64, "pixels": "p", "files": "f", "multiply_adds": 7, "name": "n"}
MODELS = {"keras": "k", "saved_model": "s", "float32": "a", "int8": "b", "int8_mixed": "c"}


def test_our_contenders():
    prepared = {**PREPARED, "models": MODELS}
    plain = [MATRIX_PRODUCT, "Keras", "SavedModel", "TFLite float32", "TFLite int8", "TFLite int8_mixed"]
    assert list(inference_contenders.ours(prepared, 8, edge=False)) == plain
    chosen = inference_contenders.ours(prepared, 8, edge=True)
    assert list(chosen)[6:] == [
        f"edge {x} {form}" for form in ("int8", "int8_mixed") for x in ("predictor", "command")
    ]
    assert (chosen["Keras"].batch, chosen["TFLite int8"].batch, chosen["edge command int8"].batch) == (8, 1, 0)
    assert chosen["edge predictor int8"].slices == "f"
    assert chosen["edge command int8"].is_command


def theirs(monkeypatch, tmp_path, *, absent=(), failing=(), backbone="resnet18"):
    """`theirs` with made-up packages and a made-up worker; the jobs whose `onnx` is in `failing` end."""

    class Made:
        def __init__(self, name, module, job, environment):
            if job["onnx"] in failing:
                raise WorkerEndedError(name, 1, ["no such operator"])

        def close(self):
            pass

    monkeypatch.setattr(inference_contenders.importlib.util, "find_spec", lambda name: name not in absent or None)
    monkeypatch.setattr(inference_contenders, "Worker", Made)
    return inference_contenders.theirs(tmp_path, {**PREPARED, "backbone": backbone}, 8, {})


def test_pytorch_and_onnx_runtime_where_they_are_installed(monkeypatch, tmp_path):
    chosen, absent = theirs(monkeypatch, tmp_path)
    assert list(chosen) == ["PyTorch", "PyTorch channels_last", "ONNX Runtime"]
    assert [x.options for x in chosen.values()] == [{"channels_last": False}, {"channels_last": True}, {}]
    assert absent == {}


@pytest.mark.parametrize(
    ("options", "present", "reason"),
    [
        ({"backbone": "vgg16"}, 0, "MONAI has no vgg16"),
        ({"absent": ("torch", "monai")}, 0, "torch and monai not installed"),
        ({"failing": (False, True)}, 0, "could not be written: the worker ended with status 1: no such operator"),
        ({"absent": ("onnxruntime",)}, 2, "onnxruntime not installed"),
        (
            {"failing": (True,)},
            2,
            "the ONNX file could not be written: the worker ended with status 1: no such op",
        ),
    ],
)
def test_what_there_is_not_has_a_reason(monkeypatch, tmp_path, options, present, reason):
    chosen, absent = theirs(monkeypatch, tmp_path, **options)
    assert len(chosen) == present
    assert len(chosen) + len(absent) == 3
    assert reason in absent["ONNX Runtime"]


def test_multiply_adds_by_hand(tiny_backbone):
    import keras

    from benchmarks.inference_prepare import multiply_adds
    from benchmarks.random_model import random_model

    # Kernels of 3 x 3 at 16 x 16, 8 x 8 and 4 x 4 positions; two dense layers of 16 to 1 and 5.
    assert multiply_adds(random_model(tiny_backbone, 32)) == (
        9 * 3 * 8 * 256 + 9 * 8 * 16 * 64 + 9 * 16 * 16 * 16 + 16 * 6
    )
    depthwise = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")]
    )
    assert multiply_adds(depthwise) == 16 * 9 * 3 * 2


def test_a_real_contender_answers_what_was_prepared(tiny_backbone, tmp_path, monkeypatch):
    from benchmarks import inference_prepare
    from ladnn_tf import runs

    monkeypatch.setattr(inference_prepare, "formats_of", lambda backbone: ("float32",))  # the others have tests
    monkeypatch.setattr(inference_prepare, "stage", lambda run, folder: folder.mkdir())
    prepared = inference_prepare.prepare(tmp_path, run="", backbone=tiny_backbone, image_size=32, slices=2)
    assert (prepared["name"], prepared["backbone"], prepared["image_size"]) == ("random", "tiny", 32)
    pixels = np.load(prepared["pixels"])
    assert (pixels.shape, pixels.dtype) == ((2, 32, 32, 3), np.uint8)
    assert (pixels[0] != pixels[1]).any()
    contender = inference_contenders.ours(prepared, 2, edge=False)[REFERENCE]
    assert contender.size > 4 * 3_808
    process = inference_processes.start(REFERENCE, contender, 1)
    assert len(process.ask(calls=3, batch=1)["seconds"]) == 3
    process.close()

    run = runs.load_run(tmp_path / "random")
    assert inference_prepare._exported(run, tmp_path) == {"float32": tmp_path / "float32.tflite"}
    other = dataclasses.replace(run, card=dataclasses.replace(run.card, model_sha256="0" * 64))
    with pytest.raises(ValueError, match=r"float32\.tflite was made of another model"):
        inference_prepare._exported(other, tmp_path)
    with pytest.raises(ValueError, match=r"there is no float32\.tflite in"):
        inference_prepare._exported(run, tmp_path / "slices")
