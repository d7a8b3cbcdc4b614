"""The comparisons whose answer is known: what is set against what, and what their outcomes say of the judge."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from synthpost_dagster.judging.controls import control_contests, controlled, shuffled_prompts
from synthpost_dagster.judging.judges import Rubric
from synthpost_dagster.judging.replies import JudgeReply
from synthpost_dagster.judging.verdicts import BOTH_ORDERS, Game, judge_contests
from synthpost_dagster.quality import gates
from synthpost_dagster.rows.prompts import evaluation_prompts
from synthpost_dagster.runtime.progress import SILENT, Progress
from synthpost_dagster.tasks.task import Task


class Blind:
    """Picks by the posts' first letters alone, so that it cannot tell an empty or a wrong post."""

    name, attempts, ties_when_forced = "blind", 1, False

    def __init__(self, pick: str) -> None:
        self.pick = pick
        self.identity: dict[str, Any] = {}

    def replies(self, task: Task, games: list[Game], attempt: int, progress: Progress) -> list[JudgeReply]:
        if self.pick == "shorter":
            picks = ["A" if len(game.post_a) < len(game.post_b) else "B" for game in games]
        else:
            picks = [self.pick] * len(games)
        return [JudgeReply(f'{{"verdict": "{pick}"}}') for pick in picks]


def posts(task: Task, contestant: str, text: str) -> pd.DataFrame:
    prompts = evaluation_prompts(task, 33)[list(task.spec.prompt_columns)]
    named = [
        f"{text} {company} {product}" for company, product in zip(prompts["company"], prompts["product"], strict=True)
    ]
    return prompts.assign(contestant=contestant, post=named, finish_reason="stop", prompt_tokens=1, completion_tokens=1)


def contests(task: Task, prompts: int = 33) -> list[Any]:
    samples = pd.concat([posts(task, "control_a", "one"), posts(task, "control_b", "other")])
    baselines = pd.concat([posts(task, "base", "base"), posts(task, "prompted", "longer prompted")])
    return control_contests(task, samples, baselines, posts(task, "tuned", "tuned").head(prompts))


def judged(task: Task, judge: Any) -> pd.DataFrame:
    return judge_contests(task, [judge], contests(task), BOTH_ORDERS, [SILENT])


def test_each_prompt_is_in_every_comparison_of_the_table(small_task: Task) -> None:
    table = judged(small_task, Rubric(small_task))
    assert table.groupby("opponent").size().to_dict() == dict.fromkeys(
        ("resampled", "empty", "shuffled", "prompting"), 66
    )
    schema = gates.evaluate("control_verdicts", small_task, table)[0]
    assert schema.is_passed, schema.message


def test_sides_are_those_the_comparison_is_named_for(small_task: Task) -> None:
    sides = {
        one.opponent: (one.candidate_post.split()[:1], one.opponent_post.split()[0]) for one in contests(small_task)
    }
    assert sides == {
        "resampled": (["one"], "other"),
        "empty": ([], "base"),
        "shuffled": (["tuned"], "tuned"),
        "prompting": (["longer"], "base"),
    }


def test_shuffled_post_is_for_another_product_and_assigned_once(sales_posts: Task) -> None:
    tuned = evaluation_prompts(sales_posts, 440)
    product = dict(zip(tuned["prompt_id"], tuned["product"], strict=True))
    dealt = shuffled_prompts(sales_posts, tuned)
    assert sorted(dealt.values()) == sorted(product)
    assert [prompt for prompt, other in dealt.items() if product[prompt] == product[other]] == []


@pytest.mark.parametrize("own", [440, 439, 300, 221])
def test_shuffled_post_of_the_main_product_has_another_type_or_tone(sales_posts: Task, own: int) -> None:
    tuned = evaluation_prompts(sales_posts, 440).reset_index(drop=True)
    tuned["product"] = tuned["product"].where(tuned.index >= own, "Lamp")
    named = tuned.set_index("prompt_id")[["product", "post_type", "tone"]].apply(tuple, axis=1).to_dict()
    dealt = shuffled_prompts(sales_posts, tuned)
    assert sorted(dealt.values()) == sorted(named)
    assert [prompt for prompt, other in dealt.items() if named[prompt] == named[other]] == []
    # Each post for another product goes to a prompt for the lamp, and no more can.
    assert sum(named[prompt][0] == named[other][0] for prompt, other in dealt.items()) == 2 * own - 440


@pytest.mark.parametrize("prompts", [2, 3])
def test_few_prompts_never_get_their_own_post(small_task: Task, prompts: int) -> None:
    dealt = shuffled_prompts(small_task, evaluation_prompts(small_task, 33).head(prompts))
    assert len(dealt) == prompts
    assert [prompt for prompt, other in dealt.items() if prompt == other] == []


def test_one_prompt_leaves_the_control_out(small_task: Task) -> None:
    table = judge_contests(small_task, [Rubric(small_task)], contests(small_task, 1), BOTH_ORDERS, [SILENT])
    assert set(table["opponent"]) == {"resampled", "empty", "prompting"}
    found = {one.name: one for one in controlled(table)}
    assert (found["shuffled"].counts.pairs, found["shuffled"].control.finding) == (0, "undecided")
    assert gates.evaluate("control_verdicts", small_task, table)


@pytest.mark.parametrize(
    ("pick", "findings"),
    [
        ("A", {"resampled": "undecided", "empty": "undecided", "shuffled": "undecided"}),
        ("shorter", {"resampled": "untrusted", "empty": "untrusted"}),
    ],
)
def test_judge_that_sees_no_difference_fails_the_controls(
    small_task: Task, pick: str, findings: dict[str, str]
) -> None:
    found = {one.name: one.control.finding for one in controlled(judged(small_task, Blind(pick)))}
    assert found | findings == found


def test_rubric_lets_empty_and_wrong_posts_lose(small_task: Task) -> None:
    found = {one.name: one for one in controlled(judged(small_task, Rubric(small_task)))}
    assert found["empty"].control.finding == "good"
    assert found["shuffled"].control.finding == "good"
    assert found["shuffled"].counts.wins == 0


def test_failed_control_is_named_with_its_games_and_blocks_nothing(small_task: Task) -> None:
    table = judged(small_task, Blind("shorter"))
    failed = {result.name: result for result in gates.evaluate("control_verdicts", small_task, table)}
    assert [name for name, result in failed.items() if not result.is_passed and result.is_blocking] == []
    resampled = failed["control_resampled"]
    assert not resampled.is_passed
    assert resampled.is_severe
    assert "against itself, which must come out near 1: untrusted; won 33, lost 0" in resampled.message
    assert {row["outcome"] for row in resampled.offending} == {"win"}
