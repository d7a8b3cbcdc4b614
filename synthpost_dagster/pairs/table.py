"""The columns of a file of comparisons, and its raw labels as pair outcomes.

`pairs.files` reads files and `pairs.formats` recognises those of other tools; `pairs.labels`, `places` and
`preferences` read labels. `stages.pairs` judges posts that come without labels.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from synthpost_dagster.errors import SpecError
from synthpost_dagster.pairs import formats
from synthpost_dagster.pairs.files import JSON_SUFFIXES, Columns, columns_of, listed, read_columns, read_records
from synthpost_dagster.pairs.formats import Format
from synthpost_dagster.pairs.labels import Meaning, Read, read_label
from synthpost_dagster.pairs.mapping import MAPPED, NO_MAP, read_mapped
from synthpost_dagster.pairs.places import is_word_of_place, names_places, read_place
from synthpost_dagster.pairs.preferences import WEIGHTED, range_text, scale_of
from synthpost_dagster.schemas import OUTCOMES
from synthpost_dagster.statistics.games import pair_outcome

if TYPE_CHECKING:
    import pandas as pd

PAIR_ID, LABEL, OUTCOME = "pair_id", "label", "outcome"
PROMPT = "prompt"
POSTS = (PROMPT, "baseline", "candidate")
MIN_LEVELS, MAX_LEVELS = 2, 30
MAX_FACTORS = 20
MAX_UNREAD = 20
"""Unread labels in the terminal; figures.json has all."""
LABEL_SEPARATOR = " / "


class Order(NamedTuple):
    """The column with the post that was first in a game, and its value where that was the candidate's."""

    column: str
    candidate_first: str


@dataclass(frozen=True)
class PairsTable:
    """Games in the file's order, one row each, as text; a missing prompt or post is None. Rows that share a `pair_id`
    are games of one pair.
    """

    rows: pd.DataFrame
    """The file's columns, and `pair_id` (the row's number, from 1, where the file has none)."""
    factors: tuple[str, ...]
    """Columns by which outcomes can be split: 2 to 30 different values, and one value a pair; 20 at most."""
    ignored: tuple[str, ...]
    """Columns that are neither known nor factors."""
    label_column: str | None
    """None if the posts have to be judged."""
    source: Format

    @property
    def has_posts(self) -> bool:
        """Whether the file has prompts and both posts."""
        return set(POSTS) <= set(self.rows.columns)

    @property
    def labels(self) -> list[str]:
        """The raw label of each game. Raises ValueError where the table has none."""
        if self.label_column is None:
            raise ValueError("these pairs have no labels; judge their posts")
        return [str(label) for label in self.rows[self.label_column]]

    @property
    def is_candidate_first(self) -> tuple[bool, ...]:
        """Whether the candidate's post was first, one entry a row; empty where the labels name contestants."""
        return self.source.is_candidate_first


@dataclass(frozen=True)
class Repair:
    """A label that was not exact, its outcome and count, and how it was read or why not."""

    label: str
    outcome: str
    count: int
    how: str

    @property
    def argument(self) -> str:
        """The `--map` argument that gives an unread label its outcome; empty where the label was read."""
        if self.outcome != "unscored" or self.how == MAPPED:
            return ""
        return f"--map {shlex.quote(self.label + '=' + '|'.join(OUTCOMES))}"


class Contradictions(NamedTuple):
    """Pairs with several scored games, and those of them that were won in one game and lost in another."""

    pairs: int = 0
    contradicted: int = 0
    may_name_places: bool = False
    """Whether the labels are words for places, though no order of the posts is known."""


def read_pairs(path: Path, label_column: str | None = None, order: Order | None = None) -> PairsTable:
    """The pairs of a file. Labels are in `label` unless named; with an order they name places.

    Raises SpecError naming file, place and remedy where the file cannot be read, or has neither labels nor posts.
    """
    import pandas as pd

    source = _source(path, label_column)
    columns = source.columns
    found = _label_column(path, columns, label_column)
    if not next(iter(columns.values())):
        raise SpecError(f"{path}: has column names and no rows; add a row for every comparison")
    rows = pd.DataFrame(columns, dtype=object)
    rows[PAIR_ID] = _pair_ids(path, columns)
    known = {PAIR_ID, *POSTS, found, order.column if order else None}
    others = [name for name in columns if name not in known]
    factors = _factors(columns, [name for name in others if name not in {OUTCOME, LABEL}], list(rows[PAIR_ID]))
    ignored = tuple(name for name in others if name not in factors)
    if order is not None:
        source = source._replace(is_candidate_first=_order(path, columns, order))
    return PairsTable(rows, factors, ignored, found, source)


