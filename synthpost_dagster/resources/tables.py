"""The artifact store as a resource; the store itself is in `artifacts.store`."""

from pathlib import Path

from dagster import ConfigurableResource
from pydantic import Field

from synthpost_dagster.artifacts.store import ArtifactStore


class TablesResource(ConfigurableResource[ArtifactStore]):
    """Where tables, adapters and reports are kept."""

    storage: str = Field(description="A folder, or a URL that universal_pathlib knows")
    home: str = Field(description="A local folder for locks and drafts")

    def store(self) -> ArtifactStore:
        """The plain object that publishes and finds artifacts."""
        return ArtifactStore(self.storage, Path(self.home))
