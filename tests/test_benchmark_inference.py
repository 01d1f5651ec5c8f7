"""The benchmark of inference: figures by hand, rounds with made-up processes, the command."""

import pytest

from benchmarks import inference, inference_rounds, inference_table
from benchmarks.inference_contenders import MATRIX_PRODUCT, REFERENCE, Contender
from benchmarks.inference_matmul import FLOPS
from benchmarks.inference_rounds import Measurements
from benchmarks.worker import WorkerEndedError

SIZES = {"image_size": 64, "multiply_adds": 150_000_000, "threads": 1, "batch": 8, "rounds": 3, "calls": 3}


PREPARED = {"backbone": "resnet18", "image_size": 64, "pixels": "p", "files": "f", "multiply_adds": 7, "name": "n"}
MODELS = {"keras": "k", "saved_model": "s", "float32": "a", "int8": "b", "int8_mixed": "c"}


@pytest.fixture
def contenders(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "one").write_bytes(bytes(1_500_000))
    (tmp_path / "model" / "two").write_bytes(bytes(500_000))
    model = str(tmp_path / "model")
    return {
        MATRIX_PRODUCT: Contender("product", "", "", 0),
        "Keras": Contender("keras", model, "", 8),
        REFERENCE: Contender("litert", str(tmp_path / "model" / "one"), "", 1),
        "edge predictor": Contender("edge", model, "", 1, has_same_work=False),
        "edge command": Contender("edge", model, "", 0, has_same_work=False, is_command=True),
        "broken": Contender("broken", model, "", 1),
    }


# Products at 100, 50 and 100 GFLOP/s at best. Keras' medians: 0.02, 0.06, 0.03; the reference's: 0.01, 0.02, 0.02.
MEASURED = {
    MATRIX_PRODUCT: Measurements([[FLOPS / 1e11, 1.0], [FLOPS / 5e10, 1.0], [FLOPS / 1e11, 1.0]]),
    "Keras": Measurements(
        [[0.02, 0.02, 0.04], [0.06, 0.06, 0.06], [0.03, 0.03, 0.03]],
        images_per_second=[50.0, 40.0, 60.0],
        peak_memory=[9e8, 8e8, 1e9],
        import_seconds=[2.0, 3.0, 4.0],
        cold_start=[5.0, 6.0, 7.0],
        cores=[1.9, 1.8, 1.7],
    ),
    REFERENCE: Measurements([[0.01, 0.01, 0.01], [0.02, 0.02, 0.02], [0.02, 0.02, 0.02]], cores=[1.0, 1.05, 1.0]),
    "edge predictor": Measurements([[0.03, 0.03, 0.03]] * 3),
    "edge command": Measurements(peak_memory=[8e7, 9e7, 7e7], cold_start=[0.5, 0.6, 0.4]),
    "broken": Measurements([[0.5]], failure="ended with status -9"),
}


@pytest.fixture
def summary(contenders):
    return inference_table.summarise(MEASURED, contenders, {"PyTorch": "torch not installed"}, 150_000_000)


def test_summary_by_hand(summary):
    assert summary["peak"] == pytest.approx(1e11)
    keras, reference = summary["rows"]["Keras"], summary["rows"][REFERENCE]
    assert keras["bytes"] == 2_000_000
    assert keras["median"] == 0.03
    # Between 0.02 and 0.04 at nine tenths: 0.038; the rounds' are 0.038, 0.06 and 0.03.
    assert keras["p95"] == pytest.approx(0.038)
    # Of the rounds' ratios 2, 3 and 1.5, not the ratio of medians 1.5; of the rounds' shares 0.15, 0.1 and 0.1.
    assert keras["ratio"] == pytest.approx(2.0)
    assert keras["share"] == pytest.approx(0.1)
    assert (keras["images_per_second"], keras["peak_memory"]) == (50.0, 9e8)
    assert (keras["import_seconds"], keras["cold_start"], keras["cores"]) == (3.0, 6.0, 1.8)
    assert reference["ratio"] == 1.0
    assert reference["share"] == pytest.approx(0.3)  # 0.3, 0.3 and 0.15
    assert "ratio" not in summary["rows"]["edge predictor"]
    assert "share" not in summary["rows"]["edge predictor"]
    assert summary["rows"]["broken"] == {"failure": "ended with status -9"}
    assert MATRIX_PRODUCT not in summary["rows"]


