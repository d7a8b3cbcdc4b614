"""Chats rendered with a model's chat template: the prompt for an answer, and the conversation for training.

Training, generation and the checks of `doctor` all render here, so that the prompt in generation is, token for token,
the beginning of the trained conversation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.errors import ModelError
from synthpost_dagster.text.reasoning import split_reasoning
from synthpost_dagster.text.special_tokens import broken_up

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Chat = list[dict[str, str]]

TEMPLATE_DATE = date(2025, 1, 1)
"""Today's date for templates that write it: the same in training and generation, and part of the fingerprint."""
SAMPLE = "SampleAnswerQ7ZX"
"""A placeholder for the answer; no template contains it."""
SAMPLE_ANSWERS = ("Ready? Order yours today!", "One line.\n\nAnother: 5 > 3, “quoted”. #End")
MAX_SHOWN = 80
"""Characters of a text in an error."""
_LAST_TAG = re.compile(r"([<\[◁][^<>\[\]◁▷\s]{1,40}[>\]▷]|<\|channel>thought)\s*\Z")
_FINAL_CHANNEL = "<|channel|>final"
_OTHER = "choose another model"
_KEY = "`chat_template_kwargs` of this model in the profile"


class Tokens(NamedTuple):
    """A conversation's token ids; the first `prompt` of them are the prompt in generation."""

    ids: list[int]
    prompt: int


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A tokenizer's chat template with the profile's `chat_template_kwargs`.

    Special tokens inside a text are split, so that they stay text. All methods raise ModelError if the template cannot
    render the turns.
    """

    tokenizer: PreTrainedTokenizerBase
    kwargs: Mapping[str, Any]

    def prompt(self, turns: Chat) -> str:
        """The text that the model continues with its answer."""
        return self._rendered(self._safe(turns), has_generation_prompt=True)

    def prompt_ids(self, turns: Chat) -> list[int]:
        """The prompt as tokens."""
        return self.ids(self.prompt(turns))

    def ids(self, text: str) -> list[int]:
        """A rendered text as tokens, without the tokenizer's own begin token, which the template already writes."""
        found: Any = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return list(found)

    def conversation(self, turns: Chat, answer: str) -> Tokens:
        """The conversation for training: prompt, answer, and end of turn.

        It omits white space after the end of the turn, and a block of reasoning that the template adds before the
        answer unless the prompt opens it. Raises ModelError if the prompt cannot be the beginning of the conversation,
        or if the template changes or drops the answer.
        """
        prompt = self.prompt(turns)
        safe = self._safe([*turns, {"role": "assistant", "content": answer}])
        sample = self._rendered([*safe[:-1], {"role": "assistant", "content": SAMPLE}], has_generation_prompt=False)
        head, found, end = sample.partition(SAMPLE)
        whole = self._rendered(safe, has_generation_prompt=False)
        written = whole[len(head) : len(whole) - len(end)]
        is_framed = bool(found) and whole.startswith(head) and whole.endswith(end)
        if not is_framed or written.strip() != safe[-1]["content"].strip():
            raise ModelError(
                f"{self._name} changes the assistant's turn (it writes {_shown(whole[len(head) :])}), so that the "
                f"student would learn another text; {_OTHER}"
            )
        return self._joined(prompt, self._lead(prompt, head) + written + end.rstrip())

    def _lead(self, prompt: str, head: str) -> str:
        """The trained text between prompt and answer; `head` is what the template writes before an answer."""
        same = _common(prompt, head)
        if prompt[same:].strip() or (prompt[same:] and head[same:].strip()):
            raise ModelError(
                f"{self._name} ends the prompt with {_shown(prompt[same:])}, but a trained conversation has "
                f"{_shown(head[same:]) if head[same:] else 'the answer'} there, so that generation would use a "
                f"context that was never trained; set {_KEY}, such as {{enable_thinking: false}} for a model that "
                "reasons, or choose another model"
            )
        lead, opened = "" if prompt[same:] else head[same:], opened_reasoning(prompt)
        if split_reasoning(opened + lead + SAMPLE).text.strip() != SAMPLE:
            raise ModelError(
                f"{self._name} writes {_shown(opened + lead)} before an answer as a part of it; set {_KEY}, or choose "
                "another model"
            )
        is_reasoning = bool(lead.strip()) and not opened and not lead.lstrip().startswith(_FINAL_CHANNEL)
        return "" if is_reasoning else lead

    def _joined(self, prompt: str, rest: str) -> Tokens:
        before, ids = self.ids(prompt), self.ids(prompt + rest)
        if ids[: len(before)] != before:  # a token spans the end of the prompt
            split = [*before, *self.ids(rest)]
            if self.tokenizer.decode(split) != self.tokenizer.decode(ids):
                raise ModelError(f"{self._name} ends the prompt within a token of the answer; {_OTHER}")
            ids = split
        return Tokens(ids, len(before))

    @property
    def _name(self) -> str:
        return f"{self.tokenizer.name_or_path}: the chat template"

    def _safe(self, turns: Chat) -> Chat:
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        return [{**turn, "content": broken_up(turn["content"], special)} for turn in turns]

    def _rendered(self, turns: Chat, has_generation_prompt: bool) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    turns,
                    add_generation_prompt=has_generation_prompt,
                    tokenize=False,
                    strftime_now=TEMPLATE_DATE.strftime,
                    **self.kwargs,
                )
            )
        except Exception as error:  # a template may raise anything
            message = (str(error).splitlines() or [""])[0] or type(error).__name__
            if turns[0]["role"] == "system":
                raise ModelError(
                    f"{self._name} cannot write a system prompt ({message}); set training.system_prompt: false (and "
                    "study: false) in the profile, or choose another student"
                ) from error
            raise ModelError(
                f"{self._name} cannot write a conversation ({message}); set {_KEY}, or choose another model"
            ) from error


