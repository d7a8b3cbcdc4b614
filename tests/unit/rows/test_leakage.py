"""Names and runs of words of holdout items are found in training rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from synthpost_dagster.rows.leakage import Leak, LeakFinder
from synthpost_dagster.tasks.items import Item
from synthpost_dagster.tasks.task import Task
from tests.helpers.small_task import EditTask, product_of
from tests.helpers.varied_posts import varied_posts

NAME = "Trailer Burrow"
TEXT = "Trailer Burrow a covered two-wheel trailer where toddlers can nap on long rides"


@pytest.fixture
def finder(small_task: Task) -> LeakFinder:
    """Finds runs of eight words and more of the two holdout products."""
    item = holdout_of(small_task)[0]
    assert f"{item.name} {item.values['description']}" == TEXT
    return LeakFinder(small_task)


def holdout_of(task: Task) -> list[Item]:
    return [item for item in task.items if item.split == "holdout"]


def with_words(task: Task, words: int) -> LeakFinder:
    """Finds runs of so many words."""
    leak = task.spec.holdout.leak.model_copy(update={"words": words})
    holdout = task.spec.holdout.model_copy(update={"leak": leak})
    return LeakFinder(replace(task, spec=task.spec.model_copy(update={"holdout": holdout})))


def found(finder: LeakFinder, texts: list[str]) -> list[Leak]:
    """The leaks of texts that are written for some train product."""
    leaks = [finder.find(text, "Rower Glide") for text in texts]
    return [leak for leak in leaks if leak]


def renamed(place: int, name: str, description: str) -> Callable[[Any], object]:
    """Gives the holdout product of a company another name and description."""
    return lambda products: product_of(products, place, "holdout").update(name=name, description=description)


def test_no_training_prompt_of_the_packaged_task_leaks(sales_posts: Task, all_prompts: pd.DataFrame) -> None:
    finder = LeakFinder(sales_posts)
    texts = zip(all_prompts["student_prompt"], all_prompts["product"], strict=True)
    assert not any(finder.find(text, own) for text, own in texts)


def test_good_posts_and_empty_ones_do_not_leak(finder: LeakFinder) -> None:
    assert found(finder, [*varied_posts(100), "", "!!!"]) == []


@pytest.mark.parametrize("text", [NAME, "#TRAILER\n“BURROW”", "its Trailer-Burrow"])
def test_name_is_found_as_written_or_in_capitals(finder: LeakFinder, text: str) -> None:
    (leak,) = found(finder, [text])
    assert (leak.item, leak.words) == (NAME, 2)


@pytest.mark.parametrize("text", ["Get a trailer burrow now!", "Trailer burrow"])
def test_same_words_as_common_nouns_are_no_leak(finder: LeakFinder, text: str) -> None:
    assert found(finder, [text]) == []


def test_name_within_the_rows_own_product_is_no_leak(finder: LeakFinder) -> None:
    assert finder.find("The Trailer Burrow Pro is here.", "Trailer Burrow Pro") is None
    assert finder.find("The Trailer Burrow Pro beats the Trailer Burrow.", "Trailer Burrow Pro") is not None


@pytest.mark.parametrize("text", ["Trailer", "Burrow", "trailers burrow", "trailer and burrow", "burrow trailer"])
def test_part_of_a_name_is_no_leak(finder: LeakFinder, text: str) -> None:
    assert found(finder, [text]) == []


def test_run_of_eight_description_words_is_a_leak_not_seven(finder: LeakFinder) -> None:
    leaks = found(
        finder, ["so: Wheel trailer where toddlers can nap on.", "so: Wheel trailer where toddlers can nap ON LONG"]
    )
    assert leaks == [Leak(NAME, 8, "wheel trailer where toddlers can nap on long")]


def test_run_is_reported_in_full_length(finder: LeakFinder) -> None:
    (leak,) = found(finder, [f"Wow {TEXT} and more"])
    assert leak == Leak(NAME, 14, "trailer burrow a covered two wheel trailer where toddlers can nap on long rides")


def test_row_with_a_name_and_a_run_tells_of_the_run(finder: LeakFinder) -> None:
    (leak,) = found(finder, [f"{NAME}! It has two-wheel trailer where toddlers can nap on long rides."])
    assert leak.words == 10


def test_longer_of_two_runs_is_reported(small_task: Task) -> None:
    _, second = holdout_of(small_task)
    words = str(second.values["description"]).split()
    text = "a covered two-wheel trailer. " + " ".join(words)
    (leak,) = found(with_words(small_task, 4), [text])
    assert (leak.item, leak.words) == (second.name, len(words))


def test_minimum_length_of_a_leak_is_configurable(small_task: Task) -> None:
    text = "where toddlers can nap"
    assert [leak.words for leak in found(with_words(small_task, 4), [text])] == [4]
    assert found(with_words(small_task, 5), [text]) == []


def test_name_of_one_word_is_found_as_a_word(edit_task: EditTask) -> None:
    finder = LeakFinder(edit_task("products.yaml", renamed(0, "Burrowly", "a very short line")))
    assert found(finder, ["Burrowlyish", "my Burrowly."]) == [Leak("Burrowly", 1, "Burrowly")]


def test_longer_name_takes_precedence(edit_task: EditTask) -> None:
    edit_task("products.yaml", renamed(0, "Burrow", "a short line"))
    finder = LeakFinder(edit_task("products.yaml", renamed(1, "Burrow Max Pro", "another short line")))
    leaks = found(finder, ["the Burrow Max Pro", "the Burrow Max"])
    assert [(leak.item, leak.words) for leak in leaks] == [("Burrow Max Pro", 3), ("Burrow", 1)]


def test_product_with_a_short_text_is_found_by_its_name(edit_task: EditTask) -> None:
    finder = LeakFinder(edit_task("products.yaml", renamed(0, "Moon Burrow", "so short")))
    assert [leak.text for leak in found(finder, ["so short", "Moon Burrow so short"])] == ["Moon Burrow"]


def test_text_of_companies_and_train_products_is_no_leak(small_task: Task, finder: LeakFinder) -> None:
    item = small_task.items[0]
    assert item.group is not None
    company = item.group.values
    texts = [str(company["short_description"]), str(company["mission"]), f"{item.name}, {item.values['description']}"]
    assert found(finder, texts) == []


def test_name_is_found_with_any_apostrophe_hyphen_and_space(edit_task: EditTask) -> None:
    finder = LeakFinder(edit_task("products.yaml", renamed(0, "Rider's Fold-Up Burrow", "a short line")))
    twins = ["Rider’s Fold-Up Burrow", "Riderʼs Fold‑Up\u00a0Burrow", "the Ri\u200bder's Fold–Up Burrow!"]
    assert [leak.item for leak in found(finder, twins)] == ["Rider's Fold-Up Burrow"] * 3


def test_names_and_runs_are_found_in_a_script_without_spaces(edit_task: EditTask) -> None:
    line = "折りたたみ式で軽く、電車にも持ち込める通勤用の自転車"
    finder = LeakFinder(edit_task("products.yaml", renamed(0, "風の自転車", line)))
    leaks = found(
        finder,
        [
            "新しい風の自転車、登場！",
            "電車にも持ち込める通勤用の自転車です",
            "電車にも持ち込める通勤です",
            "毎日の通勤に",
        ],
    )
    assert [(leak.item, leak.words) for leak in leaks] == [("風の自転車", 5), ("風の自転車", 16)]
