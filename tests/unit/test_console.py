"""Where the output is no terminal, whole lines are written; the cells' table shows every cell."""

from __future__ import annotations

import io
import math
import re

import pandas as pd
import pytest
from rich.console import Console
from rich.table import Table

from synthpost_dagster import console as terminal
from synthpost_dagster.console import Terminal, cells_table, comparison_table
from synthpost_dagster.report.texts import ratio_text
from synthpost_dagster.runtime.progress import Event
from synthpost_dagster.statistics.comparison import compare


def pipe() -> tuple[Terminal, io.StringIO]:
    out = io.StringIO()
    return Terminal(Console(file=out, force_terminal=False, width=120, highlight=False)), out


def row(
    steps: str, opponent: str, counts: tuple[int, int, int, int], ratio: tuple[float, float, float]
) -> dict[str, object]:
    return {
        "data_size": 1760,
        "seed": 3407,
        "steps": steps,
        "optimizer_steps": 220 if "epoch" in steps else int(steps),
        "opponent": opponent,
        "factor": "all",
        **dict(zip(("wins", "losses", "ties", "unscored"), counts, strict=True)),
        **dict(zip(("win_ratio", "win_ratio_low", "win_ratio_high"), ratio, strict=True)),
    }


def printed(table: Table) -> str:
    out = io.StringIO()
    Console(file=out, width=140, force_terminal=False).print(table)
    return out.getvalue()


def shown(table: pd.DataFrame) -> str:
    return printed(cells_table(table))


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def work(self, screen: Terminal, seconds: int, unit: str, pace: float, title: str = "") -> None:
        """So many seconds of one kind of work, told of at each; the first event only says that it begins."""
        screen.heard(Event("work", 0, 2, unit), title)
        for _ in range(seconds):
            self.now += 1
            screen.heard(Event("work", 1, 2, unit, work=pace, made=pace), title)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(terminal, "time", made)
    return made


def time_left(screen: Terminal, out: io.StringIO) -> float | None:
    """The seconds that are told now, at a milestone of the latest run; None where there are none."""
    screen.heard(Event("a look", 1, 2, "looks", is_milestone=True))
    return told_at_the_end(out)


def told_at_the_end(out: io.StringIO) -> float | None:
    """The seconds that the last line tells; None where there are none."""
    found = re.search(r"about (\d+) (min|s) left$", out.getvalue().splitlines()[-1])
    return float(found[1]) * (60 if found[2] == "min" else 1) if found else None


