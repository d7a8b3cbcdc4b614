"""Leakage: text of holdout products in training rows.

A leak is the name of a holdout product, as in the catalog or in capitals, or a run of words from its text (its name and
description). A company's own text is in the prompts of both splits and is no leak; neither is the name of the row's own
product.
"""

from collections.abc import Iterable
from typing import NamedTuple

from synthpost_dagster.tasks.task import Task
from synthpost_dagster.text.normalize import CHARACTERS_A_WORD, is_character, letters, normalised, plain

Words = tuple[str, ...]


class Leak(NamedTuple):
    """Text of a holdout product in another text."""

    product: str
    words: int
    """Words of the run, or of the name."""
    text: str


class LeakFinder:
    """The holdout products of a task, by their names and by each run of `words` words of their text."""

    def __init__(self, task: Task, words: int) -> None:
        """`words` is the minimum length of a leak; in a script without spaces, twice as many characters."""
        self._sizes: set[int] = set()
        self._names: dict[Words, str] = {}
        self._runs: dict[Words, list[str]] = {}
        self._texts: dict[str, list[str]] = {}
        for _, product in task.companies_of("holdout"):
            for name in (product.name, product.name.upper()):
                self._names[tuple(letters(plain(name)))] = product.name
            text = normalised(f"{product.name} {product.description}").split()
            self._texts[product.name] = text
            size = words * (CHARACTERS_A_WORD if 2 * sum(map(is_character, text)) > len(text) else 1)
            self._sizes.add(size)
            for run in _runs(text, size):
                self._runs.setdefault(run, []).append(product.name)
        self._first_words = {name[0] for name in self._names if name}
        self._name_lengths = sorted({len(name) for name in self._names}, reverse=True)

    def find(self, text: str, own_product: str) -> Leak | None:
        """The worst leak in a text written for `own_product`: the longest run, or else a name."""
        return self._run(normalised(text).split()) or self._name(plain(text).replace(plain(own_product), "·"))

    def _run(self, words: list[str]) -> Leak | None:
        shared = self._runs.keys() & {run for size in self._sizes for run in _runs(words, size)}
        if not shared:
            return None
        runs = [
            (_lengthened(words, self._texts[product], run), product)
            for run in sorted(shared)
            for product in self._runs[run]
        ]
        longest, product = max(runs, key=lambda found: len(found[0]))
        return Leak(product, len(longest), " ".join(longest))

    def _name(self, text: str) -> Leak | None:
        words = letters(text)
        if self._first_words.isdisjoint(words):
            return None
        for length in self._name_lengths:
            for run in _runs(words, length):
                if run in self._names:
                    return Leak(self._names[run], length, " ".join(run))
        return None


def _runs(words: list[str], length: int) -> Iterable[Words]:
    return zip(*(words[at:] for at in range(length)), strict=False)


def _lengthened(words: list[str], source: list[str], run: Words) -> Words:
    """The run, extended as far as both texts are the same after it."""
    length = len(run)
    at = next(i for i in range(len(words)) if tuple(words[i : i + length]) == run)
    there = next(i for i in range(len(source)) if tuple(source[i : i + length]) == run)
    while at + length < len(words) and there + length < len(source) and words[at + length] == source[there + length]:
        length += 1
    return tuple(words[at : at + length])
