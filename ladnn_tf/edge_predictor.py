"""The edge predictor: a TFLite file with its card, on ai-edge-litert, NumPy and Pillow alone."""

import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ladnn_tf.answer import Answer
from ladnn_tf.card import Card
from ladnn_tf.data import preprocess, shown
from ladnn_tf.labels import COVID, LESIONS, TASKS
from ladnn_tf.tflite_file import read_card

INSTALL = "pip install '.[edge]' in the project's folder"
_SIGNATURE = "serving_default"


class EdgePredictor:
    """A TFLite file of `python -m export.tflite`, ready to answer.

    Threads may share it; they are answered one after the other.

    Args:
        model_path: the `.tflite`, its card inside. It is mapped into memory, so it must not be overwritten while
            it is in use; put another one in its place by renaming.
        allow_unfit: answer also with a model that its card calls unfit or unmeasured; its results say so.
        threads: of the CPU; None leaves the number to LiteRT.
        check: whether to abstain from what is no chest-CT slice (`data/quality.py`). A model that is shown the
            lungs alone abstains from a slice without lungs in any case.

    Attributes:
        card: the model's card.
        card_sha256: of its JSON.
        unfit: whether the card calls the model unfit or unmeasured.
        complaint: why it is unfit, in words; empty if it is fit.
        check: as given.

    Raises:
        ValueError: if the file is missing, truncated, carries no card or another model's, is unfit, or is not what
            its card says; if `threads` is below 1.
        ImportError: if ai-edge-litert is not installed, or scikit-image for a model that is shown the lungs alone.
    """

    def __init__(
        self, model_path: str | Path, *, allow_unfit: bool = False, threads: int | None = None, check: bool = True
    ) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads should be 1 or more. Received: {threads}")
        self.card, self.card_sha256 = read_card(model_path)
        self.check = check
        self.unfit = self.card.unfit
        self.complaint = _complaint(self.card, model_path) if self.unfit else ""
        if self.unfit and not allow_unfit:
            raise ValueError(f"{self.complaint}. Allow it only to study it (allow_unfit)")
        shown.preparation(self.card.lungs)  # what is missing for it is told now, not at the first image
        self._runner = _load(model_path, self.card, threads)
        self._lock = threading.Lock()  # an interpreter has one set of tensors

    def predict(self, images: Iterable[bytes | np.ndarray]) -> list[Answer]:
        """Answers images one by one; what is wrong with one does not keep the others from their answers.

        Args:
            images: encoded PNG or JPEG files, or RGB pixels `(H, W, 3)` uint8 of any size, in any mixture.

        Returns:
            One result per image, in order. An unreadable file has an `error`, what is no chest CT a `reason`.

        Raises:
            ValueError: naming the position, if an item is neither bytes nor such an array.
        """
        if isinstance(images, bytes | bytearray | memoryview | str):
            raise ValueError(f"images should be a list of images. Received: a single {type(images).__name__}")
        images = list(images)  # a generator can be gone through once
        for position, image in enumerate(images):
            _check_item(position, image)
        return [self.answer(image)[0] for image in images]

    def answer(self, image: bytes | np.ndarray) -> tuple[Answer, np.ndarray | None]:
        """Answers one image.

        Args:
            image: as one of `predict`; the whole slice, also for a model that is shown the lungs alone.

        Returns:
            The result, and `(S, S, 3)` uint8 RGB, the slice (or its lungs) as the network saw it; None if it saw
            none. Boxes are shares of this picture.
        """
        try:
            pixels = image if isinstance(image, np.ndarray) else preprocess.decode(bytes(image))
        except preprocess.ImageError as error:
            return self._result(error=str(error)), None
        pixels, reason = shown.prepared(pixels, self.card.lungs, check=self.check)
        if reason:
            return self._result(abstained=True, reason=reason), None
        pixels = preprocess.resize(pixels, self.card.image_size)
        result = self.ask(pixels)
        return result, None if result.error else pixels

    def ask(self, pixels: np.ndarray) -> Answer:
        """Answers what the network is to see, without preparing or checking anything.

        Args:
            pixels: `(S, S, 3)` uint8 RGB of the network's own size.

        Returns:
            The result; an `error` if the model fails.
        """
        try:
            with self._lock:
                outputs = self._runner(images=pixels[None])
        except (RuntimeError, ValueError) as error:
            return self._result(error=f"the model failed at this image ({_one_line(error)})")
        if not all(np.isfinite(values).all() for values in outputs.values()):
            return self._result(error="the model gives no finite numbers for this image")
        first = {name: values[0] for name, values in outputs.items()}
        covid = float(first.pop(COVID))
        for name, labels in (("lesions", LESIONS), ("classes", self.card.classes)):
            if name in first:
                first[name] = dict(zip(labels, first[name].tolist(), strict=True))
        return self._result(covid=covid, positive=covid >= self.card.threshold, **first)

    def _result(self, **fields) -> Answer:
        return Answer(self.card, self.card_sha256, **fields)


