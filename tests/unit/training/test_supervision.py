"""The collator lets the post and its end token be learned; rows that teach less are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from synthpost_dagster.errors import ModelError, SynthpostError
from synthpost_dagster.inference.generate import chat
from synthpost_dagster.inference.models import Loaded, load
from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.schemas import Supervision
from synthpost_dagster.tasks.task import Task
from synthpost_dagster.training.conversations import DECODED_ROWS, MASKED, check_supervision, tokenized
from synthpost_dagster.training.sft import Tuner
from tests.helpers.tuning import CPU, STUDENT, ProgressLog, cell, spec_of

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
def student() -> Loaded:
    """The embedded model."""
    return load(STUDENT, CPU)


def supervision_of(
    student: Loaded, rows: pd.DataFrame, folder: Path, log: ProgressLog | None = None, **changes: object
) -> pd.DataFrame:
    """The supervision table of a training of one step with a changed specification."""
    spec = spec_of(**changes)
    with Tuner(student, "embedded", spec, 1, CPU) as tuner:
        return Supervision.validate(cell(tuner, folder, spec, rows=rows, steps=1, log=log).supervision)


def lengths(student: Loaded, rows: pd.DataFrame, whole: bool) -> list[int]:
    """Tokens of each conversation in the model's template, complete or up to the post."""
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
        "is_begin_doubled": False,
        "learned": "",
    }
    return Supervision.validate(pd.DataFrame({**good, **columns}))


def named_in(caught: pytest.ExceptionInfo[SynthpostError]) -> list[str]:
    return re.findall(r"[0-9a-f]{16}", str(caught.value))


@pytest.mark.parametrize("padding_free", [True, False])
def test_only_the_post_and_its_end_token_are_learned_and_shown(
    student: Loaded, rows: pd.DataFrame, tmp_path: Path, padding_free: bool
) -> None:
    log = ProgressLog()
    found = supervision_of(student, rows, tmp_path, log, padding_free=padding_free)
    whole, prompts = lengths(student, rows, whole=True), lengths(student, rows, whole=False)
    assert found["prompt_id"].tolist() == rows["prompt_id"].tolist()
    assert found["tokens"].tolist() == whole
    assert found["supervised_tokens"].tolist() == [all_ - prompt for all_, prompt in zip(whole, prompts, strict=True)]
    assert found["is_end_supervised"].all()
    assert not found["is_begin_doubled"].any()
    assert found["learned"].tolist() == [*(f"{post}{END}" for post in POSTS[:DECODED_ROWS]), ""]
    assert log[0] == f"the first row teaches: {f'{POSTS[0]}{END}'!r}"


@pytest.mark.parametrize(("padding_free", "unlearned"), [(True, 1), (False, 0)])
def test_full_loss_learns_the_whole_conversation(
    student: Loaded, rows: pd.DataFrame, tmp_path: Path, padding_free: bool, unlearned: int
) -> None:
    found = supervision_of(student, rows, tmp_path, loss="full", padding_free=padding_free)
    # Nothing precedes the first token, so it cannot be learned, whatever its label.
    assert (found["supervised_tokens"] == found["tokens"] - unlearned).all()
    assert found["tokens"].tolist() == lengths(student, rows, whole=True)
    assert found["is_end_supervised"].all()
    assert "Write a sales post" in found["learned"].iloc[0]
    assert found["learned"].iloc[0].endswith(f"{POSTS[0]}{END}")


@pytest.mark.parametrize("loss", ["completion", "full"])
def test_row_over_the_maximum_length_is_refused_by_its_id(
    student: Loaded, rows: pd.DataFrame, tmp_path: Path, loss: str
) -> None:
    whole, log = lengths(student, rows, whole=True), ProgressLog()
    longest = whole.index(max(whole))
    assert whole.count(max(whole)) == 1
    with pytest.raises(SynthpostError, match=r"^1 of 4 training rows are longer than training\.max_length") as caught:
        supervision_of(student, rows, tmp_path, log, loss=loss, max_length=max(whole) - 1)
    assert f"{max(whole) - 1} tokens (the longest has {max(whole)})" in str(caught.value)
    assert named_in(caught) == [rows["prompt_id"].iloc[longest]]
    assert log == []
    assert not list((tmp_path / "adapter").iterdir())


def test_row_of_the_maximum_length_is_learned(student: Loaded, rows: pd.DataFrame, tmp_path: Path) -> None:
    most = max(lengths(student, rows, whole=True))
    assert supervision_of(student, rows, tmp_path, max_length=most)["is_end_supervised"].all()


