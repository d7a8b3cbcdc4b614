"""The command line: reads arguments, calls the driver, prints results and errors. The graph does all the work."""

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from synthpost_dagster.cell import Cell
from synthpost_dagster.errors import SpecError, SynthpostError
from synthpost_dagster.orchestration.history import set_damaged_aside, storage_sentence
from synthpost_dagster.runtime.output import show_any_text
from synthpost_dagster.settings import Settings, prepare, read_settings

if TYPE_CHECKING:
    from synthpost_dagster.console import Terminal
    from synthpost_dagster.orchestration.driver import Driver
    from synthpost_dagster.stages.study import Study

MAX_STATED_USD = 1e9
HOME_HELP = "Folder of runs, artifacts and the report; default: .synthpost.  [env: SYNTHPOST_HOME]"
EXIT_STATUS = "Exit status: 0 on success, 2 on an error (the message says what to fix), 130 on Ctrl-C."
DOCTOR_STATUS = (
    "Exit status: 0 if a run can start, 1 if it cannot, 2 for an error in the task, profile or home, 130 if stopped."
)
DEMO_CELLS = (Cell(88, "1-epoch"), Cell(88, "50"), Cell(176, "1-epoch"), Cell(176, "50"))


def _study_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that choose home, task and profile; the command gets them as its first argument `settings`."""

    @click.option("--task", help="Name of a packaged task, or a folder; default: sales_posts.  [env: SYNTHPOST_TASK]")
    @click.option(
        "--profile", help="Name of a packaged profile, or a YAML file; default: tiny.  [env: SYNTHPOST_PROFILE]"
    )
    @click.option("--home", help=HOME_HELP)
    @functools.wraps(command)
    def with_settings(home: str | None, profile: str | None, task: str | None, **options: Any) -> None:
        command(read_settings(home, task, profile), **options)

    return with_settings


def _cell_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that choose cells of the profile."""
    sizes = click.option("--data-sizes", metavar="N,N", help="Data sizes, such as 88,176; default: all of the profile.")
    steps = click.option(
        "--steps", metavar="LENGTH,LENGTH", help="Training lengths, such as 50,1-epoch; default: all of the profile."
    )
    return sizes(steps(command))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure how much synthetic data and training a small model needs for a narrow writing task."""


@main.command(epilog=EXIT_STATUS, short_help="Run a small study on this machine's CPU.")
@click.option("--home", help=HOME_HELP)
def demo(home: str | None) -> None:
    """Run a small study on this machine's CPU: no API key, no network, a few minutes."""
    _sweep(read_settings(home, "sales_posts", "tiny"), list(DEMO_CELLS))


@main.command(epilog=EXIT_STATUS, short_help="Train and judge what is missing, then write the report.")
@_study_options
@_cell_options
def run(settings: Settings, data_sizes: str | None, steps: str | None) -> None:
    """Train and judge the cells that are missing or out of date, then write the report."""
    _sweep(settings, _cells(_open_study(settings), data_sizes, steps))


@main.command(epilog=EXIT_STATUS)
@_study_options
@_cell_options
def estimate(settings: Settings, data_sizes: str | None, steps: str | None) -> None:
    """Estimate requests, tokens, dollars and hours of a run. Sends no request."""
    from synthpost_dagster.console import estimate_table, power_text
    from synthpost_dagster.report.texts import needed_lines
    from synthpost_dagster.stages.estimate import estimate as estimate_of
    from synthpost_dagster.statistics.power import expected_intervals

    prepare(settings)
    study = _open_study(settings)
    console, lines = Console(), estimate_of(study, _cells(study, data_sizes, steps))
    console.print(estimate_table(lines, study.profile.budget))
    console.print(power_text(study.evaluation_count, expected_intervals(study.evaluation_count)))
    console.print("\n".join(needed_lines()))


