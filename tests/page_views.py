"""Cards, answers and pages for the tests of what a reader of the diagnosis page sees."""

import dataclasses
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ladnn_tf.answer import Answer
from ladnn_tf.card import Card, Export, ScoreBin
from ladnn_tf.labels import LESIONS
from serving.page import results_csv, view
from serving.page.words import words_of

SHA256 = "3f" * 32
TEMPLATES = Path(view.__file__).parent / "templates"
LIMITS = SimpleNamespace(max_images=64, max_image_mb=16, max_request_mb=128)

BINS = (
    ScoreBin(0.0, 0.2, 22, 2, (0.0253, 0.2781)),
    ScoreBin(0.2, 0.5, 9, 1, (0.0199, 0.435)),
    ScoreBin(0.5, 0.8, 0, 0, None),
    ScoreBin(0.8, 1.0, 40, 34, (0.7093, 0.9294)),
)


def validation(threshold=0.46):
    """What a card says of validation, as `ladnn_tf.report` has it."""
    interval = {"undefined_resamples": 0, "method": "bootstrap"}
    point = {
        "threshold": threshold,
        "sensitivity": {"value": 0.95, "low": 0.876, "high": 1.0, **interval},
        "specificity": {"value": 0.603, "low": 0.423, "high": 0.779, **interval},
    }
    return {"validation": {"images": 118, "patients": 55, "positives": 60, "covid": {"at_threshold": point}}}


def card(**changes):
    """A fit model's card: threshold 0.46, lesions learnt on positives, four bins of scores, one of them empty."""
    fields = {
        "name": "tiny",
        "task": "ladnn",
        "backbone": "resnet18",
        "weights": "none",
        "normalisation": {"mean": [0.0] * 3, "std": [255.0] * 3},
        "image_size": 64,
        "temperature": 1.0,
        "threshold": 0.46,
        "threshold_rule": "the highest with a sensitivity of at least 0.95 on validation",
        "manifest": {"file": "none.csv", "sha256": "0" * 64},
        "model_sha256": "ab" * 32,
        "weights_sha256": "0" * 64,
        "best_epoch": 1,
        "metrics": validation(),
        "versions": {},
        "revision": "",
        "export": Export("int8", "0" * 64, "fit"),
        "lesion_targets": "positives",
        "score_bins": BINS,
        "sources": ("covid_ct",),
    }
    return Card(**{**fields, **changes})


def baseline(**changes):
    """The card of a model without lesions."""
    return card(task="baseline", lesion_targets="", **changes)


def maps(labels=6):
    """`(4, 4, labels)`: each map is highest in another cell, in the order of the rows."""
    found = np.zeros((4, 4, labels), np.float32)
    for label in range(labels):
        found[label // 4, label % 4, label] = 2.0
    return found


def answer(covid=0.83, of=None, **changes):
    """An answer with lesions and maps, as `of`, a card, has them."""
    of = of or card()
    is_baseline = of.task == "baseline"
    fields = {
        "covid": covid,
        "positive": covid >= of.threshold,
        "lesions": {} if is_baseline else dict(zip(LESIONS, (0.91, 0.34, 0.72, 0.124, 0.004), strict=True)),
        "maps": maps(1 if is_baseline else 6),
    }
    return Answer(of, SHA256, **{**fields, **changes})


def abstention(reason="the body is taller than wide, as a head is", of=None):
    return Answer(of or card(), SHA256, abstained=True, reason=reason)


def failure(error="neither PNG nor JPEG; convert it", of=None):
    return Answer(of or card(), SHA256, error=error)


def pixels(height=40, width=60):
    """`(height, width, 3)` uint8 grey, brighter to the right."""
    row = np.linspace(0, 255, width).astype(np.uint8)
    return np.repeat(np.repeat(row[None, :, None], height, 0), 3, -1)


def shown(given, file="slice.png", language="en", picture=True):
    """`view_of` an answer."""
    return view.view_of(file, given, pixels() if picture else None, words_of(language))


def batch(language="en"):
    """Four images: called positive, called negative, abstained, not readable."""
    return [
        shown(answer(), "a/slice.png", language),
        shown(answer(0.31), "b/slice.png", language),
        shown(abstention(), "head.png", language),
        shown(failure(), "<script>alert(1)</script>.png", language, picture=False),
    ]


def render(template, language="en", **context):
    """A page, its context as `serving/page/pages.py` gives it."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    common = {
        "words": words_of(language),
        "language": language,
        "card": card(),
        "logged_in": True,
        "collecting": True,
        "limits": LIMITS,
        "request": SimpleNamespace(scope={"root_path": ""}),
    }
    return environment.get_template(template).render(common | context)


def results_page(results, language="en", **context):
    """The page of results."""
    given = {
        "results": results,
        "csv_uri": results_csv.csv_uri(results),
        "operating_point": view.operating_point(card(), words_of(language), results),
    }
    return render("results.html", language, **(given | context))


@dataclasses.dataclass
class Element:
    """An element of a page with the text in it."""

    tag: str
    attributes: dict[str, str]
    text: str = ""


class Page(HTMLParser):
    """The elements of a page, in order.

    Args:
        text: the HTML; what is not closed in the order in which it was opened is an error.
    """

    _EMPTY = ("meta", "link", "img", "input", "br", "hr")

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self._open = []
        self.feed(text)
        self.close()
        assert not self._open, [element.tag for element in self._open]

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in self._EMPTY:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag):
        assert self._open, tag
        assert self._open.pop().tag == tag, tag

    def handle_data(self, data):
        for element in self._open:
            element.text += data

    def all(self, tag, **attributes):
        """The elements of a tag whose attributes have these values."""
        return [
            element
            for element in self.elements
            if element.tag == tag
            and all(element.attributes.get(name.rstrip("_")) == value for name, value in attributes.items())
        ]

    @property
    def text(self):
        """What is read, white space as a browser shows it."""
        return " ".join(self.all("body")[0].text.split())
