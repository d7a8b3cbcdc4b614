"""What the section on data shows, arranged: checks by severity, variety, colours of strata, quoted texts.

The records are in `report.data_quality`, the sentences in `templates/_data.html.j2`, the drawings in
`report.quality_figures`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from synthpost_dagster.quality.result import MAX_CHARACTERS
from synthpost_dagster.report.texts import cut
from synthpost_dagster.report.variety import History, MetricLine, history, measured, metric_lines, run_figures
from synthpost_dagster.text.normalize import folded, letters, placed_letters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from synthpost_dagster.report.data_quality import DataQuality, GateLine, Run, SharedRun

HEATS = ((1.0, "heat2"), (0.9, "heat1"), (0.75, "heat-1"), (0.5, "heat-2"), (0.0, "heat-3"))
"""From which share of its target number of rows a stratum has which colour."""
MAX_CHECKS_WITH_ROWS = 20
"""Checks that did not pass whose rows are listed; for more the page would grow too long."""
MAX_LEAKS = 10
MAX_SAMPLES = 3
AROUND = 240
"""Characters shown on each side of a shared run."""
MAX_TEXT = 1_200
SHORT_TEXT = 60
_SEVERITY = ("bad", "warning", "good")


class Fault(NamedTuple):
    """A row at fault, as (column, text): its short texts for one line, and the others."""

    short: tuple[tuple[str, str], ...]
    long: tuple[tuple[str, str], ...]


class Marked(NamedTuple):
    """A text in three pieces, the middle one marked; `run` is empty where nothing is."""

    before: str
    run: str
    after: str


class LeakView(NamedTuple):
    """A training row that shows something of a holdout product."""

    product: str
    run: str
    post: Marked


class QualityView(NamedTuple):
    """The section on data."""

    failed: tuple[tuple[GateLine, tuple[Fault, ...]], ...]
    """With their rows at fault, those that block first."""
    passed: tuple[GateLine, ...]
    metrics: tuple[str, ...]
    variety: tuple[MetricLine, ...]
    columns: tuple[str, ...]
    """The metrics of the table of runs."""
    runs: tuple[tuple[Run, list[float]], ...]
    history: History | None
    leakage: tuple[GateLine, ...]
    leaks: tuple[LeakView, ...]
    shared: tuple[tuple[SharedRun, Marked, Marked], ...]
    """With the tuned post and the training post."""
    samples: tuple[str, ...]


def quality_view(data: DataQuality) -> QualityView:
    """What the section on data shows."""
    gates = sorted(data.gates, key=lambda line: _SEVERITY.index(line.mark))
    failed = [line for line in gates if line.mark != "good"]
    columns = measured([run.table for run in data.runs])
    metrics = measured([*data.subsets.values(), *(run.table for run in data.runs)])
    return QualityView(
        failed=tuple(
            (line, tuple(map(_fault, line.gate.offending)) if place < MAX_CHECKS_WITH_ROWS else ())
            for place, line in enumerate(failed)
        ),
        passed=tuple(line for line in gates if line.mark == "good"),
        metrics=tuple(metrics),
        variety=tuple(line for metric in metrics for line in metric_lines(metric, data.subsets)),
        columns=tuple(columns),
        runs=tuple((run, run_figures(run, columns)) for run in data.runs),
        history=history(data.runs),
        leakage=tuple(line for line in gates if line.gate.name == "leakage"),
        leaks=tuple(_leaks(data.gates))[:MAX_LEAKS],
        shared=tuple(
            (one, shortened(marked(one.tuned, one.run)), shortened(marked(one.training, one.run)))
            for one in data.shared
        ),
        samples=_samples(data),
    )


def _fault(row: Mapping[str, str]) -> Fault:
    texts = [(column.replace("_", " "), _ended(text)) for column, text in row.items() if text]
    short, long = (tuple(pair for pair in texts if (len(pair[1]) > SHORT_TEXT) is is_long) for is_long in (False, True))
    return Fault(short, long)


def _ended(text: str) -> str:
    """The text with a mark where the manifest cut it."""
    return f"{text} …" if len(text) == MAX_CHARACTERS else text


def heat(found: int, due: int) -> str:
    """The colour of a stratum."""
    return next(heat for least, heat in HEATS if found / due >= least) if due else "heat0"


def _leaks(gates: Sequence[GateLine]) -> Iterator[LeakView]:
    """Each leaking row once, though it is in several subsets."""
    seen: set[tuple[str, ...]] = set()
    for line in gates:
        for row in line.gate.offending if line.gate.name == "leakage" and not line.gate.is_passed else ():
            run, post = row.get("shared", ""), _ended(row.get("post", ""))
            key = (row.get("prompt_id", ""), run, post)
            if key not in seen:
                seen.add(key)
                yield LeakView(row.get("holdout_product", "unknown"), run, shortened(marked(post, run)))


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


def _samples(data: DataQuality) -> tuple[str, ...]:
    """Different samples; the first rows of nested subsets are often the same."""
    samples = dict.fromkeys(one.sample for one in data.supervised if one.sample)
    return tuple(cut(sample, MAX_TEXT) for sample in samples)[:MAX_SAMPLES]
