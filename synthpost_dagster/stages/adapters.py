"""The stage `adapters`: the student tuned on the subset of a cell, for its number of steps."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from typing import ClassVar

from synthpost_dagster.artifacts.fingerprint import library_versions
from synthpost_dagster.artifacts.manifest import Manifest
from synthpost_dagster.artifacts.store import Draft
from synthpost_dagster.cell import Cell
from synthpost_dagster.errors import ArtifactBusy, ModelError, SynthpostError
from synthpost_dagster.inference.models import check_suits_task, identity
from synthpost_dagster.inference.peft_files import adapter_digest
from synthpost_dagster.llm.estimate import Expected, local
from synthpost_dagster.profiles import TrainingSpec
from synthpost_dagster.profiles.models import ModelSpec
from synthpost_dagster.runtime.child_processes import run_apart
from synthpost_dagster.runtime.devices import memory_for
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.settings import Settings
from synthpost_dagster.stages.facts import AdapterFacts, Facts
from synthpost_dagster.stages.inputs import HashedAs, Inputs
from synthpost_dagster.stages.opening import open_study
from synthpost_dagster.stages.stage import Stage, Workbench, materialize_with
from synthpost_dagster.stages.student import REMEDY, holding
from synthpost_dagster.stages.study import Study
from synthpost_dagster.training.checkpoints import Checkpoints
from synthpost_dagster.training.fitting import optimizer_steps, rows_seen
from synthpost_dagster.training.sft import Job
from synthpost_dagster.training.trainers import APART

TRAINER_LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes")
MORE_LIBRARIES = {"unsloth": ("unsloth", "unsloth_zoo")}
"""Trainer → further libraries that it needs."""


@dataclass(frozen=True, slots=True)
class AdapterInputs(Inputs):
    """Subset, student, hyper-parameters, optimizer steps and the trainer's libraries."""

    subset: Manifest
    student: ModelSpec
    training: TrainingSpec
    system_prompt: str | None
    steps: int
    libraries: dict[str, str]
    hashed_as: ClassVar[HashedAs] = {"student": identity, "training": lambda training: training.shaping}


def _inputs(study: Study, partition: str) -> AdapterInputs:
    cell, training = Cell.at(partition), study.profile.training
    subset = study.resolver.need("data_subsets", str(cell.data_size))
    return AdapterInputs(
        subset=subset,
        student=study.profile.student,
        training=training if cell.seed is None else training.model_copy(update={"seed": cell.seed}),
        system_prompt=study.system_prompt,
        steps=optimizer_steps(cell.steps, Facts.of(subset).rows, training.rows_per_step),
        libraries=_trainer_libraries(training.trainer),
    )


def _trainer_libraries(trainer: str) -> dict[str, str]:
    try:
        return library_versions(*TRAINER_LIBRARIES, *MORE_LIBRARIES.get(trainer, ()))
    except PackageNotFoundError as error:
        raise ModelError(
            f"training.trainer: {trainer} needs the package {error.name}; install the extra `gpu`, or set it to trl in "
            "the profile"
        ) from None


def steps_of(study: Study, cell: Cell) -> int:
    """Optimizer steps of a cell whose subset is complete."""
    return optimizer_steps(cell.steps, cell.data_size, study.profile.training.rows_per_step)


def expected_training(study: Study, steps: int) -> Expected:
    """The time of this number of optimizer steps, from earlier trainings with the same arguments."""
    student, training = identity(study.profile.student), study.profile.training.shaping | {"seed": None}
    alike = [
        AdapterFacts.of(one)
        for cell in study.trainings
        for one in study.resolver.all_of("adapters", cell.place)
        if one.parts["training"] | {"seed": None} == training and one.parts["student"] == student
    ]
    done = sum(facts.timed_steps for facts in alike)
    return local(steps, sum(facts.wall_seconds for facts in alike), done, "steps")


