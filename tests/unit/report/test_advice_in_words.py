"""Steps, seeds, corners and numbers of prompts in words."""

from __future__ import annotations

import math

import pytest

from synthpost_dagster.cell import Cell
from synthpost_dagster.report.advice import (
    corner_lines,
    expected_lines,
    more_text,
    needed_lines,
    seed_lines,
    steps_from,
)
from synthpost_dagster.report.data import Cost, Seeds
from synthpost_dagster.statistics.corners import Corner
from synthpost_dagster.statistics.paired import Difference
from synthpost_dagster.statistics.power import expected_intervals
from synthpost_dagster.statistics.ratio import Counts
from synthpost_dagster.statistics.seeds import seed_spread
from tests.helpers.reports import A, B, C, D, worth


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        ("not enough evidence", "win rate +3 points (−2 to +8): not enough evidence; costs $0.02, 40 s of generation"),
        ("gain", ": a gain;"),
        ("loss", ": a loss;"),
        ("replicates", ": replicates, which saw equally many rows for as many steps, so nothing was added;"),
    ],
)
def test_step_has_gain_evidence_and_cost(finding: str, words: str) -> None:
    ([step], others) = steps_from([worth(finding, 0.03, -0.02, 0.08)], A)
    assert step.text.startswith("From 88 to 1,760 rows at 50 steps: ")
    assert words in step.text
    assert step.text.endswith("8.0 s of training more.")
    assert (step.finding, others) == (finding, [])


def test_steps_of_training_and_between_unlike_lengths_are_named() -> None:
    training = worth("gain", 0.3, 0.2, 0.4, axis="training", smaller=D, larger=A)
    unlike = worth("gain", 0.3, 0.2, 0.4, smaller=Cell(400, "1-epoch"), larger=B)
    _, others = steps_from([training, unlike], C)
    assert others[0].text.startswith("From 1 epoch to 50 steps on 88 rows: ")
    assert others[1].text.startswith("From 400 rows for 1 epoch to 1,760 rows for 50 steps: ")


def test_a_step_without_a_prompt_scored_in_both_has_no_gain() -> None:
    step = worth("not enough evidence", 0.0, -1.0, 1.0, difference=Difference(math.nan, -1.0, 1.0, 0, 95))
    assert ": no prompt was scored in both: not enough evidence;" in steps_from([step], A)[0][0].text


def test_costs_that_fall_or_are_not_known_are_said() -> None:
    assert more_text(Cost(0.0, 11.0, -1.0)) == "no money and 11 s of generation more, 1.0 s of training less"
    assert more_text(Cost(0.5, math.nan, 60.0)) == "$0.50, an unknown time of generation, 1 min 0 s of training more"


UNDECIDED = Counts(0, 0, 9, 0)


def spread_of(*counts: Counts) -> str:
    (line,) = seed_lines([Seeds(A, tuple(range(len(counts))), seed_spread(counts))])
    return line.spread


def test_seeds_show_each_ratio_and_few_of_them_the_range_alone() -> None:
    counts = [Counts(81, 14, 3, 2), Counts(60, 30, 5, 5)]
    (line,) = seed_lines([Seeds(A, (1, 2), seed_spread(counts))])
    assert line.ratios == ((1, "5.8 (3.3 to 11)"), (2, "2.0 (1.3 to 3.2)"))
    assert line.spread == "2.0 to 5.6 over 2 seeds. So few seeds do not tell the spread."
    assert spread_of(*counts, UNDECIDED).startswith(
        "2.0 to 5.6 over 2 seeds (without 1 seed that had no decisive pair)."
    )
    assert spread_of(counts[0], UNDECIDED) == "Fewer than two seeds have a decisive pair: there is no spread."


def test_five_seeds_show_both_spreads() -> None:
    counts = [Counts(81, losses, 3, 2) for losses in (8, 14, 20, 30, 60)]
    found, spread = spread_of(*counts), seed_spread(counts)
    between, low, high, within = (f"{math.exp(log):.2f}" for log in spread[4:])
    assert f"5 seeds: one standard deviation between seeds is a factor of {between} ({low} to {high}, at 95 %)" in found
    assert f"gives one of {within} within a seed." in found
    assert "does not show" not in found


def test_a_spread_below_chance_is_not_read_as_none() -> None:
    assert spread_of(*[Counts(81, 14, 3, 2)] * 5).endswith(
        "A spread below chance does not show that seeds do not matter."
    )


def test_corners_are_named_with_their_counts_and_the_number_of_looks() -> None:
    corner = Corner("post_type", "Question", Counts(2, 8, 1, 0), Counts(70, 10, 3, 2), 0.0123)
    assert corner_lines([corner], 35) == [
        "Post type Question: won 2 of 10 decided pairs, elsewhere 70 of 80 decided pairs (T 1, X 0 here; p = 0.012 "
        "after allowing for 35 looks)."
    ]


def test_no_corner_is_not_read_as_no_weakness() -> None:
    assert corner_lines([], 35) == [
        "None stands out after allowing for 35 looks. That does not show that none is weak."
    ]
    assert corner_lines([], 0) == ["There are no levels to look at."]


def test_effect_that_a_number_of_prompts_can_show() -> None:
    lines = expected_lines(expected_intervals(440), 440, "prompt")
    assert lines[0] == "A true ratio of 2 would be shown as 1.6 to 2.5 with 440 prompts, had every pair been decided."
    assert [line.split()[4] for line in lines] == ["2", "5", "7"]


def test_only_decided_pairs_count_as_evidence() -> None:
    (line, *_) = expected_lines(expected_intervals(440, 0.5), 440, "prompt", 0.5)
    # what 220 pairs show
    assert line == (
        "A true ratio of 2 would be shown as 1.5 to 2.7 with 440 prompts, if 50 % of the pairs are decided, as here."
    )


def test_how_many_decided_pairs_a_wanted_width_takes() -> None:
    lines = needed_lines()
    assert lines[2] == "To know a ratio of 7 to within a factor of 1.25 takes 747 decided pairs."
    assert lines[3] == "To tell 60 % of the pairs won from half of them takes 194 decided pairs."
    (two, *_) = needed_lines(0.8)
    assert two.endswith("decided pairs, so 460 prompts if 80 % of the pairs are decided, as here.")
