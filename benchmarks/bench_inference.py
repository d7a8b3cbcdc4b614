"""How fast a LLaMA 3 8B answers under five adapters on one GPU: transformers' ways and ours, on the same prompts.

    .venv/bin/python benchmarks/bench_inference.py --results benchmarks/results/bench_inference.json
    .venv/bin/python benchmarks/bench_inference.py --ways "generate, PEFT" engine

A checkpoint of the model's shape and adapters with random weights are made first. Each of 5 adapters answers 95 prompts
of about 200 tokens with 128 new tokens, ends ignored; `generate` does so for one adapter, since it takes one at a time,
and `generate_batch`, which takes none, for three times the prompts. Every configuration runs in a process of its own
(`inference_run.py`), one after the other.

`seconds` has the prefill in it; `setup_seconds` is everything before: loading, compiling, capturing graphs.
`equal_alone` is the share of the first and the last adapter's greedy replies that are the same, token for token, when
each is alone, which takes `seconds_alone` for one: rounding in bfloat16 depends on the shapes of products, so it is
below 1 where they are not kept. `ms_per_step` is a step's of the engine, all replies' next token; where steps are not
ours, the whole time over the number of new tokens.

Prints a table, what became of the claims, and one JSON line. Needs an NVIDIA GPU with 80 GB and the package's
dependencies for inference; with `--device cpu --shape small` it shows that all works.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_training import LAST_LINES, MEANT, claim, machine
from inference_run import WAYS
from random_llama import SHAPES

HERE = Path(__file__).resolve().parent
OURS = ("engine",)
MIN_TOKENS_A_SECOND = 8_000.0
COLUMNS = {
    "tokens_per_second": "{:,.0f}",
    "seconds": "{:.1f}",
    "setup_seconds": "{:.0f}",
    "peak_gib": "{:.1f}",
    "ms_per_step": "{:.1f}",
    "prefill_tokens_per_second": "{:,.0f}",
    "equal_alone": "{:.1%}",
    "seconds_alone": "{:.1f}",
}

Record = dict[str, Any]


def run(script: str, arguments: list[Any], log: Path, patience: float) -> int | None:
    """The exit status of a script of this folder, None where it took too long."""
    command = [sys.executable, HERE / script, *arguments]
    # The package is this checkout's, installed or not.
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    with log.open("w") as lines:
        try:
            return subprocess.run(
                [str(part) for part in command],
                stdout=lines,
                stderr=subprocess.STDOUT,
                timeout=patience,
                check=False,
                env={**os.environ, "PYTHONPATH": path},
            ).returncode
        except subprocess.TimeoutExpired:
            return None


def last_lines(log: Path) -> str:
    """Of what a process said."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])


def measure(name: str, options: argparse.Namespace, checkpoint: Path, folder: Path) -> Record:
    """The record of one configuration, or why there is none."""
    out, log, begin = folder / "record.json", folder / "log", time.perf_counter()
    out.unlink(missing_ok=True)
    arguments = ["measure", "--name", name, "--checkpoint", checkpoint, "--adapters", folder / "adapters", "--out", out]
    arguments += ["--count", options.count, "--prompts", options.prompts, "--new-tokens", options.new_tokens]
    status = run("inference_run.py", [*arguments, "--device", options.device], log, options.patience)
    if status != 0 or not out.exists():
        record = {"configuration": name, "error": last_lines(log), "exit": status}
    else:
        record = json.loads(out.read_text())
    record["seconds_in_all"] = round(time.perf_counter() - begin, 1)
    print(json.dumps(record), file=sys.stderr, flush=True)
    return record


def claims(records: list[Record]) -> list[Record]:
    """What the project says of itself, with what was measured."""
    found = []
    for record in records:
        name = record["configuration"]
        if name in OURS and "error" not in record:
            rate = record["tokens_per_second"]
            text = f"{name}: new tokens a second >= {MIN_TOKENS_A_SECOND:,.0f}"
            found.append(claim(text, rate, rate >= MIN_TOKENS_A_SECOND))
            share = record["equal_alone"]
            found.append(claim(f"{name}: share of greedy replies equal to those alone = 1", share, share == 1))
    return found


def table(records: list[Record]) -> str:
    """The records in columns."""
    lines = [["configuration", *COLUMNS]]
    for record in records:
        cells = [shape.format(record[name]) if name in record else "" for name, shape in COLUMNS.items()]
        lines.append([record["configuration"], *(["failed", *cells[1:]] if "error" in record else cells)])
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])  # noqa: B905
        for line in lines
    )


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), metavar="NAME", help="configurations; all by default")
    parser.add_argument("--shape", choices=tuple(SHAPES), default=MEANT)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--checkpoint", type=Path, help="where the random weights are or go; else a temporary folder")
    parser.add_argument("--count", type=int, default=5, help="adapters")
    parser.add_argument("--prompts", type=int, default=95, help="for each adapter")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--patience", type=float, default=240.0, help="most seconds for a configuration")
    parser.add_argument("--results", type=Path, help="where the JSON line goes as well")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.ways if name not in WAYS]:
        parser.error(f"--ways: {unknown} are none of {list(WAYS)}")
    return options


def prepare(options: argparse.Namespace, checkpoint: Path, folder: Path) -> None:
    """Makes the checkpoint and the adapters."""
    steps = [
        ("random_llama.py", ["--checkpoint", checkpoint, "--shape", options.shape]),
        ("inference_run.py", ["adapters", "--checkpoint", checkpoint, "--adapters", folder / "adapters"]),
    ]
    for script, arguments in steps:
        more = ["--device", options.device]
        more += ["--count", options.count] if script == "inference_run.py" else []
        if run(script, [*arguments, *more], folder / "log", options.patience) != 0:
            sys.exit(f"{script} {arguments[0]} failed:\n{last_lines(folder / 'log')}")


def main() -> None:
    """Makes the checkpoint, runs every configuration and prints what came of it."""
    options = options_of()
    with tempfile.TemporaryDirectory() as name:
        folder, facts = Path(name), machine()
        checkpoint = options.checkpoint or folder / "checkpoint"
        prepare(options, checkpoint, folder)
        records = [measure(way, options, checkpoint, folder) for way in options.ways]
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
