"""What the stages of a study cost, from the facts of their artifacts, for the page."""

from __future__ import annotations

from collections.abc import Sequence

from synthpost_dagster.artifacts.manifest import Manifest
from synthpost_dagster.report.data import Took
from synthpost_dagster.stages.facts import AdapterFacts, AskedFacts, Facts, RowsFacts, TimedFacts


def took(
    rows: Manifest,
    untuned: list[Manifest],
    adapters: list[Manifest],
    predictions: list[Manifest],
    verdicts: list[Manifest],
) -> tuple[Took, ...]:
    """One record for each stage that takes time or money, summed over the cells; `verdicts` may hold the controls."""
    trained = [AdapterFacts.of(manifest) for manifest in adapters]
    base, tuned = ([TimedFacts.of(one) for one in posts] for posts in (untuned, predictions))
    judged = [AskedFacts.of(manifest) for manifest in verdicts]
    written = RowsFacts.of(rows)
    steps = sum(facts.optimizer_steps for facts in trained)
    return (
        _asked("Synthetic rows", f"{written.kept:,} kept rows", [written]),
        _local("Untuned posts", f"{_rows(base):,} posts", base),
        _local("Training", f"{len(trained)} trainings, {steps:,} steps", trained),
        _local("Predictions", f"{_rows(tuned):,} posts", tuned),
        _asked("Verdicts", f"{_rows(judged):,} games", judged),
    )


def _asked(stage: str, work: str, facts: Sequence[AskedFacts]) -> Took:
    expected = [one.estimate for one in facts]
    return Took(
        stage,
        work,
        requests=sum(one.asked_now for one in facts),
        tokens=sum(one.prompt_tokens_asked + one.completion_tokens_asked for one in facts),
        usd=sum(one.cost_usd + one.lost_usd for one in facts),
        seconds=sum(one.ask_seconds for one in facts),
        expected_requests=sum(one.requests for one in expected),
        expected_tokens=sum(one.prompt_tokens + one.completion_tokens for one in expected),
        expected_usd=sum(one.usd for one in expected),
        expected_seconds=_expected_seconds(facts),
    )


def _local(stage: str, work: str, facts: Sequence[TimedFacts]) -> Took:
    return Took(stage, work, 0, 0, 0.0, sum(one.wall_seconds for one in facts), 0, 0, 0.0, _expected_seconds(facts))


def _rows(facts: Sequence[Facts]) -> int:
    return sum(one.rows for one in facts)


def _expected_seconds(facts: Sequence[Facts]) -> float | None:
    """None where the time of one was not known."""
    seconds = [one.estimate.seconds for one in facts]
    known = [value for value in seconds if value is not None]
    return float(sum(known)) if len(known) == len(seconds) else None
