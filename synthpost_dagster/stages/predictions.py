"""The stages that write the student's posts: baseline_predictions, control_predictions, predictions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from synthpost_dagster.artifacts.fingerprint import library_versions
from synthpost_dagster.artifacts.store import Draft, Outcome, Plan
from synthpost_dagster.cell import Cell
from synthpost_dagster.inference.answering import answers
from synthpost_dagster.inference.generate import Completion, chat
from synthpost_dagster.inference.models import Loaded, check_suits_task, identity
from synthpost_dagster.llm.estimate import Expected, local
from synthpost_dagster.llm.reasoning import split_reasoning
from synthpost_dagster.profiles.models import Sampling
from synthpost_dagster.rows.memorisation import memorisation
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.schemas import CONTROL_SETS, FACTOR_COLUMNS
from synthpost_dagster.stages import effort
from synthpost_dagster.stages.adapters import adapter_folder, adapter_of
from synthpost_dagster.stages.data import UPSTREAM_REMEDY, evaluation_prompts_plan, subset_rows
from synthpost_dagster.stages.student import Student, holding
from synthpost_dagster.stages.study import Study
from synthpost_dagster.stages.took import wall_facts
from synthpost_dagster.tasks.prompting import short_hash

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.inference.engine import Request

UNTUNED = ("baseline_predictions", "control_predictions")
DRAWING = "a seed for each post"
"""How posts are drawn: another way makes other posts."""
GENERATION_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")


def expected_posts(study: Study, posts: int) -> Expected:
    """The time of so many posts of the student, from those that it wrote before."""
    made = [manifest for cell in study.trainings for manifest in study.store.all_of("predictions", cell.place)]
    made += [manifest for asset in UNTUNED for manifest in study.store.all_of(asset)]
    student = identity(study.profile.student)
    alike = [m.facts for m in made if m.parts["student"] == student]
    done = sum(facts["rows"] for facts in alike)
    return local(posts, sum(facts["wall_seconds"] for facts in alike), done, "posts")


def baseline_predictions_plan(study: Study) -> Plan:
    """Shaped by the evaluation prompts, the student, the sampling and the libraries that generate."""
    return Plan("baseline_predictions", "", {**_generation_parts(study), "student": identity(study.profile.student)})


class _Set(NamedTuple):
    """Posts of one contestant: which column of the evaluation prompts it is given, and how it is sampled."""

    contestant: str
    prompt: str
    sampling: Sampling


def baseline_predictions(study: Study, progress: Progress) -> Outcome:
    """The untuned model's posts: with the student prompt (`base`) and with the teacher prompt (`prompted`)."""
    return _both(study, _baselines, _controls, progress)


_Write = Callable[[Study, Student, Progress, bool], Outcome | None]


def _both(study: Study, first: _Write, other: _Write, progress: Progress) -> Outcome:
    """What the first writes; the other's posts are written by the same loaded model, unless another process is at it:
    whoever holds the device must not wait for one who may want it.
    """
    with holding(study, progress) as student:
        outcome = first(study, student, progress, True)
        other(study, student, progress, False)
    return cast(Outcome, outcome)


def _baselines(study: Study, student: Student, progress: Progress, wait: bool) -> Outcome | None:
    sampling = study.profile.predictions
    sets = [
        _Set("base", "student_prompt", _seeded(sampling, "base")),
        _Set("prompted", "teacher_prompt", _seeded(sampling, "prompted")),
    ]
    return _untuned(study, baseline_predictions_plan(study), sets, student, progress, wait)


