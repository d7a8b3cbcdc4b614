"""Training without padding learns the same as TRL's padded trainer, and rows do not attend to each other."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from peft import get_peft_model

from synthpost_dagster.errors import SpecError
from synthpost_dagster.inference.models import Loaded, load
from synthpost_dagster.training.adapter import lora_config
from synthpost_dagster.training.conversations import MASKED, tokenized
from synthpost_dagster.training.padding_free import (
    ATTENTION,
    CHUNK_TOKENS,
    ChunkedLoss,
    RowsCollator,
    chunk_loss,
    is_supported,
    learned_loss,
)
from synthpost_dagster.training.sft import Tuned, Tuner
from tests.helpers.tuning import CPU, SPEC, STUDENT, cell, largest_difference, rows_of, spec_of, state_of, tuner_of

Padded = Callable[[str], tuple[Path, Tuned]]


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Padded:
    """Three steps on twelve rows with TRL's trainer, for either loss."""
    made: dict[str, tuple[Path, Tuned]] = {}

    def make(loss: str) -> tuple[Path, Tuned]:
        if loss not in made:
            folder, spec = tmp_path_factory.mktemp(loss), spec_of(padding_free=False, loss=loss)
            with tuner_of(spec) as tuner:
                made[loss] = folder, cell(tuner, folder, spec)
        return made[loss]

    return make


@pytest.mark.parametrize("micro_batch", [8, 2])
@pytest.mark.parametrize("loss", ["completion", "full"])
def test_losses_and_adapter_equal_those_of_trls_padded_trainer(
    padded: Padded, tmp_path: Path, loss: str, micro_batch: int
) -> None:
    folder, theirs = padded(loss)
    spec = spec_of(loss=loss, micro_batch=micro_batch)
    with tuner_of(spec) as tuner:
        ours = cell(tuner, tmp_path, spec)
    assert len({*ours.supervision["tokens"]}) > 8, "the rows are of uneven length"
    assert ours.curve["step"].tolist() == [1, 2, 3]
    assert ours.curve["loss"].tolist() == pytest.approx(theirs.curve["loss"].tolist(), abs=1e-4)
    assert ours.curve["learning_rate"].tolist() == pytest.approx(theirs.curve["learning_rate"].tolist())
    assert largest_difference(tmp_path, folder) < 2e-4 < SPEC.learning_rate / 5
    other, _ = padded("full" if loss == "completion" else "completion")
    assert largest_difference(tmp_path, other) > 1e-3, "the tolerance distinguishes the two losses"


def student_with_adapter() -> tuple[Loaded, Any]:
    """The embedded model with a nonzero adapter."""
    loaded = load(STUDENT, CPU)
    model = get_peft_model(loaded.model, lora_config(SPEC.lora))
    generator = torch.Generator().manual_seed(5)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data.normal_(0, 0.02, generator=generator)
    return loaded, model


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """The gradients of the adapter, which are removed from the model."""
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("loss", ["completion", "full"])
def test_loss_and_gradients_equal_those_of_single_rows(loss: str) -> None:
    loaded, model = student_with_adapter()
    rows = tokenized(rows_of(5), loaded.template, loss, None)
    count = torch.tensor(sum(label != MASKED for one in rows for label in one.labels[1:]))
    expected = torch.tensor(0.0)
    for one in rows:
        logits = model(input_ids=torch.tensor([one.input_ids])).logits[0, :-1]
        labels = torch.tensor(one.labels[1:])
        expected = expected + F.cross_entropy(logits, labels, ignore_index=MASKED, reduction="sum") / count
    expected.backward()
    wanted = gradients(model)
    loaded.model.set_attn_implementation(ATTENTION)
    batch = RowsCollator(5, 512, is_padded=True)([one._asdict() for one in rows])
    found = learned_loss(loaded.model, batch, count, chunk_loss, is_mixed=False)
    found.backward()
    got = gradients(model)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    assert set(got) == set(wanted)
    assert all("lora_" in name for name in got)
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, atol=1e-5, rtol=1e-3)


def test_tokens_of_one_row_do_not_affect_another() -> None:
    loaded, _ = student_with_adapter()
    loaded.model.set_attn_implementation(ATTENTION)
    rows = [one._asdict() for one in tokenized(rows_of(3), loaded.template, "full", None)]
    changed = [{**row, "input_ids": [7] * len(row["input_ids"])} if at == 1 else row for at, row in enumerate(rows)]
    before, after = (hidden(loaded, RowsCollator(3, 512, is_padded=True)(some)) for some in (rows, changed))
    ends = [0, *itertools.accumulate(len(row["input_ids"]) for row in rows)]
    first, second, third = (slice(start, end) for start, end in itertools.pairwise(ends))
    assert torch.equal(before[first], after[first])
    assert torch.equal(before[third], after[third])
    assert not torch.isclose(before[second], after[second], atol=1e-3).all(dim=-1).any()


def test_attention_within_a_row_is_causal() -> None:
    loaded, _ = student_with_adapter()
    loaded.model.set_attn_implementation(ATTENTION)
    (row,) = (one._asdict() for one in tokenized(rows_of(1), loaded.template, "full", None))
    changed = {**row, "input_ids": [*row["input_ids"][:9], 7, *row["input_ids"][10:]]}
    before, after = (hidden(loaded, RowsCollator(1, 512, is_padded=False)([one])) for one in (row, changed))
    assert torch.equal(before[:9], after[:9])
    assert (before[9:] != after[9:]).any(dim=-1).all()


def hidden(loaded: Loaded, batch: dict[str, Any]) -> torch.Tensor:
    """Tokens × width, after the last layer."""
    names = ("input_ids", "position_ids", "ends", "longest")
    with torch.inference_mode():
        return loaded.model.model(**{name: batch[name] for name in names}, use_cache=False).last_hidden_state[0]


