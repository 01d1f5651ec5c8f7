"""The pages as HTML: what a browser, a keyboard and a screen reader find in them."""

# ruff: noqa: RUF001 (Chinese has its own punctuation)

import dataclasses
import itertools
import re
from pathlib import Path

import pytest
from page_views import (
    Page,
    answer,
    baseline,
    batch,
    card,
    failure,
    render,
    results_page,
    series_answer,
    series_batch,
    series_volume_read,
    shown,
    shown_series,
)

from ladnn_tf.card import Export, PersonRule
from ladnn_tf.labels import LESIONS
from serving.page import words as words_module
from serving.page.intake import Item, SentSeries
from serving.page.series_view import series_view
from serving.page.words import words_of

STATIC = Path(words_module.__file__).parent / "static"
STYLE = (STATIC / "style.css").read_text(encoding="utf-8")
SCRIPT = (STATIC / "page.js").read_text(encoding="utf-8")

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}.png"
PAGES = {
    "index": lambda language: render("index.html", language, operating_point="Positive from 46 %."),
    "bare index": lambda language: render("index.html", language, card=None, logged_in=False, collecting=False),
    "batch": lambda language: results_page(batch(language), language),
    "single": lambda language: results_page(batch(language)[:1], language),
    "abstained": lambda language: results_page(batch(language)[2:3], language),
    "no image": lambda language: results_page([], language),
    "baseline": lambda language: results_page([shown(answer(of=baseline()), language=language)] * 2, language),
    "series": lambda language: results_page([], language, series_batch(language)),
    "series and images": lambda language: results_page(batch(language), language, series_batch(language)[1:2]),
    "login": lambda language: render("login.html", language, failed=True, card=None, logged_in=False),
    "error": lambda language: render("error.html", language, status=503, message="Busy."),
    "other error": lambda language: render("error.html", language, status=418, message="No coffee."),
}


@pytest.fixture(scope="module", params=[(name, language) for name in PAGES for language in ("en", "zh")])
def page(request):
    """Every page in every language, parsed."""
    name, language = request.param
    parsed = Page(PAGES[name](language))
    parsed.language = language
    return parsed


def test_ids_are_unique_and_what_is_referred_to_is_there(page):
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for element in page.elements:
        for name in ("for", "aria-labelledby", "aria-describedby"):
            assert set(element.attributes.get(name, "").split()) <= set(ids), element
        if element.attributes.get("href", "").startswith("#"):
            assert element.attributes["href"][1:] in ids, element


def test_every_control_has_a_name(page):
    labelled = {label.attributes["for"] for label in page.all("label") if label.text.strip()}
    for control in (*page.all("input"), *page.all("select")):
        assert control.attributes["id"] in labelled, control
    for element in (*page.all("button"), *page.all("a"), *page.all("h1"), *page.all("h2"), *page.all("option")):
        assert element.text.strip(), element
    assert all("alt" in image.attributes for image in page.all("img"))


def test_nothing_is_inline_and_nothing_is_fetched_from_elsewhere(page):
    assert page.all("style") == []
    assert [script.text for script in page.all("script")] == [""]
    for element in page.elements:
        assert not [name for name in element.attributes if name.startswith("on") or name == "style"], element
        for name in ("href", "src", "action", "srcset"):
            address = element.attributes.get(name, "/")
            assert re.match(r"/(?!/)|#|data:(image/(jpeg|png);|text/csv;|,)", address), element


