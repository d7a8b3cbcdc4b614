"""Decode slots: each holds one sequence, and every step adds a token to each.

The state of a slot (cache, last token, adapter, random numbers, drawn tokens) stays on the device; on a GPU a step is a
CUDA graph over it. `schedule` decides which sequence goes into which slot. Imports torch.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from synthpost_dagster.inference.attention import Cache, FlashStep, Job, PlainStep, Prefill, holding, uses_flash
from synthpost_dagster.inference.mixed_lora import RankMasks
from synthpost_dagster.profiles.models import Sampling
from synthpost_dagster.runtime.devices import is_out_of_memory

GRID = 2**23
"""Random numbers are multiples of 1 / GRID, so that their product with a float32 sum stays below that sum."""
WARM_UP_STEPS = 2


class Prompt(NamedTuple):
    """A sequence to be continued: its tokens, its adapter's row in the mask table, its seed."""

    ids: list[int]
    adapter_row: int
    seed: int


def uniforms(seed: int, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """`count` random numbers in [0, 1); the n-th is for the n-th new token."""
    whole = np.random.Generator(np.random.Philox(key=seed)).integers(0, GRID, count)
    return whole.astype(np.float32) / np.float32(GRID)


def choose(logits: Tensor, numbers: Tensor, temperature: float, top_p: float) -> Tensor:
    """A token for each row of logits (rows × vocabulary): the most likely one, or one drawn with a uniform number.

    The number is looked up in the cumulative probabilities; with top_p below 1 in those of the sorted nucleus.
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
    """The slots of one loaded model; the first `width` of them take part in a step.

    A prefill is padded to `chunk` tokens if it is shorter; 0 means no padding.

    The tensors hold per slot: `_tokens` the next input token, `_positions` its position, `_counts` the number of drawn
    tokens, `_drawn` and `_numbers` the tokens and random numbers (slots × (new tokens + 1); finished slots use the last
    column).
    """

    def __init__(
        self, model: Any, masks: RankMasks, sampling: Sampling, ends: list[int], cache: Cache, chunk: int
    ) -> None:
        device, slots, columns = model.device, cache.slots, sampling.max_new_tokens + 1
        self._model, self._rank_masks, self._sampling, self._cache = model, masks, sampling, cache
        self._chunk = chunk
        self._ends = torch.tensor(ends, dtype=torch.long, device=device)
        self._tokens, self._positions, self._counts = torch.zeros(3, slots, dtype=torch.long, device=device)
        self._done = torch.ones(slots, dtype=torch.bool, device=device)
        self._drawn = torch.zeros(slots, columns, dtype=torch.long, device=device)
        self._numbers = torch.zeros(slots, columns, dtype=torch.float32, device=device)
        self._masks = torch.zeros(slots, masks.table.shape[1], dtype=masks.table.dtype, device=device)
        self._starts = torch.arange(slots + 1, device=device) * cache.tokens
        self._one_each = torch.arange(slots + 1, dtype=torch.int32, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None

    @torch.inference_mode()
    def prefill(self, placed: Sequence[tuple[int, Prompt]]) -> None:
        """Assigns prompts to slots and draws the first new token of each, in one forward pass."""
        ids = np.concatenate([prompt.ids for _, prompt in placed])
        sizes = [len(prompt.ids) for _, prompt in placed]
        positions = np.concatenate([np.arange(size) for size in sizes])
        cache_rows = np.concatenate([slot * self._cache.tokens + np.arange(len(p.ids)) for slot, p in placed])
        adapter_rows = np.repeat([prompt.adapter_row for _, prompt in placed], sizes)
        padding = max(0, self._chunk - len(ids))
        padded = [self._padded(part, padding) for part in (ids, positions, adapter_rows)]
        job = self._prefill_job(self._padded(cache_rows, padding, self._cache.unread), sizes)
        hidden = self._hidden(padded[0], padded[1], self._rank_masks.table[padded[2]], job)
        rows = self._cache.slots if len(ids) <= self._chunk else len(placed)
        last = self._padded(np.cumsum(sizes) - 1, rows - len(placed))
        self._start(placed, self._model.lm_head(hidden[last])[: len(placed)])

    def _start(self, placed: Sequence[tuple[int, Prompt]], logits: Tensor) -> None:
        """Sets the state of the slots after a prefill."""
        device, columns = logits.device, self._numbers.shape[1]
        slots = torch.tensor([slot for slot, _ in placed], device=device)
        numbers = torch.from_numpy(np.stack([uniforms(prompt.seed, columns) for _, prompt in placed])).to(device)
        drawn = choose(logits, numbers[:, 0], self._sampling.temperature, self._sampling.top_p)
        self._tokens[slots], self._drawn[slots, 0], self._counts[slots] = drawn, drawn, 1
        self._positions[slots] = torch.tensor([len(prompt.ids) for _, prompt in placed], device=device)
        self._numbers[slots] = numbers
        self._masks[slots] = self._rank_masks.table[[prompt.adapter_row for _, prompt in placed]]
        self._done[slots] = self._is_end(drawn) | (self._sampling.max_new_tokens == 1)

    @torch.inference_mode()
    def step(self, width: int, times: int) -> None:
        """Adds `times` tokens to each of the first `width` slots; finished slots do not change."""
        for _ in range(times):
            if self._graph is None:
                self._advance(width)
            else:
                self._graph.replay()

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
        """The last hidden states, tokens × hidden size."""
        self._rank_masks.mask = mask
        out = self._model.model(
            input_ids=ids.unsqueeze(0), position_ids=positions.unsqueeze(0), use_cache=False, job=job
        )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    def _prefill_job(self, cache_rows: Tensor, sizes: list[int]) -> Job:
        # One end per slot, so that all prefills have one shape; the prompts that are not there have no tokens.
        ends = np.full(self._cache.slots + 1, sum(sizes), dtype=np.int32)
        ends[: len(sizes) + 1] = np.cumsum([0, *sizes])
        return Prefill(cache_rows, torch.from_numpy(ends).to(cache_rows.device), self._cache.tokens)

    def _step_job(self, width: int) -> Job:
        positions = self._positions[:width]
        cache_rows = self._starts[:width] + positions
        if uses_flash(cache_rows.device, self._cache.keys[0].dtype):
            starts, lengths = self._starts[: width + 1].int(), (positions + 1).int()
            return FlashStep(cache_rows, self._one_each[: width + 1], starts, lengths, self._cache.tokens)
        longest = int(positions.max()) + 1
        mask = torch.arange(longest) <= positions.unsqueeze(1)
        return PlainStep(cache_rows, mask[:, None, None], self._cache.tokens)

    def _padded(self, values: np.ndarray[Any, Any], padding: int, value: int = 0) -> Tensor:
        return torch.from_numpy(np.pad(values, (0, padding), constant_values=value)).to(self._positions.device)

    @torch.inference_mode()
    def finished(self, slots: Sequence[int]) -> dict[int, list[int]]:
        """The drawn tokens of those slots that are done; waits for the device."""
        is_done = self._done.tolist()
        done = [slot for slot in slots if is_done[slot]]
        if not done:
            return {}
        rows, counts = self._drawn[done].tolist(), self._counts[done].tolist()
        return {slot: row[:count] for slot, row, count in zip(done, rows, counts, strict=True)}

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        """Moves a sequence into another slot and frees its own."""
        self._cache.move(source, target, int(self._positions[source]))
        for part in (self._tokens, self._positions, self._counts, self._done, self._drawn, self._numbers, self._masks):
            part[target] = part[source]
        self._done[source] = True

    @torch.inference_mode()
    def rehearse(self) -> None:
        """Prefills a chunk of padding, which takes a prefill's maximum memory and selects kernels."""
        zeros = torch.zeros(self._chunk, dtype=torch.long, device=self._positions.device)
        job = self._prefill_job(zeros + self._cache.unread, [])
        self._hidden(zeros, zeros, self._rank_masks.table[zeros], job)

    @torch.inference_mode()
    def capture(self) -> None:
        """Captures a CUDA graph of the step over all slots, while they are idle."""
        with torch.cuda.device(self._positions.device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            # The warm-up runs on the stream that captures, so that the cuBLAS workspace is not part of the graph.
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_STEPS):
                    self._advance(self._cache.slots)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    self._advance(self._cache.slots)
            except RuntimeError as error:
                cause = error.__context__
                if cause is not None and is_out_of_memory(cause):  # it made the end of the capture fail
                    raise cause from None
                raise
            self._graph = graph

    def close(self) -> None:
        """Frees the graph."""
        if self._graph is not None:
            self._graph.reset()
            self._graph = None


@contextlib.contextmanager
def slots_of(
    model: Any, masks: RankMasks, sampling: Sampling, ends: list[int], count: int, tokens: int, chunk: int
) -> Iterator[Slots]:
    """`count` empty slots of `tokens` tokens each, whose memory is freed at the end."""
    with torch.inference_mode():
        cache = Cache(model.config, count, tokens, model.dtype, model.device)
        slots = Slots(model, masks, sampling, ends, cache, chunk)
    try:
        with holding(model, cache):
            yield slots
    finally:
        slots.close()
        masks.mask = masks.table[:0]
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
            torch._C._cuda_clearCublasWorkspaces()  # cuBLAS allocates new ones when needed
