"""The length-controlled ratio, against hand-made comparisons and a fit by another method."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy.optimize import minimize

from synthpost_dagster.statistics.games import PairOfGames
from synthpost_dagster.statistics.length_control import (
    NOTHING_SCORED,
    ONE_SIDED,
    SEPARATED,
    TOO_FEW_DECISIVE,
    TOO_FEW_SIMILAR,
    LengthControlled,
    length_controlled_ratio,
)
from synthpost_dagster.statistics.ratio import count, tie_aware_ratio

Kind = tuple[str, str, int, int]
"""Outcome tuned first, outcome tuned second, words tuned less opponent's, number of pairs."""


def pairs(*kinds: Kind) -> list[PairOfGames]:
    return [
        PairOfGames(f"{kind}-{index}", first, second, 100 + difference, 100)
        for kind, (first, second, difference, times) in enumerate(kinds)
        for index in range(times)
    ]


def fitted(*kinds: Kind, draws: int = 200) -> LengthControlled:
    return length_controlled_ratio(pairs(*kinds), np.random.default_rng(0), draws=draws)


def fair_about_length(times: int) -> list[Kind]:
    """Pairs whose outcomes have nothing to do with length: the same mixture at -10, 0 and 10 words."""
    return [(*games, words, times * share) for words in (-10, 0, 10) for *games, share in MIXTURE]


MIXTURE = [("win", "win", 6), ("loss", "loss", 2), ("win", "loss", 1), ("loss", "win", 1)]


def test_with_equal_lengths_it_is_the_tie_aware_ratio() -> None:
    kinds = [("win", "win", 0, 60), ("loss", "loss", 0, 20), ("win", "loss", 0, 10), ("loss", "win", 0, 10)]
    found = fitted(*kinds)
    # Games: (120 + 20) won, (40 + 20) lost; pairs: (60 + 20/2) / (20 + 20/2).
    assert found.value == pytest.approx(140 / 60)
    assert found.value == pytest.approx(tie_aware_ratio(count(pair.outcome for pair in pairs(*kinds))))
    assert found.position_coefficient == pytest.approx(0, abs=1e-9)
    assert math.isnan(found.length_coefficient), "posts of equal length do not tell what length does"
    assert math.isnan(found.length_coefficient_low)


def test_where_length_does_not_matter_it_is_the_tie_aware_ratio_too() -> None:
    found = fitted(*fair_about_length(5))
    assert found.value == pytest.approx((6 + 1) / (2 + 1))
    assert found.length_coefficient == pytest.approx(0, abs=1e-9)
    assert found.length_coefficient_low < 0 < found.length_coefficient_high
    assert found.low < found.value < found.high
    assert found.reason == ""


def test_tied_game_is_half_won_and_half_lost() -> None:
    as_ties = fitted(("win", "win", 0, 30), ("loss", "loss", 0, 10), ("tie", "tie", 0, 20))
    # 60 + 20 games won, 20 + 20 lost
    assert as_ties.value == pytest.approx(80 / 40)


def test_fit_is_the_maximum_of_the_penalised_likelihood() -> None:
    kinds: list[Kind] = [
        ("win", "win", 14, 40),
        ("win", "win", -3, 15),
        ("win", "loss", 1, 12),
        ("loss", "loss", -12, 18),
        ("tie", "win", 5, 9),
        ("loss", "tie", -1, 7),
        ("loss", "loss", 20, 5),
    ]
    found = fitted(*kinds)
    words = np.repeat([kind[2] for kind in kinds], [kind[3] for kind in kinds]).astype(float)
    sd = words.std()

    def loss(at: np.ndarray) -> float:
        """Two half-weighted games for a tied one; half the sum of squares as penalty."""
        total = (at[1] ** 2 + at[2] ** 2) / 2
        for first, second, difference, times in kinds:
            for outcome, slot in ((first, 0.5), (second, -0.5)):
                log_odds = at[0] + at[1] * math.tanh(difference / sd) + at[2] * slot
                won, lost = {"win": (1, 0), "loss": (0, 1), "tie": (0.5, 0.5)}[outcome]
                total += times * (won * math.log1p(math.exp(-log_odds)) + lost * math.log1p(math.exp(log_odds)))
        return float(total)

    best = minimize(loss, np.zeros(3), tol=1e-10).x
    assert math.log(found.value) == pytest.approx(best[0], abs=1e-4)
    assert (found.length_coefficient, found.position_coefficient) == pytest.approx(tuple(best[1:]), abs=1e-4)


