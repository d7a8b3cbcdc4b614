"""Evaluates a task's criteria on the text of a post.

One function per kind of check; sentences, hashtags and openings are defined here only.
"""

import re
from functools import cache, lru_cache

import regex

from synthpost_dagster.errors import SpecError
from synthpost_dagster.tasks.checks import (
    Check,
    HashtagCheck,
    JudgeCheck,
    LengthCheck,
    NamesCheck,
    NumberCheck,
    OpeningCheck,
    PatternCheck,
    PhrasesCheck,
    QuestionCheck,
    QuoteCheck,
)
from synthpost_dagster.tasks.task import Brief, Task
from synthpost_dagster.text.normalize import EDGE, holds, letters, number_of, plain, word_count
from synthpost_dagster.text.sentences import sentences as sentences_of

RULES = 3
"""Raise it when a check changes, so that the rubric judges all games again."""
MAX_PATTERN_SECONDS = 1.0
"""For one pattern in one post. A slower pattern is stopped, and its criterion is not scored."""
MAX_PATTERN_TIMEOUTS = 5
"""After this many timeouts of a pattern the run stops."""
_QUESTION_MARKS = ("?", "؟", "？", "՞", "፧")
_MARKS = ("!", "！", *_QUESTION_MARKS)
_CLOSING = "\"'”’)」』"
_HASHTAG = regex.compile(rf"(?<!{EDGE})(?<![/&])[#＃](?=\w*[\w--[\d_]])\w+", regex.V1)
_NUMBER = regex.compile(rf"(?<!{EDGE})(?<!#)[$€£]?\d[\d,.]*", regex.V1)
_QUOTE = re.compile(r"(?<!\d)\"([^\"]+)\"|「([^「」]+)」|『([^『』]+)』")
_PATTERN_PART = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|.)|[^\\]", re.DOTALL)


def without_hashtags(post: str) -> str:
    """The post without its hashtags."""
    return str(_HASHTAG.sub("", post))


def sentences(post: str, language: str) -> list[str]:
    """The post's sentences without its hashtags, as a reader of the language counts them."""
    return sentences_of(without_hashtags(post), language)


def length_count(post: str, unit: str, language: str) -> int:
    """The number of sentences (without hashtags), words, characters or lines that are not empty."""
    if unit == "sentences":
        return len(sentences(post, language))
    if unit == "words":
        return word_count(plain(post))
    return len(plain(post)) if unit == "characters" else len([line for line in post.splitlines() if line.strip()])


def meets(check: Check, post: str, brief: Brief, task: Task) -> bool | None:
    """Whether the post meets the check; None where only a judge can tell, or where a pattern takes too long."""
    language = task.spec.language
    match check:
        case LengthCheck():
            length = task.length_of(brief)
            return length is None or length.holds(length_count(post, length.unit, language))
        case OpeningCheck(max_words=max_words):
            return _opening(sentences(post, language), max_words)
        case PhrasesCheck(any=phrases):
            return holds(post, phrases)
        case PatternCheck(regex=pattern):
            return _pattern(pattern).is_in(post)
        case HashtagCheck(min=least, max=most):
            return least <= len(_HASHTAG.findall(plain(post))) <= most
        case QuestionCheck(min=least):
            marks = (*_QUESTION_MARKS, ";") if language.lower().startswith("el") else _QUESTION_MARKS
            asked = [part for part in sentences(post, language) if part.rstrip(_CLOSING + "!").endswith(marks)]
            return len(asked) >= least
        case NumberCheck(min=least):
            return len(_NUMBER.findall(plain(post))) >= least
        case NamesCheck(of=names):
            return all(holds(post, (brief.value(name),)) for name in names)
        case QuoteCheck(min_words=least):
            return any(word_count("".join(quote)) >= least for quote in _QUOTE.findall(plain(post)))
        case JudgeCheck():
            return None


def criteria_met(post: str, brief: Brief, task: Task) -> dict[str, bool]:
    """Criterion id → met, for each criterion of the brief that can be checked on text.

    One whose pattern takes too long is left out. Raises SpecError where one has taken too long for several posts.
    """
    found = {criterion.id: meets(criterion.check, post, brief, task) for criterion in task.criteria_of(brief)}
    for name, pattern in _patterns(brief, task).items():
        if found[name] is None and _pattern(pattern).timeouts >= MAX_PATTERN_TIMEOUTS:
            raise SpecError(f"task.yaml: {_too_slow(name, pattern)} for {MAX_PATTERN_TIMEOUTS} posts; write it simpler")
    return {name: met for name, met in found.items() if met is not None}


def unscored_reason(met: dict[str, bool], brief: Brief, task: Task) -> str:
    """Why the criteria met by a post are not all that can be checked on text, or an empty string."""
    slow = [_too_slow(name, pattern) for name, pattern in _patterns(brief, task).items() if name not in met]
    return "; ".join(slow)


def _patterns(brief: Brief, task: Task) -> dict[str, str]:
    return {one.id: one.check.regex for one in task.criteria_of(brief) if isinstance(one.check, PatternCheck)}


def _too_slow(name: str, pattern: str) -> str:
    return f"criterion {name}: its pattern {pattern!r} takes more than {MAX_PATTERN_SECONDS:g} s"


def _opening(found: list[str], max_words: int) -> bool:
    first = next(iter(found), "")
    count = number_of(letters(plain(first)))
    return bool(count) and (first.rstrip(_CLOSING).endswith(_MARKS) or count <= max_words)


class _Pattern:
    """A task's regular expression, searched for in the normal form of a post, with a time limit."""

    def __init__(self, source: str) -> None:
        self.timeouts = 0
        try:
            self._compiled = regex.compile(_in_plain_form(source), regex.IGNORECASE)
        except regex.error:  # such as a range of characters with the same normal form
            self._compiled = regex.compile(source, regex.IGNORECASE)
        self.is_in = lru_cache(maxsize=1_024)(self._is_in)

    def _is_in(self, post: str) -> bool | None:
        try:
            return self._compiled.search(plain(post), timeout=MAX_PATTERN_SECONDS) is not None
        except TimeoutError:
            self.timeouts += 1
            return None


_pattern = cache(_Pattern)


def _in_plain_form(source: str) -> str:
    """The regular expression with its characters in the normal form of `plain`."""

    def part(match: re.Match[str]) -> str:
        code = match[1] or match[2] or match[3]
        character = chr(int(code, 16)) if code else match[0][-1]
        return match[0] if plain(character) == character else str(regex.escape(plain(character)))

    return _PATTERN_PART.sub(part, source)