@main.command(epilog=DOCTOR_STATUS, short_help="Check whether a run can start, and what to fix.")
@_study_options
@click.option(
    "--ask", is_flag=True, help="Request one reply from the teacher even if it costs money; the reply is cached."
)
def doctor(settings: Settings, ask: bool) -> None:
    """Check whether a run can start here, and show what to fix if it cannot."""
    from synthpost_dagster.console import finding_line
    from synthpost_dagster.orchestration.driver import open_instance
    from synthpost_dagster.orchestration.instance import pool_slots
    from synthpost_dagster.stages.doctor import Finding, examine

    prepare(settings)
    _set_history_aside(settings)
    study, console, is_good = _open_study(settings), Console(highlight=False, soft_wrap=True), True
    for finding in examine(study, may_pay=ask):
        console.print(finding_line(finding))
        is_good &= finding.is_good
    with open_instance(settings) as instance:
        slots = pool_slots(instance)
    fits = slots in (-1, study.profile.device.max_concurrent_runs)
    text = f"pool gpu allows {slots} runs at once, the profile {study.profile.device.max_concurrent_runs}"
    console.print(
        finding_line(Finding("dagster", True, text if fits else f"{text}; `synthpost run` corrects the pool"))
    )
    if not is_good:
        sys.exit(1)


@main.command(epilog=EXIT_STATUS)
@_study_options
@click.option(
    "--settle",
    metavar="NAME",
    help="Release the budget that killed processes had reserved for this profile. Use it only after checking the "
    "provider's bill: it assumes that none of the reserved amount was billed.",
)
@click.option(
    "--spent",
    metavar="NAME=DOLLARS",
    help="Set what this profile has spent in total, from the provider's bill. Needed after a damaged journal lost "
    "records of spending; until then a run with a budget sends no request.",
)
def journal(settings: Settings, settle: str | None, spent: str | None) -> None:
    """Verify the cached replies, and show their number and cost."""
    from synthpost_dagster.console import journal_tables
    from synthpost_dagster.llm.journal import Journal

    prepare(settings)
    kept, console = Journal(settings.journal_url), Console(highlight=False)
    if settle is not None:
        console.print(f"${kept.settle(settle):,.4f} reserved by {settle} released as not billed")
    if spent is not None:
        name, usd = _stated(spent)
        kept.state_spent(name, usd)
        console.print(f"{name}: spending set to ${usd:,.4f}")
    kept.verify()
    spending = kept.spending()
    console.print(*journal_tables(kept.name, kept.summary(), spending))
    unknown = [record["profile"] for record in spending if kept.unknown_since(record["profile"]) is not None]
    if unknown:
        console.print(
            f"Records of spending were lost for {', '.join(unknown)}. Set the total from the provider's bill with "
            "`synthpost journal --spent NAME=DOLLARS`.",
            soft_wrap=True,
        )


@main.command(epilog=EXIT_STATUS, short_help="Show the teacher's replies and why some were rejected.")
@_study_options
@click.option("--rejected", is_flag=True, help="Show rejected replies only.")
@click.option("--reason", metavar="R", help="Show only replies rejected for this reason.")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Maximum number of replies to show.",
)
@click.option("--json", "is_json", is_flag=True, help="Print counts and full replies as JSON.")
def rows(settings: Settings, rejected: bool, reason: str | None, limit: int, is_json: bool) -> None:
    """Show the teacher's replies, kept and rejected, with reasons and keys to change.

    Reads the newest table of rows, even if it failed its checks. If there is none, it reads the replies in the journal.
    """
    from synthpost_dagster.stages.rows_listing import as_json, listing, reasons_table, row_lines
    from synthpost_dagster.stages.synthetic_rows import latest_rows

    prepare(settings)
    study = _open_study(settings)
    listed = listing(study, latest_rows(study), rejected, reason, limit)
    if is_json:
        click.echo(as_json(listed))
        return
    console = Console(highlight=False)
    console.print(reasons_table(listed))
    for line in row_lines(listed):
        console.print(line, soft_wrap=True)


@main.command(epilog=EXIT_STATUS)
@_study_options
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Filled-in blind sheet of the report, with people's labels; later reports use it too.",
)
def report(settings: Settings, labels: Path | None) -> None:
    """Write the report of the cells that are complete."""
    from synthpost_dagster.stages.report import keep_labels

    if labels is not None:
        prepare(settings)
        click.echo(f"{keep_labels(settings, labels):,} labelled pairs saved")
    _drive(settings, lambda sweep: sweep.report())


