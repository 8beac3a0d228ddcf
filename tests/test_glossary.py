"""The glossary has every word of docs/words.md, and every Chinese term that the Chinese pages use, under one name."""

import re

import pytest
from docs_pages import ROOT, name_of

ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.M)
MARKED = re.compile(r"\*\*([\u4e00-\u9fff][^*]*)\*\*（([^）]+)）")  # **环形全归约**（ring all-reduce）
IN_CHINESE = [path for path in sorted(ROOT.glob("docs/**/zh/**/*")) if path.suffix in (".md", ".py")]
CHINESE = [ROOT / "README.zh.md", *IN_CHINESE]


def rows():
    return [row for row in ROW.findall((ROOT / "docs" / "glossary.md").read_text()) if row[0] not in ("English", "---")]


def names(cell):
    return re.split("[,、] ?", re.sub("（也作.*?）", "", cell))


def unused():
    """Return ways to write a term that are noted, and not used here."""
    return {name for row in rows() for others in re.findall("（也作(.*?)）", row[1]) for name in others.split("、")}


def test_every_word_of_the_project_has_a_row():
    words = re.findall(r"^\| ([^|]+) \|[^|]+\|$", (ROOT / "docs" / "words.md").read_text(), re.M)[1:]
    told = {name for row in rows() for name in names(row[0])}
    assert {word for row in words for word in re.split("[,;] ", row)} <= told


def test_no_name_has_two_rows():
    for column in (0, 1):
        told = [name for row in rows() for name in names(row[column])]
        assert sorted(told) == sorted(set(told))


def test_each_meaning_is_one_sentence_in_its_language():
    for _, _, english, chinese in rows():
        assert english.endswith(".") and not re.search("[\u4e00-\u9fff]", english), english
        assert chinese.endswith("。") and re.search("[\u4e00-\u9fff]", chinese), chinese


@pytest.mark.parametrize("page", CHINESE, ids=name_of)
def test_every_marked_term_of_a_chinese_page_is_in_the_glossary_with_its_english_name(page):
    told = {(english, chinese) for row in rows() for english in names(row[0]) for chinese in names(row[1])}
    for chinese, english in MARKED.findall(page.read_text()):
        assert (english, chinese) in told, f"{chinese} ({english}) is not in docs/glossary.md"


@pytest.mark.parametrize("page", CHINESE, ids=name_of)
def test_a_chinese_page_uses_one_name_for_one_thing(page):
    text = page.read_text()
    assert [name for name in unused() if len(name) > 1 and name in text] == []


def test_the_chinese_readme_marks_the_terms_that_its_readers_look_up():
    marked = {chinese for chinese, _ in MARKED.findall((ROOT / "README.zh.md").read_text())}
    assert {"参数服务器", "环形全归约", "陈旧度", "数据并行", "全归约"} <= marked
