"""The command line: reads arguments, calls the driver, prints errors as one sentence. All work is done by the graph."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from synthpost_dagster.errors import SpecError, SynthpostError
from synthpost_dagster.orchestration.history import set_damaged_aside, storage_sentence
from synthpost_dagster.runtime.output import show_any_text
from synthpost_dagster.settings import Settings, prepare, read_settings

if TYPE_CHECKING:
    from synthpost_dagster.console import Terminal
    from synthpost_dagster.orchestration.driver import Driver

MAX_STATED_USD = 1e9
DEMO_CELLS = ("88|1-epoch", "88|50", "176|1-epoch", "176|50")


def _common(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--home", help="Folder for runs, locks, artifacts and the page.  [env: SYNTHPOST_HOME]"),
        click.option("--profile", help="A packaged profile or a YAML file.  [env: SYNTHPOST_PROFILE]"),
        click.option("--task", help="A packaged task or a task folder.  [env: SYNTHPOST_TASK]"),
    ):
        command = option(command)
    return command


def _chosen(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--steps", metavar="S,S", help="Lengths of training, such as 50,1-epoch; by default the profile's."
        ),
        click.option("--data-sizes", metavar="N,N", help="Data sizes to cover; by default those of the profile."),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """How much synthetic data and training a narrow task needs, and whether the tuned small model is better."""


@main.command()
@click.option("--home", help="Folder for runs, locks, artifacts and the page.  [env: SYNTHPOST_HOME]")
def demo(home: str | None) -> None:
    """The whole study in miniature, on this machine's CPU, without a key or a network."""
    settings = read_settings(home, "sales_posts", "tiny")
    _sweep(settings, list(DEMO_CELLS))


@main.command()
@_common
@_chosen
def run(home: str | None, profile: str | None, task: str | None, data_sizes: str | None, steps: str | None) -> None:
    """Bring the cells of a sweep and the report up to date."""
    settings = read_settings(home, task, profile)
    _sweep(settings, _cells(settings, data_sizes, steps))


@main.command()
@_common
@_chosen
def estimate(
    home: str | None, profile: str | None, task: str | None, data_sizes: str | None, steps: str | None
) -> None:
    """Say what the chosen cells will take: requests, tokens, dollars, time. Nothing is asked."""
    from synthpost_dagster.cell import Cell
    from synthpost_dagster.console import estimate_table, power_text
    from synthpost_dagster.report.texts import needed_lines
    from synthpost_dagster.stages.estimate import estimate as reckon
    from synthpost_dagster.stages.opening import open_study
    from synthpost_dagster.statistics.power import expected_intervals

    settings = read_settings(home, task, profile)
    prepare(settings)
    study = open_study(settings)
    cells = [Cell.parse(key) for key in _cells(settings, data_sizes, steps)]
    Console().print(estimate_table(reckon(study, cells), study.profile.budget))
    Console().print(power_text(study.evaluation_count, expected_intervals(study.evaluation_count)))
    Console().print("\n".join(needed_lines()))


@main.command()
@_common
@click.option("--ask", is_flag=True, help="Ask the teacher for one reply even where it is paid; the journal keeps it.")
def doctor(home: str | None, profile: str | None, task: str | None, ask: bool) -> None:
    """Say whether a run can start here, and what to mend; exits with 1 where it cannot."""
    from synthpost_dagster.console import finding_line
    from synthpost_dagster.orchestration.driver import open_instance
    from synthpost_dagster.orchestration.instance import pool_slots
    from synthpost_dagster.stages.doctor import Finding, examine
    from synthpost_dagster.stages.opening import open_study

    settings = read_settings(home, task, profile)
    prepare(settings)
    _set_history_aside(settings)
    study, console, is_good = open_study(settings), Console(highlight=False, soft_wrap=True), True
    for finding in examine(study, may_pay=ask):
        console.print(finding_line(finding))
        is_good &= finding.is_good
    with open_instance(settings) as instance:
        slots = pool_slots(instance)
    fits = slots in (-1, study.profile.device.max_concurrent_runs)
    text = f"pool gpu lets {slots} in at a time, the profile {study.profile.device.max_concurrent_runs}"
    console.print(finding_line(Finding("dagster", True, text if fits else f"{text}; `synthpost run` sets it right")))
    if not is_good:
        sys.exit(1)


