"""A trained conversation begins with the prompt in generation, token for token, in templates of many families."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from synthpost_dagster.errors import ModelError
from synthpost_dagster.inference.generate import chat
from synthpost_dagster.inference.models import load_tokenizer
from synthpost_dagster.inference.templates import ChatTemplate, check_template, opened_reasoning
from tests.helpers.tuning import STUDENT

QUESTION, SYSTEM = "Write a post about rain boots.", "Be kind."
ANSWER = "Ready for rain?\n\nOrder yours today! #Ride"
SHAPES = (chat(QUESTION), chat(QUESTION, SYSTEM))


class Family(NamedTuple):
    """A chat template, its end of an answer, and whether it supports a system prompt."""

    template: str
    end: str
    has_system: bool = True


def turns(before: str, after: str, opening: str, assistant: str = "m['content'] | trim") -> str:
    """A template that writes every turn as `before` + content + `after`; both are expressions over the message `m`."""
    return (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ "
        f"{before} + {assistant} + {after} }}}}{{% else %}}{{{{ {before} + m['content'] | trim + {after} }}}}"
        f"{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{{{{ {opening} }}}}{{% endif %}}"
    )


CHATML = turns(r"'<|im_start|>' + m['role'] + '\n'", r"'<|im_end|>\n'", r"'<|im_start|>assistant\n'")
HEADERS = turns(
    r"'<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'",
    "'<|eot_id|>'",
    r"'<|start_header_id|>assistant<|end_header_id|>\n\n'",
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns here') }}{% endif %}"
GEMMA = NO_SYSTEM + turns(
    r"'<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n'",
    r"'<end_of_turn>\n'",
    r"'<start_of_turn>model\n'",
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + eos_token }}"
    "{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)
PHI = turns(r"'<|' + m['role'] + '|>\n'", r"'<|end|>\n'", r"'<|assistant|>\n'")
STRIPPED = turns(
    "'<|' + m['role'] + '|>'",
    "eos_token",
    "'<|assistant|>'",
    assistant="m['content'].split('</think>')[-1]",
)
EMPTY_BLOCK = r"'<think>\n\n</think>\n\n' + m['content']"
SWITCHED = turns(
    r"'<|im_start|>' + m['role'] + '\n'",
    r"'<|im_end|>\n'",
    r"'<|im_start|>assistant\n' + ('' if enable_thinking | default(true) else '<think>\n\n</think>\n\n')",
    assistant=EMPTY_BLOCK,
)
CLOSES = turns(
    r"'<|im_start|>' + m['role'] + '\n'",
    r"'<|im_end|>\n'",
    r"'<|im_start|>assistant\n<think>\n'",
    assistant=EMPTY_BLOCK,
)
CHANNELS = turns(
    "'<|start|>' + m['role']",
    "'<|return|>'",
    "'<|start|>assistant'",
    assistant="'<|channel|>final<|message|>' + m['content']",
)
FAMILIES = {
    "chatml": Family(CHATML, "<|im_end|>"),
    "headers": Family(HEADERS, "<|eot_id|>"),
    "gemma": Family(GEMMA, "<end_of_turn>", has_system=False),
    "inst": Family(INST, "<|eot_id|>"),
    "phi": Family(PHI, "<|end|>"),
    "thoughts stripped": Family(STRIPPED, "<|eot_id|>"),
    "empty thoughts": Family(SWITCHED, "<|im_end|>"),
}


@pytest.fixture(scope="module")
def make() -> Callable[..., ChatTemplate]:
    """A template over the embedded tokenizer with the added tokens of a family."""
    plain = load_tokenizer(STUDENT)

    def made(template: str, *tokens: str, **kwargs: Any) -> ChatTemplate:
        tokenizer = copy.deepcopy(plain)
        tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
        tokenizer.chat_template = template
        return ChatTemplate(tokenizer, kwargs)

    return made


def learned(template: ChatTemplate, question: list[dict[str, str]] = SHAPES[0], answer: str = ANSWER) -> str:
    """The trained text after the prompt."""
    made = template.conversation(question, answer)
    assert made.ids[: made.prompt] == template.prompt_ids(question)
    return str(template.tokenizer.decode(made.ids[made.prompt :]))


def ends(template: ChatTemplate, token: str) -> set[int]:
    return {template.tokenizer.convert_tokens_to_ids(token)}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shape", [0, 1], ids=["user only", "system prompt"])
def test_only_answer_and_end_token_follow_the_prompt(make: Callable[..., ChatTemplate], name: str, shape: int) -> None:
    family = FAMILIES[name]
    template = make(family.template, family.end)
    if shape and not family.has_system:
        with pytest.raises(ModelError, match=r"no system turns here.*training\.system_prompt: false"):
            template.prompt(SHAPES[1])
        return
    assert learned(template, SHAPES[shape]).strip() == f"{ANSWER}{family.end}"
    assert template.conversation(SHAPES[shape], ANSWER).ids[-1] in ends(template, family.end)
    check_template(template, [SHAPES[shape]], is_trained=True, ends=ends(template, family.end))


@pytest.mark.parametrize("thinks", [True, False])
def test_empty_block_of_reasoning_is_never_learned(make: Callable[..., ChatTemplate], thinks: bool) -> None:
    template = make(SWITCHED, "<|im_end|>", enable_thinking=thinks)
    assert ("<think>" in template.prompt(SHAPES[0])) is not thinks
    assert learned(template) == f"{ANSWER}<|im_end|>"


def test_reasoning_that_the_prompt_opens_is_closed_in_training(make: Callable[..., ChatTemplate]) -> None:
    assert learned(make(CLOSES, "<|im_end|>")) == f"\n</think>\n\n{ANSWER}<|im_end|>"


def test_channel_of_the_answer_is_learned(make: Callable[..., ChatTemplate]) -> None:
    template = make(CHANNELS, "<|return|>", "<|channel|>", "<|message|>")
    assert learned(template) == f"<|channel|>final<|message|>{ANSWER}<|return|>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (HEADERS.replace(r"assistant<|end_header_id|>\n\n'", r"assistant<|end_header_id|>\n\n<think>\n'"), "<think>"),
        (turns("m['role'] + ': '", "eos_token", "'bot: '"), "'bot: '"),
        (turns("m['role'] + ': '", "eos_token", "'assistant: '", "'Answer: ' + m['content']"), "'Answer: '"),
        (turns("m['role'] + ': '", "eos_token", r"'assistant: <think>'", r"'<think>' + m['content']"), "'<think>"),
    ],
    ids=["opens thoughts", "other role", "adds words", "answers in thoughts"],
)
def test_prompt_that_cannot_begin_the_conversation_is_refused(
    make: Callable[..., ChatTemplate], template: str, message: str
) -> None:
    made = make(template)
    with pytest.raises(ModelError, match="chat_template_kwargs") as caught:
        made.conversation(SHAPES[0], ANSWER)
    assert message in str(caught.value)
    check_template(made, [SHAPES[0]], is_trained=False, ends=set())


@pytest.mark.parametrize(
    "assistant", ["m['content'] | upper", "m['content'][:16]", "m['content'] | replace('s', '')", "''"]
)
def test_template_that_changes_the_answer_is_refused(make: Callable[..., ChatTemplate], assistant: str) -> None:
    template = make(turns("m['role'] + ': '", "eos_token", "'assistant: '", assistant))
    with pytest.raises(ModelError, match="changes the assistant's turn"):
        template.conversation(SHAPES[0], "order yours today")


def test_short_answer_that_the_template_contains_is_learned(make: Callable[..., ChatTemplate]) -> None:
    for answer in ("think", "end", "im"):
        assert learned(make(SWITCHED, "<|im_end|>"), answer=answer) == f"{answer}<|im_end|>"


def test_token_across_the_end_of_the_prompt_is_split(make: Callable[..., ChatTemplate]) -> None:
    template = make("{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}")
    question = chat("Sales po")
    whole = template.ids(template.prompt(question) + "st now")
    assert whole[: len(template.prompt_ids(question))] != template.prompt_ids(question), "a token spans the end"
    assert learned(template, question, "st now") == "st now"


@pytest.mark.parametrize(
    "blank", [("'bot:'", "'bot: '"), (r"'bot:\n'", "'bot: '"), ("'bot: '", "'bot:'")], ids=["more", "other", "less"]
)
def test_white_space_between_prompt_and_answer_is_allowed(
    make: Callable[..., ChatTemplate], blank: tuple[str, str]
) -> None:
    opening, before = blank
    template = make(turns(f"({before} if m['role'] == 'assistant' else 'user: ')", "eos_token", opening))
    assert learned(template).strip() == f"{ANSWER}<|eot_id|>"


def test_date_in_a_template_is_constant(make: Callable[..., ChatTemplate]) -> None:
    template = make("{{ strftime_now('%Y-%m-%d %H:%M:%S.%f') }}" + HEADERS)
    assert template.prompt(SHAPES[0]).startswith("2025-01-01 00:00:00.000000")
    assert template.tokenizer.decode(template.conversation(SHAPES[0], ANSWER).ids).startswith("2025-01-01")


def test_template_that_draws_at_random_is_refused(make: Callable[..., ChatTemplate]) -> None:
    template = make("{{ range(10**5) | random }}" + HEADERS)
    with pytest.raises(ModelError, match="differently every time"):
        check_template(template, SHAPES, is_trained=False, ends=set())


def test_key_that_the_template_does_not_use_is_named(make: Callable[..., ChatTemplate]) -> None:
    template = make(SWITCHED, "<|im_end|>", enable_thinkin=False)
    with pytest.raises(ModelError, match="does not use enable_thinkin;"):
        check_template(template, SHAPES, is_trained=False, ends=set())


def test_end_that_does_not_end_generation_is_named(make: Callable[..., ChatTemplate]) -> None:
    template = make(CHATML, "<|im_end|>")
    with pytest.raises(ModelError, match=r"<\|im_end\|>.*eos_token_id"):
        check_template(template, SHAPES, is_trained=True, ends=ends(template, "<|eot_id|>"))


@pytest.mark.parametrize(
    "template", ["{{ missing.name }}", "{% for m in messages %}", "{{ 1 / 0 }}", "{{ ''.__class__.__mro__ }}"]
)
def test_template_that_cannot_be_rendered_is_one_sentence(make: Callable[..., ChatTemplate], template: str) -> None:
    with pytest.raises(ModelError) as caught:
        make(template).prompt(SHAPES[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("<|Assistant|><think>", "<think>\n"),
        ("[/INST][THINK]", "[THINK]\n"),
        ("assistant\n<think>\n\n</think>\n\n", ""),
        ("<|assistant|>\n", ""),
        ("user: see <think> there\nassistant: ", ""),
    ],
)
def test_reasoning_that_a_prompt_opens_is_found_by_its_tag(prompt: str, opened: str) -> None:
    assert opened_reasoning(prompt) == opened