EXAMPLES = [
    {"input_ids": [5, 6, 7, 8], "labels": [MASKED, MASKED, 7, 8]},
    {"input_ids": [9, 10], "labels": [9, 10]},
]


def test_rows_are_concatenated_and_their_first_tokens_not_learned() -> None:
    batch = RowsCollator(3, 40, is_padded=False)(EXAMPLES)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1]]
    assert batch["labels"].tolist() == [[MASKED, MASKED, 7, 8, MASKED, 10]]
    assert batch["ends"].tolist() == [0, 4, 6, 6, 6], "the number for three rows and padding"
    assert batch["ends"].dtype == torch.int32
    assert batch["learned"].tolist() == [1, 2, 4]
    assert batch["targets"].tolist() == [7, 8, 10]


def test_padding_is_a_row_that_is_not_learned() -> None:
    batch = RowsCollator(2, 100, is_padded=True)(EXAMPLES)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10] + [0] * 58]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, *range(58)]]
    assert batch["labels"].tolist() == [[MASKED, MASKED, 7, 8, MASKED, 10] + [MASKED] * 58]
    assert batch["ends"].tolist() == [0, 4, 6, 64]
    assert batch["learned"].tolist() == [1, 2, 4] + [0] * 61
    assert batch["targets"].tolist() == [7, 8, 10] + [MASKED] * 61


def test_full_batch_gets_no_padding() -> None:
    batch = RowsCollator(1, 64, is_padded=True)([{"input_ids": [1] * 64, "labels": [1] * 64}])
    assert batch["ends"].tolist() == [0, 64, 64]
    assert batch["targets"].tolist() == [1] * 63 + [MASKED]


@pytest.mark.parametrize(("most", "longest"), [(1, 64), (64, 64), (257, 257)])
def test_longest_row_is_that_of_all_batches(most: int, longest: int) -> None:
    assert RowsCollator(2, most, is_padded=False)(EXAMPLES)["longest"] == longest


@pytest.mark.parametrize("positions", [1, CHUNK_TOKENS, 2 * CHUNK_TOKENS + 452])
def test_chunked_loss_and_its_gradient_equal_torchs(positions: int) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(50, 8, generator=generator)
    targets = torch.randint(0, 50, (positions,), generator=generator)
    targets[1::3] = MASKED
    count = (targets != MASKED).sum() + 3  # more than in this micro-batch
    ours = torch.randn(positions, 8, generator=generator).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    found = ChunkedLoss.apply(ours, weight, targets, count, chunk_loss)
    expected = F.cross_entropy(theirs @ weight.t(), targets, ignore_index=MASKED, reduction="sum") / count
    (2 * found).backward()
    (2 * expected).backward()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-7, rtol=1e-4)
    assert (ours.grad[1::3] == 0).all()


def test_large_logits_do_not_overflow_in_the_loss() -> None:
    one = torch.full((1, 1), 1e4)
    loss, gradient = chunk_loss(one, torch.tensor([[1.0], [-1.0]]), torch.tensor([1]), torch.tensor(1))
    assert (float(loss), float(gradient)) == (2e4, 2.0)


@pytest.mark.parametrize(
    ("model_type", "sliding_window", "modules", "suited"),
    [
        ("llama", None, ["q_proj"], True),
        ("mistral", None, ["q_proj"], True),
        ("mistral", 4096, ["q_proj"], False),
        ("llama", None, ["q_proj", "lm_head"], False),
        ("gemma2", None, ["q_proj"], False),
    ],
)
def test_only_supported_decoders_are_trained_without_padding(
    model_type: str, sliding_window: int | None, modules: list[str], suited: bool
) -> None:
    model: Any = SimpleNamespace(config=SimpleNamespace(model_type=model_type, sliding_window=sliding_window))
    assert is_supported(model, modules) is suited


def test_unsupported_model_is_trained_with_padding(padded: Padded, tmp_path: Path) -> None:
    folder, theirs = padded("completion")
    with tuner_of() as tuner:
        tuner.loaded.model.config.sliding_window = 4096
        ours = cell(tuner, tmp_path)
    assert ours.curve.equals(theirs.curve)
    assert largest_difference(tmp_path, folder) == 0


def test_model_of_another_type_is_trained_with_padding_and_restored(tmp_path: Path) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    tokenizer = load(STUDENT, CPU).tokenizer
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer, name))
    model = GPTNeoXForCausalLM(config).eval().requires_grad_(False)
    spec = SPEC.model_copy(
        update={
            "lora": SPEC.lora.model_copy(update={"target_modules": ("query_key_value",)}),
            "gradient_checkpointing": "auto",
            "micro_batch": "auto",
        }
    )
    before = state_of(model)
    with Tuner(Loaded(model, tokenizer), "other", spec, 2, CPU) as tuner:
        tuned = cell(tuner, tmp_path, spec, steps=2)
        with tuner.as_loaded():
            assert model(torch.tensor([[1, 2, 3]])).logits.shape[1] == 3
    assert len(tuned.curve) == 2
    assert state_of(model) == before


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "qkv"])
def test_unknown_target_modules_are_refused_before_the_model_changes(target: str) -> None:
    loaded = load(STUDENT, CPU)
    before = state_of(loaded.model)
    spec = SPEC.model_copy(update={"lora": SPEC.lora.model_copy(update={"target_modules": ("q_proj", target)})})
    with pytest.raises(SpecError, match=rf"training.lora.target_modules: {target} cannot.*q_proj"):
        Tuner(loaded, "embedded", spec, 1, CPU)
    assert state_of(loaded.model) == before
