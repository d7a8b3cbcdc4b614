"""Which waiting prompt goes into which slot, and when: the loop of the engine."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from synthpost_dagster.inference.slots import Prompt, Slots


class Pace(NamedTuple):
    """What suits a kind of device: most slots, tokens of a prefill, steps between looks at what is done, and the share
    of the slots, as one in so many, that has to be free before prompts are taken in.
    """

    slots: int
    chunk: int
    steps: int
    refill: int


PACES = {"cpu": Pace(48, 2048, 1, 48), "cuda": Pace(512, 8192, 8, 16)}


@dataclass
class Spent:
    """Where the time went, in seconds, and for how many prompt tokens and steps; `slots` are those of the last time."""

    slots: int = 0
    setup_seconds: float = 0.0
    prefill_seconds: float = 0.0
    prefill_tokens: int = 0
    step_seconds: float = 0.0
    steps: int = 0


class Schedule:
    """Takes prompts (by number) in order through `count` slots; a step may be over as many slots as `widths` has."""

    def __init__(
        self,
        slots: Slots,
        prompts: dict[int, Prompt],
        count: int,
        widths: Sequence[int],
        new_tokens: int,
        pace: Pace,
        spent: Spent,
    ) -> None:
        self._slots, self._widths, self._new_tokens, self._pace, self._spent = slots, widths, new_tokens, pace, spent
        self._waiting, self._free, self._count = deque(prompts.items()), list(range(count)), count
        self._busy: dict[int, int] = {}
        self._left: dict[int, int] = {}
        """Steps after which a slot is done at the latest."""

    def run(self) -> Iterator[tuple[int, list[int]]]:
        """A prompt's number and its new tokens, as they end."""
        while self._waiting or self._busy:
            if self._is_time_to_fill():
                self._fill()
            for slot, ids in self._step().items():
                heapq.heappush(self._free, slot)
                del self._left[slot]
                yield self._busy.pop(slot), ids
            if self._busy and not self._waiting:
                self._narrow()

    def _is_time_to_fill(self) -> bool:
        free, waiting = len(self._free), len(self._waiting)
        return waiting > 0 and (not self._busy or free * self._pace.refill >= self._count or free >= waiting)

    def _fill(self) -> None:
        """Fills the free slots, so many tokens at a time."""
        started = time.perf_counter()
        chunk: list[tuple[int, Prompt]] = []
        tokens = 0
        while self._free and self._waiting:
            number, prompt = self._waiting.popleft()
            if chunk and tokens + len(prompt.ids) > self._pace.chunk:
                self._slots.prefill(chunk)
                chunk, tokens = [], 0
            slot = heapq.heappop(self._free)
            self._busy[slot], self._left[slot] = number, self._new_tokens - 1
            chunk.append((slot, prompt))
            tokens += len(prompt.ids)
            self._spent.prefill_tokens += len(prompt.ids)
        if chunk:
            self._slots.prefill(chunk)
        self._slots.wait()
        self._spent.prefill_seconds += time.perf_counter() - started

    def _step(self) -> dict[int, list[int]]:
        """Goes some steps on; what ended meanwhile."""
        started = time.perf_counter()
        times = min(self._pace.steps, max(self._left.values()))
        self._slots.step(self._wide_enough(max(self._busy) + 1), times)
        self._left = {slot: steps - times for slot, steps in self._left.items()}
        over = self._slots.finished(list(self._busy))
        self._spent.step_seconds += time.perf_counter() - started
        self._spent.steps += times
        return over

    def _wide_enough(self, slots: int) -> int:
        return next(width for width in self._widths if width >= slots)

    def _narrow(self) -> None:
        """Moves the last sequences into free slots before them, where that makes the steps narrower."""
        wanted = self._wide_enough(len(self._busy))
        for slot in sorted(slot for slot in self._busy if slot >= wanted):
            target = heapq.heappop(self._free)
            self._slots.move(slot, target)
            for kept in (self._busy, self._left):
                kept[target] = kept.pop(slot)
            heapq.heappush(self._free, slot)
