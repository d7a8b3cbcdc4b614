"""All gates on one table of so many rows, for bench_gates.py: prints what each took as JSON.

The posts are drawn from a vocabulary by Zipf's law, 20 to 90 words each; one in two hundred nearly repeats another.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from measuring import Meter, write_record

from synthpost_dagster.quality import gates
from synthpost_dagster.rows.diversity import diversity_table
from synthpost_dagster.rows.memorisation import memorisation
from synthpost_dagster.rows.prompts import prompt_columns
from synthpost_dagster.tasks.loading import load_task
from synthpost_dagster.tasks.task import Task

WORDS = 20_000
EXPONENT = 1.05
SHORTEST, LONGEST = 20, 90
NEAR_EVERY = 200
STOCK = 50
"""Openings of eight words, one of which each post has, so that posts share phrases as a teacher's do."""
PREDICTIONS = 440
SUBSET_COLUMNS = ["rank", "student_prompt", "post"]
"""Besides those of the task."""


def posts(count: int) -> list[str]:
    """Posts like no other but for one in NEAR_EVERY, which repeats another with one word more."""
    generator = np.random.default_rng(0)
    weights = 1 / np.arange(1, WORDS + 1) ** EXPONENT
    vocabulary = np.array([f"word{number}" for number in range(WORDS)], dtype=object)
    stock = [" ".join(f"stock{number}x{word}" for word in range(8)) for number in range(STOCK)]
    lengths = generator.integers(SHORTEST, LONGEST, count)
    made: list[str] = []
    for start in range(0, count, 10_000):
        part = lengths[start : start + 10_000]
        words = vocabulary[generator.choice(WORDS, int(part.sum()), p=weights / weights.sum())]
        pieces = np.split(words, np.cumsum(part)[:-1])
        made += [f"{stock[at % STOCK]} {' '.join(piece)}" for at, piece in enumerate(pieces)]
    for at in range(NEAR_EVERY, count, NEAR_EVERY):
        made[at] = made[int(generator.integers(at))] + " once"
    return made


def copied(tuned: pd.DataFrame, training: pd.DataFrame) -> pd.DataFrame:
    """Posts that begin with 0 to 60 words of a training post, as those of a model that has learned by heart."""
    generator = np.random.default_rng(1)
    sources = training["post"].sample(len(tuned), random_state=1)
    begun = [" ".join(post.split()[: int(generator.integers(60))]) for post in sources]
    return tuned.assign(post=[f"{begin} {post}" for begin, post in zip(begun, tuned["post"], strict=True)])


def rows_table(task: Task, count: int) -> pd.DataFrame:
    """Kept rows (schema SyntheticRows) about the first product, dealt to the strata in turn."""
    of_stratum = {
        task.stratum_of(brief): prompt_columns(task, brief)
        for brief in task.briefs("train")
        if brief.item == task.items[0]
    }
    strata = [of_stratum[stratum] for stratum in task.capacities("train")]
    at = np.arange(count)
    text = posts(count)
    ids = [f"{number:016x}" for number in at]
    return pd.DataFrame(
        {
            **{name: [strata[place][name] for place in at % len(strata)] for name in task.spec.prompt_columns},
            "prompt_id": ids,
            "rank": at,
            "stratum_rank": at // len(strata),
            "attempt": 0,
            "student_prompt": [f"Write post {number} for Bench." for number in at],
            "post": text,
            "status": "kept",
            "reason": "",
            "stripped": "",
            "is_in_band": True,
            "raw_reply": text,
            "finish_reason": "stop",
            "prompt_tokens": 250,
            "completion_tokens": 100,
            "teacher_model": "bench",
            "reply_key": ids,
        }
    )


def timed(seconds: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    """What the work gives; its seconds are put down."""
    start = time.perf_counter()
    found = work()
    seconds[name] = round(time.perf_counter() - start, 3)
    return found


def main() -> None:
    """Runs every gate of rows, half of them as a subset, and predictions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    task = load_task("sales_posts")
    table = rows_table(task, arguments.rows)
    subset = table.head(arguments.rows // 2)[[*task.spec.prompt_columns, *SUBSET_COLUMNS]].reset_index(drop=True)
    tuned = copied(table.tail(PREDICTIONS), subset)
    seconds: dict[str, float] = {}
    meter = Meter()
    beside = {
        "synthetic_rows": timed(seconds, "diversity", lambda: diversity_table(table, table, task, 88)),
        "data_subsets": timed(
            seconds, "diversity of half of them", lambda: diversity_table(subset, table, task, len(subset))
        ),
    }
    verdicts: dict[str, bool] = {}
    for asset, rows in (("synthetic_rows", table), ("data_subsets", subset)):
        for gate in gates.gates_of(asset):
            checked = beside[asset] if gate.table == "diversity" else rows
            found = timed(seconds, f"{asset}: {gate.name}", partial(gate.check, task, checked, len(rows)))
            verdicts[f"{asset}: {gate.name}"] = bool(found.is_passed)
    timed(seconds, "memorisation", lambda: memorisation(tuned, subset))
    write_record(
        arguments.out,
        {"rows": arguments.rows, "measured": meter.stop(), "gates": seconds, "verdicts": verdicts},
    )


if __name__ == "__main__":
    main()
