"""The sign test and Holm's adjustment, against values computed by hand."""

from __future__ import annotations

import pytest

from synthpost_dagster.statistics.ratio import Counts
from synthpost_dagster.statistics.sign_test import holm, sign_test


def test_eight_of_ten_could_be_a_fair_coin() -> None:
    # 2 · (1 + 10 + 45) / 2^10
    assert sign_test(Counts(8, 2, 0, 0)) == pytest.approx(112 / 1024)
    assert sign_test(Counts(2, 8, 0, 0)) == pytest.approx(112 / 1024)


def test_ten_of_ten_could_not() -> None:
    assert sign_test(Counts(10, 0, 5, 5)) == pytest.approx(2 / 1024)


@pytest.mark.parametrize("counts", [Counts(5, 5, 0, 0), Counts(0, 0, 9, 9), Counts(3, 2, 0, 0)])
def test_even_or_empty_score_has_p_1(counts: Counts) -> None:
    assert sign_test(counts) == 1


def test_ties_and_unscored_pairs_are_no_part_of_the_sign_test() -> None:
    assert sign_test(Counts(81, 14, 30, 7)) == sign_test(Counts(81, 14, 0, 0))


def test_sign_test_agrees_with_the_exact_interval() -> None:
    # 60 of 100: p = 0.0569 and the 95 % interval 0.497 to 0.697; 61 of 100: p = 0.0352.
    assert sign_test(Counts(60, 40, 0, 0)) == pytest.approx(0.0569, abs=0.0001)
    assert sign_test(Counts(61, 39, 0, 0)) == pytest.approx(0.0352, abs=0.0001)


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    # 3 · 0.01; 2 · 0.03; then 1 · 0.04 is raised to the 0.06 before it
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_holm_keeps_the_order_and_stops_at_1() -> None:
    assert holm([0.9, 0.001, 0.6]) == pytest.approx([1, 0.003, 1])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
