"""Money of one run: what a request may cost at worst is set aside before it is sent, so that a budget always holds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from synthpost_dagster.errors import BudgetReached
from synthpost_dagster.llm.chat_models import Ask
from synthpost_dagster.llm.journal import Holder
from synthpost_dagster.profiles.models import HostedChat

BLOCK_REQUESTS = 64
"""Requests whose worst cost is claimed from the journal at a time."""
FRAME_TOKENS = 64
"""Most tokens that a chat template puts around a turn."""
MILLION = 1e6
POLL_SECONDS = 0.05


class Purse:
    """Claims dollars in blocks and hands them to requests; where no budget is set, only counts."""

    def __init__(
        self, spec: HostedChat, holder: Holder, in_thread: Callable[[Callable[[], Any]], Awaitable[Any]]
    ) -> None:
        self.spec, self.holder, self._in_thread = spec, holder, in_thread
        self._free = 0.0
        self._turn = asyncio.Lock()

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Dollars of a reply."""
        prices = self.spec.prices
        if prices is None:
            return 0.0
        return (prompt_tokens * prices.input + completion_tokens * prices.output) / MILLION

    def worst(self, ask: Ask) -> float:
        """Most dollars that a reply can cost: no token is shorter than a byte, no reply longer than its limit."""
        prompt = sum(len(turn["content"].encode("utf-8", "replace")) + FRAME_TOKENS for turn in ask.chat)
        return self.cost(prompt, self.spec.sampling.max_new_tokens)

    async def reserve(self, usd: float, others_hold: Callable[[], bool]) -> None:
        """Sets dollars aside. Near the budget it waits for requests that hold some, and give back what they do not use.

        Raises BudgetReached where no other request holds any.
        """
        if self.holder.budget is None:
            return
        async with self._turn:
            while self._free < usd:
                block = usd * BLOCK_REQUESTS
                if await self._claim(block):
                    self._free += block
                elif await self._claim(usd - self._free):
                    self._free = usd
                elif others_hold():
                    await asyncio.sleep(POLL_SECONDS)
                else:
                    raise await self._reached(usd)
            self._free -= usd

    def _claim(self, usd: float) -> Awaitable[bool]:
        return self._in_thread(lambda: self.holder.claim(usd))

    async def _reached(self, usd: float) -> BudgetReached:
        spent = await self._in_thread(self.holder.spent)
        return BudgetReached(
            f"the budget of profile {self.holder.profile} is {self.holder.budget:.2f} dollars, {spent:.4f} are spent, "
            f"and the next request to {self.spec.endpoint} may cost {usd:.4f}; raise `budget` in the profile and run "
            "again, it goes on from here"
        )
