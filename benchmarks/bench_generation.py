"""How fast replies come in: our engine, distilabel and curator on one server, and our engine over a stand-in.

    .venv/bin/python benchmarks/bench_generation.py --results results.json
    .venv/bin/python benchmarks/bench_generation.py --rows 1760 --long-rows 17600 --skip-rivals

A server in a process of its own (`latency_server.py`) takes 50 ms for a reply and has 20 places, so 400 rows a second
are possible. Every configuration runs in a process of its own, with a server of its own started by the same command
line, and answers the same prompts: the training prompts of the packaged task. Ours go through `synthesize` with the
journal on disk in the folder for temporary files, which has to be on a real disk. Time is that from the call to the
table of rows, with what is imported or started on the way, and without making the prompts. The rivals' settings are
the fastest found here; their environments are made once under `--environments` from the lists in `rivals/`.

Prints a table, what became of the claims, and one JSON line. Needs a machine that does nothing else, Linux, and, the
first time, a package index.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
from rivals.environments import environment, versions

from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.tasks.loading import load_task

HERE = Path(__file__).resolve().parent
TASK = "sales_posts"
OUR_PACKAGES = ("openai", "groq", "aiohttp", "sqlalchemy")
DISTILABEL = {"input-batch-size": 250, "load-batch-size": 2000, "replicas": 3}
CURATOR = {"concurrency": 256}
LONG_CONCURRENCY = 256
TENTH = 10
"""The long run is made with a tenth of its rows first, which tells how long the whole will take."""
SAMPLE_SECONDS = 1.0
STOP_SECONDS = 10.0
LAST_LINES = 15
NOBODY = "http://127.0.0.1:9/v1"
"""Where the second run would ask if the journal lacked a reply: it would fail."""
MIB = 2**20

QUIET = 0.5
"""A load above this at the start: others use the machine."""
MIN_SHARE = 0.95
MAX_RATIO = 1.15 * TENTH
MAX_LONG_MIB = 1.5 * 1024

Record = dict[str, Any]


@dataclass
class Configuration:
    """One run: its command less the server's address and the file for its record, and the server it is to have."""

    name: str
    command: list[str]
    places: int = 0
    path: str = ""
    settings: Record = field(default_factory=dict)
    home: Path | None = None


@dataclass
class Bench:
    """What all configurations share."""

    options: argparse.Namespace
    folder: Path
    records: list[Record] = field(default_factory=list)

    def run(self, configuration: Configuration) -> Record:
        """Measures a configuration, tells of it, and keeps its record."""
        print(f"{configuration.name} ...", file=sys.stderr, flush=True)
        try:
            record = self._measured(configuration)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            record = {"configuration": configuration.name, "settings": configuration.settings, "error": str(error)}
        self.records.append(record)
        print(json.dumps(record), file=sys.stderr, flush=True)
        return record

    def _measured(self, configuration: Configuration) -> Record:
        if not configuration.places:
            return self._record(configuration, self._result(configuration, []), None)
        with server(self.options.latency, configuration.places) as address:
            found = self._result(configuration, ["--base-url", f"{address}{configuration.path}"])
            with urllib.request.urlopen(f"{address}/stats") as page:  # noqa: S310 - our own server
                stats = json.load(page)
        return self._record(configuration, found, stats)

    def _result(self, configuration: Configuration, more: list[str]) -> Record:
        """What the run wrote down, and the most memory that it and its children held together."""
        out, log = self.folder / "record.json", self.folder / "log.txt"
        out.unlink(missing_ok=True)
        environ = {**os.environ, "PYTHONPATH": str(HERE)}
        if configuration.home:
            environ["HOME"] = str(configuration.home)
        with log.open("w") as lines:
            process = subprocess.Popen(
                [*configuration.command, *more, "--out", str(out)],
                stdout=lines,
                stderr=lines,
                env=environ,
                start_new_session=True,
            )
            peak = watched(process, self.options.patience)
        if process.returncode or not out.exists():
            raise RuntimeError(f"exit {process.returncode}: {last_lines(log)}")
        found: Record = json.loads(out.read_text())
        return {**found, "peak_mib": max(found["peak_mib"], round(peak, 1))}

    def _record(self, configuration: Configuration, found: Record, stats: Record | None) -> Record:
        rate = found["rows"] / found["seconds"]
        possible = configuration.places / self.options.latency if stats else None
        return {
            "configuration": configuration.name,
            "rows": found["rows"],
            "seconds": found["seconds"],
            "rows_per_second": round(rate, 1),
            "possible_rows_per_second": possible,
            "share_of_possible": round(rate / possible, 4) if possible else None,
            "cpu_ms_a_row": round(1000 * found["cpu_seconds"] / max(1, found["rows"]), 3),
            "peak_mib": found["peak_mib"],
            "load": round(os.getloadavg()[0], 2),
            "settings": configuration.settings,
            "measured": found,
            "server": stats,
        }


