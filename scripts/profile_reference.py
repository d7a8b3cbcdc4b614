"""Writes docs/profile-reference.md: every key of a profile and of a task, from the models' own descriptions.

    python -m scripts.profile_reference [--check]

With `--check` nothing is written; the exit status is 1 if the file differs from what would be written.
"""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel, StringConstraints
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from synthpost_dagster.files.renamed_keys import RENAMED_KEYS
from synthpost_dagster.profiles.models import EndpointName, ModelName, Revision, VariableName
from synthpost_dagster.profiles.spec import Profile, ProfileName
from synthpost_dagster.tasks.records import Identifier, Name, Text
from synthpost_dagster.tasks.spec import LanguageTag, TaskSpec

FILE = Path(__file__).parent.parent / "docs" / "profile-reference.md"
SIMPLE = {bool: "true or false", int: "whole number", float: "number", str: "text", Any: "any value"}
NAMED = [
    (Identifier, "name of a-z, 0-9 and _"),
    (ProfileName, "name of a-z, 0-9, _ and -"),
    (EndpointName, "name of a-z, 0-9, _ and -"),
    (VariableName, "name of an environment variable"),
    (Revision, "40-digit commit"),
    (ModelName, "text"),
    (LanguageTag, "BCP 47 language tag"),
    (Name, "text, at most 80 characters"),
    (Text, "text, at most 2,000 characters"),
]
HEAD = """\
# Keys of profiles and tasks

Generated from the models by `python -m scripts.profile_reference`; do not edit.

Nested keys are written with dots, the entries of a list with `[]`, names of your own with `<name>`: `training.lora.r`,
`judges[].backend`, `criteria.<name>.text`. A key without a default is required. A profile that begins with
`extends: NAME` takes every key that it leaves out from the profile of that name (`tiny`, `laptop`, `llama3-8b`,
`llama3-8b-local`, or a YAML file); so a short profile is enough.
"""
PARTS = (
    ("Profile", "A profile is one YAML file; the keys of `teacher` and `judges` depend on the `backend`.", Profile),
    ("task.yaml", "The keys of a `check` depend on its `kind`.", TaskSpec),
)


KINDS: dict[Any, tuple[str, str]] = {tuple: ("list: ", "[]"), dict: ("names of your own: ", ".<name>")}
"""Kind of collection → how its type is described, and what follows its key."""


class Key(NamedTuple):
    """A line of a table."""

    name: str
    type: str
    default: str
    meaning: str


def records_in(annotation: Any) -> list[type[BaseModel]]:
    """The record classes that an annotation names, in order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [record for part in get_args(annotation) for record in records_in(part)]


def type_text(annotation: Any, limits: tuple[Any, ...] = ()) -> str:
    """A type in plain words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    for alias, text in NAMED:
        if annotation == alias or (limits and get_args(alias)[1:] == limits and annotation is str):
            return text
    if annotation in SIMPLE:
        return SIMPLE[annotation] + limits_text(limits)
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        kinds = [type_text(part, limits) for part in parts if part is not type(None)]
        return " or ".join(dict.fromkeys(kinds)) + (" or null" if type(None) in parts else "")
    if origin is tuple:
        return f"list: {type_text(parts[0])}{limits_text(limits)}"
    if origin is dict:
        return "keys and values"
    if hasattr(annotation, "__metadata__"):
        return type_text(parts[0], annotation.__metadata__)
    return "keys below"


def limits_text(limits: tuple[Any, ...]) -> str:
    """The limits of a number or list, after a comma."""
    words: list[str] = []
    for limit in limits:
        for part in getattr(limit, "metadata", [limit]):
            words += limit_words(part)
    return "".join(f", {word}" for word in words)


def limit_words(limit: Any) -> list[str]:
    """One limit in words."""
    match limit:
        case Ge(ge=value):
            return [f"at least {value}"]
        case Gt(gt=value):
            return [f"above {value}"]
        case Le(le=value):
            return [f"at most {value}"]
        case Lt(lt=value):
            return [f"below {value}"]
        case MinLen(min_length=1):
            return ["not empty"]
        case MaxLen(max_length=value) | StringConstraints(max_length=int(value)):
            return [f"at most {value} characters"]
    return []


