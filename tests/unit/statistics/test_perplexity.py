"""Perplexities by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from synthpost_dagster.statistics.perplexity import Perplexities, perplexity, whole, worst

NAN = math.nan


def kinds(*rows: tuple[str, int, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["kind", "tokens", "base_perplexity", "tuned_perplexity"]).assign(passages=1)


def test_perplexity_is_the_inverse_geometric_mean_probability() -> None:
    # Probabilities 1/2, 1/4 and 1/8: their product is 1/64, its third root 1/4.
    nats = math.log(2) + math.log(4) + math.log(8)
    assert perplexity(nats, 3) == pytest.approx(4)


@pytest.mark.parametrize(("nats", "tokens"), [(0.0, 0), (NAN, 3), (math.inf, 3), (1e6, 1)])
def test_what_is_no_number_or_too_large_for_one_is_undefined(nats: float, tokens: int) -> None:
    assert math.isnan(perplexity(nats, tokens))


def test_whole_weighs_each_kind_by_its_tokens() -> None:
    # Three tokens at 2 and one at 32: (2³ · 32)^(1/4) = 4; tuned (4³ · 64)^(1/4) = 8.
    found = whole(kinds(("prose", 3, 2.0, 4.0), ("code", 1, 32.0, 64.0)))
    assert found == (pytest.approx(4), pytest.approx(8))
    assert found.ratio == pytest.approx(2)


def test_kind_that_is_undefined_makes_the_whole_undefined() -> None:
    found = whole(kinds(("prose", 3, 2.0, NAN), ("code", 1, 32.0, 64.0)))
    assert found.base == pytest.approx(4)
    assert math.isnan(found.tuned) and math.isnan(found.ratio)


def test_worst_kind_has_the_highest_ratio_not_the_highest_perplexity() -> None:
    table = kinds(("prose", 3, 2.0, 3.0), ("code", 1, 32.0, 33.0), ("poem", 1, 2.0, NAN))
    assert worst(table) == ("prose", Perplexities(2.0, 3.0))
    assert worst(table[2:]) is None
