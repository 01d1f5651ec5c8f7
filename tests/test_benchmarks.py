"""The benchmark of training: figures and table by hand, the command on the tiny trunk, workers that fail."""

import importlib.util
import json
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from benchmarks import contenders, training, training_table, worker

ARGUMENTS = {"backbone": "tiny", "image_size": 32, "batch_size": 4}
# Kernels and biases of three convolutions, gamma and beta, two dense layers.
TINY_PARAMETERS = 224 + 1_168 + 2_320 + 2 * (8 + 16 + 16) + 6 * (16 + 1)

# Seconds per image in three rounds.
TIMINGS = {
    "float32": {"pipeline": [0.01, 0.02, 0.01], "model": [0.1, 0.2, 0.1], "both": [0.102, 0.2, 0.11]},
    "torch_float32": {"model": [0.2, 0.25, 0.3]},
    "torch_float32_channels_last": {"model": [0.2, 0.2, 0.5]},
    "torch_bfloat16_channels_last": {"model": [0.1, 0.1, 0.1]},
}
CONTENDERS = {name: {**contenders.VARIANTS, **contenders.TORCH_VARIANTS}[name] for name in TIMINGS}


def test_summary_by_hand():
    summary = training_table.summarise(TIMINGS, CONTENDERS)
    assert summary["seconds_per_image"]["float32"]["model"] == {"median": 0.1, "lowest": 0.1, "highest": 0.2}
    # Of the rounds' ratios 1.02, 1.0 and 1.1, not the ratio of medians.
    assert summary["both_to_model"] == {"float32": pytest.approx({"median": 1.02, "lowest": 1.0, "highest": 1.1})}
    float32, bfloat16 = summary["to_torch"]["float32"], summary["to_torch"]["bfloat16"]
    assert float32["reference"] == "torch_float32_channels_last"  # median 0.2 against 0.25
    assert float32["ratios"] == {"float32": pytest.approx({"median": 0.5, "lowest": 0.2, "highest": 1.0})}
    assert bfloat16["ratios"]["float32"]["median"] == pytest.approx(1.0)


def test_table_of_made_up_timings():
    summary = training_table.summarise(TIMINGS, CONTENDERS)
    peaks = dict.fromkeys(TIMINGS, 1.5 * 2**30)
    lines = training_table.format_summary(summary, peaks, "densenet169").splitlines()
    cells = [[cell for cell in line.split("  ") if cell.strip()] for line in lines]
    assert [cell.strip() for cell in cells[0]] == [
        "images per second", "pipeline", "model", "both", "model, ms per image", "both / model", "peak GiB",
    ]  # fmt: skip
    assert [cell.strip() for cell in cells[1]] == [
        "float32", "100.0", "10.0", "9.1", "100.0 (100.0 to 200.0)", "1.020 (1.000 to 1.100)", "1.50",
    ]  # fmt: skip
    assert [cell.strip() for cell in cells[3]] == [
        "torch_float32_channels_last", "5.0", "200.0 (200.0 to 500.0)", "1.50"
    ]  # fmt: skip
    assert [cell.strip() for cell in cells[-1]] == ["float32", "0.50 (0.20 to 1.00)", "1.00 (1.00 to 2.00)"]
    assert len({len(line) for line in lines[:2]}) == 1  # right-hand sides in line


@pytest.mark.parametrize(
    ("backbone", "reason"), [("densenet169", "left out by --notorch"), ("vgg16", "MONAI has no vgg16")]
)
def test_the_table_says_why_there_is_no_pytorch(backbone, reason):
    timings, chosen = {"float32": TIMINGS["float32"]}, {"float32": CONTENDERS["float32"]}
    text = training_table.format_summary(training_table.summarise(timings, chosen), {"float32": 1.0}, backbone)
    assert text.endswith(f"PyTorch: {reason}")


def test_parameter_counts_must_agree():
    counts = {"float32": 23_546_886 + 26_560, "torch_float32": 23_546_886}
    training.check_parameters(counts, CONTENDERS, "resnet50")
    with pytest.raises(
        ValueError, match=r"do not train the same network.*float32 23,573,446, torch_float32 23,546,8"
    ):
        training.check_parameters(counts, CONTENDERS, "densenet169")


class Clock:
    """A worker that answers at once; it notes what it was asked."""

    def __init__(self, name, log):
        self.name, self.log, self.trainable_parameters = name, log, 7

    def measure(self, mode, steps):
        self.log.append((self.name, mode))
        return {"seconds": 8.0, "peak_memory": 100}

    def close(self):
        self.log.append((self.name, "closed"))


