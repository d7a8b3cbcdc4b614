"""The budget: the most that a request can cost is reserved before it is sent, so that the cap on money always holds.

Reservations are in the journal, so they hold for all processes that share a profile's name (`Holder.reserve`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from synthpost_dagster.errors import BudgetReached
from synthpost_dagster.llm.chat_models import Ask
from synthpost_dagster.llm.journal_holders import Holder
from synthpost_dagster.profiles.models import HostedChat, InProcessChat

BLOCK_REQUESTS = 64
"""Requests whose maximum cost is reserved in the journal at a time."""
FRAME_TOKENS = 64
"""Maximum tokens that a chat template adds to a turn."""
MILLION = 1e6
POLL_SECONDS = 0.05


def cost_usd(spec: HostedChat | InProcessChat, prompt_tokens: int, completion_tokens: int) -> float:
    """Price of the tokens in dollars."""
    if isinstance(spec, InProcessChat) or spec.prices is None:
        return 0.0
    return (prompt_tokens * spec.prices.input + completion_tokens * spec.prices.output) / MILLION


def max_cost_usd(spec: HostedChat, ask: Ask) -> float:
    """Maximum cost of a reply: no token is shorter than a byte, no reply longer than its limit."""
    prompt = sum(len(turn["content"].encode("utf-8", "replace")) + FRAME_TOKENS for turn in ask.chat)
    return cost_usd(spec, prompt, spec.sampling.max_new_tokens)


class Budget:
    """Reserves dollars in blocks and hands them to requests; without a budget it does nothing."""

    def __init__(
        self, spec: HostedChat, holder: Holder, in_thread: Callable[[Callable[[], Any]], Awaitable[Any]]
    ) -> None:
        self.spec, self.holder, self._in_thread = spec, holder, in_thread
        self._free = 0.0
        self._turn = asyncio.Lock()

    async def reserve(self, usd: float, others_reserve: Callable[[], bool]) -> None:
        """Reserves dollars. Near the budget it waits for other requests to release what they do not use.

        Raises BudgetReached if no other request has a reservation.
        """
        if self.holder.budget is None:
            return
        async with self._turn:
            while self._free < usd:
                block = usd * BLOCK_REQUESTS
                if await self._in_thread(partial(self.holder.reserve, block)):
                    self._free += block
                elif await self._in_thread(partial(self.holder.reserve, usd - self._free)):
                    self._free = usd
                elif others_reserve():
                    await asyncio.sleep(POLL_SECONDS)
                else:
                    spent = await self._in_thread(self.holder.spent)
                    raise BudgetReached(
                        f"the budget of profile {self.holder.profile} is {self.holder.budget:.2f} dollars, "
                        f"{spent:.4f} are spent, and the next request to {self.spec.endpoint} may cost {usd:.4f}; "
                        "raise `budget` in the profile and run again to resume"
                    )
            self._free -= usd
