"""The client of an endpoint: many requests in flight, each reply in the journal before it is used, replies in order.

The SDKs' own retries are off. `rate_limits` decides when a request may be sent, `budget` whether it may be paid for,
`retries` what follows an error, and `transport` knows the endpoint.
"""

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from synthpost_dagster.errors import EndpointError, StorageError
from synthpost_dagster.llm.budget import Budget, cost_usd, max_cost_usd
from synthpost_dagster.llm.chat_models import CHARACTERS_PER_TOKEN, Ask, Context, Tally, Work
from synthpost_dagster.llm.errors import Busy, RequestError, RequestRejected, TransientError, UnknownModel
from synthpost_dagster.llm.journal import Reply
from synthpost_dagster.llm.journal_files import AWAY_SECONDS
from synthpost_dagster.llm.journal_holders import Holder
from synthpost_dagster.llm.model_check import Checked, check, unknown_model
from synthpost_dagster.llm.progress import Meter
from synthpost_dagster.llm.rate_limits import RateLimiter, shared_limits
from synthpost_dagster.llm.responses import Answer
from synthpost_dagster.llm.retries import Request, Retries
from synthpost_dagster.llm.transport import SdkTransport
from synthpost_dagster.profiles.models import HostedChat

CHUNK = 64
"""Keys looked up in the journal at a time."""
MAX_AHEAD = 20_000
"""Replies that may wait for an earlier one."""
POLL_SECONDS = 0.5
"""Interval of looking for replies that another process requests."""
HEARTBEAT_SECONDS = 60.0
"""Interval of heartbeats in the journal while nothing else is written."""

Result = TypeVar("Result")


class HostedModel:
    """A model behind an endpoint."""

    def __init__(self, spec: HostedChat, context: Context, schema: dict[str, Any] | None) -> None:
        self.spec, self.context, self.schema = spec, context, schema
        self.name = spec.name
        self.tally = Tally()
        self.identity: dict[str, Any] = {
            "endpoint": spec.endpoint,
            "model": spec.model,
            "revision": spec.revision,
            "sampling": spec.sampling.model_dump(),
            "extra_body": spec.extra_body,
            "schema": schema if spec.structured_output == "json_schema" else None,
            "is_json": schema is not None and spec.structured_output == "json_object",
        }

    def answers(self, asks: Iterable[Ask], work: Work) -> Generator[Reply, None, None]:
        """One reply per ask, in order. Raises EndpointError or BudgetReached; replies until then are kept."""
        started = time.monotonic()
        context = self.context
        with context.journal.holder(context.profile, context.budget) as holder, asyncio.Runner() as runner:
            run = _Run(self, holder, asks, work)
            try:
                while batch := runner.run(run.next()):
                    yield from batch
            finally:
                runner.run(run.stop())
                self.tally.seconds += time.monotonic() - started

    def connect(self) -> SdkTransport:
        """A connection to the endpoint, for the event loop that is running."""
        return SdkTransport(self.spec, self.context, self.schema)

    def check(self) -> Checked:
        """Whether the endpoint has the model; raises as `model_check.check`."""
        return check(self)


