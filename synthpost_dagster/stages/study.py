"""A study: one task and one profile, with the artifacts, the device and the journal that the stages work with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthpost_dagster.artifacts.manifest import GateEntry, Manifest
from synthpost_dagster.artifacts.resolver import Record, Resolver
from synthpost_dagster.artifacts.store import ArtifactStore
from synthpost_dagster.cell import Cell
from synthpost_dagster.judging.judges import build_judges
from synthpost_dagster.judging.verdicts import BOTH_ORDERS, STUDY_MODE, Judge, Rules
from synthpost_dagster.llm.chat_models import Context
from synthpost_dagster.llm.journal import Journal
from synthpost_dagster.profiles import Profile
from synthpost_dagster.quality import gates
from synthpost_dagster.quality.explanations import explained
from synthpost_dagster.quality.gates import PERSONAL_DATA
from synthpost_dagster.runtime.devices import Devices
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.settings import Settings, secret
from synthpost_dagster.stages.facts import Facts
from synthpost_dagster.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Study:
    """A task and a profile with the store of their artifacts, the devices and the journal."""

    task: Task
    profile: Profile
    store: ArtifactStore
    devices: Devices
    settings: Settings
    journal: Journal
    stage_of: Callable[[str], Any] = field(repr=False)
    """Asset → its `stages.stage.Stage`."""
    resolver: Resolver = field(init=False, compare=False, repr=False)
    """Remembers which artifacts exist."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolver", Resolver(self.store, self))

    def fresh(self) -> Study:
        """The same study with an empty resolver. Take one for each decision: other processes make artifacts too."""
        return replace(self)

    def inputs_of(self, asset: str, partition: str) -> Record:
        """Builds the record of an artifact's inputs; `resolver.inputs` remembers it."""
        record: Record = self.stage_of(asset).inputs(self, partition)
        return record

    def remedy_of(self, asset: str, partition: str) -> str:
        """The remedy in the error about a missing artifact."""
        place = f" for {partition}" if partition else ""
        return f"materialize the job `{self.stage_of(asset).job}`{place} first, or use `synthpost run`"

    def are_gates_current(self, manifest: Manifest) -> bool:
        """Whether an artifact's gates were evaluated under the task's current limits."""
        return gates.are_current(manifest.asset, self.task, manifest.gates)

    def places(self, asset: str, key: str) -> list[str]:
        """The partitions of a Dagster partition key: for a cell, one for each seed."""
        if self.stage_of(asset).job != "cell":
            return [key]
        return [cell.place for cell in self.seeds_of(Cell.parse(key))]

    def checkpoints_of(self, partition: str, fingerprint: str) -> Path:
        """The folder of a training's checkpoints. Its name holds the partition: two cells may have equal inputs."""
        return self.settings.home / "checkpoints" / f"{partition.replace('|', '_')}-{fingerprint}"

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
        """What the backends of teacher and judge need."""
        return Context(self.devices, self.journal, self.profile.name, self.profile.budget, secret)

    @property
    def system_prompt(self) -> str | None:
        """The task's system prompt where the profile trains with it, else None."""
        return self.task.spec.system_prompt if self.profile.training.system_prompt else None

    def gate_entries(
        self, asset: str, table: pd.DataFrame, target: int | None, beside: Mapping[str, pd.DataFrame]
    ) -> list[GateEntry]:
        """The verdicts of the gates on an asset's tables; those that failed are explained."""
        found = gates.evaluate(asset, self.task, table, target=target, beside=beside)
        return [one.model_copy(update={"explanation": explained(one, table, self.task, self.profile)}) for one in found]

    def with_current_gates(self, manifest: Manifest) -> Manifest:
        """The manifest with verdicts under the task's current limits.

        Where a limit changed, the gates are evaluated again on the artifact's tables and the manifest is replaced.
        """
        if self.are_gates_current(manifest):
            return manifest
        names = [name.removesuffix(".parquet") for name in manifest.files if name.endswith(".parquet")]
        beside = {name: self.store.read_table(manifest, name) for name in names}
        table = beside.pop(manifest.asset)
        entries = self.gate_entries(manifest.asset, table, Facts.of(manifest).target_rows, beside)
        return self.store.replace_gates(manifest, entries)

    def checked(self, manifest: Manifest) -> Manifest:
        """As `with_current_gates`; the resolver remembers the result."""
        current = self.with_current_gates(manifest)
        self.resolver.remember(current)
        return current

    def warn_of_personal_data(self, role: str, sent: Iterable[Manifest], progress: Progress) -> None:
        """Notes which of the `sent` tables hold personal data, if an endpoint has this role (`teacher` or `judge`)."""
        endpoints = [spec.endpoint for name, spec in self.profile.hosted.items() if name.startswith(role)]
        for manifest in sent if endpoints else ():
            found = next(gate for gate in self.checked(manifest).gates if gate.name == PERSONAL_DATA.name)
            if not found.is_passed:
                progress.note(f"{manifest.asset}: {found.message}; this goes to {', '.join(endpoints)}")
