"""Chats answered by Groq: https://console.groq.com/docs."""

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


class GroqChat(HostedModel):
    """A model behind an endpoint that is asked with the groq SDK, over aiohttp, which costs the least CPU."""

    def __init__(self, spec: HostedChat, context: Context, schema: dict[str, Any] | None) -> None:
        def connect() -> SdkTransport:
            import groq

            key = key_of(spec, context)
            limits = spec.limits
            http_client = groq.DefaultAioHttpClient(limits=connections(groq, limits))
            client = groq.AsyncGroq(
                api_key=key or NO_KEY,
                base_url=spec.base_url,
                max_retries=0,
                timeout=groq.Timeout(limits.timeout_seconds, connect=CONNECT_SECONDS),
                http_client=http_client,
            )
            refuse_other_hosts(http_client, client.base_url, spec.name)
            return SdkTransport(groq, client, spec, key, schema)

        super().__init__(spec, context, schema, connect)
