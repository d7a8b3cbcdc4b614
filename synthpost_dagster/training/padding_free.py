"""Padding-free tuning: rows end to end in one sequence, attention within each row, logits of learned tokens alone.

The model stays transformers', the adapter PEFT's, and the loop TRL's; what is put in place is the attention function,
the collator and the loss. Imports torch, so it is imported where a trainer is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from synthpost_dagster.inference.attention import uses_flash
from synthpost_dagster.training.conversations import MASKED
from synthpost_dagster.training.fitting import PIECE

ATTENTION = "synthpost_rows"
"""The name under which transformers knows the attention function."""
SUITABLE = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Model types whose decoder hands keywords to its attention, and whose logits are the head's, not scaled or capped."""
FILL = 64
"""On a GPU, tokens are filled up to a multiple of this: matrix products of odd sizes are slow."""


def suits(model: PreTrainedModel, target_modules: Sequence[str]) -> bool:
    """Whether the model can be tuned so: a known decoder, attention over all before, an output layer left as it is."""
    config = model.config
    return (
        config.model_type in SUITABLE
        and getattr(config, "sliding_window", None) is None
        and "lm_head" not in target_modules
    )


class RowsCollator:
    """Puts conversations end to end, for one micro-batch.

    Gives `input_ids`, `position_ids` and `labels` (1 × tokens; a row's first token is never learned), `ends` (int32,
    beginning with 0), `longest` (an int), and `learned` with `targets`: the positions whose next token is learned, and
    that token.

    Compiled layers are made anew for each shape that they have not met, so all that can be the same is: `ends` has
    `rows` + 2 numbers, `longest` is that of all rows, and with `is_filled` tokens come in multiples of FILL, the rest
    being a row of its own that is never learned.
    """

    def __init__(self, rows: int, longest: int, is_filled: bool) -> None:
        """For micro-batches of at most `rows` rows, of at most `longest` tokens each."""
        self._ends, self._longest, self._fill = rows + 2, max(longest, FILL), FILL if is_filled else 1

    def __call__(self, examples: list[dict[str, list[int]]]) -> dict[str, Any]:
        """One micro-batch of conversations (`input_ids` and `labels`)."""
        ids: list[int] = []
        labels: list[int] = []
        positions: list[int] = []
        ends = [0]
        for example in examples:
            ids += example["input_ids"]
            labels += [MASKED, *example["labels"][1:]]
            positions += range(len(example["input_ids"]))
            ends.append(len(ids))
        spare = -len(ids) % self._fill
        learned = [place - 1 for place, label in enumerate(labels) if label != MASKED]
        targets = [label for label in labels if label != MASKED]
        ends += [len(ids) + spare] * (self._ends - len(ends))
        unlearned = -len(targets) % self._fill
        return {
            "input_ids": torch.tensor([ids + [0] * spare]),
            "position_ids": torch.tensor([[*positions, *range(spare)]]),
            "labels": torch.tensor([labels + [MASKED] * spare]),
            "ends": torch.tensor(ends, dtype=torch.int32),
            "longest": self._longest,
            "learned": torch.tensor(learned + [0] * unlearned),
            "targets": torch.tensor(targets + [MASKED] * unlearned),
        }


def attend_within_rows(
    module: torch.nn.Module,  # noqa: ARG001 - transformers' signature
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    *,
    ends: Tensor,
    longest: int,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of 1 × heads × tokens × size within each row; flash attention where a GPU has it.

    Gives 1 × tokens × heads × size. Key and value may have fewer heads (arXiv:2305.13245).
    """
    if uses_flash(query.device, query.dtype):
        parts = [part[0].transpose(0, 1) for part in (query, key, value)]
        found = torch.ops.aten._flash_attention_forward(
            *parts, ends, ends, longest, longest, 0.0, True, False, scale=scaling
        )
        return found[0].unsqueeze(0), None
    rows = []
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        if start == end:
            continue
        q, k, v = (part[:, :, start:end] for part in (query, key, value))
        rows.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True))
    return torch.cat(rows, dim=2).transpose(1, 2), None


AttentionInterface.register(ATTENTION, attend_within_rows)


def piece_loss(hidden: Tensor, weight: Tensor, targets: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of positions × width, summed and divided by `count`, and its gradient for `hidden`.

    A MASKED target counts nothing.
    """
    logits = (hidden @ weight.t()).float()
    most = logits.amax(dim=-1, keepdim=True)
    powers = (logits - most).exp()
    total = powers.sum(dim=-1, keepdim=True)
    is_learned = (targets != MASKED).unsqueeze(-1)
    at = targets.clamp(min=0).unsqueeze(-1)
    losses = (total.log() + most - logits.gather(-1, at)) * is_learned
    is_target = torch.arange(logits.shape[-1], device=logits.device) == at
    slopes = (powers / total - is_target.float()) * is_learned / count
    return losses.sum() / count, slopes.to(hidden.dtype) @ weight


class LearnedLoss(torch.autograd.Function):
    """Cross-entropy under a frozen output layer, whose gradient is made together with it, a piece at a time.

    So the logits of all learned tokens, 128,256 numbers each in LLaMA 3, are never held at once.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, count: Tensor, one: Callable[..., Any]
    ) -> Tensor:
        """The loss of positions × width; `one` is `piece_loss`, compiled or not."""
        starts = range(0, len(targets), PIECE)
        parts = [one(hidden[at : at + PIECE], weight, targets[at : at + PIECE], count) for at in starts]
        ctx.save_for_backward(torch.cat([gradient for _, gradient in parts]))
        return torch.stack([loss for loss, _ in parts]).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        """The gradient is there already."""
        (saved,) = ctx.saved_tensors
        return saved * gradients[0].to(saved.dtype), None, None, None, None


def learned_loss(
    causal: PreTrainedModel, batch: dict[str, Any], count: Tensor, one: Callable[..., Any], is_mixed: bool
) -> Tensor:
    """The loss of a micro-batch of RowsCollator, divided by the learned tokens of the whole step (`count`).

    `is_mixed`: products in bfloat16, adapters in float32.
    """
    device = batch["input_ids"].device
    with torch.autocast(device.type, torch.bfloat16, enabled=is_mixed):
        # As if it had a gradient, like every later layer's input: so one compiled layer serves them all.
        embedded = causal.model.embed_tokens(batch["input_ids"]).detach().requires_grad_()
        hidden = causal.model(
            inputs_embeds=embedded,
            position_ids=batch["position_ids"],
            use_cache=False,
            ends=batch["ends"],
            longest=batch["longest"],
        ).last_hidden_state[0]
        learned, weight = hidden[batch["learned"]], causal.lm_head.weight
        found: Tensor = LearnedLoss.apply(learned, weight, batch["targets"], count.to(device), one)  # type: ignore[no-untyped-call]
    return found
