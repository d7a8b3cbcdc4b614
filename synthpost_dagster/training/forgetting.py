"""How likely general text is to a model, before and after tuning: what it forgot while it learned the task.

The text is `general_text.yaml`, the project's own. It is raw text, without a chat template: what is measured is the
modelling of language, not the following of instructions. The arithmetic is in `statistics.perplexity`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from synthpost_dagster.artifacts.fingerprint import fingerprint
from synthpost_dagster.files.yaml_files import read_record
from synthpost_dagster.inference.models import Loaded
from synthpost_dagster.statistics.perplexity import perplexity, whole

if TYPE_CHECKING:
    import pandas as pd

GENERAL_TEXT = Path(__file__).with_name("general_text.yaml")
BATCH_TOKENS = 1024
"""Padded tokens of a batch: at a vocabulary of 128,256 its logits take 250 MiB in 16 bits, less than in training."""


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

    @model_validator(mode="after")
    def _ids_once(self) -> GeneralText:
        ids = [passage.id for passage in self.passages]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"passages: the id {twice[0]!r} stands twice")
        return self

    @property
    def digest(self) -> str:
        """Names the text, so that figures on different ones are not compared."""
        return fingerprint(self.model_dump(mode="json"))


class KindPerplexity(NamedTuple):
    """One kind of text under one model: `tokens` are those predicted, `nats` their summed cross-entropy."""

    kind: str
    passages: int
    tokens: int
    nats: float

    @property
    def perplexity(self) -> float:
        """A token's; NaN where undefined."""
        return perplexity(self.nats, self.tokens)


@cache
def general_text() -> GeneralText:
    """The passages of the package."""
    return read_record(GENERAL_TEXT, GeneralText)


def forgetting(loaded: Loaded, text: GeneralText | None = None) -> pd.DataFrame:
    """General text under the model with its adapter, and under the same model with the adapter switched off.

    Follows the schema Forgetting. The model is in the mode it was in afterwards, the adapter on. Both are measured on
    the one model, after training, so that what else a trainer changed (dtypes, kernels) is no part of the ratio.
    Raises ValueError where the model has no adapter.
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
    """The table (schema Forgetting) as facts of a manifest; a figure that is undefined is None."""
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
    """Cross-entropy of general text under the model as it is, by kind, in the order of the text.

    A passage is its raw text after the begin token, where the tokenizer has one; every token but the first is
    predicted from those before it. Batches hold passages of like length, padded to at most `batch_tokens` tokens, or
    one passage. The model is left in the mode it was in.
    """
    import torch

    passages = (text or general_text()).passages
    rows = [_token_ids(loaded.tokenizer, passage.text) for passage in passages]
    nats: dict[int, float] = {}
    with torch.inference_mode(), _in_evaluation_mode(loaded.model):
        for batch in _batches([len(row) for row in rows], batch_tokens):
            nats.update(zip(batch, _nats(loaded.model, [rows[place] for place in batch]), strict=True))
    places: dict[str, list[int]] = {}
    for place, passage in enumerate(passages):
        places.setdefault(passage.kind, []).append(place)
    return [_of_kind(kind, of_kind, rows, nats) for kind, of_kind in places.items()]


def _of_kind(kind: str, places: Sequence[int], rows: Sequence[list[int]], nats: dict[int, float]) -> KindPerplexity:
    tokens = sum(len(rows[place]) - 1 for place in places)
    return KindPerplexity(kind, len(places), tokens, sum(nats[place] for place in places))


def _token_ids(tokenizer: Any, text: str) -> list[int]:
    begin = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    return begin + [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Places of the rows, long ones first, so that rows of like length lie in one batch."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _nats(model: Any, rows: Sequence[list[int]]) -> list[float]:
    """The summed cross-entropy of each row's tokens but the first."""
    import torch

    device = model.device
    width = max(map(len, rows))
    # Padded on the right, where no token looks: what stands there changes nothing.
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    # In 32 bits a passage at a time: those of the batch together would take twice the memory of its logits.
    return [
        float(torch.nn.functional.cross_entropy(of_row[: len(row) - 1].float(), row_ids[1 : len(row)], reduction="sum"))
        for row, row_ids, of_row in zip(rows, ids, logits, strict=True)
    ]


@contextmanager
def _in_evaluation_mode(model: Any) -> Iterator[None]:
    """Every module in evaluation mode, and afterwards in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _without_adapter(model: Any) -> Iterator[None]:
    """The PEFT layers inside the model switched off.

    Not PeftModel.disable_adapter: after training, the model that was loaded holds the layers but is no PeftModel.
    """
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
