"""Reads a label that somebody's judge left behind: which of two names it stands for, or why it stands for none.

A label is looked for as a whole word, and its damage is repaired where exactly one reading is left. Files of labels
are in `comparisons.table`; what judges of this project reply is in `judging.replies`.

The order of attempts: the label as it is; without quotes, brackets, case and spaces; named in the text; misspelt.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from synthpost_dagster.errors import SpecError

WRAPPING = string.whitespace + "\u00a0\u2009\u202f\u3000" + "\"'`´*_“”„‟‘’‚‛«»‹›「」『』()[]{}.,;:!?…。，：！？"
"""What may stand around a label without changing it."""
MOST_ERRORS = 2
SHORT = 2
"""Labels of so many letters are also words (a, no, it), and count only where they are plainly meant as labels."""
LONG = 6
"""Labels of so many letters are unlike other words: two errors are allowed, and a text may follow."""

_WORD = re.compile(r"[^\W_]+")
_FROM_A_DIGIT = re.compile(r"\d.*")
_WHOLE_NUMBER = re.compile(r"[-+]?\d+\.0+")
"""As a table writes the label 1 once it takes the column for numbers."""
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\ufeff"))
_JOINERS = frozenset({"", "-", "_", "\u2010", "\u2011", "–"})
_GLUE = frozenset({"", "-", "_", "\u2010", "\u2011", "'", "’"})
_IN_NUMBERS = frozenset(".,/:")
_DASHES = frozenset("-–—:=|>")
_SENTENCE_ENDS = frozenset(".!?;,\n")


def _vocabulary(words: str) -> frozenset[str]:
    return frozenset(words.split())


_SLOTS = _vocabulary("post option response text version candidate model ad output answer choice sample slot")
_VERDICTS = _vocabulary("answer verdict winner choice decision label result output preference pick")
_OPENINGS = _SLOTS.union(
    _VERDICTS,
    _vocabulary("the my final overall i prefer preferred choose chose select selected better best is was boxed"),
    _vocabulary("judgement judgment"),
)
"""Words that lead up to a label: "The winner is …"."""
_AFTER_A_CHOICE = _vocabulary("is was wins won has because since")
_NEGATIONS = _vocabulary(
    "not no never none neither nor t cannot cant isnt without false unless if worse worst weaker inferior lose loses "
    "lost loser losing"
)
_COMPARISONS = _vocabulary("than over against instead versus vs unlike beat beats outperforms")
"""Words after which a sentence names what it does not prefer."""
_ORDINARY = _OPENINGS | _vocabulary(
    "the this that these those then they there time true one none both it its to too in on no yes and but not for from "
    "with less more"
)
"""Never a misspelling of a label."""


class Meaning(NamedTuple):
    """The labels that say that the candidate won, that it lost, and that neither did."""

    win: str
    loss: str
    tie: str = "tie"


class Read(NamedTuple):
    """win, loss, tie or unscored; and how it was read or why not, empty where the label was exact."""

    outcome: str
    how: str


NOT_EXACT = Read("unscored", "not exact")
NO_LABEL = Read("unscored", "no label")
NAMES_BOTH = Read("unscored", "names both")
NAMES_NEITHER = Read("unscored", "names neither")
COULD_BE_EITHER = Read("unscored", "could be either")

TIDIED = "quotes, case or spaces"
PREFIXED = "words before the label"
EXPLAINED = "explanation after the label"
IN_A_SENTENCE = "label inside a sentence"
MISSPELT = "misspelt"


def read_label(raw: str, meaning: Meaning, is_strict: bool = False) -> Read:
    """What a raw label says; strictly, only one that is exactly as given says anything.

    Raises SpecError where the labels that win and lose cannot be told apart. Never raises on a text.
    """
    labels = _known(meaning)
    for label in labels:
        if raw == label.raw:
            return Read(label.outcome, "")
    if is_strict:
        return NOT_EXACT
    visible = raw.translate(_INVISIBLE)
    bare = _bare(visible)
    if not bare:
        return NO_LABEL
    for label in labels:
        if bare == _bare(label.raw):
            return Read(label.outcome, TIDIED)
    return _in_text(_Text.of(visible), [label for label in labels if label.key])


class _Word(NamedTuple):
    """Letters and digits of one word, case folded, and where they stand. `oneTwo` is two words."""

    key: str
    start: int
    end: int


class _Label(NamedTuple):
    """A label, its letters and digits without what is between them (none: only read as it is), and its marks."""

    raw: str
    outcome: str
    key: str
    marks: str


class _Mention(NamedTuple):
    """A label in a text, from word to word: the text's `verdict`, part of a `sentence`, or `loose`.

    A loose mention is part of something else (un-tuned, "plan B"): it never counts, and spoils the other label.
    """

    outcome: str
    first: int
    last: int
    kind: str


def _bare(text: str) -> str:
    bare = " ".join(text.strip(WRAPPING).casefold().split())
    return bare.split(".")[0] if _WHOLE_NUMBER.fullmatch(bare) else bare


def _spelling(label: str) -> str:
    """The bare label without spaces, hyphens and underscores between letters and digits."""
    return re.sub(r"(?<=[^\W_])(?:\s+|[-_\u2010\u2011–])(?=[^\W_])", "", _bare(label))


@lru_cache(maxsize=16)
def _known(meaning: Meaning) -> tuple[_Label, ...]:
    """The labels, longest first. Where one has symbols in it (+1, C++, 👍), both are only read as they are."""
    _check(meaning)
    words = [_Text.of(label).words for label in meaning]
    keys = ["".join(word.key for word in found) for found in words]
    is_read = [bool(key) and key == _spelling(label) for key, label in zip(keys, meaning, strict=True)]
    labels = [
        _Label(label, outcome, key if readable and all(is_read[:2]) else "", _marks(found))
        for label, outcome, key, readable, found in zip(
            meaning, ("win", "loss", "tie"), keys, is_read, words, strict=True
        )
    ]
    return tuple(sorted(labels, key=lambda label: -len(label.key)))


def _check(meaning: Meaning) -> None:
    for option, label in (("--win", meaning.win), ("--loss", meaning.loss)):
        if not label.strip():
            raise SpecError(f"{option} is empty; give the label that stands for it in the file")
        if _spelling(label) == _spelling(meaning.tie):
            raise SpecError(f"{option} {label!r} is also the word for a tie ({meaning.tie!r}); give each its own label")
    if _spelling(meaning.win) == _spelling(meaning.loss):
        raise SpecError(
            f"--win {meaning.win!r} and --loss {meaning.loss!r} read alike; give two labels that differ in more than "
            "case, quotes, hyphens and spaces"
        )


@dataclass(frozen=True)
class _Text:
    """A text as words and the gaps between them."""

    raw: str
    words: tuple[_Word, ...]

    @classmethod
    def of(cls, raw: str) -> _Text:
        return cls(raw, tuple(_words(raw)))

    @property
    def final(self) -> int:
        return len(self.words) - 1

    def gap(self, index: int) -> str:
        """What stands before a word; before the one after the last: the rest."""
        start = self.words[index - 1].end if index else 0
        return self.raw[start : self.words[index].start if index <= self.final else len(self.raw)]

    def opening(self) -> int:
        """The first word that does not merely lead up to a label."""
        return next((index for index, word in enumerate(self.words) if word.key not in _OPENINGS), self.final)

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
        """Whether what follows a word is another text: as above, or a capital letter, also run in."""
        if self.breaks(last):
            return True
        gap = self.gap(last + 1)
        is_run_in = gap == "" or (gap == "-" and last + 2 <= self.final)
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


def _words(raw: str) -> Iterator[_Word]:
    for match in _WORD.finditer(raw):
        word, start = match.group(), match.start()
        cuts = [0, *(place for place in range(1, len(word)) if _is_hump(word, place)), len(word)]
        for begin, end in pairwise(cuts):
            yield _Word(word[begin:end].casefold(), start + begin, start + end)


def _is_hump(word: str, place: int) -> bool:
    """Whether a word starts inside another: tuned|The, TUNED|The."""
    return word[place].isupper() and (not word[place - 1].isupper() or word[place + 1 : place + 2].islower())


def _marks(words: tuple[_Word, ...]) -> str:
    """Single letters, and words from their first digit on: what tells "gpt-4" from "gpt-4o" is no misspelling."""
    return "".join(
        mark for word in words for mark in ([word.key] if len(word.key) == 1 else _FROM_A_DIGIT.findall(word.key))
    )


def _in_text(text: _Text, labels: list[_Label]) -> Read:
    if not text.words or not labels:
        return NAMES_NEITHER
    mentions = list(_mentions(text, labels))
    guess = _misspelt(text, labels)
    named = {mention.outcome for mention in mentions}
    firm = next((mention for mention in mentions if mention.kind != "loose"), None)
    if len(named) > 1:
        return NAMES_BOTH
    if firm is None:
        contradicted = guess is not None and named - {guess.outcome}
        return COULD_BE_EITHER if contradicted else guess or NAMES_NEITHER
    if guess is not None and guess.outcome != firm.outcome:
        return COULD_BE_EITHER
    if firm.kind == "sentence":
        return COULD_BE_EITHER if _is_doubtful(text, mentions, firm, labels) else Read(firm.outcome, IN_A_SENTENCE)
    if firm.last < text.final:
        return Read(firm.outcome, EXPLAINED)
    return Read(firm.outcome, PREFIXED if firm.first else TIDIED)


def _mentions(text: _Text, labels: list[_Label]) -> Iterator[_Mention]:
    """Labels by their exact letters, the longest at each word."""
    opening, index = text.opening(), 0
    while index < len(text.words):
        for label in labels:
            last = text.end_of(label.key, index)
            if last >= 0:
                kind_of = _kind_of_short if len(label.key) <= SHORT else _kind
                if kind := kind_of(text, opening, index, last):
                    yield _Mention(label.outcome, index, last, kind)
                index = last
                break
        index += 1


def _kind(text: _Text, opening: int, first: int, last: int) -> str:
    if text.is_glued(first) or _has_number_after(text, last):
        return "loose"
    if first <= opening and text.closes(last):
        return "verdict"
    return "loose" if text.is_glued(last + 1) else "sentence"


def _has_number_after(text: _Text, last: int) -> bool:
    """Whether the label goes on: "model 2" is not "model"."""
    return last < text.final and not text.breaks(last) and text.words[last + 1].key[0].isdigit()


def _kind_of_short(text: _Text, opening: int, first: int, last: int) -> str:
    """The kind of a label of one or two letters; empty where it is the article."""
    if text.is_glued(first) or text.is_glued(last + 1):
        return "loose"
    following = text.words[last + 1].key if last < text.final else ""
    written = text.raw[text.words[first].start : text.words[last].end]
    previous = text.words[first - 1].key if first else ""
    is_closed = _closes_short(text, last)
    is_pointed = not written.islower() or bool(text.gap(first).strip())
    if first <= opening and is_closed and (first == 0 or is_pointed or previous in _SLOTS):
        return "verdict"
    is_led = first > 0 and not _SENTENCE_ENDS & set(text.gap(first))
    is_slot = is_led and previous in _SLOTS and (is_closed or not written.islower())
    is_answer = is_led and is_closed and is_pointed and _follows_a_verdict(text, first)
    is_subject = first <= opening and (first == 0 or is_pointed) and following in _AFTER_A_CHOICE
    if is_slot or is_answer or is_subject:
        return "sentence"
    is_article = written.lower() == "a" and following.isalpha() and not is_closed
    return "" if is_article and following not in _AFTER_A_CHOICE | {"and", "or"} else "loose"


def _closes_short(text: _Text, last: int) -> bool:
    """Whether a short label is followed by the end, a new line, a dash, or punctuation without a space before it."""
    gap = text.gap(last + 1)
    return last == text.final or not gap[0].isspace() or "\n" in gap or gap.lstrip()[:1] in _DASHES


def _follows_a_verdict(text: _Text, first: int) -> bool:
    """Whether "answer:" or "the winner is" leads up to a word."""
    before = [word.key for word in text.words[max(first - 2, 0) : first]]
    return before[-1] in _VERDICTS or (before[-1] in {"is", "was"} and before[0] in _VERDICTS)


def _is_doubtful(text: _Text, mentions: list[_Mention], firm: _Mention, labels: list[_Label]) -> bool:
    """Whether a sentence might speak against the label it names, or might misspell the other."""
    covered = {index for mention in mentions for index in range(mention.first, mention.last + 1)}
    keys = [(index, word.key) for index, word in enumerate(text.words) if index not in covered]
    if any(key in _NEGATIONS or (index < firm.first and key in _COMPARISONS) for index, key in keys):
        return True
    others = {key for _, key in keys} - _ORDINARY
    rivals = [label.key for label in labels if label.outcome not in {firm.outcome, "tie"} and len(label.key) > 3]
    return any(_distance(other, rival) <= _allowed_errors(rival) for other in others for rival in rivals)


def _misspelt(text: _Text, labels: list[_Label]) -> Read | None:
    """What the text's first words say if they misspell a label; None where they misspell none."""
    longest, opening = len(labels[0].key) + MOST_ERRORS, text.opening()
    starts = [at for at in range(1, opening) if any(label.key.startswith(text.words[at].key) for label in labels)]
    found: set[Read] = set()
    for first in {0, *starts, opening}:
        for last, key in text.runs(first, longest):
            is_run_in = last < text.final and text.gap(last + 1) == ""
            if key not in _ORDINARY and (text.breaks(last) or is_run_in):
                read = _nearest(key, _marks(text.words[first : last + 1]), last == text.final, labels)
                found |= {read} if read else set()
    return found.pop() if len(found) == 1 else COULD_BE_EITHER if found else None


