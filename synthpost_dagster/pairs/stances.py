"""What a sentence says of the contestant whose label it names: whether it speaks for it, and never against it.

A sentence speaks for a label only in the few ways that are known here. Of an explanation behind a verdict it is enough
that no word speaks against the label; what it says against the other contestant is no doubt.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import NamedTuple

from synthpost_dagster.pairs.vocabulary import (
    AFTER_PRAISE,
    BLAME,
    CHOOSING,
    COMPARISONS,
    CONDITIONS,
    CONTRASTS,
    EMPHASES,
    FAILURES,
    FILLERS,
    GIVING,
    JOINTS,
    LINKED,
    LINKS,
    NEGATORS,
    OPENINGS,
    OTHERS,
    PICKED,
    PRAISE,
    SLOTS,
)
from synthpost_dagster.pairs.words import Text

_REACH = 4
"""A negation turns a word that is so many words behind it."""


class Stance(NamedTuple):
    """Whether words might speak against a label, or for the other; and which rivals they put behind it."""

    is_doubtful: bool
    put_behind: frozenset[int]


def stance(text: Text, span: range, own: Collection[int], rivals: Collection[int]) -> Stance:
    """What the words of one sentence say; `own` and `rivals` are the words that name the label, and the others."""
    found = _Listener(text, own, rivals)
    for index in span:
        found.hear(index)
    found.stop()
    return Stance(found.is_doubtful, frozenset(found.put_behind))


def is_failure(text: Text, span: range) -> bool:
    """Whether words tell of an error rather than of a verdict."""
    return any(FAILURES.fullmatch(text.words[index].key) for index in span)


def speaks_for(text: Text, first: int, last: int) -> bool:
    """Whether the sentence around a label says that it is preferred: "X is better", "I prefer X", "the winner is X"."""
    before = [word.key for word in text.words[text.sentence_starts[first] : first]]
    end = text.sentence_end(last)
    if "?" in text.gap(end + 1):
        return False
    return (
        _is_all(text, before, last)
        or _is_praised(text, before, last, end)
        or _is_chosen(text, before, first, last, end)
    )


def speaks_of_tie(text: Text, first: int, last: int) -> bool:
    """Whether the sentence around the word for a tie says that there is one: "it is a tie"."""
    before = [word.key for word in text.words[text.sentence_starts[first] : first]]
    return all(key in FILLERS or key in JOINTS for key in before) and text.closes(last)


def _is_all(text: Text, before: Sequence[str], last: int) -> bool:
    """Whether the text says nothing but the label: "the tuned one"."""
    behind = [word.key for word in text.words[last + 1 :]]
    return all(key in OPENINGS for key in before) and all(key in SLOTS or key == "one" for key in behind)


def _is_praised(text: Text, before: Sequence[str], last: int, end: int) -> bool:
    if not all(key in FILLERS for key in before):
        return False
    for index in range(last + 1, end + 1):
        key = text.words[index].key
        if key in PRAISE or _is_liking(text, index) or (key == "more" and _is_more_alone(text, index, end)):
            return index == end or text.breaks(index) or text.words[index + 1].key in AFTER_PRAISE
        if key not in FILLERS:
            return False
    return False


def _is_liking(text: Text, index: int) -> bool:
    return text.words[index].key in {"like", "liked"} and text.words[index - 1].key in {"i", "we"}


def _is_more_alone(text: Text, index: int, end: int) -> bool:
    return index == end or text.words[index + 1].key == "than"


def _is_chosen(text: Text, before: Sequence[str], first: int, last: int, end: int) -> bool:
    if not text.is_led(first) and not _is_linked(before):
        return False
    index = last + 1
    while index <= end and not text.breaks(index - 1) and text.words[index].key in SLOTS | {"one"}:
        index += 1
    return index > end or text.breaks(index - 1) or text.words[index].key in AFTER_PRAISE


def _is_linked(before: Sequence[str]) -> bool:
    """Whether words lead from a choice to what is chosen: "I would go with the"."""
    chosen = next((place for place in range(len(before) - 1, -1, -1) if before[place] in CHOOSING), -1)
    if chosen < 0 or before[-1] in GIVING or not all(key in FILLERS or key in CHOOSING for key in before[:chosen]):
        return False
    return all(
        key in LINKS and (key not in LINKED or previous in LINKED[key]) for previous, key in pairwise(before[chosen:])
    )


class _Listener:
    """Follows a sentence word by word: of whom it speaks, and whether a negation is open."""

    def __init__(self, text: Text, own: Collection[int], rivals: Collection[int]) -> None:
        self.text, self.own, self.rivals = text, own, rivals
        self.is_doubtful = False
        self.put_behind: set[int] = set()
        self._subject: int | None = None
        self._negator: int | None = None
        self._is_praised = False

    def hear(self, index: int) -> None:
        """The next word."""
        key = self.text.words[index].key
        if index in self.own or key == "this":
            self.stop()
            self._subject = None
        elif index in self.rivals or key in OTHERS:
            self._name_other(index)
        elif key in EMPHASES and self._negator == index - 1:
            self._negator = None
        elif key in CONDITIONS:
            self.is_doubtful = True
        elif BLAME.fullmatch(key) or FAILURES.fullmatch(key):
            self._judge(index, is_good=False)
        elif key in PRAISE or key in PICKED:
            self._judge(index, is_good=True)
        elif key in NEGATORS:
            self._negator = index

    def stop(self) -> None:
        """The words about one contestant are over; a negation that turned nothing speaks against it."""
        if self._negator is not None:
            self._blame()
        self._negator = None

    def _judge(self, index: int, is_good: bool) -> None:
        if self._negator is not None:
            if not self._reaches(self._negator, index):
                self.stop()
            else:
                is_good = not is_good
            self._negator = None
        if not is_good:
            self._blame()
        elif self._subject is None:
            self._is_praised = True
        else:
            self.is_doubtful = True

    def _blame(self) -> None:
        if self._subject is None:
            self.is_doubtful = True
        else:
            self.put_behind.add(self._subject)

    def _reaches(self, negator: int, index: int) -> bool:
        gaps = "".join(self.text.gap(place) for place in range(negator + 1, index + 1))
        return index - negator <= _REACH and not set(gaps) & set(",:(–—")

    def _name_other(self, index: int) -> None:
        before = [place for place in range(max(index - 4, 0), index) if self.text.words[place].key not in {"the", "a"}]
        keys = [self.text.words[place].key for place in before]
        previous = keys[-1] if keys else ""
        if previous in JOINTS:
            self.is_doubtful = True
        elif previous in NEGATORS and self._negator == before[-1] and self._reaches(before[-1], index):
            self._negator = None
        elif previous in COMPARISONS:
            self.put_behind |= {index} if self._is_praised and self._negator is None else set()
        else:
            self.is_doubtful |= self._is_picked(before)
            self.stop()
            self._subject = index

    def _is_picked(self, before: Sequence[int]) -> bool:
        """Whether the words before another contestant's name take it: "the winner is the other"."""
        for place in reversed(before):
            key = self.text.words[place].key
            if key in CONTRASTS or "," in self.text.gap(place + 1):
                return False
            if key in PICKED:
                return True
        return False
