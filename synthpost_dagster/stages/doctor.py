"""Whether a run can start here: one finding a thing that it needs, each with its remedy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from synthpost_dagster.artifacts.store import writing
from synthpost_dagster.devices import free_gib
from synthpost_dagster.errors import DeviceError, EndpointError, ModelError, StorageError, SynthpostError
from synthpost_dagster.generation.chat_models import chat_model
from synthpost_dagster.generation.hosted import HostedModel
from synthpost_dagster.inference.models import check_suits_task, load_tokenizer
from synthpost_dagster.profiles.models import HostedChat, InProcessChat, ModelSpec
from synthpost_dagster.settings import probe_writing, secret
from synthpost_dagster.stages.study import Study

GIB = 1024**3
LEAST_DISK_GIB = 2.0
"""Room for tables, the journal and a few adapters."""


class Finding(NamedTuple):
    """What was looked at, whether it will do, and what was found, with the remedy where it will not."""

    subject: str
    is_good: bool
    text: str


def examine(study: Study) -> Iterator[Finding]:
    """Everything that a run of this study needs, one finding at a time."""
    yield from (
        Finding("task", True, f"{study.task.spec.name}, {study.task.training_prompts:,} training prompts"),
        Finding("profile", True, f"{study.profile.name}, {len(study.cells)} cells"),
    )
    yield _found("home", partial(_disk, study))
    yield _found("device", partial(_device, study))
    yield _found("journal", partial(_journal, study))
    yield _found("student", partial(_model, study, study.profile.student))
    for role, spec in study.profile.roles.items():
        if isinstance(spec, InProcessChat):
            yield _found(role, partial(_model, study, spec.model))
        elif isinstance(spec, HostedChat):
            yield _found(f"{role}'s key", partial(_key, spec))
            yield _found(f"{role}'s endpoint", partial(_endpoint, study, spec))


def require_endpoints(study: Study, roles: Sequence[str]) -> None:
    """Raises EndpointError where the endpoint of one of the profile's roles is of no use."""
    for role, spec in study.profile.hosted.items():
        if role in roles:
            _endpoint(study, spec)


def _found(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, True, look())
    except SynthpostError as error:
        return Finding(subject, False, str(error))


def _disk(study: Study) -> str:
    home = study.settings.home
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
        probe_writing(home)
        free = shutil.disk_usage(home).free / GIB
    if free < LEAST_DISK_GIB:
        raise StorageError(f"{home} has {free:.1f} GiB free; free {LEAST_DISK_GIB:g} GiB or set SYNTHPOST_HOME")
    return f"{home}, {free:.0f} GiB free"


def _device(study: Study) -> str:
    device = study.devices.candidates()[0]
    profile = study.profile
    needs = [profile.student.memory_gib]
    needs += [spec.model.memory_gib for spec in profile.roles.values() if isinstance(spec, InProcessChat)]
    free, most = free_gib(device), max(needs)
    if free < most:
        raise DeviceError(
            f"{device.label} has {free:.1f} GiB free, {most:g} are needed; free some, or choose a smaller model"
        )
    if profile.training.precision == "float8":
        from synthpost_dagster.training.float8 import refuse_device

        refuse_device(device)
    return f"{device.label}, {free:.0f} GiB free, {most:g} needed"


def _journal(study: Study) -> str:
    replies = sum(record["replies"] for record in study.journal.summary())
    return f"{replies:,} replies in {study.journal.name}"


def _model(study: Study, spec: ModelSpec) -> str:
    check_suits_task(spec, study.task, study.profile.allow_untrained_task)
    tokenizer = load_tokenizer(spec)
    if tokenizer.eos_token is None:
        raise ModelError(f"{spec.model} has no end token; choose an instruct model")
    return f"{spec.model}: tokenizer, chat template and end token {tokenizer.eos_token} are there"


def _key(spec: HostedChat) -> str:
    if spec.api_key is None:
        return f"{spec.endpoint} wants none"
    if secret(spec.api_key) is None:
        raise EndpointError(f"{spec.api_key} is not set; put the key of {spec.endpoint} into this environment variable")
    return f"{spec.api_key} is set"


def _endpoint(study: Study, spec: HostedChat) -> str:
    model = chat_model(spec, study.context)
    if isinstance(model, HostedModel) and not model.check():
        return f"{spec.endpoint} is there and does not list its models, so that {spec.model} is not looked for"
    return f"{spec.endpoint} is there and offers {spec.model}"
