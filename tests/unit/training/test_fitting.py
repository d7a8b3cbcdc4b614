"""The layout of a training is the fastest that fits, reckoned by hand."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from synthpost_dagster.runtime.devices import GIB
from synthpost_dagster.training import fitting as module
from synthpost_dagster.training.fitting import COMPILING_STEPS, MARGIN, Layout, Shape, fitting, needed_bytes
from tests.helpers.tuning import spec_of

SMALL = Shape(layers=2, hidden=8, intermediate=16, vocabulary=100, itemsize=2)
DEEP = SMALL._replace(layers=64)
"""Deep enough that making activations again saves more than holding fewer rows."""
LLAMA_8B = Shape(layers=32, hidden=4096, intermediate=14336, vocabulary=128_256, itemsize=2)
FREE_CHOICE = spec_of(micro_batch="auto", gradient_checkpointing="auto", compile="auto")
STUDY_LORA = FREE_CHOICE.lora.model_copy(update={"r": 16})
ADAPTER = 2 * 4 * (4 * (8 + 8) + 3 * (8 + 16)) * 16
"""Layers × rank × (four attention matrices' widths and three others'), four copies in float32."""


@pytest.fixture
def _round_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured figures may be measured anew; those here are for arithmetic."""
    figures = {"WIDTHS": 16, "INNER_WIDTHS": 4, "COMPILED_SHARE": 0.5, "PIECE": 40, "DEVIATIONS": 1e9}
    figures |= {"LOGIT_BYTES": 12, "COMPILED_LOGIT_BYTES": 6, "PADDED_LOGIT_BYTES": 12}
    for name, figure in figures.items():
        monkeypatch.setattr(module, name, figure)


@pytest.mark.usefixtures("_round_figures")
@pytest.mark.parametrize(
    ("layout", "padding_free", "expected"),
    [
        # A layer keeps (16 × 8 + 4 × 16) × 2 = 384 bytes a token; a position's logits are 100 × 12 = 1,200 bytes.
        (Layout(1, False, False), True, 30 * 384 * 2 + 30 * 1_200 + ADAPTER),
        (Layout(2, False, False), True, 50 * 384 * 2 + 40 * 1_200 + ADAPTER),
        (Layout(2, True, False), True, 50 * (8 * 2 * 2 + 384) + 40 * 1_200 + ADAPTER),
        (Layout(2, False, True), True, 50 * 192 * 2 + 40 * 600 + ADAPTER),
        (Layout(2, False, False), False, 60 * 384 * 2 + 60 * 1_200 + ADAPTER),
        (Layout(8, False, False), True, 60 * 384 * 2 + 40 * 1_200 + ADAPTER),
    ],
)
def test_the_memory_of_a_step_is_reckoned_with_the_longest_rows(
    layout: Layout, padding_free: bool, expected: float
) -> None:
    spec = spec_of(padding_free=padding_free)
    assert needed_bytes(spec, SMALL, [10, 30, 20], layout) == expected


def test_rows_beyond_the_longest_likely_are_not_reckoned_with() -> None:
    uneven = [10] * 50 + [90] * 50
    layout = Layout(16, False, False)
    certain = needed_bytes(FREE_CHOICE, SMALL, [90] * 100, layout)
    assert needed_bytes(FREE_CHOICE, SMALL, uneven, layout) == certain, "4 deviations are more than the longest have"
    many = Layout(100, False, False)
    likely, worst = (needed_bytes(FREE_CHOICE, SMALL, rows, many) for rows in (uneven * 100, [90] * 10_000))
    assert (worst - likely) / (2 * 384) == pytest.approx(9_000 - (50 + 4 * 40 / 10) * 100)


def test_moments_in_8_bits_need_less() -> None:
    packed = FREE_CHOICE.model_copy(update={"optimizer": "adamw_8bit"})
    layout = Layout(1, False, False)
    saved = needed_bytes(FREE_CHOICE, SMALL, [10], layout) - needed_bytes(packed, SMALL, [10], layout)
    assert saved == ADAPTER * 6 / 16


def test_a_larger_rank_needs_more_memory() -> None:
    larger = spec_of(lora=FREE_CHOICE.lora.model_copy(update={"r": 8}))
    layout = Layout(1, False, False)
    assert needed_bytes(larger, SMALL, [10], layout) - needed_bytes(FREE_CHOICE, SMALL, [10], layout) == ADAPTER


def chosen(
    free: float, lengths: list[int], steps: int = 1, is_gpu: bool = False, shape: Shape = SMALL, **changes: Any
) -> Layout:
    """The layout for the small shape under a specification that leaves all open but the changes."""
    return fitting(FREE_CHOICE.model_copy(update=changes), shape, lengths, free, steps, is_gpu)


def just_enough(layout: Layout, lengths: list[int], shape: Shape = SMALL) -> float:
    return needed_bytes(FREE_CHOICE, shape, lengths, layout) / MARGIN + 1


def test_with_less_and_less_memory_rows_are_halved_once_and_then_activations_are_made_again() -> None:
    lengths = [2_000] * 8
    order = [Layout(8, False, False), Layout(4, False, False), *(Layout(size, True, False) for size in (8, 4, 2, 1))]
    needs = [just_enough(layout, lengths, DEEP) for layout in order]
    assert needs == sorted(needs, reverse=True)
    assert [chosen(need, lengths, shape=DEEP) for need in needs] == order


