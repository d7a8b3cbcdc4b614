"""What the page says of the data, as records whose figures are printed: checks, variety, coverage, leaks and the rest.

The records it is made of are in `report.data_quality`, the words on variety in `report.variety`, what is drawn in
`report.quality_figures`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from synthpost_dagster.quality.result import PREVIEW_CHARACTERS, PREVIEW_ROWS
from synthpost_dagster.report.data_quality import rows_compared
from synthpost_dagster.report.texts import counted, percent_text
from synthpost_dagster.report.variety import (
    METRIC_MEANINGS,
    METRIC_NAMES,
    MetricLine,
    RunLine,
    changes,
    measured,
    metric_lines,
    run_line,
)
from synthpost_dagster.report.views import place_text
from synthpost_dagster.text.normalize import folded, letters, placed_letters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from synthpost_dagster.report.data_quality import Coverage, DataQuality, GateLine, SharedRun

VERDICTS = {"bad": "blocks", "warning": "warning", "good": "passed"}
"""Mark of a check → what its verdict is called."""
HEATS = ((1.0, "heat2"), (0.9, "heat1"), (0.75, "heat-1"), (0.5, "heat-2"), (0.0, "heat-3"))
"""From which share of the rows due on a stratum has which colour."""
HEAT_KEY = (
    ("heat2", "all that are due"),
    ("heat1", "nine tenths and more"),
    ("heat-1", "three quarters and more"),
    ("heat-2", "half and more"),
    ("heat-3", "less than half"),
)
MOST_CHECKS_WITH_ROWS = 20
"""Checks that did not pass whose rows are listed; for more the page would grow too long."""
MOST_LEAKS = 10
MOST_SAMPLES = 3
AROUND = 240
"""Characters shown on each side of a shared run."""
LONGEST_TEXT = 1_200
SHORT_TEXT = 60


class Fault(NamedTuple):
    """A row at fault, as (column, text): its short texts for one line, and the others."""

    short: tuple[tuple[str, str], ...]
    long: tuple[tuple[str, str], ...]


class Check(NamedTuple):
    """A check's line, with the rows at fault."""

    name: str
    of: str
    mark: str
    verdict: str
    finding: str
    rows: tuple[Fault, ...]
    note: str
    """Where its rows are found, if they are not listed."""
    why: tuple[str, ...] = ()
    """The cause or the remedy, reasons with counts, and examples, of one that did not pass."""

    @property
    def shown(self) -> str:
        """What the list of rows is called."""
        if len(self.rows) == PREVIEW_ROWS:
            return f"The first {PREVIEW_ROWS} rows at fault"
        return f"{counted(len(self.rows), 'row')} at fault"


class Stratum(NamedTuple):
    """A place of the coverage table."""

    text: str
    heat: str


class Marked(NamedTuple):
    """A text in three pieces, the middle one marked; `run` is empty where nothing is."""

    before: str
    run: str
    after: str


class SharedView(NamedTuple):
    """Two posts with the run of words that they share."""

    title: str
    tuned: Marked
    training: Marked


class LeakView(NamedTuple):
    """A training row that shows something of a holdout product."""

    product: str
    run: str
    post: Marked


class MemorisedLine(NamedTuple):
    """What the tuned posts of a cell share with its training posts."""

    place: str
    longest: int
    median: str
    whole: str


class SupervisedLine(NamedTuple):
    """What of a cell's training rows is learned."""

    place: str
    rows: int
    tokens: int
    share: str
    untaught: int


class QualityView(NamedTuple):
    """All lines and sentences of the section on data."""

    summary: str
    failed: tuple[Check, ...]
    passed: tuple[Check, ...]
    meanings: tuple[tuple[str, str], ...]
    """(metric, what it means), of those that were measured."""
    variety: tuple[MetricLine, ...]
    is_history: bool
    """Whether there is an earlier run to compare with."""
    compared: int
    """Rows at which the runs are compared."""
    columns: tuple[str, ...]
    """The metrics of the runs' table."""
    runs: tuple[RunLine, ...]
    changes: tuple[str, ...]
    coverage: tuple[tuple[str, tuple[Stratum, ...]], ...]
    leaking: tuple[str, ...]
    leaks: tuple[LeakView, ...]
    memorised_summary: str
    memorised: tuple[MemorisedLine, ...]
    shared: tuple[SharedView, ...]
    supervised_summary: str
    supervised: tuple[SupervisedLine, ...]
    samples: tuple[str, ...]


