"""Perplexity from summed losses, and its ratio between tuned and base model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd


class Perplexities(NamedTuple):
    """The perplexity of one text under the base and the tuned model; NaN where undefined."""

    base: float
    tuned: float

    @property
    def ratio(self) -> float:
        """Tuned / base: how many times less likely a token became, in the geometric mean."""
        return self.tuned / self.base


def perplexity(nats: float, tokens: int) -> float:
    """exp(nats / tokens) of a summed cross-entropy; NaN without tokens, without a finite sum or on overflow."""
    if tokens == 0 or not math.isfinite(nats):
        return math.nan
    try:
        return math.exp(nats / tokens)
    except OverflowError:
        return math.nan


def whole(kinds: pd.DataFrame) -> Perplexities:
    """The perplexities over all tokens of all kinds (schema Forgetting)."""
    return Perplexities(_pooled(kinds, "base_perplexity"), _pooled(kinds, "tuned_perplexity"))


def worst(kinds: pd.DataFrame) -> tuple[str, Perplexities] | None:
    """The kind of text (schema Forgetting) whose ratio is highest; None where none has one."""
    found = [
        (str(row.kind), Perplexities(float(row.base_perplexity), float(row.tuned_perplexity)))
        for row in kinds.itertuples()
    ]
    defined = [one for one in found if not math.isnan(one[1].ratio)]
    return max(defined, key=lambda one: one[1].ratio, default=None)


def _pooled(kinds: pd.DataFrame, column: str) -> float:
    tokens = [int(count) for count in kinds["tokens"]]
    nats = [count * math.log(value) for count, value in zip(tokens, kinds[column], strict=True)]
    return perplexity(math.fsum(nats), sum(tokens))
