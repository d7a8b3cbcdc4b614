"""Slots: places for sequences that are decoded together, a token each at every step.

What a slot holds (cache, last token, adapter, random numbers, tokens drawn) stays on the device; on a GPU a step is a
CUDA graph over it. Which sequence goes into which slot is decided in `engine`. torch is imported with this module.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from synthpost_dagster.inference.attention import (
    Cache,
    FlashPrefill,
    FlashStep,
    Job,
    PlainPrefill,
    PlainStep,
    holding,
    uses_flash,
)
from synthpost_dagster.inference.mixed_lora import Lanes
from synthpost_dagster.profiles.models import Sampling
from synthpost_dagster.runtime.devices import free_workspaces, is_out_of_memory

GRID = 2**23
"""Random numbers are multiples of its inverse, so that their product with a sum in float32 stays below that sum."""
WARM_UP_STEPS = 2


class Prompt(NamedTuple):
    """A sequence to be continued: its tokens, its adapter's row in the lanes' table, its seed."""

    ids: list[int]
    lane: int
    seed: int


def uniforms(seed: int, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """So many numbers in [0, 1) that depend on nothing but the seed; the n-th is for the n-th new token."""
    whole = np.random.Generator(np.random.Philox(key=seed)).integers(0, GRID, count)
    return whole.astype(np.float32) / np.float32(GRID)


def choose(logits: Tensor, numbers: Tensor, temperature: float, top_p: float) -> Tensor:
    """A token for each row of logits (rows × vocabulary): the likeliest, or the one where a uniform number falls.

    The number is looked up in the cumulated probabilities; with top_p below 1 in those of the likeliest tokens that
    reach it together, sorted.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    shares = torch.softmax(logits.float() / temperature, dim=-1)
    if top_p == 1:
        summed = shares.cumsum(dim=-1)
        return _looked_up(summed, summed[:, -1], numbers)
    shares, names = shares.sort(dim=-1, descending=True)
    summed = shares.cumsum(dim=-1)
    total = torch.where(summed - shares < top_p, summed, 0).amax(dim=-1)
    return names.gather(1, _looked_up(summed, total, numbers).unsqueeze(1)).squeeze(1)


def _looked_up(summed: Tensor, total: Tensor, numbers: Tensor) -> Tensor:
    found = torch.searchsorted(summed, (numbers * total).unsqueeze(1), right=True).squeeze(1)
    return found.clamp(max=summed.shape[1] - 1)


