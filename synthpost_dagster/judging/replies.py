"""Reading a judge's reply: its verdict, its sentence, its preference by criterion. It never guesses."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from synthpost_dagster.llm.messages import Content, stored_content
from synthpost_dagster.llm.reasoning import begins_with_tag, holds_tag
from synthpost_dagster.llm.responses import PART, UNKNOWN

_NOT_SAID = {
    "length": "reply cut off",
    "content_filter": "reply held back by the endpoint's filter",
    "invalid": "reply against the schema",
    "refused": "refused by the endpoint",
    "refusal": "refused by the judge",
    "reasoning": "max_new_tokens spent on reasoning",
    "unanswered": "ended without an answer",
    UNKNOWN: "unknown finish reason",
    PART: "part of another kind",
}
"""By the finish reason, or by the part of it before the colon."""
READING = 2
"""Raise it when replies are read or shown differently, so that model judges' replies are read again."""
NO_VERDICT = "no verdict in the reply"
TWO_VERDICTS = "two verdicts in one reply"
OF_A_POST = "a verdict of a post in the reply"
NO_CHOICE = "a tie where one must be chosen"

_PICKS = {"a": "A", "b": "B", "tie": "tie"}
_EDGE = r"(?:[^\w?]|_)*"
_GAP = r"[\W_]+"
_NAME = rf"(?:(?:post|text|option|slot|response|answer){_GAP}|an? +(?=tie))?((?a:a|b|tie))"
_SAYS = rf"(?:verdict|answer|winner|choice)(?:{_GAP}is)?"
_VALUE = re.compile(_EDGE + _NAME + _EDGE, re.IGNORECASE)
_BARE = re.compile(rf"{_EDGE}{_NAME}(?:[^\w?:]|_)*", re.IGNORECASE)
"""A line with nothing but A, B or tie, and no heading."""
_SPOKEN = re.compile(rf"{_EDGE}(?:(?:the|my|final|overall){_GAP})*{_SAYS}{_GAP}{_NAME}{_EDGE}", re.IGNORECASE)
"""A line of prose that is nothing but a verdict."""
_MENTIONED = re.compile(rf"{_SAYS}[\W_]*{_NAME}(?![ \t-]*[^\W_])", re.IGNORECASE)
"""A verdict as JSON, prose or anything between writes it."""
_ESCAPED = re.compile(r"\\(?:u([0-9a-f]{4})|.)", re.IGNORECASE | re.DOTALL)
_FENCED = re.compile(r"```\w*\s(.*)```", re.DOTALL)
_BRACE = re.compile(r"[{}]")
_TRAILING_COMMA = re.compile(r",(?=\s*[}\]])")
_STRAIGHT = str.maketrans("“”„", '"""')
_CLOSING = re.compile(r"""[{,]\s*["'“]verdict["'”]\s*:\s*["'“]([^"'“”{}]*)["'”]\s*,?\s*}\Z""", re.IGNORECASE)
"""A verdict at the end of an object."""


class Said(NamedTuple):
    """A judge's raw reply to a game, why it ended (`schemas.FINISH_REASON`), and its tokens."""

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    failure: str = ""
    """Why the judge can give no verdict, where it says so itself."""


class Pick(NamedTuple):
    """What a reply says: `A`, `B`, `tie`, or nothing with the reason why; and, where it says so, why it chose."""

    pick: str
    reason: str
    why: str = ""
    criteria: dict[str, str] = {}  # noqa: RUF012 - never changed
    """Criterion id → `A`, `B` or `tie`."""


class _Object(list[tuple[str, Any]]):
    """A JSON object with every key it has, repeated ones too."""

    def values_of(self, name: str) -> list[Any]:
        return [value for key, value in self if key.lower() == name]


_DECODER = json.JSONDecoder(object_pairs_hook=_Object, strict=False)


def read_reply(said: Said, posts: tuple[str, ...] = (), may_tie: bool = True) -> Pick:
    """The last well-formed verdict in a reply: a JSON object whose `verdict` is A, B or tie, in any case and quotes;
    where there is no such object, the last line that says nothing but a verdict.

    Anything else is unscored, with the reason: both names or neither, a tie where there `may` be none, and a reply that
    was cut off, held back or refused. What stands in another object, in a string or in the judge's thoughts is no
    verdict. A verdict that stands in one of the `posts` too may be a quotation, so it counts only where it is the whole
    reply, and where it is not, it leaves other verdicts in doubt.
    """
    kind, _, name = said.finish_reason.partition(":")
    content = _content(said.text, posts)
    if kind == "length" and content.reasoning and not content.text.strip():
        kind = "reasoning"
    if kind in _NOT_SAID:
        return Pick("", f"{_NOT_SAID[kind]}: {name}" if name else _NOT_SAID[kind])
    if not content.text.strip():
        return Pick("", _NOT_SAID["unanswered"] if content.reasoning else "empty reply")
    read = _own_verdict(_answer(content.text), posts)
    return Pick("", NO_CHOICE) if read.pick == "tie" and not may_tie else read


