"""What is said of an answer: sentences, figures, pictures and the CSV."""

# ruff: noqa: RUF001 (Chinese has its own punctuation)

import base64
import csv
import dataclasses
import io
import math
import re

import numpy as np
import page_views
import pytest
from page_views import abstention, answer, baseline, card, failure, shown
from PIL import Image

from ladnn_tf.card import Export, ScoreBin
from ladnn_tf.edge_overlay import OUTLINE, blend, heat_colours
from ladnn_tf.labels import COVID, LESION_NAMES, LESIONS
from serving.page import percent, pictures, results_csv
from serving.page.view import operating_point, shown_name, view_of
from serving.page.words import words_of

ENGLISH, CHINESE = words_of("en"), words_of("zh")


def plain(text):
    return text.replace("\u00a0", " ")


def opened(uri):
    media_type, _, content = uri.partition(";base64,")
    return media_type.removeprefix("data:"), Image.open(io.BytesIO(base64.b64decode(content)))


# Per cent


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.83, 0, "83 %"),
        (0.0, 0, "<1 %"),
        (1e-9, 0, "<1 %"),
        (0.0049, 0, "<1 %"),
        (0.0051, 0, "1 %"),
        (0.9949, 0, "99 %"),
        (0.9951, 0, ">99 %"),
        (1.0, 0, ">99 %"),
        (0.4561, 1, "45.6 %"),
        (0.00031, 1, "<0.1 %"),
        (0.9996, 1, ">99.9 %"),
        (0.99999, 2, ">99.99 %"),
    ],
)
def test_a_probability_is_never_shown_as_certain(value, digits, text):
    assert plain(percent.probability(value, ENGLISH, digits)) == text
    assert percent.probability(value, CHINESE, digits) == text.replace(" ", "")


def test_shares_intervals_and_spans():
    assert [plain(percent.share(value, ENGLISH)) for value in (0.0, 1.0, 0.001, 0.999, 0.854)] == [
        "0 %",
        "100 %",
        "<1 %",
        ">99 %",
        "85 %",
    ]
    assert plain(percent.interval(0.7093, 0.9294, ENGLISH)) == "71 to 93 %"
    assert plain(percent.interval(0.0, 0.004, ENGLISH)) == "0 to <1 %"
    assert percent.interval(0.7093, 1.0, CHINESE) == "71%～100%"
    assert plain(percent.span(0.8, 1.0, ENGLISH)) == "80 to 100 %"
    assert plain(percent.span(0.0, 0.125, ENGLISH)) == "0 to 12.5 %"
    assert plain(percent.span(0.1 + 0.2, 0.7, ENGLISH)) == "30 to 70 %"


def number(text):
    """What a shown percentage is at most or at least, as a number."""
    figure = float(re.search(r"[\d.]+", text)[0])
    return figure - 1e-9 if "<" in text else figure + 1e-9 if ">" in text else figure


def near_and_far():
    random = np.random.default_rng(0)
    for threshold in (*random.random(100), 0.0, 1.0, 0.005, 0.46, 0.995, 1e-7):
        for distance in (0.3, 0.01, 0.003, 0.0004, 3e-6, 1e-9, 0.0):
            for sign in (-1, 1):
                yield float(np.clip(threshold + sign * distance, 0.0, 1.0)), float(threshold)


def test_what_is_shown_never_contradicts_the_call():
    sentences = set()
    for covid, threshold in near_and_far():
        result = shown(answer(covid, card(threshold=threshold), maps=None), picture=False)
        probability, limit = number(result.percent), number(result.threshold_percent)
        assert probability >= limit if result.positive else probability <= limit, result
        if probability == limit and not result.positive:
            assert "just below" in result.sentence, result
        assert result.percent in result.sentence
        assert result.threshold_percent in result.sentence
        beside = operating_point(card(threshold=threshold, metrics={}), ENGLISH, [result])
        assert result.threshold_percent in beside
        assert result.positive == (covid >= threshold)
        assert ("called positive" in result.sentence) == result.positive
        sentences.add(re.sub(r"[<>]?[\d.]+\u00a0%", "N", result.sentence))
    assert len(sentences) == 4  # above, at, below, just below


# Sentences


