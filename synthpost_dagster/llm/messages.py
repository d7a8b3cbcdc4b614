"""The content of a chat-completions message: text, reasoning, refusal and parts of other kinds."""

from typing import Any, NamedTuple

from synthpost_dagster.text.reasoning import split_reasoning

_TEXTS = frozenset({"", "text", "output_text", "input_text"})
_REASONING = frozenset(
    {"thinking", "thought", "reasoning", "reasoning_text", "reasoning.text", "reasoning.summary", "summary_text"}
    | {"reasoning_content", "redacted_thinking", "reasoning.encrypted"}
)
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "thoughts", "reasoning_details")
_INNER = ("text", "thinking", "reasoning", "reasoning_content", "summary", "content", "value")


class Content(NamedTuple):
    """A message's content; `others` are the kinds of its other parts."""

    text: str
    reasoning: str = ""
    refusal: str = ""
    others: tuple[str, ...] = ()


def content_of(content: Any) -> Content:
    """Reads content that is a text, a part or a list of parts; raises TypeError for anything else."""
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
    """Reads a message, including the fields beside its content. Raises TypeError as `content_of` does."""
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
    """Whether a message contains anything besides its role and a plain text."""
    return not isinstance(message.get("content"), str) or any(
        value for name, value in message.items() if name not in ("role", "content")
    )


def stored_content(text: str) -> Content:
    """Reads a stored reply: splits off reasoning that is marked in its text."""
    return Content(*split_reasoning(text))


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
    """The first text in a nested part."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(_inner_text, value))
    if isinstance(value, dict):
        return next((text for name in _INNER if (text := _inner_text(value.get(name)))), "")
    return ""
