"""Imports go downwards in the drawing of docs/architecture.md, and no modules import each other in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import synthpost_dagster

PACKAGE = Path(synthpost_dagster.__file__).parent
DRAWING = PACKAGE.parent / "docs" / "architecture.md"
PREFIX = "synthpost_dagster."


def imports_of(node: ast.AST) -> Iterator[str]:
    """The package's modules that a file imports when it runs, also inside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.ImportFrom) and child.module and child.module.startswith(PREFIX):
            module = child.module.removeprefix(PREFIX)
            for alias in child.names:
                yield f"{module}.{alias.name}" if (PACKAGE / module / f"{alias.name}.py").is_file() else module
        yield from imports_of(child)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def room(module: str) -> str:
    """The package of a module, or the module itself at the root."""
    return module.split(".", maxsplit=1)[0]


MODULES = {
    module_name(path): set(imports_of(ast.parse(path.read_bytes())))
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
}


def drawn_lines() -> dict[str, int]:
    """Package or root module → its line in the first drawing of the document."""
    drawing = DRAWING.read_text(encoding="utf-8").split("```")[1]
    names = [re.findall(r"(\w+)(?:/|\.py)", line) for line in drawing.splitlines()]
    return {name: place for place, line in enumerate(names) for name in line}


def test_every_package_and_root_module_is_drawn() -> None:
    assert len(MODULES) > 150
    assert set(drawn_lines()) == {room(module) for module in MODULES}


def test_imports_go_downwards() -> None:
    lines = drawn_lines()
    upwards = {
        (module, target)
        for module, targets in MODULES.items()
        for target in targets
        if room(target) != room(module) and lines[room(target)] <= lines[room(module)]
    }
    assert upwards == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert len(list(TopologicalSorter(MODULES).static_order())) == len(MODULES)
