"""What a message of the chat-completions protocol says: its text, its reasoning, its refusal, and parts of other kinds.

Content is a text or a list of parts; which names parts and fields have is each provider's own.
"""

from __future__ import annotations

import ast
from typing import Any, NamedTuple

from synthpost_dagster.llm.reasoning import split_reasoning

MAX_LITERAL = 1_000_000
"""A text longer than this is not looked at for parts."""
_TEXTS = frozenset({"", "text", "output_text", "input_text"})
_REASONING = frozenset(
    {"thinking", "thought", "reasoning", "reasoning_text", "reasoning.text", "reasoning.summary", "summary_text"}
    | {"reasoning_content", "redacted_thinking", "reasoning.encrypted"}
)
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "thoughts", "reasoning_details")
_INNER = ("text", "thinking", "reasoning", "reasoning_content", "summary", "content", "value")


class Content(NamedTuple):
    """What a message says; `others` names the kinds of its parts that are neither text nor reasoning nor refusal."""

    text: str
    reasoning: str = ""
    refusal: str = ""
    others: tuple[str, ...] = ()


def content_of(content: Any) -> Content:
    """The content of a message: a text, a part, or a list of parts. Raises TypeError where it is none of these."""
    if content is None or isinstance(content, str):
        return Content(content or "")
    if not isinstance(content, list | dict):
        raise TypeError("content is neither text nor parts")
    texts, reasoning, refusals, others = [], [], [], []
    for part in content if isinstance(content, list) else [content]:
        kind = _kind_of(part)
        if kind in _REASONING:
            reasoning.append(_inner_text(part))
        elif kind == "refusal":
            refusals.append(str(part.get("refusal") or _inner_text(part)))
        elif kind in _TEXTS:
            texts.append(_inner_text(part))
        else:
            others.append(kind)
    return Content("".join(texts), "\n".join(filter(None, reasoning)), "\n".join(refusals), tuple(others))


def message_of(message: dict[str, Any]) -> Content:
    """A whole message, with what stands in fields of their own. Raises TypeError where its content is odd."""
    said = content_of(message.get("content"))
    fields = (_inner_text(message[name]) for name in _REASONING_FIELDS if message.get(name))
    refusal = message.get("refusal")
    tools = tuple(name for name in ("tool_calls", "function_call", "audio") if message.get(name))
    return Content(
        said.text,
        said.reasoning or next(filter(None, fields), ""),
        said.refusal or (refusal if isinstance(refusal, str) else ""),
        said.others + tools,
    )


def has_more_than_text(message: dict[str, Any]) -> bool:
    """Whether a message says anything besides its role and a plain text."""
    return not isinstance(message.get("content"), str) or any(
        value for name, value in message.items() if name not in ("role", "content")
    )


def stored_content(text: str) -> Content:
    """What a stored reply says: reasoning that is marked in its text is split off.

    A text that is the Python form of a list of parts, as earlier versions stored it, is read as those parts.
    """
    parts = _parts_in(text)
    said = Content(text) if parts is None else content_of(parts)
    split = split_reasoning(said.text)
    return said._replace(text=split.text, reasoning="\n".join(filter(None, (said.reasoning, split.reasoning))))


def _parts_in(text: str) -> list[dict[str, Any]] | None:
    """The parts that a text is the Python form of; None where it is a text."""
    if len(text) > MAX_LITERAL or not (text.startswith("[{'") and text.endswith("}]")):
        return None
    try:
        parts = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    is_parts = isinstance(parts, list) and all(
        isinstance(part, dict) and all(isinstance(name, str) for name in part) and isinstance(part.get("type"), str)
        for part in parts
    )
    return parts if is_parts else None


def _kind_of(part: Any) -> str:
    if isinstance(part, str):
        return "text"
    if not isinstance(part, dict):
        return type(part).__name__
    if part.get("thought") is True:
        return "thought"
    kind = part.get("type")
    if kind is None and "text" not in part:
        return next(iter(part), "part")
    return str(kind or "").lower()


def _inner_text(value: Any) -> str:
    """The text in a part, however deep it lies."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(_inner_text, value))
    if isinstance(value, dict):
        return next((text for name in _INNER if (text := _inner_text(value.get(name)))), "")
    return ""
