"""The six labels of LA-DNN, their order, their full names and every spelling the published files use."""

COVID = "covid"
"""The primary label: 1 is COVID-19, 0 is anything else. It is always known."""

LESIONS = ("GGO", "Csld", "CrPa", "AirBr", "InSepThi")
"""The five lesion labels, in the order of every array in this project. Each is 1, 0 or unknown."""

LESION_NAMES = {
    "GGO": "ground-glass opacity",
    "Csld": "consolidation",
    "CrPa": "crazy paving",
    "AirBr": "air bronchogram",
    "InSepThi": "interlobular septal thickening",
}

TASKS = ("ladnn", "baseline")
"""`ladnn` learns the lesions beside the diagnosis; `baseline` is the same network without them."""

MODELS = ("ladnn", "trunk", "drenet")
"""`ladnn` has sigmoid heads; `drenet` (Song et al. 2021) tells `CLASSES` apart by a softmax, and `trunk` does so
without DRENet's regions, to be set beside it."""

LESION_TARGETS = ("positives", "all")
"""`positives`: lesions are learnt where they are known; `all`: a COVID-negative image has none."""

PHANTOM_DATA = "phantoms"
"""How a card names drawn slices among the data that a model was trained on."""

DIAGNOSES = ("covid19", "bacterial", "viral", "cancer", "nodule", "normal")

CLASSES = ("covid19", "bacterial", "normal")
"""The diagnoses that models with a softmax tell apart, in the order of their arrays; COVID-19 is always first."""

CLASS_NAMES = {"covid19": "COVID-19", "bacterial": "bacterial pneumonia", "normal": "healthy"}

SPLITS = ("train", "validation", "test")

# D0 writes CVD19, AirBr and InSepThi; D1 writes Aibr and InSep; the paper writes Csl, CsID and Cslld too.
_ALIASES = {
    "CVD19": COVID,
    "GGO": "GGO",
    "Csld": "Csld",
    "Csl": "Csld",
    "CrPa": "CrPa",
    "AirBr": "AirBr",
    "Aibr": "AirBr",
    "InSepThi": "InSepThi",
    "InSep": "InSepThi",
}


def canonical_label(token: str) -> str:
    """Returns the label that a token of the published files stands for.

    Args:
        token: a cell's text, such as `CVD19`, `Aibr` or `InSepThi`; white space around it is ignored.

    Returns:
        `covid` or one of `LESIONS`.

    Raises:
        ValueError: if the token is none of the known spellings. The original code dropped such tokens
            silently and so never trained two of the five lesions.
    """
    try:
        return _ALIASES[token.strip()]
    except KeyError:
        raise ValueError(
            f"unknown label token {token.strip()!r}; known are {', '.join(sorted(_ALIASES))}"
        ) from None
