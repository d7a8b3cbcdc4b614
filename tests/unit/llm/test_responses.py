"""Reading the reply or the error in a body, for the variants of many endpoints."""

from __future__ import annotations

import json
from typing import Any

import pytest

from synthpost_dagster.llm.responses import Answer, Fault, fault_in, meaning_of, names_in, parsed, read_body

TEXT = "Fresh rolls. Come in today."
HALF = "Fresh ro"


def read(body: Any) -> Answer | Fault:
    """The reply or error in a JSON body."""
    return read_body(parsed(json.dumps(body).encode(), str))


def chat(
    content: Any = TEXT, finish: Any = "stop", choice: dict[str, Any] | None = None, **message: Any
) -> Answer | Fault:
    """The reply or error in a body with one message."""
    whole = {"finish_reason": finish, **(choice or {}), "message": {"role": "assistant", "content": content, **message}}
    return read({"choices": [whole]})


def said(body: Answer | Fault) -> tuple[str, str]:
    """Text and finish reason of a reply."""
    assert isinstance(body, Answer)
    return body.text, body.finish_reason


THOUGHT_PARTS = {
    "mistral": {"type": "thinking", "thinking": [{"type": "text", "text": "let me see"}]},
    "anthropic": {"type": "thinking", "thinking": "let me see", "signature": "x"},
    "openai": {"type": "reasoning", "summary": [{"type": "summary_text", "text": "let me see"}]},
    "gemini": {"text": "let me see", "thought": True},
    "redacted": {"type": "redacted_thinking", "data": "x"},
}


@pytest.mark.parametrize("thought", THOUGHT_PARTS.values(), ids=THOUGHT_PARTS)
def test_text_parts_are_joined_without_reasoning_parts(thought: dict[str, Any]) -> None:
    parts = [thought, {"type": "text", "text": TEXT[:9]}, {"type": "output_text", "text": TEXT[9:]}]
    body = chat(parts)
    assert said(body) == (TEXT, "stop")
    assert isinstance(body, Answer) and body.raw
    assert json.loads(body.raw)["message"]["content"] == parts


@pytest.mark.parametrize("content", [[TEXT], {"type": "text", "text": TEXT}, [{"text": {"value": TEXT}}]])
def test_text_is_found_in_parts_of_any_form(content: Any) -> None:
    assert said(chat(content)) == (TEXT, "stop")


