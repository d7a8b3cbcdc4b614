"""The stages that hold the student: adapters, baseline_predictions, control_predictions, predictions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.artifacts.fingerprint import library_versions
from synthpost_dagster.artifacts.store import Draft, Outcome, Plan
from synthpost_dagster.devices import Lease
from synthpost_dagster.generation.estimate import Expected, local
from synthpost_dagster.inference.generate import Completion, chat, generate
from synthpost_dagster.inference.models import check_suits_task, identity, load, load_adapter
from synthpost_dagster.profiles.models import Sampling
from synthpost_dagster.progress import Progress
from synthpost_dagster.rows.memorisation import memorisation
from synthpost_dagster.schemas import CONTROL_SETS, FACTOR_COLUMNS
from synthpost_dagster.stages.data import UPSTREAM_REMEDY, data_subsets_plan, evaluation_prompts_plan
from synthpost_dagster.stages.study import Cell, Study
from synthpost_dagster.tasks.prompting import short_hash
from synthpost_dagster.training.checkpoints import Checkpoints
from synthpost_dagster.training.schedule import optimizer_steps, rows_seen
from synthpost_dagster.training.sft import Job, Tuner
from synthpost_dagster.training.trainers import trainer

if TYPE_CHECKING:
    import pandas as pd

UNTUNED = ("baseline_predictions", "control_predictions")
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TRAINER_LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes")
GENERATION_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")


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
        "libraries": library_versions(*TRAINER_LIBRARIES),
    }
    return Plan("adapters", cell.place, parts)


def steps_of(study: Study, cell: Cell) -> int:
    """Optimizer steps of a cell, if its subset holds all rows asked for."""
    return optimizer_steps(cell.steps, cell.data_size, study.profile.training.rows_per_step)


def expected_training(study: Study, steps: int) -> Expected:
    """The time of so many optimizer steps, from cells tuned before under the same arguments."""
    training, student = _less_seed(study.profile.training.shaping), identity(study.profile.student)
    made = [manifest for cell in study.trainings for manifest in study.store.all_of("adapters", cell.place)]
    alike = [m.facts for m in made if (_less_seed(m.parts["training"]), m.parts["student"]) == (training, student)]
    done = sum(facts["optimizer_steps"] for facts in alike)
    return local(steps, sum(facts["wall_seconds"] for facts in alike), done, "steps")


def _less_seed(training: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in training.items() if name != "seed"}


def expected_posts(study: Study, posts: int) -> Expected:
    """The time of so many posts of the student, from those that it wrote before."""
    made = [manifest for cell in study.trainings for manifest in study.store.all_of("predictions", cell.place)]
    made += [manifest for asset in UNTUNED for manifest in study.store.all_of(asset)]
    student = identity(study.profile.student)
    alike = [m.facts for m in made if m.parts["student"] == student]
    done = sum(facts["rows"] for facts in alike)
    return local(posts, sum(facts["wall_seconds"] for facts in alike), done, "posts")


def _wall(seconds: float, expected: Expected) -> dict[str, Any]:
    """Facts of work on this machine: what it took, and what was expected."""
    return {"wall_seconds": round(seconds, 2), "estimate": expected.facts}


def adapters(study: Study, cell: Cell, progress: Progress) -> Outcome:
    """The cell's adapter: a PEFT folder with its loss curve."""

    def make(draft: Draft) -> None:
        with tuning(study, steps_of(study, cell), progress) as (tuner, lease):
            tune_into(draft, study, cell, tuner, lease, progress)

    return publish_adapter(study, cell, make)


def publish_adapter(study: Study, cell: Cell, make: Callable[[Draft], None]) -> Outcome:
    """The cell's adapter, which `make` puts into a draft where it is missing; its checkpoints go once it is there."""
    check_suits_task(study.profile.student, study.task, study.profile.allow_untrained_task)
    plan = adapters_plan(study, cell)
    outcome = study.store.reuse_or_make(plan, make)
    _checkpoints(study, plan).remove()
    return outcome