@main.command(epilog=EXIT_STATUS, short_help="Evaluate comparisons from a file.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder to write the page and figures.json to."
)
@click.option("--win", metavar="LABEL", help="Label of a win of the candidate.")
@click.option("--loss", metavar="LABEL", help="Label of a win of the baseline.")
@click.option("--tie", metavar="LABEL", default="tie", show_default=True, help="Label of a tie.")
@click.option("--label-column", metavar="NAME", help="Column of the labels; default: label.")
@click.option(
    "--map",
    "mapped",
    multiple=True,
    metavar="LABEL=OUTCOME",
    help="Outcome of another label: win, loss, tie or unscored; repeatable.",
)
@click.option("--strict", is_flag=True, help="Accept exact labels only.")
@click.option(
    "--order-column",
    metavar="NAME",
    help="Column that says which post came first in a game. The labels then name positions (A, first, A>B); leave out "
    "--win and --loss.",
)
@click.option("--candidate-first", metavar="VALUE", help="Value of --order-column if the candidate's post came first.")
@_study_options
def pairs(
    settings: Settings,
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
) -> None:
    """Evaluate comparisons from a FILE of another tool: CSV, parquet, JSON or JSON lines.

    With a column of labels, --win and --loss name the label of each outcome; numbers between the two are weighted
    preferences. With the columns prompt, baseline and candidate instead, the profile's judges compare the posts in both
    orders, and games.csv lists every game. Arena-Hard judgments and AlpacaEval annotations are recognised by their
    keys. Other columns are factors; pair_id identifies a pair.
    """
    from synthpost_dagster.console import Terminal, comparison_table
    from synthpost_dagster.pairs.mapping import parse_map
    from synthpost_dagster.pairs.table import Order
    from synthpost_dagster.runtime.progress import Progress, subscribed
    from synthpost_dagster.stages.pairs import Labels, evaluate_pairs

    if (order_column is None) != (candidate_first is None):
        raise SpecError("--order-column and --candidate-first need each other; give both")
    order = None if order_column is None or candidate_first is None else Order(order_column, candidate_first)
    prepare(settings)
    terminal = Terminal()
    try:
        with subscribed(terminal.heard):
            labels = Labels(label_column, win, loss, tie, strict, order, parse_map(mapped))
            made = evaluate_pairs(_open_study(settings), file, labels, out, Progress())
    finally:
        terminal.close()
    terminal.console.print(comparison_table(made.comparison, made.is_study_mode))
    for notice in made.notices:
        terminal.console.print(notice, markup=False)
    if made.unread:
        terminal.console.print("Labels that were not recognised, each with the argument that maps it to an outcome:")
    for line in made.unread:
        terminal.console.print(line, markup=False, soft_wrap=True)
    terminal.console.print(f"Page: {made.page}", soft_wrap=True)
    if made.games:
        terminal.console.print(f"Games with the judge's replies: {made.games}", soft_wrap=True)


@main.command(epilog=EXIT_STATUS, short_help="Serve the Dagster UI, its schedules and sensors.")
@_study_options
@click.option("--port", default=3000, show_default=True, help="Port to listen on.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--allow-host",
    "allowed",
    multiple=True,
    metavar="NAME",
    help="Accept requests for this host name too, such as that of a proxy with a log-in; repeatable.",
)
@click.option("--read-only", is_flag=True, help="Let nobody start, stop or change anything.")
def ui(settings: Settings, port: int, host: str, allowed: tuple[str, ...], read_only: bool) -> None:
    """Serve the Dagster UI with the daemon that runs schedules and sensors.

    The UI has no log-in, so by default it listens on 127.0.0.1 only and accepts only requests for the host names
    127.0.0.1, localhost and [::1].
    """
    from synthpost_dagster.artifacts.drafts import remove_abandoned
    from synthpost_dagster.orchestration.driver import open_instance
    from synthpost_dagster.orchestration.instance import tidy
    from synthpost_dagster.orchestration.ui import serve

    study = _open_study(settings)
    prepare(settings)
    _set_history_aside(settings)
    remove_abandoned(settings.home)
    with open_instance(settings) as instance:
        tidy(instance, study.profile.device.max_concurrent_runs)
    serve(settings, host, port, allowed, read_only)