def test_headings_and_landmarks(page):
    levels = [int(element.tag[1]) for element in page.elements if re.fullmatch("h[1-6]", element.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(following - level <= 1 for level, following in itertools.pairwise(levels))
    assert [len(page.all(tag)) for tag in ("header", "nav", "main", "footer", "title")] == [1, 1, 1, 1, 1]
    first = page.all("body")[0]
    assert page.elements[page.elements.index(first) + 1].attributes["href"] == "#content"  # the skip link


def test_languages(page):
    words = words_of(page.language)
    assert page.all("html")[0].attributes["lang"] == words.tag
    switch = page.all("a", hreflang=words.other.tag)
    assert [link.attributes["lang"] for link in switch] == [words.other.tag]
    assert switch[0].attributes["href"].endswith(f"?lang={words.other.language}")
    assert words.other("language.name") in switch[0].text


def test_the_notice_is_on_every_page(page):
    words = words_of(page.language)
    assert page.all("p", role="note")[0].text.strip() == words("notice")
    assert words("notice") in page.all("footer")[0].text
    assert all(words("notice") in article.text for article in page.all("article"))


def test_no_placeholder_is_left_in_what_is_read(page):
    assert "{" not in page.text
    assert "None" not in page.text


def test_where_an_app_lies_in_a_folder_its_addresses_do_too():
    class Request:
        scope = {"root_path": "/ladnn"}  # noqa: RUF012 (as Starlette has it)

    for text in (render("index.html", request=Request), results_page(batch(), request=Request)):
        addresses = re.findall(r'(?:href|src|action)="(/[^"]*)"', text)
        assert len(addresses) >= 5
        assert all(address.startswith("/ladnn/") for address in addresses)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_hostile_name_is_text(language):
    results = [shown(failure(), HOSTILE, language, picture=False), shown(answer(), HOSTILE, language)]
    page = Page(results_page(results, language))
    assert len(page.all("script")) == 1
    assert [image for image in page.all("img") if image.attributes["src"] == "x"] == []
    assert page.text.count("{{ 7*7 }}.png") == 4  # in the table and above each answer
    assert page.all("h2")[-1].text == f"2. {HOSTILE}"


def test_a_hostile_message_and_model_are_text():
    page = Page(render("error.html", status=400, message=HOSTILE, card=card(name="<b>x</b>")))
    assert HOSTILE in page.text
    assert "<b>x</b>-int8" in page.all("footer")[0].text


# Results


def test_a_batch_is_counted_listed_and_shown():
    page = Page(results_page(batch()))
    summary = page.all("ul", class_="summary")[0]
    assert " ".join(summary.text.split()) == "1 called positive 1 called negative 2 without an answer"
    table = page.all("table")[0]
    assert " ".join(table.text.split()).startswith("No. File Answer COVID-19 ground-glass opacity consolidation")
    links = [link.attributes["href"] for link in page.all("a") if link.attributes["href"].startswith("#image-")]
    assert links == ["#image-1", "#image-2", "#image-3", "#image-4"]
    articles = page.all("article", class_="result")
    assert [article.attributes["id"] for article in articles] == [link[1:] for link in links]
    region = page.all("div", role="region")[0]
    assert (region.attributes["tabindex"], region.attributes["aria-labelledby"]) == ("0", "table")
    assert [head.attributes["scope"] for head in page.all("th")] == ["col"] * 9 + ["row"] * 4
    download = page.all("a", download="ladnn-results.csv")[0]
    assert download.attributes["href"].startswith("data:text/csv;charset=utf-8;base64,")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_lesions_that_mean_nothing_are_nowhere(language):
    result = shown(answer(0.2), language=language)
    article = Page(results_page([result], language)).all("article")[0]
    assert result.lesion_caveat in article.text
    page = Page(results_page([result], language))
    assert page.all("ul", class_="lesions") == page.all("select") == page.all("option") == []
    assert [image.attributes["data-label"] for image in page.all("img", class_="heat")] == ["covid"]
    assert len(page.all("rect", class_="bar-value")) == 1
    words = words_of(language)
    for lesion in LESIONS:
        assert words(f"lesion.{lesion}") not in article.text
    assert words("results.no_lesions") not in article.text


def test_lesions_beside_a_negative_call_are_dashes_in_the_table():
    text = " ".join(Page(results_page(batch())).all("table")[0].text.split()).replace("\u00a0", " ")
    assert "a/slice.png Called positive 83 % 91 % 34 % 72 % 12 % <1 %" in text
    assert "b/slice.png Called negative 31 % –none –none –none –none –none" in text
    said = words_of("en")("results.lesions_in_table")
    assert said in Page(results_page(batch())).text
    assert said not in Page(results_page([shown(answer(0.2, card(lesion_targets="all")))] * 2)).text
    negative = Page(results_page([shown(answer(0.2))] * 2))
    assert said in negative.text
    assert len(negative.all("table")[0].text.split("COVID-19")) == 2
    assert "ground-glass" not in negative.text


@pytest.mark.parametrize(("place", "icon"), [(2, "is-abstained"), (3, "is-error")])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_without_an_answer_nothing_looks_like_a_diagnosis(language, place, icon):
    result = batch(language)[place]
    page = Page(results_page([result], language))
    article = page.all("article")[0]
    words = words_of(language)
    assert result.reason in article.text
    for word in ("results.positive", "results.negative"):
        assert words(word).lower() not in article.text.lower()
    assert "%" not in article.text
    assert page.all("select") == page.all("input") == []
    badge = page.all("span", class_=f"call {icon}")[0]
    assert badge.text.strip() == words(f"results.{result.state}")


def test_an_english_reason_on_a_chinese_page_is_marked():
    page = Page(results_page([shown(failure("the disk is on fire"), language="zh")], "zh"))
    assert [element.text for element in page.all("span", lang="en")] == ["the disk is on fire"]
    known = Page(results_page([shown(failure(), language="zh")], "zh"))
    assert known.all("span", lang="en") == []
    assert "原因：不是 PNG 或 JPEG 格式；请转换格式。" in known.text


def test_an_answer_has_its_bar_its_maps_and_its_words():
    page = Page(results_page([shown(answer())]))
    result = shown(answer())
    bar = page.all("svg", role="img")[0]
    assert bar.attributes["aria-label"] == "Probability 83\u00a0%, threshold 46\u00a0%"
    assert [line.attributes["x1"] for line in page.all("line")] == ["46.0%"]
    widths = [bar.attributes["width"] for bar in page.all("rect", class_="bar-value")]
    assert widths == ["83.0%", "91.0%", "34.0%", "72.0%", "12.4%", "0.4%"]
    assert [option.attributes["value"] for option in page.all("option")] == [heat.label for heat in result.heat]
    shown_maps = [image for image in page.all("img", class_="heat") if "hidden" not in image.attributes]
    assert [image.attributes["src"] for image in shown_maps] == [result.heat[0].uri]
    for text in (result.sentence, result.bin_sentence, result.lesion_caveat, result.cells, result.heat[0].text):
        assert " ".join(text.split()) in page.text
    assert "where the network looked, not where a lesion is" in page.text


def test_a_map_alone_has_no_choice_and_a_baseline_says_so():
    page = Page(results_page([shown(answer(of=baseline()))]))
    assert page.all("select") == []
    assert len(page.all("input", type="range")) == 1
    assert "says nothing of lesions" in page.text


def test_unfit_models_and_other_notices_are_marked():
    unfit = card(export=Export("int8", "0" * 64, "unfit", ("too far off",)), notice="Ours alone.")
    text = results_page([shown(answer(of=unfit), language="zh")], "zh", card=unfit)
    page = Page(text)
    assert page.all("p", class_="alarm wide")
    article = page.all("article")[0]
    assert "不合格模型" in article.text
    assert [notice.text for notice in page.all("p", lang="en")] == ["Ours alone."]
    assert "UNFIT" not in Page(results_page([shown(answer())])).text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_model_of_phantoms_is_marked_on_every_page_and_result(language):
    phantom = card(sources=("phantoms",))
    alarm = words_of(language)("site.of_phantoms")
    results = [shown(answer(of=phantom), language=language), shown(failure(of=phantom), language=language)]
    page = Page(results_page(results, language, card=phantom))
    assert [part.text.strip() for part in page.all("p", class_="alarm wide", role="alert")] == [alarm]
    assert [alarm in article.text for article in page.all("article")] == [True, True]
    assert alarm in Page(render("index.html", language, card=phantom)).text
    assert alarm not in Page(results_page(batch(language), language)).text
    assert alarm not in Page(render("index.html", language)).text


def test_one_unfit_model_of_two_is_on_top():
    unfit = shown(answer(of=card(export=Export("int8", "0" * 64, "unfit"))))
    phantom = shown(answer(of=card(sources=("phantoms",))))
    page = Page(results_page([unfit, phantom, shown(answer())], card=card()))
    assert [alarm.text.strip()[:7] for alarm in page.all("p", class_="alarm wide")] == ["UNFIT M", "PHANTOM"]
    alarms = [article.text.count(" MODEL:") for article in page.all("article")]
    assert alarms == [1, 1, 0]


def test_each_operating_point_has_its_line():
    page = Page(results_page(batch(), operating_point="one\n<b>two"))
    assert [part.text for part in page.all("p") if part.text in ("one", "<b>two")] == ["one", "<b>two"]


def test_results_of_two_models_say_so():
    other = dataclasses.replace(shown(answer()), card_sha256="77" * 32)  # the version is the same
    warning = words_of("en")("results.several_models")
    assert warning in Page(results_page([shown(answer()), other])).text
    assert warning not in Page(results_page([other, other])).text


# Series


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_series_has_its_call_its_interval_and_its_slices(language):
    words = words_of(language)
    result = series_batch(language)[0]  # 0.9, 0.8 and 0.7, and one left out
    page = Page(results_page([], language, [result]))
    article = page.all("article")[0]
    assert "80" in page.all("span", class_="probability")[0].text
    bar = page.all("rect", class_="bar-interval")[0]
    assert (bar.attributes["x"], bar.attributes["width"]) == ("75.0%", "10.0%")
    alts = [image.attributes["alt"] for image in page.all("img") if image.attributes["alt"]]
    assert len(alts) == 3
    assert [image.attributes["src"] for image in page.all("img", class_="heat")] == [
        s.heat for s in result.suspects
    ]
    assert [suspect.number for suspect in result.suspects] == [1, 5, 13]
    for text in (result.sentence, result.interval, result.rule, result.looked, result.shown, result.drawn):
        assert " ".join(text.split()) in page.text
    left_out = words.count("series.left_out_item", 1)
    assert left_out in article.text
    assert [head.text for head in page.all("th", scope="row")] == ["1", "5", "9", "13"]
    assert len(page.all("input", type="range")) == 1
    assert page.all("div", class_="map")[0].attributes["data-text-opacity"]
    assert result.file in page.all("h2")[0].text
    assert "Anna" not in page.text


def test_boxes_are_drawn_where_the_call_allows_it_and_are_counted_in_words():
    drenet = card(task="drenet", classes=("covid19", "bacterial"), lesion_targets="")
    positive = shown_series([0.9, 0.8, 0.1], boxes=True, of=drenet)  # the third slice's boxes score too little
    assert [suspect.boxes for suspect in positive.suspects] == [2, 1, 0]
    assert "the number beside each is its share of it" in positive.drawn
    negative = shown_series([0.2, 0.1, 0.6], boxes=True, of=drenet)  # one slice alone is called positive
    assert [suspect.boxes for suspect in negative.suspects] == [0, 0, 0]
    assert negative.positive is False
    assert negative.drawn == "No boxes are drawn, as the person is called negative."
    elsewhere = shown_series([0.9, 0.8, 0.7], boxes=True, of=drenet, suspicious=(2,))  # its boxes score too little
    assert [suspect.boxes for suspect in elsewhere.suspects] == [0]
    assert elsewhere.drawn.startswith("No boxes are drawn: none in these slices has more than 80")
    page = Page(results_page([], series=[positive]))
    alts = [image.attributes["alt"] for image in page.all("img")]
    assert alts[0].endswith("2 boxes are drawn in it")
    assert alts[1].endswith("1 box is drawn in it")
    assert not alts[2].endswith("in it")
    assert "Boxes show where the network looked closer" in page.text
    assert "bacterial pneumonia 40" in page.text.replace("\u00a0", " ")
    assert page.all("input", type="range") == []


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("place", [2, 3])
def test_a_series_without_an_answer_says_nothing_of_a_diagnosis(language, place):
    words = words_of(language)
    page = Page(results_page([], language, [series_batch(language)[place]]))
    article = page.all("article")[0]
    assert words(f"series.{'abstained' if place == 2 else 'error'}") in article.text
    for word in ("results.positive", "results.negative"):
        assert words(word).lower() not in article.text.lower()
    assert "%" not in article.text
    assert [image for image in page.all("img") if image.attributes["src"].startswith("data:image")] == []


def test_what_readers_say_is_translated_with_the_reasons_in_it():
    result = shown_series(
        [0.9, "not taken for a chest-CT slice: the body is taller than wide, as a head is"], "zh"
    )
    assert [said.text for said in result.report] == [
        "只有一层。",
        "已排除 00001.dcm：定位像，即 ImageType (0008,0008) 的第 3 个值为 LOCALIZER。",
        "另有 1 个文件不是 DICOM，已略过。",
    ]
    assert result.left_out[0].text.startswith("不像胸部 CT 横断面图像：")
    assert {said.language for said in (*result.report, *result.left_out)} == {"zh"}
    english = shown_series([0.9, "such a thing"], "zh").left_out[0]
    assert (english.text, english.language, english.count) == ("such a thing", "en", 1)


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (("a.nii",), "a.nii, series 3"),
        (("CT/1.dcm", "CT/2.dcm"), "CT, series 3"),
        (("1.dcm", "2.dcm"), "1.dcm and 1 more, series 3"),
        (("a/1.dcm", "b/2.dcm"), "a/1.dcm and 1 more, series 3"),
        (("../../x/1.dcm", "../../x/2.dcm"), "x, series 3"),
    ],
)
def test_a_series_is_called_by_its_files(files, name):
    read = dataclasses.replace(series_volume_read(), places=tuple(range(len(files))))
    sent = SentSeries("DICOM", tuple(Item(file, kind="DICOM") for file in files), [])
    view = series_view(series_answer([0.5]), read, sent, words_of("en"), with_pictures=False)
    assert view.file == name
    assert view.suspects == []


