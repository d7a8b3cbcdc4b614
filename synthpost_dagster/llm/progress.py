"""Progress of a series of requests: replies, replies per second, tokens and cost."""

import time

from synthpost_dagster.llm.chat_models import Tally, Work
from synthpost_dagster.llm.journal import Reply

EVERY_SECONDS = 0.25


class Meter:
    """Counts replies into a tally and reports them to the work's listeners, a few times a second."""

    def __init__(self, work: Work, tally: Tally) -> None:
        self.work, self.tally, self._own = work, tally, Tally()
        self._done = self._rejected = 0
        self._reported_at, self._started = 0.0, time.monotonic()

    def found(self, replies: int) -> None:
        """Counts replies that were in the journal."""
        self.tally.known += replies
        self._report(replies)

    def asked(self, reply: Reply, is_journaled: bool = True, places: int = 1) -> None:
        """Counts a new reply for `places` equal asks; one that is not journaled is requested again by a later run."""
        self.tally.add(reply)
        self._own.add(reply)
        if is_journaled:
            self.tally.known += places - 1
        else:
            self._rejected += places
        self._report(places)

    @property
    def text(self) -> str:
        """The progress in one phrase."""
        return f"{self._done - self._rejected:,} of {self.work.total:,} replies are in the journal"

    def _report(self, replies: int) -> None:
        self._done += replies
        now = time.monotonic()
        if now - self._reported_at < EVERY_SECONDS and self._done < self.work.total:
            return
        self._reported_at, own = now, self._own
        detail = "from the journal"
        if own.asked:
            detail = f"{own.asked / max(now - self._started, 1e-3):,.1f}/s"
            detail += f", {own.prompt_tokens + own.completion_tokens:,} tokens"
            if cost := own.cost_usd + own.lost_usd:
                detail += f", ${cost:,.4f}"
        self.work.progress.update(self.work.purpose, self._done, self.work.total, "replies", detail)
