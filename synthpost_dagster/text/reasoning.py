"""Splits a model's visible reasoning from its answer, marked by tags, channels or a closing tag alone.

Used for every text of a model. Reasoning in a separate field (`reasoning_content`) is read in `messages`.
"""

import re
from typing import NamedTuple

_NAMES = r"(?:seed:)?think|thinking|thoughts?|reasoning|reflection|scratchpad"
_OPENING = re.compile(
    rf"<(?P<tag>{_NAMES})(?:\s[^<>\n]{{0,60}})?>"
    r"|\[THINK\]|◁think▷|<\|(?:START_THINKING|begin_of_thought|thinking)\|>|<\|channel>thought\b|<unused94>thought\b",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    rf"</(?P<tag>{_NAMES})\s*>"
    r"|\[/THINK\]|◁/think▷|<\|(?:END_THINKING|end_of_thought|/thinking)\|>|<channel\|>|<unused95>",
    re.IGNORECASE,
)
_ANSWER = re.compile(
    r"<(answer|output|response|solution|final)>(?P<a>.*?)(?:</\1>)?"
    r"|<\|(?:START_RESPONSE|begin_of_solution)\|>(?P<b>.*?)(?:<\|(?:END_RESPONSE|end_of_solution)\|>)?",
    re.IGNORECASE | re.DOTALL,
)
"""An answer in a tag, as models write it after tagged reasoning."""
_CHANNELS = re.compile(r"(?:<\|start\|>assistant)?<\|channel\|>")
_MESSAGE = re.compile(
    r"<\|channel\|>(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>(.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
_BARE_CHANNELS = re.compile(r"analysis(?=[A-Z\s])(.*)assistantfinal(.*)", re.DOTALL)
"""The same channels, decoded without special tokens."""
_SENTENCE_ENDS = ".!?…。！？"


class Split(NamedTuple):
    """A model's answer and its reasoning, which may be empty."""

    text: str
    reasoning: str


def split_reasoning(text: str) -> Split:
    """The answer and the reasoning of a model's output; a text without reasoning comes back unchanged.

    Reasoning is the text between two tags if the first begins a line; before a closing tag without an opening one, if
    it begins or ends a line or follows a sentence; after an opening tag without a closing one, if it begins the text or
    ends a line; and in every channel but `final`. A tag that prose only mentions marks none.
    """
    if bare := _BARE_CHANNELS.fullmatch(text.strip()):
        return Split(bare[2].strip(), bare[1].strip())
    if _CHANNELS.match(text.lstrip()):
        return _split_channels(text)
    answer, reasoning = text, []
    while block := _next_block(answer):
        reasoning.append(answer[block.inner_start : block.inner_end].strip())
        answer = (answer[: block.start] + answer[block.end :]).strip()
    if not reasoning:
        return Split(text, "")
    wrapped = _ANSWER.fullmatch(answer)
    answer = (wrapped["a"] or wrapped["b"] or "").strip() if wrapped else answer
    return Split(answer, "\n".join(part for part in reasoning if part))


def holds_tag(text: str) -> bool:
    """Whether a text contains a reasoning tag, even if it only mentions one."""
    return any(pattern.search(text) for pattern in (_OPENING, _CLOSING, _CHANNELS))


def begins_with_tag(text: str) -> bool:
    """Whether a text begins with reasoning."""
    return any(pattern.match(text.lstrip()) for pattern in (_OPENING, _CHANNELS))


class _Block(NamedTuple):
    """Positions of reasoning with its tags in a text, and of the part between the tags."""

    start: int
    end: int
    inner_start: int
    inner_end: int


def _next_block(text: str) -> _Block | None:
    for opening in _OPENING.finditer(text):
        if not _begins_line(text, opening.start()):
            continue
        if closing := _closing_of(opening, text):
            return _Block(opening.start(), closing.end(), opening.end(), closing.start())
        if not text[: opening.start()].strip() or _ends_line(text, opening.end()):
            return _Block(opening.start(), len(text), opening.end(), len(text))
    for closing in _CLOSING.finditer(text):
        if _is_unopened(closing, text):
            return _Block(0, closing.end(), 0, closing.start())
    return None


def _closing_of(opening: re.Match[str], text: str) -> re.Match[str] | None:
    """The first closing tag of the same name after an opening one, else the first of any name."""
    closings = list(_CLOSING.finditer(text, opening.end()))
    tag = (opening["tag"] or "").lower()
    same = (closing for closing in closings if (closing["tag"] or "").lower() == tag)
    return next(same, closings[0] if closings else None)


def _is_unopened(closing: re.Match[str], text: str) -> bool:
    if _OPENING.search(text, 0, closing.start()):
        return False
    before = text[: closing.start()]
    return (
        _begins_line(text, closing.start())
        or _ends_line(text, closing.end())
        or before.rstrip(" ")[-1:] in tuple(_SENTENCE_ENDS)
    )


def _begins_line(text: str, start: int) -> bool:
    return not text[text.rfind("\n", 0, start) + 1 : start].strip()


def _ends_line(text: str, end: int) -> bool:
    stop = text.find("\n", end)
    return not text[end : len(text) if stop < 0 else stop].strip()


def _split_channels(text: str) -> Split:
    """The text of the channel `final`; that of other channels is reasoning."""
    messages = _MESSAGE.findall(text)
    final = [content.strip() for channel, content in messages if channel == "final"]
    others = [content.strip() for channel, content in messages if channel != "final"]
    return Split("\n".join(final), "\n".join(others))