@contextlib.contextmanager
def server(latency: float, places: int) -> Iterator[str]:
    """A server in a process of its own; its address."""
    command = [sys.executable, str(HERE / "latency_server.py"), "--latency", str(latency), "--places", str(places)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or not (line := process.stdout.readline()):
                raise RuntimeError("the server did not start")
            yield f"http://127.0.0.1:{json.loads(line)['port']}"
        finally:
            if process.stdin:
                process.stdin.close()
            process.wait(STOP_SECONDS)


def watched(process: subprocess.Popen[bytes], patience: float) -> float:
    """Waits for a process, ends it and its children after so many seconds; the most MiB they held at a time."""
    peak, until = 0.0, time.monotonic() + patience
    while process.poll() is None:
        if time.monotonic() > until:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise RuntimeError(f"did not end within {patience:g} s")
        peak = max(peak, tree_mib(process.pid))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SAMPLE_SECONDS)
    return peak


def tree_mib(pid: int) -> float:
    """Memory of a process and its children; pages that they share count once."""
    total = 0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
    return total / MIB


def last_lines(log: Path) -> str:
    """The end of what a run printed."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])


def ours(name: str, bench: Bench, backend: str, places: int, concurrency: int, journal: str) -> Configuration:
    """Our synthesis over a backend; `journal` names its file."""
    arguments = ["--backend", backend, "--rows", bench.options.rows, "--concurrency", concurrency]
    command = [sys.executable, HERE / "our_run.py", "synthesize", *arguments, "--journal", bench.folder / journal]
    settings = {"backend": backend, "concurrency": concurrency, "places": places, "latency": bench.options.latency}
    path = "/v1" if backend == "openai" else ""
    return Configuration(name, [str(part) for part in command], places, path, settings)


def stand_in(bench: Bench, rows: int) -> Configuration:
    """Our engine over a transport that answers at once."""
    arguments = ["--rows", rows, "--concurrency", LONG_CONCURRENCY, "--journal", bench.folder / f"long-{rows}.sqlite"]
    command = [sys.executable, HERE / "our_run.py", "stand-in", *arguments]
    settings = {"concurrency": LONG_CONCURRENCY}
    return Configuration(f"ours, stand-in, {rows:,} rows", [str(part) for part in command], settings=settings)


def rival(name: str, bench: Bench, python: Path, settings: Record) -> Configuration:
    """A rival in its own environment, with a home of its own."""
    home = bench.folder / name
    home.mkdir()
    arguments = [part for key, value in settings.items() for part in (f"--{key}", value)]
    places = ["--prompts", bench.folder / "prompts.json", "--cache", home / "cache"]
    command = [python, HERE / "rivals" / f"{name}_run.py", *arguments, *places]
    return Configuration(name, [str(part) for part in command], bench.options.places, "/v1", settings, home)


def run_ours(bench: Bench) -> None:
    """Both backends, and the second run, which finds everything in the journal."""
    options = bench.options
    for backend in ("openai", "groq"):
        bench.run(ours(f"ours, {backend}", bench, backend, options.places, options.concurrency, f"{backend}.sqlite"))
    again = ours("ours, openai, second run", bench, "openai", 0, options.concurrency, "openai.sqlite")
    again.command += ["--base-url", NOBODY]
    bench.run(again)


def run_rivals(bench: Bench, prompts: list[str]) -> Record:
    """Both rivals; the versions of their packages."""
    (bench.folder / "prompts.json").write_text(json.dumps(prompts))
    found = {}
    for name, settings in (("distilabel", DISTILABEL), ("curator", CURATOR)):
        try:
            python = environment(name, bench.options.environments)
            found.update({f"{name}: {package}": version for package, version in versions(name, python).items()})
        except (OSError, subprocess.SubprocessError) as error:
            bench.records.append({"configuration": name, "error": f"no environment: {error}"})
            continue
        bench.run(rival(name, bench, python, settings))
    return found


def run_more_places(bench: Bench) -> None:
    """The highest rate: the server could do more than we can."""
    for places in bench.options.more_places:
        name = f"ours, openai, {places} places"
        bench.run(ours(name, bench, "openai", places, bench.options.more_concurrency, f"{places}.sqlite"))


def run_long(bench: Bench) -> None:
    """A tenth of the long run, then the whole, unless that would take too long."""
    rows = bench.options.long_rows
    if not rows:
        return
    tenth = bench.run(stand_in(bench, rows // TENTH))
    expected = tenth.get("seconds", 0.0) * TENTH
    if expected > bench.options.patience:
        error = f"not run: a tenth of it took {tenth['seconds']} s"
        bench.records.append({"configuration": f"ours, stand-in, {rows:,} rows", "error": error})
        return
    whole = bench.run(stand_in(bench, rows))
    if "error" not in whole and "error" not in tenth:
        # The ratio of CPU seconds tells of the engine where others kept the machine busy.
        for measure in ("seconds", "cpu_seconds"):
            ratio = whole["measured"][measure] / tenth["measured"][measure]
            whole[f"{measure}_ratio_to_a_tenth"] = round(ratio, 2)


def claims(records: list[Record]) -> list[Record]:
    """What the project says of itself, with what was measured."""
    found = []
    for record in records:
        name = record["configuration"]
        if name in ("ours, openai", "ours, groq") and "error" not in record:
            share = record["share_of_possible"]
            found.append(claim(f"{name}: share of possible >= {MIN_SHARE}", share, share >= MIN_SHARE))
        if "seconds_ratio_to_a_tenth" in record:
            found += long_claims(record)
    digests = sorted({record["server"]["prompts_digest"] for record in records if record.get("server")})
    return [*found, claim("every server got the same prompts", digests, len(digests) == 1)]


def long_claims(record: Record) -> list[Record]:
    """Linear in time and CPU, and small."""
    name, above = record["configuration"], record["measured"]["peak_above_start_mib"]
    found = [claim(f"{name}: MiB above the start < {MAX_LONG_MIB:g}", above, above < MAX_LONG_MIB)]
    for measure in ("seconds", "cpu_seconds"):
        ratio = record[f"{measure}_ratio_to_a_tenth"]
        text = f"{name}: {measure} <= {MAX_RATIO:g} times those of a tenth"
        found.append(claim(text, ratio, ratio <= MAX_RATIO))
    return found


def claim(text: str, value: object, holds: bool) -> Record:
    """A claim, what was measured, and whether that bears it out."""
    return {"claim": text, "value": value, "holds": holds}


def machine(folder: Path) -> Record:
    """Where this ran."""
    mounted = [part for part in psutil.disk_partitions(all=True) if folder.is_relative_to(part.mountpoint)]
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_at_start": round(os.getloadavg()[0], 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "filesystem": max(mounted, key=lambda part: len(part.mountpoint)).fstype if mounted else "unknown",
        "versions": {name: metadata.version(name) for name in OUR_PACKAGES},
    }


def table(records: list[Record]) -> str:
    """The records in columns."""
    columns = {
        "rows": "{:,}",
        "seconds": "{:.1f}",
        "rows_per_second": "{:,.1f}",
        "share_of_possible": "{:.1%}",
        "cpu_ms_a_row": "{:.3f}",
        "peak_mib": "{:,.0f}",
    }
    lines = [["configuration", *columns]]
    for record in records:
        if "error" in record:
            lines.append([record["configuration"], "failed", *[""] * (len(columns) - 1)])
            continue
        cells = [shape.format(record[name]) if record[name] is not None else "" for name, shape in columns.items()]
        lines.append([record["configuration"], *cells])
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])  # noqa: B905
        for line in lines
    )


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=17_600)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds that the server takes for a reply")
    parser.add_argument("--places", type=int, default=20, help="replies that the server works on at once")
    parser.add_argument("--concurrency", type=int, default=128, help="our limit of requests in flight")
    parser.add_argument("--more-places", type=int, nargs="*", default=[200], help="for the highest rate")
    parser.add_argument("--more-concurrency", type=int, default=256, help="our limit with more places")
    parser.add_argument("--long-rows", type=int, default=1_760_000, help="over the stand-in; 0 for none")
    parser.add_argument("--skip-rivals", action="store_true")
    parser.add_argument("--environments", type=Path, default=HERE / ".environments", help="where the rivals live")
    parser.add_argument("--patience", type=float, default=1500.0, help="most seconds for one configuration")
    parser.add_argument("--results", type=Path, help="where the JSON line goes as well")
    return parser.parse_args(arguments)


def main() -> None:
    """Runs every configuration and prints what came of it."""
    options = options_of()
    prompts = [str(prompt) for prompt in training_prompts(load_task(TASK))["teacher_prompt"][: options.rows]]
    if len(prompts) < options.rows:
        sys.exit(f"--rows: the task has {len(prompts):,} training prompts")
    with tempfile.TemporaryDirectory() as folder:
        bench, facts = Bench(options, Path(folder)), machine(Path(folder))
        run_ours(bench)
        if not options.skip_rivals:
            facts["versions"] |= run_rivals(bench, prompts)
        run_more_places(bench)
        run_long(bench)
    held = claims(bench.records)
    if facts["load_at_start"] > QUIET:
        print(f"the load was {facts['load_at_start']} at the start: repeat this on a quiet machine")
    line = json.dumps({"machine": facts, "claims": held, "records": bench.records})
    print(table(bench.records))
    for one in held:
        print(f"{one['claim']}: {one['value']} ({'holds' if one['holds'] else 'does not hold'})")
    print(line)
    if options.results:
        options.results.write_text(f"{line}\n")


if __name__ == "__main__":
    main()
