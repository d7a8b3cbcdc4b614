"""Whether an endpoint offers a model: the spellings of one name, and what a check of the endpoint found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_SPELLING = re.compile(r"^(?:models/)?(.*?)(?::latest|\.gguf)?$", re.IGNORECASE | re.DOTALL)


class Checked(NamedTuple):
    """What a check found, in one sentence, and whether a person should be warned of it."""

    text: str
    is_warning: bool = False


def spelling_of(model: str, offered: Sequence[str]) -> str | None:
    """The name under which a model is offered: its own, or one that differs in case, in `models/` before it, in
    `:latest` or `.gguf` after it, or in a vendor or folder that only one of the two names. None where there is none.
    """
    if model in offered:
        return model
    plain = {name: _plain(name) for name in sorted(offered)}
    wanted = _plain(model)
    same = [name for name, spelling in plain.items() if spelling == wanted]
    bare = [name for name, spelling in plain.items() if _is_without_vendor(wanted, spelling)]
    return next(iter(same + bare), None)


def _plain(name: str) -> str:
    match = _SPELLING.match(name)
    return (match[1] if match else name).casefold()


def _is_without_vendor(one: str, other: str) -> bool:
    """Whether one of two names is the last part of the other."""
    return other.endswith(f"/{one}") or one.endswith(f"/{other}")