def test_contenders_take_turns_and_every_second_round_runs_backwards():
    log = []
    chosen = {name: CONTENDERS[name] for name in ("float32", "torch_float32")}
    workers = {name: Clock(name, log) for name in chosen}
    timings, peaks = training.take_turns(chosen, workers, rounds=2, steps=2, batch=4)
    turns = [("float32", "pipeline"), ("float32", "model"), ("float32", "both"), ("torch_float32", "model")]
    assert log == turns + turns[::-1]
    assert timings["torch_float32"] == {"model": [1.0, 1.0]}
    assert peaks == {"float32": 100, "torch_float32": 100}


def test_all_workers_are_closed_when_one_cannot_start():
    log = []

    def start(name, contender, arguments):
        if contender.is_torch:
            raise ChildProcessError("no memory")
        return Clock(name, log)

    with pytest.raises(ChildProcessError, match="no memory"):
        training.compare(CONTENDERS, **ARGUMENTS, rounds=1, steps=1, threads=1, start=start)
    assert log == [("float32", "closed")]


class InProcess:
    """Runs our own worker's training in this process, where the tiny trunk is registered."""

    def __init__(self, name, contender, arguments):
        from benchmarks.tensorflow_training import TensorFlowTraining

        job = {key: value for key, value in arguments.items() if key != "threads"}
        self.training = TensorFlowTraining(**job, precision=contender.precision, **contender.options)
        self.trainable_parameters = self.training.trainable_parameters

    def measure(self, mode, steps):
        return {"seconds": self.training.measure(mode, steps), "peak_memory": worker.peak_memory()}

    def close(self):
        pass


def test_the_command_on_the_tiny_trunk(tiny_backbone, tmp_path, capsys):
    out = tmp_path / "timings.json"
    argv = ["training", "--backbone=tiny", "--image_size=32", "--batch_size=4", "--rounds=2", "--steps=1"]
    argv += ["--threads=1", "--variants=float32,bfloat16_keras_batch_norm", "--torch", f"--out={out}"]
    assert training.main(argv, start=InProcess) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("tiny: training at 32 x 32 pixels, batches of 4, 1 threads\n")
    assert "PyTorch: MONAI has no tiny" in printed
    assert (
        f"trainable parameters: float32 {TINY_PARAMETERS:,}, bfloat16_keras_batch_norm {TINY_PARAMETERS:,}"
        in printed
    )
    assert f"written: {out}" in printed
    result = json.loads(out.read_text())
    assert set(result["seconds_per_image"]["float32"]) == {"pipeline", "model", "both"}
    assert all(value > 0 for times in result["seconds_per_image"]["float32"].values() for value in times)
    assert result["peak_memory"]["float32"] > 100 * 2**20
    assert result["machine"]["versions"]["keras"]


def test_pipeline_and_constant_batch_share_one_compiled_step(tiny_backbone, monkeypatch):
    from benchmarks.tensorflow_training import TensorFlowTraining
    from ladnn_tf.fused_batch_norm import FusedBatchNormalization

    calls = []
    call = FusedBatchNormalization.call

    def counted(self, inputs, training=None, mask=None):
        calls.append(self.name)
        return call(self, inputs, training=training, mask=mask)

    monkeypatch.setattr(FusedBatchNormalization, "call", counted)
    training_ = TensorFlowTraining(**ARGUMENTS, precision="float32")
    assert training_.constant.element_spec == training_.dataset.element_spec
    traced = len(calls)
    assert 0 < calls.count("bn1") <= 3  # the symbolic call of the functional model, and one trace
    for mode in contenders.MODES:
        training_.measure(mode, steps=3)
    assert len(calls) == traced


