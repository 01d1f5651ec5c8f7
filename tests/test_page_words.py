"""The page's texts: both languages whole, the choice between them, and the reasons in the reader's language."""

# ruff: noqa: RUF001 (Chinese has its own punctuation)

import ast
import json
import re
import string
from pathlib import Path

import pytest
from page_views import card

from ladnn_tf import edge_predictor
from ladnn_tf.card import NOTICE, Export
from ladnn_tf.data import lungs, preprocess, quality
from ladnn_tf.labels import COVID, LESION_NAMES, LESIONS, PHANTOM_DATA
from ladnn_tf.person import AGGREGATIONS
from serving.page import view
from serving.page import words as words_module
from serving.page.reasons import PREFIX, reason_in
from serving.page.words import FOLDER, LANGUAGES, choose_language, read_texts, words_of

PAGE = Path(words_module.__file__).parent
ENGLISH, CHINESE = words_of("en"), words_of("zh")
FILES = sorted(path.name.removesuffix(".en.json") for path in FOLDER.glob("*.en.json"))


def placeholders(text):
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


def read(name, language):
    return json.loads((FOLDER / f"{name}.{language}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", FILES)
def test_both_languages_have_the_same_keys_with_the_same_placeholders(name):
    english, chinese = read(name, "en"), read(name, "zh")
    assert list(english) == list(chinese)
    for key, text in english.items():
        assert placeholders(text) == placeholders(chinese[key]), key
        assert text.strip() == text or key in ("sentence.join", "list.join"), key


def test_every_chinese_file_has_its_english_one():
    assert sorted(path.name.removesuffix(".zh.json") for path in FOLDER.glob("*.zh.json")) == FILES


def test_chinese_texts_are_chinese_and_have_chinese_punctuation():
    alike = {key for key, text in CHINESE.texts.items() if ENGLISH.texts[key] == text}
    figures = {key for key, text in CHINESE.texts.items() if not re.search(r"[\u4e00-\u9fff]", text)}
    assert alike == {"lesion.covid", "class.covid19", "results.csv_name", "results.heading"} | {
        key for key in alike if key.startswith("contribut")
    }
    assert figures - alike == {
        "language.tag",
        "sentence.join",
        "sentence.end",
        "list.join",
        "percent.value",
        "percent.interval",
        "results.opacity_value",
    }
    for key, text in CHINESE.texts.items():
        assert not re.search(r"[\u4e00-\u9fff][,;:?!()]|[,;?!()][\u4e00-\u9fff]", text), (key, text)


def test_names_and_notice_are_those_of_the_model():
    assert {label: ENGLISH(f"lesion.{label}") for label in LESIONS} == LESION_NAMES
    assert ENGLISH("notice") == NOTICE
    # The terms of radiology for the Fleischner Society's.
    assert [CHINESE(f"lesion.{label}") for label in (COVID, *LESIONS)] == [
        "COVID-19",
        "磨玻璃影",
        "实变",
        "铺路石征",
        "空气支气管征",
        "小叶间隔增厚",
    ]


def test_a_text_is_filled():
    assert ENGLISH("index.remove", file="<b>.png") == "Remove <b>.png"
    assert ENGLISH("index.remove", file="{0}") == "Remove {0}"  # a name is no template
    assert ENGLISH.count("results.images", 1) == "1 image"
    assert ENGLISH.count("results.images", 0) == "0 images"
    assert CHINESE.count("results.images", 2) == "共 2 幅图像"
    assert "index.remove" in ENGLISH
    assert "index.nothing" not in ENGLISH


def test_what_is_missing_is_named():
    with pytest.raises(LookupError, match=r"no text 'index\.nothing' in texts/\*\.zh\.json"):
        CHINESE("index.nothing")
    with pytest.raises(LookupError, match=r"'index\.remove' needs a value for 'file'; given: name"):
        ENGLISH("index.remove", name="a.png")
    with pytest.raises(ValueError, match=r"language should be one of en, zh\. Received: 'fr'"):
        words_of("fr")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ('{"a.b": "two"}', "b.en.json: the text 'a.b' is there twice"),
        ('{"c": "one", "c": "two"}', "b.en.json: the text 'c' is there twice"),
        ('{"c": 1}', "b.en.json should be one object of keys and texts"),
        ("[]x", "b.en.json is not JSON in UTF-8"),
        ("3", "b.en.json should be one object"),
    ],
)
def test_damaged_texts_are_refused(tmp_path, second, message):
    (tmp_path / "a.en.json").write_text('{"a.b": "one"}')
    assert read_texts(tmp_path, "en") == {"a.b": "one"}
    (tmp_path / "b.en.json").write_text(second)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_texts(tmp_path, "en")


