"""Answers chats under the base model and several adapters, from one loaded model: by the engine where it suits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from synthpost_dagster.inference.generate import Completion, generate
from synthpost_dagster.inference.models import Loaded, with_adapter
from synthpost_dagster.profiles.models import Sampling
from synthpost_dagster.runtime.progress import Progress

if TYPE_CHECKING:
    from synthpost_dagster.inference.engine import Request


def answers(
    loaded: Loaded,
    adapters: Sequence[Path],
    requests: Sequence[Request],
    sampling: Sampling,
    progress: Progress,
    what: str,
    limit_gib: float | None = None,
    slots: int | None = None,
) -> Iterator[tuple[int, Completion]]:
    """The number of a request and its reply, as they end; requests of one group should stand together.

    The model is the plain base before and afterwards. A model whose attention the engine cannot take over answers
    under one adapter after the other. `limit_gib` is the most memory that may be taken of a GPU. There, and where
    `slots` are given, all steps are as wide: on a GPU, a reply then is the same whatever is asked beside it, as long as
    the longest prompt is.
    """
    from synthpost_dagster.inference.engine import Options, engine, suits

    if suits(loaded):
        keeps_shapes = slots is not None or loaded.model.device.type == "cuda"
        options = Options(slots=slots, keeps_shapes=keeps_shapes, limit_gib=limit_gib)
        with engine(loaded, adapters, sampling, options) as running:
            yield from running.answer(requests, progress, what)
        return
    for adapter in dict.fromkeys(request.adapter for request in requests):
        mine = [place for place, request in enumerate(requests) if request.adapter == adapter]
        own = sampling.model_copy(update={"seed": requests[mine[0]].seed})
        with with_adapter(loaded, None if adapter is None else adapters[adapter]) as adapted:
            replies = generate(adapted, [requests[place].chat for place in mine], own, progress, what)
        yield from zip(mine, replies, strict=True)