def quality_view(data: DataQuality) -> QualityView:
    """The section on data in words and figures."""
    checks = [_check(line) for line in sorted(data.gates, key=_gravity)]
    failed = [check for check in checks if check.mark != "good"]
    columns = measured([run.table for run in data.runs])
    metrics = measured([*data.subsets.values(), *(run.table for run in data.runs)])
    return QualityView(
        summary=_summary(checks),
        failed=tuple(map(_shortened, failed, range(len(failed)))),
        passed=tuple(check._replace(rows=()) for check in checks if check.mark == "good"),
        meanings=tuple((METRIC_NAMES[metric], METRIC_MEANINGS[metric]) for metric in metrics),
        variety=tuple(line for metric in metrics for line in metric_lines(metric, data.subsets)),
        is_history=len(data.runs) > 1,
        compared=rows_compared(data.runs[-1].table) if data.runs else 0,
        columns=tuple(METRIC_NAMES[metric] for metric in columns),
        runs=tuple(run_line(number, run, columns) for number, run in enumerate(data.runs, 1)),
        changes=tuple(changes(data.runs)),
        coverage=tuple(_coverage(data.coverage)) if data.coverage else (),
        leaking=tuple(_leaking(data.gates)),
        leaks=tuple(_leaks(data.gates))[:MOST_LEAKS],
        memorised_summary=_memorised_summary(data),
        memorised=tuple(_memorised(data)),
        shared=tuple(map(_shared, data.shared)),
        supervised_summary=_supervised_summary(data),
        supervised=tuple(_supervised(data)),
        samples=_samples(data),
    )


def _gravity(line: GateLine) -> int:
    """Sorts what blocks first, then what warns."""
    return 2 if line.gate.is_passed else 0 if line.gate.is_blocking else 1


def _check(line: GateLine) -> Check:
    mark = ("bad", "warning", "good")[_gravity(line)]
    rows = tuple(map(_fault, line.gate.offending))
    why = line.gate.explanation
    lines = [text for text in (why.cause, why.remedy) if text] + why.lines if why else []
    return Check(
        _words(line.gate.name), artifact_text(line), mark, VERDICTS[mark], line.gate.message, rows, "", tuple(lines)
    )


def _fault(row: Mapping[str, str]) -> Fault:
    texts = [(column.replace("_", " "), _ended(text)) for column, text in row.items() if text]
    short, long = (tuple(pair for pair in texts if (len(pair[1]) > SHORT_TEXT) is is_long) for is_long in (False, True))
    return Fault(short, long)


def _ended(text: str) -> str:
    """The text with a mark where the manifest cut it."""
    return f"{text} …" if len(text) == PREVIEW_CHARACTERS else text


def _shortened(check: Check, place: int) -> Check:
    if place < MOST_CHECKS_WITH_ROWS or not check.rows:
        return check
    return check._replace(rows=(), note="Its rows are in the artifact's manifest.")


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def artifact_text(line: GateLine) -> str:
    """An asset and its partition in words: `Data subsets, 88 rows`."""
    if not line.partition:
        return _words(line.asset)
    is_size = line.partition.isdecimal()
    return f"{_words(line.asset)}, {f'{int(line.partition):,} rows' if is_size else place_text(line.partition)}"


def _summary(checks: Sequence[Check]) -> str:
    if not checks:
        return "Not measured: the artifacts hold no checks."
    bad, warned = (sum(check.mark == mark for check in checks) for mark in ("bad", "warning"))
    passed = len(checks) - bad - warned
    if passed == len(checks):
        return f"Yes, as far as it was checked: all {counted(passed, 'check')} passed."
    blocked = f"{counted(bad, 'check')} {'blocks' if bad == 1 else 'block'} what would be made of the data"
    warnings = f"{counted(warned, 'check')} {'warns' if warned == 1 else 'warn'}"
    said = f"No: {blocked}, {warnings}" if bad else f"With care: {warnings}, none blocks"
    return f"{said}, {passed:,} of {len(checks):,} passed."


def _coverage(coverage: Coverage) -> Iterator[tuple[str, tuple[Stratum, ...]]]:
    for kind in coverage.post_types:
        strata = [(coverage.found.get((kind, tone), 0), coverage.due.get((kind, tone), 0)) for tone in coverage.tones]
        yield kind, tuple(Stratum(f"{found:,} of {due:,}", _heat(found, due)) for found, due in strata)


