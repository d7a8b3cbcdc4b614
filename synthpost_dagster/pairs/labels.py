"""Reads a judge's raw label: which of the given labels it is, or why it is none of them.

In this order: the label itself; the label in other quotes, case, spaces or punctuation; the label at the start of the
text, before an explanation; the label at the end, after "winner:"; one or two misspelt letters at the start. Text
around a label is not interpreted. `pairs.mapping` gives other labels their outcome.
"""

import re
import string
from functools import lru_cache
from typing import NamedTuple

from synthpost_dagster.errors import SpecError
from synthpost_dagster.text.normalize import plain

MAX_ERRORS = 2
MAX_SHORT = 2
"""Labels of at most this many letters are also words (a, no): punctuation or a new line must follow them."""
MIN_MISSPELT = 4
"""Shorter labels are too near to other words to be recognised when misspelt."""
MIN_LONG = 6
"""Labels of at least this many letters may have two errors, and an explanation behind the misspelt label."""

_WRAPPING = string.whitespace + "\"'`´*_„«»‹›「」『』()[]{}.,;:!?…。，：！？"
_WHOLE_NUMBER = re.compile(r"[-+]?\d+\.0+")
"""As a table writes the label 1 after it converts the column to numbers."""
_JOINER = r"[\s_\-]*+"
_FROM_A_DIGIT = re.compile(r"\d.*")
_WORD = re.compile(r"[^\W_]+")
_CLOSING_TAG = re.compile(r"</\w+>")
_CHUNK = re.compile(r"[^\W_]+(?:(?:[ \t]+|[-_]+)[^\W_]+)*+")
_HUMP = re.compile(r"(?<=[^\W\d_])(?=[A-Z][a-z])")
_NOUN = (
    r"(?:post|option|response|text|version|candidate|model|ad|output|answer|choice|verdict|winner|decision|label|"
    r"result|preference|pick|judge?ment)"
)
_LEAD = rf"(?:(?:{_NOUN}|the|my|final|overall|i|better|best|is|was|boxed|prefer|preferred|choose|chosen|select)[\W_]+)"
"""A word that may precede the label at the start of a text: "The winner is"."""
_STATED = r"\b(?:verdict|winner|answer|choice|decision|label|preference|judge?ment)[\"'*\s]*+[:=][\"'*\s(\[{<]*+"
_EXPLAINS = r"(?:because|since)\b"
_RUN_IN = rf"(?:(?-i:(?=[A-Z][a-z]))|{_EXPLAINS}|(?:the|this|it)\b)"
_GLUE = r"(?:'[^\W_]|[ \t]*+[_\-][^\W_]|[.,/:]\d|[ \t]*+\+\d)"
_BEHIND = rf"(?=\W*+$|[^\S\n]*+\n|(?!{_GLUE})[ \t]*+[^\w\s]|\s++{_EXPLAINS})"
_BEHIND_LONG = rf"(?:{_BEHIND}|(?={_RUN_IN})|(?=\s++(?-i:[A-Z][a-z])))"
_DOUBT = re.compile(
    r"[^\w]*+(?:(?:it|is|was|has|many|which|a|an|the|clearly)\s+)*"
    r"(?:not|\d+|n/a|no\W*$|or|and|but|however|maybe|if|unless|draw|equal\w*|false|reject\w*|los(?:t|e|es|er|ing)|"
    r"error\w*|fail\w*|time(?:d\s+)?out\w*|http|endpoint|invalid|worse|worst|weak\w*|inferior|lacks?)\b",
    re.IGNORECASE,
)
"""An explanation that starts so may take the label back, or is an error message."""
_OTHER_SIDE = re.compile(
    r"\b(?:(?<!than the )other|opponent|opposite|worse|beaten|inferior|loses|lost)\b", re.IGNORECASE
)
"""Anywhere in an explanation, these may name the other side as the winner."""
_BEFORE_SHORT = re.compile(rf"[^\w\s]\s*$|\b{_NOUN}\s+$", re.IGNORECASE)
_CROSSED_OUT = re.compile("~~|[❌✗✘✖👎🚫⛔]")
_LEAD_BEHIND = re.compile(rf"[\W_]*+(?:{_EXPLAINS}[\W_]*+)?{_LEAD}*+", re.IGNORECASE)
_OTHER = re.compile(r"(?:(?:the|an)\s++)?others?\b", re.IGNORECASE)


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
MISSPELT = "misspelt"


