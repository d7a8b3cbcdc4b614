"""Diversity of posts: distinct-n, compression ratio, most frequent opening, self-BLEU; compared at equal rows.

The metrics depend on the number of posts, so tables are compared by random draws of the same number of rows, stratified
like a subset. Draws are without replacement, since a post drawn twice would count as a repetition. Self-BLEU uses a
sample of fixed size. Metrics of meaning are in `rows.embeddings`.

distinct-n: Li et al. 2016, https://aclanthology.org/N16-1014. Compression ratio: Shaib et al. 2024,
https://arxiv.org/abs/2403.00553. Self-BLEU: Zhu et al. 2018, https://arxiv.org/abs/1802.01886.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from synthpost_dagster.rows.corpus import Corpus
from synthpost_dagster.rows.embeddings import meaning
from synthpost_dagster.rows.prompts import shares, strata_in
from synthpost_dagster.schemas import METRICS
from synthpost_dagster.tasks.task import Stratum, Task
from synthpost_dagster.text.normalize import first_words

if TYPE_CHECKING:
    import pandas as pd

MAX_DRAWS, MIN_DRAWS = 30, 10
DRAWN_ROWS = 60_000
"""Rows drawn in total, within MIN_DRAWS and MAX_DRAWS: large draws differ little."""
SPREADS = 3.0
"""Standard deviations of the draws from their mean beyond which a figure is not explained by chance."""
SELF_BLEU_POSTS = 50
SEED = 0
OPENING_WORDS = 5
IS_MORE_BETTER = {metric: metric.startswith(("distinct", "vendi")) for metric in METRICS}
"""Metric → whether a higher figure means more variety."""


class Spread(NamedTuple):
    """Mean and standard deviation of a figure over draws."""

    mean: float
    deviation: float

    @property
    def low(self) -> float:
        """Lower limit of figures that chance explains."""
        return self.mean - SPREADS * self.deviation

    @property
    def high(self) -> float:
        """Upper limit of figures that chance explains."""
        return self.mean + SPREADS * self.deviation


def is_worse(metric: str, figure: float, drawn: Spread) -> bool:
    """Whether a figure shows less variety than chance explains; false without draws."""
    return figure < drawn.low if IS_MORE_BETTER[metric] else figure > drawn.high


def opening(post: str) -> str:
    """The first five words, without case and punctuation."""
    return first_words(post, OPENING_WORDS)


def distinct(corpus: Corpus, size: int) -> float:
    """Number of different n-grams of `size` words over the number of all; NaN without n-grams."""
    import numpy as np

    hashes = corpus.ngrams(size)
    if not hashes.size:
        return float("nan")
    hashes.sort()
    return (1 + int(np.count_nonzero(hashes[1:] != hashes[:-1]))) / int(hashes.size)


def compression_ratio(posts: Iterable[str]) -> float:
    """Size of the posts, a line each, over their zlib size; higher with more repetition."""
    packer, before, after = zlib.compressobj(6), 0, 0
    for post in posts:
        line = post.encode() + b"\n"
        before += len(line)
        after += len(packer.compress(line))
    return before / (after + len(packer.flush()))


def opening_share(openings: Iterable[str]) -> float:
    """Share of the posts with the most frequent opening; NaN without posts."""
    counts = Counter(openings)
    return max(counts.values()) / counts.total() if counts else float("nan")


def self_bleu(posts: list[str]) -> float:
    """Mean BLEU (0 to 100) of each post of a seeded sample against the rest of it; NaN for fewer than two posts."""
    import numpy as np
    from sacrebleu.metrics.bleu import BLEU

    chosen = np.random.default_rng(SEED).permutation(len(posts))[:SELF_BLEU_POSTS]
    sample = [posts[at] for at in sorted(chosen)]
    if len(sample) < 2:
        return float("nan")
    bleu = BLEU(effective_order=True, lowercase=True)
    scores = [bleu.sentence_score(post, sample[:at] + sample[at + 1 :]).score for at, post in enumerate(sample)]
    return float(np.mean(scores))


def diversity(posts: list[str], embedder: Path | None = None) -> dict[str, float]:
    """Every metric on all posts, with an embedder those of meaning too; NaN for too few posts."""
    by_meaning = {} if embedder is None else meaning(posts, embedder)
    return (
        _of_posts(Corpus(posts), posts, [opening(post) for post in posts])
        | {"self_bleu": self_bleu(posts)}
        | by_meaning
    )


def diversity_table(
    own: pd.DataFrame, kept: pd.DataFrame, task: Task, equal_rows: int, embedder: Path | None = None
) -> pd.DataFrame:
    """The metrics of an artifact's own rows, and over draws of `equal_rows` kept rows (schema Diversity)."""
    import pandas as pd

    nothing = Spread(float("nan"), float("nan"))
    drawn = spreads(kept, task, equal_rows)
    return pd.DataFrame(
        {
            "metric": metric,
            "value": value,
            "rows": len(own),
            "equal_rows": equal_rows,
            "draws_mean": drawn.get(metric, nothing).mean,
            "draws_deviation": drawn.get(metric, nothing).deviation,
        }
        for metric, value in diversity(own["post"].tolist(), embedder).items()
    )


def diversity_facts(table: pd.DataFrame) -> dict[str, float]:
    """Figures that can be compared between artifacts: of the draws, or the artifact's own without draws."""
    at_equal = table["draws_mean"].fillna(table["value"])
    return {
        f"{metric}_at_{size}_rows": round(float(figure), 4)
        for metric, size, figure in zip(table["metric"], table["equal_rows"], at_equal, strict=True)
        if figure == figure  # noqa: PLR0124 - not NaN
    }


def spreads(kept: pd.DataFrame, task: Task, size: int) -> dict[str, Spread]:
    """The metrics of wording except self-BLEU over stratified draws of `size` kept rows.

    Empty if there are no more rows than `size`.
    """
    import numpy as np

    if len(kept) <= size:
        return {}
    posts = kept["post"].tolist()
    corpus, openings = Corpus(posts), [opening(post) for post in posts]
    places: dict[Stratum, list[int]] = {}
    for place, stratum in enumerate(strata_in(task, kept)):
        places.setdefault(stratum, []).append(place)
    due_of = shares(task.capacities("train"), size)
    share = {stratum: due for stratum, due in due_of.items() if stratum in places}
    generator = np.random.default_rng(SEED)
    found: list[dict[str, float]] = []
    for _ in range(min(MAX_DRAWS, max(MIN_DRAWS, DRAWN_ROWS // size))):
        drawn = [generator.permutation(places[stratum])[:due] for stratum, due in share.items()]
        rows = np.sort(np.concatenate(drawn)).tolist()
        found.append(_of_posts(corpus.part(rows), [posts[row] for row in rows], [openings[row] for row in rows]))
    return {name: _spread([draw[name] for draw in found]) for name in found[0]}


def _spread(values: list[float]) -> Spread:
    import numpy as np

    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)))


def _of_posts(corpus: Corpus, posts: list[str], openings: list[str]) -> dict[str, float]:
    return {
        **{f"distinct_{size}": distinct(corpus, size) for size in (1, 2, 3)},
        "compression_ratio": compression_ratio(posts),
        "opening_share": opening_share(openings),
    }