def test_a_positive_call_in_words_and_figures():
    result = shown(answer(0.8314))
    assert (result.state, result.positive, result.covid) == ("answered", True, 0.8314)
    assert plain(result.sentence) == (
        "The network gives COVID-19 a probability of 83 %. This is above the threshold of 46 %: called positive."
    )
    assert plain(result.bin_sentence) == (
        "Among validation images from COVID-CT with a score of 80 to 100 %, 34 of 40 were COVID-19: 85 % (95 % "
        "interval 71 to 93 %). Of all validation images 52 % were COVID-19; where it is rarer, it is rarer at "
        "such a score, too."
    )
    chinese = shown(answer(0.8314), language="zh")
    assert chinese.sentence == "网络给出的 COVID-19 概率为 83%，高于阈值 46%：模型判为阳性。"
    assert chinese.bin_sentence == (
        "来自“COVID-CT 数据集”的验证图像中，得分为 80%～100% 的有 40 幅，其中 34 幅为 COVID-19，占 85%"
        "（95% 置信区间 71%～93%）。全部验证图像中 52% 为 COVID-19；"
        "在 COVID-19 更少见的人群中，得分相同的图像里 COVID-19 的比例也更低。"
    )


def test_near_the_threshold_there_are_more_digits():
    result = shown(answer(0.4561, card(threshold=0.4589)))
    assert plain(result.sentence) == (
        "The network gives COVID-19 a probability of 45.6 %. This is below the threshold of 45.9 %: called "
        "negative."
    )
    assert (plain(result.percent), plain(result.threshold_percent), result.digits) == ("45.6 %", "45.9 %", 1)


def test_at_the_threshold_and_a_hair_below():
    at, below = shown(answer(0.46)), shown(answer(math.nextafter(0.46, 0.0)))
    assert plain(at.sentence).endswith(
        "a probability of 46 %. This reaches the threshold of 46 %: called positive."
    )
    assert plain(below.sentence) == (
        "The network gives COVID-19 a probability just below 46.00 %, and so just below the threshold of 46.00 %: "
        "called negative."
    )


@pytest.mark.parametrize(
    ("bins", "covid", "text"),
    [
        (page_views.BINS, 0.3, "20 to 50 %, 1 of 9 was COVID-19: 11 % (95 % interval 2 to 44 %)."),
        (
            page_views.BINS,
            0.6,
            "No validation image from COVID-CT had a score of 50 to 80 %, so nobody knows how often",
        ),
        (page_views.BINS, 0.8, "80 to 100 %, 34 of 40 were"),
        ((ScoreBin(0.0, 1.0, 3, 0, (0.0, 0.56)),), 0.9, "0 of 3 were COVID-19: 0 % (95 % interval 0 to 56 %)."),
        ((), 0.3, "How often such a score was right on validation images is not in this model's card."),
    ],
)
def test_the_share_of_the_score_bin(bins, covid, text):
    assert text in plain(shown(answer(covid, card(score_bins=bins)), picture=False).bin_sentence)


@pytest.mark.parametrize(
    ("sources", "manifest", "english", "chinese"),
    [
        (("phantoms",), "a.csv", "phantoms (drawn pictures, no patients)", "程序绘制的模拟图像（非患者图像）"),
        (("covid_ct", "ladnn_d1"), "a.csv", "COVID-CT, D1 of LA-DNN", "COVID-CT 数据集、LA-DNN 的 D1 数据集"),
        (("site\u202e",), "a.csv", "site\\u202e", "site\\u202e"),
        ((), "phantoms.csv", "the manifest phantoms.csv", "数据清单 phantoms.csv"),
        ((), None, "data that the model's card does not name", "模型卡未注明的数据"),
    ],
)
def test_the_data_of_validation_is_named_wherever_its_figures_are(sources, manifest, english, chinese):
    of = card(sources=sources, manifest={"file": manifest} if manifest else {})
    for language, words, name in (("en", ENGLISH, english), ("zh", CHINESE, chinese)):
        assert name in shown(answer(of=of), language=language, picture=False).bin_sentence
        assert name in shown(answer(0.6, of), language=language, picture=False).bin_sentence  # an empty bin
        assert name in operating_point(of, words)


