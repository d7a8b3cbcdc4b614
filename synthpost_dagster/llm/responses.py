"""Reads the reply, or the error, in the body of an endpoint's response, whatever its HTTP status.

Providers and engines spell the same thing differently. Known spellings: OpenAI, Anthropic, Gemini, Mistral, Cohere,
DeepSeek, Zhipu, Bedrock, OpenRouter; vLLM, SGLang, TGI, TensorRT-LLM, llama.cpp, Ollama, LM Studio.
"""

import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from synthpost_dagster.llm.messages import Content, has_more_than_text, message_of
from synthpost_dagster.llm.rate_limits import seconds_of

FAILED = "failed"
"""The endpoint aborted the reply, so the request is sent again."""
TOOLS = "tools"
"""The model called a tool, though none was offered."""
UNKNOWN = "unknown"
MAX_NAME = 12
_SPELLINGS = {
    "stop": "stop end_turn endturn eos eos_token eosfound eos_found end_id end_of_text end_of_sequence stop_sequence "
    "stop_sequences stop_word stop_words stop_token word complete completed finish finished done normal end success",
    "length": "length max_tokens max_length max_len max_output_tokens max_completion_tokens max_new_tokens "
    "model_length context_length context_length_exceeded contextlengthreached model_context_window_exceeded "
    "token_limit time_limit limit maxpredictedtokensreached truncated incomplete not_finished pause_turn",
    "content_filter": "content_filter content_filtered contentfilter sensitive safety image_safety recitation language "
    "blocklist blocked prohibited_content spii guardrail_intervened guardrail guardrails moderation policy flagged "
    "filtered error_toxic",
    "refusal": "refusal refused",
    FAILED: "error errored error_limit abort aborted cancel canceled cancelled user_cancel userstopped interrupted "
    "network_error insufficient_system_resource insufficient_system_resources timeout timed_out other failed failure "
    "internal_error server_error overloaded engine_overloaded load unload modelunloaded malformed_function_call "
    "malformed_response unexpected_tool_call",
    TOOLS: "tool_calls tool_call tool_use function_call function_calls",
}
_MEANINGS = {spelling: meaning for meaning, spellings in _SPELLINGS.items() for spelling in spellings.split()}
_PREFIX = re.compile(r"^(?:finish_?reason|stop_?reason|reason)_+(?=\w)")
_ELSEWHERE = ("finish_reason", "native_finish_reason", "stop_reason", "done_reason", "stop_type", "finishReason")
"""Fields that may hold a finish reason, in order of preference."""
MAX_TOKENS = 10_000_000
"""A higher count is not believed."""
MAX_RAW = 1_000_000
"""Maximum characters of a stored raw message."""
PART = "part"
_STATUSES = {
    402: "quota|credit|balance|billing|payment",
    401: "api_key|authentication|unauthorized|unauthenticated",
    403: "permission|forbidden",
    404: "not_found|not_available",
    429: "rate_?limit|too_many|resource_exhausted|throttl|requests_limit|tokens_limit",
    503: "overloaded|unavailable",
    504: "timeout|deadline_exceeded",
    502: "upstream|provider_error|gateway",
    500: "server_?error|internal|api_error",
    400: "context_length|invalid_|bad_?request|string_above|content_policy|content_filter|precondition",
}
"""HTTP status → parts of error codes with its meaning; the first match counts."""
_WAIT_FIELD = re.compile(r'"retry[_-]?(?:after|delay)[_-]?(seconds|ms|)": "?([\d.]+[a-z\d.]*)', re.IGNORECASE)
_TRY_AGAIN = re.compile(r"(?:try|retry)(?: again)? (?:in|after) ((?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+)", re.IGNORECASE)


class Fault(NamedTuple):
    """An error in a body; what it does not contain is None or empty. `wait` is in seconds.

    `has_partial_reply`: part of a reply came with it, so that it may be billed.
    """

    status: int | None
    code: str
    message: str
    wait: float | None
    failed_text: str | None = None
    has_partial_reply: bool = False


