"""Exported models that say what a test tells them to, for the gate."""

import dataclasses
import hashlib

import numpy as np

from export.artefacts import Outputs
from export.parity_evidence import Evidence, Sample
from ladnn_tf.card import Card, Export

SOURCE = "a" * 64
THRESHOLD = 0.5


def run_card(**changes) -> Card:
    """The card of a run whose model has the SHA-256 `SOURCE`."""
    fields = {
        "name": "fake", "task": "ladnn", "backbone": "resnet18", "weights": "none",
        "normalisation": {"mean": [0.0] * 3, "std": [1.0] * 3}, "image_size": 32, "temperature": 1.0,
        "threshold": THRESHOLD, "threshold_rule": "given", "manifest": {"file": "x.csv", "sha256": "0" * 64},
        "model_sha256": SOURCE, "weights_sha256": "1" * 64, "best_epoch": 1, "metrics": {}, "versions": {},
        "revision": "",
    }  # fmt: skip
    return Card(**(fields | changes))


def export_card(model: bytes = b"model", form: str = "float32", **changes) -> Card:
    """The card of an exported model that was not measured yet."""
    made = Export(form, changes.pop("source_sha256", SOURCE))
    return run_card(model_sha256=hashlib.sha256(model).hexdigest(), export=made, **changes)


def outputs(covid, lesions=0.1, maps=1.0, problems=()) -> Outputs:
    """Outputs of images with these probabilities; all else alike for all of them. Maps have 1 x 2 positions."""
    covid = np.asarray(covid, np.float64)
    return Outputs(covid, np.full((len(covid), 5), lesions), np.full((len(covid), 1, 2, 6), maps), problems)


def sample(labels, reference: Outputs, patients=None, **data) -> Sample:
    """Images with these labels, a patient each unless they are given."""
    labels = np.asarray(labels)
    number = len(labels)
    patients = np.array([f"p{n}" for n in range(number)] if patients is None else patients)
    counts = {"images": number, "positives": int(labels.sum()), "patients": len(set(patients))}
    where = {"manifest": {"file": "x.csv", "sha256": "0" * 64}, "own_data": True, "split": "test"}
    about = data or {**where, "images_in_split": number}
    phantom = "phantoms" in data
    pixels = np.full((number, 2, 2, 3), int(phantom), np.uint8)
    encoded = [b"phantom" if phantom else b"image"] * number
    return Sample({**about, **counts}, encoded, pixels, labels, patients, reference)


def evidence(images: Sample, phantoms: Sample | None = None, seen=lambda: None) -> Evidence:
    """Evidence that fails a test which asks for phantoms without giving them."""

    def make_phantoms() -> Sample:
        if phantoms is None:
            raise AssertionError("phantoms were asked for")
        return phantoms

    return Evidence(run_card(), "--run=runs/fake --split=test", images, make_phantoms, seen)


@dataclasses.dataclass
class FakeArtefact:
    """Answers pixels and bytes, those of phantoms apart."""

    pixels: Outputs
    encoded: Outputs
    phantom_pixels: Outputs | None = None
    phantom_encoded: Outputs | None = None
    form: str = "float32"
    name: str = ""
    size: int = 1_500_000
    card: Card | None = None
    answered: int = 0

    def __post_init__(self):
        self.format = self.form
        self.name = self.name or f"{self.form}.tflite"
        self.card = self.card or export_card(form=self.form)

    def from_pixels(self, images):
        return self.phantom_pixels if images.any() else self.pixels

    def from_bytes(self, encoded):
        return self.phantom_encoded if encoded[0] == b"phantom" else self.encoded

    def answer(self, encoded):
        self.answered += 1
