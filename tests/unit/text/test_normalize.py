"""Texts are compared in one form, and what counts as a word in it."""

from __future__ import annotations

import unicodedata

import pytest

from synthpost_dagster.text.normalize import (
    first_words,
    folded,
    holds,
    normalised,
    placed_letters,
    plain,
    word_count,
    words,
)


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("Rider’s ‘Harbour‘ ʼn", "Rider's 'Harbour' 'n"),
        ("“quoted„ «this»", '"quoted" "this"'),
        ("built‑in – now — −5", "built-in - now - -5"),
        ("10\u00a0km\u202f\u2009on\u3000foot", "10 km  on foot"),
        ("zero\u200bwidth\ufeff soft\u00adhyphen", "zerowidth softhyphen"),
        ("cafe\u0301", "café"),
        ("ＡＢＣ１２ ﾊﾞｽ ﬁne", "ABC12 バス fine"),
        ("m² Acme™ 1½", "m² Acme™ 1½"),
        ("مرحبا 🎉", "مرحبا 🎉"),
    ],
)
def test_unicode_twins_have_one_form(written: str, form: str) -> None:
    assert plain(written) == form
    assert plain(form) == form
    assert folded(unicodedata.normalize("NFD", written)) == folded(form)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a > 5", "a < -5"),
        ("a < 5", "a < -5"),
        ("a >= 5", "a > 5"),
        ("a == b", "a != b"),
        ("a + b", "a b"),
        ("3.5 kg", "35 kg"),
        ("1,000", "1 000"),
        ("5 % off", "5 off"),
        ("$5", "€5"),
        ("C++", "C#"),
        ("5 - 3", "5 * 3"),
        ("की", "कि"),
    ],
)
def test_signs_and_numbers_make_a_difference(first: str, second: str) -> None:
    assert normalised(first) != normalised(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Buy NOW: it’s\n great!!", "buy now — it's great"),
        ("**Bold** and “quoted”", "bold and quoted"),
        ("Save 20 % on A−1", "save 20% on a-1"),
        ("Now - today", "now today"),
        ("======", ""),
        ("GROẞE", "grosse"),
    ],
)
def test_case_space_and_decoration_make_no_difference(first: str, second: str) -> None:
    assert normalised(first) == normalised(second)


@pytest.mark.parametrize(
    ("text", "phrase", "is_held"),
    [
        ("Pedrowick’s new Rider’s  Harbour!", "Rider's Harbour", True),
        ("(Rider's Harbour)", "rider’s harbour", True),
        ("Riders Harbour", "Rider's Harbour", False),
        ("Acmes", "Acme", False),
        ("the Acmé", "Acme", False),
        ("café", "cafe\u0301", True),
        ("新しいAcmeの自転車です。", "Acme", True),
        ("新しい自転車です。", "自転車", True),
        ("自転車、今すぐ", "今すぐ", True),
        ("ซื้อจักรยานใหม่วันนี้", "จักรยาน", True),
        ("现在下单吧！", "下单", True),
        ("아크메는 좋아요", "아크메", True),
        ("신상품", "상품", False),
        ("Costs $50", "$5", False),
        ("In C++17", "C++", True),
        ("re-buy", "buy", True),
        ("", "buy", False),
        ("anything", " ", False),
    ],
)
def test_phrase_is_found_between_word_boundaries(text: str, phrase: str, is_held: bool) -> None:
    assert holds(text, (phrase,)) is is_held


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("one - two 🎉", 4), ("毎日の通勤", 3), ("Acmeの自転車 is new", 5), ("ภาษา", 2), ("สวัสดี", 2)],
)
def test_words_are_counted_in_every_script(text: str, count: int) -> None:
    assert word_count(text) == count


def test_characters_of_scripts_without_spaces_are_words() -> None:
    assert words("Acmeの自転車 ที่นี่") == ["Acme", "の", "自", "転", "車", "ที่", "นี่"]


def test_first_words_are_five_or_ten_characters() -> None:
    assert first_words("One, two; three four five six", 5) == "one two three four five"
    assert first_words("毎日の通勤を楽にしませんか", 5) == "毎 日 の 通 勤 を 楽 に し ま"


def test_placed_letters_point_into_the_text_as_written() -> None:
    text = "Ｂuy “Größe”"
    assert [(word, text[begin:end]) for word, begin, end in placed_letters(text)] == [
        ("buy", "Ｂuy"),
        ("grösse", "Größe"),
    ]
