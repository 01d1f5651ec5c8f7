"""Settings, their flags and every flagfile that is shipped."""

import dataclasses

import pytest
from absl import flags
from conftest import REPOSITORY

from ladnn_tf import config
from ladnn_tf.config import TrainConfig
from ladnn_tf.labels import TASKS
from ladnn_tf.models.backbones import BACKBONES
from ladnn_tf.models.ladnn import BATCH_NORM_MOMENTUM, PRECISIONS
from ladnn_tf.models.weights import NORMALISATIONS

CONFIGS = sorted(  # of trainings; the others are of grids (test_experiments.py)
    path for path in (REPOSITORY / "configs").glob("*.flags") if not path.name.startswith("table2")
)


def parse(*arguments):
    flag_values = flags.FlagValues()
    config.define_flags(flag_values)
    flag_values(["train", *arguments])
    return config.from_flags(flag_values)


def test_flags_and_settings_are_one_list():
    assert parse() == TrainConfig()
    settings = parse("--backbone=vgg16", "--epochs=3", "--noflip", "--decoupled_decay", "--learning_rate=1e-3")
    expected = {"backbone": "vgg16", "epochs": 3, "flip": False, "decoupled_decay": True, "learning_rate": 1e-3}
    assert {name: getattr(settings, name) for name in expected} == expected


def test_config_flags_round_trip(tmp_path):
    settings = TrainConfig(backbone="vgg16", flip=False, deterministic=True, learning_rate=3e-4, weights="a b.npz")
    (tmp_path / "config.flags").write_text(settings.to_flags())
    assert config.read_config(tmp_path / "config.flags") == settings


def test_a_flag_of_another_version_is_named(tmp_path):
    (tmp_path / "config.flags").write_text("--label_smoothing=0.1\n")
    with pytest.raises(ValueError, match=r"config\.flags: .*label_smoothing"):
        config.read_config(tmp_path / "config.flags")


def test_a_run_from_before_there_was_a_shift_had_none(tmp_path):
    older = TrainConfig(shift=0.2).to_flags().replace("--shift=0.2\n", "")
    (tmp_path / "config.flags").write_text(older)
    assert config.read_config(tmp_path / "config.flags") == TrainConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate=1\n", "'learning_rate=1' is no flag"),
        ("", "--manifest is missing"),
        (TrainConfig().to_flags().replace("--epochs=15\n", ""), "--epochs is missing"),
        (TrainConfig().to_flags().replace("--epochs=15", "--epochs=0"), "--epochs should be at least 1"),
    ],
)
def test_a_hand_edited_config_is_refused_with_its_fault(tmp_path, text, message):
    (tmp_path / "config.flags").write_text(text)
    with pytest.raises(ValueError, match=r"config\.flags: .*" + message):
        config.read_config(tmp_path / "config.flags")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "--epochs should be at least 1. Received: 0"),
        ({"task": "both"}, "--task should be one of ladnn, baseline"),
        ({"ema_decay": 1.0}, "--ema_decay should be from 0.0 to 0.9999"),
        ({"learning_rate": float("nan")}, "--learning_rate should be at least 0.0. Received: nan"),
        ({"warmup_epochs": 4.0, "epochs": 4}, "--warmup_epochs=4.0 leaves none of --epochs=4"),
        ({"scale_min": 1.5}, "--scale_min=1.5 is above --scale_max=1.2"),
    ],
)
def test_values_out_of_range_name_the_flag(change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "resnet"}, "--model should be one of ladnn, trunk, drenet. Received: 'resnet'"),
        ({"lungs": "cropped"}, "--lungs should be one of whole, extracted, filled"),
        ({"regions": 0}, "--regions should be at least 1. Received: 0"),
        ({"region_temperature": -0.5}, "--region_temperature should be at least 0.0"),
        ({"window_width": 0.0}, "--window_width should be at least 1.0"),
        ({"optimizer": "lamb"}, "--optimizer should be one of adam, sgd"),
        ({"momentum": 1.0}, "--momentum should be from 0.0 to 0.9999"),
        ({"step_decay": "60,100", "cosine_decay": True}, "--step_decay excludes --cosine_decay"),
        ({"step_decay": "60,100", "warmup_epochs": 1.0}, "--step_decay excludes .* --warmup_epochs"),
        ({"step_decay": "100,60"}, "--step_decay should be rising numbers of epochs. Received: 100,60"),
        ({"step_decay": "60,60"}, "rising numbers of epochs"),
        ({"step_decay": "0,60"}, "rising numbers of epochs"),
        ({"step_decay": "sixty"}, "--step_decay should be numbers with commas between. Received: 'sixty'"),
        ({"optimizer": "sgd", "decoupled_decay": True}, "--decoupled_decay is of --optimizer=adam"),
        ({"model": "drenet", "anchors": ""}, "--anchors should be one to three sides in pixels"),
        ({"model": "drenet", "anchors": "48;96"}, "--anchors should be numbers with commas between"),
        (
            {"model": "trunk", "classes": "normal,covid19"},
            "classes should be covid19 and at least one of bacterial",
        ),
        ({"model": "drenet", "classes": "covid19"}, "Received: covid19"),
        ({"model": "drenet", "classes": "bacterial,normal"}, "Received: bacterial, normal"),
        ({"model": "drenet", "classes": ""}, "classes should be covid19 and at least one"),
    ],
)
def test_settings_of_models_with_classes_and_of_sgd_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**change)


