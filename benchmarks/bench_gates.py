"""How long the data gates take, and in how much memory: on a sweep's rows, and on a hundred times as many.

    .venv/bin/python benchmarks/bench_gates.py --results results.json
    .venv/bin/python benchmarks/bench_gates.py --rows 1760 --long-rows 17600

Each size runs in a process of its own (`gates_run.py`): every gate of `synthetic_rows`, every gate of `data_subsets` on
half of the rows, with what these gates look at, and the memorisation of 440 posts. Time is that of the gates, without
making the table; memory is the highest of the whole process, the table included. The gate on supervised tokens is not
among them: it looks at what the trainer has tokenized.

Prints a table, what became of the claims, and one JSON line. Needs a machine that does nothing else, and Linux.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
PACKAGES = ("numpy", "pandas", "pandera", "rensa", "sacrebleu", "phonenumbers")
MAX_SECONDS, MAX_MIB = 20.0, 1024.0
MAX_LONG_MIB = 6 * 1024.0
MARGIN = 1.15
"""Time may grow by so much more than n log n: the processor's caches are no part of the claim."""
GIB = 2**30


def run(rows: int) -> dict[str, Any]:
    """What the gates took on so many rows."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "record.json"
        command = [sys.executable, str(HERE / "gates_run.py"), "--rows", str(rows), "--out", str(out)]
        subprocess.run(command, check=True)
        found: dict[str, Any] = json.loads(out.read_text())
    return {"configuration": f"{rows:,} rows"} | found


def claims(records: list[dict[str, Any]], sizes: tuple[int, int, int]) -> list[dict[str, Any]]:
    """What is claimed, what was measured, and whether that bears it out."""
    short, tenth, long = (next(record["measured"] for record in records if record["rows"] == size) for size in sizes)
    growth = long["seconds"] / tenth["seconds"]
    allowed = MARGIN * sizes[2] * math.log(sizes[2]) / (sizes[1] * math.log(sizes[1]))
    stated = [
        (f"{sizes[0]:,} rows: seconds < {MAX_SECONDS:g}", short["seconds"], short["seconds"] < MAX_SECONDS),
        (f"{sizes[0]:,} rows: MiB < {MAX_MIB:g}", short["peak_mib"], short["peak_mib"] < MAX_MIB),
        (f"{sizes[2]:,} rows: MiB < {MAX_LONG_MIB:g}", long["peak_mib"], long["peak_mib"] < MAX_LONG_MIB),
        (f"{sizes[2]:,} rows: at most {allowed:.1f} times the seconds of a tenth", round(growth, 2), growth <= allowed),
    ]
    return [{"claim": claim, "value": value, "holds": holds} for claim, value, holds in stated]


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
        "load_at_start": round(os.getloadavg()[0], 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def main() -> None:
    """Runs three sizes and tells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=17_600)
    parser.add_argument("--long-rows", type=int, default=1_760_000)
    parser.add_argument("--results", type=Path, help="where the JSON goes")
    arguments = parser.parse_args()
    about, records = machine(), []
    sizes = (arguments.rows, arguments.long_rows // 10, arguments.long_rows)
    for rows in sorted(set(sizes)):
        print(f"{rows:,} rows …", flush=True)
        records.append(run(rows))
        measured = records[-1]["measured"]
        print(f"  {measured['seconds']:.1f} s, {measured['peak_mib']:,.0f} MiB")
        for name, seconds in records[-1]["gates"].items():
            print(f"    {name:40} {seconds:9.2f} s")
    found = claims(records, sizes)
    for line in found:
        print(f"{line['claim']}: {line['value']} ({'holds' if line['holds'] else 'DOES NOT HOLD'})")
    text = json.dumps({"machine": about, "claims": found, "records": records})
    print(text)
    if arguments.results:
        arguments.results.write_text(text + "\n")


if __name__ == "__main__":
    main()
