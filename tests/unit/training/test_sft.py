"""One real training of two steps: what is learned, what is left behind."""

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
from synthpost_dagster.profiles import load_profile
from synthpost_dagster.progress import Event, Progress
from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.schemas import LossCurve
from synthpost_dagster.tasks.loading import Task
from synthpost_dagster.training.sft import tune

POSTS = [
    "Ready? Order yours today! #Ride",
    "We keep our promises. Visit us.",
    "One. Two. Three. Four.",
    "Big smiles ahead! Grab one now. #Fun #New",
]


class Trained(NamedTuple):
    folder: Path
    curve: pd.DataFrame
    supervision: pd.DataFrame
    events: list[Event]
    rows: pd.DataFrame


@pytest.fixture(scope="module")
def trained(sales_posts: Task, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two steps on four rows with the embedded model, at the full learning rate from the first step on."""
    profile = load_profile("tiny", sales_posts)
    spec = profile.training.model_copy(update={"warmup_steps": 0})
    rows = training_prompts(sales_posts).head(4)[["prompt_id", "student_prompt"]].assign(post=POSTS)
    folder = tmp_path_factory.mktemp("adapter")
    events: list[Event] = []
    tuned = tune(load(profile.student, "cpu"), "embedded", rows, spec, 2, None, folder, Progress(events.append))
    return Trained(folder, tuned.curve, tuned.supervision, events, rows)


def mean_loss(loaded: Loaded, rows: pd.DataFrame, posts_alone: bool) -> float:
    """Cross-entropy a token of the untuned model, over the posts with their end token, or over everything."""
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


def test_the_loss_is_that_of_the_posts_and_their_end_alone(sales_posts: Task, trained: Trained) -> None:
    untuned = load(load_profile("tiny", sales_posts).student, "cpu")
    assert trained.curve["loss"].iloc[0] == pytest.approx(mean_loss(untuned, trained.rows, posts_alone=True), rel=1e-3)
    assert trained.curve["loss"].iloc[0] != pytest.approx(mean_loss(untuned, trained.rows, posts_alone=False), rel=0.05)


def test_the_loss_curve_has_a_row_a_step_and_falls(trained: Trained) -> None:
    LossCurve.validate(trained.curve)
    assert trained.curve["step"].tolist() == [1, 2]
    assert trained.curve["loss"].iloc[1] < trained.curve["loss"].iloc[0]
    assert trained.curve["learning_rate"].tolist() == pytest.approx([2e-3, 1e-3])


def test_the_folder_holds_the_adapter_and_nothing_else(trained: Trained) -> None:
    names = {path.relative_to(trained.folder).as_posix() for path in trained.folder.rglob("*") if path.is_file()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"))]
    assert names <= {"adapter_model.safetensors", "adapter_config.json", "chat_template.jinja"} | {
        name for name in names if "token" in name
    }


def test_the_adapter_names_its_base_and_no_path_of_this_machine(trained: Trained) -> None:
    text = (trained.folder / "adapter_config.json").read_text(encoding="utf-8")
    config = json.loads(text)
    assert config["base_model_name_or_path"] == "embedded"
    assert str(trained.folder) not in text
    assert (config["r"], config["lora_alpha"], config["lora_dropout"], config["bias"]) == (16, 16, 0.0, "none")
    assert len(config["target_modules"]) == 7


def test_progress_tells_of_every_step(trained: Trained) -> None:
    steps = [event for event in trained.events if event.what == "training"]
    assert steps == [Event("training", 1, 2, "steps"), Event("training", 2, 2, "steps")]


def test_a_loss_that_is_not_a_number_stops_with_the_remedy_and_leaves_no_adapter(
    sales_posts: Task, trained: Trained, tmp_path: Path
) -> None:
    profile = load_profile("tiny", sales_posts)
    spec = profile.training.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0})
    with pytest.raises(SynthpostError, match=r"loss is not a number at step \d; lower training.learning_rate"):
        tune(load(profile.student, "cpu"), "embedded", trained.rows, spec, 3, None, tmp_path, Progress())
    assert not list(tmp_path.glob("adapter_*"))
