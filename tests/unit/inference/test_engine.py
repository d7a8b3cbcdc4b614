"""The engine replies under several adapters at once like each alone, and restores the model."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from synthpost_dagster.errors import DeviceError
from synthpost_dagster.inference import attention, slots
from synthpost_dagster.inference import engine as module
from synthpost_dagster.inference.attention import Cache
from synthpost_dagster.inference.engine import Options, Request, engine, is_supported
from synthpost_dagster.inference.generate import Completion, chat, generate
from synthpost_dagster.inference.models import Loaded, load, load_adapter
from synthpost_dagster.inference.slots import Prompt, Slots
from synthpost_dagster.profiles.models import Sampling
from synthpost_dagster.rows.prompts import evaluation_prompts
from synthpost_dagster.runtime.progress import SILENT, Event, Progress
from synthpost_dagster.tasks.task import Task
from tests.helpers.random_adapters import ALL_LAYERS, EMBEDDED, save_random_adapter
from tests.helpers.tuning import CPU

GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=20, batch_size=12, seed=1)
WARM = GREEDY.model_copy(update={"temperature": 1.2, "top_p": 0.9})


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load_uneven()


def load_uneven() -> Loaded:
    """The embedded model; its replies also end at a full stop, so that their lengths differ widely."""
    loaded = load(EMBEDDED, CPU)
    (stop,) = loaded.tokenizer(".", add_special_tokens=False)["input_ids"]
    loaded.model.generation_config.eos_token_id = [3, stop]
    return loaded


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Adapters of different ranks; the last one has fewer layers."""
    kinds = [(2, ALL_LAYERS), (5, ALL_LAYERS), (3, ["q_proj", "v_proj"])]
    return [
        save_random_adapter(tmp_path_factory.mktemp("adapter"), seed, rank, layers)
        for seed, (rank, layers) in enumerate(kinds)
    ]


@pytest.fixture(scope="module")
def requests(sales_posts: Task) -> list[Request]:
    """Twelve requests of uneven length, alternating between the three adapters and the base."""
    prompts = evaluation_prompts(sales_posts, 12)
    texts = [row.teacher_prompt[:900] if row.Index % 3 == 0 else row.student_prompt for row in prompts.itertuples()]
    texts[1] = "Hello"
    return [Request(chat(text), [0, 1, 2, None][place % 4], place) for place, text in enumerate(texts)]


def answers(
    loaded: Loaded,
    adapters: list[Path],
    sampling: Sampling,
    requests: list[Request],
    options: Options = module.DEFAULTS,
) -> list[Completion]:
    with engine(loaded, adapters, sampling, options) as running:
        made = dict(running.answer(requests, SILENT, "posts"))
    return [made[place] for place in range(len(requests))]


@pytest.fixture(scope="module")
def mixed(loaded: Loaded, adapters: list[Path], requests: list[Request]) -> list[Completion]:
    """Greedy replies from three slots, which are refilled."""
    return answers(loaded, adapters, GREEDY, requests, Options(slots=3))


def test_mixed_replies_equal_those_of_peft_per_adapter(
    loaded: Loaded, adapters: list[Path], requests: list[Request], mixed: list[Completion]
) -> None:
    for adapter in (0, 1, 2, None):
        places = [place for place, request in enumerate(requests) if request.adapter == adapter]
        tuned = loaded if adapter is None else load_adapter(load_uneven(), adapters[adapter])
        alone = generate(tuned, [requests[place].chat for place in places], GREEDY, SILENT, "posts")
        assert [mixed[place] for place in places] == alone
    assert {reply.finish_reason for reply in mixed} == {"stop", "length"}
    assert len({reply.prompt_tokens for reply in mixed}) > 6
    assert len({reply.completion_tokens for reply in mixed}) > 4


def test_adapter_replies_the_same_alone_and_with_others(
    loaded: Loaded, adapters: list[Path], requests: list[Request], mixed: list[Completion]
) -> None:
    for adapter in range(3):
        places = [place for place, request in enumerate(requests) if request.adapter == adapter]
        own = [requests[place]._replace(adapter=0) for place in places]
        assert answers(loaded, [adapters[adapter]], GREEDY, own) == [mixed[place] for place in places]