@main.command()
@_common
@click.option(
    "--settle",
    metavar="NAME",
    help="Give the profile of this name back what killed processes had set aside. Only where you have seen the "
    "provider's bill: it assumes that none of it was ever billed.",
)
@click.option(
    "--spent",
    metavar="NAME=DOLLARS",
    help="State what the profile of this name has spent in all, as the provider's bill shows it. Wanted where a "
    "damaged journal has lost records of spending: until then, nothing is spent under a budget.",
)
def journal(home: str | None, profile: str | None, task: str | None, settle: str | None, spent: str | None) -> None:
    """Check every reply in the journal, and say what is in it and what it cost."""
    from synthpost_dagster.console import journal_tables
    from synthpost_dagster.llm.journal import Journal

    settings = read_settings(home, task, profile)
    prepare(settings)
    kept, console = Journal(settings.journal_url), Console(highlight=False)
    if settle is not None:
        console.print(f"${kept.settle(settle):,.4f} unsettled dollars of {settle} are free again, as never billed")
    if spent is not None:
        name, usd = _stated(spent)
        kept.state_spent(name, usd)
        console.print(f"{name} has spent ${usd:,.4f} in all, as stated")
    kept.verify()
    spending = kept.spending()
    console.print(*journal_tables(kept.name, kept.summary(), spending))
    unknown = [record["profile"] for record in spending if kept.unknown_since(record["profile"]) is not None]
    if unknown:
        console.print(
            f"Records of spending were lost; not known for sure: {', '.join(unknown)}. State what the provider's bill "
            "shows with `synthpost journal --spent NAME=DOLLARS`.",
            soft_wrap=True,
        )


@main.command()
@_common
@click.option("--rejected", is_flag=True, help="Only replies that were rejected.")
@click.option("--reason", metavar="R", help="Only replies that were rejected for this reason.")
@click.option("--limit", metavar="N", type=click.IntRange(min=0), default=20, show_default=True, help="Rows to show.")
@click.option("--json", "is_json", is_flag=True, help="Counts and rows as JSON, with the whole texts.")
def rows(
    home: str | None,
    profile: str | None,
    task: str | None,
    rejected: bool,
    reason: str | None,
    limit: int,
    is_json: bool,
) -> None:
    """Show the teacher's replies, kept and rejected, with the reasons and the keys to change.

    Looks at the newest table of rows, also one that failed its checks; where there is none, at the replies in the
    journal. Exits with 0 where there are replies, with 2 where there are none or none has the reason.
    """
    from synthpost_dagster.stages.opening import open_study
    from synthpost_dagster.stages.rows_listing import as_json, listing, reasons_table, row_lines
    from synthpost_dagster.stages.synthetic_rows import latest_rows

    settings = read_settings(home, task, profile)
    prepare(settings)
    study = open_study(settings)
    listed = listing(study, latest_rows(study), rejected, reason, limit)
    if is_json:
        click.echo(as_json(listed))
        return
    console = Console(highlight=False)
    console.print(reasons_table(listed))
    for line in row_lines(listed):
        console.print(line, soft_wrap=True)


