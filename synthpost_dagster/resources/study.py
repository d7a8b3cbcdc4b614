"""The study (task, profile, artifacts, device) as a resource; stages work with it."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dagster import ConfigurableResource, DagsterInstance, InitResourceContext, ResourceDependency
from pydantic import Field

from synthpost_dagster.artifacts.store import writing
from synthpost_dagster.profiles import load_task_and_profile
from synthpost_dagster.resources.gpu import GpuResource
from synthpost_dagster.resources.journal import JournalResource
from synthpost_dagster.resources.tables import TablesResource
from synthpost_dagster.runtime.heartbeats import heartbeat
from synthpost_dagster.settings import read_settings
from synthpost_dagster.stages.stage import stage_of
from synthpost_dagster.stages.study import Study


def heartbeat_file(instance: DagsterInstance, run_id: str) -> Path:
    """The file that the process executing a run keeps locked."""
    return Path(instance.root_directory) / "alive" / run_id


class StudyResource(ConfigurableResource[Study]):
    """One task under one profile. Both files are read again in each step, so an edit takes effect at once."""

    task: str = Field(description="A packaged task's name, or a task folder")
    profile: str = Field(description="A packaged profile's name, or a YAML file")
    home: str = Field(description="$SYNTHPOST_HOME")
    gpu: ResourceDependency[GpuResource]
    tables: ResourceDependency[TablesResource]
    journal: ResourceDependency[JournalResource]

    @contextmanager
    def yield_for_execution(self, context: InitResourceContext) -> Generator[Any, None, None]:
        """The resource, with the heartbeat of its run. Raises StorageError if that file cannot be written."""
        with ExitStack() as stack:
            if context.run is not None and context.instance is not None:
                path = heartbeat_file(context.instance, context.run.run_id)
                with writing(path):
                    stack.enter_context(heartbeat(path))
            yield self

    def open(self) -> Study:
        """The plain object that the stages work with."""
        settings = read_settings(self.home, self.task, self.profile)
        task, profile = load_task_and_profile(self.task, self.profile)
        return Study(task, profile, self.tables.store(), self.gpu.devices(), settings, self.journal.journal(), stage_of)
