"""Lets standard output and error show any text, whatever their encoding: what it lacks is written as something near."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata

PLAIN = "synthpost-plain"
_NEAR = {
    "✓": "ok",
    "✗": "x",
    "▸": ">",
    "×": "x",
    "∞": "inf",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "–": "-",
    "—": "-",
    "─": "-",
    "━": "-",
    "│": "|",
    "→": "->",
    "≥": ">=",
    "≤": "<=",
    "·": "-",
}


def show_any_text() -> None:
    """From now on, no character ends this process because the terminal, file or pipe it is written to lacks it."""
    codecs.register_error(PLAIN, _nearest)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PLAIN)


def _nearest(error: UnicodeError) -> tuple[str, int]:
    """A handler for `codecs.register_error`: letters without their accents, signs in ASCII, else a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    if character in _NEAR:
        return _NEAR[character]
    parts = unicodedata.normalize("NFKD", character)
    return "".join(part for part in parts if part.isascii()) or "?"
