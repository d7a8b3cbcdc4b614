"""Replies under several adapters, with and without the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synthpost_dagster.inference import engine
from synthpost_dagster.inference.answering import answers
from synthpost_dagster.inference.engine import Request
from synthpost_dagster.inference.generate import Completion, chat
from synthpost_dagster.inference.models import Loaded, load
from synthpost_dagster.profiles.models import Sampling
from synthpost_dagster.runtime.progress import SILENT
from tests.helpers.random_adapters import ALL_LAYERS, EMBEDDED, save_random_adapter
from tests.helpers.tuning import CPU, state_of

GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=12, batch_size=2, seed=1)
REQUESTS = [
    Request(chat(f"Write a sales post about {what}."), adapter, place)
    for place, (what, adapter) in enumerate([("rain", 0), ("a bicycle", 0), ("tea", 1), ("shoes", None), ("a lamp", 1)])
]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load(EMBEDDED, CPU)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [save_random_adapter(tmp_path_factory.mktemp("adapter"), seed, 4, ALL_LAYERS) for seed in (1, 2)]


def replies(loaded: Loaded, adapters: list[Path], slots: int | None = None) -> list[Completion]:
    made = dict(answers(loaded, adapters, REQUESTS, GREEDY, SILENT, "posts", slots=slots))
    assert set(made) == set(range(len(REQUESTS)))
    return [made[place] for place in range(len(REQUESTS))]


def test_unsupported_model_gives_the_same_replies_per_adapter(
    loaded: Loaded, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    together, before = replies(loaded, adapters), state_of(loaded.model)
    monkeypatch.setattr(engine, "is_supported", lambda _: False)
    assert replies(loaded, adapters) == together
    assert state_of(loaded.model) == before, "no adapter is left on it"
    assert len({reply.text for reply in together}) > 2


@pytest.mark.parametrize(("slots", "keeps_shapes"), [(None, False), (3, True)])
def test_given_slots_keep_shapes_and_replies(
    loaded: Loaded, adapters: list[Path], monkeypatch: pytest.MonkeyPatch, slots: int | None, keeps_shapes: bool
) -> None:
    together, used = replies(loaded, adapters), []
    make = engine.engine

    def recorded(*given: Any) -> Any:
        used.append(given[-1])
        return make(*given)

    monkeypatch.setattr(engine, "engine", recorded)
    assert replies(loaded, adapters, slots) == together
    assert [(one.slots, one.keeps_shapes) for one in used] == [(slots, keeps_shapes)]
