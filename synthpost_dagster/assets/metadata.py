"""Metadata of a materialization in Dagster: counts, a table preview, facts and a picture."""

import base64
import html
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dagster import MetadataValue, TableRecord
from dagster_pandera import pandera_schema_to_dagster_type
from dagster_shared.utils.warnings import BetaWarning

from synthpost_dagster.artifacts.manifest import Outcome
from synthpost_dagster.schemas import TABLES
from synthpost_dagster.stages.study import Study

if TYPE_CHECKING:
    from synthpost_dagster.assets.table import Picture

MANIFEST_DIGEST = "manifest_digest"
"""Metadata of a materialization: the digest of the manifest, by which a later change of the artifact is noticed."""
PREVIEW_ROWS = 5
PREVIEW_CHARACTERS = 300
_MARKDOWN = re.compile(r"[\\`*_{}\[\]()#+!|<>&~]")


def schema_metadata(asset: str) -> dict[str, Any]:
    """The table's pandera schema, as Dagster shows it with the asset."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BetaWarning)
        table_type = pandera_schema_to_dagster_type(TABLES[asset])
    return {"dagster/column_schema": table_type.metadata["schema"]}


def metadata_of(study: Study, outcomes: Sequence[Outcome], picture: "Picture | None" = None) -> dict[str, Any]:
    """Metadata of the first outcome; the others are of the same cell under further training seeds."""
    (manifest, is_reused), *more_seeds = outcomes
    table = study.store.read_table(manifest)
    metadata: dict[str, Any] = {
        "dagster/row_count": len(table),
        "preview": preview(table.head(PREVIEW_ROWS).to_dict("records")),
        "location": MetadataValue.path(study.store.location(manifest)),
        "fingerprint": manifest.fingerprint,
        MANIFEST_DIGEST: manifest.self_digest,
        "is_reused": is_reused,
        **{name: fact for name, fact in manifest.facts.items() if name not in ("rows", "target_rows")},
    }
    for other, _ in more_seeds:
        seed = other.partition.rpartition("|")[2]
        metadata[f"location_{seed}"] = MetadataValue.path(study.store.location(other))
    if picture is not None:
        png = base64.b64encode(picture(table, study.profile)).decode()  # a data URI: the UI needs no file
        metadata["picture"] = MetadataValue.md(f"![](data:image/png;base64,{png})")
    return metadata


def preview(rows: Sequence[Mapping[Any, Any]]) -> MetadataValue:
    """Rows as a table; long texts are cut."""
    records = [TableRecord({str(name): _short(value) for name, value in row.items()}) for row in rows]
    return MetadataValue.table(records) if records else MetadataValue.text("no rows")


def as_markdown(lines: Iterable[str]) -> str:
    """The lines as a Markdown list, with Markdown's own characters escaped."""

    def escaped(match: re.Match[str]) -> str:
        return html.escape(match[0]) if match[0] in "<>&" else f"\\{match[0]}"

    return "\n".join(f"- {_MARKDOWN.sub(escaped, line)}" for line in lines)


def _short(value: Any) -> str | int | float | bool:
    if isinstance(value, float) and not math.isfinite(value):
        return "undefined" if math.isnan(value) else "∞"
    if isinstance(value, bool | int | float):
        return value
    text = str(value)
    return text if len(text) <= PREVIEW_CHARACTERS else f"{text[:PREVIEW_CHARACTERS]}…"
