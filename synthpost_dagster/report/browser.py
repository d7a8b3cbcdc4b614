"""The browser of posts: posts side by side with their games, as JSON for the page's script.

The JSON holds each text once, and rows of indexes into these texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.cell import Cell
from synthpost_dagster.judging.verdicts import game_outcome
from synthpost_dagster.report.data import Game, Match, Side
from synthpost_dagster.report.rendering import printable
from synthpost_dagster.report.tables import Judged
from synthpost_dagster.report.texts import CONTESTANT_NAMES, heading_text
from synthpost_dagster.report.views import in_order
from synthpost_dagster.schemas import OPPONENTS, OUTCOMES
from synthpost_dagster.tasks.task import Brief, Task

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.report.data import PairsData, ReportData

RESERVED = ("opponent", "outcome", "text")
"""Names in the page's address that cannot be filters."""


class Option(NamedTuple):
    """One value of a filter, in the address and on the page."""

    value: str
    label: str


class Filter(NamedTuple):
    """A filter of the posts; `start` is its first value, or empty for all."""

    name: str
    title: str
    options: tuple[Option, ...]
    start: str = ""


class Browser(NamedTuple):
    """The browser of posts: values of the template, and the script's JSON (`content`, without a `<`)."""

    filters: tuple[Filter, ...]
    candidate: str
    opponents: tuple[Option, ...]
    has_posts: bool
    content: str


def cell_sides(
    one: Judged, tuned: pd.DataFrame, baselines: pd.DataFrame, briefs: Mapping[str, Brief], task: Task
) -> Iterator[Side]:
    """The posts of a cell in the order of their prompts' ids, which are hashes, so that items and levels are mixed.

    `tuned` and `baselines` follow the schema Predictions.
    """
    posts = baselines.set_index(["contestant", "prompt_id"])["post"].to_dict()
    games = games_of(one.verdicts)
    matches = {
        (row.prompt_id, row.opponent): Match(row.pair_id, row.outcome, games[row.pair_id])
        for row in one.outcomes.itertuples()
    }
    for row in tuned.sort_values("prompt_id").itertuples():
        yield Side(
            title=tuple(task.names_of(briefs[row.prompt_id].item).values()),
            about=task.about(briefs[row.prompt_id].item),
            values=(one.cell.key, *(getattr(row, name) for name in task.spec.breakdowns)),
            posts=(row.post, *(posts[opponent, row.prompt_id] for opponent in OPPONENTS)),
            matches=tuple(matches[row.prompt_id, opponent] for opponent in OPPONENTS),
        )


def games_of(verdicts: pd.DataFrame) -> dict[str, tuple[Game, ...]]:
    """Pair id → its games, from a table of schema Games."""
    found: dict[str, tuple[Game, ...]] = {}
    for row in verdicts.itertuples():
        picks = json.loads(row.criteria).items()
        criteria = tuple((name, game_outcome(pick, row.is_candidate_first)) for name, pick in picks)
        game = Game(row.judge, bool(row.is_candidate_first), row.outcome, row.why or row.reason, criteria)
        found[row.pair_id] = (*found.get(row.pair_id, ()), game)
    return found


def report_browser(data: ReportData, start: Cell | None) -> Browser:
    """The posts of all cells; those of `start` are shown first, or all where it is None."""
    cells = sorted({Cell.parse(side.values[0]) for side in data.pairs}, key=lambda cell: cell.sweep_order)
    keys = [cell.key for cell in cells]
    sides = sorted(data.pairs, key=lambda side: keys.index(side.values[0]))
    named = tuple(Option(cell.key, cell.label) for cell in cells)
    filters = [Filter("cell", "Cell", named, start.key if start in cells and start else "")]
    for place, (name, levels) in enumerate(data.levels.items(), start=1):
        # A long list of groups is easier to search by name; other levels are in the task's order.
        order = sorted(levels, key=str.casefold) if name == data.group_column else levels
        filters.append(Filter(name, heading_text(name), _options((side.values[place] for side in sides), order)))
    opponents = tuple(Option(name, CONTESTANT_NAMES[name]) for name in OPPONENTS)
    brief = [place for place, one in enumerate(filters) if one.name not in ("cell", data.group_column)]
    content = _content(filters, brief, [*brief, 0], "tuned", opponents, sides)
    return Browser(tuple(filters), "tuned", opponents, has_posts=True, content=content)


def pairs_browser(data: PairsData) -> Browser:
    """The pairs of a file."""
    filters = tuple(
        Filter(f"{name}_" if name in RESERVED else name, name, _options(side.values[place] for side in data.pairs))
        for place, name in enumerate(data.levels)
    )
    has_posts = any(any(side.posts) for side in data.pairs)
    opponents, every = (Option("baseline", data.baseline),), range(len(filters))
    sides = data.pairs if has_posts else [side._replace(posts=()) for side in data.pairs]
    content = _content(filters, list(every), list(every), data.candidate, opponents, sides)
    return Browser(filters, data.candidate, opponents, has_posts, content)


def _options(values: Iterable[str], order: Sequence[str] = ()) -> tuple[Option, ...]:
    return tuple(Option(value, value) for value in map(printable, in_order(values, order)))


def _content(
    filters: Sequence[Filter],
    brief: Sequence[int],
    shown: Sequence[int],
    candidate: str,
    opponents: Sequence[Option],
    sides: Sequence[Side],
) -> str:
    """`brief` and `shown` are the filters whose values belong to the brief, and those that a card shows."""
    script = _Script([{option.value: place for place, option in enumerate(one.options)} for one in filters])
    content = {
        "rows": [script.row(side) for side in sides],
        "brief": brief,
        "shown": shown,
        "columns": [candidate, *(option.label for option in opponents)],
        "outcomes": OUTCOMES,
        "criteria": [[name.replace("_", " ") for name in names] for names in script.criteria],
        "strings": list(script.strings),
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


class _Script:
    """The rows as the script reads them; each text and each tuple of criteria is stored once and has a number."""

    def __init__(self, places: Sequence[dict[str, int]]) -> None:
        self.places = places
        self.strings: dict[str, int] = {}
        self.criteria: dict[tuple[str, ...], int] = {}

    def put(self, *texts: str) -> list[int]:
        return [self.strings.setdefault(printable(text), len(self.strings)) for text in texts]

    def row(self, side: Side) -> list[Any]:
        """Title, about, label, values, posts, matches."""
        values = zip(self.places, side.values, strict=True)
        return [
            self.put(*side.title),
            *self.put(side.about, side.label),
            [of_filter[printable(value)] for of_filter, value in values],
            self.put(*side.posts),
            [
                [match.pair_id, OUTCOMES.index(match.outcome), [self.game(game) for game in match.games]]
                for match in side.matches
            ],
        ]

    def game(self, game: Game) -> list[Any]:
        """Judge, whether the candidate came first, outcome, sentence, number of the criteria, a digit for each."""
        names = tuple(name for name, _ in game.criteria)
        judge, why = self.put(game.judge, game.why)
        asked = self.criteria.setdefault(names, len(self.criteria))
        picks = "".join(str(OUTCOMES.index(outcome)) for _, outcome in game.criteria)
        return [judge, int(game.is_candidate_first), OUTCOMES.index(game.outcome), why, asked, picks]
