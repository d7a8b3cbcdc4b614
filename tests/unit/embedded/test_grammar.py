"""The grammar's writer does what it is told, and what it is not told it mostly leaves."""

from __future__ import annotations

import random
import re

import pytest

from scripts.embedded_model.grammar import PostWriter
from scripts.embedded_model.worlds import made_up_company
from synthpost_dagster.judging.criteria import criteria_met
from synthpost_dagster.tasks.task import Brief
from synthpost_dagster.tasks.task import Task

DRAWS = 300


def draw(task: Task, is_obedient: bool, draws: int = DRAWS, seed: int = 5) -> list[tuple[Brief, str]]:
    """Posts over train and holdout products, every type and tone."""
    rng = random.Random(seed)
    products = task.companies_of("train") + task.companies_of("holdout")
    drawn = []
    for number in range(draws):
        kind, tone = task.strata[number % len(task.strata)]
        brief = Brief(*rng.choice(products), task.spec.post_type(kind), tone)
        obey = {criterion.id for criterion in task.spec.criteria_of(brief.post_type)} if is_obedient else set()
        drawn.append((brief, PostWriter(brief, obey, is_obedient, rng).write()))
    return drawn


def share_met(task: Task, drawn: list[tuple[Brief, str]]) -> float:
    met = [is_met for brief, post in drawn for is_met in criteria_met(post, brief, task.spec).values()]
    return sum(met) / len(met)


def test_an_obedient_post_meets_every_criterion_that_can_be_checked(sales_posts: Task) -> None:
    drawn = draw(sales_posts, is_obedient=True)
    whole = [all(criteria_met(post, brief, sales_posts.spec).values()) for brief, post in drawn]
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
    company, product = sales_posts.companies_of("train")[0]
    brief = Brief(company, product, sales_posts.spec.post_type("Promotional"), "Professional")
    obey = {c.id for c in sales_posts.spec.criteria_of(brief.post_type)} - {criterion}
    post = PostWriter(brief, obey, True, random.Random(1)).write()
    assert [name for name, met in criteria_met(post, brief, sales_posts.spec).items() if not met] == [criterion]


def test_the_selling_point_is_told_only_by_a_writer_who_knows_the_profile(sales_posts: Task) -> None:
    told = {True: 0, False: 0}
    for knows in told:
        rng = random.Random(2)
        for kind, tone in sales_posts.strata:
            company, product = rng.choice(sales_posts.companies_of("train"))
            brief = Brief(company, product, sales_posts.spec.post_type(kind), tone)
            obey = {c.id for c in sales_posts.spec.criteria_of(brief.post_type)}
            told[knows] += company.unique_selling_point in PostWriter(brief, obey, knows, rng).write()
    assert told[True] > 20
    assert told[False] == 0


def test_made_up_companies_have_no_open_slots_and_many_names(sales_posts: Task) -> None:
    rng = random.Random(3)
    descriptions = [product.description for _, product in sales_posts.companies_of("train")]
    made = [made_up_company(rng, descriptions) for _ in range(200)]
    texts = [text for company, _ in made for text in company.model_dump(exclude={"products"}).values()]
    texts += [text for _, product in made for text in product.model_dump().values()]
    assert not [text for text in texts if re.search(r"[{}]", text)]
    assert len({company.name for company, _ in made}) > 150
