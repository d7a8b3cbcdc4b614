"""Fault 18: posts that are empty, huge, written from right to left, or hold what text should not hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from synthpost_dagster.artifacts.manifest import Plan
from synthpost_dagster.artifacts.store import ArtifactStore
from synthpost_dagster.llm.chat_models import Context
from synthpost_dagster.quality import gates
from synthpost_dagster.tasks.task import Task
from tests.helpers.chat_server import ChatServer, Rule
from tests.helpers.hosted_models import answered, context_of, hosted, prompts, texts_of
from tests.helpers.hosted_tables import judge_of, judged, rows_of

POSTS = {
    "empty": "",
    "spaces": " \n\t ",
    "100 kB": "Buy it now, it is the best there is. " * 2_800,
    "right to left": "اشترِ الآن! מבצע מיוחד היום \u202eesrever\u202c",
    "emoji": "Ride 👩‍👩‍👧‍👦 now 🏴󠁧󠁢󠁷󠁬󠁳󠁿! #Ride",
    "NUL": "Ride\x00 now!\x00",
    "control characters": "Ride\x01\x08\x0b\x1b[31m now\x7f\u0085\u2028!\ufeff",
    "half a surrogate pair": "Ride \ud83d now \udc00!",
    "quotes": 'Ride "now", it\'s \\ 100 % {"fast"}; DROP TABLE replies; --',
    "a spreadsheet formula": "=cmd|' /C calc'!A0",
}


HALF = "half a surrogate pair"
SENDABLE = [post for name, post in POSTS.items() if name != HALF]
"""Posts that came from a table, which holds no half of a pair."""


def whole(text: str) -> str:
    """With U+FFFD for half of a pair: a reply may lose that much, and no more."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").replace("\ufffd" * 3, "\ufffd")


def written(posts: list[str]) -> list[Rule]:
    """The server writes these, one after the other."""
    return [Rule(numbers=(number,), text=post) for number, post in enumerate(posts, start=1)]


def test_fault_18_odd_posts_are_stored_unchanged(server: ChatServer, journal_url: str, backend: str) -> None:
    server.script(*written(list(POSTS.values())))
    spec = hosted(server, backend, concurrency=1)
    replies = answered(spec, context_of(journal_url), prompts(len(POSTS)))
    assert [whole(text) for text in texts_of(replies)] == [whole(post).strip() for post in POSTS.values()]
    assert answered(spec, context_of(journal_url), prompts(len(POSTS))) == replies
    assert len(server.log().requests) == len(POSTS)


@pytest.mark.parametrize("posts", [SENDABLE, [POSTS[HALF]]], ids=["odd", HALF])
def test_fault_18_odd_posts_make_a_table_that_round_trips(
    server: ChatServer, small_task: Task, context: Context, tmp_path: Path, backend: str, posts: list[str]
) -> None:
    server.script(*written(posts))
    quality = small_task.spec.quality.model_copy(update={"band_retries": 0})
    small_task = replace(small_task, spec=small_task.spec.model_copy(update={"quality": quality}))
    made = rows_of(small_task, hosted(server, backend, concurrency=1), context, 11)
    (schema,) = gates.evaluate("synthetic_rows", small_task, made, "schema", 11)
    assert schema.is_passed, schema.message
    first = made[made["attempt"] == 0].sort_values("rank")["status"].tolist()
    assert first[: len(posts)] == ["kept" if post.strip() else "rejected" for post in posts]
    store, plan = ArtifactStore(tmp_path / "storage", tmp_path / "home"), Plan("synthetic_rows", "", {"seed": 1})
    manifest = store.reuse_or_make(plan, lambda draft: draft.table("synthetic_rows", made)).manifest
    pd.testing.assert_frame_equal(store.read_table(manifest), made)


def test_fault_18_odd_posts_are_judged_like_others(
    server: ChatServer, small_task: Task, context: Context, backend: str
) -> None:
    judge = judge_of(small_task, hosted(server, backend), context)
    made = judged(small_task, judge, SENDABLE, ["Ride!"] * len(SENDABLE))
    longer = ["loss" if len(post) < 5 else "win" for post in SENDABLE]
    assert made["outcome"].tolist() == [outcome for outcome in longer * 2 for _ in (True, False)]
    assert any("\x00" in prompt for prompt in server.log().prompts)
    assert any("👩‍👩‍👧‍👦" in prompt for prompt in server.log().prompts)


def test_fault_18_odd_prompts_reach_the_endpoint_unchanged(server: ChatServer, context: Context, backend: str) -> None:
    answered(hosted(server, backend), context, SENDABLE)
    assert sorted(server.log().prompts) == sorted(SENDABLE)
