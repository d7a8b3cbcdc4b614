"""The trust card in words."""

from __future__ import annotations

import math
from typing import Any

import pytest

from synthpost_dagster.report.data import LengthEffect
from synthpost_dagster.report.trust import Line, trust_cards
from synthpost_dagster.statistics.agreement import agreement
from tests.helpers.reports import control, judge, order, report, trust


def lines(length_note: str = "", **changes: Any) -> dict[str, Line]:
    """Every line by its term."""
    cards = trust_cards(report(trust=trust(**changes)), length_note)
    return {line.term: line for card in cards for line in card.lines}


def test_judge_teacher_and_student_are_named_with_their_families() -> None:
    found = lines()
    assert (found["Student"].value, found["Student"].note) == ("student-model", "Family llama")
    assert (found["Teacher"].value, found["Judged by"].value) == ("teacher-model", "judge-model")
    assert found["Family"] == Line("Family", "gpt", "Not that of the student or teacher.")


@pytest.mark.parametrize(
    ("family", "words", "mark"),
    [
        ("llama", "Shared with the student.", "warning"),
        ("qwen", "Shared with the teacher.", "warning"),
        ("", "cannot be seen", "warning"),
        ("rubric", "Criteria checked on the text", ""),
    ],
)
def test_a_judge_of_the_writers_family_is_a_warning(family: str, words: str, mark: str) -> None:
    line = lines(judges=(judge(family=family),))["Family"]
    assert words in line.note
    assert line.mark == mark


def test_order_consistency_warns_below_75_percent() -> None:
    good, poor = (lines(judges=(judge(figures=order(agreeing)),))["Order consistency"] for agreeing in (75, 74))
    assert (good.value, good.mark) == ("75 %", "good")
    assert (poor.value, poor.mark) == ("74 %", "warning")
    assert "Under 75 %" in poor.note


def test_a_judge_that_always_picks_the_first_post_is_seen() -> None:
    found = lines(judges=(judge(figures=order(0, 100, 0.5)),))
    assert found["Order consistency"].mark == "warning"
    assert found["Slot bias"].value == "+50 points"


def test_study_mode_has_no_order_figures() -> None:
    found = lines(judges=(judge()._replace(order=None),))
    assert found["Order consistency"].value == "not measured: study mode plays one order"
    assert found["Slot bias"].value == "not measured: study mode plays one order"
    nothing = order(0, 0, math.nan)
    assert lines(judges=(judge(figures=nothing),))["Order consistency"].value == "unknown"


def test_unscored_games_are_a_share() -> None:
    assert lines()["Unscored games"].value == "4 of 200 (2 %)"


@pytest.mark.parametrize(
    ("effect", "value", "mark"),
    [
        ((0.1, 0.02, 0.24), "hardly matters to the judge", "good"),
        ((0.1, -0.06, 0.26), "may matter to the judge: these pairs do not tell", "undecided"),
        ((0.1, math.nan, math.nan), "may matter to the judge: these pairs do not tell", "undecided"),
        ((0.4, 0.2, 0.6), "the judge prefers longer posts", "warning"),
        ((-0.4, -0.6, -0.2), "the judge prefers shorter posts", "warning"),
    ],
)
def test_length_effect_is_described_in_words(effect: tuple[float, float, float], value: str, mark: str) -> None:
    """It is cleared only by an interval within ±0.25."""
    line = lines(length_effect=LengthEffect(*effect))["Length"]
    assert (line.value, line.mark) == (value, mark)


def test_a_length_coefficient_of_1_more_than_doubles_the_odds() -> None:
    noted = lines(length_effect=LengthEffect(1.0, 0.5, 1.5))["Length"].note
    assert "has 2.1 times the odds (coefficient +1.00; +0.50 to +1.50)" in noted
    line = lines("length separates the outcomes", length_effect=LengthEffect())["Length"]
    assert (line.value, line.note) == ("not found", "Length separates the outcomes.")


def test_each_control_has_a_line_with_its_finding() -> None:
    controls = (control("resampled", 80, 10, 5, 5), control("empty", 5, 6, 0, 0), control("shuffled", 0, 0, 9, 0))
    found = lines(controls=controls)
    assert found["The untuned model against itself"].mark == "bad"
    assert found["Empty posts against real ones"].mark == "warning"
    assert found["Tuned posts dealt to wrong prompts against the right ones"].mark == "undecided"
    assert "At 99.9 %: 2.9 to 31; W 80, L 10, T 5, X 5 of 100 pairs" in found["The untuned model against itself"].note


def test_a_control_that_was_left_out_has_no_ratio() -> None:
    line = lines(controls=(control("shuffled", 0, 0, 0, 0),))[
        "Tuned posts dealt to wrong prompts against the right ones"
    ]
    assert (line.value, line.mark) == ("left out", "undecided")


def test_missing_controls_are_a_warning() -> None:
    line = lines(controls=(), missing_controls="not judged")["Controls"]
    assert (line.value, line.note, line.mark) == ("none", "not judged", "warning")


def test_agreement_with_people_or_how_to_get_it() -> None:
    assert "Fill the blind sheet" in lines()["With people"].note
    people = agreement(["win"] * 20 + ["loss"] * 20, ["win"] * 18 + ["loss"] * 22)
    line = lines(people=people, unknown_labels=3)["With people"]
    assert line.value == "κ 0.90"
    assert "The same on 95 % of 40 pairs." in line.note
    assert "3 labels of pairs that are not in this report." in line.note
    same = agreement(["win"] * 4, ["win"] * 4)
    assert lines(people=same)["With people"].value == "κ undefined"


def test_a_panel_is_shown_member_by_member_and_together_with_its_agreement() -> None:
    members = (judge("one"), judge("two", "llama"), judge("panel", ""))
    between = (("one", "two", agreement(["win", "loss"] * 9, ["win"] * 18)),)
    cards = trust_cards(report(trust=trust(judges=members, between_judges=between)), "")
    assert [card.title for card in cards] == [
        "Who wrote and who judges",
        "Judge one",
        "Judge two",
        "The panel together",
        "Tests with a known answer",
        "Agreement",
    ]
    assert "Family" not in [line.term for line in cards[3].lines]
    assert cards[-1].lines[0].term == "one and two"
    assert cards[-1].lines[0].value == "κ 0.00"


def test_imitations_are_counted() -> None:
    assert lines(imitations=3)["Imitations"].value == "3 games"
    assert (lines()["Imitations"].value, lines()["Imitations"].mark) == ("0 games", "")