class Answer(NamedTuple):
    """A reply as an endpoint sent it; tokens are None if it does not count them, header names are in lower case.

    `raw` is the message with its finish reason as JSON, if these contain more than the text.
    """

    text: str
    finish_reason: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    model: str | None = None
    raw: str | None = None
    headers: Mapping[str, str] = MappingProxyType({})


def parsed(content: bytes, clean: Callable[[str], str]) -> Any:
    """A body's JSON, with `clean` applied to every text and the chunks of a stream joined.

    Raises ValueError if it contains no JSON.
    """
    try:
        return _cleaned(_json_of(content), clean)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_body(body: Any) -> Answer | Fault:
    """The reply or the error in a body with a status of success. Raises ValueError if there is neither."""
    body = body[0] if isinstance(body, list) and len(body) == 1 else body
    if not isinstance(body, dict):
        raise ValueError("no object")
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if error := fault_in(body, is_success=choice is not None):
        return error
    if not isinstance(choice, dict):
        raise ValueError("no choice")
    message = choice.get("message")
    if fault := fault_in(choice, is_success=True):
        return fault._replace(has_partial_reply=True)
    if not isinstance(message, dict):
        raise ValueError("no message")
    return _reply(message, choice, body)


def fault_in(body: Any, is_success: bool = False) -> Fault | None:
    """The error in a body or a choice; in a success only the keys `error` and `errors` count."""
    body = body[0] if isinstance(body, list) and len(body) == 1 else body
    if not isinstance(body, dict):
        return None if is_success or body is None else Fault(None, "", str(body), None)
    inner = body.get("error") or body.get("errors")
    inner = inner[0] if isinstance(inner, list) and inner else inner
    if not inner:
        said = body.get("message") or body.get("detail")
        if is_success or not isinstance(said, str | list | dict):
            return None
        inner = body
    if not isinstance(inner, dict):
        inner = {**body, "message": str(inner)}
    failed = inner.get("failed_generation")
    code = str(inner.get("code") or "")
    message = inner.get("message") or inner.get("detail") or ""
    return Fault(
        status=_status_of(inner),
        code=code,
        message=message if isinstance(message, str) else json.dumps(message),
        wait=_wait_in(inner),
        failed_text=None if failed is None else str(failed),
    )


def names_in(listed: Any) -> list[str]:
    """Ids in a list of models, which may be under `data` or `models`."""
    models = (listed.get("data") or listed.get("models")) if isinstance(listed, dict) else listed
    entries = models if isinstance(models, list) else []
    names = (entry.get("id") or entry.get("name") for entry in entries if isinstance(entry, dict))
    return [str(name) for name in names if name]


def _reply(message: dict[str, Any], choice: dict[str, Any], body: dict[str, Any]) -> Answer | Fault:
    try:
        said = message_of(message)
    except TypeError as error:
        raise ValueError(str(error)) from None
    reason = reason_in(choice, body)
    meaning = meaning_of(reason)
    if meaning == FAILED:
        return Fault(None, "", f"the reply ended with finish reason {reason}", None, has_partial_reply=True)
    usage = body.get("usage")
    raw = None
    if meaning.startswith("unknown") or has_more_than_text(message):
        raw = json.dumps({"finish_reason": reason, "message": message})
    return Answer(
        text=(said.refusal or said.text).strip(),
        finish_reason=_finish(said, meaning),
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
        model=str(body["model"]) if body.get("model") else None,
        raw=raw if raw is None or len(raw) <= MAX_RAW else None,
    )


def _finish(said: Content, meaning: str) -> str:
    """The finish reason of a row (`schemas.FINISH_REASON`), from the endpoint's reason and the content."""
    if said.refusal or meaning == "refusal":
        return "refusal"
    if said.others or meaning == TOOLS:
        return f"{PART}:{short_name(said.others[0] if said.others else TOOLS)}"
    if said.reasoning and not said.text.strip():
        return {"length": "reasoning", "stop": "unanswered"}.get(meaning, meaning)
    return meaning


