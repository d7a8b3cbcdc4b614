"""The stages that judge: `verdicts` of a cell, and `control_verdicts` of comparisons whose answer is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from synthpost_dagster.artifacts.manifest import Manifest
from synthpost_dagster.artifacts.store import ArtifactStore, Draft
from synthpost_dagster.cell import Cell
from synthpost_dagster.errors import SynthpostError, UpstreamMissing
from synthpost_dagster.judging.controls import SHUFFLE_VERSION, control_contests
from synthpost_dagster.judging.judges import JUDGING, ModelJudge, tallied
from synthpost_dagster.judging.verdicts import (
    Contest,
    Game,
    Judge,
    Rules,
    contests_of,
    games_between,
    judge_contests,
    pairs,
)
from synthpost_dagster.llm.chat_models import CHARACTERS_PER_TOKEN
from synthpost_dagster.llm.estimate import Expected, expect, local, total
from synthpost_dagster.profiles.models import RubricJudge
from synthpost_dagster.rows.prompts import evaluation_prompts
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.schemas import COMPARISONS, OPPONENTS
from synthpost_dagster.stages.facts import AskedFacts
from synthpost_dagster.stages.inputs import WORDING, HashedAs, Inputs, narrowed
from synthpost_dagster.stages.stage import BASELINE, CONTROL, Stage, Workbench
from synthpost_dagster.stages.study import Study
from synthpost_dagster.stages.synthetic_rows import known_rows
from synthpost_dagster.statistics.ratio import count
from synthpost_dagster.tasks.prompting import briefs_by_id
from synthpost_dagster.tasks.task import Task


@dataclass(frozen=True, slots=True)
class JudgedInputs(Inputs):
    """The judges, the rules of games, and the posts of the untuned model."""

    judges: tuple[Judge, ...]
    rules: Rules
    task: Task
    """Not hashed: the judges' identities hold its wording and checks, the posts their prompts."""
    baseline_predictions: Manifest
    hashed_as: ClassVar[HashedAs] = {
        "judges": lambda judges: [judge.identity for judge in judges],
        "rules": lambda rules: rules._asdict(),
        "task": None,
    }


@dataclass(frozen=True, slots=True)
class VerdictInputs(JudgedInputs):
    """The tuned posts of a cell against the untuned model's."""

    predictions: Manifest
    asset: ClassVar = "verdicts"
    prefix: ClassVar = "against_"

    def contests(self, store: ArtifactStore) -> list[Contest]:
        """The pairs of posts that are judged."""
        read = store.read_table
        return contests_of(self.task, read(self.predictions), read(self.baseline_predictions))

    @property
    def sent(self) -> list[Manifest]:
        """The artifacts that the judges see."""
        return [self.predictions, self.baseline_predictions]


@dataclass(frozen=True, slots=True)
class ControlInputs(JudgedInputs):
    """The posts of the controls; the shuffled posts are those of the last cell that has predictions."""

    control_predictions: Manifest
    predictions: Manifest
    shuffle_version: int
    asset: ClassVar = "control_verdicts"
    prefix: ClassVar = ""

    def contests(self, store: ArtifactStore) -> list[Contest]:
        """The pairs of posts whose outcome is known."""
        return control_contests(self.task, *map(store.read_table, self.sent))

    @property
    def sent(self) -> list[Manifest]:
        """The artifacts that the judges see."""
        return [self.control_predictions, self.baseline_predictions, self.predictions]


def _judged_inputs(study: Study) -> dict[str, Any]:
    """The fields of `JudgedInputs`."""
    return {
        "judges": tuple(study.judges),
        "rules": study.rules,
        "task": narrowed(study.task, (*WORDING, "language"), roles=("judge",)),
        "baseline_predictions": study.resolver.need(BASELINE),
    }


def _verdict_inputs(study: Study, partition: str) -> VerdictInputs:
    return VerdictInputs(predictions=study.resolver.need("predictions", partition), **_judged_inputs(study))


def _control_inputs(study: Study, _partition: str) -> ControlInputs:
    """Raises UpstreamMissing where no cell has predictions."""
    samples = study.resolver.need(CONTROL)
    return ControlInputs(
        control_predictions=samples,
        predictions=_last_predictions(study),
        shuffle_version=SHUFFLE_VERSION,
        **_judged_inputs(study),
    )


def _last_predictions(study: Study) -> Manifest:
    for cell in reversed(study.cells):
        if study.resolver.has("predictions", cell.place):
            return study.resolver.need("predictions", cell.place)
    raise UpstreamMissing("no cell has predictions to shuffle yet; use `synthpost run`, or materialize the job `cell`")


