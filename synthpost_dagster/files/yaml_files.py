"""Reads YAML files of users into records. An error names file, line, key and remedy of everything that is wrong.

Only values of plain types, no merge keys, limited size and depth. The records are in `tasks.spec` and `profiles`.
"""

import difflib
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from synthpost_dagster.errors import SpecError
from synthpost_dagster.files.renamed_keys import new_name

try:  # libyaml is seven times faster, and every command reads its task and profile
    from yaml import CSafeLoader as SafeLoader
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]

MAX_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 100
"""Nested collections; libyaml's loader crashes the process at some ten thousand."""
MAX_VALUES = 1_000_000
"""Values with every alias written out; a long text counts as one for each of its hundred characters."""
MAX_PROBLEMS = 20
"""Mistakes in a file that are listed."""
_MERGE = "tag:yaml.org,2002:merge"

Model = TypeVar("Model", bound=BaseModel)
Place = tuple[int | str, ...]


class Document(NamedTuple):
    """A file's keys and values, and its nodes with their lines."""

    path: Path
    content: dict[Any, Any]
    root: yaml.MappingNode

    def node_at(self, place: Place) -> tuple[yaml.Node, int]:
        """The node at a place, or the innermost one around it in the file; and the number of parts that lead to it."""
        node: yaml.Node = self.root
        for depth, part in enumerate(place):
            found = _child(node, part)
            if found is None:
                return node, depth
            node = found
        return node, len(place)


class _Loader(SafeLoader):
    """Safe loader. A key that occurs twice, a merge key and a value that cannot be built are errors with their line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        kind = node.tag.rsplit(":", 1)[-1]
        if kind in ("int", "float") and isinstance(node, yaml.ScalarNode) and _is_misread(node.value):
            problem = f"{node.value!r} would be read in base 8 or 60; write it in base 10, or as text in quotes"
            raise _error(problem, node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError):
            value = repr(node.value) if isinstance(node, yaml.ScalarNode) else "this value"
            shown = value if len(value) <= 60 else f"{value[:50]}…'"
            problem = f"{shown} is no {kind}; correct it, or put it in quotes where text is meant"
            raise _error(problem, node.start_mark) from None

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Checks the keys of a mapping; the base class merges others into it here."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error("a key is a list or a mapping; write text", key.start_mark)
            if key.tag == _MERGE:
                raise _error("merge keys (<<) are not supported; write the keys out", key.start_mark)
            if key.value in seen:
                raise _error(f"the key {key.value!r} occurs twice; remove one", key.start_mark)
            seen.add(key.value)


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
    """The file as a record of `model`. Raises SpecError naming file, line and key of everything that is wrong."""
    document = read_document(path)
    return record_of(document.content, [document], model)


def read_mapping(path: Path) -> dict[Any, Any]:
    """The file's keys and values. Raises SpecError where it is not YAML, is nested too deeply, or has no keys."""
    return read_document(path).content


def read_document(path: Path) -> Document:
    """The file's keys and values with their lines; raises as `read_mapping`."""
    content, root = _parsed(path)
    if not isinstance(content, dict) or not isinstance(root, yaml.MappingNode):
        raise SpecError(f"{path}: a mapping of keys is expected at the top")
    return Document(path, content, root)


def read_list(path: Path) -> list[tuple[int, Any]]:
    """The entries of a list at the top of the file, each with its line; raises as `read_mapping`."""
    content, root = _parsed(path)
    if not isinstance(content, list) or not isinstance(root, yaml.SequenceNode):
        raise SpecError(f"{path}: a list is expected at the top")
    return [(node.start_mark.line + 1, entry) for node, entry in zip(root.value, content, strict=True)]


def _parsed(path: Path) -> tuple[Any, yaml.Node | None]:
    text = read_text(path)
    try:
        _check_depth(text)
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is not None and _expanded(root, {}) > MAX_VALUES:
            raise _error(f"its aliases stand for more than {MAX_VALUES:,} values; write fewer", root.start_mark)
        return (None if root is None else loader.construct_document(root)), root
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: not valid YAML: {_problem(error)}") from None


def record_of(content: dict[Any, Any], documents: Sequence[Document], model: type[Model]) -> Model:
    """Merged content of some files as a record of `model`; `documents` holds them, the overriding one first.

    Raises SpecError with a line for each mistake, naming file, line and key.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = _problems(error, content, model)
    lines = []
    for place, problem in list(problems.items())[:MAX_PROBLEMS]:
        document, line = _source(documents, place)
        lines += [f"{document.path}: {one} (line {line})" for one in dict.fromkeys(problem.split("\n"))]
    if len(problems) > MAX_PROBLEMS:
        lines.append(f"{documents[0].path}: {len(problems) - MAX_PROBLEMS} more mistakes like these")
    raise SpecError("\n".join(lines))


def combined(problems: Iterable[SpecError]) -> SpecError:
    """All of the errors as one, a line each."""
    return SpecError("\n".join(dict.fromkeys(line for problem in problems for line in str(problem).split("\n"))))


def _error(problem: str, mark: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)


def _problem(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    said = ", ".join(part for part in (error.context, error.problem) if part)
    return f"{' '.join(said.split())} (line {error.problem_mark.line + 1})"


def _is_misread(value: str) -> bool:
    """Whether YAML 1.1 takes a number for another than it says: 1:30 for 90, 010 for 8."""
    digits = value.lstrip("+-")
    return ":" in digits or (len(digits) > 1 and digits[0] == "0" and digits.isdigit())


def _check_depth(text: str) -> None:
    """Refuses deep nesting; reads the parser's events, which needs no recursion."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _error(f"nested more than {MAX_DEPTH} levels deep; a task or profile has a few", event.start_mark)


