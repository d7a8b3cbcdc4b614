"""What a gate says of a table."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from synthpost_dagster.artifacts.manifest import GateEntry

if TYPE_CHECKING:
    import pandas as pd

PREVIEW_ROWS = 10
PREVIEW_CHARACTERS = 300
SHOWN_COLUMNS = ("prompt_id", "company", "product", "post_type", "tone", "reason", "post")


@dataclass(frozen=True)
class GateResult:
    """A gate's verdict; `offending` holds at most ten of the rows at fault."""

    name: str
    is_passed: bool
    is_blocking: bool
    message: str
    figures: dict[str, float]
    offending: pd.DataFrame
    is_severe: bool = True
    """Whether what did not pass is shown as an error, and not as a warning."""
    limits: dict[str, Any] = field(default_factory=dict)
    """Keys of the task's `quality` that the verdict depends on, with their values."""

    @property
    def entry(self) -> GateEntry:
        """The verdict as a manifest keeps it: finite figures, long texts cut."""
        rows = [
            {str(name): str(value)[:PREVIEW_CHARACTERS] for name, value in row.items()}
            for row in self.offending.to_dict("records")
        ]
        return GateEntry(
            name=self.name,
            is_passed=self.is_passed,
            is_blocking=self.is_blocking,
            message=self.message,
            figures={name: value for name, value in self.figures.items() if math.isfinite(value)},
            offending=tuple(rows),
            is_severe=self.is_severe,
            limits=self.limits,
        )


def blocking(name: str, is_passed: bool, message: str, rows: pd.DataFrame, **figures: float) -> GateResult:
    """The verdict of a gate that stops what is downstream."""
    return GateResult(name, is_passed, True, message, figures, preview(rows))


def warning(name: str, is_passed: bool, message: str, rows: pd.DataFrame, **figures: float) -> GateResult:
    """The verdict of a gate that stops nothing."""
    return GateResult(name, is_passed, False, message, figures, preview(rows), is_severe=False)


def preview(rows: pd.DataFrame) -> pd.DataFrame:
    """The first rows at fault."""
    return rows.head(PREVIEW_ROWS).reset_index(drop=True)


def shown(rows: pd.DataFrame, *more: str) -> pd.DataFrame:
    """The columns by which a row is known, and some more."""
    return rows[[name for name in (*more, *SHOWN_COLUMNS) if name in rows]]


def kept(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that were kept; all where there are no others."""
    return table[table["status"] == "kept"] if "status" in table else table
