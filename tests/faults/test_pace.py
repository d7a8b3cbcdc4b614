"""Rate limits and concurrency, as the endpoint sees them."""

from __future__ import annotations

import random
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from synthpost_dagster.errors import EndpointError
from synthpost_dagster.llm import rate_limits, retries, transport
from synthpost_dagster.llm.chat_models import Context, Work, chat_model
from synthpost_dagster.runtime.progress import SILENT, Event, Progress
from tests.helpers.chat_server import ChatServer, Rule
from tests.helpers.hosted_models import answered, asks_of, expected, hosted, prompts, texts_of


@pytest.mark.parametrize(("backend", "concurrency"), [("openai", 1), ("groq", 3), ("openai", 12)])
def test_concurrency_of_the_profile_is_reached_and_not_exceeded(
    server: ChatServer, context: Context, backend: str, concurrency: int
) -> None:
    server.script(Rule(delay=0.05))
    answered(hosted(server, backend, concurrency=concurrency), context, prompts(4 * concurrency + 6))
    assert server.log().most_in_flight == concurrency


def test_requests_in_flight_grow_from_few_to_many(server: ChatServer, context: Context) -> None:
    server.script(Rule(delay=0.1))
    answered(hosted(server, concurrency=200), context, prompts(150))
    asked = server.log().requests
    at_first = sum(seen.at < min(other.ended_at for other in asked) for seen in asked)
    assert at_first == rate_limits.START
    assert server.log().most_in_flight > 30


def test_concurrency_above_the_limit_of_the_sdk_is_reached(
    server: ChatServer, context: Context, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "START", 130.0)
    server.script(Rule(delay=0.5))
    answered(hosted(server, backend, concurrency=130), context, prompts(130))
    assert server.log().most_in_flight == 130


@pytest.mark.usefixtures("quick_backoff")
def test_burst_of_failures_halves_the_requests_in_flight_once(server: ChatServer, context: Context) -> None:
    server.script(Rule(numbers=tuple(range(1, 9)), status=503, delay=0.1), Rule(delay=0.1))
    answered(hosted(server, concurrency=8), context, prompts(40))
    after = server.log().requests[8:]
    first_answer = min(seen.ended_at for seen in after)
    # Half of eight; halved for each of the eight failures it would be one.
    assert sum(seen.at < first_answer for seen in after) == 4


@pytest.mark.usefixtures("quick_backoff")
def test_endpoint_that_rejects_every_third_request_answers_all_once(server: ChatServer, context: Context) -> None:
    server.script(Rule(numbers=tuple(range(3, 400, 3)), status=429))
    replies = answered(hosted(server), context, prompts(60))
    assert texts_of(replies) == expected(prompts(60))
    assert sum(reply.tries for reply in replies) == len(server.log().requests)


@pytest.mark.usefixtures("quick_backoff")
def test_endpoint_that_rejects_every_request_ends_the_run(server: ChatServer, context: Context) -> None:
    server.script(Rule(status=429))
    with pytest.raises(EndpointError, match="429: scripted 429"):
        answered(hosted(server, concurrency=2), context, prompts(10))


def test_requests_per_minute_are_kept(server: ChatServer, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MINUTE", 1.0)
    answered(hosted(server, requests_per_minute=10), context, prompts(15))
    starts = [seen.at for seen in server.log().requests]
    # The server sees requests later than they were sent, the first most of all: half of such a minute is allowed.
    assert all(starts[index + 10] - starts[index] > 0.5 for index in range(5))


def test_limit_per_minute_holds_across_batches_of_requests(
    server: ChatServer, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "MINUTE", 1.0)
    spec = hosted(server, requests_per_minute=10)
    for start in (0, 8, 11, 13):
        answered(spec, context, prompts(15)[start : start + 8])
    starts = [seen.at for seen in server.log().requests]
    assert len(starts) == 15
    assert all(starts[index + 10] - starts[index] > 0.5 for index in range(5))


def test_requested_pause_delays_the_next_batch_of_requests(server: ChatServer, context: Context) -> None:
    server.script(Rule(headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "700ms"}))
    for number in range(2):
        answered(hosted(server), context, prompts(2)[number : number + 1])
    first, second = server.log().requests
    assert second.at - first.ended_at >= 0.69


def test_two_concurrent_batches_share_the_limits(
    server: ChatServer, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "MINUTE", 1.0)
    server.script(Rule(delay=0.05))
    spec, halves = hosted(server, concurrency=3, requests_per_minute=20), [prompts(30)[:15], prompts(30)[15:]]
    assert context.journal.summary() == []
    with ThreadPoolExecutor(2) as threads:
        replies = list(threads.map(lambda texts: texts_of(answered(spec, context, texts)), halves))
    assert replies == [expected(texts) for texts in halves]
    starts = [seen.at for seen in server.log().requests]
    assert server.log().most_in_flight == 3
    assert all(starts[index + 20] - starts[index] > 0.5 for index in range(10))


