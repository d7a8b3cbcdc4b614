"""What asking a chat model will take: tokens, dollars, time. From the journal's means, or guesses that are named so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from synthpost_dagster.llm.hosted import CHARACTERS_A_TOKEN
from synthpost_dagster.llm.journal import Averages, Journal
from synthpost_dagster.llm.transformers_backend import ENDPOINT
from synthpost_dagster.profiles.models import HostedChat, InProcessChat

MILLION = 1e6


class Expected(NamedTuple):
    """What requests are expected to take; `usd_at_most` if every reply were as long, and as often asked, as may be.

    `seconds` is None where there is nothing to reckon it from; `basis` says what the figures come from.
    """

    requests: int
    prompt_tokens: int
    completion_tokens: int
    usd: float
    usd_at_most: float
    seconds: float | None
    basis: str

    @property
    def text(self) -> str:
        """The estimate in one line."""
        if not self.requests:
            return f"nothing to ask: {self.basis}"
        time = "time not known yet" if self.seconds is None else f"about {self.seconds:,.0f} s"
        money = f"${self.usd:,.2f} (at most ${self.usd_at_most:,.2f}), " if self.usd_at_most else ""
        return f"about {self.requests:,} requests, {money}{time}; from {self.basis}"

    @property
    def facts(self) -> dict[str, Any]:
        """The estimate for an artifact's metadata."""
        return self._asdict()


def averages(journal: Journal, spec: InProcessChat | HostedChat, purpose: str) -> Averages | None:
    """The journal's means for a model's replies; None where there is none."""
    if isinstance(spec, InProcessChat):
        return journal.averages(ENDPOINT, spec.model.model, purpose)
    return journal.averages(spec.endpoint, spec.model, purpose)


def expect(
    journal: Journal,
    spec: InProcessChat | HostedChat,
    purpose: str,
    characters: Sequence[int],
    tries: float = 1.0,
    most_tries: float | None = None,
) -> Expected:
    """For prompts of so many characters each, every one asked `tries` times in the mean, and at most `most_tries`
    times, by default as often as the profile allows.
    """
    most = spec.max_replies_per_row if most_tries is None else most_tries
    means = averages(journal, spec, purpose)
    requests = round(len(characters) * tries)
    rate = means.prompt_tokens_a_character if means else 1 / CHARACTERS_A_TOKEN
    longest = spec.sampling.max_new_tokens
    prompt_tokens = round(sum(characters) * rate * tries)
    completion_tokens = round(requests * (means.completion_tokens if means else longest))
    guess = f"no reply yet: {CHARACTERS_A_TOKEN:g} characters a token, replies as long as they may be"
    basis = f"{means.replies:,} replies in the journal" if means else guess
    return Expected(
        requests,
        prompt_tokens,
        completion_tokens,
        _dollars(spec, prompt_tokens, completion_tokens),
        _dollars(spec, round(sum(characters) * rate * most), round(len(characters) * most * longest)),
        _seconds(spec, means, requests, prompt_tokens + completion_tokens),
        basis if requests else "all replies are there",
    )


def local(work: int, seconds: float, done: int, unit: str) -> Expected:
    """Work on this machine that asks for no reply, at the pace of the `done` units before it."""
    if not work:
        return Expected(0, 0, 0, 0.0, 0.0, 0.0, "all is there")
    expected = seconds / done * work if done else None
    return Expected(0, 0, 0, 0.0, 0.0, expected, f"{done:,} {unit} done before" if done else f"no {unit} done before")


def _seconds(spec: InProcessChat | HostedChat, means: Averages | None, requests: int, tokens: int) -> float | None:
    """From the mean time of a reply and how many are under way together, and from what is allowed a minute."""
    if not requests:
        return 0.0
    if isinstance(spec, InProcessChat):
        return None if means is None else means.latency_seconds * requests / spec.sampling.batch_size
    limits = spec.limits
    bounds = [60 * tokens / limits.tokens_per_minute] if limits.tokens_per_minute else []
    bounds += [60 * requests / limits.requests_per_minute] if limits.requests_per_minute else []
    bounds += [means.latency_seconds * requests / limits.concurrency] if means else []
    return max(bounds) if bounds else None


def _dollars(spec: InProcessChat | HostedChat, prompt_tokens: int, completion_tokens: int) -> float:
    if isinstance(spec, InProcessChat) or spec.prices is None:
        return 0.0
    return (prompt_tokens * spec.prices.input + completion_tokens * spec.prices.output) / MILLION


def total(parts: Sequence[Expected]) -> Expected:
    """Several expectations as one; the time is not known where one of them is not."""
    seconds = [part.seconds for part in parts if part.seconds is not None]
    return Expected(
        sum(part.requests for part in parts),
        sum(part.prompt_tokens for part in parts),
        sum(part.completion_tokens for part in parts),
        sum(part.usd for part in parts),
        sum(part.usd_at_most for part in parts),
        sum(seconds) if len(seconds) == len(parts) else None,
        "; ".join(dict.fromkeys(part.basis for part in parts)) or "all is there",
    )