def test_rules_and_intervals_in_words():
    rule = PersonRule("top_k_mean", 0.4, "by hand", 24, 9)
    person = shown_series([0.9], of=card(person=rule), aggregation="top_k_mean", low=None, high=None)
    assert "chosen on 24 persons of validation, 9 of them with COVID-19: by hand." in person.rule
    assert "mean of the 3 highest slices" in person.sentence
    assert "one slice alone" in person.interval
    alike = shown_series([0.9, 0.9], low=None, high=None)
    assert "all slices have the same" in alike.interval
    assert "chosen for single slices" in alike.rule
    at = shown_series([0.46])
    assert "reaches the threshold" in at.sentence
    below = shown_series([0.4599999])
    assert "just below" in below.sentence
    assert below.percent.startswith("46")
    pictures = shown_series([0.9], calibrated=False)
    assert "not in Hounsfield units" in pictures.shown
    lungs = shown_series([0.9], of=card(lungs="extracted"))
    assert "the lungs alone" in lungs.shown


# The other pages


def test_upload_works_without_script():
    page = Page(render("index.html"))
    form = page.all("form", id="upload")[0]
    assert (form.attributes["method"], form.attributes["action"]) == ("post", "/diagnose")
    assert form.attributes["enctype"] == "multipart/form-data"
    files = page.all("input", type="file")
    assert [file.attributes["name"] for file in files] == ["files", "files"]
    assert all("multiple" in file.attributes and "required" not in file.attributes for file in files)
    assert [form.attributes[f"data-max-{name}"] for name in ("images", "image-mb", "request-mb")] == [
        "64",
        "16",
        "128",
    ]
    assert page.all("p", id="status")[0].attributes["role"] == "status"


