"""The stage that makes adapters: the student tuned on the subset of a cell, for its number of steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, overload

from synthpost_dagster.artifacts.fingerprint import library_versions
from synthpost_dagster.artifacts.store import Draft, Manifest, Outcome, Plan
from synthpost_dagster.cell import Cell
from synthpost_dagster.errors import ModelError, SynthpostError
from synthpost_dagster.inference.models import check_suits_task, identity
from synthpost_dagster.inference.peft_files import adapter_digest
from synthpost_dagster.llm.estimate import Expected, local
from synthpost_dagster.runtime.child_processes import run_apart
from synthpost_dagster.runtime.devices import Lease, memory_for
from synthpost_dagster.runtime.progress import Event, Progress
from synthpost_dagster.settings import Settings
from synthpost_dagster.stages import effort
from synthpost_dagster.stages.data import data_subsets_plan, subset_rows
from synthpost_dagster.stages.student import REMEDY, Student, holding
from synthpost_dagster.stages.study import Study, open_study
from synthpost_dagster.stages.took import wall_facts
from synthpost_dagster.training.checkpoints import Checkpoints
from synthpost_dagster.training.schedule import optimizer_steps, rows_seen
from synthpost_dagster.training.sft import Job, Tuner
from synthpost_dagster.training.trainers import APART

TRAINER_LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes")
MORE_LIBRARIES = {"unsloth": ("unsloth", "unsloth_zoo")}
"""By trainer."""


def adapters_plan(study: Study, cell: Cell) -> Plan:
    """Shaped by the subset, the student, the hyper-parameters, the steps and the trainer's libraries."""
    remedy = f"materialize data_subsets {cell.data_size} first (job `subsets`), or use `synthpost run`"
    subset = study.store.need(data_subsets_plan(study, cell.data_size), remedy)
    parts = {
        "subset": subset.digest,
        "student": identity(study.profile.student),
        "training": study.training_of(cell).shaping,
        "system_prompt": study.system_prompt,
        "steps": optimizer_steps(cell.steps, subset.facts["rows"], study.profile.training.rows_per_step),
        "libraries": _trainer_libraries(study.profile.training.trainer),
    }
    return Plan("adapters", cell.place, parts)


def _trainer_libraries(trainer: str) -> dict[str, str]:
    try:
        return library_versions(*TRAINER_LIBRARIES, *MORE_LIBRARIES.get(trainer, ()))
    except PackageNotFoundError as error:
        raise ModelError(
            f"training.trainer: {trainer} needs the package {error.name}; install the extra `gpu`, or set it to trl in "
            "the profile"
        ) from None


def steps_of(study: Study, cell: Cell) -> int:
    """Optimizer steps of a cell, if its subset holds all rows asked for."""
    return optimizer_steps(cell.steps, cell.data_size, study.profile.training.rows_per_step)


def expected_training(study: Study, steps: int) -> Expected:
    """The time of so many optimizer steps, from cells tuned before under the same arguments."""
    training, student = _less_seed(study.profile.training.shaping), identity(study.profile.student)
    made = [manifest for cell in study.trainings for manifest in study.store.all_of("adapters", cell.place)]
    alike = [m.facts for m in made if (_less_seed(m.parts["training"]), m.parts["student"]) == (training, student)]
    done = sum(facts["timed_steps"] for facts in alike)
    return local(steps, sum(facts["wall_seconds"] for facts in alike), done, "steps")


def _less_seed(training: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in training.items() if name != "seed"}


def adapters(study: Study, cell: Cell, progress: Progress) -> Outcome:
    """The cell's adapter: a PEFT folder with its loss curve."""
    plan, steps = adapters_plan(study, cell), steps_of(study, cell)
    if study.profile.training.trainer in APART and not study.has(lambda: plan):
        tune_apart(study, [cell], progress, wait=True)
        return Outcome(adapter_of(study, cell), is_reused=False)
    with holding(study, progress) as student:
        return tuned_adapter(study, cell, student, steps, progress)


def tune_apart(study: Study, cells: Sequence[Cell], progress: Progress, wait: bool) -> None:
    """Tunes the cells' adapters in a process of their own, from one loaded student.

    Without `wait`, what another process is at is left to it. Raises SynthpostError with what failed, once the others
    are there.
    """

    def heard(event: Event, title: str) -> None:
        del title
        progress.pass_on(event)

    missing = [tuple(cell) for cell in cells if not study.has(partial(adapters_plan, study, cell))]
    calls = {"training": (study.settings, missing, wait)} if missing else {}
    run_apart(_tune_here, calls, heard, lambda title, is_good: None)  # noqa: ARG005 - nothing to tell