def test_a_pipe_gets_whole_lines_without_control_characters(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(10)
    screen.started("cell 88|50")
    clock.work(screen, 8, "steps", 0.25)
    clock.now += terminal.QUIET_SECONDS
    screen.heard(Event("training", 16, 50, "steps"))
    screen.finished("cell 88|50", 4)
    screen.reused("cell 88|150")
    screen.close()
    text = out.getvalue()
    lines = text.splitlines()
    assert lines[0].strip() == "cell 88|50 …"
    assert all(part in lines[1] for part in ("cell 88|50", "training", "16 of 50 steps"))
    assert lines[2].startswith("✓ cell 88|50 (")
    assert "left" in lines[2]
    assert lines[3] == "✓ cell 88|150 (up to date)"
    assert "\x1b" not in text
    assert "\r" not in text


def test_a_pipe_is_not_flooded_with_progress() -> None:
    screen, out = pipe()
    screen.started("cell 88|50")
    for done in range(50):
        screen.heard(Event("training", done, 50, "steps"))
    assert len(out.getvalue().splitlines()) == 1


def test_a_terminal_shows_progress_in_place_and_is_left_clean() -> None:
    out = io.StringIO()
    screen = Terminal(Console(file=out, force_terminal=True, width=100))
    screen.started("cell 88|50")
    screen.heard(Event("training", 16, 50, "steps"))
    screen.close()
    assert "16 of 50 steps" in out.getvalue()
    assert out.getvalue().count("\x1b[?25h") == out.getvalue().count("\x1b[?25l") == 1


def test_several_runs_at_a_time_have_a_line_each_and_what_is_said_once_stays_above() -> None:
    out = io.StringIO()
    screen = Terminal(Console(file=out, force_terminal=True, width=60, color_system=None))
    screen.started("sweep 1 of 2")
    screen.started("sweep 2 of 2")
    screen.heard(Event("88|50 training", 16, 50, "steps"), "sweep 1 of 2")
    screen.heard(Event("176|50 training", 3, 50, "steps"), "sweep 2 of 2")
    screen.heard(Event("the device is held by another process; " + "x" * 60, 0, 0, ""), "sweep 1 of 2")
    screen.failed("sweep 2 of 2", 1)
    screen.finished("sweep 1 of 2", 1)
    screen.close()
    final = left_on(out.getvalue())
    assert (
        "▸ sweep 1 of 2: 88|50 training: 16 of 50 steps\n▸ sweep 2 of 2: 176|50 training: 3 of 50 steps"
        in out.getvalue()
    )
    assert [line.partition(" (")[0].rstrip() for line in final if line.strip()] == [
        "  sweep 1 of 2: the device is held by another process; " + "x" * 60,
        "✗ sweep 2 of 2 failed",
        "✓ sweep 1 of 2",
    ]


def test_what_a_run_tells_of_its_work_is_counted_once(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(8)
    screen.started("sweep")
    for done in range(1, 5):
        clock.work(screen, 5, "steps", 0.2)
        screen.heard(Event("done", done, 4, "trainings", is_milestone=True))
    screen.finished("sweep", 4)
    screen.started("cell")
    screen.finished("cell", 4)
    lines = [line for line in out.getvalue().splitlines() if "trainings" in line or line.startswith("✓")]
    assert len(lines) == 6, "a training that is done is worth a line, however quick"
    assert all("left" in line for line in lines[:5])
    assert "left" not in lines[5], "nothing is left, so all work was counted, and none of it twice"


def test_work_at_an_even_pace_takes_as_long_again_as_is_left(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(300)
    screen.started("cell")
    clock.work(screen, 100, "steps", 2.0)
    assert time_left(screen, out) == pytest.approx(50, abs=1)


def test_work_that_is_told_of_seldom_has_the_same_pace(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(1_200)
    screen.started("cell")
    for done in range(4):
        screen.heard(Event("posts", done, 4, "posts", work=200.0 * bool(done), made=200.0 * bool(done)))
        clock.now += 300
    assert time_left(screen, out) == pytest.approx(900, abs=1)


def test_posts_that_end_at_the_same_moment_all_count(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(300)
    screen.started("cell")
    for _ in range(50):
        clock.work(screen, 1, "posts", 1.0)
        screen.heard(Event("work", 1, 2, "posts", work=3.0, made=3.0))
    assert time_left(screen, out) == pytest.approx(25, abs=1)


def test_what_is_left_is_told_from_the_pace_of_late(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(10_000)
    screen.started("cell")
    clock.work(screen, 100, "steps", 1.0)
    clock.work(screen, 100, "steps", 30.0)
    whole, told = (10_000 - 3_100) / (3_100 / 200), time_left(screen, out)
    assert told is not None
    assert (10_000 - 3_100) / 30 <= told < 0.75 * whole


def test_what_is_left_is_told_from_the_kind_of_work_that_is_being_done(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(10_000)
    screen.started("sweep")
    clock.work(screen, 200, "posts", 1.0)
    clock.now += 100  # the student is loaded
    clock.work(screen, 20, "steps", 30.0)
    left, told = 10_000 - 200 - 600, time_left(screen, out)
    assert told is not None
    assert left / 30 < told < left / 20


def test_what_was_there_before_says_nothing_about_the_pace(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(20_000)
    screen.started("upstream")
    clock.now += 5
    screen.finished("upstream", 10_000)
    screen.started("sweep")
    screen.heard(Event("training", 500, 660, "steps", work=1_000.0))  # it goes on from a checkpoint
    assert time_left(screen, out) is None
    clock.work(screen, 100, "steps", 10.0)
    screen.heard(Event("replies", 900, 1_000, "replies", work=900.0))
    clock.now += 1
    screen.heard(Event("replies", 1_000, 1_000, "replies", work=100.0))  # all from the journal
    screen.finished("sweep", 9_500)
    assert told_at_the_end(out) == pytest.approx(500 / 10, abs=1)


def test_what_is_left_can_be_reckoned_anew_between_runs(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(20_000)
    screen.started("upstream")
    clock.work(screen, 100, "posts", 10.0)
    screen.plan(750)
    screen.finished("upstream", 1_000)
    assert told_at_the_end(out) == pytest.approx(75, abs=1)


def test_a_milestone_is_no_kind_of_work(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(500)
    screen.started("sweep")
    for _ in range(20):
        screen.heard(Event("training", 1, 2, "steps", work=10.0, made=10.0))
        screen.heard(Event("tuned", 1, 2, "adapters", is_milestone=True))
        clock.now += 1
    assert time_left(screen, out) == pytest.approx(300 / 10, abs=1)


def test_a_short_kind_counts_for_no_longer_than_it_took(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(2_640)
    screen.started("sweep")
    clock.work(screen, 4, "posts", 10.0)
    clock.work(screen, 20, "steps", 30.0)
    assert time_left(screen, out) == pytest.approx(2_000 / (640 / 24), abs=2)


def test_a_kind_that_is_over_at_once_leaves_no_pace(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(1_600)
    screen.started("cell")
    clock.work(screen, 100, "steps", 10.0)
    clock.work(screen, 1, "games", 100.0)
    clock.work(screen, 5, "replies", 10.0)
    assert time_left(screen, out) == pytest.approx(45, abs=1)


def test_runs_at_a_time_add_up_whatever_each_is_at(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(1_500)
    for title in ("sweep 1 of 2", "sweep 2 of 2"):
        screen.started(title)
    for _ in range(100):
        screen.heard(Event("training", 1, 2, "steps", work=6.0, made=6.0), "sweep 1 of 2")
        screen.heard(Event("tuned posts", 1, 2, "posts", work=4.0, made=4.0), "sweep 2 of 2")
        clock.now += 1
    assert time_left(screen, out) == pytest.approx(500 / 10, abs=1)
    clock.now += 30
    screen.failed("sweep 2 of 2", 500.0)
    assert time_left(screen, out) == pytest.approx(400 / 6, abs=1)


def test_a_run_that_waits_will_be_as_fast_as_the_others(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(1_000)
    for title in ("sweep 1 of 2", "sweep 2 of 2"):
        screen.started(title)
    clock.work(screen, 50, "steps", 10.0, "sweep 1 of 2")
    assert time_left(screen, out) == pytest.approx(25, abs=1)


def test_no_time_is_told_from_the_first_posts_of_many_that_were_begun_together(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(1_000)
    screen.started("upstream")
    clock.work(screen, 50, "posts", 0.2)
    assert time_left(screen, out) is None
    clock.work(screen, 4, "posts", 5.0)
    assert time_left(screen, out) is not None


def test_a_pace_that_is_slow_but_even_is_told_after_a_minute(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(100_000)
    screen.started("upstream")
    clock.work(screen, 50, "posts", 10.0)
    assert time_left(screen, out) is None
    clock.work(screen, 20, "posts", 10.0)
    assert time_left(screen, out) is not None


def test_no_time_is_told_from_the_first_moment_of_a_sweep(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(100)
    screen.started("sweep")
    clock.work(screen, 1, "steps", 50.0)
    assert time_left(screen, out) is None
    clock.work(screen, 4, "steps", 1.0)
    assert time_left(screen, out) is not None


def test_between_two_runs_the_pace_stays_as_it_was(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(1_000)
    screen.started("cell 88|50")
    clock.work(screen, 100, "steps", 5.0)
    screen.finished("cell 88|50", 500)
    clock.now += 100
    screen.started("cell 88|150")
    clock.now += 100
    clock.work(screen, 20, "steps", 5.0)
    assert time_left(screen, out) == pytest.approx(80, abs=1)
    screen.finished("cell 88|150", 100)
    clock.now += 100
    screen.started("subset 88")
    screen.finished("subset 88", 0)
    assert told_at_the_end(out) == pytest.approx(80, abs=1)


def test_more_work_than_was_planned_for_a_run_is_taken_back_when_it_ends(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(200)
    screen.started("cell")
    clock.work(screen, 50, "steps", 3.0)
    screen.finished("cell", 100)
    assert told_at_the_end(out) == pytest.approx(100 / 3, abs=1)


def left_on(written: str) -> list[str]:
    """The lines that stand on a terminal in the end, where what was written moves up and clears lines."""
    lines: list[str] = [""]
    row = 0
    for part in re.findall(r"\x1b\[[0-9?;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1])
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith("\x1b") and part != "\r":
            lines[row] += part
    return lines


def test_no_time_is_told_where_nothing_is_left(clock: Clock) -> None:
    screen, out = pipe()
    screen.plan(10)
    screen.started("cell")
    clock.work(screen, 5, "steps", 1.0)
    assert time_left(screen, out) == 5
    screen.finished("cell", 10)
    assert told_at_the_end(out) is None


def test_the_cells_table_shows_every_cell_against_each_baseline() -> None:
    table = pd.DataFrame(
        [
            row("50", "base", (81, 14, 3, 2), (81 / 14, 3.3, 11.1)),
            row("1-epoch", "prompted", (100, 0, 0, 0), (math.inf, 26.6, math.inf)),
            row("150", "base", (0, 0, 95, 0), (math.nan, math.nan, math.nan)),
            {**row("50", "base", (1, 1, 1, 1), (1, 0.1, 9)), "factor": "tone"},
        ]
    )
    lines = [line for line in shown(table).splitlines() if "1,760" in line]
    assert len(lines) == 3
    for line, parts in (
        (lines[0], ["50 steps", "base", " 81 ", " 14 ", " 3 ", " 2 ", ratio_text(81 / 14, 3.3, 11.1)]),
        (lines[1], ["1-epoch (220)", "prompted", " 100 ", ratio_text(math.inf, 26.6, math.inf)]),
        (lines[2], ["150 steps", "base", " 95 ", ratio_text(math.nan, math.nan, math.nan)]),
    ):
        assert [part for part in parts if part not in line] == []


def test_the_seed_is_a_column_where_there_are_several() -> None:
    first = row("50", "base", (81, 14, 3, 2), (81 / 14, 3.3, 11.1))
    assert "seed" not in shown(pd.DataFrame([first]))
    text = shown(pd.DataFrame([first, {**first, "seed": 7}]))
    assert "seed" in text
    lines = [line.split() for line in text.splitlines() if "1,760" in line]
    assert [line[3] for line in lines] == ["3407", "7"]


def test_study_mode_is_said_over_both_tables() -> None:
    cells = pd.DataFrame([row("50", "base", (81, 14, 3, 2), (81 / 14, 3.3, 11.1))])
    compared = compare(["win", "loss"])
    for plain, marked in (
        (cells_table(cells), cells_table(cells, is_study_mode=True)),
        (comparison_table(compared), comparison_table(compared, is_study_mode=True)),
    ):
        assert "study mode" not in printed(plain)
        assert "win ratio (study mode: one order)" in printed(marked)
        assert "study mode: one order" in printed(marked).splitlines()[0]
