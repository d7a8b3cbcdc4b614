"""Why a gate failed, as its manifest keeps it: figure, limit, the most frequent reasons, examples and the remedy.

`quality.explanations` knows the remedies; terminal, Dagster and page print the same record.
"""

from pydantic import BaseModel, ConfigDict

MAX_REASONS = 5
"""Reasons that are listed; the rest are summed."""


class ReasonCount(BaseModel):
    """A reason of rejection, its count, and its remedy: the key to change, with its value."""

    model_config = ConfigDict(frozen=True)
    reason: str
    count: int
    remedy: str


class Explanation(BaseModel):
    """Why a gate failed.

    `cause` is a sentence on the most frequent reason and its remedy. Where no reasons were recorded it is empty and
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
