"""Rate limits: requests and tokens per minute, requests in flight, and pauses."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthpost_dagster.errors import EndpointError
from synthpost_dagster.llm.rate_limits import (
    MINUTE,
    START,
    RateLimiter,
    SharedLimits,
    Window,
    seconds_of,
)
from synthpost_dagster.llm.retries import MAX_BACKOFF, backoff
from synthpost_dagster.profiles.models import Limits


class Clock:
    """A clock that advances when a limiter sleeps."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def pace_of(clock: Clock, requests: int | None = None, tokens: int | None = None, concurrency: int = 64) -> RateLimiter:
    limits = Limits(
        concurrency=concurrency,
        requests_per_minute=requests,
        tokens_per_minute=tokens,
        timeout_seconds=10,
        max_request_attempts=3,
        max_retry_wait_seconds=300,
    )
    pace = RateLimiter(SharedLimits(limits), "an endpoint", clock)
    pace.sleep = clock.sleep  # type: ignore[method-assign]
    return pace


def turns(pace: RateLimiter, clock: Clock, tokens: list[float]) -> list[float]:
    """The times at which successive requests with these tokens may be sent."""
    pace.shared.level = 4_096.0

    async def go() -> list[float]:
        times = []
        for amount in tokens:
            await pace.turn(amount)
            times.append(clock.now)
        return times

    return asyncio.run(go())


def succeed(pace: RateLimiter, headers: Mapping[str, str] | None = None, tokens: float = 10.0) -> None:
    pace.succeeded([pace.clock(), tokens], tokens, headers or {})


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.integers(0, 60), st.floats(0, 40), st.integers(0, 60)), min_size=1, max_size=40),
)
def test_no_minute_exceeds_the_limit_except_by_one_amount(limit: int, asked: list[tuple[int, float, int]]) -> None:
    window, now, entries = Window(limit), 0.0, []
    for amount, later, corrected in asked:
        now += later
        now += window.wait(amount, now)
        assert window.wait(amount, now) <= 1e-9, "the wait was too short"
        within = [entry for entry in entries if entry[0] > now - MINUTE + 1e-6]
        taken = sum(entry[1] for entry in within)
        assert amount + taken <= limit + 1e-6 or taken <= 1e-6
        entry = window.add(amount, now)
        entries.append(entry)
        window.correct(entry, min(corrected, amount))


def test_amount_waits_until_earlier_ones_leave_the_window() -> None:
    window = Window(100)
    for at, amount in ((0.0, 50), (10.0, 30), (20.0, 20)):
        assert window.wait(amount, at) == 0.0
        window.add(amount, at)
    assert window.wait(1, 20.0) == MINUTE - 20
    assert window.wait(50, 20.0) == MINUTE - 20
    assert window.wait(51, 20.0) == MINUTE - 10
    assert window.wait(1_000, 20.0) == MINUTE
    assert window.wait(50, MINUTE) == 0.0


def test_real_amount_replaces_the_estimate() -> None:
    window = Window(100)
    entry = window.add(90, 0.0)
    assert window.wait(20, 1.0) > 0
    window.correct(entry, 30)
    assert window.wait(70, 1.0) == 0.0
    assert window.wait(71, 1.0) > 0
    window.correct(entry, 100)
    assert window.wait(1, 1.0) > 0


def test_correction_after_the_minute_changes_nothing() -> None:
    window = Window(100)
    old = window.add(90, 0.0)
    assert window.wait(100, MINUTE) == 0.0
    window.add(60, MINUTE)
    window.correct(old, 0)
    assert window.wait(41, MINUTE) > 0
    assert window.wait(40, MINUTE) == 0.0


def test_nothing_waits_without_a_limit() -> None:
    window = Window(None)
    window.correct(window.add(1e9, 0.0), 1e12)
    assert window.wait(1e9, 0.0) == 0.0


