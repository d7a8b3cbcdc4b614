"""The normal form in which texts are compared, and its words.

One character often has several code points (’ and ', a non-breaking space and a space, é as one or as two). Names,
phrases, hashtags, duplicates and leaks are compared in one form. Sentences are in `text.sentences`.

In scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) every character is a word, so that
n-grams of words are n-grams of characters.
"""

from __future__ import annotations

import math
import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

import regex

if TYPE_CHECKING:
    from collections.abc import Iterator

_APOSTROPHES = "‘’‚‛′ʼʹʻ´՚＇"
_QUOTES = "“”„‟″«»〝〞〟＂"
_HYPHENS = "‐‑‒–—―−﹘﹣－"
_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_LINE_BREAKS = "\x85\u2028\u2029"
_INVISIBLE = "\u00ad\u034f\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064\ufe0e\ufe0f\ufeff"
"""Soft hyphens, zero-width spaces and joiners, marks of direction, variation selectors."""
_DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"

_NO_SPACES = r"\p{Han}\p{Hiragana}\p{Katakana}ー〆\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_WORD = rf"[[\w\p{{N}}]--[{_NO_SPACES}]]"
EDGE = rf"[[\w\p{{N}}]--[{_NO_SPACES}\p{{Hangul}}]]"
"""A pattern (V1) of characters that continue a word. Korean particles follow a word without a space."""
CHARACTERS_A_WORD = 2
"""In a script without spaces, when words are counted."""
_CHARACTER = regex.compile(rf"[{_NO_SPACES}]\p{{M}}*", regex.V1)


def _token(character: str, word: str, currency: str) -> str:
    """The pattern of a word, of a number with what belongs to it, and of an operator."""
    return rf"""
    {character}
    | (?:(?<![\w)\]])[-+](?=[.{currency}]?\d))? [{currency}]? (?:(?<!\w)\.(?=\d))?  # the sign of a number
      {word}+ (?:(?<=\d)[.,:/-](?=\d){word}+)*  # a word, a number
      (?:(?<=\d)[%‰°+](?!\w) | (?<=\w)(?:\+\+|\#)(?!\w))?
    | (?<![<>=!])(?:[<>=]{{1,3}}|!=+)(?![<>=!])
    | \+ | [±×÷¬∀-⋿] | && | \|\|
    | (?<=[\w)\]]\ )[*/^%](?=\ [\w(\[]) | (?<=[\d)]\ )-(?=\ [\d(])
    """


_TOKEN = regex.compile(_token(rf"[{_NO_SPACES}]\p{{M}}*", _WORD, r"\p{Sc}"), regex.V1 | regex.VERBOSE)
_ASCII_TOKEN = re.compile(_token("(?!)", r"\w", "$"), re.VERBOSE)
"""The same for ASCII, six times as fast."""
_LETTERS = regex.compile(rf"[{_NO_SPACES}]\p{{M}}*|{_WORD}+", regex.V1)
_SPACED_UNIT = re.compile(r"(?<=[$€£¥])\s+(?=\d)|(?<=\d)\s+(?=[%‰])")


def _table() -> dict[int, str]:
    table = dict.fromkeys(map(ord, _INVISIBLE + _DIRECTIONS), "")
    for variants, plain_character in ((_APOSTROPHES, "'"), (_QUOTES, '"'), (_HYPHENS, "-"), (_SPACES, " ")):
        table |= dict.fromkeys(map(ord, variants), plain_character)
    table |= dict.fromkeys(map(ord, _LINE_BREAKS), "\n")
    # Full-width letters, half-width kana and ligatures. All of NFKC would make m² m2, and ™ letters of the name before.
    for code in (*range(0xFB00, 0xFB07), *range(0xFF01, 0xFFEF)):
        if unicodedata.decomposition(chr(code)):
            table.setdefault(code, unicodedata.normalize("NFKC", chr(code)))
    return table


_PLAIN = _table()


@lru_cache(maxsize=64)
def plain(text: str) -> str:
    """The text in normal form, with its case: NFC, straight quotes and apostrophes, plain hyphens and spaces, no
    invisible characters, full-width characters as their usual ones.
    """
    return (
        text if text.isascii() else unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).translate(_PLAIN))
    )


@lru_cache(maxsize=64)
def folded(text: str) -> str:
    """The text in normal form, case folded."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", plain(text).casefold())


def words(text: str) -> list[str]:
    """The words of a text in normal form.

    Signs, operators, and the punctuation and units of numbers belong to words (`a > 5`, `a < -5`; 3.5, 35; 5 %, 5);
    other punctuation does not. A character of a script without spaces is a word.
    """
    pattern = _ASCII_TOKEN if text.isascii() else _TOKEN
    found: list[str] = pattern.findall(_SPACED_UNIT.sub("", text))
    return found


def letters(text: str) -> list[str]:
    """The words of a text without signs, for the search of names."""
    found: list[str] = _LETTERS.findall(text)
    return found


def normalised(text: str) -> str:
    """The words, case folded, with single spaces; duplicates have the same."""
    return " ".join(words(folded(text)))


def placed_letters(text: str) -> Iterator[tuple[str, int, int]]:
    """The words of a text, case folded and without signs, each with its start and end in the text."""
    for match in _LETTERS.finditer(text):
        for word in letters(folded(match[0])):
            yield word, match.start(), match.end()


def is_character(word: str) -> bool:
    """Whether a word is a character of a script without spaces."""
    return _CHARACTER.fullmatch(word) is not None


def word_count(text: str) -> int:
    """The number of words of a text; in scripts without spaces two characters count as a word."""
    if text.isascii() or not _CHARACTER.search(text):
        return len(text.split())
    return number_of(words(plain(text)))


def number_of(found: list[str]) -> int:
    """The number of words in a list of them; in scripts without spaces two characters count as a word."""
    characters = sum(map(is_character, found))
    return len(found) - characters + math.ceil(characters / CHARACTERS_A_WORD)


def first_words(text: str, count: int) -> str:
    """The first words of `normalised`; in scripts without spaces twice as many characters."""
    taken, room = [], count * CHARACTERS_A_WORD
    for word in words(folded(text)):
        room -= 1 if is_character(word) else CHARACTERS_A_WORD
        if room < 0:
            break
        taken.append(word)
    return " ".join(taken)


def holds(text: str, phrases: tuple[str, ...]) -> bool:
    """Whether the text has one of the phrases, in any case and code points, between word boundaries; in a script
    without spaces anywhere.
    """
    return _phrases(phrases).search(folded(text)) is not None


@lru_cache(maxsize=4096)
def _phrases(phrases: tuple[str, ...]) -> regex.Pattern[str]:
    return regex.compile("|".join(filter(None, map(_bounded, phrases))) or r"(?!)", regex.V1)


def _bounded(phrase: str) -> str:
    """A pattern of the phrase between the boundaries that its first and last characters need."""
    parts = folded(phrase).split()
    if not parts:
        return ""
    before = rf"(?<!{EDGE})" if _is_edge(parts[0][0]) else r"(?<!\p{Hangul})" if _is_hangul(parts[0][0]) else ""
    after = rf"(?!{EDGE})" if _is_edge(parts[-1][-1]) else ""
    return before + r"\s+".join(map(regex.escape, parts)) + after


def _is_edge(character: str) -> bool:
    return regex.match(EDGE, character, regex.V1) is not None


def _is_hangul(character: str) -> bool:
    return regex.match(r"\p{Hangul}", character) is not None
