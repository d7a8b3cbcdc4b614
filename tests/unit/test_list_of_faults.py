"""The list of faults in `tests/faults/README.md` names tests that exist, for every fault."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROWS = re.findall(r"^\| (\d+) \|(.+)$", (TESTS / "faults" / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
FAULTS = 21


@cache
def functions_in(file: Path) -> set[str]:
    """Names of the functions of a test module."""
    return {node.name for node in ast.parse(file.read_bytes()).body if isinstance(node, ast.FunctionDef)}


def test_every_fault_is_listed_once_in_order() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, FAULTS + 1))


@pytest.mark.parametrize(("number", "row"), ROWS, ids=[number for number, _ in ROWS])
def test_every_fault_names_tests_that_exist(number: str, row: str) -> None:
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", row)
    assert named
    assert [test for file, test in named if test not in functions_in(TESTS / file)] == []


@pytest.mark.parametrize("tier", ["faults", "unit"])
def test_every_test_that_carries_a_fault_number_is_of_a_listed_fault(tier: str) -> None:
    numbers = {
        int(found[1])
        for file in (TESTS / tier).rglob("test_*.py")
        for name in functions_in(file)
        if (found := re.match(r"test_fault_(\d\d)_", name))
    }
    assert numbers
    assert numbers <= set(range(1, FAULTS + 1))
