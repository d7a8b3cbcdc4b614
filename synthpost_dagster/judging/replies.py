"""Reading a judge's reply: its verdict, its sentence, its preference by criterion. Nothing is ever guessed at."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

_NOT_SAID = {
    "length": "reply cut off",
    "content_filter": "reply held back by the endpoint's filter",
    "invalid": "reply against the schema",
    "refused": "refused by the endpoint",
}
_PICKS = {"a": "A", "b": "B", "tie": "tie"}
_SPOKEN = re.compile(
    r"^[^\w\n]*(?:(?:(?:final|overall|my) +)?(?:verdict|answer|winner|choice)[^\w\n]+(?:is[^\w\n]+)?)?"
    r"(?:post +)?(a|b|tie)[^\w\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
"""A line of prose that is nothing but a verdict."""
TWO_VERDICTS = "two verdicts in one reply"


class Said(NamedTuple):
    """A judge's raw reply to a game, why it ended (`schemas.FINISH_REASONS`), and its tokens."""

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0


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


_DECODER = json.JSONDecoder(object_pairs_hook=_Object)


def read_reply(said: Said, posts: tuple[str, ...] = ()) -> Pick:
    """The last well-formed verdict in a reply: a JSON object whose `verdict` is A, B or tie, in any case and quotes;
    where there is no object with a verdict, the line that says nothing but a verdict.

    Anything else is unscored, with the reason: both names or neither, and a reply that was cut off, held back or
    refused. An object within another, and what stands in a string, is no verdict; nor is one that stands word for word
    in one of the `posts`, where the reply holds others: the judge quotes it.
    """
    raw = said.text
    if said.finish_reason in _NOT_SAID:
        return Pick("", _NOT_SAID[said.finish_reason])
    if not raw.strip():
        return Pick("", "empty reply")
    with_verdict = [(found, text) for found, text in _objects(raw) if found.values_of("verdict")]
    own = [found for found, text in with_verdict if not any(text in post for post in posts)]
    for found in reversed(own or [found for found, _ in with_verdict]):
        picks = {_PICKS.get(_plain(value)) for value in found.values_of("verdict")}
        if len(picks) > 1:
            return Pick("", TWO_VERDICTS)
        if pick := picks.pop():
            return Pick(pick, "", _sentence(found), _preferences(found))
    return Pick("", "no verdict in the reply") if with_verdict else _spoken(raw)


def _objects(raw: str) -> Iterator[tuple[_Object, str]]:
    """The JSON objects in a text that lie in no other, in order, as they are and as they are written."""
    place = raw.find("{")
    while place >= 0:
        try:
            found, end = _DECODER.raw_decode(raw, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            yield found, raw[place:end]
        place = raw.find("{", end)


def _plain(value: Any) -> str:
    return str(value).strip().strip("\"'`*“”‘’ .").lower().removeprefix("post ").strip()


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
                (str(name), preference)
                for entry in value
                if isinstance(entry, _Object)
                for name, preference in zip(entry.values_of("id"), entry.values_of("preference"), strict=False)
            ]
        else:
            entries = []
        said |= {name: pick for name, preference in entries if (pick := _PICKS.get(_plain(preference)))}
    return said


def _is_whole(line: str) -> bool:
    """Whether what is opened in a line is closed, so that it was not broken off."""
    return line.count("{") == line.count("}") and line.count("[") == line.count("]")


def _spoken(raw: str) -> Pick:
    said = {match[1].lower() for match in _SPOKEN.finditer(raw) if _is_whole(match[0])}
    if len(said) > 1:
        return Pick("", TWO_VERDICTS)
    return Pick(_PICKS[said.pop()], "") if said else Pick("", "no verdict in the reply")
