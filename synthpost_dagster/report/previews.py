"""Small PNG pictures for the metadata of a materialization; the page's own figures are in `figures`."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def loss_png(curve: pd.DataFrame) -> bytes:
    """The loss by optimizer step (schema LossCurve) as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 2.4), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(curve["step"], curve["loss"], color="#0b6e8f", linewidth=1.5)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss of the supervised tokens")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()
