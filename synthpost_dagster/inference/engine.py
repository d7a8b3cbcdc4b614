"""Answers chats under several adapters from one loaded model, in mixed batches that are refilled as replies end.

Prompts wait in the order given; as many as there are slots are decoded together, each under its own adapter or none.
How a step is computed stands in `slots`, `attention` and `mixed_lora`. torch is imported with this module.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from synthpost_dagster.errors import DeviceError
from synthpost_dagster.inference.attention import attending, bytes_per_token, uses_flash
from synthpost_dagster.inference.attention import suits as attention_suits
from synthpost_dagster.inference.generate import Completion, completion, end_tokens
from synthpost_dagster.inference.mixed_lora import Lanes, mixed
from synthpost_dagster.inference.models import Loaded
from synthpost_dagster.inference.schedule import PACES, Schedule, Spent
from synthpost_dagster.inference.slots import Prompt, Slots, slots_of
from synthpost_dagster.inference.templates import Chat, opened_reasoning
from synthpost_dagster.profiles.models import Sampling
from synthpost_dagster.runtime.devices import GIB, is_out_of_memory
from synthpost_dagster.runtime.progress import Progress

MARGIN = 0.85
"""Of the free memory, what is planned with."""
ALLOWED_PAIRS = 2
"""Pairs of narrow matrices that memory is kept for where there is one: so that as many slots fit for one adapter as for
the sixteen that this mostly holds."""
ROOM = 256
"""Where shapes are kept, a slot has room for a multiple of so many tokens."""
LEAST_CHUNK = 512
"""Tokens that are prefilled at a time at least."""
NARROWINGS = 4
"""How often a chunk of a prefill and a step on a GPU are halved at most; a graph is captured of each step."""


class Request(NamedTuple):
    """A chat to be answered: under which of the engine's adapters, None for the base, and from which seed."""

    chat: Chat
    adapter: int | None
    seed: int


class Options(NamedTuple):
    """How the engine works; the defaults choose by the device and its memory.

    `chunk_tokens` are prefilled at a time. `keeps_shapes` computes every step over all slots, and on a GPU every
    prefill over a whole chunk, so that there a reply is the same to the bit whatever shares its batch, for as many
    slots with as much room. `ignores_ends` draws all new tokens, for measurements. `limit_gib` is the most memory that
    this process may take of a GPU.
    """

    slots: int | None = None
    chunk_tokens: int | None = None
    keeps_shapes: bool = False
    ignores_ends: bool = False
    limit_gib: float | None = None


DEFAULTS = Options()


def suits(loaded: Loaded) -> bool:
    """Whether the engine can answer with this model where it lies; others are for `generate`."""
    device = loaded.model.device
    can_attend = device.type == "cpu" or uses_flash(device, loaded.model.dtype)
    return attention_suits(loaded.model) and device.type in PACES and can_attend


@contextlib.contextmanager
def engine(
    loaded: Loaded, adapters: Sequence[Path], sampling: Sampling, options: Options = DEFAULTS
) -> Iterator[Engine]:
    """An engine over the plain base model and adapters in PEFT's folders; the model is as before afterwards.

    Raises ModelError naming an adapter that cannot be mixed. `sampling.batch_size` and `sampling.seed` are not used:
    slots follow from the memory, seeds come with the requests.
    """
    model: Any = loaded.model
    modes = [(module, module.training) for module in model.modules()]
    with mixed(model, adapters, model.dtype) as lanes, attending(model):
        model.eval()
        try:
            yield Engine(loaded, lanes, sampling, options)
        finally:
            for module, is_training in modes:
                module.training = is_training


