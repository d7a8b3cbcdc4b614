"""Reads files of comparisons made elsewhere into columns of text: CSV, parquet, JSON and JSON lines.

Values stay as the file has them: "NA" is a label, "01" an id. A missing prompt or post is None: a null in parquet or
JSON, and an empty field in CSV, which cannot distinguish an empty post from a missing one. `pairs.table` interprets the
columns; `pairs.formats` recognises the columns of other tools.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from synthpost_dagster.errors import SpecError
from synthpost_dagster.files.tables import read_parquet

Columns = dict[str, list[str | None]]
"""Column name → its values, all columns equally long, in the file's order."""

CSV_SUFFIXES = (".csv", ".tsv", ".txt")
PARQUET_SUFFIXES = (".parquet", ".pq")
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
MAX_COLUMNS = 20_000
MAX_JSON_BYTES = 1024**3
_DELIMITERS = ",;\t"
_MAX_FIELD = 2**31 - 1


def read_columns(path: Path, known: set[str], posts: tuple[str, ...]) -> Columns:
    """The columns of a CSV (UTF-8; comma, semicolon or tab) or parquet file.

    `known` are column names by which the separator is detected; missing values of the columns `posts` are None.
    Raises SpecError naming file, place and remedy where the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in PARQUET_SUFFIXES:
        return _parquet(path, posts)
    if suffix in CSV_SUFFIXES:
        return _csv(path, _decoded(path, _content(path)), known, posts)
    raise SpecError(f"{path}: the name has no known suffix; name it .csv, .tsv, .parquet, .json or .jsonl")


def read_records(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON file (a list of them) or of JSON lines. Raises SpecError naming the line at fault."""
    content = _content(path)
    if len(content) > MAX_JSON_BYTES:
        raise SpecError(f"{path}: larger than {MAX_JSON_BYTES // 1024**2:,} MiB; split it, or write it as parquet")
    text = _decoded(path, content)
    records = _json_list(path, text) if path.suffix.lower() == ".json" else list(_json_lines(path, text))
    if not records:
        raise SpecError(f"{path}: has no comparison; write one object for each")
    return records


def columns_of(records: Iterable[Mapping[str, Any]], posts: tuple[str, ...]) -> Columns:
    """Records as columns: values that are not text become JSON; a key that a record lacks is missing."""
    rows = list(records)

    def text_of(name: str, value: Any) -> str | None:
        if value is None:
            return None if name in posts else ""
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [text_of(name, row.get(name)) for row in rows] for name in names}


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file; give the path of a file of pairs") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); give a readable file") from None


def _decoded(path: Path, content: bytes) -> str:
    if content.startswith(b"PAR1"):
        raise SpecError(f"{path}: a parquet file by its content; name it .parquet")
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{path}: not UTF-8 text at byte {error.start}, line {line}; save it as UTF-8") from None


def _csv(path: Path, text: str, known: set[str], posts: tuple[str, ...]) -> Columns:
    if not text.strip():
        raise SpecError(f"{path}: is empty; write a line of column names and a row for each comparison")
    csv.field_size_limit(_MAX_FIELD)
    reader = csv.reader(io.StringIO(text.rstrip("\r\n"), newline=""), delimiter=_delimiter(text, known), strict=True)
    names: list[str] = []
    columns: list[list[str | None]] = []
    # Equal texts of a column share one string, because a million labels have few different values.
    texts: list[dict[str, str]] = []
    try:
        for fields in reader:
            if not names:
                names = [name.strip() for name in fields]
                _check_width(path, names)
                columns, texts = [[] for _ in names], [{} for _ in names]
            elif fields or len(names) == 1:
                _check_fields(path, len(fields or [""]), len(names), reader.line_num)
                for place, text_of in enumerate(fields or [""]):
                    is_missing = not text_of and names[place] in posts
                    columns[place].append(None if is_missing else texts[place].setdefault(text_of, text_of))
    except csv.Error as error:
        raise SpecError(
            f"{path}: not valid CSV at line {reader.line_num} ({error}); put a field that holds quotes in quotes, "
            'and double those inside ("")'
        ) from None
    return _named(path, names, columns)


def _check_fields(path: Path, fields: int, names: int, line: int) -> None:
    if fields != names:
        raise SpecError(
            f"{path}: line {line} has {fields} fields, the line of column names {names}; put a field that holds a "
            "separator or a line break in quotes"
        )


def _check_width(path: Path, names: list[str]) -> None:
    if len(names) > MAX_COLUMNS:
        raise SpecError(f"{path}: has {len(names):,} columns, the maximum is {MAX_COLUMNS:,}; remove some")


def _named(path: Path, names: list[str], columns: list[list[str | None]]) -> Columns:
    """The columns by name; those without one get a number. Raises SpecError where two have one name."""
    named = [name or f"(column {number})" for number, name in enumerate(names, start=1)]
    found = dict(zip(named, columns, strict=True))
    if len(found) < len(named):
        twice = next(name for place, name in enumerate(named) if name in named[:place])
        raise SpecError(f"{path}: the column {twice!r} appears twice; rename one ({listed(named)})")
    return found


def listed(names: Iterable[str], limit: int = 20) -> str:
    """The columns of a file, for an error message."""
    every = ["one without a name" if name.startswith("(column ") else name for name in names]
    more = f" and {len(every) - limit:,} more" if len(every) > limit else ""
    return f"its columns: {', '.join(every[:limit])}{more}"


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


def _parquet(path: Path, posts: tuple[str, ...]) -> Columns:
    found = read_parquet(path)
    names = ["" if name.startswith("__index_level_") else name.strip() for name in found.column_names]
    _check_width(path, names)
    columns = [
        [_parquet_text(path, name, value, posts) for value in column.to_pylist()]
        for name, column in zip(names, found.columns, strict=True)
    ]
    return _named(path, names, columns)


def _parquet_text(path: Path, column: str, value: object, posts: tuple[str, ...]) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None if column in posts else ""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise SpecError(
            f"{path}: the column {column!r} has bytes that are not UTF-8 text; write it as strings"
        ) from None


def _json_list(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path}: not valid JSON ({error}); a file of JSON lines is named .jsonl") from None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise SpecError(f"{path}: not a list of objects; write a list with one object for each comparison")
    return found


def _json_lines(path: Path, text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(io.StringIO(text), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"{path}: line {number} is not valid JSON ({error}); correct or remove it") from None
        if not isinstance(found, dict):
            raise SpecError(f"{path}: line {number} is not a JSON object; write one object for each comparison")
        yield found
