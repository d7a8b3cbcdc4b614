"""What the stages of a study took: as facts for their manifests, and from these for the page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from synthpost_dagster.artifacts.store import Manifest
from synthpost_dagster.llm.estimate import Expected
from synthpost_dagster.report.data import Took


def wall_facts(seconds: float, expected: Expected) -> dict[str, Any]:
    """Facts of work on this machine: what it took, and what was expected."""
    return {"wall_seconds": round(seconds, 2), "estimate": expected.facts}


def took(
    rows: Manifest,
    untuned: list[Manifest],
    adapters: list[Manifest],
    predictions: list[Manifest],
    verdicts: list[Manifest],
) -> tuple[Took, ...]:
    """One record a stage that takes time or money; those of cells are summed, and `verdicts` may hold the controls."""
    cells = f"{len(adapters)} trainings"
    steps = sum(manifest.facts["optimizer_steps"] for manifest in adapters)
    return (
        _asked("Synthetic rows", f"{rows.facts['kept']:,} kept rows", [rows]),
        _local("Untuned posts", f"{sum(manifest.facts['rows'] for manifest in untuned):,} posts", untuned),
        _local("Training", f"{cells}, {steps:,} steps", adapters),
        _local("Predictions", f"{sum(manifest.facts['rows'] for manifest in predictions):,} posts", predictions),
        _asked("Verdicts", f"{sum(manifest.facts['rows'] for manifest in verdicts):,} games", verdicts),
    )


def _asked(stage: str, work: str, manifests: list[Manifest]) -> Took:
    facts = [manifest.facts for manifest in manifests]
    expected = [fact["estimate"] for fact in facts]
    return Took(
        stage,
        work,
        requests=_sum(facts, "asked_now"),
        tokens=_sum(facts, "prompt_tokens_asked") + _sum(facts, "completion_tokens_asked"),
        usd=_sum(facts, "cost_usd") + _sum(facts, "lost_usd"),
        seconds=_sum(facts, "ask_seconds"),
        expected_requests=_sum(expected, "requests"),
        expected_tokens=_sum(expected, "prompt_tokens") + _sum(expected, "completion_tokens"),
        expected_usd=_sum(expected, "usd"),
        expected_seconds=_known_sum(expected),
    )


def _local(stage: str, work: str, manifests: list[Manifest]) -> Took:
    facts = [manifest.facts for manifest in manifests]
    expected = _known_sum([fact["estimate"] for fact in facts])
    return Took(stage, work, 0, 0, 0.0, _sum(facts, "wall_seconds"), 0, 0, 0.0, expected)


def _sum(records: Iterable[dict[str, Any]], name: str) -> Any:
    return sum(record[name] for record in records)


def _known_sum(estimates: list[dict[str, Any]]) -> float | None:
    seconds = [estimate["seconds"] for estimate in estimates]
    return None if None in seconds else float(sum(seconds))
