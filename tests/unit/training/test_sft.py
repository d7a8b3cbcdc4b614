"""Real trainings of a few steps: loss, progress and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import torch

from synthpost_dagster.errors import SynthpostError
from synthpost_dagster.inference.generate import chat
from synthpost_dagster.inference.models import Loaded, load
from synthpost_dagster.schemas import LossCurve
from synthpost_dagster.training.sft import Tuned
from tests.helpers.tuning import (
    ALWAYS,
    CPU,
    FEW_OR_ODD,
    STUDENT,
    ProgressLog,
    alone,
    assert_steps_take,
    cell,
    largest_difference,
    rows_of,
    spec_of,
    tuner_of,
)


class Trained(NamedTuple):
    folder: Path
    tuned: Tuned
    log: ProgressLog


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two steps on eight rows with the embedded model, at the full learning rate from the first step on."""
    folder, log = tmp_path_factory.mktemp("trained"), ProgressLog()
    return Trained(folder, alone(folder, rows=rows_of(8), steps=2, log=log), log)


def mean_loss(loaded: Loaded, rows: pd.DataFrame, posts_alone: bool) -> float:
    """Cross-entropy per token of the untuned model, over the posts with their end token, or over all tokens."""
    total, tokens = 0.0, 0
    for row in rows.itertuples():
        prompt = loaded.tokenizer.apply_chat_template(
            chat(row.student_prompt), add_generation_prompt=True, return_dict=False
        )
        whole = loaded.tokenizer.apply_chat_template(
            [*chat(row.student_prompt), {"role": "assistant", "content": row.post}], return_dict=False
        )
        assert whole[: len(prompt)] == prompt
        start = len(prompt) if posts_alone else 1
        with torch.inference_mode():
            logits = loaded.model(torch.tensor([whole])).logits[0]
        logprobs = torch.log_softmax(logits, dim=-1)
        total -= sum(float(logprobs[place - 1, whole[place]]) for place in range(start, len(whole)))
        tokens += len(whole) - start
    return total / tokens


def test_loss_covers_only_the_posts_and_their_end_tokens(trained: Trained) -> None:
    untuned, first = load(STUDENT, CPU), trained.tuned.curve["loss"].iloc[0]
    assert first == pytest.approx(mean_loss(untuned, rows_of(8), posts_alone=True), rel=1e-4)
    assert first != pytest.approx(mean_loss(untuned, rows_of(8), posts_alone=False), rel=0.02)


def test_loss_curve_has_one_row_per_step_and_falls(trained: Trained) -> None:
    curve = LossCurve.validate(trained.tuned.curve)
    assert curve["step"].tolist() == [1, 2]
    assert curve["loss"].iloc[1] < curve["loss"].iloc[0]
    assert curve["learning_rate"].tolist() == pytest.approx([2e-3, 1e-3])


def test_folder_has_only_the_adapter(trained: Trained) -> None:
    files = [path for path in (trained.folder / "adapter").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"adapter_model.safetensors", "adapter_config.json"}
    assert not list(trained.folder.rglob("checkpoint-*")), "none was due"


def test_adapter_names_its_base_model_and_no_local_path(trained: Trained) -> None:
    text = (trained.folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8")
    config = json.loads(text)
    assert config["base_model_name_or_path"] == "embedded"
    assert str(trained.folder) not in text
    assert (config["r"], config["lora_alpha"], config["lora_dropout"], config["bias"]) == (4, 8, 0.0, "none")
    assert len(config["target_modules"]) == 7


def test_progress_shows_the_first_row_the_layout_and_every_step(trained: Trained) -> None:
    assert trained.log == [
        "the first row teaches: 'Ready for rain?<|eot_id|>'",
        "training 8 rows at a time, 8 rows a step",
        "step 1",
        "step 2",
    ]
    assert trained.tuned.layout.text == "8 rows at a time"


@pytest.mark.parametrize("padding_free", [True, False])
def test_fault_15_nan_loss_ends_the_training_and_leaves_no_files(tmp_path: Path, padding_free: bool) -> None:
    spec = spec_of(learning_rate=1e30, rows_per_step=2, micro_batch=2, padding_free=padding_free)
    log = ProgressLog()
    with tuner_of(spec) as tuner:
        with pytest.raises(SynthpostError, match=r"not a number at step 2; lower training\.learning_rate in the prof"):
            cell(tuner, tmp_path, spec, rows=rows_of(4), steps=16, log=log)
        assert log.steps[-1] <= 10, "it trained on with nothing to learn from"
        assert not list((tmp_path / "adapter").iterdir())
        cell(tuner, tmp_path / "next", rows=rows_of(8), steps=2)
    alone(tmp_path / "undisturbed", rows=rows_of(8), steps=2)
    assert largest_difference(tmp_path / "next", tmp_path / "undisturbed") == 0


def test_fault_15_nan_loss_writes_no_checkpoint(tmp_path: Path) -> None:
    spec = spec_of(learning_rate=1e30, rows_per_step=2, micro_batch=2)
    with pytest.raises(SynthpostError, match="not a number at step 2"):
        alone(tmp_path, spec, rows=rows_of(4), steps=8, seconds=ALWAYS)
    assert not (tmp_path / "checkpoints").exists(), "the next run would resume from it"


def test_fault_16_no_rows_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SynthpostError, match="there are no training rows; make rows first"):
        alone(tmp_path, rows=rows_of(0))


@pytest.mark.parametrize("padding_free", [True, False])
@pytest.mark.parametrize(("rows", "micro_batch", "taken"), FEW_OR_ODD)
def test_fault_16_few_or_odd_numbers_of_rows_are_trained(
    tmp_path: Path, rows: int, micro_batch: int, taken: list[int], padding_free: bool
) -> None:
    assert_steps_take(tmp_path, rows, taken, spec_of(micro_batch=micro_batch, padding_free=padding_free))


def test_fault_16_rows_of_a_single_type_are_learned(tmp_path: Path) -> None:
    rows = rows_of(8).assign(post="Same again. Same again.")
    curve = alone(tmp_path, rows=rows, steps=4).curve
    assert curve["loss"].iloc[-1] < 0.9 * curve["loss"].iloc[0]
