"""Perplexity of general text: computed by hand for tiny models, and with a real adapter on and off."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from synthpost_dagster.inference.models import Loaded, load
from synthpost_dagster.schemas import Forgetting
from synthpost_dagster.tasks.task import Task
from synthpost_dagster.training.forgetting import (
    GeneralText,
    KindPerplexity,
    forgetting,
    forgetting_facts,
    general_perplexity,
    general_text,
)
from tests.helpers.tuning import CPU, STUDENT, cell, spec_of, tuner_of

VOCABULARY = 29
BEGIN = 28


class Letters:
    """A tokenizer of the letters a to z, with an optional begin token as the last one."""

    def __init__(self, bos_token_id: int | None = BEGIN) -> None:
        self.bos_token_id = bos_token_id

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        assert not add_special_tokens, "the begin token would be doubled"
        return {"input_ids": [ord(letter) - ord("a") for letter in text]}


class Table(torch.nn.Module):
    """A model whose next token depends only on the last one: row = last token, column = logit of the next."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.device = torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        assert not self.training
        return SimpleNamespace(logits=self.logits[input_ids])


def text(*passages: tuple[str, str]) -> GeneralText:
    return GeneralText.model_validate(
        {"passages": [{"id": f"p{n}", "kind": kind, "text": words} for n, (kind, words) in enumerate(passages)]}
    )


def llama(**changes: Any) -> Any:
    """A random Llama of two layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    values = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "initializer_range": 0.5,
    }
    return LlamaForCausalLM(LlamaConfig(**values | changes)).eval()


def loaded(model: Any, tokenizer: Any = None) -> Loaded:
    return Loaded(model, tokenizer or Letters())


UNEVEN = text(("prose", "abcdefghij"), ("code", "ba"), ("prose", "zyx"), ("poem", "a"), ("code", "hello"))


def test_uniform_model_has_the_perplexity_of_its_vocabulary_size() -> None:
    model = llama()
    torch.nn.init.zeros_(model.lm_head.weight)
    found = general_perplexity(loaded(model), UNEVEN)
    assert [(one.kind, one.passages, one.tokens) for one in found] == [("prose", 2, 13), ("code", 2, 7), ("poem", 1, 1)]
    assert [one.perplexity for one in found] == pytest.approx([VOCABULARY] * 3)


def test_perplexity_equals_that_of_a_known_table() -> None:
    logits = torch.full((VOCABULARY, VOCABULARY), -math.inf)
    logits[BEGIN, :2] = math.log(5.0)  # a or b, half each
    logits[0, :4] = torch.log(torch.tensor([1.0, 2.0, 4.0, 1.0]))  # after a: b in a quarter, c in half of the cases
    logits[1, :4] = 0.0  # after b: each of a to d in a quarter
    (found,) = general_perplexity(loaded(Table(logits)), text(("prose", "aba"), ("prose", "ac")))
    # aba: 1/2 · 1/4 · 1/4; ac: 1/2 · 1/2. Five tokens with the product 1/128.
    assert found.nats == pytest.approx(math.log(128), rel=1e-6)
    assert found.perplexity == pytest.approx(128 ** (1 / 5), rel=1e-6)
    (without,) = general_perplexity(loaded(Table(logits), Letters(None)), text(("prose", "aba"), ("prose", "ac")))
    assert without.tokens == 3, "without a begin token the first is not predicted"
    assert without.nats == pytest.approx(math.log(32), rel=1e-6)


def test_impossible_token_makes_perplexity_undefined_and_the_fact_none() -> None:
    (found,) = general_perplexity(loaded(Table(torch.full((VOCABULARY,) * 2, math.nan))), text(("prose", "ab")))
    assert math.isnan(found.perplexity)
    table = pd.DataFrame(
        {"kind": ["prose"], "passages": 1, "tokens": 2, "base_perplexity": 2.0, "tuned_perplexity": found.perplexity}
    )
    facts = forgetting_facts(Forgetting.validate(table))
    assert (facts["base_general_perplexity"], facts["general_perplexity"], facts["perplexity_ratio"]) == (2, None, None)


@pytest.mark.parametrize("batch_tokens", [1, 8, 22, 10_000])
def test_padding_and_batch_size_change_nothing(batch_tokens: int) -> None:
    model = llama()
    alone = [general_perplexity(loaded(model), text((one.kind, one.text)))[0] for one in UNEVEN.passages]
    widths: list[tuple[int, int]] = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    for found in general_perplexity(loaded(model), UNEVEN, batch_tokens):
        expected = sum(one.nats for one in alone if one.kind == found.kind)
        assert found.nats == pytest.approx(expected, rel=1e-5)
    assert all(rows * width <= batch_tokens or rows == 1 for rows, width in widths)
    assert len(widths) == {1: 5, 8: 4, 22: 2, 10_000: 1}[batch_tokens]


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits = torch.zeros((VOCABULARY, VOCABULARY), dtype=torch.bfloat16)
    (found,) = general_perplexity(loaded(Table(logits)), text(("prose", "ab" * 40)))
    assert found.perplexity == pytest.approx(VOCABULARY, rel=1e-5)


def test_every_module_keeps_its_mode() -> None:
    model = llama(attention_dropout=0.9).train()
    model.model.norm.eval()
    first, second = (general_perplexity(loaded(model), UNEVEN) for _ in range(2))
    assert first == second, "nothing is dropped while it is measured"
    assert model.training and model.model.layers[0].training
    assert not model.model.norm.training


def with_adapter(model: Any) -> Any:
    """The model with a LoRA adapter that changes its output; the same object that training leaves."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(model, config)


