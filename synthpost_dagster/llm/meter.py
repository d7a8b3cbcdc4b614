"""How far a series of asks is: rows, rows a second, tokens, cost, time left."""

from __future__ import annotations

import time
from collections import deque

from synthpost_dagster.llm.chat_models import Tally, Work
from synthpost_dagster.llm.journal import Reply

EVERY_SECONDS = 0.25
RATE_SECONDS = 30.0


class Meter:
    """Counts replies into a tally and tells the work's listeners, a few times a second."""

    def __init__(self, work: Work, tally: Tally) -> None:
        self.work, self.tally = work, tally
        self._done = self._found = self._refused = self._tokens = 0
        self._cost = 0.0
        self._told_at = 0.0
        self._marks: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._asked = 0

    def found(self, replies: int) -> None:
        """So many replies were in the journal."""
        self.tally.known += replies
        self._done += replies
        self._found += replies
        self._tell()

    def asked(self, reply: Reply, is_journaled: bool = True, places: int = 1) -> None:
        """A reply was asked for and came, for so many places; one that is not journaled is asked for again later."""
        self.tally.add(reply)
        self._done += 1
        self._asked += 1
        self._tokens += reply.prompt_tokens + reply.completion_tokens
        self._cost += reply.cost_usd + reply.lost_usd
        if is_journaled:
            self.found(places - 1)
        else:
            self._done += places - 1
            self._refused += places
            self._tell()

    @property
    def text(self) -> str:
        """How far it is, in one phrase."""
        return f"{self._done - self._refused:,} of {self.work.total:,} replies are in the journal"

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told_at < EVERY_SECONDS and self._done < self.work.total:
            return
        self._told_at = now
        self._marks.append((now, self._asked))
        while now - self._marks[0][0] > RATE_SECONDS and len(self._marks) > 2:
            self._marks.popleft()
        detail = self._detail(now) if self._asked else "from the journal"
        self.work.progress.update(self.work.purpose, self._done, self.work.total, "replies", detail)

    def _detail(self, now: float) -> str:
        since, before = self._marks[0]
        rate = (self._asked - before) / max(now - since, 1e-3)
        parts = [f"{rate:,.1f}/s", f"{self._tokens:,} tokens"]
        if self._cost:
            parts.append(f"${self._cost:,.4f}")
        left = self.work.total - self._done
        if rate and left > 0:
            parts.append(f"{left / rate:,.0f} s left")
        return ", ".join(parts)
