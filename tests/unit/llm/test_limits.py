"""How hard an endpoint is pressed: what fits in a minute, what is in flight, and how long a pause is heeded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthpost_dagster.errors import EndpointError
from synthpost_dagster.llm.limits import (
    LONGEST_BACKOFF,
    MINUTE,
    START,
    Pace,
    Pressure,
    Window,
    backoff,
    seconds_of,
)
from synthpost_dagster.profiles.models import Limits


class Clock:
    """Time that passes where it is told to, and where a pace sleeps."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def pace_of(clock: Clock, requests: int | None = None, tokens: int | None = None, concurrency: int = 64) -> Pace:
    limits = Limits(
        concurrency=concurrency,
        requests_per_minute=requests,
        tokens_per_minute=tokens,
        timeout_seconds=10,
        max_request_attempts=3,
        max_retry_wait_seconds=300,
    )
    pace = Pace(Pressure(limits), "an endpoint", clock)
    pace.sleep = clock.sleep  # type: ignore[method-assign]
    return pace


def turns(pace: Pace, clock: Clock, tokens: list[float]) -> list[float]:
    """The times at which requests of so many tokens may go, one after the other."""
    pace.pressure.level = 4_096.0

    async def go() -> list[float]:
        times = []
        for amount in tokens:
            await pace.turn(amount)
            times.append(clock.now)
        return times

    return asyncio.run(go())


def succeed(pace: Pace, headers: Mapping[str, str] | None = None, tokens: float = 10.0) -> None:
    pace.succeeded([pace.clock(), tokens], tokens, headers or {})


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.integers(0, 60), st.floats(0, 40), st.integers(0, 60)), min_size=1, max_size=40),
)
def test_no_minute_holds_more_than_the_limit_but_for_one_amount_alone(
    limit: int, asked: list[tuple[int, float, int]]
) -> None:
    window, now, entries = Window(limit), 0.0, []
    for amount, later, corrected in asked:
        now += later
        now += window.wait(amount, now)
        assert window.wait(amount, now) <= 1e-9, "it said how long to wait, and that was too short"
        within = [entry for entry in entries if entry[0] > now - MINUTE + 1e-6]
        taken = sum(entry[1] for entry in within)
        assert amount + taken <= limit + 1e-6 or taken <= 1e-6
        entry = window.add(amount, now)
        entries.append(entry)
        window.correct(entry, min(corrected, amount))


def test_an_amount_waits_until_enough_of_those_before_is_a_minute_old() -> None:
    window = Window(100)
    for at, amount in ((0.0, 50), (10.0, 30), (20.0, 20)):
        assert window.wait(amount, at) == 0.0
        window.add(amount, at)
    assert window.wait(1, 20.0) == MINUTE - 20
    assert window.wait(50, 20.0) == MINUTE - 20
    assert window.wait(51, 20.0) == MINUTE - 10
    assert window.wait(1_000, 20.0) == MINUTE
    assert window.wait(50, MINUTE) == 0.0


def test_an_estimate_is_replaced_by_what_it_turned_out_to_be() -> None:
    window = Window(100)
    entry = window.add(90, 0.0)
    assert window.wait(20, 1.0) > 0
    window.correct(entry, 30)
    assert window.wait(70, 1.0) == 0.0
    assert window.wait(71, 1.0) > 0
    window.correct(entry, 100)
    assert window.wait(1, 1.0) > 0


def test_an_estimate_corrected_after_its_minute_changes_nothing() -> None:
    window = Window(100)
    old = window.add(90, 0.0)
    assert window.wait(100, MINUTE) == 0.0
    window.add(60, MINUTE)
    window.correct(old, 0)
    assert window.wait(41, MINUTE) > 0
    assert window.wait(40, MINUTE) == 0.0


def test_without_a_limit_nothing_waits() -> None:
    window = Window(None)
    window.correct(window.add(1e9, 0.0), 1e12)
    assert window.wait(1e9, 0.0) == 0.0


def test_requests_and_tokens_a_minute_hold_requests_back() -> None:
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


def test_a_reply_that_took_fewer_tokens_than_reckoned_makes_room() -> None:
    clock = Clock()
    pace = pace_of(clock, tokens=100)

    async def go() -> float:
        entry = await pace.turn(90)
        pace.succeeded(entry, 10, {})
        await pace.turn(90)
        return clock.now

    assert asyncio.run(go()) == 1_000.0


def test_requests_take_their_turns_in_the_order_they_came() -> None:
    clock = Clock()
    pace, order = pace_of(clock, tokens=100), []
    pace.pressure.level = 4_096.0

    async def one(number: int, tokens: float) -> None:
        await pace.turn(tokens)
        order.append(number)

    async def go() -> None:
        await asyncio.gather(*(one(number, tokens) for number, tokens in enumerate([90, 80, 1, 70, 2])))

    asyncio.run(go())
    assert order == [0, 1, 2, 3, 4]


