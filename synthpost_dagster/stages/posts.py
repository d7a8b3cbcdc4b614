"""Shared by the stages in which the student writes posts: inputs, requests, tables, facts and time estimates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from synthpost_dagster.artifacts.fingerprint import library_versions
from synthpost_dagster.artifacts.manifest import Manifest
from synthpost_dagster.inference.generate import Completion, chat
from synthpost_dagster.inference.models import Loaded, identity
from synthpost_dagster.llm.estimate import Expected, local
from synthpost_dagster.profiles.models import ModelSpec, PostSampling
from synthpost_dagster.schemas import FACTOR_COLUMNS
from synthpost_dagster.stages.facts import PostsFacts
from synthpost_dagster.stages.inputs import HashedAs, Inputs
from synthpost_dagster.stages.stage import BASELINE, CONTROL
from synthpost_dagster.stages.study import Study
from synthpost_dagster.tasks.prompting import short_hash
from synthpost_dagster.text.reasoning import split_reasoning

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.inference.engine import Request

DRAWING = "a seed for each post"
"""Names how posts are sampled, in fingerprints."""
GENERATION_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")


def _sampling_parts(sampling: PostSampling) -> dict[str, Any]:
    """The sampling arguments that change posts. The number of posts at a time does so only where it is fixed."""
    return sampling.model_dump(mode="json", exclude={"batch_size"}, exclude_none=True)


@dataclass(frozen=True, slots=True)
class PostsInputs(Inputs):
    """The evaluation prompts, the student, the sampling, and the libraries that generate."""

    evaluation_prompts: Manifest
    student: ModelSpec
    sampling: PostSampling
    drawing: str
    system_prompt: str | None
    libraries: dict[str, str]
    hashed_as: ClassVar[HashedAs] = {"student": identity, "sampling": _sampling_parts}


def common_inputs(study: Study) -> dict[str, Any]:
    """The fields of `PostsInputs`."""
    return {
        "evaluation_prompts": study.resolver.need("evaluation_prompts"),
        "student": study.profile.student,
        "sampling": study.profile.predictions,
        "drawing": DRAWING,
        "system_prompt": study.system_prompt,
        "libraries": library_versions(*GENERATION_LIBRARIES),
    }


def expected_posts(study: Study, posts: int) -> Expected:
    """The time of this number of the student's posts, from earlier ones."""
    resolver = study.resolver
    made = [manifest for cell in study.trainings for manifest in resolver.all_of("predictions", cell.place)]
    made += [manifest for asset in (BASELINE, CONTROL) for manifest in resolver.all_of(asset)]
    student = identity(study.profile.student)
    alike = [PostsFacts.of(one) for one in made if one.parts["student"] == student]
    return local(posts, sum(facts.wall_seconds for facts in alike), sum(facts.rows for facts in alike), "posts")


def requests_for(inputs: PostsInputs, texts: Iterable[str], adapter: int | None, contestant: str) -> list[Request]:
    """One request for each prompt, each with its own seed."""
    from synthpost_dagster.inference.engine import Request

    seed = seeded(inputs.sampling, contestant).seed
    chats = (chat(text, inputs.system_prompt) for text in texts)
    return [Request(turns, adapter, seed + place) for place, turns in enumerate(chats)]


def seeded(sampling: PostSampling, contestant: str) -> PostSampling:
    """The sampling with the contestant's own seed, so that no two contestants draw the same random numbers."""
    return sampling.model_copy(update={"seed": sampling.seed + int(short_hash(contestant), 16) % 2**20})


def table_of(prompts: pd.DataFrame, replies: list[Completion], contestant: str, model: str) -> pd.DataFrame:
    """The posts of one contestant (schema Predictions), one for each prompt."""
    return prompts[list(FACTOR_COLUMNS)].assign(
        contestant=contestant,
        post=[split_reasoning(reply.text).text for reply in replies],
        finish_reason=[reply.finish_reason for reply in replies],
        prompt_tokens=[reply.prompt_tokens for reply in replies],
        completion_tokens=[reply.completion_tokens for reply in replies],
        model=model,
    )


def facts_of(
    table: pd.DataFrame, loaded: Loaded, replies: Sequence[Completion], seconds: float, peak_gib: float
) -> PostsFacts:
    """Facts of posts. Reasoning in a reply is not part of the post; some replies hold nothing else."""
    parts = [split for reply in replies if (split := split_reasoning(reply.text)).text != reply.text]
    ignored: Mapping[str, Any] = {"ignored_generation_config": dict(loaded.ignored)} if loaded.ignored else {}
    return PostsFacts(
        wall_seconds=round(seconds, 2),
        peak_gib=peak_gib,
        truncated=int((table["finish_reason"] == "length").sum()),
        mean_completion_tokens=round(float(table["completion_tokens"].mean()), 1),
        mean_prompt_tokens=table.groupby("contestant")["prompt_tokens"].mean().round(1).to_dict(),
        with_reasoning=len(parts),
        only_reasoning=sum(not split.text.strip() for split in parts),
        **ignored,
    )
