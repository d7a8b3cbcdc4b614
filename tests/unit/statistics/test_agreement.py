"""Cohen's κ, against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from synthpost_dagster.statistics.agreement import _kappa, _slopes, agreement


def labels(table: dict[tuple[str, str], int]) -> tuple[list[str], list[str]]:
    both = [pair for pair, times in table.items() for _ in range(times)]
    return [one for one, _ in both], [other for _, other in both]


TEXTBOOK = {("win", "win"): 20, ("win", "loss"): 5, ("loss", "win"): 10, ("loss", "loss"): 15}


def test_kappa_of_the_textbook_table() -> None:
    # pₒ = 35/50; pₑ = (25 · 30 + 25 · 20) / 50² = 0.5; (0.7 - 0.5) / (1 - 0.5)
    found = agreement(*labels(TEXTBOOK))
    assert found.kappa == pytest.approx(0.4)
    assert found.agreed == 0.7
    assert (found.scored, found.unscored) == (50, 0)
    assert 0.1 < found.low < 0.4 < found.high < 0.7


def test_slopes_are_those_of_kappa() -> None:
    table = np.array([[20.0, 5.0, 2.0], [10.0, 15.0, 1.0], [3.0, 0.5, 8.0]])
    shares = table / table.sum()
    slopes = np.zeros_like(shares)
    for place in np.ndindex(*shares.shape):
        moved = shares.copy()
        moved[place] += 1e-6

        def kappa(of: np.ndarray) -> float:
            expected = of.sum(axis=1) @ of.sum(axis=0)
            return float((np.trace(of) - expected) / (1 - expected))

        slopes[place] = (kappa(moved) - kappa(shares)) / 1e-6
    assert _slopes(table) == pytest.approx(slopes - (shares * slopes).sum(), rel=1e-4)


def test_interval_is_that_of_fleiss_for_one_item_a_prompt() -> None:
    # With half an item added to each cell κ = 0.3846; the standard error is of their eq. 13.
    found = agreement(*labels(TEXTBOOK))
    table = np.array([[20.5, 5.5], [10.5, 15.5]])
    shares, kappa = table / 52, _kappa(table)
    first, second = shares.sum(axis=1), shares.sum(axis=0)
    expected = first @ second
    variance = (
        sum(shares[i, i] * (1 - (first[i] + second[i]) * (1 - kappa)) ** 2 for i in (0, 1))
        + (1 - kappa) ** 2 * sum(shares[i, 1 - i] * (second[i] + first[1 - i]) ** 2 for i in (0, 1))
        - (kappa - expected * (1 - kappa)) ** 2
    )
    half = 1.95996 * math.sqrt(variance / 52) / (1 - expected)
    assert (found.low, found.high) == pytest.approx((kappa - half, kappa + half), abs=1e-5)


def test_items_of_one_prompt_that_always_agree_count_as_one() -> None:
    first, second = labels(TEXTBOOK)
    prompts = [str(index) for index in range(50)]
    assert agreement(first * 6, second * 6, prompts * 6)[:4] == pytest.approx(agreement(first, second, prompts)[:4])
    assert agreement(first * 6, second * 6).low > agreement(first, second).low


def test_unrelated_items_of_one_prompt_are_nearly_independent() -> None:
    random = np.random.default_rng(0)
    first = random.choice(["win", "loss"], size=2_000).tolist()
    second = [label if random.random() < 0.7 else "win" for label in first]
    apart, together = (agreement(first, second, prompts) for prompts in ([], [str(i % 400) for i in range(2_000)]))
    assert together.high - together.low == pytest.approx(apart.high - apart.low, rel=0.15)


def test_full_agreement_is_1_with_a_lower_bound() -> None:
    found = agreement(["win"] * 30 + ["loss"] * 30, ["win"] * 30 + ["loss"] * 30)
    assert (found.kappa, found.high) == (1, 1)
    assert 0.8 < found.low < 1


def test_chance_agreement_is_0_and_disagreement_below() -> None:
    chance = labels({("win", "win"): 25, ("win", "loss"): 25, ("loss", "win"): 25, ("loss", "loss"): 25})
    assert agreement(*chance).kappa == pytest.approx(0)
    found = agreement(["win"] * 30 + ["loss"] * 30, ["loss"] * 30 + ["win"] * 30)
    assert (found.kappa, found.low) == (-1, -1)


def test_unscored_items_are_counted_apart() -> None:
    first, second = labels(TEXTBOOK)
    spoilt = agreement([*first, "unscored", "win", ""], [*second, "win", "unscored", "unscored"])
    assert spoilt.unscored == 3
    assert spoilt._replace(unscored=0) == agreement(first, second)


@pytest.mark.parametrize("both", [([], []), (["win"] * 9, ["win"] * 9), (["unscored"], ["win"])])
def test_kappa_of_one_label_is_undefined(both: tuple[list[str], list[str]]) -> None:
    found = agreement(*both)
    assert math.isnan(found.kappa)
    assert (found.low, found.high) == (-1, 1)


def test_who_is_named_first_does_not_matter() -> None:
    first, second = labels(TEXTBOOK)
    assert agreement(first, second)[:3] == pytest.approx(agreement(second, first)[:3])


def test_lists_of_different_items_are_refused() -> None:
    with pytest.raises(ValueError, match="2 labels against 1"):
        agreement(["win", "loss"], ["win"])
