"""What the page shows of the data that was trained on, gathered, and the tables that it is counted from.

Reading of artifacts is in `stages.data_quality`, wording in `report.quality_views` and
`report.variety`, drawing in `report.quality_figures`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from synthpost_dagster.artifacts.manifest import GateEntry
from synthpost_dagster.rows.diversity import opening

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.cell import Cell

MAX_OPENINGS = 10
MAX_REASONS = 15
MAX_SHARED = 5
"""Pairs of posts that share a run of words, shown with their texts."""


class GateLine(NamedTuple):
    """The verdict of a gate on an artifact; `partition` is empty where there is none."""

    asset: str
    partition: str
    gate: GateEntry

    @property
    def mark(self) -> str:
        """good, warning, or bad for a gate that blocks."""
        return "good" if self.gate.is_passed else "bad" if self.gate.is_blocking else "warning"


class Run(NamedTuple):
    """How varied the rows of one run of the teacher are (schema Diversity); `made_at` is in ISO format."""

    made_at: str
    teacher: str
    rows: int
    """Kept ones."""
    is_present: bool
    table: pd.DataFrame


class Coverage(NamedTuple):
    """Rows of each stratum (post type, tone) of a subset, and how many are due."""

    rows: int
    post_types: tuple[str, ...]
    tones: tuple[str, ...]
    found: Mapping[tuple[str, str], int]
    due: Mapping[tuple[str, str], int]


class Replies(NamedTuple):
    """What became of the teacher's replies; the counts are in order, the largest first."""

    replies: int
    kept: int
    openings: tuple[tuple[str, int], ...]
    """The commonest first words of kept posts."""
    reasons: tuple[tuple[str, int], ...]
    """Why replies were rejected."""
    cleaned: tuple[tuple[str, int], ...] | None
    """What was taken off replies; None where that was not noted."""


class Memorised(NamedTuple):
    """Runs of words that the tuned posts of a cell share with the posts it was tuned on."""

    cell: Cell
    seed: int
    posts: int
    longest: int
    median: float
    whole: int
    """Posts that are contained in a training post."""


class SharedRun(NamedTuple):
    """A run of words, without case and punctuation, with the two posts that hold it."""

    cell: Cell
    product: str
    words: int
    run: str
    tuned: str
    training: str


class Supervised(NamedTuple):
    """What of a cell's training rows is learned."""

    cell: Cell
    seed: int
    rows: int
    tokens: int
    learned_tokens: int
    untaught: int
    """Rows that teach nothing, or not when to stop."""
    sample: str
    """What is learned of the first row, decoded; may be empty."""

    @property
    def share(self) -> float:
        """Of the tokens, those that are learned; NaN without tokens."""
        return self.learned_tokens / self.tokens if self.tokens else math.nan


@dataclass(frozen=True)
class DataQuality:
    """Everything that the page says of the data; what is empty or None was not measured."""

    gates: tuple[GateLine, ...] = ()
    subsets: Mapping[int, pd.DataFrame] = field(default_factory=dict)
    """Data size → variety of that subset (schema Diversity)."""
    runs: tuple[Run, ...] = ()
    """Compared at one number of rows, oldest first, the present one among them."""
    coverage: Coverage | None = None
    replies: Replies | None = None
    memorised: tuple[Memorised, ...] = ()
    shared: tuple[SharedRun, ...] = ()
    """The longest, each run once."""
    supervised: tuple[Supervised, ...] = ()


def rows_compared(diversity: pd.DataFrame) -> int:
    """The number of rows at which a run is compared: `equal_rows`, or all where there are fewer."""
    return int(min(diversity["equal_rows"].max(), diversity["rows"].max())) if len(diversity) else 0


def coverage_of(subset: pd.DataFrame, size: int, due: Mapping[tuple[str, str], int]) -> Coverage:
    """The strata of a subset of `size` rows; types and tones in the order of `due`."""
    found = {(str(kind), str(tone)): int(n) for (kind, tone), n in subset.groupby(["post_type", "tone"]).size().items()}
    types, tones = (tuple(dict.fromkeys(stratum[at] for stratum in [*due, *found])) for at in (0, 1))
    return Coverage(size, types, tones, found, due)


def replies_of(rows: pd.DataFrame) -> Replies:
    """Openings, rejections and cleaning of a table of synthetic rows."""
    kept = rows[rows["status"] == "kept"]
    stripped = rows.loc[rows["stripped"] != "", "stripped"] if "stripped" in rows else None
    return Replies(
        len(rows),
        len(kept),
        _commonest(kept["post"].map(opening), MAX_OPENINGS),
        _commonest(rows.loc[rows["status"] != "kept", "reason"], MAX_REASONS),
        None if stripped is None else _commonest(stripped, MAX_REASONS),
    )


def _commonest(values: pd.Series, most: int) -> tuple[tuple[str, int], ...]:
    counts = sorted(values.value_counts().items(), key=lambda entry: (-entry[1], str(entry[0])))
    return tuple((str(value), int(count)) for value, count in counts[:most])


def memorised_of(cell: Cell, seed: int, table: pd.DataFrame) -> Memorised:
    """The figures of a table that follows the schema Memorisation and has rows."""
    words, is_post = table["shared_words"], table["post_words"] > 0
    whole = int((is_post & (words >= table["post_words"])).sum())
    return Memorised(cell, seed, len(table), int(words.max()), float(words.median()), whole)


def shared_of(cell: Cell, table: pd.DataFrame, tuned: Mapping[str, str]) -> list[SharedRun]:
    """The longest runs of a table that follows Memorisation; `tuned` is prompt id → post."""
    sharing = table[table["shared_words"] > 0].sort_values("shared_words", ascending=False, kind="stable")
    return [
        SharedRun(cell, row.product, int(row.shared_words), row.shared, tuned.get(row.prompt_id, ""), row.training_post)
        for row in sharing.drop_duplicates("shared").head(MAX_SHARED).itertuples()
    ]


def longest_runs(found: list[SharedRun]) -> tuple[SharedRun, ...]:
    """The longest over all cells, each run once."""
    once: dict[str, SharedRun] = {}
    for one in sorted(found, key=lambda shared: -shared.words):
        once.setdefault(one.run, one)
    return tuple(once.values())[:MAX_SHARED]


def supervised_of(cell: Cell, seed: int, table: pd.DataFrame) -> Supervised:
    """The figures of a table that follows the schema Supervision and has rows."""
    untaught = (table["supervised_tokens"] == 0) | ~table["is_end_supervised"]
    return Supervised(
        cell,
        seed,
        len(table),
        int(table["tokens"].sum()),
        int(table["supervised_tokens"].sum()),
        int(untaught.sum()),
        next((str(text) for text in table["learned"] if text), ""),
    )