def test_what_the_model_and_its_classes_are():
    ladnn = TrainConfig(task="baseline", classes="nonsense")  # which counts for the other models alone
    assert (ladnn.kind, ladnn.class_names) == ("baseline", ())
    drenet = TrainConfig(model="drenet", classes="covid19, normal", anchors="48, 96,192")
    assert (drenet.kind, drenet.class_names) == ("drenet", ("covid19", "normal"))
    assert drenet.anchor_sides == (48.0, 96.0, 192.0)
    assert TrainConfig(model="trunk").kind == "trunk"
    assert TrainConfig(step_decay="60,100", optimizer="sgd").step_epochs == [60, 100]


def test_drenet_has_its_own_defaults_unless_the_flags_say_otherwise(tmp_path):
    alone = parse("--model=drenet")
    assert (alone.backbone, alone.image_size) == ("resnet50", 448)
    assert (alone.anchors, alone.regions, alone.view_size) == ("48,96", 3, 0)
    assert alone.region_temperature == 1
    given = parse(
        "--model=drenet", "--backbone=densenet169", "--image_size=224"
    )  # also where it is ladnn's default
    assert (given.backbone, given.image_size) == ("densenet169", 224)
    trunk = parse("--model=trunk")
    assert (trunk.backbone, trunk.image_size) == (TrainConfig().backbone, TrainConfig().image_size)
    for settings in (alone, given, trunk):
        (tmp_path / "config.flags").write_text(settings.to_flags())
        assert config.read_config(tmp_path / "config.flags") == settings


def test_a_run_from_before_there_were_classes_is_a_la_dnn(tmp_path):
    later = ("model", "classes", "anchors", "regions", "view_size", "region_temperature", "lungs", "window_level",
             "window_width", "optimizer", "momentum", "step_decay")  # fmt: skip
    lines = [
        line
        for line in TrainConfig(epochs=3).to_flags().splitlines()
        if line.removeprefix("--").split("=")[0] not in later
    ]
    assert len(lines) == len(dataclasses.fields(TrainConfig)) - len(later)
    (tmp_path / "config.flags").write_text("\n".join(lines) + "\n")
    assert config.read_config(tmp_path / "config.flags") == TrainConfig(epochs=3)


def test_a_drenet_from_before_regions_were_drawn_took_the_best(tmp_path):
    lines = parse("--model=drenet").to_flags().splitlines()
    file = tmp_path / "config.flags"
    file.write_text("\n".join(line for line in lines if "region_temperature" not in line) + "\n")
    assert config.read_config(file).region_temperature == 0


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_flagfile_parses_from_the_root(path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    settings = parse(f"--flagfile=configs/{path.name}")
    assert settings.backbone in BACKBONES
    text = path.read_text()
    if path.stem not in ("base",):
        assert f"--flagfile=configs/{path.name}" in text, "the command that runs it stands in its head"


def test_there_is_a_flagfile_for_each_backbone_and_task(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    found = set()
    for path in CONFIGS:
        if path.stem.startswith("covid_ct_"):
            settings = parse(f"--flagfile=configs/{path.name}")
            found.add((settings.backbone, settings.task))
            same = dataclasses.replace(parse("--flagfile=configs/base.flags"), backbone=settings.backbone)
            assert dataclasses.replace(settings, task="ladnn", weights="imagenet") == same
    assert found == {(b, t) for b in BACKBONES if b != "tiny" for t in TASKS}


def test_defaults_and_choices_are_the_model_s():
    assert TrainConfig().batch_norm_momentum == BATCH_NORM_MOMENTUM
    choices = {field.name: field.metadata["choices"] for field in dataclasses.fields(TrainConfig)}
    assert choices["normalisation"] == ("auto", *NORMALISATIONS)
    assert choices["precision"] == PRECISIONS
