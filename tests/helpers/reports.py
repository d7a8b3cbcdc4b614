"""Small and large `ReportData` and `PairsData` for tests of the pages, with figures computed by `statistics`, and a
reader of HTML.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd

from synthpost_dagster.artifacts.manifest import GateEntry
from synthpost_dagster.cell import Cell
from synthpost_dagster.judging.controls import Controlled
from synthpost_dagster.pairs.table import Contradictions, Repair
from synthpost_dagster.report.browser import FACTORS
from synthpost_dagster.report.data import (
    Choice,
    Cost,
    Game,
    JudgeFigures,
    LengthEffect,
    Match,
    PairsData,
    ReportData,
    Seeds,
    Side,
    StageCost,
    Training,
    Trust,
    Usage,
    Worth,
)
from synthpost_dagster.report.data_quality import (
    Coverage,
    DataQuality,
    GateLine,
    Memorised,
    Replies,
    Run,
    SharedRun,
    Supervised,
)
from synthpost_dagster.schemas import METRICS, OPPONENTS, OUTCOMES, Forgetting, RatioReport
from synthpost_dagster.statistics.agreement import agreement
from synthpost_dagster.statistics.choice import best_of, headline_ratio
from synthpost_dagster.statistics.comparison import GameFigures, compare
from synthpost_dagster.statistics.control import control_verdict, null_verdict
from synthpost_dagster.statistics.corners import Corner
from synthpost_dagster.statistics.length_control import LengthControlled
from synthpost_dagster.statistics.order import OrderFigures, PositionBias
from synthpost_dagster.statistics.paired import Difference
from synthpost_dagster.statistics.power import expected_intervals
from synthpost_dagster.statistics.ratio import Counts, count, share, tie_aware_ratio, win_rate, win_ratio, worst_case
from synthpost_dagster.statistics.seeds import seed_spread
from synthpost_dagster.statistics.sign_test import sign_test
from synthpost_dagster.tasks.prompting import short_hash

NAN = math.nan
A, B, C, D = Cell(88, "50"), Cell(1760, "50"), Cell(8800, "50"), Cell(88, "1-epoch")
HOSTILE = '</script><script>alert(1)</script><!-- <img src="https://evil.example/x"> \x00\ud800 {{ 7 * 7 }}'
LEVELS: dict[str, tuple[str, ...]] = {
    "post_type": ("Promotional", "Question"),
    "tone": ("Witty", "Calm"),
    "length": ("short", "long"),
    "company": ("Bright Harbor", "Atlas"),
}


def ratio_row(cell: Cell, counts: tuple[int, int, int, int], **other: Any) -> dict[str, Any]:
    """A row of RatioReport for a cell against `base`, as a whole, unless said otherwise."""
    found = Counts(*counts)
    done = cell.data_size // 8 if "-" in cell.steps else int(cell.steps)
    ratio = win_ratio(found)
    values = {
        "data_size": cell.data_size,
        "steps": cell.steps,
        "seed": 1,
        "optimizer_steps": done,
        "rows_seen": min(cell.data_size, 8 * done),
        "replicate_group": 0,
        "opponent": "base",
        "factor": "all",
        "level": "all",
        "pairs": found.pairs,
        **found._asdict(),
        "win_ratio": ratio.value,
        "win_ratio_low": ratio.low,
        "win_ratio_high": ratio.high,
        "tie_aware_ratio": tie_aware_ratio(found),
        "win_rate": win_rate(found),
        "worst_case_ratio": worst_case(found).value,
        "p_value": sign_test(found),
        "p_adjusted": min(1.0, 4 * sign_test(found)),
        "order_consistency": 0.91,
        "slot_bias": 0.02,
        "length_controlled_ratio": 4.4,
        "length_controlled_low": 2.5,
        "length_controlled_high": 8.8,
        "length_coefficient": 0.4,
        "length_coefficient_low": 0.2,
        "length_coefficient_high": 0.6,
        "length_note": "",
        "compliance": 0.72,
        "compliance_low": 0.66,
        "compliance_high": 0.78,
    }
    return values | other


def ratios(*rows: Mapping[str, Any]) -> pd.DataFrame:
    """A table that follows RatioReport."""
    table = pd.DataFrame(list(rows), columns=list(RatioReport.to_schema().columns))
    return RatioReport.validate(table) if len(table) else table


RATIOS = ratios(
    ratio_row(D, (50, 40, 5, 0)),
    ratio_row(A, (81, 14, 3, 2)),
    ratio_row(A, (40, 44, 11, 5), opponent="prompted", order_consistency=0.6),
    ratio_row(A, (7, 0, 0, 1), factor="tone", level="Witty"),
    ratio_row(A, (0, 0, 3, 0), factor="tone", level="Calm"),
    ratio_row(B, (70, 20, 5, 0), replicate_group=1),
    ratio_row(C, (72, 20, 3, 0), replicate_group=1),
    ratio_row(A, (60, 30, 5, 5), seed=2),
)


def choice(
    cell: Cell = A,
    counts: tuple[int, int, int, int] = (81, 14, 3, 2),
    among: int = 4,
    alike: tuple[Cell, ...] = (B, C),
    better: tuple[Cell, ...] = (),
    prompted: tuple[int, int, int, int] = (40, 44, 11, 5),
) -> Choice:
    """A cell chosen among this number of cells."""
    found = Counts(*counts)
    worst = headline_ratio(Counts(found.wins, found.losses + found.unscored, found.ties, 0), among)
    against_prompted = headline_ratio(Counts(*prompted), among)
    return Choice(cell, headline_ratio(found, among), worst, among, better, alike, against_prompted)


def control(name: str, *counts: int) -> Controlled:
    """A control with these counts and its verdict."""
    found = Counts(*counts)
    return Controlled(name, found, (control_verdict if name == "resampled" else null_verdict)(found))


GOOD_CONTROLS = (
    control("resampled", 45, 50, 5, 0),
    control("empty", 0, 95, 0, 5),
    control("shuffled", 10, 80, 10, 0),
)


def order(agreeing: int = 91, pairs: int = 100, bias: float = 0.02) -> OrderFigures:
    """Order figures with this number of agreeing pairs."""
    return OrderFigures(share(agreeing, pairs), PositionBias(bias, bias - 0.03, bias + 0.03), pairs)


def judge(name: str = "judge-model", family: str = "gpt", figures: OrderFigures | None = None) -> JudgeFigures:
    """A judge of 200 games, four of them unscored."""
    return JudgeFigures(name, family, 200, 4, figures or order())


def trust(**changes: Any) -> Trust:
    """A judge that passes every test."""
    found = Trust((judge(),), "llama", "qwen", LengthEffect(0.4, 0.2, 0.6), GOOD_CONTROLS, "", (), None, 0, 0)
    return found._replace(**changes)


def worth(finding: str, value: float, low: float, high: float, **other: Any) -> Worth:
    """A step of data from A to B."""
    found = Worth("data", A, B, Difference(value, low, high, 95, 5), finding, Cost(0.02, 40.0, 8.0))
    return found._replace(**other)


def game(is_first: bool = True, outcome: str = "win", why: str = "It opens with a hook.", **other: Any) -> Game:
    """A game with a preference on two criteria."""
    return Game("judge-model", is_first, outcome, why, (("hook", "win"), ("call_to_action", "tie")))._replace(**other)


def pair(text: str = "Hello.", base: str = "Base post.", **other: Any) -> Side:
    """A pair of cell A that won against base and tied against prompted."""
    matches = (
        Match(short_hash(repr(text), base), "win", (game(), game(is_first=False))),
        Match(short_hash(repr(text), "prompted"), "tie", (game(), game(is_first=False, outcome="loss"))),
    )
    values: dict[str, Any] = {
        "cell": A.key,
        "company": "Bright Harbor",
        "post_type": "Question",
        "tone": "Witty",
        "length": "short",
        "matches": matches,
    }
    *factors, matches = (values | other).values()
    return Side((factors[1], "Lamp"), "A lamp.", tuple(factors), (text, base, "Prompted post."), matches)


def curve(*losses: float) -> pd.DataFrame:
    """A table that follows LossCurve."""
    return pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses, "learning_rate": 1e-4})


def gate(asset: str = "prompts", partition: str = "", **changes: Any) -> GateLine:
    """A check that passed."""
    values: dict[str, Any] = {
        "name": "schema",
        "is_passed": True,
        "is_blocking": True,
        "message": "88 rows follow the schema",
    }
    return GateLine(asset, partition, GateEntry(**values | changes))


FIGURES = {
    "distinct_1": (0.21, 0.2, 0.01),
    "distinct_2": (0.512, 0.52, 0.02),
    "distinct_3": (0.7, 0.71, 0.01),
    "compression_ratio": (3.4, 3.3, 0.1),
    "opening_share": (0.03, 0.025, 0.005),
    "self_bleu": (31.0, NAN, NAN),
}
"""Metric → figure of the rows, mean and deviation of the draws."""


def varied(rows: int = 88, equal_rows: int = 88, **changes: tuple[float, float, float]) -> pd.DataFrame:
    """A table that follows the schema Diversity."""
    found = {metric: (FIGURES | changes)[metric] for metric in METRICS if metric in FIGURES | changes}
    return pd.DataFrame(
        [(metric, value, rows, equal_rows, mean, spread) for metric, (value, mean, spread) in found.items()],
        columns=["metric", "value", "rows", "equal_rows", "draws_mean", "draws_deviation"],
    )


def run(day: int, *, is_present: bool = False, **changes: tuple[float, float, float]) -> Run:
    """A run of the teacher on a day of November 2026, with 1,760 kept rows."""
    made_at = f"2026-11-{day:02}T10:00:00.000000+00:00"
    return Run(made_at, "teacher-model", 1760, is_present, varied(1760, 88, **changes))


def quality(**changes: Any) -> DataQuality:
    """Data that passes every check, with one earlier run."""
    found = DataQuality(
        gates=(
            gate(),
            gate("data_subsets", "88", name="leakage", message="0 of 88 training rows name a holdout product"),
            gate("adapters", "88|50", name="supervised_tokens", message="40.0% of 9000 tokens are learned"),
        ),
        subsets={88: varied(), 1760: varied(1760, 1760)},
        runs=(run(3), run(5, is_present=True)),
        coverage=Coverage(
            88,
            LEVELS["post_type"],
            LEVELS["tone"],
            {("Promotional", "Witty"): 22, ("Promotional", "Calm"): 20, ("Question", "Witty"): 22},
            {(kind, tone): 22 for kind in LEVELS["post_type"] for tone in LEVELS["tone"]},
        ),
        replies=Replies(93, 88, (("meet the lamp that warms", 4),), (("placeholder", 3),), (("preamble", 2),)),
        memorised=(Memorised(A, 1, 100, 9, 4.5, 1),),
        shared=(
            SharedRun(A, "Lamp", 4, "meet the lamp that", "Hi! Meet the LAMP, that is.", "Meet the lamp that warms."),
        ),
        supervised=(Supervised(A, 1, 88, 9000, 3600, 0, "Meet the lamp.<|end|>"),),
    )
    return replace(found, **changes)


def kinds_of(ratio: float = 1.04, poem: float = 1.09) -> pd.DataFrame:
    """A table that follows the schema Forgetting: prose and a poem under a base of perplexity 8."""
    table = pd.DataFrame({"kind": ["prose", "poem"], "passages": [3, 1], "tokens": [900, 100], "base_perplexity": 8.0})
    return Forgetting.validate(table.assign(tuned_perplexity=[8 * ratio, 8 * poem]))


def report(**changes: Any) -> ReportData:
    """A report of four cells, one of them under two seeds."""
    compliance = pd.DataFrame(
        [(0, "", "base", "hook", 10, 2), (88, "50", "tuned", "hook", 10, 7)],
        columns=["data_size", "steps", "contestant", "criterion", "posts", "met"],
    )
    data = ReportData(
        task="sales_posts",
        task_description="Posts.",
        profile="tiny",
        student="student-model",
        teacher="teacher-model",
        judges=("judge-model",),
        is_embedded=False,
        is_study_mode=False,
        evaluation_prompts=100,
        training_seed=1,
        ratios=RATIOS,
        compliance=compliance,
        choice=choice(),
        prompting=compare(["win"] * 70 + ["loss"] * 10 + ["tie"] * 18 + ["unscored"] * 2),
        trust=trust(),
        worth=(
            worth("not enough evidence", 0.03, -0.02, 0.08),
            worth("gain", 0.3, 0.2, 0.4, axis="training", smaller=D, larger=A, more=Cost(0.0, 0.0, 18.5)),
        ),
        seeds=(Seeds(A, (1, 2), seed_spread([Counts(81, 14, 3, 2), Counts(60, 30, 5, 5)])),),
        corners=(),
        separations=(),
        quality=quality(),
        costs={cell: Cost(cell.data_size * 0.0002, cell.data_size * 0.4, 8.0) for cell in (A, B, C, D)},
        training=(Training(A, 1, 97.0, 6.25, "one GPU", curve(2.0, 1.0), kinds_of()),),
        max_perplexity_ratio=1.15,
        stage_costs=(
            StageCost("Synthetic rows", "88 kept rows", Usage(91, 45_000, 0.0215, 75.0), Usage(88, 40_000, 0.02, 60.0)),
            StageCost("Training", "1 cell, 50 steps", Usage(seconds=97.0), Usage(seconds=None)),
        ),
        decisive_share=0.95,
        expected=tuple(expected_intervals(100, 0.95)),
        pairs=(pair(),),
        missing=(),
        criteria={"hook": "Open with a hook."},
        levels=LEVELS,
        prompt_tokens={"base": 84.0, "prompted": 612.0},
        fingerprint="3f9a0c1b2d4e5f60",
        made_at="2025-01-01 10:00 UTC",
    )
    return replace(data, **changes)


def outer_pair(pair_id: str = "7", outcome: str = "win", **other: Any) -> Side:
    """A labelled pair of a file, with a value for the factor `tone`."""
    matches = (Match(pair_id, outcome, ()),)
    found = Side((pair_id,), "Sell a lamp.", ("Witty",), ("New post.", "Old post."), matches, "'tuned'")
    return found._replace(**other)


def pairs_report(**changes: Any) -> PairsData:
    """Labels of 95 pairs that were read, three of them unscored."""
    outcomes = ["win"] * 78 + ["loss"] * 14 + ["unscored"] * 3
    data = PairsData(
        source="verdicts.csv",
        candidate="tuned",
        baseline="untuned",
        is_strict=False,
        is_study_mode=False,
        prompts=None,
        missing={},
        comparison=compare(outcomes),
        levels={
            "tone": {"Witty": compare(outcomes[:50]), "Calm": compare(outcomes[50:])},
        },
        corners=(),
        note="",
        contradictions=Contradictions(),
        separations=(),
        ignored=("remark",),
        judges=(),
        games=None,
        repairs=(Repair("'tuned", "win", 3, "quotes removed"), Repair("both", "unscored", 2, "names no label")),
        expected=tuple(expected_intervals(95)),
        pairs=(outer_pair(), outer_pair("8", "loss", values=("Calm",), label="untuned")),
        made_at="2025-01-01 10:00 UTC",
    )
    return replace(data, **changes)


def judged_pairs_report(**changes: Any) -> PairsData:
    """Pairs of a file that a judge played in both orders."""
    games = GameFigures(order(), LengthControlled(4.4, 2.5, 8.8, 0.4, 0.0, ""))
    played = (outer_pair(matches=(Match("7", "win", (game(), game(is_first=False))),), label=""),)
    return pairs_report(**{"judges": (judge(),), "games": games, "repairs": (), "pairs": played} | changes)


def big_report(prompts: int = 440, seed: int = 7) -> ReportData:
    """A sweep of 15 cells over this number of prompts, with long texts, a panel of two judges and a reason per game."""
    generator = np.random.default_rng(seed)
    cells = [Cell(size, steps) for size in (88, 440, 880, 1760, 8800) for steps in ("50", "150", "1-epoch")]
    levels = {
        "post_type": tuple(f"Post type {number}" for number in range(11)),
        "tone": tuple(f"Tone {number}" for number in range(5)),
        "length": ("short", "medium", "long"),
        "company": tuple(f"Company {number:02}" for number in range(16)),
    }
    criteria = {f"criterion_{number}": f"What criterion {number} asks for." for number in range(20)}
    sides = [_big_pair(cell, prompt, levels, list(criteria), generator) for cell in cells for prompt in range(prompts)]
    outcomes = {cell: count(side.matches[0].outcome for side in sides if side.values[0] == cell.key) for cell in cells}
    chosen = best_of(outcomes)
    assert chosen is not None
    return report(
        evaluation_prompts=prompts,
        judges=("judge-one/model-70b", "judge-two/model-120b"),
        ratios=ratios(*_big_rows(sides, cells, levels)),
        compliance=_big_compliance(cells, list(criteria), generator),
        choice=Choice(*chosen, (), tuple(cells[9:12]), chosen.ratio),
        trust=trust(
            judges=(judge("judge-one/model-70b"), judge("judge-two/model-120b", "llama"), judge("panel", "")),
            between_judges=(
                ("judge-one/model-70b", "judge-two/model-120b", agreement(["win", "loss"] * 9, ["win"] * 18)),
            ),
            imitations=3,
        ),
        worth=tuple(
            worth("not enough evidence", 0.03, -0.02, 0.08, smaller=one, larger=other)
            for one, other in zip(cells[:-3], cells[3:], strict=True)
        ),
        seeds=(),
        corners=(Corner("tone", "Tone 3", Counts(40, 30, 10, 8), Counts(280, 40, 20, 12), 0.0004),),
        separations=(),
        costs={cell: Cost(cell.data_size * 0.0002, cell.data_size * 0.4, 8.0) for cell in cells},
        training=tuple(
            Training(cell, 1, 97.0, 6.25, "one GPU", curve(*(3 / (1 + step / 20) for step in range(60))), kinds_of())
            for cell in cells
        ),
        pairs=tuple(sides),
        criteria=criteria,
        levels=levels,
    )


def _big_pair(
    cell: Cell, prompt: int, levels: dict[str, tuple[str, ...]], criteria: list[str], generator: np.random.Generator
) -> Side:
    texts = [f"{name} post for prompt {prompt}. " + "Words that sell a lamp to people. " * 18 for name in OPPONENTS]
    chances = [0.7, 0.15, 0.1, 0.05]
    matches = tuple(
        Match(short_hash(cell.key, str(prompt), opponent), str(generator.choice(OUTCOMES, p=chances)), games)
        for opponent in OPPONENTS
        for games in [_big_games(cell, prompt, criteria[:10], generator)]
    )
    factors = {name: values[prompt % len(values)] for name, values in levels.items()}
    tuned = f"Tuned post {cell.key} {prompt}. " + "A lamp that does not only shine but also warms. 💡 " * 12
    return Side(
        title=(factors["company"], f"Product {prompt % 60}"),
        about="A product of a good many words, for somebody who has been looking for one.",
        values=(cell.key, *(factors[name] for name in FACTORS)),
        posts=(tuned, *texts),
        matches=matches,
    )


def _big_games(cell: Cell, prompt: int, criteria: list[str], generator: np.random.Generator) -> tuple[Game, ...]:
    return tuple(
        Game(
            name,
            is_first,
            "win",
            f"In game {prompt} of {cell.key} post A names the product and its use sooner than post B does.",
            tuple((criterion, str(generator.choice(["win", "loss", "tie"]))) for criterion in criteria),
        )
        for name in ("judge-one/model-70b", "judge-two/model-120b")
        for is_first in (True, False)
    )


def _big_rows(sides: list[Side], cells: list[Cell], levels: dict[str, tuple[str, ...]]) -> list[dict[str, Any]]:
    table = pd.DataFrame(
        {
            "opponent": opponent,
            "outcome": match.outcome,
            **dict(zip(("cell", *FACTORS), side.values, strict=True)),
        }
        for side in sides
        for opponent, match in zip(OPPONENTS, side.matches, strict=True)
    )
    rows = []
    for cell in cells:
        for opponent in OPPONENTS:
            part = table[(table["cell"] == cell.key) & (table["opponent"] == opponent)]
            group = {"replicate_group": int(cell.steps == "50" and cell.data_size > 400), "opponent": opponent}
            rows.append(ratio_row(cell, count(part["outcome"]), **group))
            rows += [
                ratio_row(cell, count(of_level["outcome"]), **group, factor=factor, level=level)
                for factor in levels
                for level, of_level in part.groupby(factor)
            ]
    return rows


def _big_compliance(cells: list[Cell], criteria: list[str], generator: np.random.Generator) -> pd.DataFrame:
    contestants = [(0, "", "base"), (0, "", "prompted"), *((cell.data_size, cell.steps, "tuned") for cell in cells)]
    rows = [(*names, criterion, 440, int(generator.integers(441))) for names in contestants for criterion in criteria]
    return pd.DataFrame(rows, columns=["data_size", "steps", "contestant", "criterion", "posts", "met"])


class Reader(HTMLParser):
    """Reads a page as a browser would: elements with attributes, text outside scripts, and the scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        """The visible text, white space run together."""
        return " ".join(" ".join(self.words).split())
