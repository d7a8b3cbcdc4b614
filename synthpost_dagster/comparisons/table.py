"""Reads files of comparisons made elsewhere, and their raw labels into pair outcomes.

Everything stays the text that stands in the file: "NA" is a label like any other, "01" an id. A prompt or post that the
file lacks is None: a null in parquet, and an empty field in CSV, where nobody can say that a post is there and empty.
What a label says is read in `comparisons.labels`; judging posts that come without labels is not done here.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from synthpost_dagster.comparisons.labels import Meaning, Read, read_label
from synthpost_dagster.errors import SpecError
from synthpost_dagster.judging.verdicts import pair_outcome

if TYPE_CHECKING:
    import pandas as pd

PAIR_ID, LABEL, OUTCOME = "pair_id", "label", "outcome"
PROMPT = "prompt"
POSTS = (PROMPT, "baseline", "candidate")
FEWEST_LEVELS, MOST_LEVELS = 2, 30
LABEL_SEPARATOR = " / "

_CSV_SUFFIXES = (".csv", ".tsv", ".txt")
_PARQUET_SUFFIXES = (".parquet", ".pq")
_DELIMITERS = ",;\t"
_LONGEST_FIELD = 2**31 - 1


@dataclass(frozen=True)
class PairsTable:
    """Games in the file's order, one row each, all text but for missing prompts and posts (None); rows that share a
    `pair_id` are games of one pair.
    """

    rows: pd.DataFrame
    """The file's columns, and `pair_id` (the row's number, from 1, where the file has none)."""
    factors: tuple[str, ...]
    """Columns by which outcomes can be split: 2 to 30 different values, and one value a pair."""
    ignored: tuple[str, ...]
    """Columns that are neither known nor factors."""
    has_posts: bool
    """Whether prompt, baseline and candidate are all there."""
    label_column: str | None
    """None where the posts are still to be judged."""


@dataclass(frozen=True)
class Repair:
    """A label that was not exact, what it was read as, how often it occurs, and how it was read or why not."""

    label: str
    outcome: str
    count: int
    how: str


class _Sheet(NamedTuple):
    """A file as text: column names, and rows as long as these; a prompt or post that is missing is None."""

    columns: list[str]
    rows: Sequence[Sequence[str | None]]


def read_pairs(path: Path, label_column: str | None = None) -> PairsTable:
    """The pairs of a CSV (UTF-8; comma, semicolon or tab) or parquet file. Labels are in `label` unless named.

    Raises SpecError naming file, place and remedy where the file cannot be read, or has neither labels nor posts.
    """
    import pandas as pd

    sheet = _read_sheet(path, label_column or LABEL)
    _check_columns(path, sheet.columns)
    found = _label_column(path, sheet.columns, label_column)
    if not sheet.rows:
        raise SpecError(f"{path}: has column names and no rows; add a row for every comparison")
    named = [name or f"(column {number})" for number, name in enumerate(sheet.columns, start=1)]
    rows = pd.DataFrame(list(sheet.rows), columns=named, dtype=object)
    rows[PAIR_ID] = _pair_ids(path, rows)
    known = {PAIR_ID, *POSTS, found}
    others = [name for name in named if name not in known]
    usable = set(sheet.columns) - {OUTCOME, LABEL}
    factors = tuple(name for name in others if name in usable and _is_factor(rows, name))
    ignored = tuple(name for name in others if name not in factors)
    return PairsTable(rows, factors, ignored, _has_posts(sheet.columns), found)


def missing(table: PairsTable) -> dict[str, str]:
    """Pair id → why it cannot be played: it lacks its prompt, or one of the posts."""
    return {
        row[PAIR_ID]: "prompt missing" if row[PROMPT] is None else "post missing"
        for row in (table.rows.to_dict("records") if table.has_posts else [])
        if any(row[name] is None for name in POSTS)
    }


def prompt_count(table: PairsTable) -> int | None:
    """How many different prompts the pairs have; None where the file has no prompts, or lacks that of any pair."""
    if PROMPT not in table.rows:
        return None
    prompts = table.rows.drop_duplicates(PAIR_ID)[PROMPT]
    return None if prompts.isna().all() else int(prompts.nunique(dropna=False))


def outcomes(table: PairsTable, meaning: Meaning, is_strict: bool = False) -> pd.DataFrame:
    """One row a pair, in the file's order: `pair_id`, `outcome`, `label` (the games' raw labels), and the factors.

    Raises SpecError where the labels that win and lose read alike, ValueError where the table has no labels.
    """
    import pandas as pd

    labels = _labels(table)
    said = _said(labels, meaning, is_strict)
    games = pd.DataFrame(
        {PAIR_ID: table.rows[PAIR_ID], OUTCOME: [said[label].outcome for label in labels], LABEL: labels}
    )
    pairs = games.groupby(PAIR_ID, sort=False).agg({OUTCOME: pair_outcome, LABEL: LABEL_SEPARATOR.join})
    factors = table.rows.drop_duplicates(PAIR_ID).set_index(PAIR_ID)[list(table.factors)]
    return pairs.join(factors).reset_index()


def repairs(table: PairsTable, meaning: Meaning, is_strict: bool = False) -> list[Repair]:
    """Every label of a game that was not exact, unscored ones included, the most frequent first. Raises as above."""
    labels = _labels(table)
    said = _said(labels, meaning, is_strict)
    return [
        Repair(label, said[label].outcome, count, said[label].how)
        for label, count in Counter(labels).most_common()
        if said[label].how
    ]


def _labels(table: PairsTable) -> list[str]:
    if table.label_column is None:
        raise ValueError("these pairs have no labels; their posts are to be judged")
    return [str(label) for label in table.rows[table.label_column]]


def _said(labels: list[str], meaning: Meaning, is_strict: bool) -> dict[str, Read]:
    return {label: read_label(label, meaning, is_strict) for label in set(labels)}


def _read_sheet(path: Path, label_column: str) -> _Sheet:
    suffix = path.suffix.lower()
    if suffix not in _CSV_SUFFIXES + _PARQUET_SUFFIXES:
        raise SpecError(f"{path}: neither CSV nor parquet by its name; name it .csv or .parquet")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise SpecError(f"{path}: there is no such file; give the path of a CSV or parquet file of pairs") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); give a file that may be read") from None
    if suffix in _PARQUET_SUFFIXES:
        return _parquet(path, content)
    return _csv(path, _decoded(path, content), {PAIR_ID, *POSTS, label_column})


def _decoded(path: Path, content: bytes) -> str:
    if content.startswith(b"PAR1"):
        raise SpecError(f"{path}: a parquet file by its content; name it .parquet")
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{path}: not UTF-8 text at byte {error.start}, line {line}; save it as CSV UTF-8") from None


def _csv(path: Path, text: str, known: set[str]) -> _Sheet:
    if not text.strip():
        raise SpecError(f"{path}: is empty; a line of column names and a row for every comparison are expected")
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(io.StringIO(text.rstrip("\r\n"), newline=""), delimiter=_delimiter(text, known), strict=True)
    columns: list[str] = []
    rows: list[list[str | None]] = []
    try:
        for fields in reader:
            if not columns:
                columns = [name.strip() for name in fields]
            elif fields or len(columns) == 1:
                checked = _checked(path, fields or [""], columns, reader.line_num)
                rows.append([_field(name, text) for name, text in zip(columns, checked, strict=True)])
    except csv.Error as error:
        raise SpecError(
            f"{path}: not valid CSV at line {reader.line_num} ({error}); put a field that holds quotes in quotes, "
            'and double those inside ("")'
        ) from None
    return _Sheet(columns, rows)


def _field(column: str, text: str) -> str | None:
    return None if column in POSTS and not text else text


def _checked(path: Path, fields: list[str], columns: list[str], line: int) -> list[str]:
    if len(fields) != len(columns):
        raise SpecError(
            f"{path}: line {line} has {len(fields)} fields, the line of column names {len(columns)}; "
            "put a field that holds a separator or a line break in quotes"
        )
    return fields


def _delimiter(text: str, known: set[str]) -> str:
    """The separator under which the first line names most of the known columns, then most columns."""

    def fit(delimiter: str) -> tuple[int, int]:
        try:
            lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            names = [name.strip() for name in next(filter(None, lines))]
        except (csv.Error, StopIteration):
            return 0, 0
        return len(known & set(names)), len(names)

    return max(_DELIMITERS, key=fit)


def _parquet(path: Path, content: bytes) -> _Sheet:
    import pyarrow
    import pyarrow.parquet

    try:
        found = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content)).read()
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SpecError(f"{path}: not a parquet file that can be read ({reason}); write it again, or as CSV") from None
    names = ["" if name.startswith("__index_level_") else name.strip() for name in found.column_names]
    columns = [
        [_text(path, name, value) for value in column.to_pylist()]
        for name, column in zip(names, found.columns, strict=True)
    ]
    return _Sheet(names, list(zip(*columns, strict=True)))


def _text(path: Path, column: str, value: object) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None if column in POSTS else ""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise SpecError(f"{path}: the column {column!r} holds bytes that are no text; write it as strings") from None


def _check_columns(path: Path, columns: list[str]) -> None:
    twice = [name for name, count in Counter(columns).items() if count > 1 and name]
    if twice:
        raise SpecError(f"{path}: the column {twice[0]!r} stands twice; rename one ({_listed(columns)})")


def _label_column(path: Path, columns: list[str], asked: str | None) -> str | None:
    if asked is not None and asked not in columns:
        raise SpecError(f"{path}: there is no column {asked!r} for the labels; name one of those ({_listed(columns)})")
    if asked is not None or LABEL in columns:
        return asked or LABEL
    if _has_posts(columns):
        return None
    raise SpecError(
        f"{path}: has neither a column {LABEL!r} with verdicts nor the columns {', '.join(POSTS)} with posts to judge; "
        f"add them, or name the column of verdicts with --label-column ({_listed(columns)})"
    )


def _has_posts(columns: list[str]) -> bool:
    return set(POSTS) <= set(columns)


def _listed(columns: list[str]) -> str:
    return f"its columns: {', '.join(name or 'one without a name' for name in columns)}"


def _pair_ids(path: Path, rows: pd.DataFrame) -> list[str]:
    if PAIR_ID not in rows:
        return [str(number) for number in range(1, len(rows) + 1)]
    ids = [str(name).strip() for name in rows[PAIR_ID]]
    if "" in ids:
        raise SpecError(
            f"{path}: the column {PAIR_ID!r} is empty in row {ids.index('') + 1} below the column names; "
            "fill it, or remove the column where every row is a pair"
        )
    return ids


def _is_factor(rows: pd.DataFrame, column: str) -> bool:
    has_few_levels = FEWEST_LEVELS <= rows[column].nunique() <= MOST_LEVELS
    return has_few_levels and bool((rows.groupby(PAIR_ID, sort=False)[column].nunique() == 1).all())