@main.command()
@_common
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The page's blind sheet, filled by people; kept in the home for later reports too.",
)
def report(home: str | None, profile: str | None, task: str | None, labels: Path | None) -> None:
    """Make the report of the cells that are there."""
    from synthpost_dagster.stages.report import keep_labels

    settings = read_settings(home, task, profile)
    if labels is not None:
        prepare(settings)
        click.echo(f"{keep_labels(settings, labels):,} labelled pairs kept")
    _drive(settings, lambda sweep: sweep.report())


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the page and figures.json.")
@click.option("--win", metavar="LABEL", help="What a label says where the candidate won.")
@click.option("--loss", metavar="LABEL", help="What a label says where the baseline won.")
@click.option("--tie", metavar="LABEL", default="tie", show_default=True, help="What it says where neither did.")
@click.option("--label-column", metavar="NAME", help="Column of the labels; by default `label`.")
@click.option(
    "--map",
    "mapped",
    multiple=True,
    metavar="LABEL=OUTCOME",
    help="The outcome of one more label: win, loss, tie or unscored; repeatable.",
)
@click.option("--strict", is_flag=True, help="Count exact labels only; repair nothing.")
@click.option(
    "--order-column",
    metavar="NAME",
    help="Column that says which post stood first in a game; the labels then name places (A, first, A>B), and --win "
    "and --loss are left out.",
)
@click.option(
    "--candidate-first", metavar="VALUE", help="What --order-column says where the candidate's post stood first."
)
@_common
def pairs(
    file: Path,
    out: Path,
    win: str | None,
    loss: str | None,
    tie: str,
    label_column: str | None,
    mapped: tuple[str, ...],
    strict: bool,
    order_column: str | None,
    candidate_first: str | None,
    home: str | None,
    profile: str | None,
    task: str | None,
) -> None:
    """Evaluate comparisons made elsewhere: FILE is CSV, parquet, JSON or JSON lines.

    Either a column of verdicts, read tolerantly with --win and --loss (numbers between the two are weighted
    preferences); or the columns prompt, baseline and candidate, which the profile's judges play in both orders, and
    every game is kept in games.csv. Arena-Hard's judgments and AlpacaEval's annotations are known by their keys. Other
    columns are factors; `pair_id` names the pairs.

    Exits with 2 where the file is wrong, or none of its labels can be read.
    """
    from synthpost_dagster.console import Terminal, comparison_table
    from synthpost_dagster.pairs.labels import parse_map
    from synthpost_dagster.pairs.table import Order
    from synthpost_dagster.runtime.progress import Progress, subscribed
    from synthpost_dagster.stages.opening import open_study
    from synthpost_dagster.stages.pairs import Labels, evaluate_pairs

    if (order_column is None) != (candidate_first is None):
        raise SpecError("--order-column and --candidate-first go together; give both")
    order = None if order_column is None or candidate_first is None else Order(order_column, candidate_first)
    settings = read_settings(home, task, profile)
    prepare(settings)
    terminal = Terminal()
    try:
        with subscribed(terminal.heard):
            labels = Labels(label_column, win, loss, tie, strict, order, parse_map(mapped))
            made = evaluate_pairs(open_study(settings), file, labels, out, Progress())
    finally:
        terminal.close()
    terminal.console.print(comparison_table(made.comparison, made.is_study_mode))
    for notice in made.notices:
        terminal.console.print(notice, markup=False)
    if made.unread:
        terminal.console.print("Labels that could not be read, with the argument that gives each its outcome:")
    for line in made.unread:
        terminal.console.print(line, markup=False, soft_wrap=True)
    terminal.console.print(f"The page: {made.page}", soft_wrap=True)
    if made.games:
        terminal.console.print(f"Every game with the judge's reply: {made.games}", soft_wrap=True)


