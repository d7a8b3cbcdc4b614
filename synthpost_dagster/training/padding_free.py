"""Training without padding: rows concatenated into one sequence, attention within each row, logits of learned tokens.

The model stays transformers', the adapter PEFT's and the loop TRL's; this module replaces the attention function, the
collator and the loss. Imports torch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from synthpost_dagster.inference.attention import causal_by_row
from synthpost_dagster.training.conversations import MASKED

ATTENTION = "synthpost_rows"
"""The name under which transformers knows the attention function."""
MODEL_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Types whose decoder passes keywords to its attention, and whose logits are neither scaled nor capped."""
PADDING_MULTIPLE = 64
"""On a GPU, the number of tokens is padded to a multiple of this: matrix products of odd sizes are slow."""
CHUNK_TOKENS = 512
"""Learned tokens whose logits are in memory at a time."""


def is_supported(model: PreTrainedModel, target_modules: Sequence[str]) -> bool:
    """Whether the model can be trained without padding: a known type, full attention, and no adapter on lm_head."""
    config = model.config
    return (
        config.model_type in MODEL_TYPES
        and getattr(config, "sliding_window", None) is None
        and "lm_head" not in target_modules
    )


class RowsCollator:
    """Concatenates the conversations of a micro-batch.

    Returns `input_ids`, `position_ids` and `labels` (1 × tokens; a row's first token is never learned), `ends` (int32,
    beginning with 0), `longest` (an int), and `learned` with `targets`: the positions whose next token is learned, and
    that token.

    Compiled layers are recompiled for each new shape, so shapes vary as little as possible: `ends` has `rows` + 2
    numbers, `longest` is that of all rows, and with `is_padded` the number of tokens is a multiple of
    PADDING_MULTIPLE, with the padding as a row that is never learned.
    """

    def __init__(self, rows: int, longest: int, is_padded: bool) -> None:
        """For micro-batches of at most `rows` rows of at most `longest` tokens."""
        self._ends, self._longest = rows + 2, max(longest, PADDING_MULTIPLE)
        self._multiple = PADDING_MULTIPLE if is_padded else 1

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
        padding = -len(ids) % self._multiple
        learned = [index - 1 for index, label in enumerate(labels) if label != MASKED]
        targets = [label for label in labels if label != MASKED]
        ends += [len(ids) + padding] * (self._ends - len(ends))
        unlearned = -len(targets) % self._multiple
        return {
            "input_ids": torch.tensor([ids + [0] * padding]),
            "position_ids": torch.tensor([[*positions, *range(padding)]]),
            "labels": torch.tensor([labels + [MASKED] * padding]),
            "ends": torch.tensor(ends, dtype=torch.int32),
            "longest": self._longest,
            "learned": torch.tensor(learned + [0] * unlearned),
            "targets": torch.tensor(targets + [MASKED] * unlearned),
        }


def attend_within_rows(*inputs: Any, ends: Tensor, longest: int, scaling: float, **_: Any) -> tuple[Tensor, None]:
    """Causal attention within each row; `inputs` are the module, query, key and value, and no mask.

    Maps 1 × heads × tokens × size to 1 × tokens × heads × size. Key and value may have fewer heads (arXiv:2305.13245).
    """
    query, key, value = (part[0].transpose(0, 1) for part in inputs[1:4])
    return causal_by_row(query, key, value, ends, longest, scaling).unsqueeze(0), None


AttentionInterface.register(ATTENTION, attend_within_rows)


def chunk_loss(hidden: Tensor, weight: Tensor, targets: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of positions × width, summed and divided by `count`, and its gradient for `hidden`.

    MASKED targets count as 0.
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


class ChunkedLoss(torch.autograd.Function):
    """Cross-entropy under a frozen output layer; loss and gradient are computed together, chunk by chunk.

    The logits of all learned tokens, 128,256 numbers each in LLaMA 3, are never in memory at once.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, count: Tensor, loss_of: Callable[..., Any]
    ) -> Tensor:
        """The loss of positions × width; `loss_of` is `chunk_loss`, compiled or not."""
        chunks = [slice(start, start + CHUNK_TOKENS) for start in range(0, len(targets), CHUNK_TOKENS)]
        parts = [loss_of(hidden[chunk], weight, targets[chunk], count) for chunk in chunks]
        ctx.save_for_backward(torch.cat([gradient for _, gradient in parts]))
        return torch.stack([loss for loss, _ in parts]).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        """Scales the gradient that `forward` computed."""
        (saved,) = ctx.saved_tensors
        return saved * gradients[0].to(saved.dtype), None, None, None, None


def learned_loss(
    causal: PreTrainedModel, batch: dict[str, Any], count: Tensor, loss_of: Callable[..., Any], is_mixed: bool
) -> Tensor:
    """The loss of a micro-batch of RowsCollator, divided by the learned tokens of the whole step (`count`).

    With `is_mixed`, products are in bfloat16 and adapters in float32.
    """
    device = batch["input_ids"].device
    with torch.autocast(device.type, torch.bfloat16, enabled=is_mixed):
        # It requires a gradient like the input of every later layer, so that one compiled layer serves all.
        embedded = causal.model.embed_tokens(batch["input_ids"]).detach().requires_grad_()
        hidden = causal.model(
            inputs_embeds=embedded,
            position_ids=batch["position_ids"],
            use_cache=False,
            ends=batch["ends"],
            longest=batch["longest"],
        ).last_hidden_state[0]
        learned, weight, targets = hidden[batch["learned"]], causal.lm_head.weight, batch["targets"]
        loss: Tensor = ChunkedLoss.apply(learned, weight, targets, count.to(device), loss_of)  # type: ignore[no-untyped-call]
    return loss
