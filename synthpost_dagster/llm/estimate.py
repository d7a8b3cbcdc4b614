"""Estimates of tokens, dollars and time, from the journal's means or from guesses that are named as such."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from synthpost_dagster.llm.budget import cost_usd
from synthpost_dagster.llm.chat_models import CHARACTERS_PER_TOKEN
from synthpost_dagster.llm.journal import Averages, Journal
from synthpost_dagster.llm.transformers_backend import ENDPOINT
from synthpost_dagster.profiles.models import HostedChat, InProcessChat


class Expected(NamedTuple):
    """The estimate for some requests; `usd_at_most` is for replies of maximum length and number.

    `seconds` is None if nothing is known to estimate it from; `basis` names the source of the figures.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    usd_at_most: float = 0.0
    seconds: float | None = 0.0
    basis: str = "all is there"

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


def expect(
    journal: Journal,
    spec: InProcessChat | HostedChat,
    purpose: str,
    characters: Sequence[int],
    tries: float = 1.0,
    max_tries: float | None = None,
) -> Expected:
    """The estimate for prompts of these lengths in characters.

    Each is requested `tries` times in the mean and at most `max_tries` times (default: the profile's limit).
    """
    most = spec.max_replies_per_row if max_tries is None else max_tries
    if isinstance(spec, InProcessChat):
        means = journal.averages(ENDPOINT, spec.model.model, purpose)
    else:
        means = journal.averages(spec.endpoint, spec.model, purpose)
    requests = round(len(characters) * tries)
    rate = means.prompt_tokens_a_character if means else 1 / CHARACTERS_PER_TOKEN
    longest = spec.sampling.max_new_tokens
    prompt_tokens = round(sum(characters) * rate * tries)
    completion_tokens = round(requests * (means.completion_tokens if means else longest))
    guess = f"no reply yet: {CHARACTERS_PER_TOKEN:g} characters a token, replies as long as they may be"
    basis = f"{means.replies:,} replies in the journal" if means else guess
    return Expected(
        requests,
        prompt_tokens,
        completion_tokens,
        cost_usd(spec, prompt_tokens, completion_tokens),
        cost_usd(spec, round(sum(characters) * rate * most), round(len(characters) * most * longest)),
        _seconds(spec, means, requests, prompt_tokens + completion_tokens),
        basis if requests else "all replies are there",
    )


def local(work: int, seconds: float, done: int, unit: str) -> Expected:
    """The estimate for work on this machine, at the speed of the `done` earlier units."""
    if not work:
        return Expected()
    expected = seconds / done * work if done else None
    return Expected(seconds=expected, basis=f"{done:,} {unit} done before" if done else f"no {unit} done before")


def _seconds(spec: InProcessChat | HostedChat, means: Averages | None, requests: int, tokens: int) -> float | None:
    """From the mean latency and the concurrency, and from the limits per minute."""
    if not requests:
        return 0.0
    if isinstance(spec, InProcessChat):
        return None if means is None else means.latency_seconds * requests / spec.sampling.batch_size
    limits = spec.limits
    bounds = [60 * tokens / limits.tokens_per_minute] if limits.tokens_per_minute else []
    bounds += [60 * requests / limits.requests_per_minute] if limits.requests_per_minute else []
    bounds += [means.latency_seconds * requests / limits.concurrency] if means else []
    return max(bounds) if bounds else None


def total(parts: Sequence[Expected]) -> Expected:
    """The sum of several estimates; its time is unknown if one of them is."""
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