@contextlib.contextmanager
def tuning(study: Study, steps: int, progress: Progress) -> Iterator[tuple[Tuner, Lease]]:
    """A tuner on the loaded student, under the lease; `steps` are all that it will train."""
    profile = study.profile
    kind = trainer(profile.training.trainer)
    with study.devices.lease(profile.student.memory_gib, waiting=progress.note) as lease:
        loaded = kind.load(profile.student, profile.training, lease.device)
        with kind(loaded, profile.student.model, profile.training, steps, lease.device) as tuner:
            yield tuner, lease
        del loaded, tuner


def tune_into(draft: Draft, study: Study, cell: Cell, tuner: Tuner, lease: Lease, progress: Progress) -> None:
    """Tunes a cell's adapter into a draft, with its loss curve and what was learned of each row."""
    from synthpost_dagster.training.forgetting import forgetting, forgetting_facts

    rows, plan = _subset_rows(study, cell), adapters_plan(study, cell)
    steps = plan.parts["steps"]
    expected, started = expected_training(study, steps), time.perf_counter()
    job = Job(rows, steps, study.training_of(cell), study.system_prompt)
    tuned = tuner.tune(job, draft.folder, _checkpoints(study, plan), progress)
    seconds = time.perf_counter() - started
    progress.note("measuring general text with the adapter and without")
    with tuner.as_loaded():
        kinds = forgetting(tuner.loaded)
    curve = tuned.curve
    study.add_gated_table(draft, "adapters", curve, supervision=tuned.supervision, forgetting=kinds)
    draft.digest = f"{_sha256(draft, ADAPTER_WEIGHTS)[:16]}"
    draft.facts |= {
        "optimizer_steps": steps,
        "rows_seen": rows_seen(steps, len(rows), study.profile.training.rows_per_step),
        "first_loss": round(float(curve["loss"].iloc[0]), 4),
        "last_loss": round(float(curve["loss"].iloc[-1]), 4),
        **forgetting_facts(kinds),
        **_wall(seconds, expected),
        "layout": tuned.layout.text,
        "peak_gib": lease.take_peak_gib(),
        "device": lease.device.label,
    }


def _checkpoints(study: Study, plan: Plan) -> Checkpoints:
    folder = study.settings.home / "checkpoints" / plan.fingerprint
    return Checkpoints(folder, study.profile.training.checkpoint_seconds)


def _sha256(draft: Draft, name: str) -> str:
    import hashlib

    return hashlib.sha256((draft.folder / name).read_bytes()).hexdigest()


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
    check_suits_task(study.profile.student, study.task, study.profile.allow_untrained_task)
    sampling = study.profile.predictions
    sets = [
        _Set("base", "student_prompt", _seeded(sampling, "base")),
        _Set("prompted", "teacher_prompt", _seeded(sampling, "prompted")),
    ]
    return study.store.reuse_or_make(
        baseline_predictions_plan(study), lambda draft: _untuned(study, "baseline_predictions", sets, draft, progress)
    )


def _untuned(study: Study, asset: str, sets: list[_Set], draft: Draft, progress: Progress) -> None:
    import pandas as pd

    prompts = _evaluation_table(study)
    expected = expected_posts(study, len(sets) * len(prompts))
    with study.devices.lease(study.profile.student.memory_gib, waiting=progress.note) as lease:
        loaded = load(study.profile.student, lease.device)
        started, parts = time.perf_counter(), []
        for contestant, column, sampling in sets:
            chats = [chat(text, study.system_prompt) for text in prompts[column]]
            replies = generate(loaded, chats, sampling, progress, f"{contestant} posts")
            parts.append(_predictions(prompts, replies, contestant, study.profile.student.model))
        seconds, peak = time.perf_counter() - started, lease.take_peak_gib()
        del loaded
    table = pd.concat(parts, ignore_index=True)
    study.add_gated_table(draft, asset, table)
    draft.facts |= {"peak_gib": peak, **_wall(seconds, expected), **_lengths(table)}


def control_predictions_plan(study: Study) -> Plan:
    """Shaped as the baselines are, and by the temperature of the control."""
    parts = {**_generation_parts(study), "sampling": _control_sampling(study).model_dump(mode="json")}
    return Plan("control_predictions", "", {**parts, "student": identity(study.profile.student)})


def control_predictions(study: Study, progress: Progress) -> Outcome:
    """The untuned model's posts from the student prompt, sampled twice, each time under a seed of its own."""
    check_suits_task(study.profile.student, study.task, study.profile.allow_untrained_task)
    sampling = _control_sampling(study)
    sets = [_Set(name, "student_prompt", _seeded(sampling, name)) for name in CONTROL_SETS]
    return study.store.reuse_or_make(
        control_predictions_plan(study), lambda draft: _untuned(study, "control_predictions", sets, draft, progress)
    )