def test_preference_for_length_is_taken_out() -> None:
    # Longer by 10: 90 % won; shorter: 10 %; equal: even. The tuned posts are mostly longer, and win for that alone.
    kinds: list[Kind] = [
        ("win", "win", 10, 180),
        ("loss", "loss", 10, 20),
        ("win", "win", -10, 5),
        ("loss", "loss", -10, 45),
        ("win", "win", 0, 25),
        ("loss", "loss", 0, 25),
    ]
    assert tie_aware_ratio(count(pair.outcome for pair in pairs(*kinds))) == pytest.approx(210 / 90)
    found = fitted(*kinds)
    assert found.value == pytest.approx(1, abs=0.05)
    assert found.low < 1 < found.high
    assert 2 < found.length_coefficient_low < found.length_coefficient < found.length_coefficient_high


def test_position_coefficient_is_positive_where_a_is_preferred() -> None:
    assert fitted(("win", "win", 0, 40), ("loss", "loss", 0, 30), ("win", "loss", 0, 30)).position_coefficient > 1
    assert fitted(("win", "win", 0, 40), ("loss", "loss", 0, 30), ("loss", "win", 0, 30)).position_coefficient < -1


def test_judge_that_always_prefers_the_longer_post_has_no_ratio() -> None:
    found = fitted(("win", "win", 5, 100), ("loss", "loss", -3, 50), ("win", "loss", 0, 30))
    assert found.reason == SEPARATED
    assert not found.is_identifiable
    assert math.isnan(found.low)
    assert math.isnan(found.length_coefficient)


def test_judge_that_always_prefers_the_shorter_post_has_no_ratio() -> None:
    assert fitted(("loss", "loss", 5, 100), ("win", "win", -3, 50)).reason == SEPARATED


def test_separation_at_another_length_than_equal_is_separation() -> None:
    assert fitted(("win", "win", 25, 100), ("loss", "loss", 20, 50), ("loss", "loss", 0, 50)).reason == SEPARATED


@pytest.mark.parametrize(("wrong", "reason"), [(9, SEPARATED), (10, "")])
@pytest.mark.parametrize(("longer", "shorter"), [("win", "loss"), ("loss", "win")])
def test_one_decided_pair_in_twenty_on_the_wrong_side_ends_separation(
    wrong: int, reason: str, longer: str, shorter: str
) -> None:
    """200 decided pairs of unlike length; those of equal length and the ties do not count."""
    found = fitted(
        (longer, longer, 5, 120 - wrong),
        (shorter, shorter, -5, 80),
        (shorter, shorter, 1, wrong),
        (shorter, shorter, 0, 25),
        ("win", "loss", 9, 15),
    )
    assert found.reason == reason


def test_nearly_all_won_is_not_separation_by_length() -> None:
    found = fitted(("win", "win", 5, 150), ("loss", "loss", 5, 4), ("win", "win", 0, 60), ("loss", "loss", 0, 2))
    assert found.reason == ""


def test_ties_at_different_lengths_end_separation() -> None:
    apart: list[Kind] = [("win", "win", 25, 100), ("loss", "loss", 20, 50), ("loss", "loss", 0, 50)]
    tied: list[Kind] = [("tie", "tie", 22, 1), ("tie", "tie", 23, 1)]
    assert fitted(*apart, tied[0]).reason == SEPARATED
    assert fitted(*apart, *tied).reason == ""


def test_three_lost_pairs_are_enough_for_an_upper_bound() -> None:
    """Every twentieth sample of 100 prompts with three lost ones has none of them, and an infinite ratio."""
    found = fitted(("win", "win", 0, 97), ("loss", "loss", 0, 3), draws=2_000)
    assert found.value == pytest.approx(97 / 3)
    assert found.low < found.value < found.high < math.inf


@pytest.mark.parametrize(("similar", "reason"), [(9, TOO_FEW_SIMILAR), (10, "")])
def test_fewer_than_a_tenth_of_similar_lengths_have_no_ratio(similar: int, reason: str) -> None:
    far = [("win", "win", 30, 60), ("loss", "loss", 30, 20), ("loss", "loss", -30, 10 - similar + 10)]
    found = fitted(*far, ("win", "win", 0, similar))
    assert found.reason == reason
    assert found.is_identifiable is (not reason)


def test_similar_means_within_a_quarter_of_a_standard_deviation() -> None:
    # Half the pairs at +40 and half at -40 words but for those at d: sd is near 40, a quarter of it near 10.
    def found(d: int) -> str:
        return fitted(
            ("win", "win", 40, 60), ("loss", "loss", 40, 30), ("loss", "loss", -40, 90), ("win", "win", d, 30)
        ).reason

    assert found(8) == ""
    assert found(11) == TOO_FEW_SIMILAR


