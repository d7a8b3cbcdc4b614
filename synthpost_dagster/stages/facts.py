"""Facts of an artifact besides its tables, kept in its manifest as JSON.

Records may hold further figures that only people read, or whose names depend on the data (`distinct_2_at_88_rows`).
"""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from synthpost_dagster.artifacts.manifest import Manifest
from synthpost_dagster.llm.estimate import Expected


class Facts(BaseModel):
    """Facts of any artifact; `target_rows` is the requested number of rows."""

    model_config = ConfigDict(frozen=True, extra="allow")
    made_because: str = ""
    rows: int = 0
    target_rows: int = 0
    estimate: Expected = Expected(0, 0, 0, 0.0, 0.0, None, "")
    """From before the artifact was made."""

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """The facts in a manifest."""
        return cls.model_validate(manifest.facts)

    def with_figures(self, figures: Mapping[str, Any]) -> Self:
        """The same with further figures."""
        return self.model_copy(update=dict(figures))

    @property
    def content(self) -> dict[str, Any]:
        """The facts that were set, as JSON."""
        return self.model_dump(mode="json", exclude_unset=True)


class AskedFacts(Facts):
    """Facts of artifacts made of chat models' replies, such as verdicts; tokens and dollars count new replies only."""

    asked_now: int = 0
    found_in_journal: int = 0
    tries: int = 0
    prompt_tokens_asked: int = 0
    completion_tokens_asked: int = 0
    cost_usd: float = 0.0
    lost_usd: float = 0.0
    ask_seconds: float = 0.0


class TimedFacts(Facts):
    """Facts of an artifact made by the student on this machine."""

    wall_seconds: float = 0.0
    peak_gib: float = 0.0


class RowsFacts(AskedFacts):
    """Facts of `synthetic_rows`, besides the figures of variety."""

    kept: int = 0
    rejected: int = 0
    in_band: float = 0.0
    completion_tokens: int = 0
    reasons: dict[str, int] = {}


class AdapterFacts(TimedFacts):
    """Facts of `adapters`. `timed_steps` were trained in `wall_seconds`; steps before a restart are not counted."""

    optimizer_steps: int = 0
    timed_steps: int = 0
    rows_seen: int = 0
    first_loss: float = 0.0
    last_loss: float = 0.0
    general_text: str = ""
    general_perplexity: float | None = None
    base_general_perplexity: float | None = None
    perplexity_ratio: float | None = None
    general_text_seconds: float = 0.0
    layout: str = ""
    precision: str = ""
    device: str = ""


class PostsFacts(TimedFacts):
    """Facts of posts that the student wrote, tuned or not."""

    truncated: int = 0
    mean_completion_tokens: float = 0.0
    mean_prompt_tokens: dict[str, float] = {}
    with_reasoning: int = 0
    only_reasoning: int = 0
    ignored_generation_config: dict[str, Any] = {}
    longest_shared_words: int = 0
