"""`study: true` sets the trainer's arguments and the labels of the original study."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from synthpost_dagster import profiles
from synthpost_dagster.inference.models import load
from synthpost_dagster.profiles import Profile, load_profile
from synthpost_dagster.runtime.progress import SILENT
from synthpost_dagster.tasks.task import Task
from synthpost_dagster.training.checkpoints import Checkpoints
from synthpost_dagster.training.conversations import MASKED
from synthpost_dagster.training.fitting import Layout
from synthpost_dagster.training.sft import Job, Tuner
from tests.helpers.tuning import CPU, STUDENT, rows_of

ROWS = rows_of(8)


@pytest.fixture(scope="module")
def study(sales_posts: Task, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """The packaged profile `tiny` with `study: true` and keys that differ from the study."""
    content = yaml.safe_load((profiles.FOLDER / "tiny.yaml").read_text(encoding="utf-8"))
    content["study"] = True
    content["training"] |= {"rows_per_step": 4, "learning_rate": 0.5, "seed": 1, "max_length": 99}
    path = tmp_path_factory.mktemp("study") / "mine.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_profile(str(path), sales_posts)


@pytest.fixture(scope="module")
def tuner(study: Profile) -> Iterator[Tuner]:
    with Tuner(load(STUDENT, CPU), "embedded", study.training, 50, CPU) as made:
        yield made


@pytest.fixture(scope="module")
def trainer(study: Profile, sales_posts: Task, tuner: Tuner, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """TRL's trainer for a cell of the study."""
    prompt, spec = sales_posts.spec.system_prompt, study.training
    checkpoints = Checkpoints(tmp_path_factory.mktemp("checkpoints"), 60)
    layout = tuner._layouts(spec, checkpoints)[0]
    assert layout == Layout(2, gradient_checkpointing=True, is_compiled=False)
    return tuner._trainer(Job(ROWS, 50, spec, prompt), layout, checkpoints, SILENT)


def test_trainer_has_the_arguments_of_the_study(trainer: Any) -> None:
    wanted = {
        "max_steps": 50,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "learning_rate": 2e-4,
        "lr_scheduler_type": "linear",
        "warmup_steps": 5,
        "weight_decay": 0.01,
        "optim": "adamw_8bit",
        "seed": 3407,
        "max_length": 2048,
        "packing": False,
        "padding_free": False,
        "completion_only_loss": False,
        "assistant_only_loss": False,
        "gradient_checkpointing": True,
        "max_grad_norm": 1.0,
        "num_train_epochs": 3.0,  # the default of transformers; max_steps overrides it
        "report_to": [],
    }
    assert {name: getattr(trainer.args, name) for name in wanted} == wanted


def test_trainer_is_trls_and_the_optimizer_bitsandbytes(trainer: Any) -> None:
    from bitsandbytes.optim import AdamW
    from trl import SFTTrainer

    assert type(trainer) is SFTTrainer
    kind, settings = trainer.get_optimizer_cls_and_kwargs(trainer.args)
    assert (kind, settings["optim_bits"]) == (AdamW, 8)


def test_adapter_has_the_arguments_of_the_study(tuner: Tuner) -> None:
    adapter = tuner.model.peft_config["default"]
    assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout, adapter.bias) == (16, 16, 0.0, "none")
    assert adapter.target_modules == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert (adapter.task_type, adapter.use_rslora, adapter.modules_to_save) == ("CAUSAL_LM", False, None)


def test_every_token_but_padding_is_learned_system_prompt_included(trainer: Any, sales_posts: Task) -> None:
    tokenizer, seen = trainer.processing_class, []
    for batch in trainer.get_train_dataloader():
        assert batch["input_ids"].shape[0] == 2
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            assert labels[mask == 1].tolist() == ids[mask == 1].tolist()
            assert set(labels[mask == 0].tolist()) <= {MASKED}
            seen.append(tokenizer.decode(labels[labels != MASKED]))
    expected = [
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        f"{sales_posts.spec.system_prompt.strip()}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        f"{row.student_prompt}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n{row.post}<|eot_id|>"
        for row in ROWS.itertuples()
    ]
    assert sorted(seen) == sorted(expected)