def test_nf4_model_replies_under_adapters_like_peft(adapters: list[Path], requests: list[Request]) -> None:
    mixed = answers(load_nf4(), adapters, GREEDY, requests[:4])
    for place, adapter in enumerate(adapters):
        tuned = load_adapter(load_nf4(), adapter)
        assert generate(tuned, [requests[place].chat], GREEDY, SILENT, "posts") == [mixed[place]]


def load_nf4() -> Loaded:
    """Runs without a bitsandbytes kernel for some CPUs, which refuses the embedded model's widths."""
    loaded = load(EMBEDDED.model_copy(update={"quantization": "nf4", "dequantize": False}), CPU)
    for part in loaded.model.modules():
        if isinstance(part, Linear4bit):
            part.support_avx512bf16_for_cpu = False
    return loaded


def test_same_chat_is_answered_differently_under_each_adapter(
    loaded: Loaded, adapters: list[Path], requests: list[Request]
) -> None:
    one = [requests[0]._replace(adapter=adapter) for adapter in (None, 0, 1, 2)]
    assert len({reply.text for reply in answers(loaded, adapters, GREEDY, one, Options(ignores_ends=True))}) == 4


def test_sampled_replies_depend_only_on_their_request(
    loaded: Loaded, adapters: list[Path], requests: list[Request]
) -> None:
    first = answers(loaded, adapters, WARM, requests, Options(slots=12))
    assert answers(loaded, adapters, WARM, requests, Options(slots=2)) == first
    assert answers(loaded, adapters, WARM, requests[::-1], Options(slots=5, keeps_shapes=True)) == first[::-1]
    assert answers(loaded, adapters, WARM, requests[:1]) == first[:1]
    others = answers(loaded, adapters, WARM, [request._replace(seed=request.seed + 100) for request in requests])
    assert sum(one.text == other.text for one, other in zip(first, others, strict=True)) < 3