def _heat(found: int, due: int) -> str:
    if not due:
        return "heat0"
    return next(heat for least, heat in HEATS if found / due >= least)


def _leaking(gates: Sequence[GateLine]) -> Iterator[str]:
    """A sentence for each subset that leaks, or one for all where none does; nothing where it was not looked for."""
    looked_at = [line for line in gates if line.gate.name == "leakage"]
    for line in looked_at:
        if not line.gate.is_passed:
            yield f"{artifact_text(line)}: {line.gate.message}."
    if looked_at and all(line.gate.is_passed for line in looked_at):
        yield "No training row names a holdout product or holds a long run of words of its text."


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
    """The text with the first place where the run of words stands in it, whatever case and punctuation."""
    wanted = letters(folded(run))
    words = list(placed_letters(text))
    parts = [part for part, _, _ in words]
    for at in range(len(parts) - len(wanted) + 1) if wanted else ():
        if parts[at : at + len(wanted)] == wanted:
            begin, end = words[at][1], words[at + len(wanted) - 1][2]
            return Marked(text[:begin], text[begin:end], text[end:])
    return Marked(text, "", "")


def shortened(text: Marked) -> Marked:
    """The text with only so much of it on each side of the marked run."""
    if not text.run:
        return Marked(_cut(text.before, LONGEST_TEXT), "", "")
    before = (
        text.before
        if len(text.before) <= AROUND
        else f"… {text.before[-AROUND:].partition(' ')[2] or text.before[-AROUND:]}"
    )
    return Marked(before, _cut(text.run, LONGEST_TEXT), _cut(text.after, AROUND))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most].rpartition(' ')[0] or text[:most]} …"


def _memorised_summary(data: DataQuality) -> str:
    if not data.memorised:
        return ""
    longest = max(data.memorised, key=lambda one: one.longest)
    whole, posts = (sum(getattr(one, name) for one in data.memorised) for name in ("whole", "posts"))
    said = f"{whole:,} of {posts:,} tuned posts {'stands' if whole == 1 else 'stand'} whole in a training post"
    return f"The longest run has {counted(longest.longest, 'word')} ({longest.cell.label}); {said}."


def _supervised_summary(data: DataQuality) -> str:
    if not data.supervised:
        return ""
    shares = [one.learned_tokens / one.tokens for one in data.supervised if one.tokens]
    untaught = sum(one.untaught for one in data.supervised)
    low, high = (percent_text(end) for end in (min(shares, default=math.nan), max(shares, default=math.nan)))
    taught = "Every row teaches something and when to stop."
    if untaught:
        taught = f"{counted(untaught, 'row')} {'teaches' if untaught == 1 else 'teach'} nothing or not when to stop."
    return f"{low if low == high else f'{low} to {high}'} of the tokens are learned. {taught}"


def _memorised(data: DataQuality) -> Iterator[MemorisedLine]:
    for one in data.memorised:
        place = _place(one.cell.key, one.seed, {other.seed for other in data.memorised})
        yield MemorisedLine(place, one.longest, f"{one.median:g}", f"{one.whole:,} of {one.posts:,}")


def _shared(one: SharedRun) -> SharedView:
    title = f"{counted(one.words, 'word')}, {one.product}, {one.cell.label}"
    return SharedView(title, shortened(marked(one.tuned, one.run)), shortened(marked(one.training, one.run)))


def _supervised(data: DataQuality) -> Iterator[SupervisedLine]:
    for one in data.supervised:
        place = _place(one.cell.key, one.seed, {other.seed for other in data.supervised})
        share = percent_text(one.learned_tokens / one.tokens if one.tokens else math.nan)
        yield SupervisedLine(place, one.rows, one.tokens, share, one.untaught)


def _samples(data: DataQuality) -> tuple[str, ...]:
    """Different samples; the first rows of nested subsets are often the same."""
    samples = dict.fromkeys(one.sample for one in data.supervised if one.sample)
    return tuple(_cut(sample, LONGEST_TEXT) for sample in samples)[:MOST_SAMPLES]


def _place(key: str, seed: int, seeds: set[int]) -> str:
    """A cell in words, with its seed where there are several."""
    return place_text(f"{key}|{seed}" if len(seeds) > 1 else key)
