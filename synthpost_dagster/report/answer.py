"""The answer on the page's first screen: tune, do not tune, or not enough evidence, and the next steps.

The decision is made here as values; its sentences are in `templates/_answer.html.j2`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from synthpost_dagster.cell import Cell
from synthpost_dagster.report.data import ReportData, Worth
from synthpost_dagster.report.views import CellView
from synthpost_dagster.statistics.choice import is_placeable, is_too_unscored
from synthpost_dagster.statistics.power import PLANNED_SHARE, pairs_to_detect

if TYPE_CHECKING:
    from synthpost_dagster.statistics.ratio import Counts, Ratio

Decision = Literal["yes", "no", "unclear"]
Reason = Literal[
    "better than every baseline",
    "better than the short prompt",
    "worse in every cell",
    "worse than the long prompt",
    "not shown to beat the short prompt",
    "not shown to beat the long prompt",
    "judge failed",
    "style decides",
    "too many unscored",
    "no decisive pair",
    "nothing judged",
]
_DECISIONS: dict[Reason, Decision] = {
    "better than every baseline": "yes",
    "better than the short prompt": "yes",
    "worse in every cell": "no",
    "worse than the long prompt": "no",
}
"""All other reasons leave the question open. The long prompt counts because it needs no training."""


class Baseline(NamedTuple):
    """A contestant against a baseline; `prompt_tokens` are the mean tokens of their prompts, None where unknown."""

    contestant: str
    opponent: str
    counts: Counts
    ratio: Ratio
    prompt_tokens: tuple[float | None, float | None]

    @property
    def is_placeable(self) -> bool:
        """Whether enough pairs were scored, and any won or lost, to say who is better."""
        return is_placeable(self.counts)


class Next(NamedTuple):
    """A next step: `kind` selects its sentence, `about` is its cell, step or number."""

    kind: str
    about: Cell | Worth | int | None = None


class Answer(NamedTuple):
    """The answer; `best` is None where no cell is named."""

    decision: Decision
    reason: Reason
    best: CellView | None
    baselines: tuple[Baseline, ...]
    too_unscored: tuple[CellView, ...]
    """Cells with too many unscored pairs to be compared."""
    undecided: int
    """Other cells without a decisive pair."""
    smallest: Cell | None
    """Smallest of the best cell and its equals; `cheapest` likewise."""
    cheapest: Cell | None
    next: tuple[Next, ...]


def answer_of(data: ReportData, cells: Sequence[CellView]) -> Answer:
    """The answer. No cell is named where the judge cannot be trusted or style decides the outcomes."""
    reason = _reason(data, cells)
    is_open = reason in ("judge failed", "style decides")
    best = None if is_open else _best(data, cells)
    scores = [(view, view.scores["base"].counts if "base" in view.scores else None) for view in cells]
    unscored = tuple(view for view, counts in scores if counts and is_too_unscored(counts))
    undecided = sum(
        view not in unscored and not (counts and counts.wins + counts.losses > 0) for view, counts in scores
    )
    smallest, cheapest = (
        _least(data, cells, [data.choice.cell, *data.choice.alike]) if best and data.choice else (None, None)
    )
    found = Answer(
        decision=_DECISIONS.get(reason, "unclear"),
        reason=reason,
        best=best,
        baselines=tuple(_baselines(data, best)),
        too_unscored=() if is_open else unscored,
        undecided=0 if is_open else undecided,
        smallest=smallest,
        cheapest=cheapest,
        next=(),
    )
    return found._replace(next=tuple(_next(data, cells, found)))


def _reason(data: ReportData, cells: Sequence[CellView]) -> Reason:
    if not data.trust.is_judge_trusted:
        return "judge failed"
    if data.separations:
        return "style decides"
    if not cells:
        return "nothing judged"
    against = [view.scores["base"] for view in cells if "base" in view.scores]
    best = _best(data, cells)
    if data.choice is None or best is None:
        is_unscored = any(is_too_unscored(score.counts) for score in against)
        return "too many unscored" if is_unscored else "no decisive pair"
    if all(score.ratio.high < 1 for score in against if score.is_decisive):
        return "worse in every cell"
    if data.choice.ratio.low <= 1:
        return "not shown to beat the short prompt"
    return _reason_against_prompted(data.choice.against_prompted, best)


def _best(data: ReportData, cells: Sequence[CellView]) -> CellView | None:
    """The chosen cell."""
    chosen = data.choice.cell if data.choice else None
    return next((view for view in cells if view.cell == chosen and "base" in view.scores), None)


def _reason_against_prompted(ratio: Ratio, best: CellView) -> Reason:
    if "prompted" not in best.scores:
        return "better than the short prompt"
    if not is_placeable(best.scores["prompted"].counts) or ratio.low <= 1 <= ratio.high:
        return "not shown to beat the long prompt"
    return "better than every baseline" if ratio.low > 1 else "worse than the long prompt"


def _baselines(data: ReportData, best: CellView | None) -> list[Baseline]:
    """The best cell against each baseline, with intervals that allow for the choice; then the two baselines."""
    short, long = (data.prompt_tokens.get(name) for name in ("base", "prompted"))
    found = []
    if best and data.choice:
        ratios = {"base": data.choice.ratio, "prompted": data.choice.against_prompted}
        found = [
            Baseline("tuned", name, score.counts, ratios[name], (short, data.prompt_tokens.get(name)))
            for name, score in best.scores.items()
        ]
    if data.prompting:
        found.append(Baseline("prompted", "base", data.prompting.counts, data.prompting.ratio, (long, short)))
    return found


def _least(data: ReportData, cells: Sequence[CellView], equal: Sequence[Cell]) -> tuple[Cell, Cell | None]:
    """The smallest and the cheapest of the cells that cannot be told apart."""

    def price(cell: Cell) -> tuple[float, float]:
        cost = data.costs[cell]
        return cost.row_usd, cost.training_seconds + (0.0 if math.isnan(cost.row_seconds) else cost.row_seconds)

    done = {view.cell: view.optimizer_steps for view in cells}
    cheapest = min((cell for cell in equal if cell in data.costs), key=price, default=None)
    return min(equal, key=lambda cell: (cell.data_size, done[cell])), cheapest


def _next(data: ReportData, cells: Sequence[CellView], answer: Answer) -> list[Next]:
    """The next steps, the most useful first."""
    if answer.reason == "judge failed":
        return [Next("replace the judge")]
    if answer.reason == "style decides":
        return [Next("compare posts of equal style")]
    if answer.reason == "too many unscored":
        return [Next("fix unscored games")]
    if not answer.best or not data.choice:
        return [Next("run more cells")]
    found = []
    if answer.decision == "yes":
        found.append(Next("use the adapter", answer.best.cell))
    if answer.reason == "worse than the long prompt":
        found.append(Next("use the long prompt"))
    elif answer.decision == "unclear":
        # As many prompts as show that 60 % of the decided pairs were won; with that many, a larger effect is needed.
        needed = math.ceil(pairs_to_detect(PLANNED_SHARE) / (data.decisive_share or 1.0))
        is_more = needed > data.evaluation_prompts
        found.append(Next("judge more prompts", needed) if is_more else Next("try more rows or steps"))
    if answer.decision != "no" and answer.cheapest and answer.cheapest != answer.best.cell:
        found.append(Next("consider the cheaper cell", answer.cheapest))
    gains = [step for step in data.worth if step.smaller == answer.best.cell and step.finding == "gain"]
    found += [Next("take the larger cell", step) for step in gains]
    sizes, lengths = ({view.cell.data_size for view in cells}, {view.optimizer_steps for view in cells})
    is_largest = (answer.best.cell.data_size, answer.best.optimizer_steps) == (max(sizes), max(lengths))
    if not gains and is_largest:
        found.append(Next("extend the sweep", answer.best.cell))
    if data.trust.missing_controls:
        found.append(Next("test the judge"))
    if data.trust.people is None:
        found.append(Next("check the judge with people"))
    if not any(one.cell == answer.best.cell for one in data.seeds):
        found.append(Next("train another seed", answer.best.cell))
    return found