def test_inputs_of_flash_attention_give_the_same_replies(
    loaded: Loaded,
    adapters: list[Path],
    requests: list[Request],
    mixed: list[Completion],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The code for a GPU with a stand-in for its kernel, which returns NaN for all other values."""
    monkeypatch.setattr(attention, "flash", flash_by_rows)
    for part in (module, slots, attention):
        monkeypatch.setattr(part, "uses_flash", lambda *_: True)
    assert answers(loaded, adapters, GREEDY, requests, Options(slots=3, chunk_tokens=600)) == mixed


def flash_by_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: Tensor,
    starts: Tensor,
    max_queries: int,
    max_keys: int,
    scale: float,
    lengths: Tensor | None = None,
) -> Tensor:
    assert ends.dtype == starts.dtype == torch.int32
    out = torch.full_like(query, torch.nan)
    for row, (first, last) in enumerate(itertools.pairwise(ends.tolist())):
        start = int(starts[row])
        end = int(starts[row + 1]) if lengths is None else start + int(lengths[row])
        assert last - first <= max_queries and end - start <= max_keys
        if last == first:
            continue
        q, k, v = (part.transpose(0, 1) for part in (query[first:last], key[start:end], value[start:end]))
        seen = torch.ones(last - first, end - start, dtype=torch.bool).tril(end - start - last + first)
        out[first:last] = scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale).transpose(0, 1)
    return out


def test_prompts_longer_than_a_chunk_are_prefilled_alone(
    loaded: Loaded, adapters: list[Path], requests: list[Request], mixed: list[Completion]
) -> None:
    longest = max(reply.prompt_tokens for reply in mixed)
    for tokens in (1, longest + 1):
        assert answers(loaded, adapters, GREEDY, requests, Options(slots=3, chunk_tokens=tokens)) == mixed


def test_reply_may_end_at_its_first_token(
    loaded: Loaded, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = [request._replace(adapter=None) for request in requests]
    one = answers(loaded, [], GREEDY.model_copy(update={"max_new_tokens": 1}), base, Options(slots=2))
    assert {(reply.finish_reason, reply.completion_tokens) for reply in one} == {("length", 1)}
    (first,) = loaded.tokenizer(one[0].text, add_special_tokens=False)["input_ids"][:1]
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", [3, first])
    steps: list[int] = []
    with monkeypatch.context() as watched, engine(loaded, [], GREEDY) as running:
        watched.setattr(Slots, "step", lambda self, width, times: steps.append(times))
        dict(running.answer(base[:1], SILENT, "posts"))
    assert steps == [1], "the finished slot is found after one step"
    ended = answers(loaded, [], GREEDY, base, Options(slots=2))
    assert (ended[0].text, ended[0].finish_reason, ended[0].completion_tokens) == ("", "stop", 0)
    assert any(reply.completion_tokens > 5 for reply in ended)


def test_all_new_tokens_are_drawn_if_ends_are_ignored(loaded: Loaded, requests: list[Request]) -> None:
    base = [request._replace(adapter=None) for request in requests[:3]]
    long = GREEDY.model_copy(update={"max_new_tokens": 130})
    replies = answers(loaded, [], long, base, Options(ignores_ends=True))
    assert {(reply.finish_reason, reply.completion_tokens) for reply in replies} == {("length", 130)}


def test_replies_and_progress_come_in_order_of_completion(loaded: Loaded, requests: list[Request]) -> None:
    events: list[Event] = []
    base = [request._replace(adapter=None) for request in requests]
    with engine(loaded, [], GREEDY, Options(slots=3)) as running:
        for count, (place, _) in enumerate(running.answer(base, Progress(events.append), "tuned posts"), 1):
            assert events[-1] == Event("tuned posts", count, 12, "posts")
            assert place < count + 2, "a later prompt was taken before those in front of it"
    assert [event.done for event in events] == list(range(13))


def test_fixed_shapes_use_all_slots_for_few_requests(loaded: Loaded, requests: list[Request]) -> None:
    used = {}
    for keeps_shapes in (False, True):
        with engine(loaded, [], GREEDY, Options(slots=5, keeps_shapes=keeps_shapes)) as running:
            dict(running.answer([requests[3], requests[7]], SILENT, "posts"))
            used[keeps_shapes] = running.slots
    assert used == {False: 2, True: 5}


def test_fixed_shapes_take_slots_from_memory_and_report_them(
    loaded: Loaded, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    base = [request._replace(adapter=None) for request in requests]
    for mebibytes in (76, 80, 90, 10_000):
        monkeypatch.setattr(module, "_free_bytes", lambda *_, size=mebibytes: size * 2**20)
        for asked in (base[:2], base[1:7]):
            short = GREEDY.model_copy(update={"max_new_tokens": 1})
            with engine(loaded, [], short, Options(keeps_shapes=True)) as running:
                dict(running.answer(asked, Progress(events.append), "posts"))
    notes = [event.text.removeprefix("posts: ") for event in events if not event.total]
    assert all(note.endswith(" at a time") for note in notes)
    numbers = [int(note.split()[0]) for note in notes]
    assert numbers[::2] == numbers[1::2], "the same for two requests as for six"
    assert numbers[0] == numbers[2] < numbers[4] < numbers[6] == 48


def test_one_adapter_gets_as_many_slots_as_two_pairs(
    loaded: Loaded, requests: list[Request], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = save_random_adapter(tmp_path / "adapter", 1, 16, ALL_LAYERS)
    used = []
    for count in (1, 9, 17):
        with engine(loaded, [folder] * count, GREEDY, Options(keeps_shapes=True)) as running:
            masks = running._masks
            free = 108 * 2**20 - masks.pairs * masks.pair_bytes
            monkeypatch.setattr(module, "_free_bytes", lambda *_, free=free: free)
            dict(running.answer(requests[1:2], SILENT, "posts"))
            used.append((masks.pairs, running.slots))
    assert [pairs for pairs, _ in used] == [1, 2, 3]
    assert used[0][1] == used[1][1] > used[2][1]


def test_fixed_shapes_round_the_tokens_per_slot(
    loaded: Loaded, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms: list[int] = []
    make = module.slots_of
    monkeypatch.setattr(module, "slots_of", lambda *given: rooms.append(given[5]) or make(*given))
    for asked in (requests[7:8], requests[10:11]):
        with engine(loaded, [], GREEDY, Options(slots=2, keeps_shapes=True)) as running:
            replies = dict(running.answer([asked[0]._replace(adapter=None)], SILENT, "posts"))
            assert replies[0].prompt_tokens + GREEDY.max_new_tokens < rooms[-1]
    assert rooms == [256, 256]


@pytest.mark.parametrize("chunk", [99, 100, 101])
def test_fixed_shapes_include_a_prefill_of_exactly_one_chunk(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(attention, "flash", flash_by_rows)
    for part in (module, slots, attention):
        monkeypatch.setattr(part, "uses_flash", lambda *_: True)
    rows: list[int] = []
    handle = loaded.model.lm_head.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    try:
        with engine(loaded, [], GREEDY, Options(slots=8, chunk_tokens=chunk, keeps_shapes=True)) as running:
            list(running.continued([Prompt(list(range(40, 65)), 0, 0)] * 4, SILENT, "posts"))
    finally:
        handle.remove()
    assert set(rows) == {8}


@pytest.mark.parametrize(
    ("most", "number"), [(1, 1), (2, 2), (3, 3), (5, 4), (6, 6), (500, 384), (512, 512), (800, 768)]
)
def test_numbers_of_slots_are_rounded_down(most: int, number: int) -> None:
    assert module._round_number(most) == number


def test_no_requests_give_no_replies(loaded: Loaded) -> None:
    assert answers(loaded, [], GREEDY, []) == []


def test_second_call_gives_the_same_replies(
    loaded: Loaded, adapters: list[Path], requests: list[Request], mixed: list[Completion]
) -> None:
    with engine(loaded, adapters, GREEDY) as running:
        dict(running.answer(requests[6:], SILENT, "posts"))
        again = dict(running.answer(requests[:4], SILENT, "posts"))
    assert [again[place] for place in range(4)] == mixed[:4]


def state(model: Any) -> Any:
    """The state that the engine changes: modules, their modes and attributes, the attention."""
    modules = [(name, id(part), part.training, sorted(vars(part))) for name, part in model.named_modules()]
    return modules, model.config._attn_implementation


@pytest.mark.parametrize("way_out", ["all answered", "given up", "error"])
def test_model_is_restored_without_a_cache(adapters: list[Path], requests: list[Request], way_out: str) -> None:
    loaded = load(EMBEDDED, CPU)
    loaded.model.train()
    loaded.model.model.layers[1].eval()
    chats = [request.chat for request in requests[:2]]
    before, replies = state(loaded.model), generate(loaded, chats, GREEDY, SILENT, "posts")
    with engine(loaded, adapters, GREEDY) as running:
        under_way: Iterator[tuple[int, Completion]] = running.answer(requests[:4], SILENT, "posts")
        assert not loaded.model.training
        next(under_way)
        assert state(loaded.model) != before
        assert caches() == 1
        if way_out == "all answered":
            list(under_way)
        elif way_out == "error":
            with pytest.raises(ZeroDivisionError):
                under_way.throw(ZeroDivisionError())  # type: ignore[attr-defined]
        del under_way
    del running
    assert caches() == 0
    assert state(loaded.model) == before
    assert generate(loaded, chats, GREEDY, SILENT, "posts") == replies


def caches() -> int:
    gc.collect()
    return sum(type(thing) is Cache for thing in gc.get_objects())


def test_refused_adapter_leaves_the_model_unchanged(loaded: Loaded, adapters: list[Path]) -> None:
    before = state(loaded.model)
    other = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1))
    with (
        pytest.raises(Exception, match=r"do not fit the model, so it was trained on another one"),
        engine(Loaded(other, loaded.tokenizer), adapters, GREEDY),
    ):
        pass
    assert state(loaded.model) == before


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("none left"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")])
def test_out_of_memory_halves_the_slots(
    loaded: Loaded,
    adapters: list[Path],
    requests: list[Request],
    mixed: list[Completion],
    monkeypatch: pytest.MonkeyPatch,
    error: RuntimeError,
) -> None:
    events: list[Event] = []
    step, calls = Slots.step, []

    def short(self: Slots, width: int, times: int) -> None:
        calls.append(width)
        if len(calls) == 10 or width > 6:
            raise error
        step(self, width, times)

    monkeypatch.setattr(Slots, "step", short)
    with engine(loaded, adapters, GREEDY, Options(slots=12)) as running:
        made = dict(running.answer(requests, Progress(events.append), "posts"))
        assert running.slots == 3
    assert [made[place] for place in range(12)] == mixed
    assert [event.text for event in events if not event.total] == [
        "memory ran out with 12 at a time; continuing with 6, and 1024 tokens per prefill",
        "memory ran out with 6 at a time; continuing with 3, and 512 tokens per prefill",
    ]


def test_other_errors_are_raised_unchanged(
    loaded: Loaded, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(Slots, "step", broken)
    with engine(loaded, [], GREEDY) as running, pytest.raises(RuntimeError, match="illegal"):
        dict(running.answer([requests[3]], SILENT, "posts"))


def test_one_slot_fails_only_with_the_smallest_prefill(
    loaded: Loaded, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    rounds: list[int] = []
    make = module.slots_of

    def short(*given: Any) -> Any:
        rounds.append(given[-1])
        if given[-1] > 512:
            raise torch.OutOfMemoryError("none left")
        return make(*given)

    monkeypatch.setattr(attention, "flash", flash_by_rows)
    for part in (module, slots, attention):
        monkeypatch.setattr(part, "uses_flash", lambda *_: True)
    monkeypatch.setattr(module, "slots_of", short)
    with engine(loaded, [], GREEDY, Options(slots=1, keeps_shapes=True)) as running:
        assert len(dict(running.answer([requests[3]], Progress(events.append), "posts"))) == 1
    assert rounds == [2048, 1024, 512]


def test_no_memory_for_one_reply_is_an_error_with_the_remedy(
    loaded: Loaded, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: object) -> None:
        raise torch.OutOfMemoryError("none left")

    monkeypatch.setattr(module, "slots_of", short)
    events: list[Event] = []
    with (
        engine(loaded, [], GREEDY) as running,
        pytest.raises(DeviceError, match=r"too little memory for a single reply; .* predictions.max_new_tokens"),
    ):
        dict(running.answer([requests[3], requests[7]], Progress(events.append), "posts"))
    assert [event.text for event in events[1:]] == [
        "memory ran out with 2 at a time; continuing with 1, and 1024 tokens per prefill",
        "memory ran out with 1 at a time; continuing with 1, and 512 tokens per prefill",
    ]


def test_slots_follow_from_free_memory(
    loaded: Loaded, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for mebibytes in (0, 60, 65, 10_000):
        monkeypatch.setattr(module, "_free_bytes", lambda *_, size=mebibytes: size * 2**20)
        with engine(loaded, [], GREEDY.model_copy(update={"max_new_tokens": 1})) as running:
            dict(running.answer([request._replace(adapter=None) for request in requests], SILENT, "posts"))
            found[mebibytes] = running.slots
    assert found[0] == 1 < found[60] < found[65] < found[10_000] == 12


def test_only_llamas_own_attention_is_supported(loaded: Loaded) -> None:
    small = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    grows = LlamaConfig(**small, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    assert is_supported(loaded)
    assert not is_supported(Loaded(LlamaForCausalLM(grows), loaded.tokenizer))
    assert not is_supported(Loaded(MistralForCausalLM(MistralConfig(**small)), loaded.tokenizer))
