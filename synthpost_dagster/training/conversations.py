"""Training conversations as tokens: the same ones for every trainer, in the student's chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from synthpost_dagster.inference.generate import chat

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.inference.templates import ChatTemplate


MASKED = -100
"""The label of a token that is not learned, as PyTorch's cross-entropy ignores it."""


class Conversation(NamedTuple):
    """Token ids of a whole conversation, and of each the label: the id itself, or MASKED where it is not learned."""

    prompt_id: str
    input_ids: list[int]
    labels: list[int]


def tokenized(rows: pd.DataFrame, template: ChatTemplate, loss: str, system_prompt: str | None) -> list[Conversation]:
    """A conversation a row (schema DataSubsets): the student's prompt as at generation, then the post.

    With the loss `completion` the labels begin where the prompt ends, with `full` at the first token. Nothing is cut
    off. Raises ModelError where the chat template cannot write the conversation so.
    """
    made = []
    for row in rows.itertuples():
        whole = template.conversation(chat(row.student_prompt, system_prompt), row.post)
        start = whole.prompt if loss == "completion" else 0
        made.append(Conversation(row.prompt_id, whole.ids, [MASKED] * start + whole.ids[start:]))
    return made