def default_text(field: FieldInfo) -> str:
    """The default as YAML writes it."""
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return "the defaults of its keys"
    names = {True: "true", False: "false", None: "null"}
    return f"`{names[value] if value is None or isinstance(value, bool) else value}`"


def label_of(record: type[BaseModel], tag: str) -> str:
    """The values of a tag that choose a record."""
    return " or ".join(f"`{tag}: {value}`" for value in get_args(record.model_fields[tag].annotation))


def suffix_of(field: FieldInfo) -> str:
    """What follows the key of a list or of a mapping with names of the user's own."""
    return KINDS.get(get_origin(field.annotation), ("", ""))[1]


def keys_of(record: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """The keys of a record and of the records in it; those of alternatives have tables of their own."""
    for name, field in record.model_fields.items():
        place = f"{prefix}{field.alias or name}"
        records = records_in(field.annotation)
        is_list = get_origin(field.annotation) is tuple
        text = type_text(field.annotation, tuple(field.metadata))
        if records:
            text = f"{KINDS.get(get_origin(field.annotation), ('', ''))[0]}keys below"
        if type(None) in get_args(field.annotation) and records:
            text += " or null"
        if len(records) > 1:
            text = f"{'list: ' if is_list else ''}one of the kinds below"
        yield Key(place, text, default_text(field), field.description or "")
        if len(records) == 1:
            yield from keys_of(records[0], f"{place}{suffix_of(field)}.")


def alternatives_in(record: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Place and record of each alternative below a record."""
    for name, field in record.model_fields.items():
        records = records_in(field.annotation)
        place = f"{prefix}{field.alias or name}{suffix_of(field)}"
        if len(records) > 1:
            yield from ((place, one) for one in records)
        elif records:
            yield from alternatives_in(records[0], f"{place}.")


def table(keys: Iterator[Key]) -> list[str]:
    """A table in Markdown."""
    rows = [(f"`{key.name}`", key.type, key.default, key.meaning) for key in keys]
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return ["| Key | Type | Default | Meaning |", "| --- | --- | --- | --- |", *(f"| {line} |" for line in lines), ""]


def part(title: str, text: str, record: type[BaseModel]) -> list[str]:
    """The tables of one file."""
    lines = [f"## {title}", "", text, "", *table(keys_of(record))]
    places: dict[type[BaseModel], list[str]] = {}
    for place, alternative in alternatives_in(record):
        names = places.setdefault(alternative, [])
        if (name := f"`{place.rpartition('.')[2]}`") not in names:
            names.append(name)
    for alternative, found in places.items():
        tag = "backend" if "backend" in alternative.model_fields else "kind"
        summary = (alternative.__doc__ or "").split("\n\n", maxsplit=1)[0].replace("\n", " ")
        lines += [f"### {', '.join(found)} with {label_of(alternative, tag)}", "", summary, ""]
        lines += table(keys_of(alternative))
    return lines


def reference() -> str:
    """The whole file."""
    lines = [line for title, text, record in PARTS for line in part(title, text, record)]
    lines += ["## Renamed keys", "", "A file with an old key ends with an error that names the new one.", ""]
    lines += ["| Old key | New key |", "| --- | --- |"]
    lines += [f"| `{old}` | `{old.rpartition('.')[0]}.{new}` |" for old, new in sorted(RENAMED_KEYS.items())]
    return "\n".join([HEAD, *lines, ""])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 if the file is stale; write nothing")
    if not parser.parse_args().check:
        FILE.write_text(reference(), encoding="utf-8")
    elif not FILE.is_file() or FILE.read_text(encoding="utf-8") != reference():
        sys.exit(f"{FILE} is stale; run `python -m scripts.profile_reference`")


if __name__ == "__main__":
    main()
