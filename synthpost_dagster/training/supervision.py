"""What of each training conversation is learned, looked at before any of it is trained on."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from synthpost_dagster.errors import SynthpostError
from synthpost_dagster.text.normalize import normalised
from synthpost_dagster.training.conversations import MASKED, Conversation

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase


DECODED_ROWS = 3
NAMED_ROWS = 5
LAST_WORDS = 3
"""So many of a post's last words must be learned, so that an end token of an earlier turn does not pass for its end."""


def supervision(
    conversations: Sequence[Conversation],
    posts: Sequence[str],
    collate: Callable[[list[dict[str, list[int]]]], Any],
    tokenizer: PreTrainedTokenizerBase,
    end_tokens: set[int],
) -> pd.DataFrame:
    """What the trainer's own collator leaves to be learned of each conversation (schema Supervision).

    `posts` are the texts that should be learned; `end_tokens` are the ids that end a turn when text is generated.
    """
    import pandas as pd

    table = []
    for place, (one, post) in enumerate(zip(conversations, posts, strict=True)):
        batch = collate([{"input_ids": one.input_ids, "labels": one.labels}])
        learned = [int(label) for label in batch["labels"].flatten() if label != MASKED]
        table.append(
            {
                "prompt_id": one.prompt_id,
                "tokens": len(one.input_ids),
                "supervised_tokens": len(learned),
                "is_end_supervised": _has_end(learned, post, tokenizer, end_tokens),
                "is_begin_doubled": _is_doubled(one.input_ids, tokenizer.bos_token_id),
                "learned": tokenizer.decode(learned) if place < DECODED_ROWS else "",
            }
        )
    return pd.DataFrame(table)


def _has_end(learned: list[int], post: str, tokenizer: PreTrainedTokenizerBase, end_tokens: set[int]) -> bool:
    # A template may end the turn with white space after the end token.
    last = next((label for label in reversed(learned) if str(tokenizer.decode([label])).strip()), None)
    text = _plain(str(tokenizer.decode(learned, skip_special_tokens=True)))
    return last in end_tokens and text.endswith(" ".join(_plain(post).split()[-LAST_WORDS:]))


def _is_doubled(ids: list[int], begin: int | None) -> bool:
    """Whether the conversation begins with two begin tokens, one of the template and one of the tokenizer."""
    return begin is not None and ids[:2] == [begin, begin]


def _plain(text: str) -> str:
    """The words of a text, however a tokenizer writes its signs."""
    return normalised(unicodedata.normalize("NFKC", text))


def refuse_untaught(table: pd.DataFrame, max_length: int) -> None:
    """Raises SynthpostError where a row is longer than `max_length` tokens, teaches nothing, does not teach when to
    stop, or begins twice; `table` follows Supervision.
    """
    is_silent = table["supervised_tokens"] == 0
    refused = (
        (
            table["tokens"] > max_length,
            f"are longer than training.max_length, {max_length} tokens (the longest has {table['tokens'].max()}); "
            "raise it in the profile",
        ),
        (is_silent, "teach nothing: all their labels are masked; look at the student's chat template"),
        (
            ~is_silent & ~table["is_end_supervised"],
            "do not teach when to stop; the student's chat template lacks its end-of-turn token",
        ),
        (
            table["is_begin_doubled"],
            "begin with two begin tokens; take one out of the student's chat template or tokenizer",
        ),
    )
    for is_at_fault, what in refused:
        at_fault = table[is_at_fault]
        if len(at_fault):
            ids = ", ".join(at_fault["prompt_id"].head(NAMED_ROWS))
            raise SynthpostError(f"{len(at_fault)} of {len(table)} training rows {what} (first prompts: {ids})")
