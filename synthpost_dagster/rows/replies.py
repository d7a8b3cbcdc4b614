"""From a teacher's raw reply to a post that may be kept, or the reason why not."""

from __future__ import annotations

import re
from typing import NamedTuple

from synthpost_dagster.llm.bodies import PART
from synthpost_dagster.llm.finish import UNKNOWN
from synthpost_dagster.llm.messages import stored_content
from synthpost_dagster.text.normalize import normalised
from synthpost_dagster.text.special_tokens import SPECIAL

RULES = 3
"""Raised when the same replies would give other posts, so that rows are made again."""
NEAR_DUPLICATE = "near-duplicate"
"""Why a post is rejected that is nearly an earlier one."""
REFUSAL = "refusal"
ALL_REASONING = "max_new_tokens spent on reasoning"
NO_ANSWER = "ended without an answer"
_SPECIAL_TOKEN = re.compile(SPECIAL)
_UNANSWERED = {
    "content_filter": "held back by the endpoint's filter",
    "invalid": "against the schema",
    "refused": "refused by the endpoint",
    "reasoning": ALL_REASONING,
    "unanswered": NO_ANSWER,
}
_NAMED = {UNKNOWN: "unknown finish reason", PART: "part of another kind"}
"""Of finish reasons that have a name after a colon."""
_TWINS = str.maketrans(
    {
        **dict.fromkeys("’‘‛ʼ′´＇", "'"),
        **dict.fromkeys("‐‑‒﹣－", "-"),
        **dict.fromkeys("\u00a0\u2007\u2009\u202f", " "),
        "：": ":",
    }
)
"""Look-alikes, one character for one, so that what is found in the plain text stands at the same place in the other."""
_SPACES = re.compile(r"[ \t]+")
_APOSTROPHE = "'"
_ASSENT = (
    r"(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|great|gladly|"
    rf"i(?:{_APOSTROPHE}d| would) (?:be (?:happy|glad|delighted)|love) to(?: help| assist)?(?: with that| you)?)"
)
_HERE = (
    rf"here(?:{_APOSTROPHE}s|\s+is|\s+are)\s+(?:an?|another|the|my|your|one|some|two|three|\d+)\s+(?:[^\s:]+ ){{0,8}}?"
)
_POSTS = r"posts?|captions?|tweets?|drafts?|copy|attempt"
_WORDS = r"ads?|texts?|versions?|messages?|options?|suggestions?"
"""What stands for the post after an assent, and may be part of a post without one."""
_CHATTER = (
    rf"(?:{_HERE}(?:{_POSTS})|(?:{_ASSENT}[!.,]?\s+){{1,3}}{_HERE}(?:{_POSTS}|{_WORDS})|here is another option)\b(?!-)"
)
_PREAMBLE = re.compile(
    # A line of its own, which may hold a colon if it ends in one.
    rf"\**{_CHATTER}(?:[^\n]{{0,160}}:|[^\n:]{{0,160}}[.!])\**[ \t]*\n\s*"
    rf"|\**{_CHATTER}[^\n:]{{0,160}}:\**\s*"
    rf"|(?:{_ASSENT}[!.,:]*[ \t]*){{1,3}}(?:\n\s*|$)"
    r"|\**(?:(?:sales )?post|caption|tweet|copy):\**\s*",
    re.IGNORECASE,
)
"""“Here is a sales post for …:”, with or without “Sure!” before it, such a word on a line of its own, or “Caption:”."""
_INTRODUCTION = re.compile(
    rf"\**(?:(?:{_ASSENT}[!.,:]*\s+){{0,3}}(?:here|below|this is|(?:the|your|my|final) (?:{_POSTS}|{_WORDS}))\b"
    rf"[^\n]{{0,160}}[:.!]|(?:{_ASSENT}[!.,:]*\s*){{1,3}})\**\s*\n\s*(?=```|~~~)",
    re.IGNORECASE,
)
"""“Here it is:” on the line before a fence."""
_FENCE = re.compile(r"(```|~~~)(?:[\w+-]*[ \t]*\n)?(.*?)(?:\n?[ \t]*\1)?", re.DOTALL)
_QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»", "「": "」"}
_CANNOT = rf"(?:can{_APOSTROPHE}?t|cannot|can not|won{_APOSTROPHE}?t|(?:am |{_APOSTROPHE}m )?(?:unable|not able) to)"
_DO_IT = (
    r"(?:help(?! but\b| \w+ing\b)|do (?:that|this|so)|"
    r"(?:be )?(?:assist|writ|creat|provid|fulfil|comply|generat|produc|complet)\w*)\b"
)
_REFUSAL = re.compile(
    rf"(?:i(?:{_APOSTROPHE}m| am) (?:very sorry|sorry|afraid)|sorry|i apologi[sz]e|unfortunately)"
    rf"[,.!]?\s+(?:but\s+)?(?:(?:i|as an ai)\b.{{0,60}}?{_CANNOT}\s+{_DO_IT}|i {_CANNOT}[.!]?\s*$)"
    rf"|i\s?{_CANNOT}\s+{_DO_IT}"
    r"|i (?:must|have to) (?:respectfully )?decline\b"
    r"|as an ai(?: language)?(?: model| assistant)\b|as an ai,",
    re.IGNORECASE | re.DOTALL,
)
_BLANKS = (
    "insert|your|name|company|brand|product|link|url|website|date|time|city|location|price|discount|number|phone|email|"
    "address|customer|handle|hashtag|emoji|image|photo"
)
_PLACEHOLDER = re.compile(
    rf"\{{\{{[^{{}}]{{0,80}}\}}\}}|\{{[a-z][a-z_ ]{{1,30}}\}}|_{{3,}}|\(insert [^)\n]{{1,40}}\)"
    rf"|\[(?:[^\]\n]{{0,30}}\b)?(?:{_BLANKS})\b[^\]\n]{{0,30}}\](?!\()"
    r"|(?<!\A)\[(?=[^\]\n]{0,39}[^\W\d_])[^\]\n]{1,40}\](?!\()"
    rf"|<(?:{_BLANKS})\b[^>\n]{{0,80}}>",
    re.IGNORECASE,
)
"""[Name], {{company}}, {company}, <your link>, ___; not a link in Markdown, nor [Limited Edition] at the head."""


