"""Style and file formats of all figures: the same bytes for the same data."""

from __future__ import annotations

import io
import re
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from matplotlib.figure import Figure

WIDTH = 4.7  # inches: one column on a phone without shrinking; the page scales it up on a desk
INK, FAINT = "#24292f", "#d5d9de"
# Okabe and Ito's palette without yellow, which vanishes on white; markers distinguish lines without colour.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a criterion or a company may hold a dollar sign
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8b949e",
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def svg(name: str, draw: Callable[[], Figure]) -> str:
    """The figure as SVG without prolog, fixed size, metadata, or the numbered ids that clash within one page."""
    buffer = io.StringIO()
    with _style(name):
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        draw().savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for attribute in ("width", "height"):
        text = re.sub(rf'(<svg[^>]*?) {attribute}="[^"]*"', r"\1", text, count=1)
    return re.sub(r'(<[a-z]+) id="[a-z][\w.]*_\d+"', r"\1", text)


def png(name: str, draw: Callable[[], Figure]) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    with _style(name):
        draw().savefig(buffer, format="png", dpi=120, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def empty_figure(height: float) -> Figure:
    """A figure of the page's width, and a height in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height))


def note(text: str) -> Figure:
    """A figure that holds one sentence."""
    figure = empty_figure(1.0)
    figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure


@contextmanager
def _style(name: str) -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context({**_RC, "svg.hashsalt": f"synthpost-{name}"}), warnings.catch_warnings():
        # The reader's browser sets the text in its own fonts, so a glyph that is missing here does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield
