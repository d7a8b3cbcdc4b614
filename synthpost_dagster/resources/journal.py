"""The journal of replies as a resource; the journal itself is in `llm.journal`."""

from dagster import ConfigurableResource

from synthpost_dagster.llm.journal import Journal
from synthpost_dagster.settings import read_settings


class JournalResource(ConfigurableResource[Journal]):
    """Every reply of teachers and judges. Its URL may hold a password, so it is not in the config that the UI shows."""

    home: str

    def journal(self) -> Journal:
        """The plain object that keeps replies."""
        return Journal(read_settings(self.home).journal_url)
