"""Training conversations as tokens, the same for every trainer, and the check of what they teach."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.errors import SynthpostError
from synthpost_dagster.inference.generate import chat
from synthpost_dagster.text.normalize import normalised

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

    from synthpost_dagster.inference.templates import ChatTemplate


MASKED = -100
"""The label of a token that is not learned; PyTorch's cross-entropy ignores it."""
DECODED_ROWS = 3
LISTED_ROWS = 5
LAST_WORDS = 3
"""This many last words of a post must be learned, so that the end token of an earlier turn does not count."""


class Conversation(NamedTuple):
    """Token ids of a conversation, and a label for each: the id, or MASKED if it is not learned."""

    prompt_id: str
    input_ids: list[int]
    labels: list[int]


def tokenized(rows: pd.DataFrame, template: ChatTemplate, loss: str, system_prompt: str | None) -> list[Conversation]:
    """One conversation per row (schema DataSubsets): the student's prompt as in generation, then the post.

    Labels begin after the prompt if `loss` is `completion`, at the first token if it is `full`. Nothing is truncated.
    Raises ModelError if the chat template cannot render the conversation.
    """
    made = []
    for row in rows.itertuples():
        whole = template.conversation(chat(row.student_prompt, system_prompt), row.post)
        start = whole.prompt if loss == "completion" else 0
        made.append(Conversation(row.prompt_id, whole.ids, [MASKED] * start + whole.ids[start:]))
    return made


def supervision(
    conversations: Sequence[Conversation],
    posts: Sequence[str],
    collate: Callable[[list[dict[str, list[int]]]], Any],
    tokenizer: PreTrainedTokenizerBase,
    end_tokens: set[int],
) -> pd.DataFrame:
    """The tokens of each conversation that the trainer's own collator leaves to be learned (schema Supervision).

    `posts` are the texts to be learned; `end_tokens` are the ids that end a turn in generation.
    """
    import pandas as pd

    begin, table = tokenizer.bos_token_id, []
    for index, (one, post) in enumerate(zip(conversations, posts, strict=True)):
        batch = collate([{"input_ids": one.input_ids, "labels": one.labels}])
        learned = [int(label) for label in batch["labels"].flatten() if label != MASKED]
        table.append(
            {
                "prompt_id": one.prompt_id,
                "tokens": len(one.input_ids),
                "supervised_tokens": len(learned),
                "is_end_supervised": _has_end(learned, post, tokenizer, end_tokens),
                "is_begin_doubled": begin is not None and one.input_ids[:2] == [begin, begin],
                "learned": tokenizer.decode(learned) if index < DECODED_ROWS else "",
            }
        )
    return pd.DataFrame(table)


def _has_end(learned: list[int], post: str, tokenizer: PreTrainedTokenizerBase, end_tokens: set[int]) -> bool:
    # A template may write white space after the end token.
    last = next((label for label in reversed(learned) if str(tokenizer.decode([label])).strip()), None)
    text = _plain(str(tokenizer.decode(learned, skip_special_tokens=True)))
    return last in end_tokens and text.endswith(" ".join(_plain(post).split()[-LAST_WORDS:]))


def _plain(text: str) -> str:
    return normalised(unicodedata.normalize("NFKC", text))


def check_supervision(table: pd.DataFrame, max_length: int) -> None:
    """Raises SynthpostError if a row is longer than `max_length` tokens, has no learned token or no learned end token,
    or has two begin tokens; `table` follows Supervision.
    """
    is_masked = table["supervised_tokens"] == 0
    problems = (
        (
            table["tokens"] > max_length,
            f"are longer than training.max_length, {max_length} tokens (the longest has {table['tokens'].max()}); "
            "raise it in the profile",
        ),
        (is_masked, "teach nothing: all their labels are masked; check the student's chat template"),
        (
            ~is_masked & ~table["is_end_supervised"],
            "do not teach when to stop; the student's chat template lacks its end-of-turn token",
        ),
        (
            table["is_begin_doubled"],
            "begin with two begin tokens; remove one from the student's chat template or tokenizer",
        ),
    )
    for is_refused, what in problems:
        refused = table[is_refused]
        if len(refused):
            ids = ", ".join(refused["prompt_id"].head(LISTED_ROWS))
            raise SynthpostError(f"{len(refused)} of {len(table)} training rows {what} (first prompts: {ids})")
