"""Habits of endpoints, through the real SDKs: what is kept, what is requested again, and what it costs."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from synthpost_dagster.errors import EndpointError
from synthpost_dagster.llm.chat_models import Context
from synthpost_dagster.llm.journal_tables import RAW_MESSAGES
from synthpost_dagster.llm.model_check import CHECKS
from synthpost_dagster.rows.rejection import clean_reply
from synthpost_dagster.runtime.devices import Devices
from synthpost_dagster.settings import Settings
from synthpost_dagster.stages.doctor import examine
from synthpost_dagster.stages.opening import open_study
from tests.helpers.chat_server import SERVED, ChatServer, Rule
from tests.helpers.hosted_models import (
    KEY,
    KEY_NAME,
    PRICES,
    answered,
    checked,
    context_of,
    expected,
    hosted,
    prompts,
    texts_of,
)

TEXT = "Fresh rolls. Come in today."
USAGE = {"prompt_tokens": 100, "completion_tokens": 50}
COST = (100 * PRICES.input + 50 * PRICES.output) / 1e6
WORST = ((len(prompts(1)[0]) + 64) * PRICES.input + 256 * PRICES.output) / 1e6


def body(content: Any = TEXT, finish: Any = "stop", choice: dict[str, Any] | None = None, **message: Any) -> str:
    """A success with one message."""
    whole = {"index": 0, "finish_reason": finish, **(choice or {})}
    return json.dumps(
        {"model": SERVED, "usage": USAGE, "choices": [whole | {"message": {"content": content, **message}}]}
    )


PARTS = [{"type": "thinking", "thinking": "let me see"}, {"type": "text", "text": TEXT}]
DELTA = {"usage": USAGE, "choices": [{"index": 0, "delta": {"content": TEXT}, "finish_reason": None}]}
STREAM = (
    f"data: {json.dumps(DELTA)}\n\n"
    'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
)
HABITS = {
    "parts": (body([{"type": "text", "text": TEXT}]), TEXT, ""),
    "parts with reasoning": (body(PARTS), TEXT, ""),
    "reasoning in a field": (body(reasoning_content="let me see"), TEXT, ""),
    "a tag of reasoning": (body(f"<thought>\na plan\n</thought>\n{TEXT}"), TEXT, ""),
    "a closing tag alone": (body(f"a plan\n</think>\n\n{TEXT}"), TEXT, ""),
    "a fence": (body(f"Here it is:\n\n```\n{TEXT}\n```"), TEXT, ""),
    "reasoning alone": (body(None, "length", reasoning="a plan"), "", "max_new_tokens spent on reasoning"),
    "a refusal": (body(None, refusal="I will not."), "I will not.", "refusal"),
    "a filter": (body(TEXT[:9], "sensitive"), "", "held back by the endpoint's filter"),
    "an unknown finish reason": (body(TEXT, "tired"), TEXT, "unknown finish reason: tired"),
    "no finish reason": (body(TEXT, None), TEXT, "unknown finish reason: none"),
    "a tool call": (body("", "tool_calls", tool_calls=[{"id": "1"}]), "", "part of another kind: tool_calls"),
    "a stream": (STREAM, TEXT, ""),
    "a byte order mark": ("\ufeff" + body(), TEXT, ""),
}


@pytest.mark.parametrize(("sent", "post", "reason"), HABITS.values(), ids=HABITS)
def test_habit_of_an_endpoint_gives_the_post_or_the_reason(
    server: ChatServer, tmp_path: Path, backend: str, sent: str, post: str, reason: str
) -> None:
    server.script(Rule(body=sent))
    context = context_of(tmp_path / "journal.sqlite", 1.0)
    (reply,) = answered(hosted(server, backend, prices=PRICES), context, prompts(1))
    assert clean_reply(reply.text, reply.finish_reason)[:2] == (post, reason)
    assert len(server.log().requests) == 1
    (spent,) = context.journal.spending()
    assert (spent["spent_usd"], spent["claimed_usd"]) == (pytest.approx(COST), 0.0)


def test_journal_keeps_the_message_of_a_reply_that_is_more_than_text(
    server: ChatServer, context: Context, backend: str
) -> None:
    server.script(Rule(numbers=(1,), body=body(PARTS)), Rule(numbers=(2,), body=body(TEXT)))
    replies = answered(hosted(server, backend, concurrency=1), context, prompts(2))
    raw = raw_messages(context)
    assert {key: json.loads(text) for key, text in raw.items()} == {
        replies[0].key: {"finish_reason": "stop", "message": {"content": PARTS}}
    }


def test_key_that_an_endpoint_repeats_in_its_reasoning_is_nowhere(
    server: ChatServer, tmp_path: Path, backend: str
) -> None:
    server.script(Rule(body=body(reasoning="{authorization}")))
    context = context_of(tmp_path / "journal.sqlite")
    (reply,) = answered(hosted(server, backend), context, prompts(1))
    assert "Bearer [key]" in raw_messages(context)[reply.key]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def raw_messages(context: Context) -> dict[str, str]:
    """The stored messages by key."""
    with context.journal.begin(is_reading=True) as connection:
        return {row.key: row.message for row in connection.execute(select(RAW_MESSAGES))}


def error(code: Any, **fields: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": "provider returned an error", **fields}}


@pytest.mark.usefixtures("quick_backoff")
@pytest.mark.parametrize(
    ("sent", "lost"),
    [
        (body(TEXT[:9], "abort"), WORST),
        (body(TEXT[:9], "error", error(502)), WORST),
        (json.dumps(error(500)), 0.0),
        (json.dumps({"choices": [], **error("server_error")}), 0.0),
        (json.dumps({"choices": [], "usage": None}), WORST),
        ("<html>busy</html>", WORST),
    ],
    ids=["given up", "error of the choice", "error", "error without choices", "no choices", "page"],
)
def test_reply_that_failed_within_a_success_is_requested_again(
    server: ChatServer, tmp_path: Path, backend: str, sent: str, lost: float
) -> None:
    server.script(Rule(numbers=(1,), body=sent))
    context = context_of(tmp_path / "journal.sqlite", 2.0)
    (reply,) = answered(hosted(server, backend, prices=PRICES), context, prompts(1))
    assert ([reply.text], reply.tries, reply.lost_usd) == (expected(prompts(1)), 2, pytest.approx(lost))
    assert context.journal.spending()[0]["spent_usd"] == pytest.approx(reply.cost_usd + lost)


@pytest.mark.parametrize("sent", [error(429, retry_after=1), error("rate_limit_exceeded", message="try again in 1s")])
def test_rate_limit_within_a_success_is_waited_for_and_costs_nothing(
    server: ChatServer, tmp_path: Path, backend: str, sent: dict[str, Any]
) -> None:
    server.script(Rule(numbers=(1,), body=json.dumps(sent)))
    context = context_of(tmp_path / "journal.sqlite", 1.0)
    (reply,) = answered(hosted(server, backend, prices=PRICES), context, prompts(1))
    first, second = server.log().requests
    assert second.at - first.ended_at >= 1.0
    assert (reply.tries, reply.lost_usd) == (2, 0.0)
    assert context.journal.spending()[0]["spent_usd"] == pytest.approx(reply.cost_usd)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (error(402), r"credit.*402: "),
        (error("insufficient_quota"), r"credit.*402: "),
        (error(401), rf"{KEY_NAME}.*401: "),
        (error("permission_denied"), rf"{KEY_NAME}.*403: "),
        (error("model_not_found"), rf"{SERVED}.*404: "),
        (error(429, retry_after=3600), r"\b1 h 0 min\b"),
    ],
    ids=["credit", "quota", "key", "permission", "model", "hour"],
)
def test_error_within_a_success_that_ends_the_run_names_its_cause(
    server: ChatServer, context: Context, backend: str, sent: dict[str, Any], said: str
) -> None:
    server.script(Rule(body=json.dumps(sent)))
    with pytest.raises(EndpointError) as caught:
        answered(hosted(server, backend, concurrency=1, prices=PRICES), context, prompts(3))
    assert re.search(said, str(caught.value))
    assert len(server.log().requests) == 1
    assert context.journal.spending()[0]["spent_usd"] == 0.0


def test_too_long_prompts_are_named_with_the_true_count_of_replies(
    server: ChatServer, context: Context, backend: str
) -> None:
    said = {"error": {"code": "context_length_exceeded", "message": "maximum context length is 50"}}
    server.script(Rule(status=400, body=json.dumps(said)))
    with pytest.raises(EndpointError) as caught:
        answered(hosted(server, backend), context, prompts(12))
    assert re.search("400: maximum context length is 50 .*max_new_tokens", str(caught.value))
    assert "0 of 12" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "sent", "said"),
    [
        (400, {"error": {"code": "insufficient_quota"}}, r"credit.*400: "),
        (403, {"error": {"type": "insufficient_quota", "message": "pay"}}, r"credit.*403: pay"),
        (400, [{"error": {"code": 400, "message": "too long"}}], "400: too long"),
        (422, {"detail": [{"msg": "wrong"}]}, '422: .*{"msg": "wrong"}'),
        (500, {"error": "it broke"}, r"\b3\b.*500: it broke"),
    ],
    ids=["code alone", "type alone", "list", "detail", "text"],
)
@pytest.mark.usefixtures("quick_backoff")
def test_error_of_any_form_is_read(
    server: ChatServer, context: Context, backend: str, status: int, sent: Any, said: str
) -> None:
    server.script(Rule(status=status, body=json.dumps(sent)))
    with pytest.raises(EndpointError) as caught:
        answered(hosted(server, backend, concurrency=1), context, prompts(6))
    assert re.search(said, str(caught.value))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("to", ["chat", "models"])
def test_redirect_to_another_host_is_refused_and_named(
    server: ChatServer, context: Context, backend: str, status: int, to: str
) -> None:
    location = {"location": f"http://localhost:{server.port}/v1/chat/completions"}
    server.script(Rule(numbers=(1,), status=status, headers=location, to=to))
    with pytest.raises(EndpointError, match=rf"127\.0\.0\.1 .*http://localhost:{server.port}\b"):
        answered(hosted(server, backend), context, prompts(1)) if to == "chat" else checked(server, context, backend)
    assert len(server.log().requests) == (to == "chat"), "the other host saw nothing"


def test_redirect_within_the_host_is_followed(server: ChatServer, context: Context, backend: str) -> None:
    path = "/v1/chat/completions" if backend == "openai" else "/openai/v1/chat/completions"
    server.script(Rule(numbers=(1,), status=307, headers={"location": path}))
    assert texts_of(answered(hosted(server, backend), context, prompts(1))) == expected(prompts(1))


@pytest.mark.parametrize("status", [429, 503])
def test_endpoint_that_stays_busy_ends_the_run_after_max_retry_wait(
    server: ChatServer, context: Context, backend: str, status: int
) -> None:
    server.script(Rule(status=status))
    with pytest.raises(EndpointError, match=r"\b1 s\b"):
        answered(hosted(server, backend, max_retry_wait_seconds=1.0), context, prompts(1))
    assert 2 <= len(server.log().requests) <= 5


def test_repeated_requested_waits_count_together(server: ChatServer, context: Context) -> None:
    server.script(Rule(status=429, headers={"retry-after-ms": "300"}))
    with pytest.raises(EndpointError, match="429: scripted 429"):
        answered(hosted(server, max_retry_wait_seconds=1.0), context, prompts(1))
    assert len(server.log().requests) == 4


@pytest.mark.parametrize("listed", [f"{SERVED}:latest", f"models/{SERVED}", f"vendor/{SERVED}"])
def test_model_that_is_listed_under_another_spelling_is_matched(
    server: ChatServer, context: Context, backend: str, listed: str
) -> None:
    server.script(Rule(to="models", body=json.dumps({"data": [{"id": listed}]})))
    found = checked(server, context, backend)
    assert ([name in found.text for name in (SERVED, listed)], found.is_warning) == ([True, True], False)
    assert server.log().requests == []


def test_model_that_is_not_listed_gets_one_request_and_a_warning(
    server: ChatServer, tmp_path: Path, backend: str
) -> None:
    context = context_of(tmp_path / "journal.sqlite", 1.0)
    server.script(Rule(to="models", body='{"data": [{"id": "other-model"}]}'), Rule(model="other-model"))
    found = [checked(server, context, backend, prices=PRICES) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].is_warning
    assert [name in found[0].text for name in (SERVED, "other-model")] == [True, True]
    (asked,) = server.log().requests
    assert (asked.body["model"], asked.body["max_tokens"]) == (SERVED, 16)
    assert [(record["purpose"], record["replies"]) for record in context.journal.summary()] == [(CHECKS, 1)]
    assert context.journal.spending()[0]["spent_usd"] == pytest.approx(server.log().bill(PRICES.input, PRICES.output))


@pytest.mark.parametrize("status", [400, 404])
def test_model_that_is_neither_listed_nor_answers_is_refused(
    server: ChatServer, context: Context, backend: str, status: int
) -> None:
    server.script(Rule(to="models", body='{"data": [{"id": "other-model"}]}'), Rule(status=status))
    with pytest.raises(EndpointError, match=rf"{SERVED} \({status}: .*other-model"):
        checked(server, context, backend)
    assert [seen.body["model"] for seen in server.log().requests] == [SERVED]


@pytest.mark.parametrize(
    ("rule", "is_good", "said"),
    [
        (Rule(), True, "answered with"),
        (Rule(status=400, body='{"error": {"message": "context of 50"}}'), False, "context of 50"),
        (Rule(body=body(TEXT[:9], "sensitive")), False, "the endpoint's filter"),
        (Rule(body=body(TEXT, "length")), True, "warning: "),
    ],
    ids=["kept", "refused", "filtered", "cut off"],
)
def test_doctor_reports_the_first_reply_as_the_rows_would(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: Rule, is_good: bool, said: str
) -> None:
    monkeypatch.setenv(KEY_NAME, KEY)
    server.script(rule)
    study = open_study(Settings(tmp_path / "home", "sales_posts", "tiny"))
    profile = study.profile.model_copy(update={"teacher": hosted(server)})
    devices = Devices("cpu", folder=tmp_path / "locks")
    finding = list(examine(replace(study, profile=profile, devices=devices)))[-1]
    vars(study.journal)["_engine"].dispose()
    assert (finding.subject, finding.is_good) == ("teacher's first reply", is_good)
    assert said in finding.text


def test_compressed_body_is_read(server: ChatServer, context: Context, backend: str) -> None:
    packed = gzip.compress(body().encode()).decode("latin-1")
    server.script(Rule(body=packed, headers={"content-encoding": "gzip"}, encoding="latin-1"))
    assert texts_of(answered(hosted(server, backend), context, prompts(1))) == [TEXT]