def verdicts_in(post: str) -> set[str]:
    """The verdicts that a post holds, in whatever form and under whatever escapes."""
    unescaped = _ESCAPED.sub(lambda escape: chr(int(escape[1], 16)) if escape[1] else " ", post)
    return {_PICKS[match[1].lower()] for text in (post, unescaped) for match in _MENTIONED.finditer(text)}


def _content(raw: str, posts: tuple[str, ...]) -> Content:
    """A reply without the judge's reasoning.

    Where a post holds a tag too, one in the reply may be a quotation, so that it counts only if it begins the reply.
    """
    if any(map(holds_tag, posts)) and not begins_with_tag(raw):
        return Content(raw)
    return stored_content(raw)


def _answer(text: str) -> str:
    """A reply without a code fence around it."""
    fenced = _FENCED.fullmatch(text.strip())
    return (fenced[1] if fenced and "```" not in fenced[1] else text).strip()


def _own_verdict(text: str, posts: tuple[str, ...]) -> Pick:
    places = list(_objects(text))
    if _parsed(text) is not None or (not places and len(text.splitlines()) == 1):
        posts = ()
    written = [pick for start, end in places if (pick := _written(text[start:end]))]
    claims = [*_spoken(_outside(text, places), posts), *written]
    if not claims:
        return Pick("", NO_VERDICT)
    of_posts = {pick for post in posts for pick in verdicts_in(post)}
    return Pick("", OF_A_POST) if any(claim.pick in of_posts for claim in claims) else claims[-1]


def _objects(text: str) -> Iterator[tuple[int, int]]:
    """Where the JSON objects in a text begin and end that lie in no other, those that cannot be parsed too."""
    start = text.find("{")
    while start >= 0:
        end = _end_of_object(text, start)
        yield start, end
        start = text.find("{", end)


def _end_of_object(text: str, start: int) -> int:
    """Where it can be parsed, its end; else where as many braces are closed as were opened, or the end of the text."""
    with contextlib.suppress(ValueError, RecursionError):
        return _DECODER.raw_decode(text, start)[1]
    depth = 0
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.end()
    return len(text)


def _outside(text: str, places: list[tuple[int, int]]) -> str:
    """The text with a word in place of each object."""
    ends = [0, *(end for _, end in places)]
    starts = [*(start for start, _ in places), len(text)]
    return " object ".join(text[end:start] for end, start in zip(ends, starts, strict=True))


def _written(text: str) -> Pick | None:
    """What an object says; of one that cannot be parsed, the verdict that closes it."""
    found = _parsed(text) or _parsed(tidy := _TRAILING_COMMA.sub("", text)) or _parsed(tidy.translate(_STRAIGHT))
    if found is None:
        closing = _CLOSING.search(text) if text.count("{") == text.count("}") else None
        pick = _named(closing[1]) if closing else ""
        return Pick(pick, "") if pick else None
    picks = {_named(value) for value in found.values_of("verdict")}
    if len(picks) > 1:
        return Pick("", TWO_VERDICTS)
    pick = next(iter(picks), "")
    return Pick(pick, "", _sentence(found), _preferences(found)) if pick else None


def _parsed(text: str) -> _Object | None:
    with contextlib.suppress(ValueError, RecursionError):
        found = _DECODER.decode(text)
        return found if isinstance(found, _Object) else None
    return None


def _named(value: Any) -> str:
    """The slot that a value names, or `tie`; nothing where it is anything else."""
    match = _VALUE.fullmatch(value) if isinstance(value, str) else None
    return _PICKS[match[1].lower()] if match else ""


def _sentence(found: _Object) -> str:
    return " ".join(" ".join(str(value).split()) for value in found.values_of("why") if isinstance(value, str))


def _preferences(found: _Object) -> dict[str, str]:
    """`criteria` as the schema has it, a list of {id, preference}, or as one object; what is unreadable is left out."""
    said: dict[str, str] = {}
    for value in found.values_of("criteria"):
        if isinstance(value, _Object):
            entries = list(value)
        elif isinstance(value, list):
            entries = [
                (name, preference)
                for entry in value
                if isinstance(entry, _Object)
                for name, preference in zip(entry.values_of("id"), entry.values_of("preference"), strict=False)
                if isinstance(name, str)
            ]
        else:
            entries = []
        said |= {name: pick for name, preference in entries if (pick := _named(preference))}
    return said


def _spoken(prose: str, posts: tuple[str, ...]) -> list[Pick]:
    """The verdicts that lines say outright; the bare name of a slot is one in the last line alone."""
    quoted = {_words(line) for post in posts for line in post.splitlines()}
    *before, last = [line for line in prose.splitlines() if line.strip()] or [""]
    matches = [*map(_SPOKEN.fullmatch, before), _SPOKEN.fullmatch(last) or _BARE.fullmatch(last)]
    return [Pick(_PICKS[match[1].lower()], "") for match in matches if match and not _is_quoted(match[0], quoted)]


def _is_quoted(line: str, quoted: set[str]) -> bool:
    return line.lstrip().startswith(">") or _words(line) in quoted


def _words(line: str) -> str:
    return " ".join(re.findall(r"\w+", line.lower()))
