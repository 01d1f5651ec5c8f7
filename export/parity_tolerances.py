"""How far an exported model may be from the run's own."""

import dataclasses
import math

QUANTISED = ("dynamic", "int8", "int8_mixed")

ROUNDING = 1e-9
"""0.8 - 0.79 is 0.010000000000000009, and no loss of more than 0.01."""


@dataclasses.dataclass(frozen=True)
class Tolerances:
    """How far an artefact may be from the run's own model.

    Attributes:
        float32: largest difference of a probability, or of a box' score, of `float32` and `saved_model` on the
            same pixels. How many images may have other boxes: `parity_regions`.
        float16: the same of `float16`.
        encoded: what may come on top of both from encoded bytes.
        auc_loss: largest loss of AUC of the quantised formats, `QUANTISED`.
        agreement: least share of equal decisions of the same.
        maps: largest difference of a map, relative to its label's largest value, of the formats that are not
            quantised. A map is looked at: 0.02 is five of the 256 steps of a picture.
        mean: largest mean difference of all probabilities, and of the maps in the same relation, of the quantised
            formats.

    Raises:
        ValueError: if one is negative or not finite.
    """

    float32: float = 1e-3
    float16: float = 5e-3
    encoded: float = 2e-3
    auc_loss: float = 0.01
    agreement: float = 0.98
    maps: float = 0.02
    mean: float = 0.05

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if not 0.0 <= value < math.inf:
                raise ValueError(f"--tolerance_{name} should be a finite number, 0 or more. Received: {value}")

    def difference(self, export_format: str) -> float | None:
        """The largest difference of a probability on the same pixels; None for a quantised format.

        Raises:
            ValueError: for an unknown format.
        """
        allowed = {"float32": self.float32, "saved_model": self.float32, "float16": self.float16}
        allowed |= dict.fromkeys(QUANTISED)
        if export_format not in allowed:
            raise ValueError(f"the format should be one of {', '.join(allowed)}. Received: {export_format!r}")
        return allowed[export_format]

    def may_differ(self, images: int) -> int:
        """How many of so many decisions may differ: of 203, at 98 %, four."""
        return math.floor(images * (1 - self.agreement) + ROUNDING)