def _untuned(
    study: Study, plan: Plan, sets: list[_Set], student: Student, progress: Progress, wait: bool
) -> Outcome | None:
    """The sets' posts, written by the student where they are missing."""
    import pandas as pd

    check_suits_task(study.profile.student, study.task, study.profile.allow_untrained_task)
    prompts = _evaluation_table(study)

    def make(draft: Draft) -> None:
        expected = expected_posts(study, len(sets) * len(prompts))
        loaded = student.untuned()
        started, parts, written = time.perf_counter(), [], []
        for contestant, column, sampling in sets:
            requests = _requests(study, prompts[column], None, sampling)
            what, slots = f"{contestant} posts", study.profile.predictions.max_concurrent_sequences
            told = progress.worth(effort.of_posts(len(requests)))
            replies = dict(answers(loaded, [], requests, sampling, told, what, student.limit_gib, slots))
            posts = [replies[place] for place in range(len(requests))]
            written += posts
            parts.append(_predictions(prompts, posts, contestant, study.profile.student.model))
        seconds = time.perf_counter() - started
        table = pd.concat(parts, ignore_index=True)
        study.add_gated_table(draft, plan.asset, table)
        draft.facts |= {"peak_gib": student.lease.take_peak_gib(), **wall_facts(seconds, expected), **_lengths(table)}
        draft.facts |= _written_facts(loaded, written)

    return study.reuse_or_make(plan, make, progress, wait=wait)


def _requests(study: Study, texts: Iterable[str], adapter: int | None, sampling: Sampling) -> list[Request]:
    """One for each prompt, under a seed of its own."""
    from synthpost_dagster.inference.engine import Request

    chats = (chat(text, study.system_prompt) for text in texts)
    return [Request(turns, adapter, sampling.seed + place) for place, turns in enumerate(chats)]


def control_predictions_plan(study: Study) -> Plan:
    """Shaped as the baselines are, and by the temperature of the control."""
    parts = {**_generation_parts(study), "sampling": _sampling_parts(_control_sampling(study))}
    return Plan("control_predictions", "", {**parts, "student": identity(study.profile.student)})


def control_predictions(study: Study, progress: Progress) -> Outcome:
    """The untuned model's posts from the student prompt, sampled twice, each time under a seed of its own."""
    return _both(study, _controls, _baselines, progress)


def _controls(study: Study, student: Student, progress: Progress, wait: bool) -> Outcome | None:
    sampling = _control_sampling(study)
    sets = [_Set(name, "student_prompt", _seeded(sampling, name)) for name in CONTROL_SETS]
    return _untuned(study, control_predictions_plan(study), sets, student, progress, wait)


def _control_sampling(study: Study) -> Sampling:
    return study.profile.predictions.model_copy(update={"temperature": study.profile.control_temperature})


def predictions_plan(study: Study, cell: Cell) -> Plan:
    """Shaped by the adapter, the evaluation prompts, the sampling and the libraries that generate."""
    adapter = adapter_of(study, cell)
    return Plan(
        "predictions",
        cell.place,
        {**_generation_parts(study), "student": identity(study.profile.student), "adapter": adapter.digest},
    )


class Posts(NamedTuple):
    """A tuned model's posts (schema Predictions), and what writing them took."""

    table: pd.DataFrame
    facts: dict[str, Any]


def predictions(study: Study, cell: Cell, progress: Progress) -> Outcome:
    """The tuned model's posts."""

    def make(draft: Draft) -> None:
        with holding(study, progress) as student, adapter_folder(study, cell) as folder:
            ((_, posts),) = tuned_posts(study, {cell: folder}, student, progress)
        put_posts(draft, study, cell, posts)

    return study.reuse_or_make(predictions_plan(study, cell), make, progress)


def put_posts(draft: Draft, study: Study, cell: Cell, posts: Posts) -> None:
    """Puts a cell's posts into a draft, with what of them stands in its training posts."""
    memorised = memorisation(posts.table, subset_rows(study, cell.data_size))
    study.add_gated_table(draft, "predictions", posts.table, memorisation=memorised)
    shared = int(memorised["shared_words"].max())
    draft.facts |= {**posts.facts, **_lengths(posts.table), "longest_shared_words": shared}


