"""Drawing takes most of a page's time; where a test is not about pictures, an empty one stands for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from markupsafe import Markup


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
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
