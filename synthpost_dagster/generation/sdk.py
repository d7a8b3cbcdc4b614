"""The way to an endpoint through an SDK. The SDKs of OpenAI and Groq come from one generator and have one shape.

Their retries are off; replies are read from the raw body, which keeps rate-limit headers and costs less than building
their response objects. https://github.com/openai/openai-python
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from synthpost_dagster.errors import EndpointError
from synthpost_dagster.generation.chat_models import Ask, Context
from synthpost_dagster.generation.failures import Busy, ModelGone, Passing, Refused, RequestFailure
from synthpost_dagster.generation.hosted import Answer
from synthpost_dagster.generation.limits import seconds_of
from synthpost_dagster.profiles.models import HostedChat, Limits

CONNECT_SECONDS = 10.0
LOGGERS = ("openai", "groq", "httpx", "httpx2", "httpcore", "aiohttp")
"""Their debug lines show headers, where keys stand, and they have a line for every request."""
GATEWAY_TIMEOUT = 504
MOST_MESSAGE = 500
MOST_TOKENS = 10_000_000
"""A count above this is none."""
NO_KEY = "none"
"""Sent where the endpoint wants no key: the SDKs insist on one."""
_FINISH = {"stop": "stop", "length": "length", "max_tokens": "length", "content_filter": "content_filter"}
_NEVER_THERE = frozenset(
    {
        "ClientConnectorError",
        "ClientConnectorCertificateError",
        "ClientConnectorDNSError",
        "ClientConnectorSSLError",
        "ConnectionTimeoutError",
        "ConnectionRefusedError",
    }
)
"""Errors of aiohttp, below the SDKs, for a request that never left; httpx maps a broken line to a connect time-out."""
_REFUSED = frozenset({400, 413, 422})
_NOTHING_THERE = frozenset({404, 405})
_BUSY = frozenset({429, 503, 529})


def key_of(spec: HostedChat, context: Context) -> str | None:
    """The endpoint's key from the environment. Raises EndpointError where the variable is not set."""
    if spec.api_key is None:
        return None
    key = context.secret(spec.api_key)
    if not key:
        raise EndpointError(
            f"{spec.endpoint}: the environment variable {spec.api_key} is not set; put the endpoint's key there"
        )
    return key


def connections(sdk: ModuleType, limits: Limits) -> Any:
    """As many connections as requests may be in flight: one that waits for a free line would be taken for lost."""
    most = limits.concurrency
    return type(sdk.DEFAULT_CONNECTION_LIMITS)(max_connections=most, max_keepalive_connections=most)


