"""Reads a label that somebody's judge left behind: which of two names it stands for, or why it stands for none.

A label is looked for as a whole word, and its damage is repaired where exactly one reading is left. Files of labels
are in `comparisons.table`; what judges of this project reply is in `judging.replies`.

The order of attempts: the label as it is; without quotes, brackets, case and spaces; named in the text; misspelt.
A label at the head of the text, or behind words such as "the winner is", is a verdict where the sentence behind it does
not take it back; anywhere else it counts only where its sentence speaks for it (`comparisons.stances`).
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from synthpost_dagster.errors import SpecError
from synthpost_dagster.pairs.stances import is_failure, speaks_for, speaks_of_tie, stance
from synthpost_dagster.pairs.vocabulary import AFTER_A_CHOICE, BECAUSE, ORDINARY, SLOTS, VERDICTS
from synthpost_dagster.pairs.words import Text, Word

WRAPPING = string.whitespace + "\u00a0\u2009\u202f\u3000" + "\"'`´*_“”„‟‘’‚‛«»‹›「」『』()[]{}.,;:!?…。，：！？"
"""What may stand around a label without changing it."""
MOST_ERRORS = 2
SHORT = 2
"""Labels of so many letters are also words (a, no, it), and count only where they are plainly meant as labels."""
LONG = 6
"""Labels of so many letters are unlike other words: two errors are allowed, and a text may follow."""

_FROM_A_DIGIT = re.compile(r"\d.*")
_WHOLE_NUMBER = re.compile(r"[-+]?\d+\.0+")
"""As a table writes the label 1 once it takes the column for numbers."""
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\ufeff"))
_DASHES = frozenset("-–—:=|>")
_SENTENCE_ENDS = frozenset(".!?;,\n")
_CROSSED_OUT = re.compile("~~|[❌✗✘✖👎🚫⛔]")


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
    readable = [label for label in labels if label.key]
    return _in_text(Text.of(visible, [label.key for label in readable if len(label.key) > SHORT]), readable)


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


class _Guess(NamedTuple):
    """What a text's first words may say, and the last word of these."""

    read: Read
    last: int

    @property
    def outcome(self) -> str:
        return self.read.outcome


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
    words = [Text.of(label).words for label in meaning]
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


def _marks(words: tuple[Word, ...]) -> str:
    """Single letters, and words from their first digit on: what tells "gpt-4" from "gpt-4o" is no misspelling."""
    return "".join(
        mark for word in words for mark in ([word.key] if len(word.key) == 1 else _FROM_A_DIGIT.findall(word.key))
    )


def _in_text(text: Text, labels: list[_Label]) -> Read:
    if not text.words or not labels:
        return NAMES_NEITHER
    mentions = list(_mentions(text, labels))
    guess = _misspelt(text, labels)
    named = {mention.outcome for mention in mentions}
    firm = _firmest(mentions)
    if firm is None and len(named) < 2:
        contradicted = guess is not None and named - {guess.outcome}
        return COULD_BE_EITHER if contradicted else _unless_doubtful(text, guess, labels) or NAMES_NEITHER
    if firm is None or (len(named) > 1 and not _puts_others_behind(text, firm, mentions)):
        return NAMES_BOTH
    if (guess is not None and guess.outcome != firm.outcome) or not _stands(text, firm, mentions, labels):
        return COULD_BE_EITHER
    if firm.kind == "sentence":
        return Read(firm.outcome, IN_A_SENTENCE)
    if firm.last < text.final:
        return Read(firm.outcome, EXPLAINED)
    return Read(firm.outcome, PREFIXED if firm.first else TIDIED)


def _firmest(mentions: list[_Mention]) -> _Mention | None:
    """The first mention that is a verdict, else the first in a sentence."""
    return next(
        (mention for kind in ("verdict", "sentence") for mention in mentions if mention.kind == kind),
        None,
    )


def _puts_others_behind(text: Text, firm: _Mention, mentions: list[_Mention]) -> bool:
    """Whether all that a text says of the contestants beside its verdict is that they are worse."""
    others = [mention for mention in mentions if mention.outcome != firm.outcome]
    if {firm.outcome, *(other.outcome for other in others)} != {"win", "loss"}:
        return False
    if firm.kind != "verdict" or any(other.kind == "verdict" for other in others):
        return False
    if others[0].first == firm.last + 1 and not text.ends_sentence(firm.last):
        return False
    rivals, own = {other.first for other in others}, _covered(mentions, firm.outcome)
    heard = [stance(text, span, own, rivals) for span in _sentences_of(text, firm, rivals)]
    return not any(one.is_doubtful for one in heard) and rivals <= {rival for one in heard for rival in one.put_behind}


def _sentences_of(text: Text, firm: _Mention, places: set[int]) -> list[range]:
    """The sentences in which some words stand, without the verdict and what leads up to it."""
    starts = {max(text.sentence_starts[place], firm.last + 1 if place > firm.last else 0) for place in places}
    return [range(start, text.sentence_end(start) + 1) for start in sorted(starts)]


def _covered(mentions: list[_Mention], outcome: str) -> set[int]:
    return {
        index for mention in mentions if mention.outcome == outcome for index in range(mention.first, mention.last + 1)
    }


