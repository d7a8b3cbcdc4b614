"""What the page shows of the training data, counted from tables.

`stages.data_quality` reads the artifacts, `report.quality_views` and `report.variety` arrange the values for the
template, and `report.quality_figures` draws.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from synthpost_dagster.artifacts.manifest import GateEntry
from synthpost_dagster.rows.diversity import opening

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.cell import Cell
    from synthpost_dagster.tasks.task import Stratum

ALL = "all"
MAX_OPENINGS = 10
MAX_REASONS = 15
MAX_SHARED = 5
"""Pairs of posts that share a run of words, shown with their texts."""


class GateLine(NamedTuple):
    """The verdict of a gate on an artifact; `partition` is empty for assets without partitions."""

    asset: str
    partition: str
    gate: GateEntry

    @property
    def mark(self) -> str:
        """good, warning, or bad for a gate that blocks."""
        return "good" if self.gate.is_passed else "bad" if self.gate.is_blocking else "warning"


class Run(NamedTuple):
    """How varied the kept rows of one run of the teacher are (schema Diversity); `made_at` is in ISO format."""

    made_at: str
    teacher: str
    rows: int
    is_present: bool
    table: pd.DataFrame


class Coverage(NamedTuple):
    """Rows of each stratum of a subset as a table, and the number that an even spread asks for (`due`).

    The columns are the levels of the last factor in `factors`, the lines the combinations of the others.
    """

    rows: int
    factors: tuple[str, ...]
    lines: tuple[str, ...]
    columns: tuple[str, ...]
    found: Mapping[tuple[str, str], int]
    due: Mapping[tuple[str, str], int]


class Replies(NamedTuple):
    """The teacher's replies: how many were kept, and counts of first words, rejection reasons and removed parts, the
    largest first.
    """

    replies: int
    kept: int
    openings: tuple[tuple[str, int], ...]
    reasons: tuple[tuple[str, int], ...]
    cleaned: tuple[tuple[str, int], ...]


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
    about: str
    """Names of the item and its group."""
    words: int
    run: str
    tuned: str
    training: str


class Supervised(NamedTuple):
    """The tokens of a cell's training rows, and those that are learned."""

    cell: Cell
    seed: int
    rows: int
    tokens: int
    learned_tokens: int
    untaught: int
    """Rows that teach nothing, or not when to stop."""
    sample: str
    """The learned tokens of the first row, decoded; may be empty."""

    @property
    def share(self) -> float:
        """Share of the tokens that is learned; NaN without tokens."""
        return self.learned_tokens / self.tokens if self.tokens else math.nan


@dataclass(frozen=True)
class DataQuality:
    """Everything that the page shows of the data; there is no coverage without a subset."""

    gates: tuple[GateLine, ...] = ()
    subsets: Mapping[int, pd.DataFrame] = field(default_factory=dict)
    """Data size → variety of that subset (schema Diversity)."""
    runs: tuple[Run, ...] = ()
    """Compared at one number of rows, oldest first, the present one among them."""
    coverage: Coverage | None = None
    replies: Replies = field(default_factory=lambda: Replies(0, 0, (), (), ()))
    memorised: tuple[Memorised, ...] = ()
    shared: tuple[SharedRun, ...] = ()
    """The longest, each run once."""
    supervised: tuple[Supervised, ...] = ()


def rows_compared(diversity: pd.DataFrame) -> int:
    """The number of rows at which a run is compared: `equal_rows`, or all where there are fewer."""
    return int(min(diversity["equal_rows"].max(), diversity["rows"].max())) if len(diversity) else 0


def coverage_of(factors: Sequence[str], strata: Iterable[Stratum], size: int, due: Mapping[Stratum, int]) -> Coverage:
    """The strata of the rows of a subset of `size` rows; lines and columns in the order of `due`."""
    found = Counter(map(_place_of, strata))
    asked = {_place_of(stratum): count for stratum, count in due.items()}
    lines, columns = (tuple(dict.fromkeys(place[at] for place in [*asked, *found])) for at in (0, 1))
    return Coverage(size, tuple(factors), lines, columns, found, asked)


def _place_of(stratum: Stratum) -> tuple[str, str]:
    """Line and column of a stratum."""
    return (" × ".join(stratum[:-1]) or ALL, stratum[-1]) if stratum else (ALL, ALL)


def replies_of(rows: pd.DataFrame) -> Replies:
    """Openings, rejections and cleaning of a table of synthetic rows."""
    kept = rows[rows["status"] == "kept"]
    return Replies(
        len(rows),
        len(kept),
        _commonest(kept["post"].map(opening), MAX_OPENINGS),
        _commonest(rows.loc[rows["status"] != "kept", "reason"], MAX_REASONS),
        _commonest(rows.loc[rows["stripped"] != "", "stripped"], MAX_REASONS),
    )


def _commonest(values: pd.Series, most: int) -> tuple[tuple[str, int], ...]:
    counts = sorted(values.value_counts().items(), key=lambda entry: (-entry[1], str(entry[0])))
    return tuple((str(value), int(count)) for value, count in counts[:most])


def memorised_of(cell: Cell, seed: int, table: pd.DataFrame) -> Memorised:
    """The figures of a table that follows the schema Memorisation and has rows."""
    words, is_post = table["shared_words"], table["post_words"] > 0
    whole = int((is_post & (words >= table["post_words"])).sum())
    return Memorised(cell, seed, len(table), int(words.max()), float(words.median()), whole)


def longest_runs(
    cells: Iterable[tuple[Cell, pd.DataFrame, pd.DataFrame]], names: Sequence[str]
) -> tuple[SharedRun, ...]:
    """The longest runs over all cells, each run once.

    Each cell comes with its tables Memorisation and Predictions; `names` are the columns of group and item.
    """
    once: dict[str, SharedRun] = {}
    for cell, table, posts in cells:
        tuned = posts.set_index("prompt_id")
        for row in table[table["shared_words"] > 0].itertuples():
            own = tuned.loc[row.prompt_id]
            about = ": ".join(own[name] for name in names)
            shared = SharedRun(cell, about, int(row.shared_words), row.shared, own["post"], row.training_post)
            once.setdefault(shared.run, shared)
    return tuple(sorted(once.values(), key=lambda shared: -shared.words)[:MAX_SHARED])


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
