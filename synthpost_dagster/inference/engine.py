"""The engine: replies to chats under several adapters of one loaded model, in mixed batches refilled continuously.

Prompts wait in the given order; each decode slot decodes one of them under its own adapter or none. A step is computed
in `slots`, `attention` and `mixed_lora`. Imports torch.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from synthpost_dagster.errors import DeviceError
from synthpost_dagster.inference.attention import attending, bytes_per_token, uses_flash
from synthpost_dagster.inference.attention import is_supported as is_attention_supported
from synthpost_dagster.inference.generate import Completion, completion, end_tokens
from synthpost_dagster.inference.mixed_lora import RankMasks, mixed
from synthpost_dagster.inference.models import Loaded, evaluating
from synthpost_dagster.inference.schedule import PACES, Schedule
from synthpost_dagster.inference.slots import Prompt, slots_of
from synthpost_dagster.inference.templates import Chat, opened_reasoning
from synthpost_dagster.profiles.models import Sampling
from synthpost_dagster.runtime.devices import GIB, is_out_of_memory
from synthpost_dagster.runtime.progress import Progress

MARGIN = 0.85
"""The share of the free memory that is planned with."""
PLANNED_PAIRS = 2
"""Pairs of LoRA matrices that memory is reserved for, so that one adapter gets as many slots as sixteen."""
ROOM = 256
"""With fixed shapes, the tokens of a slot are a multiple of this."""
MIN_CHUNK = 512
"""Minimum number of tokens of a prefill."""


class Request(NamedTuple):
    """A chat, the index of its adapter (None for the base), and its seed."""

    chat: Chat
    adapter: int | None
    seed: int


class Options(NamedTuple):
    """Options of the engine; by default they follow from the device and its memory.

    `chunk_tokens` is the size of a prefill. With `keeps_shapes`, and always on a GPU, every step is computed over all
    slots; on a GPU every prefill also has a whole chunk, and a reply is bit-identical whatever shares its batch, given
    the same number and size of slots. `ignores_ends` draws all new tokens, for measurements. `limit_gib` limits this
    process's memory on a GPU.
    """

    slots: int | None = None
    chunk_tokens: int | None = None
    keeps_shapes: bool = False
    ignores_ends: bool = False
    limit_gib: float | None = None


DEFAULTS = Options()


def is_supported(loaded: Loaded) -> bool:
    """Whether the engine supports this model on its device; `generate` supports all."""
    device = loaded.model.device
    can_attend = device.type == "cpu" or uses_flash(device, loaded.model.dtype)
    return is_attention_supported(loaded.model) and device.type in PACES and can_attend


@contextlib.contextmanager
def engine(
    loaded: Loaded, adapters: Sequence[Path], sampling: Sampling, options: Options = DEFAULTS
) -> Iterator[Engine]:
    """An engine over the plain base model and adapters in PEFT's folders; the model is restored afterwards.

    Raises ModelError if an adapter cannot be mixed. It does not use `sampling.batch_size` and `sampling.seed`: slots
    follow from the memory, and requests have their own seeds.
    """
    model: Any = loaded.model
    with evaluating(model), mixed(model, adapters, model.dtype) as masks, attending(model):
        yield Engine(loaded, masks, sampling, options)


class Engine:
    """Answers requests; created by `engine`. `slots` is the latest number of slots."""

    def __init__(self, loaded: Loaded, masks: RankMasks, sampling: Sampling, options: Options) -> None:
        self._loaded, self._masks, self._sampling, self._options = loaded, masks, sampling, options
        pace = PACES[loaded.model.device.type]
        self._pace = pace._replace(chunk=options.chunk_tokens or pace.chunk)
        self._ends = set() if options.ignores_ends else end_tokens(loaded)
        self._is_cuda = loaded.model.device.type == "cuda"
        self._keeps_shapes = options.keeps_shapes or self._is_cuda
        self.slots = 0

    def answer(self, requests: Sequence[Request], progress: Progress, what: str) -> Iterator[tuple[int, Completion]]:
        """Yields request indexes and replies in order of completion; requests of one group should be adjacent.

        A sampled reply depends on its chat, adapter and seed. Raises DeviceError like `continued`.
        """
        if not requests:
            return
        texts = [self._loaded.template.prompt(request.chat) for request in requests]
        tokens = self._loaded.tokenizer(texts, add_special_tokens=False)["input_ids"]
        prompts = [
            Prompt(ids, self._masks.base if request.adapter is None else request.adapter, request.seed)
            for ids, request in zip(tokens, requests, strict=True)
        ]
        for index, ids in self.continued(prompts, progress, what):
            opened = opened_reasoning(texts[index])
            yield index, completion(self._loaded, ids, len(prompts[index].ids), self._ends, opened)

    def continued(self, prompts: Sequence[Prompt], progress: Progress, what: str) -> Iterator[tuple[int, list[int]]]:
        """Yields prompt indexes and new tokens in order of completion; the last token is an end token, or the reply was
        truncated.

        If memory runs out, the remaining prompts restart with half the slots and half the tokens per prefill. Raises
        DeviceError if not even one slot with the smallest prefill fits.
        """
        left = dict(enumerate(prompts))
        total, slots = len(left), self._options.slots or self._affordable(prompts)
        if self._keeps_shapes:
            progress.note(f"{what}: {slots} at a time")
        progress.update(what, 0, total, "posts")
        while left:
            slots = slots if self._keeps_shapes else min(slots, len(left))
            is_short = False
            try:
                for index, ids in self._round(left, slots):
                    del left[index]
                    progress.update(what, total - len(left), total, "posts")
                    yield index, ids
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                is_short = True
            finally:
                self._free_memory()
            if is_short:  # not in the handler, whose error keeps the memory
                slots = self._halved(slots, progress)

    def _halved(self, slots: int, progress: Progress) -> int:
        gc.collect()
        self._free_memory()
        if slots == 1 and self._pace.chunk <= MIN_CHUNK:
            raise DeviceError(
                f"{self._loaded.model.device} has too little memory for a single reply; stop what else uses it, or "
                "lower predictions.max_new_tokens in the profile"
            )
        chunk = min(self._pace.chunk, max(MIN_CHUNK, self._pace.chunk // 2))
        self._pace = self._pace._replace(chunk=chunk)
        fewer = max(1, slots // 2)
        progress.note(f"memory ran out with {slots} at a time; continuing with {fewer}, and {chunk} tokens per prefill")
        return fewer

    def _free_memory(self) -> None:
        if self._is_cuda:
            torch.cuda.empty_cache()

    def _room(self, prompts: Iterable[Prompt]) -> int:
        """Tokens of a slot."""
        room = max(len(prompt.ids) for prompt in prompts) + self._sampling.max_new_tokens
        return room + -room % ROOM if self._keeps_shapes else room

    def _affordable(self, prompts: Sequence[Prompt]) -> int:
        """Slots that fit the free memory, at least one and at most the device's limit.

        With fixed shapes the number is rounded, and independent of the prompts and of the adapters up to PLANNED_PAIRS,
        so that a little more or less free memory rarely changes it. Otherwise it is at most the number of prompts.
        """
        if not prompts:
            return 0
        model: Any = self._loaded.model
        config, item = model.config, model.dtype.itemsize
        chunk = self._pace.chunk * (12 * config.hidden_size + 4 * config.intermediate_size) * item
        copies = 3 if self._sampling.top_p == 1 else 8
        slot = self._room(prompts) * bytes_per_token(config, model.dtype) + 4 * copies * config.vocab_size
        pair, pairs = self._masks.pair_bytes, self._masks.pairs
        free = _free_bytes(model.device, self._options.limit_gib) + pair * pairs
        fitting = int((free * MARGIN - pair * max(pairs, PLANNED_PAIRS) - chunk) / slot)
        limit = max(1, min(fitting, self._pace.slots))
        return _round_number(limit) if self._keeps_shapes else min(limit, len(prompts))

    def _round(self, prompts: dict[int, Prompt], count: int) -> Iterator[tuple[int, list[int]]]:
        """Yields prompt indexes and new tokens from `count` slots."""
        model: Any = self._loaded.model
        room, ends, new_tokens = self._room(prompts.values()), sorted(self._ends), self._sampling.max_new_tokens
        chunk = self._pace.chunk if uses_flash(model.device, model.dtype) else 0
        with slots_of(model, self._masks, self._sampling, ends, count, room, chunk) as slots:
            if self._is_cuda:
                slots.rehearse()
                slots.capture()
            self.slots, min_width = count, count if self._keeps_shapes else 1
            yield from Schedule(slots, prompts, count, min_width, new_tokens, self._pace).run()


def _round_number(limit: int) -> int:
    """The largest number up to `limit` that is a power of two or 1.5 times one."""
    power = 1 << (limit.bit_length() - 1)
    return power + power // 2 if power + power // 2 <= limit else power


def _free_bytes(device: torch.device, limit_gib: float | None) -> int:
    """Free memory within the limit, including what torch has reserved and does not use."""
    if device.type == "cpu":
        import psutil

        return int(psutil.virtual_memory().available)
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = int(torch.cuda.mem_get_info(device)[0] + idle)
    return free if limit_gib is None else min(free, int(limit_gib * GIB) - torch.cuda.memory_allocated(device))
