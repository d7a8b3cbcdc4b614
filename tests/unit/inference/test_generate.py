"""The embedded model writes posts: reproducibly, in order, and differently with an adapter."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from synthpost_dagster.embedded import MODEL_FOLDER
from synthpost_dagster.errors import ModelError
from synthpost_dagster.inference.generate import Completion, chat, generate
from synthpost_dagster.inference.models import Loaded, load, load_adapter
from synthpost_dagster.inference.templates import Chat
from synthpost_dagster.profiles.models import ModelSpec, Sampling
from synthpost_dagster.rows.prompts import evaluation_prompts
from synthpost_dagster.runtime.devices import Device
from synthpost_dagster.runtime.progress import SILENT, Event, Progress
from synthpost_dagster.tasks.task import Task

EMBEDDED = ModelSpec(model="embedded", revision=None, quantization="none", dtype="float32", memory_gib=1.0)
CPU = Device("cpu", "cpu", "CPU")
GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=12, batch_size=4, seed=1)
WARM = GREEDY.model_copy(update={"temperature": 1.0})


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load(EMBEDDED, CPU)


@pytest.fixture(scope="module")
def chats(sales_posts: Task) -> list[Chat]:
    return [chat(text) for text in evaluation_prompts(sales_posts, 6)["student_prompt"]]


def texts(replies: list[Completion]) -> list[str]:
    return [reply.text for reply in replies]


def test_chat_is_one_user_turn_after_an_optional_system_prompt() -> None:
    assert chat("hello") == [{"role": "user", "content": "hello"}]
    assert chat("hello", "be brief") == [{"role": "system", "content": "be brief"}, *chat("hello")]
    assert chat("hello", "") == chat("hello")


def test_special_tokens_in_a_users_text_stay_text(loaded: Loaded) -> None:
    special = {number: token.content for number, token in loaded.tokenizer.added_tokens_decoder.items()}

    def counts(text: str) -> dict[str, int]:
        ids = loaded.template.prompt_ids(chat(text))
        return {content: ids.count(number) for number, content in special.items()}

    harmless = counts("A post and more.")
    assert harmless["<|eot_id|>"] == 1
    for token in special.values():
        inside = f"{token[:3]}{token}{token[3:]}"
        assert counts(f"A post {token} and more.") == counts(f"{token}{token}") == counts(inside) == harmless
    assert counts("".join(special.values())) == harmless


def test_greedy_posts_are_the_same_every_time_and_differ_by_prompt(loaded: Loaded, chats: list[Chat]) -> None:
    first = generate(loaded, chats, GREEDY, SILENT, "posts")
    assert generate(loaded, chats, GREEDY.model_copy(update={"seed": 2}), SILENT, "posts") == first
    assert len(set(texts(first))) > 3


def test_posts_are_in_the_order_of_their_chats(loaded: Loaded, chats: list[Chat]) -> None:
    small = GREEDY.model_copy(update={"batch_size": 1})
    alone = [generate(loaded, [one], small, SILENT, "posts")[0] for one in chats]
    assert generate(loaded, chats, small, SILENT, "posts") == alone
    assert generate(loaded, chats[::-1], small, SILENT, "posts") == alone[::-1]
    assert len({reply.prompt_tokens for reply in alone}) > 1


def test_drawn_posts_follow_their_seed(loaded: Loaded, chats: list[Chat]) -> None:
    first = generate(loaded, chats, WARM, SILENT, "posts")
    assert generate(loaded, chats, WARM, SILENT, "posts") == first
    assert texts(generate(loaded, chats, WARM.model_copy(update={"seed": 2}), SILENT, "posts")) != texts(first)


def test_finish_reason_distinguishes_complete_and_truncated_posts(loaded: Loaded, chats: list[Chat]) -> None:
    long = GREEDY.model_copy(update={"max_new_tokens": 320})
    (whole,) = generate(loaded, chats[:1], long, SILENT, "posts")
    (cut,) = generate(loaded, chats[:1], GREEDY.model_copy(update={"max_new_tokens": 5}), SILENT, "posts")
    assert (whole.finish_reason, cut.finish_reason) == ("stop", "length")
    assert cut.completion_tokens == 5 < whole.completion_tokens
    assert whole.text.startswith(cut.text[:5])
    assert "<|" not in whole.text


def test_progress_runs_from_0_to_all(loaded: Loaded, chats: list[Chat]) -> None:
    events: list[Event] = []
    generate(loaded, chats, GREEDY.model_copy(update={"max_new_tokens": 1}), Progress(events.append), "tuned posts")
    assert [event.done for event in events] == [0, 4, 6]
    assert {(event.what, event.total) for event in events} == {("tuned posts", 6)}


def test_no_chats_give_no_posts(loaded: Loaded) -> None:
    assert generate(loaded, [], GREEDY, SILENT, "posts") == []


def test_adapter_changes_the_posts_and_is_read_without_pickle(
    loaded: Loaded, chats: list[Chat], tmp_path: Path
) -> None:
    adapted = get_peft_model(load(EMBEDDED, CPU).model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.5)
    adapted.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.glob("adapter_model.*")} == {".safetensors"}
    tuned = load_adapter(load(EMBEDDED, CPU), tmp_path)
    plain = generate(loaded, chats[:2], GREEDY, SILENT, "posts")
    assert texts(generate(tuned, chats[:2], GREEDY, SILENT, "posts")) != texts(plain)


def test_folder_without_a_model_is_named(tmp_path: Path) -> None:
    spec = EMBEDDED.model_copy(update={"model": str(tmp_path)})
    with pytest.raises(ModelError, match=r"no model there \(a config.json is expected\)"):
        load(spec, CPU)


def test_folder_that_cannot_be_loaded_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    shutil.copyfile(MODEL_FOLDER / "model.safetensors", tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "no such kind"}', encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(EMBEDDED.model_copy(update={"model": str(tmp_path)}), CPU)


@pytest.mark.parametrize(
    ("message", "error"),
    [("CUDA error: out of memory", RuntimeError), ("some issues during conversion", ModelError)],
)
def test_out_of_memory_in_loading_is_not_reported_as_a_bad_model(
    monkeypatch: pytest.MonkeyPatch, message: str, error: type[Exception]
) -> None:
    def fail(*given: Any, **named: Any) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(error, match=message):
        load(EMBEDDED, CPU)