def _json_of(content: bytes) -> Any:
    """Raises ValueError if the body is neither JSON nor a stream of JSON."""
    try:
        return json.loads(content)
    except ValueError:
        lines = content.decode("utf-8-sig", "replace").splitlines()
        chunks = [json.loads(line[5:]) for line in lines if line.startswith("data:") and line[5:].strip() != "[DONE]"]
        if not chunks:
            raise
        return _joined([chunk for chunk in chunks if isinstance(chunk, dict)])


def _joined(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """Joins the texts in a stream's chunks; of other fields the last value counts."""
    body: dict[str, Any] = {}
    choice: dict[str, Any] = {}
    message: dict[str, Any] = {}
    for chunk in chunks:
        body |= {name: value for name, value in chunk.items() if name != "choices" and value is not None}
        for piece in chunk.get("choices") or []:
            if not isinstance(piece, dict) or piece.get("index", 0) != 0:
                continue
            delta = piece.get("message") or piece.get("delta") or {}
            for name, value in delta.items() if isinstance(delta, dict) else ():
                is_joined = isinstance(value, str) and isinstance(message.get(name), str) and name != "role"
                message[name] = message[name] + value if is_joined else value or message.get(name)
            choice |= {name: value for name, value in piece.items() if name not in ("delta", "message") and value}
    return {**body, "choices": [{**choice, "message": message}] if message or choice else []}


def _cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_cleaned(item, clean) for item in value]
    if isinstance(value, dict):
        return {clean(name): _cleaned(item, clean) for name, item in value.items()}
    return value


def _status_of(error: dict[str, Any]) -> int | None:
    """The HTTP status in an error, as a number or a known code."""
    found = [error.get(name) for name in ("code", "status_code", "status", "type")]
    for value in found:
        text = str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""
        if text.isdecimal() and len(text) == 3 and 400 <= int(text) < 600:
            return int(text)
    codes = [re.sub(r"[^a-z0-9]+", "_", value.lower()) for value in found if isinstance(value, str)]
    matches = (status for code in codes for status, parts in _STATUSES.items() if re.search(parts, code))
    return next(matches, None)


def _wait_in(error: dict[str, Any]) -> float | None:
    """Seconds to wait that an error names in one of its fields, at any depth, or in its message."""
    if (field := _WAIT_FIELD.search(json.dumps(error))) and (seconds := seconds_of(field[2])) is not None:
        return seconds / 1_000 if field[1].lower() == "ms" else seconds
    message = _TRY_AGAIN.search(str(error.get("message") or ""))
    return seconds_of(message[1].lower()) if message else None


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    if isinstance(value, str) and value.strip().isdecimal() and len(value.strip()) < 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS
    return value if is_count else None


def reason_in(choice: dict[str, Any], body: dict[str, Any]) -> str | None:
    """The finish reason in the endpoint's spelling; None if there is none."""
    for place in (choice, body):
        for name in _ELSEWHERE:
            value = place.get(name)
            value = value.get("type") if isinstance(value, dict) else value
            if isinstance(value, str) and value.strip():
                return value.strip()
    return None


def meaning_of(reason: str | None) -> str:
    """`stop`, `length`, `content_filter`, `refusal`, FAILED, TOOLS, or `unknown:` with its name, shortened.

    A reply without a finish reason is unknown, because a lost connection looks the same.
    """
    if reason is None:
        return f"{UNKNOWN}:none"
    plain = _PREFIX.sub("", re.sub(r"[^a-z0-9]+", "_", reason.lower()).strip("_"))
    return _MEANINGS.get(plain) or f"{UNKNOWN}:{short_name(plain)}"


def short_name(name: str) -> str:
    """A name for a column: at most MAX_NAME letters, digits and underscores."""
    return re.sub(r"\W+", "_", name, flags=re.ASCII)[:MAX_NAME] or "none"
