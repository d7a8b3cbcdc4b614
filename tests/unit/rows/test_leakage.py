"""Names and runs of words of holdout products are found in training rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from varied_posts import varied_posts

from synthpost_dagster.rows.leakage import Leak, LeakFinder
from synthpost_dagster.tasks.loading import Task

EditTask = Callable[[str, Callable[[dict[str, Any]], object]], Task]

NAME = "Trailer Burrow"
TEXT = "Trailer Burrow a covered two-wheel trailer where toddlers can nap on long rides"


@pytest.fixture
def finder(small_task: Task) -> LeakFinder:
    """Finds runs of eight words and more of the two holdout products."""
    (_, product), _ = small_task.companies_of("holdout")
    assert f"{product.name} {product.description}" == TEXT
    return LeakFinder(small_task, 8)


def renamed(place: int, name: str, description: str) -> Callable[[dict[str, Any]], object]:
    """Gives the holdout product of a company another name and description."""
    new = [{"name": name, "description": description}]
    return lambda catalog: catalog["companies"][place]["products"].update(holdout=new)


def test_no_training_prompt_of_the_packaged_task_leaks(sales_posts: Task, all_prompts: pd.DataFrame) -> None:
    assert LeakFinder(sales_posts, 8).find(all_prompts["student_prompt"]) == []


def test_good_posts_and_empty_ones_do_not_leak(finder: LeakFinder) -> None:
    assert finder.find([*varied_posts(100), "", "!!!"]) == []


@pytest.mark.parametrize("text", [NAME, "Get the trailer burrow now!", "#TRAILER\n“Burrow”", "its trailer-burrow"])
def test_a_name_is_found_in_any_case_and_punctuation(finder: LeakFinder, text: str) -> None:
    assert finder.find([text]) == [Leak(0, NAME, 2, "trailer burrow")]


@pytest.mark.parametrize("text", ["Trailer", "Burrow", "trailers burrow", "trailer and burrow", "burrow trailer"])
def test_a_part_of_a_name_is_no_leak(finder: LeakFinder, text: str) -> None:
    assert finder.find([text]) == []


def test_a_run_of_eight_words_of_a_description_is_found_and_one_of_seven_is_not(finder: LeakFinder) -> None:
    found = finder.find(
        ["so: Wheel trailer where toddlers can nap on.", "so: Wheel trailer where toddlers can nap ON LONG"]
    )
    assert found == [Leak(1, NAME, 8, "wheel trailer where toddlers can nap on long")]


def test_a_run_is_told_in_its_whole_length(finder: LeakFinder) -> None:
    (leak,) = finder.find([f"Wow {TEXT} and more"])
    assert leak == Leak(0, NAME, 14, "trailer burrow a covered two wheel trailer where toddlers can nap on long rides")


def test_a_row_with_a_name_and_a_run_tells_of_the_run(finder: LeakFinder) -> None:
    (leak,) = finder.find([f"{NAME}! It has two-wheel trailer where toddlers can nap on long rides."])
    assert leak.words == 10


def test_the_longer_of_two_runs_is_told_and_each_row_once(small_task: Task) -> None:
    (_, _), (_, second) = small_task.companies_of("holdout")
    words = second.description.split()
    text = "a covered two-wheel trailer. " + " ".join(words)
    (leak,) = LeakFinder(small_task, 4).find([text])
    assert (leak.product, leak.words) == (second.name, len(words))


def test_the_least_length_is_the_one_asked_for(small_task: Task) -> None:
    text = "where toddlers can nap"
    assert [leak.words for leak in LeakFinder(small_task, 4).find([text])] == [4]
    assert LeakFinder(small_task, 5).find([text]) == []


def test_the_rows_that_leak_are_told_by_their_places(finder: LeakFinder) -> None:
    assert [leak.row for leak in finder.find(["fine", NAME, "fine", f"the {NAME}"])] == [1, 3]


def test_a_name_of_one_word_is_found_as_a_word(edit_task: EditTask) -> None:
    finder = LeakFinder(edit_task("catalog.yaml", renamed(0, "Burrowly", "a very short line")), 8)
    assert finder.find(["Burrowlyish", "my burrowly."]) == [Leak(1, "Burrowly", 1, "burrowly")]


def test_a_name_within_a_longer_one_gives_way_to_it(edit_task: EditTask) -> None:
    edit_task("catalog.yaml", renamed(0, "Burrow", "a short line"))
    finder = LeakFinder(edit_task("catalog.yaml", renamed(1, "Burrow Max Pro", "another short line")), 8)
    found = finder.find(["the Burrow Max Pro", "the Burrow Max"])
    assert [(leak.product, leak.words) for leak in found] == [("Burrow Max Pro", 3), ("Burrow", 1)]


def test_a_product_whose_text_is_shorter_than_the_run_is_found_by_its_name_alone(edit_task: EditTask) -> None:
    finder = LeakFinder(edit_task("catalog.yaml", renamed(0, "Moon Burrow", "so short")), 8)
    assert [leak.text for leak in finder.find(["so short", "Moon Burrow so short"])] == ["moon burrow"]


def test_the_text_of_a_company_and_of_train_products_is_no_leak(small_task: Task, finder: LeakFinder) -> None:
    (company, product), *_ = small_task.companies_of("train")
    texts = [company.short_description, company.mission, f"{product.name}, {product.description}"]
    assert finder.find(texts) == []