class _Label(NamedTuple):
    """A label, its letters and digits (none: only read as it is), its digits and single letters, and its patterns."""

    raw: str
    outcome: str
    key: str
    marks: str
    mention: re.Pattern[str]
    """The label as a separate word, anywhere."""
    at_start: re.Pattern[str]
    at_end: re.Pattern[str]


class _Found(NamedTuple):
    """A label in a text: its outcome, what precedes it, and where it ends."""

    read: Read
    end: int


def read_label(raw: str, meaning: Meaning, is_strict: bool = False) -> Read:
    """What a raw label says. With `is_strict`, only a label that is exactly as given counts.

    Raises SpecError where the labels that win and lose cannot be told apart. Never raises on a text.
    """
    labels = _labels(meaning)
    for label in labels:
        if raw == label.raw:
            return Read(label.outcome, "")
    if is_strict:
        return NOT_EXACT
    text = _CLOSING_TAG.sub("\n", plain(raw.replace("\u2014", " - ")))
    if not bare(text):
        return NO_LABEL
    for label in labels:
        if bare(text) == bare(label.raw):
            return Read(label.outcome, TIDIED)
    readable = [label for label in labels if label.key]
    return _in_text(text, readable) if readable else NAMES_NEITHER


def bare(text: str) -> str:
    """A label without the quotes, markdown and punctuation around it, in small letters."""
    found = " ".join(plain(text).strip(_WRAPPING).casefold().split())
    return found.split(".")[0] if _WHOLE_NUMBER.fullmatch(found) else found


def _key(text: str) -> str:
    return "".join(_WORD.findall(text)).casefold()


@lru_cache(maxsize=16)
def _labels(meaning: Meaning) -> tuple[_Label, ...]:
    """The labels, longest first. Where one has symbols in it (+1, C++, 👍), both are only read as they are."""
    _check(meaning)
    keys = [_key(label) if _spelling(label) == _key(label) else "" for label in meaning]
    if not all(keys[:2]):
        keys = [""] * len(keys)
    labels = [
        _label(label, outcome, key) for label, outcome, key in zip(meaning, ("win", "loss", "tie"), keys, strict=True)
    ]
    return tuple(sorted(labels, key=lambda label: -len(label.key)))


def _label(raw: str, outcome: str, key: str) -> _Label:
    spelled = _JOINER.join(map(re.escape, key)) if key else "(?!)"
    is_short = len(key) <= MAX_SHORT
    # Of a short label only its own case is a mention, and before a small letter "A" is the article.
    named = f"(?-i:{re.escape(raw)})" if is_short else spelled
    article = r"(?!\s++(?-i:[a-z]))" if key == "a" else ""
    sign = r"(?<![-+])" if key.isdigit() else ""
    start = rf"(?P<lead>[\W_]*+{_LEAD}*){sign}(?P<label>{spelled}){_BEHIND if is_short else _BEHIND_LONG}"
    end = rf"{_STATED}(?:{_NOUN}\s++)?(?:{spelled})[\W_]*+$"
    mention = rf"(?<![^\W_])(?:{named})(?![^\W_]){article}"
    return _Label(raw, outcome, key, _marks(raw), *(re.compile(one, re.IGNORECASE) for one in (mention, start, end)))


def _spelling(label: str) -> str:
    """The bare label without spaces, hyphens and underscores between letters and digits."""
    return re.sub(r"(?<=[^\W_])(?:\s+|[-_])(?=[^\W_])", "", bare(label))


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


def _marks(text: str) -> str:
    """Single letters, and words from their first digit on: "gpt-4" is no misspelt "gpt-4o"."""
    words = [word for part in _WORD.findall(text) for word in re.split(r"(?<=[a-z])(?=[A-Z])", part)]
    marks = (mark for word in words for mark in ([word] if len(word) == 1 else _FROM_A_DIGIT.findall(word)))
    return "".join(marks).casefold()


def _in_text(text: str, labels: list[_Label]) -> Read:
    at_end = {label.outcome for label in labels if label.at_end.search(text)}
    exact = next((found for label in labels if (found := _at_start(text, label))), None)
    misspelt = _misspelt(text, labels)
    if exact and misspelt and exact.read.outcome != misspelt.read.outcome:
        return COULD_BE_EITHER
    found = exact or misspelt
    if found is None:
        named = {label.outcome for label in labels if len(label.key) > MAX_SHORT and label.mention.search(text)}
        if len(at_end) == 1:
            return Read(at_end.pop(), PREFIXED)
        return NAMES_BOTH if len(named) > 1 else COULD_BE_EITHER if named else NAMES_NEITHER
    if found.read.outcome == "unscored":
        return found.read
    if at_end - {found.read.outcome}:
        return NAMES_BOTH
    return _unless_doubted(text, found, labels)


