"""The memory layouts of a training, their order, and the keys of the profile that change them."""

from __future__ import annotations

from typing import Any

import pytest

from synthpost_dagster.training.fitting import MIN_COMPILED_STEPS, Layout, first_index, layouts
from tests.helpers.tuning import spec_of

ALL_AUTO = {"micro_batch": "auto", "gradient_checkpointing": "auto", "compile": "auto"}
RECOMPUTED = [(8, True), (4, True), (2, True), (1, True)]


def tried(is_packed: bool = False, **changes: Any) -> list[tuple[int, bool]]:
    """Micro-batch and gradient checkpointing of each layout, on a GPU."""
    return [tuple(layout[:2]) for layout in layouts(spec_of(**(ALL_AUTO | changes)), 1, True, is_packed)]


def test_half_the_rows_are_tried_before_checkpointing() -> None:
    assert tried() == [(8, False), (4, False), *RECOMPUTED]


def test_packed_weights_try_checkpointing_after_all_rows() -> None:
    assert tried(is_packed=True) == [(8, False), *RECOMPUTED]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"gradient_checkpointing": True}, RECOMPUTED),
        ({"gradient_checkpointing": False}, [(8, False), (4, False), (2, False), (1, False), (1, True)]),
        ({"micro_batch": 2}, [(2, False), (2, True), (1, True)]),
        ({"micro_batch": 1}, [(1, False), (1, True)]),
        ({"micro_batch": 4, "gradient_checkpointing": True}, [(4, True), (2, True), (1, True)]),
    ],
)
def test_values_of_the_profile_are_tried_first(changes: dict[str, Any], expected: list[tuple[int, bool]]) -> None:
    assert tried(**changes) == expected


@pytest.mark.parametrize("rows", [6, 9, 10, 12])
def test_every_layout_divides_the_rows_of_a_step(rows: int) -> None:
    found = tried(rows_per_step=rows)
    assert found[0] == (rows, False)
    assert found[-1] == (1, True)
    assert [rows % size for size, _ in found] == [0] * len(found)


@pytest.mark.parametrize(
    ("steps", "is_gpu", "padding_free", "is_compiled"),
    [
        (MIN_COMPILED_STEPS, True, True, True),
        (MIN_COMPILED_STEPS - 1, True, True, False),
        (MIN_COMPILED_STEPS, False, True, False),
        (MIN_COMPILED_STEPS, True, False, False),
    ],
)
def test_layers_are_compiled_on_a_gpu_for_many_steps_only(
    steps: int, is_gpu: bool, padding_free: bool, is_compiled: bool
) -> None:
    found = layouts(spec_of(**ALL_AUTO, padding_free=padding_free), steps, is_gpu, False)
    assert {layout.is_compiled for layout in found} == {is_compiled}


@pytest.mark.parametrize("is_compiled", [True, False])
def test_profile_decides_whether_layers_are_compiled(is_compiled: bool) -> None:
    found = layouts(spec_of(**(ALL_AUTO | {"compile": is_compiled})), 10**6 * (not is_compiled), True, False)
    assert {layout.is_compiled for layout in found} == {is_compiled}


def test_checkpoints_layout_is_found_whether_compiled_or_not() -> None:
    found = layouts(spec_of(**ALL_AUTO), 1, True, False)
    compiled = Layout(4, True, True)
    assert compiled.text == "4 rows at a time, gradient checkpointing, compiled layers"
    assert found[first_index(found, compiled.memory_text)] == Layout(4, True, False)
    assert first_index(found, "") == first_index(found, "3 rows at a time") == 0