class SdkTransport:
    """A client of one of the SDKs, bound to a spec; `key` is cut out of whatever the endpoint says."""

    def __init__(
        self, sdk: ModuleType, client: Any, spec: HostedChat, key: str | None, schema: dict[str, Any] | None
    ) -> None:
        self.sdk, self.client, self.spec, self._key = sdk, client, spec, key
        _quieten()
        sampling = spec.sampling
        self._body: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            spec.max_tokens_as: sampling.max_new_tokens,
            **_response_format(spec, schema),
            **spec.extra_body,
        }

    async def send(self, ask: Ask) -> Answer:
        """One reply."""
        try:
            # The body goes as extra_body: converting typed arguments is a third of the SDKs' time for a request.
            async with asyncio.timeout(self.spec.limits.timeout_seconds):
                raw = await self.client.chat.completions.with_raw_response.create(
                    model=self.spec.model, messages=[], extra_body=self._body_of(ask)
                )
        except TimeoutError:
            raise self._late() from None
        except self.sdk.APIConnectionError as error:
            raise self._unanswered(error) from None
        except self.sdk.APIStatusError as error:
            raise self._failure(error) from None
        return self._answer(raw)

    async def models(self) -> list[str]:
        """Names of the models offered; empty where the endpoint does not say.

        Raises EndpointError where no API is at the address, or no request can succeed, Passing where it fails for now.
        """
        try:
            raw = await self.client.models.with_raw_response.list()
        except self.sdk.APIConnectionError as error:
            raise self._unanswered(error) from None
        except self.sdk.APIStatusError as error:
            if error.status_code in _NOTHING_THERE:
                await self._look_for_chats()
            else:
                self._refuse_useless(error)
            return []
        try:
            return _names(json.loads(raw.http_response.content))
        except ValueError:
            raise self._no_api(f"no JSON: {raw.http_response.text}") from None

    async def _look_for_chats(self) -> None:
        """Raises EndpointError where chats are not answered either.

        An empty one is refused by whoever answers chats, and costs nothing.
        """
        try:
            await self.client.chat.completions.with_raw_response.create(
                model=self.spec.model, messages=[], extra_body={self.spec.max_tokens_as: 1}
            )
        except self.sdk.APIConnectionError as error:
            raise self._unanswered(error) from None
        except self.sdk.APIStatusError as error:
            if error.status_code in _NOTHING_THERE:
                raise self._no_api(str(self._failure(error))) from None
            self._refuse_useless(error)

    def _refuse_useless(self, error: Any) -> None:
        """Raises what a status says of all requests; one that speaks of this request alone says nothing."""
        failure = self._failure(error)
        if isinstance(failure, EndpointError):
            raise failure from None
        if error.status_code >= 500:
            raise Passing(f"{failure}; wait until it is up, or mend it", is_perhaps_paid=False) from None

    def _no_api(self, said: str) -> EndpointError:
        name = f"{self.spec.endpoint}/{self.spec.model}"
        return EndpointError(
            f"{name}: no API at {self.client.base_url} ({self._clean(said)}); correct base_url: does it end in /v1?"
        )

    async def close(self) -> None:
        """Closes the client's connections."""
        await self.client.close()

    def _body_of(self, ask: Ask) -> dict[str, Any]:
        body = {**self._body, "messages": ask.chat}
        if self.spec.sampling.seed is not None:
            # The same for the same ask, another for another, so that attempts differ.
            body["seed"] = (self.spec.sampling.seed + int(ask.key, 16)) % 2**31
        return body

    def _answer(self, raw: Any) -> Answer:
        try:
            body = json.loads(raw.http_response.content)
            choice = body["choices"][0]
            text = choice["message"].get("content") or ""
            usage = body.get("usage")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise Passing(
                f"a reply without a message: {self._clean(raw.http_response.text)}", is_perhaps_paid=True
            ) from None
        return Answer(
            text=_well_formed(self._without_key(str(text))).strip(),
            finish_reason=_FINISH.get(str(choice.get("finish_reason")), "stop"),
            prompt_tokens=_count(usage, "prompt_tokens"),
            completion_tokens=_count(usage, "completion_tokens"),
            served_model=_printable(self._without_key(str(body.get("model") or self.spec.model)))[:200],
            headers=raw.headers,
        )

    def _unanswered(self, error: Exception) -> Passing:
        """A request that brought no reply: it never got there, took too long, or the line broke."""
        causes = list(_causes(error))
        if any(type(cause).__name__ in _NEVER_THERE for cause in causes):
            why = self._clean(str(causes[-1])) or type(causes[-1]).__name__
            return Passing(
                f"{self.client.base_url} cannot be reached ({why}); is the server up?", is_perhaps_paid=False
            )
        if isinstance(error, self.sdk.APITimeoutError) and any(
            "Timeout" in type(cause).__name__ for cause in causes[2:]
        ):
            return self._late()
        why = self._clean(str(causes[-1])) or type(causes[-1]).__name__
        return Passing(f"the connection to {self.client.base_url} broke ({why})", is_perhaps_paid=True)

    def _late(self) -> Passing:
        return Passing(f"no reply within {self.spec.limits.timeout_seconds:g} s", is_perhaps_paid=True)

    def _failure(self, error: Any) -> RequestFailure | EndpointError:
        status, headers = error.status_code, error.response.headers
        code, message, failed = _said(error.body)
        failed = None if failed is None else self._without_key(failed)
        message = f"{status}: {self._clean(message or str(error.body or error.response.reason_phrase))}"
        name = f"{self.spec.endpoint}/{self.spec.model}"
        if status in (401, 403):
            where = f"the key in {self.spec.api_key}" if self.spec.api_key else "requests without a key (`api_key`)"
            return EndpointError(f"{name}: refuses {where} ({message}); correct it and run again")
        if status == 402 or code == "insufficient_quota":
            return EndpointError(f"{name}: the account has no credit ({message}); top it up and run again")
        if status == 404:
            return ModelGone(message)
        if status in _BUSY:
            return Busy(message, _asked_wait(headers))
        if status in _REFUSED:
            return Refused(message, failed if code in ("json_validate_failed", "tool_use_failed") else None)
        if status >= 500 or status in (408, 409, 425):
            return Passing(message, is_perhaps_paid=status == GATEWAY_TIMEOUT)
        return EndpointError(f"{name}: answers {message}; correct its entry in the profile")

    def _clean(self, text: str) -> str:
        """A message in one short line, without the key."""
        return self._without_key(" ".join(str(text).split()))[:MOST_MESSAGE]

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _quieten() -> None:
    for logger in map(logging.getLogger, LOGGERS):
        logger.setLevel(max(logger.getEffectiveLevel(), logging.WARNING))


def _names(listed: Any) -> list[str]:
    """Ids in a list of models, which stands under `data` or alone."""
    models = listed.get("data") if isinstance(listed, dict) else listed
    entries = models if isinstance(models, list) else []
    return [str(model["id"]) for model in entries if isinstance(model, dict) and "id" in model]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, outermost first."""
    here: BaseException | None = error
    while here is not None:
        yield here
        here = here.__cause__ or here.__context__


def _response_format(spec: HostedChat, schema: dict[str, Any] | None) -> dict[str, Any]:
    if schema is None or spec.structured_output == "none":
        return {}
    if spec.structured_output == "json_object":
        return {"response_format": {"type": "json_object"}}
    named = {"name": "reply", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _said(body: Any) -> tuple[str, str, str | None]:
    """Code, message and failed text of an error's body."""
    inner = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(inner, dict):
        return "", "" if inner is None else str(inner), None
    failed = inner.get("failed_generation")
    return str(inner.get("code") or ""), str(inner.get("message") or ""), None if failed is None else str(failed)


def _asked_wait(headers: Any) -> float | None:
    milliseconds = headers.get("retry-after-ms")
    if milliseconds is not None and (value := seconds_of(milliseconds)) is not None:
        return value / 1000
    after = headers.get("retry-after")
    return None if after is None else seconds_of(after)


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and 0 <= value <= MOST_TOKENS else None


def _well_formed(text: str) -> str:
    """The text with a mark in place of halves of surrogate pairs, which no file can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
