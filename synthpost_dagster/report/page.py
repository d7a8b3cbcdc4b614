"""Renders the report: one HTML page that needs no network, from what `report.data` gathered.

The words of the headline and the forms of numbers are decided here, the layout in `page.html.j2`, the drawings in
`report.figures`. Counts, ratios and intervals come with the data; none is computed here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from synthpost_dagster.report import figures
from synthpost_dagster.report.figures import CONTESTANT_NAMES, NO_DECISIVE_PAIR, Cell
from synthpost_dagster.report.texts import dollars_text, duration_text, number_text, ratio_text
from synthpost_dagster.schemas import OPPONENTS, OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

    from synthpost_dagster.report.data import Pair, ReportData, Took, Training

FACTORS = {"post_type": "Post type", "tone": "Tone", "length": "Length"}
_NOTHING_DECISIVE = "Against the untuned model with the short prompt no pair was won or lost: there is no ratio."
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_KEY = re.compile(r"([1-9]\d*)\|([1-9]\d*(?:-epoch)?)")


class Score(NamedTuple):
    """A cell, or one level of a factor in it, against one opponent: figures and how they are printed."""

    pairs: int
    wins: int
    losses: int
    ties: int
    unscored: int
    low: float
    high: float
    ratio: str
    tie_aware: str

    @property
    def counts(self) -> str:
        """The four counts in one phrase."""
        return f"W {self.wins}, L {self.losses}, T {self.ties}, X {self.unscored} of {self.pairs} pairs"

    @property
    def is_decisive(self) -> bool:
        """Whether any pair was won or lost, so that there is a ratio."""
        return self.wins + self.losses > 0


class CellView(NamedTuple):
    """One cell's line in the tables; a score is None where that comparison was not made."""

    cell: Cell
    rows_seen: int
    optimizer_steps: int
    base: Score | None
    prompted: Score | None
    replicate_group: int
    """Cells with the same number, from 1, are replicates of each other; 0 for the others."""


class Level(NamedTuple):
    """One level of a factor in one cell."""

    name: str
    base: Score | None
    prompted: Score | None


class Breakdown(NamedTuple):
    """One cell by one factor."""

    title: str
    levels: tuple[Level, ...]


class Headline(NamedTuple):
    """What the page says first: a title and the sentences under it; `cell` is None where there is no winner to name."""

    title: str
    sentences: tuple[str, ...]
    cell: CellView | None


class CriterionShares(NamedTuple):
    """One criterion's line: the share of posts that meet it, by contestant, in the order of the table's columns."""

    name: str
    text: str
    posts: str
    shares: tuple[str, ...]


class TrainingView(NamedTuple):
    """One cell's line in the table of training runs."""

    cell: Cell
    steps_done: int
    first_loss: str
    last_loss: str
    wall_time: str
    peak: str
    device: str


class TookView(NamedTuple):
    """One stage's line in the table of what the study took: what it came to, and what was expected."""

    stage: str
    work: str
    requests: str
    tokens: str
    cost: str
    time: str


def render_page(data: ReportData) -> str:
    """The whole page as HTML, without a reference to anything outside it; the same text for the same data."""
    environment = Environment(
        loader=PackageLoader("synthpost_dagster", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"thousands": "{:,}".format}
    template = environment.get_template("page.html.j2")
    script = "".join(template.blocks["script"](template.new_context()))
    return _printable(template.render(_context(data), script_hash=_csp_hash(script)))


def headline(cells: Sequence[CellView], prompt_tokens: dict[str, float]) -> Headline:
    """What the sweep shows, in words; the cell named is the one with the highest lower bound against `base`."""
    rated = [view for view in cells if view.base and view.base.is_decisive]
    if not cells:
        return Headline("No cell has been judged yet.", ("There are no verdicts to report.",), None)
    if not rated:
        return Headline("No cell has a decisive pair.", (_NOTHING_DECISIVE,), None)
    best = max(rated, key=lambda view: (_against_base(view).low, -view.optimizer_steps, -view.rows_seen))
    sentences = (
        _best_sentence(best, len(cells)),
        *_alike_sentences(best, rated, len(cells) - len(rated)),
        *_prompted_sentences(best, prompt_tokens),
    )
    return Headline(_headline_title(best, rated), sentences, best)


def _against_base(view: CellView) -> Score:
    if view.base is None:
        raise ValueError(f"cell {view.cell.key} has no score against base")
    return view.base


def _headline_title(best: CellView, rated: Sequence[CellView]) -> str:
    score = _against_base(best)
    if all(_against_base(view).high < 1 for view in rated):
        return "In every cell the tuned posts lose to the untuned model more often than they win."
    if score.low <= 1:
        return "No cell is shown to beat the untuned model with the short prompt."
    if not score.losses:
        return f"{best.cell.label}: the tuned posts won every decisive pair."
    return f"{best.cell.label}: {number_text(score.wins / score.losses)} wins for every loss."


def _best_sentence(best: CellView, cells: int) -> str:
    score = _against_base(best)
    chosen = (
        f"Of {cells} cells it has the highest lower bound. Being picked as the best flatters it: expect somewhat less."
    )
    return (
        f"Against the untuned model with the short prompt, {best.cell.label} has a win ratio of {score.ratio}: "
        f"{score.counts}. {chosen if cells > 1 else 'It is the only cell.'}"
    )


def _alike_sentences(best: CellView, rated: Sequence[CellView], unrated: int) -> list[str]:
    """Which other cells the best one cannot be told from, by overlap of intervals."""
    alike = [view for view in rated if view is not best and _against_base(view).high >= _against_base(best).low]
    below = len(rated) - 1 - len(alike)
    sentences = []
    if alike:
        names = "; ".join(view.cell.label for view in alike)
        sentences.append(
            f"Its interval overlaps that of {_counted(len(alike), 'other cell')}, so these figures do not tell it from "
            f"{'them' if len(alike) > 1 else 'that one'}: {names}. Overlap does not show that they are equal. "
            + _cheapest_sentence(best, alike)
        )
    if below:
        sentences.append(
            f"{_counted(below, 'other cell')} {'have' if below > 1 else 'has'} the whole interval below it."
        )
    if unrated:
        sentences.append(f"{_counted(unrated, 'cell')} cannot be placed: {NO_DECISIVE_PAIR}.")
    return sentences


def _cheapest_sentence(best: CellView, alike: Sequence[CellView]) -> str:
    cheapest = min([best, *alike], key=lambda view: (view.cell.data_size, view.optimizer_steps))
    if cheapest is best:
        return "It is also the smallest of these."
    return f"The smallest of all these is {cheapest.cell.label}: no other needs fewer rows, or as few and fewer steps."


def _prompted_sentences(best: CellView, prompt_tokens: dict[str, float]) -> list[str]:
    """How the best cell does against prompting with all criteria, and what the shorter prompt saves."""
    sentences = []
    if best.prompted:
        score = best.prompted
        sentences.append(
            f"Against the untuned model with the long prompt, which holds all criteria, its win ratio is "
            f"{score.ratio}: {score.counts}. {_placement(score)}"
        )
    saved = _tokens_saved(prompt_tokens)
    if saved is not None:
        sentences.append(
            f"The tuned model works with the short prompt: {prompt_tokens['base']:,.0f} tokens on average instead of "
            f"{prompt_tokens['prompted']:,.0f}, so {saved:,.0f} fewer for every post."
        )
    return sentences


def _placement(score: Score) -> str:
    if not score.is_decisive:
        return "So nothing can be said about it."
    if score.low > 1:
        return "So it does better than prompting alone."
    if score.high < 1:
        return "So prompting alone does better."
    return "The interval holds 1, so neither is shown to be better."


def _tokens_saved(prompt_tokens: dict[str, float]) -> float | None:
    """Prompt tokens saved on a post; None where a mean is not known or nothing is saved."""
    saved = prompt_tokens.get("prompted", 0.0) - prompt_tokens.get("base", math.inf)
    return saved if saved > 0 else None


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _context(data: ReportData) -> dict[str, Any]:
    cells = _cell_views(data.ratios)
    first = headline(cells, data.prompt_tokens)
    best = first.cell.cell if first.cell else None
    criteria = _checked_criteria(data)
    return {
        "data": data,
        "headline": first,
        "tokens_saved": _tokens_saved(data.prompt_tokens),
        "cells": cells,
        "cells_by_length": sorted(cells, key=lambda view: (view.cell.sweep_order[1:], view.cell.data_size)),
        "replicates": _replicate_notes(cells),
        "missing": [(_cell_name(key), reason) for key, reason in data.missing],
        "breakdowns": [(view.cell, _breakdowns(data, view.cell)) for view in cells],
        "compliance_columns": _compliance_columns(data.compliance),
        "compliance": [_criterion_shares(data, criterion) for criterion in criteria],
        "training": [_training_view(run) for run in sorted(data.training, key=_training_order)],
        "took": [_took_view(took) for took in data.took],
        "figures": _figures(data, criteria, best),
        "names": CONTESTANT_NAMES,
        "outcomes": OUTCOMES,
        "pairs": Markup(_pairs_json(data, best)),  # noqa: S704 - every '<' in it is escaped
    }


def _figures(data: ReportData, criteria: Sequence[str], best: Cell | None) -> dict[str, Markup]:
    """SVG by the name that the template asks for."""
    drawn = {
        "all_cells": figures.all_cells(data.ratios),
        "ratio_by_size": figures.ratio_by_size(data.ratios),
        "ratio_by_length": figures.ratio_by_length(data.ratios),
        "compliance": figures.compliance(data.compliance, criteria, best),
        "loss_curves": figures.loss_curves(data.training),
    }
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704 - matplotlib escapes its text


def _score(row: Any) -> Score:
    return Score(
        pairs=int(row.pairs),
        wins=int(row.wins),
        losses=int(row.losses),
        ties=int(row.ties),
        unscored=int(row.unscored),
        low=float(row.win_ratio_low),
        high=float(row.win_ratio_high),
        ratio=ratio_text(row.win_ratio, row.win_ratio_low, row.win_ratio_high),
        tie_aware=number_text(row.tie_aware_ratio),
    )


def _scores(of_opponent: dict[str, Any]) -> tuple[Score | None, Score | None]:
    """The scores against `base` and `prompted`, from the table's rows by opponent."""
    base, prompted = (_score(of_opponent[name]) if name in of_opponent else None for name in OPPONENTS)
    return base, prompted


def _cell_views(ratios: pd.DataFrame) -> list[CellView]:
    """The cells in sweep order."""
    rows: dict[Cell, dict[str, Any]] = {}
    for row in ratios[ratios["factor"] == "all"].itertuples():
        rows.setdefault(Cell(int(row.data_size), str(row.steps)), {})[str(row.opponent)] = row
    groups = _replicate_groups(rows)
    views = []
    for cell in sorted(rows, key=lambda cell: cell.sweep_order):
        row = next(iter(rows[cell].values()))
        base, prompted = _scores(rows[cell])
        group = groups.get(cell, 0)
        views.append(CellView(cell, int(row.rows_seen), int(row.optimizer_steps), base, prompted, group))
    return views


def _replicate_groups(rows: dict[Cell, dict[str, Any]]) -> dict[Cell, int]:
    """Cell → number of its group: at the same steps, each sees fewer rows than the smallest subset of the group."""
    by_steps: dict[int, list[Cell]] = {}
    for cell, of_opponent in rows.items():
        row = next(iter(of_opponent.values()))
        if row.rows_seen < cell.data_size:
            by_steps.setdefault(int(row.optimizer_steps), []).append(cell)
    groups = [by_steps[steps] for steps in sorted(by_steps) if len(by_steps[steps]) > 1]
    return {cell: number for number, group in enumerate(groups, start=1) for cell in group}


def _replicate_notes(cells: Sequence[CellView]) -> list[str]:
    notes = []
    for number in range(1, max((view.replicate_group for view in cells), default=0) + 1):
        group = [view for view in cells if view.replicate_group == number]
        names = "; ".join(view.cell.label for view in group)
        notes.append(
            f"Replicates {number}: {names}. Each sees {group[0].rows_seen:,} rows in {group[0].optimizer_steps:,} "
            "steps, fewer than the smallest of these subsets holds. They are repeats of one experiment: read no "
            "effect of data size into the differences."
        )
    return notes


def _cell_name(key: str) -> str:
    match = _KEY.fullmatch(key)
    return Cell(int(match[1]), match[2]).label if match else key


def _breakdowns(data: ReportData, cell: Cell) -> tuple[Breakdown, ...]:
    ratios = data.ratios
    of_cell = ratios[(ratios["data_size"] == cell.data_size) & (ratios["steps"] == cell.steps)]
    return tuple(
        Breakdown(title, _levels(of_cell[of_cell["factor"] == factor], data.levels.get(factor, ())))
        for factor, title in FACTORS.items()
    )


def _levels(rows: pd.DataFrame, order: Sequence[str]) -> tuple[Level, ...]:
    """One line a level, in the task's order; levels that the task no longer names come last."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows.itertuples():
        found.setdefault(str(row.level), {})[str(row.opponent)] = row
    return tuple(Level(level, *_scores(found[level])) for level in _in_order(found, order))


def _in_order(names: Iterable[str], order: Sequence[str]) -> list[str]:
    present = set(names)
    return [*(name for name in order if name in present), *sorted(present - set(order))]


def _checked_criteria(data: ReportData) -> list[str]:
    return _in_order(map(str, data.compliance["criterion"]), list(data.criteria))


def _compliance_columns(shares: pd.DataFrame) -> list[tuple[str, Cell | None]]:
    """(contestant's name, its cell) of each column: the baselines, then the tuned cells in sweep order."""
    present = set(map(str, shares["contestant"]))
    tuned = shares[shares["contestant"] == "tuned"]
    cells = {Cell(int(row.data_size), str(row.steps)) for row in tuned.itertuples()}
    baselines: list[tuple[str, Cell | None]] = [(name, None) for name in OPPONENTS if name in present]
    return [*baselines, *(("tuned", cell) for cell in sorted(cells, key=lambda cell: cell.sweep_order))]


def _criterion_shares(data: ReportData, criterion: str) -> CriterionShares:
    rows = data.compliance[data.compliance["criterion"] == criterion]
    met = {(str(row.contestant), int(row.data_size), str(row.steps)): row.met / row.posts for row in rows.itertuples()}
    columns = [(contestant, *(cell or Cell(0, ""))) for contestant, cell in _compliance_columns(data.compliance)]
    return CriterionShares(
        criterion.replace("_", " "),
        data.criteria.get(criterion, ""),
        _range_text(rows["posts"]),
        tuple(f"{100 * met[column]:.0f} %" if column in met else "none" for column in columns),
    )


def _range_text(counts: Iterable[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _training_order(run: Training) -> tuple[int, bool, int]:
    return Cell(run.data_size, run.steps).sweep_order


def _training_view(run: Training) -> TrainingView:
    losses = [float(loss) for loss in run.loss.sort_values("step")["loss"]]
    tenth = math.ceil(len(losses) / 10)
    return TrainingView(
        Cell(run.data_size, run.steps),
        len(losses),
        _mean_text(losses[:tenth]),
        _mean_text(losses[-tenth:]),
        duration_text(run.wall_seconds),
        f"{run.peak_gib:.1f} GiB",
        run.device,
    )


def _took_view(took: Took) -> TookView:
    return TookView(
        took.stage,
        took.work,
        _beside(f"{took.requests:,}", None if not took.requests else f"{took.expected_requests:,}"),
        _beside(f"{took.tokens:,}", None if not took.requests else f"{took.expected_tokens:,}"),
        _beside(dollars_text(took.usd), None if not took.requests else dollars_text(took.expected_usd)),
        _beside(
            duration_text(took.seconds), None if took.expected_seconds is None else duration_text(took.expected_seconds)
        ),
    )


def _beside(actual: str, expected: str | None) -> str:
    return actual if expected is None else f"{actual} ({expected})"


def _mean_text(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.2f}" if values else "none"


def _pairs_json(data: ReportData, start: Cell | None) -> str:
    """The pairs for the page's script: each text once, and rows of indexes into them; holds no '<'."""
    index: dict[str, int] = {}

    def put(text: str) -> int:
        return index.setdefault(_printable(text), len(index))

    pairs = sorted(data.pairs, key=lambda pair: Cell(pair.data_size, pair.steps).sweep_order)
    rows = [[put(text) for text in _pair_texts(pair)] for pair in pairs]
    options = {
        "cell": list(dict.fromkeys(row[0] for row in rows)),
        "company": [put(name) for name in sorted({pair.company for pair in pairs}, key=str.casefold)],
        "post_type": _option_indexes(put, (pair.post_type for pair in pairs), data.levels.get("post_type", ())),
        "tone": _option_indexes(put, (pair.tone for pair in pairs), data.levels.get("tone", ())),
    }
    content = {"rows": rows, "options": options, "start": put(start.label) if start else -1, "strings": list(index)}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _option_indexes(put: Any, names: Iterable[str], order: Sequence[str]) -> list[int]:
    return [put(name) for name in _in_order(names, order)]


def _pair_texts(pair: Pair) -> list[str]:
    """The texts of one row, in the order that the script reads them."""
    return [
        Cell(pair.data_size, pair.steps).label,
        pair.company,
        pair.product,
        pair.product_description,
        pair.post_type,
        pair.tone,
        pair.length,
        pair.tuned,
        pair.base,
        pair.prompted,
        pair.outcome_base,
        pair.outcome_prompted,
    ]


def _printable(text: str) -> str:
    """The text with a visible mark in place of control characters and halves of surrogate pairs."""
    return _UNPRINTABLE.sub("\ufffd", text)


def _csp_hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