def _tune_here(settings: Settings, cells: Sequence[tuple[int, str, int | None]], wait: bool) -> None:
    study, progress, failures = open_study(settings), Progress(), []
    wanted = [Cell(*cell) for cell in cells]
    steps = sum(steps_of(study, cell) for cell in wanted)
    with holding(study, progress) as student:
        for cell in wanted:
            try:
                tuned_adapter(study, cell, student, steps, progress.within(cell.place), wait=wait)
            except SynthpostError as error:
                failures.append(f"{cell.place}: {error}")
    if failures:
        raise SynthpostError("; ".join(failures))


@overload
def tuned_adapter(study: Study, cell: Cell, student: Student, steps: int, progress: Progress) -> Outcome: ...


@overload
def tuned_adapter(
    study: Study, cell: Cell, student: Student, steps: int, progress: Progress, *, wait: bool
) -> Outcome | None: ...


def tuned_adapter(
    study: Study, cell: Cell, student: Student, steps: int, progress: Progress, *, wait: bool = True
) -> Outcome | None:
    """The cell's adapter, tuned on the student where it is missing; its checkpoints go once it is there.

    `steps` are all that will be trained on the student. With `wait=False` it is None where another process is at it.
    """
    check_suits_task(study.profile.student, study.task, study.profile.allow_untrained_task)
    plan = adapters_plan(study, cell)

    def make(draft: Draft) -> None:
        _tune_into(draft, study, cell, student.tuner(steps), student.lease, progress)

    outcome = study.reuse_or_make(plan, make, progress, wait=wait)
    if outcome is not None:
        _checkpoints(study, plan).remove()
    return outcome


def _tune_into(draft: Draft, study: Study, cell: Cell, tuner: Tuner, lease: Lease, progress: Progress) -> None:
    """Tunes a cell's adapter into a draft, with its loss curve and what was learned of each row."""
    from synthpost_dagster.training.forgetting import forgetting, forgetting_facts

    rows, plan = subset_rows(study, cell.data_size), adapters_plan(study, cell)
    steps = plan.parts["steps"]
    expected, started = expected_training(study, steps), time.perf_counter()
    job = Job(rows, steps, study.training_of(cell), study.system_prompt)
    told = progress.worth(effort.of_steps(study, steps))
    tuned = tuner.tune(job, draft.folder, _checkpoints(study, plan), told)
    seconds = time.perf_counter() - started
    progress.note("measuring general text with the adapter and without")
    started = time.perf_counter()
    with tuner.as_loaded(), memory_for(lease.device, "while general text was measured", REMEDY):
        kinds = forgetting(tuner.loaded)
    general = time.perf_counter() - started
    curve = tuned.curve
    study.add_gated_table(draft, "adapters", curve, supervision=tuned.supervision, forgetting=kinds)
    draft.digest = adapter_digest(draft.folder)
    draft.facts |= {
        "optimizer_steps": steps,
        "timed_steps": tuned.steps_now,
        "rows_seen": rows_seen(steps, len(rows), study.profile.training.rows_per_step),
        "first_loss": round(float(curve["loss"].iloc[0]), 4),
        "last_loss": round(float(curve["loss"].iloc[-1]), 4),
        **forgetting_facts(kinds),
        "general_text_seconds": round(general, 3),
        **wall_facts(seconds, expected),
        "layout": tuned.layout.text,
        "precision": job.spec.precision,
        "peak_gib": lease.take_peak_gib(),
        "device": lease.device.label,
    }


def _checkpoints(study: Study, plan: Plan) -> Checkpoints:
    # By the place too, as the artifact's lock is: two cells may come to the same number of steps.
    folder = study.settings.home / "checkpoints" / f"{plan.partition.replace('|', '_')}-{plan.fingerprint}"
    return Checkpoints(folder, study.profile.training.checkpoint_seconds)


def adapter_of(study: Study, cell: Cell) -> Manifest:
    """The cell's adapter that is there. Raises UpstreamMissing or GateFailed as the store does."""
    return study.store.need(
        adapters_plan(study, cell), f"materialize the job `cell` for {cell.key} first, or use `synthpost run`"
    )


@contextlib.contextmanager
def adapter_folder(study: Study, cell: Cell) -> Iterator[Path]:
    """A local folder with the cell's adapter. Raises UpstreamMissing, GateFailed or StorageError as the store does."""
    with study.store.local_folder(adapter_of(study, cell)) as folder:
        yield folder