def test_requests_wait_for_the_limits_per_minute() -> None:
    clock = Clock()
    assert turns(pace_of(clock, requests=3), clock, [1.0] * 7) == [1_000.0] * 3 + [1_060.0] * 3 + [1_120.0]
    clock = Clock()
    assert turns(pace_of(clock, tokens=100), clock, [40, 60, 1, 99, 500, 1]) == [
        1_000.0,
        1_000.0,
        1_060.0,
        1_060.0,
        1_120.0,
        1_180.0,
    ]


def test_reply_with_fewer_tokens_than_estimated_frees_capacity() -> None:
    clock = Clock()
    pace = pace_of(clock, tokens=100)

    async def go() -> float:
        entry = await pace.turn(90)
        pace.succeeded(entry, 10, {})
        await pace.turn(90)
        return clock.now

    assert asyncio.run(go()) == 1_000.0


def test_requests_are_sent_in_order_of_arrival() -> None:
    clock = Clock()
    pace, order = pace_of(clock, tokens=100), []
    pace.shared.level = 4_096.0

    async def one(number: int, tokens: float) -> None:
        await pace.turn(tokens)
        order.append(number)

    async def go() -> None:
        await asyncio.gather(*(one(number, tokens) for number, tokens in enumerate([90, 80, 1, 70, 2])))

    asyncio.run(go())
    assert order == [0, 1, 2, 3, 4]


def test_shorter_pause_does_not_end_a_longer_one() -> None:
    clock = Clock()
    pace = pace_of(clock)
    pace.overloaded(clock.now, 20.0)
    pace.overloaded(clock.now, 5.0)
    assert turns(pace, clock, [1.0, 1.0]) == [1_020.0, 1_020.0]


@pytest.mark.parametrize(
    ("seconds", "words"), [(301, "5 min"), (3_599, "1 h 0 min"), (27_000, "7 h 30 min"), (90_061, "25 h 1 min")]
)
def test_pause_above_the_maximum_ends_the_run_with_its_end_time(seconds: float, words: str) -> None:
    clock = Clock()
    with pytest.raises(EndpointError, match=f"an endpoint: .* a pause of {words}, until .*; run the same command"):
        pace_of(clock).overloaded(clock.now, seconds)
    pace = pace_of(clock)
    pace.pause(seconds)
    with pytest.raises(EndpointError, match=f"a pause of {words}"):
        turns(pace, clock, [1.0])


def test_pause_of_the_maximum_is_waited_for() -> None:
    clock = Clock()
    pace = pace_of(clock)
    pace.overloaded(clock.now, 300)
    assert turns(pace, clock, [1.0]) == [1_300.0]


def test_requests_in_flight_grow_by_one_per_reply_up_to_the_limit() -> None:
    pace = pace_of(Clock(), concurrency=12)
    grown = [pace.allowed]
    for _ in range(8):
        succeed(pace)
        grown.append(pace.allowed)
    assert grown == [START, 9, 10, 11, 12, 12, 12, 12, 12]


def test_concurrency_below_the_start_value_is_respected() -> None:
    pace = pace_of(Clock(), concurrency=2)
    succeed(pace)
    assert pace.allowed == 2


def test_overload_halves_concurrency_which_grows_by_one_per_round() -> None:
    clock = Clock()
    pace = pace_of(clock)
    pace.shared.level = 32.0
    pace.overloaded(clock.now, None)
    assert pace.allowed == 16
    for _ in range(17):
        succeed(pace)
    assert pace.allowed == 17
    for _ in range(18):
        succeed(pace)
    assert pace.allowed == 18


def test_requests_that_fail_together_halve_concurrency_once() -> None:
    clock = Clock()
    pace = pace_of(clock)
    pace.shared.level, together = 32.0, clock.now
    clock.now += 1
    for _ in range(32):
        pace.overloaded(together, None)
        clock.now += 0.1
    assert pace.allowed == 16
    pace.overloaded(clock.now, None)
    assert pace.allowed == 8