@pytest.mark.parametrize("is_wrapped", [True, False])
def test_base_is_the_model_with_its_adapter_switched_off(is_wrapped: bool) -> None:
    untouched = general_perplexity(loaded(llama()), UNEVEN)
    model = llama()
    wrapped = with_adapter(model)
    tuned = general_perplexity(loaded(wrapped), UNEVEN)
    table = Forgetting.validate(forgetting(loaded(wrapped if is_wrapped else model), UNEVEN))
    assert table["base_perplexity"].tolist() == pytest.approx([one.perplexity for one in untouched])
    assert table["tuned_perplexity"].tolist() == pytest.approx([one.perplexity for one in tuned])
    assert abs(table["tuned_perplexity"] - table["base_perplexity"]).min() > 0.01
    assert general_perplexity(loaded(wrapped), UNEVEN) == tuned


def test_model_without_an_adapter_is_refused() -> None:
    with pytest.raises(ValueError, match="no PEFT layer"):
        forgetting(loaded(llama()), UNEVEN)


def test_base_after_a_training_equals_the_loaded_model(tmp_path: Path) -> None:
    few = GeneralText(passages=general_text().passages[::12])
    with tuner_of(spec_of(gradient_checkpointing=True)) as tuner:
        before = general_perplexity(load(STUDENT, CPU), few)
        cell(tuner, tmp_path, spec_of(gradient_checkpointing=True), steps=2)
        with tuner.as_loaded():
            table = Forgetting.validate(forgetting(tuner.loaded, few))
    assert table["base_perplexity"].tolist() == pytest.approx([one.perplexity for one in before], rel=1e-5)
    assert abs(table["tuned_perplexity"] / table["base_perplexity"] - 1).max() > 0.005


def test_facts_hold_the_total_and_the_digest_of_the_text() -> None:
    table = pd.DataFrame(
        {
            "kind": ["prose", "code"],
            "passages": 1,
            "tokens": [3, 1],
            "base_perplexity": [2.0, 32.0],
            "tuned_perplexity": [4.0, 64.0],
        }
    )
    assert forgetting_facts(table) == {
        "general_perplexity": 8.0,
        "base_general_perplexity": 4.0,
        "perplexity_ratio": 2.0,
        "general_text": general_text().digest,
    }


def test_text_has_48_short_passages_of_20_kinds_and_no_sales_post(sales_posts: Task) -> None:
    passages = general_text().passages
    assert (len(passages), len({one.kind for one in passages})) == (48, 20)
    assert len({one.id for one in passages}) == 48
    assert [one.id for one in passages if not 60 <= len(one.text.split()) <= 120] == []
    names = {name for item in sales_posts.items for name in sales_posts.names_of(item).values()}
    assert len(names) > 300
    for one in passages:
        assert not [name for name in names if name in one.text], one.id
        assert "buy now" not in one.text.lower() and " #" not in one.text, one.id


def test_another_text_has_another_digest() -> None:
    assert text(("prose", "a")).digest != text(("prose", "b")).digest
    assert KindPerplexity("prose", 1, 0, 0.0).perplexity != 1.0