def _stands(text: Text, firm: _Mention, mentions: list[_Mention], labels: list[_Label]) -> bool:
    """Whether nothing in a text speaks against the verdict in it, and something for a label in a sentence."""
    if firm.kind == "sentence":
        speaks = speaks_of_tie if firm.outcome == "tie" else speaks_for
        if not speaks(text, firm.first, firm.last):
            return False
    rivals = {mention.first for mention in mentions if mention.outcome != firm.outcome}
    own = _covered(mentions, firm.outcome)
    return not _is_doubted(text, firm.last, firm.outcome, own, rivals | _misspelt_rivals(text, firm.outcome, labels))


def _unless_doubtful(text: Text, guess: _Guess | None, labels: list[_Label]) -> Read | None:
    if guess is None or guess.outcome == "unscored":
        return guess and guess.read
    rivals = _misspelt_rivals(text, guess.outcome, labels)
    is_doubted = _is_doubted(text, guess.last, guess.outcome, set(), {rival for rival in rivals if rival > guess.last})
    return COULD_BE_EITHER if is_doubted else guess.read


def _is_doubted(text: Text, last: int, outcome: str, own: set[int], rivals: set[int]) -> bool:
    """Whether the first sentence behind a label might speak against it, or the label is crossed out or asked for."""
    gap = text.gap(last + 1).strip()
    if "?" in gap or gap == "<" or _CROSSED_OUT.search(text.raw):
        return True
    if last == text.final:
        return False
    span = range(last + 1, text.sentence_end(last + 1) + 1)
    if outcome == "tie":
        return is_failure(text, span)
    heard = stance(text, span, own, rivals)
    return heard.is_doubtful or not rivals & set(span) <= heard.put_behind


def _misspelt_rivals(text: Text, outcome: str, labels: list[_Label]) -> set[int]:
    """The words that could be a misspelt label of another outcome, and are nearer to it than to the outcome's own."""
    own = next(label.key for label in labels if label.outcome == outcome)
    rivals = [label.key for label in labels if label.outcome not in {outcome, "tie"} and len(label.key) >= LONG]
    keys = {word.key for word in text.words} - ORDINARY
    near = {
        key
        for key in keys
        for rival in rivals
        if 0 < _distance(key, rival) <= _allowed_errors(rival) and _distance(key, rival) < _distance(key, own)
    }
    return {index for index, word in enumerate(text.words) if word.key in near}


def _mentions(text: Text, labels: list[_Label]) -> Iterator[_Mention]:
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


def _kind(text: Text, opening: int, first: int, last: int) -> str:
    if text.is_glued(first) or _has_number_after(text, last):
        return "loose"
    if (first <= opening or text.is_led(first)) and text.closes(last):
        return "verdict"
    return "loose" if text.is_glued(last + 1) else "sentence"


def _has_number_after(text: Text, last: int) -> bool:
    """Whether the label goes on: "model 2" is not "model"."""
    return last < text.final and not text.breaks(last) and text.words[last + 1].key[0].isdigit()


def _kind_of_short(text: Text, opening: int, first: int, last: int) -> str:
    """The kind of a label of one or two letters; empty where it is the article."""
    if text.is_glued(first) or text.is_glued(last + 1):
        return "loose"
    following = text.words[last + 1].key if last < text.final else ""
    written = text.raw[text.words[first].start : text.words[last].end]
    previous = text.words[first - 1].key if first else ""
    is_closed = _closes_short(text, last)
    is_pointed = not written.islower() or bool(text.gap(first).strip())
    if first <= opening and is_closed and (first == 0 or is_pointed or previous in SLOTS):
        return "verdict"
    is_led = first > 0 and not _SENTENCE_ENDS & set(text.gap(first))
    is_slot = is_led and previous in SLOTS and (is_closed or not written.islower())
    is_answer = is_led and is_closed and is_pointed and _follows_a_verdict(text, first)
    is_subject = first <= opening and (first == 0 or is_pointed) and following in AFTER_A_CHOICE
    if is_subject and following in BECAUSE:
        return "verdict"
    if is_slot or is_answer or is_subject:
        return "sentence"
    is_article = written.lower() == "a" and following.isalpha() and not text.breaks(last)
    return "" if is_article and following not in AFTER_A_CHOICE | {"and", "or"} else "loose"


def _closes_short(text: Text, last: int) -> bool:
    """Whether a short label is followed by the end, a new line, a dash, or punctuation without a space before it."""
    gap = text.gap(last + 1)
    return last == text.final or not gap[0].isspace() or "\n" in gap or gap.lstrip()[:1] in _DASHES


def _follows_a_verdict(text: Text, first: int) -> bool:
    """Whether "answer:" or "the winner is" leads up to a word."""
    before = [word.key for word in text.words[max(first - 2, 0) : first]]
    return before[-1] in VERDICTS or (before[-1] in {"is", "was"} and before[0] in VERDICTS)


def _misspelt(text: Text, labels: list[_Label]) -> _Guess | None:
    """What the text's first words say if they misspell a label; None where they misspell none."""
    longest, opening = len(labels[0].key) + MOST_ERRORS, text.opening()
    starts = [at for at in range(1, opening) if any(label.key.startswith(text.words[at].key) for label in labels)]
    found: dict[Read, int] = {}
    for first in {0, *starts, opening}:
        for last, key in text.runs(first, longest):
            is_run_in = last < text.final and text.gap(last + 1) == ""
            if key not in ORDINARY and (text.breaks(last) or is_run_in):
                read = _nearest(key, _marks(text.words[first : last + 1]), last == text.final, labels)
                found |= {read: max(last, found.get(read, 0))} if read else {}
    if not found:
        return None
    return _Guess(*found.popitem()) if len(found) == 1 else _Guess(COULD_BE_EITHER, text.final)


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
