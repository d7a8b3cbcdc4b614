"""What the code location holds, as a literal; and that loading it is quick and loads no heavy library."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from dagster import (
    AssetKey,
    DagsterInvalidConfigError,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    Definitions,
    MultiPartitionsDefinition,
    OpDefinition,
    validate_run_config,
)

from synthpost_dagster.settings import read_settings
from synthpost_dagster.tasks.task import Task
from tests.helpers.machine import child_seconds, slowness

HEAVY = ("torch", "scipy", "matplotlib", "transformers", "trl", "peft", "datasets", "bitsandbytes", "groq", "openai")

SIZES = ["88", "176", "1760", "8800", "17600"]
CELLS = [f"{size}|{steps}" for size in SIZES for steps in ("50", "150", "1-epoch")]

ASSETS = {
    # group, pool, dependencies and partitions of each
    "catalog": ("data", None, set(), None),
    "prompts": ("data", None, {"catalog"}, None),
    "evaluation_prompts": ("data", None, {"catalog"}, None),
    "synthetic_rows": ("data", "gpu", {"prompts"}, None),
    "data_subsets": ("data", None, {"synthetic_rows"}, "size"),
    "adapters": ("training", "gpu", {"data_subsets"}, "cell"),
    "baseline_predictions": ("evaluation", "gpu", {"evaluation_prompts"}, None),
    "predictions": ("evaluation", "gpu", {"adapters", "evaluation_prompts"}, "cell"),
    "verdicts": ("evaluation", None, {"predictions", "baseline_predictions"}, "cell"),
    "control_predictions": ("evaluation", "gpu", {"evaluation_prompts"}, None),
    "control_verdicts": (
        "evaluation",
        None,
        {"predictions", "baseline_predictions", "control_predictions"},
        None,
    ),
    "ratio_report": ("evaluation", None, {"verdicts", "control_verdicts"}, None),
}
EVERY_ASSET = ["schema"]
PROMPTS = ["schema", "factor_coverage"]
POSTS = ["schema", "duplicates", "near_duplicates", "factor_coverage"]
BLOCKING = {
    "catalog": EVERY_ASSET,
    "prompts": [*PROMPTS, "leakage"],
    "evaluation_prompts": PROMPTS,
    "synthetic_rows": [*POSTS, "rejected_share"],
    "data_subsets": [*POSTS, "leakage"],
    "adapters": ["schema", "supervised_tokens"],
    "baseline_predictions": EVERY_ASSET,
    "control_predictions": EVERY_ASSET,
    "predictions": EVERY_ASSET,
    "verdicts": EVERY_ASSET,
    "control_verdicts": EVERY_ASSET,
    "ratio_report": EVERY_ASSET,
}
WARNING = {
    "prompts": ["personal_data"],
    "evaluation_prompts": ["personal_data"],
    "synthetic_rows": ["openings", "diversity", "cleaning", "wrong_length", "personal_data"],
    "data_subsets": ["openings", "diversity"],
    "baseline_predictions": ["personal_data"],
    "control_predictions": ["personal_data"],
    "adapters": ["forgetting"],
    "predictions": ["memorisation", "personal_data"],
    "control_verdicts": ["control_resampled", "control_empty", "control_shuffled"],
}
CHECKS = {
    (asset, name): checks is BLOCKING
    for checks in (BLOCKING, WARNING)
    for asset, names in checks.items()
    for name in names
}
"""(asset, check) → whether it blocks."""
JOBS = {
    "upstream": {
        "catalog",
        "prompts",
        "evaluation_prompts",
        "synthetic_rows",
        "baseline_predictions",
        "control_predictions",
    },
    "subsets": {"data_subsets"},
    "cell": {"adapters", "predictions", "verdicts"},
    "controls": {"control_verdicts"},
    "report": {"ratio_report"},
}


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> Definitions:
    """Of the packaged task under `tiny`."""
    from synthpost_dagster.orchestration.build import build_definitions

    home = tmp_path_factory.mktemp("home")
    return build_definitions(read_settings(str(home), "sales_posts", "tiny"))


def test_assets_have_these_groups_pools_dependencies_and_partitions(definitions: Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    found = {}
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        partitions = None
        if node.partitions_def is not None:
            keys = list(node.partitions_def.get_partition_keys())
            is_cell = isinstance(node.partitions_def, MultiPartitionsDefinition)
            partitions = "cell" if is_cell else "size"
            assert sorted(keys) == sorted(CELLS if is_cell else SIZES)
            if is_cell:
                dimensions = node.partitions_def.partitions_defs
                assert [dimension.name for dimension in dimensions] == ["data_size", "steps"]
        pools = node.pools or {None}
        assert len(pools) == 1
        parents = {parent.to_user_string() for parent in node.parent_keys}
        found[key.to_user_string()] = (node.group_name, next(iter(pools)), parents, partitions)
    assert found == ASSETS


def test_hosted_teacher_and_judge_use_the_pools_of_their_endpoints(tmp_path: Path) -> None:
    from synthpost_dagster.orchestration.build import build_definitions

    graph = build_definitions(read_settings(str(tmp_path), "sales_posts", "llama3-8b")).resolve_asset_graph()
    pools = {name: graph.get(AssetKey(name)).pools for name in ("synthetic_rows", "verdicts")}
    assert pools == {"synthetic_rows": {"endpoint_own_8b"}, "verdicts": {"endpoint_groq"}}


def test_sizes_come_in_the_order_of_the_task(definitions: Definitions) -> None:
    node = definitions.resolve_asset_graph().get(AssetKey("data_subsets"))
    assert node.partitions_def is not None
    assert list(node.partitions_def.get_partition_keys()) == SIZES


def test_the_checks_block_or_warn_as_they_should(definitions: Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    found = {(key.asset_key.to_user_string(), key.name): graph.get(key).blocking for key in graph.asset_check_keys}
    assert found == CHECKS


def test_jobs_materialize_these_assets_with_their_checks(definitions: Definitions) -> None:
    for name, assets in JOBS.items():
        layer = definitions.resolve_job_def(name).asset_layer
        assert {key.to_user_string() for key in layer.selected_asset_keys} == assets, name
        checks = {(key.asset_key.to_user_string(), key.name) for key in layer.asset_graph.asset_check_keys}
        assert checks == {check for check in CHECKS if check[0] in assets}, name
    named = {job.name for job in definitions.resolve_all_job_defs() if not job.name.startswith("__")}
    assert named == {*JOBS, "sweep"}


def test_sweep_is_one_op_in_the_pool_of_the_device(
    definitions: Definitions,
) -> None:
    job = definitions.resolve_job_def("sweep")
    (node,) = job.graph.nodes
    assert node.name == "fill"
    assert isinstance(node.definition, OpDefinition)
    assert node.definition.pool == "gpu"
    assert job.description and "by default all" in job.description
    assert validate_run_config(job, {}) is not None
    with pytest.raises(DagsterInvalidConfigError):
        validate_run_config(job, {"ops": {"fill": {"config": {"cells": 3}}}})


def test_schedule_starts_the_upstream_on_monday_mornings_when_switched_on(definitions: Definitions) -> None:
    (schedule,) = definitions.schedules or []
    assert (schedule.name, schedule.cron_schedule, schedule.job_name) == ("weekly", "0 6 * * 1", "upstream")
    assert schedule.default_status is DefaultScheduleStatus.STOPPED


def test_one_sensor_starts_every_job_but_the_upstream(definitions: Definitions) -> None:
    (sensor,) = definitions.get_repository_def().sensor_defs
    assert sensor.name == "next_runs"
    assert {job.name for job in sensor.jobs} == {"subsets", "sweep", "cell", "controls", "report"}
    assert sensor.default_status is DefaultSensorStatus.STOPPED


def test_every_asset_shows_its_columns(definitions: Definitions, sales_posts: Task) -> None:
    from synthpost_dagster.schemas import TABLES, schema_of

    own = sales_posts.spec.prompt_columns
    assert own == ("prompt_id", "company", "product", "post_type", "tone", "length")
    graph = definitions.resolve_asset_graph()
    for name, table in TABLES.items():
        (key,) = [key for key in graph.get_all_asset_keys() if key.to_user_string() == name]
        schema = graph.get(key).metadata["dagster/column_schema"]
        columns = [column.name for column in getattr(schema, "value", schema).columns]
        assert columns == list(schema_of(table, own).columns), name


TRIES = 3
"""So often is measured what other work on the machine may have made slow."""
LOAD = """
import sys, json
import synthpost_dagster.definitions
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_definitions_load_in_under_three_seconds_without_heavy_libraries(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "SYNTHPOST_HOME": str(tmp_path / "home")}
    best = math.inf
    for _ in range(TRIES):
        seconds, loaded = child_seconds([sys.executable, "-c", LOAD], env=environment, cwd=tmp_path)
        assert not set(HEAVY) & set(json.loads(loaded))
        best = min(best, seconds)
        if best < 3:
            break
    assert best < 3 or best < 3 * slowness()
    assert not (tmp_path / "home").exists(), "loading the definitions wrote into the home"
