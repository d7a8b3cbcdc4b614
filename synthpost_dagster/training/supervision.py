"""What of each training conversation is learned, looked at before any of it is trained on."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

from synthpost_dagster.errors import SynthpostError
from synthpost_dagster.rows.replies import normalised

if TYPE_CHECKING:
    import pandas as pd

MASKED = -100
"""The label of a token that is not learned."""
DECODED_ROWS = 3
NAMED_ROWS = 5
LAST_WORDS = 3
"""So many of a post's last words must be learned, so that an end token of an earlier turn does not pass for its end."""


def supervision(trainer: Any, rows: pd.DataFrame, end_tokens: set[int]) -> pd.DataFrame:
    """What the trainer's own collator leaves to be learned of each row (schema Supervision).

    `rows` follows DataSubsets; `end_tokens` are the ids that end a turn when text is generated. A row that the trainer
    has dropped, since nothing of it would be learned, has no tokens.
    """
    import pandas as pd

    at = {name: place for place, name in enumerate(trainer.train_dataset["prompt_id"])}
    return pd.DataFrame(
        {
            "prompt_id": name,
            **_learned(trainer, at.get(name), post, end_tokens, is_decoded=place < DECODED_ROWS),
        }
        for place, (name, post) in enumerate(zip(rows["prompt_id"], rows["post"], strict=True))
    )


def _learned(trainer: Any, at: int | None, post: str, end_tokens: set[int], is_decoded: bool) -> dict[str, Any]:
    if at is None:
        return {"tokens": 0, "supervised_tokens": 0, "is_end_supervised": False, "learned": ""}
    batch = trainer.data_collator([trainer.train_dataset[at]])
    labels = [int(label) for label in batch["labels"].flatten()]
    learned = [label for label in labels if label != MASKED]
    tokenizer = trainer.processing_class
    # A template may end the turn with white space after the end token.
    last = next((label for label in reversed(learned) if tokenizer.decode([label]).strip()), None)
    text = _plain(tokenizer.decode(learned, skip_special_tokens=True))
    is_whole = text.endswith(" ".join(_plain(post).split()[-LAST_WORDS:]))
    return {
        "tokens": len(labels),
        "supervised_tokens": len(learned),
        "is_end_supervised": last in end_tokens and is_whole,
        "learned": tokenizer.decode(learned) if is_decoded else "",
    }


def _plain(text: str) -> str:
    """The words of a text, however a tokenizer writes its signs."""
    return normalised(unicodedata.normalize("NFKC", text))


def refuse_untaught(table: pd.DataFrame) -> None:
    """Raises SynthpostError where a row teaches nothing, or not when to stop; `table` follows Supervision."""
    silent = table[table["supervised_tokens"] == 0]
    endless = table[(table["supervised_tokens"] > 0) & ~table["is_end_supervised"]]
    for rows, what in ((silent, "teach nothing: all their labels are masked"), (endless, "do not teach when to stop")):
        if len(rows):
            ids = ", ".join(rows["prompt_id"].head(NAMED_ROWS))
            raise SynthpostError(
                f"{len(rows)} of {len(table)} training rows {what} (first prompts: {ids}); they may be longer than "
                "training.max_length in the profile, or the student's chat template lacks its end-of-turn token"
            )