@pytest.mark.parametrize(
    ("export", "text"),
    [
        (None, ""),
        (Export("saved_model", "0" * 64, "fit"), ""),
        (Export("float32", "0" * 64, "fit"), ""),
        (Export("float16", "0" * 64, "fit"), "converted to TFLite (float16). The converted model agreed with it"),
        (Export("int8_mixed", "0" * 64, "fit"), "(int8_mixed). The converted model agreed with it"),
        (Export("int8", "0" * 64, "unfit"), "(int8). Nothing shows that they hold for the converted model."),
        (Export("int8", "0" * 64, "unmeasured"), "(int8). Nothing shows that they hold"),
    ],
)
def test_figures_from_before_a_conversion_say_so(export, text):
    point = operating_point(card(export=export), ENGLISH)
    assert text in point
    assert ("measured before" in point) == bool(text)


@pytest.mark.parametrize(
    ("rule", "shown_as"),
    [("0.95", "95 %"), ("0.975", "97.5 %"), ("0.9999", "99.99 %"), ("0.9", "90 %"), ("1", "100 %"), ("0", "0 %")],
)
def test_the_rule_of_the_threshold_has_its_own_digits(rule, shown_as):
    of = card(threshold_rule=f"the highest with a sensitivity of at least {rule} on validation")
    assert f"found at least {shown_as} of the" in plain(operating_point(of, ENGLISH))
    assert f"至少 {shown_as.replace(' ', '')} 的" in operating_point(of, CHINESE)


def test_the_operating_point_in_words():
    assert plain(operating_point(card(), ENGLISH)) == (
        "An image is called positive at a probability of 46 % or above. This threshold is the highest that found "
        "at least 95 % of the COVID-19 images of validation. Validation images came from COVID-CT, as those of "
        "training did. At this threshold the sensitivity on validation was "
        "95 % (95 % interval 88 to 100 %), the specificity 60 % (95 % interval 42 to 78 %). Validation had 118 "
        "images of 55 patients; 60 of the images were COVID-19. Where COVID-19 is rarer than that, a positive "
        "call is less often right. All figures of validation, those beside a score too, were measured before "
        "the model was converted to TFLite (int8). The converted model agreed with it within the tolerance of its "
        "test."
    )
    assert operating_point(card(), CHINESE) == (
        "概率达到或超过 46% 的图像，模型判为阳性。该阈值是在验证集中仍能检出至少 95% 的 COVID-19 图像的最高阈值。"
        "验证图像与训练图像同样来自“COVID-CT 数据集”。"
        "在该阈值下，验证集的灵敏度为 95%（95% 置信区间 88%～100%），特异度为 60%（95% 置信区间 42%～78%）。"
        "验证集含 55 名患者的 118 幅图像，其中 60 幅为 COVID-19。"
        "若实际人群中 COVID-19 更少见，阳性判定的正确率会更低。"
        "验证集上的各项数值（包括各得分的比例）均在模型转换为 TFLite（int8）之前测得；"
        "转换后的模型与原模型的差异在检验容差之内。"
    )


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"validation": {}},
        {"validation": None},
        {"validation": {"covid": {"at_threshold": {"threshold": "0.46"}}}},
        page_views.validation(threshold=0.5),  # evaluated at another threshold
        {"validation": {**page_views.validation()["validation"], "patients": None}},
    ],
)
def test_an_operating_point_without_figures_of_validation(metrics):
    text = operating_point(card(metrics=metrics, threshold_rule="by hand", export=None), ENGLISH)
    assert plain(text) == (
        "An image is called positive at a probability of 46 % or above. How this threshold was chosen: by hand. "
        "Validation images came from COVID-CT, as those of training did."
    )


# Lesions


@pytest.mark.parametrize(
    ("targets", "covid", "valid", "text"),
    [
        ("positives", 0.83, True, "not calibrated and without a threshold."),
        ("positives", 0.2, False, "Lesions are not shown: they were learnt on COVID-19 images alone, and"),
        ("all", 0.2, True, "not calibrated and without a threshold."),
        ("", 0.83, None, "does not say on which images they were learnt"),
        ("", 0.2, None, "does not say on which images they were learnt"),
    ],
)
def test_how_the_lesions_must_be_read(targets, covid, valid, text):
    result = shown(answer(covid, card(lesion_targets=targets)))
    assert text in result.lesion_caveat
    assert result.lesions_valid is valid
    assert len(result.lesions) == (0 if valid is False else 5)
    assert [heat.label for heat in result.heat] == [COVID, *(LESIONS if valid is not False else ())]


