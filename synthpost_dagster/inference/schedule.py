"""The loop of the engine: it assigns waiting prompts to free slots."""

import heapq
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from synthpost_dagster.inference.slots import Prompt, Slots


class Pace(NamedTuple):
    """Limits for a kind of device: slots, tokens of a prefill, steps between checks for finished slots, and the divisor
    of the slots that must be free before a prefill.
    """

    slots: int
    chunk: int
    steps: int
    refill: int


PACES = {"cpu": Pace(48, 2048, 1, 48), "cuda": Pace(512, 8192, 8, 16)}


class Schedule:
    """Decodes prompts, by index and in order, in `count` slots; a step is over at least `min_width` of them."""

    def __init__(
        self, slots: Slots, prompts: dict[int, Prompt], count: int, min_width: int, new_tokens: int, pace: Pace
    ) -> None:
        self._slots, self._min_width, self._new_tokens, self._pace = slots, min_width, new_tokens, pace
        self._waiting, self._free, self._count = deque(prompts.items()), list(range(count)), count
        self._busy: dict[int, int] = {}
        self._left: dict[int, int] = {}
        """The maximum number of remaining steps per slot."""

    def run(self) -> Iterator[tuple[int, list[int]]]:
        """Yields a prompt's index and its new tokens, in order of completion."""
        while self._waiting or self._busy:
            if self._should_fill():
                self._fill()
            for slot, ids in self._step().items():
                heapq.heappush(self._free, slot)
                del self._left[slot]
                yield self._busy.pop(slot), ids
            if self._busy and not self._waiting:
                self._narrow()

    def _should_fill(self) -> bool:
        free, waiting = len(self._free), len(self._waiting)
        return waiting > 0 and (not self._busy or free * self._pace.refill >= self._count or free >= waiting)

    def _fill(self) -> None:
        """Fills the free slots, with at most `chunk` tokens per prefill."""
        chunk: list[tuple[int, Prompt]] = []
        tokens = 0
        while self._free and self._waiting:
            index, prompt = self._waiting.popleft()
            if chunk and tokens + len(prompt.ids) > self._pace.chunk:
                self._slots.prefill(chunk)
                chunk, tokens = [], 0
            slot = heapq.heappop(self._free)
            self._busy[slot], self._left[slot] = index, self._new_tokens - 1
            chunk.append((slot, prompt))
            tokens += len(prompt.ids)
        if chunk:
            self._slots.prefill(chunk)

    def _step(self) -> dict[int, list[int]]:
        """Computes some steps; the new tokens of the slots that finished."""
        times = min(self._pace.steps, max(self._left.values()))
        self._slots.step(max(self._min_width, max(self._busy) + 1), times)
        self._left = {slot: steps - times for slot, steps in self._left.items()}
        return self._slots.finished(list(self._busy))

    def _narrow(self) -> None:
        """Moves the last sequences into free slots before them if that makes the steps narrower."""
        width = max(self._min_width, len(self._busy))
        for slot in sorted(slot for slot in self._busy if slot >= width):
            target = heapq.heappop(self._free)
            self._slots.move(slot, target)
            for kept in (self._busy, self._left):
                kept[target] = kept.pop(slot)
            heapq.heappush(self._free, slot)
