"""The study (task, profile, artifacts, device) as a resource; what it can do is in `stages`."""

from dagster import ConfigurableResource, ResourceDependency
from pydantic import Field

from synthpost_dagster.profiles import load_task_and_profile
from synthpost_dagster.resources.gpu import GpuResource
from synthpost_dagster.resources.journal import JournalResource
from synthpost_dagster.resources.tables import TablesResource
from synthpost_dagster.settings import read_settings
from synthpost_dagster.stages.study import Study


class StudyResource(ConfigurableResource[Study]):
    """One task under one profile. Both files are read anew in each step, so that an edit counts at once."""

    task: str = Field(description="A packaged task's name, or a task folder")
    profile: str = Field(description="A packaged profile's name, or a YAML file")
    home: str = Field(description="$SYNTHPOST_HOME")
    gpu: ResourceDependency[GpuResource]
    tables: ResourceDependency[TablesResource]
    journal: ResourceDependency[JournalResource]

    def open(self) -> Study:
        """The plain object that the stages work with."""
        settings = read_settings(self.home, self.task, self.profile)
        task, profile = load_task_and_profile(self.task, self.profile)
        return Study(task, profile, self.tables.store(), self.gpu.devices(), settings, self.journal.journal())
