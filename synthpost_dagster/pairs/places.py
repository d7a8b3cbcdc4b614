"""Labels that name places (A and B, first and second) instead of contestants: `A>B`, `[[B>>A]]`, `model_b`, `2`."""

import re

from synthpost_dagster.judging.verdicts import game_outcome
from synthpost_dagster.pairs.labels import Meaning, Read, read_label

_COMPARED = re.compile(r"\W*\b(?P<left>[AB])\s*(?P<sign>>{1,3}|<{1,3}|={1,2})\s*(?P<right>[AB])\b\W*")
_FIRST = frozenset({"a", "1", "1.0", "first", "model_a", "model a", "assistant a", "response a", "left"})
_SECOND = frozenset({"b", "2", "2.0", "second", "model_b", "model b", "assistant b", "response b", "right"})
_TIE = frozenset({"tie", "c", "0", "0.0", "draw", "tie (bothbad)", "both bad", "both"})
_PLACES = Meaning("A", "B", "tie")
_PICKS = {"win": "A", "loss": "B", "tie": "tie"}


def names_places(label: str) -> bool:
    """Whether a label can only name places: it compares A with B."""
    return _COMPARED.fullmatch(label) is not None


def is_word_of_place(label: str) -> bool:
    """Whether a label may name a place: A, first, 2. It may also be the name of a contestant."""
    return names_places(label) or label.strip("[]()\"' ").casefold() in _FIRST | _SECOND


def read_place(label: str, is_candidate_first: bool) -> Read:
    """The outcome for the candidate of a label that names a place."""
    bare = label.strip("[]()\"' ").casefold()
    if compared := _COMPARED.fullmatch(label):
        left, sign, right = compared["left"], compared["sign"][0], compared["right"]
        pick = "" if left == right else "tie" if sign == "=" else left if sign == ">" else right
        return Read(game_outcome(pick, is_candidate_first), "" if pick else "names neither")
    for names, pick in ((_FIRST, "A"), (_SECOND, "B"), (_TIE, "tie")):
        if bare in names:
            return Read(game_outcome(pick, is_candidate_first), "")
    read = read_label(label, _PLACES)
    return Read(game_outcome(_PICKS.get(read.outcome, ""), is_candidate_first), read.how)