@main.command()
@_common
@click.option("--port", default=3000, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address of this machine to listen on.")
@click.option(
    "--allow-host",
    "allowed",
    multiple=True,
    metavar="NAME",
    help="Answer under this host name too, such as that of a proxy with a log-in; may be repeated.",
)
@click.option("--read-only", is_flag=True, help="Show, and let nobody start, stop or change anything.")
def ui(
    home: str | None,
    profile: str | None,
    task: str | None,
    port: int,
    host: str,
    allowed: tuple[str, ...],
    read_only: bool,
) -> None:
    """Serve the Dagster UI with the daemon that runs schedules and sensors.

    It has no log-in, so it listens on 127.0.0.1 and answers under the names 127.0.0.1, localhost and [::1] alone.
    """
    from synthpost_dagster.artifacts.drafts import remove_abandoned
    from synthpost_dagster.orchestration.driver import open_instance
    from synthpost_dagster.orchestration.instance import tidy
    from synthpost_dagster.orchestration.ui import serve
    from synthpost_dagster.stages.opening import open_study

    settings = read_settings(home, task, profile)
    study = open_study(settings)
    prepare(settings)
    _set_history_aside(settings)
    remove_abandoned(settings.home)
    with open_instance(settings) as instance:
        tidy(instance, study.profile.device.max_concurrent_runs)
    serve(settings, host, port, allowed, read_only)


def entry() -> None:
    """The console script: one sentence and status 2 for what a person can mend; a defect keeps its traceback."""
    show_any_text()
    try:
        main(standalone_mode=False)
    except SynthpostError as error:
        click.echo("\n  ".join([f"synthpost: {error}", *error.details]), err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("synthpost: stopped; run again to go on from there", err=True)
        sys.exit(130)
    except Exception as error:
        sentence = storage_sentence(error, read_settings().home)
        if not sentence:
            raise
        click.echo(f"synthpost: {sentence}", err=True)
        sys.exit(2)


def _set_history_aside(settings: Settings) -> None:
    """Lets Dagster begin a new history where its own is damaged, and says so."""
    from synthpost_dagster.artifacts.store import writing

    with writing(settings.dagster_home):
        for folder in set_damaged_aside(settings.dagster_home):
            click.echo(
                f"Dagster's history of runs was damaged and is now {folder}; a new one begins. Artifacts are found "
                "without it, so nothing is made again.",
                err=True,
            )


def _stated(text: str) -> tuple[str, float]:
    """A profile's name and dollars from NAME=DOLLARS. Raises SpecError for anything else."""
    name, _, dollars = text.rpartition("=")
    try:
        usd = float(dollars)
    except ValueError:
        usd = -1.0
    if not name or not 0 <= usd < MAX_STATED_USD:
        raise SpecError(f"--spent: {text} is not NAME=DOLLARS; write for example hosted=12.50")
    return name, usd


def _sweep(settings: Settings, cells: list[str]) -> None:
    from synthpost_dagster.cell import Cell

    _drive(settings, lambda sweep: sweep.run([Cell.parse(key) for key in cells]))


def _drive(settings: Settings, work: "Callable[[Driver], None]") -> None:
    """Lets a sweep work while the terminal shows it, then shows what came of it."""
    from synthpost_dagster.console import Terminal
    from synthpost_dagster.orchestration.driver import open_driver
    from synthpost_dagster.runtime.processes import resend_lost_interrupts
    from synthpost_dagster.runtime.progress import subscribed
    from synthpost_dagster.stages.opening import open_study

    resend_lost_interrupts()
    open_study(settings)  # a mistake in task or profile ends the command before anything is written
    prepare(settings)
    _set_history_aside(settings)
    terminal = Terminal()
    try:
        with open_driver(settings, terminal) as sweep, subscribed(terminal.heard):
            work(sweep)
    finally:
        terminal.close()
    _show_result(settings, terminal)


def _cells(settings: Settings, data_sizes: str | None, steps: str | None) -> list[str]:
    """Keys of the chosen cells. Raises SpecError for a level that is none of the profile's."""
    from synthpost_dagster.stages.opening import open_study

    study = open_study(settings)
    chosen = []
    for flag, text, levels in (
        ("--data-sizes", data_sizes, study.profile.sweep.data_sizes),
        ("--steps", steps, study.profile.sweep.steps),
    ):
        known = [str(level) for level in levels]
        wanted = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip())) if text else known
        for level in wanted:
            if level not in known:
                raise SpecError(
                    f"{flag}: {level} is none of the levels of profile {study.profile.name} ({', '.join(known)}); "
                    "choose one of them, or add it to `sweep` in the profile"
                )
        chosen.append(wanted)
    return [f"{size}|{length}" for size in chosen[0] for length in chosen[1]]


def _show_result(settings: Settings, terminal: "Terminal") -> None:
    import pandas as pd

    from synthpost_dagster.console import cells_table
    from synthpost_dagster.stages.opening import open_study

    folder: Path = settings.home / "report"
    ratios = pd.read_parquet(folder / "ratio_report.parquet")
    terminal.console.print(cells_table(ratios, open_study(settings).profile.study))
    terminal.console.print(f"The page: {folder / 'index.html'}", soft_wrap=True)


if __name__ == "__main__":
    entry()
