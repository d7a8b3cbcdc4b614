"""Names of tests are short, and test code imports helpers by their full name."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]
MODULES = sorted(TESTS.rglob("*.py"))
NAMES = {path.stem for path in MODULES}
MAX_LENGTH = 70


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_bytes())))


def names_in(path: Path) -> list[str]:
    return [node.name for node in nodes(path) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


def imports_of(path: Path) -> set[str]:
    """The modules that a file imports by absolute name."""
    imported = {node.module or "" for node in nodes(path) if isinstance(node, ast.ImportFrom) and not node.level}
    return imported | {alias.name for node in nodes(path) if isinstance(node, ast.Import) for alias in node.names}


def test_modules_are_found() -> None:
    assert len([path for path in MODULES if names_in(path)]) > 100


def test_names_have_at_most_70_characters() -> None:
    assert [name for path in MODULES for name in names_in(path) if len(name) > MAX_LENGTH] == []


def test_no_name_is_used_twice_in_a_module() -> None:
    """A second definition replaces the first, whose test never runs."""
    twice = {
        str(path.relative_to(TESTS)): sorted({name for name in names if names.count(name) > 1})
        for path in MODULES
        if (names := names_in(path)) and len(names) != len(set(names))
    }
    assert twice == {}


def test_no_module_of_the_tests_is_imported_by_its_bare_name() -> None:
    found = {str(path.relative_to(TESTS)): sorted(imports_of(path) & NAMES) for path in MODULES}
    assert {path: names for path, names in found.items() if names} == {}
