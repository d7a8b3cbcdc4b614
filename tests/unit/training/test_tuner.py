"""Many cells on one loaded model: each learns the same as alone, and the model is restored."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from synthpost_dagster.errors import SynthpostError
from synthpost_dagster.inference.models import load, loads
from synthpost_dagster.training import sft
from synthpost_dagster.training.sft import Tuner
from tests.helpers.tuning import CPU, STUDENT, alone, cell, largest_difference, rows_of, spec_of, state_of

# Dropout draws random numbers at every step, so a generator used by another cell would change the result. Without
# dropout, projections are joined.
LORA = spec_of().lora.model_copy(update={"dropout": 0.1})
SPECS = {"one": spec_of(lora=LORA, seed=1), "other": spec_of(lora=LORA, seed=2)}
PLAIN = {name: spec.model_copy(update={"lora": spec_of().lora}) for name, spec in SPECS.items()}
ROWS = {"one": rows_of(8), "other": rows_of(14).tail(8)}
CELLS = ("one", "other")


@pytest.fixture(scope="module")
def each_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    for name in CELLS:
        alone(folder / name, SPECS[name], rows=ROWS[name], steps=2)
        alone(folder / "plain" / name, PLAIN[name], rows=ROWS[name], steps=2)
    assert largest_difference(folder / "one", folder / "other") > 1e-3
    return folder


@pytest.mark.parametrize("order", [CELLS, CELLS[::-1], ("one", "other", "one")])
def test_each_cell_learns_the_same_alone_and_in_any_order(
    each_alone: Path, tmp_path: Path, order: tuple[str, ...]
) -> None:
    before = loads.made
    with Tuner(load(STUDENT, CPU), "embedded", SPECS["one"], 4, CPU) as tuner:
        for place, name in enumerate(order):
            cell(tuner, tmp_path / str(place), SPECS[name], rows=ROWS[name], steps=2)
            assert largest_difference(tmp_path / str(place), each_alone / name) == 0
    assert loads.made == before + 1


def test_each_cell_learns_the_same_with_joint_projections(each_alone: Path, tmp_path: Path) -> None:
    with Tuner(load(STUDENT, CPU), "embedded", PLAIN["one"], 4, CPU) as tuner:
        for place, name in enumerate(("one", "other", "one")):
            cell(tuner, tmp_path / str(place), PLAIN[name], rows=ROWS[name], steps=2)
            assert largest_difference(tmp_path / str(place), each_alone / "plain" / name) == 0


def test_another_seed_gives_another_adapter(each_alone: Path, tmp_path: Path) -> None:
    alone(tmp_path, SPECS["other"], rows=ROWS["one"], steps=2)
    assert largest_difference(tmp_path, each_alone / "one") > 1e-3


def test_rows_are_tokenized_once_for_several_steps_and_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    make = sft.tokenized
    monkeypatch.setattr(sft, "tokenized", lambda rows, *more: seen.append(len(rows)) or make(rows, *more))
    other = spec_of(loss="full")
    with Tuner(load(STUDENT, CPU), "embedded", spec_of(), 9, CPU) as tuner:
        for number, (spec, count, steps) in enumerate(
            [(spec_of(), 8, 1), (spec_of(seed=5), 8, 2), (spec_of(), 6, 1), (other, 6, 1), (other, 6, 2)]
        ):
            cell(tuner, tmp_path / str(number), spec, rows=rows_of(8)[:count], steps=steps)
    assert seen == [8, 6, 6]


@pytest.mark.parametrize("padding_free", [True, False])
def test_closed_tuner_restores_the_model(tmp_path: Path, padding_free: bool) -> None:
    spec = spec_of(padding_free=padding_free)
    loaded = load(STUDENT, CPU)
    weights = {name: weight.clone() for name, weight in loaded.model.state_dict().items()}
    before, logits = state_of(loaded.model), logits_of(loaded.model)
    with Tuner(loaded, "embedded", spec, 4, CPU) as tuner:
        cell(tuner, tmp_path, spec, rows=rows_of(8), steps=2)
    after = state_of(loaded.model)
    assert not [name for name, _, wants_gradient in after.pop("weights") if wants_gradient]
    del before["weights"]
    assert after == before
    assert torch.equal(logits_of(loaded.model), logits)
    assert all(torch.equal(weight, weights[name]) for name, weight in loaded.model.state_dict().items())


def logits_of(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.arange(5, 25).unsqueeze(0)).logits


@pytest.mark.parametrize("ends_well", [True, False])
def test_trainer_and_optimizer_are_freed_after_each_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends_well: bool
) -> None:
    made: list[weakref.ref[Any]] = []
    make = Tuner._trainer

    def making(self: Tuner, *arguments: Any) -> Any:
        trainer = make(self, *arguments)
        made.append(weakref.ref(trainer))
        create = trainer.create_optimizer
        trainer.create_optimizer = lambda *more: made.append(weakref.ref(create(*more)))
        return trainer

    monkeypatch.setattr(Tuner, "_trainer", making)
    spec = spec_of() if ends_well else spec_of(learning_rate=1e30)
    with Tuner(load(STUDENT, CPU), "embedded", spec, 4, CPU) as tuner:
        try:
            cell(tuner, tmp_path, spec, rows=rows_of(8), steps=2)
        except SynthpostError:
            assert not ends_well
        else:
            assert ends_well
        gc.collect()
        assert len(made) == 2
        assert [reference() for reference in made] == [None, None]
        assert not [name for name, weight in tuner.model.named_parameters() if weight.grad is not None]
        model = weakref.ref(tuner.model)
    gc.collect()
    assert model() is None