def tune_apart(study: Study, cells: Sequence[Cell], progress: Progress, wait: bool) -> None:
    """Tunes the cells' adapters in a process of their own, from one loaded student.

    Without `wait`, an adapter that another process is making is skipped. After the last one, it raises a SynthpostError
    with all failures.
    """
    missing = [tuple(cell) for cell in cells if not study.resolver.has("adapters", cell.place)]
    calls = {"training": (study.settings, missing, wait)} if missing else {}
    try:
        run_apart(_tune_here, calls, lambda event, _: progress.forward(event), lambda *_: None)
    finally:
        fresh = study.fresh().resolver
        for cell in cells:
            if manifest := fresh.find("adapters", cell.place):
                study.resolver.renew(manifest)


def _tune_here(settings: Settings, cells: Sequence[tuple[int, str, int | None]], wait: bool) -> None:
    study, progress, failures = open_study(settings), Progress(), []
    wanted = [Cell(*cell) for cell in cells]
    with holding(study, progress, sum(steps_of(study, cell) for cell in wanted)) as student:
        for cell in wanted:
            try:
                materialize_with(student, study, "adapters", cell.place, progress.within(cell.place), wait=wait)
            except ArtifactBusy:
                continue
            except SynthpostError as error:
                failures.append(f"{cell.place}: {error}")
    if failures:
        raise SynthpostError("; ".join(failures))


def _make_apart(study: Study, partition: str, progress: Progress) -> bool:
    if study.profile.training.trainer not in APART:
        return False
    tune_apart(study, [Cell.at(partition)], progress, wait=True)
    return True


def _announce(study: Study, inputs: AdapterInputs, _progress: Progress) -> Expected:
    check_suits_task(study.profile.student, study.task, study.profile.allow_untrained_task)
    return expected_training(study, inputs.steps)


def _make(inputs: AdapterInputs, draft: Draft, bench: Workbench) -> AdapterFacts:
    """Writes a PEFT folder with the loss curve, the supervised tokens of each row, and the forgetting table."""
    from synthpost_dagster.training.forgetting import forgetting, forgetting_facts

    rows, steps, spec = bench.store.read_table(inputs.subset), inputs.steps, inputs.training
    tuner, lease = bench.student.tuner(steps), bench.student.lease
    job = Job(rows, steps, spec, inputs.system_prompt)
    progress, started = bench.progress, time.perf_counter()
    tuned = tuner.tune(job, draft.folder, Checkpoints(bench.checkpoints, spec.checkpoint_seconds), progress)
    seconds = time.perf_counter() - started
    bench.progress.note("measuring general text with the adapter and without")
    started = time.perf_counter()
    with tuner.as_loaded(), memory_for(lease.device, "while general text was measured", REMEDY):
        kinds = forgetting(tuner.loaded)
    general = time.perf_counter() - started
    draft.table("adapters", tuned.curve)
    draft.table("supervision", tuned.supervision)
    draft.table("forgetting", kinds)
    draft.digest = adapter_digest(draft.folder)
    return AdapterFacts(
        optimizer_steps=steps,
        timed_steps=tuned.steps_now,
        rows_seen=rows_seen(steps, len(rows), spec.rows_per_step),
        first_loss=round(float(tuned.curve["loss"].iloc[0]), 4),
        last_loss=round(float(tuned.curve["loss"].iloc[-1]), 4),
        general_text_seconds=round(general, 3),
        wall_seconds=round(seconds, 2),
        layout=tuned.layout.text,
        precision=spec.precision,
        peak_gib=lease.take_peak_gib(),
        device=lease.device.label,
        **forgetting_facts(kinds),
    )


def _remove_checkpoints(study: Study, manifest: Manifest) -> None:
    folder = study.checkpoints_of(manifest.partition, manifest.fingerprint)
    Checkpoints(folder, study.profile.training.checkpoint_seconds).remove()


STAGES = (
    Stage("adapters", "cell", _inputs, _make, ("data_subsets",), _announce, None, _make_apart, _remove_checkpoints),
)
