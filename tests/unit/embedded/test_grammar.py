"""The grammar's writer does what it is told, and what it is not told it mostly leaves."""

from __future__ import annotations

import random
import re

import pytest

from scripts.embedded_model.grammar import PostWriter
from scripts.embedded_model.worlds import made_up_product
from synthpost_dagster.judging.criteria import criteria_met
from synthpost_dagster.tasks.task import Brief, Task

DRAWS = 300


def written(task: Task, brief: Brief, obey: set[str], knows_profile: bool, rng: random.Random) -> str:
    return PostWriter(brief, task.length_name(brief), obey, knows_profile, rng).write()


def draw(task: Task, is_obedient: bool, draws: int = DRAWS, seed: int = 5) -> list[tuple[Brief, str]]:
    """Posts over train and holdout products, every type and tone."""
    rng = random.Random(seed)
    drawn = []
    for number in range(draws):
        brief = Brief(rng.choice(task.items), task.strata[number % len(task.strata)])
        obey = {criterion.id for criterion in task.criteria_of(brief)} if is_obedient else set()
        drawn.append((brief, written(task, brief, obey, is_obedient, rng)))
    return drawn


def share_met(task: Task, drawn: list[tuple[Brief, str]]) -> float:
    met = [is_met for brief, post in drawn for is_met in criteria_met(post, brief, task).values()]
    return sum(met) / len(met)


def test_an_obedient_post_meets_every_criterion_that_can_be_checked(sales_posts: Task) -> None:
    drawn = draw(sales_posts, is_obedient=True)
    whole = [all(criteria_met(post, brief, sales_posts).values()) for brief, post in drawn]
    assert sum(whole) / DRAWS >= 0.97


def test_a_post_that_obeys_nothing_meets_few_criteria(sales_posts: Task) -> None:
    assert share_met(sales_posts, draw(sales_posts, is_obedient=False)) < 0.3


def test_no_slot_is_left_open(sales_posts: Task) -> None:
    for is_obedient in (True, False):
        assert not [post for _, post in draw(sales_posts, is_obedient) if re.search(r"[{}]", post)]


def test_the_same_seed_writes_the_same_posts_and_another_seed_others(sales_posts: Task) -> None:
    first, again, other = (draw(sales_posts, True, 20, seed) for seed in (5, 5, 6))
    assert first == again
    assert first != other


@pytest.mark.parametrize("criterion", ["platform_use", "consistent_branding", "concise", "hook"])
def test_one_criterion_can_be_left_out_alone(sales_posts: Task, criterion: str) -> None:
    brief = Brief(sales_posts.items[0], ("Promotional", "Professional"))
    obey = {c.id for c in sales_posts.criteria_of(brief)} - {criterion}
    post = written(sales_posts, brief, obey, True, random.Random(1))
    assert [name for name, met in criteria_met(post, brief, sales_posts).items() if not met] == [criterion]


def test_the_selling_point_is_told_only_by_a_writer_who_knows_the_profile(sales_posts: Task) -> None:
    told = {True: 0, False: 0}
    for knows in told:
        rng = random.Random(2)
        for stratum in sales_posts.strata:
            brief = Brief(rng.choice(sales_posts.items), stratum)
            obey = {c.id for c in sales_posts.criteria_of(brief)}
            point = brief.value("company.unique_selling_point")
            told[knows] += point in written(sales_posts, brief, obey, knows, rng)
    assert told[True] > 20
    assert told[False] == 0


def test_made_up_companies_have_no_open_slots_and_many_names(sales_posts: Task) -> None:
    rng = random.Random(3)
    descriptions = [str(item.values["description"]) for item in sales_posts.items if item.split == "train"]
    made = [made_up_product(rng, descriptions) for _ in range(200)]
    companies = [item.group for item in made if item.group]
    texts = [str(text) for one in (*made, *companies) for text in one.values.values()]
    assert not [text for text in texts if re.search(r"[{}]", text)]
    assert len({company.name for company in companies}) > 150
