"""Fault 13: what of a model or a prompt is changed, and what is asked again for it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from synthpost_dagster.llm.chat_models import Context
from synthpost_dagster.llm.journal_tables import REPLIES
from synthpost_dagster.tasks.task import Task
from tests.helpers.chat_server import ChatServer, chat_server
from tests.helpers.hosted_models import PRICES, hosted
from tests.helpers.hosted_tables import judge_of, judged, rows_of
from tests.helpers.small_task import EditTask

ROWS = 22


SHAPING: list[dict[str, Any]] = [
    {"model": "other-model"},
    {"revision": "2026-11"},
    {"temperature": 0.8},
    {"top_p": 0.9},
    {"max_new_tokens": 255},
    {"seed": 1},
    {"extra_body": {"reasoning_effort": "low"}},
    {"endpoint": "another"},
]
NOT_SHAPING: list[dict[str, Any]] = [
    {},
    {"backend": "groq"},
    {"prices": PRICES},
    {"concurrency": 2},
    {"max_request_attempts": 1},
    {"timeout_seconds": 9.0},
    {"max_replies_per_row": 5},
    {"max_tokens_as": "max_completion_tokens"},
    {"structured_output": "json_schema"},
]


def test_fault_13_a_change_that_shapes_replies_requests_all_again(
    server: ChatServer, small_task: Task, context: Context
) -> None:
    first = rows_of(small_task, hosted(server), context, ROWS)
    for changes in SHAPING:
        server.script()
        rows_of(small_task, hosted(server, **changes), context, ROWS)
        assert len(server.log().requests) == ROWS, changes
    server.script()
    assert rows_of(small_task, hosted(server), context, ROWS).equals(first)
    assert server.log().requests == []


def test_fault_13_a_change_that_shapes_no_reply_requests_nothing(
    server: ChatServer, small_task: Task, context: Context
) -> None:
    first = rows_of(small_task, hosted(server), context, ROWS)
    assert len(server.log().requests) == ROWS
    server.script()
    with chat_server() as other:
        for changes in NOT_SHAPING:
            again = rows_of(small_task, hosted(other, **{"backend": "openai", **changes}), context, ROWS)
            assert again.equals(first), changes
            assert other.log().requests == server.log().requests == [], changes


def with_another_text(edit_task: EditTask) -> tuple[Task, str]:
    """The task with another description of the second product, and the product's name."""

    def change(products: Any) -> None:
        assert (products[1]["company"], products[1]["split"]) == (products[0]["company"], "train")
        products[1]["description"] = "something else altogether"

    edited = edit_task("products.yaml", change)
    return edited, edited.items[1].name


def test_fault_13_changed_text_requests_only_the_prompts_with_it(
    server: ChatServer, small_task: Task, edit_task: EditTask, context: Context
) -> None:
    first = rows_of(small_task, hosted(server), context, ROWS)
    server.script()

    edited, name = with_another_text(edit_task)
    again = rows_of(edited, hosted(server), context, ROWS)
    touched = first["product"] == name
    assert 0 < touched.sum() < ROWS
    assert len(server.log().requests) == touched.sum()
    assert all("something else altogether" in prompt for prompt in server.log().prompts)
    assert again[~touched].equals(first[~touched])


def journalled(context: Context) -> dict[str, tuple[Any, ...]]:
    """Every row of the journal, by its key."""
    with context.journal.begin(is_reading=True) as connection:
        return {row.key: tuple(row) for row in connection.execute(select(REPLIES))}


def test_fault_13_edited_product_adds_only_its_rows_to_the_journal(
    server: ChatServer, small_task: Task, edit_task: EditTask, context: Context
) -> None:
    rows_of(small_task, hosted(server), context, small_task.training_prompts)
    before = journalled(context)

    edited, name = with_another_text(edit_task)
    again = rows_of(edited, hosted(server), context, edited.training_prompts)
    after = journalled(context)
    assert len(before) == len(again) == 220
    assert len(after) == 220 + 55
    assert {key: after[key] for key in before} == before
    assert set(again.loc[again["product"] == name, "reply_key"]) == set(after) - set(before)


def test_fault_13_changed_criterion_judges_only_its_post_type_again(
    server: ChatServer, small_task: Task, edit_task: EditTask, context: Context
) -> None:
    tuned, others = [f"My post {n}." for n in range(22)], [f"Other {n}." for n in range(22)]
    judged(small_task, judge_of(small_task, hosted(server), context), tuned, others)
    asked = server.log().prompts
    server.script()
    edited = edit_task("task.yaml", lambda task: task["criteria"]["offer"].update(text="Rhyme, always."))
    (name,) = (name for name, type_ in edited.spec.factors["post_type"].levels.items() if "offer" in type_.criteria)
    judged(edited, judge_of(edited, hosted(server), context), tuned, others)
    again = server.log().prompts
    assert len(again) == sum(f"Post type: {name}\n" in prompt for prompt in asked)
    assert 0 < len(again) < len(asked)
    assert all("Rhyme, always." in prompt for prompt in again)


def test_fault_13_changed_structured_output_judges_every_game_again(
    server: ChatServer, small_task: Task, context: Context
) -> None:
    for form in ("none", "json_object", "json_schema"):
        judged(small_task, judge_of(small_task, hosted(server, structured_output=form), context), ["Ah!"], ["Oh."])
    assert len(server.log().requests) == 3 * 2
