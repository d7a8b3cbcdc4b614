"""What is concluded from judged cells: rows of the report, the choice, advice, seeds, corners, judges and people."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from synthpost_dagster.cell import Cell
from synthpost_dagster.judging.verdicts import pairs
from synthpost_dagster.report import findings
from synthpost_dagster.report.browser import cell_sides
from synthpost_dagster.report.data import Cost
from synthpost_dagster.report.tables import Judged, compliance_rows, generator_of, ratio_rows
from synthpost_dagster.schemas import RatioReport
from synthpost_dagster.statistics.paired import mean_share
from synthpost_dagster.statistics.replicates import Trained
from synthpost_dagster.tasks.ids import short_hash
from synthpost_dagster.tasks.prompting import briefs_by_id
from synthpost_dagster.tasks.task import Task

A, B, C = Cell(88, "50"), Cell(176, "50"), Cell(176, "1-epoch")
TONES = ("Witty", "Calm")
FACTORS = ("post_type", "tone", "length", "company")


def game(prompt: int, opponent: str, is_first: bool, outcome: str, **other: Any) -> dict[str, Any]:
    prompt_id = short_hash(str(prompt))
    values = {
        "prompt_id": prompt_id,
        "company": f"Company {prompt % 3}",
        "product": f"Product {prompt % 5}",
        "post_type": "Question",
        "tone": TONES[prompt % 2],
        "length": "short",
        "pair_id": short_hash(prompt_id, opponent, str(other.pop("made", ""))),
        "opponent": opponent,
        "is_candidate_first": is_first,
        "outcome": outcome,
        "reason": "cut off" if outcome == "unscored" else "",
        "why": "" if outcome == "unscored" else "It asks.",
        "criteria": '{"hook": "A"}',
        "judge": "rubric",
        "candidate_words": 20 + prompt % 7,
        "opponent_words": 20,
        "has_imitation": False,
    }
    return values | other


def verdicts(wins: int, losses: int, ties: int = 0, **other: Any) -> pd.DataFrame:
    """So many pairs against each opponent, in both orders; a tie is two games that disagree."""
    rows = []
    for opponent in ("base", "prompted"):
        outcomes = ["win"] * wins + ["loss"] * losses + ["tie"] * ties
        for prompt, outcome in enumerate(outcomes):
            for is_first in (True, False):
                said = outcome if outcome != "tie" else ("win" if is_first else "loss")
                rows.append(game(prompt, opponent, is_first, said, **other))
    return pd.DataFrame(rows)


def judged(cell: Cell, seed: int, trained: Trained, games: pd.DataFrame, met: dict[str, dict[str, bool]]) -> Judged:
    return Judged(cell, seed, trained, games, pairs(games), met)


def cell(key: Cell, wins: int, losses: int, ties: int = 0, *, steps: int = 50, seed: int = 1, **other: Any) -> Judged:
    games = verdicts(wins, losses, ties, made=f"{key.key} {seed}", **other)
    met = {prompt: {"hook": True, "offer": False} for prompt in games["prompt_id"]}
    trained = Trained(key.data_size, steps, min(key.data_size, 8 * steps))
    return judged(key, seed, trained, games, met)


def test_a_cell_has_a_row_against_each_opponent_and_one_a_level() -> None:
    table = pd.DataFrame(ratio_rows([cell(A, 80, 15, 5)], FACTORS, {A: 0}, are_both_orders=True, training_seed=1))
    RatioReport.validate(table)
    whole = table[(table["factor"] == "all") & (table["opponent"] == "base")].iloc[0]
    assert (whole["wins"], whole["losses"], whole["ties"]) == (80, 15, 5)
    assert whole["win_ratio"] == pytest.approx(80 / 15)
    assert whole["order_consistency"] == pytest.approx(0.95)
    assert whole["slot_bias"] == pytest.approx(0.025)
    assert whole["length_controlled_low"] < whole["length_controlled_ratio"] < whole["length_controlled_high"]
    assert whole["compliance"] == 0.5
    assert table.groupby(["opponent", "factor"])["pairs"].sum().unique().tolist() == [100]
    assert table[table["factor"] == "tone"]["order_consistency"].isna().all()


def test_the_main_seed_is_the_profiles_whichever_comes_first() -> None:
    table = pd.DataFrame(
        ratio_rows([cell(A, 40, 2, seed=2), cell(B, 30, 12)], FACTORS, {}, are_both_orders=True, training_seed=1)
    )
    assert table[table["factor"] == "tone"]["seed"].unique().tolist() == [1]
    assert table[table["factor"] == "all"].set_index("seed")["p_adjusted"].isna().groupby(level=0).all().to_dict() == {
        1: False,
        2: True,
    }


def test_the_length_effect_is_that_of_the_cell_and_no_cell_has_none() -> None:
    table = pd.DataFrame(
        ratio_rows([cell(A, 80, 30), cell(B, 30, 80)], FACTORS, {}, are_both_orders=True, training_seed=1)
    )
    row = table[(table["factor"] == "all") & (table["opponent"] == "base") & (table["data_size"] == 176)].iloc[0]
    found = findings.length_effect(table, B)
    assert found.coefficient == row["length_coefficient"]
    assert found.low < found.coefficient < found.high
    assert math.isnan(findings.length_effect(table, None).coefficient)


def test_holm_is_over_cells_of_the_main_seed_per_opponent() -> None:
    rows = ratio_rows(
        [cell(A, 30, 12), cell(B, 28, 14), cell(B, 40, 2, seed=2)], FACTORS, {}, are_both_orders=False, training_seed=1
    )
    whole = [row for row in rows if row["factor"] == "all" and row["opponent"] == "base"]
    least, other, further = whole
    assert least["p_adjusted"] == pytest.approx(2 * least["p_value"])
    assert other["p_adjusted"] == pytest.approx(max(2 * least["p_value"], other["p_value"]))
    assert math.isnan(further["p_adjusted"])


def test_study_mode_has_neither_order_nor_length_figures() -> None:
    single = cell(A, 80, 15)
    one_order = single._replace(verdicts=single.verdicts[~single.verdicts["is_candidate_first"]])
    table = pd.DataFrame(ratio_rows([one_order], FACTORS, {}, are_both_orders=False, training_seed=1))
    RatioReport.validate(table)
    assert table["order_consistency"].isna().all()


@pytest.mark.parametrize(("wins", "losses", "ties"), [(0, 0, 9), (9, 0, 0), (0, 9, 0), (0, 0, 0)])
def test_fault_17_one_sided_and_empty_cells_are_defined(wins: int, losses: int, ties: int) -> None:
    one = cell(A, wins, losses, ties) if wins + losses + ties else None
    if one is None:
        assert ratio_rows([], FACTORS, {}, are_both_orders=True, training_seed=1) == []
        assert findings.choose([]) is None
        return
    table = pd.DataFrame(ratio_rows([one], FACTORS, {}, are_both_orders=True, training_seed=1))
    RatioReport.validate(table)
    choice = findings.choose([one])
    assert (choice is None) == (wins + losses == 0)


def test_fault_17_all_unscored_is_no_choice() -> None:
    games = verdicts(5, 5).assign(outcome="unscored", reason="reply cut off")
    one = judged(A, 1, Trained(88, 50, 88), games, {prompt: {} for prompt in games["prompt_id"]})
    table = pd.DataFrame(ratio_rows([one], FACTORS, {}, are_both_orders=True, training_seed=1))
    RatioReport.validate(table)
    assert set(table["unscored"]) == set(table["pairs"])
    assert findings.choose([one]) is None


def test_choice_has_the_highest_lower_bound_and_names_similar_cells() -> None:
    choice = findings.choose([cell(A, 80, 20), cell(B, 78, 22), cell(C, 20, 80, steps=22)])
    assert choice is not None
    assert (choice.cell, choice.chosen_among, choice.alike) == (A, 3, (B,))
    alone = findings.choose([cell(A, 80, 20)])
    assert alone is not None
    assert choice.ratio.low < alone.ratio.low, "the interval allows for having chosen"
    assert choice.against_prompted.low < alone.against_prompted.low, "the same posts were chosen"


def test_cell_with_many_ties_may_be_chosen_over_a_better_win_rate() -> None:
    """A: W 100 L 5 T 335, the higher ratio. B: W 330 L 60 T 50, the higher win rate, by 0.20 (0.16 to 0.23)."""
    choice = findings.choose([cell(A, 100, 5, 335), cell(B, 330, 60, 50)])
    assert choice is not None
    assert (choice.cell, choice.better, choice.alike) == (A, (B,), ())


@pytest.mark.parametrize("unplaced", [{"outcome": "unscored", "reason": "cut off"}, {"outcome": "tie"}])
def test_a_cell_that_cannot_be_placed_is_neither_alike_nor_below(unplaced: dict[str, str]) -> None:
    nothing = cell(B, 50, 50)
    nothing = judged(B, 1, nothing.trained, nothing.verdicts.assign(**unplaced), nothing.met)
    choice = findings.choose([cell(A, 80, 20), nothing, cell(C, 20, 80, steps=22)])
    assert choice is not None
    assert (choice.cell, choice.better, choice.alike, choice.chosen_among) == (A, (), (), 2)


def test_a_cell_with_more_than_a_fifth_unscored_is_not_the_answer() -> None:
    """W 20, L 0, X 420 has a lower bound of 4.9 on its ratio, W 330, L 70, T 40 one of 3.6."""
    few = cell(A, 440, 0)
    outcomes = ["win"] * 40 + ["unscored"] * 840
    few = judged(A, 1, few.trained, few.verdicts.assign(outcome=outcomes * 2), few.met)
    choice = findings.choose([few, cell(B, 330, 70, 40)])
    assert choice is not None
    assert (choice.cell, choice.alike, choice.chosen_among) == (B, (), 1)


def test_advice_says_what_a_step_gains_and_costs_more() -> None:
    costs = {A: Cost(0.1, 10.0, 5.0), B: Cost(0.2, 20.0, 6.0), C: Cost(0.2, 20.0, 3.0)}
    found = findings.worth([cell(A, 20, 80), cell(B, 80, 20), cell(C, 82, 18, steps=22)], costs)
    data = next(step for step in found if step.axis == "data")
    assert (data.smaller, data.larger, data.finding) == (A, B, "gain")
    assert data.difference.value == pytest.approx(0.6)
    assert data.more == pytest.approx((0.1, 10.0, 1.0))
    training = next(step for step in found if step.axis == "training")
    assert (training.smaller, training.larger, training.finding) == (C, B, "not enough evidence")


def test_seeds_of_a_cell_are_set_beside_each_other() -> None:
    (found,) = findings.seeds_of([cell(A, 80, 20), cell(A, 60, 40, seed=2), cell(B, 50, 50)])
    assert (found.cell, found.seeds) == (A, (1, 2))
    assert [ratio.value for ratio in found.spread.ratios] == pytest.approx([4.0, 1.5])


def test_the_decisive_share_is_of_all_pairs() -> None:
    assert findings.decisive_share(cell(A, 50, 20, 30)) == 0.7


def test_a_weak_corner_of_the_cell_is_found() -> None:
    games = verdicts(60, 60)
    witty = games["tone"] == "Witty"
    games["outcome"] = ["win" if is_witty else "loss" for is_witty in witty]
    one = judged(A, 1, Trained(88, 50, 88), games, {prompt: {} for prompt in games["prompt_id"]})
    assert findings.corners(one, FACTORS)[0][:2] == ("tone", "Calm")


def test_judges_are_listed_separately_and_the_panel_last() -> None:
    table = pd.concat([verdicts(10, 5), verdicts(10, 5, judge="other"), verdicts(5, 10, judge="third")])
    found = findings.judge_figures(table, {"rubric": "rubric", "other": "gpt", "third": ""}, are_both_orders=True)
    assert [(one.name, one.family, one.games) for one in found] == [
        ("rubric", "rubric", 60),
        ("other", "gpt", 60),
        ("third", "", 60),
        ("panel", "", 60),
    ]
    assert found[0].order is not None
    assert found[0].order.consistency.value == 1.0
    names = [(one, other) for one, other, _ in findings.between_judges(table)]
    assert names == [("rubric", "other"), ("rubric", "third"), ("other", "third")]
    assert findings.between_judges(table)[0][2].kappa == 1.0


def test_same_prompts_in_more_cells_add_no_evidence_about_the_judge() -> None:
    """Two judges on 60 pairs, in one cell and in five that come out alike."""

    def table(*made: str) -> pd.DataFrame:
        return pd.concat(
            part
            for name in made
            for part in (verdicts(10, 5, 15, made=name), verdicts(8, 7, 15, made=name, judge="other"))
        )

    one, five = table("0"), table(*"01234")
    families = {"rubric": "rubric", "other": "gpt"}
    few, many = (findings.judge_figures(each, families, are_both_orders=True)[0].order for each in (one, five))
    assert few is not None
    assert many is not None
    assert many.pairs == 5 * few.pairs
    assert many.position_bias == few.position_bias
    assert many.consistency == few.consistency
    assert findings.between_judges(five)[0][2][:4] == pytest.approx(findings.between_judges(one)[0][2][:4])


def test_people_agree_with_the_pairs_they_labelled() -> None:
    table = verdicts(6, 6)
    pairs = table.drop_duplicates("pair_id").set_index("pair_id")["outcome"].to_dict()
    labels = dict(list(pairs.items())[:10]) | {"00000000000000ff": "win"}
    people, unknown = findings.with_people(table, labels)
    assert people is not None
    assert (people.scored, people.agreed, unknown) == (10, 1.0, 1)
    assert findings.with_people(table, {}) == (None, 0)


def test_compliance_counts_the_posts_that_a_criterion_is_meant_for() -> None:
    met = {"p": {"hook": True, "offer": False}, "q": {"hook": False}}
    rows = {row["criterion"]: (row["met"], row["posts"]) for row in compliance_rows("base", met)}
    assert rows == {"hook": (1, 2), "offer": (0, 1)}


def test_the_mean_share_lies_in_its_interval_and_within_0_and_1() -> None:
    share = mean_share([1.0] * 20, generator_of("x"))
    assert share.value == 1.0
    assert 0.8 < share.low < 1.0 <= share.high <= 1.0
    assert math.isnan(mean_share([], generator_of("x")).value)


def test_a_figure_does_not_depend_on_what_else_is_computed() -> None:
    alone = ratio_rows([cell(A, 70, 30)], FACTORS, {}, are_both_orders=True, training_seed=1)[0]
    beside = ratio_rows([cell(B, 30, 70), cell(A, 70, 30)], FACTORS, {}, are_both_orders=True, training_seed=1)
    same = next(row for row in beside if row["data_size"] == 88 and row["factor"] == "all")
    assert (alone["length_controlled_low"], alone["compliance_low"]) == (
        same["length_controlled_low"],
        same["compliance_low"],
    )


def test_posts_are_side_by_side_below_their_games(small_task: Task) -> None:
    from synthpost_dagster.rows.prompts import evaluation_prompts

    prompts = evaluation_prompts(small_task, 2)
    games = pd.DataFrame(
        game(
            0,
            opponent,
            is_first,
            "win" if is_first else "unscored",
            prompt_id=prompt,
            pair_id=short_hash(prompt, opponent),
        )
        for prompt in prompts["prompt_id"]
        for opponent in ("base", "prompted")
        for is_first in (True, False)
    )
    one = judged(A, 1, Trained(88, 50, 88), games, {})
    tuned = prompts.assign(contestant="tuned", post="tuned")
    baselines = pd.concat([prompts.assign(contestant=name, post=name) for name in ("base", "prompted")])
    pair = next(cell_sides(one, tuned, baselines, briefs_by_id(small_task), small_task))
    assert (pair.posts, pair.values[0]) == (("tuned", "base", "prompted"), A.key)
    base = pair.matches[0]
    assert (base.pair_id, base.outcome) == (short_hash(prompts["prompt_id"].min(), "base"), "unscored")
    assert [(g.outcome, g.why, g.criteria) for g in base.games] == [
        ("win", "It asks.", (("hook", "win"),)),
        ("unscored", "cut off", (("hook", "loss"),)),
    ]
