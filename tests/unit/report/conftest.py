"""Fixtures of the report's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from markupsafe import Markup


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Empty pictures on the page: drawing takes most of its time."""
    names = (
        "all_cells",
        "ratio_by_size",
        "ratio_by_length",
        "compliance",
        "loss_curves",
        "variety",
        "earlier_runs",
    )
    monkeypatch.setattr(
        "synthpost_dagster.report.page._figures", lambda *_: dict.fromkeys(names, Markup("<svg></svg>"))
    )
    yield