def test_a_pause_holds_all_requests_back_and_a_shorter_one_does_not_end_it() -> None:
    clock = Clock()
    pace = pace_of(clock)
    pace.overloaded(clock.now, 20.0)
    pace.overloaded(clock.now, 5.0)
    assert turns(pace, clock, [1.0, 1.0]) == [1_020.0, 1_020.0]


@pytest.mark.parametrize(
    ("seconds", "words"), [(301, "5 min"), (3_599, "1 h 0 min"), (27_000, "7 h 30 min"), (90_061, "25 h 1 min")]
)
def test_a_pause_longer_than_the_patience_ends_the_run_and_says_when_to_come_back(seconds: float, words: str) -> None:
    clock = Clock()
    with pytest.raises(EndpointError, match=f"an endpoint: .* come back in {words}, after .*; run the same command"):
        pace_of(clock).overloaded(clock.now, seconds)
    pace = pace_of(clock)
    pace.pause(seconds)
    with pytest.raises(EndpointError, match=f"come back in {words}"):
        turns(pace, clock, [1.0])


def test_a_pause_as_long_as_the_patience_is_waited_for() -> None:
    clock = Clock()
    pace = pace_of(clock)
    pace.overloaded(clock.now, 300)
    assert turns(pace, clock, [1.0]) == [1_300.0]


def test_requests_in_flight_grow_by_one_a_reply_up_to_the_most() -> None:
    pace = pace_of(Clock(), concurrency=12)
    grown = [pace.allowed]
    for _ in range(8):
        succeed(pace)
        grown.append(pace.allowed)
    assert grown == [START, 9, 10, 11, 12, 12, 12, 12, 12]


def test_fewer_than_at_first_are_allowed_where_the_profile_says_so() -> None:
    pace = pace_of(Clock(), concurrency=2)
    succeed(pace)
    assert pace.allowed == 2


def test_an_overload_halves_what_is_in_flight_and_it_grows_by_one_a_round_afterwards() -> None:
    clock = Clock()
    pace = pace_of(clock)
    pace.pressure.level = 32.0
    pace.overloaded(clock.now, None)
    assert pace.allowed == 16
    for _ in range(17):
        succeed(pace)
    assert pace.allowed == 17
    for _ in range(18):
        succeed(pace)
    assert pace.allowed == 18


def test_requests_that_failed_together_halve_it_once_and_one_sent_afterwards_halves_it_again() -> None:
    clock = Clock()
    pace = pace_of(clock)
    pace.pressure.level, together = 32.0, clock.now
    clock.now += 1
    for _ in range(32):
        pace.overloaded(together, None)
        clock.now += 0.1
    assert pace.allowed == 16
    pace.overloaded(clock.now, None)
    assert pace.allowed == 8


def test_one_request_may_always_be_in_flight() -> None:
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
def test_what_an_endpoint_says_is_left_is_heeded(headers: dict[str, str], seconds: float) -> None:
    clock = Clock()
    pace = pace_of(clock)
    succeed(pace, headers, tokens=10.0)
    assert turns(pace, clock, [1.0]) == [pytest.approx(1_000.0 + seconds)]


def test_once_all_is_to_stop_nothing_waits_any_more() -> None:
    clock = Clock()
    pace = pace_of(clock, requests=1)

    async def go() -> None:
        await pace.turn(1.0)
        pace.stopping.set()
        await pace.turn(1.0)

    asyncio.run(go())
    assert clock.now == 1_000.0


def test_a_sleep_ends_when_all_is_to_stop() -> None:
    async def go() -> None:
        pace = Pace(pace_of(Clock()).pressure, "an endpoint")
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
def test_a_duration_in_a_header_is_read(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(("minutes", "seconds"), [(30, 1_800.0), (-30, 0.0)])
@pytest.mark.parametrize("zone", ["GMT", "+0000", "-0000"])
def test_a_date_in_a_header_is_read_as_the_time_until_then(minutes: int, seconds: float, zone: str) -> None:
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
def test_no_text_in_a_header_breaks_a_run(text: str) -> None:
    assert_harmless(text)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="latin-1"), max_size=40))
def test_no_text_at_all_breaks_a_run(text: str) -> None:
    assert_harmless(text)


def assert_harmless(text: str) -> None:
    seconds = seconds_of(text)
    assert seconds is None or seconds >= 0.0
    clock = Clock()
    try:
        pace_of(clock).overloaded(clock.now, seconds)
    except EndpointError as error:
        assert "come back in" in str(error)


def test_waits_between_tries_double_up_to_a_minute_with_jitter() -> None:
    for failures, longest in ((1, 0.5), (2, 1.0), (3, 2.0), (8, LONGEST_BACKOFF), (30, LONGEST_BACKOFF)):
        waits = {backoff(failures) for _ in range(50)}
        assert all(0.5 * longest <= wait <= longest for wait in waits)
        assert len(waits) > 40
