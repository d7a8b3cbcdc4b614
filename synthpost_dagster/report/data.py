"""The values that the page shows. Nothing is drawn and no artifact is read here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from synthpost_dagster.artifacts.explanation import Explanation
from synthpost_dagster.cell import Cell
from synthpost_dagster.judging.controls import Controlled
from synthpost_dagster.pairs.table import Contradictions, Repair
from synthpost_dagster.statistics.agreement import Agreement
from synthpost_dagster.statistics.comparison import Comparison, GameFigures
from synthpost_dagster.statistics.corners import Corner
from synthpost_dagster.statistics.order import OrderFigures
from synthpost_dagster.statistics.paired import Difference
from synthpost_dagster.statistics.perplexity import Perplexities, whole
from synthpost_dagster.statistics.ratio import Ratio
from synthpost_dagster.statistics.seeds import SeedSpread
from synthpost_dagster.statistics.style import Separation

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.report.data_quality import DataQuality


SMALL_LENGTH_COEFFICIENT = 0.25
"""Up to this coefficient, in both directions, a post one standard deviation longer has at most 1.2 times the odds."""


class Training(NamedTuple):
    """How one cell was trained."""

    cell: Cell
    seed: int
    wall_seconds: float
    peak_gib: float
    device: str
    loss: pd.DataFrame
    """Columns `step`, `loss`, `learning_rate` (schema LossCurve)."""
    general_text: pd.DataFrame
    """Perplexities by kind of general text (schema Forgetting)."""

    @property
    def losses(self) -> tuple[float, float]:
        """Mean loss of the first and of the last tenth of the steps; NaN without steps."""
        losses = [float(loss) for loss in self.loss.sort_values("step")["loss"]]
        tenth = math.ceil(len(losses) / 10)
        first, last = losses[:tenth], losses[-tenth:]
        return (sum(first) / tenth, sum(last) / tenth) if tenth else (math.nan, math.nan)

    @property
    def perplexities(self) -> Perplexities:
        """Perplexities of all general text, untuned and tuned."""
        return whole(self.general_text)


class Usage(NamedTuple):
    """Requests, tokens, dollars and seconds; `seconds` is None where unknown."""

    requests: int = 0
    tokens: int = 0
    usd: float = 0.0
    seconds: float | None = 0.0


class StageCost(NamedTuple):
    """What a stage used when its artifacts were made, and the estimate from before it started."""

    stage: str
    work: str
    used: Usage
    expected: Usage


class Cost(NamedTuple):
    """What a cell cost to make, without judging."""

    row_usd: float
    """Mean price of a kept row times the data size."""
    row_seconds: float
    """Mean time of a kept row times the data size; NaN where all replies came from the journal."""
    training_seconds: float


class Choice(NamedTuple):
    """The cell with the highest lower bound against `base`, with figures that allow for the choice."""

    cell: Cell
    ratio: Ratio
    """Its interval holds for all cells at once."""
    worst_case: Ratio
    """With every unscored pair counted as lost; its interval likewise."""
    chosen_among: int
    better: tuple[Cell, ...]
    """The cells with a higher win rate on the same prompts, shown to be so, in sweep order."""
    alike: tuple[Cell, ...]
    """The cells it cannot be told apart from on the same prompts, in sweep order."""
    against_prompted: Ratio
    """Against `prompted`; its interval holds for all cells at once, too."""


class Worth(NamedTuple):
    """A step of the surface: its gain in win rate against `base`, and its additional cost."""

    axis: str
    """data or training."""
    smaller: Cell
    larger: Cell
    difference: Difference
    finding: str
    """gain, loss, not enough evidence or replicates (statistics.advice)."""
    more: Cost
    """Cost of the larger cell less that of the smaller."""


class Seeds(NamedTuple):
    """A cell that was trained under several seeds, against `base`."""

    cell: Cell
    seeds: tuple[int, ...]
    """The first is that of the rest of the page."""
    spread: SeedSpread


class JudgeFigures(NamedTuple):
    """Figures of one judge over all games of the sweep; a panel counts as a judge too."""

    name: str
    family: str
    """Family of models, such as llama; empty where unknown, `rubric` for the criteria on text."""
    games: int
    unscored: int
    order: OrderFigures | None
    """None in study mode, where one order is played."""


class LengthEffect(NamedTuple):
    """The length coefficient β of a cell (statistics.length_control) with its interval; NaN where there is none."""

    coefficient: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def odds(self) -> float:
        """Factor on the odds of a post that is one standard deviation longer."""
        return math.exp(math.tanh(1) * self.coefficient)

    @property
    def finding(self) -> str:
        """small, unclear, longer or shorter (which the judge prefers); empty without a coefficient.

        Small only where the whole interval is: a coefficient near 0 from few pairs shows nothing.
        """
        if math.isnan(self.coefficient):
            return ""
        if self.low > -SMALL_LENGTH_COEFFICIENT and self.high < SMALL_LENGTH_COEFFICIENT:
            return "small"
        if not self.low > 0 and not self.high < 0:
            return "unclear"
        return "longer" if self.coefficient > 0 else "shorter"


class Trust(NamedTuple):
    """The trust card."""

    judges: tuple[JudgeFigures, ...]
    student_family: str
    teacher_family: str
    length_effect: LengthEffect
    """Of the headline cell against `base`."""
    controls: tuple[Controlled, ...]
    """Empty where the controls have not been judged."""
    missing_controls: str
    """Why there are no controls, else empty."""
    between_judges: tuple[tuple[str, str, Agreement], ...]
    """Two members of the panel, and how their pair outcomes agree."""
    people: Agreement | None
    """The pairs' outcomes and people's; None where no labels were given."""
    unknown_labels: int
    """Number of labels whose pair is not in this report."""
    imitations: int
    """Games in which a post imitated a verdict, a mark or a special token."""
    unscored: tuple[Explanation, ...] = ()
    """Why games were unscored, for each judge with too many of them."""

    @property
    def is_judge_trusted(self) -> bool:
        """Whether no control says that the judge cannot be trusted."""
        return all(result.control.finding != "untrusted" for result in self.controls)


class Game(NamedTuple):
    """One game, as the browser of posts shows it."""

    judge: str
    is_candidate_first: bool
    outcome: str
    """win, loss, tie or unscored, seen from the candidate."""
    why: str
    """The judge's sentence, or why the game is unscored."""
    criteria: tuple[tuple[str, str], ...]
    """(criterion id, win | loss | tie), seen from the candidate; empty where the judge named none."""


