"""What an endpoint's finish reason means: one meaning for the many spellings of providers and engines.

OpenAI, Anthropic, Gemini, Mistral, Cohere, DeepSeek, Zhipu, Bedrock, OpenRouter; vLLM, SGLang, TGI, TensorRT-LLM,
llama.cpp, Ollama, LM Studio.
"""

from __future__ import annotations

import re
from typing import Any

FAILED = "failed"
"""The endpoint gave up on the reply: it is asked for again, and is no reply."""
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
"""Where a finish reason may stand; the first that is there counts."""


def reason_in(choice: dict[str, Any], body: dict[str, Any]) -> str | None:
    """The finish reason as the endpoint spells it; None where it names none."""
    for place in (choice, body):
        for name in _ELSEWHERE:
            value = place.get(name)
            value = value.get("type") if isinstance(value, dict) else value
            if isinstance(value, str) and value.strip():
                return value.strip()
    return None


def meaning_of(reason: str | None) -> str:
    """`stop`, `length`, `content_filter`, `refusal`, FAILED, TOOLS, or `unknown:` with its name, shortened.

    A reply that names no finish reason is not taken for finished: a connection that was lost looks the same.
    """
    if reason is None:
        return f"{UNKNOWN}:none"
    plain = _PREFIX.sub("", re.sub(r"[^a-z0-9]+", "_", reason.lower()).strip("_"))
    return _MEANINGS.get(plain) or f"{UNKNOWN}:{short_name(plain)}"


def short_name(name: str) -> str:
    """A name as it may stand in a column: letters, digits and underscores, at most MAX_NAME of them."""
    return re.sub(r"\W+", "_", name, flags=re.ASCII)[:MAX_NAME] or "none"