@pytest.mark.parametrize(
    ("query", "cookie", "header", "language"),
    [
        (None, None, None, "en"),
        ("zh", "en", "en", "zh"),
        ("fr", "zh", "en", "zh"),
        ("", "tlh", "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        (None, None, "en-GB,en;q=0.9,zh;q=0.8", "en"),
        (None, None, "fr-FR, zh-Hant-TW;q=0.5, en;q=0.4", "zh"),
        (None, None, "en;q=0.2, ZH ; q=0.3", "zh"),
        (None, None, "*;q=0.5, zh;q=0.4", "en"),
        (None, None, "zh;q=0, de", "en"),
        (None, None, "zh;q=2, zh;q=x, zhx, z\x00h", "en"),
        (None, None, "zh" + ",en;q=0.1" * 200_000, "zh"),
        (None, None, "a-" * 100_000, "en"),
    ],
)
def test_the_language_is_that_of_address_then_cookie_then_browser(query, cookie, header, language):
    assert choose_language(query, cookie, header).language == language


def test_each_language_leads_to_the_other():
    assert (ENGLISH.other.language, CHINESE.other.language) == ("zh", "en")
    assert (ENGLISH.tag, CHINESE.tag) == ("en", "zh-Hans")


def test_every_text_is_used_and_every_used_text_is_there():
    sources = [*PAGE.glob("*.py"), *(PAGE / "templates").glob("*.html"), *(PAGE / "static").glob("*.js")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    named = set(re.findall(r'"([a-z]+(?:\.[a-zA-Z0-9_]+)*)"', code))
    named |= {
        f"index.{key}" for key in re.findall(r'"([a-z_]+)(?:\.one|\.many)?"', code)
    }  # data-text- of the form
    named |= {f"results.{part}" for part in ("positive", "negative", "abstained", "error")}
    named |= {
        f"{page}.{state}{end}" for page, end in (("results", "_help"), ("view", "")) for state in view.STATES
    }
    named |= {f"series.{state}_help" for state in view.STATES} | {f"series.{state}" for state in view.STATES}
    calls = ("positive_at", "positive_above", "negative_below", "negative_just_below")
    named |= {f"{page}.{call}" for page in ("view", "series") for call in calls}
    named |= {f"series.how.{aggregation}" for aggregation in AGGREGATIONS}
    families = ("reason.", "lesion.", "error.", "view.place.", "refused.", "contribute", "data.", "class.")
    bare = {key.removesuffix(".one").removesuffix(".many") for key in ENGLISH.texts}
    assert [key for key in bare if key not in named and not key.startswith(families)] == []
    called = set(re.findall(r'words(?:\.other)?\("([a-z0-9_.]+)"[,)]', code))
    assert called
    assert [key for key in called if key not in ENGLISH] == []


# The reasons


def test_english_reasons_stay_as_they_are():
    assert reason_in(ENGLISH, "the body is taller than wide, as a head is") == (
        "the body is taller than wide, as a head is",
        "en",
    )


@pytest.mark.parametrize(
    ("reason", "chinese"),
    [
        (
            "too small: 20 x 30 pixels; at least 32 x 32 can be judged",
            "图像过小：20 × 30 像素；至少需 32 × 32 像素才能判断",
        ),
        ("hardly any contrast: the grey values differ by 3 of 255 on average", "灰度值平均仅相差 3（满量程 255）"),
        (
            "hardly any contrast: the grey values differ by 3 of 255 on average; if this is a 16-bit file with "
            "12-bit values, rescale it to the full range",
            "请先缩放至满量程",
        ),
        ("damaged or truncated image (no end); copy it again from its source", "缺少文件结尾"),
        ("damaged or truncated image (broken (1); x); copy it again from its source", "（broken (1); x）"),
        ("the model failed at this image (line 1\nline 2)", "（line 1\nline 2）"),
    ],
)
def test_known_reasons_are_translated(reason, chinese):
    text, language = reason_in(CHINESE, reason)
    assert chinese in text
    assert language == "zh"


def test_every_reason_is_known_by_its_own_words():
    """Filled with a number, none is taken for another one."""
    for key in (key for key in ENGLISH.texts if key.startswith(PREFIX)):
        values = dict.fromkeys(placeholders(ENGLISH.texts[key]), "7")
        found = reason_in(CHINESE, ENGLISH(key, **values))
        assert found == (CHINESE(key, **values), "zh"), key


def test_unknown_reasons_stay_english():
    assert reason_in(CHINESE, "the disk is full") == ("the disk is full", "en")
    assert reason_in(CHINESE, "") == ("", "en")


def text_of(node, values):
    """A string of the source as it reads when it is filled; None if it is no string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [
            part.value if isinstance(part, ast.Constant) else values.get(ast.unparse(part.value), "7")
            for part in node.values
        ]
        return "".join(parts)
    return None


def reasons_in(path, values):
    """A module's reasons: what `quality` returns, what is raised as an `ImageError`, what is called an error."""
    for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
        found = []
        if isinstance(node, ast.Return) and node.value is not None and path == quality.__file__:
            found = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ImageError":
            found = node.args
        elif isinstance(node, ast.keyword) and node.arg == "error":
            found = [node.value]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_left_out":
            found = node.args[1:2]
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "reason":
            found = [node.value]
        yield from (text for part in found if (text := text_of(part, values)) and " " in text)


@pytest.mark.parametrize(
    ("module", "fewest"),
    [
        (quality.__file__, 11),
        (preprocess.__file__, 8),
        (edge_predictor.__file__, 2),
        (PAGE.parent / "clients" / "answers.py", 2),
        (PAGE.parent / "clients" / "serving_client.py", 2),
        (lungs.__file__, 5),
    ],
)
def test_every_reason_in_the_code_is_known(module, fewest):
    # {path} is of messages about files on a disk, which the page has not; {cause} is tested above.
    values = {"path": "/path", "cause": "", "words": " (detail)", "most": "7 bytes are sent in one request"}
    if module == lungs.__file__:
        values |= {"what": "one lung only,", "least": "at least 7 are expected"}
    reasons = [text for text in reasons_in(module, values) if not text.startswith("/path")]
    assert len(reasons) >= fewest
    assert [reason for reason in reasons if reason_in(CHINESE, reason)[1] != "zh"] == []


def test_every_caveat_of_a_card_is_known():
    of_all = card(sources=(PHANTOM_DATA,), export=Export("int8", "0" * 64, "unfit"), lesion_targets="positives")
    assert len(of_all.caveats) == 3
    assert [caveat for caveat in of_all.caveats if reason_in(CHINESE, caveat)[1] != "zh"] == []


def test_the_privacy_notice_names_what_the_audit_log_holds():
    for noted in ("who asked", "IP address", "when", "model card", "the call", "how long", "size", "keyed hash"):
        assert noted in ENGLISH("index.kept")
    for noted in ("提交者", "IP 地址", "时间", "模型卡", "判定结果", "用时", "大小", "带密钥的哈希值"):
        assert noted in CHINESE("index.kept")
    assert "仅" not in CHINESE("index.kept")


def test_translated_reasons_have_a_text_in_every_language():
    for language in LANGUAGES:
        assert sum(key.startswith(PREFIX) for key in words_of(language).texts) > 25
