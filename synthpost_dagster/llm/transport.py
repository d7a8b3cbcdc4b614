"""The connection to an endpoint through the SDK of OpenAI or Groq, which come from one generator and have one shape.

Replies are read from the raw body, which keeps rate-limit headers and costs less than the SDKs' response objects.
https://github.com/openai/openai-python, https://console.groq.com/docs
"""

import asyncio
import importlib
import logging
from collections.abc import Iterator
from typing import Any

from synthpost_dagster.errors import EndpointError
from synthpost_dagster.llm.chat_models import Ask, Context
from synthpost_dagster.llm.errors import Busy, RequestError, RequestRejected, TransientError, UnknownModel
from synthpost_dagster.llm.rate_limits import seconds_of
from synthpost_dagster.llm.responses import Answer, Fault, fault_in, names_in, parsed, read_body
from synthpost_dagster.profiles.models import HostedChat

CONNECT_SECONDS = 10.0
CLIENTS = {"openai": "AsyncOpenAI", "groq": "AsyncGroq"}
"""SDK → its client."""
LOGGERS = ("openai", "groq", "httpx", "httpx2", "httpcore", "aiohttp")
"""Their debug lines show headers with keys, and they write a line per request."""
GATEWAY_TIMEOUT = 504
MAX_MESSAGE = 500
NO_KEY = "none"
"""Sent to endpoints that need no key, because the SDKs require one."""
_NOT_SENT = ("ClientConnector", "ConnectionTimeout", "ConnectionRefused")
"""Beginnings of aiohttp's errors for a request that was never sent."""
_REJECTED = frozenset({400, 413, 422})
_NOT_FOUND = frozenset({404, 405})
_BUSY = frozenset({429, 503, 529})
_OVERRIDING = frozenset({402, 429})
"""A code in the body with one of these meanings wins over the HTTP status."""
_TOO_LONG = frozenset({"context_length_exceeded", "string_above_max_length"})


