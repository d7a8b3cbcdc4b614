"""Reads YAML files that people write into records, with errors that name file, key and remedy.

Only safe loading, only files of a sane size, and a key that stands twice is an error. What the records mean is
the business of `tasks.spec` and `profiles`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from synthpost_dagster.errors import SpecError

try:  # libyaml: seven times faster, and every command waits for its task and profile
    from yaml import CSafeLoader as SafeLoader
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]

MAX_BYTES = 8 * 1024 * 1024
DEEPEST = 100
"""Values in each other; libyaml's loader crashes the process at some ten thousand."""

Model = TypeVar("Model", bound=BaseModel)


class _UniqueKeyLoader(SafeLoader):
    """Safe loader that refuses a mapping with one key twice."""


def _mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    keys = [loader.construct_object(key) for key, _ in node.value]
    for position, key in enumerate(keys):
        if key in keys[:position]:
            line = node.value[position][0].start_mark.line + 1
            raise yaml.YAMLError(f"the key {key!r} stands twice (line {line})")
    return loader.construct_mapping(node)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_text(path: Path) -> str:
    """The file's text. Raises SpecError when it is missing, too large or not UTF-8."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SpecError(f"{path}: larger than {MAX_BYTES // 1024 // 1024} MiB; split the task into smaller ones")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: there is no such file; create it, or copy it from a packaged task") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def read_record(path: Path, model: type[Model]) -> Model:
    """The file as a record of `model`. Raises SpecError naming file and key."""
    return record_of(read_mapping(path), path, model)


def read_mapping(path: Path) -> dict[Any, Any]:
    """The file's keys and values. Raises SpecError where it is not YAML, is nested too deeply, or has no keys."""
    text = read_text(path)
    try:
        if _is_deeper_than(DEEPEST, text):
            raise _too_deep(path)
        content = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:  # by merge keys, each of which takes from the one before
        raise _too_deep(path) from None
    if not isinstance(content, dict):
        raise SpecError(f"{path}: a mapping of keys is expected at the top")
    return content


def _too_deep(path: Path) -> SpecError:
    return SpecError(f"{path}: nested too deeply to be read; a task or profile has a few levels")


def _is_deeper_than(most: int, text: str) -> bool:
    """Whether collections stand in each other so deep. Told from the parser's events, which takes no recursion."""
    depth = 0
    for event in yaml.parse(text, Loader=_UniqueKeyLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > most:
            return True
    return False


def record_of(content: dict[Any, Any], path: Path, model: type[Model]) -> Model:
    """The content of a file as a record of `model`. Raises SpecError naming file and key."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise SpecError(f"{path}: {_first_problem(error, content)}") from None


def _first_problem(error: ValidationError, content: Any) -> str:
    problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key = _key(problem["loc"], content)
    more = f" ({error.error_count() - 1} more in this file)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}; remove it or correct its spelling{more}"
    if problem["type"] == "missing":
        return f"the key {key} is missing; add it{more}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message}{more}" if key else f"{message}{more}"


def _key(location: tuple[int | str, ...], content: Any) -> str:
    """`post_types[2].criteria[0].check`: the location, without the parts that pydantic adds for unions."""
    written, here = "", content
    for position, part in enumerate(location):
        last = position == len(location) - 1
        if isinstance(part, int):
            written += f"[{part}]"
            here = here[part] if isinstance(here, list) and part < len(here) else None
        elif last or (isinstance(here, dict) and part in here):
            written += f".{part}" if written else part
            here = here.get(part) if isinstance(here, dict) else None
    return written