class Slots:
    """The slots of one loaded model, each with room for `tokens`; the first `width` of them take part in a step.

    On a GPU a prefill is filled up to one of the `chunks`, which are met before the first prompt comes.

    A slot's tensors: `_tokens` the one to be fed next, `_positions` where that stands, `_counts` how many are drawn,
    `_drawn` and `_numbers` (slots × (new tokens + 1): the last column is where slots that are done look and write).
    """

    def __init__(
        self, model: Any, lanes: Lanes, sampling: Sampling, ends: Sequence[int], cache: Cache, chunks: Sequence[int]
    ) -> None:
        device, slots, columns = model.device, cache.slots, sampling.max_new_tokens + 1
        self._model, self._lanes, self._sampling, self._cache = model, lanes, sampling, cache
        self._chunks = sorted(chunks)
        self._ends = torch.tensor(list(ends), dtype=torch.long, device=device)
        self._tokens, self._positions, self._counts = torch.zeros(3, slots, dtype=torch.long, device=device)
        self._done = torch.ones(slots, dtype=torch.bool, device=device)
        self._drawn = torch.zeros(slots, columns, dtype=torch.long, device=device)
        self._numbers = torch.zeros(slots, columns, dtype=torch.float32, device=device)
        self._masks = torch.zeros(slots, lanes.table.shape[1], dtype=lanes.table.dtype, device=device)
        self._starts = torch.arange(slots + 1, device=device) * cache.tokens
        self._one_each = torch.arange(slots + 1, dtype=torch.int32, device=device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    @torch.inference_mode()
    def prefill(self, placed: Sequence[tuple[int, Prompt]]) -> None:
        """Puts prompts into slots and draws the first new token of each, in one forward pass."""
        ids = np.concatenate([prompt.ids for _, prompt in placed])
        sizes = [len(prompt.ids) for _, prompt in placed]
        positions = np.concatenate([np.arange(size) for size in sizes])
        places = np.concatenate([slot * self._cache.tokens + np.arange(len(p.ids)) for slot, p in placed])
        lanes = np.repeat([prompt.lane for _, prompt in placed], sizes)
        padding = self._padded(len(ids)) - len(ids)
        filled = [self._filled(part, padding) for part in (ids, positions, lanes)]
        job = self._prefill_job(self._filled(places, padding, self._cache.unread), sizes)
        hidden = self._hidden(filled[0], filled[1], self._lanes.table[filled[2]], job)
        rows = self._cache.slots if len(ids) + padding in self._chunks else len(placed)  # as padded as the rest
        last = self._filled(np.cumsum(sizes) - 1, rows - len(placed))
        self._take_in(placed, self._model.lm_head(hidden[last])[: len(placed)])

    def _take_in(self, placed: Sequence[tuple[int, Prompt]], logits: Tensor) -> None:
        """The slots' state after a prefill."""
        device, columns = logits.device, self._numbers.shape[1]
        slots = torch.tensor([slot for slot, _ in placed], device=device)
        numbers = torch.from_numpy(np.stack([uniforms(prompt.seed, columns) for _, prompt in placed])).to(device)
        drawn = choose(logits, numbers[:, 0], self._sampling.temperature, self._sampling.top_p)
        self._tokens[slots], self._drawn[slots, 0], self._counts[slots] = drawn, drawn, 1
        self._positions[slots] = torch.tensor([len(prompt.ids) for _, prompt in placed], device=device)
        self._numbers[slots] = numbers
        self._masks[slots] = self._lanes.table[[prompt.lane for _, prompt in placed]]
        self._done[slots] = self._is_end(drawn) | (self._sampling.max_new_tokens == 1)

    @torch.inference_mode()
    def step(self, width: int, times: int) -> None:
        """So many tokens more for each of the first slots; those that are done stay as they are."""
        for _ in range(times):
            if width in self._graphs:
                self._graphs[width].replay()
            else:
                self._advance(width)

    def _advance(self, width: int) -> None:
        positions, counts = self._positions[:width], self._counts[:width]
        hidden = self._hidden(self._tokens[:width], positions, self._masks[:width], self._step_job(width))
        numbers = self._numbers[:width].gather(1, counts.unsqueeze(1)).squeeze(1)
        logits = self._model.lm_head(hidden)
        drawn = choose(logits, numbers, self._sampling.temperature, self._sampling.top_p)
        self._drawn[:width].scatter_(1, counts.unsqueeze(1), drawn.unsqueeze(1))
        self._tokens[:width] = drawn
        is_live = ~self._done[:width]
        positions += is_live
        counts += is_live
        self._done[:width] |= self._is_end(drawn) | (counts >= self._sampling.max_new_tokens)

    def _is_end(self, drawn: Tensor) -> Tensor:
        return (drawn.unsqueeze(1) == self._ends).any(dim=1)

    def _hidden(self, ids: Tensor, positions: Tensor, mask: Tensor, job: Job) -> Tensor:
        """The last hidden states, tokens × width."""
        self._lanes.mask = mask
        out = self._model.model(
            input_ids=ids.unsqueeze(0), position_ids=positions.unsqueeze(0), use_cache=False, job=job
        )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    def _prefill_job(self, places: Tensor, sizes: list[int]) -> Job:
        if not uses_flash(places.device, self._cache.keys[0].dtype):
            return PlainPrefill(places, sizes)
        # Always as many ends as slots, so that all prefills have one shape; a prompt more has no tokens.
        ends = np.full(self._cache.slots + 1, sum(sizes), dtype=np.int32)
        ends[: len(sizes) + 1] = np.cumsum([0, *sizes])
        return FlashPrefill(places, torch.from_numpy(ends).to(places.device), self._cache.tokens)

    def _step_job(self, width: int) -> Job:
        positions = self._positions[:width]
        places = self._starts[:width] + positions
        if uses_flash(places.device, self._cache.keys[0].dtype):
            starts, lengths = self._starts[: width + 1].int(), (positions + 1).int()
            return FlashStep(places, self._one_each[: width + 1], starts, lengths, self._cache.tokens)
        longest = int(positions.max()) + 1
        seen = torch.arange(longest) <= positions.unsqueeze(1)
        return PlainStep(places, seen[:, None, None], self._cache.tokens)

    def _padded(self, tokens: int) -> int:
        """How long a prefill is made: one of the chunks, or what it is where there are none or it is longer."""
        return next((size for size in self._chunks if size >= tokens), tokens)

    def _filled(self, values: np.ndarray[Any, Any], padding: int, filling: int = 0) -> Tensor:
        return torch.from_numpy(np.pad(values, (0, padding), constant_values=filling)).to(self._positions.device)

    @torch.inference_mode()
    def finished(self, slots: Sequence[int]) -> dict[int, list[int]]:
        """Those of the slots that are done, and the tokens that they have drawn; waits for the device."""
        done = self._done.tolist()
        over = [slot for slot in slots if done[slot]]
        if not over:
            return {}
        rows, counts = self._drawn[over].tolist(), self._counts[over].tolist()
        return {slot: row[:count] for slot, row, count in zip(over, rows, counts, strict=True)}

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        """Puts a sequence into another slot, and frees its own."""
        self._cache.move(source, target, int(self._positions[source]))
        for part in (self._tokens, self._positions, self._counts, self._done, self._drawn, self._numbers, self._masks):
            part[target] = part[source]
        self._done[source] = True

    @torch.inference_mode()
    def rehearse(self) -> None:
        """A prefill of padding alone: takes the most memory that one takes, and lets kernels be chosen."""
        for size in self._chunks[-1:]:
            filled = [self._filled(np.zeros(0, dtype=np.int64), size) for _ in range(3)]
            places = self._filled(np.zeros(0, dtype=np.int64), size, self._cache.unread)
            self._hidden(filled[0], filled[1], self._lanes.table[filled[2]], self._prefill_job(places, []))

    @torch.inference_mode()
    def capture(self, widths: Sequence[int]) -> None:
        """Makes a CUDA graph of the step for each width, the largest first; all use one pool of memory.

        They may: one runs at a time, and what outlives a step is in the slots' own tensors. All slots have to be idle.
        """
        pool = torch.cuda.graph_pool_handle()
        with torch.cuda.device(self._positions.device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            for width in sorted(widths, reverse=True):
                self._graphs[width] = self._captured(width, stream, pool)

    def _captured(self, width: int, stream: torch.cuda.Stream, pool: Any) -> torch.cuda.CUDAGraph:
        # Warmed up on the stream that captures: the workspace of its cuBLAS then is none of the graph's.
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self._advance(width)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                self._advance(width)
        except RuntimeError as error:
            cause = error.__context__
            if cause is not None and is_out_of_memory(cause):  # the end of the capture failed over it
                raise cause from None
            raise
        return graph

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self._positions.is_cuda:
            torch.cuda.synchronize(self._positions.device)

    def close(self) -> None:
        """Lets go of the graphs."""
        for graph in self._graphs.values():
            graph.reset()
        self._graphs.clear()


@contextlib.contextmanager
def slots_of(
    model: Any, lanes: Lanes, sampling: Sampling, ends: Sequence[int], count: int, tokens: int, chunks: Sequence[int]
) -> Iterator[Slots]:
    """So many empty slots, whose memory is given back at the end."""
    with torch.inference_mode():
        cache = Cache(model.config, count, tokens, model.dtype, model.device)
        slots = Slots(model, lanes, sampling, ends, cache, chunks)
    try:
        with holding(model, cache):
            yield slots
    finally:
        slots.close()
        lanes.mask = lanes.table[:0]
        if model.device.type == "cuda":
            free_workspaces(model.device)  # those of graphs and side streams
