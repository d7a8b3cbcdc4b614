"""The section on data, arranged for `templates/_data.html.j2`: checks by severity, variety, colours, quoted texts.

The records are in `report.data_quality`, the drawings in `report.quality_figures`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.quality.result import MAX_CHARACTERS
from synthpost_dagster.report.texts import cut
from synthpost_dagster.report.variety import at_equal, history, measured, metric_lines
from synthpost_dagster.text.normalize import folded, letters, placed_letters

if TYPE_CHECKING:
    from synthpost_dagster.report.data_quality import DataQuality, GateLine

HEATS = ((1.0, "heat2"), (0.9, "heat1"), (0.75, "heat-1"), (0.5, "heat-2"), (0.0, "heat-3"))
"""Share of its target number of rows from which a stratum has a colour."""
MAX_CHECKS_WITH_ROWS = 20
"""Failed checks whose rows are on the page."""
MAX_LEAKS = 10
MAX_SAMPLES = 3
AROUND = 240
"""Characters shown on each side of a shared run."""
MAX_TEXT = 1_200
_SEVERITY = ("bad", "warning", "good")


class Marked(NamedTuple):
    """A text in three pieces, the middle one marked; `run` is empty where nothing is."""

    before: str
    run: str
    after: str


class LeakView(NamedTuple):
    """A training row that shows something of a holdout item."""

    item: str
    run: str
    post: Marked


def quality_view(data: DataQuality) -> dict[str, Any]:
    """The values of the section on data: failed checks come first, those that block before warnings."""
    gates = sorted(data.gates, key=lambda line: _SEVERITY.index(line.mark))
    failed = [line for line in gates if line.mark != "good"]
    columns = measured([run.table for run in data.runs])
    figures = [[at.mean if (at := at_equal(run, metric)) else math.nan for metric in columns] for run in data.runs]
    samples = dict.fromkeys(one.sample for one in data.supervised if one.sample)
    return {
        "failed": [
            (line, [_fault(row) for row in line.gate.offending] if place < MAX_CHECKS_WITH_ROWS else [])
            for place, line in enumerate(failed)
        ],
        "passed": [line for line in gates if line.mark == "good"],
        "metrics": measured([*data.subsets.values(), *(run.table for run in data.runs)]),
        "variety": metric_lines(data.subsets.values()),
        "columns": columns,
        "runs": list(zip(data.runs, figures, strict=True)),
        "history": history(data.runs),
        "leakage": [line for line in gates if line.gate.name == "leakage"],
        "leaks": list(_leaks(data.gates))[:MAX_LEAKS],
        "shared": [
            (one, shortened(marked(one.tuned, one.run)), shortened(marked(one.training, one.run)))
            for one in data.shared
        ],
        # The first rows of nested subsets are often the same.
        "samples": tuple(cut(sample, MAX_TEXT) for sample in samples)[:MAX_SAMPLES],
    }


def _fault(row: Mapping[str, str]) -> dict[str, str]:
    """The texts of a row at fault, by column."""
    return {column.replace("_", " "): _ended(text) for column, text in row.items() if text}


def _ended(text: str) -> str:
    """The text with a mark where the manifest cut it."""
    return f"{text} …" if len(text) == MAX_CHARACTERS else text


def heat(found: int, due: int) -> str:
    """The colour of a stratum."""
    return next(heat for least, heat in HEATS if found / due >= least) if due else "heat0"


def _leaks(gates: Sequence[GateLine]) -> Iterator[LeakView]:
    """Each leaking row once; it may be in several subsets."""
    seen: set[tuple[str, ...]] = set()
    for line in gates:
        for row in line.gate.offending if line.gate.name == "leakage" and not line.gate.is_passed else ():
            run, post = row.get("shared", ""), _ended(row.get("post", ""))
            key = (row.get("prompt_id", ""), run, post)
            if key not in seen:
                seen.add(key)
                yield LeakView(row.get("leaked_item", "unknown"), run, shortened(marked(post, run)))


def marked(text: str, run: str) -> Marked:
    """The text with the first place of the run of words, ignoring case and punctuation."""
    wanted = letters(folded(run))
    words = list(placed_letters(text))
    parts = [part for part, _, _ in words]
    for at in range(len(parts) - len(wanted) + 1) if wanted else ():
        if parts[at : at + len(wanted)] == wanted:
            begin, end = words[at][1], words[at + len(wanted) - 1][2]
            return Marked(text[:begin], text[begin:end], text[end:])
    return Marked(text, "", "")


def shortened(text: Marked) -> Marked:
    """The text, cut to 240 characters on each side of the marked run."""
    if not text.run:
        return Marked(cut(text.before, MAX_TEXT), "", "")
    tail = text.before[-AROUND:]
    before = text.before if len(text.before) <= AROUND else f"… {tail.partition(' ')[2] or tail}"
    return Marked(before, cut(text.run, MAX_TEXT), cut(text.after, AROUND))
