"""Evaluates a task's criteria on the text of a post.

One function a kind of check; what counts as a sentence, a hashtag or an opening is decided here and nowhere else.
"""

from __future__ import annotations

import re
from functools import lru_cache

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

RULES = 1
"""Raised when what a check looks at changes, so that the rubric judges again."""
_MARKS = ("!", "?", "؟", "？", "！")
_HASHTAG = re.compile(r"(?<![\w/&])#(?=\w*[^\W\d_])\w+")
_SENTENCE_END = re.compile(r"(?<=[.!?…؟？])[\"'”’)\]]*(?:\s+|$)|\n+")
_NUMBER = re.compile(r"(?<![\w#])[$€£]?\d[\d,.]*")
_QUOTE = re.compile(r"(?:(?<!\d)\"|“)([^\"“”]+)[\"”]")


def without_hashtags(post: str) -> str:
    """The post less its hashtags, which are no sentences."""
    return _HASHTAG.sub("", post)


def sentences(post: str) -> list[str]:
    """The post's sentences: runs that hold a letter or digit, ended by . ! ? … or a line break."""
    parts = _SENTENCE_END.split(without_hashtags(post))
    return [part.strip() for part in parts if re.search(r"\w", part)]


def meets(check: Check, post: str, brief: Brief, spec: TaskSpec) -> bool | None:
    """Whether the post meets the check; None where only a judge can tell."""
    match check:
        case SentencesCheck():
            length = spec.length_of(brief.post_type)
            count = len(sentences(post))
            return count >= length.min_sentences and (length.max_sentences is None or count <= length.max_sentences)
        case OpeningCheck(max_words=most):
            return _opening(post, most)
        case PhrasesCheck(any=phrases):
            return _phrases(phrases).search(_straight(post)) is not None
        case PatternCheck(regex=regex):
            return re.search(regex, _straight(post), re.IGNORECASE) is not None
        case HashtagCheck(min=least, max=most):
            return least <= len(_HASHTAG.findall(post)) <= most
        case QuestionCheck(min=least):
            asked = [part for part in sentences(post) if part.rstrip("\"'”’)!").endswith(("?", "؟", "？"))]
            return len(asked) >= least
        case NumberCheck(min=least):
            return len(_NUMBER.findall(post)) >= least
        case NamesCheck(of=names):
            return all(_named(getattr(brief, name).name, post) for name in names)
        case QuoteCheck(min_words=least):
            return any(len(quote.split()) >= least for quote in _QUOTE.findall(post))
        case JudgeOnlyCheck():
            return None


def criteria_met(post: str, brief: Brief, spec: TaskSpec) -> dict[str, bool]:
    """Criterion id → met, for each universal and specific criterion that can be checked on text."""
    found = {criterion.id: meets(criterion.check, post, brief, spec) for criterion in spec.criteria_of(brief.post_type)}
    return {name: met for name, met in found.items() if met is not None}


def _opening(post: str, max_words: int) -> bool:
    first = next(iter(sentences(post)), "")
    words = re.findall(r"\w+", first)
    return bool(words) and (first.rstrip("\"'”’)").endswith(_MARKS) or len(words) <= max_words)


@lru_cache(maxsize=256)
def _phrases(phrases: tuple[str, ...]) -> re.Pattern[str]:
    written = (r"\s+".join(map(re.escape, phrase.split())) for phrase in phrases)
    return re.compile(r"(?<!\w)(?:" + "|".join(written) + r")(?!\w)", re.IGNORECASE)


def _straight(post: str) -> str:
    """The post with straight apostrophes, as the checks are written."""
    return post.replace("’", "'")


def _named(name: str, post: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", post, re.IGNORECASE) is not None