def _nearest(key: str, marks: str, is_alone: bool, labels: list[_Label]) -> Read | None:
    """The label that letters misspell; None where they are a label, or like none."""
    (errors, label), *others = sorted(
        ((_distance(key, label.key), label) for label in labels), key=lambda measured: measured[0]
    )
    if errors == 0:
        return None
    if errors > _allowed_errors(label.key):
        return COULD_BE_EITHER if any(more <= _allowed_errors(other.key) for more, other in others) else None
    if not is_alone and len(label.key) < LONG:
        return None
    is_tied = bool(others) and others[0][0] == errors
    if is_tied or marks != label.marks or _differs_by_a_prefix(key, label.key):
        return COULD_BE_EITHER
    return Read(label.outcome, MISSPELT)


def _differs_by_a_prefix(one: str, other: str) -> bool:
    """Whether two letters before a word make the other of it: `tuned` is no misspelt `untuned`."""
    return abs(len(one) - len(other)) == 2 and (one.endswith(other) or other.endswith(one))


def _allowed_errors(key: str) -> int:
    return 0 if len(key) <= SHORT else 1 if len(key) < LONG else MOST_ERRORS


def _distance(one: str, other: str) -> int:
    """Letters added, left out, replaced, or swapped with their neighbour; above two: three or more.

    Optimal string alignment (Boytsov, ACM JEA 16, 2011).
    """
    if abs(len(one) - len(other)) > MOST_ERRORS:
        return MOST_ERRORS + 1
    above: list[int] = []
    previous = list(range(len(other) + 1))
    for row, letter in enumerate(one, start=1):
        current = [row]
        for column, theirs in enumerate(other, start=1):
            best = min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (letter != theirs))
            if row > 1 and column > 1 and letter == other[column - 2] and one[row - 2] == theirs:
                best = min(best, above[column - 2] + 1)
            current.append(best)
        above, previous = previous, current
    return previous[-1]
