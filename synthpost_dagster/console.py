"""What the command line prints: runs with their progress, and tables of results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column, Table
from rich.text import Text

from synthpost_dagster.runtime.progress import Event

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.stages.doctor import Finding
    from synthpost_dagster.stages.estimate import Line
    from synthpost_dagster.statistics.comparison import Comparison
    from synthpost_dagster.statistics.ratio import Ratio

QUIET_SECONDS = 10.0
"""Least time between two lines about a run where the output is not a terminal."""


class Terminal:
    """Shows runs and their progress: a bar with the time left for each run, or lines where the output is not a
    terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True, ratio=1)),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            expand=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}
        self._last_line: dict[str, float] = {}

    def started(self, title: str) -> None:
        """A run begins."""
        self._began[title] = time.monotonic()
        if not self.console.is_terminal:
            self.console.print(f"  {title} …", soft_wrap=True)
            return
        self._bars.start()
        self._tasks[title] = self._bars.add_task(title, total=None, count="")

    def heard(self, event: Event, title: str = "") -> None:
        """Shows progress inside a run, by default the latest. Pass it to `progress.subscribed`."""
        title = title or next(reversed(self._began), "")
        text = f"{title}: {event.text}" if title else event.text
        if event.total and title in self._tasks:
            self._draw(self._tasks[title], event, f"{title}: {event.what}")
        elif not event.total or event.is_milestone or self._is_line_due(title):
            self._last_line[title] = time.monotonic()
            self.console.print(f"  {text}", soft_wrap=True, markup=False)

    def finished(self, title: str) -> None:
        """A run succeeded."""
        self.console.print(f"[green]✓[/] {title} ({self._ended(title):.1f} s)")

    def failed(self, title: str) -> None:
        """A run failed; the caller prints the reason when all have ended."""
        self.console.print(f"[bold red]✗[/] {title} failed ({self._ended(title):.1f} s)")

    def reused(self, title: str) -> None:
        """A stage is up to date."""
        self.console.print(f"[green]✓[/] {title} (up to date)")

    def warn(self, warnings: Sequence[str]) -> None:
        """Prints each warning on a line of its own."""
        for warning in warnings:
            self.console.print(Text.assemble(("! ", "bold yellow"), warning))

    def close(self) -> None:
        """Removes the bars."""
        if self._bars.live.is_started:  # otherwise rich would print an empty line
            self._bars.stop()

    def _draw(self, task: TaskID, event: Event, description: str) -> None:
        """Updates the bar of a run; another kind of work starts a new estimate of the time left."""
        is_new = self._bars.tasks[self._bars.task_ids.index(task)].description != description
        if is_new:
            self._bars.reset(task, description=description, total=event.total)
        count = f"{event.done:,} of {event.total:,} {event.unit}"
        self._bars.update(task, completed=event.done, total=event.total, count=count, refresh=is_new)

    def _is_line_due(self, title: str) -> bool:
        return time.monotonic() - self._last_line.get(title, -QUIET_SECONDS) >= QUIET_SECONDS

    def _ended(self, title: str) -> float:
        """Removes the bar of a run; returns the seconds that the run took."""
        if title in self._tasks:
            self._bars.remove_task(self._tasks.pop(title))
        if not self._tasks:
            self.close()
        self._last_line.pop(title, None)
        return time.monotonic() - self._began.pop(title)


def estimate_table(lines: Sequence[Line], budget: float | None) -> Table:
    """The expected requests, tokens, cost and time of each stage."""
    from synthpost_dagster.report.texts import count_text, dollars_text, duration_text

    table = _table("What is expected", ("stage", "to do"), ("requests", "tokens", "cost", "time"))
    table.caption, table.caption_justify = _estimate_caption(lines, budget), "left"
    table.columns[0].no_wrap = True
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
    """The journal's replies by endpoint, model and purpose; and the dollars of each profile."""
    from synthpost_dagster.report.texts import count_text

    cached = _table(f"Replies in {name}", ("model", "for"), ("replies", "tokens", "cost", "mean time"))
    cached.columns[0].overflow, cached.columns[0].min_width, cached.columns[1].no_wrap = "fold", 22, True
    for record in replies:
        cached.add_row(
            f"{record['endpoint']}/{record['model']}",
            record["purpose"],
            f"{record['replies']:,}",
            count_text(record["prompt_tokens"] + record["completion_tokens"]),
            f"${record['cost_usd']:,.4f}",
            f"{record['latency_seconds']:.2f} s",
        )
    paid = _table("Dollars by profile", ("profile",), ("spent or lost", "reserved", "unsettled"))
    paid.caption_justify = "left"
    paid.caption = (
        "lost: attempts without a reply that may have been billed; reserved: by running processes; unsettled: in "
        "flight when a process was killed (`synthpost journal --settle PROFILE` releases it)"
    )
    for record in spending:
        amounts = (record[key] for key in ("spent_usd", "claimed_usd", "unsettled_usd"))
        paid.add_row(record["profile"], *(f"${amount:,.4f}" for amount in amounts))
    return cached, paid


def comparison_table(comparison: Comparison, is_study_mode: bool = False) -> Table:
    """The counts and ratios of one comparison; labelled where one order was played."""
    from synthpost_dagster.report.texts import number_text, ratio_text

    table = _table(_labelled("Candidate against baseline", is_study_mode), (), ("W", "L", "T", "X"))
    table.caption = "pairs won (W), lost (L), tied (T), unscored (X); ratios with their exact 95 % interval"
    for column in ("win ratio", "all unscored lost", "sign test"):
        table.add_column(_labelled(column, is_study_mode))
    table.add_row(
        *(str(count) for count in comparison.counts),
        ratio_text(*comparison.ratio),
        ratio_text(*comparison.worst_case),
        f"p = {number_text(comparison.p_value)}" if comparison.p_value >= 1e-4 else "p < 0.0001",
    )
    return table


def cells_table(ratios: pd.DataFrame, is_study_mode: bool = False) -> Table:
    """The cells' figures against both baselines (schema RatioReport); labelled where one order was played."""
    from synthpost_dagster.report.texts import ratio_text

    table = _table(_labelled("Tuned posts against the untuned model", is_study_mode), (), ("rows",))
    table.caption = "pairs won (W), lost (L), tied (T), unscored (X); win ratio with its exact 95 % interval"
    has_seeds = ratios["seed"].nunique() > 1
    for column in ("training", *(["seed"] if has_seeds else []), "against", "W", "L", "T", "X"):
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


def power_text(prompts: int, expected: Sequence[Ratio]) -> str:
    """The expected interval of win ratios if a judge decides every comparison."""
    from synthpost_dagster.report.texts import number_text

    shown = "; ".join(
        f"{number_text(ratio.value)} would have an interval from {number_text(ratio.low)} to {number_text(ratio.high)}"
        for ratio in expected
    )
    return f"With {prompts:,} prompts, all decided, a win ratio of {shown}."


def finding_line(finding: Finding) -> Text:
    """A finding of the doctor in one line."""
    mark = Text("✓ ", style="green") if finding.is_good else Text("✗ ", style="bold red")
    return mark.append_text(Text(f"{finding.subject}: ", style="bold")).append(finding.text)


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """A table with columns of texts, then of numbers."""
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for column in left:
        table.add_column(column)
    for column in right:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _labelled(name: str, is_study_mode: bool) -> str:
    return f"{name} (study mode: one order)" if is_study_mode else name
