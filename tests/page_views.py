"""Cards, answers and pages for the tests of what a reader of the diagnosis page sees."""

import dataclasses
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ladnn_tf.answer import Answer
from ladnn_tf.card import Card, Export, ScoreBin
from ladnn_tf.data.volume import Volume
from ladnn_tf.labels import LESIONS
from ladnn_tf.series import SeriesAnswer, SliceAnswer
from serving.page import results_csv, series_view, view
from serving.page.intake import Item, SentSeries
from serving.page.series_reading import ReadSeries
from serving.page.words import words_of

SHA256 = "3f" * 32
TEMPLATES = Path(view.__file__).parent / "templates"
LIMITS = SimpleNamespace(max_images=64, max_slices=1024, max_image_mb=16, max_request_mb=128)

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


def series_volume_read(count=60):
    """A series as it was read: `count` slices 5 mm apart, with an irregularity."""
    report = ("there is one slice only.", "left out: 00001.dcm: a localizer (ImageType (0008,0008) value 3).")
    volume = Volume("series 3 (of Anna)", np.zeros((count, 4, 4), np.float32), (5.0, 0.7, 0.7), report, ())
    return ReadSeries(volume, "3", (0, 1), report)


def series_answer(covids, of=None, boxes=False, **changes):
    """The answer for a series of 60 slices: of each slice its probability, or why it was left out."""
    of = of or card()
    slices = []
    for place, covid in enumerate(covids):
        made, reason = None, covid
        if isinstance(covid, float):
            made, reason = answer(covid, of), ""
            if boxes:
                scores = np.array([0.9, 0.8, 0.1], np.float32)
                found = np.array([[0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 0.7, 0.7], [0.0, 0.0, 0.1, 0.1]], np.float32)
                classes = {"covid19": covid, "bacterial": 1.0 - covid}
                made = dataclasses.replace(
                    made, maps=None, lesions={}, boxes=found, scores=scores * covid, classes=classes
                )
        slices.append(SliceAnswer(4 * place, f"{place:05d}.dcm", made, reason, pixels(30, 40)))
    places = [place for place, each in enumerate(slices) if each.answer]
    covid = float(np.mean([covids[place] for place in places])) if places else None
    fields = {
        "name": "series 3 (of Anna)",
        "card": of,
        "card_sha256": SHA256,
        "covid": covid,
        "low": covid and covid - 0.05,
        "high": covid and covid + 0.05,
        "positive": None if covid is None else covid >= of.threshold,
        "aggregation": "mean",
        "threshold": of.threshold,
        "classes": {"covid19": covid, "bacterial": 1.0 - covid} if boxes and places else {},
        "slices": tuple(slices),
        "suspicious": tuple(sorted(places, key=lambda place: -covids[place])[:3]),
        "report": (),
        "reason": "" if places else "none",
        "count": 60,
        "spacing_mm": (5.0, 0.7, 0.7),
    }
    return SeriesAnswer(**{**fields, **changes})


def shown_series(covids, language="en", files=("CT/1.dcm", "CT/2.dcm"), *, picture=True, **changes):
    """`series_view` of such an answer."""
    sent = SentSeries("DICOM", tuple(Item(name, kind="DICOM") for name in files), [], passed_over=1)
    made = series_answer(covids, **changes)
    return series_view.series_view(made, series_volume_read(), sent, words_of(language), with_pictures=picture)


def series_batch(language="en"):
    """Four series: called positive, by boxes, with every slice left out, and not readable."""
    sent = SentSeries("NIfTI", (Item("<b>.nii", kind="NIfTI"),), [])
    lungless = "no region in the body section is dark and large enough for a lung"
    return [
        shown_series([0.9, 0.8, lungless, 0.7], language),
        shown_series(
            [0.9, 0.3, 0.6], language, boxes=True, of=card(task="drenet", classes=("covid19", "bacterial"))
        ),
        shown_series([lungless, lungless], language),
        series_view.failure_view(sent, "a damaged NIfTI file (x)", card(), SHA256, words_of(language)),
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


def results_page(results, language="en", series=(), **context):
    """The page of results."""
    given = {
        "results": results,
        "series": list(series),
        "csv_uri": results_csv.csv_uri(results, series),
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
