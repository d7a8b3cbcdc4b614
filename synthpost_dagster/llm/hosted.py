"""Asks an endpoint: many requests in flight, each reply in the journal before it is used, replies in order.

One retry loop for all backends: the SDKs' own is off. What an endpoint is and how it fails is a `Transport`'s business,
how hard it is pressed that of `limits`, who pays that of `purse`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from synthpost_dagster.errors import EndpointError, StorageError
from synthpost_dagster.llm.budget import Purse
from synthpost_dagster.llm.chat_models import Ask, Context, Tally, Work, ask_for, chat_model
from synthpost_dagster.llm.failures import Busy, ModelGone, Passing, Refused, RequestFailure
from synthpost_dagster.llm.journal import Holder, Reply
from synthpost_dagster.llm.journal_files import AWAY_SECONDS
from synthpost_dagster.llm.limits import Pace, backoff, pressure_on
from synthpost_dagster.llm.meter import Meter
from synthpost_dagster.llm.offers import Checked, spelling_of
from synthpost_dagster.profiles.models import HostedChat
from synthpost_dagster.runtime.progress import SILENT

CHUNK = 64
"""Keys looked up in the journal at a time."""
AHEAD = 20_000
"""Replies that may be there before the one whose turn it is."""
ELSEWHERE_SECONDS = 0.5
"""How often replies that another process asks for are looked for."""
BEAT_SECONDS = 60.0
"""How often a waiting run tells the journal that it lives."""
DOUBT_AFTER = 5
"""So many requests refused, and none answered: it is not the requests."""
TRUST_AFTER = 10
"""So many answered while one keeps failing: it is that one."""
MOST_TURNED_AWAY = 30
"""Times a request is turned away before the run gives up."""
CHARACTERS_A_TOKEN = 4.0
CHECKS = "model checks"
"""What the journal calls the replies to requests that only find out whether a model is there."""
CHECK_TOKENS = 16
"""Some endpoints allow no fewer."""

Result = TypeVar("Result")


class Answer(NamedTuple):
    """What an endpoint sent; tokens are None where it does not count them, headers in lower case.

    `raw` is the message as JSON where it says more than the text.
    """

    text: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    served_model: str
    headers: Mapping[str, str]
    raw: str | None = None


class Transport(Protocol):
    """The way to one model at one endpoint."""

    async def send(self, ask: Ask) -> Answer:
        """One reply. Raises a RequestFailure, or EndpointError where no request can succeed."""

    async def models(self) -> list[str]:
        """Names of the models offered; empty where the endpoint does not say.

        Raises a RequestFailure, or EndpointError where no request can succeed.
        """

    async def close(self) -> None:
        """Closes connections."""


class HostedModel:
    """A model behind an endpoint. `connect` makes its transport, within the loop that uses it."""

    def __init__(
        self, spec: HostedChat, context: Context, schema: dict[str, Any] | None, connect: Callable[[], Transport]
    ) -> None:
        self.spec, self.context, self.connect = spec, context, connect
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
        """One reply an ask, in order. Raises EndpointError or BudgetReached; what was answered till then is kept."""
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

    def check(self) -> Checked:
        """Whether the endpoint has the model; where it lists others alone, one request decides, which is journaled.

        Raises EndpointError where it is out of reach or no API, refuses the key, or lacks the model; BudgetReached
        where a request that has to decide may pass the budget.
        """
        with asyncio.Runner() as runner:
            offered = runner.run(self._offered())
        if not offered:
            return Checked(
                f"{self.spec.endpoint} is there and does not list its models; {self.spec.model} is not checked"
            )
        spelling = spelling_of(self.spec.model, offered)
        if spelling is None:
            return self._tried(offered)
        listed = "" if spelling == self.spec.model else f", listed as {spelling}"
        return Checked(f"{self.spec.endpoint} is there and offers {self.spec.model}{listed}")

    async def _offered(self) -> list[str]:
        transport = self.connect()
        try:
            return await transport.models()
        except RequestFailure as failure:
            raise EndpointError(f"{self.name}: {failure}") from None
        finally:
            await transport.close()

    def _tried(self, offered: list[str]) -> Checked:
        """Asks the model, though it is not listed, for a reply of few tokens."""
        sampling = self.spec.sampling.model_copy(update={"max_new_tokens": CHECK_TOKENS})
        spec = self.spec.model_copy(update={"sampling": sampling})
        asked = chat_model(spec, self.context)
        ask = ask_for(asked, [{"role": "user", "content": "Answer with the word yes."}], 0)
        (reply,) = asked.answers([ask], Work(CHECKS, 1, SILENT))
        if reply.finish_reason == "refused":
            raise _gone(self.spec, reply.text, offered)
        served = "" if spelling_of(self.spec.model, [reply.served_model]) else f" as {reply.served_model}"
        names = ", ".join(sorted(offered))
        return Checked(
            f"{self.spec.endpoint} answers requests for {self.spec.model}{served}, but does not list it (it lists "
            f"{names}); make sure that this is the model you mean",
            is_warning=True,
        )


class _Settled(NamedTuple):
    """A request that is over: its reply, or None where it never had one, and the dollars released and lost."""

    ask: Ask
    reply: Reply | None
    is_journaled: bool
    released_usd: float
    lost_usd: float

    @property
    def spent_usd(self) -> float:
        """What it cost, or may have."""
        return self.reply.cost_usd + self.reply.lost_usd if self.reply and self.is_journaled else self.lost_usd


class _Run:
    """One series of asks. Its methods run in one event loop; only the journal is worked in a thread beside it."""

    def __init__(self, model: HostedModel, holder: Holder, asks: Iterable[Ask], work: Work) -> None:
        self.model, self.spec, self.holder = model, model.spec, holder
        self.asks, self.is_exhausted = iter(asks), False
        self.connection: Transport | None = None
        self.pace = Pace(pressure_on(model.name, self.spec.limits), model.name)
        self.purse = Purse(self.spec, holder, self._insist)
        self.meter = Meter(work, model.tally)
        self.thread = ThreadPoolExecutor(1)
        self.waiting: deque[Ask] = deque()
        self.elsewhere: dict[str, Ask] = {}
        self.places: dict[str, list[int]] = {}
        self.done: dict[int, Reply] = {}
        self.pulled = self.handed_out = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.unkept: list[_Settled] = []
        self.raw: dict[str, str] = {}
        self.holding: set[str] = set()
        self.in_flight = self.answered = self.refused = 0
        self.looked_at = 0.0
        self.failure: Exception | None = None
        self.is_closing = False
        self.moved, self.has_unkept = asyncio.Event(), asyncio.Event()
        self.keeper: asyncio.Task[None] | None = None
        self.purpose = work.purpose

    async def next(self) -> list[Reply]:
        """The replies whose turn it is; empty at the end."""
        self.keeper = self.keeper or asyncio.create_task(self._keep())
        while True:
            self.moved.clear()
            await self._fill()
            self._start()
            if ready := self._ready():
                return ready
            if self.failure and not self.in_flight:
                raise self._ended(self.failure)
            if self.is_exhausted and not self.places:
                return []
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.moved.wait(), ELSEWHERE_SECONDS if self.elsewhere else None)
            if self.elsewhere and self.pace.clock() - self.looked_at >= ELSEWHERE_SECONDS:
                self.looked_at = self.pace.clock()
                await self._take(list(self.elsewhere.values()))

    @property
    def transport(self) -> Transport:
        """The way to the endpoint, made when it is first used: what the journal holds needs neither line nor key."""
        if self.connection is None:
            self.connection = self.model.connect()
        return self.connection

    async def stop(self) -> None:
        """Ends what is under way, keeps what came, closes connections."""
        told = self.failure
        self.pace.stopping.set()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.is_closing = True
        self.has_unkept.set()
        if self.keeper:
            await self.keeper
        self.thread.shutdown()
        if self.connection:
            await self.connection.close()
        if self.failure is not told and self.failure:
            raise self.failure

    async def _fill(self) -> None:
        """Pulls asks until enough wait to be sent."""
        while (
            not self.is_exhausted
            and self.failure is None
            and len(self.waiting) < self.pace.allowed + CHUNK
            and self.pulled - self.handed_out < AHEAD
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
        """Sorts asks into those that are answered, those to be sent, and those that another process sends."""
        taken = await self._insist(partial(self.holder.take, [ask.key for ask in asks]))
        for ask in asks:
            if reply := taken.known.get(ask.key):
                self.elsewhere.pop(ask.key, None)
                self.meter.found(len(self.places[ask.key]))
                self._place(reply)
            elif ask.key in taken.mine:
                self.elsewhere.pop(ask.key, None)
                self.waiting.append(ask)
            else:
                self.elsewhere[ask.key] = ask

    def _start(self) -> None:
        while self.waiting and self.failure is None and self.in_flight < self.pace.allowed:
            self.in_flight += 1
            task = asyncio.create_task(self._one(self.waiting.popleft()))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def _ready(self) -> list[Reply]:
        ready = []
        while self.handed_out in self.done:
            ready.append(self.done.pop(self.handed_out))
            self.handed_out += 1
        return ready

    async def _one(self, ask: Ask) -> None:
        """Asks until there is a reply; a request counts as in flight until its reply is in the journal."""
        request = _Request(ask, self.purse.worst(ask))
        try:
            settled = await self._answered(request)
        except asyncio.CancelledError:
            self._settle(_Settled(ask, None, False, request.reserved_usd, request.lost_usd))
            raise
        except Exception as error:
            self._fail(error)
            settled = _Settled(ask, None, False, request.reserved_usd, request.lost_usd)
        self._settle(settled)

    async def _answered(self, request: _Request) -> _Settled:
        ask = request.ask
        answered_before = self.answered
        while True:
            await self._pay_for(request)
            entry = await self.pace.turn(self._tokens(ask))
            if self.pace.stopping.is_set():
                self.pace.returned()
                return _Settled(ask, None, False, request.reserved_usd, request.lost_usd)
            started = self.pace.clock()
            try:
                answer = await self.transport.send(ask)
            except asyncio.CancelledError:
                request.lost_usd += request.worst_usd
                raise
            except Busy as failure:
                delay = self._turned_away(request, failure, started)
            except Passing as failure:
                if self._has_failed_for_good(request, failure, started, self.answered - answered_before):
                    return self._unanswered(request, str(failure))
                delay = min(backoff(request.failed), self._patience_left(request))
            except ModelGone as failure:
                raise _gone(self.spec, str(failure), await self._offered()) from None
            except Refused as failure:
                if failure.failed_text is None:
                    return self._unanswered(request, str(failure))
                answer = Answer(failure.failed_text, "invalid", None, None, self.spec.model, {})
                return self._reply(request, answer, started, request.tries)
            else:
                self.answered += 1
                settled = self._reply(request, answer, started, request.tries)
                tokens = settled.reply.prompt_tokens + settled.reply.completion_tokens if settled.reply else 0
                self.pace.succeeded(entry, tokens, answer.headers)
                return settled
            finally:
                self.pace.returned()
            request.waited_seconds += delay
            await self.pace.sleep(delay)

    def _turned_away(self, request: _Request, failure: Busy, started: float) -> float:
        """Seconds to wait. Raises EndpointError where that is too long, or happens all the time."""
        request.turned_away += 1
        self.pace.overloaded(started, failure.wait)
        left = self._patience_left(request)
        delay = failure.wait or min(backoff(request.turned_away), left)
        if request.turned_away >= MOST_TURNED_AWAY or delay > left or not delay:
            raise EndpointError(
                f"{self.model.name}: stayed busy for {request.waited_seconds:.0f} s ({failure}); lower "
                "limits.concurrency or raise limits.max_retry_wait_seconds, and run again to resume"
            ) from None
        return delay

    def _patience_left(self, request: _Request) -> float:
        """Seconds that a request may still wait; all the profile's patience again after any other was answered."""
        if request.answered_then != self.answered:
            request.answered_then, request.waited_seconds = self.answered, 0.0
        return max(0.0, self.spec.limits.max_retry_wait_seconds - request.waited_seconds)

    def _has_failed_for_good(self, request: _Request, failure: Passing, started: float, others: int) -> bool:
        """Whether this request alone is beyond help, `others` having been answered since it began.

        Raises EndpointError where they were not.
        """
        request.failed += 1
        if failure.is_perhaps_paid:
            request.lost_usd += request.worst_usd
            self.pace.overloaded(started, None)
        if request.failed < self.spec.limits.max_request_attempts:
            return False
        if others < TRUST_AFTER:
            raise EndpointError(
                f"{self.model.name}: failed {request.failed} times in a row: {failure}; fix the endpoint or its entry "
                "in the profile and run again, it goes on from here"
            ) from None
        return True

    async def _pay_for(self, request: _Request) -> None:
        """Sets aside what the next try may cost, beside what lost ones may have."""
        missing = request.lost_usd + request.worst_usd - request.reserved_usd
        if missing > 0:
            # Whoever waits gives nothing back, so it is not waited for.
            self.holding.discard(request.ask.key)
            await self.purse.reserve(missing, lambda: bool(self.holding))
            request.reserved_usd += missing
            self.holding.add(request.ask.key)

    def _reply(self, request: _Request, answer: Answer, started: float, tries: int) -> _Settled:
        ask, seconds = request.ask, self.pace.clock() - started
        prompt, completion = answer.prompt_tokens, answer.completion_tokens
        is_counted = prompt is not None and completion is not None
        if prompt is None:
            prompt = _tokens_of(ask.characters)
        if completion is None:
            completion = _tokens_of(len(answer.raw or answer.text))
        # Scripts of many tokens a letter, or thoughts that are not shown, may have cost more than an estimate says.
        is_at_worst = self.holder.budget is not None and not is_counted
        if answer.raw is not None:
            self.raw[ask.key] = answer.raw
        reply = Reply(
            key=ask.key,
            endpoint=self.spec.endpoint,
            model=self.spec.model,
            served_model=answer.served_model,
            purpose=self.purpose,
            text=answer.text,
            finish_reason=answer.finish_reason,
            prompt_characters=ask.characters,
            prompt_tokens=prompt,
            completion_tokens=completion,
            latency_seconds=seconds,
            tries=tries,
            cost_usd=request.worst_usd if is_at_worst else self.purse.cost(prompt, completion),
            lost_usd=request.lost_usd,
            asked_at=time.time() - seconds,
        )
        return _Settled(ask, reply, True, request.reserved_usd, 0.0)

    def _unanswered(self, request: _Request, message: str) -> _Settled:
        """A request that alone is refused is a rejected row with its reason; where all are, it is not the requests."""
        self.refused += 1
        if not self.answered and self.refused >= DOUBT_AFTER:
            raise EndpointError(
                f"{self.model.name}: refuses every request: {message}; correct its entry in the profile"
            )
        answer = Answer(message, "refused", 0, 0, self.spec.model, {})
        settled = self._reply(request, answer, self.pace.clock(), request.failed + request.turned_away)
        return settled._replace(is_journaled=False, lost_usd=request.lost_usd)

    async def _offered(self) -> list[str]:
        try:
            return await self.transport.models()
        except (RequestFailure, EndpointError):
            return []

    def _settle(self, settled: _Settled) -> None:
        self.unkept.append(settled)
        self.has_unkept.set()

    async def _keep(self) -> None:
        """Puts down what came in, as much at a time as came in meanwhile."""
        while not self.is_closing or self.unkept:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.has_unkept.wait(), BEAT_SECONDS)
            self.has_unkept.clear()
            batch, self.unkept = self.unkept, []
            try:
                await (self._put_down(batch) if batch else self._insist(self.holder.beat))
            except Exception as error:
                self.holder.owed_usd += sum(settled.spent_usd for settled in batch)
                self._fail(error)
            self.in_flight -= len(batch)
            self.moved.set()

    def _fail(self, error: Exception) -> None:
        """Ends the run: nothing more is sent, what is in flight is kept. The first failure is the one told."""
        self.failure = self.failure or error
        self.pace.stopping.set()

    async def _put_down(self, batch: list[_Settled]) -> None:
        kept = [settled for settled in batch if settled.is_journaled and settled.reply]
        others = [settled for settled in batch if not settled.is_journaled]
        if kept:
            replies = [settled.reply for settled in kept if settled.reply]
            released = sum(settled.released_usd for settled in kept)
            raw = {reply.key: self.raw.pop(reply.key) for reply in replies if reply.key in self.raw}
            keep = partial(self.holder.keep, replies, released, raw=raw)
            await self._insist(keep, partial(keep, is_again=True))
        if others:
            keys = [settled.ask.key for settled in others]
            released = sum(settled.released_usd for settled in others)
            lost = sum(settled.spent_usd for settled in others)
            give_up = partial(self.holder.give_up, keys, released, lost)
            await self._insist(give_up, partial(give_up, is_again=True))
        for settled in batch:
            self.holding.discard(settled.ask.key)
            if settled.reply:
                self.meter.asked(settled.reply, settled.is_journaled, len(self.places[settled.ask.key]))
                self._place(settled.reply)

    def _place(self, reply: Reply) -> None:
        for index in self.places.pop(reply.key):
            self.done[index] = reply

    def _ended(self, failure: Exception) -> Exception:
        """The failure, with what is safe."""
        if not isinstance(failure, EndpointError):
            return failure
        return EndpointError(f"{failure} ({self.meter.text})")

    def _tokens(self, ask: Ask) -> float:
        return ask.characters / CHARACTERS_A_TOKEN + self.spec.sampling.max_new_tokens

    async def _insist(self, work: Callable[[], Result], again: Callable[[], Result] | None = None) -> Result:
        """The journal's work, tried again while the database is away; `again`, where that is to be told."""
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


class _Request:
    """One ask on its way: how often it failed, and the dollars it holds."""

    def __init__(self, ask: Ask, worst_usd: float) -> None:
        self.ask, self.worst_usd = ask, worst_usd
        self.reserved_usd = self.lost_usd = 0.0
        self.failed = self.turned_away = self.answered_then = 0
        self.waited_seconds = 0.0

    @property
    def tries(self) -> int:
        """Times it was sent, with the one that brought a reply."""
        return 1 + self.failed + self.turned_away


def _gone(spec: HostedChat, why: str, offered: list[str]) -> EndpointError:
    names = f"it offers {', '.join(sorted(offered))}" if offered else "it does not say what it offers"
    return EndpointError(f"{spec.endpoint}: has no model {spec.model} ({why}); {names}; name one in the profile")


def _tokens_of(characters: int) -> int:
    return round(characters / CHARACTERS_A_TOKEN)