def _control_sampling(study: Study) -> Sampling:
    return study.profile.predictions.model_copy(update={"temperature": study.profile.control_temperature})


def predictions_plan(study: Study, cell: Cell) -> Plan:
    """Shaped by the adapter, the evaluation prompts, the sampling and the libraries that generate."""
    adapter = study.store.need(adapters_plan(study, cell), _cell_remedy(cell))
    return Plan(
        "predictions",
        cell.place,
        {**_generation_parts(study), "student": identity(study.profile.student), "adapter": adapter.digest},
    )


def predictions(study: Study, cell: Cell, progress: Progress) -> Outcome:
    """The tuned model's posts."""

    def make(draft: Draft) -> None:
        prompts = _evaluation_table(study)
        adapter = study.store.need(adapters_plan(study, cell), _cell_remedy(cell))
        chats = [chat(text, study.system_prompt) for text in prompts["student_prompt"]]
        expected = expected_posts(study, len(prompts))
        with (
            study.devices.lease(study.profile.student.memory_gib, waiting=progress.note) as lease,
            study.store.local_folder(adapter) as folder,
        ):
            loaded = load_adapter(load(study.profile.student, lease.device), folder)
            started = time.perf_counter()
            replies = generate(loaded, chats, _seeded(study.profile.predictions, cell.place), progress, "tuned posts")
            seconds, peak = time.perf_counter() - started, lease.take_peak_gib()
            del loaded
        table = _predictions(prompts, replies, "tuned", f"{study.profile.student.model} + {adapter.fingerprint}")
        memorised = memorisation(table, _subset_rows(study, cell))
        study.add_gated_table(draft, "predictions", table, memorisation=memorised)
        draft.facts |= {
            "peak_gib": peak,
            **_wall(seconds, expected),
            **_lengths(table),
            "longest_shared_words": int(memorised["shared_words"].max()),
        }

    return study.store.reuse_or_make(predictions_plan(study, cell), make)


def _subset_rows(study: Study, cell: Cell) -> pd.DataFrame:
    """The rows that the cell is trained on."""
    return study.store.read_table(study.store.need(data_subsets_plan(study, cell.data_size), UPSTREAM_REMEDY))


def _generation_parts(study: Study) -> dict[str, Any]:
    evaluation = study.store.need(evaluation_prompts_plan(study), UPSTREAM_REMEDY)
    return {
        "evaluation_prompts": evaluation.digest,
        "sampling": study.profile.predictions.model_dump(mode="json"),
        "system_prompt": study.system_prompt,
        "libraries": library_versions(*GENERATION_LIBRARIES),
    }


def _seeded(sampling: Sampling, contestant: str) -> Sampling:
    """The sampling under a seed of the contestant's own, so that no two draw with the same luck."""
    return sampling.model_copy(update={"seed": sampling.seed + int(short_hash(contestant), 16) % 2**20})


def _evaluation_table(study: Study) -> pd.DataFrame:
    return study.store.read_table(study.store.need(evaluation_prompts_plan(study), UPSTREAM_REMEDY))


def _predictions(prompts: pd.DataFrame, replies: list[Completion], contestant: str, model: str) -> pd.DataFrame:
    return prompts[list(FACTOR_COLUMNS)].assign(
        contestant=contestant,
        post=[reply.text for reply in replies],
        finish_reason=[reply.finish_reason for reply in replies],
        prompt_tokens=[reply.prompt_tokens for reply in replies],
        completion_tokens=[reply.completion_tokens for reply in replies],
        model=model,
    )


def _lengths(table: pd.DataFrame) -> dict[str, Any]:
    return {
        "truncated": int((table["finish_reason"] == "length").sum()),
        "mean_completion_tokens": round(float(table["completion_tokens"].mean()), 1),
        "mean_prompt_tokens": table.groupby("contestant")["prompt_tokens"].mean().round(1).to_dict(),
    }


def _cell_remedy(cell: Cell) -> str:
    return f"materialize the job `cell` for {cell.key} first, or use `synthpost run`"
