"""Removes preambles, outer quotes and a fence around a teacher's post."""

import re

LOOKALIKES = str.maketrans(
    {
        **dict.fromkeys("’‘‛ʼ′´＇", "'"),
        **dict.fromkeys("‐‑‒﹣－", "-"),
        **dict.fromkeys("\u00a0\u2007\u2009\u202f", " "),
        "：": ":",
    }
)
"""Look-alike characters, one for one, so that positions in the plain text are those in the original."""
_SPACES = re.compile(r"[ \t]+")
APOSTROPHE = "'"
_ASSENT = (
    r"(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|great|gladly|"
    rf"i(?:{APOSTROPHE}d| would) (?:be (?:happy|glad|delighted)|love) to(?: help| assist)?(?: with that| you)?)"
)
_HERE = (
    rf"here(?:{APOSTROPHE}s|\s+is|\s+are)\s+(?:an?|another|the|my|your|one|some|two|three|\d+)\s+(?:[^\s:]+ ){{0,8}}?"
)
_POSTS = r"posts?|captions?|tweets?|drafts?|copy|attempt"
_WORDS = r"ads?|texts?|versions?|messages?|options?|suggestions?"
"""Words for the post after an assent; without one they may be part of the post."""
_CHATTER = (
    rf"(?:{_HERE}(?:{_POSTS})|(?:{_ASSENT}[!.,]?\s+){{1,3}}{_HERE}(?:{_POSTS}|{_WORDS})|here is another option)\b(?!-)"
)
_PREAMBLE = re.compile(
    # A line of its own, which may contain a colon if it ends in one.
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


def unwrapped(text: str) -> tuple[str, str]:
    """The post without preambles, outer quotes and fence, in any order, and which of these were removed."""
    post = _SPACES.sub(" ", text.replace("\x00", "")).strip()
    found = set()
    while True:
        plain = post.translate(LOOKALIKES)
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
    """The fence around the whole post, if any; fences within the text stay."""
    fence = _FENCE.fullmatch(post)
    return fence if fence and fence[1] not in fence[2] else None


def _before_fence(plain: str) -> re.Match[str] | None:
    """The line that introduces a fence around all the rest."""
    introduction = _INTRODUCTION.match(plain)
    return introduction if introduction and _whole_fence(plain[introduction.end() :]) else None


def _is_quoted(post: str) -> bool:
    """Whether one pair of quotes is around the whole post, and none within it."""
    closing = _QUOTES.get(post[:1])
    return closing is not None and len(post) > 1 and post[-1] == closing and not {post[0], closing} & set(post[1:-1])