class Match(NamedTuple):
    """The candidate's post against one opponent's post."""

    pair_id: str
    outcome: str
    games: tuple[Game, ...]


class Side(NamedTuple):
    """The posts of one prompt, side by side."""

    title: tuple[str, ...]
    about: str
    """What the posts are about: the first text of the item."""
    values: tuple[str, ...]
    """Values of the filters, in their order: cell and factors."""
    posts: tuple[str, ...]
    """The candidate's, then those of its opponents."""
    matches: tuple[Match, ...]
    """One for each opponent."""
    label: str = ""
    """The raw label, where labels were read instead of judging."""


@dataclass(frozen=True)
class ReportData:
    """Everything on the page.

    `ratios` follows the schema RatioReport, `compliance` the schema Compliance. `missing` names the cells of the
    profile's sweep that have no verdicts yet, with the reason.
    """

    task: str
    task_description: str
    profile: str
    student: str
    teacher: str
    judges: tuple[str, ...]
    is_embedded: bool
    """Whether the student is the model that ships with the package: its figures only show that the machinery works."""
    is_study_mode: bool
    """One order, baseline first, forced choice: every figure is labelled so."""
    evaluation_prompts: int
    training_seed: int
    """The profile's. The page shows the cells of this seed, and only the ratios of further seeds."""
    ratios: pd.DataFrame
    compliance: pd.DataFrame
    choice: Choice | None
    """None where no cell can be chosen."""
    prompting: Comparison | None
    """The untuned model with the teacher prompt against itself with the student prompt; None where not judged."""
    trust: Trust
    worth: tuple[Worth, ...]
    seeds: tuple[Seeds, ...]
    corners: tuple[Corner, ...]
    """Weak corners of the headline's cell, against `base`."""
    separations: tuple[Separation, ...]
    """Traits of style that separate the outcomes of the headline's cell against `base`."""
    quality: DataQuality
    costs: dict[Cell, Cost]
    training: tuple[Training, ...]
    max_perplexity_ratio: float
    """quality.max_perplexity_ratio of the task: the limit on the perplexity of general text, tuned by untuned."""
    stage_costs: tuple[StageCost, ...]
    decisive_share: float | None
    """Of the pairs of the headline's cell against `base`, won or lost; None where there is no such cell."""
    expected: tuple[Ratio, ...]
    """The intervals that this number of prompts gives at ratios of 2, 5 and 7, if that share is decided."""
    pairs: tuple[Side, ...]
    missing: tuple[tuple[str, str], ...]
    """(cell, reason)."""
    criteria: dict[str, str]
    """Criterion id → its text, in the task's order."""
    levels: dict[str, tuple[str, ...]]
    """Factor, length or group → its levels in the task's order."""
    group_column: str
    """The column of the group; empty without groups."""
    prompt_tokens: dict[str, float]
    """Mean prompt tokens of `base` and `prompted`."""
    fingerprint: str
    made_at: str

    @property
    def shown_ratios(self) -> pd.DataFrame:
        """The rows of `ratios` that the page shows as its cells."""
        return self.ratios[self.ratios["seed"] == self.training_seed]


@dataclass(frozen=True)
class PairsData:
    """Everything on the page of `synthpost pairs`."""

    source: str
    """The file's name."""
    candidate: str
    """What the winning label means, or `candidate`."""
    baseline: str
    note: str
    """How a file of another tool was read, or empty."""
    contradictions: Contradictions
    is_strict: bool
    is_study_mode: bool
    """One order, baseline first, forced choice: every figure is labelled so. Never where labels were read."""
    prompts: int | None
    """Different prompts of the pairs; None where the file has none."""
    missing: Mapping[str, Sequence[str]]
    """Why pairs could not be judged → their ids."""
    comparison: Comparison
    levels: Mapping[str, Mapping[str, Comparison]]
    """Factor → level → its figures."""
    corners: tuple[Corner, ...]
    ignored: tuple[str, ...]
    """Columns with too many values to be factors."""
    judges: tuple[JudgeFigures, ...]
    """Empty where labels were read."""
    games: GameFigures | None
    """None where no pair has a game in each order, or the order is unknown."""
    separations: tuple[Separation, ...]
    """Traits of style that separate the outcomes."""
    repairs: tuple[Repair, ...]
    expected: tuple[Ratio, ...]
    pairs: tuple[Side, ...]
    """All, or a sample of a large file."""
    made_at: str