def _at_start(text: str, label: _Label) -> _Found | None:
    match = label.at_start.match(text)
    if match is None:
        return None
    lead, written = match["lead"], match["label"]
    is_article = len(label.key) <= MAX_SHORT and _WORD.search(lead) and written.islower()
    if is_article and not _BEFORE_SHORT.search(lead):
        return None  # "The best is a" breaks off before its noun.
    how = EXPLAINED if _WORD.search(text, match.end()) else PREFIXED if _WORD.search(lead) else TIDIED
    return _Found(Read(label.outcome, how), match.end())


def _unless_doubted(text: str, found: _Found, labels: list[_Label]) -> Read:
    """The label at the start, unless the text behind it names the other side at once or may take it back."""
    word = _WORD.search(text, found.end)
    gap = text[found.end : word.start() if word else len(text)]
    others = [label for label in labels if label.outcome != found.read.outcome]
    lead = _LEAD_BEHIND.match(text, found.end)
    behind = text[lead.end() if lead else found.end :]
    if _OTHER.match(behind) or any(label.mention.match(behind) for label in others):
        return NAMES_BOTH
    is_asked = set(gap) & set("?<" if word is None else "?</|")
    if is_asked or _CROSSED_OUT.search(text) or _DOUBT.match(text, found.end) or _OTHER_SIDE.search(text, found.end):
        return COULD_BE_EITHER
    first = _WORD.match(behind)
    misspelt = _nearest(first[0], False, labels) if first else None
    if misspelt is not None and misspelt.outcome != found.read.outcome:
        return COULD_BE_EITHER
    is_clear = not gap or set(gap) & set(":\n\"'*")
    return found.read if is_clear or not any(label.mention.search(text, found.end) for label in others) else NAMES_BOTH


def _misspelt(text: str, labels: list[_Label]) -> _Found | None:
    """The label that the first words of a text misspell; None where they misspell none."""
    lead = _LEAD_BEHIND.match(text)
    starts = {0, lead.end() if lead else 0}
    longest = len(labels[0].key) + MAX_ERRORS
    found = [guess for start in starts for guess in _guesses(text, start, longest, labels)]
    outcomes = {guess.read for guess in found}
    if len(outcomes) > 1:
        return _Found(COULD_BE_EITHER, len(text))
    return max(found, key=lambda guess: guess.end) if found else None


def _guesses(text: str, start: int, longest: int, labels: list[_Label]) -> list[_Found]:
    """The readings of the words before the first punctuation, and of those before a sentence that is run in."""
    chunk = _CHUNK.search(text, start)
    if chunk is None or _WORD.search(text[start : chunk.start()]):
        return []
    ends = {chunk.end(), *(chunk.start() + hump.start() for hump in _HUMP.finditer(chunk[0][: 2 * longest]))}
    found = []
    for end in ends:
        written = text[chunk.start() : end]
        if len(_key(written)) <= longest:
            is_alone = _WORD.search(text, end) is None
            read = _nearest(written, is_alone, labels)
            found += [_Found(read, end)] if read else []
    return found


def _nearest(written: str, is_alone: bool, labels: list[_Label]) -> Read | None:
    """The label that words misspell; None where they are like none."""
    from rapidfuzz.distance import OSA

    key = _key(written)
    allowed = {label.key: sum(len(label.key) >= least for least in (MIN_MISSPELT, MIN_LONG)) for label in labels}
    errors = sorted((OSA.distance(key, label.key, score_cutoff=MAX_ERRORS), label.key, label) for label in labels)
    near = [(count, label) for count, _, label in errors if count <= allowed[label.key]]
    if not near or errors[0][0] == 0:
        return None
    count, label = near[0]
    if not is_alone and len(label.key) < MIN_LONG:
        return None
    has_rival = (len(errors) > 1 and errors[1][0] == count) or errors[0][0] < count
    is_other = abs(len(key) - len(label.key)) == 2 and (key.endswith(label.key) or label.key.endswith(key))
    starts_other = any(other is not label and other.mention.match(written) for other in labels)
    if has_rival or is_other or starts_other or _marks(written) != label.marks:
        return COULD_BE_EITHER
    return Read(label.outcome, MISSPELT)
