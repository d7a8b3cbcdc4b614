"""What a sweep shows in the terminal: what runs, how far it is, how long it takes yet, and the table of cells."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from synthpost_dagster.runtime.progress import Event

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.stages.doctor import Finding
    from synthpost_dagster.stages.estimate import Line
    from synthpost_dagster.statistics.comparison import Comparison
    from synthpost_dagster.statistics.ratio import Ratio

QUIET_SECONDS = 10.0
"""Where the output is no terminal, a line about a run under way at most this often."""
HALF_LIFE = 60.0
"""After so many seconds work counts half for the pace."""
CARRIED_SECONDS = 10.0
"""The pace of one kind of work counts as so many seconds for the next kind."""
LEAST_SECONDS = 3.0
"""A pace is told from that many seconds of work on."""
LEAST_SHARE, MOST_SILENCE = 0.03, 60.0
"""No time left is told before this share of all work is over, or so many seconds have passed: posts that are begun
together end late, then at once.
"""


class _Pace:
    """Work a second, of late and of the kind that is being done: kinds are measured roughly against each other.

    The time between two kinds, as for loading a model, is no part of either.
    """

    def __init__(self) -> None:
        self._work = self._seconds = self._at = self._began = 0.0
        self._carried = (0.0, 0.0)
        self._kind = ""

    def add(self, kind: str, made: float, now: float) -> None:
        """So much work was done, evenly, since the last of this kind. The first of a kind only marks when it began."""
        if kind == self._kind and now > self._at:
            faded = 0.5 ** ((now - self._at) / HALF_LIFE)
            seconds = (1 - faded) * HALF_LIFE / math.log(2)
            self._seconds = self._seconds * faded + seconds
            self._work = self._work * faded + made * seconds / (now - self._at)
        elif kind == self._kind:
            self._work += made
        else:
            self.turn()
            self._kind, self._began = kind, now
        self._at = now

    def turn(self) -> None:
        """What was done so far counts little from now on, and the time until work goes on not at all. A kind that was
        over at once is forgotten.
        """
        if self._kind and self._at - self._began < LEAST_SECONDS:
            self._work, self._seconds = self._carried
        carried = min(CARRIED_SECONDS / self._seconds, 1.0) if self._seconds else 1.0
        self._carried = self._work, self._seconds = self._work * carried, self._seconds * carried
        self._kind = ""

    @property
    def rate(self) -> float:
        """Work a second; 0 where it is not known."""
        return self._work / self._seconds if self._seconds >= LEAST_SECONDS else 0.0


@dataclass
class _Run:
    """A run under way: its latest news, since when, when it last wrote a line, and how much of its work is over."""

    text: str
    began: float
    last_line: float
    pace: _Pace
    done: float = 0.0


class Terminal:
    """Hears of runs and of progress inside them, several runs at a time if need be: a line each, redrawn in place, and
    what is said once stays above them. Where the output is a file or a pipe, it writes whole lines.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._live: Live | None = None
        self._runs: dict[str, _Run] = {}
        self._last_pace = _Pace()
        self._left = self._over = 0.0
        self._began = time.monotonic()

    def plan(self, work: float) -> None:
        """How much work is left, in the units of `stages.effort`; told between runs, whenever it is reckoned anew."""
        self._left = work

    def started(self, title: str) -> None:
        """A run begins."""
        now = time.monotonic()
        # A run on its own goes on from the last one's pace; with others the paces are added up, and none counts twice.
        self._runs[title] = _Run(f"{title} …", now, now, _Pace() if self._runs else self._last_pace)
        if not self.console.is_terminal:
            self.console.print(f"  {title} …", soft_wrap=True)
            return
        if self._live is None:
            self._live = Live(console=self.console, refresh_per_second=8, transient=True)
            self._live.start()
        self._draw()

    def heard(self, event: Event, title: str = "") -> None:
        """A stage inside the run got on; without a title, inside the latest. An argument to `progress.subscribed`."""
        title = title or next(reversed(self._runs), "")
        text, now = f"{title}: {event.text}" if title else event.text, time.monotonic()
        run = self._runs.setdefault(title, _Run(text, now, now - QUIET_SECONDS, _Pace()))
        run.done += event.work
        self._got_on(event.work)
        if event.total:
            run.text = text
        if event.total and not event.is_milestone:
            run.pace.add(event.unit, event.made, now)
        is_due = event.is_milestone or now - run.last_line >= QUIET_SECONDS
        is_line = not event.total or (self._live is None and is_due)
        if is_line:
            run.last_line = now
            self.console.print(f"  {text}{self._time_left() if event.total else ''}", soft_wrap=True, markup=False)
        self._draw(at_once=is_line)

    def finished(self, title: str, work: float) -> None:
        """A run ended well; `work` is all that it was planned to do, with what its events told of."""
        run = self._ended(title)
        self._got_on(work - run.done)
        self.console.print(f"[green]✓[/] {title} ({time.monotonic() - run.began:.1f} s){self._time_left()}")

    def failed(self, title: str, work: float) -> None:
        """A run failed, and what is left of its work with it; others may go on. Why, is told when all have ended."""
        run = self._ended(title)
        self._got_on(work - run.done)
        self.console.print(f"[bold red]✗[/] {title} failed ({time.monotonic() - run.began:.1f} s)")

    def reused(self, title: str) -> None:
        """Nothing to do for it."""
        self.console.print(f"[green]✓[/] {title} (up to date)")

    def warn(self, warnings: Sequence[str]) -> None:
        """A line for each."""
        for warning in warnings:
            self.console.print(Text.assemble(("! ", "bold yellow"), warning))

    def close(self) -> None:
        """Leaves the terminal as it was, also after an error."""
        self._runs.clear()
        self._stop()

    def _draw(self, at_once: bool = True) -> None:
        """A line a run, the time left at the end of the last; what does not fit is cut, so that each stays one line."""
        if self._live and self._runs:
            lines = [f"▸ {run.text}" for run in self._runs.values()]
            lines[-1] += self._time_left()
            self._live.update(Text("\n".join(lines), style="cyan", no_wrap=True, overflow="ellipsis"), refresh=at_once)

    def _ended(self, title: str) -> _Run:
        run = self._runs.pop(title)
        if not self._runs:
            self._last_pace = run.pace
            self._last_pace.turn()
            self._stop()
        self._draw()
        return run

    def _stop(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def _got_on(self, work: float) -> None:
        self._left -= work
        self._over += work

    def _rate(self) -> float:
        """Work a second, of all runs under way; one that waits or loads will be about as fast as the others."""
        if not self._runs:
            return self._last_pace.rate
        known = [rate for run in self._runs.values() if (rate := run.pace.rate)]
        return sum(known) / len(known) * len(self._runs) if known else 0.0

    def _time_left(self) -> str:
        """From the pace; nothing before it is known, or when nothing is left."""
        rate, now = self._rate(), time.monotonic()
        is_early = self._over < LEAST_SHARE * (self._over + self._left) and now - self._began < MOST_SILENCE
        if is_early or not rate or self._left < 1:
            return ""
        seconds = self._left / rate
        return f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"


def estimate_table(lines: Sequence[Line], budget: float | None) -> Table:
    """What the stages are expected to take."""
    from synthpost_dagster.report.texts import count_text, dollars_text, duration_text

    table = Table(
        title="What is expected",
        caption=_estimate_caption(lines, budget),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("stage", no_wrap=True)
    table.add_column("to do")
    for column in ("requests", "tokens", "cost", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    for stage, work, expected in lines:
        table.add_row(
            stage,
            work,
            f"{expected.requests:,}",
            count_text(expected.prompt_tokens + expected.completion_tokens),
            dollars_text(expected.usd),
            "not known" if expected.seconds is None else duration_text(expected.seconds),
        )
    return table


def _estimate_caption(lines: Sequence[Line], budget: float | None) -> str:
    from synthpost_dagster.report.texts import dollars_text, duration_text

    known = [line.expected.seconds for line in lines if line.expected.seconds is not None]
    more = "" if len(known) == len(lines) else " and what is not known"
    cost = dollars_text(sum(line.expected.usd for line in lines))
    most = dollars_text(sum(line.expected.usd_at_most for line in lines))
    cap = "no budget is set" if budget is None else f"the budget is {dollars_text(budget)}"
    stages: dict[str, list[str]] = {}
    for line in lines:
        stages.setdefault(line.expected.basis, []).append(line.stage)
    bases = [f"{', '.join(names)}: {basis}." for basis, names in stages.items()]
    return "\n".join([f"Cost in all: {cost}, at most {most}; {cap}. Time: {duration_text(sum(known))}{more}.", *bases])


def journal_tables(name: str, replies: list[dict[str, Any]], spending: list[dict[str, Any]]) -> tuple[Table, Table]:
    """What the journal holds, by endpoint, model and purpose; and the dollars of each profile."""
    from synthpost_dagster.report.texts import count_text

    held = Table(title=f"Replies in {name}", box=box.SIMPLE_HEAD, pad_edge=False)
    held.add_column("model", overflow="fold", min_width=22)
    held.add_column("for", no_wrap=True)
    for column in ("replies", "tokens", "cost", "mean time"):
        held.add_column(column, justify="right", no_wrap=True)
    for record in replies:
        held.add_row(
            f"{record['endpoint']}/{record['model']}",
            record["purpose"],
            f"{record['replies']:,}",
            count_text(record["prompt_tokens"] + record["completion_tokens"]),
            f"${record['cost_usd']:,.4f}",
            f"{record['latency_seconds']:.2f} s",
        )
    caption = (
        "lost: tries without a reply that may have been billed; set aside: by running processes; "
        "unsettled: under way when a process was killed (`synthpost journal --settle PROFILE` gives it back)"
    )
    paid = Table(
        title="Dollars by profile", caption=caption, caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for column in ("profile", "spent or lost", "set aside", "unsettled"):
        paid.add_column(column, justify="left" if column == "profile" else "right")
    for record in spending:
        paid.add_row(
            record["profile"], *(f"${record[key]:,.4f}" for key in ("spent_usd", "claimed_usd", "unsettled_usd"))
        )
    return held, paid


def comparison_table(comparison: Comparison, is_study_mode: bool = False) -> Table:
    """The counts of one comparison and what they come to; labelled where one order was played."""
    from synthpost_dagster.report.texts import number_text, ratio_text

    table = Table(
        title=_labelled("Candidate against baseline", is_study_mode),
        caption="pairs won (W), lost (L), tied (T), unscored (X); ratios with their exact 95 % interval",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in ("W", "L", "T", "X"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("win ratio", "all unscored lost", "sign test"):
        table.add_column(_labelled(column, is_study_mode))
    table.add_row(
        *(str(count) for count in comparison.counts),
        ratio_text(*comparison.ratio),
        ratio_text(*comparison.worst_case),
        f"p = {number_text(comparison.p_value)}" if comparison.p_value >= 1e-4 else "p < 0.0001",
    )
    return table


def power_text(prompts: int, expected: Sequence[Ratio]) -> str:
    """What so many prompts can show, were every pair won or lost."""
    from synthpost_dagster.report.texts import number_text

    shown = "; ".join(
        f"{number_text(ratio.value)} would lie between {number_text(ratio.low)} and {number_text(ratio.high)}"
        for ratio in expected
    )
    return f"With {prompts:,} prompts, all decided, a win ratio of {shown}."


def finding_line(finding: Finding) -> Text:
    """A finding of the doctor in one line."""
    mark = Text("✓ ", style="green") if finding.is_good else Text("✗ ", style="bold red")
    return mark.append_text(Text(f"{finding.subject}: ", style="bold")).append(finding.text)


def _labelled(name: str, is_study_mode: bool) -> str:
    return f"{name} (study mode: one order)" if is_study_mode else name


def cells_table(ratios: pd.DataFrame, is_study_mode: bool = False) -> Table:
    """The cells' figures against both baselines (schema RatioReport); labelled where one order was played."""
    from synthpost_dagster.report.texts import ratio_text

    table = Table(
        title=_labelled("Tuned posts against the untuned model", is_study_mode),
        caption="pairs won (W), lost (L), tied (T), unscored (X); win ratio with its exact 95 % interval",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    has_seeds = ratios["seed"].nunique() > 1
    for column in ("rows", "training", *(["seed"] if has_seeds else []), "against", "W", "L", "T", "X"):
        table.add_column(column, justify="left" if column in ("training", "against") else "right", no_wrap=True)
    table.add_column(_labelled("win ratio", is_study_mode))
    for row in ratios[ratios["factor"] == "all"].itertuples():
        table.add_row(
            f"{row.data_size:,}",
            f"{row.steps} ({row.optimizer_steps})" if "epoch" in row.steps else f"{row.steps} steps",
            *([str(row.seed)] if has_seeds else []),
            row.opponent,
            *(str(count) for count in (row.wins, row.losses, row.ties, row.unscored)),
            ratio_text(row.win_ratio, row.win_ratio_low, row.win_ratio_high),
        )
    return table
