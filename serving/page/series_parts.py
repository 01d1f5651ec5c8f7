"""What is shown of a series: the parts of a view, filled by `series_view.py`."""

import dataclasses

from serving.page.view import LabelView


@dataclasses.dataclass(frozen=True)
class Said:
    """A sentence that may be English on a Chinese page.

    Attributes:
        text: the sentence, or part of one.
        language: of it.
        count: how many slices it is said of; 0 where it is of the series.
    """

    text: str
    language: str
    count: int = 0


@dataclasses.dataclass(frozen=True)
class SliceView:
    """One slice that was looked at.

    Attributes:
        number: of the slice in the series, from 1.
        covid: calibrated probability of COVID-19, in [0, 1]; None where it was left out.
        percent: the same in per cent; empty where it was left out.
        reason: why it was left out; None where it was answered.
    """

    number: int
    covid: float | None
    percent: str
    reason: Said | None


@dataclasses.dataclass(frozen=True)
class SuspectView:
    """One of the most suspicious slices.

    Attributes:
        number: of the slice in the series, from 1.
        percent: its probability of COVID-19.
        picture: `pictures.slice_uri` of what the network was shown, with its boxes.
        boxes: how many boxes are drawn.
        heat: `pictures.heat_uri` of its map of COVID-19; empty for models without maps.
        text: what the map shows, in words; empty without one.
    """

    number: int
    percent: str
    picture: str
    boxes: int
    heat: str
    text: str


@dataclasses.dataclass(frozen=True)
class SeriesView:
    """One series with its answer, ready to be shown; all texts are in the reader's language.

    Attributes:
        file: names the series by the files it is from, and its scanner's number; never by what a header says else.
        state: one of `view.STATES`: it abstained if all slices were left out.
        sentence: the probability, the threshold and the call, the most probable class, and what must be known
            beside them (`ladnn_tf.series_cautions`); where there is no answer, that there is none.
        threshold, threshold_percent, model_version, card_sha256, unfit, of_phantoms, caveats, notice: as of
            `view.ResultView`; None and empty where no slice was read.
        looked: how many slices were read, how many looked at, and how many answered, in words.
        left_out: why slices were left out, and how many for each reason.
        report: what was irregular about the series.
        reason, reason_language: why the files could not be read, else empty.
        slices, slices_answered: how many were read and answered.
        covid, positive, percent, digits: of the person, as of `view.ResultView`.
        low, high: 95 % interval of `covid` over the slices; None where there is none.
        interval: what it is and means, or why there is none.
        aggregation: one of `person.AGGREGATIONS`.
        rule: from where on a person is called positive, and how that was chosen.
        shown: how the slices were shown to the network.
        classes: mean probability of each class; empty for models without classes.
        looked_at: the slices that were looked at.
        suspects: at most three, the most suspicious first.
        drawn: what is drawn in their pictures.
        scale: `pictures.scale_uri` where there are maps.
    """

    file: str
    state: str
    sentence: str
    threshold: float | None
    threshold_percent: str
    model_version: str
    card_sha256: str
    unfit: bool
    of_phantoms: bool
    caveats: list[str]
    notice: str
    looked: str = ""
    left_out: list[Said] = dataclasses.field(default_factory=list)
    report: list[Said] = dataclasses.field(default_factory=list)
    reason: str = ""
    reason_language: str = ""
    slices: int = 0
    slices_answered: int = 0
    covid: float | None = None
    positive: bool | None = None
    percent: str = ""
    digits: int = 0
    low: float | None = None
    high: float | None = None
    interval: str = ""
    aggregation: str = ""
    rule: str = ""
    shown: str = ""
    classes: list[LabelView] = dataclasses.field(default_factory=list)
    looked_at: list[SliceView] = dataclasses.field(default_factory=list)
    suspects: list[SuspectView] = dataclasses.field(default_factory=list)
    drawn: str = ""
    scale: str = ""