@pytest.mark.parametrize(
    ("content", "message", "finish"),
    [
        ([{"type": "text", "text": TEXT}, {"type": "image_url", "image_url": {"url": "x"}}], {}, "part:image_url"),
        ([{"type": "text", "text": TEXT}, {"type": "input_audio", "data": "x"}], {}, "part:input_audio"),
        ([{"type": "text", "text": TEXT}, 5], {}, "part:int"),
        (TEXT, {"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}, "part:tool_calls"),
        ("", {"tool_calls": [{"id": "1"}]}, "part:tool_calls"),
    ],
)
def test_parts_that_are_no_text_are_named(content: Any, message: dict[str, Any], finish: str) -> None:
    body = chat(content, **message)
    assert isinstance(body, Answer)
    assert (body.finish_reason, body.raw is not None) == (finish, True)


def test_empty_list_of_tool_calls_is_none() -> None:
    body = chat(tool_calls=[], refusal=None, annotations=[])
    assert said(body) == (TEXT, "stop")
    assert isinstance(body, Answer) and body.raw is None, "a plain message needs no copy"


def test_refusal_of_its_own_field_or_part_keeps_its_text() -> None:
    for body in (
        chat(None, refusal="I cannot."),
        chat([{"type": "refusal", "refusal": "I cannot."}]),
        chat("I cannot.", "refusal"),
    ):
        assert said(body) == ("I cannot.", "refusal")


FINISHED = [
    *("stop", "STOP", "end_turn", "eos", "eos_token", "stop_sequence", "COMPLETE", "completed", "eosFound"),
    *("FinishReason.STOP", "FINISH_REASON_STOP", "REASON_STOP"),
]
CUT_OFF = ["length", "MAX_TOKENS", "model_length", "max_output_tokens", "REASON_MAX_LEN", "not_finished", "token_limit"]
FILTERED = ["content_filter", "sensitive", "SAFETY", "RECITATION", "blocklist", "guardrail_intervened", "ERROR_TOXIC"]
FAILED = [
    *("error", "abort", "network_error", "cancelled", "insufficient_system_resource", "timed_out", "load", "OTHER"),
]


@pytest.mark.parametrize(
    ("reasons", "meaning"),
    [(FINISHED, "stop"), (CUT_OFF, "length"), (FILTERED, "content_filter"), (FAILED, "failed")],
    ids=["finished", "cut off", "filtered", "failed"],
)
def test_each_spelling_of_a_finish_reason_has_its_meaning(reasons: list[str], meaning: str) -> None:
    assert {reason: meaning_of(reason) for reason in reasons} == dict.fromkeys(reasons, meaning)


@pytest.mark.parametrize("reason", FAILED)
def test_aborted_reply_is_a_failure_that_may_be_billed(reason: str) -> None:
    fault = chat(HALF, reason)
    assert isinstance(fault, Fault)
    assert (fault.status, fault.has_partial_reply) == (None, True)
    assert reason in fault.message


@pytest.mark.parametrize(
    ("finish", "kept"),
    [("never heard of", "unknown:never_heard_"), (None, "unknown:none"), ("", "unknown:none"), (5, "unknown:none")],
)
def test_unknown_or_missing_finish_reason_is_named_and_not_finished(finish: Any, kept: str) -> None:
    body = chat(HALF, finish)
    assert said(body) == (HALF, kept)
    assert isinstance(body, Answer) and body.raw and len(kept) <= 20


@pytest.mark.parametrize(
    "choice",
    [
        {"native_finish_reason": "STOP"},
        {"stop_reason": "end_turn"},
        {"done_reason": "stop"},
        {"finish_reason": {"type": "stop", "matched": 2}},
    ],
    ids=["openrouter", "anthropic", "ollama", "sglang"],
)
def test_finish_reason_is_read_from_other_fields(choice: dict[str, Any]) -> None:
    assert said(chat(finish=None, choice=choice)) == (TEXT, "stop")


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_in_a_field_is_kept_apart_from_the_text(field: str) -> None:
    body = chat(**{field: "let me see"})
    assert said(body) == (TEXT, "stop")
    assert isinstance(body, Answer) and body.raw and "let me see" in body.raw
    assert said(chat(None, "length", **{field: "let me see"})) == ("", "reasoning")
    assert said(chat("", "stop", **{field: "let me see"})) == ("", "unanswered")
    assert said(chat(HALF, "length", **{field: "let me see"})) == (HALF, "length")


ERRORS = {
    "number": ({"code": 429, "message": "slow"}, 429),
    "number as text": ({"code": "502", "message": "down"}, 502),
    "no credit": ({"code": 402, "message": "pay"}, 402),
    "code": ({"code": "rate_limit_exceeded", "type": "tokens", "message": "slow"}, 429),
    "quota": ({"code": "insufficient_quota", "type": "invalid_request_error"}, 402),
    "google": ({"code": 8, "status": "RESOURCE_EXHAUSTED", "message": "slow"}, 429),
    "anthropic": ({"type": "overloaded_error", "message": "full"}, 503),
    "context": ({"code": "context_length_exceeded", "message": "too long"}, 400),
    "key": ({"code": "invalid_api_key"}, 401),
    "model": ({"code": "model_not_found"}, 404),
    "nothing known": ({"code": "odd", "message": "odd"}, None),
    "text": ("it broke", None),
}


@pytest.mark.parametrize(("error", "status"), ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("place", ["body", "choice", "list", "no choices"])
def test_error_inside_a_success_has_the_status_that_it_names(error: Any, status: int | None, place: str) -> None:
    bodies: dict[str, Any] = {
        "body": {"error": error},
        "choice": {"choices": [{"error": error, "finish_reason": "error", "message": {"content": HALF}}]},
        "list": [{"error": error}],
        "no choices": {"choices": [], "error": error},
    }
    fault = read(bodies[place])
    assert isinstance(fault, Fault)
    assert (fault.status, fault.has_partial_reply) == (status, place == "choice")


def test_error_without_a_key_of_its_own_is_read() -> None:
    old_vllm = {"object": "error", "message": "too long", "type": "BadRequestError", "code": 400}
    fastapi = {"detail": [{"loc": ["body"], "msg": "wrong"}]}
    assert isinstance(fault := read(old_vllm), Fault) and (fault.status, fault.message) == (400, "too long")
    assert isinstance(fault := read(fastapi), Fault) and "wrong" in fault.message
    assert fault_in("plain text") == Fault(None, "", "plain text", None)


@pytest.mark.parametrize("error", [None, {}, "", False])
def test_empty_error_beside_a_reply_is_none(error: Any) -> None:
    body = read({"error": error, "choices": [{"finish_reason": "stop", "message": {"content": TEXT}, "error": error}]})
    assert said(body) == (TEXT, "stop")


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        ({"retry_after": 7}, 7.0),
        ({"retry_after": "2.5"}, 2.5),
        ({"retry_after_ms": 700}, 0.7),
        ({"metadata": {"headers": {"Retry-After": "9"}}}, 9.0),
        ({"details": [{"@type": "google.rpc.RetryInfo", "retryDelay": "17s"}]}, 17.0),
        ({"message": "Limit reached. Please try again in 1m2.5s. Visit us."}, 62.5),
        ({"message": "Limit reached."}, None),
    ],
)
def test_wait_is_read_from_an_errors_fields_and_message(error: dict[str, Any], wait: float | None) -> None:
    fault = read({"error": {"code": 429, "message": "slow", **error}})
    assert isinstance(fault, Fault)
    assert fault.wait == (None if wait is None else pytest.approx(wait))


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": "12", "completion_tokens": 3.0}, (12, 3)),
        ({"prompt_tokens": True, "completion_tokens": 10**30}, (None, None)),
        ({"prompt_tokens": "many", "completion_tokens": "9" * 30}, (None, None)),
        (None, (None, None)),
    ],
)
def test_token_counts_are_read_in_any_form_of_number(usage: Any, counts: tuple[int | None, int | None]) -> None:
    body = read({"usage": usage, "choices": [{"finish_reason": "stop", "message": {"content": TEXT}}]})
    assert isinstance(body, Answer)
    assert (body.prompt_tokens, body.completion_tokens) == counts


