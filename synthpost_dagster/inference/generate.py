"""Replies to chats from transformers' `generate`, in batches of similar length."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from synthpost_dagster.inference.models import Loaded, ends_of
from synthpost_dagster.inference.templates import Chat, opened_reasoning
from synthpost_dagster.profiles.models import Sampling
from synthpost_dagster.runtime.progress import Progress


class Completion(NamedTuple):
    """A reply, reasoning included; if the prompt opens a block of reasoning, the text begins with its tag.

    `finish_reason` is `stop`, or `length` if the limit of new tokens truncated it.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


def chat(user: str, system: str | None = None) -> Chat:
    """A conversation of one user turn, after a system prompt if there is one."""
    turns = [{"role": "system", "content": system}] if system else []
    return [*turns, {"role": "user", "content": user}]


def generate(loaded: Loaded, chats: list[Chat], sampling: Sampling, progress: Progress, what: str) -> list[Completion]:
    """One completion per chat, in the order of the chats.

    Decoding is greedy at temperature 0; else each batch has its own seed, so that the same chats get the same replies.
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
    """One completion per chat, all in one batch."""
    import torch
    from transformers import set_seed

    texts = [loaded.template.prompt(turns) for turns in chats]
    inputs = loaded.tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt").to(
        loaded.model.device
    )
    drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    arguments: dict[str, Any] = drawn if sampling.temperature > 0 else greedy
    limits = {"max_new_tokens": sampling.max_new_tokens, "pad_token_id": loaded.tokenizer.pad_token_id}
    set_seed(seed)
    with torch.inference_mode():
        output = loaded.model.generate(**inputs, **limits, **arguments)
    width = inputs["input_ids"].shape[1]
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    rows, ends = output[:, width:].tolist(), end_tokens(loaded)
    return [
        completion(loaded, row, tokens, ends, opened_reasoning(text))
        for row, tokens, text in zip(rows, lengths, texts, strict=True)
    ]


def end_tokens(loaded: Loaded) -> set[int]:
    """Ids of the tokens that end a reply."""
    return ends_of(loaded.model.generation_config, loaded.tokenizer)


def completion(loaded: Loaded, ids: list[int], prompt_tokens: int, ends: set[int], opened: str = "") -> Completion:
    """The completion of new tokens up to the first end token; `opened` is the reasoning tag that the prompt opened."""
    stop = next((index for index, token in enumerate(ids) if token in ends), None)
    kept = ids[: len(ids) if stop is None else stop]
    text = opened + str(loaded.tokenizer.decode(kept, skip_special_tokens=False))
    return Completion(text.strip(), "length" if stop is None else "stop", prompt_tokens, len(kept))