def test_lesions_have_names_and_percentages():
    english, chinese = shown(answer()), shown(answer(), language="zh")
    assert [lesion.label for lesion in english.lesions] == list(LESIONS)
    assert [lesion.name for lesion in english.lesions] == list(LESION_NAMES.values())
    assert [plain(lesion.percent) for lesion in english.lesions] == ["91 %", "34 %", "72 %", "12 %", "<1 %"]
    assert [lesion.name for lesion in chinese.lesions] == [
        "磨玻璃影",
        "实变",
        "铺路石征",
        "空气支气管征",
        "小叶间隔增厚",
    ]
    assert chinese.lesions[2].probability == 0.72


def test_a_baseline_has_no_lesions():
    result = shown(answer(of=baseline()))
    assert (result.lesions, result.lesion_caveat, result.lesions_valid) == ([], "", None)
    assert [heat.label for heat in result.heat] == [COVID]


# Without an answer


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(("given", "state"), [(abstention(), "abstained"), (failure(), "error")])
def test_what_has_no_answer_says_nothing_of_a_diagnosis(given, state, language):
    result = shown(given, language=language)
    assert result.state == state
    assert (result.covid, result.positive, result.percent, result.bin_sentence) == (None, None, "", "")
    assert (result.lesions, result.heat, result.lesion_caveat) == ([], [], "")
    assert result.reason_language == language
    words = result.sentence + result.reason
    assert not re.search("positive|negative|COVID|阳性|阴性|%", words)


def test_an_unknown_reason_is_marked_as_english():
    result = shown(failure("the disk is on fire"), language="zh")
    assert (result.reason, result.reason_language) == ("the disk is on fire", "en")


def test_notice_and_fitness_are_the_models():
    unfit = card(export=Export("int8", "0" * 64, "unmeasured"), notice="Ours alone.")
    assert shown(answer(of=unfit), language="zh").notice == "Ours alone."
    assert shown(answer(of=unfit)).unfit
    assert shown(answer(), language="zh").notice.startswith("仅供科研使用")
    assert not shown(answer()).unfit
    assert shown(answer(of=unfit)).caveats == [*unfit.caveats]
    assert [caveat[:5] for caveat in shown(answer(of=unfit), language="zh").caveats] == [
        "不合格模型",
        "病变征象仅",
    ]
    result = shown(failure())
    assert (result.model_version, result.card_sha256) == ("tiny-int8-abababababab", page_views.SHA256)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("slice.png", "slice.png"),
        ("a/001.png", "a/001.png"),
        ("C:\\scans\\001.png", "C:/scans/001.png"),
        ("../../etc/./passwd", "etc/passwd"),
        ("/slice.png", "slice.png"),
        ("", "?"),
        ("..", "?"),
        ("a\nb\u202egnp.png", "a\\nb\\u202egnp.png"),
        ("a\x00\ud800.png", "a\\x00\\ud800.png"),
        ("肺 1.png", "肺 1.png"),
        ("<b>&.png", "<b>&.png"),
    ],
)
def test_names_are_safe_to_show_and_keep_their_folders(file, name):
    assert shown_name(file) == name


def test_long_names_keep_both_ends():
    name = shown_name("begin" + "x" * 10_000 + "end.png")
    assert len(name) == 160
    assert name.startswith("beginx")
    assert name.endswith("xend.png")
    assert "…" in name


# Pictures


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(40, 60, (60, 40)), (512, 512, (512, 512)), (1000, 2000, (512, 256)), (2000, 3, (1, 512)), (1, 1, (1, 1))],
)
def test_a_slice_keeps_its_proportions(height, width, size):
    media_type, picture = opened(pictures.slice_uri(page_views.pixels(height, width)))
    assert media_type == "image/jpeg"
    assert picture.size == size
    assert picture.mode == "L"


def test_a_slice_looks_as_its_file_does():
    pixels = page_views.pixels(64, 64)
    pixels[20:40, 20:40] = (200, 30, 30)
    _, picture = opened(pictures.slice_uri(pixels))
    assert picture.mode == "RGB"
    assert np.abs(np.asarray(picture).astype(int) - pixels).mean() < 3.0


