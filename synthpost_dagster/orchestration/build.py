"""The graph of one task under one profile: assets, checks, jobs, schedule, sensors and resources.

`definitions` is the code location that Dagster loads; it names the environment's task and profile.
"""

import warnings

from dagster import Definitions, in_process_executor
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster_shared.utils.warnings import BetaWarning

from synthpost_dagster.assets.factory import build_assets
from synthpost_dagster.assets.partitions import build_partitions
from synthpost_dagster.orchestration.asset_checks import build_checks
from synthpost_dagster.orchestration.jobs import build_jobs, build_schedule
from synthpost_dagster.orchestration.sensor import build_sensor
from synthpost_dagster.orchestration.waiting import use_waiting_claims
from synthpost_dagster.profiles import load_task_and_profile
from synthpost_dagster.resources.gpu import GpuResource
from synthpost_dagster.resources.journal import JournalResource
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.resources.tables import TablesResource
from synthpost_dagster.settings import Settings
from synthpost_dagster.stages.opening import storage_root


def build_definitions(settings: Settings) -> Definitions:
    """The graph of the settings' task and profile. Raises SpecError where either is wrong."""
    use_waiting_claims()
    # Dagster passes this parameter on itself whenever it copies a sensor.
    warnings.filterwarnings("ignore", "Parameter `owners` of initializer `SensorDefinition", BetaWarning)
    task, profile = load_task_and_profile(settings.task, settings.profile)
    partitions = build_partitions(task.spec.sweep, profile.sweep)
    assets = build_assets(partitions, profile, task)
    jobs = build_jobs()
    gpu = GpuResource(**profile.device.model_dump(exclude={"process_per_run"}))
    tables = TablesResource(storage=storage_root(profile, settings), home=str(settings.home))
    journal = JournalResource(home=str(settings.home))
    study = StudyResource(
        task=settings.task,
        profile=settings.profile,
        home=str(settings.home),
        gpu=gpu,
        tables=tables,
        journal=journal,
    )
    return Definitions(
        assets=assets,
        asset_checks=build_checks(assets),
        jobs=list(jobs.values()),
        schedules=[build_schedule(jobs["upstream"])],
        sensors=[
            build_sensor([job for name, job in jobs.items() if name != "upstream"], AssetGraph.from_assets(assets))
        ],
        resources={"study": study, "gpu": gpu, "tables": tables, "journal": journal},
        executor=in_process_executor,
    )
