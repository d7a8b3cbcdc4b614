"""Reads the items and groups of a task from JSONL, CSV, YAML or the task file itself, and assigns their split."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from synthpost_dagster.errors import SpecError
from synthpost_dagster.files.yaml_files import read_list, read_text
from synthpost_dagster.tasks.ids import short_hash
from synthpost_dagster.tasks.spec import Entries, ItemField, TaskSpec
from synthpost_dagster.text.normalize import folded

MAX_SHOWN = 3
"""Malformed entries of a file that are shown; all are counted."""
MAX_NAME, MAX_TEXT = 80, 20_000
"""Characters."""
SPLITS = ("train", "holdout")
BOTH = "both"
"""Split of an item whose prompts are divided by a factor."""
_NOT_IN_NAMES = set("|{}\n\r")


class Group(NamedTuple):
    """What several items belong to, with its fields."""

    name: str
    values: Mapping[str, str | float]


class Item(NamedTuple):
    """What an output is about; `levels` are those of the factors that are read from the item."""

    name: str
    group: Group | None
    values: Mapping[str, str | float]
    levels: Mapping[str, str]
    split: str


def read_items(folder: Path, spec: TaskSpec) -> tuple[Item, ...]:
    """The items with their groups. Raises SpecError naming file, line and key of what is wrong."""
    groups: dict[str, Group] = {}
    if spec.items.groups:
        source = _Source(folder, spec.items.groups.entries, "items.groups")
        groups = {
            name: Group(name, values)
            for name, values, _ in source.read(spec.items.groups.fields, {}, spec.words.group[0])
        }
    columns = dict.fromkeys(factor for factor, found in spec.factors.items() if found.source == "item")
    needed: dict[str, Callable[[str], str]] = {
        name: _one_of(name, tuple(spec.factors[name].levels), "add it to the factor's levels") for name in columns
    }
    if spec.items.groups:
        needed[spec.group_column] = _one_of(spec.group_column, tuple(groups), "add it to the groups")
    if spec.holdout.by == "split":
        needed["split"] = _one_of("split", SPLITS, "choose one of them")
    items = []
    for name, values, more in _Source(folder, spec.items.entries, "items").read(
        spec.items.fields, needed, spec.words.item[0]
    ):
        group = groups.get(more.get(spec.group_column, ""))
        levels = {factor: more[factor] for factor in columns}
        items.append(Item(name, group, values, levels, _split(spec, name, group, more)))
    return tuple(items)


def _split(spec: TaskSpec, name: str, group: Group | None, more: Mapping[str, str]) -> str:
    by = spec.holdout.by
    if by == "split":
        return more["split"]
    if by not in ("item", "group"):
        return BOTH
    hashed = short_hash("holdout", spec.name, group.name if by == "group" and group else name)
    return SPLITS[int(hashed, 16) / 16 ** len(hashed) < (spec.holdout.share or 0)]


def _one_of(name: str, allowed: tuple[str, ...], remedy: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in allowed:
            some = ", ".join(allowed[:10]) + (" …" if len(allowed) > 10 else "")
            raise ValueError(f"{name} {value!r} is none of {some}; {remedy}")
        return value

    return check


class _Source:
    """The entries of a file or of the task file, each with its place for messages."""

    def __init__(self, folder: Path, entries: Entries, key: str) -> None:
        self.key = key
        self.file = folder / (entries if isinstance(entries, str) else "task.yaml")
        self.inline = None if isinstance(entries, str) else entries

    def read(
        self, fields: Mapping[str, ItemField], needed: Mapping[str, Callable[[str], str]], noun: str
    ) -> list[tuple[str, dict[str, str | float], dict[str, str]]]:
        """(name, values of the fields, values of the other columns) of each entry."""
        found, problems = [], []
        seen: dict[str, str] = {}
        count = 0
        for place, entry in self._entries():
            try:
                if isinstance(entry, ValueError):
                    raise entry
                name, values, more = _read_entry(entry, fields, needed)
                if folded(name) in seen:
                    raise ValueError(f"{noun} {name!r} occurs twice, first in {seen[folded(name)]}; rename one")
                seen[folded(name)] = place
                found.append((name, values, more))
            except ValueError as error:
                count += 1
                if count <= MAX_SHOWN:
                    problems += [f"{self.file}: {place}: {line}" for line in str(error).split("\n")]
        if count > MAX_SHOWN:
            problems.append(f"{self.file}: {count - MAX_SHOWN:,} more entries of {self.key} are malformed")
        if not found and not problems:
            problems.append(f"{self.file}: {self.key} is empty; add one entry at least")
        if problems:
            raise SpecError("\n".join(problems))
        return found

    def _entries(self) -> Iterator[tuple[str, Any]]:
        if self.inline is not None:
            yield from ((f"{self.key}.from[{place}]", entry) for place, entry in enumerate(self.inline))
        elif self.file.suffix in (".yaml", ".yml"):
            yield from ((f"line {line}", entry) for line, entry in read_list(self.file))
        elif self.file.suffix == ".jsonl":
            yield from _json_lines(read_text(self.file))
        elif self.file.suffix == ".csv":
            yield from _csv_lines(read_text(self.file))
        else:
            raise SpecError(f"{self.file}: {self.key}.from: write .jsonl, .csv or .yaml, or a list in task.yaml")


def _json_lines(text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):  # a text may hold other line breaks, such as U+2028
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            yield f"line {number}", ValueError(f"not JSON ({error}); write one object per line")


def _csv_lines(text: str) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                yield f"line {reader.line_num}", ValueError("another number of values than the header has")
            else:
                yield f"line {reader.line_num}", row
    except csv.Error as error:
        yield f"line {reader.line_num}", ValueError(f"not CSV ({error})")


def _read_entry(
    entry: Any, fields: Mapping[str, ItemField], needed: Mapping[str, Callable[[str], str]]
) -> tuple[str, dict[str, str | float], dict[str, str]]:
    if not isinstance(entry, dict):
        raise ValueError("a mapping of fields is expected")
    key = next((name for name, field in fields.items() if field.type == "name"), "id")
    problems: list[str] = []
    allowed = [*fields, *needed, *(["id"] if key == "id" else [])]
    for name in entry:
        if name not in allowed:
            problems.append(f"unknown field {name}; remove it or declare it (declared: {', '.join(allowed)})")
    values: dict[str, Any] = {}
    more: dict[str, str] = {}
    for name in allowed:
        try:
            if name not in entry:
                raise ValueError(f"the field {name} is missing; add it")
            if name in fields:
                values[name] = _value(name, fields[name], entry[name])
            else:
                more[name] = needed[name](_text(name, entry[name])) if name in needed else _name(name, entry[name])
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    return str(values.get(key) or more.get(key)), values, more


def _value(name: str, field: ItemField, value: Any) -> str | float:
    if field.type == "name":
        return _name(name, value)
    if field.type == "text":
        return _text(name, value)
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        return int(number) if number.is_integer() else number
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name}: {value!r} is no number") from None


def _text(name: str, value: Any) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        raise ValueError(f"{name}: {value!r} is no text; put it in quotes")
    text = text.strip()
    if not text or len(text) > MAX_TEXT or "\0" in text:
        raise ValueError(f"{name}: has {len(text):,} characters; write 1 to {MAX_TEXT:,}, without NUL")
    return text


def _name(name: str, value: Any) -> str:
    text = _text(name, value)
    if len(text) > MAX_NAME or _NOT_IN_NAMES & set(text):
        raise ValueError(
            f"{name}: {text[:90]!r} is no name; write one line of at most {MAX_NAME} characters without | {{ }}"
        )
    return text