def test_table_of_made_up_measurements(summary):
    lines = inference_table.format_text(summary).splitlines()
    assert lines[1].split() == ["Keras", "2.0", "30.00", "38.00", "2.00", "50.0", "900", "3.00", "6.00", "10%"]
    assert lines[4].split() == ["edge", "command", "2.0", "-", "-", "-", "-", "80", "-", "0.50", "-"]
    assert lines[6].split() == ["PyTorch", *"-" * 9]
    markdown = inference_table.format_markdown(summary).splitlines()
    assert markdown[1] == "| --- |" + " ---: |" * 9
    assert markdown[2] == "| Keras | 2.0 | 30.00 | 38.00 | 2.00 | 50.0 | 900 | 3.00 | 6.00 | 10% |"


def test_explanations_name_peak_disobedience_and_failures(summary):
    text = "\n".join(inference_table.explanations(summary, **SIZES))
    assert "2 x 150 million multiply-adds" in text
    assert "by 100.0 GFLOP/s" in text
    assert "Keras used 1.8 cores although it was told 1." in text
    assert f"{REFERENCE} used" not in text  # 1.05 are within a tenth
    assert text.endswith("broken: ended with status -9\nPyTorch: torch not installed")


def test_without_product_and_reference_there_are_times_alone(contenders):
    dead = Measurements(failure="ended with status 1")
    measured = {**MEASURED, MATRIX_PRODUCT: dead, REFERENCE: dead}
    summary = inference_table.summarise(measured, contenders, {}, 150_000_000)
    keras = summary["rows"]["Keras"]
    assert keras["median"] == 0.03
    assert not {"ratio", "share"} & set(keras)
    text = "\n".join(inference_table.explanations(summary, **SIZES))
    assert "share of peak: not measured, as the matrix product ended with status 1" in text


class Clock:
    """A process that answers at once and notes what it was asked; `dies` says at which of its events it ends."""

    def __init__(self, name, log, dies=None):
        self.name, self.log, self.dies, self.asked = name, log, dies, 0
        self.ready, self.cold_start = {"peak_memory": 100, "import_seconds": 0.5}, 2.0
        self.note("start")

    def note(self, event):
        self.log.append(f"{self.name} {event}")
        if self.dies == event:
            raise WorkerEndedError(self.name, -9, ["much", "Killed"])

    def ask(self, *, calls, batch):
        self.note(f"{calls}x{batch}")
        self.asked += 1
        return {"seconds": [0.1 * batch] * calls, "cores": 1.0, "peak_memory": 100 + self.asked}

    def close(self):
        self.log.append(f"{self.name} closed")


def play(contenders, rounds, calls, deaths=()):
    log = []
    deaths = dict(deaths)
    measured = inference_rounds.measure(
        contenders, lambda name, _: Clock(name, log, deaths.get(name)), rounds=rounds, calls=calls
    )
    return measured, log


def some(contenders, **names):
    return {short: contenders[name] for short, name in names.items()}


def test_contenders_take_turns_and_every_second_round_runs_backwards(contenders):
    chosen = some(contenders, p=MATRIX_PRODUCT, k="Keras", c="edge command")
    measured, log = play(chosen, rounds=2, calls=24)
    first = ["p start", "k start", "c start", "p 10x1", "k 10x1", "k 10x1", "p 10x1", "p 4x1", "k 4x1", "k 3x8"]
    assert log[:10] == first
    assert log[10:13] == ["p closed", "k closed", "c closed"]
    assert log[13:18] == ["c start", "k start", "p start", "k 10x1", "p 10x1"]
    keras = measured["k"]
    assert keras.latencies == [[0.1] * 24] * 2
    assert keras.images_per_second == pytest.approx([10.0, 10.0])
    assert keras.peak_memory == [103, 103]  # of the third answer, not of the one with eight images
    assert keras.cold_start == [2.0, 2.0]
    assert keras.import_seconds == [0.5, 0.5]
    assert measured["c"].peak_memory == [100, 100]
    assert measured["c"].latencies == measured["p"].images_per_second == []