def test_a_map_over_the_slice_is_the_overlay_of_the_edge_command():
    side = pictures.HEAT_SIDE
    slice_ = page_views.pixels(side, side)
    heat = np.random.default_rng(1).normal(5.0, 3.0, (5, 7)).astype(np.float32)
    media_type, picture = opened(pictures.heat_uri(heat))
    assert (media_type, picture.size) == ("image/png", (side, side))
    rgba = np.asarray(picture.convert("RGBA")).astype(np.float64)
    opacity = 0.65 * rgba[..., 3:] / 255.0  # the page's, before the slider is moved
    expected = blend(slice_, heat).astype(np.float64)
    assert np.abs(slice_ * (1.0 - opacity) + rgba[..., :3] * opacity - expected).max() <= 1.5
    assert rgba[..., 3].min() < 16
    assert rgba[..., 3].max() > 239


def test_a_map_without_differences_is_transparent():
    _, picture = opened(pictures.heat_uri(np.full((4, 4), 3.0, np.float32)))
    assert np.asarray(picture.convert("RGBA"))[..., 3].max() == 0


def test_the_scale_shows_the_colours_of_the_maps():
    media_type, picture = opened(pictures.scale_uri())
    assert (media_type, picture.size) == ("image/png", (256, 1))
    expected = np.rint(heat_colours(np.linspace(0, 1, 256)[None]))
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), expected)


def test_each_map_says_where_it_is_highest():
    result = shown(answer())
    assert [heat.label for heat in result.heat] == [COVID, *LESIONS]
    assert [heat.text for heat in result.heat][:5] == [
        "The map of COVID-19 is highest in the upper left of the picture.",
        "The map of ground-glass opacity is highest in the upper left of the picture.",
        "The map of consolidation is highest in the upper middle of the picture.",
        "The map of crazy paving is highest in the upper right of the picture.",
        "The map of air bronchogram is highest in the upper left of the picture.",
    ]
    assert result.cells == "The map has only 4 x 4 cells, smoothed for display: it is no outline."
    flat = shown(answer(of=baseline(), maps=np.ones((3, 5, 1), np.float32)), language="zh")
    assert flat.heat[0].text == "关注区域图（COVID-19）各处数值相同。"
    assert "3 × 5" in flat.cells


@pytest.mark.parametrize(
    ("row", "column", "place"),
    [(0, 0, "the upper left"), (2, 2, "the middle"), (4, 2, "the lower middle"), (3, 4, "the right")],
)
def test_places_of_a_map(row, column, place):
    heat = np.zeros((5, 5, 1), np.float32)
    heat[row, column] = 1.0
    assert f"highest in {place} of" in shown(answer(of=baseline(), maps=heat)).heat[0].text


def test_an_answer_without_maps_or_pixels_has_no_pictures():
    result = shown(answer(maps=None), picture=False)
    assert (result.picture, result.heat, result.scale, result.cells) == ("", [], "", "")


def test_boxes_are_drawn_in_what_the_network_was_shown():
    """Lungs of 32 x 64 pixels are shown 256 x 512: a box from 1/4, 1/8 to 3/4, 1/2 has rows 64 to 191 and columns
    64 to 255; its first and last pixel are a dark rim."""
    of = card(task="drenet", classes=("covid19", "bacterial"), lesion_targets="", lungs="extracted")
    given = answer(
        of=of,
        maps=None,
        lesions={},
        boxes=np.array([[0.25, 0.125, 0.75, 0.5]], np.float32),
        scores=np.array([0.5], np.float32),
        classes={"covid19": 0.83, "bacterial": 0.17},
    )
    result = view_of("a.png", given, np.full((32, 64, 3), 90, np.uint8), ENGLISH)
    assert result.boxes
    assert result.shown == "Of this slice the network was shown the lungs alone."
    _, picture = opened(result.picture)
    assert picture.size == (512, 256)
    rows, columns = orange(picture)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((65, 190, 65, 254), abs=1)


def orange(picture):
    """Rows and columns of a box' outline."""
    found = np.abs(np.asarray(picture).astype(int) - OUTLINE).max(axis=2) < 60
    rows, columns = found.sum(axis=1) > 100, found.sum(axis=0) > 80
    return np.flatnonzero(rows), np.flatnonzero(columns)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_it_is_said_where_the_lungs_alone_are_shown(language):
    of = card(lungs="extracted")
    words = words_of(language)
    text = page_views.results_page([shown(answer(of=of), language=language)], language)
    assert words("view.lungs_alone") in text
    assert words("results.lungs_alt", file="slice.png") in text
    whole = page_views.results_page([shown(answer(), language=language)], language)
    refused = page_views.results_page([shown(abstention(of=of), language=language)], language)
    for text in (whole, refused):
        assert words("view.lungs_alone") not in text
        assert words("results.slice_alt", file="slice.png") in text


