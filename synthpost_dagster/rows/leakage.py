"""Leakage: text of holdout items in training rows.

`holdout.leak` of the task says what leaks: names, as in the items or in capitals, and runs of words of fields. A
group's text is in the prompts of both splits and is no leak; neither is a name of the row's own item.
"""

from collections.abc import Iterable
from typing import NamedTuple

from synthpost_dagster.tasks.task import Task
from synthpost_dagster.text.normalize import CHARACTERS_A_WORD, is_character, letters, normalised, plain

Words = tuple[str, ...]


class Leak(NamedTuple):
    """Text of a holdout item in another text."""

    item: str
    words: int
    """Words of the run, or of the name."""
    text: str


class LeakFinder:
    """The holdout items of a task, by their names and by each run of words of their text.

    In a script without spaces, a run has twice as many characters.
    """

    def __init__(self, task: Task) -> None:
        leak = task.spec.holdout.leak
        self._sizes: set[int] = set()
        self._names: dict[Words, str] = {}
        self._runs: dict[Words, list[str]] = {}
        self._texts: dict[str, list[str]] = {}
        self._own = {item.name: [str(item.values[name]) for name in leak.names_of] for item in task.items}
        for item in task.items:
            if item.split != "holdout":
                continue
            for value in self._own[item.name]:
                for name in (value, value.upper()):
                    self._names[tuple(letters(plain(name)))] = item.name
            text = normalised(" ".join(str(item.values[name]) for name in leak.fields)).split()
            self._texts[item.name] = text
            size = leak.words * (CHARACTERS_A_WORD if 2 * sum(map(is_character, text)) > len(text) else 1)
            self._sizes.add(size)
            for run in _runs(text, size):
                self._runs.setdefault(run, []).append(item.name)
        self._first_words = {name[0] for name in self._names if name}
        self._name_lengths = sorted({len(name) for name in self._names}, reverse=True)

    def find(self, text: str, own_item: str) -> Leak | None:
        """The worst leak in a text written for `own_item`: the longest run, or else a name."""
        bare = plain(text)
        for name in self._own.get(own_item, [own_item]):
            bare = bare.replace(plain(name), "·")
        return self._run(normalised(text).split()) or self._name(bare)

    def _run(self, words: list[str]) -> Leak | None:
        shared = self._runs.keys() & {run for size in self._sizes for run in _runs(words, size)}
        if not shared:
            return None
        runs = [
            (_lengthened(words, self._texts[item], run), item) for run in sorted(shared) for item in self._runs[run]
        ]
        longest, item = max(runs, key=lambda found: len(found[0]))
        return Leak(item, len(longest), " ".join(longest))

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
