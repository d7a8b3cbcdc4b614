"""Evaluates a task's criteria on the text of a post.

One function per kind of check; sentences, hashtags and openings are defined here only.
"""

import re
from functools import cache, lru_cache

import regex

from synthpost_dagster.errors import SpecError
from synthpost_dagster.tasks.prompting import Brief
from synthpost_dagster.tasks.spec import (
    Check,
    HashtagCheck,
    JudgeOnlyCheck,
    NamesCheck,
    NumberCheck,
    OpeningCheck,
    PatternCheck,
    PhrasesCheck,
    QuestionCheck,
    QuoteCheck,
    SentencesCheck,
    TaskSpec,
)
from synthpost_dagster.text.normalize import EDGE, holds, letters, number_of, plain, word_count
from synthpost_dagster.text.sentences import sentences as sentences_of

RULES = 2
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


def meets(check: Check, post: str, brief: Brief, spec: TaskSpec) -> bool | None:
    """Whether the post meets the check; None where only a judge can tell, or where a pattern takes too long."""
    match check:
        case SentencesCheck():
            length = spec.length_of(brief.post_type)
            count = len(sentences(post, spec.language))
            return count >= length.min_sentences and (length.max_sentences is None or count <= length.max_sentences)
        case OpeningCheck(max_words=max_words):
            return _opening(sentences(post, spec.language), max_words)
        case PhrasesCheck(any=phrases):
            return holds(post, phrases)
        case PatternCheck(regex=pattern):
            return _pattern(pattern).is_in(post)
        case HashtagCheck(min=least, max=most):
            return least <= len(_HASHTAG.findall(plain(post))) <= most
        case QuestionCheck(min=least):
            marks = (*_QUESTION_MARKS, ";") if spec.language.lower().startswith("el") else _QUESTION_MARKS
            asked = [part for part in sentences(post, spec.language) if part.rstrip(_CLOSING + "!").endswith(marks)]
            return len(asked) >= least
        case NumberCheck(min=least):
            return len(_NUMBER.findall(plain(post))) >= least
        case NamesCheck(of=names):
            return all(holds(post, (getattr(brief, name).name,)) for name in names)
        case QuoteCheck(min_words=least):
            return any(word_count("".join(quote)) >= least for quote in _QUOTE.findall(plain(post)))
        case JudgeOnlyCheck():
            return None


def criteria_met(post: str, brief: Brief, spec: TaskSpec) -> dict[str, bool]:
    """Criterion id → met, for each universal and specific criterion that can be checked on text.

    One whose pattern takes too long is left out. Raises SpecError where one has taken too long for several posts.
    """
    found = {criterion.id: meets(criterion.check, post, brief, spec) for criterion in spec.criteria_of(brief.post_type)}
    for name, pattern in _patterns(brief, spec).items():
        if found[name] is None and _pattern(pattern).timeouts >= MAX_PATTERN_TIMEOUTS:
            raise SpecError(f"task.yaml: {_too_slow(name, pattern)} for {MAX_PATTERN_TIMEOUTS} posts; write it simpler")
    return {name: met for name, met in found.items() if met is not None}


def unscored_reason(met: dict[str, bool], brief: Brief, spec: TaskSpec) -> str:
    """Why the criteria met by a post are not all that can be checked on text, or an empty string."""
    slow = [_too_slow(name, pattern) for name, pattern in _patterns(brief, spec).items() if name not in met]
    return "; ".join(slow)


def _patterns(brief: Brief, spec: TaskSpec) -> dict[str, str]:
    return {one.id: one.check.regex for one in spec.criteria_of(brief.post_type) if isinstance(one.check, PatternCheck)}


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