def test_login_and_logout():
    page = Page(render("login.html", failed=True, logged_in=False))
    field = page.all("input")[0].attributes
    assert (field["name"], field["type"], field["aria-invalid"]) == ("token", "password", "true")
    assert len(page.all("form")) == 1
    assert "aria-invalid" not in Page(render("login.html", failed=False)).all("input")[0].attributes
    assert Page(render("login.html", failed=False)).all("form", action="/logout")


def test_links_to_what_there_is():
    assert Page(render("index.html")).all("a", href="/contribute")
    assert not Page(render("index.html", collecting=False)).all("a", href="/contribute")


def test_errors_have_a_title_of_their_own():
    assert Page(render("error.html", status=413, message="x")).all("h1")[0].text == "The upload is too large"
    assert Page(render("error.html", status=418, message="x")).all("h1")[0].text == "This did not work"


# Script and style


def test_the_script_finds_its_texts_and_elements():
    index, results = Page(render("index.html")), Page(results_page(batch()))
    texts = {name for name in index.all("form", id="upload")[0].attributes if name.startswith("data-text-")}
    called = re.findall(r'\btext\("(\w+)"', SCRIPT)
    called += [f"{key}{number}" for key in re.findall(r'\bcounted\("(\w+)"', SCRIPT) for number in ("One", "Many")]
    assert texts == {"data-text" + re.sub("[A-Z]", lambda found: f"-{found[0].lower()}", key) for key in called}
    ids = {element.attributes.get("id") for page in (index, results) for element in page.elements}
    used = set(re.findall(r'(?:\bfind|getElementById)\("([\w-]+)"\)', SCRIPT))
    assert len(used) > 8
    assert used <= ids
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|https?:", SCRIPT)


