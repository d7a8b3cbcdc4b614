"""The special tokens of the usual chat templates, as they stand in a text that may not hold any."""

from __future__ import annotations

SPECIAL = (
    r"<[|｜][^|｜<>\n]{1,40}[|｜]>"
    r"|</?(?:s|bos|eos|pad|unk|think|thinking)>"
    r"|<(?:start|end)_of_turn>"
    r"|<</?SYS>>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
)
"""A pattern for any of them."""
