"""The stage `predictions`: the tuned student's posts, of one cell or of many from one loaded model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from synthpost_dagster.artifacts.manifest import Manifest
from synthpost_dagster.artifacts.store import ArtifactStore, Draft
from synthpost_dagster.cell import Cell
from synthpost_dagster.inference.answering import answers
from synthpost_dagster.inference.generate import Completion
from synthpost_dagster.llm.estimate import Expected
from synthpost_dagster.rows.memorisation import memorisation
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.stages.facts import PostsFacts
from synthpost_dagster.stages.inputs import HashedAs
from synthpost_dagster.stages.posts import PostsInputs, common_inputs, expected_posts, facts_of, requests_for, table_of
from synthpost_dagster.stages.stage import Stage, Workbench
from synthpost_dagster.stages.student import Student
from synthpost_dagster.stages.study import Study

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class PredictionsInputs(PostsInputs):
    """The inputs of all posts, and the adapter."""

    adapter: Manifest
    cell: Cell
    """Not hashed: the adapter depends on it."""
    subset: Manifest
    """The adapter's training rows, with which the posts are compared."""
    hashed_as: ClassVar[HashedAs] = {"cell": None, "subset": None}


class Posts(NamedTuple):
    """A tuned model's posts (schema Predictions), and the facts of writing them."""

    table: pd.DataFrame
    facts: PostsFacts


class TunedStudent(NamedTuple):
    """The inputs of one cell's posts, and a local folder with the adapter."""

    inputs: PredictionsInputs
    folder: Path


def _inputs(study: Study, partition: str) -> PredictionsInputs:
    cell = Cell.at(partition)
    return PredictionsInputs(
        adapter=study.resolver.need("adapters", partition),
        cell=cell,
        subset=study.resolver.need("data_subsets", str(cell.data_size)),
        **common_inputs(study),
    )


def _announce(study: Study, _record: PredictionsInputs, _progress: Progress) -> Expected:
    return expected_posts(study, study.evaluation_count)


def _make(inputs: PredictionsInputs, draft: Draft, bench: Workbench) -> PostsFacts:
    with bench.store.local_folder(inputs.adapter) as folder:
        tuned = [TunedStudent(inputs, folder)]
        ((_, posts),) = tuned_posts(tuned, bench.student, bench.store, bench.progress)
    return add_posts(inputs, draft, bench, posts)


def add_posts(inputs: PredictionsInputs, draft: Draft, bench: Workbench, posts: Posts) -> PostsFacts:
    """Adds a cell's posts to a draft, with the runs of words that they share with its training rows."""
    memorised = memorisation(posts.table, bench.store.read_table(inputs.subset))
    draft.table("predictions", posts.table)
    draft.table("memorisation", memorised)
    return posts.facts.model_copy(update={"longest_shared_words": int(memorised["shared_words"].max())})


def tuned_posts(
    tuned: Sequence[TunedStudent], student: Student, store: ArtifactStore, progress: Progress
) -> Iterator[tuple[PredictionsInputs, Posts]]:
    """The posts of several cells, written together by one loaded model; each cell's as soon as they are complete."""
    if not tuned:
        return
    first = tuned[0].inputs
    prompts = store.read_table(first.evaluation_prompts)
    requests = [
        request
        for number, (inputs, _) in enumerate(tuned)
        for request in requests_for(inputs, prompts["student_prompt"], number, inputs.cell.place)
    ]
    loaded, started = student.untuned(), time.perf_counter()
    replies: list[dict[int, Completion]] = [{} for _ in tuned]
    for place, reply in answers(
        loaded,
        [folder for _, folder in tuned],
        requests,
        first.sampling,
        progress,
        "tuned posts",
        student.lease.device.limit_gib,
        first.sampling.max_concurrent_sequences,
    ):
        number, row = divmod(place, len(prompts))
        replies[number][row] = reply
        if len(replies[number]) == len(prompts):
            now, inputs = time.perf_counter(), tuned[number].inputs
            written = [replies[number][at] for at in range(len(prompts))]
            table = table_of(prompts, written, "tuned", f"{inputs.student.model} + {inputs.adapter.fingerprint}")
            peak_gib = student.lease.take_peak_gib()
            yield inputs, Posts(table, facts_of(table, loaded, written, now - started, peak_gib))
            started = now


STAGES = (Stage("predictions", "cell", _inputs, _make, ("adapters", "evaluation_prompts"), _announce),)