def _expanded(node: yaml.Node, sizes: dict[int, float]) -> float:
    """The number of values of a node with its aliases written out; infinite for one that contains itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1 + len(node.value) // 100
    if id(node) not in sizes:
        sizes[id(node)] = math.inf
        children = itertools.chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
        sizes[id(node)] = 1 + sum(_expanded(child, sizes) for child in children)
    return sizes[id(node)]


def _child(node: yaml.Node, part: int | str) -> yaml.Node | None:
    """The node of a key (its line is that of the key) or of an item."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == str(part):
                value.key_line = key.start_mark.line
                return value  # type: ignore[no-any-return]
    elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part]  # type: ignore[no-any-return]
    return None


def _source(documents: Sequence[Document], place: Place) -> tuple[Document, int]:
    """The file that has a place, and its line; for a missing key those of the mapping that lacks it."""
    best = max(documents, key=lambda document: document.node_at(place)[1])
    node, _ = best.node_at(place)
    return best, getattr(node, "key_line", node.start_mark.line) + 1


def _problems(error: ValidationError, content: Any, model: type[BaseModel]) -> dict[Place, str]:
    """Place → error; unknown keys come first, and alternatives of a union are joined."""
    found: dict[Place, list[str]] = {}
    for problem in sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden"):
        place, kind = _place(problem["loc"], content, problem["type"]), problem["type"]
        if kind == "extra_forbidden":
            found[place] = [_unknown(place, _allowed(model, problem["loc"]))] if len(found) < MAX_PROBLEMS else [""]
        elif kind == "missing":
            if not any(old[:-1] == place[:-1] and new_name(old) == place[-1] for old in found):
                found[place] = [f"the key {_written(place)} is missing; add it"]
        elif kind != "too_short" or len(problem["input"]) == problem["ctx"]["actual_length"]:
            # Otherwise each item has an error of its own.
            name = f"{_written(place)}: " if place else ""
            lines = problem["msg"].removeprefix("Value error, ").split("\n")
            found.setdefault(place, []).append("\n".join(name + line for line in lines))
    return {place: _either(place, messages) for place, messages in found.items()}


def _either(place: Place, messages: list[str]) -> str:
    name = f"{_written(place)}: "
    return " or ".join([messages[0], *(message.removeprefix(name) for message in messages[1:])])


def _unknown(place: Place, allowed: list[str]) -> str:
    if new := new_name(place):
        return f"the key {_written(place)} is now called {new}; rename it"
    near = difflib.get_close_matches(str(place[-1]), allowed, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    listed = f"; the keys here are {', '.join(allowed)}" if allowed else ""
    return f"unknown key {_written(place)}; remove it or correct its spelling{hint}{listed}"


def _place(location: Place, content: Any, kind: str) -> Place:
    """The location without the parts that pydantic adds for unions."""
    place: list[int | str] = []
    here = content
    for position, part in enumerate(location):
        if isinstance(part, int) and isinstance(here, list):
            here = here[part] if part < len(here) else None
        elif isinstance(here, dict) and part in here:
            here = here[part]
        elif not (kind == "missing" and position == len(location) - 1):
            continue
        place.append(part)
    return tuple(place)


def _written(place: Place) -> str:
    """`post_types[2].criteria[0].check`."""
    written = ""
    for part in place:
        written += f"[{part}]" if isinstance(part, int) else f".{part}" if written else str(part)
    return written


def _allowed(model: type[BaseModel], location: Place) -> list[str]:
    """The keys of the record that has the last part of a location."""
    schema = model.model_json_schema()
    here = [schema]
    for part in location[:-1]:
        here = [inner for one in here for inner in _inside(one, part, schema.get("$defs", {}))]
    variants = [variant for one in here for variant in _variants(one, schema.get("$defs", {}))]
    return list(dict.fromkeys(key for one in variants for key in one.get("properties", {})))


def _variants(schema: dict[str, Any], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    """The schema itself and its alternatives."""
    if "$ref" in schema:
        return _variants(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
    choices = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]
    return [schema, *(inner for choice in choices for inner in _variants(choice, definitions))]


def _inside(schema: dict[str, Any], part: int | str, definitions: dict[str, Any]) -> list[dict[str, Any]]:
    """The schemas of an item, of a key's value, or of the alternative that a union's tag names."""
    found = []
    for one in _variants(schema, definitions):
        if isinstance(part, int):
            found += [one["items"]] if "items" in one else []
        elif part in one.get("properties", {}):
            found.append(one["properties"][part])
        elif part in one.get("discriminator", {}).get("mapping", {}):
            found.append({"$ref": one["discriminator"]["mapping"][part]})
        elif isinstance(one.get("additionalProperties"), dict):
            found.append(one["additionalProperties"])
        else:  # keys that follow a pattern
            found += one.get("patternProperties", {}).values()
    return found