def tuned_posts(
    study: Study, folders: Mapping[Cell, Path], student: Student, progress: Progress
) -> Iterator[tuple[Cell, Posts]]:
    """The tuned models' posts of several cells, written together by one loaded model; each cell's as they are there.

    `folders` hold the cells' adapters.
    """
    cells = list(folders)
    prompts, sampling = _evaluation_table(study), study.profile.predictions
    made = [adapter_of(study, cell) for cell in cells]
    expected = expected_posts(study, len(prompts))
    if cells:
        requests = [
            request
            for number, cell in enumerate(cells)
            for request in _requests(study, prompts["student_prompt"], number, _seeded(sampling, cell.place))
        ]
        loaded, started = student.untuned(), time.perf_counter()
        replies: list[dict[int, Completion]] = [{} for _ in cells]
        for place, reply in answers(
            loaded,
            list(folders.values()),
            requests,
            sampling,
            progress.worth(effort.of_posts(len(requests))),
            "tuned posts",
            student.limit_gib,
            sampling.max_concurrent_sequences,
        ):
            number, row = divmod(place, len(prompts))
            replies[number][row] = reply
            if len(replies[number]) == len(prompts):
                now, name = time.perf_counter(), f"{study.profile.student.model} + {made[number].fingerprint}"
                posts = [replies[number][at] for at in range(len(prompts))]
                table = _predictions(prompts, posts, "tuned", name)
                facts = {"peak_gib": student.lease.take_peak_gib(), **wall_facts(now - started, expected)}
                facts |= _written_facts(loaded, posts)
                yield cells[number], Posts(table, facts)
                started = now


def _generation_parts(study: Study) -> dict[str, Any]:
    evaluation = study.store.need(evaluation_prompts_plan(study), UPSTREAM_REMEDY)
    return {
        "evaluation_prompts": evaluation.digest,
        "sampling": _sampling_parts(study.profile.predictions),
        "drawing": DRAWING,
        "system_prompt": study.system_prompt,
        "libraries": library_versions(*GENERATION_LIBRARIES),
    }


def _sampling_parts(sampling: Sampling) -> dict[str, Any]:
    """What of the sampling shapes a post: how many are written at a time does so only where it is promised."""
    parts = sampling.model_dump(mode="json", exclude={"batch_size"})
    return {name: value for name, value in parts.items() if value is not None}


def _seeded(sampling: Sampling, contestant: str) -> Sampling:
    """The sampling under a seed of the contestant's own, so that no two draw with the same luck."""
    return sampling.model_copy(update={"seed": sampling.seed + int(short_hash(contestant), 16) % 2**20})


def _evaluation_table(study: Study) -> pd.DataFrame:
    return study.store.read_table(study.store.need(evaluation_prompts_plan(study), UPSTREAM_REMEDY))


def _predictions(prompts: pd.DataFrame, replies: list[Completion], contestant: str, model: str) -> pd.DataFrame:
    return prompts[list(FACTOR_COLUMNS)].assign(
        contestant=contestant,
        post=[split_reasoning(reply.text).text for reply in replies],
        finish_reason=[reply.finish_reason for reply in replies],
        prompt_tokens=[reply.prompt_tokens for reply in replies],
        completion_tokens=[reply.completion_tokens for reply in replies],
        model=model,
    )


def _written_facts(loaded: Loaded, replies: Sequence[Completion]) -> dict[str, Any]:
    """How many replies held reasoning, which is no part of a post, how many nothing else, and what of the model's
    generation configuration was ignored.
    """
    parts = [split for reply in replies if (split := split_reasoning(reply.text)).text != reply.text]
    counts = {"with_reasoning": len(parts), "only_reasoning": sum(not split.text.strip() for split in parts)}
    return {**counts, **({"ignored_generation_config": dict(loaded.ignored)} if loaded.ignored else {})}


def _lengths(table: pd.DataFrame) -> dict[str, Any]:
    return {
        "truncated": int((table["finish_reason"] == "length").sum()),
        "mean_completion_tokens": round(float(table["completion_tokens"].mean()), 1),
        "mean_prompt_tokens": table.groupby("contestant")["prompt_tokens"].mean().round(1).to_dict(),
    }
