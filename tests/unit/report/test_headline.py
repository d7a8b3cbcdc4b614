"""What the page says first: the headline in every case, and the notices above it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from synthpost_dagster.cell import Cell
from synthpost_dagster.report.data import Cost
from synthpost_dagster.report.headline import headline, notices, pairs_headline
from synthpost_dagster.report.views import cell_views
from synthpost_dagster.statistics.comparison import compare
from tests.helpers.reports import (
    GOOD_CONTROLS,
    A,
    B,
    C,
    D,
    choice,
    control,
    judge,
    order,
    outer_pair,
    pairs_report,
    ratio_row,
    ratios,
    report,
    trust,
)


def said(**changes: Any) -> tuple[str, str]:
    """Title and sentences."""
    data = report(**changes)
    found = headline(data, cell_views(data.shown_ratios))
    return found.title, " ".join(found.sentences)


def of_one(counts: tuple[int, int, int, int], **changes: Any) -> tuple[str, str]:
    """The headline of a report with one cell."""
    table = ratios(ratio_row(A, counts))
    chosen = choice(A, counts, 1, ()) if counts[0] + counts[1] else None
    return said(ratios=table, choice=chosen, **changes)


def titles(**changes: Any) -> list[str]:
    return [notice.title for notice in notices(report(**changes))]


def test_headline_names_cell_counts_and_interval_after_the_choice() -> None:
    title, text = said()
    assert title == "Tuned on 88 rows for 50 steps: preferred 5.8 times as often as the untuned model"
    assert "is 5.8, between 2.9 and 13 (95 %, allowing for having chosen the best of 4 cells)" in text
    assert "W 81, L 14, T 3, X 2 of 100 pairs" in text


def test_headline_names_similar_cells_and_cost() -> None:
    _, text = said()
    assert "it cannot be told from 1,760 rows for 50 steps; 8,800 rows for 50 steps." in text
    assert "That does not show that they are equal. It is also the smallest and the cheapest of these." in text
    assert "it does better than the other 1 cell." in text
    assert "It cost $0.02 and 35 s of generation for its rows, 8.0 s of training; judging is not counted." in text


def test_cell_with_a_better_win_rate_is_not_listed_as_similar() -> None:
    title, text = said(choice=choice(alike=(C,), better=(B,)))
    assert title.startswith("Tuned on 88 rows for 50 steps")
    assert "On the same prompts 1,760 rows for 50 steps does better by win rate (ties count half)." in text
    assert "it cannot be told from 8,800 rows for 50 steps. That" in text
    assert "it does better than the other 1 cell." in text


def test_headline_gives_the_worst_case_where_pairs_are_unscored() -> None:
    _, text = said()
    # W 81, L 14 + 2
    assert (
        "2 pairs of 100 (2 %) could not be scored. In the worst case, with all of these lost, the ratio is 5.1" in text
    )
    assert "Then it would not be shown to win." not in text
    assert "worst case" not in of_one((81, 14, 3, 0))[1]
    assert "the ratio is 1.3 (0.89 to 2.0). Then it would not be shown to win." in of_one((60, 25, 0, 20))[1]


def test_cells_with_many_unscored_or_undecided_pairs_are_not_ranked() -> None:
    table = ratios(ratio_row(A, (81, 14, 0, 0)), ratio_row(B, (20, 0, 0, 75)), ratio_row(C, (0, 0, 95, 0)))
    _, text = said(ratios=table, choice=choice(A, (81, 14, 0, 0), 1, ()))
    assert "1,760 rows for 50 steps is left out: W 20, L 0, T 0, X 75 of 95 pairs. With more than 20 % unscored" in text
    assert "1 cell cannot be placed: no decisive pair against the untuned model with the short prompt." in text
    assert "does better than" not in text


def test_headline_names_a_cheaper_cell_that_is_similar() -> None:
    _, text = said(choice=choice(B, (70, 20, 5, 0), 4, (A, C)))
    assert "The smallest and cheapest of these is 88 rows for 50 steps: $0.02 and 35 s of generation" in text


def test_the_smallest_need_not_be_the_cheapest() -> None:
    costs = {A: Cost(0.0, 10.0, 90.0), B: Cost(0.0, 12.0, 8.0), C: Cost(0.0, 60.0, 8.0)}
    _, text = said(costs=costs)
    assert "The smallest of these is 88 rows for 50 steps, the cheapest 1,760 rows for 50 steps: nothing and" in text


def test_time_that_is_not_known_is_said_to_be_unknown() -> None:
    _, text = said(costs={A: Cost(0.0, math.nan, 8.0)})
    assert "It cost nothing and an unknown time of generation for its rows" in text


def test_headline_compares_tuning_with_prompting() -> None:
    _, text = said()
    assert "Prompting alone would give 7.0 (3.6 to 15): the untuned model with the long prompt" in text
    assert "(W 70, L 10, T 18, X 2 of 100 pairs)" in text
    assert "Tuned posts against prompted ones directly: 0.91 (0.51 to 1.6) (95 %, allowing for having chosen" in text
    assert "of 4 cells), W 40, L 44, T 11, X 5 of 100 pairs." in text
    assert "The interval holds 1, so neither is shown to be better." in text
    assert "84 tokens on average instead of 612, so 528 fewer for every post." in text
    assert "What prompting alone would give has not been judged." in said(prompting=None)[1]
    assert "fewer for every post" not in said(prompt_tokens={"base": 84.0, "prompted": 80.0})[1]


@pytest.mark.parametrize(
    ("counts", "among", "words"),
    [
        ((60, 20, 0, 0), 4, "tuning does better than prompting alone"),
        ((20, 60, 0, 0), 4, "prompting alone does better"),
        ((60, 36, 0, 0), 1, "tuning does better than prompting alone"),
        ((60, 36, 0, 0), 15, "The interval holds 1, so neither is shown to be better."),
        ((0, 0, 80, 0), 4, "nothing can be said about it"),
        ((60, 0, 0, 40), 4, "nothing can be said about it"),
    ],
)
def test_headline_claims_a_winner_only_if_the_interval_excludes_1(
    counts: tuple[int, int, int, int], among: int, words: str
) -> None:
    table = ratios(ratio_row(A, (81, 14, 3, 2)), ratio_row(A, counts, opponent="prompted"))
    assert words in said(ratios=table, choice=choice(among=among, alike=(), prompted=counts))[1]


def test_headline_claims_no_winner_where_the_interval_holds_1() -> None:
    title, text = of_one((50, 40, 5, 0))
    assert title == "No cell is shown to beat the untuned model with the short prompt."
    assert "there is no other cell to choose from" in text


def test_an_interval_that_leaves_out_1_only_before_the_choice_is_no_win() -> None:
    counts = (60, 36, 0, 0)
    chosen = choice(A, counts, 15, ())
    assert chosen.ratio.low < 1 < ratio_row(A, counts)["win_ratio_low"]
    title, _ = said(ratios=ratios(ratio_row(A, counts), ratio_row(B, (48, 48, 0, 0))), choice=chosen)
    assert title == "No cell is shown to beat the untuned model with the short prompt."


def test_headline_says_where_every_cell_loses() -> None:
    assert (
        of_one((10, 80, 0, 0))[0] == "In every cell the tuned posts lose to the untuned model more often than they win."
    )


def test_cell_without_a_loss_has_only_a_lower_bound() -> None:
    title, text = of_one((100, 0, 0, 0))
    assert title == "Tuned on 88 rows for 50 steps: preferred in every decided pair"
    assert "is ∞, at least 26.6 (95 %" in text


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((0, 0, 95, 0), "No cell has a decisive pair."),
        ((0, 0, 0, 95), "No cell can be chosen."),
        ((20, 0, 0, 75), "No cell can be chosen."),
    ],
)
def test_without_a_cell_to_choose_there_is_no_ratio(counts: tuple[int, int, int, int], expected: str) -> None:
    table = ratios(ratio_row(A, counts))
    title, text = said(ratios=table, choice=None)
    assert title == expected
    assert "Prompting alone would give" in text


def test_no_winner_where_the_judge_cannot_be_trusted_and_why() -> None:
    title, text = said(trust=trust(controls=(control("resampled", 80, 10, 5, 5), control("empty", 0, 95, 0, 5))))
    assert title == "The judge cannot be trusted, so no winner is named."
    assert "two sets of posts by the same model must come out near 1, and the ratio is 8.0" in text
    assert "its 99.9 % interval 2.9 to 31 (W 80, L 10, T 5, X 5 of 100 pairs)" in text
    assert "Tuned on" not in text
    assert "Empty" not in text, "a test that was passed is no reason"


@pytest.mark.parametrize(
    ("result", "kind", "words"),
    [
        (control("resampled", 80, 10, 5, 5), "bad", "The untuned model against itself"),
        (control("resampled", 65, 35, 0, 0), "warning", "one of twenty runs"),
        (control("resampled", 0, 0, 95, 5), "warning", "always picks the same place"),
        (control("empty", 5, 6, 0, 0), "warning", "They are not shown to lose."),
        (control("shuffled", 60, 10, 0, 0), "bad", "posts written for another prompt must lose"),
    ],
)
def test_every_control_that_is_not_good_is_a_notice(result: Any, kind: str, words: str) -> None:
    (notice,) = notices(report(trust=trust(controls=(result,))))
    assert notice.kind == kind
    assert words in notice.text
    assert f"W {result.counts.wins}, L {result.counts.losses}" in notice.text


def test_a_control_that_was_left_out_is_said_to_be() -> None:
    (notice,) = notices(report(trust=trust(controls=(*GOOD_CONTROLS[:2], control("shuffled", 0, 0, 0, 0)))))
    assert notice.title == "A test of the judge was left out."
    assert "There is one evaluation prompt" in notice.text


def test_good_controls_give_no_notice_and_the_gravest_comes_first() -> None:
    assert titles(trust=trust(controls=GOOD_CONTROLS)) == []
    mixed = (control("resampled", 65, 35, 0, 0), control("shuffled", 60, 10, 0, 0))
    found = titles(trust=trust(controls=mixed), is_study_mode=True, caution="Toy.")
    assert found == [
        "The judge failed a test.",
        "A test of the judge gives a warning.",
        "Study mode.",
        "Caution.",
    ]


def test_missing_controls_and_an_inconsistent_judge_are_notices() -> None:
    found = notices(report(trust=trust(controls=(), missing_controls="materialize the job `controls`")))
    assert [(one.kind, one.title) for one in found] == [("warning", "The judge has not been tested.")]
    assert "materialize the job `controls`" in found[0].text
    slots = judge(figures=order(0, 100, 0.5))
    (notice,) = notices(report(trust=trust(judges=(slots,))))
    assert "agree in 0 % of pairs, where 75 %" in notice.text


def test_missing_cells_are_listed_in_words() -> None:
    (notice,) = notices(report(missing=(("176|1-epoch", "not trained"),)))
    assert notice.title == "1 cell of the sweep is not in this report."
    assert notice.items == ("176 rows | 1 epoch: not trained",)


def test_the_cell_in_the_headline_is_that_of_the_choice() -> None:
    data = report(choice=choice(D, (50, 40, 5, 0), 4, ()))
    view = headline(data, cell_views(data.shown_ratios)).view
    assert view is not None
    assert view.cell == Cell(88, "1-epoch")


@pytest.mark.parametrize(
    ("outcomes", "title"),
    [
        (["win"] * 81 + ["loss"] * 14, "tuned: preferred 5.8 times as often as untuned"),
        (["win"] * 50, "tuned: preferred in every decided pair"),
        (["loss"] * 50, "tuned loses to untuned more often than it wins."),
        (["win", "loss"] * 20, "Neither tuned nor untuned is shown to be better."),
        (["tie"] * 9 + ["unscored"], "No pair was won or lost."),
        ([], "No pair was won or lost."),
    ],
)
def test_headline_of_pairs_from_elsewhere(outcomes: list[str], title: str) -> None:
    assert pairs_headline(pairs_report(comparison=compare(outcomes), pairs=(outer_pair(),))).title == title


def test_headline_of_pairs_gives_counts_and_the_worst_case() -> None:
    text = " ".join(pairs_headline(pairs_report()).sentences)
    assert "W 78, L 14, T 0, X 3 of 95 pairs. The win ratio is 5.6 (3.1 to 11), at 95 %." in text
    assert (
        "3 pairs of 95 (3 %) could not be scored. In the worst case, with all of these lost, the ratio is 4.6" in text
    )
    assert "Every pair was scored" in " ".join(
        pairs_headline(pairs_report(comparison=compare(["win", "loss"]))).sentences
    )
