"""Marked reasoning is split off; a text that only mentions a tag is unchanged."""

import pytest

from synthpost_dagster.text.reasoning import split_reasoning

TEXT = "Fresh rolls from Rye & Co. Come in today."


@pytest.mark.parametrize(
    "output",
    [
        f"<think>\na plan\n</think>\n\n{TEXT}",
        f"<thought>\na plan\n</thought>\n{TEXT}",
        f"<thinking>a plan</thinking>{TEXT}",
        f"<Reasoning>a plan</Reasoning> {TEXT}",
        f"<reflection>a plan</reflection>\n{TEXT}",
        f'<thinking effort="high">a plan</thinking>\n{TEXT}',
        f"<seed:think>a plan</seed:think>{TEXT}",
        f"[THINK]a plan[/THINK]{TEXT}",
        f"◁think▷a plan◁/think▷{TEXT}",
        f"<|START_THINKING|>a plan<|END_THINKING|><|START_RESPONSE|>{TEXT}<|END_RESPONSE|>",
        f"<|begin_of_thought|>a plan<|end_of_thought|>\n<|begin_of_solution|>{TEXT}<|end_of_solution|>",
        f"<|channel>thought\na plan<channel|>{TEXT}",
        f"<unused94>thought\na plan<unused95>{TEXT}",
        f"<|channel|>analysis<|message|>a plan<|end|><|start|>assistant<|channel|>final<|message|>{TEXT}<|return|>",
        f"<|start|>assistant<|channel|>analysis<|message|>a plan<|end|><|channel|>final<|message|>{TEXT}",
        f"analysis a planassistantfinal{TEXT}",
        f"a plan\n</think>\n\n{TEXT}",
        f"a plan</think>\n{TEXT}",
        f"<thought>a plan</think>\n{TEXT}",
        f"<think>a plan</think>\n</think>\n{TEXT}",
        f"<think>a plan</think>\n<answer>{TEXT}</answer>",
    ],
)
def test_marked_reasoning_is_split_from_the_text(output: str) -> None:
    assert split_reasoning(output) == (TEXT, "a plan")


@pytest.mark.parametrize(
    ("output", "split"),
    [
        ("<think>a plan that never", ("", "a plan that never")),
        ("<|channel|>analysis<|message|>a plan that", ("", "a plan that")),
        ("<think>\n\n</think>\n\nA post.", ("A post.", "")),
        ("<think>a</think>\nb\n</think>\nA post.", ("A post.", "a\nb")),
        ("Done thinking.</think>A post.", ("A post.", "Done thinking.")),
        ("<think>a <think> b</think> c\n</think>\nA post.", ("A post.", "a <think> b\nc")),
        ("Sure!\n<think>a plan</think>\nA post.", ("Sure!\n\nA post.", "a plan")),
        ("A post.\n<think>\nmore of it", ("A post.", "more of it")),
        ("<thinking>a <reflection>b</reflection> c</thinking>A post.", ("A post.", "a <reflection>b</reflection> c")),
    ],
)
def test_incomplete_and_repeated_tags_are_split(output: str, split: tuple[str, str]) -> None:
    assert split_reasoning(output) == split


@pytest.mark.parametrize(
    "post",
    [
        TEXT,
        "",
        "  Padded.  \n",
        "Think twice, reasoning helps: a thought, a reflection.",
        "Our parser reads the <think> tag and the </think> tag.",
        "Wrap it in `<think>` and `</think>`, then it works.",
        "The <reflection> pool is open. <answer>Yes</answer>",
        "analysis of the market is final.",
        '{"text": "<think>no</think>"}',
        "[Limited Edition] [think] about it.",
    ],
)
def test_text_that_only_mentions_reasoning_is_unchanged(post: str) -> None:
    assert split_reasoning(post) == (post, "")