class Engine:
    """Answers requests; made by `engine`. `spent` adds up over all of them."""

    def __init__(self, loaded: Loaded, lanes: Lanes, sampling: Sampling, options: Options) -> None:
        self._loaded, self._lanes, self._sampling, self._options = loaded, lanes, sampling, options
        pace = PACES[loaded.model.device.type]
        self._pace = pace._replace(chunk=options.chunk_tokens or pace.chunk)
        self._ends = set() if options.ignores_ends else end_tokens(loaded)
        self.spent = Spent()

    def answer(self, requests: Sequence[Request], progress: Progress, what: str) -> Iterator[tuple[int, Completion]]:
        """The number of a request and its reply, as they end; requests of one group should stand together.

        A drawn reply depends on its chat, adapter and seed. Raises DeviceError as `continued` does.
        """
        texts = [self._loaded.template.prompt(request.chat) for request in requests]
        prompts = self._prompts(requests, texts)
        for index, ids in self.continued(prompts, progress, what):
            opened = opened_reasoning(texts[index])
            yield index, completion(self._loaded, ids, len(prompts[index].ids), self._ends, opened)

    def continued(self, prompts: Sequence[Prompt], progress: Progress, what: str) -> Iterator[tuple[int, list[int]]]:
        """The number of a prompt and its new tokens, as they end; the last is one that ends a reply, or cut off.

        Where memory runs out, what is left is begun again with half the slots, and prefills of half as many tokens.
        Raises DeviceError where not even one slot with the least prefill fits.
        """
        left = dict(enumerate(prompts))
        total, slots = len(left), self._options.slots or self._affordable(prompts)
        if self._options.keeps_shapes:
            progress.note(f"{what}: {slots} at a time")
        progress.update(what, 0, total, "posts")
        while left:
            slots = slots if self._options.keeps_shapes else min(slots, len(left))
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
            if is_short:  # outside of the handler, whose error holds what is to be freed
                slots = self._halved(slots, progress)

    def _prompts(self, requests: Sequence[Request], texts: Sequence[str]) -> list[Prompt]:
        if not requests:
            return []
        ids = self._loaded.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [
            Prompt(tokens, self._lanes.base if request.adapter is None else request.adapter, request.seed)
            for tokens, request in zip(ids, requests, strict=True)
        ]

    def _halved(self, slots: int, progress: Progress) -> int:
        gc.collect()
        self._free_memory()
        if slots == 1 and self._pace.chunk <= LEAST_CHUNK:
            raise DeviceError(
                f"{self._loaded.model.device} has too little memory for a single reply; stop what else uses it, or "
                "lower predictions.max_new_tokens in the profile"
            )
        chunk = min(self._pace.chunk, max(LEAST_CHUNK, self._pace.chunk // 2))
        self._pace = self._pace._replace(chunk=chunk)
        fewer = max(1, slots // 2)
        progress.note(f"memory ran out with {slots} at a time; going on with {fewer}, and {chunk} tokens of prompts")
        return fewer

    def _free_memory(self) -> None:
        if self._loaded.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def _room(self, prompts: Iterable[Prompt]) -> int:
        """Tokens of a slot; few numbers of them where shapes are kept."""
        room = max(len(prompt.ids) for prompt in prompts) + self._sampling.max_new_tokens
        return room + -room % ROOM if self._options.keeps_shapes else room

    def _affordable(self, prompts: Sequence[Prompt]) -> int:
        """Slots that fit the free memory, at least one and at most the device's most.

        Where shapes are kept, one of few numbers, however many prompts there are and for up to ALLOWED_PAIRS of
        adapters: somewhat more or less free memory mostly changes nothing. Where they are not, no more than there are
        prompts.
        """
        if not prompts:
            return 0
        model: Any = self._loaded.model
        config, item = model.config, model.dtype.itemsize
        chunk = self._pace.chunk * (12 * config.hidden_size + 4 * config.intermediate_size) * item
        copies = 3 if self._sampling.top_p == 1 else 8
        slot = self._room(prompts) * bytes_per_token(config, model.dtype) + 4 * copies * config.vocab_size
        pair, pairs = self._lanes.pair_bytes, self._lanes.pairs
        free = _free_bytes(model.device, self._options.limit_gib) + pair * pairs
        fitting = int((free * MARGIN - pair * max(pairs, ALLOWED_PAIRS) - chunk) / slot)
        most = max(1, min(fitting, self._pace.slots))
        return _round_number(most) if self._options.keeps_shapes else min(most, len(prompts))

    def _round(self, prompts: dict[int, Prompt], count: int) -> Iterator[tuple[int, list[int]]]:
        """The new tokens of each prompt, as they end, from so many slots."""
        started = time.perf_counter()
        model: Any = self._loaded.model
        room, ends = self._room(prompts.values()), sorted(self._ends)
        with slots_of(model, self._lanes, self._sampling, ends, count, room, self._chunks()) as slots:
            widths = self._prepared(slots, count)
            slots.wait()
            self.spent.slots = count
            self.spent.setup_seconds += time.perf_counter() - started
            new_tokens = self._sampling.max_new_tokens
            yield from Schedule(slots, prompts, count, widths, new_tokens, self._pace, self.spent).run()

    def _chunks(self) -> list[int]:
        """The lengths that prefills have."""
        model = self._loaded.model
        return self._halves(self._pace.chunk) if uses_flash(model.device, model.dtype) else []

    def _prepared(self, slots: Slots, count: int) -> list[int]:
        """How many slots a step may be over, in ascending order; on a GPU each has a graph."""
        if self._loaded.model.device.type != "cuda":
            return [count] if self._options.keeps_shapes else list(range(1, count + 1))
        widths = self._halves(count)
        slots.rehearse()
        slots.capture(widths)
        return widths

    def _halves(self, whole: int) -> list[int]:
        """The whole, and unless shapes are kept its half, quarter and so on, in ascending order."""
        times = 0 if self._options.keeps_shapes else NARROWINGS
        return sorted({-(-whole // 2**halved) for halved in range(times + 1)})


def _round_number(most: int) -> int:
    """The largest power of two, or half as much more, that is no more than that."""
    power = 1 << (most.bit_length() - 1)
    return power + power // 2 if power + power // 2 <= most else power


def _free_bytes(device: torch.device, limit_gib: float | None) -> int:
    """Free memory within the limit, with what torch holds back unused counted in."""
    if device.type == "cpu":
        import psutil

        return int(psutil.virtual_memory().available)
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = int(torch.cuda.mem_get_info(device)[0] + idle)
    return free if limit_gib is None else min(free, int(limit_gib * GIB) - torch.cuda.memory_allocated(device))