def test_the_dataset_is_random_and_the_constant_batch_is_not(tiny_backbone):
    from benchmarks.tensorflow_training import TensorFlowTraining

    training_ = TensorFlowTraining(**ARGUMENTS, precision="float32", fused_batch_norm=False)
    first, second = (images.numpy() for images, _ in training_.constant.take(2))
    assert (first == second).all()
    first, second = (images.numpy() for images, _ in training_.dataset.take(2))
    assert first.shape == (4, 32, 32, 3)
    assert first.max() <= 255
    assert (first != second).any()
    labels = next(iter(training_.dataset))[1]
    assert set(labels["lesions"].numpy().ravel()) == {-1.0, 0.0, 1.0}


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--rounds=0", "flag --rounds=0"),
        ("--image_size=8", "flag --image_size=8"),
        ("--batch_size=many", "flag --batch_size=many"),
        ("--torch=perhaps", "perhaps"),
    ],
)
def test_a_bad_flag_ends_with_status_2(argument, expected, capsys):
    with pytest.raises(SystemExit) as stop:
        training.main(["training", argument])
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("variants", ["float64", "float32,torch_float32", ""])
def test_an_unknown_variant_names_those_that_exist(variants):
    with pytest.raises(
        ValueError, match=r"should be some of float32, bfloat16, float32_keras_batch_norm.*Received"
    ):
        training.main(["training", f"--variants={variants}"])


def test_an_unknown_variant_of_pytorch_names_those_that_exist():
    with pytest.raises(ValueError, match=r"--torch_variants should be some of torch_float32, .*'float32'"):
        training.main(["training", "--torch_variants=float32"])


def test_missing_pytorch_names_what_to_install(monkeypatch):
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: None)
    ours, theirs = ["float32"], ["torch_float32"]
    with pytest.raises(ValueError, match=r"needs torch and monai: .*pip install torch==2.13.0 monai.*--notorch"):
        contenders.chosen_contenders(ours, theirs, "densenet169", torch=True)
    assert list(contenders.chosen_contenders(ours, theirs, "densenet169", torch=False)) == ours
    assert list(contenders.chosen_contenders(ours, theirs, "vgg16", torch=True)) == ours
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: name)
    assert list(contenders.chosen_contenders(ours, theirs, "densenet169", torch=True)) == ours + theirs


WORKER = """
import sys
from benchmarks import worker
class Sleeper:
    trainable_parameters = 42
    def __init__(self, *, precision, number, slow=False):
        print("a library prints")
        if number < 0:
            raise ValueError(f"number should be positive. Received: {number}")
        self.number = number
    def measure(self, mode, steps):
        if mode == "both":
            print("the last words", file=sys.stderr)
            sys.exit(3)
        return steps * self.number / 10
import json
worker.serve(Sleeper, json.loads(sys.argv[1]))
"""


@pytest.fixture
def fake_contender(tmp_path, monkeypatch):
    (tmp_path / "fake_worker.py").write_text(WORKER, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return contenders.Contender("fake_worker", options={"slow": True})


def test_a_worker_measures_when_it_is_told_to(fake_contender):
    process = worker.WorkerProcess("fake", fake_contender, {"number": 5})
    assert process.trainable_parameters == 42
    assert process.measure("model", 4)["seconds"] == 2.0
    answer = process.measure("model", 2)
    assert answer["seconds"] == 1.0
    assert answer["peak_memory"] > 2**20
    process.close()


def test_a_worker_that_dies_is_reported_with_its_last_words(fake_contender):
    process = worker.WorkerProcess("fake", fake_contender, {"number": 5})
    with pytest.raises(ChildProcessError, match=r"(?s)worker of fake ended with status 3.*the last words"):
        process.measure("both", 1)
    with pytest.raises(ChildProcessError, match="ended with status 3"):
        process.measure("model", 1)
    process.close()


def test_bad_arguments_of_a_worker_are_told_in_its_own_words(fake_contender):
    with pytest.raises(ValueError, match=r"^number should be positive. Received: -1$"):
        worker.WorkerProcess("fake", fake_contender, {"number": -1})


COUNT_PARAMETERS = """
import sys, torch
from benchmarks.torch_training import build_network
for backbone in sys.argv[1:]:
    with torch.device("meta"):
        print(sum(parameter.numel() for parameter in build_network(backbone).parameters()))
"""


def test_networks_of_monai_have_as_many_parameters():
    """In a process of its own: PyTorch and TensorFlow side by side warn."""
    if any(importlib.util.find_spec(package) is None for package in ("torch", "monai")):
        pytest.skip("torch and monai are not installed")
    from ladnn_tf.models.backbones import BACKBONES

    command = [sys.executable, "-c", COUNT_PARAMETERS, *contenders.COUNTERPARTS]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    expected = [
        BACKBONES[name].trainable
        - contenders.MORE_PARAMETERS_IN_KERAS.get(name, 0)
        + 6 * (BACKBONES[name].features + 1)
        for name in contenders.COUNTERPARTS
    ]
    assert [int(line) for line in result.stdout.split()] == expected