class Cleaned(NamedTuple):
    """A post, the reason for its rejection or an empty string, and what was stripped from it, or an empty string."""

    post: str
    reason: str
    stripped: str = ""


def clean_reply(raw: str, finish_reason: str) -> Cleaned:
    """The post of a raw reply, without reasoning, outer quotes, a fence around all of it, and preamble.

    Rejected are empty, truncated and refused replies, those with special tokens, those with placeholders, and those
    that ended in a way that is not known.
    """
    if finish_reason in _UNANSWERED:
        return Cleaned("", _UNANSWERED[finish_reason])
    said = stored_content(raw)
    if said.refusal:
        return Cleaned(said.refusal, REFUSAL)
    post, stripped = _strip(_SPACES.sub(" ", said.text.replace("\x00", "")).strip())
    if not normalised(post):
        return Cleaned("", _why_empty(bool(said.reasoning), finish_reason), stripped)
    if said.others:
        return Cleaned(post, f"{_NAMED[PART]}: {said.others[0]}", stripped)
    return Cleaned(post, _reason(post, finish_reason), stripped)


def _why_empty(has_reasoning: bool, finish_reason: str) -> str:
    kind, _, name = finish_reason.partition(":")
    if kind in _NAMED:
        return f"{_NAMED[kind]}: {name}"
    if has_reasoning:
        return ALL_REASONING if finish_reason == "length" else NO_ANSWER
    return "empty"


def _reason(post: str, finish_reason: str) -> str:
    kind, _, name = finish_reason.partition(":")
    if kind in _NAMED:
        return f"{_NAMED[kind]}: {name}"
    if finish_reason == "length":
        return "truncated"
    if _SPECIAL_TOKEN.search(post):
        return "special token"
    if finish_reason == REFUSAL or _REFUSAL.match(post.translate(_TWINS)):
        return REFUSAL
    return "placeholder" if _PLACEHOLDER.search(post) else ""


def _strip(post: str) -> tuple[str, str]:
    """The post without preambles, outer quotes and a fence, whichever is outside the other, and which there were."""
    found = set()
    while True:
        plain = post.translate(_TWINS)
        if preamble := _PREAMBLE.match(plain) or _before_fence(plain):
            post = post[preamble.end() :].strip()
            found.add("preamble")
        elif fence := _whole_fence(post):
            post = fence[2].strip()
            found.add("fence")
        elif _is_quoted(post):
            post = post[1:-1].strip()
            found.add("quotes")
        else:
            return post, " and ".join(sorted(found))


def _whole_fence(post: str) -> re.Match[str] | None:
    """The fence that the whole post stands in, if there is one; fences within the text stay."""
    fence = _FENCE.fullmatch(post)
    return fence if fence and fence[1] not in fence[2] else None


def _before_fence(plain: str) -> re.Match[str] | None:
    """The line that introduces a fence in which all the rest stands."""
    introduction = _INTRODUCTION.match(plain)
    return introduction if introduction and _whole_fence(plain[introduction.end() :]) else None


def _is_quoted(post: str) -> bool:
    """Whether one pair of quotes is around the whole post, and none within it."""
    closing = _QUOTES.get(post[:1])
    return closing is not None and len(post) > 1 and post[-1] == closing and not {post[0], closing} & set(post[1:-1])