def test_tokens_per_minute_are_kept(server: ChatServer, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MINUTE", 1.0)
    # A request is estimated at 7 tokens and 25 new ones; a reply has 19 in all, which count once it has arrived.
    answered(hosted(server, tokens_per_minute=200, max_new_tokens=25, concurrency=1), context, prompts(14))
    asked = server.log().requests
    for first in asked:
        within = [seen for seen in asked if first.at <= seen.at < first.at + 0.5]
        assert sum(seen.prompt_tokens + seen.completion_tokens for seen in within) <= 200
    assert asked[-1].at - asked[0].at > 0.5


@pytest.mark.parametrize(("backend", "kind"), [("openai", "requests"), ("groq", "tokens")])
def test_exhausted_rate_limit_is_waited_for_until_its_reset(
    server: ChatServer, context: Context, backend: str, kind: str
) -> None:
    told = {f"x-ratelimit-remaining-{kind}": "0", f"x-ratelimit-reset-{kind}": "700ms"}
    server.script(Rule(numbers=(2,), headers=told))
    answered(hosted(server, backend, concurrency=1), context, prompts(4))
    starts = [seen.at for seen in server.log().requests]
    ends = [seen.ended_at for seen in server.log().requests]
    assert starts[2] - ends[1] >= 0.69
    assert starts[1] - ends[0] < 0.69


def test_rate_limit_exhausted_for_hours_ends_the_run(server: ChatServer, context: Context) -> None:
    server.script(Rule(headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "7h30m"}))
    with pytest.raises(EndpointError, match=r"\b7 h (30|29) min\b.*\b1 of 5\b"):
        answered(hosted(server, concurrency=1), context, prompts(5))


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": "inf"},
        {"retry-after": "1e400"},
        {"retry-after": "nan"},
        {"retry-after": "soon"},
        {"retry-after": "-5"},
        {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"},
        {"retry-after": "Wed, 21 Oct 2015 07:28:00 -0000"},
        {"retry-after-ms": "x", "retry-after": ""},
        {"retry-after": "99999999999999"},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1795404000000"},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2026-11-23T03:00:00Z"},
        {"x-ratelimit-remaining-tokens": "²", "x-ratelimit-reset-tokens": "1s"},
    ],
    ids=lambda headers: next(reversed(headers.values())) or "empty",
)
@pytest.mark.usefixtures("quick_backoff")
def test_no_header_breaks_the_run(server: ChatServer, context: Context, headers: dict[str, str]) -> None:
    status = 429 if any(name.startswith("retry") for name in headers) else 200
    server.script(Rule(numbers=(1,), status=status, headers=headers))
    try:
        assert texts_of(answered(hosted(server, concurrency=1), context, prompts(2))) == expected(prompts(2))
    except EndpointError as error:
        assert re.search(r"\b\d+ (h|min|s)\b", str(error))


def test_replies_keep_the_order_of_the_requests(server: ChatServer, context: Context) -> None:
    delays = random.Random(7)
    server.script(*(Rule(marker=text, delay=delays.uniform(0.0, 0.1)) for text in prompts(60)))
    asked: list[str] = prompts(60)
    assert texts_of(answered(hosted(server, concurrency=20), context, asked)) == expected(asked)
    ends = [seen.prompt for seen in sorted(server.log().requests, key=lambda seen: seen.ended_at)]
    assert ends != asked


def test_repeated_prompt_is_requested_once(server: ChatServer, context: Context) -> None:
    asked = [*prompts(3), *prompts(5), *prompts(70), *prompts(3)]
    events: list[Event] = []
    model = chat_model(hosted(server), context)
    replies = list(model.answers(asks_of(model, asked), Work("rows", len(asked), Progress(events.append))))
    assert texts_of(replies) == expected(asked)
    assert sorted(server.log().prompts) == sorted(prompts(70))
    assert (model.tally.asked, model.tally.known + model.tally.asked) == (70, len(asked))
    assert (events[-1].done, events[-1].total) == (len(asked), len(asked))


def test_journal_serves_replies_without_an_endpoint(server: ChatServer, context: Context) -> None:
    answered(hosted(server), context, prompts(100))
    away = hosted("http://127.0.0.1:9", max_request_attempts=1)
    assert texts_of(answered(away, context, prompts(100))) == expected(prompts(100))


def test_journal_serves_replies_without_a_key(server: ChatServer, context: Context) -> None:
    answered(hosted(server), context, prompts(10))
    assert texts_of(answered(hosted(server), context._replace(secret=lambda name: None), prompts(10)))


def test_closing_early_ends_requests_and_keeps_replies(server: ChatServer, context: Context) -> None:
    server.script(Rule(numbers=tuple(range(1, 21))), Rule(act="hang"))
    model = chat_model(hosted(server), context)
    replies = model.answers(asks_of(model, prompts(60)), Work("rows", 60, SILENT))
    assert [next(replies).text for _ in range(20)] == expected(prompts(20))
    started = time.monotonic()
    replies.close()
    assert time.monotonic() - started < 15, "it waited for requests that hang"
    assert context.journal.summary()[0]["replies"] == 20
    server.script()
    assert texts_of(answered(hosted(server), context, prompts(60))) == expected(prompts(60))
    assert len(server.log().requests) == 40


def test_closing_early_ends_requests_that_wait_for_a_retry(
    server: ChatServer, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_BACKOFF", 30.0)
    server.script(Rule(marker="number 0.", delay=0.4), Rule(status=500, times=7), Rule(act="hang"))
    model = chat_model(hosted(server), context)
    replies = model.answers(asks_of(model, prompts(60)), Work("rows", 60, SILENT))
    next(replies)
    replies.close()
    # The eight first ones, and the one that took the place of the answered one.
    assert len(server.log().requests) <= 9


def test_address_that_accepts_no_connection_is_named(
    context: Context, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.3)
    with socket.socket() as silent, socket.socket() as waiting:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        waiting.connect(silent.getsockname())
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(EndpointError, match=address):
            answered(hosted(address, backend, max_request_attempts=1), context, prompts(1))
