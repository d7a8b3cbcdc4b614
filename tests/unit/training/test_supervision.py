"""The trainer's collator leaves the post and its end token to be learned, and rows that teach less are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from synthpost_dagster.errors import SynthpostError
from synthpost_dagster.inference.generate import chat
from synthpost_dagster.inference.models import Loaded, load
from synthpost_dagster.profiles import load_profile
from synthpost_dagster.progress import Event, Progress
from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.schemas import Supervision
from synthpost_dagster.tasks.loading import Task
from synthpost_dagster.training.sft import tune
from synthpost_dagster.training.supervision import DECODED_ROWS, refuse_untaught

POSTS = [
    "Ready? Order yours today! #Ride",
    "We keep our promises. Visit us.",
    "One. Two. Three. Four.",
    "Big smiles ahead! Grab one now. #Fun #New",
]
END = "<|eot_id|>"


@pytest.fixture(scope="module")
def rows(sales_posts: Task) -> pd.DataFrame:
    """Four conversations for training."""
    return training_prompts(sales_posts).head(4)[["prompt_id", "student_prompt"]].assign(post=POSTS)


@pytest.fixture
def student(sales_posts: Task) -> Loaded:
    """The embedded model."""
    return load(load_profile("tiny", sales_posts).student, "cpu")


def supervision_of(
    task: Task, student: Loaded, rows: pd.DataFrame, folder: Path, progress: Progress | None = None, **changes: object
) -> pd.DataFrame:
    """What a training of one step, with a changed specification, says of its rows."""
    spec = load_profile("tiny", task).training.model_copy(update=changes)
    tuned = tune(student, "embedded", rows, spec, 1, task.spec.system_prompt, folder, progress or Progress())
    return Supervision.validate(tuned.supervision)


def lengths(student: Loaded, rows: pd.DataFrame, whole: bool) -> list[int]:
    """Tokens of each conversation in the model's template, whole or up to the post."""
    tokens = []
    for row in rows.itertuples():
        turns = (
            [*chat(row.student_prompt), {"role": "assistant", "content": row.post}]
            if whole
            else chat(row.student_prompt)
        )
        given = student.tokenizer.apply_chat_template(turns, add_generation_prompt=not whole, return_dict=False)
        tokens.append(len(given))
    return tokens


def table(**columns: list[object]) -> pd.DataFrame:
    """Three good rows, with some columns changed."""
    good = {
        "prompt_id": [f"{at:016x}" for at in range(3)],
        "tokens": 100,
        "supervised_tokens": 30,
        "is_end_supervised": True,
        "learned": "",
    }
    return Supervision.validate(pd.DataFrame({**good, **columns}))


def test_the_post_and_its_end_token_alone_are_learned(
    sales_posts: Task, student: Loaded, rows: pd.DataFrame, tmp_path: Path
) -> None:
    events: list[Event] = []
    found = supervision_of(sales_posts, student, rows, tmp_path, Progress(events.append))
    whole, prompts = lengths(student, rows, whole=True), lengths(student, rows, whole=False)
    assert found["prompt_id"].tolist() == rows["prompt_id"].tolist()
    assert found["tokens"].tolist() == whole
    assert found["supervised_tokens"].tolist() == [all_ - prompt for all_, prompt in zip(whole, prompts, strict=True)]
    assert found["is_end_supervised"].all()
    assert found["learned"].tolist() == [*(f"{post}{END}" for post in POSTS[:DECODED_ROWS]), ""]
    assert any(repr(f"{POSTS[0]}{END}") in event.what for event in events)


def test_with_the_loss_on_everything_the_whole_conversation_is_learned(
    sales_posts: Task, student: Loaded, rows: pd.DataFrame, tmp_path: Path
) -> None:
    found = supervision_of(sales_posts, student, rows, tmp_path, loss="full")
    assert (found["supervised_tokens"] == found["tokens"]).all()
    assert found["tokens"].tolist() == lengths(student, rows, whole=True)
    assert found["is_end_supervised"].all()
    assert "Write a sales post" in found["learned"].iloc[0]
    assert found["learned"].iloc[0].endswith(f"{POSTS[0]}{END}")


@pytest.mark.parametrize("loss", ["completion", "full"])
def test_a_row_that_is_cut_before_its_end_is_refused_by_its_id_and_nothing_is_left(
    sales_posts: Task, student: Loaded, rows: pd.DataFrame, tmp_path: Path, loss: str
) -> None:
    whole = lengths(student, rows, whole=True)
    longest = whole.index(max(whole))
    assert whole.count(max(whole)) == 1
    with pytest.raises(SynthpostError, match=r"^1 of 4 training rows do not teach when to stop") as caught:
        supervision_of(sales_posts, student, rows, tmp_path, loss=loss, max_length=max(whole) - 1)
    assert re.findall(r"[0-9a-f]{16}", str(caught.value)) == [rows["prompt_id"].iloc[longest]]
    assert "training.max_length" in str(caught.value)
    assert not list(tmp_path.glob("adapter_*"))


def test_a_row_that_just_fits_is_learned(
    sales_posts: Task, student: Loaded, rows: pd.DataFrame, tmp_path: Path
) -> None:
    most = max(lengths(student, rows, whole=True))
    assert supervision_of(sales_posts, student, rows, tmp_path, max_length=most)["is_end_supervised"].all()


@pytest.mark.parametrize(("limit", "count"), [(max, 1), (min, 4)])
def test_rows_whose_prompt_fills_the_length_teach_nothing_and_are_refused_by_their_ids(
    sales_posts: Task,
    student: Loaded,
    rows: pd.DataFrame,
    tmp_path: Path,
    limit: Callable[[list[int]], int],
    count: int,
) -> None:
    prompts = lengths(student, rows, whole=False)
    silent = {name for name, length in zip(rows["prompt_id"], prompts, strict=True) if length >= limit(prompts)}
    assert len(silent) == count
    with pytest.raises(SynthpostError, match=f"^{count} of 4 training rows teach nothing") as caught:
        supervision_of(sales_posts, student, rows, tmp_path, max_length=limit(prompts))
    assert set(re.findall(r"[0-9a-f]{16}", str(caught.value))) == silent


def test_good_rows_are_not_refused() -> None:
    refuse_untaught(table())


def test_rows_that_teach_nothing_are_refused_by_their_ids() -> None:
    silent = table(supervised_tokens=[30, 0, 0], is_end_supervised=[True, False, False])
    with pytest.raises(SynthpostError, match=r"^2 of 3 training rows teach nothing") as caught:
        refuse_untaught(silent)
    assert re.findall(r"[0-9a-f]{16}", str(caught.value)) == [f"{1:016x}", f"{2:016x}"]


def test_rows_without_their_end_are_refused_by_their_ids() -> None:
    with pytest.raises(SynthpostError, match=r"^1 of 3 training rows do not teach when to stop") as caught:
        refuse_untaught(table(is_end_supervised=[True, True, False]))
    assert re.findall(r"[0-9a-f]{16}", str(caught.value)) == [f"{2:016x}"]


def test_of_many_rows_the_first_five_are_named() -> None:
    ids = [f"{at:016x}" for at in range(9)]
    many = pd.DataFrame(
        {"prompt_id": ids, "tokens": 9, "supervised_tokens": 0, "is_end_supervised": False, "learned": ""}
    )
    with pytest.raises(SynthpostError, match="9 of 9") as caught:
        refuse_untaught(many)
    assert re.findall(r"[0-9a-f]{16}", str(caught.value)) == ids[:5]