def missing(table: PairsTable) -> dict[str, str]:
    """Pair id → why it cannot be judged: the prompt or a post is missing."""
    return {
        row[PAIR_ID]: "prompt missing" if row[PROMPT] is None else "post missing"
        for row in (table.rows.to_dict("records") if table.has_posts else [])
        if any(row[name] is None for name in POSTS)
    }


def prompt_count(table: PairsTable) -> int | None:
    """The number of different prompts; None if the file has no prompts."""
    if PROMPT not in table.rows:
        return None
    prompts = table.rows.drop_duplicates(PAIR_ID)[PROMPT]
    return None if prompts.isna().all() else int(prompts.nunique(dropna=False))


def game_outcomes(
    table: PairsTable, meaning: Meaning | None, is_strict: bool = False, by_label: Mapping[str, str] = NO_MAP
) -> list[Read]:
    """The outcome of each game for the candidate, in the file's order; `by_label` has the outcomes given by `--map`.

    Raises SpecError where the labels that win and lose read alike, or name places without an order; ValueError where
    the table has no labels.
    """
    labels = table.labels
    if table.is_candidate_first:
        keys = list(zip(labels, table.is_candidate_first, strict=True))
        placed = {key: read_mapped(key[0], by_label, is_strict) or read_place(*key) for key in set(keys)}
        return [placed[key] for key in keys]
    if meaning is None:
        raise ValueError("labels that name contestants need a meaning")
    said = {
        label: (None if label in meaning else read_mapped(label, by_label, is_strict))
        or _read(label, meaning, is_strict)
        for label in set(labels)
    }
    return [said[label] for label in labels]


def outcomes(table: PairsTable, games: Sequence[Read]) -> pd.DataFrame:
    """One row a pair, in the file's order: `pair_id`, `outcome`, `label` (the games' raw labels), and the factors."""
    import pandas as pd

    found: dict[str, str] = {}
    raw: dict[str, str] = {}
    for pair_id, label, read in zip(table.rows[PAIR_ID], table.labels, games, strict=True):
        if pair_id in found:
            found[pair_id] = pair_outcome((found[pair_id], read.outcome))
            raw[pair_id] += LABEL_SEPARATOR + label
        else:
            found[pair_id], raw[pair_id] = read.outcome, label
    pairs = pd.DataFrame({PAIR_ID: list(found), OUTCOME: list(found.values()), LABEL: list(raw.values())})
    factors = table.rows.drop_duplicates(PAIR_ID)[list(table.factors)].reset_index(drop=True)
    return pd.concat([pairs, factors], axis=1)


def contradictions(table: PairsTable, games: Sequence[Read]) -> Contradictions:
    """The number of pairs whose games contradict each other."""
    scored: dict[str, list[str]] = {}
    if not table.rows[PAIR_ID].is_unique:
        for pair_id, read in zip(table.rows[PAIR_ID], games, strict=True):
            if read.outcome != "unscored":
                scored.setdefault(pair_id, []).append(read.outcome)
    several = [said for said in scored.values() if len(said) > 1]
    return Contradictions(len(several), sum({"win", "loss"} <= set(said) for said in several), _may_name_places(table))


def _may_name_places(table: PairsTable) -> bool:
    """Whether pairs have several games and their labels are words for places, though no order was given."""
    is_known = table.label_column is None or bool(table.is_candidate_first)
    return not (is_known or table.rows[PAIR_ID].is_unique) and all(map(is_word_of_place, set(table.labels)))


def repairs(table: PairsTable, games: Sequence[Read]) -> list[Repair]:
    """Every label that was not exact, unscored ones included, the most frequent first; weighted preferences together,
    by outcome.
    """
    times = Counter((label, read) for label, read in zip(table.labels, games, strict=True) if read.how)
    found = [
        Repair(label, read.outcome, count, read.how)
        for (label, read), count in times.most_common()
        if read.how != WEIGHTED
    ]
    for outcome in ("win", "loss", "tie"):
        weighted = {label: count for (label, read), count in times.items() if read == Read(outcome, WEIGHTED)}
        if weighted:
            found.append(Repair(range_text(weighted), outcome, sum(weighted.values()), WEIGHTED))
    return found


