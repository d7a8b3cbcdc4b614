"""Replies to chats under a base model and its adapters: from the engine if it supports the model."""

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
    """Yields request indexes and replies in order of completion; requests of one group should be adjacent.

    The model is the plain base before and afterwards. A model that the engine does not support replies under one
    adapter after another. `limit_gib` limits the memory on a GPU. There, and if `slots` is given, all steps have the
    same width; on a GPU a reply then does not depend on the other requests, as long as the longest prompt is the same.
    """
    from synthpost_dagster.inference.engine import Options, engine, is_supported

    if is_supported(loaded):
        keeps_shapes = slots is not None or loaded.model.device.type == "cuda"
        options = Options(slots=slots, keeps_shapes=keeps_shapes, limit_gib=limit_gib)
        with engine(loaded, adapters, sampling, options) as running:
            yield from running.answer(requests, progress, what)
        return
    for adapter in dict.fromkeys(request.adapter for request in requests):
        own = [index for index, request in enumerate(requests) if request.adapter == adapter]
        seeded = sampling.model_copy(update={"seed": requests[own[0]].seed})
        with with_adapter(loaded, None if adapter is None else adapters[adapter]) as adapted:
            replies = generate(adapted, [requests[index].chat for index in own], seeded, progress, what)
        yield from zip(own, replies, strict=True)
