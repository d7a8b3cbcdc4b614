"""Reads a judge's reply: its verdict, its reason, its preference by criterion. An unclear reply has no verdict."""

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from synthpost_dagster.llm.messages import Content, stored_content
from synthpost_dagster.llm.responses import PART, UNKNOWN
from synthpost_dagster.text.reasoning import begins_with_tag, holds_tag

_NO_REPLY = {
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
"""Finish reason, or the part of it before the colon → reason why a game is unscored."""
READING = 2
"""Raise it when replies are read differently, so that all replies of model judges are read again."""
NO_VERDICT = "no verdict in the reply"
TWO_VERDICTS = "two verdicts in one reply"
OF_A_POST = "a verdict of a post in the reply"
NO_CHOICE = "a tie where one must be chosen"

_PICKS = {"a": "A", "b": "B", "tie": "tie"}
_EDGE = r"(?:[^\w?]|_)*"
_GAP = r"[\W_]+"
_NAME = rf"(?:(?:post|text|option|slot|response|answer){_GAP}|an? +(?=tie))?((?a:a|b|tie))"
_HEADING = rf"(?:verdict|answer|winner|choice)(?:{_GAP}is)?"
_VALUE = re.compile(_EDGE + _NAME + _EDGE, re.IGNORECASE)
_BARE = re.compile(rf"{_EDGE}{_NAME}(?:[^\w?:]|_)*", re.IGNORECASE)
"""A line with only A, B or tie."""
_STATED = re.compile(rf"{_EDGE}(?:(?:the|my|final|overall){_GAP})*{_HEADING}{_GAP}{_NAME}{_EDGE}", re.IGNORECASE)
"""A line of prose that holds only a verdict with a heading."""
_MENTIONED = re.compile(rf"{_HEADING}[\W_]*{_NAME}(?![ \t-]*[^\W_])", re.IGNORECASE)
"""A verdict in JSON, prose or a mixture."""
_ESCAPED = re.compile(r"\\(?:u([0-9a-f]{4})|.)", re.IGNORECASE | re.DOTALL)
_FENCED = re.compile(r"```\w*\s(.*)```", re.DOTALL)
_BRACE = re.compile(r"[{}]")
_TRAILING_COMMA = re.compile(r",(?=\s*[}\]])")
_STRAIGHT = str.maketrans("“”„", '"""')
_CLOSING = re.compile(r"""[{,]\s*["'“]verdict["'”]\s*:\s*["'“]([^"'“”{}]*)["'”]\s*,?\s*}\Z""", re.IGNORECASE)
"""A verdict at the end of a JSON object."""


class JudgeReply(NamedTuple):
    """A judge's raw reply to a game, its finish reason (`schemas.FINISH_REASON`), and its tokens."""

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    failure: str = ""
    """Why the judge itself gives no verdict, or empty."""


class Verdict(NamedTuple):
    """A reply's `pick`: `A`, `B` or `tie`, or empty with the `reason`; `why` is the judge's own sentence."""

    pick: str
    reason: str
    why: str = ""
    criteria: dict[str, str] = {}  # noqa: RUF012 - never modified
    """Criterion id → `A`, `B` or `tie`."""


class _Object(list[tuple[str, Any]]):
    """A JSON object with all its keys, repeated ones included."""

    def values_of(self, name: str) -> list[Any]:
        return [value for key, value in self if key.lower() == name]


_DECODER = json.JSONDecoder(object_pairs_hook=_Object, strict=False)


def read_reply(reply: JudgeReply, posts: tuple[str, ...] = (), may_tie: bool = True) -> Verdict:
    """The last well-formed verdict in a reply: a JSON object whose `verdict` is A, B or tie, in any case and quotes;
    without such an object, the last line that holds only a verdict.

    Any other reply is unscored, with the reason: both names or neither, a tie if `may_tie` is false, or a reply that
    was cut off, held back or refused. Text in another object, in a string or in the judge's reasoning is no verdict. A
    verdict that one of the `posts` contains may be a quotation. It counts only if it is the whole reply; otherwise the
    reply has no verdict.
    """
    kind, _, name = reply.finish_reason.partition(":")
    content = _content(reply.text, posts)
    if kind == "length" and content.reasoning and not content.text.strip():
        kind = "reasoning"
    if kind in _NO_REPLY:
        return Verdict("", f"{_NO_REPLY[kind]}: {name}" if name else _NO_REPLY[kind])
    if not content.text.strip():
        return Verdict("", _NO_REPLY["unanswered"] if content.reasoning else "empty reply")
    read = _own_verdict(_answer(content.text), posts)
    return Verdict("", NO_CHOICE) if read.pick == "tie" and not may_tie else read


def verdicts_in(post: str) -> set[str]:
    """The verdicts that a post contains, in any form, escaped or not."""
    unescaped = _ESCAPED.sub(lambda escape: chr(int(escape[1], 16)) if escape[1] else " ", post)
    return {_PICKS[match[1].lower()] for text in (post, unescaped) for match in _MENTIONED.finditer(text)}


def _content(raw: str, posts: tuple[str, ...]) -> Content:
    """A reply without the judge's reasoning.

    If a post contains a reasoning tag, a tag in the reply may be a quotation; it counts only at the reply's beginning.
    """
    if any(map(holds_tag, posts)) and not begins_with_tag(raw):
        return Content(raw)
    return stored_content(raw)


def _answer(text: str) -> str:
    """A reply without a code fence around it."""
    fenced = _FENCED.fullmatch(text.strip())
    return (fenced[1] if fenced and "```" not in fenced[1] else text).strip()


def _own_verdict(text: str, posts: tuple[str, ...]) -> Verdict:
    places = list(_objects(text))
    if _parsed(text) is not None or (not places and len(text.splitlines()) == 1):
        posts = ()
    written = [pick for start, end in places if (pick := _written(text[start:end]))]
    claims = [*_stated(_outside(text, places), posts), *written]
    if not claims:
        return Verdict("", NO_VERDICT)
    of_posts = {pick for post in posts for pick in verdicts_in(post)}
    return Verdict("", OF_A_POST) if any(claim.pick in of_posts for claim in claims) else claims[-1]


def _objects(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each outermost JSON object in a text, valid or not."""
    start = text.find("{")
    while start >= 0:
        end = _end_of_object(text, start)
        yield start, end
        start = text.find("{", end)


def _end_of_object(text: str, start: int) -> int:
    """The end of a valid object; else where its braces are balanced, or the end of the text."""
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


def _written(text: str) -> Verdict | None:
    """The verdict of an object; of an invalid one, the verdict at its end."""
    found = _parsed(text) or _parsed(tidy := _TRAILING_COMMA.sub("", text)) or _parsed(tidy.translate(_STRAIGHT))
    if found is None:
        closing = _CLOSING.search(text) if text.count("{") == text.count("}") else None
        pick = _named(closing[1]) if closing else ""
        return Verdict(pick, "") if pick else None
    picks = {_named(value) for value in found.values_of("verdict")}
    if len(picks) > 1:
        return Verdict("", TWO_VERDICTS)
    pick = next(iter(picks), "")
    return Verdict(pick, "", _sentence(found), _preferences(found)) if pick else None


def _parsed(text: str) -> _Object | None:
    with contextlib.suppress(ValueError, RecursionError):
        found = _DECODER.decode(text)
        return found if isinstance(found, _Object) else None
    return None


def _named(value: Any) -> str:
    """The `A`, `B` or `tie` that a value names; else an empty string."""
    match = _VALUE.fullmatch(value) if isinstance(value, str) else None
    return _PICKS[match[1].lower()] if match else ""


def _sentence(found: _Object) -> str:
    return " ".join(" ".join(str(value).split()) for value in found.values_of("why") if isinstance(value, str))


def _preferences(found: _Object) -> dict[str, str]:
    """`criteria` as a list of {id, preference}, as in the schema, or as one object; unreadable entries are left out."""
    read: dict[str, str] = {}
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
        read |= {name: pick for name, preference in entries if (pick := _named(preference))}
    return read


def _stated(prose: str, posts: tuple[str, ...]) -> list[Verdict]:
    """The verdicts in lines of prose; a bare A, B or tie counts in the last line only."""
    quoted = {_words(line) for post in posts for line in post.splitlines()}
    *before, last = [line for line in prose.splitlines() if line.strip()] or [""]
    matches = [*map(_STATED.fullmatch, before), _STATED.fullmatch(last) or _BARE.fullmatch(last)]
    return [Verdict(_PICKS[match[1].lower()], "") for match in matches if match and not _is_quoted(match[0], quoted)]


def _is_quoted(line: str, quoted: set[str]) -> bool:
    return line.lstrip().startswith(">") or _words(line) in quoted


def _words(line: str) -> str:
    return " ".join(re.findall(r"\w+", line.lower()))
