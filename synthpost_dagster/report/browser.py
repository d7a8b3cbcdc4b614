"""What the page's script gets to show posts side by side: each text once, and rows of indexes into them, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.cell import Cell
from synthpost_dagster.report.data import Match
from synthpost_dagster.report.rendering import printable
from synthpost_dagster.report.texts import CONTESTANT_NAMES, FACTOR_NAMES
from synthpost_dagster.report.views import in_order
from synthpost_dagster.schemas import OPPONENTS, OUTCOMES

if TYPE_CHECKING:
    from synthpost_dagster.report.data import Game, OuterPair, Pair, PairsData, ReportData

RESERVED = ("opponent", "outcome", "text")
"""Names in the address that are no filters."""


class Option(NamedTuple):
    """One value of a filter, in the address and on the page."""

    value: str
    label: str


class Filter(NamedTuple):
    """Something by which posts can be filtered; `start` is the value at first, or empty for all."""

    name: str
    title: str
    options: tuple[Option, ...]
    start: str = ""


class Side(NamedTuple):
    """The posts of one prompt, as they are shown; `values` are those of the filters, in their order."""

    title: tuple[str, ...]
    about: str
    label: str
    values: tuple[str, ...]
    posts: tuple[str, ...]
    matches: tuple[Match, ...]


class Browser(NamedTuple):
    """The browser of posts: what the template draws, and what the script gets."""

    filters: tuple[Filter, ...]
    candidate: str
    opponents: tuple[Option, ...]
    outcomes: tuple[str, ...]
    has_posts: bool
    content: str
    """JSON without a `<`."""


class _Strings:
    """Texts by number, each once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def put(self, text: str) -> int:
        return self.numbers.setdefault(printable(text), len(self.numbers))


def report_browser(data: ReportData, start: Cell | None) -> Browser:
    """The posts of all cells; those of `start` are shown first, or all where it is None."""
    filters = _report_filters(data, start)
    opponents = tuple(Option(name, CONTESTANT_NAMES[name]) for name in OPPONENTS)
    sides = [_report_side(pair) for pair in sorted(data.pairs, key=lambda pair: pair.cell.sweep_order)]
    cell, _, *brief = range(len(filters))
    content = _content(filters, brief, [*brief, cell], "tuned", opponents, sides)
    return Browser(filters, "tuned", opponents, OUTCOMES, True, content)


def pairs_browser(data: PairsData) -> Browser:
    """The pairs of a file."""
    factors = [name for name, _ in data.pairs[0].factors] if data.pairs else []
    filters = tuple(
        Filter(
            f"{name}_" if name in RESERVED else name,
            name,
            _options(dict(pair.factors)[name] for pair in data.pairs),
        )
        for name in factors
    )
    has_posts = any(pair.candidate or pair.baseline for pair in data.pairs)
    opponents = (Option("baseline", data.baseline),)
    sides = [_outer_side(pair, has_posts) for pair in data.pairs]
    every = list(range(len(filters)))
    content = _content(filters, every, every, data.candidate, opponents, sides)
    return Browser(filters, data.candidate, opponents, OUTCOMES, has_posts, content)


def _report_filters(data: ReportData, start: Cell | None) -> tuple[Filter, ...]:
    cells = sorted({pair.cell for pair in data.pairs}, key=lambda cell: cell.sweep_order)
    named = tuple(Option(cell.key, cell.label) for cell in cells)
    factors = ("company", "post_type", "tone", "length")
    return (
        Filter("cell", "Cell", named, start.key if start in cells and start else ""),
        *(
            Filter(name, FACTOR_NAMES[name], _options((getattr(pair, name) for pair in data.pairs), _order(data, name)))
            for name in factors
        ),
    )


def _order(data: ReportData, factor: str) -> Sequence[str]:
    """Companies by name, so that one can be found in a long list; other levels as the task orders them."""
    return sorted(data.levels.get(factor, ()), key=str.casefold) if factor == "company" else data.levels.get(factor, ())


def _options(values: Iterable[str], order: Sequence[str] = ()) -> tuple[Option, ...]:
    return tuple(Option(value, value) for value in map(printable, in_order(values, order)))


def _report_side(pair: Pair) -> Side:
    return Side(
        (pair.company, pair.product),
        pair.product_description,
        "",
        (pair.cell.key, pair.company, pair.post_type, pair.tone, pair.length),
        (pair.tuned, pair.base, pair.prompted),
        pair.matches,
    )


def _outer_side(pair: OuterPair, has_posts: bool) -> Side:
    return Side(
        (pair.pair_id,),
        pair.prompt,
        pair.label,
        tuple(level for _, level in pair.factors),
        (pair.candidate, pair.baseline) if has_posts else (),
        (Match("baseline", pair.pair_id, pair.outcome, pair.games),),
    )


def _content(
    filters: Sequence[Filter],
    brief: Sequence[int],
    shown: Sequence[int],
    candidate: str,
    opponents: Sequence[Option],
    sides: Sequence[Side],
) -> str:
    """`brief` and `shown` are the filters whose values belong to the brief, and those that a card shows."""
    strings = _Strings()
    criteria: dict[tuple[str, ...], int] = {}
    places = [{option.value: place for place, option in enumerate(one.options)} for one in filters]
    rows = [_row(side, strings, criteria, places) for side in sides]
    content = {
        "rows": rows,
        "brief": brief,
        "shown": shown,
        "columns": [candidate, *(option.label for option in opponents)],
        "outcomes": OUTCOMES,
        "criteria": [[name.replace("_", " ") for name in names] for names in criteria],
        "strings": list(strings.numbers),
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _row(
    side: Side, strings: _Strings, criteria: dict[tuple[str, ...], int], places: Sequence[dict[str, int]]
) -> list[Any]:
    """A row as the script reads it: title, about, label, values, posts, matches."""
    return [
        [strings.put(text) for text in side.title],
        strings.put(side.about),
        strings.put(side.label),
        [of_filter[printable(value)] for of_filter, value in zip(places, side.values, strict=True)],
        [strings.put(text) for text in side.posts],
        [
            [match.pair_id, OUTCOMES.index(match.outcome), [_game(game, strings, criteria) for game in match.games]]
            for match in side.matches
        ],
    ]


def _game(game: Game, strings: _Strings, criteria: dict[tuple[str, ...], int]) -> list[Any]:
    """Judge, whether the candidate came first, outcome, sentence, number of the criteria, a digit for each."""
    names = tuple(name for name, _ in game.criteria)
    return [
        strings.put(game.judge),
        int(game.is_candidate_first),
        OUTCOMES.index(game.outcome),
        strings.put(game.why),
        criteria.setdefault(names, len(criteria)),
        "".join(str(OUTCOMES.index(outcome)) for _, outcome in game.criteria),
    ]
