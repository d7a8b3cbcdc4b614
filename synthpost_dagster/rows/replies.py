"""From a teacher's raw reply to a post that may be kept, or the reason why not."""

from __future__ import annotations

import re
from typing import NamedTuple

_SPECIAL_TOKEN = re.compile(r"<\|[^|>]*\|>|</?s>|\[/?INST\]")
_SPACES = re.compile(r"[ \t]+")


class Cleaned(NamedTuple):
    """A post, and the reason for its rejection or an empty string."""

    post: str
    reason: str


def clean_reply(raw: str, finish_reason: str) -> Cleaned:
    """The post of a raw reply; rejected are empty and truncated replies and those with chat special tokens."""
    post = _SPACES.sub(" ", raw.replace("\x00", "")).strip()
    if not normalised(post):
        return Cleaned("", "empty")
    if finish_reason == "length":
        return Cleaned(post, "truncated")
    if _SPECIAL_TOKEN.search(post):
        return Cleaned(post, "special token")
    return Cleaned(post, "")


def normalised(post: str) -> str:
    """The post without case, punctuation and superfluous space: equal posts are duplicates."""
    return " ".join(re.findall(r"\w+", post.casefold()))
