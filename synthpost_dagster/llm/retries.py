"""When a request is sent again, how long it waits before that, and when the run ends instead."""

import random

from synthpost_dagster.errors import EndpointError
from synthpost_dagster.llm.chat_models import Ask
from synthpost_dagster.llm.errors import Busy, TransientError
from synthpost_dagster.llm.journal import Reply
from synthpost_dagster.llm.rate_limits import RateLimiter
from synthpost_dagster.profiles.models import Limits

FIRST_BACKOFF, MAX_BACKOFF = 0.5, 60.0
"""Seconds."""
MAX_BUSY = 30
"""Times one request may find the endpoint busy before the run ends."""
MIN_REJECTED = 5
"""Rejected requests, with no reply to any, that end the run: the fault is not in one prompt."""
MIN_ANSWERED = 10
"""Replies to other requests that put the fault in the one request that keeps failing."""


def backoff(failures: int) -> float:
    """Seconds to wait after `failures` in a row, from 1: doubling, with jitter, at most MAX_BACKOFF."""
    return random.uniform(0.5, 1.0) * min(MAX_BACKOFF, FIRST_BACKOFF * 2.0 ** (failures - 1))


class Request:
    """One ask on its way: its failures so far, its reservation in dollars, and at last its reply."""

    def __init__(self, ask: Ask, max_usd: float, answered: int) -> None:
        self.ask, self.max_usd = ask, max_usd
        self.reply: Reply | None = None
        self.raw: str | None = None
        """The reply's message as JSON if it contains more than the text."""
        self.is_journaled = True
        self.reserved_usd = self.lost_usd = self.waited_seconds = 0.0
        self.failed = self.busy = 0
        self.answered_at_start = self.answered_then = answered

    @property
    def attempts(self) -> int:
        """Times it was sent, including the one that brought a reply."""
        return 1 + self.failed + self.busy

    @property
    def spent_usd(self) -> float:
        """The most that it may have cost."""
        return self.reply.cost_usd + self.reply.lost_usd if self.reply and self.is_journaled else self.lost_usd


class Retries:
    """The retry rules of one run."""

    def __init__(self, name: str, limits: Limits, limiter: RateLimiter) -> None:
        self.name, self.limits, self.limiter = name, limits, limiter
        self.answered = self.rejected = 0

    def after_busy(self, request: Request, error: Busy, started: float) -> float:
        """Seconds to wait. Raises EndpointError if that is too long, or the endpoint stays busy."""
        request.busy += 1
        self.limiter.overloaded(started, error.wait)
        left = self._wait_left(request)
        delay = error.wait or min(backoff(request.busy), left)
        if request.busy >= MAX_BUSY or delay > left or not delay:
            raise EndpointError(
                f"{self.name}: stayed busy for {request.waited_seconds:.0f} s ({error}); lower limits.concurrency or "
                "raise limits.max_retry_wait_seconds, and run again to resume"
            ) from None
        return delay

    def after_failure(self, request: Request, error: TransientError, started: float) -> float | None:
        """Seconds to wait; None if only this request fails, for good. Raises EndpointError if others fail too."""
        request.failed += 1
        if error.may_be_billed:
            request.lost_usd += request.max_usd
            self.limiter.overloaded(started, None)
        if request.failed < self.limits.max_request_attempts:
            return min(backoff(request.failed), self._wait_left(request))
        if self.answered - request.answered_at_start < MIN_ANSWERED:
            raise EndpointError(
                f"{self.name}: failed {request.failed} times in a row: {error}; fix the endpoint or its entry in the "
                "profile, and run again to resume"
            ) from None
        return None

    def after_rejection(self, message: str) -> None:
        """Raises EndpointError if every request was rejected."""
        self.rejected += 1
        if not self.answered and self.rejected >= MIN_REJECTED:
            raise EndpointError(f"{self.name}: rejects every request: {message}; correct its entry in the profile")

    def _wait_left(self, request: Request) -> float:
        """Seconds that a request may still wait; the full time again after a reply to any other."""
        if request.answered_then != self.answered:
            request.answered_then, request.waited_seconds = self.answered, 0.0
        return max(0.0, self.limits.max_retry_wait_seconds - request.waited_seconds)
