"""How fast a LLaMA 3 8B is tuned on one GPU: the study's configuration and ours, with the package's own trainers.

    .venv/bin/python benchmarks/bench_training.py --results benchmarks/results/bench_training.json
    .venv/bin/python benchmarks/bench_training.py --ways "study, Unsloth" "ours, bf16"

A checkpoint of the model's shape with random weights is made first (`random_llama.py`). A step has 8 rows of uneven
length, about 2,540 tokens; 10 steps are for warming up, 30 are measured. Every configuration runs in a process of its
own (`training_run.py`). With `--together` several load and compile at a time where memory holds them (80 GB hold two),
but while the steps of one are measured the others of its group wait, so that nothing else runs on the GPU.
`peak_gib` is the most that torch reserved.

Prints a table, what became of the claims, and one JSON line. Needs an NVIDIA GPU with 48 GB for all of it, and the
package's dependencies; with `--device cpu --shape small --ways "ours, bf16"` it shows that all works.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from random_llama import SHAPES
from training_run import READY, WAYS

HERE = Path(__file__).resolve().parent
PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "unsloth", "unsloth_zoo", "triton")
LAST_LINES = 12
MEANT = "llama3-8b"
"""The shape that the claims speak of."""

STUDY = "study, Unsloth"
SAME = "study, TRL"
SIXTEEN, FLOAT8 = "ours, NF4 decoded", "ours, NF4 decoded, float8"
OURS = ("ours, bf16", SIXTEEN, FLOAT8)
LOW_MEMORY = ("ours, NF4, 8 GiB", "ours, NF4, 8 GiB, not compiled")
MAX_MS, MIN_TIMES, MAX_LOW_MS, MAX_LOW_GIB = 165.0, 10.0, 450.0, 8.0
COMPARED_STEPS, MAX_DIFFERENCE = 20, 0.02

Record = dict[str, Any]


@dataclass
class Run:
    """A process that measures one configuration, and where it leaves what it has to say."""

    name: str
    process: subprocess.Popen[str]
    out: Path
    log: Path

    def wait_ready(self, patience: float) -> bool:
        """Whether all is loaded and compiled within so many seconds."""
        timer = threading.Timer(patience, self.process.kill)
        timer.start()
        try:
            return any(line.strip() == READY for line in self.process.stdout or ())
        finally:
            timer.cancel()

    def finish(self, patience: float) -> Record:
        """Lets the steps begin; the record, or why there is none."""
        try:
            if self.process.poll() is None:
                self.process.communicate("go\n", timeout=patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        if self.process.returncode or not self.out.exists():
            lines = self.log.read_text(errors="replace").splitlines()[-LAST_LINES:]
            return {"configuration": self.name, "error": "\n".join(lines), "exit": self.process.returncode}
        record: Record = json.loads(self.out.read_text())
        return record


def start(name: str, options: argparse.Namespace, checkpoint: Path, folder: Path) -> Run:
    """Starts the process of a configuration; it loads and compiles by itself, then waits."""
    out, log = (folder / f"{list(WAYS).index(name)}.{end}" for end in ("json", "log"))
    command = [sys.executable, HERE / "training_run.py", "--name", name, "--checkpoint", checkpoint, "--told"]
    command += ["--steps", options.steps, "--device", options.device, "--shape", options.shape, "--out", out]
    with log.open("w") as lines:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=lines,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join([str(HERE.parent), *_paths()])},
        )
    return Run(name, process, out, log)


def _paths() -> list[str]:
    """Where packages are sought already; the package need not be installed."""
    known = os.environ.get("PYTHONPATH")
    return [known] if known else []


def measure(names: list[str], options: argparse.Namespace, checkpoint: Path, folder: Path) -> list[Record]:
    """The records of some configurations that load together and are measured one after the other."""
    runs = [start(name, options, checkpoint, folder) for name in names]
    ready = [(run, run.wait_ready(options.patience)) for run in runs]
    records = []
    for run, is_ready in ready:
        if not is_ready:
            run.process.wait()
        record = run.finish(options.patience)
        records.append(record)
        print(json.dumps(record), file=sys.stderr, flush=True)
    return records


def claims(records: list[Record]) -> list[Record]:
    """What was asked of the project (docs/decisions/0009), with what was measured."""
    by_name = {record["configuration"]: record for record in records if "error" not in record}
    found = []
    for name in (name for name in OURS if name in by_name):
        ours = by_name[name]["ms_per_step"]
        found.append(claim(f"{name}: ms a step <= {MAX_MS:g}", ours, ours <= MAX_MS))
        for study in (study for study in (STUDY, SAME) if study in by_name):
            times = round(by_name[study]["ms_per_step"] / ours, 2)
            found.append(claim(f"{name}: times faster than {study} >= {MIN_TIMES:g}", times, times >= MIN_TIMES))
    for name in (name for name in LOW_MEMORY if name in by_name):
        ms, gib = by_name[name]["ms_per_step"], by_name[name]["peak_gib"]
        found.append(claim(f"{name}: ms a step <= {MAX_LOW_MS:g}", ms, ms <= MAX_LOW_MS))
        found.append(claim(f"{name}: peak GiB <= {MAX_LOW_GIB:g}", gib, gib <= MAX_LOW_GIB))
    for one, other in ((SAME, STUDY), (FLOAT8, SIXTEEN)):
        if one in by_name and other in by_name:
            pairs = list(zip(by_name[one]["losses"], by_name[other]["losses"], strict=True))[:COMPARED_STEPS]
            most = max(abs(ours / theirs - 1) for ours, theirs in pairs)
            text = f"{one}: its losses of {COMPARED_STEPS} steps differ from those of {other} by <= {MAX_DIFFERENCE}"
            found.append(claim(text, round(most, 5), most <= MAX_DIFFERENCE))
    return found


def claim(text: str, value: object, holds: bool) -> Record:
    """A claim, what was measured, and whether that bears it out."""
    return {"claim": text, "value": value, "holds": holds}


def machine() -> Record:
    """Where, when and how this ran."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        gpu = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        gpu = "none"
    return {
        "gpu": gpu,
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join([Path(part).name if Path(part).is_absolute() else part for part in sys.argv]),
        "cpus": os.cpu_count(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of the packages that matter here and are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def table(records: list[Record]) -> str:
    """The records in columns."""
    columns = {
        "ms_per_step": "{:,.1f}",
        "tokens_per_second": "{:,.0f}",
        "peak_gib": "{:.2f}",
        "setup_peak_gib": "{:.2f}",
        "setup_seconds": "{:.0f}",
    }
    lines = [["configuration", *columns]]
    for record in records:
        if "error" in record:
            lines.append([record["configuration"], "failed", *[""] * (len(columns) - 1)])
            continue
        cells = [shape.format(record[name]) if name in record else "" for name, shape in columns.items()]
        lines.append([record["configuration"], *cells])
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])  # noqa: B905
        for line in lines
    )


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), metavar="NAME", help="configurations; all by default")
    parser.add_argument("--steps", type=int, default=40, help="those of warm-up, 10, counted in")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="llama3-8b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--together", type=int, default=1, help="so many load and compile at a time, and hold memory")
    parser.add_argument("--checkpoint", type=Path, help="where the random weights are or go; else a temporary folder")
    parser.add_argument("--patience", type=float, default=300.0, help="most seconds for loading, and for the steps")
    parser.add_argument("--results", type=Path, help="where the JSON line goes as well")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.ways if name not in WAYS]:
        parser.error(f"--ways: {unknown} are none of {list(WAYS)}")
    return options


def main() -> None:
    """Makes the checkpoint, runs every configuration and prints what came of it."""
    options = options_of()
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as name:
        folder, facts = Path(name), machine()
        checkpoint = options.checkpoint or folder / "checkpoint"
        command = [sys.executable, HERE / "random_llama.py", "--checkpoint", checkpoint]
        command += ["--shape", options.shape, "--device", options.device]
        subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)
        for first in range(0, len(options.ways), options.together):
            records += measure(options.ways[first : first + options.together], options, checkpoint, folder)
    held = claims(records) if options.shape == MEANT else []
    line = json.dumps({"machine": facts, "shape": options.shape, "claims": held, "records": records})
    if options.results:
        options.results.write_text(f"{line}\n")
    print(line)
    for record in records:
        if "error" in record:
            print(f"--- {record['configuration']}\n{record['error']}")
    print(table(records))
    for one in held:
        print(f"{one['claim']}: {one['value']} ({'holds' if one['holds'] else 'does not hold'})")


if __name__ == "__main__":
    main()