def test_at_least_one_request_is_allowed() -> None:
    clock = Clock()
    pace = pace_of(clock)
    for _ in range(20):
        clock.now += 1
        pace.overloaded(clock.now, None)
    assert pace.allowed == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2m59.56s"}, 179.56),
        ({"x-ratelimit-remaining-tokens": "9", "x-ratelimit-reset-tokens": "7.66s"}, 7.66),
        ({"x-ratelimit-remaining-tokens": " 0 ", "x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "2m"}, 0.0),
        ({"x-ratelimit-remaining-tokens": "10", "x-ratelimit-reset-tokens": "2m"}, 0.0),
        ({"x-ratelimit-remaining-requests": "0"}, 0.0),
        ({"x-ratelimit-reset-requests": "2m"}, 0.0),
        ({"x-ratelimit-remaining-requests": "none", "x-ratelimit-reset-requests": "2m"}, 0.0),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "2m"}, 0.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "soon"}, 0.0),
    ],
)
def test_rate_limit_headers_are_respected(headers: dict[str, str], seconds: float) -> None:
    clock = Clock()
    pace = pace_of(clock)
    succeed(pace, headers, tokens=10.0)
    assert turns(pace, clock, [1.0]) == [pytest.approx(1_000.0 + seconds)]


def test_no_request_waits_after_the_stop() -> None:
    clock = Clock()
    pace = pace_of(clock, requests=1)

    async def go() -> None:
        await pace.turn(1.0)
        pace.stopping.set()
        await pace.turn(1.0)

    asyncio.run(go())
    assert clock.now == 1_000.0


def test_stop_ends_a_sleep() -> None:
    async def go() -> None:
        pace = RateLimiter(pace_of(Clock()).shared, "an endpoint")
        asyncio.get_running_loop().call_soon(pace.stopping.set)
        await asyncio.wait_for(pace.sleep(60.0), 5.0)

    asyncio.run(go())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2", 2.0),
        (" 1.5 ", 1.5),
        ("0", 0.0),
        ("-3", 0.0),
        ("7.66s", 7.66),
        ("120ms", 0.12),
        ("2m59.56s", 179.56),
        ("1h", 3_600.0),
        ("1h2m3s4ms", 3_723.004),
        ("2d", 172_800.0),
        ("", None),
        ("soon", None),
        ("s", None),
        ("5 apples", None),
        ("5s and more", None),
        ("1m 2s", None),
        ("5.s", None),
    ],
)
def test_durations_in_headers_are_read(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(("minutes", "seconds"), [(30, 1_800.0), (-30, 0.0)])
@pytest.mark.parametrize("zone", ["GMT", "+0000", "-0000"])
def test_dates_in_headers_are_read_as_the_time_until_then(minutes: int, seconds: float, zone: str) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes)).replace("+0000", zone)
    assert seconds_of(date) == pytest.approx(seconds, abs=5.0)


ODD_TEXTS = [
    "inf",
    "-inf",
    "nan",
    "1e400",
    "9" * 400,
    "9" * 400 + "s",
    "\x00",
    "٣",
    "1741305600000",
    "1_000",
    "Wed, 21 Oct 9999 07:28:00 GMT",
    "Wed, 99 Oct 2015 07:28:00 GMT",
    "Wed, 21 Oct 2015 07:28:00 -0000",
    "1 2 3",
    ",,,",
    "2026-11-23",
]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_odd_headers_are_harmless(text: str) -> None:
    assert_harmless(text)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="latin-1"), max_size=40))
def test_random_headers_are_harmless(text: str) -> None:
    assert_harmless(text)


def assert_harmless(text: str) -> None:
    seconds = seconds_of(text)
    assert seconds is None or seconds >= 0.0
    clock = Clock()
    try:
        pace_of(clock).overloaded(clock.now, seconds)
    except EndpointError as error:
        assert "a pause of" in str(error)


def test_backoff_doubles_up_to_a_minute_with_jitter() -> None:
    for failures, longest in ((1, 0.5), (2, 1.0), (3, 2.0), (8, MAX_BACKOFF), (30, MAX_BACKOFF)):
        waits = {backoff(failures) for _ in range(50)}
        assert all(0.5 * longest <= wait <= longest for wait in waits)
        assert len(waits) > 40