@pytest.mark.parametrize(("wins", "reason"), [(94 - 20, TOO_FEW_DECISIVE), (95 - 20, "")])
def test_no_interval_under_95_decisive_pairs(wins: int, reason: str) -> None:
    found = fitted(("win", "win", 0, wins), ("loss", "loss", 0, 20), ("win", "loss", 0, 40))
    assert found.reason == reason
    assert math.isnan(found.low) is math.isnan(found.high) is bool(reason)
    assert found.is_identifiable


def test_where_every_game_went_one_way_there_is_no_fit() -> None:
    for outcome, value in (("win", math.inf), ("loss", 0)):
        found = fitted((outcome, outcome, 3, 60), (outcome, outcome, 0, 60))
        assert (found.value, found.reason) == (value, ONE_SIDED)
        assert math.isnan(found.low)


@pytest.mark.parametrize(("outcome", "differences"), [("win", range(40, 60)), ("loss", range(-59, -39)), ("win", [40])])
def test_one_sided_games_of_unequal_length_have_no_ratio(outcome: str, differences: range | list[int]) -> None:
    found = fitted(*((outcome, outcome, words, 100 // len(differences)) for words in differences))
    assert found.reason == TOO_FEW_SIMILAR
    assert math.isnan(found.value)
    assert math.isnan(found.length_coefficient)


def test_constant_difference_in_length_has_no_coefficient() -> None:
    found = fitted(("win", "win", 40, 80), ("loss", "loss", 40, 40))
    assert found.reason == TOO_FEW_SIMILAR
    assert math.isnan(found.length_coefficient)


def test_unscored_pairs_are_excluded() -> None:
    clean = fair_about_length(5)
    spoilt = ("unscored", "win", 400, 50), ("loss", "unscored", -400, 50)
    assert fitted(*clean, *spoilt) == fitted(*clean)
    assert fitted(*spoilt).reason == NOTHING_SCORED
    assert fitted().reason == NOTHING_SCORED


def test_always_a_judge_has_a_ratio_of_1_and_no_interval() -> None:
    found = fitted(("win", "loss", 4, 60), ("win", "loss", -4, 60), ("win", "loss", 0, 60))
    assert found.value == pytest.approx(1)
    assert found.reason == TOO_FEW_DECISIVE


def test_swapping_the_sides_inverts_the_ratio() -> None:
    there = fitted(("win", "win", 7, 80), ("loss", "loss", -9, 30), ("win", "win", -2, 20), ("loss", "win", 1, 20))
    back = fitted(("loss", "loss", -7, 80), ("win", "win", 9, 30), ("loss", "loss", 2, 20), ("win", "loss", -1, 20))
    assert back.value == pytest.approx(1 / there.value)
    assert back.length_coefficient == pytest.approx(there.length_coefficient)


def test_interval_is_that_of_prompts_and_not_of_games() -> None:
    """Where both games of a pair always agree, each is half the evidence that it seems."""
    found = fitted(("win", "win", 0, 300), ("loss", "loss", 0, 100), draws=2_000)
    # log 3 ± 1.96 √(1/300 + 1/100) over pairs, to which one won and one lost are added
    half = 1.96 * math.sqrt(1 / 301 + 1 / 101)
    assert math.log(found.high / found.low) == pytest.approx(2 * half, rel=0.06)


def test_pairs_of_one_prompt_are_drawn_together() -> None:
    kinds = fair_about_length(10)
    alone = fitted(*kinds, draws=2_000)
    doubled = [pair for pair in pairs(*kinds) for _ in range(2)]
    together = length_controlled_ratio(doubled, np.random.default_rng(0), draws=2_000)
    assert together.value == pytest.approx(alone.value)
    assert together.high / together.low == pytest.approx(alone.high / alone.low, rel=0.1)


def test_same_seed_gives_the_same_interval() -> None:
    assert fitted(*fair_about_length(5)) == fitted(*fair_about_length(5))


def test_2000_draws_of_880_games_take_under_two_seconds() -> None:
    random = np.random.default_rng(0)
    lengths = random.normal(3, 10, size=440).round()
    comparison = [
        PairOfGames(
            str(index), *random.choice(["win", "loss", "tie"], size=2, p=[0.6, 0.3, 0.1]), 100 + int(words), 100
        )
        for index, words in enumerate(lengths)
    ]
    start = time.process_time()
    assert length_controlled_ratio(comparison, random).reason == ""
    assert time.process_time() - start < 2
