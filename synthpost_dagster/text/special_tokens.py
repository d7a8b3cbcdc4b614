"""The special tokens of the usual chat templates, as they stand in a text that may not hold any."""

from __future__ import annotations

import re
from collections.abc import Iterable

SPECIAL = (
    r"<[|｜][^|｜<>\n]{1,40}[|｜]>"
    r"|</?(?:s|bos|eos|pad|unk|think|thinking)>"
    r"|<(?:start|end)_of_turn>"
    r"|<</?SYS>>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
)
"""A pattern for any of them."""


def broken_up(text: str, known: Iterable[str] = ()) -> str:
    """The text with a space in each special token, those that a tokenizer is `known` to have too, so that it stays
    text.
    """
    tokens = "|".join([*(re.escape(token) for token in known if token in text), SPECIAL])
    return re.sub(rf"(?={tokens})(.)", r"\1 ", text, flags=re.DOTALL)
