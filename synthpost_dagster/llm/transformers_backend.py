"""Chats answered by a model in this process, under the device lease: nothing leaves the machine."""

import itertools
import time
from collections.abc import Generator, Iterable, Sequence
from typing import Any

from synthpost_dagster.inference.generate import Completion, generate_batch
from synthpost_dagster.inference.models import Loaded, identity, load
from synthpost_dagster.llm.chat_models import Ask, Context, Tally, Work
from synthpost_dagster.llm.journal import Reply
from synthpost_dagster.llm.journal_holders import Holder
from synthpost_dagster.llm.progress import Meter
from synthpost_dagster.profiles.models import InProcessChat

WINDOW = 2_048
"""Asks that are sorted by length before they are cut into batches."""
ENDPOINT = "transformers"


class TransformersChat:
    """A transformers model, loaded when the first reply is missing and freed at the end of `answers`.

    Batches and their seeds depend on the asks alone, so that replies in the journal do not change the others.
    """

    def __init__(self, spec: InProcessChat, context: Context, schema: dict[str, Any] | None) -> None:
        self.spec, self.context = spec, context
        self.name = spec.name
        self.tally = Tally()
        self.identity: dict[str, Any] = {
            **identity(spec.model),
            "sampling": spec.sampling.model_dump(exclude={"batch_size"}),
        }

    def answers(self, asks: Iterable[Ask], work: Work) -> Generator[Reply, None, None]:
        """One reply per ask, in order."""
        started, meter, rest = time.monotonic(), Meter(work, self.tally), iter(asks)
        try:
            while window := list(itertools.islice(rest, WINDOW)):
                found = self.context.journal.find([ask.key for ask in window])
                meter.found(sum(ask.key in found for ask in window))
                if any(ask.key not in found for ask in window):
                    self._answer(window, found, work, meter)
                yield from (found[ask.key] for ask in window)
        finally:
            self.tally.seconds += time.monotonic() - started

    def _answer(self, window: Sequence[Ask], found: dict[str, Reply], work: Work, meter: Meter) -> None:
        """Answers the batches with missing replies; each is in the journal before the next begins."""
        ordered = sorted({ask.key: ask for ask in window}.values(), key=lambda ask: (ask.characters, ask.key))
        size, context = self.spec.sampling.batch_size, self.context
        with context.devices.lease(self.spec.model.memory_gib, waiting=work.progress.note) as lease:
            # The previous holder of the device may have answered the same.
            late = context.journal.find([ask.key for ask in ordered if ask.key not in found])
            meter.found(len(late))
            found |= late
            batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
            if wanted := [batch for batch in batches if any(ask.key not in found for ask in batch)]:
                loaded = load(self.spec.model, lease.device)
                if loaded.ignored:
                    ignored = ", ".join(f"{key} {value}" for key, value in loaded.ignored.items())
                    work.progress.note(f"{self.name}: its generation_config.json is ignored ({ignored})")
                with context.journal.holder(context.profile, None) as holder:
                    for batch in wanted:
                        missing = [ask.key for ask in batch if ask.key not in found]
                        made = self._batch(loaded, batch, holder, work)
                        found |= made
                        for key in missing:
                            meter.asked(made[key])

    def _batch(self, loaded: Loaded, batch: Sequence[Ask], holder: Holder, work: Work) -> dict[str, Reply]:
        sampling = self.spec.sampling
        started, clock = time.time(), time.monotonic()
        seed = (sampling.seed + int(batch[0].key, 16)) % 2**31
        completions = generate_batch(loaded, [ask.chat for ask in batch], sampling, seed)
        seconds = time.monotonic() - clock
        replies = [
            self._reply(ask, completion, work.purpose, started, seconds)
            for ask, completion in zip(batch, completions, strict=True)
        ]
        holder.keep(replies)
        # An earlier reply, from another composition of batches, stays.
        return self.context.journal.find([ask.key for ask in batch])

    def _reply(self, ask: Ask, completion: Completion, purpose: str, started: float, seconds: float) -> Reply:
        return Reply(
            key=ask.key,
            endpoint=ENDPOINT,
            model=self.spec.model.model,
            served_model=self.spec.model.model,
            purpose=purpose,
            text=completion.text,
            finish_reason=completion.finish_reason,
            prompt_characters=ask.characters,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            latency_seconds=seconds,
            tries=1,
            cost_usd=0.0,
            lost_usd=0.0,
            asked_at=started,
        )
