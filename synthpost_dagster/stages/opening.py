"""Opens the study that settings name."""

from pathlib import Path

from synthpost_dagster.artifacts.store import ArtifactStore
from synthpost_dagster.llm.journal import Journal
from synthpost_dagster.profiles import Profile, load_task_and_profile
from synthpost_dagster.runtime.devices import Devices
from synthpost_dagster.settings import Settings
from synthpost_dagster.stages.stage import stage_of
from synthpost_dagster.stages.study import Study


def open_study(settings: Settings) -> Study:
    """The study that the settings name. Raises SpecError where task or profile are wrong."""
    task, profile = load_task_and_profile(settings.task, settings.profile)
    device = profile.device
    devices = Devices(
        device.device, device.max_concurrent_runs, cpu_threads=device.cpu_threads, memory_gib=device.memory_gib
    )
    store = ArtifactStore(storage_root(profile, settings), settings.home)
    return Study(task, profile, store, devices, settings, Journal(settings.journal_url), stage_of)


def storage_root(profile: Profile, settings: Settings) -> str:
    """The profile's `storage`, a relative path being below the home; by default `storage` in the home."""
    if profile.storage and "://" in profile.storage:
        return profile.storage
    return str(settings.home / Path(profile.storage or "storage").expanduser())
