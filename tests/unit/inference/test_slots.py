"""Each token is chosen with one uniform number, which depends only on the request's seed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from synthpost_dagster.inference.attention import attending
from synthpost_dagster.inference.mixed_lora import mixed
from synthpost_dagster.inference.models import load
from synthpost_dagster.inference.slots import GRID, Prompt, Slots, choose, slots_of, uniforms
from synthpost_dagster.profiles.models import Sampling
from tests.helpers.random_adapters import EMBEDDED
from tests.helpers.tuning import CPU

NEW_TOKENS = 12
LOGITS = torch.log(torch.tensor([0.1, 0.4, 0.0, 0.3, 0.2, 0.0]))
EVEN = torch.arange(1000) / 1000


def shares(temperature: float, top_p: float) -> list[float]:
    """How often each token is chosen with evenly spaced numbers."""
    chosen = choose(LOGITS.repeat(1000, 1), EVEN, temperature, top_p)
    return (torch.bincount(chosen, minlength=6) / 1000).tolist()


def test_temperature_0_chooses_the_most_likely_token() -> None:
    assert shares(0, 1) == [0, 1, 0, 0, 0, 0]


def test_tokens_are_drawn_by_their_probability() -> None:
    assert shares(1, 1) == pytest.approx([0.1, 0.4, 0, 0.3, 0.2, 0], abs=0.002)
    squares = np.array([0.1, 0.4, 0, 0.3, 0.2, 0]) ** 2
    assert shares(0.5, 1) == pytest.approx((squares / squares.sum()).tolist(), abs=0.002)


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    assert shares(1, 0.69) == pytest.approx([0, 4 / 7, 0, 3 / 7, 0, 0], abs=0.002)
    assert shares(1, 0.71) == pytest.approx([0, 4 / 9, 0, 3 / 9, 2 / 9, 0], abs=0.002)
    assert shares(1, 0.01) == [0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("top_p", [1.0, 0.99])
def test_largest_random_number_never_chooses_an_impossible_token(top_p: float) -> None:
    for size in (0.3, 1.0, 3.0):
        last = torch.tensor([(GRID - 1) / GRID])
        logits = torch.cat([torch.zeros(7), torch.full((50,), -torch.inf)]).unsqueeze(0) * size
        assert choose(logits, last, 1.0, top_p).item() < 7


def test_random_numbers_follow_their_seed_and_are_below_1() -> None:
    assert uniforms(7, 5).tolist() == uniforms(7, 9)[:5].tolist()
    assert uniforms(7, 5).tolist() != uniforms(8, 5).tolist()
    many = uniforms(1, 20_000)
    assert many.min() >= 0 and many.max() < 1
    assert np.histogram(many, 4, (0, 1))[0] == pytest.approx([5_000] * 4, rel=0.05)


def test_finished_slot_does_not_write_into_the_next() -> None:
    """Steps continue over it until the next check, as on a GPU."""
    loaded = load(EMBEDDED, CPU)
    model: Any = loaded.model
    sampling = Sampling(temperature=0, top_p=1, max_new_tokens=NEW_TOKENS, batch_size=1, seed=0)
    long, short = (
        Prompt(loaded.tokenizer(text)["input_ids"], 0, 0) for text in ("A post about a lamp that glows.", "A lamp")
    )

    def drawn(is_first_done: bool) -> list[int]:
        room = len(long.ids) + NEW_TOKENS
        with (
            mixed(model, [], model.dtype) as masks,
            attending(model),
            slots_of(model, masks, sampling, [], 2, room, 0) as slots,
        ):
            if is_first_done:
                slots.prefill([(0, long)])
                slots.step(2, 3 * NEW_TOKENS)
            slots.prefill([(1, short)])
            slots.step(2, NEW_TOKENS)
            return slots.finished([1])[1]

    assert drawn(is_first_done=True) == drawn(is_first_done=False)
    assert len(drawn(is_first_done=True)) == NEW_TOKENS


@pytest.mark.parametrize(
    ("cause", "raised"),
    [
        (torch.OutOfMemoryError("none left"), "none left"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), "ALLOC_FAILED"),
        (RuntimeError("an illegal memory access"), "previous error during capture"),
    ],
)
def test_out_of_memory_in_a_capture_replaces_the_capture_error(
    monkeypatch: pytest.MonkeyPatch, cause: RuntimeError, raised: str
) -> None:
    @contextlib.contextmanager
    def capture(*_: object, **more: object) -> Iterator[None]:
        del more
        steps.append("capture")
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    def advance(width: int) -> None:
        del width
        if "capture" in steps:
            raise cause

    steps: list[str] = []
    stream = SimpleNamespace(wait_stream=lambda _: None)
    for name, stand_in in {
        "graph": capture,
        "CUDAGraph": object,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda _: contextlib.nullcontext(),
        "device": lambda _: contextlib.nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    cache, positions = SimpleNamespace(slots=2), SimpleNamespace(device="cuda")
    unready = SimpleNamespace(_advance=advance, _cache=cache, _positions=positions)
    with pytest.raises(RuntimeError, match=raised):
        Slots.capture(unready)  # type: ignore[arg-type]
