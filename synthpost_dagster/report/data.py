"""What the page shows, gathered; no drawing and no reading of artifacts here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd


class Training(NamedTuple):
    """How one cell was trained."""

    data_size: int
    steps: str
    wall_seconds: float
    peak_gib: float
    device: str
    loss: pd.DataFrame
    """Columns `step`, `loss`, `learning_rate` (schema LossCurve)."""


class Took(NamedTuple):
    """What a stage took when its artifacts were made, and what was expected then; `expected_seconds` may be unknown."""

    stage: str
    work: str
    requests: int
    tokens: int
    usd: float
    seconds: float
    expected_requests: int
    expected_tokens: int
    expected_usd: float
    expected_seconds: float | None


class Pair(NamedTuple):
    """The posts of one evaluation prompt, side by side, in one cell."""

    data_size: int
    steps: str
    company: str
    product: str
    product_description: str
    post_type: str
    tone: str
    length: str
    tuned: str
    base: str
    prompted: str
    outcome_base: str
    """win, loss, tie or unscored, of the tuned post against `base`."""
    outcome_prompted: str


@dataclass(frozen=True)
class ReportData:
    """Everything on the page.

    `ratios` follows the schema RatioReport, `compliance` the schema Compliance. `missing` names the cells of the
    profile's sweep that have no verdicts yet, with the reason. `caution` is a sentence that limits what the figures
    mean, or empty.
    """

    task: str
    task_description: str
    profile: str
    student: str
    teacher: str
    judge: str
    caution: str
    evaluation_prompts: int
    ratios: pd.DataFrame
    compliance: pd.DataFrame
    training: tuple[Training, ...]
    took: tuple[Took, ...]
    pairs: tuple[Pair, ...]
    missing: tuple[tuple[str, str], ...]
    """(cell, reason)."""
    criteria: dict[str, str]
    """Criterion id → its text, in the task's order."""
    levels: dict[str, tuple[str, ...]]
    """Factor (post_type, tone, length) → its levels in the task's order."""
    prompt_tokens: dict[str, float]
    """Mean prompt tokens of `base` and `prompted`."""
    fingerprint: str
    made_at: str
