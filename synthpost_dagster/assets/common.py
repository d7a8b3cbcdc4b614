"""What all assets share: the column schema in the UI, and turning a stage's outcome into a materialization."""

import base64
import html
import math
import re
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dagster import (
    AssetExecutionContext,
    DagsterExecutionInterruptedError,
    DagsterRunStatus,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    OpExecutionContext,
    TableRecord,
)
from dagster_pandera import pandera_schema_to_dagster_type
from dagster_shared.utils.warnings import BetaWarning

from synthpost_dagster.artifacts.manifest import Outcome
from synthpost_dagster.orchestration.instance import MANIFEST_DIGEST
from synthpost_dagster.runtime.progress import Event, Listener, Progress, to_log
from synthpost_dagster.schemas import TABLES
from synthpost_dagster.stages.study import Study

OWNERS = ["team:ml-engineering"]
PREVIEW_ROWS = 5
PREVIEW_CHARACTERS = 300
CANCELLING_SECONDS = 2.0
_MARKDOWN = re.compile(r"[\\`*_{}\[\]()#+!|<>&~]")


def schema_metadata(asset: str) -> dict[str, Any]:
    """The table's pandera schema, as Dagster shows it beside the asset."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BetaWarning)
        table_type = pandera_schema_to_dagster_type(TABLES[asset])
    return {"dagster/column_schema": table_type.metadata["schema"]}


def progress_of(context: AssetExecutionContext | OpExecutionContext) -> Progress:
    """Progress that goes to the run's log, and ends the run where it is to be cancelled."""
    return Progress(to_log(context.log.info), _heed_cancelling(context))


def _heed_cancelling(context: AssetExecutionContext | OpExecutionContext) -> Listener:
    """A listener that looks now and again whether someone has asked Dagster to end the run.

    Dagster interrupts the run too, but by an exception in whatever Python does at that moment. Where that is a
    finalizer, of which its own database connections have many, Python drops it and the run would go on.
    """
    asked = {"at": time.monotonic()}

    def listen(_: Event) -> None:
        if time.monotonic() - asked["at"] < CANCELLING_SECONDS:
            return
        asked["at"] = time.monotonic()
        run = context.instance.get_run_by_id(context.run.run_id)
        if run is not None and run.status is DagsterRunStatus.CANCELING:
            raise DagsterExecutionInterruptedError

    return listen


def materialized(
    study: Study, outcome: Outcome, *more_seeds: Outcome, picture: bytes | None = None
) -> MaterializeResult[Any]:
    """The outcome with row count, preview, facts and picture; the digest of its content is the data version.

    `more_seeds` are the same under further training seeds; where they are kept is told too.
    """
    manifest = outcome.manifest
    table = study.store.read_table(manifest)
    metadata: dict[str, Any] = {
        "dagster/row_count": len(table),
        "preview": preview(table.head(PREVIEW_ROWS).to_dict("records")),
        "location": MetadataValue.path(study.store.location(manifest)),
        "fingerprint": manifest.fingerprint,
        MANIFEST_DIGEST: manifest.self_digest,
        "is_reused": outcome.is_reused,
        **{name: fact for name, fact in manifest.facts.items() if name not in ("rows", "target_rows")},
    }
    for other in more_seeds:
        metadata[f"location_{other.manifest.partition.rpartition('|')[2]}"] = MetadataValue.path(
            study.store.location(other.manifest)
        )
    if picture is not None:
        metadata["picture"] = MetadataValue.md(f"![]({png_uri(picture)})")
    return MaterializeResult(metadata=metadata, data_version=DataVersion(manifest.digest))


def preview(rows: Sequence[Mapping[Any, Any]]) -> MetadataValue:
    """Rows as a table; long texts are cut."""
    records = [TableRecord({str(name): _short(value) for name, value in row.items()}) for row in rows]
    return MetadataValue.table(records) if records else MetadataValue.text("no rows")


def as_markdown(lines: Iterable[str]) -> str:
    """The lines as a list, whose texts are shown as they are."""
    return "\n".join(f"- {_MARKDOWN.sub(_escaped, line)}" for line in lines)


def _escaped(match: re.Match[str]) -> str:
    return html.escape(match[0]) if match[0] in "<>&" else f"\\{match[0]}"


def png_uri(picture: bytes) -> str:
    """A PNG as a data URI, so that the UI needs no file."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def _short(value: Any) -> str | int | float | bool:
    if isinstance(value, float) and not math.isfinite(value):
        return "undefined" if math.isnan(value) else "∞"
    if isinstance(value, bool | int | float):
        return value
    text = str(value)
    return text if len(text) <= PREVIEW_CHARACTERS else f"{text[:PREVIEW_CHARACTERS]}…"
