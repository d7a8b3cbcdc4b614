"""Chats answered by any endpoint that speaks OpenAI's chat completions: vLLM, Ollama, llama.cpp, OpenRouter, OpenAI."""

from __future__ import annotations

from typing import Any

from synthpost_dagster.llm.chat_models import Context
from synthpost_dagster.llm.hosted import HostedModel
from synthpost_dagster.llm.sdk import (
    CONNECT_SECONDS,
    NO_KEY,
    SdkTransport,
    connections,
    key_of,
    refuse_other_hosts,
)
from synthpost_dagster.profiles.models import HostedChat


class OpenAIChat(HostedModel):
    """A model behind an endpoint that is asked with the openai SDK, over aiohttp, which costs the least CPU."""

    def __init__(self, spec: HostedChat, context: Context, schema: dict[str, Any] | None) -> None:
        def connect() -> SdkTransport:
            import openai

            key = key_of(spec, context)
            limits = spec.limits
            http_client = openai.DefaultAioHttpClient(limits=connections(openai, limits))
            client = openai.AsyncOpenAI(
                api_key=key or NO_KEY,
                base_url=spec.base_url,
                max_retries=0,
                timeout=openai.Timeout(limits.timeout_seconds, connect=CONNECT_SECONDS),
                http_client=http_client,
            )
            refuse_other_hosts(http_client, client.base_url, spec.name)
            return SdkTransport(openai, client, spec, key, schema)

        super().__init__(spec, context, schema, connect)