class SdkTransport:
    """An SDK's client for one model; the key is removed from everything that the endpoint sends.

    Methods raise RequestError, or EndpointError if the run must end.
    """

    def __init__(self, spec: HostedChat, context: Context, schema: dict[str, Any] | None) -> None:
        for logger in map(logging.getLogger, LOGGERS):
            logger.setLevel(max(logger.getEffectiveLevel(), logging.WARNING))
        self.spec, self._key, self.name = spec, _key_of(spec, context), spec.name
        self.sdk = importlib.import_module(spec.backend)
        # A connection for each request in flight: one that waited for a free connection would look like a time-out.
        count = spec.limits.concurrency
        limits = type(self.sdk.DEFAULT_CONNECTION_LIMITS)(max_connections=count, max_keepalive_connections=count)
        http_client = self.sdk.DefaultAioHttpClient(limits=limits)
        self.client = getattr(self.sdk, CLIENTS[spec.backend])(
            api_key=self._key or NO_KEY,
            base_url=spec.base_url,
            max_retries=0,
            timeout=self.sdk.Timeout(spec.limits.timeout_seconds, connect=CONNECT_SECONDS),
            http_client=http_client,
        )
        http_client.event_hooks = {"request": [self._refuse_other_host]}
        self._body: dict[str, Any] = {
            "temperature": spec.sampling.temperature,
            "top_p": spec.sampling.top_p,
            spec.max_tokens_as: spec.sampling.max_new_tokens,
            **_response_format(spec, schema),
            **spec.extra_body,
        }

    async def send(self, ask: Ask) -> Answer:
        """One reply."""
        try:
            async with asyncio.timeout(self.spec.limits.timeout_seconds):
                raw = await self._chat(self._body_of(ask))
        except TimeoutError:
            raise self._timeout() from None
        except self.sdk.APIConnectionError as error:
            raise self._connection_error(error) from None
        except self.sdk.APIStatusError as error:
            raise self._status_error(error) from None
        return self._answer(raw)

    async def _chat(self, body: dict[str, Any]) -> Any:
        # As extra_body: the conversion of typed arguments is a third of the SDKs' time for a request.
        create = self.client.chat.completions.with_raw_response.create
        return await create(model=self.spec.model, messages=[], extra_body=body)

    async def models(self) -> list[str]:
        """Names of the models that the endpoint lists; empty if it lists none.

        Raises EndpointError if no API is at the address or no request can succeed, TransientError if it fails for now.
        """
        try:
            raw = await self.client.models.with_raw_response.list()
        except self.sdk.APIConnectionError as error:
            raise self._connection_error(error) from None
        except self.sdk.APIStatusError as error:
            if error.status_code in _NOT_FOUND:
                await self._look_for_chats()
            else:
                self._raise_if_general(error)
            return []
        try:
            return names_in(parsed(raw.http_response.content, self._tidy))
        except ValueError:
            raise self._no_api(f"no JSON: {raw.http_response.text}") from None

    async def _look_for_chats(self) -> None:
        """Raises EndpointError if the address answers no chats either. An empty chat is rejected and costs nothing."""
        try:
            await self._chat({self.spec.max_tokens_as: 1})
        except self.sdk.APIConnectionError as error:
            raise self._connection_error(error) from None
        except self.sdk.APIStatusError as error:
            if error.status_code in _NOT_FOUND:
                raise self._no_api(str(self._status_error(error))) from None
            self._raise_if_general(error)

    def _raise_if_general(self, error: Any) -> None:
        """Raises the error if its status holds for all requests, and not for this one alone."""
        found = self._status_error(error)
        if isinstance(found, EndpointError):
            raise found from None
        if error.status_code >= 500:
            raise TransientError(f"{found}; wait until it is up, or fix it", may_be_billed=False) from None

    def _no_api(self, reason: str) -> EndpointError:
        return EndpointError(
            f"{self.name}: no API at {self.client.base_url} ({self._clean(reason)}); correct base_url: does it end in "
            "/v1?"
        )

    async def close(self) -> None:
        """Closes the client's connections."""
        await self.client.close()

    async def _refuse_other_host(self, request: Any) -> None:
        """Follows redirects within the host of `base_url` only: prompts and keys go nowhere else."""
        base, url = self.client.base_url, request.url
        is_upgrade = (base.scheme, url.scheme) == ("http", "https") and base.port is url.port is None
        if base.host != url.host or not (is_upgrade or (base.scheme, base.port) == (url.scheme, url.port)):
            raise EndpointError(
                f"{self.name}: {base.host} redirects requests to {url.scheme}://{url.netloc.decode()}, and prompts are "
                "sent to no other host than that of base_url; correct base_url if that host is meant"
            )

    def _body_of(self, ask: Ask) -> dict[str, Any]:
        body = {**self._body, "messages": ask.chat}
        if self.spec.sampling.seed is not None:
            # The same for the same ask and different for others, so that attempts differ.
            body["seed"] = (self.spec.sampling.seed + int(ask.key, 16)) % 2**31
        return body

    def _answer(self, raw: Any) -> Answer:
        try:
            read = read_body(parsed(raw.http_response.content, self._tidy))
        except ValueError:
            text = self._clean(raw.http_response.text)
            raise TransientError(f"a reply without a message: {text}", may_be_billed=True) from None
        if isinstance(read, Fault):
            raise self._error_of(read.status, read, raw.headers)
        served = "".join(sign if sign.isprintable() else "\ufffd" for sign in read.model or "")
        return read._replace(model=served[:200], headers=raw.headers)

    def _connection_error(self, error: Exception) -> RequestError | EndpointError:
        """The error of a request without a response: not sent, timed out, connection lost, or redirected."""
        causes = list(_causes(error))
        if other_host := next((cause for cause in causes if isinstance(cause, EndpointError)), None):
            return other_host
        why = self._clean(str(causes[-1])) or type(causes[-1]).__name__
        if any(type(cause).__name__.startswith(_NOT_SENT) for cause in causes):
            message = f"{self.client.base_url} cannot be reached ({why}); is the server up?"
            return TransientError(message, may_be_billed=False)
        is_timeout = any("Timeout" in type(cause).__name__ for cause in causes[2:])
        if isinstance(error, self.sdk.APITimeoutError) and is_timeout:
            return self._timeout()
        return TransientError(f"the connection to {self.client.base_url} was lost ({why})", may_be_billed=True)

    def _timeout(self) -> TransientError:
        return TransientError(f"no reply within {self.spec.limits.timeout_seconds:g} s", may_be_billed=True)

    def _status_error(self, error: Any) -> RequestError | EndpointError:
        # One SDK gives the whole body, the other what is under `error`.
        is_inner = isinstance(error.body, dict) and "error" not in error.body
        fault = fault_in({"error": error.body} if is_inner else error.body) or Fault(None, "", "", None)
        if not fault.message:
            fault = fault._replace(message=str(error.body or error.response.reason_phrase))
        status = fault.status if fault.status in _OVERRIDING else error.status_code
        return self._error_of(status, fault, error.response.headers, shown=error.status_code)

    def _error_of(
        self, status: int | None, fault: Fault, headers: Any, shown: int | None = None
    ) -> RequestError | EndpointError:
        """The error for a status, of the response or named in its body."""
        message = self._clean(fault.message or fault.code)
        message = f"{shown or status}: {message}" if shown or status else message
        if status in (401, 403):
            where = f"the key in {self.spec.api_key}" if self.spec.api_key else "requests without a key (`api_key`)"
            return EndpointError(f"{self.name}: refuses {where} ({message}); correct it and run again")
        if status == 402:
            return EndpointError(f"{self.name}: the account has no credit ({message}); top it up and run again")
        if status == 404:
            return UnknownModel(message)
        if status in _BUSY:
            wait = _asked_wait(headers)
            return Busy(message, fault.wait if wait is None else wait)
        if status in _REJECTED:
            return self._rejection(message, fault)
        if status is None or status >= 500 or status in (408, 409, 425):
            may_be_billed = status is None or status == GATEWAY_TIMEOUT or fault.has_partial_reply
            return TransientError(message, may_be_billed=may_be_billed)
        return EndpointError(f"{self.name}: answers {message}; correct its entry in the profile")

    def _rejection(self, message: str, fault: Fault) -> RequestRejected:
        if fault.code in _TOO_LONG:
            message = f"{message} (shorten the prompt, lower max_new_tokens or serve the model with a longer context)"
        is_reply = fault.failed_text is not None and fault.code in ("json_validate_failed", "tool_use_failed")
        return RequestRejected(message, self._tidy(str(fault.failed_text)) if is_reply else None)

    def _clean(self, text: str) -> str:
        """A message in one short line, without the key."""
        return self._without_key(" ".join(str(text).split()))[:MAX_MESSAGE]

    def _tidy(self, text: str) -> str:
        """A text without the key, and with a mark for halves of surrogate pairs, which no file can hold."""
        return self._without_key(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _key_of(spec: HostedChat, context: Context) -> str | None:
    """The endpoint's key from the environment. Raises EndpointError if the variable is not set."""
    key = context.secret(spec.api_key) if spec.api_key else None
    if spec.api_key and not key:
        raise EndpointError(
            f"{spec.endpoint}: the environment variable {spec.api_key} is not set; put the endpoint's key there"
        )
    return key


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, outermost first."""
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
    milliseconds = seconds_of(headers.get("retry-after-ms", ""))
    return seconds_of(headers.get("retry-after", "")) if milliseconds is None else milliseconds / 1_000