def stream(*pieces: dict[str, Any], end: str = "data: [DONE]\n\n") -> bytes:
    """A body of server-sent events."""
    return (": comment\n\n" + "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces) + end).encode()


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def test_chunks_of_a_stream_are_joined() -> None:
    pieces = [delta(role="assistant", content=""), delta(reasoning_content="let me see"), delta(content=TEXT[:9])]
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 6}}
    body = read_body(parsed(stream(*pieces, delta(content=TEXT[9:]), delta("stop"), usage), str))
    assert said(body) == (TEXT, "stop")
    assert isinstance(body, Answer)
    assert (body.prompt_tokens, body.completion_tokens, body.model) == (5, 6, "m")
    assert body.raw and "let me see" in body.raw


def test_incomplete_stream_has_no_finish_reason() -> None:
    body = read_body(parsed(stream(delta(role="assistant", content=HALF), end=""), str))
    assert said(body) == (HALF, "unknown:none")
    fault = read_body(parsed(stream(delta(content=HALF), {"error": {"code": 502, "message": "down"}}), str))
    assert isinstance(fault, Fault) and fault.status == 502


def test_body_with_a_byte_order_mark_is_read() -> None:
    content = (
        b"\xef\xbb\xbf" + json.dumps({"choices": [{"finish_reason": "stop", "message": {"content": TEXT}}]}).encode()
    )
    assert said(read_body(parsed(content, str))) == (TEXT, "stop")


@pytest.mark.parametrize(
    "content", [b"", b"<html>busy</html>", b"null", b"[]", b'"x"', b"{}", b"[" * 100_000, b"data: <html>"]
)
def test_body_without_a_reply_or_an_error_is_neither(content: bytes) -> None:
    with pytest.raises(ValueError):
        read_body(parsed(content, str))


def test_texts_of_a_body_are_cleaned_before_they_are_read() -> None:
    content = json.dumps({"choices": [{"finish_reason": "odd", "message": {"content": [{"text": "a KEY"}], "KEY": 1}}]})
    body = read_body(parsed(content.encode(), lambda text: text.replace("KEY", "[key]")))
    assert isinstance(body, Answer)
    assert body.text == "a [key]"
    assert "KEY" not in str(body)


@pytest.mark.parametrize(
    "listed",
    [
        {"data": [{"id": "m"}]},
        [{"id": "m"}],
        {"models": [{"name": "m"}]},
        {"data": [None, {"id": "m"}, {"id": ""}]},
    ],
)
def test_models_are_listed_in_any_of_the_usual_forms(listed: Any) -> None:
    assert names_in(listed) == ["m"]
