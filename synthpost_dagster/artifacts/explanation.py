"""Why a gate did not pass, as its manifest keeps it: figure, limit, the commonest reasons, examples and the remedy.

Which key answers which reason is in `rows.explanations`; terminal, Dagster and page print the same record.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

MAX_REASONS = 5
"""Reasons that are listed."""


class ReasonCount(BaseModel):
    """Why replies were rejected, how many were, and what they have in common with the key to change and its value."""

    model_config = ConfigDict(frozen=True)
    reason: str
    count: int
    remedy: str


class Explanation(BaseModel):
    """What stands behind a gate that did not pass.

    `cause` is a sentence on the commonest reason and its remedy; where no reasons were recorded it is empty, and
    `remedy` names the key to change. `figure` and `limit` are None where the gate has none; `examples` are shortened
    texts of the rows at fault.
    """

    model_config = ConfigDict(frozen=True)
    cause: str = ""
    figure: float | None = None
    limit: float | None = None
    limit_key: str = ""
    reasons: tuple[ReasonCount, ...] = ()
    examples: tuple[str, ...] = ()
    remedy: str = ""

    @property
    def lines(self) -> list[str]:
        """Reasons with counts, then the examples, a line each."""
        listed = self.reasons[:MAX_REASONS]
        left = sum(reason.count for reason in self.reasons[MAX_REASONS:])
        counts = ", ".join(f"{reason.count:,} {reason.reason}" for reason in listed)
        more = f", {left:,} for other reasons" if left else ""
        return ([f"reasons: {counts}{more}"] if counts else []) + [f"example: {text}" for text in self.examples]
