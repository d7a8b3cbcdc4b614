"""Forgetting: perplexity of general text under a tuned model and under its base.

The text is `general_text.yaml`, written for this project. It is raw text without a chat template, so that the modelling
of language is measured and not the following of instructions. The arithmetic is in `statistics.perplexity`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from synthpost_dagster.artifacts.fingerprint import fingerprint
from synthpost_dagster.files.yaml_files import read_record
from synthpost_dagster.inference.models import Loaded, evaluating
from synthpost_dagster.statistics.perplexity import perplexity, whole

if TYPE_CHECKING:
    import pandas as pd

GENERAL_TEXT = Path(__file__).with_name("general_text.yaml")
BATCH_TOKENS = 1024
"""Padded tokens per batch: with a vocabulary of 128,256 the logits take 250 MiB in 16 bits, less than in training."""


class Passage(BaseModel):
    """A short text of one kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern="^[a-z0-9-]+$")
    kind: str = Field(pattern="^[a-z]+$")
    text: str = Field(min_length=1)


class GeneralText(BaseModel):
    """`general_text.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passages: tuple[Passage, ...] = Field(min_length=1)

    @property
    def digest(self) -> str:
        """A hash of the text, so that figures on different texts are not compared."""
        return fingerprint(self.model_dump(mode="json"))


class KindPerplexity(NamedTuple):
    """One kind of text under one model: predicted tokens, and their summed cross-entropy in nats."""

    kind: str
    passages: int
    tokens: int
    nats: float

    @property
    def perplexity(self) -> float:
        """Perplexity per token; NaN if undefined."""
        return perplexity(self.nats, self.tokens)


@cache
def general_text() -> GeneralText:
    """The packaged text."""
    return read_record(GENERAL_TEXT, GeneralText)


def forgetting(loaded: Loaded, text: GeneralText | None = None) -> pd.DataFrame:
    """Perplexities with the adapter and with the adapter switched off (schema Forgetting).

    Both are measured on the same model after training, so that other changes of a trainer (dtypes, kernels) do not
    affect the ratio. The model's mode and adapter are restored. Raises ValueError if the model has no adapter.
    """
    import pandas as pd

    tuned = general_perplexity(loaded, text)
    with _without_adapter(loaded.model):
        base = general_perplexity(loaded, text)
    return pd.DataFrame(
        {
            "kind": after.kind,
            "passages": after.passages,
            "tokens": after.tokens,
            "base_perplexity": before.perplexity,
            "tuned_perplexity": after.perplexity,
        }
        for before, after in zip(base, tuned, strict=True)
    )


def forgetting_facts(kinds: pd.DataFrame) -> dict[str, Any]:
    """The table (schema Forgetting) as facts of a manifest; an undefined figure is None."""
    found = whole(kinds)
    figures = {
        "general_perplexity": found.tuned,
        "base_general_perplexity": found.base,
        "perplexity_ratio": found.ratio,
    }
    rounded = {name: None if math.isnan(value) else round(value, 4) for name, value in figures.items()}
    return rounded | {"general_text": general_text().digest}


def general_perplexity(
    loaded: Loaded, text: GeneralText | None = None, batch_tokens: int = BATCH_TOKENS
) -> list[KindPerplexity]:
    """Cross-entropy of general text under the model, one entry per kind.

    A passage is its raw text after the begin token, if the tokenizer has one; every token but the first is predicted.
    Batches hold passages of similar length, padded to at most `batch_tokens` tokens, or one passage. The model's mode
    is restored.
    """
    import torch

    passages = (text or general_text()).passages
    tokenizer: Any = loaded.tokenizer
    begin = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    rows = [begin + list(tokenizer(passage.text, add_special_tokens=False)["input_ids"]) for passage in passages]
    nats: dict[int, float] = {}
    with torch.inference_mode(), evaluating(loaded.model):
        for batch in _batches([len(row) for row in rows], batch_tokens):
            nats.update(zip(batch, _nats(loaded.model, [rows[index] for index in batch]), strict=True))
    by_kind: dict[str, list[int]] = {}
    for index, passage in enumerate(passages):
        by_kind.setdefault(passage.kind, []).append(index)
    return [
        KindPerplexity(kind, len(own), sum(len(rows[index]) - 1 for index in own), sum(nats[index] for index in own))
        for kind, own in by_kind.items()
    ]


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Batches of row indexes, longest first."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _nats(model: Any, rows: Sequence[list[int]]) -> list[float]:
    """The summed cross-entropy of each row."""
    import torch

    device = model.device
    width = max(map(len, rows))
    # Padding on the right changes nothing, because no token attends to it.
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    # In 32 bits one passage at a time: the whole batch would take twice the memory of its logits.
    return [
        float(torch.nn.functional.cross_entropy(of_row[: len(row) - 1].float(), row_ids[1 : len(row)], reduction="sum"))
        for row, row_ids, of_row in zip(rows, ids, logits, strict=True)
    ]


@contextmanager
def _without_adapter(model: Any) -> Iterator[None]:
    """Switches the PEFT layers off. PeftModel.disable_adapter needs a PeftModel, which the loaded model is not."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if not layers:
        raise ValueError("the model has no PEFT layer to switch off, so it cannot be compared with its base")
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