@pytest.mark.parametrize("event", ["start", "10x1", "4x1", "3x8"])
def test_a_contender_that_dies_is_named_and_the_others_go_on(contenders, event):
    chosen = some(contenders, r=REFERENCE, k="Keras")
    measured, log = play(chosen, rounds=2, calls=24, deaths={"k": event})
    assert measured["k"].failure == "ended with status -9: Killed"
    assert log.count("k start") == 1  # not in the second round
    assert log.count("k closed") == (event != "start")
    assert len(measured["r"].latencies) == len(measured["r"].images_per_second) == 2
    assert log.count("r closed") == 2


def test_everything_is_closed_at_an_interruption(contenders):
    log = []

    def start(name, _):
        if name == "k":
            raise KeyboardInterrupt
        return Clock(name, log)

    with pytest.raises(KeyboardInterrupt):
        inference_rounds.measure(some(contenders, r=REFERENCE, k="Keras"), start, rounds=1, calls=2)
    assert log == ["r start", "r closed"]


def test_the_command_prints_and_writes(monkeypatch, contenders, summary, tmp_path, capsys):
    asked = {}

    def compare(folder, source, **arguments):
        asked.update(source=source, **arguments)
        return PREPARED, summary

    monkeypatch.setattr(inference, "compare", compare)
    path = tmp_path / "table.md"
    argv = ["inference", "--backbone=resnet18", "--image_size=64", "--edge", "--notorch", f"--markdown={path}"]
    assert inference.main([*argv, "--rounds=2", "--calls=5"]) == 0
    source = {"run": "", "backbone": "resnet18", "image_size": 64, "exported": ""}
    amounts = {"threads": 1, "batch": 8, "rounds": 2, "calls": 5}
    assert asked == {"source": source, **amounts, "torch": False, "edge": True}
    printed = capsys.readouterr().out
    assert printed.startswith("resnet18 (random weights): inference\n\ncontender")
    assert f"written: {path}" in printed
    written = path.read_text(encoding="utf-8")
    assert written.startswith("# resnet18 (random weights): inference\n\n| contender | MB |")
    assert "\n- PyTorch: torch not installed\n" in written


def test_comparison_passes_on_what_is_asked(monkeypatch, tmp_path):
    jobs = []

    class Prepares:
        def __init__(self, name, module, job, environment):
            jobs.append(job)
            self.ready = {**PREPARED, "models": MODELS}

        def close(self):
            jobs.append("closed")

    def measure(contenders, start, *, rounds, calls):
        jobs.append((start.keywords, rounds, calls))
        return {name: Measurements(failure="left out") for name in contenders}

    monkeypatch.setattr(inference, "Worker", Prepares)
    monkeypatch.setattr(
        inference, "theirs", lambda folder, prepared, batch, environment: ({}, {"PyTorch": "none"})
    )
    monkeypatch.setattr(inference.inference_rounds, "measure", measure)
    amounts = {"threads": 3, "batch": 4, "rounds": 2, "calls": 5}
    _, found = inference.compare(tmp_path, {"run": "r"}, **amounts, torch=True, edge=False)
    assert jobs == [{"folder": str(tmp_path), "run": "r", "slices": 4}, "closed", ({"threads": 3}, 2, 5)]
    assert list(found["rows"])[-1] == "PyTorch"
    _, found = inference.compare(tmp_path, {"run": "r"}, **amounts, torch=False, edge=False)
    assert "PyTorch" not in found["rows"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "give either --run or --backbone"),
        (["--run=runs/a", "--backbone=resnet18"], "give either --run or --backbone"),
        (["--run=runs/a", "--image_size=64"], "--image_size goes with --backbone"),
        (["--backbone=resnet18", "--exported=models"], "--exported goes with --run"),
        (["--backbone=resnet18", "--calls=1"], "flag --calls=1"),
    ],
)
def test_a_bad_command_line_ends_with_status_2(arguments, expected, capsys):
    with pytest.raises(SystemExit) as stop:
        inference.main(["inference", *arguments])
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err
