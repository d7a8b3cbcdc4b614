"""The answer of the first screen in every case, its baselines and next steps, and the notices above it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from synthpost_dagster.report.answer import Answer, Baseline, answer_of
from synthpost_dagster.report.data import Cost, LengthEffect
from synthpost_dagster.report.page import render_page
from synthpost_dagster.report.views import cell_views
from synthpost_dagster.statistics.ratio import Counts
from synthpost_dagster.statistics.style import Separation
from tests.helpers.reports import (
    GOOD_CONTROLS,
    A,
    B,
    C,
    Reader,
    choice,
    control,
    judge,
    order,
    ratio_row,
    ratios,
    report,
    trust,
    worth,
)

SEPARATION = Separation("words", is_more_preferred=True, followed=90, unlike=92)
UNTRUSTED = trust(controls=(control("resampled", 80, 10, 5, 5),))
Four = tuple[int, int, int, int]


def answer(**changes: Any) -> Answer:
    data = report(**changes)
    return answer_of(data, cell_views(data.shown_ratios))


def of_cell(counts: Four, prompted: Four | None = None, among: int = 1, **changes: Any) -> Answer:
    """The answer of a report with one cell, against one baseline or both."""
    rows = [ratio_row(A, counts)]
    rows += [ratio_row(A, prompted, opponent="prompted")] if prompted else []
    chosen = choice(A, counts, among, (), prompted=prompted or counts) if counts[0] + counts[1] else None
    return answer(**{"ratios": ratios(*rows), "choice": chosen} | changes)


@pytest.mark.parametrize(
    ("counts", "prompted", "decision", "reason"),
    [
        ((81, 14, 3, 2), (60, 20, 0, 0), "yes", "better than every baseline"),
        ((81, 14, 3, 2), None, "yes", "better than the short prompt"),
        ((81, 14, 3, 2), (20, 60, 0, 0), "no", "worse than the long prompt"),
        ((81, 14, 3, 2), (40, 44, 11, 5), "unclear", "not shown to beat the long prompt"),
        ((81, 14, 3, 2), (0, 0, 80, 0), "unclear", "not shown to beat the long prompt"),
        ((81, 14, 3, 2), (60, 0, 0, 40), "unclear", "not shown to beat the long prompt"),
        ((50, 40, 5, 0), (60, 20, 0, 0), "unclear", "not shown to beat the short prompt"),
        ((10, 80, 0, 0), None, "no", "worse in every cell"),
        ((0, 0, 95, 0), None, "unclear", "no decisive pair"),
        ((0, 0, 0, 95), None, "unclear", "too many unscored"),
    ],
)
def test_decision_follows_intervals_against_both_baselines(
    counts: Four, prompted: Four | None, decision: str, reason: str
) -> None:
    found = of_cell(counts, prompted)
    assert (found.decision, found.reason) == (decision, reason)


def test_cell_with_too_many_unscored_pairs_is_not_chosen() -> None:
    assert of_cell((20, 0, 0, 75), choice=None).reason == "too many unscored"


def test_interval_without_1_only_before_choosing_is_no_win() -> None:
    counts = (60, 36, 0, 0)
    assert choice(A, counts, 15, ()).ratio.low < 1 < ratio_row(A, counts)["win_ratio_low"]
    assert of_cell(counts, among=15).reason == "not shown to beat the short prompt"
    assert of_cell(counts, among=1).decision == "yes"


@pytest.mark.parametrize(
    ("changes", "reason", "step"),
    [
        ({"trust": UNTRUSTED}, "judge failed", "replace the judge"),
        ({"separations": (SEPARATION,)}, "style decides", "compare posts of equal style"),
        ({"ratios": ratios(), "choice": None}, "nothing judged", "run more cells"),
    ],
)
def test_no_cell_is_named_without_trusted_outcomes(changes: dict[str, Any], reason: str, step: str) -> None:
    found = answer(**changes)
    assert (found.decision, found.reason, found.best) == ("unclear", reason, None)
    assert [one.kind for one in found.next] == [step]
    assert [(row.contestant, row.opponent) for row in found.baselines] == [("prompted", "base")]


def test_baselines_have_counts_adjusted_ratios_and_prompt_tokens() -> None:
    chosen = choice()
    tuned, prompted, alone = answer().baselines
    assert tuned == Baseline("tuned", "base", Counts(81, 14, 3, 2), chosen.ratio, (84.0, 84.0))
    assert prompted == Baseline("tuned", "prompted", Counts(40, 44, 11, 5), chosen.against_prompted, (84.0, 612.0))
    assert (alone.counts, alone.prompt_tokens) == (Counts(70, 10, 18, 2), (612.0, 84.0))
    assert answer(prompt_tokens={}).baselines[0].prompt_tokens == (None, None)


def test_cells_that_cannot_be_compared_are_counted() -> None:
    table = ratios(ratio_row(A, (81, 14, 0, 0)), ratio_row(B, (20, 0, 0, 75)), ratio_row(C, (0, 0, 95, 0)))
    found = answer(ratios=table, choice=choice(A, (81, 14, 0, 0), 1, ()))
    assert [view.cell for view in found.too_unscored] == [B]
    assert found.undecided == 1


def test_smallest_and_cheapest_equal_cells_are_named() -> None:
    assert (answer().smallest, answer().cheapest) == (A, A)
    costs = {A: Cost(0.0, 10.0, 90.0), B: Cost(0.0, 12.0, 8.0), C: Cost(0.0, math.nan, 21.0)}
    found = answer(costs=costs)
    assert (found.smallest, found.cheapest) == (A, B)
    assert answer(costs={}).cheapest is None


def steps(**changes: Any) -> list[str]:
    counts, prompted = (81, 14, 3, 2), (60, 20, 0, 0)
    return [one.kind for one in of_cell(counts, prompted, **changes).next]


def test_next_steps_of_a_clear_result() -> None:
    assert steps() == ["use the adapter", "extend the sweep", "check the judge with people"]
    gain = worth("gain", 0.3, 0.2, 0.4)
    assert steps(worth=(gain,), seeds=()) == [
        "use the adapter",
        "take the larger cell",
        "check the judge with people",
        "train another seed",
    ]
    untested = trust(controls=(), missing_controls="not judged")
    assert "test the judge" in steps(trust=untested)


@pytest.mark.parametrize(("prompts", "share", "needed"), [(100, 1.0, 194), (100, 0.5, 388), (440, 1.0, None)])
def test_unclear_result_asks_for_prompts_or_a_larger_effect(prompts: int, share: float, needed: int | None) -> None:
    found = of_cell((50, 40, 5, 0), evaluation_prompts=prompts, decisive_share=share).next[0]
    assert (found.kind, found.about) == (("judge more prompts", needed) if needed else ("try more rows or steps", None))


@pytest.mark.parametrize(
    ("effect", "finding"),
    [
        ((0.1, 0.02, 0.24), "small"),
        ((0.1, -0.06, 0.26), "unclear"),
        ((0.1, math.nan, math.nan), "unclear"),
        ((0.4, 0.2, 0.6), "longer"),
        ((-0.4, -0.6, -0.2), "shorter"),
        ((math.nan, math.nan, math.nan), ""),
    ],
)
def test_length_effect_is_small_only_if_its_interval_is(effect: tuple[float, float, float], finding: str) -> None:
    assert LengthEffect(*effect).finding == finding
    assert LengthEffect(1.0).odds == pytest.approx(math.exp(math.tanh(1)))


def notices(**changes: Any) -> list[tuple[str, str]]:
    """(kind, text) of each notice above the answer."""
    top = render_page(report(**changes)).partition('id="answer"')[0]
    return [(part.split('"')[0].strip(), Reader("<p>" + part).text) for part in top.split('<div class="notice')[1:]]


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (control("resampled", 80, 10, 5, 5), "bad"),
        (control("resampled", 65, 35, 0, 0), "warning"),
        (control("resampled", 0, 0, 95, 5), "warning"),
        (control("empty", 5, 6, 0, 0), "warning"),
        (control("shuffled", 60, 10, 0, 0), "bad"),
    ],
)
def test_every_control_that_is_not_good_is_a_notice(result: Any, kind: str) -> None:
    ((found, text),) = notices(trust=trust(controls=(result,)))
    assert found == kind
    assert f"W {result.counts.wins}, L {result.counts.losses}" in text


@pytest.mark.usefixtures("no_drawing")
def test_notices_come_with_the_gravest_first() -> None:
    assert notices(trust=trust(controls=GOOD_CONTROLS)) == []
    mixed = (control("resampled", 65, 35, 0, 0), control("shuffled", 60, 10, 0, 0), control("empty", 0, 0, 0, 0))
    judges = (judge(figures=order(0, 100, 0.5)),)
    found = notices(
        trust=trust(controls=mixed, judges=judges),
        separations=(SEPARATION,),
        is_study_mode=True,
        is_embedded=True,
        missing=(("176|1-epoch", "not trained"),),
    )
    assert [kind for kind, _ in found] == ["bad", "warning", "warning", "bad", "warning", "note", "note", "note"]
    assert "90 of 92 decided pairs" in found[3][1]
    assert "0 % of pairs" in found[4][1]
    assert "176 rows | 1 epoch: not trained" in found[-1][1]
    ((kind, text),) = notices(trust=trust(controls=(), missing_controls="materialize the job `controls`"))
    assert kind == "warning"
    assert "materialize the job `controls`" in text