def schemes():
    """The colours of the light and of the dark scheme, by name."""
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", part)) for part in STYLE.split("@media")[:2])
    assert set(light) == set(dark)
    return {"light": light, "dark": dark}


def luminance(colour):
    """Relative luminance (WCAG 2.2) of `#rrggbb`."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def test_contrast_is_computed_as_wcag_has_it():
    assert contrast("#ffffff", "#000000") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("text", "ground", "least"),
    [
        *[(text, ground, 4.5) for text in ("ink", "muted", "link", "error") for ground in ("ground", "panel")],
        *[(name, f"{name}-ground", 4.5) for name in ("notice", "positive", "negative", "abstained", "error")],
        ("muted", "negative-ground", 4.5),  # a drop target that is dragged over
        ("action-ink", "action", 4.5),
        # WCAG 2.2, 1.4.11: what is no text.
        *[("focus", ground, 3.0) for ground in ("ground", "panel")],
        *[("action", ground, 3.0) for ground in ("ground", "track")],
        ("muted", "track", 3.0),
        ("ink", "action", 1.5),  # the threshold's line over the bar, which it stands out of above and below
    ],
)
def test_colours_can_be_told_apart(scheme, text, ground, least):
    colours = schemes()[scheme]
    assert contrast(colours[text], colours[ground]) >= least


def test_every_class_has_a_style_and_every_style_a_use():
    templates = (STATIC.parent / "templates").glob("*.html")
    text = "\n".join(path.read_text(encoding="utf-8") for path in templates) + SCRIPT
    pages = [Page(make("en")) for make in PAGES.values()]
    used = {
        name for page in pages for element in page.elements for name in element.attributes.get("class", "").split()
    }
    styled = set(re.findall(r"\.([a-z][a-z-]+)(?=[\s.,:{>~+])", re.sub(r"/\*.*?\*/", "", STYLE, flags=re.DOTALL)))
    assert used - styled <= {"origin", "map"}
    assert {name for name in styled - used if name not in text} == set()
