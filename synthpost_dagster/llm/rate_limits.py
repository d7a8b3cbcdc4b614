"""Rate limits of an endpoint: requests in flight, requests and tokens per minute, and the pauses that it asks for.

Requests in flight start at START and grow by one per reply. When the endpoint is overloaded they are halved, and then
grow by one per round (additive increase, multiplicative decrease). All runs in one process that use one model share its
limits; processes do not.
"""

import asyncio
import contextlib
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from synthpost_dagster.errors import EndpointError
from synthpost_dagster.profiles.models import Limits

START = 8.0
"""Requests in flight at the beginning."""
MINUTE = 60.0
OTHERS_SECONDS = 0.1
"""Interval of checking for returned requests of other threads."""
MAX_WAIT = 365 * 86_400.0
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

Clock = Callable[[], float]


class Window:
    """Amounts within the last minute, up to a limit; an amount above the limit goes alone."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._entries: deque[list[float]] = deque()
        self._sum = 0.0

    def wait(self, amount: float, now: float) -> float:
        """Seconds until the amount fits."""
        if self.limit is None:
            return 0.0
        self._forget(now)
        excess = self._sum + min(amount, self.limit) - self.limit
        until = now
        for at, entry in self._entries:
            if excess <= 0:
                break
            excess -= entry
            until = at + MINUTE
        return until - now

    def add(self, amount: float, now: float) -> list[float]:
        """Adds the amount; returns the entry for `correct`."""
        entry = [now, amount]
        if self.limit is not None:
            self._entries.append(entry)
            self._sum += amount
        return entry

    def correct(self, entry: list[float], amount: float) -> None:
        """Replaces an estimate by the real amount."""
        if self.limit is not None and self._entries and entry[0] >= self._entries[0][0]:
            self._sum += amount - entry[1]
            entry[1] = amount

    def _forget(self, now: float) -> None:
        while self._entries and self._entries[0][0] <= now - MINUTE:
            self._sum -= self._entries.popleft()[1]


class SharedLimits:
    """The limits of one model at an endpoint, shared by this process. Read and changed under `lock`."""

    def __init__(self, limits: Limits) -> None:
        self.lock = threading.RLock()
        self.limits = limits
        self.level = min(START, float(limits.concurrency))
        self.threshold = float(limits.concurrency)
        self.sent = 0
        self.cut_at = -1.0
        self.paused_until = 0.0
        self.requests, self.tokens = Window(limits.requests_per_minute), Window(limits.tokens_per_minute)


_SHARED: dict[str, SharedLimits] = {}
_SHARED_LOCK = threading.Lock()


def shared_limits(name: str, limits: Limits) -> SharedLimits:
    """The state of a model in this process, kept between series of requests while its limits stay the same."""
    with _SHARED_LOCK:
        return _SHARED.setdefault(f"{name} {limits.model_dump_json()}", SharedLimits(limits))


class RateLimiter:
    """Admits one series of requests to an endpoint. `stopping`, once set, ends every wait at once."""

    def __init__(self, shared: SharedLimits, name: str, clock: Clock = time.monotonic) -> None:
        self.shared, self.name, self.clock = shared, name, clock
        self.stopping = asyncio.Event()
        self._returned = asyncio.Event()
        self._turn = asyncio.Lock()

    @property
    def allowed(self) -> int:
        """Requests that may be in flight now."""
        return max(1, int(self.shared.level))

    async def turn(self, tokens: float) -> list[float]:
        """Waits, in order of arrival, until a request with these tokens may be sent; returns the entry for `succeeded`.

        Raises EndpointError if the endpoint asked for a longer pause than limits.max_retry_wait_seconds.
        """
        async with self._turn:
            while not self.stopping.is_set():
                with self.shared.lock:
                    delay = self._delay(tokens)
                    if delay is not None and delay <= 0:
                        return self._go(tokens)
                if delay is None:
                    self._returned.clear()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._returned.wait(), OTHERS_SECONDS)
                else:
                    await self.sleep(delay)
            with self.shared.lock:
                return self._go(tokens)

    def _delay(self, tokens: float) -> float | None:
        """Seconds until a request with these tokens may be sent; None if another must return first."""
        shared, now = self.shared, self.clock()
        self._check_wait(shared.paused_until - now)
        if shared.sent >= self.allowed:
            return None
        return max(shared.paused_until - now, shared.requests.wait(1.0, now), shared.tokens.wait(tokens, now))

    def _go(self, tokens: float) -> list[float]:
        now = self.clock()
        self.shared.sent += 1
        self.shared.requests.add(1.0, now)
        return self.shared.tokens.add(tokens, now)

    def returned(self) -> None:
        """Ends a request that had its turn, with or without a reply."""
        with self.shared.lock:
            self.shared.sent -= 1
        self._returned.set()

    def succeeded(self, entry: list[float], tokens: float, headers: Mapping[str, str]) -> None:
        """A reply came: corrects the tokens, respects the limits in its headers, and allows more in flight."""
        with self.shared.lock:
            level = self.shared.level
            self.shared.tokens.correct(entry, tokens)
            grown = level + (1.0 if level < self.shared.threshold else 1.0 / level)
            self.shared.level = min(float(self.shared.limits.concurrency), grown)
        for kind in ("requests", "tokens"):
            left, reset = headers.get(f"x-ratelimit-remaining-{kind}"), headers.get(f"x-ratelimit-reset-{kind}")
            is_given = left is not None and reset is not None and left.strip().isdecimal()
            if is_given and int(left or 0) < (1 if kind == "requests" else tokens):
                self.pause(seconds_of(reset or "") or 0.0)

    def overloaded(self, started: float, wait: float | None) -> None:
        """The endpoint was busy, or failed, for a request sent at `started`.

        Halves the requests in flight, once for all that were in flight together, and pauses as long as it asks.
        Raises EndpointError if that is longer than limits.max_retry_wait_seconds.
        """
        with self.shared.lock:
            if started > self.shared.cut_at:
                self.shared.threshold = self.shared.level = max(1.0, self.shared.level / 2)
                self.shared.cut_at = self.clock()
        if wait:
            self._check_wait(wait)
            self.pause(wait)

    def pause(self, seconds: float) -> None:
        """Sends no request for some seconds."""
        with self.shared.lock:
            self.shared.paused_until = max(self.shared.paused_until, self.clock() + seconds)

    async def sleep(self, seconds: float) -> None:
        """Sleeps, at most until `stopping` is set."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    def _check_wait(self, wait: float) -> None:
        if wait > self.shared.limits.max_retry_wait_seconds:
            back = datetime.fromtimestamp(time.time() + wait).astimezone()
            raise EndpointError(
                f"{self.name}: its rate limit is reached and it asks for a pause of {_in_words(wait)}, until "
                f"{back:%Y-%m-%d %H:%M}; run the same command then to resume"
            )


def seconds_of(text: str) -> float | None:
    """Seconds in a header: `2`, `7.66s`, `2m59.56s`, `120ms`, an HTTP date; None for anything else or over a year."""
    text = text.strip()
    parts = _DURATION.findall(text)
    try:
        if parts and "".join(map("".join, parts)) == text:
            seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
        elif _NUMBER.fullmatch(text):
            seconds = float(text)
        else:
            date = parsedate_to_datetime(text)
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return max(0.0, seconds) if seconds < MAX_WAIT else None


def _in_words(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(1, minutes)} min"
