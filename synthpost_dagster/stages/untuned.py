"""The stages of the untuned student's posts: those of the baselines, and those that the controls compare.

One loaded model writes both, whichever is requested first.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from synthpost_dagster.artifacts.store import Draft
from synthpost_dagster.inference.answering import answers
from synthpost_dagster.inference.models import check_suits_task
from synthpost_dagster.llm.estimate import Expected
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.schemas import CONTROL_SETS
from synthpost_dagster.stages import posts
from synthpost_dagster.stages.facts import PostsFacts
from synthpost_dagster.stages.inputs import HashedAs
from synthpost_dagster.stages.stage import BASELINE, CONTROL, Stage, Workbench
from synthpost_dagster.stages.study import Study


@dataclass(frozen=True, slots=True)
class UntunedInputs(posts.PostsInputs):
    """The inputs of all posts, and who writes them."""

    asset: str
    contestants: Mapping[str, str]
    """Contestant → the column of the evaluation prompts that it gets."""
    hashed_as: ClassVar[HashedAs] = {"asset": None, "contestants": None}


def _baseline_inputs(study: Study, _partition: str) -> UntunedInputs:
    """The untuned model with the student prompt (`base`) and with the teacher prompt (`prompted`)."""
    contestants = {"base": "student_prompt", "prompted": "teacher_prompt"}
    return UntunedInputs(asset=BASELINE, contestants=contestants, **posts.common_inputs(study))


def _control_inputs(study: Study, _partition: str) -> UntunedInputs:
    """The untuned model with the student prompt, sampled twice at the temperature of the control."""
    contestants = dict.fromkeys(CONTROL_SETS, "student_prompt")
    sampling = study.profile.predictions.model_copy(update={"temperature": study.profile.control_temperature})
    return UntunedInputs(
        asset=CONTROL, contestants=contestants, **(posts.common_inputs(study) | {"sampling": sampling})
    )


def _announce(study: Study, inputs: UntunedInputs, _progress: Progress) -> Expected:
    check_suits_task(study.profile.student, study.task, study.profile.allow_untrained_task)
    return posts.expected_posts(study, len(inputs.contestants) * study.evaluation_count)


def _make(inputs: UntunedInputs, draft: Draft, bench: Workbench) -> PostsFacts:
    import pandas as pd

    prompts, student = bench.store.read_table(inputs.evaluation_prompts), bench.student
    loaded = student.untuned()
    started, parts, written = time.perf_counter(), [], []
    for name, column in inputs.contestants.items():
        requests, what = posts.requests_for(inputs, prompts[column], None, name), f"{name} posts"
        sampling = posts.seeded(inputs.sampling, name)
        width, limit = sampling.max_concurrent_sequences, student.lease.device.limit_gib
        replies = dict(answers(loaded, [], requests, sampling, bench.progress, what, limit, width))
        in_order = [replies[place] for place in range(len(requests))]
        written += in_order
        parts.append(posts.table_of(prompts, in_order, name, inputs.student.model))
    seconds = time.perf_counter() - started
    table = pd.concat(parts, ignore_index=True)
    draft.table(inputs.asset, table)
    return posts.facts_of(table, loaded, written, seconds, student.lease.take_peak_gib())


_STAGE = Stage(BASELINE, "upstream", _baseline_inputs, _make, ("evaluation_prompts",), _announce, companion=CONTROL)
STAGES = (_STAGE, replace(_STAGE, asset=CONTROL, inputs=_control_inputs, companion=BASELINE))