def check_template(template: ChatTemplate, chats: Sequence[Chat], is_trained: bool, ends: set[int]) -> None:
    """Raises ModelError if the template cannot render these chats, or renders them differently every time.

    If the model `is_trained`, it also checks that a prompt is the beginning of the trained conversation, and that an
    answer ends with one of `ends`, the tokens that end a reply in generation.
    """
    name = f"{template.tokenizer.name_or_path}: the chat template"
    found: Any = template.tokenizer.chat_template
    source = found if isinstance(found, str) else "\n".join(found.values())
    if unused := sorted(key for key in template.kwargs if not re.search(rf"\b{key}\b", source)):
        raise ModelError(f"{name} does not use {', '.join(unused)}; correct {_KEY}")
    for turns in chats:
        prompt = template.prompt_ids(turns)
        if any(template.prompt_ids(turns) != prompt for _ in range(3)):
            raise ModelError(f"{name} writes the same chat differently every time; {_OTHER}")
        for answer in SAMPLE_ANSWERS if is_trained else ():
            made = template.conversation(turns, answer)
            if made.ids[: made.prompt] != prompt:
                raise ModelError(f"{name}: the prompt is not the beginning of the trained conversation; set {_KEY}")
            if not ends & set(made.ids[-1:]):
                raise ModelError(
                    f"{name} ends an answer with {_shown(str(template.tokenizer.decode(made.ids[-1:])))}, which does "
                    "not end generation; add its id to eos_token_id in the model's generation_config.json"
                )


def opened_reasoning(prompt: str) -> str:
    """The tag of the block of reasoning that a prompt opens for the answer; else empty."""
    found = _LAST_TAG.search(prompt)
    is_open = found is not None and split_reasoning(f"{found[1]}\n{SAMPLE}").text == ""
    return f"{found[1]}\n" if found is not None and is_open else ""


def _common(first: str, second: str) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(first), len(second)))


def _shown(text: str) -> str:
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…")
