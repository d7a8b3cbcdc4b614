"""Generates replies to chats with a loaded model, in batches of like length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.inference.models import Loaded
from synthpost_dagster.profiles.models import Sampling
from synthpost_dagster.progress import Progress
from synthpost_dagster.special_tokens import broken_up

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Chat = list[dict[str, str]]


class Completion(NamedTuple):
    """A reply. `finish_reason` is `stop`, or `length` where the limit of new tokens cut it off."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


def chat(user: str, system: str | None = None) -> Chat:
    """A conversation of one user turn, after a system prompt if there is one."""
    turns = [{"role": "system", "content": system}] if system else []
    return [*turns, {"role": "user", "content": user}]


def generate(loaded: Loaded, chats: list[Chat], sampling: Sampling, progress: Progress, what: str) -> list[Completion]:
    """One completion a chat, in the chats' order.

    Greedy at temperature 0; else each batch is drawn under a seed of its own, so that the same chats give the same
    replies.
    """
    order = sorted(range(len(chats)), key=lambda index: sum(len(turn["content"]) for turn in chats[index]))
    completions: dict[int, Completion] = {}
    for start in range(0, len(order), sampling.batch_size):
        progress.update(what, start, len(order), "posts")
        batch = order[start : start + sampling.batch_size]
        made = generate_batch(loaded, [chats[index] for index in batch], sampling, sampling.seed + start)
        completions.update(zip(batch, made, strict=True))
    progress.update(what, len(order), len(order), "posts")
    return [completions[index] for index in range(len(chats))]


def generate_batch(loaded: Loaded, chats: Sequence[Chat], sampling: Sampling, seed: int) -> list[Completion]:
    """One completion a chat, all in one batch drawn under `seed`."""
    import torch
    from transformers import set_seed

    texts = [templated(loaded.tokenizer, turns, has_generation_prompt=True) for turns in chats]
    inputs = loaded.tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt").to(
        loaded.model.device
    )
    set_seed(seed)
    with torch.inference_mode():
        output = loaded.model.generate(**inputs, **_arguments(loaded, sampling))
    width = inputs["input_ids"].shape[1]
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    rows = output[:, width:].tolist()
    ends = end_tokens(loaded)
    return [completion(loaded, row, tokens, ends) for row, tokens in zip(rows, lengths, strict=True)]


def templated(tokenizer: PreTrainedTokenizerBase, turns: Chat, has_generation_prompt: bool) -> str:
    """The chat in the model's template; a special token that stands in a text is broken up, so that it stays text."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    safe = [{**turn, "content": broken_up(turn["content"], special)} for turn in turns]
    return str(tokenizer.apply_chat_template(safe, add_generation_prompt=has_generation_prompt, tokenize=False))


def _arguments(loaded: Loaded, sampling: Sampling) -> dict[str, Any]:
    drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {
        "max_new_tokens": sampling.max_new_tokens,
        "pad_token_id": loaded.tokenizer.pad_token_id,
        **(drawn if sampling.temperature > 0 else greedy),
    }


def end_tokens(loaded: Loaded) -> set[int]:
    """Ids of the tokens that end a reply."""
    ends = loaded.model.generation_config.eos_token_id
    return set(ends if isinstance(ends, list) else [ends, loaded.tokenizer.eos_token_id])


def completion(loaded: Loaded, ids: list[int], prompt_tokens: int, ends: set[int]) -> Completion:
    """The reply that new tokens make, up to the first of those that end one."""
    stop = next((place for place, token in enumerate(ids) if token in ends), None)
    kept = ids[: len(ids) if stop is None else stop]
    text = loaded.tokenizer.decode(kept, skip_special_tokens=False)
    return Completion(text.strip(), "length" if stop is None else "stop", prompt_tokens, len(kept))
