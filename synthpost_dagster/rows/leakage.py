"""Leakage: what is kept for evaluation shows in training rows.

Looked for are the names of holdout products, and runs of words out of the text of a holdout product (its name and its
line in the catalog). A company's own text is in the prompts of both by design and is no leak.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from synthpost_dagster.rows.replies import normalised
from synthpost_dagster.tasks.loading import Task


class Leak(NamedTuple):
    """A training row that shows something of a holdout product."""

    row: int
    product: str
    words: int
    """Words of the run, which are those of the name where the product is named."""
    text: str


class LeakFinder:
    """The holdout products of a task, by their names and by each run of `words` words of their text."""

    def __init__(self, task: Task, words: int) -> None:
        """`words` is the least length of a run that counts as a leak."""
        self._words = words
        self._names: dict[tuple[str, ...], str] = {}
        self._runs: dict[tuple[str, ...], list[str]] = {}
        self._texts: dict[str, str] = {}
        for _, product in task.companies_of("holdout"):
            self._names[tuple(normalised(product.name).split())] = product.name
            text = f"{product.name} {product.description}"
            self._texts[product.name] = text
            for run in _runs(normalised(text).split(), words):
                self._runs.setdefault(run, []).append(product.name)
        self._first_words = {name[0] for name in self._names if name}
        self._name_lengths = sorted({len(name) for name in self._names}, reverse=True)

    def find(self, texts: Iterable[str]) -> list[Leak]:
        """The rows that leak, each with its worst: the longest run, or else a name."""
        found = []
        for row, text in enumerate(texts):
            words = normalised(text).split()
            leak = self._run(row, words) or self._name(row, words)
            if leak:
                found.append(leak)
        return found

    def _run(self, row: int, words: list[str]) -> Leak | None:
        shared = self._runs.keys() & set(_runs(words, self._words))
        if not shared:
            return None
        runs = [
            (_lengthened(words, normalised(self._texts[product]).split(), run), product)
            for run in sorted(shared)
            for product in self._runs[run]
        ]
        longest, product = max(runs, key=lambda found: len(found[0]))
        return Leak(row, product, len(longest), " ".join(longest))

    def _name(self, row: int, words: list[str]) -> Leak | None:
        if self._first_words.isdisjoint(words):
            return None
        for length in self._name_lengths:
            for run in _runs(words, length):
                if run in self._names:
                    return Leak(row, self._names[run], length, " ".join(run))
        return None


def _runs(words: list[str], length: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[at:] for at in range(length)), strict=False)


def _lengthened(words: list[str], source: list[str], run: tuple[str, ...]) -> tuple[str, ...]:
    """The run as far as both texts go on alike after it."""
    length = len(run)
    at = next(i for i in range(len(words)) if tuple(words[i : i + length]) == run)
    there = next(i for i in range(len(source)) if tuple(source[i : i + length]) == run)
    while at + length < len(words) and there + length < len(source) and words[at + length] == source[there + length]:
        length += 1
    return tuple(words[at : at + length])
