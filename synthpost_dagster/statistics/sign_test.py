"""The exact sign test of wins against losses, and Holm's adjustment of several p-values."""

from collections.abc import Sequence

from synthpost_dagster.statistics.ratio import Counts


def sign_test(counts: Counts) -> float:
    """Two-sided exact binomial p-value of W out of W + L at ½; 1 without a decided pair."""
    from scipy.special import bdtr

    fewer, decided = min(counts.wins, counts.losses), counts.wins + counts.losses
    return min(1.0, 2 * float(bdtr(fewer, decided, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given (Holm, Scand. J. Statist. 6, 1979).

    Rejecting those below α keeps the probability of any false rejection below α, also for dependent tests.
    """
    adjusted = [0.0] * len(p_values)
    reached = 0.0
    for done, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        reached = max(reached, min(1.0, (len(p_values) - done) * p_values[index]))
        adjusted[index] = reached
    return adjusted