def unread_lines(repairs: Sequence[Repair]) -> tuple[str, ...]:
    """The most frequent labels that could not be read: count, reason and the `--map` argument to type."""
    unread = [repair for repair in repairs if repair.argument]
    lines = [f"{repair.count:,} x {repair.how}: {repair.argument}" for repair in unread[:MAX_UNREAD]]
    if len(unread) > MAX_UNREAD:
        lines.append(f"{len(unread) - MAX_UNREAD:,} more labels are in figures.json")
    return tuple(lines)


def raw_labels(table: PairsTable) -> dict[str, int]:
    """Each label with how often it occurs, the most frequent first."""
    return dict(Counter(table.labels).most_common())


def check_labels_name_contestants(path: Path, table: PairsTable) -> None:
    """Raises SpecError where pairs have several games and labels such as `A>B`, and no order of the posts is known."""
    if _may_name_places(table) and any(map(names_places, set(table.labels))):
        raise SpecError(
            f"{path}: the labels in {table.label_column!r} name places ({', '.join(list(raw_labels(table))[:3])}), and "
            "pairs have several games; name the column with the post that was first with --order-column, and its "
            f"value for the candidate with --candidate-first ({listed(table.rows.columns)})"
        )


def _source(path: Path, label_column: str | None) -> Format:
    if path.suffix.lower() not in JSON_SUFFIXES:
        return formats.recognised(path, read_columns(path, {PAIR_ID, *POSTS, label_column or LABEL}, POSTS))
    records = read_records(path)
    if formats.is_arena_hard(records[0]):
        return formats.arena_hard(path, records, POSTS)
    return formats.recognised(path, columns_of(records, POSTS))


def _order(path: Path, columns: Mapping[str, Sequence[str | None]], order: Order) -> tuple[bool, ...]:
    if order.column not in columns:
        raise SpecError(f"{path}: --order-column: no column {order.column!r} ({listed(columns)})")
    values = columns[order.column]
    levels = list(dict.fromkeys(values))
    if order.candidate_first not in levels:
        some = ", ".join(str(level) for level in levels[:3])
        raise SpecError(
            f"{path}: --candidate-first: the column {order.column!r} has no {order.candidate_first!r}, only {some}"
        )
    return tuple(value == order.candidate_first for value in values)


def _read(label: str, meaning: Meaning, is_strict: bool) -> Read:
    if label in meaning or is_strict:
        return read_label(label, meaning, is_strict)
    scale = scale_of(meaning)
    return (scale.read(label) if scale else None) or read_label(label, meaning)


def _label_column(path: Path, columns: Columns, asked: str | None) -> str | None:
    if asked is not None and asked not in columns:
        raise SpecError(f"{path}: no column {asked!r} for the labels; name one of the file's ({listed(columns)})")
    if asked is not None or LABEL in columns:
        return asked or LABEL
    if set(POSTS) <= columns.keys():
        return None
    raise SpecError(
        f"{path}: has neither a column {LABEL!r} with verdicts nor the columns {', '.join(POSTS)} with posts to judge; "
        f"add them, or name the column of verdicts with --label-column ({listed(columns)})"
    )


def _pair_ids(path: Path, columns: Columns) -> list[str]:
    if PAIR_ID not in columns:
        return [str(number) for number in range(1, len(next(iter(columns.values()))) + 1)]
    ids = [str(name).strip() for name in columns[PAIR_ID]]
    if "" in ids:
        raise SpecError(
            f"{path}: the column {PAIR_ID!r} is empty in row {ids.index('') + 1} below the column names; "
            "fill it, or remove the column where every row is a pair"
        )
    return ids


def _factors(columns: Columns, names: Sequence[str], pair_ids: Sequence[str]) -> tuple[str, ...]:
    """The first columns with a few levels and one level for each pair."""
    first = {pair_id: place for place, pair_id in reversed(list(enumerate(pair_ids)))}

    def is_factor(values: Sequence[str | None]) -> bool:
        levels = set(values)
        has_few = len(levels) <= MAX_LEVELS and len(levels - {None}) >= MIN_LEVELS
        return has_few and all(values[first[pair_id]] == value for pair_id, value in zip(pair_ids, values, strict=True))

    found = (name for name in names if not name.startswith("(column ") and is_factor(columns[name]))
    return tuple(islice(found, MAX_FACTORS))
