"""Special tokens of the usual chat templates, in texts that must not contain any."""

import re
from collections.abc import Iterable

SPECIAL = (
    r"<[|｜][^|｜<>\n]{1,40}[|｜]>"
    r"|</?(?:s|bos|eos|pad|unk|think|thinking)>"
    r"|<(?:start|end)_of_turn>"
    r"|<</?SYS>>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
)
"""A pattern of all of them."""


def broken_up(text: str, known: Iterable[str] = ()) -> str:
    """The text with a space inside each special token, also those in `known`, so that a tokenizer reads it as text."""
    tokens = "|".join([*(re.escape(token) for token in known if token in text), SPECIAL])
    return re.sub(rf"(?={tokens})(.)", r"\1 ", text, flags=re.DOTALL)