def _announce(study: Study, inputs: VerdictInputs | ControlInputs, progress: Progress) -> Expected:
    study.warn_of_personal_data("judge", inputs.sent, progress)
    expected = _expected(study, inputs.judges, inputs.contests(study.store), 0)
    if expected.requests:
        progress.note(expected.text)
    return expected


def _make(inputs: VerdictInputs | ControlInputs, draft: Draft, bench: Workbench) -> AskedFacts:
    """Judges every game; the counts of each comparison are facts whose names start with the prefix."""
    judges, contests = list(inputs.judges), inputs.contests(bench.store)
    table = judge_contests(inputs.task, judges, contests, inputs.rules, [bench.progress] * len(judges))
    for why in bench.explain_unscored(table):
        for line in (why.cause, *why.lines):
            bench.progress.note(line)
    draft.table(inputs.asset, table)
    groups = pairs(table).groupby("opponent")
    counts = {f"{inputs.prefix}{name}": count(group["outcome"])._asdict() for name, group in groups}
    return AskedFacts(**tallied(judges).facts).with_figures(counts)


def expected_verdicts(study: Study, cells: Sequence[Cell]) -> Expected:
    """The estimate of judging the cells, without known replies. Posts that are not written yet count with the mean
    length of the teacher's posts.
    """
    contests: list[Contest] = []
    for cell in cells:
        try:
            inputs: VerdictInputs = study.resolver.inputs("verdicts", cell.place)
        except SynthpostError:
            continue
        contests += inputs.contests(study.store)
    unknown = len(cells) * study.evaluation_count * len(OPPONENTS) - len(contests)
    return _expected(study, study.judges, contests, unknown)


def expected_controls(study: Study, is_missing: bool) -> Expected:
    """The estimate of judging the controls, if they are missing."""
    return _expected(study, study.judges, [], len(COMPARISONS) * study.evaluation_count * is_missing)


def games_of(study: Study, contests: int) -> int:
    """The number of games of this number of contests."""
    return contests * len(study.rules.orders) * len(study.profile.judges)


def _expected(study: Study, judges: Sequence[Judge], contests: Sequence[Contest], unknown: int) -> Expected:
    """The estimate for these contests and for a number of contests whose posts are not written yet."""
    parts = []
    for judge, spec in zip(judges, study.profile.judges, strict=True):
        if isinstance(spec, RubricJudge):
            parts.append(_by_rubric(study, (len(contests) + unknown) * len(study.rules.orders)))
        else:
            characters = _missing_characters(study, judge, contests) + _guessed_characters(study, unknown)
            parts.append(expect(study.journal, spec, JUDGING, characters))
    return total(parts)


def _by_rubric(study: Study, games: int) -> Expected:
    made = [one for cell in study.trainings for one in study.resolver.all_of("verdicts", cell.place)]
    done = [facts for facts in map(AskedFacts.of, made) if not facts.asked_now]
    return local(games, sum(facts.ask_seconds for facts in done), sum(facts.rows for facts in done), "games")


def _missing_characters(study: Study, judge: Judge, contests: Sequence[Contest]) -> list[int]:
    """Characters of the first request of each game that the journal does not hold."""
    if not isinstance(judge, ModelJudge) or not contests:
        return []
    asks = judge.asks(study.task, games_between(contests, study.rules), 0)
    found = study.journal.find([ask.key for ask in asks])
    return [ask.characters for ask in asks if ask.key not in found]


def _guessed_characters(study: Study, contests: int) -> list[int]:
    briefs = briefs_by_id(study.task)
    prompts = evaluation_prompts(study.task, study.evaluation_count)["prompt_id"]
    posts = 2 * _mean_post(study)
    characters = [len(Game(briefs[prompt_id], "", "").prompt(study.task)) + posts for prompt_id in prompts]
    return characters * (contests // len(prompts) * len(study.rules.orders))


def _mean_post(study: Study) -> int:
    """Characters of a post: the mean of the known rows, or the maximum length."""
    known = known_rows(study)
    if known is not None and len(known):
        return round(float(known["post"].str.len().mean()))
    return round(study.profile.predictions.max_new_tokens * CHARACTERS_PER_TOKEN)


STAGES = (
    Stage(VerdictInputs.asset, "cell", _verdict_inputs, _make, ("predictions", BASELINE), _announce),
    Stage(
        ControlInputs.asset,
        "controls",
        _control_inputs,
        _make,
        (BASELINE, CONTROL, "predictions"),
        _announce,
        notes_failed_gates=True,
    ),
)
