"""A study: one task, one profile, the artifacts and the device. What the stages work with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, overload

from synthpost_dagster.artifacts.store import (
    MANIFEST_FORMAT,
    ArtifactStore,
    Draft,
    GateEntry,
    Manifest,
    Outcome,
    Plan,
)
from synthpost_dagster.cell import Cell
from synthpost_dagster.errors import SynthpostError
from synthpost_dagster.judging.judges import build_judges
from synthpost_dagster.judging.verdicts import BOTH_ORDERS, STUDY_MODE, Judge, Rules
from synthpost_dagster.llm.chat_models import Context
from synthpost_dagster.llm.journal import Journal
from synthpost_dagster.profiles import Profile, TrainingSpec, load_task_and_profile
from synthpost_dagster.quality import gates
from synthpost_dagster.quality.explanations import explained
from synthpost_dagster.quality.posts import PERSONAL_DATA
from synthpost_dagster.runtime.devices import Devices
from synthpost_dagster.runtime.progress import SILENT, Progress
from synthpost_dagster.schemas import BESIDE
from synthpost_dagster.settings import Settings, secret
from synthpost_dagster.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Study:
    """A task and a profile, bound to the place where artifacts are kept."""

    task: Task
    profile: Profile
    store: ArtifactStore
    devices: Devices
    settings: Settings
    journal: Journal
    subset_plans: dict[tuple[str, int], Plan] = field(default_factory=dict, compare=False, repr=False)
    """By the rows' fingerprint and the size: making one reads and hashes all rows, and a sweep asks for it often."""

    @property
    def cells(self) -> list[Cell]:
        """The cells that the profile covers, small data first."""
        sweep = self.profile.sweep
        return [Cell(size, str(steps)) for size in sweep.data_sizes for steps in sweep.steps]

    @property
    def trainings(self) -> list[Cell]:
        """The cells under each seed."""
        return [one for cell in self.cells for one in self.seeds_of(cell)]

    def seeds_of(self, cell: Cell) -> list[Cell]:
        """The cell under training.seed, then under each further seed of the sweep."""
        return [cell, *(cell._replace(seed=seed) for seed in self.profile.sweep.more_seeds)]

    def training_of(self, cell: Cell) -> TrainingSpec:
        """The hyper-parameters of a cell, with its seed."""
        training = self.profile.training
        return training if cell.seed is None else training.model_copy(update={"seed": cell.seed})

    @property
    def rules(self) -> Rules:
        """How games are played: in both orders, or as in the study."""
        return STUDY_MODE if self.profile.study else BOTH_ORDERS

    @property
    def judges(self) -> list[Judge]:
        """The profile's judges."""
        return build_judges(self.task, self.profile, self.context, self.rules.may_tie)

    @property
    def evaluation_count(self) -> int:
        """How many evaluation prompts every contestant answers."""
        return self.profile.evaluation_prompts or self.task.spec.evaluation.prompts

    @property
    def context(self) -> Context:
        """What the backends of teacher and judge work with."""
        return Context(self.devices, self.journal, self.profile.name, self.profile.budget, secret)

    @property
    def system_prompt(self) -> str | None:
        """The task's system prompt where the profile trains with it, else None."""
        return self.task.spec.system_prompt if self.profile.training.system_prompt else None

    @property
    def embedder(self) -> Path | None:
        """The folder of the profile's sentence embedder."""
        return Path(self.profile.embedder).expanduser() if self.profile.embedder else None

    def has(self, plan: Callable[[], Plan]) -> bool:
        """Whether the artifact of a plan is there and passed its checks; not, where the plan cannot even be made."""
        try:
            planned = plan()
        except SynthpostError:
            return False
        manifest = self.store.find(planned.asset, planned.partition, planned.fingerprint)
        return manifest is not None and not manifest.failed_gates

    def add_gated_table(
        self, draft: Draft, asset: str, table: pd.DataFrame, target: int | None = None, **beside: pd.DataFrame
    ) -> None:
        """Puts an asset's main table into its draft, with its row count, the number of rows that was asked for (its
        own where `target` is None), its further tables by name, and the verdicts of its gates.
        """
        draft.table(asset, table)
        for name, other in beside.items():
            draft.table(name, BESIDE[name].validate(other))
        draft.facts |= {"rows": len(table), "target_rows": len(table) if target is None else target}
        draft.gates += self.gate_entries(asset, table, target, beside)

    def gate_entries(
        self, asset: str, table: pd.DataFrame, target: int | None, beside: Mapping[str, pd.DataFrame]
    ) -> list[GateEntry]:
        """The verdicts of the gates on an asset's tables, each that did not pass with what stands behind it."""
        found = gates.evaluate(asset, self.task, table, target=target, beside=beside)
        return [
            one.entry.model_copy(update={"explanation": explained(one, table, self.task, self.profile)})
            for one in found
        ]

    @overload
    def reuse_or_make(self, plan: Plan, make: Callable[[Draft], None], progress: Progress = SILENT) -> Outcome: ...

    @overload
    def reuse_or_make(
        self, plan: Plan, make: Callable[[Draft], None], progress: Progress = SILENT, *, wait: bool
    ) -> Outcome | None: ...

    def reuse_or_make(
        self, plan: Plan, make: Callable[[Draft], None], progress: Progress = SILENT, *, wait: bool = True
    ) -> Outcome | None:
        """As the store's; the gates of what is reused are evaluated again where the task's limits were changed."""
        outcome = self.store.reuse_or_make(plan, make, wait=wait, note=progress.note)
        if outcome is None or not outcome.is_reused:
            return outcome
        return outcome._replace(manifest=self.with_current_gates(outcome.manifest))

    def with_current_gates(self, manifest: Manifest) -> Manifest:
        """The manifest with verdicts under the task's present limits, in the present format.

        Gates are evaluated when an artifact is made. Where their limits were changed since, or an earlier version made
        it, they are evaluated once more on its tables, and the manifest is replaced.
        """
        if manifest.format == MANIFEST_FORMAT and gates.are_current(manifest.asset, self.task, manifest.gates):
            return manifest
        names = [name.removesuffix(".parquet") for name in manifest.files if name.endswith(".parquet")]
        beside = {name: self.store.read_table(manifest, name) for name in names}
        table = beside.pop(manifest.asset)
        entries = self.gate_entries(manifest.asset, table, manifest.facts["target_rows"], beside)
        return self.store.replace_gates(manifest, entries)

    def is_due(self, plan: Callable[[], Plan]) -> bool:
        """Whether there is something to do for a plan: its artifact is not there, failed a check, or was checked under
        other limits, or it cannot even be planned.
        """
        try:
            planned = plan()
        except SynthpostError:
            return True
        manifest = self.store.find(planned.asset, planned.partition, planned.fingerprint)
        if manifest is None or manifest.failed_gates:
            return True
        return not gates.are_current(manifest.asset, self.task, manifest.gates)

    def warn_of_personal_data(self, role: str, sent: Iterable[Manifest], progress: Progress) -> None:
        """Says, before anything goes to an endpoint, which of the tables to be sent hold personal data.

        `role` is `teacher` or `judge`; nothing is said of models in this process.
        """
        endpoints = [spec.endpoint for name, spec in self.profile.hosted.items() if name.startswith(role)]
        for manifest in sent if endpoints else ():
            found = next(gate for gate in self.with_current_gates(manifest).gates if gate.name == PERSONAL_DATA)
            if not found.is_passed:
                progress.note(f"{manifest.asset}: {found.message}; this goes to {', '.join(endpoints)}")


def open_study(settings: Settings) -> Study:
    """The study that the settings name. Raises SpecError where task or profile are wrong."""
    task, profile = load_task_and_profile(settings.task, settings.profile)
    device = profile.device
    devices = Devices(
        device.device, device.max_concurrent_runs, cpu_threads=device.cpu_threads, memory_gib=device.memory_gib
    )
    store = ArtifactStore(storage_root(profile, settings), settings.home)
    return Study(task, profile, store, devices, settings, Journal(settings.journal_url))


def storage_root(profile: Profile, settings: Settings) -> str:
    """Where artifacts go: the profile's storage, a relative path counting from the home, or `storage` in the home."""
    if profile.storage and "://" in profile.storage:
        return profile.storage
    return str(settings.home / Path(profile.storage or "storage").expanduser())
