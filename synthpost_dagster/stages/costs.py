"""What the stages of a study used in requests, tokens, dollars and time, from the facts of their artifacts."""

from collections.abc import Sequence

from synthpost_dagster.artifacts.manifest import Manifest
from synthpost_dagster.report.data import StageCost, Usage
from synthpost_dagster.stages.facts import AdapterFacts, AskedFacts, Facts, RowsFacts, TimedFacts


def stage_costs(
    rows: Manifest,
    untuned: list[Manifest],
    adapters: list[Manifest],
    predictions: list[Manifest],
    verdicts: list[Manifest],
) -> tuple[StageCost, ...]:
    """One record for each stage that takes time or money, summed over the cells; `verdicts` may hold the controls."""
    written, trained = RowsFacts.of(rows), [AdapterFacts.of(manifest) for manifest in adapters]
    base, tuned = ([TimedFacts.of(one) for one in posts] for posts in (untuned, predictions))
    judged = [AskedFacts.of(manifest) for manifest in verdicts]
    steps = sum(facts.optimizer_steps for facts in trained)
    return (
        _cost("Synthetic rows", f"{written.kept:,} kept rows", [written]),
        _cost("Untuned posts", f"{_rows(base):,} posts", base),
        _cost("Training", f"{len(trained)} trainings, {steps:,} steps", trained),
        _cost("Predictions", f"{_rows(tuned):,} posts", tuned),
        _cost("Verdicts", f"{_rows(judged):,} games", judged),
    )


def _cost(stage: str, work: str, facts: Sequence[AskedFacts | TimedFacts]) -> StageCost:
    estimates = [one.estimate for one in facts]
    expected = [
        Usage(one.requests, one.prompt_tokens + one.completion_tokens, one.usd, one.seconds) for one in estimates
    ]
    return StageCost(stage, work, _total([_usage_of(one) for one in facts]), _total(expected))


def _usage_of(facts: AskedFacts | TimedFacts) -> Usage:
    if isinstance(facts, TimedFacts):
        return Usage(seconds=facts.wall_seconds)
    tokens = facts.prompt_tokens_asked + facts.completion_tokens_asked
    return Usage(facts.asked_now, tokens, facts.cost_usd + facts.lost_usd, facts.ask_seconds)


def _total(usages: Sequence[Usage]) -> Usage:
    seconds = [one.seconds for one in usages if one.seconds is not None]
    return Usage(
        sum(one.requests for one in usages),
        sum(one.tokens for one in usages),
        sum(one.usd for one in usages),
        float(sum(seconds)) if len(seconds) == len(usages) else None,
    )


def _rows(facts: Sequence[Facts]) -> int:
    return sum(one.rows for one in facts)
