"""One run of our engine in a process of its own; `bench_generation.py` starts it.

    python benchmarks/our_run.py synthesize --backend openai --base-url http://127.0.0.1:8000/v1 --rows 1760 \
        --concurrency 64 --journal /tmp/journal.sqlite --out /tmp/record.json
    python benchmarks/our_run.py stand-in --rows 17600 --concurrency 256 --journal /tmp/journal.sqlite --out /tmp/r.json

`--profile FILE` puts down a cProfile of the measured part.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from measuring import Meter, write_record

from synthpost_dagster.inference.generate import chat
from synthpost_dagster.llm.chat_models import Ask, ChatModel, Context, Work, ask_for, chat_model
from synthpost_dagster.llm.hosted import Answer, HostedModel
from synthpost_dagster.llm.journal import Journal
from synthpost_dagster.profiles.models import HostedChat, HostedSampling, Limits
from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.rows.synthesis import synthesize
from synthpost_dagster.runtime.progress import Progress, to_log
from synthpost_dagster.tasks.loading import load_task

TASK = "sales_posts"
PROFILE = "bench"
ATTEMPTS = 3
LIMITS = {"requests_per_minute": None, "tokens_per_minute": None, "timeout_seconds": 120.0, "max_request_attempts": 5}
SAMPLING = HostedSampling(temperature=0.8, top_p=0.95, max_new_tokens=500, seed=3407)
STAND_IN_POST = "Meet your next favourite! It is plain, bright and quiet. " * 7


class StandIn:
    """A transport that answers at once, to each ask with a text of its own."""

    async def send(self, ask: Ask) -> Answer:
        """One reply, with the ask's key in it."""
        return Answer(f"{STAND_IN_POST}Order number {ask.key}. #new", "stop", 260, 110, "stand-in", {})

    async def models(self) -> list[str]:
        """None."""
        return []

    async def close(self) -> None:
        """There is nothing to close."""


def spec_of(backend: str, base_url: str | None, concurrency: int) -> HostedChat:
    """What a profile would say of the endpoint."""
    return HostedChat.model_validate(
        {
            "backend": backend,
            "endpoint": "bench",
            "base_url": base_url,
            "api_key": None,
            "model": "bench",
            "revision": None,
            "sampling": SAMPLING,
            "max_tokens_as": "max_tokens",
            "structured_output": "none",
            "extra_body": {},
            "prices": None,
            "limits": Limits.model_validate({"concurrency": concurrency, "max_retry_wait_seconds": 60.0, **LIMITS}),
            "max_replies_per_row": ATTEMPTS,
        }
    )


def context_of(journal: Path) -> Context:
    """A context with a journal on disk and nothing to pay."""
    # A hosted model never looks at the devices.
    return Context(None, Journal(f"sqlite:///{journal}"), PROFILE, None, lambda _: None)  # type: ignore[arg-type]


def asks_of(model: ChatModel, prompts: list[str], rows: int) -> Iterator[Ask]:
    """The prompts over and over, each round with a reply of its own, as the engine asks for further attempts."""
    texts = itertools.cycle(prompts)
    return (ask_for(model, chat(next(texts)), number // len(prompts)) for number in range(rows))


def progress() -> Progress:
    """Tells standard error how far it is."""
    return Progress(to_log(lambda line: print(line, file=sys.stderr, flush=True)))


def run_synthesize(options: argparse.Namespace) -> dict[str, Any]:
    """The training prompts of the packaged task through the synthesis that the product runs."""
    task = load_task(TASK)
    # The server's posts are of one length; asked again for it, they would be no test of pace.
    quality = task.spec.quality.model_copy(update={"band_retries": 0})
    task = replace(task, spec=task.spec.model_copy(update={"quality": quality}))
    prompts = training_prompts(task)
    teacher = chat_model(spec_of(options.backend, options.base_url, options.concurrency), context_of(options.journal))
    with Profiled(options.profile):
        meter = Meter()
        table = synthesize(task, prompts, teacher, ATTEMPTS, options.rows, None, progress())
        measured = meter.stop()
    rows = int((table["status"] == "kept").sum())
    return {"rows": rows, **measured, "tally": teacher.tally.facts}


def run_stand_in(options: argparse.Namespace) -> dict[str, Any]:
    """Asks from a generator through the engine and its journal, over a transport that answers at once.

    Replies are handed on and not kept: what is measured is the engine. A table of as many rows takes memory of its own.
    """
    prompts = [str(prompt) for prompt in training_prompts(load_task(TASK))["teacher_prompt"]]
    model = HostedModel(spec_of("openai", None, options.concurrency), context_of(options.journal), None, StandIn)
    with Profiled(options.profile):
        meter = Meter()
        work = Work("synthetic rows", options.rows, progress())
        rows = sum(1 for _ in model.answers(asks_of(model, prompts, options.rows), work))
        measured = meter.stop()
    journal_mib = sum(part.stat().st_size for part in options.journal.parent.glob(f"{options.journal.name}*")) / 2**20
    return {"rows": rows, **measured, "journal_mib": round(journal_mib, 1), "tally": model.tally.facts}


class Profiled:
    """Profiles what is done within it, if a file is given."""

    def __init__(self, file: Path | None) -> None:
        self.file, self.profile = file, cProfile.Profile()

    def __enter__(self) -> None:
        if self.file:
            self.profile.enable()

    def __exit__(self, *_: object) -> None:
        if self.file:
            self.profile.disable()
            self.profile.dump_stats(self.file)


def main() -> None:
    """Reads the command line, runs, and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("synthesize", "stand-in"))
    parser.add_argument("--backend", choices=("openai", "groq"), default="openai")
    parser.add_argument("--base-url")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--profile", type=Path)
    options = parser.parse_args()
    run = run_synthesize if options.what == "synthesize" else run_stand_in
    write_record(options.out, run(options))


if __name__ == "__main__":
    main()