def _check_item(position: int, image: object) -> None:
    if isinstance(image, bytes | bytearray | memoryview):
        return
    if not isinstance(image, np.ndarray):
        raise ValueError(
            f"images[{position}] should be the bytes of a PNG or JPEG file, or an array. Received: "
            f"{type(image).__name__}"
        )
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape or image.dtype != np.uint8:
        raise ValueError(
            f"images[{position}] should be RGB pixels (H, W, 3) uint8. Received: {image.shape} {image.dtype}"
        )


def _complaint(card: Card, path: str | Path) -> str:
    if card.export.fitness == "unmeasured":
        return (
            f"{path} was never compared with the run that it was made of, so nobody knows whether it is fit; "
            "export it by python -m export.tflite"
        )
    reasons = "; ".join(card.export.reasons) or "its card gives no reason"
    return f"{path} is unfit by its own card: {reasons}"


def _load(path: str | Path, card: Card, threads: int | None):
    try:
        from ai_edge_litert.interpreter import Interpreter  # 0.1 s that a wrong model need not cost
    except ImportError as error:
        raise ImportError(f"the edge predictor runs on ai-edge-litert ({error}): {INSTALL}") from error
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
        signatures = interpreter.get_signature_list()
        runner = interpreter.get_signature_runner(_SIGNATURE) if _SIGNATURE in signatures else None
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path} is whole, but LiteRT cannot load it ({_one_line(error)}): install a newer ai-edge-litert, or "
            "export the model again"
        ) from error
    found = _contract(runner) if runner else f"signatures {', '.join(signatures) or 'none'}"
    expected = _expected_contract(card)
    if found != expected:
        raise ValueError(
            f"{path} is not the model that its card describes: expected {expected}, found {found}; export it again"
        )
    return runner


def _expected_contract(card: Card) -> str:
    outputs = {COVID: "(1)"}
    if card.task in TASKS:
        lesions = len(LESIONS) if card.task == "ladnn" else 0
        outputs |= {"lesions": f"(1, {lesions})"} if lesions else {}
        outputs["maps"] = f"(1, h, w, {1 + lesions})"
    else:
        outputs["classes"] = f"(1, {len(card.classes)})"
        outputs |= {"boxes": "(1, k, 4)", "scores": "(1, k)"} if card.task == "drenet" else {}
    said = [f"{name} {shape} float32" for name, shape in sorted(outputs.items())]
    return ", ".join([f"images (1, {card.image_size}, {card.image_size}, 3) uint8", *said])


def _contract(runner) -> str:
    """The names, shapes and dtypes of a signature's inputs and outputs, in words."""
    tensors, regions = [], None
    for details in (runner.get_input_details(), runner.get_output_details()):
        for name, detail in sorted(details.items()):  # boxes come before their scores
            shape = [str(side) for side in detail["shape"]]
            # What follows from settings that the card does not describe: trunk and number of regions.
            if name == "maps" and len(shape) == 4:
                shape[1:3] = "h", "w"
            elif name == "boxes" and len(shape) == 3:
                regions, shape[1] = shape[1], "k"
            elif name == "scores" and len(shape) == 2 and shape[1] == regions:
                shape[1] = "k"
            tensors.append(f"{name} ({', '.join(shape)}) {np.dtype(detail['dtype']).name}")
    return ", ".join(tensors)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