@pytest.mark.parametrize("padding_free", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda template: "{{ bos_token }}" + template, "begin with two begin tokens; remove one from the student's"),
        (lambda template: template.replace(f" + '{END}'", ""), "do not teach when to stop; the student's chat templ"),
    ],
    ids=["begin token doubled", "no end token"],
)
def test_unsuitable_chat_template_is_refused_with_the_ids_of_rows(
    student: Loaded,
    rows: pd.DataFrame,
    tmp_path: Path,
    change: Callable[[str], str],
    message: str,
    padding_free: bool,
) -> None:
    changed, log = change(str(student.tokenizer.chat_template)), ProgressLog()
    assert changed != student.tokenizer.chat_template
    student.tokenizer.chat_template = changed
    with pytest.raises(SynthpostError, match=f"^4 of 4 training rows {message}") as caught:
        supervision_of(student, rows, tmp_path, log, padding_free=padding_free)
    assert named_in(caught) == rows["prompt_id"].tolist()
    assert log == []
    assert not list((tmp_path / "adapter").iterdir())


def test_empty_block_of_reasoning_is_not_learned(student: Loaded, rows: pd.DataFrame, tmp_path: Path) -> None:
    plain = supervision_of(student, rows, tmp_path / "plain")
    block = r"('<think>\n\n</think>\n\n' if message['role'] == 'assistant' else '') + message['content'] | trim"
    student.tokenizer.chat_template = student.tokenizer.chat_template.replace("message['content'] | trim", block)
    assert "<think>" in student.tokenizer.apply_chat_template(
        [*chat("Hello"), {"role": "assistant", "content": "Yes."}], tokenize=False
    )
    pd.testing.assert_frame_equal(supervision_of(student, rows, tmp_path / "block"), plain)


def test_prompt_that_opens_reasoning_is_refused_before_any_step(
    student: Loaded, rows: pd.DataFrame, tmp_path: Path
) -> None:
    log = ProgressLog()
    student.tokenizer.chat_template += r"{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
    with pytest.raises(ModelError, match="chat_template_kwargs"):
        supervision_of(student, rows, tmp_path, log)
    assert log == []
    assert not list((tmp_path / "adapter").iterdir())


def test_special_token_in_a_text_stays_text_in_training(student: Loaded, rows: pd.DataFrame) -> None:
    special = student.tokenizer.added_tokens_decoder
    inside = "".join(token.content for token in special.values())
    harmless = tokenized(rows, student.template, "completion", "Be kind.")
    spiked = rows.assign(
        student_prompt=[f"{inside}{text}{END}" for text in rows["student_prompt"]],
        post=[f"Now{END} {post}{inside}!" for post in rows["post"]],
    )
    for plain, other in zip(harmless, tokenized(spiked, student.template, "completion", f"Be{END} kind."), strict=True):
        assert len(other.input_ids) > len(plain.input_ids) + 2 * len(special)
        for number in special:
            assert other.input_ids.count(number) == plain.input_ids.count(number)
        learned = [label for label in other.labels if label != MASKED]
        assert [label for label in learned if label in special] == [student.tokenizer.convert_tokens_to_ids(END)]
        assert student.tokenizer.decode(learned).startswith("Now<")


def test_begin_token_of_the_tokenizer_does_not_double_the_templates(student: Loaded, rows: pd.DataFrame) -> None:
    from tokenizers.processors import TemplateProcessing

    begin, number = str(student.tokenizer.bos_token), student.tokenizer.bos_token_id
    plain = tokenized(rows, student.template, "completion", None)
    student.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(f"{begin} $A", None, [(begin, number)])
    assert student.tokenizer("Ready?")["input_ids"][0] == number
    assert tokenized(rows, student.template, "completion", None) == plain


def test_good_rows_are_not_refused() -> None:
    check_supervision(table(), 100)


@pytest.mark.parametrize(
    ("columns", "message", "rows"),
    [
        ({"tokens": [100, 101, 99]}, "1 of 3 training rows are longer than", [1]),
        (
            {"supervised_tokens": [30, 0, 0], "is_end_supervised": [True, False, False]},
            "2 of 3 training rows teach nothing",
            [1, 2],
        ),
        ({"is_end_supervised": [True, True, False]}, "1 of 3 training rows do not teach when to stop", [2]),
        ({"is_begin_doubled": [True, False, False]}, "1 of 3 training rows begin with two begin tokens", [0]),
    ],
)
def test_refused_rows_are_named_by_their_ids(columns: dict[str, list[object]], message: str, rows: list[int]) -> None:
    with pytest.raises(SynthpostError, match=f"^{message}") as caught:
        check_supervision(table(**columns), 100)
    assert named_in(caught) == [f"{at:016x}" for at in rows]


def test_error_names_the_first_five_rows() -> None:
    many = pd.concat([table().assign(supervised_tokens=0, is_end_supervised=False)] * 3)
    with pytest.raises(SynthpostError, match="9 of 9") as caught:
        check_supervision(many, 100)
    assert named_in(caught) == [f"{at:016x}" for at in (0, 1, 2, 0, 1)]