def entry() -> None:
    """The console script: an error prints one sentence and exits with 2; a defect prints its traceback."""
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
        click.echo("synthpost: stopped; run again to resume", err=True)
        sys.exit(130)
    except Exception as error:
        sentence = storage_sentence(error, read_settings().home)
        if not sentence:
            raise
        click.echo(f"synthpost: {sentence}", err=True)
        sys.exit(2)


def _open_study(settings: Settings) -> "Study":
    """The study of the settings; loads libraries that `--help` does not need."""
    from synthpost_dagster.stages import opening

    return opening.open_study(settings)


def _set_history_aside(settings: Settings) -> None:
    """Moves a damaged history of Dagster aside, so that Dagster starts a new one, and prints where it is."""
    from synthpost_dagster.artifacts.store import writing

    with writing(settings.dagster_home):
        for folder in set_damaged_aside(settings.dagster_home):
            click.echo(
                f"Dagster's run history was damaged; it is moved to {folder} and a new one starts. Artifacts do not "
                "depend on it, so nothing is computed again.",
                err=True,
            )


def _stated(text: str) -> tuple[str, float]:
    """Profile name and dollars of NAME=DOLLARS. Raises SpecError for anything else."""
    name, _, dollars = text.rpartition("=")
    try:
        usd = float(dollars)
    except ValueError:
        usd = -1.0
    if not name or not 0 <= usd < MAX_STATED_USD:
        raise SpecError(f"--spent: {text} is not NAME=DOLLARS; example: hosted=12.50")
    return name, usd


def _sweep(settings: Settings, cells: list[Cell]) -> None:
    _drive(settings, lambda sweep: sweep.run(cells))


def _drive(settings: Settings, work: "Callable[[Driver], None]") -> None:
    """Runs a sweep, shows its progress in the terminal, then the results."""
    from synthpost_dagster.console import Terminal
    from synthpost_dagster.orchestration.driver import open_driver
    from synthpost_dagster.runtime.processes import resend_lost_interrupts
    from synthpost_dagster.runtime.progress import subscribed

    resend_lost_interrupts()
    _open_study(settings)  # a mistake in task or profile ends the command before any file is written
    prepare(settings)
    _set_history_aside(settings)
    terminal = Terminal()
    try:
        with open_driver(settings, terminal) as sweep, subscribed(terminal.heard):
            work(sweep)
    finally:
        terminal.close()
    _show_result(settings, terminal)


def _cells(study: "Study", data_sizes: str | None, steps: str | None) -> list[Cell]:
    """The chosen cells. Raises SpecError for a level that the profile does not have."""
    sweep = study.profile.sweep
    sizes = _levels(study, "--data-sizes", data_sizes, sweep.data_sizes)
    lengths = _levels(study, "--steps", steps, sweep.steps)
    return [Cell(int(size), length) for size in sizes for length in lengths]


def _levels(study: "Study", flag: str, text: str | None, levels: Sequence[int | str]) -> list[str]:
    """The levels named in an option, without repetitions; all of the profile's where none is named."""
    known = [str(level) for level in levels]
    chosen = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip())) if text else known
    if unknown := [level for level in chosen if level not in known]:
        raise SpecError(
            f"{flag}: profile {study.profile.name} has no level {unknown[0]} (its levels: {', '.join(known)}); "
            "choose one of them, or add it to `sweep` in the profile"
        )
    return chosen


def _show_result(settings: Settings, terminal: "Terminal") -> None:
    import pandas as pd

    from synthpost_dagster.console import cells_table

    folder: Path = settings.home / "report"
    ratios = pd.read_parquet(folder / "ratio_report.parquet")
    terminal.console.print(cells_table(ratios, _open_study(settings).profile.study))
    terminal.console.print(f"Report: {folder / 'index.html'}", soft_wrap=True)


if __name__ == "__main__":
    entry()
