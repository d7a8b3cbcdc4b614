"""The sentences of a text as a reader of its language counts them.

pysbd knows the abbreviations, numbers and lists of 23 languages; for all others sentencex does. Both are wrong at times
(pysbd in 2 to 8 % of the cases that its authors collect). A line break always ends a sentence.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from functools import cache, lru_cache

MAX_BLOCK = 2_000
"""Characters given to a segmenter at a time, since its time grows with their square; a longer text is cut at line
breaks and at marks that end a sentence by `_END`. So the time grows with the length of the text."""
MAX_CACHED = 10_000
"""Characters; a post is counted by several checks, and in each of its games."""

_END = re.compile(r"(?<=[.!?…؟।])[\"'”’)\]]*\s+|(?<=[。！？])")
_MARKS = re.compile(r"[!?！？]{2,}")
"""“Wow!!! Yes” is two sentences, and pysbd takes a run of marks as part of a word."""
_MISSED_END = re.compile(r"(?<=\.[\"”])\s+(?=\d)|(?<=[؟।。！？])(?![」』）”\"؟।。！？]|$)\s*")
"""What the segmenters miss: a number after a quotation that ends with a full stop; marks of other scripts."""
_OWN_MARKS = ("ja", "zh")
_ADDRESS = re.compile(r"\b(?:https?://|www\.)\S+")
_HAS_WORD = re.compile(r"\w")

Split = Callable[[str], list[str]]


def sentences(text: str, language: str) -> list[str]:
    """The sentences of a text, those without a letter or digit left out; `language` is a BCP 47 tag."""
    return list(_cached(text, language) if len(text) <= MAX_CACHED else _sentences(text, language))


@lru_cache(maxsize=4_096)
def _cached(text: str, language: str) -> tuple[str, ...]:
    return tuple(_sentences(text, language))


def _sentences(text: str, language: str) -> Iterator[str]:
    primary = language.split("-", maxsplit=1)[0].lower()
    split = _segmenter(primary)
    marked = _ADDRESS.sub(_unmarked, _MARKS.sub(_one_mark, text.replace("\r\n", "\n")))
    for block in _blocks(marked):
        for part in split(block) if len(block) <= MAX_BLOCK else [block]:
            found = [part] if primary in _OWN_MARKS else _MISSED_END.split(part)
            yield from (sentence.strip() for sentence in found if _HAS_WORD.search(sentence))


def _unmarked(address: re.Match[str]) -> str:
    """A web address without marks that could end a sentence inside of it."""
    return re.sub(r"[.!?](?=\S)", "_", address[0])


def _one_mark(marks: re.Match[str]) -> str:
    return next((mark for mark in marks[0] if mark in "?？"), marks[0][0])


def _blocks(text: str) -> Iterator[str]:
    """The text in blocks of at most MAX_BLOCK characters, or of one sentence that is longer than that."""
    if len(text) <= MAX_BLOCK:
        yield text
        return
    block = ""
    for line in text.split("\n"):
        for number, piece in enumerate(_END.split(line) if len(line) > MAX_BLOCK else [line]):
            if len(block) + len(piece) >= MAX_BLOCK:
                yield block
                block = ""
            block += (" " if number else "\n") + piece if block else piece
    yield block


@cache
def _segmenter(language: str) -> Split:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # escapes in pysbd's patterns, where it was not compiled
        warnings.simplefilter("ignore", SyntaxWarning)
        from pysbd import Segmenter
        from pysbd.languages import LANGUAGE_CODES

    if language in LANGUAGE_CODES:
        processor = Segmenter(language=language).processor
        # Not `segment`, which looks each sentence up in the text again and loses those that it rewrote.
        return lambda text: [part for line in text.split("\n") if line.strip() for part in processor(line).process()]

    import sentencex

    return lambda text: [part for line in text.split("\n") for part in sentencex.segment(language, line)]