# CSV


def test_a_model_of_phantoms_is_known_by_its_sources():
    assert shown(answer(of=card(sources=("phantoms",)))).of_phantoms
    for sources in ((), ("covid_ct",), ("covid_ct", "phantoms")):
        assert not shown(failure(of=card(sources=sources))).of_phantoms


def rows(results):
    return list(csv.DictReader(io.StringIO(results_csv.results_csv(results).decode("utf-8-sig"))))


def test_a_batch_as_csv():
    content = results_csv.results_csv(page_views.batch())
    assert content.startswith(b'\xef\xbb\xbf"file","state","covid","positive","threshold","GGO","Csld",')
    assert content.count(b"\r\n") == 5
    found = rows(page_views.batch())
    assert [row["file"] for row in found] == [
        "a/slice.png",
        "b/slice.png",
        "head.png",
        "<script>alert(1)</script>.png",
    ]
    assert [row["state"] for row in found] == ["answered", "answered", "abstained", "error"]
    assert [row["covid"] for row in found] == ["0.83", "0.31", "", ""]
    assert [row["positive"] for row in found] == ["1", "0", "", ""]
    assert [row["AirBr"] for row in found] == ["0.124", "", "", ""]
    assert [row["threshold"] for row in found] == ["0.46"] * 4
    assert found[1]["lesion_caveat"].startswith("Lesions are not shown")
    assert found[2]["reason"] == "the body is taller than wide, as a head is"
    assert {(row["model_version"], row["unfit"]) for row in found} == {("tiny-int8-abababababab", "0")}
    assert {row["caveats"] for row in found} == {" ".join(card().caveats)}
    assert all(row["notice"].startswith("For research use only") for row in found)


def test_a_call_and_its_figures_agree_to_the_last_digit():
    threshold = 0.1 + 0.2  # 0.30000000000000004
    row = rows([shown(answer(math.nextafter(threshold, 0.0), card(threshold=threshold)))])[0]
    assert row["positive"] == "0"
    assert float(row["covid"]) < float(row["threshold"]) == threshold


@pytest.mark.parametrize(
    "name",
    ["=1+1.png", "+1.png", "-1.png", "@SUM(A1).png", " =1+1.png", "＝1.png", "＋1.png", "－1.png", "＠a.png"],
)
def test_names_that_are_formulas_are_made_text(name):
    file = rows([dataclasses.replace(shown(failure()), file=name)])[0]["file"]
    assert file == f"'{name}"


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("a;=1+1;.png", "a;'=1+1;.png"),
        ("a,+1.png", "a,'+1.png"),
        ("a; -1|@b.png", "a; '-1|'@b.png"),
        ("=1;=1.png", "'=1;'=1.png"),
        ('a;"=1+1.png', "a;\"'=1+1.png"),
        ("a;＝1.png", "a;'＝1.png"),
        ("a;1=1.png", "a;1=1.png"),
        ("x-1 = a; b.png", "x-1 = a; b.png"),
    ],
)
def test_formulas_after_a_separator_are_made_text(name, cell):
    assert rows([dataclasses.replace(shown(failure()), file=name)])[0]["file"] == cell


def test_every_cell_is_quoted():
    for line in results_csv.results_csv(page_views.batch()).decode("utf-8-sig").splitlines():
        assert re.fullmatch(r'("[^"]*",)*"[^"]*"', line)


def test_tabs_in_front_and_quotes_and_separators():
    result = dataclasses.replace(shown(failure()), file='a",b;\r\n.png', reason="\t=1+1", notice="a=1")
    row = rows([result])[0]
    assert row["file"] == 'a",b;\r\n.png'
    assert row["reason"] == "'\t'=1+1"
    assert row["notice"] == "a=1"


def test_csv_in_chinese_and_as_an_address():
    content = results_csv.csv_uri([shown(abstention(), "肺.png", "zh")])
    media_type, _, encoded = content.partition(";base64,")
    assert media_type == "data:text/csv;charset=utf-8"
    assert '"肺.png","abstained"' in base64.b64decode(encoded).decode("utf-8-sig")
