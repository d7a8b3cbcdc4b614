"""Training conversations as tokens: the same ones for every trainer, in the student's chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.inference.generate import chat, templated
from synthpost_dagster.training.supervision import MASKED

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase


class Conversation(NamedTuple):
    """Token ids of a whole conversation, and of each the label: the id itself, or MASKED where it is not learned."""

    prompt_id: str
    input_ids: list[int]
    labels: list[int]


def tokenized(
    rows: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, loss: str, system_prompt: str | None
) -> list[Conversation]:
    """A conversation a row (schema DataSubsets): the student's prompt, then the post.

    With the loss `completion` the labels begin where the post does, with `full` at the first token. Nothing is cut off.
    """
    made = []
    for row in rows.itertuples():
        turns = chat(row.student_prompt, system_prompt)
        prompt = _ids(tokenizer, templated(tokenizer, turns, has_generation_prompt=True))
        answered = [*turns, {"role": "assistant", "content": row.post}]
        whole = _ids(tokenizer, templated(tokenizer, answered, has_generation_prompt=False))
        start = _common(prompt, whole) if loss == "completion" else 0
        made.append(Conversation(row.prompt_id, whole, [MASKED] * start + whole[start:]))
    return made


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Without a begin token of the tokenizer's own: the template has it."""
    ids: Any = tokenizer(text, add_special_tokens=False)["input_ids"]
    return list(ids)


def _common(first: list[int], second: list[int]) -> int:
    """How many tokens at the start are the same: a template may write a prompt's end otherwise before an answer."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))
