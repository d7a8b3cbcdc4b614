"""How hard an endpoint is pressed: requests in flight, requests and tokens a minute, and the pauses it asks for.

Requests in flight grow from few while all goes well, one more for each reply, and are halved when the endpoint is
overloaded; after that they grow by one a round (additive increase, multiplicative decrease). All that asks one model in
one process shares this; processes know nothing of each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
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
"""Requests in flight at first."""
MINUTE = 60.0
FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 60.0
OTHERS_SECONDS = 0.1
LONGEST_WAIT = 365 * 86_400.0
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

Clock = Callable[[], float]


class Window:
    """Amounts within the last minute, which may not pass a limit; an amount above the limit goes alone."""

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
        """Takes the amount; the entry that `correct` wants."""
        entry = [now, amount]
        if self.limit is not None:
            self._entries.append(entry)
            self._sum += amount
        return entry

    def correct(self, entry: list[float], amount: float) -> None:
        """Replaces an estimate by what it turned out to be."""
        if self.limit is not None and self._entries and entry[0] >= self._entries[0][0]:
            self._sum += amount - entry[1]
            entry[1] = amount

    def _forget(self, now: float) -> None:
        while self._entries and self._entries[0][0] <= now - MINUTE:
            self._sum -= self._entries.popleft()[1]


class Pressure:
    """How hard one model at an endpoint is pressed by all of this process. Read and changed under `lock`."""

    def __init__(self, limits: Limits) -> None:
        self.lock = threading.RLock()
        self.limits = limits
        self.level = min(START, float(limits.concurrency))
        self.threshold = float(limits.concurrency)
        self.sent = 0
        self.cut_at = -1.0
        self.paused_until = 0.0
        self.requests, self.tokens = Window(limits.requests_per_minute), Window(limits.tokens_per_minute)

    def heed(self, limits: Limits) -> None:
        """Limits that differ take the place of those before."""
        if limits != self.limits:
            self.limits, self.threshold = limits, float(limits.concurrency)
            self.level = min(self.level, self.threshold)
            self.requests.limit, self.tokens.limit = limits.requests_per_minute, limits.tokens_per_minute


_PRESSURES: dict[str, Pressure] = {}
_PRESSURES_LOCK = threading.Lock()


def pressure_on(name: str, limits: Limits) -> Pressure:
    """The one of this process, from one series of requests to the next, and for those at the same time."""
    with _PRESSURES_LOCK:
        pressure = _PRESSURES.setdefault(name, Pressure(limits))
        with pressure.lock:
            pressure.heed(limits)
        return pressure


class Pace:
    """Lets one series of requests to an endpoint through, beside those that share its pressure.

    `stopping`, once set, lets all that wait go on at once.
    """

    def __init__(self, pressure: Pressure, name: str, clock: Clock = time.monotonic) -> None:
        self.pressure, self.name, self.clock = pressure, name, clock
        self.stopping = asyncio.Event()
        self._returned = asyncio.Event()
        self._turn = asyncio.Lock()

    @property
    def allowed(self) -> int:
        """Requests that may be in flight now."""
        return max(1, int(self.pressure.level))

    async def turn(self, tokens: float) -> list[float]:
        """Waits until a request of so many tokens may go; the entry for `succeeded`. First come, first served.

        Raises EndpointError where the endpoint asked for a longer pause than the profile has patience for.
        """
        async with self._turn:
            while not self.stopping.is_set():
                with self.pressure.lock:
                    delay = self._delay(tokens)
                    if delay is not None and delay <= 0:
                        return self._go(tokens)
                if delay is None:
                    self._returned.clear()
                    await self._sleep_until(self._returned)
                else:
                    await self.sleep(delay)
            with self.pressure.lock:
                return self._go(tokens)

    def _delay(self, tokens: float) -> float | None:
        """Seconds until a request of so many tokens may go; None where one must come back before."""
        pressure, now = self.pressure, self.clock()
        self._check_patience(pressure.paused_until - now)
        if pressure.sent >= self.allowed:
            return None
        return max(pressure.paused_until - now, pressure.requests.wait(1.0, now), pressure.tokens.wait(tokens, now))

    def _go(self, tokens: float) -> list[float]:
        now = self.clock()
        self.pressure.sent += 1
        self.pressure.requests.add(1.0, now)
        return self.pressure.tokens.add(tokens, now)

    def returned(self) -> None:
        """A request that had its turn is back, whatever came of it."""
        with self.pressure.lock:
            self.pressure.sent -= 1
        self._returned.set()

    def succeeded(self, entry: list[float], tokens: float, headers: Mapping[str, str]) -> None:
        """A reply came: corrects the tokens, heeds what the endpoint says is left, and allows more in flight."""
        with self.pressure.lock:
            level = self.pressure.level
            self.pressure.tokens.correct(entry, tokens)
            grown = level + (1.0 if level < self.pressure.threshold else 1.0 / level)
            self.pressure.level = min(float(self.pressure.limits.concurrency), grown)
        for kind in ("requests", "tokens"):
            left, reset = headers.get(f"x-ratelimit-remaining-{kind}"), headers.get(f"x-ratelimit-reset-{kind}")
            is_told = left is not None and reset is not None and left.strip().isdecimal()
            if is_told and int(left or 0) < (1 if kind == "requests" else tokens):
                self.pause(seconds_of(reset or "") or 0.0)

    def overloaded(self, started: float, wait: float | None) -> None:
        """The endpoint turned away, or failed, a request that was sent at `started`.

        Halves the requests in flight, once for all that were in flight together, and pauses as long as it asks.
        Raises EndpointError where that is longer than the profile has patience for.
        """
        with self.pressure.lock:
            if started > self.pressure.cut_at:
                self.pressure.threshold = self.pressure.level = max(1.0, self.pressure.level / 2)
                self.pressure.cut_at = self.clock()
        if wait:
            self._check_patience(wait)
            self.pause(wait)

    def pause(self, seconds: float) -> None:
        """No request goes before so many seconds are over."""
        with self.pressure.lock:
            self.pressure.paused_until = max(self.pressure.paused_until, self.clock() + seconds)

    async def sleep(self, seconds: float) -> None:
        """Sleeps, but not on when all is to stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    async def _sleep_until(self, event: asyncio.Event) -> None:
        waits = [asyncio.create_task(each.wait()) for each in (event, self.stopping)]
        try:
            # Those of other threads come back without a word.
            await asyncio.wait(waits, timeout=OTHERS_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _check_patience(self, wait: float) -> None:
        if wait > self.pressure.limits.max_retry_wait_seconds:
            back = datetime.fromtimestamp(time.time() + wait).astimezone()
            raise EndpointError(
                f"{self.name}: its limit is reached and it asks to come back in {_in_words(wait)}, after "
                f"{back:%Y-%m-%d %H:%M}; run the same command then, it goes on from here"
            )


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row, from 1: doubling, with jitter, a minute at most."""
    longest = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** (failures - 1))
    return random.uniform(0.5, 1.0) * longest


def seconds_of(text: str) -> float | None:
    """Seconds in a header: `2`, `7.66s`, `2m59.56s`, `120ms`, an HTTP date; None where it is none of these.

    A number that can be no wait, because it is over a year, is none of these either.
    """
    text = text.strip()
    seconds = _number(text)
    if seconds is None:
        parts = _DURATION.findall(text)
        if parts and "".join(number + unit for number, unit in parts) == text:
            seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
        else:
            seconds = _until(text)
    return max(0.0, seconds) if seconds is not None and seconds < LONGEST_WAIT else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _until(text: str) -> float | None:
    """Seconds until an HTTP date; one without a zone is in UTC."""
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None


def _in_words(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(1, minutes)} min"
