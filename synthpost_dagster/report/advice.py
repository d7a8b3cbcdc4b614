"""What to do next and what not to read into the figures, in words: steps worth taking, seeds, corners, prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from synthpost_dagster.cell import steps_label
from synthpost_dagster.report.texts import (
    FACTOR_NAMES,
    NO_DECISIVE_PAIR,
    cell_text,
    counted,
    dollars_text,
    duration_text,
    interval_text,
    number_text,
    p_text,
    percent_text,
    points_text,
    ratio_text,
)
from synthpost_dagster.statistics.power import PLANNED_SHARE, pairs_to_tell, planned_widths

if TYPE_CHECKING:
    from synthpost_dagster.cell import Cell
    from synthpost_dagster.report.data import Cost, Seeds, Worth
    from synthpost_dagster.statistics.corners import Corner
    from synthpost_dagster.statistics.ratio import Counts, Ratio

_FINDINGS = {
    "gain": "a gain",
    "loss": "a loss",
    "not enough evidence": "not enough evidence",
    "replicates": "replicates, which saw equally many rows for as many steps, so nothing was added",
}


class Step(NamedTuple):
    """A step of the surface in words; `finding` is that of statistics.advice."""

    text: str
    finding: str


class SeedLine(NamedTuple):
    """A cell under several training seeds: the ratio of each, and how far they lie apart."""

    cell: Cell
    ratios: tuple[tuple[int, str], ...]
    spread: str


def steps_from(worth: Sequence[Worth], cell: Cell | None) -> tuple[list[Step], list[Step]]:
    """The steps that begin at `cell`, and the others."""
    begin = [_step(one) for one in worth if one.smaller == cell]
    return begin, [_step(one) for one in worth if one.smaller != cell]


def _step(worth: Worth) -> Step:
    difference, finding = worth.difference, _FINDINGS[worth.finding]
    if math.isnan(difference.value):
        gain = "no prompt was scored in both"
    else:
        low, high = points_text(difference.low), points_text(difference.high)
        gain = f"win rate {points_text(difference.value)} points ({low} to {high})"
    return Step(f"{_way(worth)}: {gain}: {finding}; costs {more_text(worth.more)}.", worth.finding)


def _way(worth: Worth) -> str:
    smaller, larger = worth.smaller, worth.larger
    if worth.axis == "training":
        return f"From {steps_label(smaller.steps)} to {steps_label(larger.steps)} on {smaller.data_size:,} rows"
    if smaller.steps == larger.steps:
        return f"From {smaller.data_size:,} to {larger.data_size:,} rows at {steps_label(smaller.steps)}"
    return f"From {cell_text(smaller)} to {cell_text(larger)}"


def more_text(more: Cost) -> str:
    """What a larger cell costs more: `$0.02, 40 s of generation, 8.0 s of training more`."""
    paid = "no money" if more.row_usd == 0 else dollars_text(more.row_usd)
    generated = "an unknown time" if math.isnan(more.row_seconds) else duration_text(more.row_seconds)
    trained = duration_text(abs(more.training_seconds))
    if more.training_seconds < 0:
        return f"{paid} and {generated} of generation more, {trained} of training less"
    return f"{paid}, {generated} of generation, {trained} of training more"


def seed_lines(seeds: Sequence[Seeds]) -> list[SeedLine]:
    """The seeds of each cell that was trained under several."""
    return [
        SeedLine(
            one.cell,
            tuple((seed, ratio_text(*ratio)) for seed, ratio in zip(one.seeds, one.spread.ratios, strict=True)),
            _spread_text(one),
        )
        for one in seeds
    ]


def _spread_text(seeds: Seeds) -> str:
    spread = seeds.spread
    if spread.decided < 2:
        return "Fewer than two seeds have a decisive pair: there is no spread."
    between = f"{number_text(spread.lowest)} to {number_text(spread.highest)} over {counted(spread.decided, 'seed')}"
    if undecided := len(seeds.seeds) - spread.decided:
        between += f" (without {counted(undecided, 'seed')} that had {NO_DECISIVE_PAIR})"
    if math.isnan(spread.log_sd):
        return f"{between}. So few seeds do not tell the spread."
    sd, low, high, within = (
        number_text(math.exp(log), 3)
        for log in (spread.log_sd, spread.log_sd_low, spread.log_sd_high, spread.within_log_sd)
    )
    is_slight = spread.log_sd < spread.within_log_sd
    caveat = " A spread below chance does not show that seeds do not matter." if is_slight else ""
    return (
        f"{between}: one standard deviation between seeds is a factor of {sd} ({low} to {high}, at 95 %); chance among "
        f"the prompts alone gives one of {within} within a seed.{caveat}"
    )


def corner_lines(corners: Sequence[Corner], looks: int) -> list[str]:
    """The weak corners, or that there is none, after so many levels were looked at."""
    if not looks:
        return ["There are no levels to look at."]
    if not corners:
        return [f"None stands out after allowing for {counted(looks, 'look')}. That does not show that none is weak."]
    return [_corner_text(corner, looks) for corner in corners]


def _corner_text(corner: Corner, looks: int) -> str:
    here = corner.counts
    return (
        f"{FACTOR_NAMES.get(corner.factor, corner.factor)} {corner.level}: won {_won(here)}, elsewhere "
        f"{_won(corner.others)} (T {here.ties}, X {here.unscored} here; {p_text(corner.p_value)} after "
        f"allowing for {counted(looks, 'look')})."
    )


def _won(counts: Counts) -> str:
    return f"{counts.wins:,} of {counted(counts.wins + counts.losses, 'decided pair')}"


def expected_lines(expected: Sequence[Ratio], pairs: int, noun: str, decisive_share: float | None = None) -> list[str]:
    """What so many pairs can show; `noun` is what they are called, and `decisive_share` of them are reckoned to be won
    or lost, or all where it is None.
    """
    decided = "had every pair been decided" if decisive_share is None else _if_decided(decisive_share)
    return [
        f"A true ratio of {number_text(ratio.value, 1)} would be shown as {interval_text(ratio.low, ratio.high)} with "
        f"{counted(pairs, noun)}, {decided}."
        for ratio in expected
    ]


def needed_lines(decisive_share: float | None = None) -> list[str]:
    """How many decided pairs it takes; and how many prompts, where the share that is decided is known."""

    def prompts(decided: int) -> str:
        if decisive_share is None:
            return ""
        return f", so {math.ceil(decided / decisive_share):,} prompts {_if_decided(decisive_share)}"

    aims = [
        (f"know a ratio of {number_text(ratio, 1)} to within a factor of {number_text(factor, 3)}", decided)
        for ratio, factor, decided in planned_widths()
    ]
    aims.append(
        (f"tell {percent_text(PLANNED_SHARE)} of the pairs won from half of them", pairs_to_tell(PLANNED_SHARE))
    )
    return [f"To {aim} takes {counted(decided, 'decided pair')}{prompts(decided)}." for aim, decided in aims]


def _if_decided(share: float) -> str:
    return f"if {percent_text(share)} of the pairs are decided, as here"
