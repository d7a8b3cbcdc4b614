"""Hashes of an artifact's inputs and of its content; the same on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    import pandas as pd

LENGTH = 16


def fingerprint(parts: Mapping[str, Any]) -> str:
    """16 hex digits over the parts in any order of keys; pydantic models count by their content."""
    text = json.dumps(parts, sort_keys=True, default=_plain, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def table_digest(table: pd.DataFrame) -> str:
    """16 hex digits over a table's columns and rows in order.

    It hashes values instead of the file, so that the digest does not depend on the parquet writer.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps(list(table.columns)).encode())
    for start in range(0, len(table), 50_000):
        part = table.iloc[start : start + 50_000]
        digest.update(part.to_json(orient="values", force_ascii=False, date_format="iso", double_precision=15).encode())
    return digest.hexdigest()[:LENGTH]


@cache
def library_versions(*names: str) -> dict[str, str]:
    """Installed version of each distribution, without a local label such as `+cpu`."""
    return {name: metadata.version(name).split("+")[0] for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"cannot fingerprint a {type(value).__name__}")
