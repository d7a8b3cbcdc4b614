"""The way to an endpoint through an SDK. The SDKs of OpenAI and Groq come from one generator and have one shape.

Their retries are off; replies are read from the raw body, which keeps rate-limit headers and costs less than building
their response objects. https://github.com/openai/openai-python
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from synthpost_dagster.errors import EndpointError
from synthpost_dagster.llm.chat_models import Ask, Context
from synthpost_dagster.llm.failures import Busy, ModelGone, Passing, Refused, RequestFailure
from synthpost_dagster.llm.hosted import Answer
from synthpost_dagster.llm.rate_limits import seconds_of
from synthpost_dagster.llm.responses import Body, Fault, fault_in, names_in, parsed, read_body
from synthpost_dagster.profiles.models import HostedChat, Limits

CONNECT_SECONDS = 10.0
LOGGERS = ("openai", "groq", "httpx", "httpx2", "httpcore", "aiohttp")
"""Their debug lines show headers, where keys stand, and they have a line for every request."""
GATEWAY_TIMEOUT = 504
MOST_MESSAGE = 500
NO_KEY = "none"
"""Sent where the endpoint wants no key: the SDKs insist on one."""
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
_IN_ANY_STATUS = frozenset({402, 429})
"""What a code in the body says stands, though the status says something else."""
_TOO_LONG = frozenset({"context_length_exceeded", "string_above_max_length"})


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


def refuse_other_hosts(http_client: Any, base_url: Any, name: str) -> None:
    """Lets a client follow redirects within the host of `base_url` only: prompts and keys go nowhere else."""

    async def check(request: Any) -> None:
        if not _is_same_host(base_url, request.url):
            raise EndpointError(
                f"{name}: {base_url.host} redirects requests to {request.url.scheme}://{request.url.netloc.decode()}, "
                "and prompts are sent to no other host than that of base_url; correct base_url if that host is meant"
            )

    http_client.event_hooks = {"request": [check]}


def _is_same_host(base_url: Any, url: Any) -> bool:
    is_upgrade = (base_url.scheme, url.scheme) == ("http", "https") and base_url.port is url.port is None
    return base_url.host == url.host and (is_upgrade or (base_url.scheme, base_url.port) == (url.scheme, url.port))


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
            return names_in(parsed(raw.http_response.content, self._tidy))
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
            read = read_body(parsed(raw.http_response.content, self._tidy))
        except ValueError:
            raise Passing(
                f"a reply without a message: {self._clean(raw.http_response.text)}", is_perhaps_paid=True
            ) from None
        if isinstance(read, Fault):
            raise self._failure_of(read.status, read, raw.headers)
        return self._answer_of(read, raw.headers)

    def _answer_of(self, read: Body, headers: Any) -> Answer:
        return Answer(
            text=read.text,
            finish_reason=read.finish_reason,
            prompt_tokens=read.prompt_tokens,
            completion_tokens=read.completion_tokens,
            served_model=_printable(read.model or self.spec.model)[:200],
            headers=headers,
            raw=read.raw,
        )

    def _unanswered(self, error: Exception) -> RequestFailure | EndpointError:
        """A request that brought no reply: it never got there, took too long, the line broke, or it went astray."""
        causes = list(_causes(error))
        if refused := next((cause for cause in causes if isinstance(cause, EndpointError)), None):
            return refused
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
        # One of the SDKs hands out the whole body, the other what is under `error`.
        is_inner = isinstance(error.body, dict) and "error" not in error.body
        fault = fault_in({"error": error.body} if is_inner else error.body) or Fault(None, "", "", None)
        if not fault.message:
            fault = fault._replace(message=str(error.body or error.response.reason_phrase))
        status = fault.status if fault.status in _IN_ANY_STATUS else error.status_code
        return self._failure_of(status, fault, error.response.headers, shown=error.status_code)

    def _failure_of(
        self, status: int | None, fault: Fault, headers: Any, shown: int | None = None
    ) -> RequestFailure | EndpointError:
        """What is to be done about an error of a status, which a response had or its body names."""
        message = self._clean(fault.message or fault.code)
        message = f"{shown or status}: {message}" if shown or status else message
        name = f"{self.spec.endpoint}/{self.spec.model}"
        if status in (401, 403):
            where = f"the key in {self.spec.api_key}" if self.spec.api_key else "requests without a key (`api_key`)"
            return EndpointError(f"{name}: refuses {where} ({message}); correct it and run again")
        if status == 402:
            return EndpointError(f"{name}: the account has no credit ({message}); top it up and run again")
        if status == 404:
            return ModelGone(message)
        if status in _BUSY:
            wait = _asked_wait(headers)
            return Busy(message, fault.wait if wait is None else wait)
        if status in _REFUSED:
            return self._refused(message, fault)
        if status is None or status >= 500 or status in (408, 409, 425):
            is_perhaps_paid = status is None or status == GATEWAY_TIMEOUT or fault.is_worked_on
            return Passing(message, is_perhaps_paid=is_perhaps_paid)
        return EndpointError(f"{name}: answers {message}; correct its entry in the profile")

    def _refused(self, message: str, fault: Fault) -> Refused:
        if fault.code in _TOO_LONG:
            message = f"{message} (shorten the prompt, lower max_new_tokens or serve the model with a longer context)"
        failed = None if fault.failed_text is None else _well_formed(self._without_key(fault.failed_text))
        return Refused(message, failed if fault.code in ("json_validate_failed", "tool_use_failed") else None)

    def _clean(self, text: str) -> str:
        """A message in one short line, without the key."""
        return self._without_key(" ".join(str(text).split()))[:MOST_MESSAGE]

    def _tidy(self, text: str) -> str:
        """A text of a reply without the key, which every file can hold."""
        return _well_formed(self._without_key(text))

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _quieten() -> None:
    for logger in map(logging.getLogger, LOGGERS):
        logger.setLevel(max(logger.getEffectiveLevel(), logging.WARNING))


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


def _asked_wait(headers: Any) -> float | None:
    milliseconds = headers.get("retry-after-ms")
    if milliseconds is not None and (value := seconds_of(milliseconds)) is not None:
        return value / 1000
    after = headers.get("retry-after")
    return None if after is None else seconds_of(after)


def _well_formed(text: str) -> str:
    """The text with a mark in place of halves of surrogate pairs, which no file can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