@pytest.mark.parametrize(
    ("again", "each", "expected"), [(1.5, 0.3, (8, True)), (1.5, 0.1, (2, False)), (3, 0.3, (2, False))]
)
def test_whether_fewer_rows_or_activations_made_again_are_faster_follows_from_what_each_costs(
    monkeypatch: pytest.MonkeyPatch, again: float, each: float, expected: tuple[int, bool]
) -> None:
    monkeypatch.setattr(module, "AGAIN", again)
    monkeypatch.setattr(module, "EACH", each)
    lengths = [2_000] * 8
    free = just_enough(Layout(2, False, False), lengths, DEEP)
    assert chosen(free, lengths, shape=DEEP) == Layout(*expected, False)


def test_a_byte_less_than_a_layout_needs_gives_the_next() -> None:
    lengths = [100] * 8
    assert chosen(just_enough(Layout(8, False, False), lengths) - 2, lengths) == Layout(4, False, False)


def test_where_nothing_fits_the_most_frugal_layout_is_tried() -> None:
    assert chosen(0, [100] * 8) == Layout(1, True, False)


def test_the_micro_batches_are_the_divisors_of_the_rows_of_a_step() -> None:
    lengths = [2_000] * 6
    found = {chosen(free, lengths, rows_per_step=6).micro_batch for free in range(0, 30_000_000, 100_000)}
    assert found == {6, 3, 2, 1}


@pytest.mark.parametrize("free", [0, 1e12])
def test_what_the_profile_says_is_kept_whatever_memory_there_is(free: float) -> None:
    lengths = [100] * 8
    assert chosen(free, lengths, micro_batch=2).micro_batch == 2
    assert chosen(free, lengths, gradient_checkpointing=True).gradient_checkpointing
    assert not chosen(free, lengths, gradient_checkpointing=False).gradient_checkpointing
    assert chosen(free, lengths, compile=True).is_compiled
    assert not chosen(free, lengths, steps=10**6, is_gpu=True, compile=False).is_compiled


@pytest.mark.parametrize(
    ("steps", "is_gpu", "padding_free", "is_compiled"),
    [
        (COMPILING_STEPS, True, True, True),
        (COMPILING_STEPS - 1, True, True, False),
        (COMPILING_STEPS, False, True, False),
        (COMPILING_STEPS, True, False, False),
    ],
)
def test_layers_are_compiled_on_a_gpu_and_for_many_steps_alone(
    steps: int, is_gpu: bool, padding_free: bool, is_compiled: bool
) -> None:
    assert chosen(1e12, [100], steps, is_gpu, padding_free=padding_free).is_compiled is is_compiled


def llama(free_gib: float) -> Layout:
    """What 8 rows of 320 tokens get on a GPU with LLaMA 3 8B loaded."""
    spec = FREE_CHOICE.model_copy(update={"lora": STUDY_LORA, "precision": "bfloat16"})
    return fitting(spec, LLAMA_8B, [320] * 8, free_gib * GIB, 50, is_gpu=True)


def test_beside_llama_3_8b_24_gib_hold_all_rows_14_half_of_them_and_4_all_with_activations_made_again() -> None:
    assert llama(24) == Layout(8, False, False)
    assert llama(14) == Layout(4, False, False)
    assert llama(4) == Layout(8, True, False)


def test_products_in_8_bits_leave_14_gib_less_for_rows() -> None:
    spec = FREE_CHOICE.model_copy(update={"lora": STUDY_LORA, "precision": "float8"})
    given = {gib: fitting(spec, LLAMA_8B, [320] * 8, gib * GIB, 50, is_gpu=True) for gib in (38, 28)}
    assert given == {38: Layout(8, False, False), 28: Layout(4, False, False)}
    more = needed_bytes(spec, LLAMA_8B, [320] * 8, given[38]) - needed_bytes(
        spec.model_copy(update={"precision": "bfloat16"}), LLAMA_8B, [320] * 8, given[38]
    )
    assert more == pytest.approx(14.5 * GIB, rel=0.01)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (700e12, Layout(8, True, False)),  # an H100: three passes of Python in place of four
        (160e12, Layout(4, False, False)),  # a card of 24 GB: its own work is what takes the time
        (None, Layout(4, False, False)),
    ],
)
def test_packed_weights_let_a_fast_gpu_wait_for_python_at_every_pass(rate: float | None, expected: Layout) -> None:
    spec = FREE_CHOICE.model_copy(update={"lora": STUDY_LORA, "precision": "bfloat16"})
    assert fitting(spec, LLAMA_8B, [320] * 8, 14 * GIB, 50, is_gpu=True, packed_rate=rate) == expected


def test_a_shape_is_read_from_the_models_configuration() -> None:
    config = SimpleNamespace(num_hidden_layers=32, hidden_size=4096, intermediate_size=14336, vocab_size=128_256)
    assert Shape.of(config, 2) == LLAMA_8B


def test_out_of_memory_leads_to_smaller_layouts_until_there_is_none() -> None:
    chain = [Layout(8, False, True)]
    while (smaller := chain[-1].smaller()) is not None:
        chain.append(smaller)
    assert chain == [*(Layout(size, False, True) for size in (8, 4, 2, 1)), Layout(1, True, True)]
    assert Layout(1, True, False).smaller() is None
    assert all(
        needed_bytes(FREE_CHOICE, LLAMA_8B, [320] * 8, one) > needed_bytes(FREE_CHOICE, LLAMA_8B, [320] * 8, other)
        for one, other in pairwise(chain)
    )


@pytest.mark.parametrize("rows", [6, 9, 10, 12])
def test_every_smaller_layout_holds_the_same_rows_a_step(rows: int) -> None:
    layout: Layout | None = Layout(rows, False, False)
    while layout is not None:
        assert rows % layout.micro_batch == 0, f"{layout.micro_batch} rows at a time do not make {rows} a step"
        layout = layout.smaller()
