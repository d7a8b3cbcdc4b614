"""What controls and nulls say about the judge."""

from __future__ import annotations

import pytest

from synthpost_dagster.statistics.control import control_verdict, null_verdict
from synthpost_dagster.statistics.ratio import Counts, win_ratio
from synthpost_dagster.statistics.sign_test import sign_test


@pytest.mark.parametrize(
    ("wins", "finding"),
    # Of 100, two-sided: 60 p = 0.057, 61 p = 0.035, 66 p = 0.0018, 67 p = 0.00087
    [
        (50, "good"),
        (60, "good"),
        (61, "warning"),
        (66, "warning"),
        (67, "untrusted"),
        (33, "untrusted"),
        (39, "warning"),
    ],
)
def test_untuned_model_against_itself_must_come_out_near_1(wins: int, finding: str) -> None:
    counts = Counts(wins, 100 - wins, 20, 3)
    found = control_verdict(counts)
    assert found.finding == finding
    assert (sign_test(counts) < 0.05, sign_test(counts) < 0.001) == (finding != "good", finding == "untrusted")
    assert found.ratio == win_ratio(counts)
    assert found.certain == win_ratio(counts, 0.999)


def test_control_without_a_decided_pair_clears_nobody() -> None:
    assert control_verdict(Counts(0, 0, 110, 0)).finding == "undecided"
    assert null_verdict(Counts(0, 0, 0, 110)).finding == "undecided"


@pytest.mark.parametrize(
    ("wins", "finding"),
    [(0, "good"), (39, "good"), (40, "warning"), (60, "warning"), (66, "warning"), (67, "untrusted")],
)
def test_posts_that_must_lose_do(wins: int, finding: str) -> None:
    assert null_verdict(Counts(wins, 100 - wins, 0, 0)).finding == finding
