"""Posts that imitate what only a judge or a chat template may write. The outcome never hangs on it; it is flagged."""

from __future__ import annotations

import re

_IMITATION = re.compile(
    r"""["']?verdict["']?\s*[:=]           # a verdict
    | <{3}|>{3}                            # the marks around a post
    | <\|[^|\n]{1,40}\|> | </?s> | \[/?INST\] | <</?SYS>> | <(?:start|end)_of_turn>   # special tokens
    | \b(?:pick|choose|vote\s+for|prefer)\s+(?:post\s+|option\s+|slot\s+)?[AB]\b
    | \b(?:post|option|slot)\s+[AB]\s+is\s+(?:the\s+)?better
    | \bignore\s+(?:all\s+|the\s+)?(?:previous|above|prior)\b""",
    re.IGNORECASE | re.VERBOSE,
)


def imitates(post: str) -> bool:
    """Whether a post holds a verdict, a mark, a special token or an order to the judge."""
    return _IMITATION.search(post) is not None
