"""A text as words and the gaps between them, and the sentences that they make."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import NamedTuple

from synthpost_dagster.pairs.vocabulary import BECAUSE, LEADS, OPENINGS, RUN_IN

_WORD = re.compile(r"[^\W_]+")
_JOINERS = frozenset({"", "-", "_", "__", "\u2010", "\u2011", "–"})
_GLUE = frozenset({"", "-", "_", "__", "\u2010", "\u2011", "'", "’"})
_IN_NUMBERS = frozenset(".,/:")
_SENTENCE_END = re.compile(r"[.!?;\n{}<…]|[\"'”’],")
"""In the gap between two words; a closing quote with a comma ends a JSON string."""


class Word(NamedTuple):
    """Letters and digits of one word, case folded, and where they stand. `oneTwo` is two words."""

    key: str
    start: int
    end: int


@dataclass(frozen=True)
class Text:
    """A text as words and the gaps between them."""

    raw: str
    words: tuple[Word, ...]

    @classmethod
    def of(cls, raw: str, labels: Collection[str] = ()) -> Text:
        """The words of a text; an explanation that is run into one of the labels is cut off it."""
        return cls(raw, tuple(cut for word in _words(raw) for cut in _cut(word, labels)))

    @property
    def final(self) -> int:
        """The last word; -1 where there is none."""
        return len(self.words) - 1

    def gap(self, index: int) -> str:
        """What stands before a word; before the one after the last: the rest."""
        start = self.words[index - 1].end if index else 0
        return self.raw[start : self.words[index].start if index <= self.final else len(self.raw)]

    def opening(self) -> int:
        """The first word that does not merely lead up to a label."""
        return next((index for index, word in enumerate(self.words) if word.key not in OPENINGS), self.final)

    @cached_property
    def sentence_starts(self) -> list[int]:
        """For each word the first one of its sentence."""
        ends = (index if index and self.ends_sentence(index - 1) else 0 for index in range(len(self.words)))
        return list(accumulate(ends, max))

    def ends_sentence(self, index: int) -> bool:
        """Whether a word is the last of its sentence."""
        gap = self.gap(index + 1)
        return index == self.final or (not self.is_glued(index + 1) and _SENTENCE_END.search(gap) is not None)

    def sentence_end(self, index: int) -> int:
        """The last word of the sentence that a word stands in."""
        return next(place for place in range(index, len(self.words)) if self.ends_sentence(place))

    def is_led(self, index: int) -> bool:
        """Whether all that stands before a word in its sentence leads up to a label, and says that one is chosen."""
        start = self.sentence_starts[index]
        return (
            self._openings[index] - self._openings[start] == index - start and self._leads[index] > self._leads[start]
        )

    @cached_property
    def _openings(self) -> list[int]:
        """How many words before each lead up to a label."""
        return list(accumulate((word.key in OPENINGS for word in self.words), initial=0))

    @cached_property
    def _leads(self) -> list[int]:
        """How many words before each say that something is chosen."""
        return list(accumulate((word.key in LEADS for word in self.words), initial=0))

    def is_glued(self, index: int) -> bool:
        """Whether a word and the one before it are one: fine-tuned, it's, oneTwo, 1.5; also a sign before a number."""
        if index > self.final:
            return False
        gap, start = self.gap(index), self.words[index].start
        if self.raw[start].isdigit() and gap[-1:] in {"+", "-", "−"}:
            return True
        if index == 0:
            return False
        is_number = self.raw[start].isdigit() and self.raw[self.words[index - 1].end - 1].isdigit()
        return gap in _GLUE or (is_number and gap in _IN_NUMBERS)

    def breaks(self, last: int) -> bool:
        """Whether a word is followed by punctuation, a new line or the end."""
        gap = self.gap(last + 1)
        return last == self.final or (not self.is_glued(last + 1) and bool(gap.strip() or "\n" in gap))

    def closes(self, last: int) -> bool:
        """Whether what follows a word is another text: as above, run in, or a capital letter, or "because"."""
        if self.breaks(last) or self.gap(last + 1) == "":
            return True
        if self.words[last + 1].key in BECAUSE and not self.is_glued(last + 1):
            return True
        is_run_in = self.gap(last + 1) == "-" and last + 2 <= self.final
        return self.raw[self.words[last + 1].start].isupper() and (is_run_in or not self.is_glued(last + 1))

    def end_of(self, key: str, first: int) -> int:
        """The last of the words that spell a label from a word on, with spaces or hyphens between; else -1."""
        rest = key
        for index in range(first, len(self.words)):
            if index > first and self.gap(index).strip() not in _JOINERS:
                return -1
            if not rest.startswith(self.words[index].key):
                return -1
            rest = rest[len(self.words[index].key) :]
            if not rest:
                return index
        return -1

    def runs(self, first: int, longest: int) -> Iterator[tuple[int, str]]:
        """The last word and the letters of every run of words from one on, up to a length."""
        key = ""
        for index in range(first, len(self.words)):
            if index > first and self.gap(index).strip() not in _JOINERS:
                return
            key += self.words[index].key
            if len(key) > longest:
                return
            yield index, key


def _words(raw: str) -> Iterator[Word]:
    for match in _WORD.finditer(raw):
        word, start = match.group(), match.start()
        cuts = [0, *(place for place in range(1, len(word)) if _is_hump(word, place)), len(word)]
        for begin, end in pairwise(cuts):
            yield Word(word[begin:end].casefold(), start + begin, start + end)


def _is_hump(word: str, place: int) -> bool:
    """Whether a word starts inside another: tuned|The, TUNED|The."""
    return word[place].isupper() and (not word[place - 1].isupper() or word[place + 1 : place + 2].islower())


def _cut(word: Word, labels: Collection[str]) -> Iterator[Word]:
    """A word as it is, or in two where it is a label and the first word of an explanation: finetuned|because."""
    length = next((len(label) for label in labels if word.key.startswith(label)), 0)
    if length and len(word.key) == word.end - word.start and word.key[length:] in RUN_IN:
        yield Word(word.key[:length], word.start, word.start + length)
        yield Word(word.key[length:], word.start + length, word.end)
    else:
        yield word
