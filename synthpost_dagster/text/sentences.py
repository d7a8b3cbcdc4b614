"""The sentences of a text as a reader of its language counts them.

pysbd splits 23 languages, sentencex all others. Both make errors (pysbd in 2 to 8 % of its authors' test cases). A line
break always ends a sentence.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from functools import cache, lru_cache

MAX_BLOCK = 2_000
"""Characters given to a segmenter at a time, because its time is quadratic; a longer text is first cut at line breaks
and at `_END`."""
MAX_CACHED = 10_000
"""Characters of a text whose sentences are cached: several checks count the same post."""

_END = re.compile(r"(?<=[.!?…؟।])[\"'”’)\]]*\s+|(?<=[。！？])")
_MARKS = re.compile(r"[!?！？]{2,}")
"""pysbd takes a run of marks as part of a word, but “Wow!!! Yes” is two sentences."""
_MISSED_END = re.compile(r"(?<=\.[\"”])\s+(?=\d)|(?<=[؟।。！？])(?![」』）”\"؟।。！？]|$)\s*")
"""Ends that the segmenters miss: before a number after a quoted full stop; at marks of other scripts."""
_OWN_MARKS = ("ja", "zh")
_ADDRESS = re.compile(r"\b(?:https?://|www\.)\S+")
_HAS_WORD = re.compile(r"\w")

Split = Callable[[str], list[str]]


def sentences(text: str, language: str) -> list[str]:
    """The sentences of a text that have a letter or digit; `language` is a BCP 47 tag."""
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
    """A web address without marks that could end a sentence."""
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
        # Not `segment`, which searches the text for each sentence and loses those that pysbd changed.
        return lambda text: [part for line in text.split("\n") if line.strip() for part in processor(line).process()]

    import sentencex

    return lambda text: [part for line in text.split("\n") for part in sentencex.segment(language, line)]