class _Run:
    """One series of asks. Its methods run in one event loop; only the journal is used from a thread beside it."""

    def __init__(self, model: HostedModel, holder: Holder, asks: Iterable[Ask], work: Work) -> None:
        self.model, self.spec, self.holder = model, model.spec, holder
        self.asks, self.is_exhausted = iter(asks), False
        self.connection: SdkTransport | None = None
        self.limiter = RateLimiter(shared_limits(model.name, self.spec.limits), model.name)
        self.retries = Retries(model.name, self.spec.limits, self.limiter)
        self.budget = Budget(self.spec, holder, self._in_journal)
        self.meter, self.purpose = Meter(work, model.tally), work.purpose
        self.thread = ThreadPoolExecutor(1)
        self.waiting: deque[Ask] = deque()
        self.elsewhere: dict[str, Ask] = {}
        """Asks that another process requests."""
        self.places: dict[str, list[int]] = {}
        """Key → positions in the series that wait for its reply."""
        self.done: dict[int, Reply] = {}
        self.pulled = self.handed_out = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.unsaved: list[Request] = []
        self.reserving: set[str] = set()
        self.in_flight = 0
        self.looked_at = 0.0
        self.failure: Exception | None = None
        self.is_closing = False
        self.moved, self.has_unsaved = asyncio.Event(), asyncio.Event()
        self.saver: asyncio.Task[None] | None = None

    async def next(self) -> list[Reply]:
        """The replies whose turn it is; empty at the end."""
        self.saver = self.saver or asyncio.create_task(self._save_continuously())
        while True:
            self.moved.clear()
            await self._fill()
            self._start()
            if ready := self._ready():
                return ready
            if self.failure and not self.in_flight:
                is_endpoint = isinstance(self.failure, EndpointError)
                raise EndpointError(f"{self.failure} ({self.meter.text})") if is_endpoint else self.failure
            if self.is_exhausted and not self.places:
                return []
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.moved.wait(), POLL_SECONDS if self.elsewhere else None)
            if self.elsewhere and self.limiter.clock() - self.looked_at >= POLL_SECONDS:
                self.looked_at = self.limiter.clock()
                await self._take(list(self.elsewhere.values()))

    @property
    def transport(self) -> SdkTransport:
        """The connection, opened when first used: replies in the journal need neither endpoint nor key."""
        if self.connection is None:
            self.connection = self.model.connect()
        return self.connection

    async def stop(self) -> None:
        """Cancels what is in flight, saves the replies that came, closes connections."""
        raised = self.failure
        self.limiter.stopping.set()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.is_closing = True
        self.has_unsaved.set()
        if self.saver:
            await self.saver
        self.thread.shutdown()
        if self.connection:
            await self.connection.close()
        if self.failure is not raised and self.failure:
            raise self.failure

    async def _fill(self) -> None:
        """Pulls asks until enough wait to be sent."""
        while (
            not self.is_exhausted
            and self.failure is None
            and len(self.waiting) < self.limiter.allowed + CHUNK
            and self.pulled - self.handed_out < MAX_AHEAD
        ):
            chunk = list(itertools.islice(self.asks, CHUNK))
            self.is_exhausted = len(chunk) < CHUNK
            new = []
            for ask in chunk:
                if ask.key not in self.places:
                    new.append(ask)
                self.places.setdefault(ask.key, []).append(self.pulled)
                self.pulled += 1
            if new:
                await self._take(new)

    async def _take(self, asks: list[Ask]) -> None:
        """Sorts asks into those with a reply, those to send, and those that another process requests."""
        taken = await self._in_journal(partial(self.holder.take, [ask.key for ask in asks]))
        for ask in asks:
            self.elsewhere.pop(ask.key, None)
            if reply := taken.known.get(ask.key):
                self.meter.found(len(self.places[ask.key]))
                self._place(reply)
            elif ask.key in taken.mine:
                self.waiting.append(ask)
            else:
                self.elsewhere[ask.key] = ask

    def _start(self) -> None:
        while self.waiting and self.failure is None and self.in_flight < self.limiter.allowed:
            self.in_flight += 1
            task = asyncio.create_task(self._finish(self.waiting.popleft()))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def _ready(self) -> list[Reply]:
        ready = []
        while self.handed_out in self.done:
            ready.append(self.done.pop(self.handed_out))
            self.handed_out += 1
        return ready

    async def _finish(self, ask: Ask) -> None:
        """Sends a request until it is over; it counts as in flight until its reply is in the journal."""
        request = Request(ask, max_cost_usd(self.spec, ask), self.retries.answered)
        try:
            await self._send(request)
        except Exception as error:
            self._fail(error)
        finally:
            self.unsaved.append(request)
            self.has_unsaved.set()

    async def _send(self, request: Request) -> None:
        """Sends a request until it has a reply, is rejected, or the run stops."""
        tokens = request.ask.characters / CHARACTERS_PER_TOKEN + self.spec.sampling.max_new_tokens
        while True:
            await self._reserve(request)
            entry = await self.limiter.turn(tokens)
            started = self.limiter.clock()
            try:
                if self.limiter.stopping.is_set():
                    return
                answer = await self.transport.send(request.ask)
            except asyncio.CancelledError:
                request.lost_usd += request.max_usd
                raise
            except Busy as error:
                delay = self.retries.after_busy(request, error, started)
            except TransientError as error:
                wait = self.retries.after_failure(request, error, started)
                if wait is None:
                    return self._reject(request, str(error))
                delay = wait
            except UnknownModel as error:
                raise unknown_model(self.spec, str(error), await self._listed()) from None
            except RequestRejected as error:
                if error.failed_text is None:
                    return self._reject(request, str(error))
                request.reply = self._reply(request, Answer(error.failed_text, "invalid"), started)
                return
            else:
                self.retries.answered += 1
                request.reply = reply = self._reply(request, answer, started)
                request.raw = answer.raw
                self.limiter.succeeded(entry, reply.prompt_tokens + reply.completion_tokens, answer.headers)
                return
            finally:
                self.limiter.returned()
            request.waited_seconds += delay
            await self.limiter.sleep(delay)

    async def _reserve(self, request: Request) -> None:
        """Reserves what the next attempt may cost, beside what earlier attempts may have cost."""
        missing = request.lost_usd + request.max_usd - request.reserved_usd
        if missing > 0:
            # A request that waits for money releases none, so no other waits for it.
            self.reserving.discard(request.ask.key)
            await self.budget.reserve(missing, lambda: bool(self.reserving))
            request.reserved_usd += missing
            self.reserving.add(request.ask.key)

    def _reply(self, request: Request, answer: Answer, started: float) -> Reply:
        ask, seconds = request.ask, self.limiter.clock() - started
        prompt, completion = answer.prompt_tokens, answer.completion_tokens
        # Scripts with many tokens per letter, and hidden reasoning, may cost more than an estimate.
        is_at_most = self.holder.budget is not None and (prompt is None or completion is None)
        if prompt is None:
            prompt = round(ask.characters / CHARACTERS_PER_TOKEN)
        if completion is None:
            completion = round(len(answer.raw or answer.text) / CHARACTERS_PER_TOKEN)
        return Reply(
            key=ask.key,
            endpoint=self.spec.endpoint,
            model=self.spec.model,
            served_model=answer.model or self.spec.model,
            purpose=self.purpose,
            text=answer.text,
            finish_reason=answer.finish_reason,
            prompt_characters=ask.characters,
            prompt_tokens=prompt,
            completion_tokens=completion,
            latency_seconds=seconds,
            tries=request.attempts,
            cost_usd=request.max_usd if is_at_most else cost_usd(self.spec, prompt, completion),
            lost_usd=request.lost_usd,
            asked_at=time.time() - seconds,
        )

    def _reject(self, request: Request, message: str) -> None:
        """A rejected request gives a rejected row with the endpoint's reason, which is not journaled."""
        self.retries.after_rejection(message)
        reply = self._reply(request, Answer(message, "refused", 0, 0), self.limiter.clock())
        request.reply, request.is_journaled = reply._replace(tries=request.attempts - 1), False

    async def _listed(self) -> list[str]:
        try:
            return await self.transport.models()
        except (RequestError, EndpointError):
            return []

    async def _save_continuously(self) -> None:
        """Saves finished requests in batches of those that came during the previous batch."""
        while not self.is_closing or self.unsaved:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.has_unsaved.wait(), HEARTBEAT_SECONDS)
            self.has_unsaved.clear()
            batch, self.unsaved = self.unsaved, []
            try:
                await (self._save(batch) if batch else self._in_journal(self.holder.heartbeat))
            except Exception as error:
                self.holder.unsaved_usd += sum(request.spent_usd for request in batch)
                self._fail(error)
            self.in_flight -= len(batch)
            self.moved.set()

    def _fail(self, error: Exception) -> None:
        """Ends the run with its first error: nothing more is sent, what is in flight is kept."""
        self.failure = self.failure or error
        self.limiter.stopping.set()

    async def _save(self, batch: list[Request]) -> None:
        others = [request for request in batch if not (request.reply and request.is_journaled)]
        save = partial(
            self.holder.keep,
            [request.reply for request in batch if request.reply and request.is_journaled],
            released_usd=sum(request.reserved_usd for request in batch),
            raw={request.ask.key: request.raw for request in batch if request.raw is not None},
            unanswered=[request.ask.key for request in others],
            lost_usd=sum(request.spent_usd for request in others),
        )
        await self._in_journal(save, partial(save, is_again=True))
        for request in batch:
            self.reserving.discard(request.ask.key)
            if request.reply:
                self.meter.asked(request.reply, request.is_journaled, len(self.places[request.ask.key]))
                self._place(request.reply)

    def _place(self, reply: Reply) -> None:
        for index in self.places.pop(reply.key):
            self.done[index] = reply

    async def _in_journal(self, work: Callable[[], Result], again: Callable[[], Result] | None = None) -> Result:
        """Runs work on the journal in the thread, and retries it (as `again`) while the database is unavailable."""
        for wait in () if isinstance(self.failure, StorageError) else AWAY_SECONDS:
            try:
                return await self._in_thread(work)
            except StorageError as error:
                self.meter.work.progress.note(f"{error}; trying again in {wait:g} s")
                await asyncio.sleep(wait)
            work = again or work
        return await self._in_thread(work)

    def _in_thread(self, work: Callable[[], Result]) -> Awaitable[Result]:
        return asyncio.get_running_loop().run_in_executor(self.thread, work)
