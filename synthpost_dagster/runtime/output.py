"""Lets standard output and error print any text: characters that their encoding lacks are replaced by similar ones."""

import codecs
import io
import sys
import unicodedata

PLAIN = "synthpost-plain"
_SIGNS = dict(zip("‘’“”–—─━│·▸×✗", "''\"\"----|->xx", strict=True))
_SIGNS |= {"✓": "ok", "∞": "inf", "→": "->", "≥": ">=", "≤": "<="}


def show_any_text() -> None:
    """Installs the replacement for standard output and error."""
    codecs.register_error(PLAIN, _similar)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PLAIN)


def _similar(error: UnicodeError) -> tuple[str, int]:
    """An error handler for codecs: letters lose their accents, signs become ASCII, others a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    parts = unicodedata.normalize("NFKD", character)
    return "".join(part for part in parts if part.isascii()) or "?"
