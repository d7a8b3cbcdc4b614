"""The engine on an NVIDIA GPU: flash attention over the slots, CUDA graphs, bfloat16."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from synthpost_dagster.inference import answering
from synthpost_dagster.inference.engine import DEFAULTS, Options, Request, engine
from synthpost_dagster.inference.generate import Completion, chat, generate
from synthpost_dagster.inference.models import Loaded, load
from synthpost_dagster.inference.slots import Slots
from synthpost_dagster.profiles.models import Sampling
from synthpost_dagster.rows.prompts import evaluation_prompts
from synthpost_dagster.runtime.devices import Device
from synthpost_dagster.runtime.progress import SILENT
from synthpost_dagster.tasks.task import Task
from tests.helpers.random_adapters import ALL_LAYERS, EMBEDDED, save_random_adapter

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=60, batch_size=12, seed=1)
WARM = GREEDY.model_copy(update={"temperature": 0.8, "top_p": 0.9})
FIXED = Options(slots=8, chunk_tokens=1024, keeps_shapes=True)
KEPT = Options(keeps_shapes=True)


@pytest.fixture(scope="module")
def loaded(gpu: Device) -> Loaded:
    return load(EMBEDDED.model_copy(update={"dtype": "bfloat16"}), gpu)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    ranks = (4, 8, 16)
    return [save_random_adapter(tmp_path_factory.mktemp("adapter"), rank, rank, ALL_LAYERS) for rank in ranks]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [save_random_adapter(tmp_path_factory.mktemp("adapter"), seed, 16, ALL_LAYERS) for seed in range(15)]


@pytest.fixture(scope="module")
def requests(sales_posts: Task) -> list[Request]:
    """24 requests of uneven length, alternating between the three adapters and the base."""
    prompts = evaluation_prompts(sales_posts, 24)
    texts = [row.teacher_prompt[:900] if row.Index % 3 == 0 else row.student_prompt for row in prompts.itertuples()]
    return [Request(chat(text), [0, 1, 2, None][place % 4], place) for place, text in enumerate(texts)]


def answers(
    loaded: Loaded, adapters: list[Path], sampling: Sampling, requests: list[Request], options: Options = DEFAULTS
) -> list[Completion]:
    with engine(loaded, adapters, sampling, options) as running:
        made = dict(running.answer(requests, SILENT, "posts"))
    return [made[place] for place in range(len(requests))]


@pytest.mark.parametrize("options", [FIXED, KEPT], ids=["slots given", "slots by memory"])
@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "drawn"])
def test_mixed_replies_equal_those_of_each_adapter_alone(
    loaded: Loaded, adapters: list[Path], requests: list[Request], sampling: Sampling, options: Options
) -> None:
    mixed = answers(loaded, adapters, sampling, requests, options)
    for adapter in (0, 1, 2, None):
        places = [place for place, request in enumerate(requests) if request.adapter == adapter]
        own = [] if adapter is None else [adapters[adapter]]
        single = [requests[place]._replace(adapter=None if adapter is None else 0) for place in places]
        assert answers(loaded, own, sampling, single, options) == [mixed[place] for place in places]
    assert len({reply.text for reply in mixed}) > 12


def test_replies_of_many_adapters_equal_those_of_each_alone(
    loaded: Loaded, many: list[Path], requests: list[Request]
) -> None:
    """The adapters of a sweep, with ranks in two pairs of matrices, and the requests of the stages."""
    asked = [request._replace(adapter=place % len(many)) for place, request in enumerate(requests)]
    mixed = dict(answering.answers(loaded, many, asked, GREEDY, SILENT, "posts"))
    for place in (0, 7, 14):
        single = [asked[place]._replace(adapter=0)]
        assert dict(answering.answers(loaded, [many[place]], single, GREEDY, SILENT, "posts"))[0] == mixed[place]


def test_graphs_and_plain_steps_give_the_same_replies(
    loaded: Loaded, adapters: list[Path], requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_graphs = answers(loaded, adapters, WARM, requests, FIXED)
    monkeypatch.setattr(Slots, "capture", lambda self: None)
    assert answers(loaded, adapters, WARM, requests, FIXED) == with_graphs


def test_replies_of_the_base_resemble_those_of_generate(loaded: Loaded, requests: list[Request]) -> None:
    """Not bit for bit: other kernels round differently in bfloat16, and a reply then continues with another token."""
    base = [request._replace(adapter=None) for request in requests]
    ours = answers(loaded, [], GREEDY, base)
    theirs = generate(loaded, [request.chat for request in base], GREEDY, SILENT, "posts")
    starts = [(one.text[:20], other.text[:20]) for one, other in zip(ours, theirs, strict=True)]
    assert sum(one == other for one, other in starts) >= len(starts) * 2 // 3


def test_refilled_slots_answer_every_request(loaded: Loaded, adapters: list[Path], requests: list[Request]) -> None:
    for options in (Options(slots=5), Options(slots=24), DEFAULTS, KEPT):
        replies = answers(loaded, adapters, GREEDY, requests, options)
        assert all(reply.completion_tokens for reply in replies)
        fixed = answers(loaded, adapters, GREEDY, requests, FIXED)
        alike = sum(one.text[:20] == other.text[:20] for one, other in zip(replies, fixed, strict=True))
        assert alike >= len(replies) * 2 // 3


def test_nothing_is_left_on_the_device(loaded: Loaded, adapters: list[Path], requests: list[Request]) -> None:
    def memory() -> tuple[int, int]:
        gc.collect()  # earlier tests may have left cycles
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    answers(loaded, adapters, GREEDY, requests)  # libraries allocate once
    before = memory()
    answers(loaded, adapters, GREEDY, requests)
    assert memory() <= before


def test_out_of_memory_halves_the_slots(
    loaded: Loaded, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = [request._replace(adapter=None) for request in requests]
    before = torch.cuda.memory_allocated()
    capture = Slots.capture

    def short(self: Slots) -> None:
        if self._cache.slots > 8:
            torch.empty(2**50, dtype=torch.uint8, device="cuda")
        capture(self)

    monkeypatch.setattr(Slots, "capture", short)
    with engine(loaded, [], GREEDY, Options(slots=24)) as running:
        assert len(dict(running.answer(base, SILENT, "posts"))) == len(base)
        assert running.slots == 6
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() <= before
