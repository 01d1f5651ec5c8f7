"""The consent text of the data collection."""

import hashlib

import pytest
from contributions import OPERATOR

from serving.collection.consent import CURRENT, FOLDER, consent, shown


def test_the_published_consent_texts_are_not_changed():
    # A change of a word is a new version: see `serving/collection/consent/__init__.py`.
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FOLDER.glob("*.txt")} == {
        "1.en.txt": "5f75b2a119ec350409cba2fec8a82174fc18e064533b8197f12edc0a44e636c2",
        "1.zh.txt": "9f471b5ad2c6f74ecbbe63de2ce600736efb2510fe8dbafe6b069a6f2b4db770",
    }


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_text_names_the_operator_and_its_hash_covers_both(language):
    text = consent(language, f" {OPERATOR}\n")
    assert (text.version, text.language, text.operator) == (CURRENT, language, OPERATOR)
    heading, first = text.sections[0]
    assert first.endswith(OPERATOR)
    assert OPERATOR not in heading
    assert "{" not in text.text
    whole = (FOLDER / f"1.{language}.txt").read_text("utf-8").replace("{operator}", OPERATOR)
    assert text.sha256 == hashlib.sha256(whole.encode()).hexdigest()
    assert shown(text.sha256, OPERATOR) == text
    assert shown(text.sha256, "somebody else") is None
    assert shown("0" * 64, OPERATOR) is None
    assert len(text.sections) == 6


def test_nobody_agrees_to_give_data_to_nobody():
    with pytest.raises(ValueError, match="give the operator's name and contact"):
        consent("en", " ")


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", ["health data", "8 bits", "is withdrawn or the operator closes the collection", "the one to ask"]),
        ("zh", ["敏感个人信息", "单独同意", "8 位", "撤回", "关闭该数据集", "请与其联系"]),
    ],
)
def test_the_text_says_what_the_law_asks_for(language, said):
    text = consent(language, OPERATOR).text
    assert [words for words in said if words not in text] == []
