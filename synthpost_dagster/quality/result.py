"""What a gate finds in a table, and which columns of the rows at fault are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.tasks.task import Task

MAX_ROWS = 10
"""Rows at fault that are kept."""
MAX_CHARACTERS = 300
"""Characters of each of their values that are kept."""


class Finding(NamedTuple):
    """Whether a table passes a gate, why in one sentence, the rows at fault, and the gate's figures."""

    is_passed: bool
    message: str
    rows: pd.DataFrame
    figures: dict[str, float]
    is_severe: bool | None = None
    """Whether a failure is an error and not a warning; None: an error where the gate is blocking."""


def finding(is_passed: bool, message: str, rows: pd.DataFrame, **figures: float) -> Finding:
    """A finding with its figures by name."""
    return Finding(is_passed, message, rows, figures)


def shown(task: Task, rows: pd.DataFrame, *more: str) -> pd.DataFrame:
    """The columns that identify a row, after those named."""
    columns = dict.fromkeys((*more, *task.spec.prompt_columns, "reason", "post"))
    return rows[[name for name in columns if name in rows]]


def kept(table: pd.DataFrame) -> pd.DataFrame:
    """The kept rows of a table with a status; else all rows."""
    return table[table["status"] == "kept"] if "status" in table else table
