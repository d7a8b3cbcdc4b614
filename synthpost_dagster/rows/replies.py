"""From a teacher's raw reply to a post that may be kept, or the reason why not."""

from __future__ import annotations

import re
from typing import NamedTuple

_SPECIAL_TOKEN = re.compile(r"<\|[^|>]*\|>|</?s>|\[/?INST\]")
_UNANSWERED = {
    "content_filter": "held back by the endpoint's filter",
    "invalid": "against the schema",
    "refused": "refused by the endpoint",
}
_SPACES = re.compile(r"[ \t]+")


class Cleaned(NamedTuple):
    """A post, and the reason for its rejection or an empty string."""

    post: str
    reason: str


def clean_reply(raw: str, finish_reason: str) -> Cleaned:
    """The post of a raw reply; rejected are empty, truncated, refused replies and those with special tokens."""
    if finish_reason in _UNANSWERED:
        return Cleaned("", _UNANSWERED[finish_reason])
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
