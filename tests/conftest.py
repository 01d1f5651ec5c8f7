"""Fixtures that several test modules share."""

import gc
import shutil
from pathlib import Path

import pytest

# Keras' graphs are millions of long-lived objects: Python's defaults would walk them again and again.
gc.set_threshold(50_000, 20, 50)

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real COVID-CT slices and annotations; the test is skipped where it is absent."""
    folder = SHARED / "data"
    if not (folder / "covid-ct" / "images").is_dir():
        pytest.skip("the real COVID-CT slices (../shared/data) are not on this machine")
    return folder


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """The folder with the Tiny ImageNet weights; the test is skipped where it is absent."""
    folder = SHARED / "weights"
    if not (folder / "resnet18_tiny_imagenet.npz").is_file():
        pytest.skip("the Tiny ImageNet weights (../shared/weights) are not on this machine")
    return folder


@pytest.fixture(scope="module")
def chromium():
    """A real Chromium; the test is skipped where there is none (Debian's package `chromium`).

    Of one module: as long as Playwright lives, `asyncio.run` fails, which other modules call.
    """
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if not path:
        pytest.skip("there is no chromium on the PATH (Debian's package chromium)")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """A small phantom dataset in the published formats: 24 patients, 64 pixels."""
    from ladnn_tf.data.phantom import write_dataset

    folder = tmp_path_factory.mktemp("data") / "phantoms"
    write_dataset(folder, patients=24, size=64, seed=3)
    return folder


@pytest.fixture(scope="session")
def phantom_manifest(phantoms) -> Path:
    """The manifest of `phantoms`, made by the command."""
    from ladnn_tf.data import manifest

    path = phantoms.parent / "phantoms.csv"
    assert manifest.main(["manifest", f"--covid_ct={phantoms}", f"--out={path}"]) == 0
    return path


@pytest.fixture(scope="session")
def tiny_backbone():
    """The trunk of `tiny_backbone.py`, registered as `tiny`."""
    from tiny_backbone import TINY

    from ladnn_tf.models.backbones import BACKBONES

    BACKBONES["tiny"] = TINY
    yield "tiny"
    del BACKBONES["tiny"]


@pytest.fixture(scope="session")
def tiny_settings(phantom_manifest, tiny_backbone):
    """Settings that train the tiny trunk on the phantoms in seconds."""
    from ladnn_tf.config import TrainConfig

    return TrainConfig(
        manifest=str(phantom_manifest),
        backbone=tiny_backbone,
        image_size=32,
        weights="none",
        epochs=3,
        batch_size=16,
        learning_rate=3e-3,
        seed=5,
    )


@pytest.fixture(scope="session")
def tiny_run(tiny_settings, tmp_path_factory) -> Path:
    """The folder of a finished LA-DNN run. Tests read it; none writes into it."""
    from ladnn_tf.train import train

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(tiny_settings, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_baseline_run(tiny_settings, tmp_path_factory) -> Path:
    """The same without the lesion head."""
    import dataclasses

    from ladnn_tf.train import train

    folder = tmp_path_factory.mktemp("runs") / "tiny_baseline"
    train(dataclasses.replace(tiny_settings, task="baseline", epochs=1), folder)
    return folder


@pytest.fixture(scope="session")
def diagnosed_manifest(phantom_manifest) -> Path:
    """`phantom_manifest` with the diagnoses that a softmax is trained on: COVID-19, or normal."""
    import csv

    path = phantom_manifest.with_name("diagnosed.csv")
    with phantom_manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["diagnosis"] = "covid19" if row["covid"] == "1" else "normal"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def tiny_drenet_run(diagnosed_manifest, tiny_settings, tmp_path_factory) -> Path:
    """The folder of a finished DRENet run, COVID-19 against normal, three regions. Tests read it."""
    import dataclasses

    from ladnn_tf.train import train

    folder = tmp_path_factory.mktemp("runs") / "tiny_drenet"
    settings = dataclasses.replace(
        tiny_settings,
        manifest=str(diagnosed_manifest),
        model="drenet",
        classes="covid19,normal",
        anchors="16,24",
        view_size=32,
        region_temperature=1.0,
        image_size=64,
        epochs=1,
    )
    train(settings, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_trunk_run(diagnosed_manifest, tiny_settings, tmp_path_factory) -> Path:
    """The folder of a finished run of the plain trunk with a softmax over COVID-19 and normal."""
    import dataclasses

    from ladnn_tf.train import train

    folder = tmp_path_factory.mktemp("runs") / "tiny_trunk"
    settings = dataclasses.replace(
        tiny_settings, manifest=str(diagnosed_manifest), model="trunk", classes="covid19,normal", epochs=1
    )
    train(settings, folder)
    return folder
